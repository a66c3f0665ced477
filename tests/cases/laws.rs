//! What holds whatever is put in: durations, permissions, and the plan for a task.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use mandate::api::{
    AgentIdentity, AgentTask, Duration, IssuedCredential, KubernetesRule, Permission, Phase, TaskScope, covers, permissions,
};
use mandate::decide::check::{Because, Reason};
use mandate::decide::delegate::Above;
use mandate::decide::grant::{Bound, Fill, Object, Observed, Owned, Plan, Step, digest, name_of_role, plan, role_of, settle};
use mandate::decide::world::deadline;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value as Json, json};

use super::property::config;

const CREATED: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(CREATED.saturating_add(seconds)).unwrap_or(if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

fn some(words: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<String>> {
    let all: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let most = all.len();
    subsequence(all, least..=most)
}

fn rule() -> impl Strategy<Value = KubernetesRule> {
    let lists = (
        some(&["", "apps"], 1),
        some(&["configmaps", "pods", "pods/log"], 1),
        some(&["a", "b"], 0),
        some(&["get", "list", "update"], 1),
    );
    lists.prop_map(|(api_groups, resources, resource_names, verbs)| KubernetesRule {
        api_groups,
        resources,
        resource_names,
        verbs,
    })
}

fn rules() -> impl Strategy<Value = Vec<KubernetesRule>> {
    prop::collection::vec(rule(), 0..3)
}

fn spelled_out(rules: &[KubernetesRule]) -> BTreeSet<Permission> {
    permissions(rules).unwrap()
}

/// Whether `held` covers all of `wanted`.
fn cover(held: &BTreeSet<Permission>, wanted: &BTreeSet<Permission>) -> bool {
    wanted.iter().all(|permission| covers(held, permission))
}

/// All that a plan is made of.
#[derive(Clone, Debug)]
struct Scene {
    task: AgentTask,
    identity: Option<AgentIdentity>,
    scope: Option<TaskScope>,
    owned: Owned,
    answer: Option<Result<(), Because>>,
    most: Duration,
}

impl Scene {
    fn plan(&self, now: Timestamp) -> Plan {
        let observed = Observed {
            identity: self.identity.as_ref(),
            scope: self.scope.as_ref(),
            policies: &[],
            above: Above::Unknown,
            max_token_ttl: self.most,
            owned: self.owned,
            answer: self.answer.as_ref(),
        };
        plan(&self.task, &observed, now)
    }
}

fn life() -> impl Strategy<Value = i64> {
    select(vec![1, 59, 600, 900, 3600, 86_400])
}

/// Times around the life of a task, and a few at the ends of all time.
fn time() -> impl Strategy<Value = i64> {
    prop_oneof![20 => -1_000i64..5_000, 5 => -100_000i64..200_000, 1 => Just(i64::MIN / 2), 1 => Just(i64::MAX / 2)]
}

fn identity() -> impl Strategy<Value = AgentIdentity> {
    let spec = (prop::bool::weighted(0.1), prop::bool::weighted(0.9), life(), some(&["https://ledger", "https://crm"], 1));
    spec.prop_map(|(suspend, ready, most, audiences)| {
        let ready = json!({"type": "Ready", "status": if ready { "True" } else { "False" }, "reason": "R", "message": "", "lastTransitionTime": at(0).to_string()});
        let identity = json!({
            "metadata": {"name": "bot", "namespace": "finance"},
            "spec": {"owner": {"team": "t", "contact": "c"}, "purpose": "p", "audiences": audiences, "maxTTL": format!("{most}s"), "suspend": suspend, "actsFor": {"users": ["bob"]}},
            "status": {"conditions": [ready]},
        });
        serde_json::from_value(identity).unwrap()
    })
}

fn scope() -> impl Strategy<Value = TaskScope> {
    let credential = (select(vec!["ledger", "crm", "kubernetes"]), select(vec!["10m", "1h"]), prop::bool::weighted(0.05));
    let spec =
        (rules(), prop::collection::vec(credential, 0..3), life(), select(vec!["scope-1", "scope-1", "scope-1", "scope-2"]));
    spec.prop_map(|(rules, credentials, most, uid)| {
        let credential = |(name, ttl, is_static): (&str, &str, bool)| match name {
            _ if is_static => json!({"name": name, "secretKey": {"secretName": "db", "key": "k"}}),
            "kubernetes" => json!({"name": name, "serviceAccountToken": {"ttl": ttl}}),
            _ => json!({"name": name, "serviceAccountToken": {"audience": format!("https://{name}"), "ttl": ttl}}),
        };
        let mut seen = BTreeSet::new();
        let credentials: Vec<Json> = credentials.into_iter().filter(|(name, ..)| seen.insert(*name)).map(credential).collect();
        let scope = json!({
            "metadata": {"name": "read", "namespace": "finance", "uid": uid},
            "spec": {"intent": "i", "maxTTL": format!("{most}s"), "kubernetes": {"rules": rules}, "credentials": credentials},
        });
        serde_json::from_value(scope).unwrap()
    })
}

fn task() -> impl Strategy<Value = AgentTask> {
    let spec = (
        life(),
        prop::option::weighted(0.1, select(vec!["Completed", "Failed", "Revoked"])),
        select(vec![Some("alice"), Some("alice"), None]),
        prop::option::weighted(0.2, rules()),
    );
    let status = (
        select(vec![None, Some("Pending"), Some("Active"), Some("Active"), Some("Active"), Some("Ended"), Some("Refused")]),
        rules(),
        prop::collection::vec((select(vec!["ledger", "crm", "kubernetes"]), time(), life()), 0..3),
        prop::option::of(time()),
    );
    let metadata = (prop::bool::weighted(0.1), prop::option::weighted(0.95, time().prop_map(|time| time / 10)), 0u32..1_000);
    (spec, status, metadata).prop_map(|((ttl, end, user, narrow), (phase, granted, issued, ended), (deleted, created, uid))| {
        let issued: Vec<Json> = issued
            .into_iter()
            .map(|(name, since, life)| {
                let audience = (name != "kubernetes").then(|| format!("https://{name}"));
                json!({"name": name, "audience": audience, "tokenID": "j", "issuedAt": at(since).to_string(), "expiresAt": at(since.saturating_add(life)).to_string()})
            })
            .collect();
        let mut task = json!({
            "metadata": {"name": "t", "namespace": "finance", "uid": uid.to_string(), "generation": 1},
            "spec": {"agent": "bot", "scope": "read", "objective": "o", "ttl": format!("{ttl}s"), "historyTTL": "1h"},
        });
        let mut set = |path: &[&str], value: Option<Json>| {
            let Some(value) = value else { return };
            *path.iter().fold(&mut task, |at, key| &mut at[*key]) = value;
        };
        set(&["metadata", "creationTimestamp"], created.map(|created| at(created).to_string().into()));
        set(&["metadata", "deletionTimestamp"], deleted.then(|| at(10).to_string().into()));
        set(&["spec", "end"], end.map(|reason| json!({"reason": reason})));
        set(&["spec", "requestedBy"], user.map(|user| json!({"username": user})));
        set(&["spec", "narrow"], narrow.map(|rules| json!({"rules": rules})));
        let status = phase.map(|phase| {
            json!({"phase": phase, "grant": {"scopeUID": "scope-1", "rules": granted}, "credentials": issued, "endedAt": ended.map(|ended| at(ended).to_string()), "conditions": []})
        });
        set(&["status"], status);
        serde_json::from_value(task).unwrap()
    })
}

fn scene() -> impl Strategy<Value = Scene> {
    let bound = select(vec![Bound::Nothing, Bound::AsGranted, Bound::Otherwise]);
    let owned = (any::<bool>(), prop::option::of(0u64..3), bound);
    let owned = owned.prop_map(|(service_account, role, bound)| Owned { service_account, role, bound });
    let no = Because::new(Reason::ScopeNotAllowed, "no");
    let answer = select(vec![None, Some(Ok(())), Some(Ok(())), Some(Err(no))]);
    let most = select(vec![1, 600, 3600, 86_400]).prop_map(Duration::from_secs);
    (task(), prop::option::weighted(0.9, identity()), prop::option::weighted(0.9, scope()), owned, answer, most)
        .prop_map(|(task, identity, scope, owned, answer, most)| Scene { task, identity, scope, owned, answer, most })
}

/// Whether a step gives anything.
fn gives(step: &Step) -> bool {
    match step {
        Step::EnsureRole(_)
        | Step::EnsureServiceAccount
        | Step::RestoreServiceAccount(_)
        | Step::EnsureBinding(_)
        | Step::Rebind(_)
        | Step::EnsureSecret
        | Step::Fill(_) => true,
        Step::Take(_) | Step::Release | Step::Forget => false,
    }
}

fn fill(step: &Step) -> Option<&Fill> {
    if let Step::Fill(fill) | Step::RestoreServiceAccount(fill) = step { Some(fill) } else { None }
}

/// A task that nothing speaks against, never touched.
fn fair() -> impl Strategy<Value = (Scene, i64)> {
    let names = some(&["ledger", "crm", "kubernetes"], 0);
    (rules(), names, select(vec!["10m", "1h"]), select(vec![1i64, 600, 901, 3600, 10_000, 86_400]), 0u32..1_000).prop_map(|(rules, names, token, life, uid)| {
        let credential = |name: &String| json!({"name": name, "serviceAccountToken": {"ttl": token}});
        let credentials: Vec<Json> = names.iter().map(credential).collect();
        let task = json!({
            "metadata": {"name": "t", "namespace": "finance", "uid": uid.to_string(), "creationTimestamp": at(0).to_string()},
            "spec": {"agent": "bot", "scope": "read", "objective": "o", "ttl": format!("{life}s"), "historyTTL": "1h", "requestedBy": {"username": "alice"}},
        });
        let identity = json!({
            "metadata": {"name": "bot"}, "spec": {"owner": {"team": "t", "contact": "c"}, "purpose": "p", "maxTTL": "24h"},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "R", "message": "", "lastTransitionTime": at(0).to_string()}]},
        });
        let scope = json!({
            "metadata": {"name": "read", "uid": "scope-1"},
            "spec": {"intent": "i", "maxTTL": "24h", "kubernetes": {"rules": rules}, "credentials": credentials},
        });
        let scene = Scene {
            task: serde_json::from_value(task).unwrap(),
            identity: Some(serde_json::from_value(identity).unwrap()),
            scope: Some(serde_json::from_value(scope).unwrap()),
            owned: Owned::default(),
            answer: Some(Ok(())),
            most: Duration::from_secs(3600),
        };
        (scene, life)
    })
}

