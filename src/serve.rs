//! How answers leave the process: HTTPS for webhooks and decisions, plain HTTP for probes, plain
//! HTTP/2 for a gateway beside it.
//!
//! A `Router`, a listener and a [`Serving`] certificate go in; connections are answered until
//! [`Stop`] is requested and then end in order. It knows nothing of what is served, holds no
//! Kubernetes client, and never reads a body: what a request may hold and how long an answer
//! may take is the router's business.
//!
//! # What bounds a connection
//! * the TLS handshake has [`Limits::handshake`];
//! * more than [`Limits::connections`] at once are closed as they come;
//! * one from which nothing is read for [`Limits::quiet`] is ended, and that covers every way
//!   to be silent: before the first request, between two, in the middle of a header or of the
//!   HTTP/2 preface, and a peer that is gone or does not read its answers;
//! * HTTP/2 streams, windows and headers have fixed limits.
//!
//! # How it ends
//! When a stop is requested, readiness fails first ([`admin`]) while requests are still taken
//! for [`Limits::linger`]: an API server goes on calling a pod until the cluster's network has
//! learned that the pod is leaving, and under `failurePolicy: Fail` a refused connection is a
//! refused user. Then nothing more is accepted, each connection is told to finish (`GOAWAY`,
//! `connection: close`), and what still runs after [`Limits::drain`] is cut.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::ready,
    time::Duration,
};

use axum::{Extension, Router};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

pub mod admin;
pub mod files;
mod heard;
pub mod readiness;
pub mod stop;
pub mod tls;
mod turn;

pub use readiness::Readiness;
pub use stop::Stop;
pub use tls::{Clients, Serving};

use heard::Heard;
use turn::Turn;

/// Why serving could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TLS configuration was refused by the TLS library.
    #[error("set up TLS")]
    Tls(#[from] tls::Error),
}

/// What a server grants its callers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest TLS handshake.
    pub handshake: Duration,
    /// Connections at once; more are closed as they come.
    pub connections: usize,
    /// A connection from which nothing came for this long, at most twice this long, is ended.
    /// It has to be longer than the 90 s after which Go's HTTP client lets an idle connection
    /// go: a client that writes a request just as the server hangs up sees it fail.
    pub quiet: Duration,
    /// How long new connections are still taken after a stop was requested.
    pub linger: Duration,
    /// How long requests in flight may take after that.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            connections: 1024,
            quiet: Duration::from_secs(120),
            linger: Duration::from_secs(5),
            drain: Duration::from_secs(10),
        }
    }
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Ended {
    /// Every connection had finished.
    Drained,
    /// This many connections were cut at the end of [`Limits::drain`].
    Cut(usize),
}

/// Serves `app` over HTTPS (HTTP/2 and HTTP/1.1 by ALPN) until `stop` is requested and every
/// connection has ended. Returns after [`Limits::linger`] + [`Limits::drain`] at the latest.
///
/// Until `certificate` holds a certificate, handshakes fail; the listener may be open before.
///
/// # Errors
/// Only before the first connection is accepted. Afterwards nothing a peer does ends it.
pub async fn https(
    listener: TcpListener,
    app: Router,
    certificate: Arc<Serving>,
    stop: Stop,
    limits: Limits,
) -> Result<Ended, Error> {
    https_to(listener, app, certificate, &Clients::NONE, stop, limits).await
}

/// The same to clients that may show a certificate of their own; the name in it comes to the
/// router as the extension [`ClientName`].
///
/// # Errors
/// As [`https`].
pub async fn https_to(
    listener: TcpListener,
    app: Router,
    certificate: Arc<Serving>,
    clients: &Clients,
    stop: Stop,
    limits: Limits,
) -> Result<Ended, Error> {
    let tls = TlsAcceptor::from(tls::config(certificate, clients)?);
    Ok(accept(listener, Door::Tls(tls), app, stop, limits).await)
}

/// Serves `app` over plain HTTP/1.1, as [`https`] does over TLS. For probes and metrics, and for
/// listeners that only the pod itself can reach.
pub async fn http(listener: TcpListener, app: Router, stop: Stop, limits: Limits) -> Ended {
    accept(listener, Door::Plain, app, stop, limits).await
}

/// Serves `app` over HTTP/2 without TLS (`h2c`, by prior knowledge), as [`https`] does with it. For
/// gRPC from a gateway in the same pod.
pub async fn h2c(listener: TcpListener, app: Router, stop: Stop, limits: Limits) -> Ended {
    accept(listener, Door::PlainTwo, app, stop, limits).await
}

/// The name in a client's certificate, which was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientName(pub Arc<str>);

/// What stands between the socket and HTTP.
#[derive(Clone)]
enum Door {
    Plain,
    PlainTwo,
    Tls(TlsAcceptor),
}

