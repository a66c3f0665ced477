//! A decision in Envoy's words, and in those of the client behind it.

use std::collections::HashMap;

use envoy_types::ext_authz::v3::pb::{
    CheckResponse, DeniedHttpResponse, HeaderAppendAction, HeaderValue, HeaderValueOption, HttpResponse, HttpStatus,
    HttpStatusCode, OkHttpResponse,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value as Proto};
use envoy_types::pb::google::rpc;
use serde_json::{Value, json};

use super::{RESOURCE_METADATA, SERVER, STRIP_HEADERS};
use crate::authorizer::Answer;
use crate::authorizer::mcp::{Refused, Wish};
use crate::authorizer::trust::TrustError;
use crate::decide::authorize::{Code, Outcome, Reason, Subject};

/// What the gateway's operator says of a route.
pub(super) struct Route {
    /// The ToolServer, as `namespace/name`.
    pub server: String,
    strip: Vec<String>,
    resource_metadata: Option<String>,
}

impl Route {
    pub(super) fn of(extensions: &HashMap<String, String>) -> Result<Self, String> {
        let server = extensions.get(SERVER).map_or("", String::as_str);
        let two = server.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
        if two.is_none_or(|(_, name)| name.contains('/')) {
            return Err(format!("the route must say which ToolServer it leads to: context extension `{SERVER}: namespace/name`"));
        }
        let strip = extensions.get(STRIP_HEADERS).map_or("authorization", String::as_str);
        let strip = strip.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty());
        // It stands in a header between quotes.
        let plain = |url: &&String| url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
        Ok(Self {
            server: server.to_owned(),
            strip: strip.collect(),
            resource_metadata: extensions.get(RESOURCE_METADATA).filter(plain).cloned(),
        })
    }
}

/// Codes of JSON-RPC: the first is that of the COAZ binding for a denial, the second that of MCP
/// for headers that contradict the body; the others are JSON-RPC's own.
const DENIED: i32 = -32001;
const HEADER_MISMATCH: i32 = -32020;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_REQUEST: i32 = -32600;

/// A request without a token that is valid here.
pub(super) fn unauthenticated(route: &Route, error: &TrustError) -> CheckResponse {
    let mut challenge = "Bearer realm=\"mandate\"".to_owned();
    if *error != TrustError::Missing {
        challenge.push_str(", error=\"invalid_token\"");
    }
    if let Some(url) = &route.resource_metadata {
        challenge.extend([", resource_metadata=\"", url, "\""]);
    }
    let body = json!({"jsonrpc": "2.0", "id": null, "error": {
        "code": DENIED,
        "message": format!("an agent must show the token of its own running task: {error}"),
        "data": {"reasons": [], "nextAction": "none"},
    }});
    let headers = vec![header("content-type", "application/json"), header("www-authenticate", &challenge)];
    denied(rpc::Code::Unauthenticated, HttpStatusCode::Unauthorized, headers, &body)
}

/// What was decided of a wish, for the gateway and for its client.
pub(super) fn shown(
    route: &Route,
    wish: &Result<Wish, Box<Refused>>,
    answer: &Answer,
    subject: Option<&Subject>,
) -> CheckResponse {
    let mut response = if answer.is_yes() { permitted(route, answer) } else { refused(wish, answer) };
    response.dynamic_metadata = Some(metadata(route, wish, answer, subject));
    response
}

fn permitted(route: &Route, answer: &Answer) -> CheckResponse {
    let ok = OkHttpResponse {
        // Written over whatever the client sent under this name.
        headers: vec![header("x-mandate-decision", &answer.id)],
        headers_to_remove: route.strip.clone(),
        ..OkHttpResponse::default()
    };
    CheckResponse { status: Some(status(rpc::Code::Ok)), http_response: Some(HttpResponse::OkResponse(ok)), ..Default::default() }
}

