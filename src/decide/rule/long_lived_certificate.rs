//! `long-lived-certificate`: a projected certificate may live longer than the policy lets it.

use super::{Found, Level, Pod, Rule};
use crate::api::Workloads;
use crate::decide::pod::What;

/// a projected certificate may live longer than the policy lets it.
pub const RULE: Rule = Rule {
    id: "long-lived-certificate",
    level: Level::Baseline,
    what: "a projected certificate may live longer than the policy lets it.",
    why: "maxExpirationSeconds may be as long as 91 days, and a private key in a pod is as good as a token.",
    fix: "Set maxExpirationSeconds to maxTokenTTL; 3600 is the API server's least.",
    references: &["https://github.com/kubernetes/enhancements/tree/master/keps/sig-auth/4317-pod-certificates"],
    since: "0.1.0",
    check,
};

/// What the API server takes where nothing is said.
const DEFAULT: i64 = 86_400;
/// The shortest life that the API server takes.
pub const LEAST: i64 = 3600;

fn check(pod: &Pod<'_>, workloads: Workloads, found: &mut Vec<Found>) {
    let most = workloads.max_token_ttl.as_secs().max(LEAST);
    for reach in &pod.reaches {
        let What::Certificate { seconds } = reach.what else { continue };
        let seconds = seconds.unwrap_or(DEFAULT);
        if seconds > most {
            found.push(Found {
                path: format!("{}.maxExpirationSeconds", reach.path),
                message: format!("{} projects a certificate that may live {seconds} s; the policy allows {most} s", reach.holder),
                help: format!("set `maxExpirationSeconds: {most}`"),
            });
        }
    }
}
