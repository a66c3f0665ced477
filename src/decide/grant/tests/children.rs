//! Tasks below others: what they are refused for, when they end, and what they hold meanwhile.

use serde_json::{Value, json};

use super::*;
use crate::decide::delegate::Ancestor;

/// A parent that runs, a child that asks, and what each hangs on; with changes.
struct Family {
    parent: AgentTask,
    of_parent: (Option<AgentIdentity>, Option<TaskScope>),
    siblings: Vec<AgentTask>,
    child: AgentTask,
    agent: AgentIdentity,
    scope: TaskScope,
    answer: Option<Result<(), Because>>,
}

fn delegating(changes: Value) -> TaskScope {
    let delegation = json!({"spec": {"delegation": {"to": ["writer"], "maxDepth": 1, "maxChildren": 2}}});
    let mut scope = scope(merged(json!({"metadata": {"name": "lead", "uid": "scope-lead"}}), delegation));
    scope.spec.tools = serde_json::from_value(json!([{"server": "ledger", "names": ["read", "search"]}])).unwrap();
    let mut value = serde_json::to_value(scope).unwrap();
    merge(&mut value, changes);
    serde_json::from_value(value).unwrap()
}

/// A running task of the agent `lead`, which bob asked for.
fn parent(changes: Value) -> AgentTask {
    let of_parent = json!({"metadata": {"name": "p", "uid": "uid-p"}, "spec": {"agent": "lead", "scope": "lead", "requestedBy": {"username": "bob"}}});
    let mut parent = task(merged(of_parent, changes));
    let grant = json!({"scopeUID": "scope-lead", "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}], "tools": [{"server": "ledger", "names": ["read", "search"]}]});
    let status = parent.status.get_or_insert_default();
    status.phase.get_or_insert(Phase::Active);
    status.grant.get_or_insert_with(|| serde_json::from_value(grant).unwrap());
    parent
}

fn child(changes: Value) -> AgentTask {
    let of_child = json!({"metadata": {"name": "c", "uid": "uid-c"}, "spec": {"agent": "writer", "parent": "p", "requestedBy": {"username": "bob"}}});
    task(merged(of_child, changes))
}

fn family() -> Family {
    Family {
        parent: parent(json!({})),
        of_parent: (Some(identity(json!({"metadata": {"name": "lead"}}))), Some(delegating(json!({})))),
        siblings: vec![],
        child: child(json!({})),
        agent: identity(json!({"metadata": {"name": "writer"}})),
        scope: scope(json!({})),
        answer: Some(Ok(())),
    }
}

impl Family {
    fn plan_with(&self, line: &[Ancestor], seconds: i64) -> Plan {
        let siblings: Vec<&AgentTask> = self.siblings.iter().collect();
        let owned =
            Owned { service_account: true, role: Some(digest(&self.scope.spec.kubernetes.rules)), bound: Bound::AsGranted };
        let observed = Observed {
            identity: Some(&self.agent),
            scope: Some(&self.scope),
            policies: &[],
            above: Above::Known { line, siblings: &siblings },
            max_token_ttl: Workloads::BUILT_IN.max_token_ttl,
            owned,
            answer: self.answer.as_ref(),
        };
        plan(&self.child, &observed, at(seconds))
    }

    fn parent(&self) -> Ancestor<'_> {
        Ancestor { task: &self.parent, identity: self.of_parent.0.as_ref(), scope: self.of_parent.1.as_ref() }
    }

    fn plan(&self, seconds: i64) -> Plan {
        self.plan_with(&[self.parent()], seconds)
    }

    /// The same once the child runs.
    fn running(mut self) -> Self {
        let plan = self.plan(1);
        let status = plan.status.expect("the child is issued");
        assert_eq!(status.phase, Some(Phase::Active), "{status:?}");
        self.child.status = Some(status);
        self
    }

    #[track_caller]
    fn refused(&self, reason: &str, words: &str) {
        let plan = self.plan(1);
        assert_eq!(ended(&plan), (Phase::Refused, reason.into(), true));
        let said = plan.report.unwrap().because.message;
        assert!(said.contains(words), "{said}");
    }
}

fn link(task: &str, uid: &str, agent: &str) -> crate::api::Link {
    crate::api::Link { task: task.into(), uid: uid.into(), agent: agent.into() }
}

#[test]
fn a_child_gets_what_its_scope_gives_and_notes_what_stands_above_it() {
    let plan = family().plan(1);
    let status = plan.status.unwrap();
    assert_eq!(status.phase, Some(Phase::Active));
    assert_eq!(status.chain, [link("p", "uid-p", "lead")]);
    let root = Scene::default().plan(&task(json!({})), 1).status.unwrap();
    assert_eq!(root.chain, []);
}

#[test]
fn a_child_waits_for_a_parent_that_may_still_come_to_run() {
    let mut family = family();
    let waits = |plan: Plan, reason: &str| {
        let status = plan.status.unwrap();
        assert_eq!((status.phase, status.reason.as_deref()), (Some(Phase::Pending), Some(reason)));
        assert!(plan.steps.is_empty() && plan.ask.is_empty());
    };
    waits(family.plan_with(&[], 1), "ParentNotFound");
    family.parent.status.as_mut().unwrap().phase = Some(Phase::Pending);
    waits(family.plan(1), "ParentNotReady");
    family.of_parent = (None, None);
    waits(family.plan(1), "ParentNotReady");
    // Two that name each other wait for each other, until their deadline.
    let mut other = family.child.clone();
    other.spec.parent = Some("c".into());
    other.metadata.name = Some("p".into());
    family.parent = other;
    waits(family.plan(1), "ParentNotReady");
    assert_eq!(ended(&family.plan(3600)).0, Phase::Refused);
}

#[test]
fn a_parent_that_is_over_has_no_new_children_and_takes_those_it_has_along() {
    let dead: [(&str, Family); 9] = [
        ("is over", Family { parent: parent(json!({"status": {"phase": "Ended", "conditions": []}})), ..family() }),
        ("is over", Family { parent: parent(json!({"status": {"phase": "Refused", "conditions": []}})), ..family() }),
        ("is being ended", Family { parent: parent(json!({"spec": {"end": {"reason": "Completed"}}})), ..family() }),
        ("was deleted", Family { parent: parent(json!({"metadata": {"deletionTimestamp": at(1).to_string()}})), ..family() }),
        ("passed its deadline", Family { parent: parent(json!({"spec": {"ttl": "1s"}})), ..family() }),
        (
            "`lead`, which is suspended",
            Family { of_parent: (Some(identity(json!({"spec": {"suspend": true}}))), Some(delegating(json!({})))), ..family() },
        ),
        ("`lead`, which is gone", Family { of_parent: (None, Some(delegating(json!({})))), ..family() }),
        ("TaskScope `lead`, which is gone", Family { of_parent: (Some(identity(json!({}))), None), ..family() }),
        (
            "TaskScope `lead`, which is gone",
            Family {
                of_parent: (Some(identity(json!({}))), Some(delegating(json!({"metadata": {"uid": "another"}})))),
                ..family()
            },
        ),
    ];
    for (words, dead) in dead {
        dead.refused("ParentEnded", words);
        let running = Family { parent: dead.parent, of_parent: dead.of_parent, ..family().running() };
        let plan = running.plan(2);
        assert_eq!(ended(&plan), (Phase::Ended, "ParentEnded".into(), true), "{words}");
        assert!(plan.report.unwrap().because.message.contains(words));
    }
    let running = family().running();
    assert_eq!(ended(&running.plan_with(&[], 2)), (Phase::Ended, "ParentEnded".into(), true), "it is gone");
}

#[test]
fn a_parent_made_anew_under_the_same_name_does_not_carry_the_child() {
    let mut running = family().running();
    running.parent.metadata.uid = Some("made-anew".into());
    let plan = running.plan(2);
    assert_eq!(ended(&plan), (Phase::Ended, "ParentEnded".into(), true));
    assert_eq!(plan.report.unwrap().because.message, "task `p`, above this one, is gone");
    // Nor does a status that no longer says whose child it is.
    let mut forged = family().running();
    forged.child.status.as_mut().unwrap().chain.clear();
    assert_eq!(ended(&forged.plan(2)).1, "ParentEnded");
    forged.child.status.as_mut().unwrap().chain = vec![link("q", "uid-p", "lead")];
    assert_eq!(ended(&forged.plan(2)).1, "ParentEnded");
}

#[test]
fn what_the_scope_of_the_parent_does_not_delegate_is_refused_with_what_to_write() {
    let with = |changes: Value| {
        let scope = delegating(changes);
        Family { of_parent: (Some(identity(json!({}))), Some(scope)), ..family() }
    };
    let mut nobody = family();
    nobody.of_parent.1.as_mut().unwrap().spec.delegation = None;
    nobody.refused("NotDelegable", "its author can write spec.delegation: {to: [writer]}");
    with(json!({"spec": {"delegation": {"to": ["other"]}}})).refused("NotDelegable", "delegates to other, not to `writer`");
    let own = Family { child: child(json!({"metadata": {"name": "p"}})), ..family() };
    own.refused("NotDelegable", "cannot be its own parent");
    // It ends where the scope changes its mind.
    let mut running = family().running();
    running.of_parent.1.as_mut().unwrap().spec.delegation = None;
    assert_eq!(ended(&running.plan(2)), (Phase::Ended, "NotDelegable".into(), true));
}

#[test]
fn every_task_above_must_allow_the_depth() {
    let mut family = family();
    let mut above = parent(json!({"metadata": {"name": "g", "uid": "uid-g"}}));
    family.parent.spec.parent = Some("g".into());
    family.parent.status.as_mut().unwrap().chain = vec![link("g", "uid-g", "lead")];
    for (depth, reason) in [(1, "TooDeep"), (2, "Issued"), (8, "Issued")] {
        let scope = delegating(json!({"spec": {"delegation": {"maxDepth": depth, "to": ["another"]}}}));
        let root = Ancestor { task: &above, identity: family.of_parent.0.as_ref(), scope: Some(&scope) };
        let plan = family.plan_with(&[family.parent(), root], 1);
        assert_eq!(plan.status.as_ref().unwrap().reason.as_deref(), Some(reason), "maxDepth {depth}");
        if reason == "TooDeep" {
            assert!(plan.report.unwrap().because.message.contains("2 levels below"));
        } else {
            assert_eq!(plan.status.unwrap().chain, [link("g", "uid-g", "lead"), link("p", "uid-p", "lead")]);
        }
    }
    // The root ends, and the grandchild with it, whatever its parent still says.
    above.spec.end = Some(crate::api::End { reason: EndReason::Revoked, message: String::new() });
    let scope = delegating(json!({"spec": {"delegation": {"maxDepth": 2}}}));
    let root = Ancestor { task: &above, identity: family.of_parent.0.as_ref(), scope: Some(&scope) };
    assert_eq!(ended(&family.plan_with(&[family.parent(), root], 1)).1, "ParentEnded");
    assert_eq!(ended(&family.plan_with(&[family.parent()], 1)).1, "ParentEnded", "the root is gone");
}

#[test]
fn a_parent_has_so_many_children_at_once_the_running_and_then_the_oldest_first() {
    let sibling = |name: &str, second: i64, phase: &str| {
        child(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": at(second).to_string()},
            "status": {"phase": phase, "conditions": []},
        }))
    };
    let with = |siblings: Vec<AgentTask>| Family {
        siblings,
        child: child(json!({"metadata": {"creationTimestamp": at(5).to_string()}})),
        ..family()
    };
    let is_issued = |family: &Family| family.plan(6).status.unwrap().phase == Some(Phase::Active);
    with(vec![sibling("a", 0, "Active"), sibling("b", 0, "Active")])
        .refused("TooManyChildren", "has as many children as TaskScope `lead` allows (2)");
    with(vec![sibling("a", 9, "Active"), sibling("b", 9, "Active")]).refused("TooManyChildren", "(2)");
    with(vec![sibling("a", 5, "Pending"), sibling("b", 5, "Pending")]).refused("TooManyChildren", "(2)");
    assert!(is_issued(&with(vec![sibling("a", 5, "Pending"), sibling("d", 5, "Pending")])), "of one second, by name");
    assert!(is_issued(&with(vec![sibling("a", 0, "Active"), sibling("b", 0, "Ended"), sibling("x", 0, "Refused")])));
    assert!(is_issued(&with(vec![sibling("a", 6, "Pending"), sibling("b", 7, "Pending"), sibling("d", 8, "Pending")])));
    // One that runs keeps its place, whoever comes.
    let mut running = family().running();
    running.siblings = vec![sibling("a", -9, "Pending"), sibling("b", -9, "Pending")];
    assert!(running.plan(2).steps.is_empty());
    // And loses it where fewer are allowed: the youngest first.
    running.siblings = vec![sibling("a", -9, "Active")];
    running.of_parent.1.as_mut().unwrap().spec.delegation.as_mut().unwrap().max_children = 1;
    assert_eq!(ended(&running.plan(2)).1, "TooManyChildren");
}

