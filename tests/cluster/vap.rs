//! Do the printed ValidatingAdmissionPolicies hold on a real API server, with no webhook there?

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingWebhookConfiguration,
};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt as _};
use mandate::decide::admit;
use mandate::decide::finding::{Finding, Severity};
use mandate::decide::world::{Loaded, World};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::admission::request::plain;
use crate::bed::Bed;
use crate::bed::mandate::{Mandate, apply, objects, printed};
use crate::place::{CEILING, Outcome, Reply, now, send, until};

/// A namespace where the built-in policy holds.
const BASELINE: &str = "vap-baseline";
/// One under the profile `restricted`.
const RESTRICTED: &str = "vap-restricted";
/// One with policies of its own.
const OWN: &str = "vap-own";
/// One that nothing guards.
const OPEN: &str = "vap-open";

/// What holds in [`OWN`]: the graver of the two speaks where both find the same.
const POLICIES: &str = "
apiVersion: mandate.dev/v1alpha1
kind: ClusterAgentPolicy
metadata: {name: agents}
spec:
  namespaces: [vap-own]
  owner: {team: platform, contact: '#platform'}
  workloads:
    maxTokenTTL: 30m
    rules:
    - {name: secret-env, action: warn}
    - {name: secret-env-from, action: audit}
    - {name: secret-volume, action: 'off'}
    - {name: csi-secret, action: audit}
---
apiVersion: mandate.dev/v1alpha1
kind: AgentPolicy
metadata: {name: team, namespace: vap-own}
spec:
  owner: {team: finance, contact: '#finance'}
  mode: warn
  workloads: {profile: restricted, rules: [{name: csi-secret, action: 'off'}]}
";

/// The bed of these tests: its policies would be in the way of others.
async fn bed() -> &'static Bed {
    static BED: OnceCell<Bed> = OnceCell::const_new();
    BED.get_or_try_init(start).await.unwrap()
}

