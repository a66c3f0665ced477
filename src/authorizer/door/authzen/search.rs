//! Which subjects, resources or actions: what would be permitted now. Nothing is counted, and
//! nothing is promised: each action is decided again when it happens.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::{Asked, Call, Entity, Envelope, NOTHING, Peer, Refused, Sought, bad, caller};
use crate::authorizer::Authorizer;
use crate::authorizer::state::Live;
use crate::authorizer::trust::Caller;
use crate::decide::authorize::{Action, Snapshot};

/// Most results of one page, and how many where nobody says.
const LONGEST_PAGE: usize = 100;

pub(super) async fn subject(
    State(authorizer): State<Arc<Authorizer>>,
    peer: Peer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let envelope = Envelope::open(&authorizer, peer, &headers, &body).await?;
    let asked = Asked::read(&envelope.body, &NOTHING, Sought::Subject).map_err(bad)?;
    // Who is not vouched for would have to show a token, and then needs no search.
    let Some(namespace) = envelope.asker.vouches_for.get(asked.subject.kind) else { return page(&envelope.body, vec![]) };
    let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    let snapshot = authorizer.state.snapshot();
    let tasks = authorizer.state.subjects(|key| key.starts_with(&prefix));
    let found = tasks.iter().filter(|task| would(&authorizer, &snapshot, task, &asked)).map(|task| {
        let key = task.subject().key.clone();
        json!({"type": asked.subject.kind, "id": key.strip_prefix(&prefix).unwrap_or(&key)})
    });
    page(&envelope.body, found.collect())
}

pub(super) async fn resource(
    State(authorizer): State<Arc<Authorizer>>,
    peer: Peer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let envelope = Envelope::open(&authorizer, peer, &headers, &body).await?;
    let asked = Asked::read(&envelope.body, &NOTHING, Sought::Resource).map_err(bad)?;
    let snapshot = authorizer.state.snapshot();
    let Some(task) = task(&authorizer, &snapshot, &envelope, &asked).await? else { return page(&envelope.body, vec![]) };
    let from = task.subject().namespace.clone();
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
    page(&envelope.body, found.map(|id| json!({"type": kind, "id": id})).collect())
}

pub(super) async fn action(
    State(authorizer): State<Arc<Authorizer>>,
    peer: Peer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let envelope = Envelope::open(&authorizer, peer, &headers, &body).await?;
    let asked = Asked::read(&envelope.body, &NOTHING, Sought::Action).map_err(bad)?;
    let snapshot = authorizer.state.snapshot();
    let Some(task) = task(&authorizer, &snapshot, &envelope, &asked).await? else { return page(&envelope.body, vec![]) };
    let from = task.subject().namespace.clone();
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
    page(&envelope.body, found.map(|name| json!({ "name": name })).collect())
}

/// The task that a search is about; none where nobody is known by the subject.
async fn task(
    authorizer: &Authorizer,
    snapshot: &Snapshot,
    envelope: &Envelope,
    asked: &Asked<'_>,
) -> Result<Option<Arc<Live>>, Refused> {
    if asked.subject.id.is_none() {
        return Err(bad("`subject.id` is missing"));
    }
    let caller: Result<Caller, String> = caller(authorizer, snapshot, &envelope.asker, asked).await;
    Ok(caller.ok().and_then(|caller| authorizer.state.task(&caller)))
}

/// Whether a task would be permitted. What it would do is not taken into its history.
fn would(authorizer: &Authorizer, snapshot: &Snapshot, task: &Live, asked: &Asked<'_>) -> bool {
    let subject = task.subject();
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
    authorizer.would(snapshot, task, &action)
}

/// One page of results. The token of the next page is where it begins.
fn page(body: &Map<String, Value>, results: Vec<Value>) -> Result<Response, Refused> {
    let asked = match body.get("page") {
        None | Some(Value::Null) => &NOTHING,
        Some(Value::Object(page)) => page,
        Some(_) => return Err(bad("`page` must be an object")),
    };
    let limit = match asked.get("limit") {
        None | Some(Value::Null) => LONGEST_PAGE,
        Some(limit) => match limit.as_u64().and_then(|limit| usize::try_from(limit).ok()) {
            Some(limit) if limit > 0 => limit.min(LONGEST_PAGE),
            _ => return Err(bad("`page.limit` must be a whole number above 0")),
        },
    };
    let begin = match asked.get("token") {
        None | Some(Value::Null) => 0,
        Some(Value::String(token)) if token.is_empty() => 0,
        Some(Value::String(token)) => token.parse().map_err(|_| bad("`page.token` is none that was given out here"))?,
        Some(_) => return Err(bad("`page.token` must be a text")),
    };
    let total = results.len();
    let found: Vec<Value> = results.into_iter().skip(begin).take(limit).collect();
    let end = begin.saturating_add(found.len());
    let next = if end < total { end.to_string() } else { String::new() };
    let count = found.len();
    Ok(axum::Json(json!({"results": found, "page": {"next_token": next, "count": count, "total": total}})).into_response())
}
