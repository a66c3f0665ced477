//! `token-behind-subpath`: a container mounts a single file or directory of a volume with a token, which then is never renewed.

use super::{Level, Rule};
use crate::api::names;
use crate::decide::mutate;
use crate::decide::predicate::Cond;
use crate::decide::site::Site;

/// a container mounts a single file or directory of a volume with a token, which then is never renewed.
pub const RULE: Rule = Rule {
    id: "token-behind-subpath",
    level: Level::Advice,
    what: "a container mounts a single file or directory of a volume with a token, which then is never renewed.",
    why: "The kubelet does not follow a subPath when it renews a volume: the container keeps its first token, which ends under it, and the file outlives the rotation that was meant to take it back.",
    fix: "Mount the whole volume and read the file in it.",
    references: &["https://kubernetes.io/docs/concepts/storage/volumes/#using-subpath"],
    since: "0.1.0",
    allows: "",
    sites: &[
        Site { field: ".subPath", when: Cond::All(&[Cond::Text("this.subPath"), HOLDS_TOKEN]), ..MOUNT },
        Site { field: ".subPathExpr", when: Cond::All(&[Cond::Text("this.subPathExpr"), HOLDS_TOKEN]), ..MOUNT },
    ],
    code: None,
};

const MOUNT: Site = Site {
    at: "spec.C[].volumeMounts[]",
    message: "container `{container.name}` mounts a part of volume `{mount.name}`, whose token then is never renewed",
    help: "mount the whole volume and read the file in it",
    ..Site::POD
};

/// The volume holds a token, a certificate or the credentials of a task, which are renewed.
const HOLDS_TOKEN: Cond = Cond::Any(&[
    Cond::Some("spec.volumes[].projected.sources[].serviceAccountToken", &Cond::Same("volume.name", "mount.name")),
    Cond::Some("spec.volumes[].projected.sources[].podCertificate", &Cond::Same("volume.name", "mount.name")),
    Cond::Some(
        "spec.volumes[].projected.sources[].secret",
        &Cond::All(&[Cond::Same("volume.name", "mount.name"), Cond::StartsWith("this.name", names::TASK_PREFIX)]),
    ),
    Cond::Some(
        "spec.volumes[].secret",
        &Cond::All(&[Cond::Same("volume.name", "mount.name"), Cond::StartsWith("this.secretName", names::TASK_PREFIX)]),
    ),
    // In a template the volume is not there yet: the webhook adds it to the pod.
    Cond::OneOf("mount.name", &[mutate::CREDENTIALS, mutate::KUBERNETES]),
]);
