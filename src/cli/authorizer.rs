//! `mandate run authorizer`: decisions by what stands in a cluster, or in a directory of manifests
//! without one.
//!
//! The directory is read again every half second. What changed is in force when it is compiled;
//! until then, and where the directory cannot be read, what was known holds, and grows stale.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tracing::{info, warn};

use super::known::Known;
use crate::audit::{self, Log};
use crate::authorizer::recall::Past;
use crate::authorizer::state::State;
use crate::authorizer::trust::{Reviews, Trust, TrustFile};
use crate::authorizer::{Authorizer, door, tools};
use crate::cluster::certificate::{self, Lives, Own, Settings};
use crate::cluster::connect::{Target, connect};
use crate::cluster::known;
use crate::cluster::reviews::Asking;
use crate::decide::authorize::snapshot::Compiler;
use crate::install;
use crate::metrics::Metrics;
use crate::serve::admin::{self, Admin};
use crate::serve::files::{self, Files};
use crate::serve::readiness::Handle;
use crate::serve::{self, Clients, Limits, Readiness, Serving, Stop};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File or directory of manifests, to decide without a cluster; give it once for each. Tasks in
    /// them are live from the start
    #[arg(long, value_name = "PATH", requires_all = ["trust", "cert_file"])]
    manifests: Vec<PathBuf>,
    /// Namespace of manifests that name none
    #[arg(long, short, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
    /// Who may ask and whose tokens count: a YAML file (docs/authorizer.md). In a cluster the API
    /// server is asked beyond it
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Address of the AuthZEN API, of Kubernetes' webhook and of Envoy's ext_authz (HTTPS)
    #[arg(long, default_value = "127.0.0.1:8444")]
    listen: SocketAddr,
    /// Address of Envoy's ext_authz without TLS, for a gateway in the same pod: a loopback address
    #[arg(long, value_name = "ADDRESS", value_parser = loopback)]
    envoy_listen: Option<SocketAddr>,
    /// Serving certificate that somebody else renews, PEM [default in a cluster: Mandate keeps its own]
    #[arg(long, requires = "key_file", value_name = "FILE")]
    cert_file: Option<PathBuf>,
    /// Key of the serving certificate, PEM
    #[arg(long, requires = "cert_file", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Namespace of Mandate itself
    #[arg(long, default_value = install::NAMESPACE, env = "MANDATE_NAMESPACE", value_name = "NAMESPACE")]
    mandate_namespace: String,
    /// Further DNS name or address by which enforcement points call; give it once for each
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// kubeconfig file [default: the pod's ServiceAccount, else as kubectl]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Authorities of client certificates by which enforcement points may authenticate themselves, PEM
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// How often MCP servers are asked whether their tools are still what was reviewed
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    tools_every: crate::api::Duration,
    /// Bearer token that a ToolServer's MCP server wants for that, from a file; give it once for each
    #[arg(long = "tools-token", value_name = "NAMESPACE/NAME=FILE", value_parser = token_of)]
    tools_tokens: Vec<(String, PathBuf)>,
    /// Directory of the audit log
    #[arg(long, value_name = "DIR", env = "MANDATE_AUDIT_DIR")]
    audit_dir: PathBuf,
    /// Key that signs the audit log [default: `audit.key` in its directory, made at the first start]
    #[arg(long, value_name = "FILE")]
    audit_key: Option<PathBuf>,
    /// File that every checkpoint of the audit log is also appended to; keep it where nobody who can
    /// write the log can
    #[arg(long, value_name = "FILE")]
    audit_checkpoints: Option<PathBuf>,
    /// How many days decisions are kept at least [default: for ever]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(2..=36_500))]
    audit_keep_days: Option<u32>,
    /// Address of the probes and metrics (plain HTTP)
    #[arg(long, default_value = "127.0.0.1:8082")]
    admin: SocketAddr,
}

/// An address that only the pod itself reaches: tokens of agents come there.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|error| format!("{error}"))?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err("tokens would cross the network in the clear: give a loopback address, or let the gateway ask at `--listen`".to_owned())
}

fn token_of(text: &str) -> Result<(String, PathBuf), String> {
    let (server, file) = text.split_once('=').filter(|(server, _)| server.contains('/')).ok_or("write `namespace/name=FILE`")?;
    Ok((server.to_owned(), file.into()))
}

