//! `device-claim`: a pod claims a device whose driver is told what nobody sees in the pod.

use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::Site;

/// a pod claims a device whose driver is told what nobody sees in the pod.
pub const RULE: Rule = Rule {
    id: "device-claim",
    level: Level::Advice,
    what: "a pod claims a device whose driver is told what nobody sees in the pod.",
    why: "A ResourceClaim hands its driver up to 10 KiB of parameters in a form that only the driver knows: a key fits in there, and what the driver puts into the containers is its own affair.",
    fix: "Look at what the claim tells the driver, and let a policy allow it by its name.",
    references: &["https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/"],
    since: "0.1.0",
    allows: "names of ResourceClaims and ResourceClaimTemplates",
    sites: &[
        Site {
            field: ".resourceClaimName",
            when: Cond::Text("this.resourceClaimName"),
            message: "the pod uses the device of ResourceClaim `{this.resourceClaimName}`; what its driver is told is not seen here",
            allow: Some("this.resourceClaimName"),
            ..CLAIM
        },
        Site {
            field: ".resourceClaimTemplateName",
            when: Cond::Text("this.resourceClaimTemplateName"),
            message: "the pod uses a device by ResourceClaimTemplate `{this.resourceClaimTemplateName}`; what its driver is told is not seen here",
            allow: Some("this.resourceClaimTemplateName"),
            ..CLAIM
        },
    ],
    code: None,
};

const CLAIM: Site = Site {
    at: "spec.resourceClaims[]",
    help: "see that `spec.devices.config[].opaque.parameters` of the claim hold no credential, then have the policy allow its name for `device-claim`",
    ..Site::POD
};
