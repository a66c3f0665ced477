//! Mandate's own authorizer as a process of its own, on manifests that the bench writes, and
//! whoever asks it.

use std::ffi::OsStr;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::authority::{Ask, Others, namespace, objects, policy};
use super::gateway;
use super::generate::{Order, Sent};
use super::measure::{Others as OtherProcesses, cpu, sized};
use super::pinned::Pinned;

/// Questions under way at once where the most is looked for.
pub const AT_ONCE: usize = 32;
/// Different bodies that are sent in turn.
pub const BODIES: usize = 64;
/// How long a process may take until it answers.
const READY: Duration = Duration::from_secs(120);
/// What the enforcement point shows.
pub const ASKER: &str = "the-token-of-the-bench";

/// Where everything lies, and what callers show.
pub struct Place {
    pub dir: PathBuf,
    pub pinned: Pinned,
    pub certificate: PathBuf,
    pub key: PathBuf,
    authorities: String,
    pub trust: Value,
    pub token: String,
}

impl Place {
    /// A directory of its own beside the build, on the disk that the build is on.
    pub fn make() -> Result<Self> {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("authorize-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        let [certificate, key] = ["tls.crt", "tls.key"].map(|name| dir.join(name));
        let authorities = own.cert.pem();
        fs::write(&certificate, &authorities)?;
        fs::write(&key, own.signing_key.serialize_pem())?;
        let signing = Ed25519KeyPair::generate().map_err(|_| anyhow::anyhow!("make a key"))?;
        let public = URL_SAFE_NO_PAD.encode(signing.public_key().as_ref());
        let trust = json!({
            "enforcementPoints": [{"name": "bench", "tokenSha256": digest(ASKER)}],
            "jwks": {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": public, "kid": "bench", "alg": "EdDSA", "use": "sig"}]}
        });
        let token = token(&signing);
        Ok(Self { dir, pinned: Pinned::find(), certificate, key, authorities, trust, token })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A task's own token, with the claims that a ServiceAccount's token has.
fn token(key: &Ed25519KeyPair) -> String {
    let now = Timestamp::now().as_second();
    let header = json!({"alg": "EdDSA", "kid": "bench", "typ": "JWT"});
    let claims = json!({
        "iss": "https://kubernetes.default.svc.cluster.local", "sub": format!("task:{}/task-0", namespace(0)), "aud": ["mandate"],
        "iat": now, "nbf": now, "exp": now + 6 * 3600, "jti": "6f1c2f4e-5b0e-4b8e-9d53-0a1c2e3f4a5b",
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).as_ref());
    format!("{signed}.{signature}")
}

/// Writes one policy anew, as whoever edits it would.
pub fn write_policy(manifests: &Path, n: usize, change: usize) -> Result<()> {
    let file = manifests.join("changing.yaml");
    let new = file.with_extension("new");
    fs::write(&new, format!("{}\n", policy(Others::Spread, n, change)))?;
    Ok(fs::rename(&new, &file)?)
}

/// By which protocol it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// AuthZEN over HTTPS.
    AuthZen,
    /// Envoy's `ext_authz`, over gRPC without TLS, as a gateway in the same pod asks.
    Gateway,
}

impl Door {
    /// Path, type of content, and a question of one evaluation.
    pub fn question(self, ask: Ask, token: &str, n: usize) -> (&'static str, &'static str, Vec<u8>) {
        let home = namespace(0);
        match self {
            Self::AuthZen => ("/access/v1/evaluation", "application/json", ask.body(&home, token, n).to_string().into_bytes()),
            Self::Gateway => (gateway::PATH, "application/grpc", gateway::question(ask, &home, token, n)),
        }
    }

    /// What stands in a yes, and what in a no.
    pub fn answers(self) -> [&'static str; 2] {
        match self {
            Self::AuthZen => [r#""decision":true"#, r#""decision":false"#],
            Self::Gateway => gateway::ANSWERS,
        }
    }
}

/// What is sent.
#[derive(Clone, Copy)]
pub struct Load {
    pub ask: Ask,
    pub door: Door,
    pub rate: Option<u32>,
    /// Requests in all.
    pub questions: usize,
    /// Evaluations in each.
    pub batch: usize,
    /// Over HTTP/2, on one connection; else over HTTP/1.1, on as many as are under way at once.
    pub http2: bool,
}

impl Load {
    /// As much as can be done.
    pub fn most(ask: Ask) -> Self {
        Self { ask, door: Door::AuthZen, rate: None, questions: sized(100_000, 3_000), batch: 1, http2: true }
    }

    /// The same over HTTP/1.1, which is all that OPA's server speaks over TLS.
    pub fn over_http1(ask: Ask) -> Self {
        Self { http2: false, ..Self::most(ask) }
    }

    /// As much as can be done, several to a request.
    pub fn batches(ask: Ask, batch: usize) -> Self {
        Self { batch, questions: sized(10_000, 300), ..Self::most(ask) }
    }

    pub fn at(ask: Ask, rate: u32) -> Self {
        Self { rate: Some(rate), questions: sized(rate * 20, rate * 2) as usize, ..Self::most(ask) }
    }

    /// The same as a gateway asks it.
    pub fn of_gateway(self) -> Self {
        Self { door: Door::Gateway, ..self }
    }

    /// What the generator is told. `to`: path, and type of content.
    pub fn order(&self, port: u16, authorities: Option<String>, to: (&str, &str), bodies: Vec<Vec<u8>>) -> Order {
        let headers = [("authorization", format!("Bearer {ASKER}")), ("content-type", to.1.to_owned())];
        Order {
            port,
            path: to.0.to_owned(),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
            answers: self.door.answers().map(str::to_owned),
            authorities,
            bodies,
            http2: self.http2,
            at_once: AT_ONCE,
            rate: self.rate,
            reviews: self.questions,
        }
    }

    /// Whether every answer was the right one.
    pub fn is_answered(&self, sent: &Sent) -> Result<()> {
        let wrong = if self.ask.is_permitted() { sent.refused } else { sent.allowed };
        ensure!(wrong == 0, "{wrong} of {} questions were answered wrongly: {:?}", sent.reviews, sent.refusal);
        Ok(())
    }
}

/// What came of it, and what the process used.
pub struct Seen {
    pub sent: Sent,
    batch: usize,
    cpu: Duration,
    pub others: f64,
}

impl Seen {
    /// CPU time of one decision, in microseconds.
    pub fn each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.decisions()
    }

    fn decisions(&self) -> f64 {
        (self.sent.reviews * self.batch) as f64
    }

    pub fn rate(&self) -> f64 {
        self.decisions() / self.sent.took.as_secs_f64()
    }

    /// Cores that the process used meanwhile.
    pub fn cores(&self) -> f64 {
        self.cpu.as_secs_f64() / self.sent.took.as_secs_f64()
    }
}

/// A process that decides: Mandate's authorizer, or what it is measured beside.
pub struct Point<'a> {
    place: &'a Place,
    process: Child,
    port: u16,
    /// For gateways; none of OPA.
    gateway: u16,
    pub manifests: PathBuf,
    is_opa: bool,
    /// Questions that it was asked before it is measured.
    pub warmed: usize,
}

impl<'a> Point<'a> {
    /// The authorizer with so many policies, when it answers.
    pub fn start(place: &'a Place, policies: usize) -> Result<Self> {
        Self::start_telling(place, policies, None)
    }

    /// The same. `collector`: whom it tells by OTLP.
    pub fn start_telling(place: &'a Place, policies: usize, collector: Option<&str>) -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let dir = place.dir.join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
        let manifests = dir.join("manifests");
        fs::create_dir_all(&manifests)?;
        // The one that will change stands in a file of its own.
        let all = objects(Others::Spread, policies).into_iter().filter(|object| object["metadata"]["name"] != "policy-0");
        let text: String = all.map(|object| format!("---\n{object}\n")).collect();
        fs::write(manifests.join("all.yaml"), text)?;
        write_policy(&manifests, 0, 0)?;
        let trust = dir.join("trust.yaml");
        fs::write(&trust, place.trust.to_string())?;
        let [port, admin, gateway] = [free_port()?, free_port()?, free_port()?];
        let other = std::env::var_os("MANDATE_BIN");
        let binary = other.as_deref().unwrap_or(OsStr::new(env!("CARGO_BIN_EXE_mandate")));
        let wrap = place.pinned.first();
        let mut command = Command::new(wrap.first().map_or(binary, OsStr::new));
        command.args(wrap.iter().skip(1)).args((!wrap.is_empty()).then_some(binary)).args(["run", "authorizer", "--manifests"]);
        command.arg(&manifests).arg("--trust").arg(trust).arg("--cert-file").arg(&place.certificate);
        command.arg("--key-file").arg(&place.key).arg("--audit-dir").arg(dir.join("audit"));
        command.arg("--listen").arg(format!("127.0.0.1:{port}")).arg("--admin").arg(format!("127.0.0.1:{admin}"));
        command.arg("--envoy-listen").arg(format!("127.0.0.1:{gateway}"));
        command.envs(collector.map(|url| ("OTEL_EXPORTER_OTLP_ENDPOINT", url)));
        command.env("KUBECONFIG", "no-kubeconfig-was-given").env("MANDATE_LOG", "warn").stdout(Stdio::null());
        let process = command.spawn().context("start the authorizer")?;
        let mut point = Self { place, process, port, gateway, manifests, is_opa: false, warmed: 0 };
        point.warmed = point.answers()?;
        Ok(point)
    }

    /// OPA's server, when it answers.
    pub fn of_opa(place: &'a Place, process: Child, port: u16) -> Result<Self> {
        let mut point = Self { place, process, port, gateway: 0, manifests: PathBuf::new(), is_opa: true, warmed: 0 };
        point.warmed = point.answers()?;
        Ok(point)
    }

    /// Waits until it answers, and says how much it was asked meanwhile.
    fn answers(&self) -> Result<usize> {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            ensure!(start.elapsed() < READY, "nobody listens on port {} after {READY:?}", self.port);
            std::thread::sleep(Duration::from_millis(50));
        }
        // Caches fill, and the first certificate is read.
        std::thread::sleep(Duration::from_millis(500));
        self.send(Load { questions: sized(5_000, 500), ..Load::over_http1(Ask::Search) }).map(|seen| seen.sent.reviews)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn send(&self, load: Load) -> Result<Seen> {
        let (home, token) = (namespace(0), &self.place.token);
        let question = |n| match (self.is_opa, load.batch) {
            (true, _) => {
                let body = json!({"input": load.ask.body(&home, token, n)});
                ("/v1/data/mandate/answer", "application/json", body.to_string().into_bytes())
            }
            (false, 1) => load.door.question(load.ask, token, n),
            (false, many) => {
                let body = load.ask.batch(&home, token, n, many);
                ("/access/v1/evaluations", "application/json", body.to_string().into_bytes())
            }
        };
        let (path, content, _) = question(0);
        let bodies = (0..BODIES).map(|n| question(n).2).collect();
        let (port, authorities) = match load.door {
            Door::AuthZen => (self.port, Some(self.place.authorities.clone())),
            Door::Gateway => (self.gateway, None),
        };
        let order = load.order(port, authorities, (path, content), bodies);
        let (others, before) = (OtherProcesses::watch(), cpu(self.pid()));
        let sent = self.place.pinned.generate(&order)?;
        let seen = Seen { sent, batch: load.batch, cpu: cpu(self.pid()) - before, others: others.cores() };
        load.is_answered(&seen.sent)?;
        Ok(seen)
    }
}

impl Drop for Point<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
