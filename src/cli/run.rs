//! `mandate run`: the long-lived roles, alone or together.
//!
//! Each role ends the process when it cannot go on; the cluster starts it anew. On SIGTERM
//! readiness fails first, requests under way are answered, and the Lease is given back so
//! that a successor begins at once.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tracing::info;

use super::Outcome;
use super::authorizer::{Deciding, Room};
use crate::clock::Clock;
use crate::cluster::certificate::{self, Lives, Own, Settings};
use crate::cluster::connect::{Target, connect};
use crate::cluster::{lease, world};
use crate::controller;
use crate::decide::world::World;
use crate::install;
use crate::metrics::Metrics;
use crate::serve::admin::{self, Admin};
use crate::serve::files::Files;
use crate::serve::readiness::Handle;
use crate::serve::{self, Limits, Readiness, Serving, Stop};
use crate::telemetry::otlp::{Sending, Traces};
use crate::webhook::{self, Webhook};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Role {
    /// Turn tasks into authority and take it back
    Controller {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        controller: ControllerArgs,
    },
    /// Judge what is admitted to the cluster
    Webhook {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        webhook: WebhookArgs,
    },
    /// Decide the actions of agents when they happen
    Authorizer(Box<super::authorizer::Args>),
    /// All three in one process, for a laptop; the authorizer where it gets an --audit-dir. Each role acts as its own ServiceAccount by
    /// impersonation, so that the user of the kubeconfig needs the right to impersonate them
    All {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        controller: ControllerArgs,
        #[command(flatten)]
        webhook: WebhookArgs,
        #[command(flatten)]
        authorizer: super::authorizer::Beside,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// Namespace of Mandate itself
    #[arg(long, default_value = install::NAMESPACE, env = "MANDATE_NAMESPACE")]
    namespace: String,
    /// Namespace that is guarded; give it once for each
    #[arg(long = "guard", value_name = "NAMESPACE")]
    guarded: Vec<String>,
    /// Address of the probes and metrics (plain HTTP)
    #[arg(long, default_value = "127.0.0.1:8081")]
    admin: SocketAddr,
    /// kubeconfig file [default: the pod's ServiceAccount, else as kubectl]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ControllerArgs {
    /// Work only while holding the Lease `mandate-controller`, so that of several replicas one works
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    leader_elect: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct WebhookArgs {
    /// Address of the webhook (HTTPS)
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Service by which API servers call, in Mandate's namespace
    #[arg(long, default_value = install::WEBHOOK)]
    service: String,
    /// Further DNS name or address by which API servers call; give it once for each
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Serving certificate that somebody else renews, such as cert-manager [default: Mandate keeps its own]
    #[arg(long, requires = "key_file", value_name = "FILE")]
    cert_file: Option<PathBuf>,
    /// Key of the serving certificate
    #[arg(long, requires = "cert_file", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// User name of the controller [default: its ServiceAccount in Mandate's namespace]
    #[arg(long, value_name = "USER")]
    controller_user: Option<String>,
}

/// What the roles of one process share.
struct Process {
    common: Common,
    /// Whether each role acts as its own ServiceAccount by impersonation.
    impersonate: bool,
    metrics: Arc<Metrics>,
    traces: Traces,
    readiness: Readiness,
    stop: Stop,
}

/// What is counted, and where it is read.
pub(super) struct Counted {
    pub registry: Arc<Registry>,
    pub metrics: Arc<Metrics>,
}

impl Counted {
    fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::register(&mut registry));
        Self { registry: Arc::new(registry), metrics }
    }
}

