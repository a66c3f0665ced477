//! `mandate run authorizer`: decisions by what stands in a cluster, or in a directory of manifests
//! without one.
//!
//! The manifests are looked at five times a second. What changed is in force when it is compiled;
//! until then, and where they cannot be read, what was known holds, and grows stale. An object in
//! a manifest that can no longer be read denies those whom it speaks of.
//!
//! A broken audit log is shown (`mandate_audit_broken`, `/debug/state`) and leaves the process
//! ready: it goes on to answer, with a denial that says why. Not ready, it would answer nobody,
//! and an enforcement point that fails open would let everything through.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser as _;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::net::TcpListener;
use tracing::{info, warn};

use super::known::{Known, Places};
use super::manifest::{Manifests, Problem};
use super::run::{Counted, instance};
use crate::api::{self, ParseDurationError};
use crate::audit::{self, Log};
use crate::authorizer::recall::Past;
use crate::authorizer::state::State;
use crate::authorizer::tools::reach::{Block, Reach};
use crate::authorizer::trust::{Reviews, Trust, TrustFile};
use crate::authorizer::{Authorizer, door, tools};
use crate::cluster::certificate::{self, Lives, Own, Settings};
use crate::cluster::connect::{Target, connect};
use crate::cluster::known;
use crate::cluster::reviews::Asking;
use crate::decide::authorize::snapshot::{self, Compiler, Stopped};
use crate::decide::world::Loaded;
use crate::install;
use crate::metrics::Metrics;
use crate::serve::admin::{self, Admin};
use crate::serve::files::{self, Files};
use crate::serve::readiness::Handle;
use crate::serve::{self, Clients, Limits, Readiness, Serving, Stop};
use crate::telemetry::otlp::Traces;

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
    tools_every: api::Duration,
    /// How long a tool may be called after its MCP server last answered, where it does not answer
    /// again; three times --tools-every at least
    #[arg(long, default_value = "15m", value_name = "DURATION")]
    tools_keep: api::Duration,
    /// Bearer token that a ToolServer's MCP server wants for that, from a file; with a host, for that
    /// host alone. Give it once for each
    #[arg(long = "tools-token", value_name = "NAMESPACE/NAME[@HOST]=FILE", value_parser = token_of)]
    tools_tokens: Vec<(String, tools::Token)>,
    /// Addresses at which MCP servers may be asked, such as `10.0.0.0/8`; give it once for each
    /// [default: all but loopback, which counts only with --manifests. Link-local addresses and those
    /// of metadata of clouds are never asked]
    #[arg(long = "tools-address", value_name = "CIDR")]
    tools_addresses: Vec<Block>,
    /// Addresses at which MCP servers may be asked without TLS; give it once for each [default: loopback]
    #[arg(long = "tools-http", value_name = "CIDR")]
    tools_http: Vec<Block>,
    /// Base URL by which enforcement points know the AuthZEN API, such as
    /// `https://mandate.example.com` [default: the one that each of them asks by]
    #[arg(long, value_name = "URL", value_parser = base_url)]
    url: Option<String>,
    /// How old what is known may be before everything is denied, `1s` to `1h`
    #[arg(long, default_value = "3m", value_name = "DURATION", value_parser = bound)]
    stale_after: api::Duration,
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

/// The authorizer beside the other roles, on a laptop: what is not said here is as by default.
#[derive(Debug, clap::Args)]
pub(super) struct Beside {
    /// Address of the authorizer (HTTPS)
    #[arg(long, default_value = "127.0.0.1:8444")]
    authorizer_listen: SocketAddr,
    /// Directory of the audit log of decisions; without it nothing is decided at run time
    #[arg(long, value_name = "DIR", env = "MANDATE_AUDIT_DIR")]
    audit_dir: Option<PathBuf>,
}

impl Beside {
    /// The same as the authorizer's own flags; none where there is no audit log.
    pub(super) fn args(&self, namespace: &str, hosts: &[String]) -> anyhow::Result<Option<Box<Args>>> {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            args: Args,
        }
        let Some(dir) = &self.audit_dir else { return Ok(None) };
        let mut given =
            vec!["authorizer".into(), "--mandate-namespace".into(), namespace.into(), "--audit-dir".into(), dir.into()];
        given.extend(["--listen".into(), OsString::from(self.authorizer_listen.to_string())]);
        given.extend(hosts.iter().flat_map(|host| ["--host".into(), host.into()]));
        Ok(Some(Box::new(Alone::try_parse_from(given)?.args)))
    }
}

