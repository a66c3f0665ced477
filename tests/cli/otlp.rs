//! What a collector gets of `mandate run authorizer` by OTLP, and that nothing depends on it: the
//! real binary on one side, a receiver of OpenTelemetry's own service on the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{self, HttpRequest};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use mandate::serve::{self, Limits, Stop, stop};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{MetricsService, MetricsServiceServer};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};
use tonic::{Request, Response, Status};

use crate::running::{GATEWAY, HARNESS, Running};
use crate::{mandate, read};

const EVALUATION: &str = "/access/v1/evaluation";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// How a collector answers.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Takes,
    Refuses,
    IsSilent,
}

/// What a collector got.
#[derive(Default)]
struct Got {
    spans: Vec<Span>,
    /// The last push.
    metrics: Vec<Metric>,
    resource: BTreeMap<String, Value>,
    secret: Option<String>,
    /// Everything, as a text.
    all: String,
}

#[derive(Clone)]
struct Receiver {
    got: Arc<Mutex<Got>>,
    manner: Manner,
}

impl Receiver {
    async fn take<T: std::fmt::Debug>(&self, request: Request<T>, keep: impl FnOnce(&mut Got, T)) -> Result<(), Status> {
        match self.manner {
            Manner::Takes => {}
            Manner::Refuses => return Err(Status::permission_denied("you-sent-this-token")),
            Manner::IsSilent => std::future::pending().await,
        }
        let mut got = self.got.lock().unwrap();
        got.secret = request.metadata().get("x-secret").map(|value| value.to_str().unwrap().to_owned());
        let _ = write!(got.all, "{request:?}");
        keep(&mut got, request.into_inner());
        Ok(())
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let keep = |got: &mut Got, message: ExportTraceServiceRequest| {
            for of_one in message.resource_spans {
                got.resource = said(&of_one.resource.unwrap().attributes);
                got.spans.extend(of_one.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        };
        self.take(request, keep).await?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let keep = |got: &mut Got, message: ExportMetricsServiceRequest| {
            let scopes = message.resource_metrics.into_iter().flat_map(|of_one| of_one.scope_metrics);
            got.metrics = scopes.flat_map(|scope| scope.metrics).collect();
        };
        self.take(request, keep).await?;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// A collector. Dropping it ends it.
struct Collector {
    got: Arc<Mutex<Got>>,
    address: SocketAddr,
    _end: stop::Trigger,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    fn start(manner: Manner) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let got = Arc::<Mutex<Got>>::default();
        let receiver = Receiver { got: got.clone(), manner };
        let app = axum::Router::new()
            .route_service(
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                TraceServiceServer::new(receiver.clone()),
            )
            .route_service(
                "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
                MetricsServiceServer::new(receiver),
            );
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ends) = Stop::new();
        let limits = Limits { linger: Duration::ZERO, drain: Duration::ZERO, ..Limits::default() };
        runtime.spawn(async move {
            let _ = serve::h2c(listener, app, ends, limits).await;
        });
        Self { got, address, _end: end, _runtime: runtime }
    }

    fn got(&self) -> std::sync::MutexGuard<'_, Got> {
        self.got.lock().unwrap()
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Attributes by their names.
fn said(all: &[KeyValue]) -> BTreeMap<String, Value> {
    fn plain(value: &any_value::Value) -> Value {
        match value {
            any_value::Value::StringValue(text) => json!(text),
            any_value::Value::IntValue(number) => json!(number),
            any_value::Value::ArrayValue(array) => {
                array.values.iter().map(|value| plain(value.value.as_ref().unwrap())).collect()
            }
            other => panic!("{other:?}"),
        }
    }
    all.iter().map(|pair| (pair.key.clone(), plain(pair.value.as_ref().unwrap().value.as_ref().unwrap()))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The example of the documentation, with these variables.
fn finance(name: &str, variables: &[(&str, &str)]) -> Running {
    let [tools, scope, policy] = ["tools", "scope", "policy"].map(|name| read(format!("examples/finance/{name}.yaml")));
    let manifests = [("tools.yaml", &*tools), ("scope.yaml", &*scope), ("policy.yaml", &*policy)];
    Running::start_with(name, &manifests, "finance", &[], variables)
}

/// A decision soon in the collector's hands.
fn soon<'a>(url: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let soon = [("OTEL_EXPORTER_OTLP_ENDPOINT", url), ("OTEL_BSP_SCHEDULE_DELAY", "10"), ("OTEL_METRIC_EXPORT_INTERVAL", "100")];
    [&soon, more].concat()
}

fn call(tool: &str, arguments: &Value) -> Value {
    json!({"subject": {"type": "user", "id": "october"}, "action": {"name": "tools/call", "properties": arguments},
        "resource": {"type": "tool", "id": tool}})
}

/// Asks as an enforcement point that is traced.
fn ask(at: &Running, path: &str, body: &Value, flags: &str) -> Value {
    let (bearer, traceparent) = (format!("Bearer {HARNESS}"), format!("00-{TRACE}-{PARENT}-{flags}"));
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
        ("Traceparent", traceparent.as_str()),
        ("X-Private", "private-header-4711"),
    ];
    let reply = at.send("POST", path, &headers, body.to_string().as_bytes());
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

/// What the audit log holds of a decision.
fn entry(at: &Running, id: &str) -> Value {
    let dir = at.dir().join("audit");
    let args = ["audit", "query", "--dir", dir.to_str().unwrap(), "--id", id, "--output", "json"];
    let mut answer = mandate(&args);
    // A light read is answered before it is on the disk.
    at.until("the entry is written", || {
        if answer.out.is_empty() {
            answer = mandate(&args);
        }
        !answer.out.is_empty()
    });
    serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn id(answer: &Value) -> &str {
    answer["context"]["evaluation_id"].as_str().unwrap()
}

#[test]
fn a_decision_is_a_span_in_the_trace_of_who_asked_and_the_audit_log_names_the_same_trace() {
    let collector = Collector::start(Manner::Takes);
    let at = finance("otlp-span", &soon(&collector.url(), &[("OTEL_RESOURCE_ATTRIBUTES", "team=finance")]));
    let export = json!({"path": "reports/2026-4711", "rows": 10});
    let answer = ask(&at, EVALUATION, &call("ledger/export", &export), "01");
    assert_eq!(answer["context"]["outcome"], "needs-approval", "{answer}");
    at.until("the span has come", || !collector.got().spans.is_empty());
    let got = collector.got();
    let [span] = &got.spans[..] else { panic!("{:?}", got.spans) };
    assert_eq!((span.name.as_str(), span.kind), ("authorize", 2), "of a server");
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert!(span.start_time_unix_nano > 0 && span.end_time_unix_nano >= span.start_time_unix_nano);
    assert_eq!(span.status, None, "a no is no failure");
    let expected = json!({
        "mandate.door": "authzen",
        "mandate.decision.id": id(&answer),
        "mandate.decision.outcome": "needs-approval",
        "mandate.decision.reasons": [answer["context"]["reasons"][0]["code"]],
        "mandate.decision.rules": ["AgentPolicy finance/finance-agents#exports-need-a-human"],
        "mandate.decision.cache_for": 0,
        "mandate.tool.effect": "export",
        "mandate.classification": "internal",
        "mandate.task.name": "october",
        "gen_ai.tool.name": "finance/ledger/export",
        "gen_ai.agent.name": "invoice-bot",
        "k8s.namespace.name": "finance",
    });
    assert_eq!(json!(said(&span.attributes)), expected);
    assert_eq!(got.resource["service.name"], "mandate-authorizer");
    assert_eq!(got.resource["team"], "finance");
    for private in ["4711", HARNESS, "reports/"] {
        assert!(!got.all.contains(private), "{private} was sent: {}", got.all);
    }
    assert_eq!(entry(&at, id(&answer))["traceId"], TRACE);
}

#[test]
fn a_trace_that_begins_with_the_decision_is_in_the_audit_log_too() {
    let collector = Collector::start(Manner::Takes);
    let at = finance("otlp-root", &soon(&collector.url(), &[]));
    let answer = at.evaluate(&call("ledger/post", &json!({"amount": 1})));
    at.until("the span has come", || !collector.got().spans.is_empty());
    let span = collector.got().spans[0].clone();
    assert!(span.parent_span_id.is_empty());
    assert_eq!(entry(&at, id(&answer))["traceId"], hex(&span.trace_id));
}

#[test]
fn a_trace_that_is_not_kept_leaves_no_span_and_its_id_in_the_audit_log() {
    let collector = Collector::start(Manner::Takes);
    let at = finance("otlp-unsampled", &soon(&collector.url(), &[("OTEL_TRACES_SAMPLER", "parentbased_always_off")]));
    let unkept = ask(&at, EVALUATION, &call("ledger/post", &json!({"amount": 1})), "00");
    let own = at.evaluate(&call("ledger/post", &json!({"amount": 1})));
    let kept = ask(&at, EVALUATION, &call("ledger/post", &json!({"amount": 1})), "01");
    at.until("the span has come", || !collector.got().spans.is_empty());
    let ids: Vec<Value> =
        collector.got().spans.iter().map(|span| said(&span.attributes)["mandate.decision.id"].clone()).collect();
    assert_eq!(ids, [id(&kept)]);
    assert_eq!(entry(&at, id(&unkept))["traceId"], TRACE);
    assert_eq!(entry(&at, id(&own)).get("traceId"), None, "nobody could find a trace of this id");
}

#[test]
fn every_door_tells_of_its_decisions() {
    let collector = Collector::start(Manner::Takes);
    let at = finance("otlp-doors", &soon(&collector.url(), &[]));
    let read = call("ledger/read", &json!({}));
    let both = json!({"evaluations": [read, call("ledger/nothing-like-4711", &json!({}))]});
    ask(&at, "/access/v1/evaluations", &both, "01");
    let search =
        json!({"subject": {"type": "user", "id": "october"}, "action": {"name": "tools/call"}, "resource": {"type": "tool"}});
    ask(&at, "/access/v1/search/resource", &search, "01");
    let user = "system:serviceaccount:finance:mandate-task-4711";
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": {"verb": "get", "resource": "secrets", "name": "name-4711"}}});
    ask(&at, "/kubernetes/authorize", &review, "01");
    at.until("all spans have come", || collector.got().spans.len() == 4);
    let got = collector.got();
    assert!(got.spans.iter().all(|span| hex(&span.trace_id) == TRACE && hex(&span.parent_span_id) == PARENT), "{:?}", got.spans);
    let told = |span: &Span| {
        let said = said(&span.attributes);
        let word = |name: &str| said.get(name).map(|value| value.as_str().unwrap().to_owned()).unwrap_or_default();
        (span.name.clone(), word("mandate.door"), word("mandate.decision.outcome"), word("gen_ai.tool.name"))
    };
    let told: Vec<_> = got.spans.iter().map(told).collect();
    let expected = [
        ("authorize", "authzen", "permit", "finance/ledger/read"),
        ("authorize", "authzen", "deny", ""),
        ("search", "authzen", "", ""),
        ("authorize", "kubernetes", "deny", ""),
    ];
    assert_eq!(told, expected.map(|(a, b, c, d)| (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned())));
    assert!(!got.all.contains("4711"), "what nobody declared was sent: {}", got.all);
}

#[test]
fn a_decision_for_a_gateway_belongs_to_the_trace_of_the_request_that_is_decided() {
    let collector = Collector::start(Manner::Takes);
    let url = collector.url();
    let [tools, scope, policy] = ["tools", "scope", "policy"].map(|name| read(format!("examples/finance/{name}.yaml")));
    let manifests = [("tools.yaml", &*tools), ("scope.yaml", &*scope), ("policy.yaml", &*policy)];
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let at = Running::start_with("otlp-envoy", &manifests, "finance", &["--envoy-listen", &address], &soon(&url, &[]));
    let (other, own) = ("11111111111111111111111111111111", "2222222222222222");
    for (gateway, client) in [
        (Some(format!("00-{other}-{own}-01")), Some(format!("00-{TRACE}-{PARENT}-01"))),
        (Some(format!("00-{TRACE}-{own}-01")), Some(format!("00-{TRACE}-{PARENT}-01"))),
        (Some(format!("00-{other}-{own}-01")), None),
    ] {
        check(&address, &at.token("task:finance/october", |_| {}), gateway, client);
    }
    at.until("all spans have come", || collector.got().spans.len() == 3);
    let got = collector.got();
    let seen = |span: &Span| {
        let links: Vec<String> =
            span.links.iter().map(|link| format!("{}-{}", hex(&link.trace_id), hex(&link.span_id))).collect();
        (hex(&span.trace_id), hex(&span.parent_span_id), links.join(","))
    };
    let seen: Vec<_> = got.spans.iter().map(seen).collect();
    let link = format!("{other}-{own}");
    let expected = [(TRACE, PARENT, link.as_str()), (TRACE, own, ""), (other, own, "")];
    assert_eq!(seen, expected.map(|(trace, parent, link)| (trace.to_owned(), parent.to_owned(), link.to_owned())));
    for span in &got.spans {
        let said = said(&span.attributes);
        assert_eq!((&said["mandate.door"], &said["mandate.decision.outcome"]), (&json!("envoy"), &json!("permit")), "{said:?}");
        assert_eq!(entry(&at, said["mandate.decision.id"].as_str().unwrap())["traceId"], hex(&span.trace_id));
    }
}

/// Asks as Envoy does, about a call of `ledger/read`.
fn check(address: &str, agent: &str, gateway: Option<String>, client: Option<String>) {
    let body =
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "read", "arguments": {}}}).to_string();
    let mut headers = vec![
        ("authorization".to_owned(), format!("Bearer {agent}")),
        ("content-type".to_owned(), "application/json".to_owned()),
        ("content-length".to_owned(), body.len().to_string()),
    ];
    headers.extend(client.map(|client| ("traceparent".to_owned(), client)));
    let http = HttpRequest {
        method: "POST".into(),
        path: "/mcp".into(),
        headers: headers.into_iter().collect(),
        size: i64::try_from(body.len()).unwrap(),
        raw_body: body.into_bytes(),
        ..HttpRequest::default()
    };
    let attributes = AttributeContext {
        request: Some(attribute_context::Request { http: Some(http), ..Default::default() }),
        context_extensions: [("mandate.dev/server".to_owned(), "finance/ledger".to_owned())].into(),
        ..AttributeContext::default()
    };
    let mut request = Request::new(CheckRequest { attributes: Some(attributes) });
    request.metadata_mut().insert("authorization", format!("Bearer {GATEWAY}").parse().unwrap());
    if let Some(gateway) = gateway {
        request.metadata_mut().insert("traceparent", gateway.parse().unwrap());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let mut envoy = AuthorizationClient::connect(format!("http://{address}")).await.unwrap();
        envoy.check(request).await.unwrap().into_inner()
    });
    assert_eq!(answer.status.as_ref().unwrap().code, 0, "{answer:?}");
}

/// The lines of `/metrics` that say the same.
fn lines(metrics: &[Metric]) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for Metric { name, data, .. } in metrics {
        let series = |labels: &[KeyValue], le: Option<String>| {
            let labels = said(labels).into_iter().map(|(name, value)| format!("{name}={value}"));
            let all: BTreeSet<String> = labels.chain(le.map(|bound| format!("le=\"{bound}\""))).collect();
            all.into_iter().collect::<Vec<_>>().join(",")
        };
        match data.as_ref().unwrap() {
            metric::Data::Sum(sum) => {
                assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
                for point in &sum.data_points {
                    assert!(point.start_time_unix_nano > 0 && point.time_unix_nano >= point.start_time_unix_nano);
                    let Some(number_data_point::Value::AsInt(value)) = point.value else { panic!("{point:?}") };
                    lines.insert(format!("{name}_total{{{}}} {value}", series(&point.attributes, None)));
                }
            }
            metric::Data::Gauge(gauge) => {
                for point in &gauge.data_points {
                    let value = match point.value.unwrap() {
                        number_data_point::Value::AsInt(value) => value.to_string(),
                        number_data_point::Value::AsDouble(value) => format!("{value:?}"),
                    };
                    lines.insert(format!("{name}{{{}}} {value}", series(&point.attributes, None)));
                }
            }
            metric::Data::Histogram(histogram) => {
                assert_eq!(histogram.aggregation_temporality, 2);
                for point in &histogram.data_points {
                    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                    let mut below = 0;
                    for (at, count) in point.bucket_counts.iter().enumerate() {
                        below += count;
                        let bound = point.explicit_bounds.get(at).map_or("+Inf".to_owned(), shown);
                        lines.insert(format!("{name}_bucket{{{}}} {below}", series(&point.attributes, Some(bound))));
                    }
                    lines.insert(format!("{name}_count{{{}}} {}", series(&point.attributes, None), point.count));
                    lines.insert(format!("{name}_sum{{{}}} {:?}", series(&point.attributes, None), point.sum.unwrap()));
                }
            }
            other => panic!("{other:?}"),
        }
    }
    lines
}

