//! How the API server is told to ask the webhook, and about what.
//!
//! Both configurations are called `mandate`. What concerns workloads is asked in guarded
//! namespaces only, chosen by the label that the API server itself keeps on a namespace; no
//! `objectSelector`, since whoever writes an object also writes its labels. Deletions, status,
//! scale and changes of metadata alone, such as finalizers, are never asked about, so that with
//! the webhook down nothing gets stuck, tasks can be ended and agents suspended.
//!
//! What a rule can refuse fails closed. What is only ever warned about, the templates of pods,
//! fails open: with the webhook down a Deployment is taken, and its pods are refused. So do the
//! labels and annotations of pods that run, which must stay in their keepers' hands.
//!
//! `caBundle` is left out: the webhook (or cert-manager) fills it under a field manager of
//! its own, and an apply that does not mention the field leaves it as it is.

use serde_json::{Value, json};

use super::rbac::meta;
use super::{Certificates, Endpoint, Install, REGISTRATION, WEBHOOK};
use crate::api::GROUP;

/// The API server waits for so long; then it refuses.
const SECONDS: u8 = 5;
/// It waits less for what is only warned about, since it then goes on.
const SECONDS_FOR_A_WARNING: u8 = 2;
const ANNOTATION_OF_CERT_MANAGER: &str = "cert-manager.io/inject-ca-from";

/// Which requests one webhook is asked about.
#[derive(Clone)]
struct Ask {
    /// First part of its name.
    about: &'static str,
    rules: Vec<Asked>,
    place: Place,
    /// CEL conditions, checked before anything is sent; all of them must hold.
    when: &'static [(&'static str, &'static str)],
    /// What becomes of a request while no webhook answers.
    unanswered: Unanswered,
}

/// Resources of one group, with the operations on them.
#[derive(Clone)]
struct Asked {
    operations: &'static [&'static str],
    group: String,
    version: &'static str,
    resources: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Guarded,
    Everywhere,
}

#[derive(Clone, Copy, PartialEq)]
enum Unanswered {
    Refused,
    Taken,
}

const CREATE: &[&str] = &["CREATE"];
const UPDATE: &[&str] = &["UPDATE"];
const WRITE: &[&str] = &["CREATE", "UPDATE"];
const CONNECT: &[&str] = &["CONNECT"];

fn asked(operations: &'static [&'static str], group: &str, version: &'static str, resources: &[&str]) -> Asked {
    Asked {
        operations,
        group: group.to_owned(),
        version,
        resources: resources.iter().map(|resource| (*resource).to_owned()).collect(),
    }
}

fn core(operations: &'static [&'static str], resources: &[&str]) -> Asked {
    asked(operations, "", "v1", resources)
}

fn own(operations: &'static [&'static str], resources: &[&str]) -> Asked {
    asked(operations, GROUP, "v1alpha1", resources)
}

fn guarded(about: &'static str, rules: Vec<Asked>) -> Ask {
    Ask { about, rules, place: Place::Guarded, when: &[], unanswered: Unanswered::Refused }
}

fn everywhere(about: &'static str, rules: Vec<Asked>) -> Ask {
    Ask { place: Place::Everywhere, ..guarded(about, rules) }
}

fn mutating() -> Vec<Ask> {
    vec![
        // Pods only, never the templates they come from: a GitOps tool would see drift.
        guarded("pods", vec![core(CREATE, &["pods"])]),
        // The mark 3607 asks for a token of one year.
        guarded("tokens", vec![core(CREATE, &["serviceaccounts/token"])]),
        // Who asked for a task is written from the request.
        Ask {
            when: &[("requester-unknown", "request.operation == 'CREATE' || !has(object.spec) || !has(object.spec.requestedBy)")],
            ..everywhere("tasks", vec![own(WRITE, &["agenttasks"])])
        },
    ]
}

