//! `long-lived-token`: a projected ServiceAccount token lives longer than the policy lets it.

use super::{Found, Level, Pod, Rule};
use crate::api::Workloads;
use crate::decide::pod::What;

/// a projected ServiceAccount token lives longer than the policy lets it.
pub const RULE: Rule = Rule {
    id: "long-lived-token",
    level: Level::Baseline,
    what: "a projected ServiceAccount token lives longer than the policy lets it.",
    why: "A token that is copied out of the pod works until it expires; the kubelet renews it anyway, so a long life buys nothing.",
    fix: "Set expirationSeconds to maxTokenTTL or less; 600 is the API server's least.",
    references: &["https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#launch-a-pod-using-service-account-token-projection"],
    since: "0.1.0",
    check,
};

/// What the API server takes where nothing is said.
const DEFAULT: i64 = 3600;

fn check(pod: &Pod<'_>, workloads: Workloads, found: &mut Vec<Found>) {
    let most = workloads.max_token_ttl.as_secs();
    for reach in &pod.reaches {
        let What::Token { seconds, .. } = reach.what else { continue };
        // 3607 is no long life but a mark that means one year: a rule of its own.
        let seconds = seconds.filter(|seconds| *seconds != super::year_long_token::MARK).unwrap_or(DEFAULT);
        if seconds > most {
            found.push(Found {
                path: format!("{}.expirationSeconds", reach.path),
                message: format!("{} projects a token that lives {seconds} s; the policy allows {most} s", reach.holder),
                help: format!("set `expirationSeconds: {most}` or less"),
            });
        }
    }
}