async fn start() -> Result<Bed> {
    let bed = Bed::start("vap").await?;
    let admin = bed.admin();
    for namespace in [BASELINE, RESTRICTED, OWN, OPEN] {
        apply(&admin, &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}")).await?;
        apply(&admin, &format!("{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: default, namespace: {namespace}}}}}"))
            .await?;
    }
    // Here before the policies.
    let mut older = container(json!({"env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "crm", "key": "k"}}}]}));
    older["metadata"]["name"] = json!("older");
    let reply = send(&admin, "POST", &format!("/api/v1/namespaces/{BASELINE}/pods"), &older).await?;
    anyhow::ensure!(reply.code == 201, "{}", reply.body);
    let file = bed.dir().join("policies.yaml");
    std::fs::write(&file, POLICIES)?;
    let file = file.to_str().context("a path that is UTF-8")?;
    for args in [
        vec!["vap", "--guard", BASELINE, "--name-prefix", "baseline"],
        vec!["vap", "--guard", RESTRICTED, "--profile", "restricted", "--name-prefix", "restricted"],
        vec!["vap", "--guard", OWN, "--policy", file, "--name-prefix", "own"],
    ] {
        apply(&admin, &printed(&args)?).await?;
    }
    for namespace in [BASELINE, RESTRICTED, OWN] {
        in_force(&admin, namespace).await?;
    }
    Ok(bed)
}

/// The API server takes up a policy a moment after it is written.
async fn in_force(admin: &Client, namespace: &str) -> Result<()> {
    let sources = json!([{"serviceAccountToken": {"path": "token", "expirationSeconds": 86_400}}]);
    let pod = pod(json!({"volumes": [{"name": "v", "projected": {"sources": sources}}]}));
    until(&format!("the policies to hold in {namespace}"), || async {
        (create(admin, namespace, "v1", "pods", &pod).await.ok()?.code == 403).then_some(())
    })
    .await
}

/// A dry run of a creation.
async fn create(admin: &Client, namespace: &str, version: &str, resource: &str, object: &Value) -> Result<Reply> {
    let root = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    send(admin, "POST", &format!("{root}/namespaces/{namespace}/{resource}?dryRun=All"), object).await
}

/// A pod that the API server takes, with more in its spec.
fn pod(more: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent"},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "agent", "image": "agent:1"}]},
    });
    crate::place::merge(&mut pod["spec"], more);
    pod
}

fn container(more: Value) -> Value {
    let mut container = json!({"name": "agent", "image": "agent:1"});
    crate::place::merge(&mut container, more);
    pod(json!({"containers": [container]}))
}

/// The findings that a text of the policies tells.
pub fn told(text: &str) -> BTreeSet<String> {
    text.split(" | [").skip(1).map(|finding| format!("[{finding}")).collect()
}

/// The findings in warnings of the policies.
pub fn warned(reply: &Reply) -> BTreeSet<String> {
    let texts = reply.warnings.iter().filter(|warning| warning.contains("Validation failed for ValidatingAdmissionPolicy"));
    texts.flat_map(|text| told(&plain(text))).collect()
}

/// What the decision finds in an object that comes as it is.
fn found(world: &World, namespace: &str, group: &str, resource: &str, object: &Value) -> Vec<Finding> {
    let text = object.to_string();
    let value = serde_json::from_str(&text).unwrap();
    let user = mandate::api::Requester::default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let review = admit::Review {
        operation: admit::Operation::Create,
        group,
        resource,
        subresource: "",
        namespace,
        name,
        user: &user,
        object: &value,
        old: None,
    };
    admit::admit(world, &review, now()).findings
}

fn of(findings: &[Finding], severity: Severity) -> BTreeSet<String> {
    findings.iter().filter(|finding| finding.severity == severity).map(Finding::to_string).collect()
}

#[tokio::test]
async fn the_api_server_takes_every_policy_and_finds_nothing_wrong_in_its_types() -> Outcome {
    let bed = bed().await;
    let admin = bed.admin();
    // The checker looks at validations only, so the variables become some, in copies that are
    // bound to nothing.
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(admin.clone());
    let mut copies = vec![];
    for policy in policies.list(&ListParams::default().labels("app.kubernetes.io/name=mandate")).await?.items {
        let mut copy = serde_json::to_value(&policy)?;
        let name = format!("copy-{}", policy.name_any());
        copy["metadata"] = json!({"name": name, "labels": {"copied": "yes"}});
        copy.as_object_mut().context("an object")?.remove("status");
        let variables = copy["spec"]["variables"].as_array().cloned().unwrap_or_default();
        let expressions: Vec<&str> = variables.iter().filter_map(|variable| variable["expression"].as_str()).collect();
        // One expression has 100,000 characters at most.
        let checks =
            expressions.chunks(5).map(|some| some.iter().map(|one| format!("dyn({one})")).collect::<Vec<_>>().join(",\n"));
        copy["spec"]["validations"] = checks.map(|some| json!({"expression": format!("[{some}].size() > 0")})).collect();
        copies.push(copy);
    }
    assert!(copies.len() >= 9, "{} policies", copies.len());
    // What it would say of a field that is not there.
    let mut wrong = copies[0].clone();
    wrong["metadata"]["name"] = json!("copy-with-a-mistake");
    wrong["spec"]["variables"][0]["expression"] = json!("[object.nothing]");
    wrong["spec"]["validations"] = json!([{"expression": "[object.nothing].size() == 1"}]);
    copies.push(wrong);
    for copy in &copies {
        apply(&admin, &copy.to_string()).await?;
    }
    let copies = bed
        .wait("the copies to be type-checked", Duration::from_secs(180), || async {
            let all = policies.list(&ListParams::default().labels("copied=yes")).await.ok()?.items;
            all.iter().all(|policy| policy.status.as_ref().is_some_and(|status| status.type_checking.is_some())).then_some(all)
        })
        .await?;
    for policy in copies {
        let warnings = policy.status.as_ref().and_then(|status| status.type_checking.as_ref()?.expression_warnings.clone());
        let is_fine = warnings.as_ref().is_none_or(Vec::is_empty);
        assert_eq!(is_fine, policy.name_any() != "copy-with-a-mistake", "{}: {warnings:#?}", policy.name_any());
    }
    Ok(())
}

#[tokio::test]
async fn every_form_of_static_secret_is_refused_in_the_words_of_the_webhook() -> Outcome {
    let admin = bed().await.admin();
    let token = |seconds: u32| json!({"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": seconds}}]}}]});
    let world = World::default();
    for (pod, words) in [
        (
            container(
                json!({"env": [{"name": "A", "value": "b"}, {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "crm", "key": "k"}}}]}),
            ),
            "[secret-env] spec.containers[0].env[1].valueFrom.secretKeyRef: container `agent` takes an environment variable from Secret `crm`",
        ),
        (
            container(json!({"envFrom": [{"prefix": "A_", "secretRef": {"name": "crm"}}]})),
            "[secret-env-from] spec.containers[0].envFrom[0].secretRef: ",
        ),
        (
            pod(json!({"volumes": [{"name": "s", "secret": {"secretName": "crm"}}]})),
            "[secret-volume] spec.volumes[0].secret.secretName: volume `s` mounts Secret `crm`, which never expires; help: ",
        ),
        (
            pod(json!({"volumes": [{"name": "s", "projected": {"sources": [{"secret": {"name": "crm"}}]}}]})),
            "[secret-projection] spec.volumes[0].projected.sources[0].secret.name: ",
        ),
        (
            pod(json!({"volumes": [{"name": "s", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "crm"}}}]})),
            "[csi-secret] spec.volumes[0].csi.nodePublishSecretRef: ",
        ),
        (
            pod(token(7200)),
            "[long-lived-token] spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: volume `t` projects a token that lives 7200 s; the policy allows 3600 s; help: set `expirationSeconds: 3600` or less (built-in policy)",
        ),
        (pod(token(3607)), "[year-long-token] "),
    ] {
        let reply = create(&admin, BASELINE, "v1", "pods", &pod).await?;
        assert_eq!(reply.code, 403, "{}", reply.body);
        let said = reply.message();
        assert!(said.contains("ValidatingAdmissionPolicy 'baseline-pods-deny'") && said.contains(words), "{said}");
        assert_eq!(told(said), of(&found(&world, BASELINE, "", "pods", &pod), Severity::Deny), "{said}");
    }
    for pod in
        [pod(token(600)), container(json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]}))]
    {
        let reply = create(&admin, BASELINE, "v1", "pods", &pod).await?;
        assert_eq!((reply.code, warned(&reply)), (201, BTreeSet::new()), "{}", reply.body);
    }
    let reply = create(&admin, OPEN, "v1", "pods", &pod(token(7200))).await?;
    assert_eq!(reply.code, 201, "nothing holds in a namespace that is not guarded: {}", reply.body);
    Ok(())
}

