//! The controller: turns tasks into authority, and takes it back.
//!
//! Flow: watches keep what is known current and name the tasks that a change touches; for
//! each, `task` gathers, lets [`plan`](crate::decide::grant::plan) judge, carries the
//! steps out and reports. Only one controller works at a time (a Lease), and one that
//! loses the Lease ends.
//!
//! Guarantees: a controller that was down catches up when it starts, since every task is
//! looked at then. Nothing is kept in memory that is not found again in the cluster.

mod backoff;
mod family;
mod identity;
mod roles;
mod scan;
mod task;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::ObjectMeta;
use kube::runtime::controller::Config;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, oneshot};
use tracing::{info, warn};

use crate::api::{AgentIdentity, AgentPolicy, AgentTask, ClusterAgentPolicy, Phase, TaskScope};
use crate::clock::Clock;
use crate::cluster::apply::Writer;
use crate::cluster::observe::{self, Facts};
use crate::cluster::read::readable;
use crate::decide::grant;
use crate::metrics::{Kind, Metrics, Reconciled};
use crate::serve::Stop;
use crate::serve::readiness::Handle;
use crate::telemetry::otlp::{Span, SpanKind, Traces};

use backoff::Backoff;
use family::Family;

/// How many tasks are worked on at once.
const CONCURRENCY: u16 = 32;
/// How often tasks are counted for the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// How many changes may wait to be told to the work queue.
const QUEUE: usize = 4096;

/// What every reconciliation works with.
struct Context {
    client: Client,
    clock: Clock,
    instance: String,
    metrics: Arc<Metrics>,
    traces: Traces,
    backoff: Backoff,
    family: Family,
    identities: Store<AgentIdentity>,
    scopes: Store<TaskScope>,
    policies: Store<AgentPolicy>,
    cluster_policies: Store<ClusterAgentPolicy>,
    service_accounts: Facts,
    roles: Facts,
    bindings: Facts,
    /// Told when a Role may be needed, or no longer.
    roles_news: Arc<Notify>,
}

impl Context {
    fn writer(&self) -> Writer<'_> {
        Writer { client: &self.client, metrics: &self.metrics }
    }
}

/// Begins the span of one look at an object.
fn look(context: &Context, kind: Kind, object: &impl ResourceExt) -> Option<Span> {
    let mut span = context.traces.begin("reconcile", SpanKind::Internal, None)?;
    span.say("mandate.kind", kind.as_str());
    span.say_some("k8s.namespace.name", object.namespace().as_deref());
    span.say(if kind == Kind::AgentTask { "mandate.task.name" } else { "gen_ai.agent.name" }, &object.name_any());
    Some(span)
}

/// Says how the look ended.
fn looked(span: Option<Span>, outcome: Reconciled) {
    let Some(mut span) = span else { return };
    span.say("mandate.reconcile.outcome", outcome.as_str());
    if outcome == Reconciled::Error {
        span.failed("reconcile");
    }
}

/// Why the controller stopped.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// A watch ended, which none does while the process lives.
    #[error("the watch of {0} ended")]
    Watch(&'static str),
}

