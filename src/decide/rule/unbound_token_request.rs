//! `unbound-token-request`: somebody asks for a ServiceAccount token that is bound to no object, or lives too long.

use super::{Level, Rule, YEAR_LONG_MARK};
use crate::api::names;
use crate::decide::predicate::{Cond, Limit};
use crate::decide::site::{On, Site};

/// somebody asks for a ServiceAccount token that is bound to no object, or lives too long.
pub const RULE: Rule = Rule {
    id: "unbound-token-request",
    level: Level::Baseline,
    what: "somebody asks for a ServiceAccount token that is bound to no object, or lives too long.",
    why: "A token that is bound to nothing works until it expires, whatever is deleted in the meantime.",
    fix: "Bind it to a Pod or Secret (kubectl create token --bound-object-kind) and ask for a shorter life, or let a TaskScope issue it.",
    references: &["https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/"],
    since: "0.1.0",
    allows: "",
    sites: &[
        Site {
            field: ".boundObjectRef",
            when: Cond::All(&[OTHERS, Cond::Not(&Cond::Text("this.boundObjectRef.kind"))]),
            message: "a token of ServiceAccount `{request.name}` is bound to no object, so that nothing takes it back",
            help: "bind it to a Pod or Secret (`kubectl create token --bound-object-kind Pod`), or let a TaskScope issue it",
            ..REQUEST
        },
        Site {
            field: ".expirationSeconds",
            when: Cond::All(&[OTHERS, Cond::Number("this.expirationSeconds", YEAR_LONG_MARK)]),
            message: "a token of ServiceAccount `{request.name}` asks for 3607 s, for which the API server issues a token of one year",
            help: "ask for 3600 s",
            ..REQUEST
        },
        Site {
            field: ".expirationSeconds",
            when: Cond::All(&[
                OTHERS,
                Cond::Over("this.expirationSeconds", 3600, Limit::Token),
                Cond::Not(&Cond::Number("this.expirationSeconds", YEAR_LONG_MARK)),
            ]),
            message: "a token of ServiceAccount `{request.name}` lives {this.expirationSeconds|3600} s; the policy allows {maxToken} s",
            help: "ask for {maxToken} s or less",
            ..REQUEST
        },
    ],
    code: None,
};

pub(super) const REQUEST: Site = Site { on: On::TokenRequest, at: "spec", ..Site::POD };
/// Tokens of tasks and agents are judged by [`admit`](crate::decide::admit), more strictly.
pub(super) const OTHERS: Cond = Cond::All(&[
    Cond::Not(&Cond::StartsWith("request.name", names::TASK_PREFIX)),
    Cond::Not(&Cond::StartsWith("request.name", names::AGENT_PREFIX)),
]);
