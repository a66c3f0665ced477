//! Asks an MCP server for its tools, over streamable HTTP.
//!
//! In: a URL, and a token where the server wants one. Out: what it lists. First as the protocol
//! is since 2026-07-28, where every request stands by itself; a server that does not know that
//! is greeted as before. It follows no redirect, asks no address that may not be asked
//! ([`reach`](super::reach)), and believes no server more bytes, pages and seconds than the limits
//! here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{self, HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use super::listing::Listed;
use super::reach::{Connector, Reach, Refused};
use crate::authorizer::strict;
use crate::decide::drift::Failure;

/// How long everything about one server may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of all answers of one server: what it lists is held while it is compared.
const MOST_BYTES: usize = 2 << 20;
/// Most tools that it may list.
const MOST_TOOLS: usize = 4096;
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
    /// It may not be asked there.
    #[error("its address may not be asked, or not without TLS")]
    UnsafeAddress,
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

impl Error {
    /// What it comes to, without what a server or the network said.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::Token(_) => Failure::NoToken,
            Self::UnsafeAddress | Self::Url(_) => Failure::UnsafeAddress,
            Self::Unreachable(_) | Self::Late => Failure::Unreachable,
            Self::Unauthorized(_) => Failure::Unauthorized,
            Self::Refused(_) => Failure::NotListed,
        }
    }
}

/// Asks servers.
#[derive(Clone)]
pub struct Asking {
    http: Client<HttpsConnector<Connector>, Full<Bytes>>,
}

impl Asking {
    /// With the certificate authorities of the system, or those of `SSL_CERT_FILE`.
    ///
    /// # Panics
    /// Never: aws-lc-rs has what TLS 1.2 and 1.3 need.
    #[must_use]
    pub fn new(reach: Reach) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs has the cipher suites of TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector(Arc::new(reach)));
        Self { http: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// The tools that a server lists.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tools(&self, url: &str, token: Option<&str>) -> Result<Vec<Listed>, Error> {
        let wrong = || Error::Url(clean(url));
        let uri: http::Uri = url.parse().map_err(|_| wrong())?;
        // A password in a URL is a token that nobody has configured.
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(wrong());
        }
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
            if tools.len() > MOST_TOOLS {
                return Err(Error::Refused(format!("it lists more than {MOST_TOOLS} tools")));
            }
            cursor = match result.get_mut("nextCursor").map(Value::take) {
                None | Some(Value::Null) => return Ok(tools),
                next => next,
            };
        }
        Err(Error::Refused(format!("its list has more than {MOST_PAGES} pages")))
    }

    /// Opens a session as it was done before 2026-07-28.
    async fn greet<'a>(&self, uri: http::Uri, token: Option<&'a str>) -> Result<Session<'a>, Error> {
        let mut session = Session { version: None, ..Session::modern(uri, token) };
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
        let message = answer(&parts.headers, body, id, &session.left).await?;
        if let Some(error) = message.get("error") {
            let said = error.get("message").and_then(Value::as_str).unwrap_or("an error without a message");
            return Err(Error::Refused(clean(said)));
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
        let response = self.http.request(request).await.map_err(|error| unreached(&error))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status if status.is_redirection() => Err(Error::Refused(format!("HTTP {}: it redirects", status.as_u16()))),
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
    /// How many bytes it may still answer with.
    left: AtomicUsize,
}

