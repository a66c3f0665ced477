//! Keeps the [`World`] that admission looks at current, by watches.
//!
//! One watch a kind. A list that starts anew replaces what was known of the kind at once,
//! when it is complete: there is never a moment in which nothing is known. An object that
//! cannot be read takes the place of its old version.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, RwLock};

use futures::StreamExt as _;
use futures::future::select_all;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tracing::warn;

use super::read::Read;
use crate::api::{AgentIdentity, AgentPolicy, AgentTask, ClusterAgentPolicy, PolicyWaiver, TaskScope};
use crate::decide::world::{Loaded, Task, World};
use crate::serve::Readiness;
use crate::serve::readiness::Handle;

/// The world, shared between the watches that keep it and the reviews that look at it.
pub type Shared = Arc<RwLock<World>>;

/// Keeps the world current for as long as the process lives. It returns only where a watch
/// ends, which none does.
pub async fn keep(client: Client, world: Shared, readiness: &Readiness) {
    let watches = [
        tokio::spawn(watch::<AgentIdentity>(client.clone(), world.clone(), readiness.handle("agentidentities"), None)),
        tokio::spawn(watch::<TaskScope>(client.clone(), world.clone(), readiness.handle("taskscopes"), None)),
        tokio::spawn(watch::<AgentTask>(client.clone(), world.clone(), readiness.handle("agenttasks"), None)),
        tokio::spawn(watch::<AgentPolicy>(client.clone(), world.clone(), readiness.handle("agentpolicies"), None)),
        tokio::spawn(watch::<ClusterAgentPolicy>(client.clone(), world.clone(), readiness.handle("clusteragentpolicies"), None)),
        tokio::spawn(watch::<PolicyWaiver>(client, world, readiness.handle("policywaivers"), None)),
    ];
    let _ = select_all(watches).await;
}

/// Keeps what pods that stand are judged by current, for as long as the future lives, and
/// tells `news` whenever policies or waivers may have changed. What is waited for is waited
/// for from the call on.
pub fn keep_for_scan(
    client: Client,
    world: Shared,
    readiness: &Readiness,
    news: &Arc<Notify>,
) -> impl Future<Output = ()> + use<> {
    let told = || Some(news.clone());
    let tasks = watch::<AgentTask>(client.clone(), world.clone(), readiness.handle("agenttasks"), None);
    let policies = watch::<AgentPolicy>(client.clone(), world.clone(), readiness.handle("agentpolicies"), told());
    let cluster_policies =
        watch::<ClusterAgentPolicy>(client.clone(), world.clone(), readiness.handle("clusteragentpolicies"), told());
    let waivers = watch::<PolicyWaiver>(client, world, readiness.handle("policywaivers"), told());
    async {
        tokio::join!(tasks, policies, cluster_policies, waivers);
    }
}

/// Looks a task and its agent up, for where the watches may lag behind, and takes them in.
///
/// # Errors
/// The API server could not be asked; the world is as it was.
pub async fn look_up(client: &Client, world: &Shared, namespace: &str, name: &str) -> Result<(), kube::Error> {
    let Some(task) = Api::<AgentTask>::namespaced(client.clone(), namespace).get_opt(name).await? else { return Ok(()) };
    let identity = Api::<AgentIdentity>::namespaced(client.clone(), namespace).get_opt(&task.spec.agent).await?;
    let mut world = write(world);
    let here = world.namespaces.entry(namespace.to_owned()).or_default();
    here.put_task(name.to_owned(), Task::of(&task));
    if let Some(identity) = identity {
        here.identities.insert(task.spec.agent, identity);
    }
    Ok(())
}

/// The labels of a pod, and nothing else of it; none where there is no such pod.
///
/// # Errors
/// The API server could not be asked.
pub async fn pod_labels(client: &Client, namespace: &str, name: &str) -> Result<Option<BTreeMap<String, String>>, kube::Error> {
    let pod = Api::<Pod>::namespaced(client.clone(), namespace).get_metadata_opt(name).await?;
    Ok(pod.map(|pod| pod.metadata.labels.unwrap_or_default()))
}

/// A kind of which the world keeps something.
trait Kept: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static {
    fn clear(world: &mut World);
    fn put(world: &mut World, namespace: &str, name: String, object: Result<Self, String>);
    fn remove(world: &mut World, namespace: &str, name: &str);
}

