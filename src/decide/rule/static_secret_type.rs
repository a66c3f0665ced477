//! `static-secret-type`: a Secret is of a type that says it holds a static credential.

use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::{On, Site};

/// a Secret is of a type that says it holds a static credential.
pub const RULE: Rule = Rule {
    id: "static-secret-type",
    level: Level::OptIn,
    what: "a Secret is of a type that says it holds a static credential: for a registry, a login, SSH, TLS, or the joining of nodes.",
    why: "Where agents work, what lies there can be reached. Off unless a policy gives it an action. The webhook is never sent these Secrets: manifests and ValidatingAdmissionPolicies are where it is seen.",
    fix: "Keep the Secret in another namespace, or let a TaskScope issue a short-lived credential.",
    references: &["https://kubernetes.io/docs/concepts/configuration/secret/#secret-types"],
    since: "0.1.0",
    allows: "types of Secrets (`kubernetes.io/tls`)",
    sites: &[Site {
        on: On::Secret,
        at: "type",
        when: Cond::OneOf(
            "this",
            &[
                "kubernetes.io/dockercfg",
                "kubernetes.io/dockerconfigjson",
                "kubernetes.io/basic-auth",
                "kubernetes.io/ssh-auth",
                "kubernetes.io/tls",
                "bootstrap.kubernetes.io/token",
            ],
        ),
        message: "Secret `{metadata.name}` is of type `{this}`, a static credential",
        help: "keep it in another namespace, or let a TaskScope issue a short-lived credential",
        allow: Some("this"),
        ..Site::POD
    }],
    code: None,
};
