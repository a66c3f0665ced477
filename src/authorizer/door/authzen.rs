//! AuthZEN Authorization API 1.0 over HTTPS.
//!
//! - The subject is the task that acts, proved by its own token in `subject.properties.token`;
//!   where the enforcement point vouches for subjects of a type, the id alone names the task.
//! - Of resource type `tool` the id is `server/tool`. Any other type is that of a ToolServer
//!   (`resourceType`): the action's name is then the tool, and the id the resource.
//! - `action.properties` are the arguments of the call. `context.intent` says what it is for.
//!   `context.outcome_reported: true` promises a report to `/access/v1/outcome`.
//!
//! A no is an answer (200, `decision: false`) and never an HTTP error; those are for requests
//! that cannot be understood or come from nobody known.

mod search;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::{Map, Value, json};

use crate::authorizer::trust::{Asker, Caller, TrustError};
use crate::authorizer::{Answer, Authorizer, Question, strict};
use crate::decide::authorize::history::Outcome as Reported;
use crate::decide::authorize::{Action, Reason, Server, Snapshot};
use crate::serve::ClientName;

/// Largest body, in bytes.
const LARGEST_BODY: usize = 1 << 20;
/// Most evaluations in one request.
const MOST_EVALUATIONS: usize = 1000;

/// The routes.
pub fn router(authorizer: Arc<Authorizer>) -> Router {
    Router::new()
        .route("/access/v1/evaluation", post(evaluation))
        .route("/access/v1/evaluations", post(evaluations))
        .route("/access/v1/search/subject", post(search::subject))
        .route("/access/v1/search/resource", post(search::resource))
        .route("/access/v1/search/action", post(search::action))
        .route("/access/v1/outcome", post(outcome))
        .route("/.well-known/authzen-configuration", get(metadata))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(axum::middleware::map_response_with_state((), no_store))
        .layer(axum::middleware::from_fn(request_id))
        .with_state(authorizer)
}

/// Answers are for one moment and one asker.
async fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `X-Request-ID` comes back as it came.
async fn request_id(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let id = request.headers().get("x-request-id").cloned();
    let mut response = next.run(request).await;
    if let Some(id) = id {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// A request that cannot be answered with a decision.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(status, message) = self;
        let mut response = (status, axum::Json(message)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"mandate\""));
        }
        response
    }
}

fn bad(message: impl Into<String>) -> Refused {
    Refused(StatusCode::BAD_REQUEST, message.into())
}

/// The name in the client's certificate, where it showed one.
type Peer = Option<Extension<ClientName>>;

/// What a request holds besides its body.
struct Envelope {
    asker: Asker,
    trace_id: Option<String>,
    body: Map<String, Value>,
}

impl Envelope {
    async fn open(authorizer: &Authorizer, peer: Peer, headers: &HeaderMap, body: &Bytes) -> Result<Self, Refused> {
        let peer = peer.as_ref().map(|Extension(certified)| certified);
        let asker = authorizer.trust.asker(peer, bearer(headers)).await.map_err(|error| match error {
            TrustError::Unchecked(why) => Refused(StatusCode::SERVICE_UNAVAILABLE, why),
            error => Refused(StatusCode::UNAUTHORIZED, format!("an enforcement point must authenticate itself: {error}")),
        })?;
        let is_json = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|text| text.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")));
        if !is_json {
            return Err(bad("Content-Type must be application/json"));
        }
        match strict::read(body).map_err(|error| bad(format!("the body is no JSON of one meaning: {error}")))? {
            Value::Object(body) => Ok(Self { asker, trace_id: trace_id(headers), body }),
            _ => Err(bad("the body must be an object")),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The trace of a W3C `traceparent`.
fn trace_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let id = text.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_ascii_lowercase())
}

/// One evaluation, as it was written.
#[derive(Clone, Copy)]
struct Asked<'a> {
    subject: Entity<'a>,
    action: (&'a str, &'a Map<String, Value>),
    resource: Entity<'a>,
    context: &'a Map<String, Value>,
}

#[derive(Clone, Copy)]
struct Entity<'a> {
    kind: &'a str,
    /// Left out only where a search asks for it.
    id: Option<&'a str>,
    properties: &'a Map<String, Value>,
}

static NOTHING: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

/// Which member a search asks for, and so may lack its id.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sought {
    Nothing,
    Subject,
    Resource,
    Action,
}

