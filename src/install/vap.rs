//! The rules as ValidatingAdmissionPolicies: the API server itself evaluates them, so that
//! pods are refused for the same reasons, in the same words, with Mandate down or not there.
//!
//! In: namespaces and what the policies ask there. Out: a policy and a binding for each form of
//! object and severity. A refusal shows one policy's text only, so everything that refuses an
//! object stands in one policy. Objects that make no pod yet are warned about.
//!
//! What the expressions cannot say is in [`gaps`]; what is about tasks is the webhook's alone.

use serde_json::{Value, json};

use super::name;
use super::rbac::meta;
use super::webhooks::{SPEC_OR_TASK, TEXTS_ALONE};
use super::{InstallError, NAMESPACE};
use crate::api::names::MANAGER;
use crate::decide::cel::{self, Gap, Ground, Variable};
use crate::decide::finding::Severity;
use crate::decide::site::On;
use crate::decide::world::{Asked, World};

/// First part of the names of policies and bindings, unless told otherwise.
pub const PREFIX: &str = MANAGER;

const CREATE: &[&str] = &["CREATE"];
const UPDATE: &[&str] = &["UPDATE"];
const WRITE: &[&str] = &["CREATE", "UPDATE"];

/// The API server takes messages of 5120 bytes and then says something general instead; all
/// warnings of one answer may have 4096 characters, or each is cut at 256. The first of these
/// lengths, in characters, that fits is taken.
const DENIAL: &str = "[5000, 2500, 1200]";
const WARNING: &str = "[3500, 1700, 850]";
/// Said where the text does not fit after all.
const UNTOLD: &str = "there are findings whose words do not fit here; `mandate lint` tells them";

/// Namespaces where the policies ask the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The namespaces, in the order in which they were given; none for what stands in none.
    pub namespaces: Vec<String>,
    /// What is asked there.
    pub asked: Vec<Asked>,
}

/// What the policies of a world ask in these namespaces, and of what stands in none.
///
/// # Errors
/// A name that is no namespace, or one of a namespace that cannot be guarded.
pub fn guards(world: &World, namespaces: &[String]) -> Result<Vec<Guard>, InstallError> {
    let mut guards = vec![Guard { namespaces: vec![], asked: world.asked_of_pods("").0 }];
    for namespace in namespaces {
        let namespace = name::guarded(namespace.clone(), NAMESPACE)?;
        let (asked, _) = world.asked_of_pods(&namespace);
        match guards.iter_mut().skip(1).find(|guard| guard.asked == asked) {
            Some(guard) if guard.namespaces.contains(&namespace) => {}
            Some(guard) => guard.namespaces.push(namespace),
            None => guards.push(Guard { namespaces: vec![namespace], asked }),
        }
    }
    Ok(guards)
}

/// Kinds with the template of a pod, by group and resource.
pub const WORKLOADS: &[(&str, &str)] = &[
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("batch", "cronjobs"),
    ("batch", "jobs"),
    ("", "podtemplates"),
    ("", "replicationcontrollers"),
];

/// One form of objects, with the requests that write it.
struct Form {
    /// Part of the policies' names.
    name: String,
    ground: Ground,
    rules: Vec<Value>,
    /// Which requests are looked at, as a name and an expression.
    when: Option<(&'static str, String)>,
    /// What becomes of a request that cannot be judged.
    unjudged: &'static str,
}

/// Which kinds of objects are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// Those that the webhook is asked about.
    OfWebhook,
    /// All that rules look at, in no namespace too.
    All,
}

/// Every form of object of these kinds.
fn forms(kinds: Kinds) -> Vec<Form> {
    let pods = Form {
        name: "pods".to_owned(),
        ground: Ground::whole(On::Pod),
        rules: vec![rule(WRITE, "", "v1", &["pods"]), rule(UPDATE, "", "v1", &["pods/ephemeralcontainers"])],
        when: Some(("spec-or-task", SPEC_OR_TASK.to_owned())),
        unjudged: "Fail",
    };
    // As the webhook's: labels and annotations of pods that run stay in their keepers' hands.
    let texts = Form {
        name: "pod-metadata".to_owned(),
        ground: Ground { metadata_alone: true, ..Ground::whole(On::Pod) },
        rules: vec![rule(UPDATE, "", "v1", &["pods"])],
        when: Some(("texts-alone", TEXTS_ALONE.to_owned())),
        unjudged: "Ignore",
    };
    let made_by_spec = vec![
        rule(WRITE, "apps", "v1", &["daemonsets", "deployments", "replicasets", "statefulsets"]),
        rule(WRITE, "batch", "v1", &["jobs"]),
        rule(WRITE, "", "v1", &["replicationcontrollers"]),
    ];
    let mut all = vec![
        pods,
        texts,
        Form::of_templates("templates", "spec.template", made_by_spec),
        Form::of_templates("cronjobs", "spec.jobTemplate.spec.template", vec![rule(WRITE, "batch", "v1", &["cronjobs"])]),
        Form::of_templates("podtemplates", "template", vec![rule(WRITE, "", "v1", &["podtemplates"])]),
    ];
    let is_asked = |on: &On| match kinds {
        Kinds::All => true,
        Kinds::OfWebhook => matches!(on, On::Secret | On::TokenRequest | On::ServiceAccount | On::Binding | On::StatefulSet),
    };
    all.extend(On::ALL.iter().filter(|on| **on != On::Pod && is_asked(on)).map(|on| Form::of_kind(*on)));
    all
}

