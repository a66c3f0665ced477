//! `legacy-token-secret`: a Secret of type kubernetes.io/service-account-token asks for a token that never expires.

use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::{On, Site};

/// a Secret of type kubernetes.io/service-account-token asks for a token that never expires.
pub const RULE: Rule = Rule {
    id: "legacy-token-secret",
    level: Level::Baseline,
    what: "a Secret of type kubernetes.io/service-account-token asks for a token that never expires.",
    why: "The API server's token controller fills the Secret with a ServiceAccount token without an end; nothing but deleting it takes it back.",
    fix: "Ask for a token by TokenRequest, or let a TaskScope issue one.",
    references: &["https://kubernetes.io/docs/concepts/security/service-accounts/#authenticating-credentials"],
    since: "0.1.0",
    allows: "",
    sites: &[Site {
        on: On::Secret,
        at: "type",
        when: Cond::Is("this", "kubernetes.io/service-account-token"),
        message: "Secret `{metadata.name}` asks for a token of ServiceAccount `{metadata.annotations[kubernetes.io/service-account.name]}` that never expires",
        help: "ask for a token by TokenRequest (`kubectl create token`), or let a TaskScope issue one",
        ..Site::POD
    }],
    code: None,
};
