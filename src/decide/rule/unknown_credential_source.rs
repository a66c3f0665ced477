//! `unknown-credential-source`: a pod uses a kind of volume, projection or environment source that this version of Mandate does not know.

use super::{Found, Level, Pod, Rule};
use crate::api::Workloads;
use crate::decide::pod::What;

/// a pod uses a kind of volume, projection or environment source that this version of Mandate does not know.
pub const RULE: Rule = Rule {
    id: "unknown-credential-source",
    level: Level::Baseline,
    what: "a pod uses a kind of volume, projection or environment source that this version of Mandate does not know.",
    why: "What is not known may carry a credential: each release of Kubernetes brought new sources, and checks that did not know them let them pass.",
    fix: "Use a source that is known, or upgrade Mandate to a version that knows it.",
    references: &[],
    since: "0.1.0",
    check,
};

fn check(pod: &Pod<'_>, _: Workloads, found: &mut Vec<Found>) {
    for reach in &pod.reaches {
        let What::Unknown(kind, member) = reach.what else { continue };
        found.push(Found {
            path: reach.path.clone(),
            message: format!("{} uses `{member}`, a kind of {kind} that this version of Mandate does not know", reach.holder),
            help: "use a source of Kubernetes 1.37 or older, or upgrade Mandate".to_owned(),
        });
    }
}
