//! Names that Mandate gives to what it makes in a cluster, and the marks it leaves.
//!
//! Every object Mandate creates for a task or an identity starts with
//! [`RESERVED_PREFIX`]; admission lets nobody else use it, so a name alone says whose
//! an object is. Task names also carry a piece of the task's UID: a name is never used
//! twice, so the kubelet cannot serve the token of an earlier holder of the same name
//! (kubernetes/kubernetes#132802).

use sha2::{Digest, Sha256};

use crate::hex::hex;

/// First part of the name of every object that Mandate owns in a guarded namespace.
pub const RESERVED_PREFIX: &str = "mandate-";
/// First part of the name of a task's ServiceAccount, RoleBinding and Secret.
pub const TASK_PREFIX: &str = "mandate-task-";
/// First part of the name of a Role that holds what a scope grants.
pub const SCOPE_PREFIX: &str = "mandate-scope-";
/// First part of the name of an identity's ServiceAccount.
pub const AGENT_PREFIX: &str = "mandate-agent-";
/// Type of the Secret that holds a task's credentials; the only type the controller may write.
pub const SECRET_TYPE: &str = "mandate.dev/task-credentials";
/// ValidatingAdmissionPolicy that keeps Roles to the ceiling when they are written. What it
/// refuses is beyond the ceiling, not somebody else's object.
pub const ROLES_POLICY: &str = "mandate-controller-roles";
/// The same for Roles that stand already, when a task is bound to one.
pub const BOUND_ROLES_POLICY: &str = "mandate-controller-bound-roles";
/// Label by which a pod says for which AgentTask it works.
pub const TASK_LABEL: &str = "mandate.dev/task";
/// Label on a Role that says which TaskScope it is of.
pub const SCOPE_LABEL: &str = "mandate.dev/scope";
/// Label on what Mandate owns, with value [`MANAGER`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Field manager, event reporter and value of [`MANAGED_BY`].
pub const MANAGER: &str = "mandate";
/// Finalizer on AgentTask and AgentIdentity: authority is taken back before the object goes.
pub const FINALIZER: &str = "mandate.dev/take-back";
/// Name of the credential for the Kubernetes API that a scope with Kubernetes rules issues.
pub const KUBERNETES_CREDENTIAL: &str = "kubernetes";
/// Where the credentials of a task are mounted in its pods.
pub const CREDENTIALS_DIR: &str = "/var/run/secrets/mandate.dev/task";
/// Where Kubernetes clients look for a token (`rest.InClusterConfig` and its like).
pub const KUBERNETES_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Longest part of a task's name that is kept in the names made from it, in characters.
const KEPT_OF_TASK: usize = 36;
/// The same of a scope's name.
const KEPT_OF_SCOPE: usize = 16;

/// Name of everything one task owns. `uid` is the task's `metadata.uid`.
#[must_use]
pub fn of_task(name: &str, uid: &str) -> String {
    format!("{TASK_PREFIX}{}-{}", kept(name, KEPT_OF_TASK), hex(&Sha256::digest(uid.as_bytes())[..5]))
}

/// Name of a Role of a scope. `content` is a digest of the scope's UID and the Role's rules, so
/// long that nobody finds other rules for the same name: what a name grants never changes.
#[must_use]
pub fn of_scope(name: &str, content: &[u8; 16]) -> String {
    format!("{SCOPE_PREFIX}{}-{}", kept(name, KEPT_OF_SCOPE), hex(content))
}

/// Name of an identity's ServiceAccount. It is the same for as long as the identity has
/// its name, because systems outside trust it as a subject.
#[must_use]
pub fn of_agent(name: &str) -> String {
    format!("{AGENT_PREFIX}{name}")
}

/// The beginning of a name, such that a dash may follow.
fn kept(name: &str, most: usize) -> String {
    let kept: String = name.chars().take(most).collect();
    kept.trim_end_matches(['-', '.']).replace('.', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tasks_of_one_name_never_share_an_object_name() {
        assert_ne!(of_task("t", "uid-1"), of_task("t", "uid-2"));
    }

    #[test]
    fn the_longest_name_still_makes_a_valid_label_sized_name() {
        for name in [of_task(&"a".repeat(63), "uid"), of_scope(&"a".repeat(63), &[255; 16])] {
            assert!(name.len() <= 63, "{name}");
        }
    }

    #[test]
    fn a_name_cut_at_a_dash_or_dot_stays_a_valid_name() {
        let cut = |most: usize| format!("{}-.x", "a".repeat(most - 2));
        for name in [of_task(&cut(KEPT_OF_TASK), "uid"), of_scope(&cut(KEPT_OF_SCOPE), &[0; 16])] {
            assert!(!name.contains('.') && !name.contains("--"), "{name}");
        }
    }
}