impl<'a> Asked<'a> {
    /// Reads a body, each member from itself or else from the defaults of the batch.
    fn read(body: &'a Map<String, Value>, defaults: &'a Map<String, Value>, sought: Sought) -> Result<Self, String> {
        let member = |name: &str| body.get(name).or_else(|| defaults.get(name));
        let object = |name: &str| match member(name) {
            Some(Value::Object(object)) => Ok(object),
            Some(_) => Err(format!("`{name}` must be an object")),
            None => Err(format!("`{name}` is missing")),
        };
        let entity = |name: &str, may_lack_id: bool| -> Result<Entity<'a>, String> {
            let object = object(name)?;
            let id = match object.get("id") {
                None if may_lack_id => None,
                _ => Some(text(object, name, "id")?),
            };
            Ok(Entity { kind: text(object, name, "type")?, id, properties: properties(object, name)? })
        };
        let action = match sought {
            Sought::Action => ("", &*NOTHING),
            _ => {
                let object = object("action")?;
                (text(object, "action", "name")?, properties(object, "action")?)
            }
        };
        let context = match member("context") {
            None | Some(Value::Null) => &*NOTHING,
            Some(Value::Object(context)) => context,
            Some(_) => return Err("`context` must be an object".to_owned()),
        };
        let subject = entity("subject", sought == Sought::Subject)?;
        Ok(Self { subject, action, resource: entity("resource", sought == Sought::Resource)?, context })
    }

    /// Who acts.
    async fn caller(&self, authorizer: &Authorizer, asker: &Asker, audience: Option<&str>) -> Result<Caller, String> {
        let Entity { kind, id, properties } = self.subject;
        let id = id.unwrap_or_default();
        if let Some(namespace) = asker.vouches_for.get(kind) {
            return Ok(Caller::vouched(if id.contains('/') || namespace.is_empty() {
                id.to_owned()
            } else {
                format!("{namespace}/{id}")
            }));
        }
        let Some(token) = properties.get("token").and_then(Value::as_str) else {
            return Err(format!(
                "`subject.properties.token` must be the agent's own token: nobody vouches for subjects of type `{kind}`"
            ));
        };
        authorizer.trust.caller(token, audience).await.map_err(|error| error.to_string())
    }

    /// What is to be done. The type of a resource leads to the server.
    fn action(&self, snapshot: &Snapshot, from: &str) -> Result<(Call, Option<&'a str>), String> {
        let Entity { kind, id, properties } = self.resource;
        if kind == "tool" {
            let id = id.unwrap_or_default();
            let (server, tool) = id.rsplit_once('/').ok_or("the id of a `tool` must be `server/tool`")?;
            let resource = properties.get("resource").and_then(Value::as_str);
            return Ok((Call { server: server.to_owned(), tool: tool.to_owned() }, resource));
        }
        let of_kind: Vec<&Arc<Server>> = snapshot.servers(from).filter(|server| server.resource_type == kind).collect();
        let name = self.action.0;
        let server = match of_kind.as_slice() {
            [] => return Err(format!("no ToolServer that the task may use has resources of type `{kind}`")),
            [one] => one,
            many => {
                let mut with: Vec<_> = many.iter().filter(|server| server.tool(name).is_some()).collect();
                match (with.pop(), with.is_empty()) {
                    (Some(one), true) => one,
                    _ => {
                        return Err(format!(
                            "several ToolServers have resources of type `{kind}`: name `tool` and `server/tool`"
                        ));
                    }
                }
            }
        };
        Ok((Call { server: server.key.to_string(), tool: name.to_owned() }, id))
    }
}

/// A tool of a server.
struct Call {
    server: String,
    tool: String,
}

fn text<'a>(object: &'a Map<String, Value>, of: &str, name: &str) -> Result<&'a str, String> {
    match object.get(name) {
        Some(Value::String(text)) if text.is_empty() => Err(format!("`{of}.{name}` is empty")),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("`{of}.{name}` must be a text")),
        None => Err(format!("`{of}.{name}` is missing")),
    }
}

fn properties<'a>(object: &'a Map<String, Value>, of: &str) -> Result<&'a Map<String, Value>, String> {
    match object.get("properties") {
        None | Some(Value::Null) => Ok(&NOTHING),
        Some(Value::Object(properties)) => Ok(properties),
        Some(_) => Err(format!("`{of}.properties` must be an object")),
    }
}

