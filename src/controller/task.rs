//! One task: gather, judge, act, report.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;
use tracing::{debug, info, warn};

use super::{Context, look, looked};
use crate::api::{AgentTask, AgentTaskStatus, ClusterAgentPolicySpec, Phase, Workloads, names};
use crate::cluster::apply::{ApplyError, Work};
use crate::cluster::{ask, event, observe};
use crate::decide::check::is_over;
use crate::decide::delegate::{Above, Ancestor};
use crate::decide::grant::{self, Bound, Object, Observed, Owned, Plan, Step};
use crate::metrics::{self, Kind, Reconciled, Verb};

/// Why a task could not be brought to where it should be.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A step failed.
    #[error("carrying out the plan of task `{task}`")]
    Apply {
        /// The task.
        task: String,
        /// Cause.
        source: ApplyError,
    },
    /// The API server could not be asked who may do what.
    #[error("asking the API server about task `{task}`")]
    Ask {
        /// The task.
        task: String,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// The status could not be written.
    #[error("writing the status of task `{task}`")]
    Status {
        /// The task.
        task: String,
        /// Cause.
        source: Box<kube::Error>,
    },
}

/// Waits at the longest this long before a task is looked at again: timers that never fire
/// would go unnoticed, and this costs one look in memory.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

pub(super) async fn reconcile(task: Arc<AgentTask>, context: Arc<Context>) -> Result<Action, TaskError> {
    let started = Instant::now();
    let span = look(&context, Kind::AgentTask, &*task);
    let result = bring(&task, &context).await;
    let outcome = result.as_ref().map_or(Reconciled::Error, |(outcome, _)| *outcome);
    context.metrics.reconciled(Kind::AgentTask, outcome, started.elapsed());
    looked(span, outcome);
    let (_, next) = result?;
    context.backoff.worked(&key(&task));
    Ok(next)
}

pub(super) fn failed(task: Arc<AgentTask>, error: &TaskError, context: Arc<Context>) -> Action {
    let wait = context.backoff.failed(key(&task));
    warn!(task = key(&task), error = %chain(error), retry_ms = wait.as_millis(), "a task could not be brought to where it should be");
    Action::requeue(wait)
}

fn key(task: &AgentTask) -> String {
    format!("{}/{}", task.namespace().unwrap_or_default(), task.name_any())
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

async fn bring(task: &AgentTask, context: &Context) -> Result<(Reconciled, Action), TaskError> {
    let now = context.clock.now();
    let plan = judge(task, context, now).await?;
    let work = Work::new(context.writer(), &context.roles, task);
    let (plan, issued) = match work.carry_out(&plan.steps, now).await {
        Ok(issued) => (plan, issued),
        // The API server said no: take back what was made on the way, and say why.
        Err(ApplyError::Refused(because)) if !is_over(task) => {
            let plan = grant::take_back(task, because, now);
            work.carry_out(&plan.steps, now).await.map_err(|source| TaskError::Apply { task: key(task), source })?;
            (plan, vec![])
        }
        // For one that runs it is an error to try again: its credentials still live.
        Err(ApplyError::Missing(because)) if !grant::is_active(task) => {
            let plan = grant::hold_back(task, because, now);
            work.carry_out(&plan.steps, now).await.map_err(|source| TaskError::Apply { task: key(task), source })?;
            (plan, vec![])
        }
        Err(source) => return Err(TaskError::Apply { task: key(task), source }),
    };
    if !plan.steps.is_empty() {
        debug!(task = key(task), steps = plan.steps.len(), "steps were carried out");
    }
    let lets_go = plan.steps.iter().any(|step| matches!(step, Step::Take(Object::Binding) | Step::Rebind(_)));
    let outcome = match &plan.report {
        Some(report) if report.warning && plan.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Refused)) => {
            Reconciled::Refused
        }
        _ if plan.steps.is_empty() && plan.report.is_none() => Reconciled::Unchanged,
        _ => Reconciled::Changed,
    };
    if let Some(status) = plan.status {
        let status = grant::settle(status, issued);
        write(task, context, status).await?;
    }
    if lets_go {
        context.roles_news.notify_one();
    }
    if let Some(report) = &plan.report {
        info!(task = key(task), reason = report.because.reason.as_str(), "the task changed");
        event::publish(&context.client, &context.instance, task, "Decide", report, now).await;
    }
    let next = match plan.look_again {
        Some(at) => {
            let wait = Duration::try_from(at.duration_since(context.clock.now())).unwrap_or_default();
            Action::requeue(wait.min(LONGEST_WAIT))
        }
        None => Action::await_change(),
    };
    Ok((outcome, next))
}

