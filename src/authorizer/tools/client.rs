//! Asks an MCP server for its tools, over streamable HTTP.
//!
//! In: a URL, and a token where the server wants one. Out: what it lists. First as the protocol
//! is since 2026-07-28, where every request stands by itself; a server that does not know that
//! is greeted as before. It follows no redirect, and believes no server more bytes, pages and
//! seconds than the limits here.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{self, HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use super::listing::Listed;
use crate::authorizer::strict;

/// How long everything about one server may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const LARGEST_ANSWER: usize = 4 << 20;
/// Most pages of a list.
const MOST_PAGES: usize = 64;
/// The protocol in which every request stands by itself.
const MODERN: &str = "2026-07-28";
/// The last one with a greeting and a session.
const LEGACY: &str = "2025-11-25";

/// Why the tools of a server are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Its token cannot be read.
    #[error("the file with the token for it cannot be read: {0}")]
    Token(String),
    /// The address is none.
    #[error("`{0}` is no address of an MCP server")]
    Url(String),
    /// Nobody answers.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("it did not answer within {} s", LIMIT.as_secs())]
    Late,
    /// It wants a token, or another one.
    #[error("it wants a valid token: HTTP {0}")]
    Unauthorized(u16),
    /// It says no, or something that is no answer.
    #[error("it does not list its tools: {0}")]
    Refused(String),
}

/// Asks servers.
#[derive(Clone)]
pub struct Asking {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Default for Asking {
    fn default() -> Self {
        Self::new()
    }
}

impl Asking {
    /// With the certificate authorities of the system, or those of `SSL_CERT_FILE`.
    ///
    /// # Panics
    /// Never: aws-lc-rs has what TLS 1.2 and 1.3 need.
    #[must_use]
    pub fn new() -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs has the cipher suites of TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
        Self { http: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// The tools that a server lists.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tools(&self, url: &str, token: Option<&str>) -> Result<Vec<Listed>, Error> {
        let uri: http::Uri = url.parse().map_err(|_| Error::Url(url.to_owned()))?;
        let all = async {
            match self.listed(&Session::modern(uri.clone(), token)).await {
                Err(Error::Refused(_)) => {}
                answered => return answered,
            }
            let session = self.greet(uri, token).await?;
            let listed = self.listed(&session).await;
            self.leave(&session).await;
            listed
        };
        tokio::time::timeout(LIMIT, all).await.map_err(|_| Error::Late)?
    }

    /// Every page of the list.
    async fn listed(&self, session: &Session<'_>) -> Result<Vec<Listed>, Error> {
        let mut tools = vec![];
        let mut cursor = None;
        for page in 0..MOST_PAGES {
            let mut params = json!({});
            if let Some(cursor) = cursor {
                params["cursor"] = cursor;
            }
            let mut result = self.request(session, page + 2, "tools/list", params).await?;
            let Some(Value::Array(listed)) = result.get_mut("tools").map(Value::take) else {
                return Err(Error::Refused("its answer has no `tools`".to_owned()));
            };
            tools.extend(listed.into_iter().filter_map(Listed::read));
            cursor = match result.get_mut("nextCursor").map(Value::take) {
                None | Some(Value::Null) => return Ok(tools),
                next => next,
            };
        }
        Err(Error::Refused(format!("its list has more than {MOST_PAGES} pages")))
    }

    /// Opens a session as it was done before 2026-07-28.
    async fn greet<'a>(&self, uri: http::Uri, token: Option<&'a str>) -> Result<Session<'a>, Error> {
        let mut session = Session { uri, token, version: None, id: None };
        let params = json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client_info()});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        let (headers, result) = self.post(&session, &body, 1).await?;
        let agreed = result.get("protocolVersion").and_then(Value::as_str).unwrap_or(LEGACY);
        session.version = Some(agreed.to_owned());
        session.id = headers.get("mcp-session-id").cloned();
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        self.send(&session, Method::POST, Some(&ready)).await?;
        Ok(session)
    }

    /// Closes a session. A server that does not know how keeps it.
    async fn leave(&self, session: &Session<'_>) {
        if session.id.is_some() {
            let _ = self.send(session, Method::DELETE, None).await;
        }
    }

    async fn request(&self, session: &Session<'_>, id: usize, method: &str, params: Value) -> Result<Value, Error> {
        let mut params = params;
        if session.is_modern() {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": client_info(),
            });
        }
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        Ok(self.post(session, &body, id).await?.1)
    }

    async fn post(&self, session: &Session<'_>, body: &Value, id: usize) -> Result<(HeaderMap, Value), Error> {
        let (parts, body) = self.send(session, Method::POST, Some(body)).await?.into_parts();
        let message = answer(&parts.headers, body, id).await?;
        if let Some(error) = message.get("error") {
            let said = error.get("message").and_then(Value::as_str).unwrap_or("an error without a message");
            return Err(Error::Refused(said.chars().filter(|c| !c.is_control()).take(200).collect()));
        }
        let result = message.get("result").cloned().ok_or_else(|| Error::Refused("its answer has no result".to_owned()))?;
        Ok((parts.headers, result))
    }

    async fn send(
        &self,
        session: &Session<'_>,
        method: Method,
        body: Option<&Value>,
    ) -> Result<http::Response<hyper::body::Incoming>, Error> {
        let request = session.request(method, body)?;
        let response = self.http.request(request).await.map_err(|error| Error::Unreachable(cause(&error)))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(Error::Unauthorized(status.as_u16())),
            status if status.is_client_error() => Err(Error::Refused(format!("HTTP {}", status.as_u16()))),
            status => Err(Error::Unreachable(format!("HTTP {}", status.as_u16()))),
        }
    }
}

