//! `synced-secret`: a SecretProviderClass copies what it mounts into a Secret.

use super::{Level, Rule};
use crate::decide::json::Read as _;
use crate::decide::predicate::{Cond, Knowledge};
use crate::decide::site::{On, Scene, Site};

/// a SecretProviderClass copies what it mounts into a Secret.
pub const RULE: Rule = Rule {
    id: "synced-secret",
    level: Level::Restricted,
    what: "a SecretProviderClass copies what it mounts into a Secret.",
    why: "The Secrets Store CSI driver keeps what it fetches in the pod's memory, unless `secretObjects` has it written into a Secret of the namespace: there others reach it, and it stays as it was when it was written. In a pod it is seen where the SecretProviderClass is known: in manifests that are checked together, and with `mandate lint --cluster`.",
    fix: "Remove `secretObjects` and read the mounted files.",
    references: &["https://secrets-store-csi-driver.sigs.k8s.io/topics/sync-as-kubernetes-secret"],
    since: "0.1.0",
    allows: "names of SecretProviderClasses",
    sites: &[
        Site {
            on: On::SecretProviderClass,
            at: "spec.secretObjects[]",
            message: "SecretProviderClass `{metadata.name}` writes what it mounts into Secret `{this.secretName}`",
            help: "remove `secretObjects` and read the mounted files",
            allow: Some("metadata.name"),
            ..Site::POD
        },
        Site {
            at: "spec.volumes[].csi",
            field: ".volumeAttributes.secretProviderClass",
            when: Cond::All(&[
                Cond::Is("this.driver", "secrets-store.csi.k8s.io"),
                Cond::Known(Knowledge { look: is_synced, lacks: "the SecretProviderClass" }),
            ]),
            message: "volume `{volume.name}` is of SecretProviderClass `{this.volumeAttributes.secretProviderClass}`, which writes what it mounts into a Secret",
            help: "remove `secretObjects` from the SecretProviderClass and read the mounted files",
            allow: Some("this.volumeAttributes.secretProviderClass"),
            ..Site::POD
        },
    ],
    code: None,
};

fn is_synced(scene: &Scene<'_, '_>) -> bool {
    let class = scene.this.member("volumeAttributes").map_or("", |attributes| attributes.text("secretProviderClass"));
    scene.subject.world.related.has(On::SecretProviderClass, scene.subject.namespace, class, RULE.id, None)
}
