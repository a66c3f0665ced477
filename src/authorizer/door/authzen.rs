//! AuthZEN Authorization API 1.0 over HTTPS.
//!
//! - The subject is the task that acts, proved by its own token in `subject.properties.token`;
//!   `subject.id` must then name that very task. Where the enforcement point vouches for
//!   subjects of a type, the id alone names the task.
//! - Of resource type `tool` the id is `server/tool`. Any other type is that of a ToolServer
//!   (`resourceType`): the action's name is then the tool, and the id the resource.
//! - `action.properties` are the arguments of the call. `context.intent` says what it is for.
//!   `context.outcome_reported: true` promises a report to `/access/v1/outcome`.
//!
//! A no is an answer (200, `decision: false`) and never an HTTP error; those are for requests
//! that cannot be understood or come from nobody known, and their body is one JSON text.

mod answer;
pub mod asked;
mod envelope;
mod metadata;
mod search;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Map, Value};

use crate::authorizer::trust::{Asker, Caller};
use crate::authorizer::{Authorizer, Question};
use crate::decide::authorize::history::Outcome as Reported;
use crate::decide::authorize::{Action, Code, Snapshot};
pub use answer::Answered;
use answer::{Evaluation, Several};
use asked::{Asked, Call, NOTHING, Sought, text};
use envelope::{Envelope, Gate};

/// Most evaluations in one request.
const MOST_EVALUATIONS: usize = 1000;

/// What the routes share.
#[derive(Clone)]
struct Door {
    authorizer: Arc<Authorizer>,
    gate: Arc<Gate>,
    /// The base URL as enforcement points know it; none means as each of them wrote it.
    url: Option<Arc<str>>,
}

/// The routes. `url`: the base URL as enforcement points know it, where it is not the one that
/// their requests name.
pub fn router(authorizer: Arc<Authorizer>, url: Option<&str>) -> Router {
    let url = url.map(|url| url.trim_end_matches('/').into());
    Router::new()
        .route("/access/v1/evaluation", post(evaluation))
        .route("/access/v1/evaluations", post(evaluations))
        .route("/access/v1/search/subject", post(search::subject))
        .route("/access/v1/search/resource", post(search::resource))
        .route("/access/v1/search/action", post(search::action))
        .route("/access/v1/outcome", post(outcome))
        .route("/.well-known/authzen-configuration", get(metadata::metadata))
        .fallback(async || Refused(StatusCode::NOT_FOUND, "there is nothing here".to_owned()))
        .method_not_allowed_fallback(async || {
            Refused(StatusCode::METHOD_NOT_ALLOWED, "not by this method: ask by POST, and for the metadata by GET".to_owned())
        })
        .layer(axum::middleware::from_fn(headers))
        .with_state(Door { authorizer, gate: Arc::default(), url })
}

