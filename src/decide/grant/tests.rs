//! Every expiry, renewal and denial, by a clock that the tests turn.

use jiff::Timestamp;
use serde_json::json;

use super::*;

mod children;
use crate::api::{AgentPolicySpec, Workloads};

const START: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

/// A task made at 0 s that lives 1 h, with changes to its spec.
fn task(changes: serde_json::Value) -> AgentTask {
    let mut task = json!({
        "apiVersion": "mandate.dev/v1alpha1", "kind": "AgentTask",
        "metadata": {"name": "t", "namespace": "finance", "uid": "uid-1", "generation": 1, "creationTimestamp": at(0).to_string(), "finalizers": [names::FINALIZER]},
        "spec": {"agent": "bot", "scope": "read", "objective": "o", "ttl": "1h", "historyTTL": "1h", "requestedBy": {"username": "alice", "groups": ["finance"]}},
    });
    merge(&mut task, changes);
    serde_json::from_value(task).unwrap()
}

fn merge(into: &mut serde_json::Value, changes: serde_json::Value) {
    match changes {
        serde_json::Value::Object(changes) => {
            for (key, value) in changes {
                merge(&mut into[key], value);
            }
        }
        value => *into = value,
    }
}

fn merged(mut into: serde_json::Value, changes: serde_json::Value) -> serde_json::Value {
    merge(&mut into, changes);
    into
}

fn identity(changes: serde_json::Value) -> AgentIdentity {
    let mut identity = json!({
        "metadata": {"name": "bot", "namespace": "finance"},
        "spec": {"owner": {"team": "t", "contact": "c"}, "purpose": "p", "audiences": ["https://ledger"], "maxTTL": "2h", "actsFor": {"users": ["bob"], "groups": ["finance"]}},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Registered", "message": "", "lastTransitionTime": at(0).to_string()}]},
    });
    merge(&mut identity, changes);
    serde_json::from_value(identity).unwrap()
}

