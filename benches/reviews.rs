//! What does the webhook cost, how much can it do on one core, and does it stay small?
//!
//! Mandate's own binary on a real API server, from which it watches policies and tasks; the
//! reviews come over HTTPS from a second process, this one started anew (see [`generate`]).
//! The webhook is kept to the first core and the generator to the second, where there is
//! `taskset` and more than one core; the control plane runs beside them and idles.

#[path = "../tests/bed/mod.rs"]
mod bed;
#[path = "measure/generate.rs"]
mod generate;
mod measure;
#[path = "measure/pinned.rs"]
mod pinned;

use std::time::Duration;

use ::mandate::api::{AgentTask, names};
use anyhow::{Context as _, Result, ensure};
use bed::Bed;
use bed::mandate::{self, Mandate};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use generate::{Order, Sent};
use measure::pod::{self, Holds};
use measure::{Others, Table, cpu, machine, mb, memory, ms, sized};
use pinned::Pinned;

const NAMESPACE: &str = "finance";
const LIMIT: Duration = Duration::from_secs(60);
/// Tasks that stand while reviews are judged.
const TASKS: usize = 100;
/// Different bodies that are sent in turn.
const BODIES: usize = 64;
/// Under way at once where the most is looked for.
const AT_ONCE: usize = 32;

const OBJECTS: &str = r#"
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

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("generate") {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        return generate::main();
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let bed = Bed::start("bench-reviews").await?;
        let result = bench(&bed).await;
        if result.is_err() {
            bed.fail();
        }
        result
    })
}

async fn bench(bed: &Bed) -> Result<()> {
    println!("# reviews\n\n{}", machine());
    let mut mandate = Mandate::install(bed, &[NAMESPACE], CEILING).await?;
    mandate::apply(&bed.admin(), OBJECTS).await?;
    let task = tasks(bed).await?;
    let pinned = Pinned::find();
    mandate.restart_webhook(pinned.first()).await?;
    let sender = Sender {
        pinned,
        authorities: authorities(bed).await?,
        port: mandate.webhook_port(),
        pid: mandate.webhook.id(),
        task: task.name_any(),
        owns: names::of_task(&task.name_any(), &task.uid().unwrap_or_default()),
    };
    let at_start = memory(sender.pid);
    ensure!(
        sender.send(Load { reviews: sized(5_000, 500), ..Load::most("/validate", Holds::Task) }).await?.sent.refused == 0,
        "a clean pod was refused"
    );
    costs(&sender).await?;
    most(&sender).await?;
    on_time(&sender).await?;
    stays_small(&sender, at_start).await
}

/// Tasks, of which pods can name one.
async fn tasks(bed: &Bed) -> Result<AgentTask> {
    let api: Api<AgentTask> = Api::namespaced(bed.admin(), NAMESPACE);
    let create = |n: usize| {
        let api = api.clone();
        async move {
            let task = json!({
                "apiVersion": "mandate.dev/v1alpha1", "kind": "AgentTask", "metadata": {"name": format!("task-{n}")},
                "spec": {"agent": "invoice-bot", "scope": "read-ledger", "objective": "Stand there", "ttl": "6h"}
            });
            api.create(&PostParams::default(), &serde_json::from_value(task)?).await.context("create a task")
        }
    };
    bed.wait("the agent to be ready", LIMIT, || async {
        let agent = Api::<::mandate::api::AgentIdentity>::namespaced(bed.admin(), NAMESPACE).get("invoice-bot").await.ok()?;
        agent.status?.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(())
    })
    .await?;
    let _: Vec<AgentTask> = stream::iter((0..TASKS).map(create)).buffer_unordered(8).try_collect().await?;
    bed.wait("every task to be ready", LIMIT, || async {
        let all = api.list(&kube::api::ListParams::default()).await.ok()?.items;
        let active =
            |task: &AgentTask| task.status.as_ref().is_some_and(|status| status.phase == Some(::mandate::api::Phase::Active));
        all.iter().all(active).then(|| all.into_iter().next()).flatten()
    })
    .await
}

/// Authorities of the webhook's certificate, as the API server has them.
async fn authorities(bed: &Bed) -> Result<String> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(bed.admin());
    let webhooks = api.get("mandate").await?.webhooks.unwrap_or_default();
    let bundle =
        webhooks.into_iter().find_map(|webhook| webhook.client_config.ca_bundle).context("a webhook without caBundle")?;
    Ok(String::from_utf8(bundle.0)?)
}

/// What is sent.
#[derive(Clone, Copy)]
struct Load {
    path: &'static str,
    holds: Holds,
    http2: bool,
    rate: Option<u32>,
    reviews: usize,
}

impl Load {
    /// As much as can be done, over one HTTP/2 connection, as an API server holds it.
    fn most(path: &'static str, holds: Holds) -> Self {
        Self { path, holds, http2: true, rate: None, reviews: sized(60_000, 2_000) }
    }

    fn at(rate: u32, http2: bool) -> Self {
        Self { rate: Some(rate), http2, reviews: sized(rate * 30, rate * 2) as usize, ..Self::most("/validate", Holds::Task) }
    }
}

/// What came of it, and what the webhook used.
struct Seen {
    sent: Sent,
    cpu: Duration,
    others: f64,
}

