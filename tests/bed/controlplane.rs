//! What makes up the control plane, with which flags, and when is it ready?
//!
//! etcd first, then the API server, then the controllers. Every wait has a limit, ends
//! at once when the component it waits for does, and then shows that component's log.

use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client};

use super::dir::{BedDir, random};
use super::pki::{self, Authority, Credential};
use super::process::{Process, Spawn};
use super::{Bed, Options, access, audit, wait};

/// Generous: two cores may be compiling something else meanwhile.
const READY_LIMIT: Duration = Duration::from_secs(120);
const LOG_LINES: usize = 20;

const ISSUER: &str = "https://kubernetes.default.svc";
const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/controlplane/build.sh");

/// Anonymous may see whether the server lives, nothing else.
const AUTHENTICATION: &str = r#"apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions: [{path: /livez}, {path: /readyz}, {path: /healthz}]
"#;

/// Starts a control plane of our own.
pub(super) async fn start(options: Options, dir: BedDir) -> Result<Bed> {
    let tell = &options.progress;
    tell("looking for the control plane (built once, which takes minutes)");
    let binaries = tokio::task::spawn_blocking(Binaries::find).await??;
    let (files, authority) = Files::write(&dir)?;
    let mut bed = files.bed(authority, dir)?;
    bring_up(&mut bed, &files, &binaries, &options).await.inspect_err(|_| bed.fail())?;
    Ok(bed)
}

async fn bring_up(bed: &mut Bed, files: &Files, binaries: &Binaries, options: &Options) -> Result<()> {
    let tell = &options.progress;
    tell("starting etcd");
    let etcd = binaries.spawn("etcd", &files.etcd_flags(), &bed.dir)?;
    bed.processes.insert(0, etcd);
    let port = files.etcd_port;
    until(&mut bed.processes[0], || async move { tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok() })
        .await?;

    tell("starting kube-apiserver");
    let flags = files.apiserver_flags(&options.apiserver_flags);
    let apiserver = binaries.spawn("kube-apiserver", &flags, &bed.dir)?;
    bed.processes.insert(0, apiserver);
    let client = bed.admin();
    until(&mut bed.processes[0], || is_ready(&client)).await?;

    if !binaries.has("kube-controller-manager") {
        tell("no kube-controller-manager here; going without");
        return Ok(());
    }
    tell("starting kube-controller-manager");
    let flags = files.controller_manager_flags(&options.controller_manager_flags);
    let controllers = binaries.spawn("kube-controller-manager", &flags, &bed.dir)?;
    bed.processes.insert(0, controllers);
    bed.has_controllers = true;
    let accounts = Api::<ServiceAccount>::default_namespaced(client);
    // The first thing that only controllers do.
    until(&mut bed.processes[0], || async { accounts.get_opt("default").await.ok().flatten() }).await?;
    tell("the control plane is ready");
    Ok(())
}

async fn is_ready(client: &Client) -> Option<String> {
    let request = axum::http::Request::get("/readyz").body(Vec::new()).ok()?;
    client.request_text(request).await.ok()
}

