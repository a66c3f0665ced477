use serde_json::json;

use super::*;

/// A request as a client of the protocol sends it, before a case changes it.
#[derive(Clone)]
struct Sent {
    method: &'static str,
    path: &'static str,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn sent(body: impl AsRef<[u8]>) -> Sent {
    let body = body.as_ref().to_vec();
    let headers = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
    let mut headers: BTreeMap<String, String> = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    headers.insert("content-length".to_owned(), body.len().to_string());
    Sent { method: "POST", path: "/mcp", headers, body }
}

fn message(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
}

fn call(name: &str, arguments: Value) -> Sent {
    sent(message("tools/call", json!({"name": name, "arguments": arguments})).to_string())
}

impl Sent {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    fn read(&self) -> Result<Wish, Box<Refused>> {
        let Self { method, path, headers, body } = self;
        read(&Request { method, path, headers, body })
    }
}

/// The code and the words of a refusal.
fn refused(sent: &Sent) -> (Code, String) {
    match sent.read() {
        Err(refused) => (refused.code, refused.message),
        Ok(wish) => panic!("it was understood as {wish:?}"),
    }
}

#[test]
fn a_call_is_its_tool_and_its_arguments() {
    let wish = call("export", json!({"to": "x", "rows": 5})).read().unwrap();
    let expected = What::Call {
        tool: "export".to_owned(),
        resource: None,
        arguments: json!({"to": "x", "rows": 5}).as_object().unwrap().clone(),
    };
    assert_eq!((wish.what, wish.id, wish.method.as_str()), (expected, Some(json!(7)), "tools/call"));
}

#[test]
fn names_of_tools_are_kept_letter_for_letter() {
    // Whether one is listed is asked letter for letter: no case, no look-alike, no prefix is undone.
    for name in ["Export", "EXPORT", "еxport", "ledger__export", "Target___export", "export ", " export", "export\u{200b}"] {
        let What::Call { tool, .. } = call(name, json!({})).read().unwrap().what else { panic!("{name}") };
        assert_eq!(tool, name);
    }
}

#[test]
fn what_a_message_asks_of_a_server() {
    let reach = ["initialize", "server/discover", "ping", "tools/list"];
    for method in reach {
        assert_eq!(sent(message(method, json!({})).to_string()).read().unwrap().what, What::Reach, "{method}");
    }
    for method in ["notifications/initialized", "notifications/cancelled"] {
        let body = json!({"jsonrpc": "2.0", "method": method});
        let wish = sent(body.to_string()).read().unwrap();
        assert_eq!((wish.what, wish.id), (What::Reach, None), "{method}");
    }
    for (method, params, resource) in [
        ("resources/read", json!({"uri": "file:///a", "_meta": {}}), Some("file:///a")),
        ("resources/subscribe", json!({"uri": "file:///a"}), Some("file:///a")),
        ("prompts/get", json!({"name": "p", "arguments": {}}), Some("p")),
        ("tasks/result", json!({"taskId": "t"}), Some("t")),
        ("completion/complete", json!({"ref": {}, "argument": {}}), None),
        ("logging/setLevel", json!({"level": "debug"}), None),
        ("subscriptions/listen", json!({}), None),
        ("resources/list", json!({}), None),
    ] {
        let mut arguments = params.as_object().unwrap().clone();
        arguments.remove("_meta");
        let what = sent(message(method, params).to_string()).read().unwrap().what;
        assert_eq!(what, What::Call { tool: method.to_owned(), resource: resource.map(str::to_owned), arguments });
    }
}

#[test]
fn sessions_of_http_may_be_listened_to_and_ended_and_nothing_else() {
    let http = |method| Sent { method, body: vec![], ..sent("") }.without("content-type").without("content-length");
    for method in ["GET", "DELETE"] {
        let wish = http(method).read().unwrap();
        assert_eq!((wish.what, wish.method.as_str(), wish.id), (What::Reach, method, None));
        let with_body = Sent { method, ..sent("{}") };
        assert_eq!(refused(&with_body).0, Code::BadRequest, "{method}");
    }
    for method in ["PUT", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "post", "Get"] {
        assert_eq!(refused(&http(method)).0, Code::UnknownMethod, "{method}");
    }
}

#[test]
fn what_is_not_known_is_refused() {
    for method in ["tools/execute", "Tools/call", "tools/call ", "", "sampling/createMessage", "elicitation/create", "roots/list"]
    {
        assert_eq!(refused(&sent(message(method, json!({"name": "search"})).to_string())).0, Code::UnknownMethod, "{method}");
    }
    let (_, words) = refused(&sent(message(&"x".repeat(1000), json!({})).to_string()));
    assert!(words.len() < 200, "{words}");
}

