//! What a request to a Model Context Protocol server wants.
//!
//! In: one HTTP request as a gateway passes it on, body and headers. Out: a [`Wish`], to speak to
//! the server or to call one of its operations, or a [`Refused`] with the reason. It decides
//! nothing about tasks, and never looks anything up.
//!
//! What two readers may read in two ways is refused: a header that contradicts the body, a member
//! twice or in another case, a body that was cut, compressed or re-encoded, several messages in
//! one. What it does not know is refused too, so that a later protocol cannot pass beneath the
//! rules.

pub(in crate::authorizer) mod header;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::strict;
use crate::decide::authorize::Code;

/// A request as HTTP brought it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Path with query.
    pub path: &'a str,
    /// Headers, their names in lower case; of one that came twice, the values joined by commas.
    pub headers: &'a BTreeMap<String, String>,
    /// Body, as it was sent.
    pub body: &'a [u8],
}

/// What a request wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// Id of the JSON-RPC request; none where no answer is awaited, and for the methods of HTTP.
    pub id: Option<Value>,
    /// The method: `tools/call`, `initialize`, or `GET` and `DELETE` of a session.
    pub method: String,
    /// What for.
    pub what: What,
    /// What the agent says it is for: `mandate.dev/intent` of `_meta`.
    pub intent: Option<String>,
    /// W3C `traceparent` of the request, as it came.
    pub traceparent: Option<String>,
}

/// What is wanted of the server.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// To speak to it: it is greeted, asked what it offers, or told something.
    Reach,
    /// To call a tool, or an operation that is no tool, by the name of its method.
    Call {
        /// Name of the tool or method.
        tool: String,
        /// Id of the resource, where the operation has a place for it.
        resource: Option<String>,
        /// Arguments.
        arguments: Map<String, Value>,
    },
}

/// A request that is refused whoever sends it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Id of the JSON-RPC request, where one could be read.
    pub id: Option<Value>,
    /// The method as far as it could be read, short enough for a log.
    pub method: String,
    /// What kind of reason.
    pub code: Code,
    /// In words.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// Longest name of a tool; as in a ToolServer.
const LONGEST_NAME: usize = 128;
/// Longest intent, in characters.
const LONGEST_INTENT: usize = 512;

/// Methods that ask nothing of a tool: a live task may send them to a server that its scope names.
const GREETINGS: &[&str] = &["initialize", "server/discover", "ping", "tools/list"];

/// Methods that reach what the server holds. Each is looked up under its own name among the tools
/// of the ToolServer, with its `params` as arguments: where its owner lists none, it is denied.
/// Beside each, the member of `params` that names the resource.
const OPERATIONS: &[(&str, Option<&str>)] = &[
    ("completion/complete", None),
    ("logging/setLevel", None),
    ("prompts/get", Some("name")),
    ("prompts/list", None),
    ("resources/list", None),
    ("resources/read", Some("uri")),
    ("resources/subscribe", Some("uri")),
    ("resources/templates/list", None),
    ("resources/unsubscribe", Some("uri")),
    ("subscriptions/listen", None),
    ("tasks/cancel", Some("taskId")),
    ("tasks/get", Some("taskId")),
    ("tasks/list", None),
    ("tasks/result", Some("taskId")),
    ("tasks/update", Some("taskId")),
];

/// Whether a name is that of a method, which no tool may bear.
#[must_use]
pub fn is_method(name: &str) -> bool {
    name == "tools/call"
        || name.starts_with("notifications/")
        || GREETINGS.contains(&name)
        || OPERATIONS.iter().any(|(method, _)| *method == name)
}

/// What a request wants.
///
/// # Errors
/// [`Refused`].
pub fn read(request: &Request) -> Result<Wish, Box<Refused>> {
    let at = |refusal: Refusal| refusal.at(None, request.method);
    plain(request).map_err(at)?;
    match request.method {
        "POST" => post(request),
        // The stream that a server speaks on, and the end of a session.
        "GET" | "DELETE" if request.body.is_empty() => Ok(Wish {
            id: None,
            method: request.method.to_owned(),
            what: What::Reach,
            intent: None,
            traceparent: header::traceparent(request.headers, None),
        }),
        "GET" | "DELETE" => Err(at(bad("a body has no place in this request", "send messages by POST"))),
        _ => Err(at(Refusal {
            code: Code::UnknownMethod,
            message: "this method of HTTP has no place in the Model Context Protocol".to_owned(),
            help: "send messages by POST".to_owned(),
        })),
    }
}

