//! `storage-secret`: an in-tree storage volume names a Secret.

use super::{Level, Rule};
use crate::decide::site::Site;

/// an in-tree storage volume names a Secret.
pub const RULE: Rule = Rule {
    id: "storage-secret",
    level: Level::Baseline,
    what: "an in-tree storage volume names a Secret.",
    why: "azureFile, cephfs, cinder, flexVolume, iscsi, rbd, scaleIO and storageos take a static credential from a Secret that the author of the pod names.",
    fix: "Use a PersistentVolumeClaim of a StorageClass that the platform set up.",
    references: &["https://kubernetes.io/docs/concepts/security/secrets-good-practices/"],
    since: "0.1.0",
    allows: "",
    sites: &[
        Site {
            at: "spec.volumes[].azureFile.secretName",
            message: "volume `{volume.name}` hands azureFile Secret `{this}`, which never expires",
            ..DRIVER
        },
        Site { at: "spec.volumes[].cephfs.secretRef", message: said!("cephfs"), ..DRIVER },
        Site { at: "spec.volumes[].cinder.secretRef", message: said!("cinder"), ..DRIVER },
        Site { at: "spec.volumes[].flexVolume.secretRef", message: said!("flexVolume"), ..DRIVER },
        Site { at: "spec.volumes[].iscsi.secretRef", message: said!("iscsi"), ..DRIVER },
        Site { at: "spec.volumes[].rbd.secretRef", message: said!("rbd"), ..DRIVER },
        Site { at: "spec.volumes[].scaleIO.secretRef", message: said!("scaleIO"), ..DRIVER },
        Site { at: "spec.volumes[].storageos.secretRef", message: said!("storageos"), ..DRIVER },
    ],
    code: None,
};

const DRIVER: Site = Site { help: "use a PersistentVolumeClaim of a StorageClass that the platform set up", ..Site::POD };

macro_rules! said {
    ($driver:literal) => {
        concat!("volume `{volume.name}` hands ", $driver, " Secret `{this.name}`, which never expires")
    };
}
use said;
