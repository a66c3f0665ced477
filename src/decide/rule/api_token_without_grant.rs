//! `api-token-without-grant`: a pod of a task projects a token for the API server though its scope grants nothing there.

use super::{Found, Level, Pod, Rule};
use crate::api::Workloads;
use crate::decide::pod::What;

/// a pod of a task projects a token for the API server though its scope grants nothing there.
pub const RULE: Rule = Rule {
    id: "api-token-without-grant",
    level: Level::Restricted,
    what: "a pod of a task projects a token for the API server though its scope grants nothing there.",
    why: "A token for the API server that the task has no use for is one more credential to steal.",
    fix: "Give the token the audience of the system it is for, or give the TaskScope the Kubernetes rules the task needs.",
    references: &[],
    since: "0.1.0",
    check,
};

fn check(pod: &Pod<'_>, _: Workloads, found: &mut Vec<Found>) {
    // What a task will be granted that has nothing yet is not known; `dead-task` speaks of it.
    let usable = pod.task.filter(|claim| claim.unusable.is_none());
    if usable.and_then(|claim| claim.task).is_none_or(|task| task.has_rules) {
        return;
    }
    for reach in &pod.reaches {
        if matches!(reach.what, What::Token { audience: None, .. }) {
            found.push(Found {
                path: format!("{}.audience", reach.path),
                message: format!("{} projects a token for the API server, where the task may do nothing", reach.holder),
                help: "set the `audience` of the system the token is for, or remove the source".to_owned(),
            });
        }
    }
}
