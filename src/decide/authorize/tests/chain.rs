//! Decisions about a task below another: never more than those above it may, alive or not at all,
//! and counted for all of them.

use std::sync::Mutex;

use super::*;

/// A task two levels below `root`, in the scope that all have.
fn below(policies: &str) -> Scene {
    let mut scene = scene(policies);
    scene.stands_below(&["root", "mid"]);
    scene
}

const NARROW: &str = r#"
scopes:
  narrow:
    intent: Reads a little
    tools:
    - {server: ledger, names: [read], classification: internal}
    - {server: ledger, names: [export], resources: ["ledger/2026-*"], arguments: {rows: {max: 10}}}
    - {server: mail, names: [send]}
    limits: {actions: 3}
"#;

#[test]
fn a_child_may_do_what_all_above_it_may_and_the_answer_names_them() {
    let mut scene = below("");
    let decision = scene.call("ledger/read", &json!({}));
    assert_eq!(decision.outcome, Outcome::Permit, "{decision:?}");
    assert_eq!(decision.looked_at.chain, ["finance/root", "finance/mid", "finance/t"]);
    let looked_at: Vec<&str> = decision.looked_at.versions.iter().map(|(object, _)| object.as_str()).collect();
    assert!(looked_at.contains(&"AgentTask finance/root") && looked_at.contains(&"AgentIdentity finance/lead"), "{looked_at:?}");
    assert_eq!(super::scene("").call("ledger/read", &json!({})).looked_at.chain, Vec::<String>::new());
}

#[test]
fn what_the_scope_of_a_task_above_does_not_grant_is_denied_and_that_task_is_named() {
    let all: [(&str, Value, &str); 3] = [
        ("ledger/search", json!({}), "does not name tool `ledger/search`"),
        ("ledger/read", json!({}), "the data is confidential, it covers internal at most"),
        ("ledger/export", json!({"path": "ledger/2026-10", "rows": 11}), "argument `rows` must be given, and be 10 at most"),
    ];
    for (tool, arguments, words) in all {
        for place in [0, 1] {
            let mut scene = below(NARROW);
            scene.above[place].0.scope = "narrow".into();
            let name = ["root", "mid"][place];
            let decision = scene.action(tool, &arguments, |action| {
                action.resource = action.resource.or((tool == "ledger/read").then_some("ledger/payroll-7"));
            });
            assert_eq!(decision.outcome, Outcome::Deny, "{tool} below `{name}`");
            let [reason] = decision.reasons.as_slice() else { panic!("{decision:?}") };
            assert_eq!(reason.code, Code::OutOfScope);
            assert!(reason.message.contains(words), "{tool}: {}", reason.message);
            assert!(reason.message.starts_with(&format!("task `{name}`, above this one: ")), "{}", reason.message);
        }
    }
    let mut scene = below(NARROW);
    scene.above[0].0.scope = "narrow".into();
    scene.refuses("ledger/search", &json!({}), Code::OutOfScope, "task `root`, above this one: scope `narrow` does not name");
    scene.allows("ledger/export", &json!({"path": "ledger/2026-10", "rows": 10}));
}

#[test]
fn a_task_above_that_is_narrowed_narrows_those_below_it() {
    let mut scene = below("");
    scene.above[1].0.narrowed = Some(vec!["ledger/search".into()]);
    scene.refuses("ledger/read", &json!({}), Code::OutOfScope, "task `mid`, above this one: task `mid` is narrowed");
    scene.allows("ledger/search", &json!({}));
}

#[test]
fn what_a_task_above_was_not_granted_at_its_start_its_children_do_not_get() {
    let mut scene = below("");
    let before: Vec<crate::api::ToolGrant> = serde_json::from_value(json!([{"server": "ledger", "names": ["search"]}])).unwrap();
    scene.above[0].0.granted = Some(Arc::new(compile::granted_at_start("finance", "reconcile", &before).unwrap()));
    scene.refuses("ledger/read", &json!({}), Code::OutOfScope, "but not when task `root` started");
    scene.allows("ledger/search", &json!({}));
}

#[test]
fn a_child_is_denied_once_any_task_above_it_is_not_alive() {
    type Change = fn(&mut Subject);
    let dead: [(Change, Code, &str); 7] = [
        (|above| above.ending = true, Code::TaskOver, "is being ended"),
        (|above| above.phase = Phase::Ended, Code::TaskOver, "is over"),
        (|above| above.phase = Phase::Refused, Code::TaskOver, "is over"),
        (|above| above.phase = Phase::Pending, Code::TaskNotReady, "has no authority yet"),
        (|above| above.deadline = Timestamp::from_second(1_000).unwrap(), Code::TaskOver, "passed its deadline"),
        (|above| above.standing = Standing::Suspended, Code::AgentSuspended, "agent `lead` is suspended"),
        (|above| above.standing = Standing::Gone, Code::AgentGone, "agent `lead` is gone"),
    ];
    for (change, code, words) in dead {
        for (place, name) in ["root", "mid"].into_iter().enumerate() {
            let mut scene = below("");
            change(&mut scene.above[place].0);
            scene.refuses("ledger/read", &json!({}), code, words);
            scene.refuses("ledger/read", &json!({}), code, &format!("task `{name}`, above this one"));
        }
    }
}

