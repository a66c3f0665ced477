//! How the findings of `mandate lint` are printed: one format, one file.
//!
//! No format shows a line of a manifest: next to a finding about a credential stands, often
//! enough, the credential.

mod concise;
mod github;
mod human;
mod json;
pub(super) mod junit;
mod sarif;

use std::borrow::Cow;
use std::io;

use clap::ValueEnum;

use super::lint::Report;

/// A way to print findings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Text,
    /// One line a finding, as compilers print them
    Concise,
    /// JSON
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// JUnit XML, for test reports
    Junit,
    /// Workflow commands of GitHub Actions
    Github,
}

impl Format {
    /// Whether the format itself says how many findings there are.
    pub fn tells_summary(self) -> bool {
        matches!(self, Self::Text | Self::Json)
    }
}

/// Prints a report.
pub(super) fn render(format: Format, report: &Report, colour: bool, out: &mut impl io::Write) -> io::Result<()> {
    match format {
        Format::Text => human::render(report, colour, out),
        Format::Concise => concise::render(report, out),
        Format::Json => json::render(report, out),
        Format::Sarif => sarif::render(report, out),
        Format::Junit => junit::render(report, out),
        Format::Github => github::render(report, out),
    }
}

/// A text on one line without control characters. Names come out of manifests, and a manifest
/// may try to steer the terminal of whoever checks it.
pub(super) fn line(text: &str) -> Cow<'_, str> {
    let is_unfit =
        |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if text.contains(is_unfit) { Cow::Owned(text.replace(is_unfit, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// A report to print in tests.
#[cfg(test)]
fn example() -> Report {
    use super::lint::{Finding, Object};
    use super::manifest::Problem;
    use super::manifest::node::Position;
    use crate::decide::finding::{Finding as Found, Severity};

    let finding = |line, rule, severity, path: &str, message: &str| Finding {
        at: Position { line, column: 5 },
        found: Found {
            rule,
            severity,
            path: path.to_owned(),
            message: message.to_owned(),
            help: "remove it".to_owned(),
            policy: "P".to_owned(),
            waiver: None,
        },
    };
    let object = |file: &str, name: &str, findings| Object {
        file: file.into(),
        at: Position::START,
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: "finance".to_owned(),
        name: name.to_owned(),
        findings,
    };
    let objects = vec![
        object(
            "a b/50%,x.yaml",
            "app",
            vec![
                finding(
                    7,
                    "secret-env",
                    Severity::Deny,
                    "spec.containers[0].env[0].valueFrom.secretKeyRef",
                    "container `a<b>&\"` reads: Secret `db`",
                ),
                finding(
                    9,
                    "automounted-token",
                    Severity::Warn,
                    "spec.automountServiceAccountToken",
                    "a token\nis mounted\u{1b}[31m",
                ),
            ],
        ),
        object("clean.yaml", "clean", vec![]),
    ];
    let problems = vec![
        Problem {
            file: "bad.yaml".into(),
            at: Some(Position { line: 2, column: 3 }),
            message: "this is no YAML".to_owned(),
            help: "indent with spaces".to_owned(),
        },
        Problem {
            file: "gone.yaml".into(),
            at: None,
            message: "the file cannot be read: no such file".to_owned(),
            help: String::new(),
        },
    ];
    Report::new(3, objects, problems)
}

#[cfg(test)]
fn printed(format: Format) -> String {
    let mut out = vec![];
    render(format, &example(), false, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}
