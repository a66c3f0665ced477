use serde_json::json;

use super::report::{MOST as MOST_RESULTS, report};
use super::*;
use crate::api::{PolicyWaiver, Violations};
use crate::decide::world::Loaded;

const NOW: Timestamp = Timestamp::constant(1_767_603_600, 0); // 2026-01-05T09:00:00Z
const HERE: &str = "finance";

fn pods() -> &'static Scanned {
    &SCANNED[0]
}

fn policy(spec: serde_json::Value) -> crate::api::ClusterAgentPolicySpec {
    let mut whole = json!({"owner": {"team": "platform", "contact": "#platform"}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn world(policies: &[(&str, serde_json::Value)]) -> World {
    let mut world = World { guarded: [HERE.to_owned()].into(), ..World::default() };
    for (name, spec) in policies {
        world.cluster_policies.insert((*name).to_owned(), Loaded::Readable(policy(spec.clone())));
    }
    world
}

fn waive(world: &mut World, name: &str, uid: &str, status: serde_json::Value) {
    let waiver = json!({
        "apiVersion": "mandate.dev/v1alpha1", "kind": "PolicyWaiver",
        "metadata": {"name": name, "namespace": HERE, "uid": uid, "creationTimestamp": "2026-01-05T08:00:00Z"},
        "spec": {
            "owner": {"team": "ledger", "contact": "#ledger"}, "reason": "is tested", "expiresAt": "2026-01-06T00:00:00Z",
            "rules": ["secret-env"], "objects": [{"kind": "Pod", "name": "a"}, {"kind": "Deployment", "name": "web"}],
        },
        "status": status,
    });
    let waiver: PolicyWaiver = serde_json::from_value(waiver).unwrap();
    world.namespaces.entry(HERE.to_owned()).or_default().put_waiver(name.to_owned(), &waiver);
}

/// A pod with this many environment variables from Secrets.
fn pod(name: &str, uid: u32, secrets: usize) -> serde_json::Value {
    let env: Vec<_> = (0..secrets)
        .map(|n| json!({"name": format!("E{n}"), "valueFrom": {"secretKeyRef": {"name": format!("s{n}"), "key": "k"}}}))
        .collect();
    json!({
        "metadata": {"name": name, "uid": format!("00000000-0000-0000-0000-{uid:012}"), "creationTimestamp": "2026-01-05T08:30:00Z"},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "app", "env": env}]},
    })
}

fn put(ledger: &mut Ledger, world: &World, object: &serde_json::Value) {
    ledger.put(world, HERE, pods(), &Value::from(object), NOW);
}

/// A pass over these pods.
fn pass(ledger: &mut Ledger, world: &World, objects: &[serde_json::Value]) {
    for kind in SCANNED {
        ledger.open(HERE, kind);
        if kind.kind == "Pod" {
            objects.iter().for_each(|object| put(ledger, world, object));
        }
        ledger.close(HERE, kind);
    }
}

fn denied(ledger: &Ledger) -> u64 {
    report(ledger, HERE).summary.fail
}

#[test]
fn what_is_in_order_leaves_nothing_behind() {
    let (mut ledger, world) = (Ledger::default(), world(&[]));
    pass(&mut ledger, &world, &[pod("a", 1, 0), pod("b", 2, 0)]);
    assert_eq!((ledger.objects(HERE).count(), denied(&ledger), ledger.is_complete(HERE)), (0, 0, true));
}

#[test]
fn a_pod_that_is_gone_or_mended_is_told_no_more() {
    let (mut ledger, world) = (Ledger::default(), world(&[]));
    pass(&mut ledger, &world, &[pod("a", 1, 2), pod("b", 2, 1), pod("c", 3, 1)]);
    assert_eq!(denied(&ledger), 4);
    ledger.remove(HERE, pods(), "a");
    assert_eq!(denied(&ledger), 2);
    put(&mut ledger, &world, &pod("b", 2, 0));
    assert_eq!(denied(&ledger), 1);
    // Deleted while nobody watched: it is not there in the next pass.
    pass(&mut ledger, &world, &[pod("b", 2, 0)]);
    assert_eq!(denied(&ledger), 0);
}

