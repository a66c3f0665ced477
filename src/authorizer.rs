//! The authorizer: answers whether a task may do something, at the moment it wants to.
//!
//! In: a question from an enforcement point that was authenticated, about a task that was
//! authenticated by its own token. Out: an [`Answer`], after it was recorded. The decision
//! itself is made by [`crate::decide::authorize`], which knows no clock, network or file; here
//! are what is known ([`state`]), who may ask and who acts ([`trust`]), and the protocols
//! ([`door`]).
//!
//! Guarantees: what is not a light read is in the audit log before it is answered, and where it
//! cannot be recorded it is denied. An action that is denied for whatever reason counts towards
//! no limit. No token is logged, kept or repeated.

pub mod door;
mod evidence;
pub mod mcp;
pub mod recall;
pub mod state;
pub mod strict;
pub mod tools;
mod trace;
pub mod trust;

#[cfg(test)]
mod tests;

use std::ops::DerefMut;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use moka::sync::Cache;
use serde_json::{Value, json};

use crate::audit::{self, AuditError, Body, Entry, Kind, Log};
use crate::clock::Clock;
use crate::decide::authorize::history::{History, Outcome as Reported, RESERVED_FOR};
use crate::decide::authorize::{
    Action, Ancestor, Code, Decision, Histories, LookedAt, Outcome, Reason, Reservation, Risk, Snapshot, authorize,
};
use crate::metrics::Metrics;
use crate::telemetry::otlp::{Parent, Span, SpanKind, Traces};
pub use evidence::digest;
use state::{Acting, Actor, State};
use trust::{Asker, Caller};

/// Everything that an answer needs.
pub struct Authorizer {
    /// What is known.
    pub state: Arc<State>,
    /// Who may ask, and who acts.
    pub trust: trust::Trust,
    /// Where answers are recorded; none where nobody keeps them.
    pub log: Option<Log>,
    /// The time.
    pub clock: Clock,
    /// What is counted; none where nobody looks.
    metrics: Option<Arc<Metrics>>,
    /// What takes spans.
    traces: Traces,
    /// Decisions whose outcome is awaited.
    awaited: Cache<String, Awaited>,
}

/// A decision whose outcome is awaited.
#[derive(Clone)]
struct Awaited {
    acting: Acting,
    reservation: Reservation,
    asker: Arc<str>,
}

/// What was asked.
pub struct Question<'a> {
    /// By which protocol.
    pub door: &'static str,
    /// By whom.
    pub asker: &'a Asker,
    /// Who acts.
    pub actor: Actor,
    /// What it wants to do.
    pub action: Action<'a>,
    /// The span that asks, in the trace of what is asked about.
    pub parent: Option<Parent>,
    /// One of another trace that has to do with it.
    pub link: Option<Parent>,
}

/// What is answered.
#[must_use]
#[derive(Clone, Debug)]
pub struct Answer {
    /// Id of the decision, under which it is in the audit log.
    pub id: String,
    /// When it was made.
    pub at: Timestamp,
    /// The decision.
    pub decision: Decision,
}

impl Answer {
    /// Whether the action may go on.
    #[must_use]
    pub fn is_yes(&self) -> bool {
        self.decision.outcome == Outcome::Permit
    }

    /// Every reason in one line, for people.
    #[must_use]
    pub fn words(&self) -> String {
        let said = |reason: &Reason| {
            if reason.help.is_empty() { reason.message.clone() } else { format!("{}; {}", reason.message, reason.help) }
        };
        self.decision.reasons.iter().map(said).collect::<Vec<_>>().join(" | ")
    }
}

/// How long the disk may take to have a decision. An enforcement point that waits longer has
/// given up.
const RECORDED_WITHIN: Duration = Duration::from_secs(5);
/// Most decisions whose outcome is awaited at once.
const MOST_AWAITED: u64 = 100_000;

impl Authorizer {
    /// An authorizer that knows what is in `state`.
    #[must_use]
    pub fn new(state: Arc<State>, trust: trust::Trust, log: Option<Log>) -> Self {
        let life = Duration::try_from(RESERVED_FOR).unwrap_or_default();
        let awaited = Cache::builder().max_capacity(MOST_AWAITED).time_to_live(life).build();
        Self { state, trust, log, clock: Clock::default(), metrics: None, traces: Traces::default(), awaited }
    }

