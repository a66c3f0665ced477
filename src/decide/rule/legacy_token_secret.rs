//! `legacy-token-secret`: a Secret of type kubernetes.io/service-account-token asks for a token that never expires.
//!
//! It is checked by [`admit`](crate::decide::admit) where such a request is reviewed.

use super::{Level, Rule, not_of_pods};

/// a Secret of type kubernetes.io/service-account-token asks for a token that never expires.
pub const RULE: Rule = Rule {
    id: "legacy-token-secret",
    level: Level::Baseline,
    what: "a Secret of type kubernetes.io/service-account-token asks for a token that never expires.",
    why: "The API server's token controller fills the Secret with a ServiceAccount token without an end; nothing but deleting it takes it back.",
    fix: "Ask for a token by TokenRequest, or let a TaskScope issue one.",
    references: &["https://kubernetes.io/docs/concepts/security/service-accounts/#authenticating-credentials"],
    since: "0.1.0",
    check: not_of_pods,
};
