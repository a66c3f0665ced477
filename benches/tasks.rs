//! How fast does authority come and go, and what do ten thousand live tasks cost?
//!
//! Mandate's own binary, controller and webhook, on a real API server. Times are those of a
//! client: from just before it sends a request until its own watch, or its own use of the
//! token, shows what it was sent for.

#[path = "../tests/bed/mod.rs"]
mod bed;
mod measure;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::mandate::api::{AgentIdentity, AgentTask, Phase};
use anyhow::{Context as _, Result, ensure};
use bed::mandate::{self, Mandate};
use bed::{Bed, Call};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use measure::{Others, Table, Times, machine, mb, memory, ms, seconds, sized};

const NAMESPACE: &str = "finance";
const CONTROLLER: &str = "system:serviceaccount:mandate-system:mandate-controller";
const LIMIT: Duration = Duration::from_secs(60);
/// How fast tasks come in the main measurement.
const RATE: u32 = 10;
/// Creations under way at once where it shall go fast.
const AT_ONCE: usize = 48;
/// A token that works is looked at this often until it stops working.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// The same, once it has lost its authority and only has to die.
const LOOK_SELDOM: Duration = Duration::from_millis(100);

/// Lives are long, so that no deadline and no renewal falls into a measurement.
const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: ledger-config, namespace: finance}
data: {currency: EUR}
---
apiVersion: mandate.dev/v1alpha1
kind: ClusterAgentPolicy
metadata: {name: agents}
spec:
  owner: {team: platform-security, contact: security@example.com}
  workloads: {profile: restricted, maxTokenTTL: 1h}
---
apiVersion: mandate.dev/v1alpha1
kind: AgentIdentity
metadata: {name: invoice-bot, namespace: finance}
spec: {owner: {team: finance-platform, contact: finance@example.com}, purpose: Reconciles supplier invoices with the ledger, maxTTL: 12h}
---
apiVersion: mandate.dev/v1alpha1
kind: TaskScope
metadata: {name: read-ledger, namespace: finance}
spec:
  intent: Read the ledger's configuration
  maxTTL: 12h
  kubernetes:
    rules:
    - {apiGroups: [""], resources: [configmaps], resourceNames: [ledger-config], verbs: [get]}
  credentials:
  - {name: kubernetes, serviceAccountToken: {ttl: 1h}}
"#;
const CEILING: &str = r#"[{apiGroups: [""], resources: [configmaps], verbs: [get, list, watch]}]"#;

#[tokio::main]
async fn main() -> Result<()> {
    let bed = Bed::start("bench-tasks").await?;
    let result = bench(&bed).await;
    if result.is_err() {
        bed.fail();
    }
    result
}

async fn bench(bed: &Bed) -> Result<()> {
    println!("# tasks\n\n{}", machine());
    let mut mandate = Mandate::install(bed, &[NAMESPACE], CEILING).await?;
    mandate::apply(&bed.admin(), OBJECTS).await?;
    let agents: Api<AgentIdentity> = Api::namespaced(bed.admin(), NAMESPACE);
    bed.wait("the agent to be ready", LIMIT, || async {
        let status = agents.get("invoice-bot").await.ok()?.status?;
        status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(())
    })
    .await?;
    let tasks = Tasks::watch(bed.admin());
    tasks.start("warm-up").await?;
    come(bed, &tasks).await?;
    go(bed, &tasks).await?;
    many(bed, &tasks, &mut mandate).await
}

