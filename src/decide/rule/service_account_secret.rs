//! `service-account-secret`: a ServiceAccount lists Secrets for its pods.

use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::{On, Site};

/// a ServiceAccount lists Secrets for its pods.
pub const RULE: Rule = Rule {
    id: "service-account-secret",
    level: Level::Restricted,
    what: "a ServiceAccount lists Secrets for its pods.",
    why: "The list is where Kubernetes once kept tokens that never expire, and where platforms keep registry credentials: it names static secrets as the account's own, and with `kubernetes.io/enforce-mountable-secrets` it is what pods are allowed to mount.",
    fix: "Leave `secrets` out: tokens come by TokenRequest.",
    references: &["https://kubernetes.io/docs/concepts/security/service-accounts/"],
    since: "0.1.0",
    allows: "names of Secrets",
    sites: &[Site {
        on: On::ServiceAccount,
        at: "secrets[]",
        field: ".name",
        when: Cond::Text("this.name"),
        message: "ServiceAccount `{metadata.name}` lists Secret `{this.name}`, which never expires",
        help: "leave `secrets` out: tokens come by TokenRequest",
        allow: Some("this.name"),
    }],
    code: None,
};