/// Runs the controller until it is told to stop.
///
/// `ready` is dropped once everything is known and work begins. `guarded` are the namespaces
/// in which what stands is looked at.
///
/// # Errors
/// [`ControllerError`]: the process should end and be started anew.
pub async fn run(
    client: Client,
    instance: String,
    guarded: BTreeSet<String>,
    metrics: Arc<Metrics>,
    traces: Traces,
    ready: Handle,
    stop: Stop,
) -> Result<(), ControllerError> {
    let (changed, changes) = mpsc::channel::<ObjectRef<AgentTask>>(QUEUE);
    let (tasks, task_writer) = reflector::store::<AgentTask>();
    let family = Family::new(tasks.clone());
    let (identities, identity_watch) = known::<AgentIdentity>(
        &client,
        &family,
        &changed,
        |task, identity| task.spec.agent == identity.name_any() && task.namespace() == identity.namespace(),
        News::Always,
        None,
    );
    let roles_news = Arc::new(Notify::new());
    let (scopes, scope_watch) = known::<TaskScope>(
        &client,
        &family,
        &changed,
        |task, scope| task.spec.scope == scope.name_any() && task.namespace() == scope.namespace(),
        News::Always,
        Some(roles_news.clone()),
    );
    let (policies, policy_watch) =
        known::<AgentPolicy>(&client, &family, &changed, |task, policy| task.namespace() == policy.namespace(), News::Spec, None);
    let (cluster_policies, cluster_policy_watch) = known::<ClusterAgentPolicy>(
        &client,
        &family,
        &changed,
        |task, policy| policy.spec.holds_in(&task.namespace().unwrap_or_default()),
        News::Spec,
        None,
    );
    let (service_accounts, roles, bindings) = (Facts::default(), Facts::default(), Facts::default());
    let (accounts_synced, accounts_are) = oneshot::channel();
    let (roles_synced, roles_are) = oneshot::channel();
    let (bindings_synced, bindings_are) = oneshot::channel();
    let below = changed.clone();
    let owner = |meta: Option<&ObjectMeta>| meta.map_or_else(|| all(&tasks), |meta| observe::task_of(meta).into_iter().collect());
    let account_watch = observe::watch::<ServiceAccount>(
        client.clone(),
        service_accounts.clone(),
        |_| 1,
        owner,
        changed.clone(),
        accounts_synced,
    );
    let role_watch = observe::watch::<Role>(
        client.clone(),
        roles.clone(),
        |role| grant::digest_of_role(role.rules.as_deref().unwrap_or_default()),
        |role| role.map_or_else(|| all(&tasks), |role| bound_to(role, &tasks)),
        changed.clone(),
        roles_synced,
    );
    let binding_watch =
        observe::watch::<RoleBinding>(client.clone(), bindings.clone(), observe::binding_digest, owner, changed, bindings_synced);
    let context = Arc::new(Context {
        client: client.clone(),
        clock: Clock::default(),
        instance,
        metrics: metrics.clone(),
        traces,
        backoff: Backoff::default(),
        family: family.clone(),
        identities: identities.clone(),
        scopes: scopes.clone(),
        policies: policies.clone(),
        cluster_policies: cluster_policies.clone(),
        service_accounts,
        roles,
        bindings,
        roles_news,
    });
    let scan = scan::Scan {
        client: client.clone(),
        metrics: metrics.clone(),
        guarded: guarded.clone(),
        policies: policies.clone(),
        cluster_policies: cluster_policies.clone(),
    };
    let work = async {
        // Nothing is judged before everything is known: a task whose agent is not yet seen
        // would look like a task whose agent is gone.
        let known = async {
            let _ = (identities.wait_until_ready().await, scopes.wait_until_ready().await);
            let _ = (policies.wait_until_ready().await, cluster_policies.wait_until_ready().await);
            let _ = (accounts_are.await, roles_are.await, bindings_are.await);
        };
        tokio::select! {
            () = known => {}
            () = stop.requested() => return Ok(()),
        }
        info!("everything is known; work begins");
        drop(ready);
        let task_stream = readable::<AgentTask>(client.clone(), tasks.clone())
            .modify(|task| task.managed_fields_mut().clear())
            .reflect(task_writer)
            .touched_objects()
            .then(move |task| tell_below(task, family.clone(), below.clone()))
            .boxed();
        let work_on_tasks = Controller::for_stream(task_stream, tasks.clone())
            .with_config(Config::default().concurrency(CONCURRENCY))
            .reconcile_on(changes)
            .graceful_shutdown_on(requested(stop.clone()))
            .run(task::reconcile, task::failed, context.clone())
            .for_each(|_| std::future::ready(()));
        let (known, writer) = reflector::store::<AgentIdentity>();
        let identity_stream = readable(client.clone(), known.clone()).reflect(writer).touched_objects();
        let work_on_identities = Controller::for_stream(identity_stream, known)
            .owns(Api::<ServiceAccount>::all(client.clone()), watcher::Config::default().labels("mandate.dev/agent"))
            .graceful_shutdown_on(requested(stop.clone()))
            .run(identity::reconcile, identity::failed, context.clone())
            .for_each(|_| std::future::ready(()));
        let work_on_all = async { tokio::join!(work_on_tasks, work_on_identities) };
        tokio::select! {
            _ = work_on_all => Ok(()),
            // Only now: of two that wait for one store to be ready, kube wakes only one.
            () = scan::run(scan) => Err(ControllerError::Watch("what stands")),
            never = roles::run(&context, &tasks, &guarded) => match never {},
        }
    };
    tokio::select! {
        result = work => result,
        () = count(&tasks, &metrics) => Ok(()),
        () = identity_watch => Err(ControllerError::Watch("AgentIdentity")),
        () = scope_watch => Err(ControllerError::Watch("TaskScope")),
        () = policy_watch => Err(ControllerError::Watch("AgentPolicy")),
        () = cluster_policy_watch => Err(ControllerError::Watch("ClusterAgentPolicy")),
        () = account_watch => Err(ControllerError::Watch("ServiceAccount")),
        () = role_watch => Err(ControllerError::Watch("Role")),
        () = binding_watch => Err(ControllerError::Watch("RoleBinding")),
    }
}

