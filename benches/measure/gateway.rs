//! The same questions as a gateway asks them: Envoy's `ext_authz` (v3), over gRPC.

use std::collections::HashMap;

use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use mandate::authorizer::door::envoy::SERVER;
use prost::Message as _;
use serde_json::json;

use super::authority::Ask;

/// Where gRPC has it.
pub const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What an answer has that passes a request on, and one that does not: a header for the server, and
/// the reason for the client.
pub const ANSWERS: [&str; 2] = ["x-mandate-decision", "\"jsonrpc\""];

/// A call of MCP as Envoy passes it on, in the frame that gRPC has for a message.
pub fn question(ask: Ask, namespace: &str, token: &str, n: usize) -> Vec<u8> {
    let call = json!({
        "jsonrpc": "2.0", "id": n, "method": "tools/call",
        "params": {"name": ask.tool(), "arguments": ask.arguments(n)}
    });
    let raw_body = call.to_string().into_bytes();
    let headers = [
        (":authority", "ledger.example.com"),
        (":method", "POST"),
        (":path", "/mcp"),
        (":scheme", "https"),
        ("accept", "application/json, text/event-stream"),
        ("authorization", &format!("Bearer {token}")),
        ("content-length", &raw_body.len().to_string()),
        ("content-type", "application/json"),
        ("mcp-protocol-version", "2025-06-18"),
        ("user-agent", "bench"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "6f1c2f4e-5b0e-4b8e-9d53-0a1c2e3f4a5b"),
    ];
    let http = HttpRequest {
        id: "1".to_owned(),
        method: "POST".to_owned(),
        path: "/mcp".to_owned(),
        host: "ledger.example.com".to_owned(),
        scheme: "https".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        size: i64::try_from(raw_body.len()).unwrap_or(i64::MAX),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        raw_body,
        ..HttpRequest::default()
    };
    let attributes = AttributeContext {
        request: Some(Request { http: Some(http), ..Request::default() }),
        context_extensions: HashMap::from([(SERVER.to_owned(), format!("{namespace}/ledger"))]),
        ..AttributeContext::default()
    };
    let message = CheckRequest { attributes: Some(attributes) }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    // Not compressed, so long, and the message.
    [&[0][..], &length.to_be_bytes(), &message].concat()
}
