//! `storage-class-secret`: the volumes of a class are made and mounted with a static credential.

use super::{Level, Rule};
use crate::decide::predicate::{Cond, Knowledge};
use crate::decide::site::{On, Scene, Site};

/// the volumes of a class are made and mounted with a static credential.
pub const RULE: Rule = Rule {
    id: "storage-class-secret",
    level: Level::Advice,
    what: "the volumes of a class are made and mounted with a static credential.",
    why: "The parameters of a StorageClass name Secrets that its driver uses in the name of whoever claims a volume. In a claim and in a pod it is seen where the class is known and named: in manifests that are checked together, and with `mandate lint --cluster`.",
    fix: "Use a class whose driver authenticates with the pod's short-lived token (CSIDriver tokenRequests).",
    references: &["https://kubernetes-csi.github.io/docs/secrets-and-credentials-storage-class.html"],
    since: "0.1.0",
    allows: "names of StorageClasses",
    sites: &[
        Site {
            on: On::StorageClass,
            at: "parameters{}",
            when: Cond::All(&[Cond::Matches("key", PARAMETER), Cond::Text("this")]),
            message: "StorageClass `{metadata.name}` names Secret `{this}` by `{key}`, which never expires",
            allow: Some("metadata.name"),
            ..CLASS
        },
        Site {
            at: "spec.volumes[].ephemeral.volumeClaimTemplate.spec.storageClassName",
            message: "volume `{volume.name}` is of StorageClass `{this}`, which works with a Secret that never expires",
            ..USED
        },
        Site {
            on: On::StatefulSet,
            at: "spec.volumeClaimTemplates[].spec.storageClassName",
            message: "claim `{claim.metadata.name}` is of StorageClass `{this}`, which works with a Secret that never expires",
            ..USED
        },
        Site {
            on: On::PersistentVolumeClaim,
            at: "spec.storageClassName",
            message: "claim `{metadata.name}` is of StorageClass `{this}`, which works with a Secret that never expires",
            ..USED
        },
    ],
    code: None,
};

const CLASS: Site = Site {
    on: On::StorageClass,
    help: "use a class whose driver authenticates with the pod's token, or have a policy's `allow` name the class",
    ..Site::POD
};
const USED: Site = Site {
    on: On::Pod,
    when: Cond::Known(Knowledge { look: has_a_secret, lacks: "the StorageClass" }),
    allow: Some("this"),
    ..CLASS
};
/// Of CSI drivers, and of the drivers that Kubernetes itself once had.
const PARAMETER: &str = r"^(csi\.storage\.k8s\.io/[a-z-]+-secret-name|adminSecretName|userSecretName|secretName)$";

fn has_a_secret(scene: &Scene<'_, '_>) -> bool {
    scene.this.as_str().is_some_and(|class| scene.subject.world.related.has(On::StorageClass, "", class, RULE.id, None))
}