pub(super) fn run(role: Role) -> anyhow::Result<Outcome> {
    super::runtime()?.block_on(async {
        let counted = Counted::new();
        let sending = Sending::begin(role.service(), &counted.registry, &counted.metrics)?;
        let traces = sending.traces();
        let result = match role {
            Role::Controller { common, controller } => {
                process(common, false, Roles { controller: Some(controller), ..Roles::default() }, counted, traces).await
            }
            Role::Webhook { common, webhook } => {
                process(common, false, Roles { webhook: Some(webhook), ..Roles::default() }, counted, traces).await
            }
            Role::Authorizer(args) => super::authorizer::run(args, counted, traces).await,
            Role::All { common, controller, webhook, authorizer } => {
                let authorizer = authorizer.args(&common.namespace, &webhook.hosts)?;
                let roles = Roles { controller: Some(controller), webhook: Some(webhook), authorizer };
                process(common, true, roles, counted, traces).await
            }
        };
        sending.end().await;
        result
    })?;
    Ok(Outcome::Done)
}

impl Role {
    /// Its name among the services that send traces and metrics.
    const fn service(&self) -> &'static str {
        match self {
            Self::Controller { .. } => install::CONTROLLER,
            Self::Webhook { .. } => install::WEBHOOK,
            Self::Authorizer(_) => install::AUTHORIZER,
            Self::All { .. } => "mandate",
        }
    }
}

impl Process {
    /// A client that acts as the ServiceAccount of this name in Mandate's namespace.
    async fn client(&self, account: &str) -> anyhow::Result<Client> {
        let act_as = self.impersonate.then(|| format!("system:serviceaccount:{}:{account}", self.common.namespace));
        Ok(connect(&Target { kubeconfig: self.common.kubeconfig.clone(), context: None, act_as }).await?)
    }
}

/// The roles of one process.
#[derive(Default)]
struct Roles {
    controller: Option<ControllerArgs>,
    webhook: Option<WebhookArgs>,
    authorizer: Option<Box<super::authorizer::Args>>,
}

async fn process(
    common: Common,
    impersonate: bool,
    Roles { controller, webhook, authorizer }: Roles,
    Counted { registry, metrics }: Counted,
    traces: Traces,
) -> anyhow::Result<()> {
    let stop = Stop::on_signals()?;
    let readiness = Readiness::new();
    // Before anybody can ask: a process that waits for nothing yet would count as ready.
    let controller = controller.map(|args| (args, readiness.handle("controller")));
    let webhook = webhook.map(|args| (args, readiness.handle("certificate")));
    let authorizer = authorizer.map(|args| (args, readiness.handle("authorizer")));
    let listener = listen(common.admin).await?;
    let (end_admin, admin_ends) = Stop::new();
    let pages = Admin { readiness: readiness.clone(), stop: stop.clone(), registry, state: None };
    let admin = tokio::spawn(admin::serve(listener, pages, admin_ends));
    let process = Process { common, impersonate, metrics, traces, readiness, stop };
    let roles = async {
        let controller = async { optional(controller, |(args, ready)| work(&process, args, ready)).await };
        let webhook = async { optional(webhook, |(args, ready)| review(&process, args, ready)).await };
        // Where one role fails, the process ends: half a Mandate would look like a whole one.
        let authorizer = async { optional(authorizer, |(args, ready)| decide(&process, args, ready)).await };
        tokio::try_join!(controller, webhook, authorizer).map(|_| ())
    };
    let result = roles.await;
    end_admin.stop();
    let _ = admin.await;
    result
}

async fn optional<A, F: Future<Output = anyhow::Result<()>>>(args: Option<A>, role: impl FnOnce(A) -> F) -> anyhow::Result<()> {
    match args {
        Some(args) => role(args).await,
        None => Ok(()),
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))
}

/// A name for this process, with that of its pod where it runs in one.
pub(super) fn instance(role: &str) -> String {
    let pod = std::env::var("HOSTNAME").unwrap_or_else(|_| role.to_owned());
    lease::identity(&pod)
}

async fn decide(process: &Process, args: Box<super::authorizer::Args>, ready: Handle) -> anyhow::Result<()> {
    let Process { metrics, traces, readiness, stop, .. } = process;
    let room = Room {
        client: Some(process.client(install::AUTHORIZER).await?),
        metrics: metrics.clone(),
        traces: traces.clone(),
        readiness: readiness.clone(),
        stop: stop.clone(),
    };
    let authorizer = Deciding::begin(&args, room).await?;
    // From here it waits under names of its own.
    drop(ready);
    authorizer.run(&args).await
}

