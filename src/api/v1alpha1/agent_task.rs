//! `AgentTask`: one unit of work, and the only thing that brings an agent authority.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::task_scope::ToolGrant;
use crate::api::value::{Duration, KubernetesRule, Owner};

/// One unit of work of one agent. Authority comes when every check has passed and goes when
/// the task ends: completed, revoked, expired, or no longer allowed.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "mandate.dev",
    version = "v1alpha1",
    kind = "AgentTask",
    namespaced,
    doc = "One unit of work of one agent. Authority comes when every check has passed and goes when the task ends: completed, revoked, expired, or no longer allowed.",
    status = "AgentTaskStatus",
    derive = "PartialEq",
    shortname = "atask",
    category = "mandate",
    selectable = ".spec.agent",
    selectable = ".spec.scope",
    selectable = ".status.phase",
    printcolumn(name = "Agent", type_ = "string", json_path = ".spec.agent"),
    printcolumn(name = "Scope", type_ = "string", json_path = ".spec.scope"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expiresAt"),
    printcolumn(name = "Requested By", type_ = "string", json_path = ".spec.requestedBy.username", priority = 1),
    printcolumn(name = "For", type_ = "string", json_path = ".spec.onBehalfOf.user", priority = 1),
    printcolumn(name = "Parent", type_ = "string", json_path = ".spec.parent", priority = 1),
    printcolumn(name = "Objective", type_ = "string", json_path = ".spec.objective", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name may have 63 characters at most: pods carry it as the value of the label `mandate.dev/task`"),
    validation = Rule::new("!has(self.spec.parent) || self.spec.parent != self.metadata.name").message("a task cannot be its own parent")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.agent == oldSelf.agent && self.scope == oldSelf.scope && self.objective == oldSelf.objective && self.ttl == oldSelf.ttl && self.historyTTL == oldSelf.historyTTL && has(self.onBehalfOf) == has(oldSelf.onBehalfOf) && (!has(self.onBehalfOf) || self.onBehalfOf == oldSelf.onBehalfOf) && has(self.narrow) == has(oldSelf.narrow) && (!has(self.narrow) || self.narrow == oldSelf.narrow) && has(self.requestedBy) == has(oldSelf.requestedBy) && (!has(self.requestedBy) || self.requestedBy == oldSelf.requestedBy) && has(self.parent) == has(oldSelf.parent) && (!has(self.parent) || self.parent == oldSelf.parent)").message("a task does not change once it exists, but for `end`: create a new task"),
    validation = Rule::new("!has(oldSelf.end) || (has(self.end) && self.end == oldSelf.end)").message("`end` is final")
)]
pub struct AgentTaskSpec {
    /// The AgentIdentity that does the work, in the same namespace.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub agent: String,
    /// The TaskScope that says what the task may do, in the same namespace.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub scope: String,
    /// What is to be reached, in words; it is recorded with everything the task does.
    /// Example: `Reconcile the October invoices of supplier 4711`.
    #[schemars(length(min = 1, max = 1024))]
    pub objective: String,
    /// The task that delegates to this one, in the same namespace. This task then holds no more
    /// than that one, counts towards its limits, and ends with it at the latest. The parent's scope
    /// must allow it in `delegation`. Left out, it is nobody's child. Example:
    /// `reconcile-october`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub parent: Option<String>,
    /// The person the task acts for. The task then holds no Kubernetes permission that the
    /// person does not hold themselves. Left out, it acts for the person that its parent acts
    /// for, and without a parent for nobody. A child names no other person than its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<Person>,
    /// Life of the task, counted from its creation; `1s` to `24h`, and no longer than the
    /// scope's and the identity's `maxTTL`. Default `15m`.
    #[serde(default = "fifteen_minutes")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("ttl must lie between `1s` and `24h`"))]
    pub ttl: Duration,
    /// Less than the scope gives. Left out, the task gets all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub narrow: Option<Narrowing>,
    /// How long the finished task stays to be looked at; `0s` to `720h`. Default `24h`.
    #[serde(rename = "historyTTL", default = "one_day")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('720h')").message("historyTTL may be `720h` at most"))]
    pub history_ttl: Duration,
    /// Who asked for the task. Written by Mandate's webhook from the request itself; what an
    /// author writes here is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<Requester>,
    /// Set it to end the task: its authority is taken back at once. Final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

fn fifteen_minutes() -> Duration {
    Duration::from_secs(900)
}

fn one_day() -> Duration {
    Duration::from_secs(86_400)
}

/// A person, by the name the API server's authentication gives them.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Person {
    /// User name. Unless it is the requester, the requester needs the RBAC verb `act-for` on
    /// `users.mandate.dev` with this name. Example: `alice@example.com`.
    #[schemars(length(min = 1, max = 256))]
    pub user: String,
}

