//! One identity: its ServiceAccount stands, and its status says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;
use tracing::warn;

use super::{Context, look, looked};
use crate::api::{AgentIdentity, AgentIdentityStatus, Conditions, names};
use crate::cluster::apply::{self, ApplyError};
use crate::metrics::{self, Kind, Reconciled, Verb};

/// Why an identity could not be brought to where it should be.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Its ServiceAccount could not be made.
    #[error("making the ServiceAccount of agent `{agent}`")]
    Apply {
        /// The agent.
        agent: String,
        /// Cause.
        source: ApplyError,
    },
    /// The status could not be written.
    #[error("writing the status of agent `{agent}`")]
    Status {
        /// The agent.
        agent: String,
        /// Cause.
        source: Box<kube::Error>,
    },
}

/// What an identity that was refused is looked at again after: the platform may have
/// guarded the namespace since.
const REFUSED: Duration = Duration::from_secs(60);

pub(super) async fn reconcile(identity: Arc<AgentIdentity>, context: Arc<Context>) -> Result<Action, IdentityError> {
    let started = Instant::now();
    let span = look(&context, Kind::AgentIdentity, &*identity);
    let result = bring(&identity, &context).await;
    let outcome = result.as_ref().map_or(Reconciled::Error, |(outcome, _)| *outcome);
    context.metrics.reconciled(Kind::AgentIdentity, outcome, started.elapsed());
    looked(span, outcome);
    let (_, next) = result?;
    context.backoff.worked(&key(&identity));
    Ok(next)
}

pub(super) fn failed(identity: Arc<AgentIdentity>, error: &IdentityError, context: Arc<Context>) -> Action {
    let wait = context.backoff.failed(key(&identity));
    warn!(agent = key(&identity), error = %super::task::chain(error), retry_ms = wait.as_millis(), "an identity could not be brought to where it should be");
    Action::requeue(wait)
}

fn key(identity: &AgentIdentity) -> String {
    format!("agent {}/{}", identity.namespace().unwrap_or_default(), identity.name_any())
}

async fn bring(identity: &AgentIdentity, context: &Context) -> Result<(Reconciled, Action), IdentityError> {
    if identity.metadata.deletion_timestamp.is_some() {
        return Ok((Reconciled::Unchanged, Action::await_change())); // the garbage collector takes the ServiceAccount
    }
    let (namespace, name) = (identity.namespace().unwrap_or_default(), names::of_agent(&identity.name_any()));
    let stands = context.service_accounts.of(&namespace, &name, &identity.uid().unwrap_or_default()).is_some();
    let (account, refusal) = match if stands { Ok(name) } else { apply::ensure_identity(context.writer(), identity).await } {
        Ok(account) => (Some(account), None),
        Err(ApplyError::Refused(because)) => (None, Some(because)),
        Err(source) => return Err(IdentityError::Apply { agent: identity.name_any(), source }),
    };
    let now = context.clock.now();
    let old = identity.status.clone().unwrap_or_default();
    let mut conditions = Conditions::from(&old.conditions);
    let mut set = |type_, status, reason: &str, message: &str| {
        conditions.set(type_, status, reason, message, identity.metadata.generation, now);
    };
    let next = match &refusal {
        Some(because) => {
            set("Ready", false, because.reason.as_str(), &because.message);
            set("Stalled", true, because.reason.as_str(), &because.message);
            Action::requeue(REFUSED)
        }
        None if identity.spec.suspend => {
            set("Ready", false, "Suspended", "spec.suspend is true: no task of this agent runs");
            Action::await_change()
        }
        None => {
            set("Ready", true, "Registered", "tasks of this agent can start");
            Action::await_change()
        }
    };
    if refusal.is_none() {
        conditions.remove("Stalled");
    }
    let status = AgentIdentityStatus {
        observed_generation: identity.metadata.generation,
        service_account: account,
        conditions: conditions.into_vec(),
    };
    if identity.status.as_ref() == Some(&status) {
        return Ok((Reconciled::Unchanged, next));
    }
    let api: Api<AgentIdentity> = Api::namespaced(context.client.clone(), &identity.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": AgentIdentity::api_version(&()),
        "kind": AgentIdentity::kind(&()),
        "metadata": {"name": identity.name_any(), "uid": identity.uid()},
        "status": status,
    });
    match api.patch_status(&identity.name_any(), &PatchParams::apply(names::MANAGER).force(), &Patch::Apply(&body)).await {
        Ok(_) => {
            context.metrics.wrote(Verb::Patch, metrics::Resource::AgentIdentitiesStatus);
            Ok((if refusal.is_some() { Reconciled::Refused } else { Reconciled::Changed }, next))
        }
        Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => Ok((Reconciled::Unchanged, next)),
        Err(source) => Err(IdentityError::Status { agent: identity.name_any(), source: Box::new(source) }),
    }
}
