//! A gateway as people run it: a real MCP client calls a real MCP server through a real Envoy,
//! which asks `mandate run authorizer` before it passes anything on.
//!
//! Everything is on loopback. Envoy and the MCP side come from `tests/gateway/build.sh`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the answer")]

#[path = "gateway/bed.rs"]
mod bed;

use std::path::Path;
use std::time::{Duration, Instant};

use bed::{Bed, LEDGER};
use serde_json::{Value, json};

/// What the client shows of a refusal.
fn refusal(answer: &Value) -> &str {
    answer["error"].as_str().unwrap_or_else(|| panic!("it was not refused: {answer}"))
}

/// The code of the first reason that the client was given.
fn code(answer: &Value) -> &str {
    answer["data"]["reasons"][0]["code"].as_str().unwrap_or_else(|| panic!("no reason: {answer}"))
}

/// The answer to a message that was sent as it is: the status of HTTP, and the JSON-RPC error.
fn error(answer: &Value) -> (u64, Value) {
    let text = answer["text"].as_str().unwrap_or_else(|| panic!("no answer: {answer}"));
    let body: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {answer}"));
    (answer["status"].as_u64().unwrap(), body)
}

fn call(name: &str, arguments: Value) -> String {
    json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name, "arguments": arguments}}).to_string()
}

fn permitted(answer: &Value) {
    assert_eq!(answer["text"], "search done", "{answer}");
}

const SEARCH: &str = "search";

