//! Is it true on a real control plane? The test bed: etcd, kube-apiserver and
//! kube-controller-manager on loopback, started by whoever asks and gone with them.
//!
//! In: a name, and a few options. Out: a [`Bed`] that hands out clients and
//! kubeconfigs for the admin, for users and for ServiceAccounts, makes namespaces,
//! runs our own binary next to the cluster and waits for conditions. The demo, the
//! cluster tests and the benches include this module by `#[path]`.
//!
//! It is a test bed and nothing else: etcd speaks plain HTTP on loopback and does
//! not sync to disk. There is no scheduler and no node; pods stay Pending.
//!
//! Environment:
//! - `MANDATE_TEST_KUBECONFIG`: use that cluster instead of starting one. There the
//!   audit log is `None`, and users are impersonated instead of certified.
//! - `KUBEBUILDER_ASSETS`: a directory with etcd and kube-apiserver, instead of our
//!   own build (`tests/controlplane/build.sh`).
//! - `MANDATE_BED_DIR`: where beds put their directories, instead of the temp dir.
//!
//! Reading order: here, [`controlplane`] (what is started, with which flags),
//! [`access`] (who one can be), [`process`] (how a program is run and surely ended),
//! [`dir`] (what is left behind, and for how long), [`audit`], [`pki`].

#![allow(dead_code, reason = "each includer (tests, demo, benches) compiles its own copy and uses its own part")]

mod access;
mod audit;
mod controlplane;
mod dir;
pub mod mandate;
mod pki;
mod process;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{ObjectMeta, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, ResourceExt as _};
use tokio::sync::OnceCell;

pub use audit::Call;
pub use controlplane::free_ports;
pub use process::Process;

use dir::BedDir;
use pki::Authority;

/// How often [`wait`] looks. Short, because it bounds how exactly tests can time.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A control plane, and the directory where it lives.
///
/// Dropping it ends every process by id and removes the directory. After a panic or
/// [`Bed::fail`] the directory with its logs stays, and its path is printed.
pub struct Bed {
    // INVARIANT: before `dir`, so that processes end before their directory goes.
    processes: Vec<Process>,
    admin: Kubeconfig,
    kubeconfig: PathBuf,
    server: String,
    ca_pem: Option<String>,
    /// None on a cluster that is not ours: its CA key is not for us to have.
    authority: Option<Authority>,
    audit_log: Option<PathBuf>,
    /// Whether something makes `default` ServiceAccounts.
    has_controllers: bool,
    dir: BedDir,
}

/// How to start a [`Bed`]; see [`Bed::options`].
#[must_use]
pub struct Options {
    name: String,
    apiserver_flags: Vec<String>,
    controller_manager_flags: Vec<String>,
    progress: Box<dyn Fn(&str) + Send + Sync>,
}

impl Options {
    /// Adds a flag to kube-apiserver, after the bed's own; of a flag given twice the
    /// last counts. Any `--authorization-*` replaces the bed's `Node,RBAC`.
    pub fn apiserver_flag(mut self, flag: impl Into<String>) -> Self {
        self.apiserver_flags.push(flag.into());
        self
    }

    /// Adds a flag to kube-controller-manager.
    pub fn controller_manager_flag(mut self, flag: impl Into<String>) -> Self {
        self.controller_manager_flags.push(flag.into());
        self
    }

    /// Called with a line for each step of the start. Without it the start is silent,
    /// except for the first build of the control plane, which takes minutes.
    pub fn progress(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.progress = Box::new(tell);
        self
    }

    /// Starts the bed and returns when it is ready to be used.
    ///
    /// # Errors
    /// Names the component that did not come up and shows the end of its log. The
    /// directory with all logs stays.
    pub async fn start(self) -> Result<Bed> {
        // A second installation fails, and the first one is the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = BedDir::create(&self.name)?;
        match std::env::var_os("MANDATE_TEST_KUBECONFIG") {
            Some(theirs) => Bed::on_cluster_of(Path::new(&theirs), dir),
            None => controlplane::start(self, dir).await,
        }
        .context("the test bed did not start")
    }
}

impl Bed {
    /// Starts a bed with the default options.
    pub async fn start(name: &str) -> Result<Bed> {
        Bed::options(name).start().await
    }

    /// Options of a bed yet to be started. `name` shows in the directory's name.
    pub fn options(name: &str) -> Options {
        Options {
            name: name.to_owned(),
            apiserver_flags: Vec::new(),
            controller_manager_flags: Vec::new(),
            progress: Box::new(|_| ()),
        }
    }

