//! May this task be a child of that one, and for how long?
//!
//! In: a task and what is known of the tasks above it and beside it. Out: nothing where all is
//! well; else why it waits, is refused or ends. What a child may do is computed from its parents
//! at every look and never taken from what it says itself: it holds no more than they do, acts
//! for the same person, and goes with the first of them that goes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use super::check::{self, Because, Case, Hold, Question, Reason, is_over, refuse, wait};
use super::grant::is_active;
use super::world::deadline;
use crate::api::{
    AgentIdentity, AgentTask, Credential, GROUP, KubernetesRule, Link, Permission, Requester, TaskScope, TaskScopeSpec, covers,
    names, permissions,
};

/// Most tasks above one another, the root among them, over any task.
pub const DEEPEST: usize = 8;

/// What is known of the tasks above one.
#[derive(Clone, Copy, Debug, Default)]
pub enum Above<'a> {
    /// Nobody looked. Whoever issues must.
    #[default]
    Unknown,
    /// All of it.
    Known {
        /// From the parent up to the root, as far as each is found.
        line: &'a [Ancestor<'a>],
        /// The other tasks that name the same parent.
        siblings: &'a [&'a AgentTask],
    },
}

/// A task above another, and what it hangs on.
#[derive(Clone, Copy, Debug)]
pub struct Ancestor<'a> {
    /// The task.
    pub task: &'a AgentTask,
    /// Its agent, where there is one of that name.
    pub identity: Option<&'a AgentIdentity>,
    /// Its scope, where there is one of that name.
    pub scope: Option<&'a TaskScope>,
}

impl<'a> Above<'a> {
    fn line(self) -> &'a [Ancestor<'a>] {
        match self {
            Self::Unknown => &[],
            Self::Known { line, .. } => line,
        }
    }

    /// The parent, where it is found.
    #[must_use]
    pub fn parent(self) -> Option<&'a Ancestor<'a>> {
        self.line().first()
    }
}

/// The chain of a child of a task: the root first, and that task last.
#[must_use]
pub fn chain_below(parent: &AgentTask) -> Vec<Link> {
    let above = parent.status.as_ref().map(|status| status.chain.clone()).unwrap_or_default();
    let own = Link { task: parent.name_any(), uid: parent.uid().unwrap_or_default(), agent: parent.spec.agent.clone() };
    above.into_iter().chain([own]).collect()
}

/// A child whose parent ends before it, with that end as its own.
#[must_use]
pub fn capped(task: &AgentTask, above: Above<'_>) -> Option<AgentTask> {
    let parent = above.parent()?;
    let end = deadline(parent.task);
    (end < deadline(task)).then(|| {
        let mut task = task.clone();
        task.status.get_or_insert_default().expires_at = Some(Time(end));
        task
    })
}

/// Why a task ends because of one above it.
#[must_use]
pub fn ended(task: &AgentTask, above: Above<'_>, now: Timestamp) -> Option<Because> {
    let name = task.spec.parent.as_ref()?;
    let Above::Known { line, .. } = above else { return None };
    let because = |message: String| Some(Because::new(Reason::ParentEnded, message));
    let pinned = task.status.as_ref().map(|status| status.chain.clone()).unwrap_or_default();
    let expected = match (pinned.is_empty(), line.first()) {
        (false, _) => pinned,
        (true, _) if is_active(task) => return because("the tasks above this one are not written down".to_owned()),
        // Not there yet, or not ready: it is waited for.
        (true, None) => return None,
        (true, Some(parent)) if !is_active(parent.task) => return over(parent, now).and_then(because),
        (true, Some(parent)) => chain_below(parent.task),
    };
    if expected.last().is_none_or(|link| link.task != *name) || expected.len() > DEEPEST {
        return because(format!("task `{name}` is not the parent that this one began with"));
    }
    for (index, link) in expected.iter().rev().enumerate() {
        let is_it =
            |ancestor: &&Ancestor| ancestor.task.name_any() == link.task && ancestor.task.uid().unwrap_or_default() == link.uid;
        match line.get(index).filter(is_it) {
            None => return because(format!("task `{}`, above this one, is gone", link.task)),
            Some(ancestor) => {
                if let Some(why) = over(ancestor, now) {
                    return because(why);
                }
            }
        }
    }
    None
}