impl Seen {
    /// CPU time of one review, in milliseconds.
    fn each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1000.0 / self.sent.reviews as f64
    }

    fn rate(&self) -> f64 {
        self.sent.reviews as f64 / self.sent.took.as_secs_f64()
    }
}

struct Sender {
    pinned: Pinned,
    authorities: String,
    port: u16,
    /// The webhook.
    pid: u32,
    task: String,
    owns: String,
}

impl Sender {
    async fn send(&self, load: Load) -> Result<Seen> {
        let task = pod::Task { namespace: NAMESPACE, name: &self.task, owns: &self.owns };
        let bodies = (0..BODIES).map(|n| pod::review(task, load.holds, n)).collect();
        let order = Order {
            port: self.port,
            path: format!("{}?timeout=5s", load.path),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            answers: [r#""allowed":true"#.to_owned(), r#""allowed":false"#.to_owned()],
            authorities: Some(self.authorities.clone()),
            bodies,
            http2: load.http2,
            at_once: AT_ONCE,
            rate: load.rate,
            reviews: load.reviews,
        };
        let (others, before, pinned) = (Others::watch(), cpu(self.pid), self.pinned);
        let sent = tokio::task::spawn_blocking(move || pinned.generate(&order)).await??;
        let seen = Seen { sent, cpu: cpu(self.pid) - before, others: others.cores() };
        let expected = if load.path == "/mutate" || load.holds == Holds::Task { seen.sent.refused } else { seen.sent.allowed };
        ensure!(expected == 0, "{} of {} reviews were answered wrongly", expected, seen.sent.reviews);
        Ok(seen)
    }
}

fn cpu_ms(value: &f64) -> String {
    format!("{value:.3} ms")
}

async fn costs(sender: &Sender) -> Result<()> {
    let method = format!(
        "User and system time of the webhook's process divided by reviews, at full load, over one HTTP/2 connection with {AT_ONCE} reviews under way. TLS and HTTP are in it."
    );
    let table = Table::begin("CPU time of a review", &method);
    let loads = [
        ("validate, a task's pod, let in", Load::most("/validate", Holds::Task)),
        ("validate, 5 findings, refused", Load::most("/validate", Holds::Secrets)),
        ("mutate, a task's pod", Load::most("/mutate", Holds::Task)),
    ];
    for (what, load) in loads {
        let seen = sender.send(load).await?;
        table.at_most(
            &format!("{what}, {:.1} KB ({:.2} cores to others)", seen.sent.size as f64 / 1024.0, seen.others),
            seen.each(),
            0.12,
            cpu_ms,
        );
    }
    Ok(())
}

async fn most(sender: &Sender) -> Result<()> {
    let method = sender.pinned.words("webhook");
    let table = Table::begin("Reviews a second on one core", &method);
    for (what, http2) in [("one HTTP/2 connection", true), ("32 HTTP/1.1 connections", false)] {
        let seen = sender.send(Load { http2, ..Load::most("/validate", Holds::Task) }).await?;
        let used = seen.cpu.as_secs_f64() / seen.sent.took.as_secs_f64();
        let what = format!("{what}: a task's pod, let in (webhook {used:.2} cores, others {:.2})", seen.others);
        table.at_least(&what, seen.rate(), 8_000.0, |rate| format!("{rate:.0}/s"));
    }
    Ok(())
}

async fn on_time(sender: &Sender) -> Result<()> {
    let table = Table::begin(
        "Time of a review at 1,000 a second",
        "Open loop: reviews are sent on time whether earlier ones were answered or not. Seen by the generator, from sending to the whole answer.",
    );
    for (what, http2) in [("one HTTP/2 connection", true), ("32 HTTP/1.1 connections", false)] {
        let seen = sender.send(Load::at(1_000, http2)).await?;
        let Sent { p50, p99, longest, late, .. } = seen.sent;
        let figure = format!("p50 {}, p99 {}, longest {}", ms(&p50), ms(&p99), ms(&longest));
        table.row(&format!("{what} (sent up to {} late at p99; {:.2} cores to others)", ms(&late), seen.others), figure);
        table.at_most(&format!("{what}: CPU time of a review"), seen.each(), 0.12, cpu_ms);
    }
    Ok(())
}

async fn stays_small(sender: &Sender, at_start: measure::Memory) -> Result<()> {
    const MOST: u64 = 50_000_000;
    let table = Table::begin(
        "Memory of the webhook",
        "Resident memory after so many reviews at full load, nine of ten let in and one refused. The process is the one of the tables above.",
    );
    table.at_most("at start", at_start.rss, MOST, mb);
    table.row("before the first of them", mb(&memory(sender.pid).rss));
    let mut done = 0;
    for upto in sized([100_000, 500_000, 1_000_000], [1_000, 3_000, 5_000]) {
        let reviews = upto - done;
        sender.send(Load { reviews: reviews * 9 / 10, ..Load::most("/validate", Holds::Task) }).await?;
        sender.send(Load { reviews: reviews / 10, ..Load::most("/validate", Holds::Secrets) }).await?;
        done = upto;
        table.at_most(&format!("after {upto} reviews"), memory(sender.pid).rss, MOST, mb);
    }
    let end = memory(sender.pid);
    table.row("PSS at the end", mb(&end.pss));
    table.row("largest ever", mb(&end.peak));
    Ok(())
}
