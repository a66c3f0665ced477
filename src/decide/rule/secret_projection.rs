//! `secret-projection`: a projected volume holds a Secret among its sources.

use super::{INSTEAD_OF_SECRET, Level, Rule, STATIC};
use crate::decide::site::Site;

/// a projected volume holds a Secret among its sources.
pub const RULE: Rule = Rule {
    id: "secret-projection",
    level: Level::Baseline,
    what: "a projected volume holds a Secret among its sources.",
    why: "It hides beside legal sources, such as a short-lived token, and is missed by checks that look at secret volumes alone.",
    fix: "Take the source out; issue a credential for the task with its TaskScope.",
    references: &["https://kubernetes.io/docs/concepts/storage/projected-volumes/"],
    since: "0.1.0",
    allows: "",
    sites: &[Site {
        at: "spec.volumes[].projected.sources[].secret",
        field: ".name",
        when: STATIC,
        message: "volume `{volume.name}` projects Secret `{this.name}`, which never expires",
        help: INSTEAD_OF_SECRET,
        ..Site::POD
    }],
    code: None,
};
