//! `device-credential`: the parameters of a claim to a device hold a credential.

use super::{Level, Rule};
use crate::decide::json::{Read as _, Value};
use crate::decide::literal;
use crate::decide::predicate::{Cond, Knowledge};
use crate::decide::site::{On, Scene, Site};

/// the parameters of a claim to a device hold a credential.
pub const RULE: Rule = Rule {
    id: "device-credential",
    level: Level::Restricted,
    what: "the parameters of a claim to a device hold a credential.",
    why: "The opaque parameters of a ResourceClaim are free form, reach a driver on the node, and may be read by whoever may read claims. Credentials are known by their formats. In a pod it is seen where the claim is known: in manifests that are checked together, and with `mandate lint --cluster`.",
    fix: "Take the credential out and revoke it; let the driver read a short-lived one of its own.",
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
            message: "the pod claims a device by ResourceClaim `{this}`, whose parameters hold a credential",
            ..USED
        },
        Site {
            at: "spec.resourceClaims[].resourceClaimTemplateName",
            when: Cond::Known(Knowledge {
                look: |scene| is_claimed(scene, On::ResourceClaimTemplate, RULE.id),
                lacks: "the ResourceClaimTemplate",
            }),
            message: "the pod claims a device by ResourceClaimTemplate `{this}`, whose parameters hold a credential",
            ..USED
        },
    ],
    code: None,
};

const HELD: Site = Site {
    when: Cond::Known(Knowledge { look: is_known, lacks: "texts at any depth of what is free form" }),
    message: "the parameters for driver `{config.opaque.driver}` hold a credential",
    help: "take it out, revoke it, and let the driver read a short-lived one of its own",
    allow: Some("metadata.name"),
    ..Site::POD
};
const USED: Site = Site { help: "take the credential out of the parameters and revoke it", allow: Some("this"), ..Site::POD };

/// Whether a claim of this kind that the place names is one in which the rule found something.
pub(super) fn is_claimed(scene: &Scene<'_, '_>, on: On, rule: &str) -> bool {
    let subject = scene.subject;
    scene.this.as_str().is_some_and(|name| subject.world.related.has(on, subject.namespace, name, rule, None))
}

fn is_known(scene: &Scene<'_, '_>) -> bool {
    any_text(scene.this, "", 0, &mut |_, text| literal::is_known(text))
}

/// Deepest place in parameters that is looked at; the API server takes 10 KiB of them.
const DEEPEST: usize = 32;

/// Whether some text in a value is so; `is` is given its key and the text.
pub(super) fn any_text(value: &Value<'_>, key: &str, depth: usize, is: &mut dyn FnMut(&str, &str) -> bool) -> bool {
    match value {
        _ if depth > DEEPEST => false,
        Value::Str(text) => is(key, text),
        Value::Array(items) => items.iter().any(|item| any_text(item, key, depth + 1, is)),
        Value::Object(_) => value.members().any(|(key, member)| any_text(member, key, depth + 1, is)),
        _ => false,
    }
}