/// A reason, before it is known what it belongs to.
struct Refusal {
    code: Code,
    message: String,
    help: String,
}

impl Refusal {
    fn at(self, id: Option<Value>, method: &str) -> Box<Refused> {
        let Self { code, message, help } = self;
        Box::new(Refused { id, method: shown(method), code, message, help })
    }
}

fn bad(message: impl Into<String>, help: impl Into<String>) -> Refusal {
    Refusal { code: Code::BadRequest, message: message.into(), help: help.into() }
}

fn mismatch(message: impl Into<String>) -> Refusal {
    let help = "headers must say what the body says; leave out what your client does not set by itself";
    Refusal { code: Code::HeaderMismatch, message: message.into(), help: help.to_owned() }
}

/// A text that somebody else chose, short enough to stand in a log.
fn shown(text: &str) -> String {
    let short: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
    if short.len() == text.len() { short } else { format!("{short}…") }
}

/// Whether the request is what it looks like, before its body is read.
fn plain(request: &Request) -> Result<(), Refusal> {
    let Request { method: _, path, headers, body } = *request;
    if path.contains('?') {
        return Err(bad(
            "the request has a query, which no rule looks at",
            "leave it out; the gateway's operator can add one behind the gateway",
        ));
    }
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        if headers.contains_key(name) {
            return Err(mismatch(format!("header `{name}` would make another request of it")));
        }
    }
    let whole = "the gateway's operator must pass on whole bodies (`max_request_bytes`), and the call must be smaller";
    // The client may have sent the header too: only a lone `false` says that nothing was cut.
    if headers.get("x-envoy-auth-partial-body").is_some_and(|partial| partial != "false") {
        return Err(bad("only a part of the body was passed on, and what is not seen is not permitted", whole));
    }
    // A gateway that cuts a body exactly at its limit may not say so; the client's own count does.
    match headers.get("content-length").map(|length| length.parse::<usize>()) {
        None if body.is_empty() => {}
        None => return Err(bad("`content-length` is missing, so that nobody can tell whether the body is whole", "send it")),
        Some(Ok(length)) if length == body.len() => {}
        Some(Ok(length)) if length > body.len() => {
            let seen = body.len();
            return Err(bad(format!("only {seen} of {length} bytes of the body were passed on"), whole));
        }
        Some(_) => return Err(mismatch("`content-length` is not that of the body")),
    }
    if headers.get("content-encoding").is_some_and(|encoding| encoding != "identity") {
        return Err(bad("the body is compressed, so that no rule can look at it", "send it as it is"));
    }
    Ok(())
}

fn post(request: &Request) -> Result<Wish, Box<Refused>> {
    let at = |refusal: Refusal| refusal.at(None, "POST");
    header::is_json(request.headers).map_err(at)?;
    let body = strict::read(request.body)
        .map_err(|error| at(bad(format!("the body is no JSON of one meaning: {error}"), "send one JSON-RPC message")))?;
    let body = match body {
        Value::Object(body) => body,
        Value::Array(_) => {
            return Err(at(bad("several messages in one request (a batch) are not permitted", "send each by itself")));
        }
        _ => return Err(at(bad("the body is no JSON-RPC message", "send one JSON-RPC message"))),
    };
    let id = id(&body);
    let method = body.get("method").and_then(Value::as_str).unwrap_or("POST");
    message(request.headers, &body).map_err(|refusal| refusal.at(id, method))
}

/// The id, where it is one.
fn id(body: &Map<String, Value>) -> Option<Value> {
    body.get("id").filter(|id| id.is_string() || id.is_i64() || id.is_u64()).cloned()
}

