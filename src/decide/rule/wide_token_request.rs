//! `wide-token-request`: somebody asks for a token that several audiences accept.

use super::unbound_token_request::{OTHERS, REQUEST};
use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::Site;

/// somebody asks for a token that several audiences accept.
pub const RULE: Rule = Rule {
    id: "wide-token-request",
    level: Level::Restricted,
    what: "somebody asks for a token that several audiences accept.",
    why: "Each of them can use the token at the others, as if it were whom the token is of.",
    fix: "Ask for one token an audience, or let a TaskScope issue one credential for each.",
    references: &["https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/"],
    since: "0.1.0",
    allows: "names of ServiceAccounts",
    sites: &[Site {
        field: ".audiences",
        when: Cond::All(&[OTHERS, Cond::Longer("this.audiences", 1)]),
        message: "a token of ServiceAccount `{request.name}` is for several audiences, each of which can use it at the others",
        help: "ask for one token an audience, or let a TaskScope issue one credential for each",
        allow: Some("request.name"),
        ..REQUEST
    }],
    code: None,
};
