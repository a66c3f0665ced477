//! A collector of OpenTelemetry that takes all it is sent, and counts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::Router;
use mandate::serve::{self, Limits, Stop, stop};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{MetricsService, MetricsServiceServer};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status};

/// Spans go off up to five seconds after their decisions.
const LOST_AFTER: Duration = Duration::from_secs(10);

pub struct Collector {
    pub url: String,
    spans: Arc<AtomicUsize>,
    _end: stop::Trigger,
    _runtime: Runtime,
}

#[derive(Clone)]
struct Receiver(Arc<AtomicUsize>);

impl Collector {
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let spans = Arc::new(AtomicUsize::new(0));
        let receiver = Receiver(spans.clone());
        let of = |signal: &str| format!("/opentelemetry.proto.collector.{signal}/Export");
        let app = Router::new()
            .route_service(&of("trace.v1.TraceService"), TraceServiceServer::new(receiver.clone()))
            .route_service(&of("metrics.v1.MetricsService"), MetricsServiceServer::new(receiver));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let url = format!("http://{}", listener.local_addr()?);
        let (end, ends) = Stop::new();
        runtime.spawn(serve::h2c(listener, app, ends, Limits::default()));
        Ok(Self { url, spans, _end: end, _runtime: runtime })
    }

    /// Spans that came so far: when as many came as were sent, or when what is missing must be lost.
    pub fn spans(&self, sent: usize) -> usize {
        let start = Instant::now();
        loop {
            let came = self.spans.load(Ordering::Relaxed);
            if came >= sent || start.elapsed() > LOST_AFTER {
                return came;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|of_one| of_one.scope_spans);
        self.0.fetch_add(scopes.map(|scope| scope.spans.len()).sum(), Ordering::Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(&self, _: Request<ExportMetricsServiceRequest>) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
