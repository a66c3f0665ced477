//! Keeps what the authorizer knows current, by watches.
//!
//! A change of a scope, a policy or a tool server compiles a new snapshot, at most ten times a
//! second; a change of a task or an agent is taken in at once. An object that cannot be read
//! takes the place of its old version.
//!
//! What is known counts as current while every watch stands and the API server answers. A watch
//! that broke, or an API server that is gone, leaves it as it is, and it grows stale.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, Semaphore};
use tracing::{info, warn};

use super::read::Read;
use super::tool_status::Statuses;
use crate::api::{
    AgentIdentity, AgentPolicy, AgentTask, ClusterAgentPolicy, Phase, TaskScope, ToolGrant, ToolServer, ToolServerStatus,
};
use crate::authorizer::state::State;
use crate::authorizer::tools::Watch;
use crate::decide::authorize::compile::{self, CompiledScope};
use crate::decide::authorize::snapshot::{Compiler, ServerSource, Sheet, Sources, Written};
use crate::decide::authorize::{Standing, Subject};
use crate::decide::world::{self, Loaded};
use crate::serve::Readiness;
use crate::serve::readiness::Handle;

/// At least so long between two compilations.
const COMPILE_EVERY: Duration = Duration::from_millis(100);
/// The API server is asked this often whether it is there.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How long it may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What the watches have seen.
#[derive(Default)]
struct Seen {
    sources: Sources,
    /// Agents by `namespace/name`: version, and where they stand.
    agents: BTreeMap<String, (Arc<str>, Standing)>,
    /// Tools that tasks were granted at their start, by what tells them from others; compiled once
    /// for all tasks that were granted the same.
    granted: BTreeMap<(String, String, [u8; 32]), Weak<CompiledScope>>,
    /// Watches that are broken at this moment, by kind.
    broken: BTreeMap<&'static str, ()>,
}

struct Keeping {
    seen: Mutex<Seen>,
    state: Arc<State>,
    tools: Arc<Watch>,
    statuses: Statuses,
    changed: Notify,
}

/// Keeps the state current for as long as the process lives. It returns only where a watch ends,
/// which none does. `instance` is the name of this process, for Events.
pub async fn keep(client: Client, instance: String, state: Arc<State>, tools: Arc<Watch>, readiness: &Readiness) {
    let statuses = Statuses::new(client.clone(), instance);
    let keeping = Arc::new(Keeping { seen: Mutex::default(), state, tools, statuses, changed: Notify::new() });
    let ready = |name| readiness.handle(name);
    // Before any watch begins: a process that waits for nothing would count as ready.
    let compiled = ready("policies compiled");
    let handles = [
        ready("agentidentities"),
        ready("taskscopes"),
        ready("agenttasks"),
        ready("agentpolicies"),
        ready("clusteragentpolicies"),
        ready("toolservers"),
    ];
    let [identities, scopes, tasks, policies, cluster_policies, servers] = handles;
    let all = Told::default();
    let told = |handle: Handle| (handle, &all);
    tokio::select! {
        () = watch::<AgentIdentity>(client.clone(), &keeping, told(identities)) => {}
        () = watch::<TaskScope>(client.clone(), &keeping, told(scopes)) => {}
        () = watch::<AgentTask>(client.clone(), &keeping, told(tasks)) => {}
        () = watch::<AgentPolicy>(client.clone(), &keeping, told(policies)) => {}
        () = watch::<ClusterAgentPolicy>(client.clone(), &keeping, told(cluster_policies)) => {}
        () = watch::<ToolServer>(client.clone(), &keeping, told(servers)) => {}
        () = compile(&keeping, &all, compiled) => {}
        () = keeping.statuses.keep(&keeping.tools) => {}
        () = ask(&client, &keeping, &all) => {}
    }
}

/// How many watches there are.
const WATCHES: u32 = 6;

/// How many watches have told all there is. Before every one has, nothing is compiled: what one of
/// them would still tell may be what forbids.
struct Told(Semaphore);

impl Default for Told {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Told {
    fn one(&self) {
        self.0.add_permits(1);
    }