#[test]
fn nothing_is_told_before_all_has_been_looked_at() {
    let (mut ledger, world) = (Ledger::default(), world(&[]));
    assert!(!ledger.is_complete(HERE));
    pass(&mut ledger, &world, &[pod("a", 1, 1)]);
    ledger.reopen(HERE);
    assert!(!ledger.is_complete(HERE));
    ledger.open(HERE, pods());
    assert_eq!(denied(&ledger), 1, "what was known stays until the pass is closed");
    ledger.close(HERE, pods());
    assert!(!ledger.is_complete(HERE), "one kind of two");
}

#[test]
fn only_news_is_a_change() {
    let (mut ledger, world) = (Ledger::default(), world(&[]));
    pass(&mut ledger, &world, &[pod("a", 1, 1)]);
    let before = ledger.revision(HERE);
    put(&mut ledger, &world, &pod("a", 1, 1));
    put(&mut ledger, &world, &pod("clean", 2, 0));
    ledger.remove(HERE, pods(), "clean");
    assert_eq!(ledger.revision(HERE), before);
    put(&mut ledger, &world, &pod("a", 1, 2));
    assert!(ledger.revision(HERE) > before);
}

#[test]
fn each_policy_counts_its_own_and_each_finding_is_told_once() {
    let strict = json!({"workloads": {"profile": "restricted"}});
    let warns = json!({"mode": "warn", "workloads": {"profile": "baseline"}});
    let records = json!({"mode": "audit", "workloads": {"profile": "baseline"}});
    let world = world(&[("strict", strict), ("warns", warns), ("records", records)]);
    let mut ledger = Ledger::default();
    pass(&mut ledger, &world, &[pod("a", 1, 2)]);
    let by_policy = ledger.by_policy(HERE);
    assert_eq!(by_policy["ClusterAgentPolicy strict"], Violations { deny: 2, ..Violations::default() });
    assert_eq!(by_policy["ClusterAgentPolicy warns"], Violations { warn: 2, ..Violations::default() });
    assert_eq!(by_policy["ClusterAgentPolicy records"], Violations { audit: 2, ..Violations::default() });
    assert_eq!(ledger.counts(HERE), BTreeMap::from([(("secret-env", Severity::Deny), 2)]));
    assert_eq!(report(&ledger, HERE).results.len(), 2);
}

#[test]
fn a_report_is_capped_in_the_same_order_and_its_numbers_are_true() {
    let (mut one, mut other, world) = (Ledger::default(), Ledger::default(), world(&[]));
    let mut all: Vec<_> = (0..400).map(|n| pod(&format!("p{n:03}"), n, 2)).collect();
    pass(&mut one, &world, &all);
    all.reverse();
    pass(&mut other, &world, &all);
    let told = report(&one, HERE);
    assert_eq!(told, report(&other, HERE), "the order in which they were seen shows");
    assert_eq!((told.results.len(), told.summary.fail), (MOST_RESULTS, 800));
    let first = &told.results[0];
    assert_eq!(first["resources"][0], json!({"apiVersion": "v1", "kind": "Pod", "namespace": HERE, "name": "p000", "uid": "00000000-0000-0000-0000-000000000000"}).as_object().map(|all| {
        let mut all = all.clone();
        all.remove("uid");
        serde_json::Value::Object(all)
    }).unwrap());
    assert_eq!(
        (&first["result"], &first["policy"], &first["rule"]),
        (&json!("fail"), &json!("built-in policy"), &json!("secret-env"))
    );
    assert_eq!(first["properties"]["path"], "spec.containers[0].env[0].valueFrom.secretKeyRef");
    assert_eq!(told.results[2]["resources"][0]["uid"], "00000000-0000-0000-0000-000000000001");
    assert!(serde_json::to_vec(&told).unwrap().len() < 500_000);
}

#[test]
fn of_one_object_a_few_findings_are_kept_and_all_are_counted() {
    let (mut ledger, world) = (Ledger::default(), world(&[]));
    pass(&mut ledger, &world, &[pod("a", 1, 5000)]);
    let told = report(&ledger, HERE);
    assert_eq!((told.summary.fail, told.results.len()), (5000, MOST + 1));
    assert_eq!(
        told.results[MOST]["message"],
        format!("{} more places; `mandate explain secret-env` says what is wrong there", 5000 - MOST)
    );
}

#[test]
fn pods_of_one_template_share_what_is_kept() {
    let (mut ledger, world) = (Ledger::default(), world(&[]));
    let all: Vec<_> = (0..1000).map(|n| pod(&format!("p{n}"), n, 3)).collect();
    pass(&mut ledger, &world, &all);
    assert_eq!(ledger.distinct(), 1);
    pass(&mut ledger, &world, &[]);
    assert_eq!(ledger.distinct(), 0, "what nobody has any more is forgotten");
}

