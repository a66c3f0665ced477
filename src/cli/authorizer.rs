//! `mandate run authorizer`: decisions from a directory of manifests, without a cluster.
//!
//! The directory is read again every half second. What changed is in force when it is compiled;
//! until then, and where the directory cannot be read, what was known holds, and grows stale.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tracing::{info, warn};

use super::known::Known;
use crate::audit::{self, Log};
use crate::authorizer::state::State;
use crate::authorizer::trust::{Trust, TrustFile};
use crate::authorizer::{Authorizer, door};
use crate::decide::authorize::snapshot::Compiler;
use crate::metrics::Metrics;
use crate::serve::admin::{self, Admin};
use crate::serve::files::{self, Files};
use crate::serve::{self, Clients, Limits, Readiness, Serving, Stop};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File or directory of manifests; give it once for each. Tasks in them are live from the start
    #[arg(long, required = true, value_name = "PATH")]
    manifests: Vec<PathBuf>,
    /// Namespace of manifests that name none
    #[arg(long, short, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
    /// Who may ask and whose tokens count: a YAML file (docs/authorizer.md)
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
    /// Address of the AuthZEN API (HTTPS)
    #[arg(long, default_value = "127.0.0.1:8444")]
    listen: SocketAddr,
    /// Serving certificate, PEM
    #[arg(long, value_name = "FILE")]
    cert_file: PathBuf,
    /// Key of the serving certificate, PEM
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Authorities of client certificates by which enforcement points may authenticate themselves, PEM
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// Directory of the audit log
    #[arg(long, value_name = "DIR")]
    audit_dir: PathBuf,
    /// Address of the probes and metrics (plain HTTP)
    #[arg(long, default_value = "127.0.0.1:8082")]
    admin: SocketAddr,
}

/// Time between two looks at the manifests.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let stop = Stop::on_signals()?;
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::register(&mut registry));
    let readiness = Readiness::new();
    let loaded = readiness.handle("manifests");
    let certified = readiness.handle("certificate");
    let trust = std::fs::read_to_string(&args.trust).with_context(|| format!("reading `{}`", args.trust.display()))?;
    let trust: TrustFile = serde_yaml::from_str(&trust).with_context(|| format!("reading `{}`", args.trust.display()))?;
    let trust = Trust::of(trust, None).map_err(|why| anyhow::anyhow!("`{}`: {why}", args.trust.display()))?;
    let clients = match &args.client_ca_file {
        None => Clients::NONE,
        Some(file) => {
            let pem = std::fs::read(file).with_context(|| format!("reading `{}`", file.display()))?;
            Clients::from_pem(&pem).with_context(|| format!("reading `{}`", file.display()))?
        }
    };
    let log = Log::open(&audit::Settings::new(&args.audit_dir)).context("opening the audit log")?;
    let state = Arc::new(State::default());
    let mut files = Looking {
        paths: args.manifests,
        namespace: args.namespace,
        begin: Timestamp::now(),
        last: None,
        compiler: Compiler::default(),
    };
    // What is wrong at the start is told at the start: a directory that is not there serves nobody.
    let problems = files.look(&state);
    if state.count() == 0 && problems > 0 {
        bail!("the manifests hold no task that can be read");
    }
    drop(loaded);
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
    let authorizer = Arc::new(Authorizer::new(state.clone(), trust, Some(log.clone())));
    let app = door::authzen::router(authorizer);
    let serving = Serving::new();
    let certificate = files::follow(Files::new(args.cert_file, args.key_file), serving.clone(), metrics, certified, stop.clone());
    let pages = Admin { readiness, stop: stop.clone(), registry, state: None };
    let (end_admin, admin_ends) = Stop::new();
    let admin = TcpListener::bind(args.admin).await.with_context(|| format!("listening on {}", args.admin))?;
    let admin = tokio::spawn(admin::serve(admin, pages, admin_ends));
    let looks = async {
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
        #[expect(unreachable_code, reason = "the type of a loop that only an error leaves")]
        anyhow::Ok(())
    };
    info!(address = %args.listen, "answering");
    let served =
        serve::https_to(listener, app, serving, &clients, stop.clone(), Limits { linger: Duration::ZERO, ..Limits::default() });
    tokio::select! {
        ended = served => { let _ = ended?; }
        looked = looks => looked?,
        () = async { certificate.await; std::future::pending().await } => {}
    }
    end_admin.stop();
    let _ = admin.await;
    log.close().await.context("closing the audit log")
}

/// Manifests that are looked at again and again.
struct Looking {
    paths: Vec<PathBuf>,
    namespace: String,
    begin: Timestamp,
    last: Option<String>,
    compiler: Compiler,
}

impl Looking {
    /// Looks, and takes in what changed. How many problems there were.
    fn look(&mut self, state: &State) -> usize {
        let looked_at = Timestamp::now();
        let known = Known::read(&self.paths, &self.namespace, self.begin);
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
