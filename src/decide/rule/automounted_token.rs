//! `automounted-token`: a pod that works for no task gets a token for the API server mounted by default.

use super::{Level, Rule};
use crate::api::names;
use crate::decide::json::{Read as _, Value};
use crate::decide::pod;
use crate::decide::predicate::{Cond, Knowledge};
use crate::decide::site::{Scene, Site};

/// a pod that works for no task gets a token for the API server mounted by default.
pub const RULE: Rule = Rule {
    id: "automounted-token",
    level: Level::Restricted,
    what: "a pod that works for no task gets a token for the API server mounted by default.",
    why: "The token carries the standing rights of its ServiceAccount, for as long as the pod runs, whether the code in it needs them or not.",
    fix: "Set automountServiceAccountToken: false, or label the pod with its task.",
    references: &[
        "https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#opt-out-of-api-credential-automounting",
    ],
    since: "0.1.0",
    allows: "",
    sites: &[Site {
        at: "spec",
        field: ".automountServiceAccountToken",
        when: Cond::All(&[
            // A task's pod gets its token by the webhook, never by default.
            Cond::Not(&Cond::Present("metadata.labels[mandate.dev/task]")),
            Cond::Not(&Cond::False("this.automountServiceAccountToken")),
            // A ServiceAccount may have switched the mounting off; in a pod the mount itself
            // tells.
            Cond::Any(&[
                Cond::Some("spec.C[].volumeMounts[]", &Cond::Is("this.mountPath", names::KUBERNETES_DIR)),
                Cond::All(&[Cond::Unadmitted, Cond::Not(&SWITCHED_OFF)]),
            ]),
        ]),
        message: "a token for the API server is mounted though the pod works for no task",
        help: "set `automountServiceAccountToken: false`, or label the pod `mandate.dev/task: <task>`",
        ..Site::POD
    }],
    code: None,
};

/// The pod leaves the choice to its ServiceAccount, and that is known to say no.
pub(super) const SWITCHED_OFF: Cond = Cond::Known(Knowledge { look: switched_off, lacks: "the ServiceAccount" });

fn switched_off(scene: &Scene<'_, '_>) -> bool {
    let spec = scene.subject.spec();
    let asked = spec.member("automountServiceAccountToken").and_then(Value::as_bool);
    let account = match pod::service_account(spec) {
        "" => "default",
        name => name,
    };
    let known = scene.subject.world.namespaces.get(scene.subject.namespace).and_then(|here| here.accounts.get(account));
    asked.is_none() && known.is_some_and(|account| account.automount == Some(false))
}