#[test]
fn the_moment_of_admission_is_not_judged_again() {
    let (mut ledger, world) = (Ledger::default(), world(&[]));
    let mut late = pod("a", 1, 0);
    late["metadata"]["labels"] = json!({"mandate.dev/task": "gone"});
    late["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "mandate-task-gone-1234567890"}}]);
    pass(&mut ledger, &world, &[late.clone()]);
    assert_eq!(denied(&ledger), 0, "{:?}", report(&ledger, HERE));
    late["metadata"]["labels"] = json!({});
    pass(&mut ledger, &world, &[late]);
    assert_eq!(ledger.counts(HERE), BTreeMap::from([(("other-tasks-credentials", Severity::Deny), 1)]));
}

#[test]
fn a_use_is_an_object_that_came_to_stand_and_counts_once() {
    let mut world = world(&[("honours", json!({"workloads": {}, "waivers": {}}))]);
    waive(&mut world, "w", "uid-1", json!({}));
    let mut ledger = Ledger::default();
    let uses = |ledger: &Ledger, uid: &str| ledger.uses(HERE, uid).map(|used| (used.count, used.last));
    pass(&mut ledger, &world, &[pod("a", 1, 1), pod("b", 2, 1)]);
    assert_eq!(uses(&ledger, "uid-1"), Some((1, Some(NOW))), "the one that is named");
    assert_eq!(ledger.counts(HERE), BTreeMap::from([(("secret-env", Severity::Deny), 1), (("secret-env", Severity::Warn), 1)]));
    assert_eq!(ledger.covers(HERE, 8)["uid-1"].objects, ["Pod/a"]);
    // Looked at again, in whatever way, it is the same use.
    put(&mut ledger, &world, &pod("a", 1, 1));
    pass(&mut ledger, &world, &[pod("a", 1, 1)]);
    assert_eq!(uses(&ledger, "uid-1").unwrap().0, 1);
    // Another pod of the same name is another use.
    put(&mut ledger, &world, &pod("a", 7, 1));
    assert_eq!(uses(&ledger, "uid-1").unwrap().0, 2);
    // A waiver that is made anew begins anew.
    waive(&mut world, "w", "uid-2", json!({}));
    pass(&mut ledger, &world, &[pod("a", 7, 1)]);
    assert_eq!(uses(&ledger, "uid-2").unwrap().0, 1);
}

#[test]
fn a_controller_that_starts_anew_counts_no_use_twice() {
    let mut world = world(&[("honours", json!({"workloads": {}, "waivers": {}}))]);
    waive(&mut world, "w", "uid-1", json!({"uses": 4, "lastUsed": "2026-01-05T08:40:00Z"}));
    let mut ledger = Ledger::default();
    pass(&mut ledger, &world, &[pod("a", 1, 1)]);
    let used = ledger.uses(HERE, "uid-1").unwrap();
    assert_eq!((used.count, used.last), (4, Some("2026-01-05T08:40:00Z".parse().unwrap())));
    let mut new = pod("a", 2, 1);
    new["metadata"]["creationTimestamp"] = json!("2026-01-05T08:50:00Z");
    put(&mut ledger, &world, &new);
    assert_eq!(ledger.uses(HERE, "uid-1").unwrap().count, 5);
}

#[test]
fn the_basis_changes_with_what_is_asked_and_with_time_and_not_with_a_status() {
    let mut world = world(&[("honours", json!({"workloads": {}, "waivers": {}}))]);
    waive(&mut world, "w", "uid-1", json!({}));
    let before = Basis::of(&world, HERE, NOW);
    waive(&mut world, "w", "uid-1", json!({"uses": 3, "daysLeft": 1}));
    assert_eq!(Basis::of(&world, HERE, NOW), before);
    let end: Timestamp = "2026-01-06T00:00:00Z".parse().unwrap();
    assert_eq!(before.until(), Some(end));
    assert_ne!(Basis::of(&world, HERE, end), before);
    world.cluster_policies.insert("more".to_owned(), Loaded::Readable(policy(json!({"workloads": {"profile": "restricted"}}))));
    assert_ne!(Basis::of(&world, HERE, NOW), before);
}
