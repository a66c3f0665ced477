//! Envoy's `ext_authz` (gRPC, v3): a gateway asks before it passes a request on to an MCP server.
//!
//! - The gateway proves itself by a client certificate, or by a bearer token in the metadata of the
//!   call (`initial_metadata` in Envoy). One that is not known gets no decision, and so passes nothing on.
//! - Which ToolServer a route leads to is said by its operator in `context_extensions`, as
//!   `mandate.dev/server: namespace/name`. Nothing that the client sends changes it.
//! - The agent proves itself by its own bearer token in the header `authorization` of its request.
//!   No other header proves anything.
//! - What is wanted is read from the body ([`mcp`]).
//!
//! A no to a JSON-RPC request is HTTP 200 with a JSON-RPC error under the same id, since that is
//! what a client of MCP shows to its agent. No token is kept, logged or repeated, and none goes on
//! to the server, unless the gateway's operator says so.

mod response;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use envoy_types::ext_authz::v3::pb::{Authorization, AuthorizationServer, CheckRequest, CheckResponse};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use serde_json::Map;
use tonic::Status;
use tracing::info;

use crate::authorizer::mcp::{self, Refused, What, Wish};
use crate::authorizer::state::{Acting, Actor};
use crate::authorizer::trust::{Asker, Caller, TrustError};
use crate::authorizer::{Answer, Authorizer, Question, refused};
use crate::decide::authorize::{Action, Code, Snapshot, reach};
use crate::serve::ClientName;
use crate::telemetry::otlp::Parent;
use response::Route;

/// The key in `context_extensions` that names the ToolServer of a route.
pub const SERVER: &str = "mandate.dev/server";
/// The key that names the headers which do not go on to the server, separated by commas; left
/// out, `authorization`.
pub const STRIP_HEADERS: &str = "mandate.dev/strip-headers";
/// The key that names the URL of the server's OAuth protected resource metadata (RFC 9728), which
/// a request without a valid token is pointed to.
pub const RESOURCE_METADATA: &str = "mandate.dev/resource-metadata";

/// Largest question, in bytes: the body of a request and its headers.
const LARGEST_QUESTION: usize = 4 << 20;

/// The route.
pub fn router(authorizer: Arc<Authorizer>) -> Router {
    let service = AuthorizationServer::new(Door { authorizer }).max_decoding_message_size(LARGEST_QUESTION);
    Router::new().route_service("/envoy.service.auth.v3.Authorization/Check", service)
}

struct Door {
    authorizer: Arc<Authorizer>,
}

#[tonic::async_trait]
impl Authorization for Door {
    async fn check(&self, request: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, Status> {
        let peer = request.extensions().get::<ClientName>();
        let token = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let asker = self.authorizer.trust.asker(peer, token.and_then(mcp::header::bearer)).await;
        let gateway = request.metadata().get("traceparent").and_then(|value| Parent::parse(value.to_str().ok()?));
        let asker = asker.map_err(|error| match error {
            TrustError::Unchecked(why) => Status::unavailable(why),
            error => {
                info!(%error, "a gateway that is not known asked");
                Status::unauthenticated(format!("an enforcement point must authenticate itself: {error}"))
            }
        })?;
        let attributes = request.into_inner().attributes.unwrap_or_default();
        Ok(tonic::Response::new(self.answer(&asker, attributes, gateway).await?))
    }
}

impl Door {
    async fn answer(
        &self,
        asker: &Asker,
        attributes: AttributeContext,
        gateway: Option<Parent>,
    ) -> Result<CheckResponse, Status> {
        let AttributeContext { request, context_extensions, .. } = attributes;
        let mut http =
            request.and_then(|request| request.http).ok_or_else(|| Status::invalid_argument("there is no HTTP request"))?;
        let route = Route::of(&context_extensions).map_err(Status::failed_precondition)?;
        let headers = headers(&mut http);
        let snapshot = self.authorizer.state.snapshot();
        let caller = match self.caller(&snapshot, &route, &headers).await {
            Ok(caller) => caller,
            Err(TrustError::Unchecked(why)) => return Err(Status::unavailable(why)),
            Err(error) => {
                info!(server = route.server, asker = &*asker.name, %error, "a request without a valid token");
                return Ok(response::unauthenticated(&route, &error));
            }
        };
        let actor = self.authorizer.state.actor(caller);
        let subject = actor.subject().cloned();
        let wish = wish(&http, &headers);
        let client = match &wish {
            Ok(wish) => wish.traceparent.as_deref(),
            Err(_) => headers.get("traceparent").map(String::as_str),
        };
        let spans = parents(gateway, client.and_then(Parent::parse));
        let answer = self.decide(&snapshot, asker, &route, actor, &wish, spans).await;
        Ok(response::shown(&route, &wish, &answer, subject.as_deref()))
    }