async fn evaluation(
    State(authorizer): State<Arc<Authorizer>>,
    peer: Peer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let envelope = Envelope::open(&authorizer, peer, &headers, &body).await?;
    let asked = Asked::read(&envelope.body, &NOTHING, Sought::Nothing).map_err(bad)?;
    let snapshot = authorizer.state.snapshot();
    let answer = evaluate(&authorizer, &snapshot, &envelope, asked).await;
    Ok(axum::Json(answer).into_response())
}

/// Semantics of several evaluations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Semantic {
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

async fn evaluations(
    State(authorizer): State<Arc<Authorizer>>,
    peer: Peer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let envelope = Envelope::open(&authorizer, peer, &headers, &body).await?;
    let items = match envelope.body.get("evaluations") {
        Some(Value::Array(items)) if !items.is_empty() => items,
        None | Some(Value::Array(_)) => {
            let asked = Asked::read(&envelope.body, &NOTHING, Sought::Nothing).map_err(bad)?;
            let answer = evaluate(&authorizer, &authorizer.state.snapshot(), &envelope, asked).await;
            return Ok(axum::Json(answer).into_response());
        }
        Some(_) => return Err(bad("`evaluations` must be an array")),
    };
    if items.len() > MOST_EVALUATIONS {
        return Err(bad(format!("`evaluations` may have {MOST_EVALUATIONS} entries at most: send several requests")));
    }
    let semantic = semantic(&envelope.body)?;
    // One snapshot for all: a policy that goes meanwhile must not split the batch.
    let snapshot = authorizer.state.snapshot();
    let mut answers = vec![];
    for item in items {
        let asked = match item {
            Value::Object(item) => Asked::read(item, &envelope.body, Sought::Nothing),
            _ => Err("an entry of `evaluations` must be an object".to_owned()),
        };
        let answer = match asked {
            Ok(asked) => evaluate(&authorizer, &snapshot, &envelope, asked).await,
            Err(message) => json!({"decision": false, "context": {"error": {"status": 400, "message": message}}}),
        };
        let yes = answer["decision"] == Value::Bool(true);
        answers.push(answer);
        if (semantic == Semantic::DenyOnFirstDeny && !yes) || (semantic == Semantic::PermitOnFirstPermit && yes) {
            break;
        }
    }
    Ok(axum::Json(json!({ "evaluations": answers })).into_response())
}

fn semantic(body: &Map<String, Value>) -> Result<Semantic, Refused> {
    let options = match body.get("options") {
        None | Some(Value::Null) => return Ok(Semantic::ExecuteAll),
        Some(Value::Object(options)) => options,
        Some(_) => return Err(bad("`options` must be an object")),
    };
    match options.get("evaluations_semantic") {
        None => Ok(Semantic::ExecuteAll),
        Some(Value::String(word)) if word == "execute_all" => Ok(Semantic::ExecuteAll),
        Some(Value::String(word)) if word == "deny_on_first_deny" => Ok(Semantic::DenyOnFirstDeny),
        Some(Value::String(word)) if word == "permit_on_first_permit" => Ok(Semantic::PermitOnFirstPermit),
        Some(_) => {
            Err(bad("`options.evaluations_semantic` must be `execute_all`, `deny_on_first_deny` or `permit_on_first_permit`"))
        }
    }
}

async fn evaluate(authorizer: &Authorizer, snapshot: &Arc<Snapshot>, envelope: &Envelope, asked: Asked<'_>) -> Value {
    let failed = |status: u16, message: String| json!({"decision": false, "context": {"error": {"status": status, "message": message}, "reason": message}});
    // The server's audience is known only once the task is: a token is checked against its own
    // audience first, and against the server's where that is another.
    let caller = match caller(authorizer, snapshot, &envelope.asker, &asked).await {
        Ok(caller) => caller,
        Err(message) => return failed(401, message),
    };
    let from = authorizer.state.task(&caller).map(|task| task.subject().namespace.clone()).unwrap_or_default();
    let (call, resource) = match asked.action(snapshot, &from) {
        Ok(found) => found,
        // Asked for all the same, so that the no is in the audit log.
        Err(_) => (Call { server: asked.resource.kind.to_owned(), tool: asked.action.0.to_owned() }, asked.resource.id),
    };
    let mut subject_properties = asked.subject.properties.clone();
    subject_properties.remove("token");
    let question = Question {
        door: "authzen",
        asker: &envelope.asker,
        caller,
        action: Action {
            server: &call.server,
            tool: &call.tool,
            resource,
            arguments: asked.action.1,
            subject_properties: &subject_properties,
            resource_properties: asked.resource.properties,
            intent: asked.context.get("intent").and_then(Value::as_str),
            reports_outcome: asked.context.get("outcome_reported") == Some(&Value::Bool(true)),
            kubernetes: None,
        },
        trace_id: envelope.trace_id.clone(),
    };
    shown(&authorizer.decide_by(snapshot, &question).await)
}