/// Carries a plan out as the controller does, on what is observed next.
fn carry_out(scene: &mut Scene, plan: Plan, now: Timestamp) {
    let mut issued = vec![];
    for step in &plan.steps {
        match step {
            Step::EnsureRole(grant) => scene.owned.role = Some(digest(&grant.rules)),
            Step::EnsureServiceAccount | Step::RestoreServiceAccount(_) => scene.owned.service_account = true,
            Step::EnsureBinding(_) | Step::Rebind(_) => scene.owned.bound = Bound::AsGranted,
            Step::Take(Object::Binding) => scene.owned.bound = Bound::Nothing,
            Step::Take(Object::ServiceAccount) => scene.owned.service_account = false,
            // The Role is the scope's, and stays.
            Step::EnsureSecret | Step::Fill(_) | Step::Take(Object::Role | Object::Secret) | Step::Release | Step::Forget => {}
        }
        issued.extend(fill(step).into_iter().flat_map(|fill| &fill.mint).map(|mint| IssuedCredential {
            name: mint.name.clone(),
            audience: mint.audience.clone(),
            token_id: Some(now.to_string()),
            issued_at: Time(now),
            expires_at: Some(Time(now + SignedDuration::from_secs(mint.seconds))),
        }));
    }
    if let Some(status) = plan.status {
        scene.task.status = Some(settle(status, issued));
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_duration_that_is_printed_is_read_as_the_same(seconds: u32) {
        let duration = Duration::from_secs(seconds);
        prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        prop_assert!(duration.as_secs() <= 8784 * 3600);
    }

    #[test]
    fn a_duration_that_is_read_is_printed_as_the_same(text in "([0-9]{0,5}h)?([0-9]{0,7}m)?([0-9]{0,9}[sd]?)") {
        if let Ok(duration) = text.parse::<Duration>() {
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }

    #[test]
    fn whatever_is_no_duration_is_refused_with_its_text(text in "\\PC{0,24}") {
        if let Err(error) = text.parse::<Duration>() {
            let named = format!("`{text}`");
            prop_assert!(error.to_string().contains(&named), "{error}");
        }
    }

    #[test]
    fn permissions_cover_themselves_and_pass_it_on(a in rules(), b in rules(), c in rules()) {
        let [a, b, c] = [a, b, c].map(|rules| spelled_out(&rules));
        prop_assert!(cover(&a, &a));
        prop_assert!(!(cover(&a, &b) && cover(&b, &c)) || cover(&a, &c));
        let both: BTreeSet<_> = a.union(&b).cloned().collect();
        prop_assert!(cover(&both, &a) && cover(&both, &b));
        for permission in &both {
            prop_assert_eq!(covers(&both, permission), true);
        }
    }

    #[test]
    fn the_order_of_rules_says_nothing(mut rules in rules()) {
        let all = spelled_out(&rules);
        rules.reverse();
        for rule in &mut rules {
            rule.verbs.reverse();
            rule.resources.reverse();
        }
        prop_assert_eq!(spelled_out(&rules), all);
    }

    #[test]
    fn nothing_is_given_past_the_deadline_nor_to_a_task_that_is_over(scene in scene(), now in time()) {
        let now = at(now);
        let plan = scene.plan(now);
        let is_over = scene.task.status.as_ref().is_some_and(|status| matches!(status.phase, Some(Phase::Ended | Phase::Refused)));
        let is_ending = scene.task.spec.end.is_some() || scene.task.metadata.deletion_timestamp.is_some();
        let is_suspended = scene.identity.as_ref().is_some_and(|identity| identity.spec.suspend);
        if now >= deadline(&scene.task) || is_over || is_ending || is_suspended {
            prop_assert!(plan.ask.is_empty() && !plan.steps.iter().any(gives), "{plan:?}");
        }
        if is_over {
            prop_assert!(plan.status.is_none() && !plan.steps.iter().any(|step| matches!(step, Step::Take(_))), "{plan:?}");
        }
    }

    #[test]
    fn the_binding_is_taken_before_all_else_and_an_end_takes_everything(scene in scene(), now in time()) {
        let plan = scene.plan(at(now));
        let taken: Vec<Object> = plan.steps.iter().filter_map(|step| if let Step::Take(object) = step { Some(*object) } else { None }).collect();
        let all = [Object::Binding, Object::Role, Object::Secret, Object::ServiceAccount];
        prop_assert!(all.starts_with(&taken), "{taken:?}");
        let ends = plan.status.as_ref().is_some_and(|status| matches!(status.phase, Some(Phase::Ended | Phase::Refused)));
        let releases = plan.steps.contains(&Step::Release);
        let was_over = scene.task.status.as_ref().is_some_and(|status| matches!(status.phase, Some(Phase::Ended | Phase::Refused)));
        if (ends || releases) && !was_over {
            prop_assert_eq!(taken.as_slice(), &all);
            prop_assert!(!plan.steps.iter().any(gives));
        }
        if releases {
            prop_assert_eq!(plan.steps.last(), Some(&Step::Release));
        }
    }

    #[test]
    fn who_is_to_be_asked_is_asked_before_anything_is_done(scene in scene(), now in time()) {
        let plan = scene.plan(at(now));
        if !plan.ask.is_empty() {
            prop_assert!(plan.steps.is_empty() && plan.status.is_none() && plan.report.is_none(), "{plan:?}");
        }
        if plan.steps.iter().any(|step| fill(step).is_some()) {
            prop_assert!(matches!(scene.answer, Some(Ok(()))), "{plan:?}");
        }
    }

    #[test]
    fn what_is_given_is_within_scope_agent_and_policy_and_never_grows(scene in scene(), now in time()) {
        let plan = scene.plan(at(now));
        let of_scope = scene.scope.as_ref().map(|scope| spelled_out(&scope.spec.kubernetes.rules)).unwrap_or_default();
        let before = scene.task.status.clone().unwrap_or_default();
        let is_active = before.phase == Some(Phase::Active);
        let before = before.grant.map(|grant| spelled_out(&grant.rules)).unwrap_or_default();
        let role = plan.steps.iter().find_map(|step| if let Step::EnsureRole(grant) = step { Some(&grant.rules) } else { None });
        let granted = plan.status.as_ref().filter(|status| status.phase == Some(Phase::Active)).and_then(|status| status.grant.as_ref()).map(|grant| &grant.rules);
        for rules in role.into_iter().chain(granted) {
            let rules = spelled_out(rules);
            prop_assert!(cover(&of_scope, &rules), "beyond the scope: {rules:?}");
            prop_assert!(!is_active || cover(&before, &rules), "more than before: {rules:?}");
        }
        for mint in plan.steps.iter().filter_map(fill).flat_map(|fill| &fill.mint) {
            prop_assert!((600..=scene.most.as_secs().max(600)).contains(&mint.seconds), "{mint:?}");
            let audiences = &scene.identity.as_ref().unwrap().spec.audiences;
            prop_assert!(mint.audience.as_ref().is_none_or(|audience| audiences.contains(audience)), "{mint:?}");
        }
        prop_assert!(plan.steps.iter().filter_map(fill).all(|fill| fill.copy.is_empty()), "no policy allows a static secret");
    }

    #[test]
    fn a_task_is_bound_to_what_it_is_granted_and_to_nothing_else(scene in scene(), now in time()) {
        let plan = scene.plan(at(now));
        let granted = plan.status.as_ref().and_then(|status| status.grant.as_ref()).and_then(|grant| name_of_role("read", grant));
        for step in &plan.steps {
            match step {
                Step::EnsureBinding(role) | Step::Rebind(role) => prop_assert_eq!(Some(role), granted.as_ref()),
                Step::EnsureRole(grant) => prop_assert_eq!(name_of_role("read", grant), granted.clone()),
                _ => {}
            }
        }
        // Whoever is granted less than before is not left bound to what it had.
        let runs = plan.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Active));
        if runs && role_of(&scene.task).is_some_and(|before| Some(before) != granted) && scene.owned.bound != Bound::Nothing {
            let lets_go = |step: &Step| matches!(step, Step::Rebind(_) | Step::Take(Object::Binding));
            prop_assert!(plan.steps.iter().any(lets_go), "{plan:?}");
        }
    }

    #[test]
    fn the_same_is_planned_for_the_same(scene in scene(), now in time()) {
        prop_assert_eq!(scene.plan(at(now)), scene.plan(at(now)));
    }

    #[test]
    fn a_task_that_is_looked_at_when_asked_lives_until_its_deadline_ends_and_is_forgotten((mut scene, life) in fair()) {
        let (mut now, mut fills, mut rounds) = (at(0), 0, 0);
        loop {
            rounds += 1;
            prop_assert!(rounds < 1_000, "no end");
            let plan = scene.plan(now);
            prop_assert!(plan.ask.is_empty());
            if plan.steps.contains(&Step::Forget) {
                break;
            }
            let ended = plan.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Ended));
            prop_assert_eq!(ended, now == at(life), "at {}", now);
            fills += plan.steps.iter().filter(|step| fill(step).is_some()).count();
            let idle = plan.steps.is_empty();
            let next = plan.look_again.unwrap();
            carry_out(&mut scene, plan, now);
            prop_assert!(next > now || !idle, "looked at again at {now} with nothing to do");
            // What was issued is known only now: the next look is the first that knows it.
            let next = if idle { next } else { scene.plan(now).look_again.unwrap() };
            prop_assert!(next > now, "again at {next}, which is not after {now}");
            now = next;
        }
        prop_assert_eq!(Owned { role: None, ..scene.owned }, Owned::default());
        prop_assert_eq!(now, at(life) + SignedDuration::from_hours(1));
        let credentials = scene.task.status.unwrap().credentials;
        prop_assert!(credentials.is_empty() == (fills == 0) && credentials.iter().all(|issued| issued.expires_at.as_ref().unwrap().0 >= at(life)));
    }
}
