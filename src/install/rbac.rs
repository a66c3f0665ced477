//! Who may do what with the Kubernetes API: one table a component, one line a right.
//!
//! Nobody here holds `*`, `escalate`, `bind` or `impersonate`, and nobody reads Secrets but
//! for those that are named. Rights on Secrets and tokens hold in guarded namespaces only;
//! RBAC cannot say "only your own", so [`policies`](super::policies) says it.
//!
//! The verb `act-for` on `users.mandate.dev` (to start tasks on behalf of others) is in no
//! role here and never aggregated: it is given to whom it is meant for, by name, such as a
//! ticket system: `{apiGroups: [mandate.dev], resources: [users], resourceNames:
//! [alice@example.com], verbs: [act-for]}`. So is `delegate` on `agenttasks` (to start children of a
//! task that somebody else has asked for).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};

use super::{AUTHORIZER, AUTHORIZER_CERTIFICATE, CEILING, CERTIFICATE, CONTROLLER, Certificates, Install, REGISTRATION, WEBHOOK};
use crate::api::names::MANAGER as REPORT;
use crate::api::{GROUP, KubernetesRule};
use crate::cluster::certificate::SECRET_TYPE;

/// Name of the Role that lets the controller read the Secrets whose keys may be copied.
const SECRET_KEYS: &str = "mandate-secret-keys";
const RBAC: &str = "rbac.authorization.k8s.io";

/// One line of a role.
struct Right {
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    /// Objects by name; none means all.
    names: &'static [&'static str],
}

const fn may(verbs: &'static [&'static str], group: &'static str, resources: &'static [&'static str]) -> Right {
    Right { group, resources, verbs, names: &[] }
}

impl Right {
    const fn only(self, names: &'static [&'static str]) -> Self {
        Self { names, ..self }
    }

    fn rule(&self) -> Value {
        let Self { group, resources, verbs, names } = self;
        let mut rule = json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
        if !names.is_empty() {
            rule["resourceNames"] = json!(names);
        }
        rule
    }
}

const READ: &[&str] = &["get", "list", "watch"];

/// The controller, in the whole cluster.
const CONTROLLER_EVERYWHERE: &[Right] = &[
    // Its work; patch takes the finalizer off, delete ends the history of finished tasks.
    may(&["get", "list", "watch", "patch", "delete"], GROUP, &["agenttasks"]),
    may(&["patch"], GROUP, &["agenttasks/status"]),
    // What tasks are judged by.
    may(READ, GROUP, &["agentidentities", "taskscopes", "agentpolicies", "clusteragentpolicies"]),
    may(&["patch"], GROUP, &["agentidentities/status"]),
    // What stands against policies, and what waivers are used for.
    may(READ, GROUP, &["policywaivers"]),
    may(&["patch"], GROUP, &["agentpolicies/status", "clusteragentpolicies/status", "policywaivers/status"]),
    // To see when something it made is gone or changed. Reading shows no credential.
    may(READ, "", &["serviceaccounts"]),
    may(READ, RBAC, &["roles", "rolebindings"]),
    // Does the person a task acts for hold this themselves? Asking changes nothing.
    may(&["create"], "authorization.k8s.io", &["subjectaccessreviews"]),
    // To tell people what happened to their tasks.
    may(&["create"], "events.k8s.io", &["events"]),
];

/// The controller, in each guarded namespace.
const CONTROLLER_IN_GUARDED: &[Right] = &[
    may(&["create", "patch", "delete"], "", &["serviceaccounts"]),
    may(&["create"], "", &["serviceaccounts/token"]),
    // Of these the API server lets it write no right that it does not hold, and the policy
    // on its Roles none that it holds for its own work: what is left is the ceiling.
    may(&["create", "patch", "delete"], RBAC, &["roles", "rolebindings"]),
    // Never get, list or watch: it writes credentials and reads none.
    may(&["create", "patch", "delete"], "", &["secrets"]),
    // To find what stands against the policies. A pod's spec shows no Secret.
    may(&["list", "watch"], "", &["pods"]),
    // To report it, in the one report of this name, to whichever of the two is installed.
    may(&["get", "create", "patch"], "openreports.io", &["reports"]).only(&[REPORT]),
    may(&["get", "create", "patch"], "wgpolicyk8s.io", &["policyreports"]).only(&[REPORT]),
];

/// The controller, in Mandate's own namespace.
const CONTROLLER_AT_HOME: &[Right] = &[
    // Only one controller works at a time. A create has no name yet that RBAC could hold.
    may(&["create"], "coordination.k8s.io", &["leases"]),
    may(&["get", "update"], "coordination.k8s.io", &["leases"]).only(&[CONTROLLER]),
];