async fn caller(authorizer: &Authorizer, snapshot: &Snapshot, asker: &Asker, asked: &Asked<'_>) -> Result<Caller, String> {
    let first = asked.caller(authorizer, asker, None).await;
    if first.is_ok() || asked.resource.kind != "tool" {
        return first;
    }
    let server = asked.resource.id.and_then(|id| id.rsplit_once('/')).map(|(server, _)| server).unwrap_or_default();
    let audience = server
        .split_once('/')
        .and_then(|(namespace, _)| snapshot.server(namespace, server))
        .and_then(|server| server.audience.clone());
    match audience {
        Some(audience) => asked.caller(authorizer, asker, Some(&audience)).await,
        None => first,
    }
}

/// A decision in AuthZEN's words.
fn shown(answer: &Answer) -> Value {
    let decision = &answer.decision;
    let reason = |reason: &Reason| json!({"code": reason.code.as_str(), "rule": reason.rule, "message": reason.message, "help": reason.help});
    let mut context = json!({
        "evaluation_id": answer.id,
        "evaluated_at": answer.at.to_string(),
        "outcome": decision.outcome.as_str(),
        "cache_for": decision.cache_for,
        "reasons": decision.reasons.iter().map(reason).collect::<Vec<_>>(),
    });
    if !answer.is_yes() {
        context["reason"] = Value::String(answer.words());
    }
    if !decision.notices.is_empty() {
        context["notices"] = decision.notices.iter().map(reason).collect();
    }
    if let Some(approval) = &decision.approval {
        context["approval"] =
            json!({"rules": approval.rules, "approvers": approval.approvers, "valid_for": approval.valid_for.as_secs()});
    }
    if decision.reservation.is_some() {
        context["outcome_awaited"] = Value::Bool(true);
    }
    json!({"decision": answer.is_yes(), "context": context})
}

/// How a permitted action ended.
async fn outcome(
    State(authorizer): State<Arc<Authorizer>>,
    peer: Peer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let envelope = Envelope::open(&authorizer, peer, &headers, &body).await?;
    let id = text(&envelope.body, "body", "evaluation_id").map_err(bad)?;
    let outcome = match text(&envelope.body, "body", "outcome").map_err(bad)? {
        "completed" => Reported::Completed,
        "failed" => Reported::Failed,
        _ => return Err(bad("`body.outcome` must be `completed` or `failed`")),
    };
    let details = envelope.body.get("details").cloned().unwrap_or(Value::Null);
    match authorizer.report(&envelope.asker, id, outcome, details).await {
        Ok(true) => Ok(StatusCode::NO_CONTENT.into_response()),
        Ok(false) => Err(Refused(
            StatusCode::NOT_FOUND,
            "no such decision awaits an outcome from you: unknown, settled or expired".to_owned(),
        )),
        Err(_) => Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, "the outcome counts, but could not be recorded".to_owned())),
    }
}

/// What this decision point offers, and where.
async fn metadata(uri: Uri, headers: HeaderMap) -> Response {
    let host = uri.authority().map(|authority| authority.as_str().to_owned());
    let host =
        host.or_else(|| headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned)).unwrap_or_default();
    let base = format!("https://{host}");
    axum::Json(json!({
        "policy_decision_point": base,
        "access_evaluation_endpoint": format!("{base}/access/v1/evaluation"),
        "access_evaluations_endpoint": format!("{base}/access/v1/evaluations"),
        "search_subject_endpoint": format!("{base}/access/v1/search/subject"),
        "search_resource_endpoint": format!("{base}/access/v1/search/resource"),
        "search_action_endpoint": format!("{base}/access/v1/search/action"),
    }))
    .into_response()
}
