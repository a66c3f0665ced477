//! `long-lived-certificate`: a projected certificate may live longer than the policy lets it.

use super::{Level, Rule};
use crate::decide::predicate::{Cond, Limit};
use crate::decide::site::Site;

/// a projected certificate may live longer than the policy lets it.
pub const RULE: Rule = Rule {
    id: "long-lived-certificate",
    level: Level::Baseline,
    what: "a projected certificate may live longer than the policy lets it.",
    why: "maxExpirationSeconds may be as long as 91 days, and a private key in a pod is as good as a token.",
    fix: "Set maxExpirationSeconds to maxTokenTTL; 3600 is the API server's least.",
    references: &["https://github.com/kubernetes/enhancements/tree/master/keps/sig-auth/4317-pod-certificates"],
    since: "0.1.0",
    allows: "",
    sites: &[Site {
        at: "spec.volumes[].projected.sources[].podCertificate",
        field: ".maxExpirationSeconds",
        when: Cond::Over("this.maxExpirationSeconds", 86_400, Limit::Certificate),
        message: "volume `{volume.name}` projects a certificate that may live {this.maxExpirationSeconds|86400} s; the policy allows {maxCertificate} s",
        help: "set `maxExpirationSeconds: {maxCertificate}`",
        ..Site::POD
    }],
    code: None,
};