/// The world in which [`POLICIES`] stand.
fn own_world() -> World {
    let mut world = World::default();
    let mut policies = objects(POLICIES).unwrap().into_iter().map(|object| serde_json::to_value(object).unwrap());
    let agents: mandate::api::ClusterAgentPolicy = serde_json::from_value(policies.next().unwrap()).unwrap();
    let team: mandate::api::AgentPolicy = serde_json::from_value(policies.next().unwrap()).unwrap();
    world.cluster_policies.insert("agents".into(), Loaded::Readable(agents.spec));
    world.namespaces.entry(OWN.into()).or_default().policies.insert("team".into(), Loaded::Readable(team.spec));
    world
}

fn restricted_world() -> World {
    let policy = json!({"owner": {"team": "t", "contact": "c"}, "workloads": {"profile": "restricted"}});
    let mut world = World::default();
    world.cluster_policies.insert("r".into(), Loaded::Readable(serde_json::from_value(policy).unwrap()));
    world
}

#[tokio::test]
async fn of_several_policies_the_gravest_speaks_and_what_is_only_recorded_is_recorded() -> Outcome {
    let bed = bed().await;
    let admin = bed.admin();
    let mut pod = container(json!({
        "name": "loud",
        "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "crm", "key": "k"}}}],
        "envFrom": [{"secretRef": {"name": "crm"}}],
    }));
    let tokens = json!([{"serviceAccountToken": {"path": "a", "expirationSeconds": 2700}}, {"serviceAccountToken": {"path": "b", "expirationSeconds": 7200}}]);
    let quiet = json!([
        {"name": "s", "secret": {"secretName": "crm"}},
        {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "crm"}}},
    ]);
    pod["spec"]["volumes"] = json!([quiet[0], quiet[1], {"name": "t", "projected": {"sources": tokens}}]);
    let world = own_world();
    let findings = found(&world, OWN, "", "pods", &pod);
    let reply = create(&admin, OWN, "v1", "pods", &pod).await?;
    assert_eq!(reply.code, 403, "{}", reply.body);
    assert_eq!(told(reply.message()), of(&findings, Severity::Deny));
    assert_eq!(warned(&reply), of(&findings, Severity::Warn));
    assert_eq!(
        (of(&findings, Severity::Deny).len(), of(&findings, Severity::Warn).len(), of(&findings, Severity::Audit).len()),
        (2, 4, 1)
    );
    let wanted = of(&findings, Severity::Audit);
    let log = bed.audit_log().context("an audit log")?;
    until("the finding to be in the audit log", || async {
        let text = std::fs::read_to_string(log).ok()?;
        let events = text.lines().filter(|line| line.contains("validation_failure") && line.contains(OWN));
        let mut failures = events.filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter_map(|event| {
            let text = event["annotations"]["validation.policy.admission.k8s.io/validation_failure"].as_str()?.to_owned();
            serde_json::from_str::<Value>(&text).ok()
        });
        failures
            .any(|failures| {
                failures
                    .as_array()
                    .is_some_and(|all| all.iter().any(|one| told(one["message"].as_str().unwrap_or_default()) == wanted))
            })
            .then_some(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn the_restricted_profile_refuses_what_baseline_warns_of() -> Outcome {
    let admin = bed().await.admin();
    let mount = json!([{"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]);
    let source = json!([{"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}]);
    let mut pod = container(json!({"volumeMounts": mount}));
    pod["spec"]["volumes"] = json!([{"name": "kube-api-access-x", "projected": {"sources": source}}]);
    pod["spec"]["automountServiceAccountToken"] = json!(true);
    let reply = create(&admin, BASELINE, "v1", "pods", &pod).await?;
    assert_eq!(reply.code, 201, "{}", reply.body);
    assert_eq!(warned(&reply), of(&found(&World::default(), BASELINE, "", "pods", &pod), Severity::Warn));
    assert_eq!(warned(&reply).len(), 1);
    let reply = create(&admin, RESTRICTED, "v1", "pods", &pod).await?;
    let wanted: BTreeSet<String> = of(&found(&restricted_world(), RESTRICTED, "", "pods", &pod), Severity::Deny);
    let wanted: BTreeSet<String> = wanted.iter().map(|text| text.replace("ClusterAgentPolicy r", "profile restricted")).collect();
    assert_eq!((reply.code, told(reply.message())), (403, wanted));
    Ok(())
}

#[tokio::test]
async fn templates_are_warned_about_with_the_path_of_the_real_field() -> Outcome {
    let admin = bed().await.admin();
    let template = json!({
        "metadata": {"labels": {"app": "a"}},
        "spec": {
            "restartPolicy": "Always",
            "initContainers": [{"name": "i", "image": "a", "envFrom": [{"secretRef": {"name": "crm"}}]}],
            "containers": [{"name": "a", "image": "a", "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "crm", "key": "k"}}}]}],
            "volumes": [{"name": "s", "secret": {"secretName": "crm"}}],
        },
    });
    let mut once = template.clone();
    once["spec"]["restartPolicy"] = json!("Never");
    let selected = json!({"selector": {"matchLabels": {"app": "a"}}, "template": template});
    let stateful = json!({"selector": {"matchLabels": {"app": "a"}}, "template": template, "serviceName": "a"});
    let controller = json!({"spec": {"selector": {"app": "a"}, "template": template}});
    let cron = json!({"spec": {"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": once}}}});
    for (version, kind, rest) in [
        ("apps/v1", "Deployment", json!({"spec": selected})),
        ("apps/v1", "ReplicaSet", json!({"spec": selected})),
        ("apps/v1", "DaemonSet", json!({"spec": selected})),
        ("apps/v1", "StatefulSet", json!({"spec": stateful})),
        ("batch/v1", "Job", json!({"spec": {"template": once}})),
        ("batch/v1", "CronJob", cron),
        ("v1", "ReplicationController", controller),
        ("v1", "PodTemplate", json!({"template": template})),
    ] {
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}});
        crate::place::merge(&mut object, rest);
        let resource = format!("{}s", kind.to_lowercase());
        let reply = create(&admin, BASELINE, version, &resource, &object).await?;
        assert_eq!(reply.code, 201, "{kind}: {}", reply.body);
        let group = version.split_once('/').map_or("", |(group, _)| group);
        // Of a template's ServiceAccount the policies know nothing.
        let findings = found(&World::default(), BASELINE, group, &resource, &object);
        let findings: Vec<Finding> = findings.into_iter().filter(|finding| finding.rule != "automounted-token").collect();
        assert_eq!((warned(&reply), findings.len()), (of(&findings, Severity::Warn), 3), "{kind}");
    }
    Ok(())
}

#[tokio::test]
async fn an_update_is_refused_for_what_it_brings_and_for_nothing_else() -> Outcome {
    let admin = bed().await.admin();
    let pod = format!("/api/v1/namespaces/{BASELINE}/pods/older");
    for (path, change) in [
        (pod.clone(), json!({"metadata": {"labels": {"a": "b"}}})),
        (
            pod.clone(),
            json!({"spec": {"containers": [{"name": "agent", "image": "agent:2", "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "crm", "key": "k"}}}]}]}}),
        ),
        (format!("{pod}/ephemeralcontainers"), json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "d"}]}})),
    ] {
        let reply = send(&admin, "PATCH", &format!("{path}?dryRun=All"), &change).await?;
        assert_eq!((reply.code, &reply.warnings), (200, &vec![]), "{change}: {}", reply.body);
    }
    let env = json!([{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "crm", "key": "k"}}}]);
    let change = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "d", "env": env}]}});
    let reply = send(&admin, "PATCH", &format!("{pod}/ephemeralcontainers?dryRun=All"), &change).await?;
    let told: Vec<String> = told(reply.message()).into_iter().collect();
    assert_eq!((reply.code, told.len()), (403, 1), "{}", reply.body);
    assert!(
        told[0].starts_with("[secret-env] spec.ephemeralContainers[0].env[0].valueFrom.secretKeyRef: container `d` "),
        "{told:?}"
    );
    let reply = send(&admin, "DELETE", &format!("{pod}?dryRun=All"), &json!({})).await?;
    assert_eq!(reply.code, 200, "{}", reply.body);
    Ok(())
}

