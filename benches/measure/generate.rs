//! Sends reviews to a webhook, or questions to whoever decides, from a process of its own: the
//! bench starts itself anew with `generate`, so that what sending costs is not counted for the
//! server.
//!
//! Closed loop (no rate): each stream sends its next review when the last was answered; that
//! finds the most a server can do. Open loop (a rate): reviews are sent on time whether
//! earlier ones were answered or not, as an API server does; only that gives honest times.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper::rt::{Read, Write};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::measure::Times;

/// What to send, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Port of the server on loopback.
    pub port: u16,
    /// Where to, such as `/validate`; with the query, where there is one.
    pub path: String,
    /// Headers beside `host`.
    pub headers: Vec<(String, String)>,
    /// What stands in an answer that lets in, and in one that does not.
    pub answers: [String; 2],
    /// Authorities that the server's certificate may come from, PEM. None: without TLS.
    pub authorities: Option<String>,
    /// Bodies, sent in turn.
    pub bodies: Vec<Vec<u8>>,
    /// HTTP/2, or HTTP/1.1.
    pub http2: bool,
    /// Most reviews under way at once: on one connection of HTTP/2, or on as many of HTTP/1.1.
    pub at_once: usize,
    /// Reviews a second; none means as fast as they are answered.
    pub rate: Option<u32>,
    /// Reviews in all.
    pub reviews: usize,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sent {
    pub reviews: usize,
    pub allowed: usize,
    pub refused: usize,
    /// The first answer that did not let in, as far as it is text.
    pub refusal: Option<String>,
    pub took: Duration,
    pub p50: Duration,
    pub p99: Duration,
    pub longest: Duration,
    /// How late reviews were sent, at the 99th percentile: the generator's own fault.
    pub late: Duration,
    /// Size of the first body.
    pub size: usize,
}

/// Reads an order from standard input and prints what came of it.
pub fn main() -> Result<()> {
    let order: Order = serde_json::from_reader(std::io::stdin()).context("read the order")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sent = runtime.block_on(send(order))?;
    println!("{}", serde_json::to_string(&sent)?);
    Ok(())
}

static REFUSAL: OnceLock<String> = OnceLock::new();

enum Connection {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(order: &Order, tls: Option<&TlsConnector>) -> Result<Self> {
        let tcp = TcpStream::connect(("127.0.0.1", order.port)).await?;
        tcp.set_nodelay(true)?;
        match tls {
            Some(tls) => {
                let stream = tls.connect(ServerName::try_from("127.0.0.1")?, tcp).await.context("TLS handshake")?;
                Self::over(TokioIo::new(stream), order.http2).await
            }
            None => Self::over(TokioIo::new(tcp), order.http2).await,
        }
    }

    async fn over(io: impl Read + Write + Send + Unpin + 'static, http2: bool) -> Result<Self> {
        Ok(if http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new()).handshake(io).await?;
            tokio::spawn(connection);
            Self::Two(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Self::One(sender)
        })
    }

    /// Another way into the same connection; HTTP/1.1 has only one.
    fn again(&self) -> Option<Self> {
        match self {
            Self::One(_) => None,
            Self::Two(sender) => Some(Self::Two(sender.clone())),
        }
    }

    async fn review(&mut self, request: Request<Full<Bytes>>, [yes, no]: &[String; 2]) -> Result<bool> {
        let response: Response<_> = match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        ensure!(response.status() == 200, "the server answered {}", response.status());
        let answer = response.into_body().collect().await?.to_bytes();
        let says = |what: &str| answer.windows(what.len()).any(|window| window == what.as_bytes());
        let is_yes = says(yes);
        ensure!(is_yes || says(no), "an answer that says neither yes nor no");
        if !is_yes {
            REFUSAL.get_or_init(|| String::from_utf8_lossy(&answer).into_owned());
        }
        Ok(is_yes)
    }
}

struct Job {
    order: Order,
    bodies: Vec<Bytes>,
    uri: String,
}

impl Job {
    fn request(&self, n: usize) -> Request<Full<Bytes>> {
        let body = self.bodies[n % self.bodies.len()].clone();
        let request = Request::post(if self.order.http2 { &self.uri } else { &self.order.path });
        let request = request.header("host", format!("127.0.0.1:{}", self.order.port));
        let request = self.order.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        request.body(Full::new(body)).expect("a request of fixed parts")
    }
}

