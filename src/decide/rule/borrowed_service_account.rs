//! `borrowed-service-account`: a pod runs as the ServiceAccount of a task that is not its own, or of an agent, or a task's pod as somebody else's.

use super::{Code, Found, Level, Rule};
use crate::api::names;
use crate::decide::pod;
use crate::decide::site::Subject;

/// a pod runs as the ServiceAccount of a task that is not its own, or of an agent, or a task's pod as somebody else's.
pub const RULE: Rule = Rule {
    id: "borrowed-service-account",
    level: Level::Always,
    what: "a pod runs as the ServiceAccount of a task that is not its own, or of an agent, or a task's pod as somebody else's.",
    why: "Whoever runs as a task's ServiceAccount has the task's authority; whoever runs a task as a standing ServiceAccount keeps authority that no task gave.",
    fix: "Leave serviceAccountName out and label the pod with its task: the webhook sets it.",
    references: &[],
    since: "0.1.0",
    allows: "",
    sites: &[],
    code: Some(Code { look, lacks: "the task, and which ServiceAccount is its own" }),
};

fn look(pod: &Subject<'_>, found: &mut Vec<Found>) {
    let account = pod::service_account(pod.spec());
    let mut push = |message, help: &str| {
        found.push(Found { path: pod.spec_path("serviceAccountName"), message, help: help.to_owned(), ..Found::default() });
    };
    match (pod.task, pod.own()) {
        // `dead-task` speaks of it, and the webhook has left the pod as it came.
        (Some(claim), _) if claim.unusable.is_some() => {}
        // In a template the webhook has yet to set it.
        (Some(_), Some(_)) if pod.unadmitted && matches!(account, "" | "default") => {}
        (Some(claim), Some(own)) if account != own => push(
            format!("the pod works for task `{}` but runs as ServiceAccount `{account}`", claim.name),
            "remove `serviceAccountName`: a task's pod runs as the task's own ServiceAccount",
        ),
        (Some(_), _) => {}
        (None, _) if account.starts_with(names::TASK_PREFIX) || account.starts_with(names::AGENT_PREFIX) => push(
            format!("ServiceAccount `{account}` is Mandate's, and the pod names no task"),
            "remove `serviceAccountName` and label the pod `mandate.dev/task: <task>`",
        ),
        (None, _) => {}
    }
}