#[tokio::test]
async fn tokens_that_outlive_everything_are_refused_however_they_are_asked_for() -> Outcome {
    let admin = bed().await.admin();
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "old", "annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token",
    });
    let reply = create(&admin, BASELINE, "v1", "secrets", &secret).await?;
    assert_eq!(
        (reply.code, told(reply.message())),
        (403, of(&found(&World::default(), BASELINE, "", "secrets", &secret), Severity::Deny))
    );
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86_400, "audiences": []}});
    let reply = create(&admin, BASELINE, "v1", "serviceaccounts/default/token", &token).await?;
    let told: Vec<String> = told(reply.message()).into_iter().collect();
    assert_eq!((reply.code, told.len()), (403, 2), "{}", reply.body);
    assert!(told[1].contains("a token of ServiceAccount `default` lives 86400 s; the policy allows 3600 s"), "{told:?}");
    Ok(())
}

/// A pod of about a megabyte: 1,000 volumes and 5,000 variables in 10 containers.
fn large(env: impl Fn(usize) -> Value) -> Value {
    let mut pod = pod(json!({}));
    let volume = |n: usize| json!({"name": format!("volume-{n}"), "configMap": {"name": format!("settings-{n}"), "items": [{"key": "some-key", "path": "some/path"}]}});
    pod["spec"]["volumes"] = (0..1000).map(volume).collect();
    let container = |c: usize| json!({"name": format!("c{c}"), "image": "agent:1", "env": (0..500).map(|n| env(500 * c + n)).collect::<Value>()});
    pod["spec"]["containers"] = (0..10).map(container).collect();
    pod
}

