//! `claimed-volume-secret`: a pod claims a volume that is mounted with a static credential.

use super::{Level, Rule, persistent_volume_secret};
use crate::decide::predicate::{Cond, Knowledge};
use crate::decide::site::{On, Scene, Site};

/// a pod claims a volume that is mounted with a static credential.
pub const RULE: Rule = Rule {
    id: "claimed-volume-secret",
    level: Level::Advice,
    what: "a pod claims a volume that is mounted with a static credential.",
    why: "The PersistentVolume behind the claim hands a Secret to its driver, perhaps one of another namespace: the pod reaches what that credential opens, for as long as the volume stands. Seen where the claim and its volume are known: in manifests that are checked together, and with `mandate lint --cluster`.",
    fix: "Use a class whose driver authenticates with the pod's short-lived token (CSIDriver tokenRequests), or have the claim named in the policy's `allow`.",
    references: &["https://kubernetes-csi.github.io/docs/token-requests.html"],
    since: "0.1.0",
    allows: "names of claims",
    sites: &[Site {
        at: "spec.volumes[].persistentVolumeClaim",
        field: ".claimName",
        when: Cond::Known(Knowledge { look: is_made_with_a_secret, lacks: "the claim and its volume" }),
        message: "volume `{volume.name}` claims `{this.claimName}`, whose PersistentVolume hands its driver a Secret that never expires",
        help: "use a class whose driver authenticates with the pod's token, or have a policy's `allow` name the claim",
        allow: Some("this.claimName"),
        ..Site::POD
    }],
    code: None,
};

fn is_made_with_a_secret(scene: &Scene<'_, '_>) -> bool {
    super::claimed_volume(scene).is_some_and(|volume| {
        scene.subject.world.related.has(On::PersistentVolume, "", volume, persistent_volume_secret::RULE.id, None)
    })
}
