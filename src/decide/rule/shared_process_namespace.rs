//! `shared-process-namespace`: a container sees the processes of others, and so the credentials they hold.

use super::automounted_token::SWITCHED_OFF;
use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::Site;

/// a container sees the processes of others, and so the credentials they hold.
pub const RULE: Rule = Rule {
    id: "shared-process-namespace",
    level: Level::Restricted,
    what: "a container sees the processes of others, and so the credentials they hold.",
    why: "Through /proc/<pid>/root and /proc/<pid>/environ a process reads the files and variables of every other process that it sees and whose user it shares, whatever volumes its own container has.",
    fix: "Leave shareProcessNamespace and hostPID out; debug with a copy of the pod that holds no credential (`kubectl debug --copy-to`).",
    references: &["https://kubernetes.io/docs/tasks/configure-pod-container/share-process-namespace/"],
    since: "0.1.0",
    allows: "",
    sites: &[
        Site {
            at: "spec.shareProcessNamespace",
            when: Cond::All(&[Cond::True("this"), SEVERAL, Cond::Any(&[HOLDS, DEBUGGER_HOLDS])]),
            message: "the containers of the pod see each other's processes, and with them the credentials that the pod holds",
            help: "remove `shareProcessNamespace`, or move what holds the credential to a pod of its own",
            ..Site::POD
        },
        Site {
            at: "spec.hostPID",
            when: Cond::True("this"),
            message: "the pod sees every process of its node, and with them the credentials of other pods",
            help: "remove `hostPID`",
            ..Site::POD
        },
        Site {
            at: "spec.ephemeralContainers[].targetContainerName",
            when: Cond::All(&[Cond::Text("this"), HOLDS]),
            message: "container `{container.name}` is put beside the processes of container `{this}`, in a pod that holds credentials",
            help: "debug a copy of the pod that holds no credential (`kubectl debug --copy-to`)",
            ..Site::POD
        },
    ],
    code: None,
};

/// More than one container runs.
const SEVERAL: Cond = Cond::Any(&[
    Cond::Longer("spec.containers", 1),
    Cond::Some("spec.initContainers[]", &Cond::Is("container.restartPolicy", "Always")),
    Cond::Some("spec.ephemeralContainers[]", &Cond::Always),
]);

/// A debugging container holds a Secret: no news to itself, but to the others.
const DEBUGGER_HOLDS: Cond = Cond::Any(&[
    Cond::Some("spec.ephemeralContainers[].env[].valueFrom.secretKeyRef", &Cond::Always),
    Cond::Some("spec.ephemeralContainers[].envFrom[].secretRef", &Cond::Always),
]);

/// The pod holds a token or a Secret, or will once it is made.
const HOLDS: Cond = Cond::Any(&[
    Cond::Present("metadata.labels[mandate.dev/task]"),
    Cond::Some("spec.volumes[].secret", &Cond::Always),
    Cond::Some("spec.volumes[].projected.sources[].secret", &Cond::Always),
    Cond::Some("spec.volumes[].projected.sources[].serviceAccountToken", &Cond::Always),
    Cond::Some("spec.volumes[].projected.sources[].podCertificate", &Cond::Always),
    Cond::Some("spec.volumes[].csi.nodePublishSecretRef", &Cond::Always),
    Cond::Some("spec.volumes[].csi.volumeAttributes.secretProviderClass", &Cond::Always),
    Cond::Some("spec.initContainers[].env[].valueFrom.secretKeyRef", &Cond::Always),
    Cond::Some("spec.initContainers[].envFrom[].secretRef", &Cond::Always),
    Cond::Some("spec.containers[].env[].valueFrom.secretKeyRef", &Cond::Always),
    Cond::Some("spec.containers[].envFrom[].secretRef", &Cond::Always),
    // The default token, which the API server has yet to mount.
    Cond::All(&[Cond::Unadmitted, Cond::Not(&Cond::False("spec.automountServiceAccountToken")), Cond::Not(&SWITCHED_OFF)]),
]);
