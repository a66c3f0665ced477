//! `PolicyWaiver`: an accepted risk, for exact objects, exact rules, and a while.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::value::{Owner, RuleName};

/// An accepted risk: what these rules find in exactly these objects warns instead of refusing,
/// until the waiver expires. It counts only where a ClusterAgentPolicy honours it
/// (`spec.waivers`), and never for the rules that guard what Mandate itself hands out.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "mandate.dev",
    version = "v1alpha1",
    kind = "PolicyWaiver",
    namespaced,
    doc = "An accepted risk: what these rules find in exactly these objects warns instead of refusing, until the waiver expires. It counts only where a ClusterAgentPolicy honours it.",
    status = "PolicyWaiverStatus",
    derive = "PartialEq",
    shortname = "pwaiver",
    category = "mandate",
    printcolumn(name = "Team", type_ = "string", json_path = ".spec.owner.team"),
    // Not of type `date`: the API server shows a date to come as `<invalid>`.
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(name = "Days Left", type_ = "integer", json_path = ".status.daysLeft"),
    printcolumn(name = "Uses", type_ = "integer", json_path = ".status.uses"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Last Used", type_ = "date", json_path = ".status.lastUsed", priority = 1),
    printcolumn(name = "Why", type_ = "string", json_path = ".spec.reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.owner == oldSelf.owner && self.reason == oldSelf.reason && self.rules == oldSelf.rules && self.objects == oldSelf.objects").message("a waiver does not change once it exists, but that it may expire earlier: create a new one, which is a new decision"),
    validation = Rule::new("self.expiresAt <= oldSelf.expiresAt").message("expiresAt may be brought forward, never back: to go on, create a new waiver, which is a new decision")
)]
pub struct PolicyWaiverSpec {
    /// Who accepts the risk and answers for it.
    pub owner: Owner,
    /// Why the risk is accepted, in words a reviewer understands. Example: `the ledger takes
    /// API keys only until its OIDC release in March`.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// When the waiver ends by itself, as an RFC 3339 time; from that second on it counts no
    /// more. It may be brought forward (a time that is past ends the waiver now), never back.
    /// How far off it may lie, the honouring policy says (`waivers.maxLife`). Example:
    /// `2026-03-31T18:00:00Z`.
    pub expires_at: Time,
    /// The rules that are waived, 1 to 16; `mandate explain` lists them. Those that guard what
    /// Mandate itself hands out cannot be named. Example: `["secret-env"]`.
    #[schemars(length(min = 1, max = 16))]
    pub rules: Vec<RuleName>,
    /// The objects in which they are waived, 1 to 32, each by its exact name, in the waiver's
    /// own namespace. A workload stands for its template and for the pods that Kubernetes'
    /// own controllers make from it. Example: `[{kind: Deployment, name: ledger-sync}]`.
    #[schemars(length(min = 1, max = 32))]
    pub objects: Vec<WaivedObject>,
}

/// One object, by its exact name: there are no patterns.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.apiVersion) || self.kind in ['Pod', 'Secret', 'ServiceAccount', 'ConfigMap', 'PersistentVolumeClaim', 'ReplicationController', 'PodTemplate', 'Deployment', 'ReplicaSet', 'StatefulSet', 'DaemonSet', 'Job', 'CronJob']").message("give the `apiVersion` as well: only Kubernetes' own workloads go without"))]
pub struct WaivedObject {
    /// API version, as the object's manifest has it; of it only the group counts. It may be
    /// left out for `Pod`, `Secret`, `ServiceAccount`, `ConfigMap`, `PersistentVolumeClaim`
    /// and Kubernetes' own workloads. Example: `argoproj.io/v1alpha1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317), pattern(r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?v[0-9][a-z0-9]*$"))]
    pub api_version: Option<String>,
    /// Kind. Of requests for tokens (`kubectl create token`) it is `ServiceAccount`. Example:
    /// `Deployment`.
    #[schemars(length(min = 1, max = 63), pattern(r"^[A-Z][A-Za-z0-9]*$"))]
    pub kind: String,
    /// Name. Example: `ledger-sync`.
    #[schemars(length(min = 1, max = 253), pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

impl WaivedObject {
    /// The API group; empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        match (&self.api_version, self.kind.as_str()) {
            (Some(version), _) => version.split_once('/').map_or("", |(group, _)| group),
            (None, "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") => "apps",
            (None, "Job" | "CronJob") => "batch",
            (None, _) => "",
        }
    }
}

/// What Mandate's controller sees of a waiver.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyWaiverStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Whole days until it expires: 0 on its last day and ever after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days_left: Option<i64>,
    /// How many objects came to stand because of it, each counted once. What the webhook let
    /// pass shows here as soon as it stands; what was refused for another reason does not.
    pub uses: i64,
    /// When the latest of them was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Time>,
    /// How many objects stand because of it now.
    pub covers: i64,
    /// The first 32 of them, as `Kind/name`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 320)))]
    pub objects: Vec<String>,
    /// `Ready`: whether the waiver counts, and if not, why.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