/// A bound as the page shows it.
fn shown(bound: &f64) -> String {
    let text = bound.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

/// The page of `/metrics` without comments, labels in the order of their names; of what changes by
/// itself the names alone.
fn scraped(page: &str) -> BTreeSet<String> {
    let body = page.split_once("\r\n\r\n").unwrap().1;
    let line = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels: BTreeSet<&str> = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).collect();
        format!("{name}{{{}}} {value}", labels.into_iter().collect::<Vec<_>>().join(","))
    };
    body.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(line).collect()
}

/// Lines that compare as what they say does: one number is written in more ways than one, and an age changes by itself.
fn settled(lines: BTreeSet<String>) -> BTreeSet<String> {
    let line = |line: String| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        if series.starts_with("mandate_known_age") {
            return series.to_owned();
        }
        format!("{series} {}", value.parse::<f64>().unwrap())
    };
    lines.into_iter().map(line).collect()
}

#[test]
fn metrics_are_pushed_as_the_page_of_metrics_shows_them() {
    let collector = Collector::start(Manner::Takes);
    let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "x-secret=secret-header%20value");
    let at = finance("otlp-metrics", &soon(&collector.url(), &[headers, ("OTEL_TRACES_EXPORTER", "none")]));
    for _ in 0..5 {
        at.evaluate(&call("ledger/post", &json!({"amount": 1})));
    }
    let same = || {
        let pushed = settled(lines(&collector.got().metrics));
        let scraped = settled(scraped(&at.probe("/metrics")));
        (pushed == scraped, pushed, scraped)
    };
    let end = Instant::now() + Duration::from_secs(15);
    while !same().0 {
        let (_, pushed, scraped) = same();
        assert!(Instant::now() < end, "{:#?}", pushed.symmetric_difference(&scraped).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (_, pushed, _) = same();
    let denied = r#"mandate_decisions_total{code="LimitReached",door="authzen",outcome="deny"} 2"#;
    assert!(pushed.contains(denied), "{pushed:#?}");
    assert!(pushed.contains("mandate_decision_duration_seconds_count{} 5"), "{pushed:#?}");
    let got = collector.got();
    assert_eq!(got.secret.as_deref(), Some("secret-header value"));
    assert!(got.spans.is_empty(), "traces were not asked for");
    assert!(!at.log().contains("secret-header"));
}

#[test]
fn what_waits_is_sent_when_the_process_is_told_to_end() {
    let collector = Collector::start(Manner::Takes);
    let url = collector.url();
    let long = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "600000")];
    let mut at = finance("otlp-flush", &long);
    at.evaluate(&call("ledger/read", &json!({})));
    assert!(collector.got().spans.is_empty());
    at.stop();
    assert_eq!(collector.got().spans.len(), 1);
    assert!(lines(&collector.got().metrics).iter().any(|line| line.starts_with("mandate_decisions_total")));
}