    async fn all(&self) {
        // The semaphore is never closed. What was taken is given back, for the next who waits.
        drop(self.0.acquire_many(WATCHES).await);
    }
}

impl Seen {
    /// The tools that a task was granted at its start, compiled. What no longer compiles permits
    /// nothing.
    fn granted(&mut self, namespace: &str, scope: &str, tools: &[ToolGrant]) -> Arc<CompiledScope> {
        let key = (namespace.to_owned(), scope.to_owned(), compile::digest(tools));
        if let Some(known) = self.granted.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let compiled = Arc::new(compile::granted_at_start(namespace, scope, tools).unwrap_or_default());
        self.granted.retain(|_, known| known.strong_count() > 0);
        self.granted.insert(key, Arc::downgrade(&compiled));
        compiled
    }
}

impl Keeping {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compiles what changed, once every watch has told all there is.
async fn compile(keeping: &Arc<Keeping>, all: &Told, compiled: Handle) {
    let mut compiler = Compiler::default();
    let mut compiled = Some(compiled);
    all.all().await;
    loop {
        let mut sources = keeping.seen().sources.clone();
        keeping.tools.apply(&mut sources);
        let compilation = tokio::task::spawn_blocking(move || {
            let (snapshot, trouble) = compiler.compile(&sources);
            (compiler, snapshot, trouble)
        });
        // A compilation that panicked must not leave an old snapshot in force for ever.
        let Ok((back, snapshot, trouble)) = compilation.await else { return };
        compiler = back;
        for trouble in &trouble {
            warn!(object = trouble.object, "{}", trouble.problem);
        }
        keeping.state.replace(snapshot);
        if compiled.take().is_some() {
            info!(tasks = keeping.state.count(), problems = trouble.len(), "took in the policies");
        }
        tokio::select! {
            () = keeping.changed.notified() => {}
            () = keeping.tools.changed() => {}
        }
        tokio::time::sleep(COMPILE_EVERY).await;
    }
}

/// Says that what is known is current, while it is.
async fn ask(client: &Client, keeping: &Keeping, all: &Told) {
    all.all().await;
    loop {
        let now = Timestamp::now();
        let answered = matches!(tokio::time::timeout(ANSWER_WITHIN, client.apiserver_version()).await, Ok(Ok(_)));
        if answered && keeping.seen().broken.is_empty() {
            keeping.state.is_current(now);
        }
        tokio::time::sleep(if answered { ASK_EVERY } else { Duration::from_secs(1) }).await;
    }
}

/// A kind that decisions look at.
trait Kept: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    const NAME: &'static str;
    fn put(keeping: &Keeping, namespace: &str, name: String, version: Arc<str>, object: Result<Self, String>);
    fn remove(keeping: &Keeping, namespace: &str, name: &str);
    /// Every object of the kind that is known, as namespace and name.
    fn known(keeping: &Keeping) -> Vec<(String, String)>;
    /// Whether this very version is known: then only its status is another, and nothing has to be
    /// compiled.
    fn stands(_: &Keeping, _: &str, _: &str, _: &str) -> bool {
        false
    }
}

async fn watch<K: Kept>(client: Client, keeping: &Arc<Keeping>, (ready, all): (Handle, &Told)) {
    let mut stream = watcher(Api::<Read<K>>::all(client), watcher::Config::default()).default_backoff().boxed();
    let mut ready = Some(ready);
    let mut fresh: Vec<Read<K>> = vec![];
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => fresh.clear(),
            Ok(watcher::Event::InitApply(object)) => fresh.push(object),
            Ok(watcher::Event::InitDone) => {
                let there: std::collections::BTreeSet<(String, String)> =
                    fresh.iter().map(|object| (object.namespace().unwrap_or_default(), object.name_any())).collect();
                std::mem::take(&mut fresh).into_iter().for_each(|object| put(keeping, object));
                let gone = K::known(keeping).into_iter().filter(|place| !there.contains(place));
                gone.for_each(|(namespace, name)| K::remove(keeping, &namespace, &name));
                keeping.seen().broken.remove(K::NAME);
                if ready.take().is_some() {
                    all.one();
                }
            }
            Ok(watcher::Event::Apply(object)) => {
                let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                let stands = K::stands(keeping, &namespace, &name, &version(object.meta()));
                put(keeping, object);
                keeping.seen().broken.remove(K::NAME);
                if stands {
                    continue;
                }
            }
            Ok(watcher::Event::Delete(object)) => {
                K::remove(keeping, &object.namespace().unwrap_or_default(), &object.name_any());
                keeping.seen().broken.remove(K::NAME);
            }
            Err(error) => {
                warn!(%error, kind = K::NAME, "a watch failed and is tried again");
                keeping.seen().broken.insert(K::NAME, ());
            }
        }
        keeping.changed.notify_one();
    }
}