/// Less than the scope gives. Whatever is listed must be covered by the scope.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Narrowing {
    /// These Kubernetes rules in the place of the scope's. Left out, the scope's hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub rules: Option<Vec<KubernetesRule>>,
    /// Only these of the scope's credentials, by name. Left out, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    pub credentials: Option<Vec<String>>,
    /// Only these of the scope's tools, as `server/tool`. Left out, all of them. Example:
    /// `["ledger/read"]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 3, max = 256)))]
    pub tools: Option<Vec<String>>,
}

/// The user that created the task, as the API server authenticated them.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Requester {
    /// User name.
    #[schemars(length(max = 1024))]
    pub username: String,
    /// UID, where the authentication gives one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub uid: String,
    /// Groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512), inner(length(max = 1024)))]
    pub groups: Vec<String>,
    /// Extra attributes that authorizers may look at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// How a task is ended by its owner.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// `Completed` (the objective is reached), `Failed` (it is not) or `Revoked` (somebody
    /// takes the authority back).
    pub reason: EndReason,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
}

/// How a task is ended by its owner.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The objective is reached.
    Completed,
    /// The objective is not reached.
    Failed,
    /// Somebody takes the authority back.
    Revoked,
}

/// Where a task stands.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is issued yet.
    #[default]
    Pending,
    /// The task has its authority.
    Active,
    /// The task had authority, or never needed it, and it is taken back.
    Ended,
    /// A check failed; nothing was ever issued.
    Refused,
}

/// What Mandate has made of a task. It never holds a credential.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentTaskStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Pending`, `Active`, `Ended` or `Refused`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Why it stands where it stands, in one word, such as `Issued`, `Expired`, `BeyondCeiling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When authority was first issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the task ends by itself: creation plus `ttl`, or with its parent where that is
    /// earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// When its authority was taken back, or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// The tasks above this one when it got its authority, the root first and its parent last.
    /// They are the same for its whole life: a task made anew under one of these names is
    /// another. Empty for a task without a parent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub chain: Vec<Link>,
    /// ServiceAccount of the task; its RoleBinding has the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Secret with the task's credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// What was granted when the task started; it can shrink and never grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
    /// Credentials in the Secret, without their values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub credentials: Vec<IssuedCredential>,
    /// Static secrets among the credentials, and who answers for each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub accepted_risks: Vec<AcceptedRisk>,
    /// `Ready`, `Reconciling`, `Stalled`, and `Ended` once the task is over.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A task above another.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Name of the task.
    #[schemars(length(max = 63))]
    pub task: String,
    /// Its UID.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Its AgentIdentity.
    #[schemars(length(max = 63))]
    pub agent: String,
}

/// What a task was granted at its start.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Grant {
    /// UID of the TaskScope it was taken from; a scope made anew under the same name is
    /// another scope.
    #[serde(rename = "scopeUID")]
    pub scope_uid: String,
    /// Kubernetes rules the task holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub rules: Vec<KubernetesRule>,
    /// Tools the task may call, where the scope still grants them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tools: Vec<ToolGrant>,
}

/// One credential that was issued.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IssuedCredential {
    /// Name, as in the scope, and key in the Secret.
    pub name: String,
    /// Audience of the token; none for the API server and for static secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Id of the token (`jti`), by which the API server's audit log names it.
    #[serde(rename = "tokenID", default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// When it was issued.
    pub issued_at: Time,
    /// When it expires by itself; none for static secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

/// A static secret in a task's hands.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedRisk {
    /// Name of the credential.
    pub credential: String,
    /// Secret the value was copied from.
    pub secret_name: String,
    /// ClusterAgentPolicy that allows it.
    pub policy: String,
    /// Who answers for it: the owner of that policy.
    pub owner: Owner,
    /// The reason that the policy gives.
    pub reason: String,
}