    /// Counts what is decided.
    #[must_use]
    pub fn counted(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// Tells of what is decided.
    #[must_use]
    pub fn traced(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// Decides, records, answers.
    pub async fn decide(&self, question: &Question<'_>) -> Answer {
        self.decide_by(&self.state.snapshot(), question).await
    }

    /// The same by a snapshot that the caller holds, so that several answers agree.
    pub async fn decide_by(&self, snapshot: &Snapshot, question: &Question<'_>) -> Answer {
        self.conclude(question, |task, now| self.judge(snapshot, task, question, now)).await
    }

    /// Refuses what cannot be decided: who acts was not proved, or nobody can tell what is meant.
    /// It is recorded as every no is.
    pub async fn refuse(&self, question: &Question<'_>, code: Code, message: &str, help: &str) -> Answer {
        self.answer(question, |_, _| refused(code, message, help)).await
    }

    /// The same of a task that is known; of one that is not, the answer is no.
    async fn conclude(&self, question: &Question<'_>, judge: impl FnOnce(&Acting, Timestamp) -> Decision + Send) -> Answer {
        self.answer(question, |task, now| task.map_or_else(|| unknown(&question.actor.caller), |task| judge(task, now))).await
    }

    /// Records what is decided of a task, and answers.
    async fn answer(&self, question: &Question<'_>, judge: impl FnOnce(Option<&Acting>, Timestamp) -> Decision + Send) -> Answer {
        let begun = Instant::now();
        let now = self.clock.now();
        let id = audit::new_id(now);
        let mut span = self.traces.begin("authorize", SpanKind::Server, question.parent);
        let acting = question.actor.acting.as_ref();
        let reports = question.action.reports_outcome;
        let mut decision = judge(acting, now);
        let trace = question.parent.map(|parent| parent.trace_id()).or_else(|| span.as_ref().map(Span::trace_id));
        let recorded = match &self.log {
            Some(log) => match evidence::entry(&id, question, trace, &decision, now, begun) {
                Ok(entry) => record(log, entry, &decision).await,
                Err(error) => Err(error.category()),
            },
            None => Ok(()),
        };
        if let (Some(acting), Some(reservation)) = (acting, decision.reservation.take()) {
            match (&recorded, reports) {
                (Err(_), _) => acting.settle(&reservation, Reported::Failed, now),
                (Ok(()), false) => acting.settle(&reservation, Reported::Completed, now),
                (Ok(()), true) => {
                    // What was tried by an agent has been tried, however it ends.
                    acting.settle_of_agent(&reservation, Reported::Completed, now);
                    let asker = question.asker.name.clone();
                    self.awaited.insert(id.clone(), Awaited { acting: acting.clone(), reservation: reservation.clone(), asker });
                    decision.reservation = Some(reservation);
                }
            }
        }
        if let Err(error) = recorded {
            tracing::error!(error, "a decision could not be recorded: denied");
            decision = refused(
                Code::NotRecorded,
                "the decision could not be recorded, and what is not recorded is not permitted",
                "try again; the operator of Mandate must look at the audit log",
            );
        }
        if let Some(span) = &mut span {
            trace::tell(span, &id, question, &decision);
        }
        if let Some(metrics) = &self.metrics {
            let code = decision.reasons.first().map_or("", |reason| reason.code.as_str());
            metrics.decided(question.door, decision.outcome.as_str(), code, begun.elapsed());
        }
        Answer { id, at: now, decision }
    }

    /// Whether a task would be permitted. Nothing is counted or recorded.
    #[must_use]
    pub fn would(&self, snapshot: &Snapshot, acting: &Acting, action: &Action) -> bool {
        let copy = |history: MutexGuard<'_, History>| Box::new(history.clone());
        self.weigh(snapshot, acting, action, self.clock.now(), copy).outcome == Outcome::Permit
    }

    fn judge(&self, snapshot: &Snapshot, acting: &Acting, question: &Question, now: Timestamp) -> Decision {
        // Always held first, and settled once the answer is recorded: what could not be recorded
        // was never done.
        let action = Action { reports_outcome: true, ..question.action.clone() };
        self.weigh(snapshot, acting, &action, now, |history| history)
    }

    /// Decides by the histories themselves, or by what is made of each.
    fn weigh<'a, H: DerefMut<Target = History>>(
        &self,
        snapshot: &Snapshot,
        acting: &'a Acting,
        action: &Action,
        now: Timestamp,
        of: impl Fn(MutexGuard<'a, History>) -> H,
    ) -> Decision {
        let Acting { task, subject, above } = acting;
        let mut above: Vec<_> = above.iter().map(|above| (above.subject(), of(above.history()))).collect();
        let (mut of_task, mut of_agent) = (of(task.history()), of(task.agent_history()));
        let above = above.iter_mut().map(|(subject, history)| Ancestor { subject, history }).collect();
        let mut histories = Histories { task: &mut of_task, agent: &mut of_agent, above };
        authorize(snapshot, self.state.known_at(), subject, action, &mut histories, now)
    }

    /// Takes in how an action ended that was permitted to an asker who reports outcomes. False
    /// where no such decision of this asker is awaited: unknown, settled, or expired.
    ///
    /// # Errors
    /// The report could not be recorded; it counts all the same.
    pub async fn report(&self, asker: &Asker, decision: &str, outcome: Reported, details: Value) -> Result<bool, AuditError> {
        let Some(awaited) = self.awaited.get(decision).filter(|awaited| awaited.asker == asker.name) else { return Ok(false) };
        self.awaited.invalidate(decision);
        let now = self.clock.now();
        let known = awaited.acting.settle_of_tasks(&awaited.reservation, outcome, now);
        if let Some(log) = &self.log {
            let subject = &awaited.acting.subject;
            let word = match outcome {
                Reported::Completed => "completed",
                Reported::Failed => "failed",
            };
            let keys = audit::Keys {
                namespace: Some(subject.namespace.clone()),
                task: Some(subject.name.clone()),
                task_uid: Some(subject.uid.clone()),
                agent: Some(subject.agent.clone()),
                outcome: Some(word.to_owned()),
                ..audit::Keys::default()
            };
            let body = Body::of(&json!({"askedBy": &*asker.name, "details": details}))?;
            log.record(Entry { id: decision.to_owned(), at: now, kind: Kind::Outcome, keys, body }).await?;
        }
        Ok(known)
    }
}

async fn record(log: &Log, entry: Entry, decision: &Decision) -> Result<(), &'static str> {
    let recorded = match (decision.outcome, decision.risk) {
        // Where the disk cannot keep up, light answers wait for it too: whoever asks then asks less.
        (Outcome::Permit, Risk::Low) if !log.is_behind() => log.note(entry),
        _ => {
            let (id, at) = (entry.id.clone(), entry.at);
            match tokio::time::timeout(RECORDED_WITHIN, log.record(entry)).await {
                Ok(recorded) => recorded,
                Err(_) => {
                    // It may be written yet. Then this stands behind it, and tells that it was no answer.
                    let keys = audit::Keys { outcome: Some("withheld".to_owned()), ..audit::Keys::default() };
                    let told = json!({"details": "the disk took too long; the enforcement point was told no"});
                    let body = Body::of(&told).unwrap_or_default();
                    let _ = log.note(Entry { id, at, kind: Kind::Outcome, keys, body });
                    return Err("slow");
                }
            }
        }
    };
    recorded.map_err(|error| error.category())
}

fn unknown(caller: &Caller) -> Decision {
    refused(
        Code::UnknownTask,
        format!("no running task belongs to {caller}"),
        "an agent acts by the token of its own running task: start one, and use the token from its Secret",
    )
}

fn refused(code: Code, message: impl Into<String>, help: impl Into<String>) -> Decision {
    Decision {
        outcome: Outcome::Deny,
        cache_for: 0,
        risk: Risk::High,
        reasons: vec![Reason { code, rule: None, message: message.into(), help: help.into() }],
        notices: vec![],
        approval: None,
        reservation: None,
        looked_at: LookedAt::default(),
    }
}
