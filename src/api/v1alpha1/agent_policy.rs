//! `AgentPolicy` and `ClusterAgentPolicy`: guardrails. They restrict; they never grant.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::action_rule::ActionRule;
use crate::api::value::{Duration, Owner, RuleName};

/// Guardrails for the agents and pods of one namespace.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "mandate.dev",
    version = "v1alpha1",
    kind = "AgentPolicy",
    plural = "agentpolicies",
    namespaced,
    doc = "Guardrails for the agents and pods of one namespace. A policy restricts and never grants; where several apply, each of them holds.",
    status = "AgentPolicyStatus",
    derive = "PartialEq",
    shortname = "apol",
    category = "mandate",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.workloads.profile"),
    printcolumn(name = "Deny", type_ = "integer", json_path = ".status.violations.deny"),
    printcolumn(name = "Warn", type_ = "integer", json_path = ".status.violations.warn"),
    printcolumn(name = "Team", type_ = "string", json_path = ".spec.owner.team"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AgentPolicySpec {
    /// The guardrails.
    #[serde(flatten)]
    pub guardrails: Guardrails,
}

/// Guardrails for the agents and pods of several namespaces, or of all guarded ones.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "mandate.dev",
    version = "v1alpha1",
    kind = "ClusterAgentPolicy",
    plural = "clusteragentpolicies",
    doc = "Guardrails for the agents and pods of several namespaces, or of all that Mandate guards. Where one applies, it takes the place of the built-in policy (profile baseline, enforced).",
    status = "AgentPolicyStatus",
    derive = "PartialEq",
    shortname = "capol",
    category = "mandate",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.workloads.profile"),
    printcolumn(name = "Namespaces", type_ = "string", json_path = ".spec.namespaces"),
    printcolumn(name = "Deny", type_ = "integer", json_path = ".status.violations.deny"),
    printcolumn(name = "Warn", type_ = "integer", json_path = ".status.violations.warn"),
    printcolumn(name = "Team", type_ = "string", json_path = ".spec.owner.team"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAgentPolicySpec {
    /// Namespaces it holds in, by name. None named (the default) means every guarded
    /// namespace. Example: `["finance", "research"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
    /// The guardrails.
    #[serde(flatten)]
    pub guardrails: Guardrails,
    /// Static secrets that scopes may hand to a task as `secretKey` credentials. Each is an
    /// accepted risk that this policy's owner answers for. None by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allow_secret_keys: Vec<AllowedSecretKey>,
    /// Which PolicyWaivers count against this policy, in the namespaces it holds in; against
    /// AgentPolicies there and the built-in policy too, which have no say of their own. Left
    /// out (the default), none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waivers: Option<HonouredWaivers>,
}

impl ClusterAgentPolicySpec {
    /// Whether the policy holds in a namespace.
    #[must_use]
    pub fn holds_in(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|name| name == namespace)
    }
}

impl AsRef<Guardrails> for AgentPolicy {
    fn as_ref(&self) -> &Guardrails {
        &self.spec.guardrails
    }
}

impl AsRef<Guardrails> for ClusterAgentPolicy {
    fn as_ref(&self) -> &Guardrails {
        &self.spec.guardrails
    }
}

/// Which waivers a policy honours.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HonouredWaivers {
    /// Rules that may be waived. None named (the default) means every rule that a waiver can
    /// name. Example: `["secret-env", "image-pull-secret"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<RuleName>,
    /// Longest life of a waiver, from its creation to its `expiresAt`, `1m` to `8784h`. One
    /// that lives longer does not count at all. Default `720h` (30 days).
    #[serde(default = "thirty_days")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m')").message("maxLife must be `1m` at least"))]
    pub max_life: Duration,
}

fn thirty_days() -> Duration {
    Duration::from_secs(720 * 3600)
}

impl HonouredWaivers {
    /// Whether a rule may be waived.
    #[must_use]
    pub fn takes(&self, rule: &str) -> bool {
        self.rules.is_empty() || self.rules.iter().any(|name| name.as_str() == rule)
    }
}