/// Why a task above is over, or about to be.
fn over(ancestor: &Ancestor, now: Timestamp) -> Option<String> {
    let Ancestor { task, identity, scope } = ancestor;
    let (name, agent) = (task.name_any(), &task.spec.agent);
    let said = |what: &str| Some(format!("task `{name}`, above this one, {what}"));
    if task.metadata.deletion_timestamp.is_some() {
        return said("was deleted");
    }
    if is_over(task) {
        return said("is over");
    }
    if task.spec.end.is_some() {
        return said("is being ended");
    }
    let end = deadline(task);
    if now >= end {
        return said(&format!("passed its deadline at {end}"));
    }
    if identity.is_some_and(|identity| identity.spec.suspend) {
        return said(&format!("is of agent `{agent}`, which is suspended"));
    }
    if !is_active(task) {
        return None;
    }
    if identity.is_none_or(|identity| identity.metadata.deletion_timestamp.is_some()) {
        return said(&format!("is of agent `{agent}`, which is gone"));
    }
    let granted = task.status.as_ref().and_then(|status| status.grant.as_ref()).map(|grant| grant.scope_uid.as_str());
    let stands = scope.filter(|scope| scope.metadata.deletion_timestamp.is_none()).and_then(|scope| scope.uid());
    if stands.as_deref() != granted {
        return said(&format!("is of TaskScope `{}`, which is gone", task.spec.scope));
    }
    None
}

/// Who asks: a task's own ServiceAccount asks for what stands below that task, and for nothing
/// else. Else it would be free of its own limits by asking for a task that is nobody's child.
pub(super) fn asked_by_a_task(case: Case<'_>, requester: &Requester) -> Result<(), Hold> {
    let Some(account) = requester.username.strip_prefix("system:serviceaccount:") else { return Ok(()) };
    if !account.split_once(':').is_some_and(|(_, name)| name.starts_with(names::TASK_PREFIX)) {
        return Ok(());
    }
    let no = || {
        refuse(
            Reason::DelegationNotAllowed,
            format!(
                "`{}` is the ServiceAccount of a task, which may only ask for tasks below that one; name it in spec.parent",
                requester.username
            ),
        )
    };
    match case.above {
        _ if case.task.spec.parent.is_none() => Err(no()),
        Above::Unknown | Above::Known { line: [], .. } => Ok(()),
        Above::Known { line, .. } => {
            let of_it = |ancestor: &Ancestor| requester.username == account_of(case.namespace, ancestor.task);
            line.iter().any(of_it).then_some(()).ok_or_else(no)
        }
    }
}

/// User name of the ServiceAccount of a task.
fn account_of(namespace: &str, task: &AgentTask) -> String {
    format!("system:serviceaccount:{namespace}:{}", names::of_task(&task.name_any(), &task.uid().unwrap_or_default()))
}

/// Whether a task may be a child of its parent at all.
pub(super) fn allowed(case: Case<'_>) -> Result<(), Hold> {
    let Some(name) = &case.task.spec.parent else { return Ok(()) };
    if *name == case.task.name_any() {
        return Err(refuse(Reason::NotDelegable, "a task cannot be its own parent".to_owned()));
    }
    let Above::Known { line, siblings } = case.above else { return Ok(()) };
    let Some(parent) = line.first() else {
        return Err(wait(
            Reason::ParentNotFound,
            format!("there is no AgentTask `{name}` in namespace `{}` to be the parent; start it first", case.namespace),
        ));
    };
    if !is_active(parent.task) {
        return Err(wait(
            Reason::ParentNotReady,
            format!("parent task `{name}` has no authority yet; see `kubectl describe agenttask {name}`"),
        ));
    }
    for (index, ancestor) in line.iter().enumerate() {
        let scope = ancestor.scope.map(|scope| &scope.spec);
        delegates(scope, &ancestor.task.spec.scope, &case.task.spec.agent, index + 1)?;
    }
    let most = parent.scope.and_then(|scope| scope.spec.delegation.as_ref()).map_or(0, |delegation| delegation.max_children);
    if places_before(case.task, siblings) >= most as usize {
        return Err(refuse(
            Reason::TooManyChildren,
            format!(
                "parent task `{name}` has as many children as TaskScope `{}` allows ({most}); wait until one is over and start a new task, or have spec.delegation.maxChildren raised",
                parent.task.spec.scope
            ),
        ));
    }
    Ok(())
}

