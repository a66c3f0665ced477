//! Delivers spans and metrics to a collector.
//!
//! Guarantees: nobody waits for it but itself; what waits is bounded; what is not taken within the
//! time for one request is lost, counted, and told of once a minute at most. What a collector
//! answers in words is not repeated.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tracing::warn;

use super::page;
use super::settings::{Target, WrongSetting};
use super::span::nanos;
use crate::metrics::Metrics;
pub(super) use crate::metrics::Signal;
use crate::serve::Stop;

/// Most spans of one request.
const MOST_TOGETHER: usize = 512;
/// Longest time to connect.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);
/// Time before the first retry; each further one waits twice as long.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Time between two lines about what was lost.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What was lost on the way.
pub(super) struct Lost {
    metrics: Arc<Metrics>,
    untold: Mutex<Untold>,
}

#[derive(Default)]
struct Untold {
    spans: u64,
    pushes: u64,
    why: String,
    told: Option<Instant>,
}

impl Lost {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, untold: Mutex::default() }
    }

    /// So many spans, or pushes of metrics, were lost.
    pub(super) fn count(&self, signal: Signal, count: u64) {
        self.metrics.lost(signal, count);
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        match signal {
            Signal::Traces => untold.spans += count,
            Signal::Metrics => untold.pushes += count,
        }
    }

    fn because(&self, signal: Signal, count: u64, why: String) {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner).why = why;
        self.count(signal, count);
    }

    /// Tells what was lost since it was last told, unless that was just now.
    fn tell(&self) {
        self.tell_after(TELL_EVERY);
    }

    /// Tells it now.
    pub(super) fn tell_all(&self) {
        self.tell_after(Duration::ZERO);
    }

    fn tell_after(&self, pause: Duration) {
        let untold = {
            let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
            let is_silent = untold.told.is_some_and(|told| told.elapsed() < pause);
            if is_silent || (untold.spans == 0 && untold.pushes == 0) {
                return;
            }
            std::mem::replace(&mut *untold, Untold { told: Some(Instant::now()), ..Untold::default() })
        };
        let Untold { spans, pushes, why, told: _ } = untold;
        let why = if why.is_empty() { "more spans than may wait" } else { &why };
        warn!(spans, pushes, why, "telemetry was lost");
    }
}

/// A collector, and how it is spoken to.
pub(super) struct Collector {
    channel: Channel,
    target: Target,
    resource: Resource,
    lost: Arc<Lost>,
}

impl Collector {
    /// One that is not asked yet. `signal`: what is sent to it, as variables name it.
    pub(super) fn of(signal: &str, target: Target, resource: Resource, lost: Arc<Lost>) -> Result<Self, WrongSetting> {
        let wrong = |name: &str, problem: String, help| {
            let variable = format!("OTEL_EXPORTER_OTLP_{signal}_{name}` or `OTEL_EXPORTER_OTLP_{name}");
            WrongSetting { variable, problem, help }
        };
        let endpoint =
            |problem: tonic::transport::Error| wrong("ENDPOINT", chain(&problem), "write a URL such as `http://collector:4317`");
        let mut to = Endpoint::from_shared(target.endpoint.clone())
            .and_then(|to| to.user_agent(concat!("mandate/", env!("CARGO_PKG_VERSION"))))
            .map_err(endpoint)?
            .connect_timeout(CONNECTED_WITHIN.min(target.timeout))
            .keep_alive_timeout(CONNECTED_WITHIN);
        if target.endpoint.starts_with("https://") {
            let tls = match &target.authorities {
                None => ClientTlsConfig::new().with_native_roots(),
                Some(file) => {
                    let help = "name a readable file with the collector's authority, PEM";
                    let pem = std::fs::read(file).map_err(|error| wrong("CERTIFICATE", error.to_string(), help))?;
                    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
                }
            };
            let help = "name a file with the collector's authority, PEM";
            to = to.tls_config(tls).map_err(|error| wrong("CERTIFICATE", chain(&error), help))?;
        }
        Ok(Self { channel: to.connect_lazy(), target, resource, lost })
    }

