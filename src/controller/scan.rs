//! What stands in guarded namespaces and would not be let in today: found, counted, reported.
//!
//! Flow: one watch a namespace and kind puts every object, as raw as it comes, before
//! [`standing`], and keeps of it what the [`Ledger`] keeps. Where what is asked changes (a
//! policy, a waiver, the end of one), the watches of that namespace begin anew, since the
//! objects themselves are not kept. What is new is told by [`publish`]: a report a namespace,
//! numbers in the statuses of policies and waivers, metrics.
//!
//! Guarantees: nothing here refuses anything, and nothing waits for it: where it cannot list
//! or write, it tries again, and tasks get and lose their authority all the same. A number is
//! told only once everything it counts has been looked at under what is asked now.

mod publish;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::reflector::Store;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use crate::api::{AgentPolicy, ClusterAgentPolicy};
use crate::clock::Clock;
use crate::cluster::world::{self, Shared};
use crate::decide::json::Value;
use crate::decide::standing::{Basis, Ledger, SCANNED, Scanned};
use crate::decide::world::World;
use crate::metrics::Metrics;
use crate::serve::Readiness;

use publish::Publisher;

/// Objects in one page of a list: this many are in memory at once, for each pass under way.
const PAGE: u32 = 100;
/// Passes over a namespace that are under way at once.
const PASSES: usize = 4;
/// Policies and waivers often change together; what they ask is looked at after so long.
const SETTLE: Duration = Duration::from_millis(500);
/// How often it is looked whether there is something to tell.
const TICK: Duration = Duration::from_secs(1);

/// What the scan works with.
pub(super) struct Scan {
    pub client: Client,
    pub metrics: Arc<Metrics>,
    /// The namespaces that are guarded.
    pub guarded: BTreeSet<String>,
    /// Known already, as the other.
    pub policies: Store<AgentPolicy>,
    pub cluster_policies: Store<ClusterAgentPolicy>,
}

/// What the watches of all namespaces share.
struct Books {
    world: Shared,
    ledger: Mutex<Ledger>,
    clock: Clock,
    /// Something in the ledger may have changed.
    changed: Notify,
    room: Semaphore,
}

impl Books {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at one object.
    fn put(&self, namespace: &str, kind: &Scanned, object: &DynamicObject) {
        let metadata = serde_json::to_value(&object.metadata).unwrap_or_default();
        let mut value = Value::from(&object.data);
        if let Value::Object(members) = &mut value {
            members.insert("metadata", Value::from(&metadata));
        }
        let world = self.world.read().unwrap_or_else(PoisonError::into_inner);
        self.ledger().put(&world, namespace, kind, &value, self.clock.now());
    }
}

/// Scans for as long as the future lives. It returns only where a part of it ends, which none
/// does.
pub(super) async fn run(scan: Scan) {
    let world = World { guarded: scan.guarded.clone(), ..World::default() };
    let books = Arc::new(Books {
        world: Arc::new(RwLock::new(world)),
        ledger: Mutex::default(),
        clock: Clock::default(),
        changed: Notify::new(),
        room: Semaphore::new(PASSES),
    });
    let (readiness, news) = (Readiness::new(), Arc::new(Notify::new()));
    // The set ends its tasks with this future.
    let mut parts = JoinSet::new();
    parts.spawn(world::keep_for_scan(scan.client.clone(), books.world.clone(), &readiness, &news));
    while !readiness.is_ready() {
        // Tasks tell no news; they are few or quick, and a tick later is early enough.
        let _ = tokio::time::timeout(TICK, news.notified()).await;
    }
    info!(namespaces = scan.guarded.len(), "what stands in guarded namespaces is looked at from now on");
    let mut begin_anew = BTreeMap::new();
    for namespace in &scan.guarded {
        let (sender, receiver) = watch::channel(());
        begin_anew.insert(namespace.clone(), sender);
        for kind in SCANNED {
            parts.spawn(follow(scan.client.clone(), namespace.clone(), kind, books.clone(), receiver.clone()));
        }
    }
    parts.spawn(conduct(scan, books, news, begin_anew));
    let _ = parts.join_next().await;
}