/// Tasks as a client sees them.
#[derive(Clone)]
struct Tasks {
    api: Api<AgentTask>,
    /// When the watch showed a task as Ready.
    ready: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Tasks {
    fn watch(client: Client) -> Self {
        let api: Api<AgentTask> = Api::namespaced(client, NAMESPACE);
        let ready: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
        let (seen, watched) = (ready.clone(), api.clone());
        tokio::spawn(async move {
            let mut changes = watcher(watched, watcher::Config::default()).default_backoff().applied_objects().boxed();
            while let Some(change) = changes.next().await {
                let Ok(task) = change else { continue };
                if task.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Active)) {
                    seen.lock().expect("nobody panics with it").entry(task.name_any()).or_insert_with(Instant::now);
                }
            }
        });
        Self { api, ready }
    }

    fn ready_at(&self, name: &str) -> Option<Instant> {
        self.ready.lock().expect("nobody panics with it").get(name).copied()
    }

    fn ever_ready(&self) -> usize {
        self.ready.lock().expect("nobody panics with it").len()
    }

    async fn create(&self, name: &str) -> Result<()> {
        let task = json!({
            "apiVersion": "mandate.dev/v1alpha1", "kind": "AgentTask", "metadata": {"name": name},
            "spec": {"agent": "invoice-bot", "scope": "read-ledger", "objective": "Reconcile the invoices of October", "ttl": "6h"}
        });
        self.api
            .create(&PostParams::default(), &serde_json::from_value(task)?)
            .await
            .with_context(|| format!("create task {name}"))?;
        Ok(())
    }

    /// Creates a task and waits until the watch shows it as Ready.
    async fn start(&self, name: &str) -> Result<Duration> {
        let asked = Instant::now();
        self.create(name).await?;
        let ready = bed::wait(&format!("task {name} to be Ready"), LIMIT, || async { self.ready_at(name) }).await?;
        Ok(ready - asked)
    }
}

async fn come(bed: &Bed, tasks: &Tasks) -> Result<()> {
    let method = format!(
        "From just before the creation is sent until the client's own watch shows the task Ready. A scope with one Kubernetes rule and one token. `one after the other`: \
         the next is created when the last is Ready; `{RATE} a second`: on time, whether earlier ones are Ready or not; `at once`: all creations are sent together."
    );
    let table = Table::begin("From creation to Ready", &method);
    let others = Others::watch();
    let mut alone = Times::default();
    for n in 0..sized(20, 3) {
        alone.add(tasks.start(&format!("alone-{n}")).await?);
    }
    rows(&table, &format!("1 task, {} one after the other", alone.count()), &alone, others.cores());
    let mut mark = 0;
    let mut writes = 0;
    for count in sized([100, 1_000], [10, 20]) {
        (mark, writes) = (bed.audit_mark()?, count);
        let others = Others::watch();
        let times = on_time(tasks, &format!("at-{count}"), count).await?;
        rows(&table, &format!("{count} tasks, {RATE} a second"), &times, others.cores());
    }
    let calls = own_calls(bed, mark).await?;
    let others = Others::watch();
    let count = sized(100, 20);
    let burst: Times = stream::iter((0..count).map(|n| async move { tasks.start(&format!("burst-{n}")).await }))
        .buffer_unordered(count)
        .try_collect::<Vec<_>>()
        .await?
        .into_iter()
        .collect();
    let what = format!("{count} tasks at once");
    table.row(
        &format!("{what}: p50, p99 ({:.2} cores to others)", others.cores()),
        format!("{}, {}", ms(&burst.percentile(50.0)), ms(&burst.percentile(99.0))),
    );
    written(&calls, writes);
    Ok(())
}

fn rows(table: &Table, what: &str, times: &Times, others: f64) {
    table.at_most(&format!("{what}: p50 ({others:.2} cores to others)"), times.percentile(50.0), Duration::from_millis(150), ms);
    table.at_most(&format!("{what}: p99"), times.percentile(99.0), Duration::from_secs(1), ms);
}

/// Starts tasks on time, whether earlier ones are Ready or not.
async fn on_time(tasks: &Tasks, prefix: &str, count: usize) -> Result<Times> {
    let begin = Instant::now();
    let start = |n: usize| async move {
        tokio::time::sleep_until((begin + Duration::from_secs(1) * u32::try_from(n)? / RATE).into()).await;
        tasks.start(&format!("{prefix}-{n}")).await
    };
    let times: Vec<Duration> = stream::iter((0..count).map(start)).buffer_unordered(count).try_collect().await?;
    Ok(times.into_iter().collect())
}

/// What the controller has asked of the API server since a mark. The last lines of the audit
/// log come just after the answers they tell of.
async fn own_calls(bed: &Bed, mark: u64) -> Result<Vec<Call>> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(bed.calls_since(mark)?.into_iter().filter(|call| call.user == CONTROLLER).collect())
}

