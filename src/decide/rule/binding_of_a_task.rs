//! `binding-of-a-task`: a Binding gives the pod labels or annotations that are Mandate's.

use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::{On, Site};

/// a Binding gives the pod labels or annotations that are Mandate's.
pub const RULE: Rule = Rule {
    id: "binding-of-a-task",
    level: Level::Always,
    what: "a Binding gives the pod labels or annotations that are Mandate's.",
    why: "The API server copies the labels and annotations of a Binding onto the pod, over those it has: the pod would pass for one of another task, though no rule has looked at it as such.",
    fix: "Label the pod with its task when it is created.",
    references: &["https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/binding-v1/"],
    since: "0.1.0",
    allows: "",
    sites: &[
        Site {
            at: "metadata.labels{}",
            message: "the Binding puts label `{key}` on pod `{metadata.name}`, which is Mandate's",
            ..OURS
        },
        Site {
            at: "metadata.annotations{}",
            message: "the Binding puts annotation `{key}` on pod `{metadata.name}`, which is Mandate's",
            ..OURS
        },
    ],
    code: None,
};

const OURS: Site = Site {
    on: On::Binding,
    when: Cond::StartsWith("key", "mandate.dev/"),
    help: "leave it out of the Binding, and label the pod when it is created",
    ..Site::POD
};