/// Looks at everything of one kind in one namespace, and again whenever it is told to.
async fn follow(
    client: Client,
    namespace: String,
    kind: &'static Scanned,
    books: Arc<Books>,
    mut begin_anew: watch::Receiver<()>,
) {
    let Scanned { group, version, kind: name, resource, fields } = *kind;
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version,
        kind: name.to_owned(),
        plural: resource.to_owned(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &resource);
    loop {
        begin_anew.mark_unchanged();
        let mut config = watcher::Config::default().page_size(PAGE);
        if !fields.is_empty() {
            config = config.fields(fields);
        }
        let mut stream = watcher(api.clone(), config).default_backoff().boxed();
        let mut permit: Option<SemaphorePermit<'_>> = None;
        loop {
            let event = tokio::select! {
                told = begin_anew.changed() => match told {
                    Ok(()) => break,
                    Err(_) => return,
                },
                event = stream.next() => event,
            };
            match event {
                Some(Ok(watcher::Event::Init)) => {
                    permit = books.room.acquire().await.ok();
                    books.ledger().open(&namespace, kind);
                }
                Some(Ok(watcher::Event::InitApply(object))) => books.put(&namespace, kind, &object),
                Some(Ok(watcher::Event::InitDone)) => {
                    books.ledger().close(&namespace, kind);
                    permit = None;
                    books.changed.notify_one();
                }
                Some(Ok(watcher::Event::Apply(object))) => {
                    books.put(&namespace, kind, &object);
                    books.changed.notify_one();
                }
                Some(Ok(watcher::Event::Delete(object))) => {
                    books.ledger().remove(&namespace, kind, &object.name_any());
                    books.changed.notify_one();
                }
                Some(Err(error)) => {
                    warn!(%error, namespace, kind = name, "what stands cannot be watched; it is tried again");
                    // A namespace that cannot be listed must not keep others from it.
                    permit = None;
                }
                None => return,
            }
        }
        drop(permit);
    }
}

/// What is asked in one namespace, and whether it is looked at anew.
struct Asked {
    basis: Basis,
    /// When its watches are to begin anew.
    due: Option<Instant>,
}

/// Tells the watches to begin anew where what is asked has changed, and tells what is new.
async fn conduct(scan: Scan, books: Arc<Books>, news: Arc<Notify>, begin_anew: BTreeMap<String, watch::Sender<()>>) {
    let mut asked: BTreeMap<String, Asked> = {
        let (world, now) = (books.world.read().unwrap_or_else(PoisonError::into_inner), books.clock.now());
        let basis = |namespace: &String| (namespace.clone(), Asked { basis: Basis::of(&world, namespace, now), due: None });
        scan.guarded.iter().map(basis).collect()
    };
    // What was seen before this moment was perhaps seen under something else.
    for (namespace, asked) in &mut asked {
        books.ledger().reopen(namespace);
        asked.due = Some(Instant::now());
    }
    let mut publisher = Publisher::new(scan);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut told = false;
        tokio::select! {
            () = news.notified() => told = true,
            () = books.changed.notified() => {}
            _ = ticks.tick() => {}
        }
        told |= news.notified().now_or_never().is_some();
        look_again(&books, &mut asked, told);
        for (namespace, asked) in &mut asked {
            if asked.due.is_some_and(|due| due <= Instant::now()) {
                asked.due = None;
                // Nobody listens only where the process ends.
                let _ = begin_anew.get(namespace).map(|sender| sender.send(()));
            }
        }
        publisher.publish(&books).await;
    }
}

/// Finds out what is asked now, where it may have changed. Where it has, nothing of the
/// namespace is told until all is looked at anew.
fn look_again(books: &Books, asked: &mut BTreeMap<String, Asked>, told: bool) {
    let now = books.clock.now();
    let world = books.world.read().unwrap_or_else(PoisonError::into_inner);
    for (namespace, asked) in asked {
        if !told && asked.basis.until().is_none_or(|until| until > now) {
            continue;
        }
        let basis = Basis::of(&world, namespace, now);
        if basis != asked.basis {
            books.ledger().reopen(namespace);
            asked.basis = basis;
            asked.due.get_or_insert_with(|| Instant::now() + SETTLE);
        }
    }
}
