//! A gateway with everything around it, on loopback: Envoy as `examples/gateway` sets it up, an
//! MCP server behind it, an MCP client before it, and `mandate run authorizer`.
//!
//! Each program has a log in the bed's directory and ends with the bed, by its own id.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What Envoy shows to the authorizer; as in the example.
pub const GATEWAY_TOKEN: &str = "the-gateways-own-token";
/// The audience of the ledger; as in the example.
pub const LEDGER: &str = "https://ledger.finance.svc";

/// A program that runs. Dropping it ends it.
struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    fn start(dir: &Path, name: &str, command: &mut Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{name}: {error}")), log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the programs listen.
struct Ports {
    gateway: u16,
    envoy: u16,
    https: u16,
    admin: u16,
    server: u16,
}

/// Everything.
pub struct Bed {
    pub dir: PathBuf,
    ports: Ports,
    key: KeyPair,
    client: Client,
    gateway: Option<Program>,
    authorizer: Option<Program>,
    server: Option<Program>,
    _alone: MutexGuard<'static, ()>,
}

/// The MCP client: it does what it is told, one command after the other.
struct Client {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Drop for Client {
    fn drop(&mut self) {
        // It ends when nothing more can come.
        self.commands.take();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory with Envoy, and a Python with an MCP server and client.
fn tools() -> &'static Path {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/build.sh");
        let output = Command::new(script).stderr(Stdio::inherit()).output().expect("tests/gateway/build.sh runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "tests/gateway/build.sh failed: {text}");
        PathBuf::from(text.lines().last().expect("tests/gateway/build.sh prints a path"))
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn python(script: &str) -> Command {
    let mut command = Command::new(tools().join("bin/python"));
    command.arg(root().join("tests/gateway").join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Waits until something listens at a port.
fn listening(port: u16, program: &mut Program) {
    let begun = Instant::now();
    while TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(1)).is_err() {
        let ended = program.child.try_wait().unwrap();
        let late = begun.elapsed() > Duration::from_secs(60);
        assert!(ended.is_none() && !late, "nothing listens at {port} ({ended:?}):\n{}", program.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Bed {
    /// Starts everything, with the manifests of the example.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, |config| config)
    }

    /// The same with another configuration of Envoy than that of the example.
    pub fn start_with(name: &str, config: impl FnOnce(String) -> String) -> Self {
        // Each has a gateway, two Pythons and an authorizer, and some measure time.
        static ONE: Mutex<()> = Mutex::new(());
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("gateway-{name}"));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("manifests")).unwrap();
        let [gateway, envoy, https, admin, server] = free_ports();
        let ports = Ports { gateway, envoy, https, admin, server };
        let mut child = python("client.py")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join("client.log")).unwrap())
            .spawn()
            .unwrap();
        let (commands, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let key = KeyPair::generate().unwrap();
        let client = Client { child, commands, answers };
        let mut bed = Self { dir, ports, key, client, gateway: None, authorizer: None, server: None, _alone: alone };
        bed.write_what_it_reads(config);
        bed.start_server(&[]);
        bed.start_authorizer(&[]);
        bed.start_gateway();
        bed
    }

    fn write_what_it_reads(&self, change: impl FnOnce(String) -> String) {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(self.dir.join("cert.pem"), certified.cert.pem()).unwrap();
        std::fs::write(self.dir.join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
        let digest: String = Sha256::digest(GATEWAY_TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
        // An uncompressed point: 4, then x and y.
        let point = self.key.der_bytes();
        let half = |at: usize| URL_SAFE_NO_PAD.encode(&point[at..at + 32]);
        let trust = json!({
            "enforcementPoints": [{"name": "gateway", "tokenSha256": digest}],
            "jwks": {"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "test", "x": half(1), "y": half(33)}]},
        });
        std::fs::write(self.dir.join("trust.yaml"), trust.to_string()).unwrap();
        self.edit(|text| text);
        // The example, at the ports of this bed.
        let mut config = std::fs::read_to_string(root().join("examples/gateway/envoy.yaml")).unwrap();
        for (example, here) in [(10000, self.ports.gateway), (8445, self.ports.envoy), (8000, self.ports.server)] {
            let written = format!("port_value: {example}}}");
            assert_eq!(config.matches(&written).count(), 1, "{written}");
            config = config.replace(&written, &format!("port_value: {here}}}"));
        }
        let https = self.ports.https.to_string();
        std::fs::write(self.dir.join("envoy.yaml"), change(config).replace("HTTPS_PORT", &https)).unwrap();
    }

    /// Writes the manifests of the example, changed, and says when.
    pub fn edit(&self, change: impl FnOnce(String) -> String) -> Instant {
        let text = std::fs::read_to_string(root().join("examples/gateway/ledger.yaml")).unwrap();
        let file = self.dir.join("manifests/ledger.yaml");
        // As a whole: half of a file would be read as half of the manifests.
        let unnamed = self.dir.join("ledger.yaml");
        std::fs::write(&unnamed, change(text)).unwrap();
        std::fs::rename(unnamed, file).unwrap();
        Instant::now()
    }

    /// Starts the MCP server, or another version of it in its place.
    pub fn start_server(&mut self, args: &[&str]) {
        self.stop_server();
        let mut command = python("server.py");
        let mut server = Program::start(&self.dir, "server", command.arg(self.ports.server.to_string()).args(args));
        listening(self.ports.server, &mut server);
        self.server = Some(server);
    }

    pub fn stop_server(&mut self) {
        self.server = None;
    }

    /// Starts the authorizer, or one with other settings in its place.
    pub fn start_authorizer(&mut self, args: &[&str]) {
        self.authorizer = None;
        let mut command = self.mandate(&["run", "authorizer", "--namespace", "finance", "--manifests", "manifests"]);
        command.args(["--trust", "trust.yaml", "--cert-file", "cert.pem", "--key-file", "key.pem", "--audit-dir", "audit"]);
        for (flag, port) in [("--listen", self.ports.https), ("--admin", self.ports.admin), ("--envoy-listen", self.ports.envoy)]
        {
            command.args([flag, &format!("127.0.0.1:{port}")]);
        }
        let mut authorizer = Program::start(&self.dir, "authorizer", command.args(args));
        listening(self.ports.envoy, &mut authorizer);
        self.authorizer = Some(authorizer);
    }

    fn start_gateway(&mut self) {
        let mut command = Command::new(tools().join("envoy"));
        command.args(["-c", "envoy.yaml", "--log-level", "warning", "--concurrency", "1", "--use-dynamic-base-id"]);
        let mut gateway = Program::start(&self.dir, "gateway", command.current_dir(&self.dir));
        listening(self.ports.gateway, &mut gateway);
        self.gateway = Some(gateway);
    }

    /// Ends the authorizer as a crash would.
    pub fn kill_authorizer(&mut self) {
        self.authorizer = None;
    }

    /// The binary, in the directory of the bed.
    pub fn mandate(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mandate"));
        command.current_dir(&self.dir).args(args).stdin(Stdio::null());
        for variable in ["MANDATE_LOG", "MANDATE_LOG_FORMAT", "MANDATE_NAMESPACE", "KUBECONFIG"] {
            command.env_remove(variable);
        }
        command
    }

    /// What the MCP server was made to do so far, the last thing last.
    pub fn done(&self) -> Vec<Value> {
        let log = self.server.as_ref().map(Program::log).unwrap_or_default();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What was called of the MCP server so far.
    pub fn called(&self) -> Vec<Value> {
        self.done().into_iter().filter(|line| line.get("tool").is_some()).collect()
    }

    /// What the gateway wrote to its access log.
    pub fn access_log(&self) -> String {
        self.gateway.as_ref().map(Program::log).unwrap_or_default()
    }

    pub fn authorizer_log(&self) -> String {
        std::fs::read_to_string(self.dir.join("authorizer.log")).unwrap_or_default()
    }

    /// The MCP server itself, past the gateway.
    pub fn server_url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.ports.server)
    }

    /// A token of a task, for some audiences, that lives for some seconds.
    pub fn token_for(&self, subject: &str, audience: &Value, life: i64) -> String {
        let now = jiff::Timestamp::now().as_second();
        let claims = json!({"sub": subject, "aud": audience, "exp": now + life, "iat": now, "jti": "token-1"});
        let header = Header { kid: Some("test".to_owned()), ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_der(&self.key.serialize_der());
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }

    /// The token of the task of the example.
    pub fn token(&self) -> String {
        self.token_for("task:finance/october", &json!(LEDGER), 600)
    }

    /// Has the client do something, as the task of the example unless the command says else.
    pub fn client(&mut self, command: Value) -> Value {
        let mut command = command;
        if command.get("token").is_none() {
            command["token"] = self.token().into();
        }
        command["url"] = format!("http://127.0.0.1:{}/mcp", self.ports.gateway).into();
        let Client { commands, answers, .. } = &mut self.client;
        writeln!(commands.as_mut().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| {
            let log = std::fs::read_to_string(self.dir.join("client.log")).unwrap_or_default();
            panic!("{error}: {line:?}\n{log}")
        })
    }

    /// Has the client call a tool.
    pub fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.client(json!({"do": "call", "tool": tool, "arguments": arguments}))
    }

    /// Has a message sent as it is.
    pub fn post(&mut self, body: &str, headers: Value) -> Value {
        self.client(json!({"do": "post", "body": body, "headers": headers}))
    }
}
