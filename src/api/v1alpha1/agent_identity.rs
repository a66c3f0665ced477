//! `AgentIdentity`: an agent exists, and somebody answers for it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::value::{Duration, Owner};

/// An agent: who answers for it, for whom it may act and what it may be given. An identity
/// by itself may do nothing: authority comes with an AgentTask and goes with it. It is
/// separate from every user: acting for a person never makes it that person.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "mandate.dev",
    version = "v1alpha1",
    kind = "AgentIdentity",
    plural = "agentidentities",
    namespaced,
    doc = "An agent: who answers for it, for whom it may act and what it may be given. It has no authority of its own; an AgentTask brings it for a while.",
    status = "AgentIdentityStatus",
    derive = "PartialEq",
    shortname = "agent",
    category = "mandate",
    printcolumn(name = "Team", type_ = "string", json_path = ".spec.owner.team"),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Purpose", type_ = "string", json_path = ".spec.purpose", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 49").message("the name may have 49 characters at most: its ServiceAccount is called `mandate-agent-<name>`"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("the name may hold lower-case letters, digits and `-` only")
)]
#[serde(rename_all = "camelCase")]
pub struct AgentIdentitySpec {
    /// Who answers for the agent.
    pub owner: Owner,
    /// What the agent is for, in words a reviewer understands. Example: `Reconciles supplier
    /// invoices with the ledger`.
    #[schemars(length(min = 1, max = 512))]
    pub purpose: String,
    /// The people this agent may act for. Nobody by default.
    #[serde(default, skip_serializing_if = "ActsFor::is_nobody")]
    pub acts_for: ActsFor,
    /// Audiences outside the API server that this agent may get tokens for, each as the
    /// receiving system writes it. None by default. Example: `["https://ledger.finance.svc"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)))]
    pub audiences: Vec<String>,
    /// Longest life of a task of this agent, `1m` to `24h`. A task that asks for more is
    /// refused. Default `1h`.
    #[serde(rename = "maxTTL", default = "one_hour")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('24h')").message("maxTTL must lie between `1m` and `24h`"))]
    pub max_ttl: Duration,
    /// Kill switch. While true, every running task of this agent ends at once and none
    /// starts. Default false.
    #[serde(default)]
    pub suspend: bool,
}

fn one_hour() -> Duration {
    Duration::from_secs(3600)
}

/// The people an agent may act for, by user name or by group.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ActsFor {
    /// User names, as the API server's authentication gives them. Example:
    /// `["alice@example.com"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub users: Vec<String>,
    /// Groups, as the API server's authentication gives them. A group counts only where the
    /// person asks for the task themselves, since nobody else's groups can be known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub groups: Vec<String>,
}

impl ActsFor {
    /// Whether the agent may act for no one.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

/// What Mandate has made of an identity.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentIdentityStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The identity's ServiceAccount. It is bound to no role, ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// `Ready`, and `Stalled` where a person must act.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
