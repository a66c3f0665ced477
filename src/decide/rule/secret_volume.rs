//! `secret-volume`: a pod mounts a Secret as a volume.

use super::{Found, Level, Pod, Rule, secrets};
use crate::api::Workloads;
use crate::decide::pod::What;

/// a pod mounts a Secret as a volume.
pub const RULE: Rule = Rule {
    id: "secret-volume",
    level: Level::Baseline,
    what: "a pod mounts a Secret as a volume.",
    why: "The files hold a credential that outlives the task, and the pod needs no right to read Secrets to get them.",
    fix: "Issue a credential for the task with its TaskScope; the webhook mounts it for pods with the task's label.",
    references: &["https://kubernetes.io/docs/concepts/security/secrets-good-practices/"],
    since: "0.1.0",
    check,
};

fn check(pod: &Pod<'_>, _: Workloads, found: &mut Vec<Found>) {
    secrets(pod, |what| if let What::SecretVolume(name) = what { Some(name) } else { None }, "mounts", found);
}