fn message(headers: &BTreeMap<String, String>, body: &Map<String, Value>) -> Result<Wish, Refusal> {
    let one = "send one JSON-RPC message";
    // Some readers take `Method` for `method`: there must be nothing to confuse.
    if let Some(name) = body.keys().find(|name| !["jsonrpc", "id", "method", "params", "result", "error"].contains(&&***name)) {
        return Err(bad(format!("member `{}` has no place in a message", shown(name)), one));
    }
    if body.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(bad("`jsonrpc` must be \"2.0\"", one));
    }
    let id = match body.get("id") {
        None => None,
        Some(_) => Some(id(body).ok_or_else(|| bad("`id` must be a text or a whole number", one))?),
    };
    let Some(method) = body.get("method") else { return answer(headers, body, id) };
    let method = method.as_str().ok_or_else(|| bad("`method` must be a text", one))?;
    if body.contains_key("result") || body.contains_key("error") {
        return Err(bad("a message is a request or an answer, not both", one));
    }
    let params = match body.get("params") {
        None => &Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(bad("`params` must be an object", one)),
    };
    let meta = match params.get("_meta") {
        None => None,
        Some(Value::Object(meta)) => Some(meta),
        Some(_) => return Err(bad("`params._meta` must be an object", one)),
    };
    header::agree(headers, method, params, meta)?;
    let what = what(method, params, id.is_some())?;
    if let What::Call { arguments, .. } = &what {
        header::arguments_agree(headers, arguments)?;
    }
    let intent = meta.and_then(|meta| meta.get("mandate.dev/intent")).and_then(Value::as_str);
    Ok(Wish {
        id,
        method: method.to_owned(),
        what,
        intent: intent.map(|intent| intent.chars().take(LONGEST_INTENT).collect()),
        traceparent: header::traceparent(headers, meta),
    })
}

/// The answer to something that the server has asked. It says anything to the server, and no rule
/// can look at it: only the one that says nothing may pass, which answers a `ping`.
fn answer(headers: &BTreeMap<String, String>, body: &Map<String, Value>, id: Option<Value>) -> Result<Wish, Refusal> {
    let says_nothing = id.is_some()
        && !body.contains_key("params")
        && !body.contains_key("error")
        && body.get("result").and_then(Value::as_object).is_some_and(Map::is_empty);
    if !says_nothing {
        return Err(bad(
            "a message without `method` is an answer to the server, which no rule can look at",
            "let the server ask for what it needs by the arguments of its tools",
        ));
    }
    header::agree(headers, "", &Map::new(), None)?;
    // Nothing is awaited for an answer, so no id comes back.
    let traceparent = header::traceparent(headers, None);
    Ok(Wish { id: None, method: "response".to_owned(), what: What::Reach, intent: None, traceparent })
}

fn what(method: &str, params: &Map<String, Value>, is_request: bool) -> Result<What, Refusal> {
    if method.starts_with("notifications/") {
        return if is_request { Err(bad("a notification has no `id`", "leave it out")) } else { Ok(What::Reach) };
    }
    let known = method == "tools/call" || is_method(method);
    if !known {
        return Err(Refusal {
            code: Code::UnknownMethod,
            message: format!("method `{}` is not known, and what is not known is not permitted", shown(method)),
            help: "use a tool of the server".to_owned(),
        });
    }
    // A server may do what it is told and only leave out the answer.
    if !is_request {
        return Err(bad(format!("`{method}` needs an `id`"), "send it as a request"));
    }
    if GREETINGS.contains(&method) {
        return Ok(What::Reach);
    }
    if method == "tools/call" { call(params) } else { operation(method, params) }
}

fn call(params: &Map<String, Value>) -> Result<What, Refusal> {
    let how = "give `name`, `arguments` and nothing else";
    if let Some(name) = params.keys().find(|name| !["name", "arguments", "_meta", "task"].contains(&&***name)) {
        return Err(bad(format!("`params.{}` is nothing that a rule can look at", shown(name)), how));
    }
    let tool = match params.get("name") {
        Some(Value::String(name)) if name.len() <= LONGEST_NAME => name.clone(),
        _ => return Err(bad(format!("`params.name` must be a text of {LONGEST_NAME} bytes at most"), how)),
    };
    if is_method(&tool) {
        let message = format!("a tool must not bear the name of a method, as `{tool}` does");
        return Err(Refusal { code: Code::UnknownTool, message, help: "the server's owner must rename it".to_owned() });
    }
    let arguments = match params.get("arguments") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(arguments)) => arguments.clone(),
        Some(_) => return Err(bad("`params.arguments` must be an object", how)),
    };
    Ok(What::Call { tool, resource: None, arguments })
}

fn operation(method: &str, params: &Map<String, Value>) -> Result<What, Refusal> {
    let named = OPERATIONS.iter().find(|(name, _)| *name == method).and_then(|(_, named)| *named);
    let resource = match named {
        None => None,
        Some(member) => match params.get(member) {
            Some(Value::String(text)) => Some(text.clone()),
            _ => return Err(bad(format!("`params.{member}` must be a text"), "name what it is about")),
        },
    };
    let mut arguments = params.clone();
    arguments.remove("_meta");
    Ok(What::Call { tool: method.to_owned(), resource, arguments })
}
