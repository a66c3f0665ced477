//! `secret-volume`: a pod mounts a Secret as a volume.

use super::{INSTEAD_OF_SECRET, Level, Rule};
use crate::api::names;
use crate::decide::predicate::Cond;
use crate::decide::site::Site;

/// a pod mounts a Secret as a volume.
pub const RULE: Rule = Rule {
    id: "secret-volume",
    level: Level::Baseline,
    what: "a pod mounts a Secret as a volume.",
    why: "The files hold a credential that outlives the task, and the pod needs no right to read Secrets to get them.",
    fix: "Issue a credential for the task with its TaskScope; the webhook mounts it for pods with the task's label.",
    references: &["https://kubernetes.io/docs/concepts/security/secrets-good-practices/"],
    since: "0.1.0",
    allows: "",
    sites: &[Site {
        at: "spec.volumes[].secret",
        field: ".secretName",
        when: Cond::Not(&Cond::StartsWith("this.secretName", names::TASK_PREFIX)),
        message: "volume `{volume.name}` mounts Secret `{this.secretName}`, which never expires",
        help: INSTEAD_OF_SECRET,
        ..Site::POD
    }],
    code: None,
};
