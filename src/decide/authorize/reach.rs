//! May this task speak to this server at all?
//!
//! Protocols greet a server and ask what it offers before anything is called. That needs no tool
//! of its own: it needs a live task whose scope names one of the server's. In: what a decision
//! about a call takes, without an action. Out: a [`Decision`]. Nothing is counted, and no rule is
//! asked: rules are about tools.

use std::sync::Arc;

use jiff::Timestamp;

use super::snapshot::Scope;
use super::{Code, Decision, LookedAt, No, Outcome, Reason, Risk, Server, Snapshot, Subject, alive, fresh, line, no, of_above};

/// Decides whether a task may speak to a server. `above`: the tasks above it, the root first.
pub fn reach(
    snapshot: &Snapshot,
    known_at: Timestamp,
    subject: &Subject,
    above: &[Arc<Subject>],
    server: &str,
    now: Timestamp,
) -> Decision {
    let mut looked_at = LookedAt::default();
    let judged = judge(snapshot, known_at, subject, above, server, now, &mut looked_at);
    let (outcome, risk, reasons) = match judged {
        Ok(reason) => (Outcome::Permit, Risk::Low, vec![reason]),
        Err(no) => (Outcome::Deny, Risk::High, no.reasons),
    };
    Decision { outcome, cache_for: 0, risk, reasons, notices: vec![], approval: None, reservation: None, looked_at }
}

fn judge(
    snapshot: &Snapshot,
    known_at: Timestamp,
    subject: &Subject,
    above: &[Arc<Subject>],
    server: &str,
    now: Timestamp,
    looked_at: &mut LookedAt,
) -> Result<Reason, Box<No>> {
    looked_at.note_tasks(subject, above.iter().map(AsRef::as_ref));
    fresh(snapshot, known_at, now)?;
    alive(subject, now)?;
    line(subject, above.iter().map(AsRef::as_ref), now)?;
    let shard = snapshot.shard(&subject.namespace);
    snapshot.readable(shard)?;
    let server = snapshot.usable(&subject.namespace, server)?;
    looked_at.versions.push((format!("ToolServer {}", server.key), server.version.clone()));
    let scope = shard.scope(&subject.scope)?;
    looked_at.versions.push((format!("TaskScope {}/{}", subject.namespace, subject.scope), scope.version.clone()));
    if !names(scope, subject, server) {
        let message = format!("scope `{}` leaves this task no tool of `{}`", subject.scope, server.key);
        return Err(no(Code::OutOfScope, None, message, "stay within the scope, or start a task with one that covers it"));
    }
    for above in above {
        let scope = shard.scope(&above.scope).map_err(|no| of_above(no, above))?;
        if !names(scope, above, server) {
            let message = format!("scope `{}` leaves it no tool of `{}`", above.scope, server.key);
            let help = "stay within the scopes of the tasks above";
            return Err(of_above(no(Code::OutOfScope, None, message, help), above));
        }
    }
    Ok(Reason {
        code: Code::Permitted,
        rule: Some(format!("TaskScope {}/{}", subject.namespace, subject.scope).into()),
        message: format!("scope `{}` names tools of `{}`", subject.scope, server.key),
        help: String::new(),
    })
}

/// Whether a scope leaves a task any tool of a server.
fn names(scope: &Scope, subject: &Subject, server: &Server) -> bool {
    server.tools().any(|tool| {
        let narrowed = subject.narrowed.as_ref();
        scope.compiled.tools.contains_key(&*tool.key)
            && narrowed.is_none_or(|narrowed| narrowed.iter().any(|name| tool.is(&subject.namespace, name)))
    })
}
