//! Which subjects, resources or actions: what would be permitted now. Nothing is counted, and
//! nothing is promised: each action is decided again when it happens.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::asked::{Asked, Call, Entity, NOTHING, Sought};
use super::{Door, Envelope, Refused, bad, caller};
use crate::authorizer::Authorizer;
use crate::authorizer::state::{Acting, Actor};
use crate::decide::authorize::{Action, Snapshot};
use crate::hex::hex;
use crate::telemetry::otlp::{Span, SpanKind};

/// Most results of one page, and how many where nobody says.
const LONGEST_PAGE: usize = 100;

pub(super) async fn subject(State(Door { authorizer, .. }): State<Door>, envelope: Envelope) -> Result<Response, Refused> {
    let span = begin(&authorizer, &envelope, "subject");
    let asked = Asked::read(&envelope.body, &NOTHING, Sought::Subject).map_err(bad)?;
    // Who is not vouched for would have to show a token, and then needs no search.
    let Some(namespace) = envelope.asker.vouches_for.get(asked.subject.kind) else { return page(span, &envelope.body, vec![]) };
    let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    let snapshot = authorizer.state.snapshot();
    let tasks = authorizer.state.subjects(|key| key.starts_with(&prefix)).into_iter().map(|task| authorizer.state.acting(task));
    let found = tasks.filter(|task| would(&authorizer, &snapshot, task, &asked)).map(|task| {
        let key = &task.subject.key;
        json!({"type": asked.subject.kind, "id": key.strip_prefix(&prefix).unwrap_or(key)})
    });
    page(span, &envelope.body, found.collect())
}

pub(super) async fn resource(State(Door { authorizer, .. }): State<Door>, envelope: Envelope) -> Result<Response, Refused> {
    let span = begin(&authorizer, &envelope, "resource");
    let asked = Asked::read(&envelope.body, &NOTHING, Sought::Resource).map_err(bad)?;
    let snapshot = authorizer.state.snapshot();
    let Some(task) = task(&authorizer, &snapshot, &envelope, &asked).await else { return page(span, &envelope.body, vec![]) };
    let from = task.subject.namespace.clone();
    let kind = asked.resource.kind;
    let ids: Vec<String> = if kind == "tool" {
        let named = |server: &Arc<crate::decide::authorize::Server>| {
            let short = server.key.strip_prefix(&format!("{from}/")).unwrap_or(&server.key).to_owned();
            server.tools().map(move |tool| format!("{short}/{}", tool.name)).collect::<Vec<_>>()
        };
        snapshot.servers(&from).flat_map(named).collect()
    } else {
        let of_kind = snapshot.servers(&from).filter(|server| server.resource_type == kind);
        of_kind.flat_map(|server| server.known_resources()).map(str::to_owned).collect()
    };
    let found = ids.iter().filter(|id| {
        let asked = Asked { resource: Entity { id: Some(id), ..asked.resource }, ..asked };
        would(&authorizer, &snapshot, &task, &asked)
    });
    page(span, &envelope.body, found.map(|id| json!({"type": kind, "id": id})).collect())
}

pub(super) async fn action(State(Door { authorizer, .. }): State<Door>, envelope: Envelope) -> Result<Response, Refused> {
    let span = begin(&authorizer, &envelope, "action");
    let asked = Asked::read(&envelope.body, &NOTHING, Sought::Action).map_err(bad)?;
    let snapshot = authorizer.state.snapshot();
    let Some(task) = task(&authorizer, &snapshot, &envelope, &asked).await else { return page(span, &envelope.body, vec![]) };
    let from = task.subject.namespace.clone();
    let names: Vec<String> = if asked.resource.kind == "tool" {
        vec!["tools/call".to_owned()]
    } else {
        let of_kind = snapshot.servers(&from).filter(|server| server.resource_type == asked.resource.kind);
        of_kind.flat_map(|server| server.tools()).map(|tool| tool.name.clone()).collect()
    };
    let found = names.iter().filter(|name| {
        let asked = Asked { action: (name, &NOTHING), ..asked };
        would(&authorizer, &snapshot, &task, &asked)
    });
    page(span, &envelope.body, found.map(|name| json!({ "name": name })).collect())
}

