//! `secret-provider-class`: an inline CSI volume mounts secrets that a driver fetches from a store.

use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::Site;

/// an inline CSI volume mounts secrets that a driver fetches from a store.
pub const RULE: Rule = Rule {
    id: "secret-provider-class",
    level: Level::Restricted,
    what: "an inline CSI volume mounts secrets that a driver fetches from a store.",
    why: "What a SecretProviderClass names is a static credential as a rule, and its secretObjects make a Secret of it. The pod shows nothing of that.",
    fix: "Issue a credential for the task with its TaskScope, or let a policy allow the class by its name.",
    references: &["https://secrets-store-csi-driver.sigs.k8s.io/topics/sync-as-kubernetes-secret.html"],
    since: "0.1.0",
    allows: "names of SecretProviderClasses",
    sites: &[Site {
        at: "spec.volumes[].csi.volumeAttributes.secretProviderClass",
        when: Cond::Text("this"),
        message: "volume `{volume.name}` mounts what SecretProviderClass `{this}` fetches from a store of secrets",
        help: "remove it, label the pod `mandate.dev/task: <task>` and let its TaskScope issue a short-lived credential, or have the policy allow `{this}` for `secret-provider-class`",
        allow: Some("this"),
        ..Site::POD
    }],
    code: None,
};