fn rule(operations: &[&str], group: &str, version: &str, resources: &[&str]) -> Value {
    json!({"operations": operations, "apiGroups": [group], "apiVersions": [version], "resources": resources})
}

impl Form {
    fn of_templates(name: &str, at: &'static str, rules: Vec<Value>) -> Self {
        let changed = format!("request.operation == 'CREATE' || object.{at} != oldObject.{at}");
        Self {
            name: name.to_owned(),
            ground: Ground::template(at),
            rules,
            when: Some(("template-changed", changed)),
            unjudged: "Fail",
        }
    }

    fn of_kind(on: On) -> Self {
        let (group, version, resource, subresource) = on.resource();
        let (name, path, operations) = match subresource {
            "" => (resource.to_owned(), resource.to_owned(), WRITE),
            below => (format!("{resource}-{below}"), format!("{resource}/{below}"), CREATE),
        };
        // The older way to bind a pod is still served.
        let resources = if on == On::Binding { vec![path.as_str(), "bindings"] } else { vec![path.as_str()] };
        Self {
            name,
            ground: Ground::whole(on),
            rules: vec![rule(operations, group, version, &resources)],
            when: None,
            unjudged: "Fail",
        }
    }

    /// The policy for one severity, where something can be found at it.
    fn policy(&self, name: &str, asked: &[Asked], severity: Severity) -> Option<Value> {
        let Self { ground, rules, when, unjudged, .. } = self;
        let variables = cel::variables(*ground, asked, severity)?;
        let variables: Vec<Value> =
            variables.into_iter().map(|Variable { name, expression }| json!({"name": name, "expression": expression})).collect();
        let lengths = if severity == Severity::Warn { WARNING } else { DENIAL };
        let cut = "variables.text.size() > n ? variables.text.substring(0, n) + ' …' : variables.text";
        let validation = json!({
            "expression": "variables.findings.size() == 0",
            "message": UNTOLD,
            "messageExpression": format!("{lengths}.map(n, {cut}).filter(text, bytes(text).size() <= 5120)[0]"),
            "reason": "Forbidden",
        });
        let mut spec = json!({
            "failurePolicy": unjudged,
            "matchConstraints": {"matchPolicy": "Equivalent", "resourceRules": rules},
            "variables": variables,
            "validations": [validation],
        });
        if let Some((name, expression)) = when {
            spec["matchConditions"] = json!([{"name": name, "expression": expression}]);
        }
        Some(json!({"apiVersion": VERSION, "kind": "ValidatingAdmissionPolicy", "metadata": meta(None, name), "spec": spec}))
    }
}

const VERSION: &str = "admissionregistration.k8s.io/v1";

/// Every policy with its binding, in an order in which they can be applied. Where the policies
/// do not ask the same everywhere, names also hold the first namespace of those that agree.
#[must_use]
pub fn objects(prefix: &str, guards: &[Guard], kinds: Kinds) -> Vec<Value> {
    let mut all = vec![];
    let several = guards.iter().filter(|guard| !guard.namespaces.is_empty()).count() > 1;
    for Guard { namespaces, asked } in guards {
        let guarded = match namespaces.first() {
            Some(first) if several => format!("{prefix}-{first}"),
            _ => prefix.to_owned(),
        };
        for form in forms(kinds).iter().filter(|form| form.ground.on.is_cluster_scoped() == namespaces.is_empty()) {
            for (severity, word, action) in
                [(Severity::Deny, "deny", "Deny"), (Severity::Warn, "warn", "Warn"), (Severity::Audit, "audit", "Audit")]
            {
                let name = format!("{guarded}-{}-{word}", form.name);
                let Some(policy) = form.policy(&name, asked, severity) else { continue };
                all.extend([policy, binding(&name, namespaces, action)]);
            }
        }
    }
    all
}

/// The namespaces are chosen by the label that the API server itself keeps on them.
fn binding(name: &str, namespaces: &[String], action: &str) -> Value {
    let mut spec = json!({"policyName": name, "validationActions": [action]});
    if !namespaces.is_empty() {
        let guarded = json!({"key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces});
        spec["matchResources"] = json!({"namespaceSelector": {"matchExpressions": [guarded]}});
    }
    json!({"apiVersion": VERSION, "kind": "ValidatingAdmissionPolicyBinding", "metadata": meta(None, name), "spec": spec})
}

/// What else is the webhook's alone, and why.
pub const OTHERS: &[(&str, &str)] = &[
    ("changes to pods", "these policies only judge: nothing is shortened, mounted or taken away"),
    ("tasks and their scopes", "lacks who holds what, and the task: task-refused, scope-refused, task-token, task-label-changed"),
    (
        "templates in other kinds",
        "lacks a search by shape: Deployments, ReplicaSets, DaemonSets, StatefulSets, Jobs, CronJobs, ReplicationControllers and PodTemplates alone are known",
    ),
    ("policies that change", "lacks the policies: what they ask is printed in, so print anew"),
];

/// The rules that these policies cannot say, or not all of.
#[must_use]
pub fn gaps() -> Vec<Gap> {
    let grounds: Vec<Ground> = forms(Kinds::All).iter().map(|form| form.ground).collect();
    cel::gaps(&grounds)
}
