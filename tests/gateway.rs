//! A gateway as people run it: a real MCP client calls a real MCP server through a real Envoy,
//! which asks `mandate run authorizer` before it passes anything on.
//!
//! Everything is on loopback. Envoy and the MCP side come from `tests/gateway/build.sh`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the answer")]

#[path = "gateway/bed.rs"]
mod bed;

use std::time::{Duration, Instant};

use bed::Bed;
use serde_json::{Value, json};

/// What the client shows of a refusal.
fn refusal(answer: &Value) -> String {
    answer["error"].as_str().unwrap_or_else(|| panic!("it was not refused: {answer}")).to_owned()
}

/// The code of the first reason.
fn code(answer: &Value) -> &str {
    answer["data"]["reasons"][0]["code"].as_str().unwrap_or_else(|| panic!("no reason: {answer}"))
}

#[test]
fn a_permitted_call_reaches_the_server_and_a_refused_one_shows_its_reason_to_the_agent() {
    let mut bed = Bed::start("calls");
    for mode in ["auto", "legacy"] {
        let answer = bed.client(json!({"do": "call", "tool": "search", "arguments": {"text": "4711", "rows": 5}, "mode": mode}));
        assert_eq!(answer["text"], "search done", "{answer}");
    }
    assert_eq!(bed.done().len(), 2);

    let answer = bed.call("close", json!({}));
    assert!(refusal(&answer).contains("scope `match-invoices` does not name tool `ledger/close`"), "{answer}");
    println!("{answer}");
    println!("{}", bed.access_log());
    println!("{}", bed.authorizer_log());
    let _ = (code(&answer), Instant::now(), Duration::ZERO);
}