/// Whether a scope lets its tasks be delegated to an agent, `depth` levels below. Who the agent is
/// matters to the parent alone, which is at depth 1.
///
/// # Errors
/// [`Hold::Refuse`]: `NotDelegable` or `TooDeep`, with what to write.
pub fn delegates(scope: Option<&TaskScopeSpec>, name: &str, agent: &str, depth: usize) -> Result<(), Hold> {
    let Some(delegation) = scope.and_then(|scope| scope.delegation.as_ref()) else {
        return Err(refuse(
            Reason::NotDelegable,
            format!("TaskScope `{name}` delegates to nobody; its author can write spec.delegation: {{to: [{agent}]}}"),
        ));
    };
    if depth == 1 && !delegation.to.iter().any(|to| to == agent) {
        return Err(refuse(
            Reason::NotDelegable,
            format!(
                "TaskScope `{name}` delegates to {}, not to `{agent}`; its author can add it to spec.delegation.to",
                delegation.to.join(", ")
            ),
        ));
    }
    if depth > delegation.max_depth as usize || depth > DEEPEST {
        return Err(refuse(
            Reason::TooDeep,
            format!(
                "the task would stand {depth} levels below a task of TaskScope `{name}`, which allows {}; its author can raise spec.delegation.maxDepth (8 at most)",
                delegation.max_depth
            ),
        ));
    }
    Ok(())
}

/// How many places among the children of a parent are taken before this task gets one. Those that
/// run keep theirs, whoever comes; then the oldest comes first.
fn places_before(task: &AgentTask, siblings: &[&AgentTask]) -> usize {
    let place = |task: &AgentTask| {
        let created = task.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (!is_active(task), created, task.name_any())
    };
    let own = place(task);
    siblings.iter().filter(|sibling| !is_over(sibling) && sibling.name_any() != task.name_any() && place(sibling) < own).count()
}

/// Whether what a task would get is what its parent holds: Kubernetes rules and tools at the first
/// issue, credentials whenever they are issued.
pub(super) fn within(case: Case<'_>, rules: &[KubernetesRule], credentials: &[Credential]) -> Result<(), Hold> {
    let Some(parent) = case.above.parent() else { return Ok(()) };
    let name = parent.task.name_any();
    if !is_active(case.task) {
        let held = held(parent.task);
        let wanted = permissions(rules).map_err(|error| refuse(Reason::ScopeTooLarge, error.to_string()))?;
        if let Some(beyond) = wanted.iter().find(|wanted| !covers(&held, wanted)) {
            let message = format!(
                "the task would hold `{beyond}`, which its parent `{name}` does not; leave it out of spec.narrow.rules of a new task"
            );
            return Err(refuse(Reason::BeyondParent, message));
        }
        within_tools(case, parent.task)?;
    }
    let of_parent =
        parent.scope.map(|scope| check::credentials(parent.task, scope, !held(parent.task).is_empty())).transpose()?;
    let of_parent = of_parent.unwrap_or_default();
    let audience = |credential: &Credential| credential.service_account_token.as_ref().map(|token| token.audience.clone());
    let same = |one: &Credential, other: &Credential| audience(one) == audience(other) && one.secret_key == other.secret_key;
    let (kept, beyond): (Vec<_>, Vec<_>) =
        credentials.iter().partition(|credential| of_parent.iter().any(|held| same(held, credential)));
    let Some(beyond) = beyond.first() else { return Ok(()) };
    let kept: Vec<&str> = kept.iter().map(|credential| credential.name.as_str()).collect();
    Err(refuse(
        Reason::BeyondParent,
        format!(
            "the task would get credential `{}`, which its parent `{name}` does not get; write spec.narrow.credentials: [{}] in a new task",
            beyond.name,
            kept.join(", ")
        ),
    ))
}

/// The single permissions that a task holds.
#[must_use]
pub fn held(task: &AgentTask) -> BTreeSet<Permission> {
    let grant = task.status.as_ref().and_then(|status| status.grant.as_ref());
    grant.and_then(|grant| permissions(&grant.rules).ok()).unwrap_or_default()
}