/// Begins the span of one search.
fn begin(authorizer: &Authorizer, envelope: &Envelope, of: &'static str) -> Option<Span> {
    let mut span = authorizer.traces.begin("search", SpanKind::Server, envelope.parent)?;
    span.say("mandate.door", "authzen");
    span.say("mandate.search.of", of);
    Some(span)
}

/// The task that a search is about; none where nobody is known by the subject.
async fn task(authorizer: &Authorizer, snapshot: &Snapshot, envelope: &Envelope, asked: &Asked<'_>) -> Option<Acting> {
    let Actor { caller, acting } = authorizer.state.actor(caller(authorizer, snapshot, &envelope.asker, asked).await.ok()?);
    acting.filter(|acting| asked.agrees(&caller, &acting.subject))
}

/// Whether a task would be permitted. What it would do is not taken into its history.
fn would(authorizer: &Authorizer, snapshot: &Snapshot, acting: &Acting, asked: &Asked<'_>) -> bool {
    let subject = &acting.subject;
    let Ok((Call { server, tool }, resource)) = asked.action(snapshot, &subject.namespace) else { return false };
    let mut subject_properties: Map<String, Value> = asked.subject.properties.clone();
    subject_properties.remove("token");
    let action = Action {
        server: &server,
        tool: &tool,
        resource,
        arguments: asked.action.1,
        subject_properties: &subject_properties,
        resource_properties: asked.resource.properties,
        intent: asked.context.get("intent").and_then(Value::as_str),
        reports_outcome: false,
        kubernetes: None,
    };
    authorizer.would(snapshot, acting, &action)
}

/// One page of results. The token of the next page says where it begins, and of which search.
fn page(span: Option<Span>, body: &Map<String, Value>, results: Vec<Value>) -> Result<Response, Refused> {
    let asked = match body.get("page") {
        None | Some(Value::Null) => &NOTHING,
        Some(Value::Object(page)) => page,
        Some(_) => return Err(bad("`page` must be an object")),
    };
    let limit = match asked.get("limit") {
        None | Some(Value::Null) => LONGEST_PAGE,
        Some(limit) => match limit.as_u64() {
            Some(limit) if limit > 0 => usize::try_from(limit).map_or(LONGEST_PAGE, |limit| limit.min(LONGEST_PAGE)),
            _ => return Err(bad("`page.limit` must be a whole number above 0")),
        },
    };
    let search = search(body);
    let begin = match asked.get("token") {
        None | Some(Value::Null) => 0,
        Some(Value::String(token)) if token.is_empty() => 0,
        Some(Value::String(token)) => match token.split_once('.') {
            Some((begin, of)) if of == search => begin.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| bad("`page.token` was not given out for this search: ask for the next page with the same entities"))?,
        Some(_) => return Err(bad("`page.token` must be a text")),
    };
    let total = results.len();
    if let Some(mut span) = span {
        span.count("mandate.search.found", u64::try_from(total).unwrap_or(u64::MAX));
    }
    let found: Vec<Value> = results.into_iter().skip(begin).take(limit).collect();
    let end = begin.saturating_add(found.len());
    let next = if end < total { format!("{end}.{search}") } else { String::new() };
    let count = found.len();
    Ok(axum::Json(json!({"results": found, "page": {"next_token": next, "count": count, "total": total}})).into_response())
}

/// What tells one search from another: a digest of its entities. Tokens of agents are in it, and
/// sixteen digits lead back to none.
fn search(body: &Map<String, Value>) -> String {
    let entities: Map<String, Value> = ["subject", "action", "resource", "context"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), body.get(name)?.clone())))
        .collect();
    hex(&Sha256::digest(crate::authorizer::digest(&entities))[..8])
}