/// A request that can be answered gets its answer as JSON-RPC has it, under its own id; for all
/// else there is only a status of HTTP.
fn refused(wish: &Result<Wish, Box<Refused>>, answer: &Answer) -> CheckResponse {
    let id = match wish {
        Ok(wish) => wish.id.clone(),
        Err(refused) => refused.id.clone(),
    };
    let first = answer.decision.reasons.first().map(|reason| reason.code);
    let code = match (wish, first) {
        // Where the task itself may not speak, that is the reason and not the message.
        (Err(refused), Some(code)) if refused.code == code => match code {
            Code::HeaderMismatch => HEADER_MISMATCH,
            Code::UnknownMethod => METHOD_NOT_FOUND,
            Code::BadRequest => INVALID_REQUEST,
            _ => DENIED,
        },
        _ => DENIED,
    };
    let http = match (&id, code) {
        (Some(_), _) => HttpStatusCode::Ok,
        (None, INVALID_REQUEST | HEADER_MISMATCH) => HttpStatusCode::BadRequest,
        (None, METHOD_NOT_FOUND) => HttpStatusCode::MethodNotAllowed,
        (None, _) => HttpStatusCode::Forbidden,
    };
    let body = json!({"jsonrpc": "2.0", "id": id, "error": {
        "code": code,
        "message": answer.words(),
        "data": {
            "reasons": answer.decision.reasons.iter().map(reason).collect::<Value>(),
            "decisionId": answer.id,
            "nextAction": next(answer),
        },
    }});
    denied(rpc::Code::PermissionDenied, http, vec![header("content-type", "application/json")], &body)
}

fn reason(reason: &Reason) -> Value {
    let Reason { code, rule, message, help } = reason;
    json!({"code": code.as_str(), "rule": rule, "message": message, "help": help})
}

/// What the agent may do about a no.
fn next(answer: &Answer) -> &'static str {
    let decision = &answer.decision;
    match decision.outcome {
        Outcome::NeedsApproval => "request-approval",
        _ if !decision.reasons.is_empty() && decision.reasons.iter().all(Reason::may_pass) => "retry",
        _ => "none",
    }
}

fn denied(code: rpc::Code, http: HttpStatusCode, headers: Vec<HeaderValueOption>, body: &Value) -> CheckResponse {
    let mut headers = headers;
    headers.push(header("cache-control", "no-store"));
    let denied = DeniedHttpResponse { status: Some(HttpStatus { code: http as i32 }), headers, body: body.to_string() };
    CheckResponse { status: Some(status(code)), http_response: Some(HttpResponse::DeniedResponse(denied)), ..Default::default() }
}

fn status(code: rpc::Code) -> rpc::Status {
    rpc::Status { code: code as i32, ..rpc::Status::default() }
}

fn header(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value: value.to_owned(), ..HeaderValue::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..HeaderValueOption::default()
    }
}

/// By what access logs of the gateway join with the audit log.
fn metadata(route: &Route, wish: &Result<Wish, Box<Refused>>, answer: &Answer, subject: Option<&Subject>) -> Struct {
    let method = match wish {
        Ok(wish) => &wish.method,
        Err(refused) => &refused.method,
    };
    let decision = &answer.decision;
    let rules = decision.reasons.iter().filter_map(|reason| reason.rule.as_deref()).map(text).collect();
    let codes = decision.reasons.iter().map(|reason| text(reason.code.as_str())).collect();
    let mut fields = vec![
        ("decision_id", text(&answer.id)),
        ("outcome", text(decision.outcome.as_str())),
        ("server", text(&route.server)),
        ("method", text(method)),
        ("rules", list(rules)),
        ("codes", list(codes)),
        // Seconds in which the very same call may go on without another question; 0 is never.
        ("cache_for", Proto { kind: Some(Kind::NumberValue(f64::from(decision.cache_for))) }),
    ];
    if let Some(tool) = &decision.looked_at.tool {
        fields.push(("tool", text(tool)));
    }
    if let Some(subject) = subject {
        fields.push(("task", text(&subject.key)));
        fields.push(("agent", text(&subject.agent_key)));
    }
    Struct { fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
}

fn text(text: &str) -> Proto {
    Proto { kind: Some(Kind::StringValue(text.to_owned())) }
}

fn list(values: Vec<Proto>) -> Proto {
    Proto { kind: Some(Kind::ListValue(ListValue { values })) }
}
