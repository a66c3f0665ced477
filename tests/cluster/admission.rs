//! Does a real API server, with the real webhook behind it, answer as the corpus says?
//!
//! Every case of `tests/cases` gets a namespace of its own. What the case knows of is made
//! there for real, the case's request is sent by the case's user (as a dry run), and the
//! answer has to be the decision's: the same verdict, every finding in the same words, the same
//! warnings, the same entries of the audit log, the same changes. What a case knows by another
//! name (the names that go with a task's UID, deadlines, seconds that are left) is put back
//! before the words are compared.
//!
//! There is no controller: the statuses of tasks are written as the cases have them. The
//! mutating webhook is registered for the namespaces of those cases alone that are about it;
//! the others say what the validating webhook answers to an object as it stands.
//!
//! Not all can be sent: see [`NOT_SENT`].

pub mod request;
pub mod set;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use futures::{StreamExt as _, stream};
use kube::Client;
use mandate::api::ClusterAgentPolicySpec;
use serde_json::{Value, json};

use self::request::{make, object, path, request, taken};
use self::set::Set;
use crate::bed::Bed;
use crate::bed::mandate::{self as installed, NAMESPACE};
use crate::case::{Case, Verb};
use crate::place::{Outcome, until};
use crate::schemas::Schemas;

/// The cases that cannot be sent to an API server, with what it says of them or a part of it.
/// Where one of them can be sent after all, or another cannot, the test fails.
pub const NOT_SENT: &[(&str, &str)] = &[
    ("dead-task/in-its-last-second", "about one certain second"),
    ("mutation/never-a-year-by-what-is-left", "about one certain second"),
    // Nobody asks the webhook about namespaces that are not guarded, nor about other requests.
    ("dead-task/in-another-namespace", "does not ask the webhook"),
    ("templates/argo-workflow", "does not ask the webhook"),
    ("templates/in-status", "does not ask the webhook"),
    ("templates/no-template", "does not ask the webhook"),
    ("templates/unknown-kind", "does not ask the webhook"),
    ("unknown-request/own-kinds", "does not ask the webhook"),
    ("waivers/ended-early", "does not ask the webhook"),
    ("unknown-request/resource", "does not ask the webhook"),
    ("unknown-request/subresource", "spec.containers: Required value"),
    ("virtual-machine-secret/as-a-disk", "does not ask the webhook"),
    // What no API server of today takes; one of tomorrow might, or one of yesterday did.
    ("mutation/unknown-fields-survive", "unknown field \"metadata.newMeta\""),
    ("unknown-credential-source/environment", "unknown field \"spec.containers[0].envFrom[0].vaultRef\""),
    ("unknown-credential-source/null-volume", "unknown field \"spec.volumes[0].vaultSecret\""),
    ("unknown-credential-source/projection", "unknown field \"spec.volumes[0].projected.sources[1].workloadKey\""),
    ("unknown-credential-source/unknown-elsewhere", "unknown field \"spec.containers[0].env[0].sealed\""),
    ("unknown-credential-source/volume", "unknown field \"spec.volumes[0].vaultSecret\""),
    // What it refuses by itself before it asks: a name is missing, a number is too large, a
    // source says nothing, a debugging container comes with the pod.
    ("csi-secret/beside-harmless-attributes", "nodePublishSecretRef.name: Required value"),
    ("host-credential-path/step-back", "must not contain '..'"),
    ("legacy-token-secret/without-its-annotation", "metadata.annotations[kubernetes.io/service-account.name]: Required value"),
    ("long-lived-token/beyond-all-numbers", "cannot unmarshal number 18446744073709551615"),
    ("policies/harmless-mirror-pod", "can only create pods with an owner reference set to itself"),
    ("policies/mirror-pod", "may not reference secrets"),
    ("secret-env-file/directly-from-a-secret", "referenced volume must be of type emptyDir"),
    ("secret-env-from/empty-lists", "must specify one of: `configMapRef` or `secretRef`"),
    ("secret-env-from/every-kind-of-container", "spec.ephemeralContainers: Forbidden"),
    ("secret-env/name-left-out", "secretKeyRef.name: Invalid value: \"\""),
    ("task-token/by-a-node-for-no-pod", "node requested token not bound to a pod"),
    // What the schemas of Mandate's own kinds refuse.
    ("mutation/task-without-a-spec", "spec: Required value"),
    ("scope-refused/old-version-unreadable", "not a duration"),
    ("task-refused/unreadable", "not a duration"),
    ("waivers/made-against-mandate", "spec.rules[0]: Unsupported value: \"dead-task\""),
    ("waivers/never-what-mandate-hands-out", "spec.rules[0]: Unsupported value: \"other-tasks-credentials\""),
];

