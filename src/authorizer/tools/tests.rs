use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::listing::Listed;
use super::*;
use crate::decide::authorize::snapshot::{Sheet, Written};

/// An MCP server that lists some tools; how often it was asked, and with which token.
#[derive(Clone, Default)]
struct Server {
    tools: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicUsize>,
    tokens: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(&self) -> u16 {
        let server = self.clone();
        let answer = async move |headers: HeaderMap, axum::Json(body): axum::Json<Value>| {
            server.asked.fetch_add(1, Ordering::SeqCst);
            let token = headers.get("authorization").map(|token| token.to_str().unwrap().to_owned());
            server.tokens.lock().unwrap().extend(token);
            axum::Json(json!({"jsonrpc": "2.0", "id": body["id"], "result": {"tools": *server.tools.lock().unwrap()}}))
        };
        let routes = axum::Router::new().route("/mcp", axum::routing::post(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async { axum::serve(listener, routes).await });
        port
    }

    fn lists(&self, tools: &[&Value]) {
        *self.tools.lock().unwrap() = tools.iter().map(|tool| (*tool).clone()).collect();
    }
}

fn tool(description: &str) -> Value {
    json!({"name": "read", "description": description})
}

fn pin(tool: &Value) -> String {
    Listed::read(tool.clone()).unwrap().pin()
}

fn watch(tokens: BTreeMap<String, Token>) -> Watch {
    let reach = Reach { loopback: true, ..Reach::default() };
    Watch::new(Settings { every: Duration::from_secs(1), kept: KEPT, tokens, reach })
}

fn sources(url: &str, version: &str, pin: &str) -> Sources {
    let spec = serde_json::from_value(json!({
        "owner": {"team": "t", "contact": "c"}, "mcp": {"url": url},
        "tools": [
            {"name": "read", "effect": "read", "classification": "public", "pin": pin},
            {"name": "free", "effect": "read", "classification": "public"},
        ],
    }));
    let source = ServerSource { spec: spec.unwrap(), stopped: vec![] };
    let written = Written { version: version.into(), spec: Arc::new(Loaded::Readable(source)) };
    let sheet = Sheet { servers: BTreeMap::from([("ledger".to_owned(), written)]), ..Sheet::default() };
    Sources { namespaces: BTreeMap::from([("finance".to_owned(), sheet)]), ..Sources::default() }
}

/// Why tools are stopped, once a watch was told what there is.
fn stopped(watch: &Watch, url: &str, version: &str, pin: &str) -> Vec<(String, Why)> {
    let mut sources = sources(url, version, pin);
    watch.apply(&mut sources);
    let Loaded::Readable(source) = &*sources.namespaces["finance"].servers["ledger"].spec else { panic!() };
    source.stopped.iter().map(|stopped| (stopped.tool.clone(), stopped.why)).collect()
}

fn read(why: Why) -> Vec<(String, Why)> {
    vec![("read".to_owned(), why)]
}

#[tokio::test]
async fn a_tool_is_called_only_after_its_server_was_asked() {
    let (server, watch, reviewed) = (Server::default(), watch(BTreeMap::new()), tool("Read"));
    server.lists(&[&reviewed]);
    let url = format!("http://127.0.0.1:{}/mcp", server.start().await);
    assert_eq!(stopped(&watch, &url, "1", &pin(&reviewed)), read(Why::NotLookedAt));
    watch.round().await;
    assert_eq!(stopped(&watch, &url, "1", &pin(&reviewed)), []);
    // What is at another address was not looked at, and another pin is looked at anew.
    assert_eq!(stopped(&watch, &url.replace("127.0.0.1", "localhost"), "2", &pin(&reviewed)), read(Why::NotLookedAt));
    assert_eq!(stopped(&watch, &url, "3", &pin(&reviewed)), read(Why::NotLookedAt));
    watch.round().await;
    let asked = server.asked.load(Ordering::SeqCst);
    assert_eq!(stopped(&watch, &url, "4", &pin(&tool("other"))), read(Why::Changed));
    watch.round().await;
    assert_eq!(server.asked.load(Ordering::SeqCst), asked + 1);
}

#[tokio::test]
async fn of_two_tools_of_one_name_neither_is_what_was_reviewed() {
    let (server, watch, reviewed) = (Server::default(), watch(BTreeMap::new()), tool("Read"));
    let url = format!("http://127.0.0.1:{}/mcp", server.start().await);
    for tools in [[&reviewed, &tool("other")], [&tool("other"), &reviewed], [&reviewed, &reviewed]] {
        server.lists(&tools);
        let _ = stopped(&watch, &url.replace("/mcp", "/none"), "0", &pin(&reviewed));
        let _ = stopped(&watch, &url, "1", &pin(&reviewed));
        watch.round().await;
        assert_eq!(stopped(&watch, &url, "1", &pin(&reviewed)), read(Why::Changed));
    }
}

#[tokio::test]
async fn a_token_goes_to_its_server_and_its_host_alone() {
    let file = std::env::temp_dir().join(format!("mandate-tools-token-{}", std::process::id()));
    std::fs::write(&file, "secret\n").unwrap();
    let (server, reviewed) = (Server::default(), tool("Read"));
    server.lists(&[&reviewed]);
    let url = format!("http://127.0.0.1:{}/mcp", server.start().await);
    let of = |key: &str, host: Option<&str>| {
        watch(BTreeMap::from([(key.to_owned(), Token { file: file.clone(), host: host.map(str::to_owned) })]))
    };
    for (watch, why, sent) in [
        (of("finance/other", None), vec![], vec![]),
        (of("other/ledger", None), vec![], vec![]),
        (of("finance/ledger", Some("ledger.example")), read(Why::NotReachable), vec![]),
        (of("finance/ledger", Some("127.0.0.1")), vec![], vec!["Bearer secret".to_owned()]),
        (of("finance/ledger", None), vec![], vec!["Bearer secret".to_owned()]),
    ] {
        server.tokens.lock().unwrap().clear();
        let _ = stopped(&watch, &url, "1", &pin(&reviewed));
        watch.round().await;
        assert_eq!((stopped(&watch, &url, "1", &pin(&reviewed)), &*server.tokens.lock().unwrap()), (why, &sent));
    }
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn a_status_of_this_very_version_is_believed_and_no_other() {
    let (watch, reviewed) = (watch(BTreeMap::new()), tool("Read"));
    let changed = json!({"changed": [{"tool": "read", "now": pin(&tool("other")), "reason": "ToolChanged"}],
        "lastCheckedAt": "2026-10-05T09:00:00Z", "conditions": []});
    let status: ToolServerStatus = serde_json::from_value(changed).unwrap();
    let url = "http://127.0.0.1:1/mcp";
    watch.heard("finance/ledger", &"2".into(), &status);
    assert_eq!(stopped(&watch, url, "1", &pin(&reviewed)), read(Why::NotLookedAt));
    assert_eq!(stopped(&watch, url, "2", &pin(&reviewed)), read(Why::Changed));
    watch.round().await;
    assert_eq!(stopped(&watch, url, "2", &pin(&reviewed)), read(Why::Changed), "it does not answer");
}
