//! SARIF 2.1.0, as GitHub, GitLab and editors read it. Written with own types of what is used:
//! the whole standard as types is some hundred times as much.
//!
//! A fingerprint names rule, file, object and field but no line, so that a finding stays the
//! same where something is written above it.

use std::fmt::Write as _;
use std::io;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::lint::{Finding, Object, Report};
use super::super::manifest::Problem;
use super::super::manifest::node::Position;
use crate::decide::rule::{Level, RULES};
use crate::hex::hex;

pub(super) fn render(report: &Report, out: &mut impl io::Write) -> io::Result<()> {
    let results: Vec<Value> = report.findings().map(|(object, finding)| result(object, finding)).collect();
    let notifications: Vec<Value> = report.problems.iter().map(notification).collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "mandate",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": RULES.iter().map(|rule| json!({
                    "id": rule.id,
                    "shortDescription": {"text": sentence(rule.what)},
                    "fullDescription": {"text": rule.why},
                    "help": {"text": rule.fix},
                    "defaultConfiguration": {"level": if matches!(rule.level, Level::Restricted | Level::Advice) { "warning" } else { "error" }},
                    "properties": {"tags": ["security", "kubernetes"]},
                }).with("helpUri", rule.references.first().filter(|uri| uri.starts_with("https://")).map(|uri| json!(uri)))).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "invocations": [{"executionSuccessful": report.problems.is_empty(), "toolExecutionNotifications": notifications}],
            "results": results,
        }],
    });
    serde_json::to_writer_pretty(&mut *out, &log)?;
    writeln!(out)
}

fn result(object: &Object, finding: &Finding) -> Value {
    let found = &finding.found;
    let text = if found.help.is_empty() { found.message.clone() } else { format!("{}; help: {}", found.message, found.help) };
    let mut location = location(&object.file, Some(finding.at));
    let mut logical = vec![json!({"name": object.name, "fullyQualifiedName": object.to_string(), "kind": "resource"})];
    if !found.path.is_empty() {
        logical.push(json!({"fullyQualifiedName": format!("{object} {}", found.path), "kind": "member"}));
    }
    location["logicalLocations"] = Value::Array(logical);
    let index = RULES.iter().position(|rule| rule.id == found.rule);
    json!({
        "ruleId": found.rule,
        "level": if finding.is_denied() { "error" } else { "warning" },
        "message": {"text": text},
        "locations": [location],
        "partialFingerprints": {"mandateFinding/v1": fingerprint(object, finding)},
    })
    .with("ruleIndex", index.map(|index| json!(index)))
}

fn notification(problem: &Problem) -> Value {
    let text =
        if problem.help.is_empty() { problem.message.clone() } else { format!("{}; help: {}", problem.message, problem.help) };
    json!({"level": "error", "message": {"text": text}, "locations": [location(&problem.file, problem.at)]})
}

fn location(file: &str, at: Option<Position>) -> Value {
    let region = at.map(|at| json!({"startLine": at.line, "startColumn": at.column}));
    json!({"physicalLocation": json!({"artifactLocation": {"uri": uri(file)}}).with("region", region)})
}

fn fingerprint(object: &Object, finding: &Finding) -> String {
    let Object { file, api_version, kind, namespace, name, .. } = object;
    let parts = [finding.found.rule, file, api_version, kind, namespace, name, &finding.found.path];
    // Names and paths hold no NUL.
    hex(&Sha256::digest(parts.join("\0"))[..16])
}

/// A path as a URI reference: relative paths stay relative to where the tool ran.
fn uri(file: &str) -> String {
    let path = file.strip_prefix("./").unwrap_or(file);
    let mut uri = if path.starts_with('/') { "file://".to_owned() } else { String::new() };
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
            // INVARIANT: writing to a String cannot fail.
            byte => _ = write!(uri, "%{byte:02X}"),
        }
    }
    uri
}

/// With a capital at its beginning.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// A member more, where there is one: SARIF knows no nulls.
trait With {
    fn with(self, key: &str, value: Option<Value>) -> Self;
}

impl With for Value {
    fn with(mut self, key: &str, value: Option<Value>) -> Self {
        if let Some(value) = value {
            self[key] = value;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Format, printed};
    use super::*;

    #[test]
    fn results_have_a_place_a_rule_and_a_fingerprint() {
        let log: Value = serde_json::from_str(&printed(Format::Sarif)).unwrap();
        let run = &log["runs"][0];
        let result = &run["results"][0];
        assert_eq!(result["level"], "error");
        assert_eq!(
            result["locations"][0]["physicalLocation"],
            json!({"artifactLocation": {"uri": "a%20b/50%25%2Cx.yaml"}, "region": {"startLine": 7, "startColumn": 5}})
        );
        let index = result["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
        assert_eq!(run["invocations"][0]["executionSuccessful"], false);
        assert_eq!(run["invocations"][0]["toolExecutionNotifications"].as_array().unwrap().len(), 2);
        let prints: std::collections::BTreeSet<_> =
            run["results"].as_array().unwrap().iter().map(|result| result["partialFingerprints"].to_string()).collect();
        assert_eq!(prints.len(), 2);
    }

    #[test]
    fn paths_become_uris() {
        assert_eq!(uri("./k8s/ä b.yaml"), "k8s/%C3%A4%20b.yaml");
        assert_eq!(uri("/etc/x.yaml"), "file:///etc/x.yaml");
    }
}
