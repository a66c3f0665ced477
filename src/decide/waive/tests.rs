use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::{ClusterAgentPolicySpec, RULE_NAMES, Requester};
use crate::decide::admit::{Operation, Review, admit};
use crate::decide::finding::{Finding, Severity};
use crate::decide::world::Loaded;

const NOW: Timestamp = Timestamp::constant(1_767_603_600, 0); // 2026-01-05T09:00:00Z

fn waiver(spec: &serde_json::Value) -> PolicyWaiver {
    let mut whole = json!({
        "owner": {"team": "ledger", "contact": "#ledger"},
        "reason": "is tested",
        "expiresAt": "2026-01-20T00:00:00Z",
        "rules": ["secret-env"],
        "objects": [{"kind": "Deployment", "name": "web"}],
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    let metadata = json!({"name": "w", "namespace": "finance", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"});
    let waiver = json!({"apiVersion": "mandate.dev/v1alpha1", "kind": "PolicyWaiver", "metadata": metadata, "spec": whole});
    serde_json::from_value(waiver).unwrap()
}

fn policy(spec: &serde_json::Value) -> ClusterAgentPolicySpec {
    let mut whole = json!({"owner": {"team": "platform", "contact": "#platform"}, "workloads": {"profile": "restricted"}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn world(policies: &[(&str, serde_json::Value)], waivers: &[(&str, serde_json::Value)]) -> World {
    let mut world = World { guarded: ["finance".to_owned()].into(), ..World::default() };
    for (name, spec) in policies {
        world.cluster_policies.insert((*name).to_owned(), Loaded::Readable(policy(spec)));
    }
    let here = world.namespaces.entry("finance".to_owned()).or_default();
    for (name, spec) in waivers {
        here.put_waiver((*name).to_owned(), &waiver(spec));
    }
    world
}

fn said(world: &World) -> (bool, &'static str, String) {
    let Effect { counts, reason, message } = effect(world, "finance", &world.namespaces["finance"].waivers["w"], NOW);
    (counts, reason, message)
}

#[test]
fn a_status_says_in_words_why_a_waiver_does_not_count() {
    let honours = json!({"waivers": {}});
    let w = [("w", json!({}))];
    assert_eq!(said(&world(&[], &w)).1, "NotHonoured");
    assert_eq!(said(&world(&[("a", json!({}))], &w)).1, "NotHonoured");
    assert_eq!(
        said(&world(&[("a", honours.clone())], &w)),
        (true, "Honoured", "honoured by ClusterAgentPolicy `a` until 2026-01-20T00:00:00Z".to_owned())
    );
    assert_eq!(
        said(&world(&[("a", json!({"waivers": {"maxLife": "24h"}}))], &w)),
        (false, "LivesTooLong", "`secret-env` is waived for 24h at most by ClusterAgentPolicy `a`".to_owned())
    );
    assert_eq!(
        said(&world(&[("a", json!({"waivers": {"rules": ["csi-secret"]}}))], &w)),
        (false, "RuleNotHonoured", "no policy lets `secret-env` be waived".to_owned())
    );
    assert_eq!(
        said(&world(&[("a", honours.clone()), ("b", json!({}))], &w)).2,
        "honoured by ClusterAgentPolicy `a` until 2026-01-20T00:00:00Z; `b` does not honour it and holds as before"
    );
    let partly = said(&world(
        &[("a", json!({"waivers": {"rules": ["secret-env"]}}))],
        &[("w", json!({"rules": ["secret-env", "csi-secret"]}))],
    ));
    assert_eq!((partly.0, partly.1), (true, "PartlyHonoured"));
    let elsewhere = [("a", json!({"namespaces": ["research"], "waivers": {}}))];
    assert_eq!(said(&world(&elsewhere, &w)).1, "NotHonoured");
    let over = [("w", json!({"expiresAt": "2026-01-05T09:00:00Z"}))];
    assert_eq!(said(&world(&[("a", honours)], &over)), (false, "Expired", "it expired at 2026-01-05T09:00:00Z".to_owned()));
    let unguarded = World { guarded: [].into(), ..world(&[("a", json!({"waivers": {}}))], &w) };
    assert_eq!(said(&unguarded).1, "NamespaceNotGuarded");
}

#[test]
fn days_left_are_whole_and_never_less_than_none() {
    let of = |expires: &str| Waiver::of(&waiver(&json!({"expiresAt": expires}))).unwrap().days_left(NOW);
    assert_eq!(
        [of("2026-01-06T08:59:59Z"), of("2026-01-06T09:00:00Z"), of("2026-01-20T00:00:00Z"), of("2025-01-01T00:00:00Z")],
        [0, 1, 14, 0]
    );
}

#[test]
fn a_status_that_is_written_twice_is_the_same() {
    let mut world = world(&[("a", json!({"waivers": {}}))], &[("w", json!({}))]);
    let known = world.namespaces["finance"].waivers["w"].clone();
    let used = Use { count: 2, last: Some(NOW), ..Use::default() };
    let covers = Covers { count: 1, objects: vec!["Pod/web".to_owned()] };
    let once = status(&world, "finance", &known, Some((Some(used), covers.clone())), NOW);
    assert_eq!((once.uses, once.covers, once.days_left, once.objects.len()), (2, 1, Some(14), 1));
    let text = serde_json::to_string(&once).unwrap();
    let known = Waiver { status: serde_json::from_str(&text).unwrap(), ..known };
    world.namespaces.get_mut("finance").unwrap().waivers.insert("w".to_owned(), known.clone());
    let later = NOW + SignedDuration::from_secs(60);
    assert_eq!(status(&world, "finance", &known, Some((Some(used), covers)), later), once);
    // What is not known (yet) stays as it was written.
    assert_eq!(status(&world, "finance", &known, None, later), once);
}

fn owned(kind: &str, name: &str, hash: &str) -> String {
    let api = if ["Job", "CronJob"].contains(&kind) {
        "batch/v1"
    } else if kind == "ReplicationController" {
        "v1"
    } else {
        "apps/v1"
    };
    json!({"metadata": {"labels": {"pod-template-hash": hash}, "ownerReferences": [
        {"apiVersion": api, "kind": kind, "name": name, "uid": "u", "controller": true}]}})
    .to_string()
}

fn known_as(text: &str, word: Word<'_>) -> Vec<String> {
    let value: Value<'_> = serde_json::from_str(text).unwrap();
    let all = identities(Identity::new("", "Pod", "p"), &value, word);
    all.iter().map(|identity| format!("{}.{}/{}", identity.kind, identity.group, identity.name)).collect()
}

#[test]
fn a_pod_is_made_from_what_its_controller_says_and_nobody_else() {
    let maker = |name: &str| format!("system:serviceaccount:kube-system:{name}");
    for (kind, name, account, made_from) in [
        ("ReplicaSet", "web-7d9", "replicaset-controller", vec!["ReplicaSet.apps/web-7d9", "Deployment.apps/web"]),
        ("ReplicaSet", "web", "replicaset-controller", vec!["ReplicaSet.apps/web"]),
        ("StatefulSet", "db", "statefulset-controller", vec!["StatefulSet.apps/db"]),
        ("DaemonSet", "log", "daemon-set-controller", vec!["DaemonSet.apps/log"]),
        ("Job", "nightly-29461020", "job-controller", vec!["Job.batch/nightly-29461020", "CronJob.batch/nightly"]),
        ("Job", "nightly-x1", "job-controller", vec!["Job.batch/nightly-x1"]),
        ("Job", "once-", "job-controller", vec!["Job.batch/once-"]),
        ("ReplicationController", "old", "replication-controller", vec!["ReplicationController./old"]),
    ] {
        let pod = owned(kind, name, "7d9");
        let whole = [vec!["Pod./p"], made_from].concat();
        assert_eq!(known_as(&pod, Word::Of(&maker(account))), whole, "{kind}");
        assert_eq!(known_as(&pod, Word::Of("system:kube-controller-manager")), whole, "{kind}");
        assert_eq!(known_as(&pod, Word::Cluster), whole, "{kind}");
        let others =
            ["alice", &maker("endpoint-controller"), "system:serviceaccount:finance:replicaset-controller", "", "system:admin"];
        for other in others {
            assert_eq!(known_as(&pod, Word::Of(other)), ["Pod./p"], "{kind} on the word of {other}");
        }
        assert_eq!(known_as(&pod, Word::Nobody), ["Pod./p"], "{kind}");
    }
}

#[test]
fn an_owner_that_is_no_controller_or_of_another_group_makes_nothing() {
    let maker = Word::Of("system:serviceaccount:kube-system:replicaset-controller");
    let reference = |api: &str, controller: bool| {
        json!({"metadata": {"labels": {"pod-template-hash": ""}, "ownerReferences": [
            {"apiVersion": api, "kind": "ReplicaSet", "name": "web-", "uid": "u", "controller": controller}]}})
        .to_string()
    };
    assert_eq!(known_as(&reference("apps/v1", false), maker), ["Pod./p"]);
    assert_eq!(known_as(&reference("example.com/v1", true), maker), ["Pod./p"]);
    assert_eq!(known_as(&reference("apps/v1", true), maker), ["Pod./p", "ReplicaSet.apps/web-"], "an empty hash leads nowhere");
    for garbage in ["{}", "[]", "null", r#"{"metadata":{"ownerReferences":[null,1,{}]}}"#] {
        assert_eq!(known_as(garbage, maker), ["Pod./p"], "{garbage}");
    }
}

/// The pod that the property is about: it breaks three rules, and is made from `web`.
fn pod() -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-7d9-x", "namespace": "finance", "labels": {"pod-template-hash": "7d9"}, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d9", "uid": "u", "controller": true}]},
        "spec": {
            "containers": [{"name": "app", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "k"}}}], "envFrom": [{"secretRef": {"name": "b"}}]}],
            "volumes": [{"name": "v", "secret": {"secretName": "c"}}],
        },
    })
    .to_string()
}