    /// Sends once and again until it is taken, or the time is over. `count`: what is in it;
    /// `send` gives back how much of that the collector refused.
    async fn deliver<F: Future<Output = Result<i64, Status>>>(&self, signal: Signal, count: u64, send: impl Fn() -> F) {
        let end = tokio::time::Instant::now() + self.target.timeout;
        let mut wait = RETRY_AFTER;
        let failed = loop {
            let status = match tokio::time::timeout_at(end, send()).await {
                Ok(Ok(refused)) => {
                    let refused = u64::try_from(refused).unwrap_or_default().min(count);
                    if refused > 0 {
                        self.lost.because(signal, refused, "the collector refused them".to_owned());
                    }
                    return;
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            let pause = wait.mul_f64(0.5 + fastrand::f64());
            if !is_passing(status.code()) || tokio::time::Instant::now() + pause >= end {
                break status;
            }
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(CONNECTED_WITHIN);
        };
        self.lost.because(signal, count, why(&failed));
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.target.headers.clone();
        request.set_timeout(self.target.timeout);
        request
    }
}

/// Whether the same request may be taken later (OTLP 1.9, "Failures" of OTLP/gRPC).
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::OutOfRange | Code::Unavailable | Code::DataLoss
    )
}

/// Why a request failed: the code, and what went wrong on this side. A collector's own words may
/// hold what was sent.
fn why(status: &Status) -> String {
    let code = status.code().description();
    std::error::Error::source(status).map_or_else(|| code.to_owned(), |cause| format!("{code}: {}", chain(cause)))
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// Sends spans until the end, and then those that wait.
pub(super) async fn spans(collector: Collector, mut queue: mpsc::Receiver<Span>, every: Duration, end: Stop) {
    let client = TraceServiceClient::new(collector.channel.clone());
    loop {
        let batch = together(&mut queue, every, &end).await;
        if batch.is_empty() {
            return;
        }
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans: batch, ..ScopeSpans::default() }];
        let of_us = ResourceSpans { resource: Some(collector.resource.clone()), scope_spans, ..ResourceSpans::default() };
        let message = ExportTraceServiceRequest { resource_spans: vec![of_us] };
        let send = || {
            let (mut client, request) = (client.clone(), collector.request(message.clone()));
            async move { Ok(client.export(request).await?.into_inner().partial_success.map_or(0, |part| part.rejected_spans)) }
        };
        collector.deliver(Signal::Traces, count, send).await;
        collector.lost.tell();
    }
}

/// Spans for one request: as many as fit, or as have come a while after the first. None: it is
/// the end, and all were sent.
async fn together(queue: &mut mpsc::Receiver<Span>, every: Duration, end: &Stop) -> Vec<Span> {
    let mut batch = vec![];
    let first = tokio::select! {
        biased;
        () = end.requested() => None,
        first = queue.recv() => first,
    };
    if first.is_some() {
        batch.extend(first);
        let mut over = std::pin::pin!(tokio::time::sleep(every));
        while batch.len() < MOST_TOGETHER {
            tokio::select! {
                biased;
                () = end.requested() => break,
                more = queue.recv_many(&mut batch, MOST_TOGETHER) => if more == 0 { break },
                () = &mut over => break,
            }
        }
    }
    if end.is_requested() {
        queue.close();
        queue.recv_many(&mut batch, MOST_TOGETHER).await;
    }
    batch
}

/// Pushes the page of metrics every so often, and at the end once more.
pub(super) async fn metrics(collector: Collector, registry: Arc<Registry>, every: Duration, end: Stop) {
    let client = MetricsServiceClient::new(collector.channel.clone());
    let from = nanos(SystemTime::now());
    loop {
        tokio::select! {
            () = end.requested() => {}
            () = tokio::time::sleep(every) => {}
        }
        let is_last = end.is_requested();
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = text::encode(&mut text, &registry);
        let metrics = page::metrics(&text, page::Span { from, to: nanos(SystemTime::now()) });
        let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() }];
        let of_us = ResourceMetrics { resource: Some(collector.resource.clone()), scope_metrics, ..ResourceMetrics::default() };
        let message = ExportMetricsServiceRequest { resource_metrics: vec![of_us] };
        let send = || {
            let (mut client, request) = (client.clone(), collector.request(message.clone()));
            async move { Ok(client.export(request).await?.into_inner().partial_success.map_or(0, |part| part.rejected_data_points)) }
        };
        collector.deliver(Signal::Metrics, 1, send).await;
        collector.lost.tell();
        if is_last {
            return;
        }
    }
}
