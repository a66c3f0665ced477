//! `secret-env`: a container takes a key of a Secret as an environment variable.

use super::{Found, Level, Pod, Rule, secrets};
use crate::api::Workloads;
use crate::decide::pod::What;

/// a container takes a key of a Secret as an environment variable.
pub const RULE: Rule = Rule {
    id: "secret-env",
    level: Level::Baseline,
    what: "a container takes a key of a Secret as an environment variable.",
    why: "The value never expires, stays in the process for its life, and shows up in crash dumps, debug pages and child processes. Whoever reads it once holds it for ever.",
    fix: "Issue a credential for the task with its TaskScope and read it from the file under /var/run/secrets/mandate.dev/task.",
    references: &["https://kubernetes.io/docs/concepts/security/secrets-good-practices/"],
    since: "0.1.0",
    check,
};

fn check(pod: &Pod<'_>, _: Workloads, found: &mut Vec<Found>) {
    secrets(pod, |what| if let What::SecretEnv(name) = what { Some(name) } else { None }, "takes an environment variable from", found);
}
