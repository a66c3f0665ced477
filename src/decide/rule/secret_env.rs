//! `secret-env`: a container takes a key of a Secret as an environment variable.

use super::{INSTEAD_OF_SECRET, Level, Rule, STATIC};
use crate::decide::site::Site;

/// a container takes a key of a Secret as an environment variable.
pub const RULE: Rule = Rule {
    id: "secret-env",
    level: Level::Baseline,
    what: "a container takes a key of a Secret as an environment variable.",
    why: "The value never expires, stays in the process for its life, and shows up in crash dumps, debug pages and child processes. Whoever reads it once holds it for ever.",
    fix: "Issue a credential for the task with its TaskScope and read it from the file under /var/run/secrets/mandate.dev/task.",
    references: &["https://kubernetes.io/docs/concepts/security/secrets-good-practices/"],
    since: "0.1.0",
    allows: "",
    sites: &[Site {
        at: "spec.C[].env[].valueFrom.secretKeyRef",
        when: STATIC,
        message: "container `{container.name}` takes an environment variable from Secret `{this.name}`, which never expires",
        help: INSTEAD_OF_SECRET,
        ..Site::POD
    }],
    code: None,
};
