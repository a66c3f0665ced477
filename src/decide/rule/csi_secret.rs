//! `csi-secret`: an inline CSI volume hands a Secret to its driver.

use super::{Found, Level, Pod, Rule, secrets};
use crate::api::Workloads;
use crate::decide::pod::What;

/// an inline CSI volume hands a Secret to its driver.
pub const RULE: Rule = Rule {
    id: "csi-secret",
    level: Level::Baseline,
    what: "an inline CSI volume hands a Secret to its driver.",
    why: "The driver uses a static credential in the pod's name; what it mounts is as good as the Secret.",
    fix: "Let the driver authenticate with the pod's short-lived token (CSIDriver tokenRequests), or use a PersistentVolumeClaim set up by the platform.",
    references: &["https://kubernetes-csi.github.io/docs/token-requests.html"],
    since: "0.1.0",
    check,
};

fn check(pod: &Pod<'_>, _: Workloads, found: &mut Vec<Found>) {
    secrets(pod, |what| if let What::CsiSecret(name) = what { Some(name) } else { None }, "hands its CSI driver", found);
}