#[tokio::test]
async fn a_pod_of_a_megabyte_is_judged_within_the_budget_of_the_api_server() -> Outcome {
    let admin = bed().await.admin();
    let settings = |letters: usize| {
        large(|n| json!({"name": format!("VARIABLE_{n}"), "value": format!("{n:04}{}", "/x".repeat(letters / 2))}))
    };
    let (short, long) = (settings(24), settings(160));
    assert!(long.to_string().len() > 1_000_000);
    for (namespace, pod, code) in
        [(BASELINE, &short, 201), (RESTRICTED, &short, 201), (BASELINE, &long, 201), (RESTRICTED, &long, 422)]
    {
        let reply = create(&admin, namespace, "v1", "pods", pod).await?;
        assert_eq!(reply.code, code, "{namespace}: {} {:?}", reply.message(), reply.warnings);
    }
    for (letters, code) in [(8_000, 201), (80_000, 422)] {
        let mut pod = pod(json!({}));
        pod["metadata"]["annotations"] =
            json!({"kubectl.kubernetes.io/last-applied-configuration": "{\"configurationOfAll\":{}},".repeat(letters / 26)});
        let reply = create(&admin, RESTRICTED, "v1", "pods", &pod).await?;
        assert_eq!(reply.code, code, "an annotation of {letters} letters: {}", reply.message());
    }
    // All findings are counted, as many are told as a message can hold.
    let keys = large(
        |n| json!({"name": format!("VARIABLE_{n}"), "valueFrom": {"secretKeyRef": {"name": format!("secret-{n}"), "key": "some-key"}}}),
    );
    let reply = create(&admin, BASELINE, "v1", "pods", &keys).await?;
    let said = reply.message();
    assert_eq!(reply.code, 403, "{said}");
    assert!(
        said.contains(" denied request: 5000 findings | [secret-env] spec.containers[0].env[0]") && said.ends_with(" …"),
        "{said}"
    );
    // Far more than a pod has: the budget runs out, and that refuses as well.
    let long = "x".repeat(200);
    let keys = large(
        |n| json!({"name": format!("VARIABLE_{n}"), "valueFrom": {"secretKeyRef": {"name": format!("secret-{n}-{long}"), "key": "k"}}}),
    );
    let reply = create(&admin, BASELINE, "v1", "pods", &keys).await?;
    assert_eq!(reply.code, 422, "{}", reply.message());
    assert!(reply.message().contains("actual cost limit exceeded"), "{}", reply.message());
    Ok(())
}