/// What of an object is news to the tasks that it touches.
#[derive(Clone, Copy, PartialEq)]
enum News {
    /// Any change.
    Always,
    /// A change of its spec: its status is only numbers, and changes often.
    Spec,
}

/// Names the tasks below one that has changed: they end with it, and not when they next look.
async fn tell_below(
    task: watcher::Result<AgentTask>,
    family: Family,
    mut changed: mpsc::Sender<ObjectRef<AgentTask>>,
) -> watcher::Result<AgentTask> {
    if let Ok(task) = &task {
        family.saw(task);
        for below in family.below(&task.namespace().unwrap_or_default(), &task.name_any()) {
            // Nobody listens any more only where the process ends.
            let _ = changed.send(below).await;
        }
    }
    task
}

fn all(tasks: &Store<AgentTask>) -> Vec<ObjectRef<AgentTask>> {
    tasks.state().iter().map(|task| ObjectRef::from_obj(task.as_ref())).collect()
}

/// The tasks that a change of a Role touches: those that are bound to it.
fn bound_to(role: &ObjectMeta, tasks: &Store<AgentTask>) -> Vec<ObjectRef<AgentTask>> {
    let is_bound = |task: &AgentTask| task.metadata.namespace == role.namespace && grant::role_of(task) == role.name;
    let sharing = tasks.state().into_iter().filter(|task| is_bound(task)).map(|task| ObjectRef::from_obj(task.as_ref()));
    sharing.chain(observe::task_of(role)).collect()
}

/// Keeps all objects of one kind, names the tasks that a change of one of them touches, and
/// tells who else wants to know.
fn known<K>(
    client: &Client,
    family: &Family,
    changed: &mpsc::Sender<ObjectRef<AgentTask>>,
    touches: fn(&AgentTask, &K) -> bool,
    news: News,
    told: Option<Arc<Notify>>,
) -> (Store<K>, impl Future<Output = ()> + use<K>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Default,
{
    let (store, writer) = reflector::store::<K>();
    let (family, mut changed) = (family.clone(), changed.clone());
    let stream =
        readable::<K>(client.clone(), store.clone()).modify(|object| object.managed_fields_mut().clear()).reflect(writer);
    let watch = async move {
        let mut stream = std::pin::pin!(stream);
        let mut generations = HashMap::new();
        while let Some(event) = stream.next().await {
            let object = match event {
                Ok(watcher::Event::Init | watcher::Event::InitDone) => continue,
                Ok(watcher::Event::InitApply(object)) => object,
                Ok(watcher::Event::Apply(object)) => {
                    let seen = generations.insert(ObjectRef::from_obj(&object), (object.uid(), object.meta().generation));
                    if news == News::Spec && seen == Some((object.uid(), object.meta().generation)) {
                        continue;
                    }
                    object
                }
                Ok(watcher::Event::Delete(object)) => {
                    generations.remove(&ObjectRef::from_obj(&object));
                    object
                }
                Err(error) => {
                    warn!(%error, kind = %K::kind(&()), "a watch failed and is tried again");
                    continue;
                }
            };
            if let Some(told) = &told {
                told.notify_one();
            }
            for task in family.touched(|task| touches(task, &object)) {
                if changed.send(task).await.is_err() {
                    return;
                }
            }
        }
    };
    (store, watch.boxed())
}

/// The stop as a future of its own, as a controller wants it.
async fn requested(stop: Stop) {
    stop.requested().await;
}

/// Counts the tasks in each phase, now and then, for as long as the process lives.
async fn count(tasks: &Store<AgentTask>, metrics: &Metrics) {
    let mut often = tokio::time::interval(COUNT_EVERY);
    loop {
        often.tick().await;
        let phase = |task: &AgentTask| task.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
        let all = tasks.state();
        for wanted in [Phase::Pending, Phase::Active, Phase::Ended, Phase::Refused] {
            metrics.tasks(wanted.into(), all.iter().filter(|task| phase(task) == wanted).count());
        }
    }
}
