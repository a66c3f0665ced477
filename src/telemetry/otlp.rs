//! Traces and metrics for a collector, by OTLP over gRPC, where the standard environment variables
//! of OpenTelemetry name one ([`settings`]). Where they name none, nothing of this runs.
//!
//! A [`Span`] is begun by whoever does the work and goes off when it is dropped ([`span`]);
//! metrics are those of `/metrics`, read from its very page ([`page`]). [`send`] delivers both,
//! and never keeps anybody waiting: what a collector does not take in time is lost, counted
//! (`mandate_telemetry_lost_total`) and told of.
//!
//! The messages are OpenTelemetry's own; its SDK is not used. It cannot take the histograms of
//! another registry, it does not tell how much it lost, and it passes over wrong settings.
//! Nothing that an agent sends is in a span: no argument, no token, no header.

mod context;
mod page;
mod sampler;
mod send;
mod settings;
mod span;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tracing::{info, warn};

pub use context::{Parent, TraceId};
pub use settings::WrongSetting;
pub use span::{Span, SpanKind, Traces};

use crate::metrics::Metrics;
use crate::serve::{Stop, stop};
use send::{Collector, Lost};
use settings::Settings;

/// How long what waits may take to be delivered when the process ends.
const FLUSHED_WITHIN: Duration = Duration::from_secs(5);

/// What is sent while the process lives.
#[derive(Default)]
pub struct Sending {
    traces: Traces,
    running: Option<Running>,
}

struct Running {
    end: stop::Trigger,
    tasks: JoinSet<()>,
    lost: Arc<Lost>,
}

impl Sending {
    /// Begins to send what the environment asks for; where it asks for nothing, nothing is begun.
    /// It needs a runtime. `service`: who sends, where the environment does not name it.
    ///
    /// # Errors
    /// A variable cannot be followed. A collector that is not there is no error.
    pub fn begin(service: &str, registry: &Arc<Registry>, metrics: &Arc<Metrics>) -> Result<Self, WrongSetting> {
        let Some(settings) = Settings::read(service)? else { return Ok(Self::default()) };
        let Settings { traces: spans_to, metrics: metrics_to, resource, sampler, metrics_every, spans_every, spans_waiting } =
            settings;
        let (end, ends) = Stop::new();
        let (mut tasks, mut traces) = (JoinSet::new(), Traces::default());
        let lost = Arc::new(Lost::new(metrics.clone()));
        let resource = page::resource(&resource);
        if let Some(target) = spans_to {
            info!(endpoint = target.endpoint, "sending traces");
            let collector = Collector::of("TRACES", target, resource.clone(), lost.clone())?;
            let (kept, queue) = Traces::kept(sampler, spans_waiting, lost.clone());
            traces = kept;
            tasks.spawn(send::spans(collector, queue, spans_every, ends.clone()));
        }
        if let Some(target) = metrics_to {
            info!(endpoint = target.endpoint, "sending metrics");
            let collector = Collector::of("METRICS", target, resource, lost.clone())?;
            tasks.spawn(send::metrics(collector, registry.clone(), metrics_every, ends));
        }
        Ok(Self { traces, running: Some(Running { end, tasks, lost }) })
    }

    /// What takes spans.
    #[must_use]
    pub fn traces(&self) -> Traces {
        self.traces.clone()
    }

    /// Delivers what waits, within five seconds, and ends.
    pub async fn end(self) {
        let Some(Running { end, mut tasks, lost }) = self.running else { return };
        end.stop();
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FLUSHED_WITHIN, all).await.is_err() {
            warn!("the collector did not take the last traces and metrics in time");
        }
        lost.tell_all();
    }
}