/// How many of a kind were lost.
fn lost(at: &Running, signal: &str) -> u64 {
    let page = at.probe("/metrics");
    let series = format!("mandate_telemetry_lost_total{{signal=\"{signal}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or(0)
}

#[test]
fn decisions_go_on_when_the_collector_goes_away() {
    let collector = Collector::start(Manner::Takes);
    let url = collector.url();
    let mut at = finance("otlp-gone", &soon(&url, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "300")]));
    at.evaluate(&call("ledger/read", &json!({})));
    at.until("the first span has come", || !collector.got().spans.is_empty());
    drop(collector);
    for _ in 0..5 {
        assert_eq!(at.evaluate(&call("ledger/read", &json!({})))["decision"], true);
    }
    at.until("the loss is counted", || lost(&at, "traces") >= 5 && lost(&at, "metrics") >= 2);
    let told = at.log().matches("telemetry was lost").count();
    assert_eq!(told, 1, "once a minute: {}", at.log());
    at.stop();
}

#[test]
fn a_collector_that_is_slow_or_says_no_or_speaks_no_tls_hinders_nobody() {
    for (name, manner, tls) in [
        ("otlp-silent", Manner::IsSilent, false),
        ("otlp-refusing", Manner::Refuses, false),
        ("otlp-no-tls", Manner::Takes, true),
    ] {
        let collector = Collector::start(manner);
        let url = if tls { collector.url().replace("http:", "https:") } else { collector.url() };
        let authority = crate::fresh("otlp-authority").join("ca.pem");
        std::fs::write(&authority, rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap().cert.pem()).unwrap();
        let more = [
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "2"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.to_str().unwrap()),
        ];
        let mut at = finance(name, &soon(&url, &more));
        for _ in 0..20 {
            assert_eq!(at.evaluate(&call("ledger/read", &json!({})))["decision"], true, "{name}");
        }
        at.until("every span is lost", || lost(&at, "traces") == 20);
        at.until("the metrics are lost", || lost(&at, "metrics") >= 1);
        assert!(at.log().contains("telemetry was lost"), "{}", at.log());
        assert!(!at.log().contains("you-sent-this-token"), "a collector's words are repeated: {}", at.log());
        at.stop();
        assert!(collector.got().all.is_empty());
    }
}

