//! The admission webhook: an AdmissionReview in, an AdmissionReview out
//! (admission.k8s.io/v1).
//!
//! Flow: the body is read as raw JSON, the world is looked at, the pure part judges; only
//! for Mandate's own kinds the API server is asked who holds what. Nothing is written, so
//! a dry run is like any other.
//!
//! Guarantees: a request that cannot be read, judged in time, or taken on at all is
//! refused with a text that says so; the registration's `failurePolicy: Fail` does the same
//! where no answer comes. No body is ever logged: it may hold a Secret.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use kube::Client;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::cluster::world::Shared;
use crate::cluster::{ask, world};
use crate::decide::access;
use crate::decide::admit::{self, Operation, Review};
use crate::decide::finding::{Finding, Severity, Verdict};
use crate::decide::json::Value;
use crate::decide::{mutate, pod};
use crate::metrics::{self, Metrics, Outcome};
use crate::telemetry::otlp::{Parent, Span, SpanKind, Traces};

/// Largest body: the API server takes objects of up to 3 MiB, and an update holds two.
const LARGEST_BODY: usize = 8 * 1024 * 1024;
/// Bodies at once, in bytes all together; more are refused. Anybody in the cluster can connect
/// here, and must not be able to fill the memory. It is room for some five hundred pods.
const ROOM: usize = 48 * 1024 * 1024;
/// Longest time for a review where the API server names none.
const LONGEST: Duration = Duration::from_secs(5);
/// Longest time to look a task up.
const LOOK_UP: Duration = Duration::from_secs(1);
/// Where the warnings of a request are longer than this together, the API server cuts each of
/// them (apiserver/pkg/endpoints/filters/warning.go). Others may have warned as well.
const ALL_WARNINGS: usize = 3 * 1024;
/// So many characters it leaves of each.
const LONGEST_WARNING: usize = 250;

/// What every review works with.
pub struct Webhook {
    /// What is known.
    pub world: Shared,
    /// For questions about Mandate's own kinds.
    pub client: Client,
    /// The time.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What takes spans.
    pub traces: Traces,
}

struct Shop {
    webhook: Webhook,
    /// One permit a byte.
    room: Semaphore,
}

/// The routes `/validate` and `/mutate`.
pub fn router(webhook: Webhook) -> Router {
    let shop = Arc::new(Shop { webhook, room: Semaphore::new(ROOM) });
    Router::new().route("/validate", post(validate)).route("/mutate", post(change)).with_state(shop)
}

/// The parts of an AdmissionReview that are looked at, borrowed from its body.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    request: Request<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: String,
    resource: Named,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    operation: String,
    #[serde(borrow, default, deserialize_with = "value")]
    user_info: Value<'a>,
    #[serde(borrow, default, deserialize_with = "value")]
    object: Value<'a>,
    #[serde(borrow, default, deserialize_with = "value")]
    old_object: Value<'a>,
}

/// A raw value: it borrows for as long as the body lives, which is longer than needed.
fn value<'de: 'a, 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Value<'a>, D::Error> {
    Value::deserialize(deserializer)
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    group: String,
    resource: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reply {
    api_version: &'static str,
    kind: &'static str,
    response: Answer,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    audit_annotations: std::collections::BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

impl Answer {
    fn refuse(uid: String, code: u16, reason: &'static str, message: String) -> Self {
        Self { uid, status: Some(Status { code, reason, message }), ..Self::default() }
    }

    fn send(self) -> Response {
        let reply = Reply { api_version: "admission.k8s.io/v1", kind: "AdmissionReview", response: self };
        match serde_json::to_vec(&reply) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written").into_response(),
        }
    }
}

fn read(body: &[u8]) -> Result<Request<'_>, Box<Response>> {
    match serde_json::from_slice::<Envelope<'_>>(body) {
        Ok(envelope) => Ok(envelope.request),
        // Without the uid there is no review to answer: the API server applies failurePolicy.
        Err(error) => Err(Box::new(
            (StatusCode::BAD_REQUEST, format!("this is not an AdmissionReview of admission.k8s.io/v1: {error}")).into_response(),
        )),
    }
}

