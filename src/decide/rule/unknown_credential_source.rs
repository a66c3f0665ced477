//! `unknown-credential-source`: a pod uses a kind of volume, projection or environment source that this version of Mandate does not know.

use super::{Code, Found, Level, Rule};
use crate::decide::pod;
use crate::decide::site::Subject;

/// a pod uses a kind of volume, projection or environment source that this version of Mandate does not know.
pub const RULE: Rule = Rule {
    id: "unknown-credential-source",
    level: Level::Baseline,
    what: "a pod uses a kind of volume, projection or environment source that this version of Mandate does not know.",
    why: "What is not known may carry a credential: each release of Kubernetes brought new sources, and checks that did not know them let them pass.",
    fix: "Use a source that is known, or upgrade Mandate to a version that knows it.",
    references: &[],
    since: "0.1.0",
    allows: "",
    sites: &[],
    code: Some(Code { look, lacks: "fields that the API server does not know: it drops them before it asks" }),
};

fn look(pod: &Subject<'_>, found: &mut Vec<Found>) {
    for pod::Unknown { path, holder, kind, member } in pod::unknown(pod) {
        found.push(Found {
            path,
            message: format!("{holder} uses `{member}`, a kind of {kind} that this version of Mandate does not know"),
            help: "use a source of Kubernetes 1.37 or older, or upgrade Mandate".to_owned(),
            ..Found::default()
        });
    }
}
