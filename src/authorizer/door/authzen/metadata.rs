//! What this decision point offers, and where: `/.well-known/authzen-configuration`.
//!
//! Whoever reads it compares `policy_decision_point` with the URL that it asked by. So that URL
//! is told back, unless the operator has said by which URL Mandate is known.

use axum::extract::State;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::{Door, Refused, bad};

pub(super) async fn metadata(State(door): State<Door>, uri: Uri, headers: HeaderMap) -> Result<Response, Refused> {
    let base = match door.url {
        Some(url) => url.to_string(),
        None => format!("https://{}", host(&uri, &headers).ok_or_else(|| bad("the request names no host"))?),
    };
    Ok(axum::Json(json!({
        "policy_decision_point": base,
        "access_evaluation_endpoint": format!("{base}/access/v1/evaluation"),
        "access_evaluations_endpoint": format!("{base}/access/v1/evaluations"),
        "search_subject_endpoint": format!("{base}/access/v1/search/subject"),
        "search_resource_endpoint": format!("{base}/access/v1/search/resource"),
        "search_action_endpoint": format!("{base}/access/v1/search/action"),
    }))
    .into_response())
}

/// The host and port that a request names: HTTP/2 in its URI, HTTP/1.1 in a header.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let of_header = || headers.get(header::HOST)?.to_str().ok()?.parse().ok();
    uri.authority().cloned().or_else(of_header).filter(|host: &Authority| !host.as_str().contains('@'))
}