#[test]
fn what_goes_beyond_the_parent_is_refused_and_says_how_to_narrow() {
    let wide = scope(
        json!({"spec": {"kubernetes": {"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "update"]}]}}}),
    );
    Family { scope: wide.clone(), ..family() }.refused(
        "BeyondParent",
        "would hold `update configmaps`, which its parent `p` does not; leave it out of spec.narrow.rules",
    );
    let narrow = child(
        json!({"spec": {"narrow": {"rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["get"]}]}}}),
    );
    assert_eq!(Family { scope: wide, child: narrow, ..family() }.plan(1).status.unwrap().reason.as_deref(), Some("Issued"));

    let calls = |tools: Value, narrow: Value| Family {
        scope: scope(json!({"spec": {"tools": tools}})),
        child: child(json!({"spec": {"narrow": narrow}})),
        ..family()
    };
    let beyond = json!([{"server": "ledger", "names": ["read", "post"]}]);
    calls(beyond.clone(), json!(null)).refused(
        "BeyondParent",
        "could call `ledger/post`, which its parent `p` may not; write spec.narrow.tools: [ledger/read]",
    );
    let elsewhere = json!([{"server": "other/ledger", "names": ["read"]}]);
    calls(elsewhere, json!(null)).refused("BeyondParent", "could call `other/ledger/read`");
    for (tools, narrow) in
        [(beyond, json!({"tools": ["ledger/read"]})), (json!([{"server": "finance/ledger", "names": ["read"]}]), json!(null))]
    {
        assert_eq!(calls(tools, narrow).plan(1).status.unwrap().reason.as_deref(), Some("Issued"));
    }
    let mut narrowed = calls(json!([{"server": "ledger", "names": ["read"]}]), json!(null));
    narrowed.parent.spec.narrow = Some(crate::api::Narrowing { tools: Some(vec!["ledger/search".into()]), ..Default::default() });
    narrowed.refused("BeyondParent", "could call `ledger/read`");
}

#[test]
fn a_child_gets_no_credential_that_its_parent_does_not_get() {
    let with = |credential: Value| {
        let credentials =
            json!([credential, {"name": "ledger", "serviceAccountToken": {"audience": "https://ledger", "ttl": "10m"}}]);
        Family {
            agent: identity(json!({"spec": {"audiences": ["https://ledger", "https://crm"]}})),
            scope: scope(json!({"spec": {"credentials": credentials}})),
            ..family()
        }
    };
    let crm = json!({"name": "crm", "serviceAccountToken": {"audience": "https://crm"}});
    with(crm.clone()).refused(
        "BeyondParent",
        "would get credential `crm`, which its parent `p` does not get; write spec.narrow.credentials: [ledger, kubernetes]",
    );
    with(json!({"name": "again", "serviceAccountToken": {"audience": "https://ledger"}})).running();
    let mut kept_back = family();
    kept_back.parent.spec.narrow =
        Some(crate::api::Narrowing { credentials: Some(vec!["kubernetes".into()]), ..Default::default() });
    kept_back.refused("BeyondParent", "would get credential `ledger`");
    // A scope that grew under a running child is no reason to end it: it has no more than it had.
    let grown = Family { scope: with(crm.clone()).scope, agent: with(crm).agent, ..family().running() };
    assert!(grown.plan(2).status.is_none_or(|status| status.phase == Some(Phase::Active)));
}

#[test]
fn a_child_shrinks_with_its_parent() {
    let mut running = family().running();
    running.parent.status.as_mut().unwrap().grant.as_mut().unwrap().rules[0].verbs = vec!["get".into()];
    let plan = running.plan(2);
    let status = plan.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("Narrowed"));
    let left = permissions(&status.grant.unwrap().rules).unwrap();
    assert_eq!(left.iter().map(ToString::to_string).collect::<Vec<_>>(), ["get configmaps"]);
    assert_eq!(plan.report.unwrap().because.message, "parent task `p` shrank, and the task's authority with it");
    assert!(plan.steps.iter().any(|step| matches!(step, Step::Rebind(_))), "{:?}", plan.steps);
}

#[test]
fn a_child_ends_with_its_parent_at_the_latest_and_so_do_its_tokens() {
    let mut family = family();
    family.parent = parent(json!({"spec": {"ttl": "20m"}}));
    family.scope.spec.credentials[0].service_account_token.as_mut().unwrap().ttl = Duration::from_secs(3600);
    family.of_parent.1 = Some(delegating(json!({})));
    let plan = family.plan(1);
    let status = plan.status.clone().unwrap();
    assert_eq!((status.expires_at.clone(), plan.look_again), (Some(Time(at(1200))), Some(at(1200))));
    let Some(Step::Fill(fill)) = plan.steps.last() else { panic!("{:?}", plan.steps) };
    assert!(fill.mint.iter().all(|mint| mint.seconds <= 1200), "{fill:?}");
    family.child.status = Some(status);
    assert_eq!(deadline(&family.child), at(1200), "for whoever looks at the child alone");
    // A parent that is gone from sight does not make it longer, nor does a status that says so.
    family.child.status.as_mut().unwrap().expires_at = Some(Time(at(9000)));
    assert_eq!(deadline(&family.child), at(3600));
    assert_eq!(ended(&family.plan(1200)).1, "ParentEnded");
}

#[test]
fn a_child_is_asked_for_by_its_parent_by_who_asked_for_that_or_with_the_verb_delegate() {
    let account = format!("system:serviceaccount:finance:{}", names::of_task("p", "uid-p"));
    let asked = |username: &str| {
        let child = child(json!({"spec": {"requestedBy": {"username": username}}}));
        let plan = Family { child, answer: None, ..family() }.plan(1);
        plan.ask.iter().map(|question| question.permission.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(asked("bob"), ["use taskscopes.mandate.dev/read"]);
    assert_eq!(asked(&account), ["use taskscopes.mandate.dev/read"]);
    assert_eq!(asked("carol"), ["use taskscopes.mandate.dev/read", "delegate agenttasks.mandate.dev/p"]);
}

#[test]
fn a_task_asks_for_nothing_but_what_stands_below_it() {
    let account = |name: &str, uid: &str| format!("system:serviceaccount:finance:{}", names::of_task(name, uid));
    for username in [account("p", "another"), account("q", "uid-q"), account("p", "uid-p").replace("finance", "other")] {
        let child = child(json!({"spec": {"requestedBy": {"username": username}}}));
        Family { child, ..family() }.refused("DelegationNotAllowed", "may only ask for tasks below that one");
    }
    let mut root = task(json!({"spec": {"requestedBy": {"username": account("p", "uid-p")}}}));
    assert_eq!(ended(&Scene::default().plan(&root, 1)).1, "DelegationNotAllowed");
    root.spec.requested_by.as_mut().unwrap().username = "system:serviceaccount:finance:pipeline".into();
    assert_eq!(Scene::default().plan(&root, 1).status.unwrap().phase, Some(Phase::Active));
}

#[test]
fn a_child_acts_for_the_person_of_its_parent_and_for_nobody_else() {
    let of = |parent_for: Value, child_for: Value, requester: &str| Family {
        parent: parent(json!({"spec": {"onBehalfOf": parent_for, "requestedBy": {"username": "bob", "groups": ["finance"]}}})),
        child: child(json!({"spec": {"onBehalfOf": child_for, "requestedBy": {"username": requester, "groups": []}}})),
        ..family()
    };
    let bob = json!({"user": "bob"});
    of(bob.clone(), json!({"user": "mallory"}), "bob").refused("PersonNotAllowed", "its parent `p` acts for `bob`");
    of(json!(null), bob.clone(), "bob").refused("PersonNotAllowed", "its parent `p` acts for nobody");
    let asked = |family: Family| {
        let plan = Family { answer: None, ..family }.plan(1);
        let all = plan.ask.into_iter();
        all.map(|question| (question.who.username, question.who.groups.len(), question.permission.to_string()))
            .collect::<Vec<_>>()
    };
    let account = format!("system:serviceaccount:finance:{}", names::of_task("p", "uid-p"));
    for inherited in [of(bob.clone(), json!(null), &account), of(bob.clone(), bob.clone(), &account)] {
        let expected = [
            (account.clone(), 0, "use taskscopes.mandate.dev/read".to_owned()),
            ("bob".into(), 1, "get configmaps".into()),
            ("bob".into(), 1, "list configmaps".into()),
        ];
        assert_eq!(asked(inherited), expected, "with the groups that bob had when he asked for the parent");
    }
    let by_another = asked(of(bob.clone(), json!(null), "carol"));
    assert!(by_another.contains(&("carol".into(), 0, "act-for users.mandate.dev/bob".into())), "{by_another:?}");
    let mut foreign = of(bob, json!(null), "bob");
    foreign.agent = identity(json!({"spec": {"actsFor": {"users": ["carol"], "groups": []}}}));
    foreign.refused("PersonNotAllowed", "may not act for `bob`");
}