/// How a server is spoken to.
struct Session<'a> {
    uri: http::Uri,
    token: Option<&'a str>,
    /// The protocol, once it is agreed on.
    version: Option<String>,
    id: Option<HeaderValue>,
}

impl<'a> Session<'a> {
    fn modern(uri: http::Uri, token: Option<&'a str>) -> Self {
        Self { uri, token, version: Some(MODERN.to_owned()), id: None }
    }

    fn is_modern(&self) -> bool {
        self.version.as_deref() == Some(MODERN)
    }

    fn request(&self, method: Method, body: Option<&Value>) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(self.uri.clone())
            .header(header::ACCEPT, "application/json, text/event-stream")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(version) = &self.version {
            request = request.header("mcp-protocol-version", version);
        }
        if let (true, Some(method)) = (self.is_modern(), body.and_then(|body| body["method"].as_str())) {
            request = request.header("mcp-method", method);
        }
        if let Some(id) = &self.id {
            request = request.header("mcp-session-id", id);
        }
        if let Some(token) = self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|error| Error::Token(error.to_string()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        request.body(Full::new(bytes)).map_err(|error| Error::Refused(error.to_string()))
    }
}

fn client_info() -> Value {
    json!({"name": "mandate", "version": env!("CARGO_PKG_VERSION")})
}

/// The message with an id, of a body that is JSON or a stream of events.
async fn answer(headers: &HeaderMap, body: hyper::body::Incoming, id: usize) -> Result<Value, Error> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let streams = kind.starts_with("text/event-stream");
    let mut body = body;
    let mut bytes = vec![];
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::Unreachable(cause(&error)))?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > LARGEST_ANSWER {
            return Err(Error::Refused(format!("its answer has more than {LARGEST_ANSWER} bytes")));
        }
        bytes.extend_from_slice(data);
        // A stream may stay open after the answer.
        if streams && let Some(message) = event(&bytes, id) {
            return Ok(message);
        }
    }
    let none = || Error::Refused("its answer is no JSON-RPC message".to_owned());
    if streams { event(&bytes, id).ok_or_else(none) } else { strict::read(&bytes).map_err(|_| none()) }
}

/// The message with an id among the events that have come whole.
fn event(bytes: &[u8], id: usize) -> Option<Value> {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    let whole = text.rfind("\n\n")?;
    text[..whole].split("\n\n").find_map(|event| {
        let data: Vec<&str> = event.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
        strict::read(data.join("\n").as_bytes()).ok().filter(|message| message["id"] == id)
    })
}

/// What stands behind an error, in one line.
fn cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server of the time before 2026-07-28, which lists two tools on two pages.
    async fn old_server() -> String {
        use axum::response::IntoResponse as _;
        let answer = async |headers: HeaderMap, axum::Json(body): axum::Json<Value>| {
            let result = |result: Value| json!({"jsonrpc": "2.0", "id": body["id"], "result": result});
            let in_session = headers.get("mcp-session-id").is_some_and(|id| id == "s");
            match (body["method"].as_str().unwrap_or_default(), in_session) {
                ("initialize", _) => {
                    let greeted = result(json!({"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {}}));
                    ([("mcp-session-id", "s")], axum::Json(greeted)).into_response()
                }
                ("notifications/initialized", true) => StatusCode::ACCEPTED.into_response(),
                ("tools/list", true) => {
                    assert_eq!(headers["mcp-protocol-version"], "2025-06-18");
                    let page = match body["params"]["cursor"].as_str() {
                        None => result(json!({"tools": [{"name": "a"}], "nextCursor": "2"})),
                        Some(_) => result(json!({"tools": [{"name": "b"}]})),
                    };
                    ([("content-type", "text/event-stream")], format!("event: message\ndata: {page}\n\n")).into_response()
                }
                _ => StatusCode::BAD_REQUEST.into_response(),
            }
        };
        let routes = axum::Router::new().route("/mcp", axum::routing::post(answer).delete(async || StatusCode::OK));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, routes).await });
        url
    }

    #[tokio::test]
    async fn a_server_that_wants_to_be_greeted_is_greeted() {
        let listed = Asking::new().tools(&old_server().await, None).await.unwrap();
        assert_eq!(listed.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_said_to_be_unreachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        drop(listener);
        let error = Asking::new().tools(&url, None).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable(_)), "{error}");
    }

    #[test]
    fn an_answer_is_found_among_the_events_of_a_stream() {
        let stream = b": hello\r\n\r\nevent: message\r\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\r\n\r\n\
            data: {\"jsonrpc\":\"2.0\",\r\ndata: \"id\":2,\"result\":{}}\r\n\r\n";
        assert_eq!(event(stream, 2), Some(json!({"jsonrpc": "2.0", "id": 2, "result": {}})));
        assert_eq!(event(stream, 3), None);
        // One that has not come whole is none yet.
        assert_eq!(event(b"data: {\"id\":2}\n", 2), None);
    }
}
