//! What a request must be before anybody looks at what it asks: from an enforcement point that
//! is known and does not ask too much at once, JSON of one meaning, an object, not too large, and
//! there in time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use futures::StreamExt as _;
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Door, Refused, bad};
use crate::authorizer::strict;
use crate::authorizer::trust::{Asker, TrustError};
use crate::serve::ClientName;
use crate::telemetry::otlp::Parent;

/// Largest body, in bytes.
const LARGEST_BODY: usize = 1 << 20;
/// How long a body may take to come.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// Requests of one enforcement point at a time; a batch is one.
const MOST_AT_ONCE: usize = 256;

/// A request that may be answered.
pub(super) struct Envelope {
    /// Who asks.
    pub asker: Asker,
    /// The span of the enforcement point.
    pub parent: Option<Parent>,
    /// The body.
    pub body: Map<String, Value>,
    _place: OwnedSemaphorePermit,
}

impl FromRequest<Door> for Envelope {
    type Rejection = Refused;

    async fn from_request(request: Request, door: &Door) -> Result<Self, Refused> {
        let (parts, body) = request.into_parts();
        // The name in the client's certificate, where it showed one.
        let (headers, peer) = (&parts.headers, parts.extensions.get::<ClientName>());
        let asker = door.authorizer.trust.asker(peer, bearer(headers)).await.map_err(|error| match error {
            TrustError::Unchecked(why) => Refused(StatusCode::SERVICE_UNAVAILABLE, why),
            error => Refused(StatusCode::UNAUTHORIZED, format!("an enforcement point must authenticate itself: {error}")),
        })?;
        let place = door.gate.place(&asker.name).ok_or_else(|| {
            let message = format!("`{}` has {MOST_AT_ONCE} requests under way: wait for some, or ask in batches", asker.name);
            Refused(StatusCode::TOO_MANY_REQUESTS, message)
        })?;
        if !is_json(headers) {
            return Err(bad("Content-Type must be application/json"));
        }
        let body = match tokio::time::timeout(BODY_WITHIN, read(body)).await {
            Ok(body) => body?,
            Err(_) => return Err(Refused(StatusCode::REQUEST_TIMEOUT, "the body took too long to come".to_owned())),
        };
        match strict::read(&body).map_err(|error| bad(format!("the body is no JSON of one meaning: {error}")))? {
            Value::Object(body) => Ok(Self { asker, parent: Parent::of(headers), body, _place: place }),
            _ => Err(bad("the body must be an object")),
        }
    }
}

/// The whole body. Of one that is too large the rest is read too, within reason: who is still
/// sending when the connection ends does not see why.
async fn read(body: Body) -> Result<Vec<u8>, Refused> {
    let (mut bytes, mut passed_over) = (vec![], 0);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| bad("the body did not come whole"))?;
        if passed_over == 0 && bytes.len() + chunk.len() <= LARGEST_BODY {
            bytes.extend_from_slice(&chunk);
            continue;
        }
        passed_over += chunk.len();
        if passed_over > 8 * LARGEST_BODY {
            break;
        }
    }
    if passed_over == 0 {
        return Ok(bytes);
    }
    let message = format!("the body may have {LARGEST_BODY} bytes at most: send several requests");
    Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, message))
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).and_then(|text| text.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// How many requests of each enforcement point are under way. Nobody can keep the others from
/// being answered.
#[derive(Default)]
pub(super) struct Gate(Mutex<BTreeMap<Arc<str>, Arc<Semaphore>>>);

impl Gate {
    fn place(&self, asker: &Arc<str>) -> Option<OwnedSemaphorePermit> {
        let places = {
            let mut askers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            askers.entry(asker.clone()).or_insert_with(|| Arc::new(Semaphore::new(MOST_AT_ONCE))).clone()
        };
        places.try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_enforcement_point_cannot_take_the_places_of_another() {
        let gate = Gate::default();
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let mut places: Vec<_> = (0..MOST_AT_ONCE).map(|_| gate.place(&one).unwrap()).collect();
        assert!(gate.place(&one).is_none());
        assert!(gate.place(&other).is_some());
        places.pop();
        assert!(gate.place(&one).is_some());
    }
}
