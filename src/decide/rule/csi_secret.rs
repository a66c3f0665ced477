//! `csi-secret`: an inline CSI volume hands a Secret to its driver.

use super::{INSTEAD_OF_SECRET, Level, Rule, STATIC};
use crate::decide::site::Site;

/// an inline CSI volume hands a Secret to its driver.
pub const RULE: Rule = Rule {
    id: "csi-secret",
    level: Level::Baseline,
    what: "an inline CSI volume hands a Secret to its driver.",
    why: "The driver uses a static credential in the pod's name; what it mounts is as good as the Secret.",
    fix: "Let the driver authenticate with the pod's short-lived token (CSIDriver tokenRequests), or use a PersistentVolumeClaim set up by the platform.",
    references: &["https://kubernetes-csi.github.io/docs/token-requests.html"],
    since: "0.1.0",
    allows: "",
    sites: &[Site {
        at: "spec.volumes[].csi.nodePublishSecretRef",
        when: STATIC,
        message: "volume `{volume.name}` hands its CSI driver Secret `{this.name}`, which never expires",
        help: INSTEAD_OF_SECRET,
        ..Site::POD
    }],
    code: None,
};
