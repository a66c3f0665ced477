//! `other-tasks-credentials`: a pod reaches the credentials of a task that is not its own, or its own in a way that does not follow their renewal.

use super::{Found, Level, Pod, Rule};
use crate::api::Workloads;
use crate::api::names;
use crate::decide::pod::What;

/// a pod reaches the credentials of a task that is not its own, or its own in a way that does not follow their renewal.
pub const RULE: Rule = Rule {
    id: "other-tasks-credentials",
    level: Level::Always,
    what: "a pod reaches the credentials of a task that is not its own, or its own in a way that does not follow their renewal.",
    why: "A pod that reads another task's credentials acts with authority it was never given. An environment variable keeps a token that was renewed long ago.",
    fix: "Label the pod with its own task: the webhook mounts the task's credentials at /var/run/secrets/mandate.dev/task.",
    references: &[],
    since: "0.1.0",
    check,
};

fn check(pod: &Pod<'_>, _: Workloads, found: &mut Vec<Found>) {
    for reach in &pod.reaches {
        let (What::SecretEnv(name)
        | What::SecretEnvFrom(name)
        | What::SecretVolume(name)
        | What::SecretProjection(name)
        | What::CsiSecret(name)
        | What::StorageSecret(_, name)) = reach.what
        else {
            continue;
        };
        if !name.starts_with(names::TASK_PREFIX) || pod.is_own_volume(reach.what) {
            continue;
        }
        let message = if pod.own() == Some(name) {
            format!("{} takes the task's credentials in a way that does not follow their renewal", reach.holder)
        } else {
            format!("{} reaches `{name}`, the credentials of a task that is not the pod's own", reach.holder)
        };
        found.push(Found {
            path: reach.path.clone(),
            message,
            help: format!("remove it and label the pod `mandate.dev/task: <its own task>`; the files appear in {}", names::CREDENTIALS_DIR),
        });
    }
}
