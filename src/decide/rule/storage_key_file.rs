//! `storage-key-file`: a Ceph volume uses a key that lies on the node.

use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::Site;

/// a Ceph volume uses a key that lies on the node.
pub const RULE: Rule = Rule {
    id: "storage-key-file",
    level: Level::Restricted,
    what: "a Ceph volume uses a key that lies on the node.",
    why: "Without a secretRef, cephfs and rbd take a static key from a file of the node, whose path the author of the pod chooses, and mount in the node's name what the pod may not.",
    fix: "Use a PersistentVolumeClaim of a StorageClass that the platform set up.",
    references: &[],
    since: "0.1.0",
    allows: "",
    // With a secretRef the file is not looked at, though the API server writes `keyring` all the
    // same; what the Secret means is the business of `storage-secret`.
    sites: &[
        Site {
            at: "spec.volumes[].cephfs",
            field: ".secretFile",
            message: "volume `{volume.name}` uses the key in `{this.secretFile|/etc/ceph/<user>.secret}` of the node",
            ..FILE
        },
        Site {
            at: "spec.volumes[].rbd",
            field: ".keyring",
            message: "volume `{volume.name}` uses the key in `{this.keyring|/etc/ceph/keyring}` of the node",
            ..FILE
        },
    ],
    code: None,
};

const FILE: Site = Site {
    when: Cond::Not(&Cond::Present("this.secretRef")),
    help: "use a PersistentVolumeClaim of a StorageClass that the platform set up",
    ..Site::POD
};
