//! `api-token-without-grant`: a pod of a task projects a token for the API server though its scope grants nothing there.

use super::{Level, Rule};
use crate::decide::predicate::{Cond, Knowledge};
use crate::decide::site::{Scene, Site};

/// a pod of a task projects a token for the API server though its scope grants nothing there.
pub const RULE: Rule = Rule {
    id: "api-token-without-grant",
    level: Level::Restricted,
    what: "a pod of a task projects a token for the API server though its scope grants nothing there.",
    why: "A token for the API server that the task has no use for is one more credential to steal.",
    fix: "Give the token the audience of the system it is for, or give the TaskScope the Kubernetes rules the task needs.",
    references: &[],
    since: "0.1.0",
    allows: "",
    sites: &[Site {
        at: "spec.volumes[].projected.sources[].serviceAccountToken",
        field: ".audience",
        when: Cond::All(&[
            Cond::Not(&Cond::Text("this.audience")),
            Cond::Known(Knowledge { look: grants_nothing, lacks: "the task" }),
        ]),
        message: "volume `{volume.name}` projects a token for the API server, where the task may do nothing",
        help: "set the `audience` of the system the token is for, or remove the source",
        ..Site::POD
    }],
    code: None,
};

fn grants_nothing(scene: &Scene<'_, '_>) -> bool {
    // What a task will be granted that has nothing yet is not known; `dead-task` speaks of it.
    let usable = scene.subject.task.filter(|claim| claim.unusable.is_none());
    usable.and_then(|claim| claim.task).is_some_and(|task| !task.has_rules)
}