/// Cases about one certain second of a task's life, which a request hits by chance alone.
const OF_A_SECOND: [&str; 2] = ["dead-task/in-its-last-second", "mutation/never-a-year-by-what-is-left"];
/// How many cases are under way at once.
pub const AT_ONCE: usize = 8;

#[tokio::test]
async fn a_real_api_server_answers_every_case_as_it_is_written() -> Outcome {
    let bed = Bed::start("admission").await?;
    let admin = bed.admin();
    installed::kinds(&bed).await?;
    make(&admin, &object("v1", "Namespace", NAMESPACE), None).await?;
    people(&admin).await?;
    let cases: Vec<(String, String, Case)> =
        corpus().into_iter().enumerate().map(|(number, (name, case))| (format!("case-{number:03}"), name, case)).collect();
    let namespaces: Vec<String> = cases.iter().map(|(namespace, ..)| namespace.clone()).collect();
    let changing: Vec<String> =
        cases.iter().filter(|(.., case)| case.is_about_changes()).map(|(namespace, ..)| namespace.clone()).collect();
    let (by_chance, cases): (Vec<_>, Vec<_>) = cases.into_iter().partition(|(_, name, _)| OF_A_SECOND.contains(&name.as_str()));
    let (alone, together): (Vec<_>, Vec<_>) = cases.into_iter().partition(|(.., case)| concerns_everybody(case));

    // What the cases know of comes first: nothing is in its way yet, and whoever comes later
    // finds it.
    let schemas = Schemas::away(&admin, &["AgentPolicy", "ClusterAgentPolicy"]).await?;
    let set_up = together.into_iter().map(|(namespace, name, case)| {
        let admin = &admin;
        async move { (name, Set::up(admin, &namespace, case).await) }
    });
    let standing: Vec<(String, Result<Set>)> = stream::iter(set_up).buffered(AT_ONCE).collect().await;
    schemas.back(&admin).await?;
    let guarded: Vec<&str> = namespaces.iter().map(String::as_str).collect();
    let webhook = installed::install_webhook(&bed, &guarded, |registration| only_for(registration, &changing)).await?;
    in_force(&admin, changing.first().context("a case that is about changes")?).await?;

    let asked = standing.into_iter().map(|(name, set)| {
        let (admin, registrations, bed) = (&admin, &webhook.registrations, &bed);
        async move {
            let answered = match set {
                Ok(set) => set.is_answered_as_written(admin, registrations, bed).await,
                Err(why) => Err(why),
            };
            (name, answered)
        }
    });
    let mut answers: Vec<(String, Result<()>)> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
    answers.extend(by_chance.into_iter().map(|(_, name, _)| (name, Err(anyhow!("it is about one certain second")))));
    let schemas = Schemas::away(&admin, &["AgentPolicy", "ClusterAgentPolicy"]).await?;
    for (namespace, name, case) in alone {
        answers.push((name, by_itself(&admin, &namespace, case, &webhook.registrations, &bed).await));
    }
    schemas.back(&admin).await?;
    report(&answers);
    Ok(())
}

/// The mutating webhook is asked about workloads of these namespaces alone.
fn only_for(registration: &mut Value, namespaces: &[String]) {
    if registration["kind"] == "MutatingWebhookConfiguration" {
        for webhook in registration["webhooks"].as_array_mut().into_iter().flatten() {
            if let Some(values) = webhook.pointer_mut("/namespaceSelector/matchExpressions/0/values") {
                *values = json!(namespaces);
            }
        }
    }
}

/// Whether the case knows of a ClusterAgentPolicy that cannot be read: nobody can tell for
/// which namespaces it is, and so it holds in all of them.
fn concerns_everybody(case: &Case) -> bool {
    let policies = case.asked.world.iter().filter(|manifest| manifest["kind"] == "ClusterAgentPolicy");
    policies.into_iter().any(|policy| serde_json::from_value::<ClusterAgentPolicySpec>(policy["spec"].clone()).is_err())
}

