//! `unbound-token-request`: somebody asks for a ServiceAccount token that is bound to no object, or lives too long.
//!
//! It is checked by [`admit`](crate::decide::admit) where such a request is reviewed.

use super::{Level, Rule, not_of_pods};

/// somebody asks for a ServiceAccount token that is bound to no object, or lives too long.
pub const RULE: Rule = Rule {
    id: "unbound-token-request",
    level: Level::Baseline,
    what: "somebody asks for a ServiceAccount token that is bound to no object, or lives too long.",
    why: "A token that is bound to nothing works until it expires, whatever is deleted in the meantime.",
    fix: "Bind it to a Pod or Secret (kubectl create token --bound-object-kind) and ask for a shorter life, or let a TaskScope issue it.",
    references: &["https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/"],
    since: "0.1.0",
    check: not_of_pods,
};
