//! Names that Mandate gives to what it makes in a cluster, and the marks it leaves.
//!
//! Every object Mandate creates for a task or an identity starts with
//! [`RESERVED_PREFIX`]; admission lets nobody else use it, so a name alone says whose
//! an object is. Task names also carry a piece of the task's UID: a name is never used
//! twice, so the kubelet cannot serve the token of an earlier holder of the same name
//! (kubernetes/kubernetes#132802).

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// First part of the name of every object that Mandate owns in a guarded namespace.
pub const RESERVED_PREFIX: &str = "mandate-";
/// First part of the name of a task's ServiceAccount, Role, RoleBinding and Secret.
pub const TASK_PREFIX: &str = "mandate-task-";
/// First part of the name of an identity's ServiceAccount.
pub const AGENT_PREFIX: &str = "mandate-agent-";
/// Type of the Secret that holds a task's credentials; the only type the controller may write.
pub const SECRET_TYPE: &str = "mandate.dev/task-credentials";
/// ValidatingAdmissionPolicy that keeps the Roles of tasks to the ceiling. What it refuses is
/// beyond the ceiling, not somebody else's object.
pub const ROLES_POLICY: &str = "mandate-controller-roles";
/// Label by which a pod says for which AgentTask it works.
pub const TASK_LABEL: &str = "mandate.dev/task";
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
const KEPT: usize = 36;

/// Name of everything one task owns. `uid` is the task's `metadata.uid`.
#[must_use]
pub fn of_task(name: &str, uid: &str) -> String {
    let kept: String = name.chars().take(KEPT).collect();
    format!("{TASK_PREFIX}{}-{}", kept.trim_end_matches(['-', '.']).replace('.', "-"), short(uid))
}

/// Name of an identity's ServiceAccount. It is the same for as long as the identity has
/// its name, because systems outside trust it as a subject.
#[must_use]
pub fn of_agent(name: &str) -> String {
    format!("{AGENT_PREFIX}{name}")
}

fn short(uid: &str) -> String {
    Sha256::digest(uid.as_bytes()).iter().take(5).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tasks_of_one_name_never_share_an_object_name() {
        assert_ne!(of_task("t", "uid-1"), of_task("t", "uid-2"));
    }

    #[test]
    fn the_longest_task_name_still_makes_a_valid_label_sized_name() {
        let name = of_task(&"a".repeat(63), "uid");
        assert!(name.len() <= 63, "{name}");
    }

    #[test]
    fn a_name_cut_at_a_dash_or_dot_stays_a_valid_name() {
        let name = of_task(&format!("{}-.x", "a".repeat(34)), "uid");
        assert!(!name.contains('.') && !name.contains("--"), "{name}");
    }
}
