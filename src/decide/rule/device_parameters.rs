//! `device-parameters`: the parameters of a claim to a device have a member that is called as a credential is.

use std::sync::LazyLock;

use regex::Regex;

use super::device_credential::{any_text, is_claimed};
use super::{Level, Rule};
use crate::decide::predicate::{Cond, Knowledge};
use crate::decide::site::{On, Scene, Site};

/// the parameters of a claim to a device have a member that is called as a credential is.
pub const RULE: Rule = Rule {
    id: "device-parameters",
    level: Level::Advice,
    what: "the parameters of a claim to a device have a member that is called as a credential is, such as `password`.",
    why: "The opaque parameters of a ResourceClaim are free form: 10 KiB that reach a driver on the node and may be read by whoever may read claims. In a pod it is seen where the claim is known: in manifests that are checked together, and with `mandate lint --cluster`.",
    fix: "Let the driver read a short-lived credential of its own.",
    references: &["https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/"],
    since: "0.1.0",
    allows: "names of claims and of templates of claims",
    sites: &[
        Site { on: On::ResourceClaim, at: "spec.devices.config[].opaque.parameters", ..HELD },
        Site { on: On::ResourceClaimTemplate, at: "spec.spec.devices.config[].opaque.parameters", ..HELD },
        Site {
            at: "spec.resourceClaims[].resourceClaimName",
            when: Cond::Known(Knowledge {
                look: |scene| is_claimed(scene, On::ResourceClaim, RULE.id),
                lacks: "the ResourceClaim",
            }),
            message: "the pod claims a device by ResourceClaim `{this}`, whose parameters seem to hold a credential",
            ..USED
        },
        Site {
            at: "spec.resourceClaims[].resourceClaimTemplateName",
            when: Cond::Known(Knowledge {
                look: |scene| is_claimed(scene, On::ResourceClaimTemplate, RULE.id),
                lacks: "the ResourceClaimTemplate",
            }),
            message: "the pod claims a device by ResourceClaimTemplate `{this}`, whose parameters seem to hold a credential",
            ..USED
        },
    ],
    code: None,
};

const HELD: Site = Site {
    when: Cond::Known(Knowledge { look: sounds_like_one, lacks: "members at any depth of what is free form" }),
    message: "the parameters for driver `{config.opaque.driver}` have a member that is called as a credential is",
    help: "take it out, and let the driver read a short-lived credential of its own",
    allow: Some("metadata.name"),
    ..Site::POD
};
const USED: Site = Site { help: "take the credential out of the parameters", allow: Some("this"), ..Site::POD };

/// Ends of the names by which people call credentials, in any spelling. What ends in `name`,
/// `file` or `ref` leads to one and is none.
const CALLED: &str = r"([Pp]assword|[Pp]asswd|PASSWORD|[Tt]oken|TOKEN|[Ss]ecret|SECRET|[Cc]redentials?|[Aa]pi-?_?[Kk]ey|API_KEY|[Pp]rivate-?_?[Kk]ey|[Aa]ccess-?_?[Kk]ey)$";

fn sounds_like_one(scene: &Scene<'_, '_>) -> bool {
    static CALLED_SO: LazyLock<Regex> = LazyLock::new(|| Regex::new(CALLED).expect("a test looks at such parameters"));
    any_text(scene.this, "", 0, &mut |key, text| !text.is_empty() && CALLED_SO.is_match(key))
}