    /// The bed's own directory: logs, kubeconfigs, whatever a test wants to put there.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Every request the API server answered, a JSON line each, without bodies. None
    /// on a cluster that is not ours.
    pub fn audit_log(&self) -> Option<&Path> {
        self.audit_log.as_deref()
    }

    /// Where the audit log ends now; see [`Bed::calls_since`].
    pub fn audit_mark(&self) -> Result<u64> {
        audit::mark(self.audit_log_or_why_not()?)
    }

    /// The requests answered since `mark` (0: ever). A line is written just *after*
    /// its response, so a test that counts to an exact number waits for that number.
    pub fn calls_since(&self, mark: u64) -> Result<Vec<Call>> {
        audit::calls_since(self.audit_log_or_why_not()?, mark)
    }

    fn audit_log_or_why_not(&self) -> Result<&Path> {
        self.audit_log().context("a cluster that is not ours has no audit log for us")
    }

    /// Creates a namespace `<prefix>-<five letters>` and returns its name once its
    /// `default` ServiceAccount is there. Nothing deletes it: it goes with the bed.
    pub async fn namespace(&self, prefix: &str) -> Result<String> {
        let wanted = Namespace {
            metadata: ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        let client = self.admin();
        let made = Api::all(client.clone()).create(&PostParams::default(), &wanted).await;
        let name = made.with_context(|| format!("create a namespace {prefix}-…"))?.name_any();
        let accounts = Api::<ServiceAccount>::namespaced(client, &name);
        if !self.has_controllers {
            access::create_service_account(&accounts, "default").await?;
        }
        self.wait(&format!("ServiceAccount default in namespace {name}"), Duration::from_secs(30), || async {
            accounts.get_opt("default").await.ok().flatten()
        })
        .await?;
        Ok(name)
    }

    /// [`wait`], for those who have a bed at hand.
    pub async fn wait<T, F>(&self, what: &str, limit: Duration, look: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Option<T>>,
    {
        wait(what, limit, look).await
    }

    /// Runs a program beside the control plane, its output in `logs/<name>.log`.
    ///
    /// It ends with its [`Process`], and with this process however that dies. It gets
    /// no cluster unless `env` or `args` name a kubeconfig: the one of whoever runs the
    /// tests stays out of reach.
    pub fn process(&self, name: &str, program: impl AsRef<Path>, args: &[&str], env: &[(&str, &str)]) -> Result<Process> {
        let nowhere = self.dir().join("no-kubeconfig-was-given");
        process::Spawn::new(name, program.as_ref(), &self.dir).args(args).env("KUBECONFIG", nowhere).envs(env).start()
    }

    /// Ends the control plane and removes the directory.
    pub async fn stop(mut self) -> Result<()> {
        for process in &mut self.processes {
            process.kill9().await?;
        }
        Ok(())
    }

    /// Leaves the control plane running after this process has ended, and returns the
    /// admin kubeconfig. `sh <dir>/stop` ends it by ids and removes the directory.
    ///
    /// What [`Bed::process`] started is not included; see [`Process::keep`].
    pub fn keep(mut self) -> Result<PathBuf> {
        self.dir.keep()?;
        for process in self.processes.drain(..) {
            process.keep()?;
        }
        Ok(self.kubeconfig.clone())
    }

    /// Marks this bed as the scene of a failure: its directory stays, for a day.
    pub fn fail(&self) {
        self.dir.fail();
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail();
        }
    }
}

/// Looks every 20 ms until `look` finds something.
///
/// # Errors
/// When `limit` has passed; the message says what was waited for.
pub async fn wait<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + limit;
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    // The limit also holds for a look that hangs.
    match tokio::time::timeout_at(end.into(), looking).await {
        Ok(found) => Ok(found),
        Err(_) => bail!("gave up after {limit:?} waiting for {what}"),
    }
}

/// The one bed of this process, started by the first test that asks.
///
/// Each `#[tokio::test]` has a runtime of its own and a client lives on the runtime
/// that made it: ask the bed for a client in every test, never store one in a static.
/// A static is never dropped. The processes end when this one does (see [`process`]),
/// the directory goes with the next start of any bed.
pub async fn shared() -> Result<&'static Bed> {
    static SHARED: OnceCell<Bed> = OnceCell::const_new();
    SHARED
        .get_or_try_init(|| async {
            let bed = Bed::start("shared").await?;
            bed.dir.fail_on_panic();
            Ok(bed)
        })
        .await
}
