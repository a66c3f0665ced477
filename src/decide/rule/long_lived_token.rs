//! `long-lived-token`: a projected ServiceAccount token lives longer than the policy lets it.

use super::{Level, Rule, YEAR_LONG_MARK};
use crate::decide::predicate::{Cond, Limit};
use crate::decide::site::Site;

/// a projected ServiceAccount token lives longer than the policy lets it.
pub const RULE: Rule = Rule {
    id: "long-lived-token",
    level: Level::Baseline,
    what: "a projected ServiceAccount token lives longer than the policy lets it.",
    why: "A token that is copied out of the pod works until it expires; the kubelet renews it anyway, so a long life buys nothing.",
    fix: "Set expirationSeconds to maxTokenTTL or less; 600 is the API server's least.",
    references: &[
        "https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#launch-a-pod-using-service-account-token-projection",
    ],
    since: "0.1.0",
    allows: "",
    sites: &[Site {
        at: "spec.volumes[].projected.sources[].serviceAccountToken",
        field: ".expirationSeconds",
        // 3607 is no long life but a mark that means one year: a rule of its own.
        when: Cond::All(&[
            Cond::Over("this.expirationSeconds", 3600, Limit::Token),
            Cond::Not(&Cond::Number("this.expirationSeconds", YEAR_LONG_MARK)),
        ]),
        message: "volume `{volume.name}` projects a token that lives {this.expirationSeconds|3600} s; the policy allows {maxToken} s",
        help: "set `expirationSeconds: {maxToken}` or less",
        ..Site::POD
    }],
    code: None,
};