#[test]
fn a_message_that_two_readers_could_read_in_two_ways_is_refused() {
    let start = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":"#;
    for (body, why) in [
        (format!(r#"{start}{{"name":"a","name":"b"}}}}"#), "twice"),
        (format!(r#"{start}{{"name":"a","arguments":{{"x":1,"x":2}}}}}}"#), "twice"),
        (format!(r#"{start}{{"name":"a"}},"params":{{"name":"b"}}}}"#), "twice"),
        // Some readers take no heed of case.
        (format!(r#"{start}{{"name":"a"}},"Params":{{"name":"b"}}}}"#), "`Params`"),
        (format!(r#"{start}{{"name":"a"}},"METHOD":"tools/list"}}"#), "`METHOD`"),
        (format!(r#"{start}{{"name":"a","Name":"b"}}}}"#), "`params.Name`"),
        (format!(r#"{start}{{"name":"a","Arguments":{{}}}}}}"#), "`params.Arguments`"),
        (format!(r#"{start}{{"name":"a","inputResponses":{{}}}}}}"#), "`params.inputResponses`"),
        (format!(r#"{start}{{"name":"a"}}}} {{"a":1}}"#), "no JSON of one meaning"),
        (format!("\u{feff}{start}{{\"name\":\"a\"}}}}"), "no JSON of one meaning"),
        (format!(r#"{start}{{"name":"\ud800"}}}}"#), "no JSON of one meaning"),
        (format!(r#"[{start}{{"name":"a"}}}}]"#), "batch"),
        ("[]".to_owned(), "batch"),
        ("\"tools/call\"".to_owned(), "no JSON-RPC message"),
        ("null".to_owned(), "no JSON-RPC message"),
        ("{}".to_owned(), "`jsonrpc`"),
        (r#"{"jsonrpc":2.0,"id":7,"method":"ping"}"#.to_owned(), "`jsonrpc`"),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#.to_owned(), "`id`"),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#.to_owned(), "`id`"),
        (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#.to_owned(), "`id`"),
        (r#"{"jsonrpc":"2.0","id":7,"method":["ping"]}"#.to_owned(), "`method`"),
        (r#"{"jsonrpc":"2.0","id":7,"method":"ping","result":{}}"#.to_owned(), "not both"),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":["a"]}"#.to_owned(), "`params`"),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{}}"#.to_owned(), "`params.name`"),
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":7}}"#.to_owned(), "`params.name`"),
        (format!(r#"{start}{{"name":"a","arguments":[]}}}}"#), "`params.arguments`"),
        (format!(r#"{start}{{"name":"a","arguments":"{{}}"}}}}"#), "`params.arguments`"),
        (format!(r#"{start}{{"name":"a","_meta":1}}}}"#), "`params._meta`"),
        (format!(r#"{start}{{"name":"{}"}}}}"#, "a".repeat(LONGEST_NAME + 1)), "`params.name`"),
        // A server may do it all the same, and leave out the answer.
        (r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}"#.to_owned(), "needs an `id`"),
        (r#"{"jsonrpc":"2.0","id":7,"method":"notifications/initialized"}"#.to_owned(), "no `id`"),
    ] {
        let (code, words) = refused(&sent(&body));
        assert_eq!(code, Code::BadRequest, "{body}");
        assert!(words.contains(why), "{body}: {words}");
    }
}

#[test]
fn a_tool_cannot_pass_for_an_operation() {
    for name in ["resources/read", "tools/list", "tools/call", "initialize", "notifications/x"] {
        assert_eq!(refused(&call(name, json!({}))).0, Code::UnknownTool, "{name}");
    }
}

#[test]
fn an_answer_to_the_server_may_say_nothing() {
    let ping = sent(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#).read().unwrap();
    assert_eq!((ping.what, ping.id), (What::Reach, None));
    for body in [
        r#"{"jsonrpc":"2.0","id":7,"result":{"action":"accept"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"all the entries of the ledger"}}"#,
        r#"{"jsonrpc":"2.0","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{},"params":{"x":1}}"#,
        r#"{"jsonrpc":"2.0","id":7}"#,
    ] {
        assert_eq!(refused(&sent(body)).0, Code::BadRequest, "{body}");
    }
}

#[test]
fn a_body_that_is_not_whole_is_refused() {
    let whole = call("search", json!({"text": "x"}));
    assert!(whole.read().is_ok());
    let longer = (whole.body.len() + 1).to_string();
    let shorter = (whole.body.len() - 1).to_string();
    for (sent, code) in [
        (whole.clone().with("content-length", &longer), Code::BadRequest),
        (whole.clone().with("content-length", &shorter), Code::HeaderMismatch),
        (whole.clone().with("content-length", "5,5"), Code::HeaderMismatch),
        // Cut exactly at the gateway's limit, it looks whole.
        (whole.clone().without("content-length"), Code::BadRequest),
        (whole.clone().with("x-envoy-auth-partial-body", "true"), Code::BadRequest),
        // The client has sent one of its own.
        (whole.clone().with("x-envoy-auth-partial-body", "false,true"), Code::BadRequest),
        (whole.clone().with("x-envoy-auth-partial-body", "FALSE"), Code::BadRequest),
        (whole.clone().with("content-encoding", "gzip"), Code::BadRequest),
        (whole.clone().with("content-type", "text/plain"), Code::BadRequest),
        (whole.clone().with("content-type", "application/json; charset=utf-7"), Code::BadRequest),
        (whole.clone().without("content-type"), Code::BadRequest),
        (whole.clone().with("x-http-method-override", "DELETE"), Code::HeaderMismatch),
        (Sent { path: "/mcp?name=export", ..whole.clone() }, Code::BadRequest),
    ] {
        assert_eq!(refused(&sent).0, code, "{:?} {}", sent.headers, sent.path);
    }
    assert!(whole.clone().with("x-envoy-auth-partial-body", "false").read().is_ok());
    assert!(whole.with("content-type", "application/json; charset=UTF-8").read().is_ok());
}

#[test]
fn headers_that_contradict_the_body_are_refused() {
    let base64 = |text: &str| {
        use base64::Engine as _;
        format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(text))
    };
    let search = || call("search", json!({"text": "x", "rows": 5, "region": "eu", "deep": {"tenant": "a"}}));
    for (name, value) in [
        ("mcp-method", "tools/call".to_owned()),
        ("mcp-name", "search".to_owned()),
        ("mcp-name", base64("search")),
        ("mcp-param-region", "eu".to_owned()),
        ("mcp-param-region", base64("eu")),
        ("mcp-param-rows", "5".to_owned()),
        // The schema may give the header another name than the argument.
        ("mcp-param-tenantid", "a".to_owned()),
    ] {
        assert!(search().with(name, &value).read().is_ok(), "{name}: {value}");
    }
    for (name, value) in [
        ("mcp-method", "tools/list".to_owned()),
        ("mcp-method", "Tools/Call".to_owned()),
        ("mcp-name", "export".to_owned()),
        ("mcp-name", "Search".to_owned()),
        ("mcp-name", "search,search".to_owned()),
        ("mcp-name", String::new()),
        ("mcp-name", base64("export")),
        ("mcp-name", "=?base64?!!!?=".to_owned()),
        // Other ways to write the same bytes, which other readers may refuse or read otherwise.
        ("mcp-name", "=?base64?c2VhcmNo====?=".to_owned()),
        ("mcp-name", "=?base64?c2VhcmN?=".to_owned()),
        ("mcp-name", "=?BASE64?c2VhcmNo?=".to_owned()),
        ("mcp-param-region", "us".to_owned()),
        ("mcp-param-rows", "6".to_owned()),
        // `x` is a value of another argument.
        ("mcp-param-region", "x".to_owned()),
        ("mcp-param-other", "nowhere".to_owned()),
    ] {
        assert_eq!(refused(&search().with(name, &value)).0, Code::HeaderMismatch, "{name}: {value}");
    }
    let unicode = call("søk", json!({}));
    assert!(unicode.clone().with("mcp-name", &base64("søk")).read().is_ok());
    assert_eq!(refused(&unicode.with("mcp-name", &base64("so\u{338}k"))).0, Code::HeaderMismatch);
    // A name where the body names nothing.
    let list = sent(message("tools/list", json!({})).to_string());
    assert_eq!(refused(&list.clone().with("mcp-name", "search")).0, Code::HeaderMismatch);
    let read = sent(message("resources/read", json!({"uri": "file:///a"})).to_string());
    assert!(read.clone().with("mcp-name", "file:///a").read().is_ok());
    assert_eq!(refused(&read.with("mcp-name", "file:///b")).0, Code::HeaderMismatch);
    let version =
        sent(message("tools/list", json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}})).to_string());
    assert!(version.clone().with("mcp-protocol-version", "2026-07-28").read().is_ok());
    assert_eq!(refused(&version.with("mcp-protocol-version", "2025-11-25")).0, Code::HeaderMismatch);
}

#[test]
fn a_refusal_bears_the_id_of_the_request_where_one_could_be_read() {
    let refusal = call("search", json!({})).with("mcp-name", "export").read().unwrap_err();
    assert_eq!((refusal.id, refusal.method.as_str()), (Some(json!(7)), "tools/call"));
    let refusal = sent("[]").read().unwrap_err();
    assert_eq!((refusal.id, refusal.method.as_str()), (None, "POST"));
}

#[test]
fn intent_and_trace_come_from_the_message() {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let meta = json!({"traceparent": trace, "mandate.dev/intent": "match invoice 4711"});
    let wish = sent(message("tools/list", json!({"_meta": meta})).to_string()).read().unwrap();
    assert_eq!(wish.intent.as_deref(), Some("match invoice 4711"));
    assert_eq!(wish.traceparent.as_deref(), Some(trace));
    let of_header = call("search", json!({})).with("traceparent", trace).read().unwrap();
    assert_eq!(of_header.traceparent.as_deref(), Some(trace));
    assert_eq!(call("search", json!({})).read().unwrap().traceparent, None);
}
