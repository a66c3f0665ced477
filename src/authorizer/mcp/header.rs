//! Headers that repeat what the body says, and what else of headers counts.
//!
//! Gateways route and count by `Mcp-Method`, `Mcp-Name` and `Mcp-Param-…` without reading the
//! body; the server does what the body says. Where both are given they must agree.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{Refusal, bad, mismatch, shown};

type Headers = BTreeMap<String, String>;

/// Whether the body is JSON in UTF-8, as far as the headers say.
pub(super) fn is_json(headers: &Headers) -> Result<(), Refusal> {
    let wrong = || bad("`content-type` must be `application/json`", "send one JSON-RPC message");
    let mut parts = headers.get("content-type").ok_or_else(wrong)?.split(';').map(str::trim);
    if !parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        return Err(wrong());
    }
    // In another charset the server would read another text.
    let utf8 = |part: &str| ["charset=utf-8", "charset=\"utf-8\""].iter().any(|utf8| part.eq_ignore_ascii_case(utf8));
    if parts.all(utf8) { Ok(()) } else { Err(bad("the charset of the body must be UTF-8", "send JSON in UTF-8")) }
}

/// Whether `Mcp-Method`, `Mcp-Name` and `Mcp-Protocol-Version` say what the body says.
pub(super) fn agree(
    headers: &Headers,
    method: &str,
    params: &Map<String, Value>,
    meta: Option<&Map<String, Value>>,
) -> Result<(), Refusal> {
    if let Some(header) = headers.get("mcp-method")
        && decoded("mcp-method", header)? != method
    {
        return Err(mismatch("header `mcp-method` names another method than the body"));
    }
    if let Some(header) = headers.get("mcp-name") {
        let header = decoded("mcp-name", header)?;
        let named = ["name", "uri", "taskId"].iter().find_map(|member| params.get(*member));
        if named.and_then(Value::as_str) != Some(&header) {
            return Err(mismatch("header `mcp-name` names something else than the body"));
        }
    }
    let version = meta.and_then(|meta| meta.get("io.modelcontextprotocol/protocolVersion"));
    match (headers.get("mcp-protocol-version"), version) {
        (Some(header), Some(version)) if version.as_str() != Some(header) => {
            Err(mismatch("header `mcp-protocol-version` names another version than the body"))
        }
        _ => Ok(()),
    }
}

/// Whether every `Mcp-Param-…` says what the arguments say.
///
/// Which argument a header repeats is in the schema of the tool. Where an argument has the
/// header's name, it is that one; else some argument must have the header's value.
pub(super) fn arguments_agree(headers: &Headers, arguments: &Map<String, Value>) -> Result<(), Refusal> {
    for (name, header) in headers.iter().filter(|(name, _)| name.starts_with("mcp-param-")) {
        let value = decoded(name, header)?;
        let short = name.trim_start_matches("mcp-param-");
        let mut same_name = arguments.iter().filter(|(argument, _)| alike(argument, short)).peekable();
        let agrees = if same_name.peek().is_some() {
            same_name.all(|(_, argument)| says(argument, &value))
        } else {
            arguments.values().any(|argument| somewhere(argument, &value))
        };
        if !agrees {
            return Err(mismatch(format!("header `{}` says something else than the arguments", shown(name))));
        }
    }
    Ok(())
}

/// Whether two names differ in case and separators alone.
fn alike(one: &str, other: &str) -> bool {
    let letters =
        |text: &str| text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect::<String>();
    letters(one) == letters(other)
}

fn says(argument: &Value, text: &str) -> bool {
    match argument {
        Value::String(argument) => argument == text,
        Value::Number(number) => number.to_string() == text,
        Value::Bool(flag) => flag.to_string() == text,
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

fn somewhere(argument: &Value, text: &str) -> bool {
    match argument {
        Value::Object(members) => members.values().any(|member| somewhere(member, text)),
        other => says(other, text),
    }
}

/// The value of a header: as it stands, or in Base64 between `=?base64?` and `?=`.
fn decoded(name: &str, header: &str) -> Result<String, Refusal> {
    let Some(inner) = header.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Ok(header.to_owned());
    };
    // Only the one way to write it: another reader may be more generous than this one.
    let bytes = STANDARD.decode(inner).ok().filter(|bytes| STANDARD.encode(bytes) == inner);
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| mismatch(format!("header `{}` is no Base64 of a text", shown(name))))
}

/// The bearer token.
pub(in crate::authorizer) fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
}

/// The W3C `traceparent`, of the headers or else of `_meta`, as it came.
pub(super) fn traceparent(headers: &Headers, meta: Option<&Map<String, Value>>) -> Option<String> {
    let of_meta = || meta?.get("traceparent")?.as_str();
    headers.get("traceparent").map(String::as_str).or_else(of_meta).map(str::to_owned)
}