/// A case that must not stand beside others.
async fn by_itself(admin: &Client, namespace: &str, case: Case, registrations: &[Value], bed: &Bed) -> Result<()> {
    let policies: Vec<String> = case
        .asked
        .world
        .iter()
        .filter_map(|policy| Some(format!("{namespace}-{}", policy["metadata"]["name"].as_str()?)))
        .collect();
    let set = Set::up(admin, namespace, case).await?;
    let mut pod = object("v1", "Pod", "probe");
    pod["spec"] = json!({"automountServiceAccountToken": false, "containers": [{"name": "probe", "image": "a"}]});
    let pods = format!("{}?dryRun=All", path("v1", "pods", Some(namespace)));
    let refuses = async |wanted: bool| {
        until(&format!("pods to be refused because of the policy: {wanted}"), || async {
            let said = request(admin, "POST", &pods, None, &pod).await.ok()?.reply;
            (said.message().contains("unreadable-policy") == wanted).then_some(())
        })
        .await
    };
    refuses(true).await?;
    let answered = set.is_answered_as_written(admin, registrations, bed).await;
    for policy in policies {
        taken(
            request(admin, "DELETE", &format!("/apis/mandate.dev/v1alpha1/clusteragentpolicies/{policy}"), None, &Value::Null)
                .await,
        )?;
    }
    refuses(false).await?;
    answered
}

/// Fails where a case is answered otherwise, and where [`NOT_SENT`] is not exactly right.
fn report(answers: &[(String, Result<()>)]) {
    let expected: BTreeMap<&str, &str> = NOT_SENT.iter().copied().collect();
    assert_eq!(expected.len(), NOT_SENT.len(), "a case is listed twice");
    let mut wrong = vec![];
    for (name, answer) in answers {
        match (answer, expected.get(name.as_str())) {
            (Ok(()), None) => {}
            (Err(why), Some(words)) if format!("{why:#}").contains(words) => {}
            (Err(why), Some(words)) => {
                wrong.push(format!("{name}: should not be sent because of `{words}`, and this is said: {why:#}"));
            }
            (Ok(()), Some(_)) => wrong.push(format!("{name}: is sent and answered as written; take it out of NOT_SENT")),
            (Err(why), None) => wrong.push(format!("{name}: {why:#}")),
        }
    }
    let names: BTreeSet<&str> = answers.iter().map(|(name, _)| name.as_str()).collect();
    wrong.extend(expected.keys().filter(|name| !names.contains(*name)).map(|name| format!("{name}: there is no such case")));
    wrong.sort();
    assert!(wrong.is_empty(), "{} of {} cases are wrong:\n{}", wrong.len(), answers.len(), wrong.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

/// Every case by the name of its file.
pub fn corpus() -> Vec<(String, Case)> {
    let entries = |path: &Path| {
        let mut all: Vec<PathBuf> = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        all.sort();
        all
    };
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let directories = entries(&root()).into_iter().filter(|path| path.is_dir());
    let files = directories
        .flat_map(|about| entries(&about).into_iter().map(move |file| (format!("{}/{}", stem(&about), stem(&file)), file)));
    let cases = files.map(|(name, file)| (name, Case::read(&file)));
    // A manifest is no request, and who connects to a pod is asked in `workloads`.
    cases.filter(|(_, case)| matches!(case.asked.request.operation, Verb::Create | Verb::Update)).collect()
}

/// Everybody may ask for what the cases ask for, and holds nothing else.
pub async fn people(admin: &Client) -> Result<()> {
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods", "pods/ephemeralcontainers", "pods/binding", "bindings", "podtemplates", "secrets", "serviceaccounts", "serviceaccounts/token"], "verbs": ["create", "patch"]},
        {"apiGroups": ["apps", "batch"], "resources": ["*"], "verbs": ["create", "patch"]},
        {"apiGroups": ["mandate.dev"], "resources": ["agentidentities", "agenttasks", "taskscopes", "agentpolicies", "policywaivers"], "verbs": ["create", "patch"]},
    ]);
    let mut role = object("rbac.authorization.k8s.io/v1", "ClusterRole", "everybody");
    role["rules"] = rules;
    let mut binding = object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "everybody");
    binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "everybody"});
    binding["subjects"] = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"}]);
    for object in [role, binding] {
        make(admin, &object, None).await?;
    }
    Ok(())
}

/// Waits until the API server asks the webhooks; a token of one year is mended by the one and
/// refused by the other.
async fn in_force(admin: &Client, namespace: &str) -> Result<()> {
    let mut pod = object("v1", "Pod", "probe");
    let sources = json!([{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}, {"secret": {"name": "a"}}]);
    let volume = json!({"name": "probe", "projected": {"sources": sources}});
    pod["spec"] = json!({"containers": [{"name": "probe", "image": "a"}], "volumes": [volume]});
    let path = format!("{}?dryRun=All", path("v1", "pods", Some(namespace)));
    until("the webhooks to be asked", || async {
        let answer = request(admin, "POST", &path, None, &pod).await.ok()?;
        let said = answer.reply.message();
        (said.contains("secret-projection") && !said.contains("year-long-token")).then_some(())
    })
    .await
}
