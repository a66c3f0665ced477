//! `config-map-credential`: a ConfigMap holds a credential, and so does whoever uses it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::literal_credential::KNOWN;
use super::{Level, Rule};
use crate::decide::json::Read as _;
use crate::decide::literal;
use crate::decide::predicate::{Cond, Knowledge};
use crate::decide::site::{On, Scene, Site};

/// a ConfigMap holds a credential, and so does whoever uses it.
pub const RULE: Rule = Rule {
    id: "config-map-credential",
    level: Level::Restricted,
    what: "a ConfigMap holds a credential, and so does whoever uses it.",
    why: "A ConfigMap is no place for secrets: many may read it, it is kept in repositories, and the credential in it never expires. Credentials are known by their formats; one of another format is not seen. In a pod it is seen where the ConfigMap is known: in manifests that are checked together, and with `mandate lint --cluster`. The webhook is never sent what a ConfigMap holds.",
    fix: "Take the credential out and revoke it; let a TaskScope issue a short-lived one.",
    references: &["https://kubernetes.io/docs/concepts/configuration/configmap/"],
    since: "0.1.0",
    allows: "names of ConfigMaps",
    sites: &[
        Site { at: "data{}", when: KNOWN, ..HELD },
        Site {
            at: "binaryData{}",
            when: Cond::Known(Knowledge { look: is_known_binary, lacks: "a way to decode base64" }),
            ..HELD
        },
        Site {
            at: "spec.C[].env[].valueFrom.configMapKeyRef",
            message: "container `{container.name}` takes key `{this.key}` of ConfigMap `{this.name}`, which is a credential",
            ..USED
        },
        Site {
            at: "spec.C[].envFrom[].configMapRef",
            message: "container `{container.name}` takes all of ConfigMap `{this.name}`, which holds a credential",
            ..USED
        },
        Site {
            at: "spec.volumes[].configMap",
            message: "volume `{volume.name}` has ConfigMap `{this.name}`, which holds a credential",
            ..USED
        },
        Site {
            at: "spec.volumes[].projected.sources[].configMap",
            message: "volume `{volume.name}` has ConfigMap `{this.name}`, which holds a credential",
            ..USED
        },
    ],
    code: None,
};

const HELP: &str = "take the credential out, revoke it, and let a TaskScope issue a short-lived one";
const HELD: Site = Site {
    on: On::ConfigMap,
    message: "key `{key}` of ConfigMap `{metadata.name}` is a credential",
    help: HELP,
    allow: Some("metadata.name"),
    ..Site::POD
};
const USED: Site = Site {
    when: Cond::Known(Knowledge { look: |scene| is_used(scene, RULE.id), lacks: "the ConfigMap" }),
    help: HELP,
    allow: Some("this.name"),
    ..Site::POD
};

/// Whether the text that is written in base64 is a credential.
fn is_known_binary(scene: &Scene<'_, '_>) -> bool {
    let bytes = scene.this.as_str().and_then(|text| STANDARD.decode(text).ok());
    bytes.is_some_and(|bytes| literal::is_known(&String::from_utf8_lossy(&bytes)))
}

/// Whether what stands at the place uses a key of a ConfigMap in which this rule found something.
pub(super) fn is_used(scene: &Scene<'_, '_>, rule: &str) -> bool {
    let (subject, name) = (scene.subject, scene.this.text("name"));
    let has = |key| subject.world.related.has(On::ConfigMap, subject.namespace, name, rule, key);
    match (scene.this.text("key"), scene.this.items("items")) {
        ("", []) => has(None),
        ("", items) => items.iter().any(|item| has(Some(item.text("key")))),
        (key, _) => has(Some(key)),
    }
}
