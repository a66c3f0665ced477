//! What a decision says of itself in a trace.
//!
//! Words of closed sets, and names that everybody who may read Mandate's resources knows: never
//! what an agent sent. A tool or a task that nobody has declared is not named.

use super::Question;
use crate::decide::authorize::{Code, Decision, LookedAt};
use crate::telemetry::otlp::Span;

/// Says what was decided. Where the semantic conventions of OpenTelemetry (1.38.0) have a name for
/// something, it has that name; the rest begins with `mandate.`.
pub(super) fn tell(span: &mut Span, id: &str, question: &Question, decision: &Decision) {
    let Decision { outcome, cache_for, reasons, looked_at, risk: _, notices: _, approval: _, reservation: _ } = decision;
    let LookedAt { tool, effect, classification, .. } = looked_at;
    span.say("mandate.door", question.door);
    span.say("mandate.decision.id", id);
    span.say("mandate.decision.outcome", outcome.as_str());
    span.say_all("mandate.decision.reasons", reasons.iter().map(|reason| reason.code.as_str()));
    span.say_all("mandate.decision.rules", reasons.iter().filter_map(|reason| reason.rule.as_deref()));
    span.count("mandate.decision.cache_for", u64::from(*cache_for));
    span.say_some("gen_ai.tool.name", tool.as_deref());
    span.say_some("mandate.tool.effect", effect.map(|effect| effect.as_str()));
    span.say_some("mandate.classification", classification.map(|classification| classification.as_str()));
    if let Some(subject) = question.actor.subject() {
        span.say("k8s.namespace.name", &subject.namespace);
        span.say("mandate.task.name", &subject.name);
        span.say("gen_ai.agent.name", &subject.agent);
    }
    // A no is an answer; only what could not be recorded has failed.
    if reasons.iter().any(|reason| reason.code == Code::NotRecorded) {
        span.failed(Code::NotRecorded.as_str());
    }
    question.link.into_iter().for_each(|other| span.link(other));
}