fn validating(install: &Install) -> Vec<Ask> {
    let open = |about, rules| Ask { unanswered: Unanswered::Taken, ..guarded(about, rules) };
    let named = install.workloads.iter().filter_map(|kind| kind.split_once('/'));
    let named = named.map(|(group, resource)| asked(WRITE, group, "*", &[resource])).collect();
    let asks = vec![
        // Of an update only what could break a rule: Kubernetes takes its finalizers off pods.
        Ask {
            when: &[("spec-or-task", SPEC_OR_TASK)],
            ..guarded("pods", vec![core(WRITE, &["pods"]), core(UPDATE, &["pods/ephemeralcontainers"])])
        },
        // A pod reads its own labels and annotations, so that a key can come to it by them.
        Ask { when: &[("texts-alone", TEXTS_ALONE)], ..open("pod-metadata", vec![core(UPDATE, &["pods"])]) },
        guarded("tokens", vec![core(CREATE, &["serviceaccounts/token"])]),
        // The content of other Secrets never leaves the API server.
        Ask {
            when: &[
                ("token-secrets", "has(object.type) && object.type == 'kubernetes.io/service-account-token'"),
                ("of-another-account", OF_ANOTHER_ACCOUNT),
            ],
            ..guarded("secrets", vec![core(WRITE, &["secrets"])])
        },
        Ask {
            when: &[("names-secrets", NAMES_SECRETS), ("other-secrets", OTHER_SECRETS)],
            ..guarded("accounts", vec![core(WRITE, &["serviceaccounts"])])
        },
        // A binding writes its annotations and labels into the pod; `bindings` is the older way.
        Ask {
            when: &[("writes-metadata", WRITES_METADATA)],
            ..guarded("bindings", vec![core(CREATE, &["pods/binding", "bindings"])])
        },
        guarded("connections", vec![core(CONNECT, &["pods/exec", "pods/attach", "pods/portforward", "pods/proxy"])]),
        Ask {
            when: &[("another-template", ANOTHER_TEMPLATE)],
            ..open(
                "workloads",
                vec![
                    asked(WRITE, "apps", "v1", &["deployments", "replicasets", "daemonsets", "statefulsets"]),
                    asked(WRITE, "batch", "v1", &["jobs", "cronjobs"]),
                    core(WRITE, &["replicationcontrollers", "podtemplates"]),
                ],
            )
        },
        Ask { when: &[("more-than-metadata", MORE_THAN_METADATA)], ..open("custom-workloads", named) },
        // A task does not change but for `end` and a waiver but for an earlier end, and the other
        // kinds are held by their schemas.
        Ask {
            when: &[("another-spec", "request.operation == 'CREATE' || object.?spec != oldObject.?spec")],
            ..everywhere(
                "resources",
                vec![
                    own(WRITE, &["taskscopes", "agentpolicies"]),
                    own(WRITE, &["clusteragentpolicies"]),
                    own(CREATE, &["agenttasks", "policywaivers"]),
                ],
            )
        },
    ];
    asks.into_iter().filter(|ask| !ask.rules.is_empty()).collect()
}

pub(super) const SPEC_OR_TASK: &str = "request.operation == 'CREATE' || object.spec != oldObject.spec || object.metadata.?labels[?'mandate.dev/task'] != oldObject.metadata.?labels[?'mandate.dev/task']";
pub(super) const TEXTS_ALONE: &str = "object.spec == oldObject.spec && object.metadata.?labels[?'mandate.dev/task'] == oldObject.metadata.?labels[?'mandate.dev/task'] && (object.metadata.?labels != oldObject.metadata.?labels || object.metadata.?annotations != oldObject.metadata.?annotations)";
const OF_ANOTHER_ACCOUNT: &str = "request.operation == 'CREATE' || object.metadata.?annotations[?'kubernetes.io/service-account.name'] != oldObject.metadata.?annotations[?'kubernetes.io/service-account.name']";
const NAMES_SECRETS: &str = "has(object.secrets) || has(object.imagePullSecrets)";
const OTHER_SECRETS: &str = "request.operation == 'CREATE' || object.?secrets != oldObject.?secrets || object.?imagePullSecrets != oldObject.?imagePullSecrets";
/// The API server itself writes a node's topology into bindings.
const WRITES_METADATA: &str = "has(object.metadata.annotations) || (has(object.metadata.labels) && object.metadata.labels.exists(key, !key.startsWith('topology.kubernetes.io/')))";
const ANOTHER_TEMPLATE: &str = "request.operation == 'CREATE' || object.?spec.?template != oldObject.?spec.?template || object.?spec.?jobTemplate != oldObject.?spec.?jobTemplate || object.?template != oldObject.?template";
const MORE_THAN_METADATA: &str =
    "request.operation == 'CREATE' || object.exists(key, !(key in ['metadata', 'status']) && object[?key] != oldObject[?key])";