fn operation(request: &Request<'_>) -> Option<Operation> {
    match request.operation.as_str() {
        "CREATE" => Some(Operation::Create),
        "UPDATE" => Some(Operation::Update),
        "CONNECT" => Some(Operation::Connect),
        _ => None,
    }
}

/// What is left of the time that the API server gives (`?timeout=5s`).
fn time_limit(query: Option<&str>) -> Duration {
    let asked = query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("timeout="));
    let asked = asked.and_then(|text| text.strip_suffix('s')).and_then(|seconds| seconds.parse::<f64>().ok());
    let asked = asked.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(LONGEST).min(LONGEST * 2);
    // Some of it goes on the way back.
    asked.mul_f64(0.9)
}

/// A review under way.
struct Begun {
    at: Instant,
    span: Option<Span>,
}

impl Begun {
    fn now(webhook: &Webhook, name: &'static str, parent: Option<Parent>) -> Self {
        Self { at: Instant::now(), span: webhook.traces.begin(name, SpanKind::Server, parent) }
    }
}

/// Counts the review and gives back its answer.
fn done(shop: &Shop, request: &Request<'_>, begun: Begun, outcome: Outcome, answer: Answer) -> Response {
    let resource = if request.sub_resource.is_empty() {
        metrics::Resource::of(&request.resource.resource)
    } else {
        metrics::Resource::of(&format!("{}/{}", request.resource.resource, request.sub_resource))
    };
    let operation = match request.operation.as_str() {
        "CREATE" => metrics::Operation::Create,
        "UPDATE" => metrics::Operation::Update,
        "DELETE" => metrics::Operation::Delete,
        _ => metrics::Operation::Connect,
    };
    let Begun { at, span } = begun;
    shop.webhook.metrics.reviewed(resource, operation, outcome, at.elapsed());
    if let Some(mut span) = span {
        span.say("mandate.review.resource", resource.as_str());
        span.say("mandate.review.operation", operation.as_str());
        span.say("mandate.review.outcome", outcome.as_str());
        span.say_all(
            "mandate.review.rules",
            answer.audit_annotations.get("denied-by").into_iter().flat_map(|rules| rules.split(',')),
        );
        if outcome == Outcome::Error {
            span.failed("review");
        }
    }
    answer.send()
}

/// A pod often comes right after its task, and a watch may lag behind: a task that would be
/// refused is looked up, with its agent, before that is believed. What cannot be looked up
/// is refused as before.
async fn look_up_task(webhook: &Webhook, request: &Request<'_>) {
    if request.resource.resource != "pods" || request.operation != "CREATE" {
        return;
    }
    let Some(name) = pod::task_label(&request.object) else { return };
    let namespace = request.namespace.as_str();
    {
        let world = webhook.world.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = webhook.clock.now();
        if world.task(namespace, name).is_some_and(|task| world.usable(namespace, name, task, now).is_ok()) {
            return;
        }
    }
    let _ = tokio::time::timeout(LOOK_UP, world::look_up(&webhook.client, &webhook.world, namespace, name)).await;
}

/// The pod at the other end of a connection: its labels are what the answer hangs on, and the
/// request does not hold them. Where no policy looks, nothing is looked up; where the pod cannot
/// be, the connection is refused.
async fn look_up_pod(webhook: &Webhook, request: &Request<'_>) -> Result<serde_json::Value, (u16, &'static str, String)> {
    let Request { namespace, name, .. } = request;
    if !access::matters(&webhook.world.read().unwrap_or_else(std::sync::PoisonError::into_inner), namespace) {
        return Ok(serde_json::Value::Null);
    }
    match tokio::time::timeout(LOOK_UP, world::pod_labels(&webhook.client, namespace, name)).await {
        Ok(Ok(Some(labels))) => Ok(serde_json::json!({"metadata": {"labels": labels}})),
        Ok(Ok(None)) => Err((404, "NotFound", format!("there is no pod `{name}` in namespace `{namespace}`"))),
        failed => {
            let cause = failed.map_or_else(
                |_| "no answer in time".to_owned(),
                |failed| failed.err().map(|e| e.to_string()).unwrap_or_default(),
            );
            warn!(cause, namespace, name, "a pod could not be looked up");
            Err((
                503,
                "ServiceUnavailable",
                format!("Mandate could not look up whether pod `{name}` works for a task; try again"),
            ))
        }
    }
}