/// Calls by what they are, with their numbers.
fn counted(calls: &[Call], wanted: fn(&Call) -> bool) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for Call { verb, resource, subresource, code, .. } in calls.iter().filter(|call| wanted(call)) {
        let slash = if subresource.is_empty() { "" } else { "/" };
        let failed = if *code < 400 { String::new() } else { format!(", answered {code}") };
        *counts.entry(format!("{verb} {resource}{slash}{subresource}{failed}")).or_default() += 1;
    }
    counts
}

/// Questions are creations in form only: nothing is stored.
fn is_question(call: &Call) -> bool {
    call.resource == "subjectaccessreviews"
}

fn written(calls: &[Call], tasks: usize) {
    let table = Table::begin(
        "API writes of the controller for one task",
        "From the API server's audit log of the tasks above that came on time, divided by their number.",
    );
    let each = |count: usize| count as f64 / tasks as f64;
    let writes = counted(calls, |call| call.is_write() && !is_question(call));
    for (what, count) in &writes {
        table.row(what, format!("{:.2}", each(*count)));
    }
    // Seven of each task, and now and then one of the status of a policy.
    table.at_most("writes in all", each(writes.values().sum()), 7.1, |each| format!("{each:.2}"));
    for (what, count) in counted(calls, |call| !call.is_write() || is_question(call)) {
        table.row(&format!("no write: {what}"), format!("{:.2}", each(count)));
    }
}

/// The HTTP status of using a token for what the task may do.
async fn used(client: &Client) -> Option<u16> {
    match Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE).get("ledger-config").await {
        Ok(_) => Some(200),
        Err(kube::Error::Api(status)) => Some(status.code),
        Err(_) => None,
    }
}

async fn until(client: &Client, often: Duration, wanted: impl Fn(u16) -> bool) -> Result<Instant> {
    let looking = async {
        loop {
            if used(client).await.is_some_and(&wanted) {
                return Instant::now();
            }
            tokio::time::sleep(often).await;
        }
    };
    tokio::time::timeout(LIMIT, looking).await.context("a token that goes on working")
}

/// Ends a task and says how long its token was authorized, and then still recognized.
async fn end(bed: &Bed, tasks: &Tasks, name: &str) -> Result<(Duration, tokio::task::JoinHandle<Result<Duration>>)> {
    let owns = tasks.api.get(name).await?.status.and_then(|status| status.secret).context("a task with a Secret")?;
    let secret: Secret = Api::namespaced(bed.admin(), NAMESPACE).get(&owns).await?;
    let token = secret.data.and_then(|mut data| data.remove("kubernetes")).context("a token for the API server")?;
    let client = bed.token_client(&String::from_utf8(token.0)?)?;
    ensure!(used(&client).await == Some(200), "the token of task {name} does not work");
    let ended = Instant::now();
    tasks.api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"end": {"reason": "Completed"}}}))).await?;
    let gone = until(&client, LOOK_EVERY, |code| code != 200).await? - ended;
    let dead = tokio::spawn(async move { Ok(until(&client, LOOK_SELDOM, |code| code == 401).await? - ended) });
    Ok((gone, dead))
}

async fn go(bed: &Bed, tasks: &Tasks) -> Result<()> {
    let count = sized(40, 5);
    let method = format!(
        "From just before `spec.end` is sent. The task's own token is used every {} ms until it is refused with 403 (authority gone), then every {} ms until 401 (token \
         dead). The API server holds a token it has seen for up to 10 s more.",
        LOOK_EVERY.as_millis(),
        LOOK_SELDOM.as_millis()
    );
    let table = Table::begin("From the end to no authority", &method);
    let others = Others::watch();
    let (mut gone, mut dying) = (Times::default(), vec![]);
    for n in 0..count {
        let name = format!("end-{n}");
        tasks.start(&name).await?;
        let (time, death) = end(bed, tasks, &name).await?;
        gone.add(time);
        dying.push(death);
    }
    let mut dead = Times::default();
    for death in dying {
        dead.add(death.await??);
    }
    table.row(&format!("{count} tasks: end → 403, p50 ({:.2} cores to others)", others.cores()), ms(&gone.percentile(50.0)));
    table.at_most("end → 403, p99", gone.percentile(99.0), Duration::from_secs(1), ms);
    table.row("end → 401, p50", seconds(&dead.percentile(50.0)));
    table.at_most("end → 401, p99", dead.percentile(99.0), Duration::from_secs(11), seconds);
    Ok(())
}