#[test]
fn where_nothing_is_set_nothing_is_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let named = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_SDK_DISABLED", "true")];
    let unnamed = [("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_SAMPLER", "always_on"), ("OTEL_METRIC_EXPORT_INTERVAL", "100")];
    for (name, variables) in [("otlp-disabled", &named[..]), ("otlp-unset", &unnamed), ("otlp-nothing", &[])] {
        let at = finance(name, variables);
        let answer = at.evaluate(&call("ledger/post", &json!({"amount": 1})));
        assert_eq!(entry(&at, id(&answer)).get("traceId"), None);
        assert!(!at.log().contains("sending"), "{}", at.log());
        assert_eq!(lost(&at, "traces"), 0);
        at.until("no connection of its own stands", || outward(at.pid()).is_empty());
    }
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// Connections of a process to somewhere, other than those that came to where it listens.
fn outward(pid: u32) -> Vec<String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = files.filter_map(|file| Some(std::fs::read_link(file.ok()?.path()).ok()?.to_str()?.to_owned()));
    let own: BTreeSet<String> =
        links.filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    // 0A: it listens.
    let listened: BTreeSet<&str> = rows.iter().filter(|row| row[3] == "0A" && own.contains(row[9])).map(|row| row[1]).collect();
    let outward = rows.iter().filter(|row| own.contains(row[9]) && !listened.contains(row[1]));
    outward.map(|row| row.join(" ")).collect()
}

#[test]
fn a_setting_that_cannot_be_followed_starts_nothing() {
    for (variable, value, words) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "write `grpc`"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "my-secret", "write `name=value,name=value`"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "there is no such sampler"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "no-such-file.pem", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
    ] {
        for role in ["authorizer", "controller", "webhook", "all"] {
            let mut args = vec!["run", role];
            if role == "authorizer" {
                args.extend(["--audit-dir", "no-such-directory"]);
            }
            let mut command = crate::command(&args);
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost:4317").env(variable, value);
            let answer = crate::answer(&mut command);
            assert_eq!(answer.status, 2, "{answer:?}");
            assert!(answer.err.contains(variable) && answer.err.contains(words), "{role}: {answer:?}");
            assert!(!answer.err.contains("my-secret"), "{answer:?}");
        }
    }
}
