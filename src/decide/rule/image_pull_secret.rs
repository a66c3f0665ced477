//! `image-pull-secret`: a pod pulls its images with a Secret.

use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::Site;

/// a pod pulls its images with a Secret.
pub const RULE: Rule = Rule {
    id: "image-pull-secret",
    level: Level::Restricted,
    what: "a pod pulls its images with a Secret.",
    why: "The password of a registry never expires, and whoever may start pods with it may read everything that it can pull, and push where it may push.",
    fix: "Let the nodes pull with the kubelet's credential provider, or let a policy allow the Secret by its name.",
    references: &["https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/"],
    since: "0.1.0",
    allows: "names of Secrets",
    sites: &[Site {
        at: "spec.imagePullSecrets[]",
        field: ".name",
        when: Cond::Text("this.name"),
        message: "the pod pulls its images with Secret `{this.name}`, which never expires",
        help: "let the nodes pull with the kubelet's credential provider, or have the policy allow `{this.name}` for `image-pull-secret`",
        allow: Some("this.name"),
        ..Site::POD
    }],
    code: None,
};