    /// Who acts, by the token of the request. It must be meant for Mandate or for this server.
    async fn caller(
        &self,
        snapshot: &Snapshot,
        route: &Route,
        headers: &BTreeMap<String, String>,
    ) -> Result<Arc<Caller>, TrustError> {
        let token = headers.get("authorization").and_then(|header| mcp::header::bearer(header)).ok_or(TrustError::Missing)?;
        let server = snapshot.server("", &route.server);
        self.authorizer.trust.caller(token, server.and_then(|server| server.audience.as_deref())).await
    }

    async fn decide(
        &self,
        snapshot: &Snapshot,
        asker: &Asker,
        route: &Route,
        actor: Actor,
        wish: &Result<Wish, Box<Refused>>,
        (parent, link): (Option<Parent>, Option<Parent>),
    ) -> Answer {
        let nothing = Map::new();
        let (method, intent, tool, resource, arguments) = match wish {
            Err(refused) => (&refused.method, None, None, None, &nothing),
            Ok(Wish { method, intent, what, .. }) => match what {
                What::Reach => (method, intent.as_deref(), None, None, &nothing),
                What::Call { tool, resource, arguments } => {
                    (method, intent.as_deref(), Some(tool), resource.as_deref(), arguments)
                }
            },
        };
        let question = Question {
            door: "envoy",
            asker,
            actor,
            action: Action {
                server: &route.server,
                // What calls no tool is in the audit log under its method.
                tool: tool.unwrap_or(method),
                resource,
                arguments,
                subject_properties: &nothing,
                resource_properties: &nothing,
                intent,
                reports_outcome: false,
                kubernetes: None,
            },
            parent,
            link,
        };
        let known_at = self.authorizer.state.known_at();
        match wish {
            Ok(Wish { what: What::Call { .. }, .. }) => self.authorizer.decide_by(snapshot, &question).await,
            Ok(Wish { what: What::Reach, .. }) => {
                let judge = |acting: &Acting, now| {
                    reach(snapshot, known_at, &acting.subject, &acting.subjects_above(), &route.server, now)
                };
                self.authorizer.conclude(&question, judge).await
            }
            Err(refusal) => {
                let Refused { code, message, help, .. } = &**refusal;
                self.authorizer.conclude(&question, |_, _| refused(*code, message.as_str(), help.as_str())).await
            }
        }
    }
}

/// The span that a decision belongs to, and one of another trace that has to do with it. The
/// trace is that of the request which is decided; within it, the gateway's own call is nearer.
fn parents(gateway: Option<Parent>, client: Option<Parent>) -> (Option<Parent>, Option<Parent>) {
    match (gateway, client) {
        (Some(gateway), Some(client)) if gateway.trace != client.trace => (Some(client), Some(gateway)),
        (gateway, client) => (gateway.or(client), None),
    }
}

/// What the client wants, as far as the gateway passed it on.
fn wish(http: &HttpRequest, headers: &BTreeMap<String, String>) -> Result<Wish, Box<Refused>> {
    let HttpRequest { method, path, body, raw_body, size, .. } = http;
    let refuse = |message: &str, help: &str| {
        let (message, help) = (message.to_owned(), help.to_owned());
        Box::new(Refused { id: None, method: method.chars().take(16).collect(), code: Code::BadRequest, message, help })
    };
    // As a text, Envoy puts `!` in the place of bytes that are no UTF-8: the server would get
    // something else than what was decided.
    if raw_body.is_empty() && !body.is_empty() {
        return Err(refuse(
            "the gateway passed on the body as a text, which may differ from what was sent",
            "its operator must set `pack_as_bytes`",
        ));
    }
    if usize::try_from(*size).is_ok_and(|size| size > raw_body.len()) {
        return Err(refuse(
            "only a part of the body was passed on, and what is not seen is not permitted",
            "the gateway's operator must pass on whole bodies (`max_request_bytes`), and the call must be smaller",
        ));
    }
    mcp::read(&mcp::Request { method, path, headers, body: raw_body })
}

/// Takes the headers of the client, in either of the two forms that Envoy has.
fn headers(http: &mut HttpRequest) -> BTreeMap<String, String> {
    let small = |mut name: String| {
        name.make_ascii_lowercase();
        name
    };
    let mut found: BTreeMap<String, String> =
        std::mem::take(&mut http.headers).into_iter().map(|(name, value)| (small(name), value)).collect();
    for header in http.header_map.take().into_iter().flat_map(|map| map.headers) {
        let value = match header.raw_value.is_empty() {
            true => header.value,
            false => String::from_utf8_lossy(&header.raw_value).into_owned(),
        };
        found
            .entry(small(header.key))
            .and_modify(|known| {
                known.push(',');
                known.push_str(&value);
            })
            .or_insert(value);
    }
    found
}