/// The webhook, in the whole cluster.
const WEBHOOK_EVERYWHERE: &[Right] = &[
    // What it judges by; it changes none of it.
    may(READ, GROUP, &["agentidentities", "taskscopes", "agenttasks", "agentpolicies", "clusteragentpolicies", "policywaivers"]),
    // May the author of a scope do what the scope grants?
    may(&["create"], "authorization.k8s.io", &["subjectaccessreviews"]),
];

/// The webhook, in each guarded namespace.
const WEBHOOK_IN_GUARDED: &[Right] = &[
    // Does the pod that somebody connects to work for a task? Its labels are read, no more.
    may(&["get"], "", &["pods"]),
];

/// The authorizer, in the whole cluster.
const AUTHORIZER_EVERYWHERE: &[Right] = &[
    // What it decides by; it changes none of it.
    may(READ, GROUP, &["agentidentities", "taskscopes", "agenttasks", "agentpolicies", "clusteragentpolicies", "toolservers"]),
    // It is the one that asks MCP servers for their tools, so it says what it found, and nothing else.
    may(&["patch"], GROUP, &["toolservers/status"]),
    may(&["create"], "events.k8s.io", &["events"]),
    // Whose token is it?
    may(&["create"], "authentication.k8s.io", &["tokenreviews"]),
    // May the enforcement point ask?
    may(&["create"], "authorization.k8s.io", &["subjectaccessreviews"]),
];

/// The authorizer that makes its own certificate, in Mandate's own namespace.
const AUTHORIZER_AT_HOME: &[Right] = &[
    // No create, which RBAC could not hold to a name: the Secret is installed empty.
    may(&["get", "list", "watch", "update"], "", &["secrets"]).only(&[AUTHORIZER_CERTIFICATE]),
];

/// Enforcement points: bound by nobody here, to whoever is to ask for decisions.
const MAY_ASK: &[Right] = &[may(&["evaluate"], GROUP, &["agenttasks"])];
/// Name of that role.
const ENFORCEMENT_POINT: &str = "mandate-enforcement-point";

/// The webhook that makes its own certificate, in the whole cluster.
const WEBHOOK_REGISTERS: &[Right] = &[
    // Tells the API server which authority to trust, in its own registrations.
    may(
        &["get", "list", "watch", "patch"],
        "admissionregistration.k8s.io",
        &["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
    )
    .only(&[REGISTRATION]),
];

/// The webhook that makes its own certificate, in Mandate's own namespace.
const WEBHOOK_AT_HOME: &[Right] = &[
    // No create, which RBAC could not hold to a name: the Secret is installed empty.
    may(&["get", "list", "watch", "update"], "", &["secrets"]).only(&[CERTIFICATE]),
];

/// A role for people, added to one of Kubernetes' own (`view`, `edit`, `admin`).
struct ForPeople {
    name: &'static str,
    added_to: &'static str,
    rights: &'static [Right],
}

/// ClusterAgentPolicies are nobody's here: they are for cluster administrators.
const FOR_PEOPLE: &[ForPeople] = &[
    ForPeople {
        name: "mandate-view",
        added_to: "view",
        rights: &[may(
            READ,
            GROUP,
            &["agentidentities", "taskscopes", "agenttasks", "agentpolicies", "policywaivers", "toolservers"],
        )],
    },
    ForPeople {
        name: "mandate-edit",
        added_to: "edit",
        // A task also needs `use` on its scope, which `edit` does not hold.
        rights: &[may(&["create", "update", "patch", "delete"], GROUP, &["agenttasks"])],
    },
    ForPeople {
        name: "mandate-admin",
        added_to: "admin",
        rights: &[
            may(
                &["create", "update", "patch", "delete", "deletecollection"],
                GROUP,
                // A waiver counts only where a ClusterAgentPolicy says so.
                &["agentidentities", "taskscopes", "agentpolicies", "policywaivers", "toolservers"],
            ),
            // To start tasks with any scope of the namespace.
            may(&["use"], GROUP, &["taskscopes"]),
        ],
    },
];

pub(super) fn objects(install: &Install) -> Vec<Value> {
    let Install { namespace, guarded, ceiling, secret_keys, certificates, webhook: _, workloads: _ } = install;
    let own = *certificates == Certificates::Own;
    let webhook_everywhere: Vec<&Right> = WEBHOOK_EVERYWHERE.iter().chain(WEBHOOK_REGISTERS.iter().filter(|_| own)).collect();
    let mut all = vec![
        service_account(namespace, CONTROLLER),
        service_account(namespace, WEBHOOK),
        service_account(namespace, AUTHORIZER),
        cluster_role(AUTHORIZER, rules(AUTHORIZER_EVERYWHERE)),
        cluster_role_binding(namespace, AUTHORIZER),
        cluster_role(ENFORCEMENT_POINT, rules(MAY_ASK)),
        cluster_role(CONTROLLER, rules(CONTROLLER_EVERYWHERE)),
        cluster_role_binding(namespace, CONTROLLER),
        cluster_role(WEBHOOK, rules(webhook_everywhere)),
        cluster_role_binding(namespace, WEBHOOK),
        role(namespace, CONTROLLER, rules(CONTROLLER_AT_HOME)),
        role_binding(namespace, CONTROLLER, "Role", namespace, CONTROLLER),
    ];
    if own {
        all.push(certificate(namespace, CERTIFICATE));
        all.push(certificate(namespace, AUTHORIZER_CERTIFICATE));
        all.push(role(namespace, AUTHORIZER, rules(AUTHORIZER_AT_HOME)));
        all.push(role_binding(namespace, AUTHORIZER, "Role", namespace, AUTHORIZER));
        all.push(role(namespace, WEBHOOK, rules(WEBHOOK_AT_HOME)));
        all.push(role_binding(namespace, WEBHOOK, "Role", namespace, WEBHOOK));
    }
    all.push(cluster_role(CEILING, ceiling_rules(ceiling)));
    for guarded in guarded {
        all.push(role(guarded, CONTROLLER, rules(CONTROLLER_IN_GUARDED)));
        all.push(role_binding(guarded, CONTROLLER, "Role", namespace, CONTROLLER));
        // In each guarded namespace and not in the cluster: the ceiling reaches no further.
        all.push(role_binding(guarded, CEILING, "ClusterRole", namespace, CONTROLLER));
        all.push(role(guarded, WEBHOOK, rules(WEBHOOK_IN_GUARDED)));
        all.push(role_binding(guarded, WEBHOOK, "Role", namespace, WEBHOOK));
    }
    all.extend(secret_key_objects(namespace, secret_keys));
    all.extend(FOR_PEOPLE.iter().map(for_people));
    all
}

/// What the controller works with: every right of its own that is not of the ceiling. A name
/// in it means nothing here, so the Secrets that it may copy from are all Secrets.
pub(super) fn of_controller() -> Vec<KubernetesRule> {
    let own = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let copies = may(&["get"], "", &["secrets"]);
    CONTROLLER_EVERYWHERE
        .iter()
        .chain(CONTROLLER_IN_GUARDED)
        .chain([&copies])
        .map(|Right { group, resources, verbs, names }| KubernetesRule {
            api_groups: own(&[group]),
            resources: own(resources),
            resource_names: own(names),
            verbs: own(verbs),
        })
        .collect()
}

fn rules<'a>(rights: impl IntoIterator<Item = &'a Right>) -> Value {
    rights.into_iter().map(Right::rule).collect()
}

