//! `binding-credential`: a Binding puts a credential, or an annotation that has one injected, on the pod.

use super::injected_credential::ANNOTATION;
use super::literal_credential::KNOWN;
use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::{On, Site};

/// a Binding puts a credential, or an annotation that has one injected, on the pod.
pub const RULE: Rule = Rule {
    id: "binding-credential",
    level: Level::Restricted,
    what: "a Binding puts a credential, or an annotation that has one injected, on the pod.",
    why: "The API server copies the annotations and labels of a Binding onto the pod, after every rule has looked at the pod: a container reads them as its own fields.",
    fix: "Leave annotations out of Bindings; what the pod needs is written in the pod.",
    references: &["https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/binding-v1/"],
    since: "0.1.0",
    allows: "keys of annotations (`scheduler.example.com/*`)",
    sites: &[
        Site {
            at: "metadata.annotations{}",
            when: KNOWN,
            message: "the Binding puts annotation `{key}` on pod `{metadata.name}`, and its text is a credential",
            ..BROUGHT
        },
        Site {
            at: "metadata.annotations{}",
            when: Cond::Matches("key", ANNOTATION),
            message: "the Binding puts annotation `{key}` on pod `{metadata.name}`, by which an injector brings a credential",
            ..BROUGHT
        },
    ],
    code: None,
};

const BROUGHT: Site = Site { on: On::Binding, help: "leave it out of the Binding", allow: Some("key"), ..Site::POD };
