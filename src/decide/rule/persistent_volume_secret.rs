//! `persistent-volume-secret`: a PersistentVolume hands a Secret to its driver, perhaps one of another namespace.

use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::{On, Site};

/// a PersistentVolume hands a Secret to its driver, perhaps one of another namespace.
pub const RULE: Rule = Rule {
    id: "persistent-volume-secret",
    level: Level::Advice,
    what: "a PersistentVolume hands a Secret to its driver, perhaps one of another namespace.",
    why: "Whoever claims the volume reaches what the credential opens, in the driver's hands; the reference stands in no pod, and unlike a pod's it may name any namespace. Volumes are the platform's, so this warns and refuses nothing by itself.",
    fix: "Use a driver that authenticates with the pod's short-lived token (CSIDriver tokenRequests).",
    references: &[
        "https://kubernetes.io/docs/concepts/storage/persistent-volumes/",
        "https://kubernetes-csi.github.io/docs/token-requests.html",
    ],
    since: "0.1.0",
    allows: "names of Secrets",
    sites: &[
        csi("spec.csi.controllerPublishSecretRef"),
        csi("spec.csi.nodeStageSecretRef"),
        csi("spec.csi.nodePublishSecretRef"),
        csi("spec.csi.controllerExpandSecretRef"),
        csi("spec.csi.nodeExpandSecretRef"),
        Site {
            at: "spec.azureFile",
            field: ".secretName",
            when: Cond::Text("this.secretName"),
            message: "PersistentVolume `{metadata.name}` hands azureFile Secret `{this.secretName}` of namespace `{this.secretNamespace|the claim's}`, which never expires",
            allow: Some("this.secretName"),
            ..VOLUME
        },
        Site { at: "spec.cephfs.secretRef", message: said!("cephfs"), ..VOLUME },
        Site { at: "spec.cinder.secretRef", message: said!("cinder"), ..VOLUME },
        Site { at: "spec.flexVolume.secretRef", message: said!("flexVolume"), ..VOLUME },
        Site { at: "spec.iscsi.secretRef", message: said!("iscsi"), ..VOLUME },
        Site { at: "spec.rbd.secretRef", message: said!("rbd"), ..VOLUME },
        Site { at: "spec.scaleIO.secretRef", message: said!("scaleIO"), ..VOLUME },
        Site { at: "spec.storageos.secretRef", message: said!("storageos"), ..VOLUME },
    ],
    code: None,
};

const VOLUME: Site = Site {
    on: On::PersistentVolume,
    help: "use a driver that authenticates with the pod's token, or have a policy's `allow` name the Secret",
    allow: Some("this.name"),
    ..Site::POD
};

const fn csi(at: &'static str) -> Site {
    Site { at, message: said!("its CSI driver"), ..VOLUME }
}

macro_rules! said {
    ($driver:literal) => {
        concat!(
            "PersistentVolume `{metadata.name}` hands ",
            $driver,
            " Secret `{this.name}` of namespace `{this.namespace|the claim's}`, which never expires"
        )
    };
}
use said;