fn search() -> Value {
    json!({"text": "4711", "rows": 5})
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_permitted_call_reaches_the_server_and_a_refused_one_shows_its_reason_to_the_agent() {
    let mut bed = Bed::start("calls");
    // As the protocol is since 2026-07-28, and with sessions as before.
    for mode in ["auto", "legacy"] {
        let command = json!({"do": "call", "tool": SEARCH, "arguments": search(), "mode": mode});
        permitted(&bed.client(command));
        let listed = bed.client(json!({"do": "list", "mode": mode}));
        assert_eq!(listed["tools"], json!(["close", "export", "read", "search"]), "{listed}");
    }
    let read = bed.call("read", json!({"id": "invoice-4711"}));
    assert_eq!(read["text"], "read done", "{read}");
    let done = bed.called().len();
    assert_eq!(done, 3);

    for (tool, arguments, why, words) in [
        ("close", json!({}), "OutOfScope", "scope `match-invoices` does not name tool `ledger/close`"),
        (SEARCH, json!({"text": "4711", "rows": 101}), "OutOfScope", "argument `rows` must be given, and be 100 at most"),
        (SEARCH, json!({"text": "4711"}), "OutOfScope", "argument `rows` must be given, and be 100 at most"),
        (SEARCH, json!({"text": "4711", "rows": "5"}), "BadArguments", "argument `rows` must be a whole number"),
        (SEARCH, json!({"text": "4711", "rows": 5, "all": true}), "BadArguments", "argument `all` is not among those"),
        ("read", json!({"id": "payroll-1"}), "OutOfScope", "the resource is not among invoice-*"),
        ("export", json!({"to": "x@example.com"}), "RuleDenied", "entries of the ledger leave it by the monthly report alone"),
        ("Search", search(), "UnknownTool", "lists no tool of this name, letter for letter"),
        ("ledger__search", search(), "UnknownTool", "lists no tool of this name, letter for letter"),
    ] {
        for mode in ["auto", "legacy"] {
            let answer = bed.client(json!({"do": "call", "tool": tool, "arguments": arguments, "mode": mode}));
            assert!(refusal(&answer).contains(words), "{tool}: {answer}");
            assert_eq!((code(&answer), &answer["code"], &answer["data"]["nextAction"]), (why, &json!(-32001), &json!("none")));
            assert!(answer["data"]["decisionId"].as_str().is_some_and(|id| id.len() == 36), "{answer}");
        }
    }
    let read = bed.client(json!({"do": "read", "uri": "ledger://report"}));
    assert_eq!(code(&read), "UnknownTool", "{read}");
    assert_eq!(bed.called().len(), done, "nothing that was refused was done");
}

#[test]
fn what_could_be_read_in_two_ways_never_reaches_the_server() {
    let mut bed = Bed::start("hostile");
    let good = call(SEARCH, search());
    let answer = bed.post(&good, json!({"mcp-protocol-version": "2025-06-18"}));
    let passed = answer["status"].as_u64().unwrap();
    assert!(passed != 403 && !answer["text"].as_str().unwrap().contains("decisionId"), "it is passed on: {answer}");

    let unknown = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/execute", "params": {"name": SEARCH}}).to_string();
    let twice = good.replace("\"rows\":5", "\"rows\":5,\"rows\":500");
    let huge = call(SEARCH, json!({"text": "x".repeat(70_000), "rows": 5}));
    let silent = good.replace("\"id\":7,", "");
    for (body, headers, status, code, why) in [
        (&good, json!({"mcp-name": "read"}), 200, -32020, "HeaderMismatch"),
        (&good, json!({"mcp-name": "=?base64?cmVhZA==?="}), 200, -32020, "HeaderMismatch"),
        (&good, json!({"mcp-method": "tools/list"}), 200, -32020, "HeaderMismatch"),
        (&good, json!({"mcp-param-rows": "6"}), 200, -32020, "HeaderMismatch"),
        (&unknown, json!({}), 200, -32601, "UnknownMethod"),
        (&twice, json!({}), 400, -32600, "BadRequest"),
        (&format!("[{good}]"), json!({}), 400, -32600, "BadRequest"),
        (&silent, json!({}), 400, -32600, "BadRequest"),
        (&huge, json!({}), 400, -32600, "BadRequest"),
        (&good, json!({"content-type": "application/json; charset=utf-7"}), 400, -32600, "BadRequest"),
        (&good, json!({"x-http-method-override": "GET"}), 400, -32020, "HeaderMismatch"),
    ] {
        let answer = bed.post(body, headers.clone());
        let (got, body) = error(&answer);
        let found = (got, &body["error"]["code"], &body["error"]["data"]["reasons"][0]["code"]);
        assert_eq!(found, (status, &json!(code), &json!(why)), "{headers}: {answer}");
        assert_eq!(body["id"], if status == 200 { json!(7) } else { Value::Null }, "{answer}");
        assert!(!body["error"]["message"].as_str().unwrap().is_empty());
    }
    // Cut exactly at the gateway's limit, the first part is a whole message.
    let first = good.clone() + &" ".repeat(65536 - good.len());
    let cut = bed.client(json!({"do": "post", "body": format!("{first}{good}"), "chunks": 65536}));
    let said = error(&cut).1["error"]["message"].as_str().unwrap().to_owned();
    assert!(said.starts_with("`content-length` is missing"), "Envoy does not say that it cut it: {cut}");
    let query = bed.client(json!({"do": "post", "body": good, "query": "?rows=500"}));
    assert_eq!(error(&query).1["error"]["data"]["reasons"][0]["code"], "BadRequest", "{query}");
    assert_eq!(bed.called(), [] as [Value; 0], "nothing of it was done");

    let put = bed.client(json!({"do": "http", "method": "PUT"}));
    assert_eq!(put["status"], 405, "{put}");
    let stream = bed.client(json!({"do": "http", "method": "GET"}));
    assert!(stream["status"].as_u64().is_some_and(|status| status != 403 && status != 401), "a task may listen: {stream}");
    let stream =
        bed.client(json!({"do": "http", "method": "GET", "token": bed.token_for("task:finance/none", &json!(LEDGER), 60)}));
    assert_eq!(stream["status"], 403, "and nobody else: {stream}");
}

#[test]
fn only_the_token_of_a_running_task_for_this_server_alone_counts() {
    let mut bed = Bed::start("tokens");
    let token = |subject: &str, audience: Value, life| bed.token_for(subject, &audience, life);
    let october = "task:finance/october";
    let good = [token(october, json!(LEDGER), 60), token(october, json!([LEDGER]), 60), token(october, json!("mandate"), 60)];
    let bad = [
        (token(october, json!([LEDGER, "https://mail.finance.svc"]), 60), "exactly one audience"),
        (token(october, json!("https://mail.finance.svc"), 60), "meant for another audience"),
        (token(october, json!(LEDGER), -60), "it has expired"),
        (token("task:october", json!(LEDGER), 60), "no `task:namespace/name`"),
        ("x".to_owned(), "no signed JWT"),
    ];
    let stranger = token("task:finance/november", json!(LEDGER), 60);
    for token in good {
        permitted(&bed.client(json!({"do": "call", "tool": SEARCH, "arguments": search(), "token": token})));
    }
    for (token, why) in bad {
        let answer = bed.client(json!({"do": "post", "body": call(SEARCH, search()), "token": token}));
        let (status, body) = error(&answer);
        assert_eq!(status, 401, "{answer}");
        assert!(body["error"]["message"].as_str().unwrap().contains(why), "{answer}");
        assert!(answer["headers"]["www-authenticate"].as_str().unwrap().contains("error=\"invalid_token\""), "{answer}");
        // The client shows it too.
        let answer = bed.client(json!({"do": "call", "tool": SEARCH, "arguments": search(), "token": token}));
        assert!(refusal(&answer).contains(why), "{answer}");
    }
    let none = bed.client(json!({"do": "post", "body": call(SEARCH, search()), "token": "", "headers":
        {"x-mandate-task": "finance/october", "x-forwarded-client-cert": "URI=spiffe://finance/october"}}));
    assert_eq!(
        (none["status"].as_u64(), none["headers"]["www-authenticate"].as_str()),
        (Some(401), Some("Bearer realm=\"mandate\""))
    );
    let answer = bed.client(json!({"do": "call", "tool": SEARCH, "arguments": search(), "token": stranger}));
    assert!(refusal(&answer).contains("no running task belongs to task `finance/november`"), "{answer}");

    let headers: Vec<Value> = bed.done().into_iter().filter_map(|line| line.get("headers").cloned()).collect();
    assert!(!headers.is_empty());
    for headers in &headers {
        let has = |name: &str| headers.as_array().unwrap().contains(&json!(name));
        assert!(!has("authorization") && has("x-mandate-decision"), "{headers}");
    }
}

#[test]
fn the_gateways_log_leads_to_the_audit_log_and_no_token_is_written_anywhere() {
    let mut bed = Bed::start("logs");
    let token = bed.token();
    permitted(&bed.client(json!({"do": "call", "tool": SEARCH, "arguments": search(), "token": token})));
    let refused = bed.client(json!({"do": "call", "tool": "export", "arguments": {"to": "x"}, "token": token}));
    let id = refused["data"]["decisionId"].as_str().unwrap().to_owned();
    let of = |outcome: &str| json!({"task": "finance/october", "outcome": outcome});
    let begun = Instant::now();
    let lines = loop {
        // Envoy writes its log a little later.
        let log = bed.access_log();
        let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if lines.iter().any(|line| line["decision"] == id.as_str()) || begun.elapsed() > Duration::from_secs(20) {
            break lines;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let line = lines.iter().find(|line| line["decision"] == id.as_str()).unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!(json!({"task": line["task"], "outcome": line["outcome"]}), of("deny"));
    assert!(lines.iter().any(|line| line["outcome"] == "permit"), "{lines:?}");
    let mut found = false;
    let signature = token.rsplit('.').next().unwrap();
    for file in files(&bed.dir) {
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        found |= file.starts_with(bed.dir.join("audit")) && text.contains(&id);
        assert!(!text.contains(signature), "a token is in {}", file.display());
        let configuration = file.ends_with("envoy.yaml");
        assert!(configuration || !text.contains(bed::GATEWAY_TOKEN), "the gateway's token is in {}", file.display());
    }
    assert!(found, "decision {id} is in the audit log");
}

#[test]
fn a_fresh_call_is_refused_within_a_second_of_what_takes_authority_back() {
    let mut bed = Bed::start("revoked");
    let fresh = json!({"do": "call", "tool": SEARCH, "arguments": search(), "session": "one"});
    for (what, change, why, words) in [
        ("the end of the task", ("objective: Rec", "end: {reason: Revoked}\n  objective: Rec"), "TaskOver", "is being ended"),
        ("an edit of a policy", ("effects: [export]", "effects: [export, read]"), "RuleDenied", "monthly report alone"),
        ("a suspension", ("purpose: Rec", "suspend: true\n  purpose: Rec"), "AgentSuspended", "is suspended"),
        ("the loss of a grant", ("names: [search]", "names: [close]"), "OutOfScope", "does not name tool `ledger/search`"),
    ] {
        permitted(&bed.client(fresh.clone()));
        let written = bed.edit(|text| {
            assert_eq!(text.matches(change.0).count(), 1, "{}", change.0);
            text.replace(change.0, change.1)
        });
        let refused = loop {
            let sent = written.elapsed();
            let answer = bed.client(fresh.clone());
            if answer.get("error").is_some() {
                break (sent, answer);
            }
            assert!(sent < Duration::from_secs(10), "{what}: {answer}");
            std::thread::sleep(Duration::from_millis(10));
        };
        let (after, answer) = refused;
        println!("{what}: a call {} ms after the file was written is refused", after.as_millis());
        assert_eq!(code(&answer), why, "{answer}");
        assert!(refusal(&answer).contains(words), "{answer}");
        assert!(after < Duration::from_secs(1), "{what}: {after:?}");
        let restored = bed.edit(|text| text);
        while bed.client(fresh.clone()).get("error").is_some() {
            assert!(restored.elapsed() < Duration::from_secs(10), "{what} can be taken back");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn without_an_authorizer_that_knows_the_gateway_nothing_is_passed_on() {
    let mut bed = Bed::start("absent");
    permitted(&bed.call(SEARCH, search()));
    let done = bed.called().len();
    bed.kill_authorizer();
    let answer = bed.call(SEARCH, search());
    assert!(!refusal(&answer).is_empty());
    let answer = bed.post(&call(SEARCH, search()), json!({}));
    assert_eq!(answer["status"], 403, "{answer}");
    // One that does not know this gateway.
    let trust = bed.dir.join("trust.yaml");
    let text = std::fs::read_to_string(&trust).unwrap();
    let mut other: Value = serde_json::from_str(&text).unwrap();
    other["enforcementPoints"][0]["tokenSha256"] = "0".repeat(64).into();
    std::fs::write(&trust, other.to_string()).unwrap();
    bed.start_authorizer(&[]);
    let answer = bed.post(&call(SEARCH, search()), json!({}));
    assert_eq!(answer["status"], 403, "{answer}");
    assert_eq!(bed.called().len(), done);
    std::fs::write(&trust, text).unwrap();
    bed.start_authorizer(&[]);
    let begun = Instant::now();
    while bed.call(SEARCH, search()).get("error").is_some() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is passed on again:\n{}", bed.authorizer_log());
    }
}

#[test]
fn a_gateway_may_ask_over_tls() {
    let tls = "
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        common_tls_context:
          validation_context:
            trusted_ca: {filename: cert.pem}
            match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: localhost}}]";
    let mut bed = Bed::start_with("tls", |config| {
        let (before, rest) = config.split_once("  - name: mandate\n    type: STATIC").unwrap();
        let (port, after) = rest.split_once("  - name: ledger").unwrap();
        let port: String = port.split("port_value: ").enumerate().fold(String::new(), |text, (n, part)| match n {
            0 => part.to_owned(),
            _ => format!("{text}port_value: HTTPS_PORT{}", part.trim_start_matches(|c: char| c.is_ascii_digit())),
        });
        format!("{before}  - name: mandate\n    type: STATIC{tls}{port}  - name: ledger{after}")
    });
    permitted(&bed.call(SEARCH, search()));
    assert_eq!(code(&bed.call("close", json!({}))), "OutOfScope");
}

#[test]
fn a_tool_that_is_no_longer_what_was_reviewed_stops_until_it_is_again() {
    let mut bed = Bed::start("pins");
    let imported =
        bed.mandate(&["tools", "import", "--url", &bed.server_url(), "--name", "ledger", "-n", "finance"]).output().unwrap();
    assert!(imported.status.success(), "{imported:?}");
    let imported = String::from_utf8(imported.stdout).unwrap();
    let pin = |tool: &str| {
        let (_, rest) = imported.split_once(&format!("- name: {tool}\n")).unwrap();
        let line = rest.lines().find(|line| line.trim_start().starts_with("pin: ")).unwrap();
        line.trim().to_owned()
    };
    let url = bed.server_url();
    let pinned = |text: String| {
        text.replace(
            "  tools:\n  - name: search\n",
            &format!("  mcp: {{url: \"{url}\"}}\n  tools:\n  - name: search\n    {}\n", pin("search")),
        )
        .replace("  - name: read\n", &format!("  - name: read\n    {}\n", pin("read")))
    };
    bed.edit(pinned);
    bed.start_authorizer(&["--tools-every", "1s"]);
    let check = |bed: &Bed| {
        let output = bed.mandate(&["tools", "check", "manifests"]).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    let (status, text) = check(&bed);
    assert_eq!(status, 0, "{text}");
    permitted(&bed.call(SEARCH, search()));

    let until = |bed: &mut Bed, stopped: bool| {
        let begun = Instant::now();
        loop {
            let answer = bed.call(SEARCH, search());
            if answer.get("error").is_some() == stopped {
                return (begun.elapsed(), answer);
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{answer}\n{}", bed.authorizer_log());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    bed.start_server(&["--changed"]);
    let (after, answer) = until(&mut bed, true);
    println!("a changed tool stops {} ms after its server is back, asked every second", after.as_millis());
    assert_eq!(code(&answer), "ToolChanged", "{answer}");
    assert!(refusal(&answer).contains("tool `search` is no longer what was reviewed"), "{answer}");
    assert_eq!(bed.call("read", json!({"id": "invoice-1"}))["text"], "read done", "the others go on");
    let (status, text) = check(&bed);
    assert_eq!(status, 1, "{text}");
    assert!(text.contains("finance/ledger: tool `search` is not what was reviewed"), "{text}");

    // Nobody there to ask: what was stopped stays stopped.
    bed.stop_server();
    let begun = Instant::now();
    while !bed.authorizer_log().contains("they keep their last state") {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", bed.authorizer_log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(check(&bed).0, 2);
    let session = json!({"do": "post", "body": call(SEARCH, search())});
    assert_eq!(error(&bed.client(session)).1["error"]["data"]["reasons"][0]["code"], "ToolChanged");

    // One that starts while the tool is another stops it before it answers anything.
    bed.start_server(&["--changed"]);
    bed.start_authorizer(&["--tools-every", "1s"]);
    assert_eq!(code(&bed.call(SEARCH, search())), "ToolChanged");
    bed.start_server(&[]);
    let (_, answer) = until(&mut bed, false);
    permitted(&answer);
    assert!(bed.authorizer_log().contains("a tool is again what was reviewed"), "{}", bed.authorizer_log());

    // One that has never heard the server permits nothing that is pinned, and goes on with the rest.
    bed.stop_server();
    bed.start_authorizer(&["--tools-every", "1s"]);
    let (_, answer) = error(&bed.client(json!({"do": "post", "body": call(SEARCH, search())})));
    let data = &answer["error"]["data"];
    assert_eq!((&data["reasons"][0]["code"], &data["nextAction"]), (&json!("ToolNotVerified"), &json!("retry")), "{answer}");
}