/// Time between two looks at the manifests.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let stop = Stop::on_signals()?;
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::register(&mut registry));
    let readiness = Readiness::new();
    let certified = readiness.handle("certificate");
    let clients = clients(args.client_ca_file.as_deref())?;
    let client = match args.manifests.is_empty() {
        true => Some(connect(&Target { kubeconfig: args.kubeconfig.clone(), context: None, act_as: None }).await?),
        false => None,
    };
    let trust = trust(args.trust.as_deref(), client.as_ref())?;
    let log = Log::open(&audit_settings(&args)).context("opening the audit log")?;
    let past = Past::read(&args.audit_dir, Timestamp::now()).context("reading in the audit log what tasks have done")?;
    let state = Arc::new(State::after(past));
    let every = SignedDuration::from(args.tools_every).unsigned_abs().max(Duration::from_secs(1));
    let tools = Arc::new(tools::Watch::new(every, args.tools_tokens.iter().cloned().collect()));
    let sources = Sources::begin(&args, client.clone(), &state, &tools, &readiness).await?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
    let authorizer = Arc::new(Authorizer::new(state.clone(), trust, Some(log.clone())));
    let envoy = door::envoy::router(authorizer.clone());
    let app = door::authzen::router(authorizer.clone()).merge(door::kubernetes::router(authorizer)).merge(envoy.clone());
    // Without a cluster nothing has to learn that the process is leaving.
    let linger = if client.is_some() { Limits::default().linger } else { Duration::ZERO };
    let limits = Limits { linger, ..Limits::default() };
    let beside = match args.envoy_listen {
        None => None,
        Some(address) => {
            let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
            Some(tokio::spawn(serve::h2c(listener, envoy, stop.clone(), limits)))
        }
    };
    let serving = Serving::new();
    let certificate = certificate(&args, client.clone(), serving.clone(), metrics, certified, stop.clone());
    let pages = Admin { readiness: readiness.clone(), stop: stop.clone(), registry, state: None };
    let (end_admin, admin_ends) = Stop::new();
    let admin = TcpListener::bind(args.admin).await.with_context(|| format!("listening on {}", args.admin))?;
    let admin = tokio::spawn(admin::serve(admin, pages, admin_ends));
    info!(address = %args.listen, "answering");
    let served = serve::https_to(listener, app, serving, &clients, stop.clone(), limits);
    tokio::select! {
        ended = served => { let _ = ended?; }
        kept = sources.keep(state, tools.clone(), &readiness) => kept?,
        () = tools.run() => {}
        kept = async { kept(certificate.await, &stop).await } => kept?,
    }
    if let Some(beside) = beside {
        let _ = beside.await;
    }
    end_admin.stop();
    let _ = admin.await;
    log.close().await.context("closing the audit log")
}

fn audit_settings(args: &Args) -> audit::Settings {
    let day = Duration::from_secs(24 * 60 * 60);
    audit::Settings {
        key: args.audit_key.clone(),
        checkpoints: args.audit_checkpoints.clone(),
        keep_for: args.audit_keep_days.map(|days| day * days),
        ..audit::Settings::new(&args.audit_dir)
    }
}

fn clients(file: Option<&Path>) -> anyhow::Result<Clients> {
    let Some(file) = file else { return Ok(Clients::NONE) };
    let pem = std::fs::read(file).with_context(|| format!("reading `{}`", file.display()))?;
    Clients::from_pem(&pem).with_context(|| format!("reading `{}`", file.display()))
}

fn trust(file: Option<&Path>, client: Option<&Client>) -> anyhow::Result<Trust> {
    let read = |file: &Path| -> anyhow::Result<TrustFile> { Ok(serde_yaml::from_str(&std::fs::read_to_string(file)?)?) };
    let named = file.map(|file| file.display().to_string()).unwrap_or_default();
    let trusted = file.map(read).transpose().with_context(|| format!("reading `{named}`"))?.unwrap_or_default();
    let reviews = client.map(|client| Box::new(Asking(client.clone())) as Box<dyn Reviews>);
    Trust::of(trusted, reviews).map_err(|why| anyhow::anyhow!("`{named}`: {why}"))
}

