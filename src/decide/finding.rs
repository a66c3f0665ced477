//! What was found wrong, where, and what to write instead: the one word that webhook,
//! command line and reports share.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::check::Question;
use super::waive::Waived;

/// How much a finding weighs, lightest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Recorded in the API server's audit log.
    Audit,
    /// Let pass with a warning to the author.
    Warn,
    /// Refused.
    Deny,
}

impl Severity {
    /// The word for it, as it is serialized.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Warn => "warn",
            Self::Deny => "deny",
        }
    }
}

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Id of the rule, such as `secret-env`; `mandate explain` tells all about it.
    pub rule: &'static str,
    /// What happens because of it.
    pub severity: Severity,
    /// The field, such as `spec.containers[0].env[1].valueFrom.secretKeyRef`.
    pub path: String,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to write instead.
    pub help: String,
    /// The policy that asks for it.
    pub policy: String,
    /// The waiver that lets it pass, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiver: Option<Waived>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, path, message, help, policy, waiver, severity: _ } = self;
        if path.is_empty() {
            write!(f, "[{rule}] {message}")?;
        } else {
            write!(f, "[{rule}] {path}: {message}")?;
        }
        if !help.is_empty() {
            write!(f, "; help: {help}")?;
        }
        write!(f, " ({policy})")?;
        waiver.as_ref().map_or(Ok(()), |waiver| write!(f, "; {waiver}"))
    }
}

/// The answer to a review, with everything that led to it.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// All findings, gravest first, then by field.
    pub findings: Vec<Finding>,
    /// What must be asked of the API server before the answer is final: each "no" is one
    /// more finding.
    pub questions: Vec<Question>,
}

impl Verdict {
    /// A verdict of these findings.
    pub fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.path.cmp(&b.path)).then_with(|| a.rule.cmp(b.rule)));
        Self { findings, questions: vec![] }
    }

    /// Whether anything is refused.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Deny)
    }

    /// The text of a refusal: every finding that causes it, one a line.
    #[must_use]
    pub fn denial(&self) -> String {
        let denied: Vec<_> = self.of(Severity::Deny).collect();
        let mut text = match denied.len() {
            1 => "1 finding".to_owned(),
            n => format!("{n} findings"),
        };
        for finding in denied {
            // INVARIANT: writing to a String cannot fail.
            let _ = write!(text, "\n- {finding}");
        }
        text
    }

    /// The findings of one severity, in order.
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.severity == severity)
    }
}
