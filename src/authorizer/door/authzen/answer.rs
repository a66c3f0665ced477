//! Answers in AuthZEN's words.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::authorizer::Answer;
use crate::decide::authorize::{Approval, Decision, Reason};

/// An answer, as it is shown.
#[derive(Debug)]
pub struct Answered {
    /// The answer. Where its id is empty, nothing was recorded that could be found by one.
    pub answer: Answer,
    /// Why the subject could not be proved, where it could not.
    pub unproved: Option<String>,
}

/// One of several evaluations.
pub(super) enum Evaluation {
    Answered(Box<Answered>),
    /// It could not be read.
    NotUnderstood(String),
}

impl Evaluation {
    pub(super) fn is_yes(&self) -> bool {
        matches!(self, Self::Answered(answered) if answered.answer.is_yes())
    }
}

#[derive(Serialize)]
pub(super) struct Several {
    pub evaluations: Vec<Evaluation>,
}

#[derive(Serialize)]
struct Shown<'a, C> {
    decision: bool,
    context: &'a C,
}

#[derive(Serialize)]
struct Context<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    evaluation_id: &'a str,
    #[serde(serialize_with = "time")]
    evaluated_at: Timestamp,
    outcome: &'static str,
    cache_for: u32,
    #[serde(serialize_with = "reasons")]
    reasons: &'a [Reason],
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    chain: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "reasons")]
    notices: &'a [Reason],
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<ApprovalShown<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    outcome_awaited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure<'a>>,
}

#[derive(Serialize)]
struct ApprovalShown<'a> {
    rules: Vec<&'a str>,
    approvers: &'a [String],
    valid_for: i64,
}

#[derive(Serialize)]
struct Failure<'a> {
    status: u16,
    message: &'a str,
}

#[derive(Serialize)]
struct ErrorContext<'a> {
    error: Failure<'a>,
}

impl Serialize for Answered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { answer, unproved } = self;
        let Decision { outcome, cache_for, reasons, notices, approval, reservation, looked_at, risk: _ } = &answer.decision;
        let approval = approval.as_ref().map(|Approval { rules, approvers, valid_for }| ApprovalShown {
            rules: rules.iter().map(|rule| &**rule).collect(),
            approvers,
            valid_for: valid_for.as_secs(),
        });
        let context = Context {
            evaluation_id: &answer.id,
            evaluated_at: answer.at,
            outcome: outcome.as_str(),
            cache_for: *cache_for,
            reasons,
            reason: (!answer.is_yes()).then(|| answer.words()),
            chain: &looked_at.chain,
            notices,
            approval,
            outcome_awaited: reservation.is_some(),
            error: unproved.as_deref().map(|message| Failure { status: 401, message }),
        };
        Shown { decision: answer.is_yes(), context: &context }.serialize(serializer)
    }
}

impl Serialize for Evaluation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Answered(answered) => answered.serialize(serializer),
            Self::NotUnderstood(message) => {
                let error = Failure { status: 400, message };
                Shown { decision: false, context: &ErrorContext { error } }.serialize(serializer)
            }
        }
    }
}

fn time<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

fn reasons<S: Serializer>(reasons: &&[Reason], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Why<'a> {
        code: &'static str,
        rule: Option<&'a str>,
        message: &'a str,
        help: &'a str,
    }
    serializer.collect_seq(reasons.iter().map(|Reason { code, rule, message, help }| Why {
        code: code.as_str(),
        rule: rule.as_deref(),
        message,
        help,
    }))
}