impl<'a> Session<'a> {
    fn modern(uri: http::Uri, token: Option<&'a str>) -> Self {
        Self { uri, token, version: Some(MODERN.to_owned()), id: None, left: MOST_BYTES.into() }
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

/// The message with an id, of a body that is JSON or a stream of events; `left` is how many bytes
/// it may have.
async fn answer(headers: &HeaderMap, body: hyper::body::Incoming, id: usize, left: &AtomicUsize) -> Result<Value, Error> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let streams = kind.starts_with("text/event-stream");
    let mut body = body;
    let (mut bytes, mut read) = (vec![], 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| unreached(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        let before = left.load(Ordering::Relaxed);
        let Some(after) = before.checked_sub(data.len()) else {
            return Err(Error::Refused(format!("its answers have more than {MOST_BYTES} bytes")));
        };
        left.store(after, Ordering::Relaxed);
        bytes.extend_from_slice(data);
        // A stream may stay open after the answer.
        if streams && let Some(end) = last_end(&bytes, read.max((bytes.len() - data.len()).saturating_sub(3))) {
            // Each byte is read once, however it comes.
            let whole = &bytes[read..end];
            read = end;
            if let Some(message) = event(whole, id) {
                return Ok(message);
            }
        }
    }
    let none = || Error::Refused("its answer is no JSON-RPC message".to_owned());
    if streams { Err(none()) } else { strict::read(&bytes).map_err(|_| none()) }
}

/// Where the last event ends that has come whole, of those that end behind `from`.
fn last_end(bytes: &[u8], from: usize) -> Option<usize> {
    let ends = |end: &usize| bytes[from..*end].ends_with(b"\n\n") || bytes[from..*end].ends_with(b"\n\r\n");
    (from..=bytes.len()).rev().find(ends)
}

/// The message with an id among events that have come whole.
fn event(bytes: &[u8], id: usize) -> Option<Value> {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    text.split("\n\n").find_map(|event| {
        let data: Vec<&str> = event.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
        strict::read(data.join("\n").as_bytes()).ok().filter(|message| message["id"] == id)
    })
}

/// Why nothing came back.
fn unreached(error: &(dyn std::error::Error + 'static)) -> Error {
    let mut last = error;
    loop {
        let inner = last.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if last.is::<Refused>() || inner.is_some_and(|inner| inner.is::<Refused>()) {
            return Error::UnsafeAddress;
        }
        let Some(source) = last.source() else { break };
        last = source;
    }
    Error::Unreachable(clean(&last.to_string()))
}

/// What somebody else wrote, short and on one line: a certificate names whom it likes.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !"\u{2028}\u{2029}\u{feff}".contains(*c)).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking() -> Asking {
        Asking::new(Reach { loopback: true, ..Reach::default() })
    }

    /// Answers every request alike, and counts them.
    async fn answering(answer: &'static str) -> (String, Arc<AtomicUsize>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (url, asked)
    }

    #[tokio::test]
    async fn nobody_is_asked_where_nobody_may_be_asked() {
        let (url, asked) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let error = Asking::new(Reach::default()).tools(&url, Some("secret")).await.unwrap_err();
        assert_eq!((&error, error.failure()), (&Error::UnsafeAddress, Failure::UnsafeAddress));
        assert_eq!(asked.load(Ordering::SeqCst), 0, "nothing was even connected to");
        for url in ["http://169.254.169.254/latest/meta-data", "https://[fe80::1]/mcp", "http://[::ffff:169.254.169.254]/"] {
            assert_eq!(asking().tools(url, None).await.unwrap_err(), Error::UnsafeAddress, "{url}");
        }
        let error = asking().tools(&url.replace("http://", "http://user:password@"), None).await.unwrap_err();
        assert!(matches!(error, Error::Url(_)), "{error}");
    }

    #[tokio::test]
    async fn a_redirect_leads_nowhere() {
        let (inner, asked) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let answer =
            format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {inner}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let (url, _) = answering(Box::leak(answer.into_boxed_str())).await;
        let error = asking().tools(&url, None).await.unwrap_err();
        assert_eq!((error.failure(), error.to_string().contains("redirects")), (Failure::NotListed, true), "{error}");
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read_to_its_end() {
        use axum::response::IntoResponse as _;
        let endless = async || {
            let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 65_536])));
            ([("content-type", "application/json")], axum::body::Body::from_stream(chunks)).into_response()
        };
        let routes = axum::Router::new().route("/mcp", axum::routing::post(endless));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, routes).await });
        let error = asking().tools(&url, None).await.unwrap_err();
        assert!(error.to_string().contains("more than 2097152 bytes"), "{error}");
    }

    #[tokio::test]
    async fn what_a_server_says_of_an_error_is_short_and_on_one_line() {
        let said = format!("a\\nb{}", "x".repeat(500));
        let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":2,\"error\":{{\"code\":1,\"message\":\"{said}\"}}}}");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let (url, _) = answering(Box::leak(answer.into_boxed_str())).await;
        let error = asking().tools(&url, None).await.unwrap_err();
        let Error::Refused(said) = &error else { panic!("{error}") };
        assert!(said.starts_with("abxxx") && said.len() == 200, "{said}");
    }

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
        let listed = asking().tools(&old_server().await, None).await.unwrap();
        assert_eq!(listed.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_said_to_be_unreachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        drop(listener);
        let error = asking().tools(&url, None).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable(_)), "{error}");
    }

    #[test]
    fn an_answer_is_found_among_the_events_of_a_stream() {
        let stream = b": hello\r\n\r\nevent: message\r\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\r\n\r\n\
            data: {\"jsonrpc\":\"2.0\",\r\ndata: \"id\":2,\"result\":{}}\r\n\r\n";
        assert_eq!(event(stream, 2), Some(json!({"jsonrpc": "2.0", "id": 2, "result": {}})));
        assert_eq!(event(stream, 3), None);
        // One that has not come whole is none yet.
        assert_eq!(last_end(b"data: {\"id\":2}\n", 0), None);
        assert_eq!(last_end(b"data: 1\n\ndata: 2\r\n\r\ndata: 3\n", 0), Some(20));
    }
}
