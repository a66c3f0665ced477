//! What other objects tell about a pod: what its ConfigMaps, claims and classes hold that is
//! a credential, or is made with one.
//!
//! A pod that is harmless by itself can claim a volume that hands a Secret to its driver. What
//! decides that stands in other objects. [`World::learn`] takes any object and keeps of it what
//! rules ask about later: which rule found something in it and under which key, what a claim is
//! bound to, what a ServiceAccount brings. Never a value.
//!
//! Where an object was never learned nothing is claimed about it.

use std::collections::BTreeMap;

use super::json::{Read as _, Value};
use super::rule::Level;
use super::site::{self, On, Root, Subject};
use super::world::{Account, World};
use crate::api::Workloads;

/// Kinds of which something is kept.
pub const LEARNED: &[On] = &[
    On::ServiceAccount,
    On::ConfigMap,
    On::PersistentVolumeClaim,
    On::PersistentVolume,
    On::StorageClass,
    On::SecretProviderClass,
    On::ResourceClaim,
    On::ResourceClaimTemplate,
];
/// Of those, the ones in which rules find what concerns the pods that use them.
const NOTED: &[On] = &[
    On::ConfigMap,
    On::PersistentVolume,
    On::StorageClass,
    On::SecretProviderClass,
    On::ResourceClaim,
    On::ResourceClaimTemplate,
];

/// What is known of objects that pods use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Related {
    /// What rules found, by kind, namespace and name. Objects in which nothing was found are
    /// not here.
    noted: BTreeMap<On, BTreeMap<String, BTreeMap<String, Vec<Note>>>>,
    /// Claims to volumes, by namespace and name.
    claims: BTreeMap<String, BTreeMap<String, Claimed>>,
    /// Volumes that say whose they are, by namespace and name of the claim.
    volumes: BTreeMap<String, BTreeMap<String, String>>,
    /// The claims of those volumes, as namespace and name.
    bound: BTreeMap<String, (String, String)>,
}

/// What one rule found in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The rule.
    pub rule: &'static str,
    /// The innermost key it stands under, such as a key of a ConfigMap.
    pub key: Option<String>,
    /// What of it a policy's `allow` is compared with, such as a path of a node.
    pub allow: Option<String>,
}

/// What a claim to a volume leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// The volume, or empty where it is not bound.
    pub volume: String,
    /// The class, or empty.
    pub class: String,
}

impl Related {
    /// Whether a rule found something in an object; under this key, where one is given.
    #[must_use]
    pub fn has(&self, on: On, namespace: &str, name: &str, rule: &str, key: Option<&str>) -> bool {
        self.notes(on, namespace, name).any(|note| note.rule == rule && (key.is_none() || note.key.as_deref() == key))
    }

    /// What rules found in an object.
    pub fn notes<'a>(&'a self, on: On, namespace: &str, name: &str) -> impl Iterator<Item = &'a Note> + use<'a> {
        let namespace = if on.is_cluster_scoped() { "" } else { namespace };
        let notes = self.noted.get(&on).and_then(|of| of.get(namespace)).and_then(|here| here.get(name));
        notes.into_iter().flatten()
    }

    /// The volume that a claim leads to, where that is known.
    #[must_use]
    pub fn volume_of(&self, namespace: &str, claim: &str) -> Option<&str> {
        let named = self.claims.get(namespace).and_then(|here| here.get(claim)).map(|claimed| claimed.volume.as_str());
        let told = || self.volumes.get(namespace).and_then(|here| here.get(claim)).map(String::as_str);
        named.filter(|volume| !volume.is_empty()).or_else(told)
    }

    /// The class that a claim asks for, where that is known.
    #[must_use]
    pub fn class_of(&self, namespace: &str, claim: &str) -> Option<&str> {
        let class = &self.claims.get(namespace)?.get(claim)?.class;
        (!class.is_empty()).then_some(class)
    }

    /// Takes in whose a volume says to be; nobody's, where there is no claim.
    fn bind(&mut self, volume: &str, claim: Option<&Value<'_>>) {
        if let Some((namespace, name)) = self.bound.remove(volume)
            && let Some(here) = self.volumes.get_mut(&namespace)
        {
            here.remove(&name);
        }
        if let Some(claim) = claim {
            let (namespace, name) = (claim.text("namespace").to_owned(), claim.text("name").to_owned());
            self.bound.insert(volume.to_owned(), (namespace.clone(), name.clone()));
            self.volumes.entry(namespace).or_default().insert(name, volume.to_owned());
        }
    }

    fn note(&mut self, on: On, namespace: &str, name: &str, notes: Vec<Note>) {
        let here = self.noted.entry(on).or_default().entry(namespace.to_owned()).or_default();
        if notes.is_empty() {
            here.remove(name);
        } else {
            here.insert(name.to_owned(), notes);
        }
    }
}

