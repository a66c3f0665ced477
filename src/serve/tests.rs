//! Serving seen from the other side of real sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{metrics::Metrics, serve::tls::Certificate};

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn limits() -> Limits {
    Limits { linger: Duration::ZERO, ..Limits::default() }
}

/// A certificate for `localhost` that clients may trust directly.
fn certificate() -> (Certificate, CertificateDer<'static>, [String; 2]) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = [made.cert.pem(), made.signing_key.serialize_pem()];
    let certificate = Certificate::from_pem(pem[0].as_bytes(), pem[1].as_bytes()).unwrap();
    (certificate, made.cert.der().clone(), pem)
}

struct Server {
    at: SocketAddr,
    trusted: Vec<CertificateDer<'static>>,
    serving: Arc<Serving>,
    stop: stop::Trigger,
    ended: JoinHandle<Result<Ended, Error>>,
}

async fn server(limits: Limits) -> Server {
    let app = Router::new()
        .route("/", get("here"))
        .route(
            "/slow",
            get(|| async {
                sleep(Duration::from_millis(400)).await;
                "slow"
            }),
        )
        .route("/never", get(std::future::pending::<&'static str>));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (certificate, der, _) = certificate();
    let serving = Serving::new();
    serving.replace(certificate);
    let (trigger, stop) = Stop::new();
    let ended = tokio::spawn(https(listener, app, Arc::clone(&serving), stop, limits));
    Server { at, trusted: vec![der], serving, stop: trigger, ended }
}

impl Server {
    async fn connect(&self, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for der in &self.trusted {
            roots.add(der.clone()).unwrap();
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let tcp = TcpStream::connect(self.at).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), tcp).await
    }
}

/// Sends one HTTP/1.1 request without closing, and reads what one answer brings.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    answer(stream).await
}

async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut buffer = vec![0; 64 << 10];
    let read = timeout(SOON, stream.read(&mut buffer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

/// Waits for the peer to close, however it does, and says how long that took.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) -> Duration {
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("the server hangs up");
    start.elapsed()
}

#[tokio::test]
async fn a_new_certificate_is_served_to_the_next_connection_and_the_open_one_lives_on() {
    let mut server = server(limits()).await;
    let mut old = server.connect(&[b"http/1.1"]).await.unwrap();
    assert!(ask(&mut old, "/").await.ends_with("here"));
    let (fresh, der, _) = certificate();
    server.trusted = vec![der.clone()];
    assert!(server.connect(&[]).await.is_err(), "the old certificate is not trusted any more");
    server.serving.replace(fresh);
    let new = server.connect(&[]).await.unwrap();
    assert_eq!(new.get_ref().1.peer_certificates().unwrap(), [der]);
    assert!(ask(&mut old, "/").await.ends_with("here"));
}

#[tokio::test]
async fn without_a_certificate_the_handshake_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (trigger, stop) = Stop::new();
    let ended = tokio::spawn(https(listener, Router::new(), Serving::new(), stop.clone(), limits()));
    let (_, der, _) = certificate();
    let server = Server { at, trusted: vec![der], serving: Serving::new(), stop: trigger, ended };
    assert!(server.connect(&[]).await.is_err());
}