fn put<K: Kept>(keeping: &Keeping, read: Read<K>) {
    let (namespace, name) = (read.namespace().unwrap_or_default(), read.name_any());
    let version = version(read.meta());
    let object = read.object;
    // What can no longer be read is another version of it: nothing that was compiled may stand.
    let version = if object.is_ok() { version } else { format!("{version}/unreadable").into() };
    if let Err(why) = &object {
        warn!(kind = K::NAME, namespace, name, why, "an object cannot be read; its subjects are denied");
    }
    K::put(keeping, &namespace, name, version, object);
}

/// What tells a version of an object from every other.
fn version(meta: &kube::core::ObjectMeta) -> Arc<str> {
    let (uid, generation) = (meta.uid.as_deref().unwrap_or_default(), meta.generation.unwrap_or_default());
    format!("{uid}/{generation}").into()
}

fn spec<K, T>(object: Result<K, String>, of: impl FnOnce(K) -> T) -> Arc<Loaded<T>> {
    Arc::new(match object {
        Ok(object) => Loaded::Readable(of(object)),
        Err(why) => Loaded::Broken(why),
    })
}

/// A kind that is compiled: where its objects stand in a sheet, and which part of them.
macro_rules! compiled {
    ($kind:ty, $name:literal, $field:ident, $of:expr) => {
        impl Kept for $kind {
            const NAME: &'static str = $name;
            fn put(keeping: &Keeping, namespace: &str, name: String, version: Arc<str>, object: Result<Self, String>) {
                let written = Written { version, spec: spec(object, $of) };
                keeping.seen().sources.namespaces.entry(namespace.to_owned()).or_default().$field.insert(name, written);
            }
            fn remove(keeping: &Keeping, namespace: &str, name: &str) {
                if let Some(sheet) = keeping.seen().sources.namespaces.get_mut(namespace) {
                    sheet.$field.remove(name);
                }
            }
            fn known(keeping: &Keeping) -> Vec<(String, String)> {
                let seen = keeping.seen();
                let of = |(namespace, sheet): (&String, &Sheet)| -> Vec<(String, String)> {
                    sheet.$field.keys().map(|name| (namespace.clone(), name.clone())).collect()
                };
                seen.sources.namespaces.iter().flat_map(of).collect()
            }
        }
    };
}

compiled!(TaskScope, "taskscopes", scopes, |scope| scope.spec);
compiled!(AgentPolicy, "agentpolicies", policies, |policy| policy.spec);

impl Kept for ToolServer {
    const NAME: &'static str = "toolservers";
    fn put(keeping: &Keeping, namespace: &str, name: String, version: Arc<str>, object: Result<Self, String>) {
        let key = format!("{namespace}/{name}");
        match &object {
            Ok(server) => {
                keeping.statuses.saw(&key, &version, server);
                // What it says of another generation says nothing of these pins.
                let of_it = |status: &&ToolServerStatus| status.observed_generation == server.metadata.generation;
                if let Some(status) = server.status.as_ref().filter(of_it) {
                    keeping.tools.heard(&key, &version, status);
                }
            }
            Err(_) => keeping.statuses.forget(&key),
        }
        // Which tools are stopped is said when it is compiled.
        let written = Written { version, spec: spec(object, |server| ServerSource { spec: server.spec, stopped: vec![] }) };
        keeping.seen().sources.namespaces.entry(namespace.to_owned()).or_default().servers.insert(name, written);
    }
    fn remove(keeping: &Keeping, namespace: &str, name: &str) {
        let key = format!("{namespace}/{name}");
        keeping.statuses.forget(&key);
        keeping.tools.forget(&key);
        if let Some(sheet) = keeping.seen().sources.namespaces.get_mut(namespace) {
            sheet.servers.remove(name);
        }
    }
    fn known(keeping: &Keeping) -> Vec<(String, String)> {
        let seen = keeping.seen();
        let of = |(namespace, sheet): (&String, &Sheet)| -> Vec<(String, String)> {
            sheet.servers.keys().map(|name| (namespace.clone(), name.clone())).collect()
        };
        seen.sources.namespaces.iter().flat_map(of).collect()
    }
    fn stands(keeping: &Keeping, namespace: &str, name: &str, version: &str) -> bool {
        let seen = keeping.seen();
        let known = seen.sources.namespaces.get(namespace).and_then(|sheet| sheet.servers.get(name));
        known.is_some_and(|known| *known.version == *version)
    }
}