/// A body, and the room it takes for as long as it is looked at.
struct Body<'a> {
    bytes: Bytes,
    _room: SemaphorePermit<'a>,
}

/// Reads a body of known length into room that was made for it first.
async fn body(shop: &Shop, request: axum::extract::Request) -> Result<Body<'_>, (StatusCode, &'static str)> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u32>().ok());
    let Some(length) = length else { return Err((StatusCode::LENGTH_REQUIRED, "an AdmissionReview comes with its length")) };
    if length as usize > LARGEST_BODY {
        return Err((StatusCode::PAYLOAD_TOO_LARGE, "this is larger than any AdmissionReview"));
    }
    let Ok(room) = shop.room.try_acquire_many(length) else {
        return Err((
            StatusCode::SERVICE_UNAVAILABLE,
            "Mandate's webhook has as many reviews under way as it can take; try again",
        ));
    };
    let read = axum::body::to_bytes(request.into_body(), length as usize);
    match tokio::time::timeout(LONGEST, read).await {
        Ok(Ok(bytes)) => Ok(Body { bytes, _room: room }),
        _ => Err((StatusCode::REQUEST_TIMEOUT, "the review did not come in time, or not whole")),
    }
}

async fn validate(State(shop): State<Arc<Shop>>, RawQuery(query): RawQuery, request: axum::extract::Request) -> Response {
    let parent = Parent::of(request.headers());
    let body = match body(&shop, request).await {
        Ok(body) => body,
        Err(refusal) => return refusal.into_response(),
    };
    let begun = Begun::now(&shop.webhook, "validate", parent);
    let request = match read(&body.bytes) {
        Ok(request) => request,
        Err(response) => return *response,
    };
    let uid = request.uid.clone();
    let Some(operation) = operation(&request) else {
        // Deletions are never blocked here.
        return done(&shop, &request, begun, Outcome::Allowed, Answer { uid, allowed: true, ..Answer::default() });
    };
    let user = mutate::requester(&request.user_info);
    let mut review = review(&request, operation, &user);
    let (looked_up, pod);
    if operation == Operation::Connect {
        looked_up = match look_up_pod(&shop.webhook, &request).await {
            Ok(pod) => pod,
            Err((status, reason, text)) => {
                return done(&shop, &request, begun, Outcome::Error, Answer::refuse(uid, status, reason, text));
            }
        };
        pod = Value::from(&looked_up);
        review.object = &pod;
    }
    look_up_task(&shop.webhook, &request).await;
    let now = shop.webhook.clock.now();
    let mut verdict = admit::admit(&shop.webhook.world.read().unwrap_or_else(std::sync::PoisonError::into_inner), &review, now);
    if !verdict.questions.is_empty() && !verdict.is_denied() {
        let asked = ask::ask_all(&shop.webhook.client, &verdict.questions);
        match tokio::time::timeout(time_limit(query.as_deref()), asked).await {
            Ok(Ok(refusals)) => {
                let mut findings = std::mem::take(&mut verdict.findings);
                findings.extend(refusals.iter().map(|because| admit::refused(&review, because)));
                verdict = Verdict::new(findings);
            }
            failed => {
                let cause = failed.map_or_else(
                    |_| "no answer in time".to_owned(),
                    |failed| failed.err().map(|e| e.to_string()).unwrap_or_default(),
                );
                warn!(cause, "the API server could not be asked who holds what");
                let text = "Mandate could not ask the API server who holds what this object grants; try again".to_owned();
                return done(&shop, &request, begun, Outcome::Error, Answer::refuse(uid, 503, "ServiceUnavailable", text));
            }
        }
    }
    let outcome = if verdict.is_denied() { Outcome::Denied } else { Outcome::Allowed };
    let answer = answer(uid, &request, &verdict);
    done(&shop, &request, begun, outcome, answer)
}

