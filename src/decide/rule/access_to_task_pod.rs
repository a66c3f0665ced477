//! `access-to-task-pod`: somebody opens a way into a pod that works for a task.

use super::{Code, Level, Rule};

/// somebody opens a way into a pod that works for a task.
pub const RULE: Rule = Rule {
    id: "access-to-task-pod",
    level: Level::Restricted,
    what: "somebody opens a way into a pod that works for a task: exec, attach, port-forward or proxy.",
    why: "Whoever is inside reads the task's tokens and acts as the task, though they never asked for it and no audit log of the task shows them. Only the webhook sees a connection, and it must be able to look the pod up.",
    fix: "Read the pod's logs, or start a task of your own. Those who must get in, such as an on-call group, are named in the policy's `allow`.",
    references: &["https://kubernetes.io/docs/concepts/security/rbac-good-practices/#privilege-escalation-risks"],
    since: "0.1.0",
    allows: "users and groups (`user:alice@example.com`, `group:sre`)",
    sites: &[],
    // A connection is judged by `decide::access`; in the pod itself there is nothing to see.
    code: Some(Code { look: |_, _| {}, lacks: "the pod: a connection says its name alone" }),
};