/// Answers are for one moment and one asker; `X-Request-ID` comes back as it came.
async fn headers(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let id = request.headers().get("x-request-id").cloned();
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
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

async fn evaluation(State(Door { authorizer, .. }): State<Door>, envelope: Envelope) -> Result<Response, Refused> {
    let asked = Asked::read(&envelope.body, &NOTHING, Sought::Nothing).map_err(bad)?;
    let snapshot = authorizer.state.snapshot();
    Ok(axum::Json(evaluate(&authorizer, &snapshot, &envelope, asked).await).into_response())
}

/// Semantics of several evaluations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Semantic {
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

async fn evaluations(State(door): State<Door>, envelope: Envelope) -> Result<Response, Refused> {
    let items = match envelope.body.get("evaluations") {
        Some(Value::Array(items)) if !items.is_empty() => items,
        // As if one evaluation were asked for.
        None | Some(Value::Array(_) | Value::Null) => return evaluation(State(door), envelope).await,
        Some(_) => return Err(bad("`evaluations` must be an array")),
    };
    if items.len() > MOST_EVALUATIONS {
        return Err(bad(format!(
            "`evaluations` may have {MOST_EVALUATIONS} entries at most, and has {}: send several requests",
            items.len()
        )));
    }
    let semantic = semantic(&envelope.body)?;
    let authorizer = &door.authorizer;
    // One snapshot for all: a policy that goes meanwhile must not split the batch.
    let snapshot = authorizer.state.snapshot();
    let mut answers = vec![];
    for item in items {
        let asked = match item {
            Value::Object(item) => Asked::read(item, &envelope.body, Sought::Nothing),
            _ => Err("an entry of `evaluations` must be an object".to_owned()),
        };
        let answer = match asked {
            Ok(asked) => Evaluation::Answered(Box::new(evaluate(authorizer, &snapshot, &envelope, asked).await)),
            Err(message) => Evaluation::NotUnderstood(message),
        };
        let yes = answer.is_yes();
        answers.push(answer);
        if (semantic == Semantic::DenyOnFirstDeny && !yes) || (semantic == Semantic::PermitOnFirstPermit && yes) {
            break;
        }
    }
    Ok(axum::Json(Several { evaluations: answers }).into_response())
}

fn semantic(body: &Map<String, Value>) -> Result<Semantic, Refused> {
    let options = match body.get("options") {
        None | Some(Value::Null) => return Ok(Semantic::ExecuteAll),
        Some(Value::Object(options)) => options,
        Some(_) => return Err(bad("`options` must be an object")),
    };
    match options.get("evaluations_semantic") {
        None | Some(Value::Null) => Ok(Semantic::ExecuteAll),
        Some(Value::String(word)) if word == "execute_all" => Ok(Semantic::ExecuteAll),
        Some(Value::String(word)) if word == "deny_on_first_deny" => Ok(Semantic::DenyOnFirstDeny),
        Some(Value::String(word)) if word == "permit_on_first_permit" => Ok(Semantic::PermitOnFirstPermit),
        Some(_) => {
            Err(bad("`options.evaluations_semantic` must be `execute_all`, `deny_on_first_deny` or `permit_on_first_permit`"))
        }
    }
}

async fn evaluate(authorizer: &Authorizer, snapshot: &Arc<Snapshot>, envelope: &Envelope, asked: Asked<'_>) -> Answered {
    let proved = caller(authorizer, snapshot, &envelope.asker, &asked).await;
    let (caller, unproved) = match proved {
        Ok(caller) => (caller, None),
        Err(message) => (Arc::new(Caller::nobody()), Some(message)),
    };
    let actor = authorizer.state.actor(caller);
    let subject = actor.subject().cloned();
    let from = subject.as_ref().map(|subject| subject.namespace.clone()).unwrap_or_default();
    let found = asked.action(snapshot, &from);
    let (call, resource) = match &found {
        Ok((call, resource)) => (call.clone(), *resource),
        // As it was asked, for the audit log.
        Err(_) => (Call { server: asked.resource.kind.to_owned(), tool: asked.action.0.to_owned() }, asked.resource.id),
    };
    let subject_properties = asked.subject.without_token();
    let disagrees = subject.as_ref().is_some_and(|subject| !asked.agrees(&actor.caller, subject));
    let question = Question {
        door: "authzen",
        asker: &envelope.asker,
        actor,
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
        parent: envelope.parent,
        link: None,
    };
    let answer = if let Some(message) = &unproved {
        let help = "an agent acts by the token of its own running task: use the token from the task's Secret";
        authorizer.refuse(&question, Code::NotAuthenticated, message, help).await
    } else if disagrees {
        let message = "`subject.id` names another than the token belongs to";
        authorizer.refuse(&question, Code::NotAuthenticated, message, "name the task itself, or the user of its token").await
    } else if let (Err(message), true) = (&found, subject.is_some()) {
        let help = "`resource.type` is `tool`, or the `resourceType` of a ToolServer that the task may use";
        authorizer.refuse(&question, Code::UnknownServer, message, help).await
    } else {
        authorizer.decide_by(snapshot, &question).await
    };
    Answered { answer, unproved }
}

/// Who acts. A token may be meant for the authorizer or for the server that is called; which that
/// is, a request tells where it names the server with its namespace.
async fn caller(authorizer: &Authorizer, snapshot: &Snapshot, asker: &Asker, asked: &Asked<'_>) -> Result<Arc<Caller>, String> {
    let server = asked.resource.id.filter(|_| asked.resource.kind == "tool").and_then(|id| {
        let (at, _) = id.match_indices('/').nth(1)?;
        snapshot.server("", &id[..at])
    });
    let first = asked.caller(authorizer, asker, None).await;
    match (first, server.and_then(|server| server.audience.clone())) {
        (Err(_), Some(audience)) => asked.caller(authorizer, asker, Some(&audience)).await,
        (first, _) => first,
    }
}

/// How a permitted action ended.
async fn outcome(State(Door { authorizer, .. }): State<Door>, envelope: Envelope) -> Result<Response, Refused> {
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