/// An address that only the pod itself reaches: tokens of agents come there.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|error| format!("{error}"))?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err("tokens would cross the network in the clear: give a loopback address, or let the gateway ask at `--listen`".to_owned())
}

fn token_of(text: &str) -> Result<(String, tools::Token), String> {
    let wrong = "write `namespace/name=FILE` or `namespace/name@host=FILE`";
    let (server, file) = text.split_once('=').filter(|(server, _)| server.contains('/')).ok_or(wrong)?;
    let (server, host) = server.split_once('@').map_or((server, None), |(server, host)| (server, Some(host.to_owned())));
    if host.as_ref().is_some_and(String::is_empty) {
        return Err(wrong.to_owned());
    }
    Ok((server.to_owned(), tools::Token { file: file.into(), host }))
}

fn tool_settings(args: &Args) -> tools::Settings {
    let time = |time: api::Duration| SignedDuration::from(time).unsigned_abs();
    tools::Settings {
        every: time(args.tools_every).max(Duration::from_secs(1)),
        kept: time(args.tools_keep),
        tokens: args.tools_tokens.iter().cloned().collect(),
        // In a cluster many write ToolServers, and what listens on the pod's own loopback is not theirs.
        reach: Reach { only: args.tools_addresses.clone(), plain: args.tools_http.clone(), loopback: !args.manifests.is_empty() },
    }
}

/// Time between two looks at the manifests.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What was changed must stay as it is for so long before it is taken in: a file that is being
/// written is not whole yet.
const SETTLED_AFTER: Duration = Duration::from_millis(40);
/// Time between two figures of age and queue.
const COUNT_EVERY: Duration = Duration::from_millis(500);

fn base_url(text: &str) -> Result<String, String> {
    let is_one = text.strip_prefix("https://").is_some_and(|rest| !rest.is_empty() && !rest.contains(['?', '#', '@', ' ']));
    is_one.then(|| text.to_owned()).ok_or_else(|| "must be an `https://` URL without query and fragment".to_owned())
}

fn bound(text: &str) -> Result<api::Duration, String> {
    let bound: api::Duration = text.parse().map_err(|error: ParseDurationError| error.to_string())?;
    (1..=3600).contains(&bound.as_secs()).then_some(bound).ok_or_else(|| "must lie between `1s` and `1h`".to_owned())
}

/// What the authorizer shares with the other roles of its process.
pub(super) struct Room {
    /// None where manifests are decided by.
    pub client: Option<Client>,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
    pub readiness: Readiness,
    pub stop: Stop,
}

pub(super) async fn run(args: Box<Args>, Counted { registry, metrics }: Counted, traces: Traces) -> anyhow::Result<()> {
    let stop = Stop::on_signals()?;
    let readiness = Readiness::new();
    let client = match args.manifests.is_empty() {
        true => Some(connect(&Target { kubeconfig: args.kubeconfig.clone(), context: None, act_as: None }).await?),
        false => None,
    };
    let room = Room { client, metrics, traces, readiness: readiness.clone(), stop: stop.clone() };
    let authorizer = Deciding::begin(&args, room).await?;
    let pages = Admin { readiness, stop, registry, state: Some(authorizer.shown()) };
    let (end_admin, admin_ends) = Stop::new();
    let admin = TcpListener::bind(args.admin).await.with_context(|| format!("listening on {}", args.admin))?;
    // Of port 0 only the listeners know what became.
    info!(address = %authorizer.listener.local_addr()?, admin = %admin.local_addr()?, "answering");
    let admin = tokio::spawn(admin::serve(admin, pages, admin_ends));
    let result = authorizer.run(&args).await;
    end_admin.stop();
    let _ = admin.await;
    result
}

/// An authorizer that has begun, and answers once it runs.
pub(super) struct Deciding {
    room: Room,
    certified: Handle,
    clients: Clients,
    trust: Trust,
    log: Log,
    state: Arc<State>,
    tools: Arc<tools::Watch>,
    sources: Sources,
    listener: TcpListener,
    /// For a gateway in the same pod.
    beside: Option<TcpListener>,
}