fn findings(world: &World) -> Vec<Finding> {
    let text = pod();
    let object: Value<'_> = serde_json::from_str(&text).unwrap();
    let user =
        Requester { username: "system:serviceaccount:kube-system:replicaset-controller".to_owned(), ..Requester::default() };
    let review = Review {
        operation: Operation::Create,
        group: "",
        resource: "pods",
        subresource: "",
        namespace: "finance",
        name: "web-7d9-x",
        user: &user,
        object: &object,
        old: None,
    };
    admit(world, &review, NOW).findings
}

#[test]
fn a_container_that_is_added_later_is_not_made_by_the_controller() {
    let world =
        world(&[("a", json!({"waivers": {}}))], &[("w", json!({"rules": ["secret-env", "secret-env-from", "secret-volume"]}))]);
    let old = pod();
    let mut new: serde_json::Value = serde_json::from_str(&old).unwrap();
    new["spec"]["ephemeralContainers"] = json!([{"name": "debug", "envFrom": [{"secretRef": {"name": "b"}}]}]);
    let new = new.to_string();
    let (old, new): (Value<'_>, Value<'_>) = (serde_json::from_str(&old).unwrap(), serde_json::from_str(&new).unwrap());
    let user = Requester { username: "alice".to_owned(), ..Requester::default() };
    let review = Review {
        operation: Operation::Update,
        group: "",
        resource: "pods",
        subresource: "ephemeralcontainers",
        namespace: "finance",
        name: "web-7d9-x",
        user: &user,
        object: &new,
        old: Some(&old),
    };
    let found: Vec<(&str, Severity)> =
        admit(&world, &review, NOW).findings.iter().map(|found| (found.rule, found.severity)).collect();
    assert_eq!(found, [("secret-env-from", Severity::Deny)]);
}