/// Numbers on the controller's metrics page that a line with this start has, added up.
fn metric(mandate: &Mandate<'_>, start: &str) -> Option<f64> {
    let page = mandate.controller_page("/metrics")?;
    Some(
        page.lines().filter(|line| line.starts_with(start)).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum(),
    )
}

async fn many(bed: &Bed, tasks: &Tasks, mandate: &mut Mandate<'_>) -> Result<()> {
    let live = sized(10_000, 150);
    let method = format!(
        "Tasks are created {AT_ONCE} at a time until {live} live, with lives so long that none ends and no token is renewed meanwhile. Then the controller is killed and \
         started anew."
    );
    let table = Table::begin(&format!("{live} live tasks"), &method);
    let others = Others::watch();
    let (earlier, missing) = (tasks.ever_ready(), live - live_now(tasks).await?);
    let begin = Instant::now();
    stream::iter((0..missing).map(|n| async move { tasks.create(&format!("many-{n}")).await }))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    let created = begin.elapsed();
    let limit = Duration::from_secs(600);
    bed.wait("every task to be Ready", limit, || async { (tasks.ever_ready() >= earlier + missing).then_some(()) }).await?;
    let ready = begin.elapsed();
    table.row(
        &format!("{missing} creations sent and answered ({:.2} cores to others)", others.cores()),
        format!("{} ({:.0}/s)", seconds(&created), missing as f64 / created.as_secs_f64()),
    );
    table.row("all of them Ready after", seconds(&ready));

    // What was needed on the way goes back first.
    tokio::time::sleep(sized(Duration::from_secs(30), Duration::from_secs(3))).await;
    const MOST: u64 = 200_000_000;
    let before = memory(mandate.controller.id());
    table.at_most("controller, RSS", before.rss, MOST, mb);
    table.row("controller, PSS; largest RSS ever", format!("{}; {}", mb(&before.pss), mb(&before.peak)));
    let webhook = memory(mandate.webhook.id());
    table.row("webhook, RSS; largest ever", format!("{}; {}", mb(&webhook.rss), mb(&webhook.peak)));

    mandate.controller.kill9().await?;
    let mark = bed.audit_mark()?;
    let others = Others::watch();
    let begin = Instant::now();
    mandate.restart_controller().await?;
    let is_ready = Instant::now();
    let looked_at = "mandate_reconciles_total{kind=\"AgentTask\"";
    let every = bed
        .wait("every task to be looked at", limit, || async { (metric(mandate, looked_at)? >= live as f64).then(Instant::now) });
    let (served, every) = tokio::join!(tasks.start("after-restart"), every);
    let (served, every) = (served?, every?);
    table.row(
        &format!("killed and started anew: ready after ({:.2} cores to others)", others.cores()),
        seconds(&(is_ready - begin)),
    );
    table.at_most("ready → every task looked at", every - is_ready, LIMIT, seconds);
    table.row("ready → a task created at that moment is Ready", ms(&served));
    tokio::time::sleep(sized(Duration::from_secs(20), Duration::from_secs(3))).await;
    let after = memory(mandate.controller.id());
    table.at_most("controller after that, RSS", after.rss, MOST, mb);
    table.row("controller after that, PSS; largest RSS ever", format!("{}; {}", mb(&after.pss), mb(&after.peak)));
    let calls = own_calls(bed, mark).await?;
    for (what, count) in counted(&calls, |_| true) {
        table.row(&format!("call since the start, new task included: {what}"), count);
    }
    Ok(())
}

async fn live_now(tasks: &Tasks) -> Result<usize> {
    // The finished ones stay to be looked at.
    let params = kube::api::ListParams::default().fields("status.phase=Active").limit(500);
    let mut live = 0;
    let mut token = None;
    loop {
        let page = tasks.api.list_metadata(&kube::api::ListParams { continue_token: token.clone(), ..params.clone() }).await?;
        live += page.items.len();
        token = page.metadata.continue_.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(live);
        }
    }
}
