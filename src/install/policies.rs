//! What RBAC cannot say, as ValidatingAdmissionPolicies: the API server itself evaluates
//! them, so they hold with Mandate down, and for a controller that somebody took over.
//!
//! Three keep the controller to what it makes itself (tokens, Secrets, everything else); three
//! keep what it binds to tasks and Roles of scopes, and what it hands out to the ceiling, when a
//! Role is written and when a task is bound to it; two keep everybody else off the names of
//! tasks and off giving tasks rights past their scopes; one keeps what a task or a scope owns
//! theirs; one keeps a task's requester true.
//!
//! Nobody but the controller is ever stopped from deleting, and Kubernetes' own controllers
//! may change what they need to: namespaces go, garbage is collected.
//!
//! What they do not stop: a binding to a *group* that every ServiceAccount is in
//! (`system:serviceaccounts`) reaches tasks too; and RBAC's `impersonate` on
//! `serviceaccounts`, which Kubernetes' `edit` role holds, is no write that admission sees. A
//! JSON Patch `test` is answered before admission, so a controller that somebody took over
//! can try whether a whole value in a Secret equals a guess; it learns nothing of a value
//! that cannot be guessed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::rbac::{self, meta};
use super::{CONTROLLER, Install};
use crate::api::names::{AGENT_PREFIX, BOUND_ROLES_POLICY, ROLES_POLICY, SCOPE_LABEL, SCOPE_PREFIX, SECRET_TYPE, TASK_PREFIX};
use crate::api::{GROUP, KubernetesRule};

/// Longest life of a token that the controller may ask for, in seconds. It also keeps out
/// 3607, for which the API server would issue a token of one year.
const LONGEST_TOKEN: u32 = 3600;
const RBAC: &str = "rbac.authorization.k8s.io";