async fn accept(listener: TcpListener, door: Door, app: Router, stop: Stop, limits: Limits) -> Ended {
    let http = Arc::new(Http::new(limits.quiet));
    let (leave, leaving) = Stop::new();
    let mut connections = JoinSet::new();
    let mut full = false;
    let mut closed = pin!(async {
        stop.requested().await;
        sleep(limits.linger).await;
    });
    loop {
        let tcp = tokio::select! {
            biased;
            () = &mut closed => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    // Out of descriptors or memory (a connection that is gone already is no
                    // reason to wait, but no harm either): give others time to end.
                    warn!(%error, "could not accept a connection");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        if connections.len() >= limits.connections {
            if !full {
                warn!(limit = limits.connections, "too many connections, closing new ones");
            }
            full = true;
            continue;
        }
        full = false;
        connections.spawn(connection(tcp, door.clone(), app.clone(), Arc::clone(&http), leaving.clone(), limits));
    }
    drop(listener);
    leave.stop();
    let all_ended = async { while connections.join_next().await.is_some() {} };
    let ended = match timeout(limits.drain, all_ended).await {
        Ok(()) => Ended::Drained,
        Err(_) => Ended::Cut(connections.len()),
    };
    connections.shutdown().await;
    info!(?ended, "server ended");
    ended
}

async fn connection(tcp: TcpStream, door: Door, app: Router, http: Arc<Http>, leaving: Stop, limits: Limits) {
    // What is written is all there is to send: waiting for more only delays it.
    if let Err(error) = tcp.set_nodelay(true) {
        debug!(%error, "could not set TCP_NODELAY");
    }
    match door {
        Door::Plain => converse(tcp, app, &http, Protocol::One, leaving).await,
        Door::PlainTwo => converse(tcp, app, &http, Protocol::Two, leaving).await,
        Door::Tls(tls) => match timeout(limits.handshake, tls.accept(tcp)).await {
            Ok(Ok(stream)) => {
                let protocol = match stream.get_ref().1.alpn_protocol() {
                    Some(tls::H2) => Protocol::Two,
                    _ => Protocol::One,
                };
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let app = match shown.and_then(tls::client_name) {
                    Some(name) => app.layer(Extension(ClientName(name))),
                    None => app,
                };
                converse(stream, app, &http, protocol, leaving).await;
            }
            Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
            Err(_) => debug!("TLS handshake took too long"),
        },
    }
}

/// Answers one connection until it ends, is quiet for too long or is told to leave.
async fn converse<S>(stream: S, app: Router, http: &Http, protocol: Protocol, leaving: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let reads = Arc::new(AtomicU32::new(0));
    let io = TokioIo::new(Heard::new(stream, Arc::clone(&reads)));
    let builder = match protocol {
        Protocol::One => &http.one,
        Protocol::Two => &http.two,
    };
    let mut connection = pin!(builder.serve_connection(io, TowerToHyperService::new(app)));
    let mut turn = Turn::default();
    let mut told = false;
    let mut before = None;
    let mut look = interval(http.quiet);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            ended = poll_fn(|context| {
                // On HTTP/1.1 there is one answer at a time, and nothing to wait for.
                if protocol == Protocol::Two {
                    ready!(turn.poll(context));
                }
                connection.as_mut().poll(context)
            }) => {
                if let Err(error) = ended {
                    debug!(error, "connection failed");
                }
                return;
            }
            () = leaving.requested(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = look.tick() => {
                let now = reads.load(Ordering::Relaxed);
                if before.replace(now) == Some(now) {
                    debug!("connection quiet for too long");
                    return;
                }
            }
        }
    }
}

/// A version of HTTP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    One,
    Two,
}

/// HTTP settings, made once. The protocol is known from ALPN, so that no connection waits in
/// the detection that `auto` would do by reading.
struct Http {
    one: auto::Builder<TokioExecutor>,
    two: auto::Builder<TokioExecutor>,
    /// [`Limits::quiet`].
    quiet: Duration,
}

/// Streams one HTTP/2 connection may have open. An API server multiplexes all its reviews on
/// one connection; at this limit it opens another.
const STREAMS: u32 = 512;
/// A review with object and old object at etcd's limit (1.5 MB each) needs no window update
/// more than twice.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const HEADERS: u32 = 16 << 10;
/// HTTP/1.1 read buffer; also the longest header.
const BUFFER: usize = 128 << 10;

impl Http {
    fn new(quiet: Duration) -> Self {
        let mut one = auto::Builder::new(TokioExecutor::new()).http1_only();
        // Counts between two requests as well, hence as long as `quiet`.
        one.http1().timer(TokioTimer::new()).header_read_timeout(quiet).max_buf_size(BUFFER);
        let mut two = auto::Builder::new(TokioExecutor::new()).http2_only();
        two.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADERS)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10));
        Self { one, two, quiet }
    }
}

#[cfg(test)]
mod tests;
