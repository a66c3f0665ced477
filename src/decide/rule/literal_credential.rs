//! `literal-credential`: a credential of a known form is written in the pod itself.

use super::{Level, Rule};
use crate::decide::literal;
use crate::decide::predicate::Cond;
use crate::decide::site::Site;

/// a credential of a known form is written in the pod itself.
pub const RULE: Rule = Rule {
    id: "literal-credential",
    level: Level::Restricted,
    what: "a credential of a known form is written in the pod itself.",
    why: "Whoever may read pods or their templates reads it, and so does everything that keeps copies of them: Git, backups, audit logs, dashboards. It is in none of the places where Secrets are guarded.",
    fix: "Revoke it, since it has been seen, and issue a credential for the task with its TaskScope.",
    references: &["https://kubernetes.io/docs/concepts/security/secrets-good-practices/"],
    since: "0.1.0",
    allows: "",
    sites: &[
        written(
            "spec.C[].env[].value",
            "environment variable `{env.name}` of container `{container.name}` holds a credential in plain text",
        ),
        written("spec.C[].command[]", "the command of container `{container.name}` holds a credential in plain text"),
        written("spec.C[].args[]", "an argument of container `{container.name}` holds a credential in plain text"),
        written("spec.C[].lifecycle.postStart.exec.command[]", said!("postStart hook")),
        written("spec.C[].lifecycle.postStart.httpGet.path", said!("postStart hook")),
        header("spec.C[].lifecycle.postStart.httpGet.httpHeaders[].value", said_in_header!("postStart hook")),
        written("spec.C[].lifecycle.preStop.exec.command[]", said!("preStop hook")),
        written("spec.C[].lifecycle.preStop.httpGet.path", said!("preStop hook")),
        header("spec.C[].lifecycle.preStop.httpGet.httpHeaders[].value", said_in_header!("preStop hook")),
        written("spec.C[].livenessProbe.exec.command[]", said!("livenessProbe")),
        written("spec.C[].livenessProbe.httpGet.path", said!("livenessProbe")),
        header("spec.C[].livenessProbe.httpGet.httpHeaders[].value", said_in_header!("livenessProbe")),
        written("spec.C[].readinessProbe.exec.command[]", said!("readinessProbe")),
        written("spec.C[].readinessProbe.httpGet.path", said!("readinessProbe")),
        header("spec.C[].readinessProbe.httpGet.httpHeaders[].value", said_in_header!("readinessProbe")),
        written("spec.C[].startupProbe.exec.command[]", said!("startupProbe")),
        written("spec.C[].startupProbe.httpGet.path", said!("startupProbe")),
        header("spec.C[].startupProbe.httpGet.httpHeaders[].value", said_in_header!("startupProbe")),
        // The pod reads both by `fieldRef` and `downwardAPI`.
        written("metadata.annotations{}", "annotation `{key}` holds a credential in plain text"),
        written("metadata.labels{}", "label `{key}` holds a credential in plain text"),
        written(
            "spec.volumes[].csi.volumeAttributes{}",
            "attribute `{key}` of volume `{volume.name}` holds a credential in plain text",
        ),
        written(
            "spec.volumes[].flexVolume.options{}",
            "option `{key}` of volume `{volume.name}` holds a credential in plain text",
        ),
        written("spec.volumes[].gitRepo.repository", "volume `{volume.name}` names a repository with a credential in plain text"),
        written("spec.volumes[].nfs.server", IN_VOLUME),
        written("spec.volumes[].nfs.path", IN_VOLUME),
        written("spec.volumes[].iscsi.targetPortal", IN_VOLUME),
        written("spec.volumes[].iscsi.portals[]", IN_VOLUME),
        written("spec.volumes[].iscsi.iqn", IN_VOLUME),
        written("spec.volumes[].iscsi.initiatorName", IN_VOLUME),
    ],
    code: None,
};

const IN_VOLUME: &str = "volume `{volume.name}` holds a credential in plain text";

macro_rules! said {
    ($what:literal) => {
        concat!("the ", $what, " of container `{container.name}` holds a credential in plain text")
    };
}
use said;

macro_rules! said_in_header {
    ($what:literal) => {
        concat!("the ", $what, " of container `{container.name}` holds a credential in plain text in its header `{header.name}`")
    };
}
use said_in_header;

/// A credential of a known form stands there.
pub(super) const KNOWN: Cond = Cond::Credential("this");
const HANDED_OVER: Cond = Cond::Any(&[KNOWN, Cond::Matches("this", literal::HEADER)]);

const fn written(at: &'static str, message: &'static str) -> Site {
    Site {
        at,
        message,
        when: KNOWN,
        help: "revoke it, since it has been seen, label the pod `mandate.dev/task: <task>` and let its TaskScope issue a short-lived credential",
        ..Site::POD
    }
}

const fn header(at: &'static str, message: &'static str) -> Site {
    Site { when: HANDED_OVER, ..written(at, message) }
}