impl Deciding {
    /// Opens and reads what is there at the start.
    ///
    /// # Errors
    /// What of it cannot be opened, read or listened on.
    pub(super) async fn begin(args: &Args, room: Room) -> anyhow::Result<Self> {
        let certified = room.readiness.handle("certificate");
        let clients = clients(args.client_ca_file.as_deref())?;
        let trust = trust(args.trust.as_deref(), room.client.as_ref())?;
        let log = Log::open(&audit_settings(args)).context("opening the audit log")?;
        let past = Past::read(&args.audit_dir, Timestamp::now()).context("reading in the audit log what tasks have done")?;
        let state = Arc::new(State::after(past).stale_after(args.stale_after.into()));
        let tools = Arc::new(tools::Watch::new(tool_settings(args)));
        let sources = Sources::begin(args, room.client.clone(), &state, &tools, &room.readiness).await?;
        let listen = async |address| TcpListener::bind(address).await.with_context(|| format!("listening on {address}"));
        let listener = listen(args.listen).await?;
        let beside = match args.envoy_listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        Ok(Self { room, certified, clients, trust, log, state, tools, sources, listener, beside })
    }

    /// What the page of its state shows.
    fn shown(&self) -> admin::DebugState {
        let (state, log) = (self.state.clone(), self.log.clone());
        Box::new(move || debug_state(&state, &log))
    }

    /// Answers until it is told to stop.
    ///
    /// # Errors
    /// What it cannot go on without.
    pub(super) async fn run(self, args: &Args) -> anyhow::Result<()> {
        let Self { room, certified, clients, trust, log, state, tools, sources, listener, beside } = self;
        let Room { client, metrics, traces, readiness, stop } = room;
        let authorizer = Authorizer::new(state.clone(), trust, Some(log.clone())).counted(metrics.clone()).traced(traces);
        let authorizer = Arc::new(authorizer);
        let envoy = door::envoy::router(authorizer.clone());
        let authzen = door::authzen::router(authorizer.clone(), args.url.as_deref());
        let app = authzen.merge(door::kubernetes::router(authorizer)).merge(envoy.clone());
        // Without a cluster nothing has to learn that the process is leaving.
        let linger = if client.is_some() { Limits::default().linger } else { Duration::ZERO };
        let limits = Limits { linger, ..Limits::default() };
        let beside = beside.map(|listener| tokio::spawn(serve::h2c(listener, envoy, stop.clone(), limits)));
        let serving = Serving::new();
        let certificate = certificate(args, client, serving.clone(), metrics.clone(), certified, stop.clone());
        let served = serve::https_to(listener, app, serving, &clients, stop.clone(), limits);
        tokio::select! {
            ended = served => { let _ = ended?; }
            kept = sources.keep(state.clone(), tools.clone(), &readiness) => kept?,
            () = tools.run() => {}
            () = count(&state, &log, &metrics) => {}
            kept = async { kept(certificate.await, &stop).await } => kept?,
        }
        if let Some(beside) = beside {
            let _ = beside.await;
        }
        log.close().await.context("closing the audit log")
    }
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
            taken: None,
            places: Places::default(),
            told: String::new(),
            compiler: Compiler::default(),
            tools: tools.clone(),
            sources: snapshot::Sources::default(),
            stopped: vec![],
        };
        let known = Known::read(&files.paths, &files.namespace, files.begin);
        if let Some(problem) = known.problems.iter().find(|_| known.is_partial) {
            bail!("the manifests cannot be read whole: `{}`{}: {}", problem.file, line(problem), problem.message);
        }
        if files.look(state) == Look::Unread {
            bail!("the manifests cannot be read");
        }
        if state.count() == 0 {
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
                known::keep(client, instance(install::AUTHORIZER), state, tools, readiness).await;
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

/// What a look at the manifests came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// They are as they were.
    Same,
    /// They have changed, and the change is in force.
    Taken,
    /// They are being changed, or cannot be read: what was known stands, and grows stale.
    Unread,
}

/// Manifests that are looked at again and again.
struct Looking {
    paths: Vec<PathBuf>,
    namespace: String,
    begin: Timestamp,
    /// Digest of what is in force.
    taken: Option<[u8; 32]>,
    /// Where the objects in force were found.
    places: Places,
    /// What was last said to be wrong, so that it is said once.
    told: String,
    compiler: Compiler,
    tools: Arc<tools::Watch>,
    /// What is in force, and which tools are stopped in it.
    sources: snapshot::Sources,
    stopped: Vec<(String, Stopped)>,
}

