//! The handlers in this process: a request goes in as HTTP has read it, and comes out as
//! HTTP will write it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use mandate::audit::{Log, Settings};
use mandate::authorizer::Authorizer;
use mandate::authorizer::door::{authzen, envoy};
use mandate::authorizer::state;
use mandate::authorizer::trust::Trust;
use mandate::decide::authorize::Subject;
use mandate::decide::authorize::snapshot::Compiler;
use mandate::serve::{self, Limits, Stop};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::SIDE_BY_SIDE;
use super::authority::{Ask, Others, namespace, sources, subject};
use super::measure::{Times, sized};
use super::pinned::Pinned;
use super::point::{ASKER, BODIES, Door, Load, Place};

/// This process is kept to the first core, as the binary is where it is measured.
struct Held;

impl Held {
    fn by(pinned: Pinned) -> Option<Self> {
        (!pinned.first().is_empty() && keep("0")).then_some(Self)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Those that are not there count for nothing.
        keep("0-1023");
    }
}

/// Keeps every thread of this process to some cores.
fn keep(cores: &str) -> bool {
    let own = std::process::id().to_string();
    let taskset =
        Command::new("taskset").args(["--all-tasks", "--cpu-list", "--pid", cores, &own]).stdout(Stdio::null()).status();
    taskset.is_ok_and(|status| status.success())
}

/// How long answers took, in their order.
type Seen = Arc<Mutex<Vec<Duration>>>;

pub struct Handler {
    runtime: Runtime,
    recorded: Router,
    unrecorded: Router,
    token: String,
    log: Option<Log>,
    state: Arc<state::State>,
}

impl Handler {
    pub fn start(place: &Place) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let state = Arc::new(state::State::default());
        state.replace(Compiler::default().compile(&sources(Others::Spread, SIDE_BY_SIDE)).0);
        // As a task of a manifest, it has no UID that its token would have to name.
        state.put(Subject { uid: String::new(), ..subject(&namespace(0), "task-0") });
        let dir: PathBuf = place.dir.join("handler");
        let log = Log::open(&Settings::new(dir)).context("open an audit log")?;
        let router = |log: Option<Log>| -> Result<Router> {
            let trust = Trust::of(serde_json::from_value(place.trust.clone())?, None).map_err(anyhow::Error::msg)?;
            let authorizer = Arc::new(Authorizer::new(state.clone(), trust, log));
            Ok(authzen::router(authorizer.clone(), None).merge(envoy::router(authorizer)))
        };
        let (recorded, unrecorded) = (router(Some(log.clone()))?, router(None)?);
        Ok(Self { runtime, recorded, unrecorded, token: place.token.clone(), log: Some(log), state })
    }

    /// Times at so many a second.
    pub fn times(&self, door: Door, ask: Ask, rate: u32) -> Result<Times> {
        self.paced(&self.recorded, door, ask, rate)
    }

    /// Times over loopback: a gateway's questions come from a second process, by gRPC without TLS, as
    /// they do in one pod. As with the authorizer itself, this process has the first core alone
    /// meanwhile. Seen here, from the whole request to the whole answer.
    pub fn over_grpc(&self, place: &Place, ask: Ask, rate: u32) -> Result<Times> {
        let seen = Arc::new(Mutex::new(vec![]));
        let timed = self.recorded.clone().layer(axum::middleware::from_fn_with_state(seen.clone(), timed));
        let (leave, stop) = Stop::new();
        let limits = Limits { linger: Duration::ZERO, ..Limits::default() };
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port();
        let served = self.runtime.spawn(serve::h2c(listener, timed, stop, limits));
        let state = self.state.clone();
        let current = self.runtime.spawn(async move {
            loop {
                state.is_current(Timestamp::now());
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let (path, content, _) = Door::Gateway.question(ask, &self.token, 0);
        let bodies = (0..BODIES).map(|n| Door::Gateway.question(ask, &self.token, n).2).collect();
        let load = Load::at(ask, rate).of_gateway();
        let held = Held::by(place.pinned);
        load.is_answered(&place.pinned.generate(&load.order(port, None, (path, content), bodies))?)?;
        drop(held);
        current.abort();
        leave.stop();
        let _ = self.runtime.block_on(served)?;
        let all = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(warm(all, rate))
    }

    /// The same where nobody keeps a log.
    pub fn without_log(&self, door: Door, ask: Ask, rate: u32) -> Result<Times> {
        self.paced(&self.unrecorded, door, ask, rate)
    }

    fn paced(&self, router: &Router, door: Door, ask: Ask, rate: u32) -> Result<Times> {
        let bodies: Vec<Bytes> = (0..BODIES).map(|n| door.question(ask, &self.token, n).2.into()).collect();
        let (path, content, _) = door.question(ask, &self.token, 0);
        let said = door.answers()[usize::from(!ask.is_permitted())];
        let (start, questions) = (Instant::now(), sized(rate * 20, rate));
        let mut under_way = JoinSet::new();
        for n in 0..questions {
            let due = start + Duration::from_secs(1) * n / rate;
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            if n % rate == 0 {
                self.state.is_current(Timestamp::now());
            }
            let (router, body) = (router.clone(), bodies[n as usize % bodies.len()].clone());
            let request = Request::post(path)
                .header("content-type", content)
                .header("authorization", format!("Bearer {ASKER}"))
                .body(Full::new(body))?;
            under_way.spawn_on(one(router, request, said), self.runtime.handle());
        }
        let all = self.runtime.block_on(under_way.join_all()).into_iter().collect::<Result<Vec<Duration>>>()?;
        Ok(warm(all, rate))
    }
}

/// Without those of the first second, which fills caches; all where there is no second one.
fn warm(all: Vec<Duration>, rate: u32) -> Times {
    let first = rate as usize;
    let skip = if all.len() > first { first } else { 0 };
    all.into_iter().skip(skip).collect()
}

/// Takes the time from the whole request, which comes in several frames, to the whole answer.
async fn timed(State(seen): State<Seen>, request: axum::extract::Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(whole) = body.collect().await else { return Response::default() };
    let request = Request::from_parts(parts, Body::from(whole.to_bytes()));
    let start = Instant::now();
    let (parts, body) = next.run(request).await.into_parts();
    let Ok(whole) = body.collect().await else { return Response::default() };
    let took = start.elapsed();
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    let trailers = whole.trailers().cloned();
    let body = Full::new(whole.to_bytes()).with_trailers(async move { trailers.map(Ok) });
    Response::from_parts(parts, Body::new(body))
}

async fn one(router: Router, request: Request<Full<Bytes>>, said: &str) -> Result<Duration> {
    let start = Instant::now();
    let Ok(response) = TowerToHyperService::new(router).call(request).await;
    let answer = response.into_body().collect().await?.to_bytes();
    let time = start.elapsed();
    ensure!(
        answer.windows(said.len()).any(|window| window == said.as_bytes()),
        "answered wrongly: {}",
        String::from_utf8_lossy(&answer)
    );
    Ok(time)
}

impl Drop for Handler {
    fn drop(&mut self) {
        if let Some(log) = self.log.take() {
            let _ = self.runtime.block_on(log.close());
        }
    }
}