fn a_waiver() -> impl Strategy<Value = serde_json::Value> {
    let rules = proptest::sample::subsequence(vec!["secret-env", "secret-env-from", "secret-volume", "automounted-token"], 1..=3);
    let objects = proptest::sample::subsequence(
        vec![
            ("Deployment", "web"),
            ("Deployment", "other"),
            ("ReplicaSet", "web-7d9"),
            ("Pod", "web-7d9-x"),
            ("Pod", "web"),
            ("StatefulSet", "web"),
        ],
        1..=3,
    );
    let expires = proptest::sample::select(vec![
        "2026-01-05T09:00:00Z",
        "2026-01-05T09:00:01Z",
        "2026-01-20T00:00:00Z",
        "2026-12-31T00:00:00Z",
    ]);
    (rules, objects, expires).prop_map(|(rules, objects, expires)| {
        let objects: Vec<_> = objects.iter().map(|(kind, name)| json!({"kind": kind, "name": name})).collect();
        json!({"rules": rules, "objects": objects, "expiresAt": expires})
    })
}

fn a_policy() -> impl Strategy<Value = serde_json::Value> {
    let honoured = prop_oneof![
        Just(json!(null)),
        Just(json!({})),
        Just(json!({"rules": ["secret-env"], "maxLife": "8784h"})),
        Just(json!({"rules": ["secret-env-from", "secret-volume"], "maxLife": "96h"})),
    ];
    let profile = proptest::sample::select(vec!["baseline", "restricted"]);
    (honoured, profile, any::<bool>()).prop_map(|(waivers, profile, has_workloads)| {
        let mut policy = json!({"workloads": {"profile": profile}});
        if !waivers.is_null() {
            policy["waivers"] = waivers;
        }
        if !has_workloads {
            policy["workloads"] = json!(null);
        }
        policy
    })
}