/// Every tool that is stopped, with its server.
fn stopped(sources: &snapshot::Sources) -> Vec<(String, Stopped)> {
    let servers = sources.namespaces.iter().flat_map(|(namespace, sheet)| {
        sheet.servers.iter().map(move |(name, written)| (format!("{namespace}/{name}"), &written.spec))
    });
    servers
        .filter_map(|(key, spec)| match &**spec {
            Loaded::Readable(source) => Some(source.stopped.iter().map(move |tool| (key.clone(), tool.clone()))),
            Loaded::Broken(_) => None,
        })
        .flatten()
        .collect()
}

impl Looking {
    /// Looks, and takes in what changed.
    fn look(&mut self, state: &State) -> Look {
        let looked_at = Timestamp::now();
        let digest = match Manifests::digest(&self.paths) {
            Ok(digest) if self.taken == Some(digest) && !self.tools_changed() => {
                state.is_current(looked_at);
                return Look::Same;
            }
            Ok(digest) => digest,
            Err(why) => {
                self.tell(why);
                return Look::Unread;
            }
        };
        if self.taken != Some(digest) {
            std::thread::sleep(SETTLED_AFTER);
        }
        let mut known = Known::read(&self.paths, &self.namespace, self.begin);
        if Manifests::digest(&self.paths).as_ref() != Ok(&digest) {
            return Look::Unread;
        }
        let wrong: Vec<String> =
            known.problems.iter().map(|problem| format!("{}{}: {}", problem.file, line(problem), problem.message)).collect();
        self.tell(wrong.join("; "));
        // A file that cannot be read may hold a policy.
        if known.problems.iter().any(|problem| problem.at.is_none()) {
            return Look::Unread;
        }
        known.keep_broken(&self.places);
        let Known { mut sources, subjects, problems, places, .. } = known;
        self.tools.apply(&mut sources);
        let (snapshot, trouble) = self.compiler.compile(&sources);
        for trouble in &trouble {
            warn!(object = trouble.object, "{}", trouble.problem);
        }
        state.replace(snapshot);
        let keys: BTreeSet<String> = subjects.iter().map(|subject| subject.key.clone()).collect();
        state.keep(&|key| keys.contains(key));
        subjects.into_iter().for_each(|subject| state.put(subject));
        state.is_current(looked_at);
        self.taken = Some(digest);
        self.places = places;
        self.stopped = stopped(&sources);
        self.sources = sources;
        info!(tasks = keys.len(), problems = trouble.len() + problems.len(), "took in the manifests");
        Look::Taken
    }

    /// Whether another tool is stopped than was when the manifests were taken in.
    fn tools_changed(&self) -> bool {
        let mut sources = self.sources.clone();
        self.tools.apply(&mut sources);
        stopped(&sources) != self.stopped
    }

    fn tell(&mut self, wrong: String) {
        if self.told != wrong && !wrong.is_empty() {
            warn!("{wrong}");
        }
        self.told = wrong;
    }
}

fn line(problem: &Problem) -> String {
    problem.at.map(|at| format!(":{at}")).unwrap_or_default()
}

/// Keeps the figures of age and queue current, for as long as the process lives.
async fn count(state: &State, log: &Log, metrics: &Metrics) {
    loop {
        metrics.knows(state.count(), age(state));
        let audit = log.state();
        metrics.audit(audit.broken.is_some(), audit.queued);
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

fn age(state: &State) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(state.known_at())).unwrap_or_default()
}

/// What `/debug/state` shows.
fn debug_state(state: &State, log: &Log) -> serde_json::Value {
    let audit = log.state();
    let broken = audit
        .broken
        .map(|broken| serde_json::json!({"since": broken.since.to_string(), "why": broken.why, "refused": broken.refused}));
    serde_json::json!({
        "tasks": state.count(),
        "knownAgeSeconds": age(state).as_secs_f64(),
        "staleAfterSeconds": state.snapshot().stale_after.as_secs(),
        "audit": {"broken": broken, "queued": audit.queued, "entries": audit.last, "problems": audit.problems},
    })
}