#[test]
fn a_child_is_denied_where_nobody_can_tell_what_stands_above_it() {
    type Change = fn(&mut Scene);
    let unknown: [(Change, &str); 8] = [
        (|scene| _ = scene.above.remove(0), "task `root`, above this one, is gone"),
        (|scene| _ = scene.above.pop(), "task `mid`, above this one, is gone"),
        (|scene| scene.above[0].0.uid = "made-anew".into(), "task `root`, above this one, is gone"),
        (|scene| scene.above[1].0.uid = "made-anew".into(), "task `mid`, above this one, is gone"),
        (|scene| scene.subject.above.clear(), "nobody can tell what stands above task `t`"),
        (|scene| scene.subject.parent = Some("root".into()), "nobody can tell what stands above task `t`"),
        (|scene| scene.subject.parent = None, "the task names no parent and has one"),
        (|scene| scene.above[1].0.above.clear(), "task `mid`, above this one, is gone"),
    ];
    for (change, words) in unknown {
        let mut scene = below("");
        change(&mut scene);
        scene.refuses("ledger/read", &json!({}), Code::UnknownParent, words);
    }
    let mut scene = below("");
    scene.above[1].0.unsound = Some("task `root` stands above itself".into());
    scene.refuses("ledger/read", &json!({}), Code::UnknownParent, "task `mid`, above this one: task `root` stands above itself");
}

#[test]
fn a_rule_about_the_agent_of_a_task_above_holds_for_those_below_it() {
    let denies =
        r#"policies: {agents: [{name: no-mail, deny: lead sends no mail, match: {agents: [lead], tools: [mail/send]}}]}"#;
    let asks = r#"policies: {agents: [{name: ask, requireApproval: {approvers: ["group:leads"]}, match: {agents: [lead], tools: [mail/send]}}]}"#;
    let everybody = r#"policies: {agents: [{name: no-mail, deny: nobody sends mail, match: {tools: [mail/send]}}]}"#;
    below(denies).refuses("mail/send", &json!({}), Code::RuleDenied, "lead sends no mail");
    scene(denies).allows("mail/send", &json!({}));
    assert_eq!(below(asks).codes("mail/send", &json!({})), (Outcome::NeedsApproval, vec![Code::ApprovalRequired]));
    let said = below(everybody).call("mail/send", &json!({})).reasons;
    assert_eq!(said.len(), 1, "one rule is one reason, however many it is about: {said:?}");
}

#[test]
fn the_limits_of_a_scope_above_bind_all_that_stands_below() {
    let mut scene = below(NARROW);
    scene.above[0].0.scope = "narrow".into();
    for _ in 0..3 {
        scene.allows("ledger/read", &json!({}));
    }
    scene.refuses("ledger/read", &json!({}), Code::LimitReached, "the task `root`, with those below it, has used up the 3");
    // Another task below the same root has nothing left either.
    scene.task = History::default();
    scene.above[1].1 = History::default();
    scene.refuses("ledger/read", &json!({}), Code::LimitReached, "TaskScope finance/narrow#limits.actions");
    // Nor has the root itself.
    let (root, history) = scene.above.remove(0);
    let mut alone = Scene { subject: root, task: history, above: vec![], ..scene };
    alone.refuses("ledger/read", &json!({}), Code::LimitReached, "the task has used up the 3 actions");
}

#[test]
fn a_limit_of_a_policy_that_counts_by_task_counts_for_every_task_above() {
    let limit = r#"policies: {agents: [{name: few, limit: {count: 2, per: 1h, by: task}, match: {tools: [ledger/read]}}]}"#;
    let mut scene = below(limit);
    scene.allows("ledger/read", &json!({}));
    let decision = scene.call("ledger/read", &json!({}));
    let places: Vec<usize> = decision.looked_at.counted_above.iter().map(|(_, place)| *place).collect();
    assert_eq!((decision.looked_at.counted.len(), places), (1, vec![0, 1]));
    scene.task = History::default();
    scene.refuses("ledger/read", &json!({}), Code::LimitReached, "task `root`, with those below it,");
}

#[test]
fn what_is_given_back_is_given_back_to_every_task_above() {
    let mut scene = below(NARROW);
    scene.above[0].0.scope = "narrow".into();
    let mut held = vec![];
    for _ in 0..3 {
        held.push(scene.action("ledger/read", &json!({}), |action| action.reports_outcome = true).reservation.unwrap());
    }
    scene.refuses("ledger/read", &json!({}), Code::LimitReached, "used up");
    let failed = held.pop().unwrap();
    assert_eq!(failed.above.len(), 2);
    assert!(scene.above[0].1.settle(failed.above[0], history::Outcome::Failed, scene.now));
    assert!(scene.above[1].1.settle(failed.above[1], history::Outcome::Failed, scene.now));
    scene.allows("ledger/read", &json!({}));
    scene.refuses("ledger/read", &json!({}), Code::LimitReached, "used up");
    scene.now = scene.now.checked_add(history::RESERVED_FOR).unwrap();
    scene.allows("ledger/read", &json!({}));
}

