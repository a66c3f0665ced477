//! `other-tasks-credentials`: a pod reaches the credentials of a task that is not its own, or its own in a way that does not follow their renewal.

use super::{Level, Rule};
use crate::api::names;
use crate::decide::json::Read as _;
use crate::decide::predicate::{Cond, Knowledge};
use crate::decide::site::{Scene, Site};

/// a pod reaches the credentials of a task that is not its own, or its own in a way that does not follow their renewal.
pub const RULE: Rule = Rule {
    id: "other-tasks-credentials",
    level: Level::Always,
    what: "a pod reaches the credentials of a task that is not its own, or its own in a way that does not follow their renewal.",
    why: "A pod that reads another task's credentials acts with authority it was never given. An environment variable keeps a token that was renewed long ago.",
    fix: "Label the pod with its own task: the webhook mounts the task's credentials at /var/run/secrets/mandate.dev/task.",
    references: &[],
    since: "0.1.0",
    allows: "",
    sites: &[
        others("spec.C[].env[].valueFrom.secretKeyRef", "", OTHERS_BY_CONTAINER),
        stale("spec.C[].env[].valueFrom.secretKeyRef", STALE_BY_CONTAINER),
        others("spec.C[].envFrom[].secretRef", "", OTHERS_BY_CONTAINER),
        stale("spec.C[].envFrom[].secretRef", STALE_BY_CONTAINER),
        others("spec.volumes[].secret", ".secretName", OTHERS_AS_VOLUME),
        others("spec.volumes[].projected.sources[].secret", ".name", OTHERS_BY_VOLUME),
        others("spec.volumes[].csi.nodePublishSecretRef", "", OTHERS_BY_VOLUME),
        stale("spec.volumes[].csi.nodePublishSecretRef", STALE_BY_VOLUME),
        others("spec.volumes[].azureFile.secretName", "", OTHERS_AS_SHARE),
        stale("spec.volumes[].azureFile.secretName", STALE_BY_VOLUME),
        others("spec.volumes[].cephfs.secretRef", "", OTHERS_BY_VOLUME),
        stale("spec.volumes[].cephfs.secretRef", STALE_BY_VOLUME),
        others("spec.volumes[].cinder.secretRef", "", OTHERS_BY_VOLUME),
        stale("spec.volumes[].cinder.secretRef", STALE_BY_VOLUME),
        others("spec.volumes[].flexVolume.secretRef", "", OTHERS_BY_VOLUME),
        stale("spec.volumes[].flexVolume.secretRef", STALE_BY_VOLUME),
        others("spec.volumes[].iscsi.secretRef", "", OTHERS_BY_VOLUME),
        stale("spec.volumes[].iscsi.secretRef", STALE_BY_VOLUME),
        others("spec.volumes[].rbd.secretRef", "", OTHERS_BY_VOLUME),
        stale("spec.volumes[].rbd.secretRef", STALE_BY_VOLUME),
        others("spec.volumes[].scaleIO.secretRef", "", OTHERS_BY_VOLUME),
        stale("spec.volumes[].scaleIO.secretRef", STALE_BY_VOLUME),
        others("spec.volumes[].storageos.secretRef", "", OTHERS_BY_VOLUME),
        stale("spec.volumes[].storageos.secretRef", STALE_BY_VOLUME),
    ],
    code: None,
};

const OTHERS_BY_CONTAINER: &str =
    "container `{container.name}` reaches `{this.name}`, the credentials of a task that is not the pod's own";
const STALE_BY_CONTAINER: &str =
    "container `{container.name}` takes the task's credentials in a way that does not follow their renewal";
const OTHERS_AS_VOLUME: &str =
    "volume `{volume.name}` reaches `{this.secretName}`, the credentials of a task that is not the pod's own";
const OTHERS_AS_SHARE: &str = "volume `{volume.name}` reaches `{this}`, the credentials of a task that is not the pod's own";
const OTHERS_BY_VOLUME: &str =
    "volume `{volume.name}` reaches `{this.name}`, the credentials of a task that is not the pod's own";
const STALE_BY_VOLUME: &str = "volume `{volume.name}` takes the task's credentials in a way that does not follow their renewal";
const LACKS: &str = "the task, and which Secret is its own";
const SITE: Site = Site {
    help: "remove it and label the pod `mandate.dev/task: <its own task>`; the files appear in /var/run/secrets/mandate.dev/task",
    ..Site::POD
};

/// The credentials of another task.
const fn others(at: &'static str, field: &'static str, message: &'static str) -> Site {
    Site { at, field, message, when: Cond::Known(Knowledge { look: is_others, lacks: LACKS }), ..SITE }
}

/// The pod's own, at a place that the kubelet does not keep fresh.
const fn stale(at: &'static str, message: &'static str) -> Site {
    Site { at, message, when: Cond::Known(Knowledge { look: is_own, lacks: LACKS }), ..SITE }
}

/// The Secret that is named at the place, whatever form the reference has.
fn named<'a>(scene: &Scene<'a, '_>) -> &'a str {
    scene
        .this
        .as_str()
        .or_else(|| Some(scene.this.text("name")).filter(|name| !name.is_empty()))
        .unwrap_or_else(|| scene.this.text("secretName"))
}

fn is_own(scene: &Scene<'_, '_>) -> bool {
    scene.subject.own() == Some(named(scene))
}

fn is_others(scene: &Scene<'_, '_>) -> bool {
    named(scene).starts_with(names::TASK_PREFIX) && !is_own(scene)
}
