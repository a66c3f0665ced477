//! What the audit log keeps of a decision.
//!
//! Members stand in the order of their names, which is that of canonical JSON, so that an entry is
//! written in one go ([`Body::in_order`]). Of arguments only the digest: they may hold anything.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::Question;
use super::recall::{Above, Counted, of_above};
use super::trust::Named;
use crate::audit::{AuditError, Body, Entry, Keys, Kind};
use crate::decide::authorize::{Decision, LookedAt, Outcome, Reason, Risk};
use crate::hex::hex;
use crate::telemetry::otlp::TraceId;

/// The body of a decision's entry.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    above: Option<Vec<Above>>,
    approval: Option<Approval<'a>>,
    arguments_digest: String,
    asked_by: &'a str,
    cache_for: u32,
    chain: Option<&'a [String]>,
    classification: Option<&'static str>,
    counted: Vec<Counted>,
    cross_domain: bool,
    domain: Option<&'a str>,
    door: &'static str,
    effect: Option<&'static str>,
    intent: Option<&'a str>,
    micros: u64,
    #[serde(serialize_with = "reasons")]
    notices: &'a [Reason],
    objective: Option<&'a str>,
    #[serde(serialize_with = "objects")]
    objects: &'a [(String, Arc<str>)],
    on_behalf_of: Option<&'a str>,
    #[serde(serialize_with = "reasons")]
    reasons: &'a [Reason],
    resource: Option<&'a str>,
    risk: &'static str,
    server: &'a str,
    tool: &'a str,
    untrusted: bool,
}

#[derive(Serialize)]
struct Approval<'a> {
    approvers: &'a [String],
    rules: Vec<&'a str>,
}

fn reasons<S: Serializer>(reasons: &&[Reason], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Why<'a> {
        code: &'static str,
        message: &'a str,
        rule: Option<&'a str>,
    }
    serializer.collect_seq(reasons.iter().map(|reason| Why {
        code: reason.code.as_str(),
        message: &reason.message,
        rule: reason.rule.as_deref(),
    }))
}

fn objects<S: Serializer>(versions: &&[(String, Arc<str>)], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Version<'a> {
        object: &'a str,
        version: &'a str,
    }
    serializer.collect_seq(versions.iter().map(|(object, version)| Version { object, version }))
}

/// The entry of a decision.
///
/// # Errors
/// It has no form in JSON.
pub(super) fn entry(
    id: &str,
    question: &Question,
    trace: Option<TraceId>,
    decision: &Decision,
    now: Timestamp,
    begun: Instant,
) -> Result<Entry, AuditError> {
    let Question { door, asker, actor, action, parent: _, link: _ } = question;
    let Decision { outcome, cache_for, risk, reasons, notices, approval, reservation: _, looked_at } = decision;
    let LookedAt { tool, effect, classification, domain, cross_domain, resource, untrusted, counted, versions, .. } = looked_at;
    let (caller, subject) = (&actor.caller, actor.subject());
    let body = Body::in_order(&Told {
        // With `classification`, `untrusted`, `domain` and `counted` it is read again when the
        // process begins anew: see `recall`.
        above: subject.filter(|subject| !subject.above.is_empty()).map(|subject| of_above(subject, looked_at)),
        approval: approval.as_ref().map(|approval| Approval {
            approvers: &approval.approvers,
            rules: approval.rules.iter().map(|rule| &**rule).collect(),
        }),
        arguments_digest: digest(action.arguments),
        asked_by: &asker.name,
        cache_for: *cache_for,
        chain: subject.map(|subject| match &*looked_at.chain {
            [] => std::slice::from_ref(&subject.key),
            chain => chain,
        }),
        classification: classification.map(|classification| classification.as_str()),
        counted: counted.iter().map(|(limit, by)| Counted::of(limit, *by)).collect(),
        cross_domain: *cross_domain,
        domain: domain.as_deref(),
        door,
        effect: effect.map(|effect| effect.as_str()),
        intent: action.intent,
        micros: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        notices,
        objective: subject.map(|subject| &*subject.objective),
        objects: versions,
        on_behalf_of: subject.and_then(|subject| subject.on_behalf_of.as_deref()),
        reasons,
        resource: resource.as_deref().or(action.resource),
        risk: match risk {
            Risk::Low => "low",
            Risk::High => "high",
        },
        server: action.server,
        tool: action.tool,
        untrusted: *untrusted,
    })?;
    let keys = Keys {
        namespace: subject.map(|subject| subject.namespace.clone()),
        task: subject.map(|subject| subject.name.clone()).or_else(|| (caller.named != Named::Nobody).then(|| caller.to_string())),
        task_uid: subject.map(|subject| subject.uid.clone()),
        agent: subject.map(|subject| subject.agent.clone()),
        tool: match (tool, outcome) {
            (Some(tool), _) => Some(tool.to_string()),
            // It spoke to a server and called nothing: read again, it must not count as a call.
            (None, Outcome::Permit) => None,
            (None, _) => Some(format!("{}/{}", action.server, action.tool)),
        },
        outcome: Some(outcome.as_str().to_owned()),
        trace_id: trace.map(|trace| trace.to_string()),
        token_id: caller.token_id.clone(),
    };
    Ok(Entry { id: id.to_owned(), at: now, kind: Kind::Decision, keys, body })
}

/// Digest of the arguments of a call: SHA-256 over their RFC 8785 form, so that the same
/// arguments in another order are the same.
#[must_use]
pub fn digest(arguments: &Map<String, Value>) -> String {
    let text = serde_json_canonicalizer::to_vec(arguments).unwrap_or_default();
    format!("sha256:{}", hex(&Sha256::digest(text)))
}