impl Kept for ClusterAgentPolicy {
    const NAME: &'static str = "clusteragentpolicies";
    fn put(keeping: &Keeping, _: &str, name: String, version: Arc<str>, object: Result<Self, String>) {
        let written = Written { version, spec: spec(object, |policy| policy.spec) };
        keeping.seen().sources.cluster_policies.insert(name, written);
    }
    fn remove(keeping: &Keeping, _: &str, name: &str) {
        keeping.seen().sources.cluster_policies.remove(name);
    }
    fn known(keeping: &Keeping) -> Vec<(String, String)> {
        keeping.seen().sources.cluster_policies.keys().map(|name| (String::new(), name.clone())).collect()
    }
}

impl Kept for AgentIdentity {
    const NAME: &'static str = "agentidentities";
    fn put(keeping: &Keeping, namespace: &str, name: String, version: Arc<str>, object: Result<Self, String>) {
        let standing = match &object {
            Ok(identity) if identity.metadata.deletion_timestamp.is_some() => Standing::Gone,
            Ok(identity) if identity.spec.suspend => Standing::Suspended,
            Ok(_) => Standing::Good,
            Err(_) => Standing::Gone,
        };
        let key = format!("{namespace}/{name}");
        keeping.seen().agents.insert(key.clone(), (version.clone(), standing));
        keeping.state.change(
            |subject| subject.agent_key == key,
            |subject| {
                subject.standing = standing;
                subject.versions[1] = version.clone();
            },
        );
    }
    fn remove(keeping: &Keeping, namespace: &str, name: &str) {
        let key = format!("{namespace}/{name}");
        keeping.seen().agents.remove(&key);
        keeping.state.change(|subject| subject.agent_key == key, |subject| subject.standing = Standing::Gone);
    }
    fn known(keeping: &Keeping) -> Vec<(String, String)> {
        keeping.seen().agents.keys().filter_map(|key| key.split_once('/')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    }
}

impl Kept for AgentTask {
    const NAME: &'static str = "agenttasks";
    fn put(keeping: &Keeping, namespace: &str, name: String, version: Arc<str>, object: Result<Self, String>) {
        let Ok(task) = object else { return keeping.state.forget(&format!("{namespace}/{name}")) };
        let phase = task.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
        // One that is over can do nothing, and there may be very many.
        if matches!(phase, Phase::Ended | Phase::Refused) {
            return keeping.state.forget(&format!("{namespace}/{name}"));
        }
        let own = Subject::of(&task, namespace, &name);
        let (agent, standing) = keeping.seen().agents.get(&own.agent_key).cloned().unwrap_or_default();
        let grant = task.status.as_ref().and_then(|status| status.grant.as_ref());
        let granted = grant.map(|grant| keeping.seen().granted(namespace, &task.spec.scope, &grant.tools));
        keeping.state.put(Subject {
            phase,
            deadline: world::deadline(&task),
            uid: task.uid().unwrap_or_default(),
            versions: [version, agent],
            standing,
            granted,
            above: task.status.as_ref().map(|status| status.chain.clone()).unwrap_or_default(),
            ..own
        });
    }
    fn remove(keeping: &Keeping, namespace: &str, name: &str) {
        keeping.state.forget(&format!("{namespace}/{name}"));
    }
    fn known(keeping: &Keeping) -> Vec<(String, String)> {
        let all = keeping.state.subjects(|_| true);
        all.iter().map(|live| live.subject()).map(|subject| (subject.namespace.clone(), subject.name.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn nothing_is_compiled_before_every_watch_has_told_all_there_is() {
        let told = Told::default();
        let (mut compile, mut ask) = (Box::pin(told.all()), Box::pin(told.all()));
        for _ in 1..WATCHES {
            told.one();
            assert_eq!((compile.as_mut().now_or_never(), ask.as_mut().now_or_never()), (None, None));
        }
        told.one();
        assert_eq!(compile.as_mut().now_or_never(), Some(()));
        assert_eq!(ask.as_mut().now_or_never(), Some(()), "the other one too");
        assert_eq!(told.all().now_or_never(), Some(()), "and who comes later");
    }
}
