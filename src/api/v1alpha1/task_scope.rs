//! `TaskScope`: a reusable grant. Scopes grant; everything else only restricts.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use std::collections::BTreeMap;

use super::action_rule::Bound;
use crate::api::value::{Classification, Duration, KubernetesRule, Pattern};

/// What a kind of task may do: a grant that tasks ask for by name. Whoever writes one must
/// hold every Kubernetes permission in it, and no task gets more than the cluster's ceiling.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "mandate.dev",
    version = "v1alpha1",
    kind = "TaskScope",
    namespaced,
    doc = "What a kind of task may do: a grant that tasks ask for by name. Whoever writes one must hold every Kubernetes permission in it, and no task gets more than the cluster's ceiling.",
    derive = "PartialEq",
    shortname = "scope",
    category = "mandate",
    printcolumn(name = "Max TTL", type_ = "string", json_path = ".spec.maxTTL"),
    printcolumn(name = "Intent", type_ = "string", json_path = ".spec.intent"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name may have 63 characters at most")
)]
#[serde(rename_all = "camelCase")]
pub struct TaskScopeSpec {
    /// What tasks with this scope are for, in words. Example: `Match supplier invoices with
    /// ledger entries and report differences`.
    #[schemars(length(min = 1, max = 512))]
    pub intent: String,
    /// Longest life of a task with this scope, `1s` to `24h`. A task that asks for more is
    /// refused. Default `15m`.
    #[serde(rename = "maxTTL", default = "fifteen_minutes")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("maxTTL must lie between `1s` and `24h`"))]
    pub max_ttl: Duration,
    /// What a task may do with the Kubernetes API, in its own namespace. Nothing by default.
    #[serde(default, skip_serializing_if = "KubernetesGrant::is_empty")]
    pub kubernetes: KubernetesGrant,
    /// What a task may call. Nothing by default: what no entry names is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tools: Vec<ToolGrant>,
    /// How much a task may call in all. No limit by default.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// Which agents may be given a part of the work, as child tasks. None by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation: Option<Delegation>,
    /// Credentials a task gets in its Secret, for its life. None by default; a scope with
    /// Kubernetes rules also issues one called `kubernetes` for the API server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub credentials: Vec<Credential>,
    /// Whether pods of the task outlive it. By default (false) a pod gets
    /// `activeDeadlineSeconds` of the life that remains, and the kubelet ends it even when
    /// Mandate is down. With true the pod goes on without authority.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_pods: bool,
}

fn fifteen_minutes() -> Duration {
    Duration::from_secs(900)
}

/// Some tools of one server.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ToolGrant {
    /// The ToolServer: its name, or `namespace/name` of one that this namespace may use.
    #[schemars(length(min = 1, max = 127), pattern(r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub server: String,
    /// The tools, each by its exact name. Example: `["read", "search"]`.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 128)))]
    pub names: Vec<String>,
    /// Data up to this classification; what is higher is denied. Default `internal`.
    #[serde(default = "internal")]
    pub classification: Classification,
    /// Only these resources, by id; each `*` stands for any text. Default: every resource.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub resources: Vec<Pattern>,
    /// Bounds on arguments, by name. A call must give each argument that is named here. Example:
    /// `{rows: {max: 1000}}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub arguments: BTreeMap<String, Bound>,
}

fn internal() -> Classification {
    Classification::Internal
}

/// How much a task may call in all. Denied calls do not count.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Calls in the life of a task, 1 to 1,000,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub actions: Option<u32>,
    /// Calls in any 60 seconds, 1 to 100,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub per_minute: Option<u32>,
}

impl Limits {
    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// To whom and how far a task of a scope may be delegated. A child never holds more than its
/// parent, whatever its own scope says.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Delegation {
    /// Agents that child tasks may be of, each by the name of its AgentIdentity; the task's own
    /// agent too, where it is named. Example: `["report-writer"]`.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 63)))]
    pub to: Vec<String>,
    /// How many tasks may stand below one another under a task of this scope, 1 to 8. With 1 it
    /// has children and no grandchildren. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 8))]
    pub max_depth: u32,
    /// How many children a task may have at the same time, 1 to 64; those that are over do not
    /// count. Default 16.
    #[serde(default = "sixteen")]
    #[schemars(range(min = 1, max = 64))]
    pub max_children: u32,
}

fn one() -> u32 {
    1
}

fn sixteen() -> u32 {
    16
}

/// Rights on the Kubernetes API.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesGrant {
    /// RBAC-like rules for the task's namespace. At most 256 single permissions in all
    /// (verb x resource x name).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub rules: Vec<KubernetesRule>,
}

impl KubernetesGrant {
    fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// One credential that a task gets: exactly one of `serviceAccountToken` and `secretKey`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.serviceAccountToken) != has(self.secretKey)").message("give exactly one of `serviceAccountToken` (the normal way) and `secretKey` (an accepted risk)"),
    validation = Rule::new("self.name != 'kubernetes' || (has(self.serviceAccountToken) && !has(self.serviceAccountToken.audience))").message("`kubernetes` names the token for the API server: give it no audience, or choose another name")
)]
pub struct Credential {
    /// Name, and key in the task's Secret; also the file name in the task's pods. Example:
    /// `ledger`.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// A short-lived token signed by the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_token: Option<ServiceAccountToken>,
    /// A copy of one key of a Secret in the same namespace, for systems that take nothing
    /// better. It goes with the task, but whoever read it keeps it: a ClusterAgentPolicy must
    /// allow it, and the task shows it as an accepted risk with its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<SecretKey>,
}

/// A token by the API server's TokenRequest, bound to the task's Secret: it dies with the task.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.subject) || self.subject != 'identity' || has(self.audience)").message("a token in the identity's name needs an `audience`: for the API server only the task's own token is issued"))]
pub struct ServiceAccountToken {
    /// Who the token is for, as the receiver writes it; it must be among the identity's
    /// `audiences`. Left out, it is for the API server. Example: `https://ledger.finance.svc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub audience: Option<String>,
    /// Life of one token, `10m` (the API server's floor) to `1h`; renewed at 80 % of it while
    /// the task runs. Default `10m`.
    #[serde(default = "ten_minutes")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10m') && duration(self) <= duration('1h')").message("ttl must lie between `10m` (the API server issues nothing shorter) and `1h`"))]
    pub ttl: Duration,
    /// In whose name: `task` (default; a subject of this task alone) or `identity` (the
    /// agent's stable subject, for receivers such as clouds that trust a fixed one).
    #[serde(default, skip_serializing_if = "Subject::is_task")]
    pub subject: Subject,
}

impl Default for ServiceAccountToken {
    fn default() -> Self {
        Self { audience: None, ttl: ten_minutes(), subject: Subject::Task }
    }
}

fn ten_minutes() -> Duration {
    Duration::from_secs(600)
}

/// In whose name a token is issued.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    /// The task's own ServiceAccount.
    #[default]
    Task,
    /// The agent's ServiceAccount, which has no rights in the cluster.
    Identity,
}

impl Subject {
    fn is_task(&self) -> bool {
        *self == Self::Task
    }
}

/// One key of a Secret.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret, in the scope's namespace.
    #[schemars(length(min = 1, max = 253), pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub secret_name: String,
    /// Key in the Secret's data.
    #[schemars(length(min = 1, max = 253), pattern(r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}