/// One policy, before it becomes two objects.
struct Policy {
    name: &'static str,
    /// API group, resources.
    on: Vec<(&'static str, &'static [&'static str])>,
    operations: &'static [&'static str],
    /// All must hold for the policy to look at a request at all.
    when: Vec<(&'static str, String)>,
    /// With it, the policy must hold once for each Role of the namespace that has this label: as
    /// `params`.
    for_each_role_with: Option<&'static str>,
    variables: Vec<(&'static str, String)>,
    /// Each must hold; with the CEL text of what to say otherwise.
    must: Vec<(String, String)>,
}

const ACCOUNTS: (&str, &[&str]) = ("", &["serviceaccounts"]);
const SECRETS: (&str, &[&str]) = ("", &["secrets"]);
const ROLES: (&str, &[&str]) = (RBAC, &["roles", "rolebindings"]);

const WRITE: &[&str] = &["CREATE", "UPDATE"];
const WRITE_AND_DELETE: &[&str] = &["CREATE", "UPDATE", "DELETE"];

pub(super) fn objects(install: &Install) -> Vec<Value> {
    let controller = format!("system:serviceaccount:{}:{CONTROLLER}", install.namespace);
    let by_controller = ("controller", format!("request.userInfo.username == '{controller}'"));
    let by_others = ("others", format!("request.userInfo.username != '{controller}'"));
    [
        tokens(by_controller.clone()),
        secrets(by_controller.clone()),
        owned(by_controller.clone()),
        bindings(by_controller.clone()),
        roles(by_controller.clone(), &install.ceiling),
        bound_roles(by_controller, &install.ceiling),
        reserved_names(by_others.clone()),
        reserved_subjects(by_others),
        owners(),
        requesters(),
    ]
    .into_iter()
    .flat_map(Policy::objects)
    .collect()
}

/// The controller mints tokens for tasks and agents, bound to a task's Secret and short.
fn tokens(by_controller: (&'static str, String)) -> Policy {
    let secret = "object.spec.?boundObjectRef.?name.orValue('')";
    Policy {
        name: "mandate-controller-tokens",
        on: vec![("", &["serviceaccounts/token"])],
        operations: &["CREATE"],
        when: vec![by_controller],
        for_each_role_with: None,
        variables: vec![],
        must: vec![
            (
                reserved("request.name"),
                say(&[
                    "the Mandate controller may mint tokens of tasks and agents only, not of ServiceAccount `",
                    "+request.name",
                    "`",
                ]),
            ),
            (
                // A task's token stands in its own Secret; an agent's in that of any task.
                format!(
                    "object.spec.?boundObjectRef.?kind.orValue('') == 'Secret' && (request.name.startsWith('{TASK_PREFIX}') ? {secret} == request.name : {secret}.startsWith('{TASK_PREFIX}'))"
                ),
                say(&[
                    "a token of ServiceAccount `",
                    "+request.name",
                    "` must be bound to the Secret of its task, so that it dies with the task",
                ]),
            ),
            (
                format!("object.spec.?expirationSeconds.orValue({}) <= {LONGEST_TOKEN}", LONGEST_TOKEN + 1),
                say(&[&format!("the Mandate controller may mint tokens of {LONGEST_TOKEN} seconds at most")]),
            ),
        ],
    }
}

/// The controller writes Secrets of its own type only. A patch answers with the whole
/// object: without this, a patch of nothing would read any Secret.
fn secrets(by_controller: (&'static str, String)) -> Policy {
    Policy {
        name: "mandate-controller-secrets",
        on: vec![SECRETS],
        operations: WRITE_AND_DELETE,
        when: vec![by_controller],
        for_each_role_with: None,
        variables: vec![("secret", "request.operation == 'DELETE' ? oldObject : object".into())],
        must: vec![(
            format!(
                "variables.secret.?type.orValue('') == '{SECRET_TYPE}' && variables.secret.metadata.name.startsWith('{TASK_PREFIX}')"
            ),
            say(&[
                &format!(
                    "the Mandate controller may write Secrets of type {SECRET_TYPE} whose names start with {TASK_PREFIX} only, not `"
                ),
                "+variables.secret.metadata.name",
                "`",
            ]),
        )],
    }
}

/// The controller writes and deletes what bears its names only. Of agents there is nothing but a
/// ServiceAccount, since an agent is bound to no role, ever; and of scopes nothing but Roles.
fn owned(by_controller: (&'static str, String)) -> Policy {
    Policy {
        name: "mandate-controller-owned",
        on: vec![ACCOUNTS, ROLES],
        operations: WRITE_AND_DELETE,
        when: vec![by_controller],
        for_each_role_with: None,
        variables: vec![("name", "request.operation == 'DELETE' ? oldObject.metadata.name : object.metadata.name".into())],
        must: vec![(
            format!(
                "variables.name.startsWith('{TASK_PREFIX}') || (request.resource.resource == 'serviceaccounts' && variables.name.startsWith('{AGENT_PREFIX}')) || (request.resource.resource == 'roles' && variables.name.startsWith('{SCOPE_PREFIX}'))"
            ),
            say(&[
                "the Mandate controller may write what belongs to tasks, agents and scopes only, not `",
                "+variables.name",
                "`",
            ]),
        )],
    }
}

/// The controller binds a Role of a scope to the task's own ServiceAccount: neither a ClusterRole
/// that it happens to hold, nor a second subject. (Or the Role of the task's own name: while an
/// installation is upgraded, the controller of before still works that way for a moment, and a
/// task that is refused is refused for good.)
fn bindings(by_controller: (&'static str, String)) -> Policy {
    let only = "object.subjects[0]";
    Policy {
        name: "mandate-controller-bindings",
        on: vec![(RBAC, &["rolebindings"])],
        operations: WRITE,
        when: vec![by_controller],
        for_each_role_with: None,
        variables: vec![],
        must: vec![
            (
                format!(
                    "object.roleRef.kind == 'Role' && (object.roleRef.name.startsWith('{SCOPE_PREFIX}') || object.roleRef.name == object.metadata.name)"
                ),
                say(&["RoleBinding `", "+object.metadata.name", "` must bind a Role of a scope"]),
            ),
            (
                format!(
                    "object.?subjects.orValue([]).size() == 1 && {only}.kind == 'ServiceAccount' && {only}.name == object.metadata.name && {only}.?namespace.orValue('') == request.namespace"
                ),
                say(&[
                    "RoleBinding `",
                    "+object.metadata.name",
                    "` must have one subject: the ServiceAccount of its own name and namespace",
                ]),
            ),
        ],
    }
}

/// The controller hands out what the ceiling holds, never what it works with itself. RBAC
/// would let it, since it holds that too: whoever took it over could then give a task the
/// right to patch Secrets, and with the token of that task read every one of them; and the
/// author of a scope could give a task what no cluster administrator put into the ceiling.
fn roles(by_controller: (&'static str, String), ceiling: &[KubernetesRule]) -> Policy {
    Policy {
        name: ROLES_POLICY,
        on: vec![(RBAC, &["roles"])],
        operations: WRITE,
        when: vec![by_controller],
        for_each_role_with: None,
        variables: beyond("object", ceiling),
        must: vec![("variables.beyond.size() == 0".into(), say_beyond())],
    }
}

/// The controller binds a task to what the ceiling holds now. A Role of a scope may have stood for
/// long, and the ceiling may have been higher when it was written. RBAC looks at that again when
/// it is bound; this is the same for what RBAC cannot see. A Role that is so new that it is not
/// known here yet has only just been looked at.
fn bound_roles(by_controller: (&'static str, String), ceiling: &[KubernetesRule]) -> Policy {
    Policy {
        name: BOUND_ROLES_POLICY,
        on: vec![(RBAC, &["rolebindings"])],
        operations: WRITE,
        when: vec![by_controller],
        for_each_role_with: Some(SCOPE_LABEL),
        variables: beyond("params", ceiling),
        must: vec![("params.metadata.name != object.roleRef.name || variables.beyond.size() == 0".into(), say_beyond())],
    }
}

/// CEL variables: `beyond` are the rules of a Role that the controller works with itself and that
/// the ceiling does not hold.
fn beyond(role: &str, ceiling: &[KubernetesRule]) -> Vec<(&'static str, String)> {
    let holds = |rule: &str| format!("group in {rule}.apiGroups && resource in {rule}.resources && verb in {rule}.verbs");
    let named = "!has(top.resourceNames) || (rule.?resourceNames.orValue([]).size() > 0 && rule.resourceNames.all(name, name in top.resourceNames))";
    let beyond =
        format!("variables.own.exists(own, {}) && !variables.ceiling.exists(top, {} && ({named}))", holds("own"), holds("top"));
    let some = |list: &str, item: &str, rest: &str| format!("rule.?{list}.orValue([]).exists({item}, {rest})");
    let rule = some("apiGroups", "group", &some("resources", "resource", &some("verbs", "verb", &beyond)));
    vec![
        ("own", literal(&rbac::of_controller())),
        ("ceiling", literal(ceiling)),
        ("beyond", format!("{role}.?rules.orValue([]).filter(rule, {rule})")),
    ]
}

fn say_beyond() -> String {
    say(&[
        "beyond the ceiling: Mandate works with `",
        "+variables.beyond[0].verbs.join(' ')",
        " ",
        "+variables.beyond[0].resources.join(' ')",
        "` itself, and gives a task of that only what ceiling.rules of the installation holds; a cluster administrator can add it there",
    ])
}

/// CEL: rules as a list of maps. The keys are in order, as the chart writes them.
fn literal(rules: &[KubernetesRule]) -> String {
    let map = |KubernetesRule { api_groups, resources, resource_names, verbs }: &KubernetesRule| {
        let mut map =
            BTreeMap::from([("apiGroups", api_groups.clone()), ("resources", resources.clone()), ("verbs", verbs.clone())]);
        if !resource_names.is_empty() {
            map.insert("resourceNames", resource_names.clone());
        }
        json!(map).to_string()
    };
    format!("[{}]", rules.iter().map(map).collect::<Vec<_>>().join(","))
}

/// Nobody else makes or changes what bears the names of tasks, agents and scopes: a pod, a cloud
/// or a reviewer that sees such a name may rely on whose it is, and a task on what it is bound to.
fn reserved_names(by_others: (&'static str, String)) -> Policy {
    Policy {
        name: "mandate-reserved-names",
        on: vec![("", &["serviceaccounts", "secrets"]), ROLES],
        operations: WRITE,
        when: vec![
            by_others,
            (
                "not-kubernetes",
                "request.userInfo.username != 'system:kube-controller-manager' && !request.userInfo.username.startsWith('system:serviceaccount:kube-system:')"
                    .into(),
            ),
            ("reserved", format!("{} || object.metadata.name.startsWith('{SCOPE_PREFIX}')", reserved("object.metadata.name"))),
        ],
        for_each_role_with: None,
        variables: vec![],
        must: vec![(
            "false".into(),
            say(&[
                "`",
                "+object.metadata.name",
                &format!("` is a name that only Mandate may give: those that start with {TASK_PREFIX}, {AGENT_PREFIX} and {SCOPE_PREFIX} belong to tasks, agents and scopes. Choose another name; to give an agent authority, create an AgentTask; to take it back, end the task (`kubectl delete` works too)"),
            ]),
        )],
    }
}

/// Nobody else binds a role to a task or an agent. A binding that already stands may be
/// changed in everything else, so that it can be labelled and its finalizers removed.
fn reserved_subjects(by_others: (&'static str, String)) -> Policy {
    let users = format!("^system:serviceaccount:[^:]+:({TASK_PREFIX}|{AGENT_PREFIX})");
    let subject =
        format!("(s.kind == 'ServiceAccount' && {}) || (s.kind == 'User' && s.name.matches('{users}'))", reserved("s.name"));
    Policy {
        name: "mandate-reserved-subjects",
        on: vec![(RBAC, &["rolebindings", "clusterrolebindings"])],
        operations: WRITE,
        when: vec![by_others],
        for_each_role_with: None,
        variables: vec![("reserved", format!("object.?subjects.orValue([]).filter(s, {subject})"))],
        must: vec![(
            "variables.reserved.size() == 0 || (request.operation == 'UPDATE' && object.?subjects.orValue([]) == oldObject.?subjects.orValue([]) && object.roleRef == oldObject.roleRef)".into(),
            say(&["`", "+variables.reserved[0].name", "` is of a task or an agent, and a task gets its authority from its TaskScope: put the rules there instead of binding a role"]),
        )],
    }
}

/// What a task owns stays the task's, whoever asks. Deleting the task so that it orphans
/// (`--cascade=orphan`) would have Kubernetes' garbage collector take the owner off all of it,
/// and nobody would take back an authority that nobody owns. The collector keeps the task and
/// tries again until the controller has taken everything back. So it is with the Roles of a scope,
/// which the controller takes back as the scope's tasks end.
fn owners() -> Policy {
    let of = |object: &str| format!("{object}.metadata.?ownerReferences.orValue([]).map(owner, owner.uid)");
    Policy {
        name: "mandate-owners",
        on: vec![("", &["serviceaccounts", "secrets"]), ROLES],
        operations: &["UPDATE"],
        when: vec![(
            "of-a-task-or-scope",
            format!("object.metadata.name.startsWith('{TASK_PREFIX}') || object.metadata.name.startsWith('{SCOPE_PREFIX}')"),
        )],
        for_each_role_with: None,
        variables: vec![],
        must: vec![(
            format!("{} == {}", of("object"), of("oldObject")),
            say(&[
                "`",
                "+object.metadata.name",
                "` belongs to a task or a scope and cannot be orphaned; Mandate takes it back when the task ends or the scope is deleted",
            ]),
        )],
    }
}

/// Who asked for a task is who asked for it. The webhook writes it down; this holds where the
/// webhook is not registered, or is not the one it should be.
fn requesters() -> Policy {
    let same = |field: &str, none: &str| {
        format!("object.spec.?requestedBy.?{field}.orValue({none}) == request.userInfo.?{field}.orValue({none})")
    };
    Policy {
        name: "mandate-requesters",
        on: vec![(GROUP, &["agenttasks"])],
        operations: &["CREATE"],
        when: vec![],
        for_each_role_with: None,
        variables: vec![],
        must: vec![(
            [same("username", "''"), same("groups", "[]"), same("extra", "{}")].join(" && "),
            say(&[
                "spec.requestedBy must say who asks, `",
                "+request.userInfo.username",
                "`; the webhook of Mandate writes it, so it is not registered or did not answer",
            ]),
        )],
    }
}

/// CEL: the text is a name of tasks or agents.
fn reserved(text: &str) -> String {
    format!("({text}.startsWith('{TASK_PREFIX}') || {text}.startsWith('{AGENT_PREFIX}'))")
}

/// CEL: a text of parts; a part that starts with `+` is an expression.
fn say(parts: &[&str]) -> String {
    let part = |part: &&str| part.strip_prefix('+').map_or_else(|| format!("'{part}'"), str::to_owned);
    parts.iter().map(part).collect::<Vec<_>>().join(" + ")
}

impl Policy {
    fn objects(self) -> [Value; 2] {
        let Self { name, on, operations, when, for_each_role_with, variables, must } = self;
        let named = |list: Vec<(&str, String)>| {
            list.into_iter().map(|(name, expression)| json!({"name": name, "expression": expression})).collect::<Vec<_>>()
        };
        let rules: Vec<Value> = on
            .into_iter()
            .map(|(group, resources)| json!({"operations": operations, "apiGroups": [group], "apiVersions": [if group == GROUP { "v1alpha1" } else { "v1" }], "resources": resources}))
            .collect();
        // Forbidden, as RBAC would have said it; a policy's own word would be Invalid.
        let validations: Vec<Value> = must
            .into_iter()
            .map(|(expression, message)| json!({"expression": expression, "messageExpression": message, "reason": "Forbidden"}))
            .collect();
        let mut spec = json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"matchPolicy": "Equivalent", "resourceRules": rules},
            "validations": validations,
        });
        if !when.is_empty() {
            spec["matchConditions"] = json!(named(when));
        }
        if !variables.is_empty() {
            spec["variables"] = json!(named(variables));
        }
        let mut bound = json!({"policyName": name, "validationActions": ["Deny"]});
        if let Some(label) = for_each_role_with {
            spec["paramKind"] = json!({"apiVersion": format!("{RBAC}/v1"), "kind": "Role"});
            let selector = json!({"matchExpressions": [{"key": label, "operator": "Exists"}]});
            bound["paramRef"] = json!({"selector": selector, "parameterNotFoundAction": "Allow"});
        }
        [
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": meta(None, name), "spec": spec}),
            json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": meta(None, name),
                "spec": bound,
            }),
        ]
    }
}