fn tls(authorities: &str, http2: bool) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn send(order: Order) -> Result<Sent> {
    let tls = order.authorities.as_deref().map(|authorities| tls(authorities, order.http2)).transpose()?;
    let mut ways = vec![];
    let (connections, streams) = if order.http2 { (1, order.at_once) } else { (order.at_once, 1) };
    for _ in 0..connections {
        let connection = Connection::open(&order, tls.as_ref()).await?;
        ways.extend((1..streams).filter_map(|_| connection.again()));
        ways.push(connection);
    }
    let bodies: Vec<Bytes> = order.bodies.iter().cloned().map(Bytes::from).collect();
    let size = bodies.first().map_or(0, Bytes::len);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let uri = format!("{scheme}://127.0.0.1:{}{}", order.port, order.path);
    let job = Arc::new(Job { order, bodies, uri });
    let start = Instant::now();
    let (answers, late) = match job.order.rate {
        None => (closed(&job, ways).await?, Times::default()),
        Some(rate) => open(&job, ways, rate).await?,
    };
    let took = start.elapsed();
    let times: Times = answers.iter().map(|(time, _)| *time).collect();
    let allowed = answers.iter().filter(|(_, allowed)| *allowed).count();
    Ok(Sent {
        reviews: answers.len(),
        allowed,
        refused: answers.len() - allowed,
        refusal: REFUSAL.get().cloned(),
        took,
        p50: times.percentile(50.0),
        p99: times.percentile(99.0),
        longest: times.longest(),
        late: late.percentile(99.0),
        size,
    })
}

type Answers = Vec<(Duration, bool)>;

async fn closed(job: &Arc<Job>, ways: Vec<Connection>) -> Result<Answers> {
    let share = job.order.reviews / ways.len();
    let mut streams = JoinSet::new();
    for (way, mut connection) in ways.into_iter().enumerate() {
        let job = job.clone();
        streams.spawn(async move {
            let mut answers = Vec::with_capacity(share);
            for n in 0..share {
                let sent = Instant::now();
                let allowed = connection.review(job.request(way + n), &job.order.answers).await?;
                answers.push((sent.elapsed(), allowed));
            }
            anyhow::Ok(answers)
        });
    }
    let mut all = vec![];
    while let Some(answers) = streams.join_next().await {
        all.extend(answers??);
    }
    Ok(all)
}

/// Waits for a time more exactly than a timer, which would send a thousand a second in bursts:
/// the generator has a core of its own to wait on.
async fn until(due: Instant) {
    const TIMER: Duration = Duration::from_millis(2);
    if due.saturating_duration_since(Instant::now()) > TIMER {
        tokio::time::sleep_until((due - TIMER).into()).await;
    }
    while Instant::now() < due {
        tokio::task::yield_now().await;
    }
}

async fn open(job: &Arc<Job>, ways: Vec<Connection>, rate: u32) -> Result<(Answers, Times)> {
    let (give_back, free) = mpsc::unbounded_channel();
    let free = Arc::new(Mutex::new(free));
    for way in ways {
        let _ = give_back.send(way);
    }
    let mut under_way = JoinSet::new();
    let (mut late, mut all) = (Times::default(), vec![]);
    let start = Instant::now();
    for n in 0..job.order.reviews {
        let due = start + Duration::from_secs(1) * u32::try_from(n)? / rate;
        until(due).await;
        late.add(due.elapsed());
        while let Some(answer) = under_way.try_join_next() {
            all.push(answer??);
        }
        if under_way.len() > 10_000 {
            bail!("the server does not keep up with {rate} reviews a second");
        }
        let (job, free, give_back) = (job.clone(), free.clone(), give_back.clone());
        let sent = Instant::now();
        under_way.spawn(async move {
            // Where no connection is free, waiting for one counts.
            let mut way = free.lock().await.recv().await.context("the connections are gone")?;
            let allowed = way.review(job.request(n), &job.order.answers).await?;
            let time = sent.elapsed();
            let _ = give_back.send(way);
            anyhow::Ok((time, allowed))
        });
    }
    while let Some(answer) = under_way.join_next().await {
        all.push(answer??);
    }
    Ok((all, late))
}
