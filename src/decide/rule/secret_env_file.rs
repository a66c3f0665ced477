//! `secret-env-file`: a container takes an environment variable from a file that is written from a Secret.

use super::{INSTEAD_OF_SECRET, Level, Rule};
use crate::api::names;
use crate::decide::predicate::Cond;
use crate::decide::site::Site;

/// a container takes an environment variable from a file that is written from a Secret.
pub const RULE: Rule = Rule {
    id: "secret-env-file",
    level: Level::Restricted,
    what: "a container takes an environment variable from a file that is written from a Secret.",
    why: "An init container that reads a Secret and writes it to a file brings it into the environment of the others, where no Secret is named any more.",
    fix: "Issue a credential for the task with its TaskScope and read it from the file under /var/run/secrets/mandate.dev/task.",
    references: &["https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-via-file/"],
    since: "0.1.0",
    allows: "",
    sites: &[
        Site {
            at: "spec.C[].env[].valueFrom.fileKeyRef",
            when: Cond::Any(&[
                Cond::Some("spec.volumes[].secret", &SAME),
                Cond::Some("spec.volumes[].projected.sources[].secret", &SAME),
                Cond::Some("spec.volumes[].csi.nodePublishSecretRef", &SAME),
                Cond::Some("spec.volumes[].csi.volumeAttributes.secretProviderClass", &SAME),
            ]),
            message: "container `{container.name}` takes an environment variable from a file of volume `{this.volumeName}`, which holds a Secret",
            help: INSTEAD_OF_SECRET,
            ..Site::POD
        },
        Site {
            at: "spec.C[].env[].valueFrom.fileKeyRef",
            when: Cond::All(&[
                Cond::Some(
                    "spec.initContainers[].volumeMounts[]",
                    &Cond::Same("mount.name", "env.valueFrom.fileKeyRef.volumeName"),
                ),
                Cond::Any(&[
                    Cond::Some("spec.initContainers[].env[].valueFrom.secretKeyRef", &Cond::Always),
                    Cond::Some("spec.initContainers[].envFrom[].secretRef", &Cond::Always),
                    Cond::Some("spec.initContainers[].volumeMounts[]", &HOLDS_SECRET),
                ]),
            ]),
            message: "container `{container.name}` takes an environment variable from a file of volume `{this.volumeName}`, which init containers with a Secret can write",
            help: INSTEAD_OF_SECRET,
            ..Site::POD
        },
    ],
    code: None,
};

/// The volume of the file. The API server lets it be an `emptyDir` only; manifests may try.
const SAME: Cond = Cond::Same("volume.name", "env.valueFrom.fileKeyRef.volumeName");

/// The volume of a mount holds a Secret that is not one of tasks: those stand in every container
/// of a task's pod, whoever writes the file.
const HOLDS_SECRET: Cond = Cond::Any(&[
    Cond::Some(
        "spec.volumes[].secret",
        &Cond::All(&[
            Cond::Same("volume.name", "mount.name"),
            Cond::Not(&Cond::StartsWith("this.secretName", names::TASK_PREFIX)),
        ]),
    ),
    Cond::Some(
        "spec.volumes[].projected.sources[].secret",
        &Cond::All(&[Cond::Same("volume.name", "mount.name"), Cond::Not(&Cond::StartsWith("this.name", names::TASK_PREFIX))]),
    ),
    Cond::Some("spec.volumes[].csi.nodePublishSecretRef", &Cond::Same("volume.name", "mount.name")),
    Cond::Some("spec.volumes[].csi.volumeAttributes.secretProviderClass", &Cond::Same("volume.name", "mount.name")),
]);