#[tokio::test]
async fn both_protocols_are_offered_and_http2_is_preferred() {
    let server = server(limits()).await;
    let mut two = server.connect(&[b"http/1.1", b"h2"]).await.unwrap();
    assert_eq!(two.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    // Preface and empty SETTINGS; the server's first frame is its own SETTINGS (type 4).
    two.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut frame = [0; 9];
    timeout(SOON, two.read_exact(&mut frame)).await.unwrap().unwrap();
    assert_eq!(frame[3], 4);
    let mut one = server.connect(&[b"http/1.1"]).await.unwrap();
    assert!(ask(&mut one, "/").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_request_in_flight_is_answered_when_the_server_stops() {
    let server = server(limits()).await;
    let mut busy = server.connect(&[b"http/1.1"]).await.unwrap();
    let mut idle = server.connect(&[b"http/1.1"]).await.unwrap();
    assert!(ask(&mut idle, "/").await.ends_with("here"));
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    server.stop.stop();
    let text = answer(&mut busy).await;
    assert!(text.contains("connection: close") && text.ends_with("slow"), "{text}");
    closed(&mut idle).await;
    assert_eq!(timeout(SOON, server.ended).await.unwrap().unwrap().unwrap(), Ended::Drained);
    assert!(TcpStream::connect(server.at).await.is_err(), "nothing is accepted any more");
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_at_the_limit() {
    let server = server(Limits { drain: Duration::from_millis(200), ..limits() }).await;
    let mut busy = server.connect(&[b"http/1.1"]).await.unwrap();
    busy.write_all(b"GET /never HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    server.stop.stop();
    assert_eq!(timeout(SOON, server.ended).await.unwrap().unwrap().unwrap(), Ended::Cut(1));
}

#[tokio::test]
async fn connections_are_still_taken_for_a_while_after_the_stop() {
    let server = server(Limits { linger: Duration::from_secs(3), ..limits() }).await;
    let Server { stop, .. } = server;
    stop.stop();
    sleep(Duration::from_millis(50)).await;
    let (trigger, _stop) = Stop::new();
    let server = Server { stop: trigger, ..server };
    let mut late = server.connect(&[b"http/1.1"]).await.unwrap();
    assert!(ask(&mut late, "/").await.ends_with("here"));
}

#[tokio::test]
async fn a_connection_that_does_not_begin_a_handshake_is_closed() {
    let server = server(Limits { handshake: Duration::from_millis(200), ..limits() }).await;
    let mut silent = TcpStream::connect(server.at).await.unwrap();
    assert!(closed(&mut silent).await < SOON);
}

#[tokio::test]
async fn a_connection_that_is_quiet_after_its_handshake_is_closed() {
    let server = server(Limits { quiet: Duration::from_millis(300), ..limits() }).await;
    for protocol in [b"http/1.1".as_slice(), b"h2"] {
        let mut silent = server.connect(&[protocol]).await.unwrap();
        assert!(closed(&mut silent).await < SOON);
        let mut stuck = server.connect(&[protocol]).await.unwrap();
        // The beginning of an HTTP/2 preface, and of a request line.
        stuck.write_all(b"P").await.unwrap();
        assert!(closed(&mut stuck).await < SOON);
    }
}

#[tokio::test]
async fn more_connections_than_allowed_are_closed_and_the_others_live_on() {
    let server = server(Limits { connections: 1, ..limits() }).await;
    let mut first = server.connect(&[b"http/1.1"]).await.unwrap();
    assert!(server.connect(&[b"http/1.1"]).await.is_err());
    assert!(ask(&mut first, "/").await.ends_with("here"));
    drop(first);
    timeout(SOON, async {
        while server.connect(&[b"http/1.1"]).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the place is free again");
}

#[tokio::test]
async fn readyz_says_what_is_missing_and_fails_first_when_stopping() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let readiness = Readiness::new();
    let watch = readiness.handle("task watch");
    let (trigger, stop) = Stop::new();
    let (end, ending) = Stop::new();
    let mut registry = prometheus_client::registry::Registry::default();
    Metrics::register(&mut registry).minted();
    let state: admin::DebugState = Box::new(|| serde_json::json!({"tasks": 3}));
    let admin = admin::Admin { readiness, stop, registry: Arc::new(registry), state: Some(state) };
    let served = tokio::spawn(admin::serve(listener, admin, ending));

    let mut probe = TcpStream::connect(at).await.unwrap();
    let text = ask(&mut probe, "/readyz").await;
    assert!(text.starts_with("HTTP/1.1 503") && text.ends_with("waiting for: task watch\n"), "{text}");
    drop(watch);
    assert!(ask(&mut probe, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(ask(&mut probe, "/metrics").await.contains("mandate_tokens_minted_total 1"));
    assert!(ask(&mut probe, "/debug/state").await.contains("\"tasks\": 3"));
    trigger.stop();
    assert!(ask(&mut probe, "/readyz").await.starts_with("HTTP/1.1 503"));
    assert!(ask(&mut probe, "/livez").await.starts_with("HTTP/1.1 200"));
    end.stop();
    assert_eq!(timeout(SOON, served).await.unwrap().unwrap(), Ended::Drained);
}

#[tokio::test]
async fn files_that_change_are_served_and_files_that_do_not_fit_change_nothing() {
    let dir = std::env::temp_dir().join(format!("mandate-files-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let paths = [dir.join("tls.crt"), dir.join("tls.key")];
    let put = |pem: &[String; 2]| (0..2).for_each(|i| std::fs::write(&paths[i], &pem[i]).unwrap());
    let (first, _, pem) = certificate();
    put(&pem);
    let readiness = Readiness::new();
    let (trigger, stop) = Stop::new();
    let serving = Serving::new();
    let metrics = Arc::new(Metrics::register(&mut prometheus_client::registry::Registry::default()));
    let watched = files::Files { every: Duration::from_millis(20), ..files::Files::new(&paths[0], &paths[1]) };
    let following = tokio::spawn(files::follow(watched, Arc::clone(&serving), metrics, readiness.handle("cert"), stop));
    let serves = async |wanted: &Certificate| {
        timeout(SOON, async {
            while !serving.current().is_some_and(|current| current.is(wanted)) {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    };
    serves(&first).await.unwrap();
    // A renewal half done: a new certificate beside the old key.
    let (second, _, pem) = certificate();
    std::fs::write(&paths[0], &pem[0]).unwrap();
    sleep(Duration::from_millis(100)).await;
    assert!(serving.current().unwrap().is(&first));
    put(&pem);
    serves(&second).await.unwrap();
    assert!(readiness.is_ready());
    trigger.stop();
    timeout(SOON, following).await.unwrap().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_key_of_another_certificate_is_refused_before_it_is_served() {
    let ([cert, _], [_, key]) = (certificate().2, certificate().2);
    assert!(matches!(Certificate::from_pem(cert.as_bytes(), key.as_bytes()), Err(tls::Error::Pair(_))));
    assert!(matches!(Certificate::from_pem(b"", key.as_bytes()), Err(tls::Error::Chain)));
    assert!(matches!(Certificate::from_pem(cert.as_bytes(), b"garbage"), Err(tls::Error::Key)));
}