/// Keeps the serving certificate current: from files, or Mandate's own in a Secret.
async fn certificate(
    args: &Args,
    client: Option<Client>,
    serving: Arc<Serving>,
    metrics: Arc<Metrics>,
    certified: Handle,
    stop: Stop,
) -> anyhow::Result<()> {
    let settings = match (&args.cert_file, &args.key_file, client) {
        (Some(cert), Some(key), None) => {
            files::follow(Files::new(cert, key), serving, metrics, certified, stop).await;
            return Ok(());
        }
        (Some(cert), Some(key), Some(client)) => (client, Settings::Files(Files::new(cert, key))),
        (_, _, None) => bail!("give --cert-file and --key-file"),
        (_, _, Some(client)) => {
            let mut names = certificate::service_names(install::AUTHORIZER, &args.mandate_namespace);
            names.extend(args.hosts.iter().cloned());
            names.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
            let own = Own {
                namespace: args.mandate_namespace.clone(),
                secret: install::AUTHORIZER_CERTIFICATE.to_owned(),
                names,
                validating: vec![],
                mutating: vec![],
                lives: Lives::default(),
            };
            (client, Settings::Own(own))
        }
    };
    Ok(certificate::keep(settings.0, settings.1, serving, metrics, certified, stop).await?)
}

/// Certificates are kept until the stop; then the server ends by itself.
async fn kept(result: anyhow::Result<()>, stop: &Stop) -> anyhow::Result<()> {
    result?;
    stop.requested().await;
    std::future::pending().await
}

/// Where what is known comes from.
enum Sources {
    Files(Box<Looking>),
    Cluster(Client),
}

impl Sources {
    /// What is wrong at the start is told at the start: a directory that is not there serves nobody.
    async fn begin(
        args: &Args,
        client: Option<Client>,
        state: &State,
        tools: &Arc<tools::Watch>,
        readiness: &Readiness,
    ) -> anyhow::Result<Self> {
        if let Some(client) = client {
            return Ok(Self::Cluster(client));
        }
        let _loaded = readiness.handle("manifests");
        let mut files = Looking {
            paths: args.manifests.clone(),
            namespace: args.namespace.clone(),
            begin: Timestamp::now(),
            last: None,
            compiler: Compiler::default(),
            tools: tools.clone(),
        };
        if files.look(state) > 0 && state.count() == 0 {
            bail!("the manifests hold no task that can be read");
        }
        // A tool that has changed while nobody looked is stopped before the first question.
        tools.round().await;
        files.look(state);
        Ok(Self::Files(Box::new(files)))
    }

    async fn keep(self, state: Arc<State>, tools: Arc<tools::Watch>, readiness: &Readiness) -> anyhow::Result<()> {
        let mut files = match self {
            Self::Files(files) => files,
            Self::Cluster(client) => {
                known::keep(client, state, tools, readiness).await;
                bail!("a watch ended");
            }
        };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // Reading and compiling take time that answers must not wait for.
            let state = state.clone();
            files = tokio::task::spawn_blocking(move || {
                files.look(&state);
                files
            })
            .await?;
        }
    }
}

/// Manifests that are looked at again and again.
struct Looking {
    paths: Vec<PathBuf>,
    namespace: String,
    begin: Timestamp,
    last: Option<String>,
    compiler: Compiler,
    tools: Arc<tools::Watch>,
}

impl Looking {
    /// Looks, and takes in what changed. How many problems there were.
    fn look(&mut self, state: &State) -> usize {
        let looked_at = Timestamp::now();
        let mut known = Known::read(&self.paths, &self.namespace, self.begin);
        self.tools.apply(&mut known.sources);
        let unread = known.problems.iter().any(|problem| problem.at.is_none());
        let now = format!("{:?}{:?}{:?}", known.sources, known.subjects, known.problems);
        if self.last.as_ref() == Some(&now) {
            if !unread {
                state.is_current(looked_at);
            }
            return known.problems.len();
        }
        for problem in &known.problems {
            warn!(file = &*problem.file, line = problem.at.map(|at| at.line), "{}", problem.message);
        }
        self.last = Some(now);
        // A file that cannot be read may hold a policy: what was known grows stale instead.
        if unread {
            return known.problems.len();
        }
        let (snapshot, trouble) = self.compiler.compile(&known.sources);
        for trouble in &trouble {
            warn!(object = trouble.object, "{}", trouble.problem);
        }
        state.replace(snapshot);
        let keys: std::collections::BTreeSet<String> = known.subjects.iter().map(|subject| subject.key.clone()).collect();
        state.keep(&|key| keys.contains(key));
        let tasks = known.subjects.len();
        known.subjects.into_iter().for_each(|subject| state.put(subject));
        state.is_current(looked_at);
        info!(tasks, problems = trouble.len() + known.problems.len(), "took in the manifests");
        known.problems.len()
    }
}