/// Waits for a sign of `process` being ready.
async fn until<T, F>(process: &mut Process, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Option<T>>,
{
    let what = format!("{} to be ready", process.name());
    let seen = wait(&what, READY_LIMIT, || {
        // An end is something to see, too.
        let ended = !process.is_running();
        let look = look();
        async move { if ended { Some(None) } else { look.await.map(Some) } }
    })
    .await;
    let why = match seen {
        Ok(Some(found)) => return Ok(found),
        Ok(None) => format!("{} ended", process.name()),
        Err(error) => error.to_string(),
    };
    bail!("{why}; the end of its log:\n{}", process.log_tail(LOG_LINES))
}

/// Where the programs are.
struct Binaries {
    dir: PathBuf,
    /// Our own build reads its lifeline itself.
    ours: bool,
}

impl Binaries {
    /// Asks build.sh, which builds if it must and tells the human on stderr.
    fn find() -> Result<Binaries> {
        let output = Command::new("bash")
            .arg(BUILD)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("run tests/controlplane/build.sh")?;
        ensure!(output.status.success(), "tests/controlplane/build.sh: {}", output.status);
        let text = String::from_utf8(output.stdout).context("build.sh printed no path")?;
        let dir = PathBuf::from(text.lines().last().context("build.sh printed no path")?);
        let ours = dir.join("controlplane").exists();
        Ok(Binaries { dir, ours })
    }

    fn has(&self, name: &str) -> bool {
        self.dir.join(name).exists()
    }

    fn spawn(&self, name: &str, flags: &[String], dir: &BedDir) -> Result<Process> {
        Spawn::new(name, &self.dir.join(name), dir)
            .args(flags)
            .env("CONTROLPLANE_EXIT_WITH_STDIN", if self.ours { "1" } else { "0" })
            .exits_with_stdin(self.ours)
            .start()
    }
}

/// Everything the components read: keys, certificates, policies, ports.
struct Files {
    dir: PathBuf,
    etcd_port: u16,
    etcd_peer_port: u16,
    server_port: u16,
}

impl Files {
    fn write(dir: &BedDir) -> Result<(Files, Authority)> {
        let authority = Authority::new("mandate-bed")?;
        let front_proxy = Authority::new("mandate-bed-front-proxy")?;
        dir.write("ca.crt", &authority.certificate())?;
        dir.write("ca.key", &authority.key())?;
        dir.write("front-proxy-ca.crt", &front_proxy.certificate())?;
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1"];
        pair(dir, "apiserver", &authority.server(&names)?)?;
        pair(dir, "front-proxy", &front_proxy.client("front-proxy", None)?)?;
        let (private, public) = pki::signing_key()?;
        dir.write("sa.key", &private)?;
        dir.write("sa.pub", &public)?;
        dir.write("authentication.yaml", AUTHENTICATION)?;
        dir.write("audit-policy.yaml", audit::POLICY)?;

        let [etcd_port, etcd_peer_port, server_port] = free_ports()?;
        let files = Files { dir: dir.path().to_owned(), etcd_port, etcd_peer_port, server_port };
        let user = "system:kube-controller-manager";
        let config = access::own(&files.server(), &authority, user, None)?;
        access::write(dir, "kube-controller-manager", &config)?;
        Ok((files, authority))
    }

    /// The bed these files are for, with nothing running yet.
    fn bed(&self, authority: Authority, dir: BedDir) -> Result<Bed> {
        let admin = access::own(&self.server(), &authority, "admin", Some("system:masters"))?;
        access::client(admin.clone())?;
        Ok(Bed {
            processes: Vec::new(),
            kubeconfig: access::write(&dir, "admin", &admin)?,
            admin,
            server: self.server(),
            ca_pem: Some(authority.certificate()),
            authority: Some(authority),
            audit_log: Some(self.path_of("logs/audit.jsonl")),
            has_controllers: false,
            dir,
        })
    }

    fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.server_port)
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `--flag=<a file of ours>`.
    fn file(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path_of(name).display())
    }

    fn etcd_flags(&self) -> Vec<String> {
        let client = format!("http://127.0.0.1:{}", self.etcd_port);
        let peer = format!("http://127.0.0.1:{}", self.etcd_peer_port);
        vec![
            "--name=bed".to_owned(),
            self.file("data-dir", "etcd"),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=bed={peer}"),
            // Nothing here outlives the machine's next crash, or is meant to.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ]
    }

    fn apiserver_flags(&self, more: &[String]) -> Vec<String> {
        let mut flags = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.server_port),
            // The Service `kubernetes` may not point at loopback.
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            self.file("tls-cert-file", "apiserver.crt"),
            self.file("tls-private-key-file", "apiserver.key"),
            self.file("client-ca-file", "ca.crt"),
            self.file("authentication-config", "authentication.yaml"),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            format!("--service-account-issuer={ISSUER}"),
            format!("--api-audiences={ISSUER}"),
            self.file("service-account-key-file", "sa.pub"),
            self.file("service-account-signing-key-file", "sa.key"),
            self.file("requestheader-client-ca-file", "front-proxy-ca.crt"),
            "--requestheader-allowed-names=front-proxy".to_owned(),
            "--requestheader-username-headers=X-Remote-User".to_owned(),
            "--requestheader-group-headers=X-Remote-Group".to_owned(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
            self.file("proxy-client-cert-file", "front-proxy.crt"),
            self.file("proxy-client-key-file", "front-proxy.key"),
            self.file("audit-policy-file", "audit-policy.yaml"),
            self.file("audit-log-path", "logs/audit.jsonl"),
            // One file: a rotated log would hide calls from those who count them.
            "--audit-log-maxsize=1000000".to_owned(),
            // A bench measures us, not the server's politeness.
            "--enable-priority-and-fairness=false".to_owned(),
            "--max-requests-inflight=10000".to_owned(),
            "--max-mutating-requests-inflight=10000".to_owned(),
        ];
        if !more.iter().any(|flag| flag.starts_with("--authorization-")) {
            flags.push("--authorization-mode=Node,RBAC".to_owned());
        }
        flags.extend_from_slice(more);
        flags
    }

    fn controller_manager_flags(&self, more: &[String]) -> Vec<String> {
        let mut flags = vec![
            self.file("kubeconfig", "kube-controller-manager.kubeconfig"),
            // No port of its own: nobody scrapes it, and readiness shows in its work.
            "--secure-port=0".to_owned(),
            "--leader-elect=false".to_owned(),
            "--controllers=*".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
            self.file("service-account-private-key-file", "sa.key"),
            self.file("root-ca-file", "ca.crt"),
            self.file("cluster-signing-cert-file", "ca.crt"),
            self.file("cluster-signing-key-file", "ca.key"),
            "--kube-api-qps=1000".to_owned(),
            "--kube-api-burst=2000".to_owned(),
        ];
        flags.extend_from_slice(more);
        flags
    }
}

fn pair(dir: &BedDir, stem: &str, credential: &Credential) -> Result<()> {
    dir.write(&format!("{stem}.crt"), &credential.certificate)?;
    dir.write(&format!("{stem}.key"), &credential.key)?;
    Ok(())
}

/// Ports nobody listens on, drawn from below the range the kernel hands out for
/// outgoing connections: the API server's hundred connections to etcd would otherwise
/// now and then sit on a port another component was promised.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    for _ in 0..1000 {
        let port = 10_000 + u16::try_from(random() % 20_000).unwrap_or_default();
        // Held until all are drawn, so that they differ.
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
        if held.len() == N {
            let ports: Vec<u16> = held.iter().map(|(port, _)| *port).collect();
            return ports.try_into().ok().context("as many ports as were asked for");
        }
    }
    bail!("no free port on loopback")
}