pub(super) fn objects(install: &Install) -> Vec<Value> {
    vec![
        configuration(install, "MutatingWebhookConfiguration", &mutating(), "/mutate"),
        configuration(install, "ValidatingWebhookConfiguration", &validating(install), "/validate"),
    ]
}

fn configuration(install: &Install, kind: &str, asks: &[Ask], path: &str) -> Value {
    let mut metadata = meta(None, REGISTRATION);
    if install.certificates == Certificates::CertManager {
        metadata["annotations"] = json!({ANNOTATION_OF_CERT_MANAGER: format!("{}/{WEBHOOK}", install.namespace)});
    }
    let webhooks = asks
        .iter()
        // `In []` is no selector; with nothing guarded there is nothing to ask.
        .filter(|ask| ask.place == Place::Everywhere || !install.guarded.is_empty())
        .map(|ask| {
            let mut webhook = webhook(install, ask, path);
            if kind == "MutatingWebhookConfiguration" {
                webhook["reinvocationPolicy"] = json!("IfNeeded");
            }
            webhook
        })
        .collect::<Vec<_>>();
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": metadata, "webhooks": webhooks})
}

fn webhook(install: &Install, ask: &Ask, path: &str) -> Value {
    let Ask { about, rules, place, when, unanswered } = ask;
    let rules: Vec<Value> = rules
        .iter()
        .map(|Asked { operations, group, version, resources }| {
            // The one kind that is asked for and lies in no namespace.
            let scope = if resources.iter().any(|resource| resource == "clusteragentpolicies") { "Cluster" } else { "Namespaced" };
            json!({"operations": operations, "apiGroups": [group], "apiVersions": [version], "resources": resources, "scope": scope})
        })
        .collect();
    let (failure_policy, seconds) = match unanswered {
        Unanswered::Refused => ("Fail", SECONDS),
        Unanswered::Taken => ("Ignore", SECONDS_FOR_A_WARNING),
    };
    let mut webhook = json!({
        "name": format!("{about}.{GROUP}"),
        "clientConfig": client_config(install, path),
        "rules": rules,
        "failurePolicy": failure_policy,
        "matchPolicy": "Equivalent",
        "sideEffects": "None",
        "timeoutSeconds": seconds,
        "admissionReviewVersions": ["v1"],
    });
    if *place == Place::Guarded {
        let guarded = json!({"key": "kubernetes.io/metadata.name", "operator": "In", "values": install.guarded});
        webhook["namespaceSelector"] = json!({"matchExpressions": [guarded]});
    }
    if !when.is_empty() {
        let conditions = when.iter().map(|(name, expression)| json!({"name": name, "expression": expression}));
        webhook["matchConditions"] = conditions.collect();
    }
    webhook
}

fn client_config(install: &Install, path: &str) -> Value {
    match &install.webhook {
        Endpoint::Service => json!({"service": {"namespace": install.namespace, "name": WEBHOOK, "port": 443, "path": path}}),
        Endpoint::Url(url) => json!({"url": format!("{url}{path}")}),
    }
}
