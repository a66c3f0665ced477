//! What the process believes about itself: `/livez`, `/readyz`, `/metrics` and, where a caller
//! gives one, `/debug/state`.
//!
//! Plain HTTP on its own port, for the kubelet and the metrics collector. Nothing here changes
//! anything, and nothing secret may be put into the state. `/readyz` fails as soon as a stop is
//! requested, before anything else ends; the admin server itself ends last, by its own stop.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::net::TcpListener;

use super::{Ended, Limits, Readiness, Stop};

/// Tells what the process knows, for people: ages, counts, phases. No names of users, no tokens.
pub type DebugState = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What the admin endpoints show.
pub struct Admin {
    /// What `/readyz` waits for.
    pub readiness: Readiness,
    /// The stop of the process: once requested, `/readyz` says 503.
    pub stop: Stop,
    /// What `/metrics` prints.
    pub registry: Arc<Registry>,
    /// What `/debug/state` prints; left out, there is no such page.
    pub state: Option<DebugState>,
}

/// Few: a kubelet and a collector or two.
const LIMITS: Limits = Limits {
    handshake: Duration::ZERO,
    connections: 64,
    quiet: Duration::from_secs(120),
    linger: Duration::ZERO,
    drain: Duration::from_secs(1),
};

/// Serves the admin endpoints until `end` is requested. `end` is not the stop of the process:
/// probes and metrics are answered while the rest drains.
pub async fn serve(listener: TcpListener, admin: Admin, end: Stop) -> Ended {
    super::http(listener, router(admin), end, LIMITS).await
}

/// The admin endpoints.
pub fn router(admin: Admin) -> Router {
    let mut router = Router::new().route("/livez", get("ok\n")).route("/readyz", get(readyz)).route("/metrics", get(metrics));
    if admin.state.is_some() {
        router = router.route("/debug/state", get(state));
    }
    router.with_state(Arc::new(admin))
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    if admin.stop.is_requested() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    let pending = admin.readiness.pending();
    if pending.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", pending.join(", "))).into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let mut page = String::new();
    match text::encode(&mut page, &admin.registry) {
        Ok(()) => ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn state(State(admin): State<Arc<Admin>>) -> Response {
    match &admin.state {
        Some(state) => ([(CONTENT_TYPE, "application/json")], format!("{:#}\n", state())).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