fn ceiling_rules(ceiling: &[KubernetesRule]) -> Value {
    json!(ceiling.iter().map(PolicyRule::from).collect::<Vec<_>>())
}

/// One Role a namespace: it may `get` the named Secrets and no others.
fn secret_key_objects(home: &str, secret_keys: &BTreeMap<String, BTreeSet<String>>) -> Vec<Value> {
    let here = |(namespace, secrets): (&String, &BTreeSet<String>)| {
        let rule = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": secrets, "verbs": ["get"]}]);
        [role(namespace, SECRET_KEYS, rule), role_binding(namespace, SECRET_KEYS, "Role", home, CONTROLLER)]
    };
    secret_keys.iter().flat_map(here).collect()
}

fn service_account(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta(Some(namespace), name),
        // The Deployments project a token of one hour; the injected one would live a year.
        "automountServiceAccountToken": false,
    })
}

/// A Secret in which a component keeps its certificate, empty: an apply that does not mention the
/// data leaves it as it is.
fn certificate(home: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta(Some(home), name), "type": SECRET_TYPE})
}

fn cluster_role(name: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": meta(None, name), "rules": rules})
}

fn role(namespace: &str, name: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta(Some(namespace), name), "rules": rules})
}

/// Binds the ClusterRole of a component to the component.
fn cluster_role_binding(home: &str, component: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": meta(None, component),
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": component},
        "subjects": [{"kind": "ServiceAccount", "namespace": home, "name": component}],
    })
}

/// Binds a role of the same name to a component that lives in `home`.
fn role_binding(namespace: &str, name: &str, kind: &str, home: &str, component: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": meta(Some(namespace), name),
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "namespace": home, "name": component}],
    })
}

fn for_people(ForPeople { name, added_to, rights }: &ForPeople) -> Value {
    let mut role = cluster_role(name, rules(*rights));
    role["metadata"]["labels"][format!("{RBAC}/aggregate-to-{added_to}")] = json!("true");
    role
}

/// The label `managed-by` is left to who applies these: on Mandate's own value the
/// controller looks for what it has made itself.
pub(super) fn meta(namespace: Option<&str>, name: &str) -> Value {
    let mut meta = json!({"name": name, "labels": {"app.kubernetes.io/name": "mandate"}});
    if let Some(namespace) = namespace {
        meta["namespace"] = json!(namespace);
    }
    meta
}
