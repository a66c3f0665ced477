//! `mandate run authorizer` as a process of its own, asked over HTTPS: for tests that speak of what
//! an enforcement point sees.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{command_of, fresh};

/// Bearer token of the enforcement point that vouches for subjects of type `user`.
pub const HARNESS: &str = "harness-token-of-no-worth";
/// Bearer token of one that vouches for nobody.
pub const GATEWAY: &str = "gateway-token-of-no-worth";

/// A running authorizer. Dropping it ends it, by its id.
pub struct Running {
    child: Child,
    /// Ends the authorizer when this process ends, which drops no static: it reads from a pipe that
    /// then closes.
    watch: Child,
    address: SocketAddr,
    admin: SocketAddr,
    dir: PathBuf,
    tls: Arc<ClientConfig>,
    key: rcgen::KeyPair,
    log: Arc<Mutex<String>>,
}

/// What was answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Running {
    /// Starts one on these manifests. `vouched`: the namespace of the harness's users.
    pub fn start(name: &str, manifests: &[(&str, &str)], vouched: &str, flags: &[&str]) -> Self {
        Self::start_with(name, manifests, vouched, flags, &[])
    }

    /// The same with variables of the environment.
    pub fn start_with(name: &str, manifests: &[(&str, &str)], vouched: &str, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = fresh(name);
        std::fs::create_dir(dir.join("m")).unwrap();
        for (file, text) in manifests {
            std::fs::write(dir.join("m").join(file), text).unwrap();
        }
        let served = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(dir.join("cert.pem"), served.cert.pem()).unwrap();
        std::fs::write(dir.join("key.pem"), served.signing_key.serialize_pem()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let trust = json!({
            "enforcementPoints": [
                {"name": "harness", "tokenSha256": sha256(HARNESS), "vouchesFor": {"user": vouched}},
                {"name": "gateway", "tokenSha256": sha256(GATEWAY)},
            ],
            "jwks": {"keys": [jwk(&key, "tests")]},
        });
        std::fs::write(dir.join("trust.yaml"), trust.to_string()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(served.cert.der().clone()).unwrap();
        let tls = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
        let at = |file: &str| dir.join(file).to_str().unwrap().to_owned();
        let (m, trust, cert, keyfile, audit) = (at("m"), at("trust.yaml"), at("cert.pem"), at("key.pem"), at("audit"));
        let mut args = vec!["--log-format", "json", "run", "authorizer", "--manifests", &m, "--trust", &trust];
        args.extend(["--cert-file", &cert, "--key-file", &keyfile, "--audit-dir", &audit]);
        args.extend(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        args.extend(flags);
        // A limit on the size of files, as `size_of_files` sets it, fails the write and not the process.
        let script = ["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_mandate")];
        let mut command = command_of("sh", &[&script, &args[..]].concat());
        let command = command.envs(variables.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let ends = ["-c", "read -r _; kill -s KILL \"$0\"", &child.id().to_string()];
        let watch = std::process::Command::new("sh").args(ends).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (tell, told) = std::sync::mpsc::channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let (log, tell) = (log.clone(), tell.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if line.contains("\"answering\"") {
                        let _ = tell.send(line.clone());
                    }
                    log.lock().unwrap().push_str(&(line + "\n"));
                }
            });
        }
        let line = told.recv_timeout(Duration::from_secs(30));
        let Ok(line) = line else { panic!("it does not answer: {}", log.lock().unwrap()) };
        let said: Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| find(&said, name).unwrap_or_else(|| panic!("{said}")).parse().unwrap();
        let running = Self { address: address("address"), admin: address("admin"), child, watch, dir, tls, key, log };
        let end = Instant::now() + Duration::from_secs(20);
        while !running.probe("/readyz").starts_with("HTTP/1.1 200") {
            assert!(Instant::now() < end, "it is never ready: {}", running.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Its id among the processes.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes one of its manifests anew, as an editor does that replaces the file.
    pub fn edit(&self, file: &str, text: &str) {
        let beside = self.dir.join("edited");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, self.dir.join("m").join(file)).unwrap();
    }

    /// One request with exactly these headers beside `Host`, `Content-Length` and `Connection`.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let session = ClientConnection::new(self.tls.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
        let mut stream = StreamOwned::new(session, socket);
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n", self.address.port());
        for (name, value) in headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.extend(["Content-Length: ", &body.len().to_string(), "\r\n\r\n"]);
        // One that is refused early may close before it has read all.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).and_then(|()| stream.flush());
        let mut bytes = vec![];
        let _ = stream.read_to_end(&mut bytes);
        reply(&bytes)
    }

    /// A request as an enforcement point sends it.
    pub fn ask(&self, token: &str, path: &str, body: &Value) -> Reply {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        self.send("POST", path, &headers, body.to_string().as_bytes())
    }

    /// One evaluation by the harness: its answer.
    pub fn evaluate(&self, body: &Value) -> Value {
        let reply = self.ask(HARNESS, "/access/v1/evaluation", body);
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }

    /// What a page of the probes says, with its head.
    pub fn probe(&self, path: &str) -> String {
        let Ok(mut socket) = TcpStream::connect(self.admin) else { return String::new() };
        let _ = write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut text = String::new();
        let _ = socket.read_to_string(&mut text);
        text
    }

    /// Waits until something holds, and says how long that took.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < Duration::from_secs(15), "never: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        begun.elapsed()
    }

    /// Lets its files grow to so many bytes at most: a disk that is full.
    pub fn size_of_files(&self, most: &str) {
        let (pid, limit) = (self.child.id().to_string(), format!("--fsize={most}:unlimited"));
        assert!(std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    }

    /// Ends it in order, and waits until it has.
    pub fn stop(&mut self) {
        let id = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap();
    }

    /// A token of a task, signed by the key that is trusted. `change` may spoil it.
    pub fn token(&self, sub: &str, change: impl FnOnce(&mut Value)) -> String {
        signed(&self.key, "tests", sub, change)
    }

    /// The key that is trusted.
    pub fn key(&self) -> &rcgen::KeyPair {
        &self.key
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.watch.kill();
        let _ = self.watch.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A text member anywhere in a value.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    let members = value.as_object()?;
    members.get(name).and_then(Value::as_str).or_else(|| members.values().find_map(|value| find(value, name)))
}

fn reply(bytes: &[u8]) -> Reply {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Reply { status, headers: lines.filter_map(header).collect(), body: body.to_owned() }
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The public half of a key (P-256), as RFC 7517 writes it.
pub fn jwk(key: &rcgen::KeyPair, id: &str) -> Value {
    let point = key.public_key_raw();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]));
    json!({"kty": "EC", "crv": "P-256", "kid": id, "alg": "ES256", "use": "sig", "x": x, "y": y})
}

/// Seconds since 1970.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A token for Mandate that is good for ten minutes, unless `change` spoils it.
pub fn signed(key: &rcgen::KeyPair, id: &str, sub: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = json!({"sub": sub, "aud": "mandate", "iat": now(), "nbf": now(), "exp": now() + 600, "jti": "t-1"});
    change(&mut claims);
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    header.kid = Some(id.to_owned());
    jsonwebtoken::encode(&header, &claims, &jsonwebtoken::EncodingKey::from_ec_der(key.serialized_der())).unwrap()
}