/// How long a replica tries to get the Lease before it counts as ready to stand by.
const STANDBY_AFTER: Duration = Duration::from_secs(2);

async fn work(process: &Process, args: ControllerArgs, ready: Handle) -> anyhow::Result<()> {
    let Process { common, impersonate: _, metrics, traces, readiness, stop } = process;
    let client = process.client(install::CONTROLLER).await?;
    let instance = instance(install::CONTROLLER);
    if !args.leader_elect {
        return Ok(controller::run(
            client.clone(),
            instance,
            guarded(common),
            metrics.clone(),
            traces.clone(),
            ready,
            stop.clone(),
        )
        .await?);
    }
    let mut ready = Some(ready);
    let mut hold = std::pin::pin!(lease::hold(
        client.clone(),
        &common.namespace,
        install::CONTROLLER,
        &instance,
        lease::Timings::default(),
        stop.clone()
    ));
    let held = tokio::select! {
        held = &mut hold => held,
        () = tokio::time::sleep(STANDBY_AFTER) => {
            info!("standing by: another replica holds the lease");
            drop(ready.take());
            hold.await
        }
    };
    let Some(held) = held else { return Ok(()) };
    let ready = ready.unwrap_or_else(|| readiness.handle("controller"));
    tokio::select! {
        result = controller::run(client.clone(), instance.clone(), guarded(common), metrics.clone(), traces.clone(), ready, stop.clone()) => {
            held.release().await;
            Ok(result?)
        }
        () = held.lost() => bail!("the lease was lost to another replica"),
    }
}

fn guarded(common: &Common) -> BTreeSet<String> {
    common.guarded.iter().cloned().collect()
}

async fn review(process: &Process, args: WebhookArgs, certified: Handle) -> anyhow::Result<()> {
    let Process { common, impersonate: _, metrics, traces, readiness, stop } = process;
    let client = process.client(install::WEBHOOK).await?;
    let controller =
        args.controller_user.unwrap_or_else(|| format!("system:serviceaccount:{}:{}", common.namespace, install::CONTROLLER));
    let shared = Arc::new(RwLock::new(World { controller, guarded: guarded(common), ..World::default() }));
    let settings = match (args.cert_file, args.key_file) {
        (Some(cert), Some(key)) => Settings::Files(Files::new(cert, key)),
        _ => {
            let mut names = certificate::service_names(&args.service, &common.namespace);
            names.extend(args.hosts);
            names.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
            Settings::Own(Own {
                namespace: common.namespace.clone(),
                secret: install::CERTIFICATE.to_owned(),
                names,
                validating: vec![install::REGISTRATION.to_owned()],
                mutating: vec![install::REGISTRATION.to_owned()],
                lives: Lives::default(),
            })
        }
    };
    let serving = Serving::new();
    let listener = listen(args.listen).await?;
    let app = webhook::router(Webhook {
        world: shared.clone(),
        client: client.clone(),
        clock: Clock::default(),
        metrics: metrics.clone(),
        traces: traces.clone(),
    });
    let certificates = certificate::keep(client.clone(), settings, serving.clone(), metrics.clone(), certified, stop.clone());
    let known = world::keep(client.clone(), shared, readiness);
    let served = serve::https(listener, app, serving, stop.clone(), Limits::default());
    tokio::select! {
        ended = served => { let _ = ended?; Ok(()) }
        () = known => bail!("a watch ended"),
        result = async { result_or_wait(certificates.await, stop).await } => result,
    }
}

/// Certificates are kept until the stop; then the server ends by itself.
async fn result_or_wait(result: Result<(), certificate::Error>, stop: &Stop) -> anyhow::Result<()> {
    result?;
    stop.requested().await;
    std::future::pending().await
}
