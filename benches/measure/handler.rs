//! The handlers in this process: a request goes in as HTTP has read it, and comes out as
//! HTTP will write it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use mandate::audit::{Log, Settings};
use mandate::authorizer::Authorizer;
use mandate::authorizer::door::{authzen, envoy};
use mandate::authorizer::state::State;
use mandate::authorizer::trust::Trust;
use mandate::decide::authorize::Subject;
use mandate::decide::authorize::snapshot::Compiler;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::SIDE_BY_SIDE;
use super::authority::{Ask, Others, namespace, sources, subject};
use super::measure::{Times, sized};
use super::point::{ASKER, Door, Place};

pub struct Handler {
    runtime: Runtime,
    recorded: Router,
    unrecorded: Router,
    token: String,
    log: Option<Log>,
    state: Arc<State>,
}

impl Handler {
    pub fn start(place: &Place) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let state = Arc::new(State::default());
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

    /// The same where nobody keeps a log.
    pub fn without_log(&self, door: Door, ask: Ask, rate: u32) -> Result<Times> {
        self.paced(&self.unrecorded, door, ask, rate)
    }

    fn paced(&self, router: &Router, door: Door, ask: Ask, rate: u32) -> Result<Times> {
        let bodies: Vec<Bytes> = (0..64).map(|n| door.question(ask, &self.token, n).2.into()).collect();
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
        // The first second fills caches.
        let skip = if questions > rate { rate as usize } else { 0 };
        let all = self.runtime.block_on(under_way.join_all()).into_iter().collect::<Result<Vec<Duration>>>()?;
        Ok(all.into_iter().skip(skip).collect())
    }
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
