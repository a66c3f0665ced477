//! What stands in a namespace, as the report that other tools read: `Report` of
//! `openreports.io/v1alpha1`, or `PolicyReport` of `wgpolicyk8s.io/v1alpha2`, which have these
//! fields in common.
//!
//! The same findings make the same bytes: no times, and an order of severity, kind, name and
//! field, so that a report changes only with news.

use serde::Serialize;
use serde_json::{Value, json};

use super::ledger::{Entry, Ledger};
use super::{SCANNED, Standing};
use crate::decide::finding::Severity;

/// Most results in one report: some 300 kB, of the 1.5 MB that an object may have.
pub const MOST: usize = 500;
/// Who made the results, as the report says it.
pub const SOURCE: &str = "mandate";

/// The body of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The true numbers, also of what is not among the results.
    pub summary: Summary,
    /// The results, gravest first, [`MOST`] at most.
    pub results: Vec<Value>,
}

/// How many of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Never counted: what is in order is not kept.
    pub pass: u64,
    /// What would be refused today.
    pub fail: u64,
    /// What would warn or be recorded today.
    pub warn: u64,
    /// Never.
    pub error: u64,
    /// Never.
    pub skip: u64,
}

/// The report on one namespace.
#[must_use]
pub fn report(ledger: &Ledger, namespace: &str) -> Report {
    let mut report = Report::default();
    for severity in [Severity::Deny, Severity::Warn, Severity::Audit] {
        for ((kind, name), entry) in ledger.objects(namespace) {
            for finding in entry.findings.iter().filter(|finding| finding.is_told && finding.severity == severity) {
                let places = u64::from(finding.places);
                match severity {
                    Severity::Deny => report.summary.fail += places,
                    Severity::Warn | Severity::Audit => report.summary.warn += places,
                }
                if report.results.len() < MOST {
                    report.results.push(result(namespace, kind, name, entry, finding));
                }
            }
        }
    }
    report
}

fn result(namespace: &str, kind: &str, name: &str, entry: &Entry, finding: &Standing) -> Value {
    let Standing { severity, rule, path, message, policy, waiver, is_told: _, places } = finding;
    let (result, weight) = match severity {
        Severity::Deny => ("fail", "high"),
        Severity::Warn => ("warn", "medium"),
        Severity::Audit => ("warn", "low"),
    };
    let api_version =
        SCANNED.iter().find(|scanned| scanned.kind == kind).map_or_else(String::new, |scanned| match scanned.group {
            "" => scanned.version.to_owned(),
            group => format!("{group}/{}", scanned.version),
        });
    let mut resource = json!({"apiVersion": api_version, "kind": kind, "namespace": namespace, "name": name});
    if entry.uid != 0 {
        resource["uid"] = json!(uid(entry.uid));
    }
    let message = if message.is_empty() {
        format!("{places} more places; `mandate explain {rule}` says what is wrong there")
    } else {
        message.to_string()
    };
    let mut result = json!({
        "source": SOURCE,
        "policy": policy,
        "rule": rule,
        "category": "credentials",
        "result": result,
        "severity": weight,
        "resources": [resource],
        "message": message,
    });
    if !path.is_empty() {
        result["properties"]["path"] = json!(path);
    }
    if let Some((waiver, _)) = waiver {
        result["properties"]["waiver"] = json!(waiver);
    }
    result
}

/// A UID as Kubernetes writes it.
fn uid(number: u128) -> String {
    let digits = format!("{number:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}
