//! What stands in the cluster of what Mandate owns: kept by watches, small.
//!
//! Ten thousand tasks own twenty thousand objects; of each only the owner's UID and a
//! digest are kept. Secrets are not among them: the controller may not read them.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, RwLock};

use futures::channel::mpsc;
use futures::{SinkExt as _, StreamExt as _};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tracing::warn;

use crate::api::{AgentTask, Grant, names};
use crate::decide::grant;

/// What is kept of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    owner: u128,
    /// Digest of what must not change in it.
    pub digest: u64,
}

type InNamespace = HashMap<Box<str>, Fact>;

/// Objects of one kind that Mandate owns, by namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Facts(Arc<RwLock<HashMap<Arc<str>, InNamespace>>>);

impl Facts {
    /// The object of this name, where its owner is the one with this UID.
    #[must_use]
    pub fn of(&self, namespace: &str, name: &str, owner_uid: &str) -> Option<Fact> {
        self.get(namespace, name).filter(|fact| fact.owner == number(owner_uid))
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Fact> {
        let all = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.get(namespace)?.get(name).copied()
    }

    /// Whether the Role that holds a grant of a scope stands, and holds just that.
    #[must_use]
    pub fn hold(&self, namespace: &str, scope: &str, grant: &Grant) -> bool {
        let stands = grant::name_of_role(scope, grant).and_then(|role| self.of(namespace, &role, &grant.scope_uid));
        stands.is_some_and(|fact| fact.digest == grant::digest(&grant.rules))
    }

    /// Names of the objects whose owner is the one with this UID.
    #[must_use]
    pub fn owned_by(&self, namespace: &str, owner_uid: &str) -> Vec<String> {
        let owner = number(owner_uid);
        let all = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let here = all.get(namespace).into_iter().flatten();
        here.filter(|(_, fact)| fact.owner == owner).map(|(name, _)| name.clone().into_string()).collect()
    }

    /// Every digest in a namespace.
    #[must_use]
    pub fn digests(&self, namespace: &str) -> HashSet<u64> {
        let all = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.get(namespace).into_iter().flatten().map(|(_, fact)| fact.digest).collect()
    }

    /// Takes in what is now known of an object, and gives back what was.
    fn put(&self, namespace: &str, name: &str, fact: Option<Fact>) -> Option<Fact> {
        let mut all = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        match fact {
            Some(fact) => all.entry(namespace.into()).or_default().insert(name.into(), fact),
            None => all.get_mut(namespace).and_then(|here| here.remove(name)),
        }
    }

    fn replace(&self, new: HashMap<Arc<str>, HashMap<Box<str>, Fact>>) {
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = new;
    }
}

/// A UID as a number; texts that are no UID get their digest, so that none is equal by accident.
fn number(uid: &str) -> u128 {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(uid.as_bytes()).iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Watches one kind for as long as the process lives, keeps its facts current, and names
/// the tasks that a change touches. An object that is new touches none: whoever made it knows.
/// Where nobody knows what has changed, since the watch was interrupted, `touches` gets none.
///
/// `synced` is told once the first list is complete.
pub async fn watch<K>(
    client: Client,
    facts: Facts,
    digest: fn(&K) -> u64,
    touches: impl Fn(Option<&ObjectMeta>) -> Vec<ObjectRef<AgentTask>>,
    mut changed: mpsc::Sender<ObjectRef<AgentTask>>,
    synced: oneshot::Sender<()>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().labels(&format!("{}={}", names::MANAGED_BY, names::MANAGER));
    let mut stream = watcher(Api::<K>::all(client), config).default_backoff().boxed();
    let mut synced = Some(synced);
    let mut fresh = HashMap::new();
    while let Some(event) = stream.next().await {
        let touched = match event {
            Ok(watcher::Event::Init) => {
                fresh = HashMap::new();
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                if let Some(fact) = fact(object.meta(), digest(&object)) {
                    let here: &mut HashMap<_, _> = fresh.entry(Arc::from(object.namespace().unwrap_or_default())).or_default();
                    here.insert(object.name_any().into_boxed_str(), fact);
                }
                continue;
            }
            Ok(watcher::Event::InitDone) => {
                facts.replace(std::mem::take(&mut fresh));
                match synced.take() {
                    // At the start every task is looked at anyway.
                    Some(synced) => {
                        let _ = synced.send(());
                        continue;
                    }
                    None => touches(None),
                }
            }
            Ok(watcher::Event::Apply(object)) => {
                let now = fact(object.meta(), digest(&object));
                let before = facts.put(&object.namespace().unwrap_or_default(), &object.name_any(), now);
                if before.is_none() || before == now {
                    continue;
                }
                touches(Some(object.meta()))
            }
            Ok(watcher::Event::Delete(object)) => {
                facts.put(&object.namespace().unwrap_or_default(), &object.name_any(), None);
                touches(Some(object.meta()))
            }
            Err(error) => {
                warn!(%error, kind = %K::kind(&()), "a watch failed and is tried again");
                continue;
            }
        };
        for task in touched {
            if changed.send(task).await.is_err() {
                return;
            }
        }
    }
}

fn fact(meta: &ObjectMeta, digest: u64) -> Option<Fact> {
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    // What is being deleted no longer stands.
    meta.deletion_timestamp.is_none().then(|| Fact { owner: number(&owner.uid), digest })
}

/// The task that owns an object.
#[must_use]
pub fn task_of(meta: &ObjectMeta) -> Option<ObjectRef<AgentTask>> {
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.kind == AgentTask::kind(&()))?;
    Some(ObjectRef::new(&owner.name).within(meta.namespace.as_deref().unwrap_or_default()))
}

/// What a RoleBinding binds: [`binding_to`] a Role, where its one subject is the ServiceAccount
/// of its own name; 0 otherwise.
#[must_use]
pub fn binding_digest(binding: &RoleBinding) -> u64 {
    let name = binding.name_any();
    let own_subject = matches!(binding.subjects.as_deref(), Some([only]) if only.kind == "ServiceAccount" && only.name == name && only.namespace == binding.namespace());
    if own_subject && binding.role_ref.kind == "Role" { binding_to(&binding.role_ref.name) } else { 0 }
}

/// Digest of a RoleBinding that binds a task to the Role of this name.
#[must_use]
pub fn binding_to(role: &str) -> u64 {
    number(role) as u64 // the lower half is as good as any
}