fn answer(uid: String, request: &Request<'_>, verdict: &Verdict) -> Answer {
    let mut answer = Answer { allowed: !verdict.is_denied(), ..Answer::default() };
    if verdict.is_denied() {
        answer = Answer::refuse(String::new(), 403, "Forbidden", verdict.denial());
        let rules = ids(verdict, Severity::Deny);
        info!(resource = request.resource.resource, namespace = request.namespace, name = request.name, rules, "denied");
        answer.audit_annotations.insert("denied-by", rules);
    }
    answer.uid = uid;
    answer.warnings = warnings(verdict);
    let waived: Vec<String> =
        verdict.findings.iter().filter(|finding| finding.waiver.is_some()).map(Finding::to_string).collect();
    if !waived.is_empty() {
        let (Request { resource, namespace, name, .. }, waivers) = (request, waivers(verdict));
        info!(resource = resource.resource, namespace, name, waivers, "let pass by a waiver");
        answer.audit_annotations.insert("waived-by", waivers);
        answer.audit_annotations.insert("waived", waived.join("\n"));
    }
    // Whoever connects has no eyes for a warning: it is recorded as well.
    let recorded = |finding: &&Finding| match finding.severity {
        Severity::Audit => true,
        Severity::Warn => request.operation == "CONNECT",
        Severity::Deny => false,
    };
    let findings: Vec<String> = verdict.findings.iter().filter(recorded).map(Finding::to_string).collect();
    if !findings.is_empty() {
        answer.audit_annotations.insert("findings", findings.join("\n"));
    }
    answer
}

/// Every warning whole, with what to write instead; cut where they are too many for that.
#[must_use]
pub fn warnings(verdict: &Verdict) -> Vec<String> {
    let whole: Vec<String> = verdict.of(Severity::Warn).map(Finding::to_string).collect();
    if whole.iter().map(|text| text.chars().count()).sum::<usize>() <= ALL_WARNINGS {
        return whole;
    }
    verdict.of(Severity::Warn).map(warning).collect()
}

fn ids(verdict: &Verdict, severity: Severity) -> String {
    let mut ids: Vec<&str> = verdict.of(severity).map(|finding| finding.rule).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.join(",")
}

/// The waivers that let something pass, each once.
fn waivers(verdict: &Verdict) -> String {
    let mut names: Vec<&str> =
        verdict.findings.iter().filter_map(|finding| Some(finding.waiver.as_ref()?.waiver.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    names.join(",")
}

fn warning(finding: &Finding) -> String {
    let Finding { rule, path, message, policy, waiver, severity: _, help: _ } = finding;
    let text = match waiver {
        // First, since what is too long is cut.
        Some(waiver) => format!("[{rule}] {waiver}: {path}: {message} ({policy})"),
        None => format!("[{rule}] {path}: {message} ({policy})"),
    };
    text.chars().take(LONGEST_WARNING).collect()
}

fn review<'a>(request: &'a Request<'a>, operation: Operation, user: &'a crate::api::Requester) -> Review<'a> {
    Review {
        operation,
        group: &request.resource.group,
        resource: &request.resource.resource,
        subresource: &request.sub_resource,
        namespace: &request.namespace,
        name: &request.name,
        user,
        object: &request.object,
        old: (!request.old_object.is_null()).then_some(&request.old_object),
    }
}

