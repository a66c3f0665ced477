//! `year-long-token`: a projected token asks for 3607 seconds, which the API server turns into one year.

use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::Site;

/// a projected token asks for 3607 seconds, which the API server turns into one year.
pub const RULE: Rule = Rule {
    id: "year-long-token",
    level: Level::Baseline,
    what: "a projected token asks for 3607 seconds, which the API server turns into one year.",
    why: "3607 is the mark of the token that Kubernetes injects by default. For it alone, with --service-account-extend-token-expiration (on by default), the API server issues a token that is good for one year.",
    fix: "Set expirationSeconds: 3600.",
    references: &["https://github.com/kubernetes/enhancements/tree/master/keps/sig-auth/1205-bound-service-account-tokens"],
    since: "0.1.0",
    allows: "",
    sites: &[Site {
        at: "spec.volumes[].projected.sources[].serviceAccountToken",
        field: ".expirationSeconds",
        // An audience may be the API server's own by another name, so every audience counts.
        when: Cond::Number("this.expirationSeconds", MARK),
        message: "volume `{volume.name}` asks for 3607 s, for which the API server issues a token of one year",
        help: "set `expirationSeconds: 3600`",
        ..Site::POD
    }],
    code: None,
};

/// Seconds that the API server takes as a mark (`WarnOnlyBoundTokenExpirationSeconds`,
/// kubernetes/kubernetes `pkg/registry/core/serviceaccount/storage/token.go`).
pub const MARK: i64 = 3607;
