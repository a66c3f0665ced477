//! One piece of work, for those who look at traces.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::Link;
pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{self as proto, SpanFlags, Status};
use tokio::sync::mpsc;

use super::context::{Parent, TraceId};
use super::sampler::Sampler;
use super::send::{Lost, Signal};

/// Takes spans. The default takes none, and costs nothing.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Kept>>);

struct Kept {
    sampler: Sampler,
    queue: mpsc::Sender<proto::Span>,
    lost: Arc<Lost>,
}

/// Work under way. It goes to the collector when it is dropped, so that work that was given up is
/// seen too.
pub struct Span {
    kept: Arc<Kept>,
    trace: u128,
    begun: Instant,
    span: proto::Span,
}

impl Traces {
    /// Keeps what the sampler keeps, and as much of it as may wait.
    pub(super) fn kept(sampler: Sampler, waiting: usize, lost: Arc<Lost>) -> (Self, mpsc::Receiver<proto::Span>) {
        let (queue, spans) = mpsc::channel(waiting);
        (Self(Some(Arc::new(Kept { sampler, queue, lost }))), spans)
    }

    /// Begins a span, where the trace is kept. `name` is one of few: it never holds an id.
    #[must_use]
    pub fn begin(&self, name: &'static str, kind: SpanKind, parent: Option<Parent>) -> Option<Span> {
        let kept = self.0.as_ref()?;
        let trace = parent.map_or_else(|| fastrand::u128(1..), |parent| parent.trace);
        if !kept.sampler.keeps(parent.as_ref(), trace) {
            return None;
        }
        let remote = if parent.is_some() { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
        let span = proto::Span {
            trace_id: trace.to_be_bytes().into(),
            span_id: fastrand::u64(1..).to_be_bytes().into(),
            parent_span_id: parent.map(|parent| parent.span.to_be_bytes().into()).unwrap_or_default(),
            flags: SAMPLED | SpanFlags::ContextHasIsRemoteMask as u32 | remote,
            name: name.to_owned(),
            kind: kind.into(),
            start_time_unix_nano: nanos(SystemTime::now()),
            ..proto::Span::default()
        };
        Some(Span { kept: kept.clone(), trace, begun: Instant::now(), span })
    }
}

/// The flag of a trace that is kept.
const SAMPLED: u32 = 1;

impl Span {
    /// Id of its trace.
    #[must_use]
    pub const fn trace_id(&self) -> TraceId {
        TraceId(self.trace)
    }

    /// Says something of the work: a word of a closed set, or what everybody in the cluster may
    /// know.
    pub fn say(&mut self, name: &'static str, value: &str) {
        self.put(name, text(value));
    }

    /// The same, where there is something to say.
    pub fn say_some(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.say(name, value);
        }
    }

    /// Says several words.
    pub fn say_all<'a>(&mut self, name: &'static str, values: impl IntoIterator<Item = &'a str>) {
        let values: Vec<AnyValue> = values.into_iter().map(text).collect();
        if !values.is_empty() {
            self.put(name, AnyValue { value: Some(Value::ArrayValue(ArrayValue { values })) });
        }
    }

    /// Says a number.
    pub fn count(&mut self, name: &'static str, number: u64) {
        self.put(name, AnyValue { value: Some(Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX))) });
    }

    /// It could not be done. A no is no failure.
    pub fn failed(&mut self, kind: &'static str) {
        self.say("error.type", kind);
        self.span.status = Some(Status { code: StatusCode::Error.into(), message: String::new() });
    }

    /// Another trace has to do with it.
    pub fn link(&mut self, other: Parent) {
        let Parent { trace, span, sampled } = other;
        let flags = u32::from(sampled) | SpanFlags::ContextHasIsRemoteMask as u32 | SpanFlags::ContextIsRemoteMask as u32;
        let (trace_id, span_id) = (trace.to_be_bytes().into(), span.to_be_bytes().into());
        self.span.links.push(Link { trace_id, span_id, flags, ..Link::default() });
    }

    fn put(&mut self, name: &'static str, value: AnyValue) {
        self.span.attributes.push(KeyValue { key: name.to_owned(), value: Some(value), ..KeyValue::default() });
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let mut span = std::mem::take(&mut self.span);
        let took = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        span.end_time_unix_nano = span.start_time_unix_nano.saturating_add(took);
        // A full queue must not keep the work waiting.
        if self.kept.queue.try_send(span).is_err() {
            self.kept.lost.count(Signal::Traces, 1);
        }
    }
}

pub(super) fn text(value: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(value.to_owned())) }
}

/// Nanoseconds since 1970.
pub(super) fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::metrics::Metrics;

    fn traces(sampler: Sampler, waiting: usize) -> (Traces, mpsc::Receiver<proto::Span>, Registry) {
        let mut registry = Registry::default();
        let lost = Arc::new(Lost::new(Arc::new(Metrics::register(&mut registry))));
        let (traces, queue) = Traces::kept(sampler, waiting, lost);
        (traces, queue, registry)
    }

    #[test]
    fn where_no_collector_is_named_no_span_is_begun() {
        let parent = Parent { trace: 1, span: 2, sampled: true };
        assert!(Traces::default().begin("authorize", SpanKind::Server, Some(parent)).is_none());
    }

    #[test]
    fn a_span_that_is_dropped_is_sent_with_its_parent() {
        let (traces, mut queue, _) = traces(Sampler::following_parents(0.0), 8);
        let parent = Parent { trace: 7, span: 9, sampled: true };
        drop(traces.begin("authorize", SpanKind::Server, Some(parent)));
        assert!(traces.begin("authorize", SpanKind::Server, None).is_none(), "none is kept of what begins here");
        let span = queue.try_recv().unwrap();
        assert_eq!((&*span.trace_id, &*span.parent_span_id), (&7_u128.to_be_bytes()[..], &9_u64.to_be_bytes()[..]));
        assert_eq!(span.flags, 0x301);
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    }

    #[test]
    fn what_finds_no_place_is_counted() {
        let (traces, mut queue, registry) = traces(Sampler::of_each(1.0), 1);
        for _ in 0..3 {
            drop(traces.begin("authorize", SpanKind::Server, None));
        }
        assert!(queue.try_recv().is_ok() && queue.try_recv().is_err());
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        assert!(page.contains("mandate_telemetry_lost_total{signal=\"traces\"} 2\n"), "{page}");
    }
}