async fn change(State(shop): State<Arc<Shop>>, request: axum::extract::Request) -> Response {
    let parent = Parent::of(request.headers());
    let body = match body(&shop, request).await {
        Ok(body) => body,
        Err(refusal) => return refusal.into_response(),
    };
    let begun = Begun::now(&shop.webhook, "mutate", parent);
    let request = match read(&body.bytes) {
        Ok(request) => request,
        Err(response) => return *response,
    };
    let mut answer = Answer { uid: request.uid.clone(), allowed: true, ..Answer::default() };
    if let Some(operation) = operation(&request) {
        look_up_task(&shop.webhook, &request).await;
        let user = mutate::requester(&request.user_info);
        let now = shop.webhook.clock.now();
        let world = shop.webhook.world.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let changes = mutate::mutate(&world, &review(&request, operation, &user), now);
        drop(world);
        answer.warnings = changes.warnings;
        if !changes.patch.is_empty() {
            match serde_json::to_vec(&changes.patch) {
                Ok(patch) => {
                    answer.patch = Some(base64::engine::general_purpose::STANDARD.encode(patch));
                    answer.patch_type = Some("JSONPatch");
                }
                Err(_) => {
                    answer =
                        Answer::refuse(request.uid.clone(), 500, "InternalError", "the changes could not be written".to_owned());
                }
            }
        }
    }
    done(&shop, &request, begun, Outcome::Allowed, answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_limit_of_the_api_server_is_kept() {
        assert_eq!(time_limit(Some("timeout=2s")), Duration::from_secs(2).mul_f64(0.9));
        assert_eq!(time_limit(Some("a=b&timeout=1s")), Duration::from_secs(1).mul_f64(0.9));
        for garbage in [None, Some(""), Some("timeout=soon"), Some("timeout=-1s"), Some("timeout=NaNs"), Some("timeout=1e300s")] {
            let limit = time_limit(garbage);
            assert!(limit <= LONGEST * 2, "{garbage:?}: {limit:?}");
        }
    }

    #[test]
    fn what_is_no_review_is_refused_and_never_a_panic() {
        let deep = format!(r#"{{"request":{{"uid":"1","object":{}}}}}"#, "[".repeat(100_000));
        for garbage in [b"".as_slice(), b"{}", b"null", b"[]", b"{\"request\":1}", b"\xff\xfe", deep.as_bytes()] {
            assert!(read(garbage).is_err());
        }
    }

    /// A review as the API server sends it, with something of everything that rules look at.
    const REVIEW: &str = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","resource":{"group":"","version":"v1","resource":"pods"},"subResource":"","name":"agent","namespace":"finance","operation":"CREATE","userInfo":{"username":"alice","groups":["a"],"extra":{"k":["v"]}},"object":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"agent","labels":{"mandate.dev/task":"t"},"annotations":{"a/b":"c"}},"spec":{"serviceAccountName":"x","shareProcessNamespace":true,"containers":[{"name":"a","image":"i","args":["--token=$(K)"],"env":[{"name":"K","value":"ghp_0"},{"name":"S","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}],"envFrom":[{"secretRef":{"name":"s"}}],"volumeMounts":[{"name":"v","mountPath":"/v","subPath":"x"}]}],"volumes":[{"name":"v","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"t"}},{"secret":{"name":"s"}}]}},{"name":"h","hostPath":{"path":"//etc/../etc"}},{"name":"c","csi":{"driver":"d","volumeAttributes":{"a":"b"}}}]}},"oldObject":null}}"#;

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_bytes_make_a_review_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            judge(&bytes);
        }

        #[test]
        fn no_broken_review_panics_or_takes_long(at in 0..REVIEW.len(), len in 0..60_usize, with in "[\\[\\]{}\",:0-9a-z.\\\\-]{0,12}|\\PC{0,4}", times in 1..400_usize) {
            let end = (at + len).min(REVIEW.len());
            judge(format!("{}{}{}", &REVIEW[..at], with.repeat(times), &REVIEW[end..]).as_bytes());
        }
    }

    /// Everything that happens to the bytes of a review.
    fn judge(bytes: &[u8]) {
        let Ok(request) = read(bytes) else { return };
        let Some(operation) = operation(&request) else { return };
        let user = mutate::requester(&request.user_info);
        let review = review(&request, operation, &user);
        let world = crate::decide::world::World::default();
        let changes = mutate::mutate(&world, &review, jiff::Timestamp::UNIX_EPOCH);
        let verdict = admit::admit(&world, &review, jiff::Timestamp::UNIX_EPOCH);
        let _ = (changes, answer(String::new(), &request, &verdict).send());
    }
}
