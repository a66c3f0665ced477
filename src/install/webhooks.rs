//! How the API server is told to ask the webhook, and about what.
//!
//! Both configurations are called `mandate`. What concerns workloads is asked in guarded
//! namespaces only, chosen by the label that the API server itself keeps on a namespace; no
//! `objectSelector`, since whoever writes an object also writes its labels. Deletions,
//! status, finalizers and other subresources are never asked about, so that with the webhook
//! down nothing gets stuck, tasks can be ended and agents suspended.
//!
//! `caBundle` is left out: the webhook (or cert-manager) fills it under a field manager of
//! its own, and an apply that does not mention the field leaves it as it is.

use serde_json::{Value, json};

use super::rbac::meta;
use super::{Certificates, Endpoint, Install, REGISTRATION, WEBHOOK};
use crate::api::GROUP;

/// The API server waits for so long; then it refuses.
const SECONDS: u8 = 5;
const ANNOTATION_OF_CERT_MANAGER: &str = "cert-manager.io/inject-ca-from";

/// Which requests one webhook is asked about.
struct Ask {
    /// First part of its name.
    about: &'static str,
    group: &'static str,
    version: &'static str,
    /// Resources with the operations on them.
    rules: &'static [(&'static [&'static str], &'static [&'static str])],
    place: Place,
    /// A CEL condition, checked before anything is sent.
    when: Option<(&'static str, &'static str)>,
}

#[derive(PartialEq)]
enum Place {
    Guarded,
    Everywhere,
}

const CREATE: &[&str] = &["CREATE"];
const UPDATE: &[&str] = &["UPDATE"];
const WRITE: &[&str] = &["CREATE", "UPDATE"];

const fn workloads(about: &'static str, rules: &'static [(&'static [&'static str], &'static [&'static str])]) -> Ask {
    Ask { about, group: "", version: "v1", rules, place: Place::Guarded, when: None }
}

const fn own(about: &'static str, rules: &'static [(&'static [&'static str], &'static [&'static str])]) -> Ask {
    Ask { about, group: GROUP, version: "v1alpha1", rules, place: Place::Everywhere, when: None }
}

const MUTATING: &[Ask] = &[
    // Pods only, never the templates they come from: a GitOps tool would see drift.
    workloads("pods", &[(CREATE, &["pods"])]),
    // The mark 3607 asks for a token of one year.
    workloads("tokens", &[(CREATE, &["serviceaccounts/token"])]),
    // Who asked for a task is written from the request.
    Ask {
        when: Some(("requester-unknown", "request.operation == 'CREATE' || !has(object.spec) || !has(object.spec.requestedBy)")),
        ..own("tasks", &[(WRITE, &["agenttasks"])])
    },
];

const VALIDATING: &[Ask] = &[
    // Of an update only what could break a rule: Kubernetes takes its finalizers off pods.
    Ask {
        when: Some(("spec-or-task", SPEC_OR_TASK)),
        ..workloads("pods", &[(WRITE, &["pods"]), (UPDATE, &["pods/ephemeralcontainers"])])
    },
    workloads("tokens", &[(CREATE, &["serviceaccounts/token"])]),
    // The content of other Secrets never leaves the API server.
    Ask {
        when: Some(("token-secrets", "has(object.type) && object.type == 'kubernetes.io/service-account-token'")),
        ..workloads("secrets", &[(WRITE, &["secrets"])])
    },
    // A task does not change but for `end`, and the other kinds are held by their schemas.
    own("resources", &[(WRITE, &["taskscopes"]), (CREATE, &["agenttasks"])]),
];

const SPEC_OR_TASK: &str = "request.operation == 'CREATE' || object.spec != oldObject.spec || object.metadata.?labels[?'mandate.dev/task'] != oldObject.metadata.?labels[?'mandate.dev/task']";

pub(super) fn objects(install: &Install) -> Vec<Value> {
    vec![
        configuration(install, "MutatingWebhookConfiguration", MUTATING, "/mutate"),
        configuration(install, "ValidatingWebhookConfiguration", VALIDATING, "/validate"),
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
    let Ask { about, group, version, rules, place, when } = ask;
    let rules: Vec<Value> = rules
        .iter()
        .map(|(operations, resources)| {
            json!({"operations": operations, "apiGroups": [group], "apiVersions": [version], "resources": resources, "scope": "Namespaced"})
        })
        .collect();
    let mut webhook = json!({
        "name": format!("{about}.{GROUP}"),
        "clientConfig": client_config(install, path),
        "rules": rules,
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "sideEffects": "None",
        "timeoutSeconds": SECONDS,
        "admissionReviewVersions": ["v1"],
    });
    if *place == Place::Guarded {
        let guarded = json!({"key": "kubernetes.io/metadata.name", "operator": "In", "values": install.guarded});
        webhook["namespaceSelector"] = json!({"matchExpressions": [guarded]});
    }
    if let Some((name, expression)) = when {
        webhook["matchConditions"] = json!([{"name": name, "expression": expression}]);
    }
    webhook
}

fn client_config(install: &Install, path: &str) -> Value {
    match &install.webhook {
        Endpoint::Service => json!({"service": {"namespace": install.namespace, "name": WEBHOOK, "port": 443, "path": path}}),
        Endpoint::Url(url) => json!({"url": format!("{url}{path}")}),
    }
}