fn scope(changes: serde_json::Value) -> TaskScope {
    let mut scope = json!({
        "metadata": {"name": "read", "namespace": "finance", "uid": "scope-1"},
        "spec": {"intent": "i", "maxTTL": "2h",
            "kubernetes": {"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]},
            "credentials": [{"name": "ledger", "serviceAccountToken": {"audience": "https://ledger", "ttl": "10m"}}]},
    });
    merge(&mut scope, changes);
    serde_json::from_value(scope).unwrap()
}

struct Scene {
    identity: Option<AgentIdentity>,
    scope: Option<TaskScope>,
    owned: Owned,
    answer: Option<Result<(), Because>>,
}

impl Default for Scene {
    fn default() -> Self {
        let scope = scope(json!({}));
        let owned = Owned { service_account: true, role: Some(digest(&scope.spec.kubernetes.rules)), bound: Bound::AsGranted };
        Self { identity: Some(identity(json!({}))), scope: Some(scope), owned, answer: Some(Ok(())) }
    }
}

impl Scene {
    fn plan(&self, task: &AgentTask, seconds: i64) -> Plan {
        let observed = Observed {
            identity: self.identity.as_ref(),
            scope: self.scope.as_ref(),
            policies: &[],
            above: Above::Unknown,
            max_token_ttl: Workloads::BUILT_IN.max_token_ttl,
            owned: self.owned,
            answer: self.answer.as_ref(),
        };
        plan(task, &observed, at(seconds))
    }
}

/// The task as it is once it was issued at 1 s, with tokens of 10 min.
fn active(changes: serde_json::Value) -> AgentTask {
    let mut task = task(changes);
    let mut before = task.clone();
    before.spec.end = None;
    let plan = Scene::default().plan(&before, 1);
    let token = |name: &str, audience: Option<&str>| IssuedCredential {
        name: name.into(),
        audience: audience.map(str::to_owned),
        token_id: Some(format!("jti-{name}")),
        issued_at: Time(at(1)),
        expires_at: Some(Time(at(601))),
    };
    task.status = Some(settle(plan.status.unwrap(), vec![token("ledger", Some("https://ledger")), token("kubernetes", None)]));
    task
}

fn ended(plan: &Plan) -> (Phase, String, bool) {
    let status = plan.status.as_ref().expect("a task that ends gets a status");
    assert_eq!(plan.steps, TAKE_BACK, "everything is taken back, binding first");
    (status.phase.unwrap(), status.reason.clone().unwrap(), plan.report.as_ref().unwrap().warning)
}

#[test]
fn nothing_is_issued_before_the_api_server_was_asked() {
    let plan = Scene { answer: None, ..Scene::default() }.plan(&task(json!({})), 1);
    assert!(plan.steps.is_empty() && plan.status.is_none());
    let asked: Vec<String> =
        plan.ask.iter().map(|question| format!("{} {}", question.who.username, question.permission)).collect();
    assert_eq!(asked, ["alice use taskscopes.mandate.dev/read"]);
}

#[test]
fn a_task_gets_its_role_before_anything_else_and_its_tokens_last() {
    let plan = Scene::default().plan(&task(json!({})), 1);
    let [Step::EnsureRole(grant), Step::EnsureServiceAccount, Step::EnsureBinding(role), Step::EnsureSecret, Step::Fill(fill)] =
        plan.steps.as_slice()
    else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!(grant, &of_scope(&scope(json!({}))));
    assert_eq!(Some(role), name_of_role("read", grant).as_ref());
    let minted: Vec<_> = fill.mint.iter().map(|mint| (mint.name.as_str(), mint.audience.as_deref(), mint.seconds)).collect();
    assert_eq!(minted, [("ledger", Some("https://ledger"), 600), ("kubernetes", None, 600)]);
    let status = plan.status.unwrap();
    assert_eq!(status.phase, Some(Phase::Active));
    assert_eq!(status.expires_at, Some(Time(at(3600))));
}

#[test]
fn a_no_of_the_api_server_is_final_and_says_who_may_not_do_what() {
    let because = Because::new(Reason::ScopeNotAllowed, "alice may not");
    let plan = Scene { answer: Some(Err(because)), ..Scene::default() }.plan(&task(json!({})), 1);
    assert_eq!(ended(&plan), (Phase::Refused, "ScopeNotAllowed".into(), true));
    let conditions = plan.status.unwrap().conditions;
    let stalled = conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
    assert_eq!((stalled.status.as_str(), stalled.message.as_str()), ("True", "alice may not"));
}

#[test]
fn what_is_missing_is_waited_for_until_the_deadline_and_reported_once() {
    for (scene, reason) in [
        (Scene { identity: None, ..Scene::default() }, "AgentNotFound"),
        (Scene { scope: None, ..Scene::default() }, "ScopeNotFound"),
        (Scene { identity: Some(identity(json!({"status": {"conditions": []}}))), ..Scene::default() }, "AgentNotReady"),
    ] {
        let mut task = task(json!({}));
        let plan = scene.plan(&task, 1);
        assert!(plan.steps.is_empty());
        assert_eq!(plan.look_again, Some(at(3600)));
        let status = plan.status.clone().unwrap();
        assert_eq!((status.phase, status.reason.as_deref()), (Some(Phase::Pending), Some(reason)));
        assert_eq!(plan.report.unwrap().because.reason.as_str(), reason);
        task.status = Some(status);
        let again = scene.plan(&task, 2);
        assert_eq!(again.report, None, "said once");
        assert_eq!(again.status, task.status, "and not written again");
        let (phase, reason, _) = ended(&scene.plan(&task, 3600));
        assert_eq!((phase, reason.as_str()), (Phase::Ended, "Expired"));
    }
}

#[test]
fn what_is_not_allowed_is_refused_with_its_reason() {
    let secret = json!({"spec": {"credentials": [{"name": "crm", "secretKey": {"secretName": "crm", "key": "k"}}]}});
    let foreign = json!({"spec": {"credentials": [{"name": "x", "serviceAccountToken": {"audience": "https://elsewhere"}}]}});
    let cases = [
        (json!({"spec": {"requestedBy": null}}), Scene::default(), "RequesterUnknown"),
        (json!({"spec": {"ttl": "3h"}}), Scene::default(), "TtlTooLong"),
        (json!({}), Scene { identity: Some(identity(json!({"spec": {"maxTTL": "30m"}}))), ..Scene::default() }, "TtlTooLong"),
        (json!({}), Scene { identity: Some(identity(json!({"spec": {"suspend": true}}))), ..Scene::default() }, "AgentSuspended"),
        (json!({}), Scene { scope: Some(scope(secret)), ..Scene::default() }, "SecretKeyNotAllowed"),
        (json!({}), Scene { scope: Some(scope(foreign)), ..Scene::default() }, "AudienceNotAllowed"),
        (json!({"spec": {"onBehalfOf": {"user": "mallory"}}}), Scene::default(), "PersonNotAllowed"),
        (
            json!({"spec": {"narrow": {"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]}}}),
            Scene::default(),
            "NarrowingTooWide",
        ),
        (json!({"spec": {"narrow": {"credentials": ["crm"]}}}), Scene::default(), "NarrowingTooWide"),
    ];
    for (changes, scene, reason) in cases {
        let plan = scene.plan(&task(changes), 1);
        assert_eq!(ended(&plan), (Phase::Refused, reason.into(), true));
    }
}

#[test]
fn a_person_must_hold_every_permission_of_the_task_themselves() {
    let scene = Scene { answer: None, ..Scene::default() };
    let asked = |on_behalf_of: &str| {
        let plan = scene.plan(&task(json!({"spec": {"onBehalfOf": {"user": on_behalf_of}}})), 1);
        plan.ask
            .iter()
            .map(|question| (question.who.username.clone(), question.who.groups.clone(), question.permission.to_string()))
            .collect::<Vec<_>>()
    };
    let own = |groups: &[&str]| groups.iter().map(|group| (*group).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        asked("alice"), // by her group, asking herself
        [
            ("alice".into(), own(&["finance"]), "use taskscopes.mandate.dev/read".into()),
            ("alice".into(), own(&["finance"]), "get configmaps".to_owned()),
            ("alice".into(), own(&["finance"]), "list configmaps".into()),
        ]
    );
    assert_eq!(
        asked("bob"), // asked for by alice: she must be allowed to, and his groups are unknown
        [
            ("alice".into(), own(&["finance"]), "use taskscopes.mandate.dev/read".into()),
            ("alice".into(), own(&["finance"]), "act-for users.mandate.dev/bob".to_owned()),
            ("bob".into(), own(&["system:authenticated"]), "get configmaps".into()),
            ("bob".into(), own(&["system:authenticated"]), "list configmaps".into()),
        ]
    );
}

#[test]
fn a_narrowed_task_gets_only_what_it_asked_for() {
    let narrow = json!({"spec": {"narrow": {"rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["get"]}], "credentials": ["kubernetes"]}}});
    let plan = Scene::default().plan(&task(narrow), 1);
    let Step::EnsureRole(grant) = &plan.steps[0] else { panic!("{:?}", plan.steps) };
    assert_eq!(permissions(&grant.rules).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>(), ["get configmaps/a"]);
    let Step::Fill(fill) = &plan.steps[4] else { panic!("{:?}", plan.steps) };
    assert_eq!(fill.mint.iter().map(|mint| mint.name.as_str()).collect::<Vec<_>>(), ["kubernetes"]);
}

#[test]
fn a_running_task_rests_until_its_first_renewal() {
    let task = active(json!({}));
    let plan = Scene::default().plan(&task, 2);
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    let next = plan.look_again.unwrap();
    assert!(next >= at(1 + 450) && next <= at(1 + 480), "between 75 % and 80 % of its life: {next}");
}

#[test]
fn tokens_are_renewed_at_four_fifths_of_their_life_after_all_checks_were_made_again() {
    let task = active(json!({}));
    let asked = Scene { answer: None, ..Scene::default() }.plan(&task, 490);
    assert!(!asked.ask.is_empty() && asked.steps.is_empty());
    let plan = Scene::default().plan(&task, 490);
    let [Step::EnsureSecret, Step::Fill(fill)] = plan.steps.as_slice() else { panic!("{:?}", plan.steps) };
    assert_eq!(fill.mint.len(), 2);
    let no = Because::new(Reason::PersonLacksPermission, "no longer");
    let refused = Scene { answer: Some(Err(no)), ..Scene::default() }.plan(&task, 490);
    assert_eq!(ended(&refused), (Phase::Ended, "PersonLacksPermission".into(), true));
}

#[test]
fn a_renewal_writes_every_credential_since_it_writes_the_secret_whole() {
    let mut task = active(json!({}));
    task.status.as_mut().unwrap().credentials[0].expires_at = Some(Time(at(3000)));
    let plan = Scene::default().plan(&task, 490);
    let [Step::EnsureSecret, Step::Fill(fill)] = plan.steps.as_slice() else { panic!("{:?}", plan.steps) };
    let names: Vec<&str> = fill.mint.iter().map(|mint| mint.name.as_str()).collect();
    assert_eq!(names, ["ledger", "kubernetes"]);
}

#[test]
fn a_renewal_adds_no_credential_that_the_scope_got_since() {
    let more = json!([
        {"name": "ledger", "serviceAccountToken": {"audience": "https://ledger"}},
        {"name": "new", "serviceAccountToken": {"audience": "https://ledger"}},
    ]);
    let scene = Scene { scope: Some(scope(json!({"spec": {"credentials": more}}))), ..Scene::default() };
    let plan = scene.plan(&active(json!({})), 490);
    let Some(Step::Fill(fill)) = plan.steps.last() else { panic!("{:?}", plan.steps) };
    assert!(fill.mint.iter().all(|mint| mint.name != "new"), "{fill:?}");
}

#[test]
fn a_controller_that_was_down_renews_at_once_what_has_expired() {
    let plan = Scene::default().plan(&active(json!({})), 2000);
    assert!(matches!(plan.steps.as_slice(), [Step::EnsureSecret, Step::Fill(_)]), "{:?}", plan.steps);
}

#[test]
fn a_controller_that_was_down_past_the_deadline_ends_the_task_first_of_all() {
    for task in [active(json!({})), task(json!({}))] {
        let (phase, reason, _) = ended(&Scene::default().plan(&task, 10_000));
        assert_eq!((phase, reason.as_str()), (Phase::Ended, "Expired"));
    }
}

#[test]
fn a_token_that_outlives_the_task_is_not_renewed() {
    let mut task = active(json!({"spec": {"ttl": "10m"}}));
    task.status.as_mut().unwrap().expires_at = Some(Time(at(600)));
    let plan = Scene::default().plan(&task, 590);
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    assert_eq!(plan.look_again, Some(at(600)));
}

#[test]
fn whoever_ends_a_task_and_why_is_kept() {
    let cases = [
        (json!({"spec": {"end": {"reason": "Completed"}}}), Scene::default(), "Completed", false),
        (json!({"spec": {"end": {"reason": "Failed", "message": "no ledger"}}}), Scene::default(), "Failed", true),
        (json!({"spec": {"end": {"reason": "Revoked"}}}), Scene::default(), "Revoked", true),
        (
            json!({}),
            Scene { identity: Some(identity(json!({"spec": {"suspend": true}}))), ..Scene::default() },
            "AgentSuspended",
            true,
        ),
        (json!({}), Scene { identity: None, ..Scene::default() }, "AgentDeleted", true),
        (json!({}), Scene { scope: None, ..Scene::default() }, "ScopeDeleted", true),
        (
            json!({}),
            Scene { scope: Some(scope(json!({"metadata": {"uid": "scope-2"}}))), ..Scene::default() },
            "ScopeDeleted",
            true,
        ),
        (json!({}), Scene { scope: Some(scope(json!({"spec": {"maxTTL": "30m"}}))), ..Scene::default() }, "TtlTooLong", true),
        (json!({}), Scene { scope: Some(scope(json!({"spec": {"credentials": []}}))), ..Scene::default() }, "ScopeChanged", true),
    ];
    for (changes, scene, reason, warning) in cases {
        let plan = scene.plan(&active(changes), 100);
        assert_eq!(ended(&plan), (Phase::Ended, reason.into(), warning));
        let conditions = plan.status.unwrap().conditions;
        assert_eq!(
            conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect::<Vec<_>>(),
            [("Ended", "True", reason)]
        );
    }
}

#[test]
fn a_scope_that_shrinks_shrinks_the_task_and_one_that_grows_does_not() {
    let task = active(json!({}));
    let less = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]);
    let plan =
        Scene { scope: Some(scope(json!({"spec": {"kubernetes": {"rules": less}}}))), ..Scene::default() }.plan(&task, 100);
    let [Step::EnsureRole(grant), Step::Rebind(role)] = plan.steps.as_slice() else { panic!("{:?}", plan.steps) };
    assert_eq!(Some(role), name_of_role("read", grant).as_ref());
    assert_ne!(Some(role), role_of(&task).as_ref());
    assert_eq!(permissions(&grant.rules).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>(), ["get configmaps"]);
    assert_eq!(plan.report.unwrap().because.reason, Reason::Narrowed);
    let more = json!([{"apiGroups": [""], "resources": ["configmaps", "pods"], "verbs": ["get", "list", "delete"]}]);
    let plan =
        Scene { scope: Some(scope(json!({"spec": {"kubernetes": {"rules": more}}}))), ..Scene::default() }.plan(&task, 100);
    assert!(plan.steps.is_empty() && plan.report.is_none(), "{plan:?}");
    let none = Scene {
        scope: Some(scope(
            json!({"spec": {"kubernetes": {"rules": []}, "credentials": [{"name": "ledger", "serviceAccountToken": {"audience": "https://ledger"}}, {"name": "kubernetes", "serviceAccountToken": {}}]}}),
        )),
        ..Scene::default()
    };
    let plan = none.plan(&task, 100);
    assert_eq!(plan.steps, [Step::Take(Object::Binding)]);
}

#[test]
fn what_somebody_changed_is_mended() {
    let task = active(json!({}));
    let good = Scene::default().owned;
    let steps = |owned| Scene { owned, ..Scene::default() }.plan(&task, 100).steps;
    assert!(matches!(steps(Owned { role: Some(7), ..good }).as_slice(), [Step::EnsureRole(_)]));
    assert!(matches!(steps(Owned { role: None, ..good }).as_slice(), [Step::EnsureRole(_)]));
    let role = role_of(&task).unwrap();
    assert_eq!(steps(Owned { bound: Bound::Nothing, ..good }), [Step::EnsureBinding(role.clone())]);
    assert_eq!(steps(Owned { bound: Bound::Otherwise, ..good }), [Step::Rebind(role)]);
    let restored = steps(Owned { service_account: false, ..good });
    let [Step::RestoreServiceAccount(fill)] = restored.as_slice() else { panic!("{restored:?}") };
    assert_eq!(fill.mint.len(), 2, "the tokens of a ServiceAccount die with it: {fill:?}");
}

#[test]
fn tasks_to_which_a_scope_grants_the_same_share_a_role_and_no_others_do() {
    let grant = |uid: &str, verbs: &[&str]| {
        let rules =
            json!({"spec": {"kubernetes": {"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}]}}});
        of_scope(&scope(merged(json!({"metadata": {"uid": uid}}), rules)))
    };
    let name = |scope: &str, grant: &Grant| name_of_role(scope, grant).unwrap();
    let one = name("read", &grant("scope-1", &["get", "list"]));
    assert_eq!(one, name("read", &grant("scope-1", &["get", "list"])));
    for other in [
        name("read", &grant("scope-1", &["get"])),
        name("read", &grant("scope-2", &["get", "list"])),
        name("other", &grant("scope-1", &["get", "list"])),
    ] {
        assert_ne!(one, other);
    }
    assert_eq!(name_of_role("read", &Grant::default()), None, "no rules, no Role");
}

#[test]
fn a_role_is_needed_by_whoever_is_bound_to_it_or_about_to_be() {
    let (scope, running) = (scope(json!({})), active(json!({})));
    let current = name_of_role("read", &of_scope(&scope));
    assert_eq!(role_needed_by(&running, &scope), current);
    assert_eq!(role_needed_by(&task(json!({})), &scope), current);
    let narrow = json!({"spec": {"narrow": {"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]}}});
    let narrowed = role_needed_by(&task(narrow.clone()), &scope);
    assert!(narrowed.is_some() && narrowed != current);
    let issued = Scene::default().plan(&task(narrow), 1);
    assert!(issued.steps.contains(&Step::EnsureBinding(narrowed.unwrap())), "{:?}", issued.steps);
    let mut ended = running;
    ended.status = Scene::default().plan(&ended, 3600).status;
    assert_eq!(role_needed_by(&ended, &scope), None);
}

#[test]
fn a_scope_that_is_being_deleted_is_gone_and_grants_nothing() {
    let leaving = scope(json!({"metadata": {"deletionTimestamp": at(50).to_string(), "finalizers": ["orphan"]}}));
    assert_eq!(name_of_role("read", &of_scope(&leaving)), None);
    let scene = Scene { scope: Some(leaving), ..Scene::default() };
    let (phase, reason, _) = ended(&scene.plan(&active(json!({})), 100));
    assert_eq!((phase, reason.as_str()), (Phase::Ended, "ScopeDeleted"));
    assert_eq!(scene.plan(&task(json!({})), 100).status.unwrap().reason.as_deref(), Some("ScopeNotFound"));
}

#[test]
fn a_task_that_is_over_stays_over_whatever_the_clock_does() {
    let mut task = active(json!({}));
    task.status = Scene::default().plan(&task, 3600).status;
    for seconds in [-100_000, 0, 100, 3599, 3601] {
        let plan = Scene::default().plan(&task, seconds);
        assert!(plan.steps.is_empty() && plan.status.is_none(), "at {seconds}: {plan:?}");
    }
    assert_eq!(Scene::default().plan(&task, 7200).steps, [Step::Forget], "after historyTTL");
}

#[test]
fn a_clock_set_back_postpones_nothing_that_was_due_by_the_tokens_own_dates() {
    let task = active(json!({}));
    let plan = Scene::default().plan(&task, -3600);
    assert!(plan.look_again.unwrap() <= at(481), "renewals hang on the dates of the tokens, not on when they were seen");
}

#[test]
fn a_deleted_task_loses_its_authority_before_it_is_let_go() {
    let deleted = json!({"metadata": {"deletionTimestamp": at(50).to_string()}});
    for mut task in [active(json!({})), task(json!({}))] {
        let mut value = serde_json::to_value(&task).unwrap();
        merge(&mut value, deleted.clone());
        task = serde_json::from_value(value).unwrap();
        let plan = Scene::default().plan(&task, 60);
        let mut expected = TAKE_BACK.to_vec();
        expected.push(Step::Release);
        assert_eq!(plan.steps, expected);
        assert_eq!(plan.status, None);
    }
}

#[test]
fn tasks_that_started_together_do_not_renew_together() {
    let times: std::collections::BTreeSet<_> = (0..20)
        .map(|n| {
            let task = active(json!({"metadata": {"uid": format!("uid-{n}")}}));
            renewal(&task, &task.status.as_ref().unwrap().credentials[0]).unwrap()
        })
        .collect();
    assert!(times.len() > 10, "{times:?}");
}

#[test]
fn a_shorter_policy_shortens_tokens_but_not_below_what_the_api_server_issues() {
    let spec: AgentPolicySpec =
        serde_json::from_value(json!({"owner": {"team": "t", "contact": "c"}, "workloads": {"maxTokenTTL": "10m"}})).unwrap();
    let most = spec.guardrails.workloads.unwrap().max_token_ttl;
    assert_eq!(longest(most, "1h", 0), 600);
    assert_eq!(longest(Duration::from_secs(60), "1h", 0), 600);
}

#[test]
fn no_token_outlives_its_task_by_more_than_the_api_servers_least() {
    let day = Duration::from_secs(86_400);
    assert_eq!(longest(day, "30m", 0), 1801);
    assert_eq!(longest(day, "30m", 600), 1201);
    assert_eq!(longest(day, "30m", 1700), 600);
    assert_eq!(longest(day, "1h6s", 0), 3600, "3607 would mean one year");
}

/// The longest life of a token under a policy, for a task of this life, so long after its start.
fn longest(most: Duration, ttl: &str, now: i64) -> i64 {
    let observed = Observed {
        identity: None,
        scope: None,
        policies: &[],
        above: Above::Unknown,
        max_token_ttl: most,
        owned: Owned::default(),
        answer: None,
    };
    longest_token(&task(json!({"spec": {"ttl": ttl}})), &observed, at(now))
}
