//! `secret-env-from`: a container takes a whole Secret as environment variables.

use super::{INSTEAD_OF_SECRET, Level, Rule, STATIC};
use crate::decide::site::Site;

/// a container takes a whole Secret as environment variables.
pub const RULE: Rule = Rule {
    id: "secret-env-from",
    level: Level::Baseline,
    what: "a container takes a whole Secret as environment variables.",
    why: "Every key of the Secret, also one added later, lands in the environment. References through envFrom were once the way around an API server's own check (CVE-2024-3177).",
    fix: "Issue a credential for the task with its TaskScope and read it from the file under /var/run/secrets/mandate.dev/task.",
    references: &[
        "https://kubernetes.io/docs/concepts/security/secrets-good-practices/",
        "https://github.com/kubernetes/kubernetes/issues/124336",
    ],
    since: "0.1.0",
    allows: "",
    sites: &[Site {
        at: "spec.C[].envFrom[].secretRef",
        when: STATIC,
        message: "container `{container.name}` takes its environment from Secret `{this.name}`, which never expires",
        help: INSTEAD_OF_SECRET,
        ..Site::POD
    }],
    code: None,
};
