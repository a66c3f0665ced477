//! Version `v1alpha1`: one file a kind.

mod action_rule;
mod agent_identity;
mod agent_policy;
mod agent_task;
mod policy_waiver;
mod task_scope;
mod tool_server;

pub use action_rule::{
    ActionMatch, ActionRule, ApprovalDemand, Bound, CountedBy, HistoryCondition, RateLimit, TimeWindow, Weekday, When,
};
pub use agent_identity::{ActsFor, AgentIdentity, AgentIdentitySpec, AgentIdentityStatus};
pub use agent_policy::{
    Action, AgentPolicy, AgentPolicySpec, AgentPolicyStatus, AllowedSecretKey, ClusterAgentPolicy, ClusterAgentPolicySpec,
    Guardrails, HonouredWaivers, Mode, Profile, RuleSetting, Violations, Workloads,
};
pub use agent_task::{
    AcceptedRisk, AgentTask, AgentTaskSpec, AgentTaskStatus, End, EndReason, Grant, IssuedCredential, Link, Narrowing, Person,
    Phase, Requester,
};
pub use policy_waiver::{PolicyWaiver, PolicyWaiverSpec, PolicyWaiverStatus, WaivedObject};
pub use task_scope::{
    Credential, Delegation, KubernetesGrant, Limits, SecretKey, ServiceAccountToken, Subject, TaskScope, TaskScopeSpec, ToolGrant,
};
pub use tool_server::{
    Argument, ArgumentType, ChangedTool, Drift, McpServer, ResourceClass, Tool, ToolServer, ToolServerSpec, ToolServerStatus,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::Value;

use super::value::duration_pattern;

/// Every CustomResourceDefinition of Mandate, in the order of their names.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut all = vec![
        AgentIdentity::crd(),
        AgentPolicy::crd(),
        AgentTask::crd(),
        ClusterAgentPolicy::crd(),
        PolicyWaiver::crd(),
        TaskScope::crd(),
        ToolServer::crd(),
    ];
    all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    all.into_iter().map(polished).collect()
}

/// The definition with texts as people read them. What cannot be polished stays as it is.
fn polished(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let Ok(mut value) = serde_json::to_value(&crd) else { return crd };
    polish(&mut value);
    serde_json::from_value(value).unwrap_or(crd)
}

fn polish(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(polish),
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                match (name.as_str(), &mut *member) {
                    // Lines of the source are no lines of the text: `kubectl explain` breaks
                    // them anew.
                    ("description", Value::String(text)) => {
                        *text = text.replace("\n\n", "\0").replace('\n', " ").replace('\0', "\n\n");
                    }
                    // What is no duration has no length: one error is enough.
                    ("rule", Value::String(rule)) if rule.contains("duration(self)") => {
                        *rule = format!("!self.matches('{}') || ({rule})", duration_pattern());
                    }
                    _ => polish(member),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_stays_under_50_kb() {
        for crd in crds() {
            let bytes = serde_json::to_vec(&crd).unwrap().len();
            assert!(bytes < 50_000, "{:?} has {bytes} bytes", crd.metadata.name);
        }
    }

    #[test]
    fn every_field_a_person_writes_is_documented() {
        fn walk(at: &str, schema: &Value, bare: &mut Vec<String>) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{at}.{name}");
                if property["description"].as_str().is_none_or(str::is_empty) {
                    bare.push(path.clone());
                }
                walk(&path, property, bare);
                walk(&format!("{path}[]"), &property["items"], bare);
            }
        }
        let mut bare = vec![];
        for crd in crds() {
            let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
            let kind = &crd.spec.names.kind;
            walk(&format!("{kind}.spec"), &schema["openAPIV3Schema"]["properties"]["spec"], &mut bare);
            walk(&format!("{kind}.status"), &schema["openAPIV3Schema"]["properties"]["status"], &mut bare);
        }
        assert!(bare.is_empty(), "without a description: {bare:#?}");
    }
}
