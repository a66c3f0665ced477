//! `dead-task`: a pod names a task that does not exist, has no authority yet, or is over.

use super::{Code, Found, Level, Rule};
use crate::decide::site::Subject;

/// a pod names a task that does not exist, has no authority yet, or is over.
pub const RULE: Rule = Rule {
    id: "dead-task",
    level: Level::Always,
    what: "a pod names a task that does not exist, has no authority yet, or is over.",
    why: "A pod that starts for a task that is over would run outside every deadline.",
    fix: "Create a task, wait until it is Ready, and name it in the label mandate.dev/task.",
    references: &[],
    since: "0.1.0",
    allows: "",
    sites: &[],
    code: Some(Code { look, lacks: "the task" }),
};

fn look(pod: &Subject<'_>, found: &mut Vec<Found>) {
    let Some(why) = pod.task.and_then(|claim| claim.unusable) else { return };
    found.push(Found {
        path: pod.path("metadata.labels['mandate.dev/task']"),
        message: why.to_owned(),
        help: "start a task first (`mandate task start`) and name it in the label once it is Ready".to_owned(),
        ..Found::default()
    });
}