async fn watch<K: Kept>(client: Client, world: Shared, ready: Handle, news: Option<Arc<Notify>>) {
    let mut stream = watcher(Api::<Read<K>>::all(client), watcher::Config::default()).default_backoff().boxed();
    let mut ready = Some(ready);
    let mut fresh: Vec<Read<K>> = vec![];
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => fresh.clear(),
            Ok(watcher::Event::InitApply(object)) => fresh.push(object),
            Ok(watcher::Event::InitDone) => {
                let mut world = write(&world);
                K::clear(&mut world);
                for object in std::mem::take(&mut fresh) {
                    put(&mut world, object);
                }
                drop(world);
                drop(ready.take());
            }
            Ok(watcher::Event::Apply(object)) => put(&mut write(&world), object),
            Ok(watcher::Event::Delete(object)) => {
                K::remove(&mut write(&world), &object.namespace().unwrap_or_default(), &object.name_any());
            }
            Err(error) => warn!(%error, kind = %K::kind(&()), "a watch failed and is tried again"),
        }
        if let Some(news) = &news {
            news.notify_one();
        }
    }
}

fn write(world: &Shared) -> std::sync::RwLockWriteGuard<'_, World> {
    world.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn put<K: Kept>(world: &mut World, read: Read<K>) {
    let (namespace, name) = (read.namespace().unwrap_or_default(), read.name_any());
    let object = read.object;
    if let Err(why) = &object {
        warn!(kind = %K::kind(&()), namespace, name, why, "an object cannot be read; its subjects are refused");
    }
    K::put(world, &namespace, name, object);
}

/// An object that cannot be read is not there: whoever needs it is refused.
macro_rules! kept {
    ($kind:ty, $($field:ident).+ , $slim:expr) => {
        impl Kept for $kind {
            fn clear(world: &mut World) {
                for here in world.namespaces.values_mut() {
                    here.$($field).+.clear();
                }
            }
            fn put(world: &mut World, namespace: &str, name: String, object: Result<Self, String>) {
                let here = world.namespaces.entry(namespace.to_owned()).or_default();
                match object {
                    Ok(object) => _ = here.$($field).+.insert(name, $slim(object)),
                    Err(_) => _ = here.$($field).+.remove(&name),
                }
            }
            fn remove(world: &mut World, namespace: &str, name: &str) {
                if let Some(here) = world.namespaces.get_mut(namespace) {
                    here.$($field).+.remove(name);
                }
            }
        }
    };
}

fn without_managed_fields<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

kept!(AgentIdentity, identities, without_managed_fields);
kept!(TaskScope, scopes, without_managed_fields);

impl Kept for AgentTask {
    fn clear(world: &mut World) {
        for here in world.namespaces.values_mut() {
            here.tasks.clear();
            here.owners.clear();
        }
    }
    fn put(world: &mut World, namespace: &str, name: String, object: Result<Self, String>) {
        let here = world.namespaces.entry(namespace.to_owned()).or_default();
        match object {
            Ok(task) => here.put_task(name, Task::of(&task)),
            Err(_) => here.forget_task(&name),
        }
    }
    fn remove(world: &mut World, namespace: &str, name: &str) {
        if let Some(here) = world.namespaces.get_mut(namespace) {
            here.forget_task(name);
        }
    }
}

fn loaded<K, S>(object: Result<K, String>, spec: fn(K) -> S) -> Loaded<S> {
    match object {
        Ok(object) => Loaded::Readable(spec(object)),
        Err(why) => Loaded::Broken(why),
    }
}

impl Kept for AgentPolicy {
    fn clear(world: &mut World) {
        for here in world.namespaces.values_mut() {
            here.policies.clear();
        }
    }
    fn put(world: &mut World, namespace: &str, name: String, object: Result<Self, String>) {
        world.namespaces.entry(namespace.to_owned()).or_default().policies.insert(name, loaded(object, |policy| policy.spec));
    }
    fn remove(world: &mut World, namespace: &str, name: &str) {
        if let Some(here) = world.namespaces.get_mut(namespace) {
            here.policies.remove(name);
        }
    }
}

impl Kept for ClusterAgentPolicy {
    fn clear(world: &mut World) {
        world.cluster_policies.clear();
    }
    fn put(world: &mut World, _: &str, name: String, object: Result<Self, String>) {
        world.cluster_policies.insert(name, loaded(object, |policy| policy.spec));
    }
    fn remove(world: &mut World, _: &str, name: &str) {
        world.cluster_policies.remove(name);
    }
}

impl Kept for PolicyWaiver {
    fn clear(world: &mut World) {
        for here in world.namespaces.values_mut() {
            here.waivers.clear();
        }
    }
    fn put(world: &mut World, namespace: &str, name: String, object: Result<Self, String>) {
        let here = world.namespaces.entry(namespace.to_owned()).or_default();
        match object {
            Ok(waiver) => here.put_waiver(name, &waiver),
            // One that cannot be read waives nothing.
            Err(_) => _ = here.waivers.remove(&name),
        }
    }
    fn remove(world: &mut World, namespace: &str, name: &str) {
        if let Some(here) = world.namespaces.get_mut(namespace) {
            here.waivers.remove(name);
        }
    }
}
