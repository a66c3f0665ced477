//! `dead-task`: a pod names a task that does not exist, has no authority yet, or is over.

use super::{Found, Level, Pod, Rule};
use crate::api::Workloads;

/// a pod names a task that does not exist, has no authority yet, or is over.
pub const RULE: Rule = Rule {
    id: "dead-task",
    level: Level::Always,
    what: "a pod names a task that does not exist, has no authority yet, or is over.",
    why: "A pod that starts for a task that is over would run outside every deadline.",
    fix: "Create a task, wait until it is Ready, and name it in the label mandate.dev/task.",
    references: &[],
    since: "0.1.0",
    check,
};

fn check(pod: &Pod<'_>, _: Workloads, found: &mut Vec<Found>) {
    let Some(why) = pod.task.and_then(|claim| claim.unusable) else { return };
    found.push(Found {
        path: "metadata.labels['mandate.dev/task']".to_owned(),
        message: why.to_owned(),
        help: "start a task first (`mandate task start`) and name it in the label once it is Ready".to_owned(),
    });
}