/// What a policy asks for, in one namespace or in many.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Guardrails {
    /// Who answers for the policy.
    pub owner: Owner,
    /// What happens where it is broken: `enforce` (default) refuses, `warn` lets pass with a
    /// warning to the author, `audit` lets pass and records it in the audit log.
    #[serde(default)]
    pub mode: Mode,
    /// Controls it documents, as their frameworks write them. It changes nothing that is
    /// decided. Example: `["OWASP-NHI-07", "NIST-AI-RMF-GOVERN-1.4"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 64)))]
    pub controls: Vec<String>,
    /// What pods may hold. Left out, the policy says nothing about pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<Workloads>,
    /// What agents may not do, or not without more; decided at each action. None by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub rules: Vec<ActionRule>,
}

/// What pods may hold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Workloads {
    /// `baseline` (default) refuses references to Secrets, legacy tokens and lives that are
    /// too long, and warns about the rest; `restricted` refuses every finding.
    #[serde(default)]
    pub profile: Profile,
    /// Longest life of a token or certificate projected into a pod, `10m` to `24h`.
    /// Default `1h`.
    #[serde(rename = "maxTokenTTL", default = "one_hour")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10m') && duration(self) <= duration('24h')").message("maxTokenTTL must lie between `10m` (the API server issues nothing shorter) and `24h`"))]
    pub max_token_ttl: Duration,
    /// Rules in which this policy departs from its profile. None by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub rules: Vec<RuleSetting>,
}

impl Workloads {
    /// What holds in a guarded namespace that no ClusterAgentPolicy speaks of.
    pub const BUILT_IN: Self = Self { profile: Profile::Baseline, max_token_ttl: Duration::from_secs(3600), rules: vec![] };

    /// How this policy departs from its profile in one rule.
    #[must_use]
    pub fn setting(&self, rule: &str) -> Option<&RuleSetting> {
        self.rules.iter().find(|setting| setting.name.as_str() == rule)
    }
}

/// How a policy departs from its profile in one rule.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RuleSetting {
    /// The rule; `mandate explain` lists them. Example: `image-pull-secret`.
    pub name: RuleName,
    /// What happens where it is broken: `deny`, `warn`, `audit` or `off`, in the place of what
    /// the profile says; the policy's `mode` still holds it down. Left out, the profile holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// What the rule lets pass, for rules that take it (`mandate explain RULE` says what it
    /// names): exact texts, or beginnings that end with `*`. None by default. Example:
    /// `["registry-*"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    pub allow: Vec<String>,
}

impl RuleSetting {
    /// Whether `allow` names this text.
    #[must_use]
    pub fn allows(&self, text: &str) -> bool {
        self.allow.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(beginning) => text.starts_with(beginning),
            None => allowed == text,
        })
    }
}

/// What happens where a rule is broken.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Refuse.
    Deny,
    /// Let pass and warn the author.
    Warn,
    /// Let pass and record.
    Audit,
    /// Do not look.
    Off,
}

fn one_hour() -> Duration {
    Duration::from_secs(3600)
}

/// What happens where a policy is broken.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Let pass and record.
    Audit,
    /// Let pass and warn the author.
    Warn,
    /// Refuse.
    #[default]
    Enforce,
}

/// How much is refused.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Profile {
    /// References to Secrets, legacy tokens, lives that are too long.
    #[default]
    Baseline,
    /// Every finding.
    Restricted,
}

/// One Secret, some of whose keys scopes may name in `secretKey` credentials.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AllowedSecretKey {
    /// Name of the Secret, in each namespace the policy holds in.
    #[schemars(length(min = 1, max = 253), pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub secret_name: String,
    /// Keys of the Secret that may be copied.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 253)))]
    pub keys: Vec<String>,
    /// Why nothing better than a static secret will do. Example: `the CRM takes API keys
    /// only until its OIDC release in March`.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
}

/// What Mandate's controller finds standing against a policy.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentPolicyStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What stands against it in guarded namespaces. Left out until all has been looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub violations: Option<Violations>,
    /// Since when the numbers are these. They are kept current, and written when they change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
}

/// Findings in what stands: in pods and other objects that were let in before the policy
/// asked for more, before Mandate came, or while it was down.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Violations {
    /// Findings that would be refused today.
    pub deny: i64,
    /// Findings that would warn today, those that a waiver lets pass among them.
    pub warn: i64,
    /// Findings that would be recorded in the audit log today.
    pub audit: i64,
}
