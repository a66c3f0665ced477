//! `secret-projection`: a projected volume holds a Secret among its sources.

use super::{Found, Level, Pod, Rule, secrets};
use crate::api::Workloads;
use crate::decide::pod::What;

/// a projected volume holds a Secret among its sources.
pub const RULE: Rule = Rule {
    id: "secret-projection",
    level: Level::Baseline,
    what: "a projected volume holds a Secret among its sources.",
    why: "It hides beside legal sources, such as a short-lived token, and is missed by checks that look at secret volumes alone.",
    fix: "Take the source out; issue a credential for the task with its TaskScope.",
    references: &["https://kubernetes.io/docs/concepts/storage/projected-volumes/"],
    since: "0.1.0",
    check,
};

fn check(pod: &Pod<'_>, _: Workloads, found: &mut Vec<Found>) {
    secrets(pod, |what| if let What::SecretProjection(name) = what { Some(name) } else { None }, "projects", found);
}