fn within_tools(case: Case<'_>, parent: &AgentTask) -> Result<(), Hold> {
    let own = case.scope.map(|scope| scope.spec.tools.as_slice()).unwrap_or_default();
    let of_parent = parent.status.as_ref().and_then(|status| status.grant.as_ref()).map(|grant| grant.tools.as_slice());
    let held = tools(case.namespace, parent, of_parent.unwrap_or_default());
    let wanted = tools(case.namespace, case.task, own);
    let Some(beyond) = wanted.iter().find(|tool| !held.contains(*tool)) else { return Ok(()) };
    let short =
        |tool: &String| tool.strip_prefix(case.namespace).and_then(|rest| rest.strip_prefix('/')).unwrap_or(tool).to_owned();
    let kept: Vec<String> = wanted.intersection(&held).map(short).collect();
    Err(refuse(
        Reason::BeyondParent,
        format!(
            "the task could call `{}`, which its parent `{}` may not; write spec.narrow.tools: [{}] in a new task",
            short(beyond),
            parent.name_any(),
            kept.join(", ")
        ),
    ))
}

/// The tools that some grants leave a task, each as `namespace/server/tool`.
fn tools(namespace: &str, task: &AgentTask, grants: &[crate::api::ToolGrant]) -> BTreeSet<String> {
    let kept = task.spec.narrow.as_ref().and_then(|narrow| narrow.tools.as_ref());
    let named =
        grants.iter().flat_map(|grant| grant.names.iter().map(|tool| (&grant.server, format!("{}/{tool}", grant.server))));
    named
        .filter(|(_, name)| kept.is_none_or(|kept| kept.contains(name)))
        .map(|(server, name)| if server.contains('/') { name } else { format!("{namespace}/{name}") })
        .collect()
}

/// The person that a task acts for: the one it names, or that of the tasks above it.
///
/// # Errors
/// It names another than its parent acts for.
pub(super) fn person(case: Case<'_>) -> Result<Option<&str>, Hold> {
    let own = case.task.spec.on_behalf_of.as_ref().map(|person| person.user.as_str());
    let Some(parent) = case.above.parent() else { return Ok(own) };
    let above = case.above.line().iter().find_map(|ancestor| ancestor.task.spec.on_behalf_of.as_ref());
    let above = above.map(|person| person.user.as_str());
    match own {
        Some(own) if above != Some(own) => Err(refuse(
            Reason::PersonNotAllowed,
            format!(
                "the task names `{own}`, and its parent `{}` acts for {}; a child acts for the same person: leave onBehalfOf out",
                parent.task.name_any(),
                above.map_or("nobody".to_owned(), |above| format!("`{above}`"))
            ),
        )),
        _ => Ok(above),
    }
}

/// What is known of a person who asked for one of the tasks above themselves: their groups.
pub(super) fn known_above<'a>(case: Case<'a>, person: &str) -> Option<&'a Requester> {
    let asked = case.above.line().iter().filter_map(|ancestor| ancestor.task.spec.requested_by.as_ref());
    asked.into_iter().find(|requester| requester.username == person)
}

/// What must be asked where the requester is neither the parent itself nor who asked for it: RBAC
/// verb `delegate` on the parent.
pub(super) fn question(case: Case<'_>, requester: &Requester) -> Option<Question> {
    let parent = case.above.parent()?.task;
    if is_of_the_parent(case, requester) {
        return None;
    }
    let name = parent.name_any();
    Some(Question {
        who: requester.clone(),
        namespace: case.namespace.to_owned(),
        permission: Permission {
            group: GROUP.into(),
            resource: "agenttasks".into(),
            name: Some(name.clone()),
            verb: "delegate".into(),
        },
        otherwise: Because::new(
            Reason::DelegationNotAllowed,
            format!(
                "`{}` may not start children of task `{name}`; it is for the task itself, for who asked for it, or takes the verb `delegate` on agenttasks.mandate.dev named `{name}`",
                requester.username
            ),
        ),
    })
}

/// Whether a requester is the parent itself, or who asked for it.
pub(super) fn is_of_the_parent(case: Case<'_>, requester: &Requester) -> bool {
    let Some(parent) = case.above.parent() else { return false };
    let asked = parent.task.spec.requested_by.as_ref();
    requester.username == account_of(case.namespace, parent.task)
        || asked.is_some_and(|asked| asked.username == requester.username)
}