impl World {
    /// Takes in an object of any kind, as a manifest or a cluster has it; of most kinds there is
    /// nothing to keep. A namespaced object without a namespace stands in `default`, as for
    /// [`judge`](super::admit::judge).
    pub fn learn(&mut self, object: &Value<'_>) {
        let Some((on, namespace, name)) = named(object) else { return };
        match on {
            On::ServiceAccount => {
                let pull_secrets = object.items("imagePullSecrets").iter().map(|secret| secret.text("name").to_owned());
                let account = Account {
                    automount: object.member("automountServiceAccountToken").and_then(Value::as_bool),
                    pull_secrets: pull_secrets.filter(|name| !name.is_empty()).collect(),
                };
                self.namespaces.entry(namespace.to_owned()).or_default().accounts.insert(name.to_owned(), account);
            }
            On::PersistentVolumeClaim => {
                let spec = |field| object.member("spec").map_or("", |spec| spec.text(field)).to_owned();
                let claimed = Claimed { volume: spec("volumeName"), class: spec("storageClassName") };
                self.related.claims.entry(namespace.to_owned()).or_default().insert(name.to_owned(), claimed);
            }
            on if NOTED.contains(&on) => {
                self.related.note(on, namespace, name, notes(on, object));
                if on == On::PersistentVolume {
                    self.related.bind(name, object.at(&["spec", "claimRef"]));
                }
            }
            _ => {}
        }
    }

    /// Forgets what was learned of an object; its kind, namespace and name are enough.
    pub fn forget(&mut self, object: &Value<'_>) {
        let Some((on, namespace, name)) = named(object) else { return };
        match on {
            On::ServiceAccount => {
                if let Some(here) = self.namespaces.get_mut(namespace) {
                    here.accounts.remove(name);
                }
            }
            On::PersistentVolumeClaim => {
                if let Some(here) = self.related.claims.get_mut(namespace) {
                    here.remove(name);
                }
            }
            on => {
                self.related.note(on, namespace, name, vec![]);
                if on == On::PersistentVolume {
                    self.related.bind(name, None);
                }
            }
        }
    }
}

/// Kind, namespace and name of an object, where rules know its kind.
fn named<'a>(object: &'a Value<'a>) -> Option<(On, &'a str, &'a str)> {
    let on = On::of_kind(object.text("apiVersion"), object.text("kind"))?;
    let metadata = object.member("metadata")?;
    let name = Some(metadata.text("name")).filter(|name| !name.is_empty())?;
    Some((on, on.namespace(object), name))
}

/// What the rules find in an object by itself.
fn notes(on: On, object: &Value<'_>) -> Vec<Note> {
    let world = World::default();
    let subject =
        Subject { root: Root::Object(object, ""), on, name: "", namespace: "", unadmitted: true, task: None, world: &world };
    let mut notes: Vec<Note> = vec![];
    site::program().walk(&subject, &mut |site, scene| {
        if site.rule.level == Level::Always || !site.is_broken(scene, &Workloads::BUILT_IN, None) {
            return;
        }
        let key = scene.items.iter().rev().find_map(|item| item.key).map(str::to_owned);
        let note = Note { rule: site.rule.id, key, allow: site.allowable(scene).map(str::to_owned) };
        if !notes.contains(&note) {
            notes.push(note);
        }
    });
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(manifests: &[&str]) -> World {
        let mut world = World::default();
        for manifest in manifests {
            world.learn(&serde_json::from_str(manifest).unwrap());
        }
        world
    }

    const PEM: &str = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"tls","namespace":"a"},"data":{"key":"-----BEGIN PRIVATE KEY-----\nbm90IGEga2V5LCBub3IgYW55dGhpbmcgdGhhdCBvcGVucw==","other":"x"}}"#;

    #[test]
    fn of_a_config_map_only_the_keys_with_a_credential_are_kept() {
        let world = learned(&[PEM]);
        let has = |namespace, key| world.related.has(On::ConfigMap, namespace, "tls", "config-map-credential", key);
        assert!(has("a", None) && has("a", Some("key")) && !has("a", Some("other")) && !has("b", None));
        assert!(!format!("{world:?}").contains("PRIVATE"));
    }

    #[test]
    fn an_object_that_became_harmless_or_went_is_forgotten() {
        let mut world =
            learned(&[PEM, r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"tls","namespace":"a"},"data":{}}"#]);
        assert!(!world.related.has(On::ConfigMap, "a", "tls", "config-map-credential", None));
        let pem = serde_json::from_str(PEM).unwrap();
        world.learn(&pem);
        world.forget(&pem);
        assert!(!world.related.has(On::ConfigMap, "a", "tls", "config-map-credential", None));
    }

    #[test]
    fn a_claim_leads_to_its_volume_from_either_side() {
        let world = learned(&[
            r#"{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"one"},"spec":{"volumeName":"pv-1","storageClassName":"slow"}}"#,
            r#"{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"two"},"spec":{}}"#,
            r#"{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"pv-2"},"spec":{"claimRef":{"namespace":"default","name":"two"}}}"#,
        ]);
        assert_eq!(world.related.volume_of("default", "one"), Some("pv-1"));
        assert_eq!(world.related.volume_of("default", "two"), Some("pv-2"));
        assert_eq!(world.related.volume_of("other", "two"), None);
        assert_eq!((world.related.class_of("default", "one"), world.related.class_of("default", "two")), (Some("slow"), None));
    }

    #[test]
    fn what_has_no_kind_or_name_is_no_trouble() {
        let world = learned(&[
            "null",
            "[]",
            "{}",
            r#"{"apiVersion":"v1","kind":"ConfigMap"}"#,
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":7}"#,
        ]);
        assert_eq!(world.related, Related::default());
    }
}