#[test]
fn data_that_one_task_of_a_chain_has_read_all_have() {
    let rule = r#"policies: {agents: [{name: no-egress, deny: confidential data was read, match: {effects: [write], crossDomain: true}, when: {history: {readAtLeast: confidential}}}]}"#;
    // The child reads, and its parent's other child may no longer send.
    let mut scene = below(rule);
    scene.allows("mail/send", &json!({}));
    let payroll = scene.action("ledger/read", &json!({}), |action| action.resource = Some("ledger/payroll-1"));
    assert_eq!(payroll.outcome, Outcome::Permit);
    scene.task = History::default();
    scene.refuses("mail/send", &json!({}), Code::RuleDenied, "confidential data was read");
    // And so it is for the root.
    let (root, history) = scene.above.remove(0);
    let mut alone = Scene { subject: root, task: history, above: vec![], ..scene };
    alone.refuses("mail/send", &json!({}), Code::RuleDenied, "confidential data was read");
}

#[test]
fn what_a_task_must_have_called_first_it_has_called_itself() {
    let order = r#"policies: {agents: [{name: order, deny: read first, match: {tools: [ledger/post]}, when: {history: {notCalled: [ledger/read]}}}]}"#;
    let post = json!({"amount": 1});
    let mut scene = below(order);
    scene.above[0].1.take(&read(), &[], false, scene.now);
    scene.refuses("ledger/post", &post, Code::RuleDenied, "read first");
    scene.allows("ledger/read", &json!({}));
    scene.allows("ledger/post", &post);
    // What the child has read is no reading of the parent's.
    let (root, history) = below(order).above.remove(0);
    let mut parent = Scene { subject: root, task: history, above: vec![], ..super::scene(order) };
    parent.task.take_of(Whose::Below, &read(), &[], false, parent.now);
    parent.refuses("ledger/post", &post, Code::RuleDenied, "read first");
}

#[test]
fn what_must_not_have_been_called_no_task_of_the_chain_has() {
    let rule = r#"policies: {agents: [{name: after, deny: somebody read, match: {tools: [mail/send]}, when: {history: {called: [ledger/read]}}}]}"#;
    for whose in [Whose::Own, Whose::Below] {
        let mut scene = below(rule);
        scene.above[0].1.take_of(whose, &read(), &[], false, scene.now);
        scene.refuses("mail/send", &json!({}), Code::RuleDenied, "somebody read");
    }
    below(rule).allows("mail/send", &json!({}));
}

fn read() -> Mark {
    Mark { tool: "finance/ledger/read".into(), read: None, untrusted: false, domain: "finance".into() }
}

#[test]
fn a_light_answer_is_used_again_no_longer_than_a_task_above_lives() {
    let mut scene = below("");
    scene.above[0].0.deadline = Timestamp::from_second(1_002).unwrap();
    assert_eq!(scene.call("ledger/read", &json!({})).cache_for, 2);
}

#[test]
fn a_child_acts_for_the_person_that_its_parent_acts_for() {
    let rule = r#"cluster: {p: [{name: r, deny: of alice, when: {cedar: "context has onBehalfOf && context.onBehalfOf == \"alice\" && context.principalGroups.contains(\"leads\")"}}]}"#;
    let mut scene = below(rule);
    scene.allows("ledger/read", &json!({}));
    (scene.above[0].0.on_behalf_of, scene.above[0].0.groups) = (Some("alice".into()), vec!["leads".into()]);
    scene.refuses("ledger/read", &json!({}), Code::RuleDenied, "of alice");
}

#[test]
fn many_children_at_once_are_permitted_just_what_the_root_has_left() {
    const LIMIT: usize = 50;
    let limited = NARROW.replace("actions: 3", &format!("actions: {LIMIT}"));
    let mut model = scene(&limited);
    model.stands_below(&["root"]);
    let root = Subject { scope: "narrow".into(), ..model.above[0].0.clone() };
    let of_root = Mutex::new(History::default());
    let permitted = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for child in 0..8 {
            let (model, root, of_root, permitted) = (&model, &root, &of_root, &permitted);
            threads.spawn(move || {
                let subject = Subject { name: format!("child-{child}"), ..model.subject.clone() };
                let (mut task, mut agent, none) = (History::default(), History::default(), Map::new());
                for _ in 0..20 {
                    let action = Action {
                        server: "ledger",
                        tool: "read",
                        resource: None,
                        arguments: &none,
                        subject_properties: &none,
                        resource_properties: &none,
                        intent: None,
                        reports_outcome: true,
                        kubernetes: None,
                    };
                    let mut held = of_root.lock().unwrap();
                    let above = vec![Ancestor { subject: root, history: &mut held }];
                    let mut histories = Histories { task: &mut task, agent: &mut agent, above };
                    let decision = authorize(&model.snapshot, model.now, &subject, &action, &mut histories, model.now);
                    if decision.outcome == Outcome::Permit {
                        permitted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(permitted.into_inner(), LIMIT);
}
