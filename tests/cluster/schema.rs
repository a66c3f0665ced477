//! What does the schema refuse, with which words, and what does it fill in? Tables against the
//! API server's own validation: an object, a change to it, and what is said to that.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::ListParams;
use mandate::api::{AgentTask, Phase, names};
use serde_json::{Value, json};

use crate::place::{ARCHIVE, Outcome, Place, Reply, SECRET, condition, merge, rule, send, shared, status, until};

const VERSION: &str = "mandate.dev/v1alpha1";

/// Kind, plural, short name, and the least that a spec may hold.
fn kinds() -> [(&'static str, &'static str, &'static str, Value); 6] {
    let owner = json!({"team": "team", "contact": "team@example.com"});
    [
        ("AgentIdentity", "agentidentities", "agent", json!({"owner": owner, "purpose": "Is tested"})),
        ("TaskScope", "taskscopes", "scope", json!({"intent": "Is tested"})),
        ("AgentTask", "agenttasks", "atask", json!({"agent": "bot", "scope": "read", "objective": "Is tested"})),
        ("AgentPolicy", "agentpolicies", "apol", json!({"owner": owner})),
        ("ClusterAgentPolicy", "clusteragentpolicies", "capol", json!({"owner": owner})),
        (
            "PolicyWaiver",
            "policywaivers",
            "pwaiver",
            json!({
                "owner": owner, "reason": "Is tested", "expiresAt": "2999-01-01T00:00:00Z",
                "rules": ["secret-env"], "objects": [{"kind": "Deployment", "name": "web"}],
            }),
        ),
    ]
}

fn least(kind: &str) -> (&'static str, Value) {
    let found = kinds().into_iter().find(|(name, ..)| *name == kind);
    found.map(|(_, plural, _, spec)| (plural, spec)).expect("one of the kinds")
}

fn path(place: &Place<'_>, kind: &str) -> String {
    let (plural, _) = least(kind);
    if kind == "ClusterAgentPolicy" { format!("/apis/{VERSION}/{plural}") } else { place.path(VERSION, plural) }
}

fn object(kind: &str, name: &str, change: Value) -> Value {
    let (_, spec) = least(kind);
    let mut object = json!({"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec});
    merge(&mut object["spec"], change);
    object
}

/// Creates an object as `kubectl` does, which refuses fields that nobody knows; without leaving
/// anything.
async fn tried(place: &Place<'_>, object: &Value) -> Result<Reply> {
    let path = path(place, object["kind"].as_str().context("a kind")?);
    send(&place.admin, "POST", &format!("{path}?fieldValidation=Strict&dryRun=All"), object).await
}

/// A list of this many.
fn many(number: usize, item: impl Fn(usize) -> Value) -> Value {
    (0..number).map(item).collect()
}

fn word(length: usize) -> String {
    "a".repeat(length)
}

/// What is wrong with the change to the least of a kind, and what is said to it.
async fn all_refused(kind: &str, table: Vec<(Value, &str)>) -> Result<()> {
    let place = Place::named(ARCHIVE).await?;
    let accepted = tried(&place, &object(kind, "least", json!({}))).await?;
    ensure!(accepted.code == 201, "the least of {kind}: {accepted:?}");
    let each = table.into_iter().map(|(change, words)| {
        let place = &place;
        async move {
            let said = tried(place, &object(kind, "bad", change.clone())).await?;
            let change = change.to_string();
            let change = &change[..change.len().min(300)];
            ensure!(matches!(said.code, 400 | 403 | 422), "{kind} with {change}: {}", said.code);
            ensure!(said.message().contains(words), "{kind} with {change}: wanted `{words}` in: {}", said.message());
            Ok(())
        }
    });
    try_join_all(each).await?;
    Ok(())
}

const NO_DURATION: &str = "not a duration: write whole units, largest first, such as `90s`, `15m` or `1h30m`";

/// Texts that are no durations, in the field `name` as `wrap` makes it.
fn no_durations(wrap: impl Fn(Value) -> Value) -> Vec<(Value, &'static str)> {
    let texts = ["15 minutes", "1d", "1.5h", "-5m", "15", "5m1h", "1h 30m", "10M", "PT15M", "99999h"];
    let mut all: Vec<_> = texts.into_iter().map(|text| (wrap(json!(text)), NO_DURATION)).collect();
    all.extend([(wrap(json!("")), "should be at least 2 chars long"), (wrap(json!(900)), "must be of type string")]);
    all
}

/// What every policy has in common.
fn guardrails() -> Vec<(Value, &'static str)> {
    let mut all = vec![
        (json!({"workload": {}}), "unknown field \"spec.workload\""),
        (json!({"owner": {"mail": "a"}}), "unknown field \"spec.owner.mail\""),
        (json!({"owner": null}), "spec.owner: Required value"),
        (json!({"owner": {"team": ""}}), "spec.owner.team in body should be at least 1 chars long"),
        (json!({"owner": {"contact": ""}}), "spec.owner.contact in body should be at least 1 chars long"),
        (json!({"owner": {"team": word(129)}}), "spec.owner.team: Too long"),
        (json!({"mode": "strict"}), "supported values: \"audit\", \"warn\", \"enforce\""),
        (json!({"workloads": {"profile": "open"}}), "supported values: \"baseline\", \"restricted\""),
        (json!({"workloads": {"maxTokenTTL": "9m59s"}}), "maxTokenTTL must lie between `10m`"),
        (json!({"workloads": {"maxTokenTTL": "24h1s"}}), "maxTokenTTL must lie between `10m`"),
        (json!({"controls": many(33, |_| json!("a"))}), "spec.controls: Too many: 33: must have at most 32 items"),
        (json!({"controls": [""]}), "spec.controls[0] in body should be at least 1 chars long"),
    ];
    all.extend(no_durations(|text| json!({"workloads": {"maxTokenTTL": text}})));
    all
}

#[tokio::test]
async fn an_agent_policy_is_refused_with_the_field_and_the_fix() -> Outcome {
    all_refused("AgentPolicy", guardrails()).await?;
    let namespaces = json!({"namespaces": ["finance"]});
    all_refused("AgentPolicy", vec![(namespaces, "unknown field \"spec.namespaces\"")]).await?;
    Ok(())
}

#[tokio::test]
async fn a_cluster_agent_policy_is_refused_with_the_field_and_the_fix() -> Outcome {
    let key = |change: Value| {
        let mut key = json!({"secretName": "crm-api", "keys": ["token"], "reason": "no other way"});
        merge(&mut key, change);
        json!({"allowSecretKeys": [key]})
    };
    let mut all = guardrails();
    all.extend([
        (json!({"namespaces": many(257, |n| json!(format!("n{n}")))}), "spec.namespaces: Too many: 257"),
        (json!({"namespaces": [""]}), "spec.namespaces[0] in body should be at least 1 chars long"),
        (json!({"namespaces": [word(64)]}), "spec.namespaces[0]: Too long"),
        (key(json!({"key": "token"})), "unknown field \"spec.allowSecretKeys[0].key\""),
        (key(json!({"secretName": ""})), "spec.allowSecretKeys[0].secretName in body should be at least 1 chars long"),
        (key(json!({"secretName": "../other/crm-api"})), "spec.allowSecretKeys[0].secretName in body should match"),
        (key(json!({"keys": []})), "spec.allowSecretKeys[0].keys in body should have at least 1 items"),
        (key(json!({"keys": many(33, |_| json!("a"))})), "spec.allowSecretKeys[0].keys: Too many: 33"),
        (key(json!({"reason": ""})), "spec.allowSecretKeys[0].reason in body should be at least 1 chars long"),
        (key(json!({"reason": null})), "spec.allowSecretKeys[0].reason: Required value"),
        (json!({"waivers": {"rules": ["dead-task"]}}), "spec.waivers.rules[0]: Unsupported value: \"dead-task\""),
        (json!({"waivers": {"rules": many(65, |_| json!("secret-env"))}}), "spec.waivers.rules: Too many: 65"),
        (json!({"waivers": {"maxLife": "59s"}}), "maxLife must be `1m` at least"),
        (json!({"waivers": {"maxLife": "30d"}}), NO_DURATION),
        (json!({"waivers": {"namespaces": ["finance"]}}), "unknown field \"spec.waivers.namespaces\""),
        (
            json!({"allowSecretKeys": many(65, |n| json!({"secretName": format!("s{n}"), "keys": ["a"], "reason": "a"}))}),
            "spec.allowSecretKeys: Too many: 65",
        ),
    ]);
    all_refused("ClusterAgentPolicy", all).await?;
    Ok(())
}

#[tokio::test]
async fn a_waiver_is_refused_with_the_field_and_the_fix() -> Outcome {
    let about = |change: Value| {
        let mut about = json!({"kind": "Deployment", "name": "web"});
        merge(&mut about, change);
        json!({"objects": [about]})
    };
    let all = vec![
        (json!({"rule": "secret-env"}), "unknown field \"spec.rule\""),
        (json!({"owner": null}), "spec.owner: Required value"),
        (json!({"reason": ""}), "spec.reason in body should be at least 1 chars long"),
        (json!({"reason": word(1025)}), "spec.reason: Too long"),
        (json!({"expiresAt": null}), "spec.expiresAt: Required value"),
        (json!({"expiresAt": "in March"}), "spec.expiresAt in body must be of type date-time"),
        (json!({"expiresAt": "2020-01-01T00:00:00Z"}), "the waiver would be over before it begins"),
        (json!({"rules": []}), "spec.rules in body should have at least 1 items"),
        (json!({"rules": ["*"]}), "spec.rules[0]: Unsupported value: \"*\""),
        (json!({"rules": ["other-tasks-credentials"]}), "spec.rules[0]: Unsupported value: \"other-tasks-credentials\""),
        (json!({"rules": many(17, |_| json!("secret-env"))}), "spec.rules: Too many: 17: must have at most 16 items"),
        (json!({"objects": []}), "spec.objects in body should have at least 1 items"),
        (json!({"objects": many(33, |n| json!({"kind": "Pod", "name": format!("p{n}")}))}), "spec.objects: Too many: 33"),
        (about(json!({"name": "web-*"})), "spec.objects[0].name in body should match"),
        (about(json!({"name": ""})), "spec.objects[0].name in body should be at least 1 chars long"),
        (about(json!({"kind": "*"})), "spec.objects[0].kind in body should match"),
        (about(json!({"kind": "Rollout"})), "give the `apiVersion` as well"),
        (about(json!({"apiVersion": "apps/*"})), "spec.objects[0].apiVersion in body should match"),
        (about(json!({"namespace": "sales"})), "unknown field \"spec.objects[0].namespace\""),
    ];
    all_refused("PolicyWaiver", all).await?;
    Ok(())
}

#[tokio::test]
async fn a_waiver_only_ever_ends_earlier() -> Outcome {
    let place = Place::fresh().await?;
    let waiver = object("PolicyWaiver", "fixed", json!({"expiresAt": "2999-01-01T00:00:00Z"}));
    assert_eq!(send(&place.admin, "POST", &path(&place, "PolicyWaiver"), &waiver).await?.code, 201);
    let change = async |spec: Value| {
        let path = format!("{}/fixed", path(&place, "PolicyWaiver"));
        send(&place.admin, "PATCH", &path, &json!({"spec": spec})).await
    };
    let fixed = "a waiver does not change once it exists";
    for (spec, words) in [
        (json!({"expiresAt": "2999-01-01T00:00:01Z"}), "expiresAt may be brought forward, never back"),
        (json!({"rules": ["secret-env", "csi-secret"]}), fixed),
        (json!({"objects": [{"kind": "Deployment", "name": "other"}]}), fixed),
        (json!({"objects": [{"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}]}), fixed),
        (json!({"reason": "another"}), fixed),
        (json!({"owner": {"team": "another"}}), fixed),
    ] {
        let said = change(spec.clone()).await?;
        assert_eq!(said.code, 422, "{spec}: {}", said.message());
        assert!(said.message().contains(words), "{spec}: {}", said.message());
    }
    assert_eq!(change(json!({"expiresAt": "2998-01-01T00:00:00Z"})).await?.code, 200);
    assert_eq!(change(json!({"expiresAt": "2020-01-01T00:00:00Z"})).await?.code, 200, "it ends now");
    assert_eq!(change(json!({"expiresAt": "2998-01-01T00:00:00Z"})).await?.code, 422, "what is over stays over");
    Ok(())
}

#[tokio::test]
async fn an_agent_identity_is_refused_with_the_field_and_the_fix() -> Outcome {
    let mut all = vec![
        (json!({"suspended": true}), "unknown field \"spec.suspended\""),
        (json!({"actsFor": {"user": "alice"}}), "unknown field \"spec.actsFor.user\""),
        (json!({"owner": null}), "spec.owner: Required value"),
        (json!({"owner": {"contact": ""}}), "spec.owner.contact in body should be at least 1 chars long"),
        (json!({"purpose": ""}), "spec.purpose in body should be at least 1 chars long"),
        (json!({"purpose": null}), "spec.purpose: Required value"),
        (json!({"purpose": word(513)}), "spec.purpose: Too long"),
        (json!({"suspend": "yes"}), "spec.suspend in body must be of type boolean"),
        (json!({"maxTTL": "59s"}), "maxTTL must lie between `1m` and `24h`"),
        (json!({"maxTTL": "24h1s"}), "maxTTL must lie between `1m` and `24h`"),
        (json!({"audiences": many(33, |n| json!(format!("https://{n}")))}), "spec.audiences: Too many: 33"),
        (json!({"audiences": [""]}), "spec.audiences[0] in body should be at least 1 chars long"),
        (json!({"audiences": [word(257)]}), "spec.audiences[0]: Too long"),
        (json!({"actsFor": {"users": many(65, |_| json!("a"))}}), "spec.actsFor.users: Too many: 65"),
        (json!({"actsFor": {"groups": [""]}}), "spec.actsFor.groups[0] in body should be at least 1 chars long"),
    ];
    all.extend(no_durations(|text| json!({"maxTTL": text})));
    all_refused("AgentIdentity", all).await?;
    all_misnamed("AgentIdentity", &[(&word(50), "49 characters at most"), ("a.b", "lower-case letters, digits and `-` only")])
        .await?;
    Ok(())
}

/// Names that a kind cannot have; one character less and it can.
async fn all_misnamed(kind: &str, table: &[(&str, &str)]) -> Result<()> {
    let place = Place::named(ARCHIVE).await?;
    for (name, words) in table {
        let said = tried(&place, &object(kind, name, json!({}))).await?;
        ensure!(said.code == 422 && said.message().contains(words), "{kind} {name}: {said:?}");
        let shorter = tried(&place, &object(kind, &name[1..].replace('.', ""), json!({}))).await?;
        ensure!(shorter.code == 201, "{kind} {name}, without its first character: {shorter:?}");
    }
    Ok(())
}

fn rules(change: Value) -> Value {
    let mut rule = rule("get", "configmaps", &[]);
    merge(&mut rule, change);
    json!({"kubernetes": {"rules": [rule]}})
}

/// What no rule on the Kubernetes API may say, in a scope and in a narrowing.
fn wrong_rules(wrap: impl Fn(Value) -> Value) -> Vec<(Value, &'static str)> {
    let names = |verb: &str| json!({"verbs": [verb], "resourceNames": ["a"]});
    let never = "`escalate`, `bind` and `impersonate` are never granted to a task";
    let unnamed = "`create` and `deletecollection` cannot be held to resourceNames";
    let all = vec![
        (json!({"verb": ["get"]}), "rules[0].verb\""),
        (json!({"nonResourceURLs": ["/metrics"]}), "rules[0].nonResourceURLs\""),
        (json!({"verbs": ["*"]}), "rules[0].verbs[0] in body should match"),
        (json!({"resources": ["*"]}), "rules[0].resources[0] in body should match"),
        (json!({"resources": ["pods/*"]}), "rules[0].resources[0] in body should match"),
        (json!({"resources": ["*/scale"]}), "rules[0].resources[0] in body should match"),
        (json!({"apiGroups": ["*"]}), "rules[0].apiGroups[0] in body should match"),
        (json!({"apiGroups": ["apps/v1"]}), "rules[0].apiGroups[0] in body should match"),
        (json!({"verbs": ["Get"]}), "rules[0].verbs[0] in body should match"),
        (json!({"resources": ["ConfigMap"]}), "rules[0].resources[0] in body should match"),
        (json!({"verbs": ["get", "escalate"]}), never),
        (json!({"verbs": ["bind"]}), never),
        (json!({"verbs": ["impersonate"]}), never),
        (names("create"), unnamed),
        (names("deletecollection"), unnamed),
        (json!({"verbs": []}), "rules[0].verbs in body should have at least 1 items"),
        (json!({"resources": []}), "rules[0].resources in body should have at least 1 items"),
        (json!({"apiGroups": []}), "rules[0].apiGroups in body should have at least 1 items"),
        (json!({"apiGroups": null}), "rules[0].apiGroups: Required value"),
        (json!({"resources": [""]}), "rules[0].resources[0] in body should"),
        (json!({"resourceNames": [""]}), "rules[0].resourceNames[0] in body should be at least 1 chars long"),
        (json!({"verbs": many(13, |_| json!("get"))}), "rules[0].verbs: Too many: 13"),
        (json!({"resources": many(17, |_| json!("pods"))}), "rules[0].resources: Too many: 17"),
        (json!({"apiGroups": many(9, |_| json!("apps"))}), "rules[0].apiGroups: Too many: 9"),
        (json!({"resourceNames": many(33, |_| json!("a"))}), "rules[0].resourceNames: Too many: 33"),
        (json!({"resourceNames": [word(254)]}), "rules[0].resourceNames[0]: Too long"),
    ];
    let each = all.into_iter().map(|(change, words)| {
        let mut rule = rule("get", "configmaps", &[]);
        merge(&mut rule, change);
        (wrap(json!([rule])), words)
    });
    each.chain([(wrap(many(17, |_| rule("get", "configmaps", &[]))), "rules: Too many: 17")]).collect()
}

#[tokio::test]
async fn a_task_scope_is_refused_with_the_field_and_the_fix() -> Outcome {
    let credential = |change: Value| {
        let mut credential = json!({"name": "ledger"});
        merge(&mut credential, change);
        json!({"credentials": [credential]})
    };
    let token = |change: Value| credential(json!({"serviceAccountToken": change}));
    let key = |secret: &str, key: &str| credential(json!({"secretKey": {"secretName": secret, "key": key}}));
    let audience = json!({"audience": "https://ledger"});
    let exactly_one = "give exactly one of `serviceAccountToken` (the normal way) and `secretKey` (an accepted risk)";
    let kubernetes = "`kubernetes` names the token for the API server: give it no audience, or choose another name";
    let mut all = vec![
        (json!({"rules": []}), "unknown field \"spec.rules\""),
        (json!({"kubernetes": {"rule": []}}), "unknown field \"spec.kubernetes.rule\""),
        (json!({"intent": ""}), "spec.intent in body should be at least 1 chars long"),
        (json!({"intent": null}), "spec.intent: Required value"),
        (json!({"intent": word(513)}), "spec.intent: Too long"),
        (json!({"maxTTL": "0s"}), "maxTTL must lie between `1s` and `24h`"),
        (json!({"maxTTL": "1440m1s"}), "maxTTL must lie between `1s` and `24h`"),
        (json!({"keepPods": "no"}), "spec.keepPods in body must be of type boolean"),
        (credential(json!({})), exactly_one),
        (credential(json!({"serviceAccountToken": audience, "secretKey": {"secretName": "a", "key": "b"}})), exactly_one),
        (credential(json!({"token": {}})), "unknown field \"spec.credentials[0].token\""),
        (credential(json!({"name": "kubernetes", "serviceAccountToken": audience})), kubernetes),
        (credential(json!({"name": "kubernetes", "secretKey": {"secretName": "a", "key": "b"}})), kubernetes),
        (credential(json!({"name": "Ledger", "serviceAccountToken": audience})), "spec.credentials[0].name in body should match"),
        (
            credential(json!({"name": "../token", "serviceAccountToken": audience})),
            "spec.credentials[0].name in body should match",
        ),
        (credential(json!({"name": "", "serviceAccountToken": audience})), "spec.credentials[0].name in body should"),
        (
            json!({"credentials": many(2, |_| json!({"name": "a", "serviceAccountToken": audience}))}),
            "spec.credentials[1]: Duplicate value",
        ),
        (
            json!({"credentials": many(17, |n| json!({"name": format!("a{n}"), "serviceAccountToken": audience}))}),
            "spec.credentials: Too many: 17",
        ),
        (token(json!({"audience": ""})), "serviceAccountToken.audience in body should be at least 1 chars long"),
        (token(json!({"audience": word(257)})), "serviceAccountToken.audience: Too long"),
        (token(json!({"ttl": "9m59s"})), "ttl must lie between `10m` (the API server issues nothing shorter) and `1h`"),
        (token(json!({"ttl": "3601s"})), "ttl must lie between `10m`"),
        (token(json!({"subject": "identity"})), "a token in the identity's name needs an `audience`"),
        (token(json!({"subject": "person"})), "supported values: \"task\", \"identity\""),
        (key("", "token"), "secretKey.secretName in body should be at least 1 chars long"),
        (key("../other/secrets/crm", "token"), "secretKey.secretName in body should match"),
        (key("crm?watch=true", "token"), "secretKey.secretName in body should match"),
        (key("crm", ""), "secretKey.key in body should"),
        (key("crm", "a/b"), "secretKey.key in body should match"),
        (key(&word(254), "token"), "secretKey.secretName: Too long"),
        // More than the schema can count: the webhook says it.
        (
            rules(
                json!({"resources": ["pods", "configmaps"], "verbs": ["get", "list", "watch", "patch", "update"], "resourceNames": many(32, |n| json!(format!("a{n}")))}),
            ),
            "[scope-refused] spec.kubernetes.rules: spec.kubernetes.rules: the rules spell out more than 256 single permissions",
        ),
    ];
    all.extend(wrong_rules(|rules| json!({"kubernetes": {"rules": rules}})));
    all.extend(no_durations(|text| json!({"maxTTL": text})));
    let delegates = |change: Value| {
        let mut delegation = json!({"to": ["writer"]});
        merge(&mut delegation, change);
        json!({"delegation": delegation})
    };
    all.extend([
        (delegates(json!({"to": null})), "spec.delegation.to: Required value"),
        (delegates(json!({"to": []})), "spec.delegation.to in body should have at least 1 items"),
        (delegates(json!({"to": [""]})), "spec.delegation.to[0] in body should be at least 1 chars long"),
        (delegates(json!({"to": many(17, |n| json!(format!("a{n}")))})), "spec.delegation.to: Too many: 17"),
        (delegates(json!({"maxDepth": 0})), "spec.delegation.maxDepth in body should be greater than or equal to 1"),
        (delegates(json!({"maxDepth": 9})), "spec.delegation.maxDepth in body should be less than or equal to 8"),
        (delegates(json!({"maxChildren": 0})), "spec.delegation.maxChildren in body should be greater than or equal to 1"),
        (delegates(json!({"maxChildren": 65})), "spec.delegation.maxChildren in body should be less than or equal to 64"),
        (delegates(json!({"depth": 2})), "unknown field \"spec.delegation.depth\""),
    ]);
    all.extend(no_durations(|text| token(json!({"ttl": text}))));
    all_refused("TaskScope", all).await?;
    all_misnamed("TaskScope", &[(&word(64), "63 characters at most")]).await?;
    Ok(())
}

#[tokio::test]
async fn a_megabyte_of_rules_is_refused() -> Outcome {
    let place = Place::named(ARCHIVE).await?;
    let name = |n: usize| json!(format!("{n:0>250}"));
    // Many rules; and as few as there may be, each as large as it may be.
    for rules in [
        many(9000, |_| rule("get", "configmaps", &["ledger"])),
        many(
            16,
            |n| json!({"apiGroups": [""], "resources": many(16, |r| name(r * n)), "resourceNames": many(32, name), "verbs": ["get"]}),
        ),
        many(140, |_| json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": many(32, name), "verbs": ["get"]})),
    ] {
        let scope = object("TaskScope", "large", json!({"kubernetes": {"rules": rules}}));
        let said = tried(&place, &scope).await?;
        assert!(matches!(said.code, 403 | 422), "{}: {}", scope.to_string().len(), said.code);
        assert!(
            said.message().contains("Too many") || said.message().contains("more than 256 single permissions"),
            "{}",
            said.message()
        );
        assert!(said.message().len() < 100_000, "the refusal is as large as what it refuses: {}", said.message().len());
    }
    let huge = object("TaskScope", "huge", json!({"intent": word(4 * 1024 * 1024)}));
    assert_eq!(tried(&place, &huge).await?.code, 413);
    Ok(())
}

#[tokio::test]
async fn an_agent_task_is_refused_with_the_field_and_the_fix() -> Outcome {
    let mut all = vec![
        (json!({"ttll": "5m"}), "unknown field \"spec.ttll\""),
        (json!({"onBehalfOf": {"user": "a", "group": "b"}}), "unknown field \"spec.onBehalfOf.group\""),
        (json!({"end": {"reason": "Failed", "because": "x"}}), "unknown field \"spec.end.because\""),
        (json!({"agent": null}), "spec.agent: Required value"),
        (json!({"agent": ""}), "spec.agent in body should"),
        (json!({"agent": word(64)}), "spec.agent: Too long"),
        (json!({"agent": "other/bot"}), "spec.agent in body should match"),
        (json!({"scope": null}), "spec.scope: Required value"),
        (json!({"scope": ""}), "spec.scope in body should"),
        (json!({"scope": "Read"}), "spec.scope in body should match"),
        (json!({"parent": ""}), "spec.parent in body should be at least 1 chars long"),
        (json!({"parent": "other/task"}), "spec.parent in body should match"),
        (json!({"parent": word(64)}), "spec.parent: Too long"),
        (json!({"parent": "bad"}), "a task cannot be its own parent"),
        (json!({"objective": null}), "spec.objective: Required value"),
        (json!({"objective": ""}), "spec.objective in body should be at least 1 chars long"),
        (json!({"objective": word(1025)}), "spec.objective: Too long"),
        (json!({"onBehalfOf": {}}), "spec.onBehalfOf.user: Required value"),
        (json!({"onBehalfOf": {"user": ""}}), "spec.onBehalfOf.user in body should be at least 1 chars long"),
        (json!({"ttl": "0s"}), "ttl must lie between `1s` and `24h`"),
        (json!({"ttl": "24h1s"}), "ttl must lie between `1s` and `24h`"),
        (json!({"historyTTL": "720h1s"}), "historyTTL may be `720h` at most"),
        (json!({"narrow": {"rule": []}}), "unknown field \"spec.narrow.rule\""),
        (json!({"narrow": {"credentials": [""]}}), "spec.narrow.credentials[0] in body should be at least 1 chars long"),
        (json!({"narrow": {"credentials": many(17, |_| json!("a"))}}), "spec.narrow.credentials: Too many: 17"),
        (json!({"end": {}}), "spec.end.reason: Required value"),
        (json!({"end": {"reason": "Done"}}), "supported values: \"Completed\", \"Failed\", \"Revoked\""),
        (json!({"end": {"reason": "Failed", "message": word(513)}}), "spec.end.message: Too long"),
    ];
    all.extend(wrong_rules(|rules| json!({"narrow": {"rules": rules}})));
    all.extend(no_durations(|text| json!({"ttl": text})));
    all.extend(no_durations(|text| json!({"historyTTL": text})));
    all_refused("AgentTask", all).await?;
    all_misnamed("AgentTask", &[(&word(64), "63 characters at most")]).await?;
    Ok(())
}

#[tokio::test]
async fn a_task_does_not_change_but_for_its_end_which_is_final() -> Outcome {
    let place = Place::fresh().await?;
    let narrow = json!({"rules": [rule("get", "configmaps", &["ledger"])]});
    let tasks = path(&place, "AgentTask");
    let bare = json!({"agent": "nobody", "scope": "nothing"});
    let mut full = bare.clone();
    merge(&mut full, json!({"onBehalfOf": {"user": "root"}, "narrow": narrow, "parent": "bare"}));
    for (name, spec) in [("bare", &bare), ("full", &full)] {
        assert_eq!(send(&place.admin, "POST", &tasks, &object("AgentTask", name, spec.clone())).await?.code, 201);
    }
    let change = async |name: &str, spec: &Value| {
        send(&place.admin, "PATCH", &format!("{tasks}/{name}?fieldValidation=Strict"), &json!({"spec": spec})).await
    };
    for spec in [
        json!({"agent": "another"}),
        json!({"scope": "another"}),
        json!({"objective": "Another"}),
        json!({"ttl": "14m"}),
        // As long as before, in other words.
        json!({"ttl": "900s"}),
        json!({"ttl": null, "historyTTL": "1h"}),
        json!({"historyTTL": "23h"}),
        json!({"requestedBy": {"username": "somebody"}}),
        json!({"parent": "another"}),
    ] {
        for name in ["bare", "full"] {
            let said = change(name, &spec).await?;
            assert!(
                said.code == 422 && said.message().contains("a task does not change once it exists"),
                "{name} {spec}: {said:?}"
            );
        }
    }
    for (name, spec) in [
        ("bare", json!({"onBehalfOf": {"user": "alice"}})),
        ("bare", json!({"narrow": {}})),
        ("bare", json!({"narrow": narrow})),
        ("full", json!({"onBehalfOf": {"user": "alice"}})),
        ("full", json!({"onBehalfOf": null})),
        ("full", json!({"narrow": null})),
        ("full", json!({"parent": null})),
        ("full", json!({"narrow": {"rules": null}})),
        ("full", json!({"narrow": {"rules": [rule("get", "configmaps", &[])]}})),
        ("full", json!({"narrow": {"credentials": ["kubernetes"]}})),
        ("bare", json!({"agent": "another", "end": {"reason": "Completed"}})),
    ] {
        let said = change(name, &spec).await?;
        assert!(said.code == 422 && said.message().contains("a task does not change once it exists"), "{name} {spec}: {said:?}");
    }
    let said = send(&place.admin, "PATCH", &format!("{tasks}/bare"), &json!({"spec": null})).await?;
    assert!(said.code == 422 && said.message().contains("spec: Required value"), "{said:?}");

    // Metadata is its author's, and the end comes once.
    let label = send(&place.admin, "PATCH", &format!("{tasks}/bare"), &json!({"metadata": {"labels": {"a": "b"}}})).await?;
    assert_eq!(label.code, 200, "{label:?}");
    assert_eq!(change("bare", &json!({"end": {"reason": "Failed", "message": "first"}})).await?.code, 200);
    for end in [json!({"reason": "Completed"}), json!({"message": "second"}), json!({"message": null}), Value::Null] {
        let said = change("bare", &json!({"end": end})).await?;
        assert!(said.code == 422 && said.message().contains("`end` is final"), "{end}: {said:?}");
    }
    assert_eq!(change("bare", &json!({"end": {"reason": "Failed", "message": "first"}})).await?.code, 200, "what is so already");
    let task = place.in_phase("bare", Phase::Ended).await?;
    assert_eq!(status(&task).reason.as_deref(), Some("Failed"));
    Ok(())
}

#[tokio::test]
async fn what_is_left_out_is_filled_in_and_shown() -> Outcome {
    let place = Place::named(ARCHIVE).await?;
    let token = json!({"credentials": [{"name": "a", "serviceAccountToken": {"audience": "b"}}]});
    for (kind, written, filled) in [
        ("AgentIdentity", json!({}), json!({"maxTTL": "1h", "suspend": false})),
        ("TaskScope", json!({}), json!({"maxTTL": "15m"})),
        (
            "TaskScope",
            json!({"delegation": {"to": ["a"]}}),
            json!({"maxTTL": "15m", "delegation": {"to": ["a"], "maxDepth": 1, "maxChildren": 16}}),
        ),
        (
            "TaskScope",
            token,
            json!({"maxTTL": "15m", "credentials": [{"name": "a", "serviceAccountToken": {"audience": "b", "ttl": "10m"}}]}),
        ),
        ("AgentTask", json!({}), json!({"ttl": "15m", "historyTTL": "24h"})),
        ("AgentPolicy", json!({}), json!({"mode": "enforce"})),
        (
            "AgentPolicy",
            json!({"workloads": {}}),
            json!({"mode": "enforce", "workloads": {"profile": "baseline", "maxTokenTTL": "1h"}}),
        ),
        (
            "ClusterAgentPolicy",
            json!({"workloads": {}}),
            json!({"mode": "enforce", "workloads": {"profile": "baseline", "maxTokenTTL": "1h"}}),
        ),
    ] {
        let wanted = object(kind, "least", filled);
        let mut made = tried(&place, &object(kind, "least", written)).await?.body;
        // Stamped, not filled in.
        made["spec"].as_object_mut().context("a spec")?.remove("requestedBy");
        // Only those defaults that do not change what was left out may be missing.
        for (field, value) in wanted["spec"].as_object().context("a spec")? {
            let mut seen = made["spec"][field].clone();
            merge(&mut seen, value.clone());
            assert_eq!(made["spec"][field], seen, "{kind} {field}");
        }
        // Applied again as it is, nothing moves: a GitOps tool sees no drift.
        let again =
            tried(&place, &json!({"apiVersion": VERSION, "kind": kind, "metadata": {"name": "least"}, "spec": made["spec"]}))
                .await?;
        let mut spec = again.body["spec"].clone();
        spec.as_object_mut().context("a spec")?.remove("requestedBy");
        assert_eq!(spec, made["spec"], "{kind}");
    }
    Ok(())
}

#[tokio::test]
async fn a_reference_to_nothing_is_said_to_the_author_and_on_the_object() -> Outcome {
    let place = Place::fresh().await?;
    let path = path(&place, "AgentTask");
    let waits = async |name: &str, reason: &str, words: &str| {
        let made = send(&place.admin, "POST", &path, &object("AgentTask", name, json!({}))).await?;
        ensure!(made.code == 201 && made.warnings.iter().any(|warning| warning.contains(words)), "{made:?}");
        let task = place.with_reason(name, reason).await?;
        let said = status(&task).conditions.into_iter().find(|condition| condition.type_ == "Ready").context("a condition")?;
        ensure!(said.status == "False" && said.reason == reason && said.message.contains(words), "{said:?}");
        ensure!(status(&task).phase == Some(Phase::Pending) && place.owned().await?.is_empty());
        Ok(())
    };
    waits("of-nobody", "AgentNotFound", "there is no AgentIdentity `bot`").await?;
    place.agent(json!({})).await?;
    place.with_reason("of-nobody", "ScopeNotFound").await?;
    until("the webhook to have heard of the agent", || async {
        waits("of-nothing", "ScopeNotFound", "there is no TaskScope `read`").await.ok()
    })
    .await?;
    place.scope_to_read("read").await?;
    place.active("of-nobody").await?;
    place.active("of-nothing").await?;
    Ok(())
}

#[tokio::test]
async fn a_task_waits_for_the_static_secret_that_it_copies() -> Outcome {
    let place = Place::named(ARCHIVE).await?;
    let policy = object(
        "ClusterAgentPolicy",
        ARCHIVE,
        json!({"namespaces": [ARCHIVE],
        "allowSecretKeys": [{"secretName": SECRET, "keys": ["token"], "reason": "no other way"}]}),
    );
    assert_eq!(send(&place.admin, "POST", &path(&place, "ClusterAgentPolicy"), &policy).await?.code, 201);
    place.agent(json!({})).await?;
    let copies = json!([{"name": "crm", "secretKey": {"secretName": SECRET, "key": "token"}}]);
    place.scope("crm", json!({"kubernetes": {"rules": [rule("get", "configmaps", &["ledger"])]}, "credentials": copies})).await?;
    until("the policy to be known to the webhook", || async { place.ask("task", "crm", json!({})).await.ok() }).await?;
    let said = async |words: &str| {
        place
            .task_when("task", words, |task| {
                status(task).conditions.iter().any(|c| c.type_ == "Ready" && c.message.contains(words))
            })
            .await
    };
    let task = said("there is no Secret `crm-api` in namespace `archive`").await?;
    assert_eq!(
        (status(&task).phase, condition(&task, "Ready").as_deref()),
        (Some(Phase::Pending), Some("False SecretKeyNotFound"))
    );
    place.nothing_left().await?;
    place.put("v1", "Secret", SECRET, json!({"stringData": {"another": "key"}})).await?;
    said("Secret `crm-api` in namespace `archive` has no key `token`").await?;
    place.put("v1", "Secret", SECRET, json!({"stringData": {"token": "s3cr3t"}})).await?;
    let task = place.active("task").await?;
    assert_eq!(place.credential(&task, "crm").await?, "s3cr3t");
    Ok(())
}

/// A table as `kubectl get` shows it: columns by their priority, and the cells of one row.
async fn table(place: &Place<'_>, path: &str, name: &str) -> Result<(Vec<(String, i64)>, Vec<Value>)> {
    use axum::http::Request;
    let request = Request::get(format!("{path}/{name}")).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let answer = place.admin.send(request.body(kube::client::Body::empty())?).await?;
    let body: Value = serde_json::from_slice(&answer.into_body().collect_bytes().await?)?;
    let columns = body["columnDefinitions"].as_array().with_context(|| format!("columns in {body}"))?;
    let columns = columns
        .iter()
        .map(|column| (column["name"].as_str().unwrap_or_default().to_owned(), column["priority"].as_i64().unwrap_or_default()));
    Ok((columns.collect(), body["rows"][0]["cells"].as_array().cloned().unwrap_or_default()))
}

#[tokio::test]
async fn a_person_sees_at_a_glance_how_an_object_stands() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({"suspend": false})).await?;
    place.scope_to_read("read").await?;
    place.start("task", "read", json!({})).await?;
    let seen = async |kind: &str, name: &str| {
        let (columns, cells) = table(&place, &path(&place, kind), name).await?;
        let (mut wide, mut all) = (vec![], vec![]);
        for ((column, priority), cell) in columns.into_iter().zip(cells) {
            if priority > 0 { wide.push(column) } else { all.push((column, cell)) }
        }
        // Ages and times are never the same twice.
        all.iter_mut()
            .filter(|(column, _)| column == "Age" || column == "Expires")
            .for_each(|(_, cell)| *cell = json!(cell.is_string()));
        Ok::<_, anyhow::Error>((json!(all.into_iter().collect::<std::collections::BTreeMap<_, _>>()), wide))
    };
    let (task, wide) = seen("AgentTask", "task").await?;
    assert_eq!(
        task,
        json!({"Name": "task", "Agent": "bot", "Scope": "read", "Phase": "Active", "Reason": "Issued", "Expires": true, "Age": true})
    );
    assert_eq!(wide, ["Requested By", "For", "Parent", "Objective"]);
    let (agent, wide) = seen("AgentIdentity", "bot").await?;
    assert_eq!(
        agent,
        json!({"Name": "bot", "Team": "team", "Suspended": false, "Ready": "True", "Reason": "Registered", "Age": true})
    );
    assert_eq!(wide, ["Purpose"]);
    let (scope, _) = seen("TaskScope", "read").await?;
    assert_eq!(scope, json!({"Name": "read", "Max TTL": "1h", "Intent": "Is tested", "Age": true}));
    for kind in ["AgentPolicy", "ClusterAgentPolicy"] {
        let made = object(kind, &format!("seen-{}", place.namespace), json!({"mode": "audit", "controls": ["A"]}));
        assert_eq!(send(&place.admin, "POST", &path(&place, kind), &made).await?.code, 201);
        let (policy, _) = seen(kind, &format!("seen-{}", place.namespace)).await?;
        assert_eq!((&policy["Mode"], &policy["Team"]), (&json!("audit"), &json!("team")), "{kind}");
    }
    Ok(())
}

#[tokio::test]
async fn every_kind_has_a_short_name_and_all_go_by_one_word() -> Outcome {
    let place = Place::named(ARCHIVE).await?;
    let served = send(&place.admin, "GET", &format!("/apis/{VERSION}"), &Value::Null).await?.body;
    let resources = served["resources"].as_array().context("resources")?;
    for (kind, plural, short, _) in kinds() {
        let found =
            resources.iter().find(|resource| resource["name"] == plural).with_context(|| format!("{kind} in {served}"))?;
        assert_eq!(
            (&found["kind"], &found["shortNames"], &found["categories"]),
            (&json!(kind), &json!([short]), &json!(["mandate"]))
        );
        assert_eq!(found["namespaced"], json!(kind != "ClusterAgentPolicy"));
    }
    // Kubernetes' own short names are not taken.
    let core = send(&place.admin, "GET", "/api/v1", &Value::Null).await?.body.to_string();
    for (_, _, short, _) in kinds() {
        assert!(!core.contains(&format!("\"{short}\"")), "{short}");
    }
    Ok(())
}

#[tokio::test]
async fn tasks_are_found_by_agent_scope_and_phase() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    place.start("runs", "read", json!({})).await?;
    place.ask("waits", "missing", json!({})).await?;
    place.ask("of-nobody", "read", json!({"agent": "nobody"})).await?;
    place.with_reason("waits", "ScopeNotFound").await?;
    place.with_reason("of-nobody", "AgentNotFound").await?;
    let tasks: Api<AgentTask> = place.api();
    for (selector, wanted) in [
        ("spec.agent=bot", ["runs", "waits"].as_slice()),
        ("spec.agent=nobody", &["of-nobody"]),
        ("spec.scope=read,spec.agent!=nobody", &["runs"]),
        ("status.phase=Active", &["runs"]),
        ("status.phase=Pending", &["of-nobody", "waits"]),
    ] {
        let found = tasks.list_metadata(&ListParams::default().fields(selector)).await?;
        let found: BTreeSet<&str> = found.iter().filter_map(|task| task.metadata.name.as_deref()).collect();
        assert_eq!(found, wanted.iter().copied().collect(), "{selector}");
    }
    Ok(())
}

/// What `kubectl explain` reads, from where it reads it.
#[tokio::test]
async fn every_field_explains_itself() -> Outcome {
    let place = Place::named(ARCHIVE).await?;
    let served = send(&place.admin, "GET", &format!("/openapi/v3/apis/{VERSION}"), &Value::Null).await?.body;
    for (kind, ..) in kinds() {
        let schema = &served["components"]["schemas"][format!("dev.mandate.v1alpha1.{kind}")];
        let mut poor = vec![];
        explained(kind, schema, &mut poor);
        assert!(schema["properties"]["spec"]["properties"].is_object(), "{kind} has no spec in {}", served["components"]);
        assert!(poor.is_empty(), "{poor:#?}");
    }
    // Units, limits and defaults are where somebody looks for them.
    let definitions: Api<CustomResourceDefinition> = Api::all(place.admin.clone());
    for definition in definitions.list(&ListParams::default()).await?.items.iter().filter(|crd| crd.spec.group == "mandate.dev") {
        let text = serde_json::to_value(&definition.spec.versions[0].schema)?;
        let mut bare = vec![];
        durations(&definition.spec.names.kind, &text["openAPIV3Schema"], &mut bare);
        assert!(bare.is_empty(), "lengths of time without their limits: {bare:#?}");
    }
    Ok(())
}

/// Fields whose text is missing, too short to be one, or broken in the middle of a sentence.
fn explained(at: &str, schema: &Value, poor: &mut Vec<String>) {
    let inner = schema["allOf"].as_array().into_iter().flatten().chain([schema]);
    for (name, property) in inner.flat_map(|schema| schema["properties"].as_object().into_iter().flatten()) {
        let path = format!("{at}.{name}");
        let (is_meta, text) = (
            at.matches('.').count() == 0 && name != "spec" && name != "status",
            property["description"].as_str().unwrap_or_default(),
        );
        if !is_meta {
            if text.split_whitespace().count() < 1
                || !text.trim_end().ends_with(['.', '`', ')'])
                || text.contains("\n") && !text.contains("\n\n") && !path.contains("conditions")
            {
                poor.push(format!("{path}: {text:?}"));
            }
            explained(&path, property, poor);
            explained(&format!("{path}[]"), &property["items"], poor);
        }
    }
}

/// Lengths of time whose text says neither a limit nor a default.
fn durations(at: &str, schema: &Value, bare: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{at}.{name}");
        let text = property["description"].as_str().unwrap_or_default();
        if name.to_lowercase().ends_with("ttl") && !(text.contains(" to `") && text.contains("Default `")) {
            bare.push(format!("{path}: {text}"));
        }
        durations(&path, property, bare);
        durations(&path, &property["items"], bare);
    }
}

/// Odd, but allowed: the controller and the webhook must live on, and every task must come to
/// where it should be.
#[tokio::test]
async fn what_the_schema_lets_pass_crashes_nothing() -> Outcome {
    let place = Place::fresh().await?;
    let mandate = shared().await?;
    let odd = "\u{2028}\u{202e}🦀\"\\'{{.}}$(x)`%s%n\u{feff}";
    // Not in YAML, by which the others are applied.
    let odder = format!("{odd}\u{1}\u{7f}\u{9b}\r\n\t");
    let longest = word(63);
    place
        .put_agent(
            &word(49),
            json!({"purpose": odd, "audiences": [odd, " ", "https://ledger"], "maxTTL": "0h1440m0s",
        "actsFor": {"users": [odd], "groups": [odd]}}),
        )
        .await?;
    place.agent_ready(&word(49)).await?;
    let audience = |audience: &str| json!([{"name": word(63), "serviceAccountToken": {"audience": audience, "ttl": "0h60m0s"}}]);
    let named = |names: &[&str]| json!({"rules": [rule("get", "configmaps", names)]});
    let scopes = [
        (
            longest.as_str(),
            json!({"intent": odd, "maxTTL": "24h", "kubernetes": named(&["ledger"]), "credentials": audience("https://ledger")}),
        ),
        ("dotted.name-1.x", json!({"kubernetes": named(&[odd, "a b", "../x", "%2e%2e"])})),
        ("audience", json!({"credentials": audience(odd)})),
        ("blank", json!({"credentials": audience(" ")})),
        ("nothing", json!({"kubernetes": {}, "credentials": []})),
        (
            "twice",
            json!({"kubernetes": {"rules": [rule("get", "configmaps", &["ledger"]), rule("get", "configmaps", &["ledger"])]}}),
        ),
        ("unserved", json!({"kubernetes": {"rules": [rule("get", "nothings.example.com", &[])]}})),
    ];
    let mut started = vec![];
    for (number, (name, scope)) in scopes.iter().enumerate() {
        let written = place.scope(name, scope.clone()).await;
        if *name == "unserved" {
            assert!(written.is_err(), "nobody but an administrator holds it, and the controller does not");
            continue;
        }
        written?;
        let task = if number == 0 { longest.clone() } else { format!("task-{number}.x") };
        let spec = json!({"agent": word(49), "scope": name, "objective": odder, "ttl": "0h10m0s", "historyTTL": "0h1m"});
        let made = send(&place.admin, "POST", &path(&place, "AgentTask"), &object("AgentTask", &task, spec)).await?;
        assert_eq!(made.code, 201, "{name}: {made:?}");
        started.push(task);
    }
    for task in &started {
        place.active(task).await?;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-", "labels": {names::TASK_LABEL: task}},
            "spec": {"containers": [{"name": "c", "image": odd.trim()}]}});
        let made = send(&place.admin, "POST", &place.path("v1", "pods"), &pod).await?;
        assert_eq!(made.code, 201, "{task}: {made:?}");
    }
    // What no schema has seen yet reaches the mutating webhook as it is.
    for spec in [
        json!("text"),
        json!([]),
        json!(1),
        Value::Null,
        json!({"requestedBy": []}),
        json!({"requestedBy": "root"}),
        json!({"end": 1}),
    ] {
        let task = json!({"apiVersion": VERSION, "kind": "AgentTask", "metadata": {"name": "odd"}, "spec": spec});
        let said = send(&place.admin, "POST", &path(&place, "AgentTask"), &task).await?;
        assert!(matches!(said.code, 400 | 422), "{spec}: {said:?}");
        let scope = json!({"apiVersion": VERSION, "kind": "TaskScope", "metadata": {"name": "odd"}, "spec": spec});
        let said = send(&place.admin, "POST", &path(&place, "TaskScope"), &scope).await?;
        assert!(matches!(said.code, 400 | 422), "{spec}: {said:?}");
    }
    for task in &started {
        let ended = send(
            &place.admin,
            "PATCH",
            &format!("{}/{task}", path(&place, "AgentTask")),
            &json!({"spec": {"end": {"reason": "Revoked", "message": odder}}}),
        )
        .await?;
        assert_eq!(ended.code, 200, "{task}: {ended:?}");
    }
    place.nothing_left().await?;
    for log in [mandate.controller.log(), mandate.webhook.log()] {
        assert!(!log.contains("panicked"), "{log}");
    }
    Ok(())
}
