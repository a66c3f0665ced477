//! `storage-secret`: an in-tree storage volume names a Secret.

use super::{Found, Level, Pod, Rule};
use crate::api::Workloads;
use crate::decide::pod::What;

/// an in-tree storage volume names a Secret.
pub const RULE: Rule = Rule {
    id: "storage-secret",
    level: Level::Baseline,
    what: "an in-tree storage volume names a Secret.",
    why: "azureFile, cephfs, cinder, flexVolume, iscsi, rbd, scaleIO and storageos take a static credential from a Secret that the author of the pod names.",
    fix: "Use a PersistentVolumeClaim of a StorageClass that the platform set up.",
    references: &["https://kubernetes.io/docs/concepts/security/secrets-good-practices/"],
    since: "0.1.0",
    check,
};

fn check(pod: &Pod<'_>, _: Workloads, found: &mut Vec<Found>) {
    for reach in &pod.reaches {
        let What::StorageSecret(driver, name) = reach.what else { continue };
        found.push(Found {
            path: reach.path.clone(),
            message: format!("{} hands {driver} Secret `{name}`, which never expires", reach.holder),
            help: "use a PersistentVolumeClaim of a StorageClass that the platform set up".to_owned(),
        });
    }
}