#[tokio::test]
async fn with_the_registrations_gone_and_the_webhook_stopped_the_policies_still_refuse() -> Outcome {
    let bed = Bed::start("vap-alone").await?;
    let admin = bed.admin();
    let mut mandate = Mandate::install(&bed, &["finance"], CEILING).await?;
    let mut pods = vec![];
    for (name, spec) in [
        (
            "env",
            json!({"containers": [{"name": "a", "image": "a", "env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "crm", "key": "k"}}}]}]}),
        ),
        ("env-from", json!({"containers": [{"name": "a", "image": "a", "envFrom": [{"secretRef": {"name": "crm"}}]}]})),
        ("volume", json!({"volumes": [{"name": "s", "secret": {"secretName": "crm"}}]})),
        ("projection", json!({"volumes": [{"name": "s", "projected": {"sources": [{"secret": {"name": "crm"}}]}}]})),
        ("csi", json!({"volumes": [{"name": "s", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "crm"}}}]})),
    ] {
        let mut pod = pod(spec);
        pod["metadata"]["name"] = json!(name);
        let reply = create(&admin, "finance", "v1", "pods", &pod).await?;
        let (_, lines) = reply
            .message()
            .split_once("denied the request: ")
            .with_context(|| format!("a refusal by the webhook: {}", reply.body))?;
        let by_webhook: BTreeSet<String> = lines.lines().skip(1).map(|line| line.trim_start_matches("- ").to_owned()).collect();
        assert_eq!(by_webhook.len(), 1);
        pods.push((pod, by_webhook));
    }
    Api::<ValidatingWebhookConfiguration>::all(admin.clone()).delete("mandate", &DeleteParams::default()).await?;
    Api::<MutatingWebhookConfiguration>::all(admin.clone()).delete("mandate", &DeleteParams::default()).await?;
    mandate.webhook.kill9().await?;
    until("the webhook to be asked no more", || async {
        (create(&admin, "finance", "v1", "pods", &pods[0].0).await.ok()?.code == 201).then_some(())
    })
    .await?;
    apply(&admin, &printed(&["vap", "--guard", "finance"])?).await?;
    in_force(&admin, "finance").await?;
    for (pod, by_webhook) in pods {
        let reply = create(&admin, "finance", "v1", "pods", &pod).await?;
        assert_eq!((reply.code, told(reply.message())), (403, by_webhook), "{}", reply.body);
    }
    Ok(())
}