const NAMES: [&str; 5] = ["v", "w", "x", "y", "z"];

fn named<T: Clone>(all: &[T]) -> Vec<(&'static str, T)> {
    NAMES.into_iter().zip(all.iter().cloned()).collect()
}

/// A finding without what waivers do to it.
fn place(finding: &Finding) -> (&'static str, &str, &str) {
    (finding.rule, &finding.path, &finding.message)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    /// Each finding weighs, among many waivers, just what it weighs under the best single one.
    #[test]
    fn weaker_waivers_never_combine_into_more(
        waivers in proptest::collection::vec(a_waiver(), 0..=5),
        policies in proptest::collection::vec(a_policy(), 0..=3),
    ) {
        let policies = named(&policies);
        let waivers = named(&waivers);
        let bare = findings(&world(&policies, &[]));
        let together = findings(&world(&policies, &waivers));
        let alone: Vec<Vec<Finding>> = waivers.iter().map(|waiver| findings(&world(&policies, std::slice::from_ref(waiver)))).collect();
        prop_assert_eq!(bare.len(), together.len(), "a waiver hides nothing");
        for found in &bare {
            let same = |all: &[Finding]| all.iter().find(|other| place(other) == place(found)).map(|other| other.severity);
            let best = alone.iter().filter_map(|all| same(all)).chain([found.severity]).min();
            prop_assert_eq!(same(&together), best, "{:?} under {:?}", found, waivers);
        }
        for found in &together {
            if let Some(waived) = &found.waiver {
                let name = waived.waiver.strip_prefix("finance/").unwrap();
                let only = findings(&world(&policies, &waivers.iter().filter(|(other, _)| *other == name).cloned().collect::<Vec<_>>()));
                prop_assert!(only.iter().any(|other| place(other) == place(found) && other.severity != Severity::Deny), "{} does it alone", waived);
            }
        }
    }
}

#[test]
fn every_rule_that_a_waiver_can_name_is_one_that_policies_can_set() {
    for name in RULE_NAMES {
        let rule = crate::decide::rule::find(name).unwrap();
        assert!(rule.level != crate::decide::rule::Level::Always, "{name}");
    }
}
