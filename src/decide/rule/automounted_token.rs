//! `automounted-token`: a pod that works for no task gets a token for the API server mounted by default.

use super::{Found, Level, Pod, Rule};
use crate::api::Workloads;
use crate::api::names;
use crate::decide::json::{Read as _, Value};
use crate::decide::pod::CONTAINER_LISTS;

/// a pod that works for no task gets a token for the API server mounted by default.
pub const RULE: Rule = Rule {
    id: "automounted-token",
    level: Level::Restricted,
    what: "a pod that works for no task gets a token for the API server mounted by default.",
    why: "The token carries the standing rights of its ServiceAccount, for as long as the pod runs, whether the code in it needs them or not.",
    fix: "Set automountServiceAccountToken: false, or label the pod with its task.",
    references: &["https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#opt-out-of-api-credential-automounting"],
    since: "0.1.0",
    check,
};

fn check(pod: &Pod<'_>, _: Workloads, found: &mut Vec<Found>) {
    // A task's pod gets its token by the webhook, never by default.
    if pod.task.is_some() || pod.spec.member("automountServiceAccountToken").and_then(Value::as_bool) == Some(false) {
        return;
    }
    // A ServiceAccount may have switched the mounting off; the mount itself tells.
    let mounted = CONTAINER_LISTS
        .iter()
        .flat_map(|list| pod.spec.items(list))
        .flat_map(|container| container.items("volumeMounts"))
        .any(|mount| mount.text("mountPath") == names::KUBERNETES_DIR);
    if mounted {
        found.push(Found {
            path: format!("{}.automountServiceAccountToken", pod.root),
            message: "a token for the API server is mounted though the pod works for no task".to_owned(),
            help: "set `automountServiceAccountToken: false`, or label the pod `mandate.dev/task: <task>`".to_owned(),
        });
    }
}