/// Plans, and where the plan asks, asks and plans again.
async fn judge(task: &AgentTask, context: &Context, now: jiff::Timestamp) -> Result<Plan, TaskError> {
    let namespace = task.namespace().unwrap_or_default();
    let identity = context.identities.get(&within_of(&namespace, &task.spec.agent));
    let scope = context.scopes.get(&within_of(&namespace, &task.spec.scope));
    let cluster = context.cluster_policies.state();
    let names: Vec<String> = cluster.iter().map(|policy| policy.name_any()).collect();
    let mut policies: Vec<(&str, &ClusterAgentPolicySpec)> = names
        .iter()
        .map(String::as_str)
        .zip(cluster.iter().map(|policy| &policy.spec))
        .filter(|(_, spec)| spec.holds_in(&namespace))
        .collect();
    policies.sort_by_key(|(name, _)| *name);
    let here = context.policies.state();
    let workloads = here
        .iter()
        .filter(|policy| policy.namespace().as_deref() == Some(&namespace))
        .filter_map(|policy| policy.spec.guardrails.workloads.as_ref().map(|workloads| workloads.max_token_ttl));
    let most = policies
        .iter()
        .filter_map(|(_, spec)| spec.guardrails.workloads.as_ref())
        .map(|workloads| workloads.max_token_ttl)
        .chain(workloads)
        .min();
    let (line, siblings) = match &task.spec.parent {
        Some(parent) => (context.family.line(task), context.family.children(&namespace, parent)),
        None => (vec![], vec![]),
    };
    let hangs_on = line.iter().map(|above| {
        let identity = context.identities.get(&within_of(&namespace, &above.spec.agent));
        (identity, context.scopes.get(&within_of(&namespace, &above.spec.scope)))
    });
    let hangs_on: Vec<_> = hangs_on.collect();
    let line = line.iter().zip(&hangs_on).map(|(task, (identity, scope))| Ancestor {
        task,
        identity: identity.as_deref(),
        scope: scope.as_deref(),
    });
    let (line, siblings): (Vec<_>, Vec<&AgentTask>) = (line.collect(), siblings.iter().map(AsRef::as_ref).collect());
    let observed = Observed {
        above: Above::Known { line: &line, siblings: &siblings },
        identity: identity.as_deref(),
        scope: scope.as_deref(),
        policies: &policies,
        max_token_ttl: most.unwrap_or(Workloads::BUILT_IN.max_token_ttl),
        owned: owned(task, context),
        answer: None,
    };
    let plan = grant::plan(task, &observed, now);
    if plan.ask.is_empty() {
        return Ok(plan);
    }
    let answer = ask::ask(&context.client, &plan.ask)
        .await
        .map_err(|source| TaskError::Ask { task: key(task), source: Box::new(source) })?;
    Ok(grant::plan(task, &Observed { answer: Some(&answer), ..observed }, now))
}

fn within_of<K: kube::Resource<DynamicType = ()>>(namespace: &str, name: &str) -> ObjectRef<K> {
    ObjectRef::new(name).within(namespace)
}

fn owned(task: &AgentTask, context: &Context) -> Owned {
    let (namespace, uid) = (task.namespace().unwrap_or_default(), task.uid().unwrap_or_default());
    let owns = names::of_task(&task.name_any(), &uid);
    let binds = context.bindings.of(&namespace, &owns, &uid).map(|fact| fact.digest);
    let service_account = context.service_accounts.of(&namespace, &owns, &uid).is_some();
    let grant = task.status.as_ref().and_then(|status| status.grant.clone()).unwrap_or_default();
    // A task that runs since before tasks shared Roles keeps its own for as long as that is right.
    let own = context.roles.of(&namespace, &owns, &uid).map(|fact| fact.digest);
    if binds == Some(observe::binding_to(&owns)) && own == Some(grant::digest(&grant.rules)) {
        return Owned { service_account, role: own, bound: Bound::AsGranted };
    }
    let name = grant::name_of_role(&task.spec.scope, &grant);
    let role = name.as_ref().and_then(|name| context.roles.of(&namespace, name, &grant.scope_uid));
    let bound = match binds {
        None => Bound::Nothing,
        Some(digest) if name.is_some_and(|name| digest == observe::binding_to(&name)) => Bound::AsGranted,
        Some(_) => Bound::Otherwise,
    };
    Owned { service_account, role: role.map(|fact| fact.digest), bound }
}

/// Writes the status where it is new. The UID keeps it off a task made anew under the name.
async fn write(task: &AgentTask, context: &Context, status: AgentTaskStatus) -> Result<(), TaskError> {
    if task.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let api: Api<AgentTask> = Api::namespaced(context.client.clone(), &task.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": AgentTask::api_version(&()),
        "kind": AgentTask::kind(&()),
        "metadata": {"name": task.name_any(), "uid": task.uid()},
        "status": status,
    });
    match api.patch_status(&task.name_any(), &PatchParams::apply(names::MANAGER).force(), &Patch::Apply(&body)).await {
        Ok(_) => {
            context.metrics.wrote(Verb::Patch, metrics::Resource::AgentTasksStatus);
            Ok(())
        }
        // Gone, or made anew, in the meantime: what it owned goes with its own end.
        Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => Ok(()),
        Err(source) => Err(TaskError::Status { task: key(task), source: Box::new(source) }),
    }
}
