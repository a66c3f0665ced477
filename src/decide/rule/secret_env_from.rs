//! `secret-env-from`: a container takes a whole Secret as environment variables.

use super::{Found, Level, Pod, Rule, secrets};
use crate::api::Workloads;
use crate::decide::pod::What;

/// a container takes a whole Secret as environment variables.
pub const RULE: Rule = Rule {
    id: "secret-env-from",
    level: Level::Baseline,
    what: "a container takes a whole Secret as environment variables.",
    why: "Every key of the Secret, also one added later, lands in the environment. References through envFrom were once the way around an API server's own check (CVE-2024-3177).",
    fix: "Issue a credential for the task with its TaskScope and read it from the file under /var/run/secrets/mandate.dev/task.",
    references: &["https://kubernetes.io/docs/concepts/security/secrets-good-practices/", "https://github.com/kubernetes/kubernetes/issues/124336"],
    since: "0.1.0",
    check,
};

fn check(pod: &Pod<'_>, _: Workloads, found: &mut Vec<Found>) {
    secrets(pod, |what| if let What::SecretEnvFrom(name) = what { Some(name) } else { None }, "takes its environment from", found);
}
