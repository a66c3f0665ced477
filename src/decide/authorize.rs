//! May this task do this, now?
//!
//! In: what is compiled of scopes, policies and tool servers; the task as it stands; the action
//! with its arguments; what the task has done; the time. Out: a [`Decision`] with its reasons.
//!
//! Order: the snapshot is fresh → task and agent are alive, and those above it → the tool is known and what was
//! reviewed → the arguments have their types → the scope permits, and that of each task above → no
//! policy denies it to any of them → nobody has to be asked → no limit is reached. Default deny. What cannot be evaluated denies, and names
//! the rule. A permitted action is taken into the history before the answer is given, so that
//! two at once cannot both be the last one.
//!
//! It never asks a clock, a network or a file, and never changes anything but the history.

pub mod arguments;
pub mod cedar;
pub mod compile;
mod explain;
pub mod history;
mod reach;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use cedar_policy::{Authorizer, Entities, Request};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use crate::api::{AgentTask, AgentTaskSpec, Classification, CountedBy, Effect, Link, Mode, Phase};
use arguments::Values;
use cedar::Looks;
use compile::{CompiledRule, Slice, Then};
use history::{History, Limit, Mark, Whose};
pub use reach::reach;
pub use snapshot::{KubernetesRequest, Server, Snapshot, ToolFacts};

/// How long a light answer may be used again at most, in seconds.
pub const LONGEST_REUSE: u32 = 5;
/// How old what is known may be before everything is denied, where nothing else is said.
pub const STALE_AFTER: SignedDuration = SignedDuration::from_mins(3);

/// A task as decisions look at it.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `namespace/name`.
    pub key: String,
    /// UID.
    pub uid: String,
    /// Its AgentIdentity, by name.
    pub agent: String,
    /// `namespace/name` of the same.
    pub agent_key: String,
    /// Its TaskScope, by name.
    pub scope: String,
    /// What it is to reach.
    pub objective: String,
    /// The person it acts for.
    pub on_behalf_of: Option<String>,
    /// Their groups, where they asked for the task themselves.
    pub groups: Vec<String>,
    /// The task that it names as its parent.
    pub parent: Option<String>,
    /// The tasks above it, the root first and its parent last.
    pub above: Vec<Link>,
    /// Why nobody can tell which tasks stand above it.
    pub unsound: Option<Arc<str>>,
    /// Tools it is narrowed to, as `server/tool` of its scope; none means all of the scope's.
    pub narrowed: Option<Vec<String>>,
    /// The tools that it was granted at its start; none where nobody wrote them down.
    pub granted: Option<Arc<compile::CompiledScope>>,
    /// Where it stands.
    pub phase: Phase,
    /// When it ends by itself.
    pub deadline: Timestamp,
    /// Whether somebody has asked for its end.
    pub ending: bool,
    /// Where its agent stands.
    pub standing: Standing,
    /// Version of the task and of its agent, for the evidence.
    pub versions: [Arc<str>; 2],
}

impl Subject {
    /// What a task says of itself; where it and its agent stand is for the caller to say.
    #[must_use]
    pub fn of(task: &AgentTask, namespace: &str, name: &str) -> Self {
        let AgentTaskSpec { agent, scope, objective, parent, on_behalf_of, narrow, requested_by, end, .. } = &task.spec;
        let on_behalf_of = on_behalf_of.as_ref().map(|person| person.user.clone());
        // Nobody else's groups can be known.
        let groups = requested_by.as_ref().filter(|requester| Some(&requester.username) == on_behalf_of.as_ref());
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            key: format!("{namespace}/{name}"),
            agent: agent.clone(),
            agent_key: format!("{namespace}/{agent}"),
            scope: scope.clone(),
            objective: objective.clone(),
            groups: groups.map(|requester| requester.groups.clone()).unwrap_or_default(),
            on_behalf_of,
            parent: parent.clone(),
            narrowed: narrow.as_ref().and_then(|narrow| narrow.tools.clone()),
            ending: end.is_some() || task.metadata.deletion_timestamp.is_some(),
            ..Self::default()
        }
    }
}

impl Subject {
    /// How many tasks stand above it.
    #[must_use]
    pub fn depth(&self) -> u32 {
        u32::try_from(self.above.len()).unwrap_or(u32::MAX)
    }

    /// `namespace/name` of a task above it, or of its own: all are in one namespace.
    #[must_use]
    pub fn key_of(&self, name: &str) -> String {
        format!("{}/{name}", self.namespace)
    }

    /// Whether another is the task that stands at a place above this one.
    #[must_use]
    pub fn is_above(&self, place: usize, other: &Self) -> bool {
        // What stands above that one must be what stands above it here: so no task is above itself.
        self.above.get(place).is_some_and(|link| {
            link.task == other.name
                && link.uid == other.uid
                && self.namespace == other.namespace
                && other.above == self.above[..place]
        })
    }
}

/// Where an agent stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It is not there.
    #[default]
    Gone,
    /// It is suspended.
    Suspended,
    /// It may work.
    Good,
}

/// What a task wants to do.
#[derive(Clone, Debug)]
pub struct Action<'a> {
    /// The ToolServer: a name in the task's namespace, or `namespace/name`.
    pub server: &'a str,
    /// The tool.
    pub tool: &'a str,
    /// Id of the resource, where the protocol has a place for it.
    pub resource: Option<&'a str>,
    /// Arguments.
    pub arguments: &'a Map<String, Value>,
    /// What the enforcement point says of the subject.
    pub subject_properties: &'a Map<String, Value>,
    /// What it says of the resource.
    pub resource_properties: &'a Map<String, Value>,
    /// What the agent says this is for.
    pub intent: Option<&'a str>,
    /// Whether the enforcement point will report the outcome.
    pub reports_outcome: bool,
    /// The request to the Kubernetes API that it is, where it is one: `tool` is then the verb, and
    /// a yes means that no rule forbids what RBAC may grant.
    pub kubernetes: Option<KubernetesRequest<'a>>,
}

/// What was done before, by the task and by all tasks of its agent.
#[derive(Debug)]
pub struct Histories<'a> {
    /// By the task.
    pub task: &'a mut History,
    /// By all tasks of the agent; only its counters are used.
    pub agent: &'a mut History,
    /// By the tasks above it, the root first.
    pub above: Vec<Ancestor<'a>>,
}

/// A task above the one that acts.
#[derive(Debug)]
pub struct Ancestor<'a> {
    /// The task as it stands.
    pub subject: &'a Subject,
    /// What it has done, and those below it.
    pub history: &'a mut History,
}

/// The answer.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Yes, no, or not without a person.
    pub outcome: Outcome,
    /// For how many seconds an enforcement point may use it again; 0 means never.
    pub cache_for: u32,
    /// How much is at stake.
    pub risk: Risk,
    /// What decided: for a yes the grants, else every reason for the no.
    pub reasons: Vec<Reason>,
    /// Rules that would have refused, of policies that only warn or record.
    pub notices: Vec<Reason>,
    /// Whom to ask, where a person must be asked.
    pub approval: Option<Approval>,
    /// By which [`History::settle`] takes the outcome, where one is awaited.
    pub reservation: Option<Reservation>,
    /// What was looked at.
    pub looked_at: LookedAt,
}

/// An action that was permitted and whose outcome is awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// In the history of the task.
    pub task: u64,
    /// In those of the tasks above it, the root first.
    pub above: Vec<u64>,
    /// In that of its agent, where a limit counts there.
    pub agent: Option<u64>,
}

/// Yes, no, or not without a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Yes.
    Permit,
    /// No.
    Deny,
    /// No, until a person has agreed.
    NeedsApproval,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Deny => "deny",
            Self::NeedsApproval => "needs-approval",
        }
    }
}

/// How much is at stake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Risk {
    /// A read of public or internal data in the task's own domain.
    Low,
    /// Everything else, and what nobody knows.
    High,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What kind of reason, in one word that stays the same.
    pub code: Code,
    /// The object and its rule: `AgentPolicy finance/agents#no-export`.
    pub rule: Option<Arc<str>>,
    /// In words.
    pub message: String,
    /// What would have to hold, or what to do.
    pub help: String,
}

/// Kinds of reasons; the names are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it, and `as_str` is what people see")]
pub enum Code {
    Permitted,
    StalePolicy,
    TaskOver,
    TaskNotReady,
    AgentGone,
    AgentSuspended,
    UnknownServer,
    ServerNotUsable,
    UnknownTool,
    ToolChanged,
    ToolNotVerified,
    BadArguments,
    UnknownScope,
    Unreadable,
    OutOfScope,
    RuleDenied,
    ApprovalRequired,
    LimitReached,
    EvaluationError,
    UnknownTask,
    UnknownParent,
    NotAuthenticated,
    NotRecorded,
    BadRequest,
    HeaderMismatch,
    UnknownMethod,
}

impl Code {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permitted => "Permitted",
            Self::StalePolicy => "StalePolicy",
            Self::TaskOver => "TaskOver",
            Self::TaskNotReady => "TaskNotReady",
            Self::AgentGone => "AgentGone",
            Self::AgentSuspended => "AgentSuspended",
            Self::UnknownServer => "UnknownServer",
            Self::ServerNotUsable => "ServerNotUsable",
            Self::UnknownTool => "UnknownTool",
            Self::ToolChanged => "ToolChanged",
            Self::ToolNotVerified => "ToolNotVerified",
            Self::BadArguments => "BadArguments",
            Self::UnknownScope => "UnknownScope",
            Self::Unreadable => "Unreadable",
            Self::OutOfScope => "OutOfScope",
            Self::RuleDenied => "RuleDenied",
            Self::ApprovalRequired => "ApprovalRequired",
            Self::LimitReached => "LimitReached",
            Self::EvaluationError => "EvaluationError",
            Self::UnknownTask => "UnknownTask",
            Self::UnknownParent => "UnknownParent",
            Self::NotAuthenticated => "NotAuthenticated",
            Self::NotRecorded => "NotRecorded",
            Self::BadRequest => "BadRequest",
            Self::HeaderMismatch => "HeaderMismatch",
            Self::UnknownMethod => "UnknownMethod",
        }
    }
}

impl Reason {
    /// Whether the same action may be permitted later, with nothing changed by anybody.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self.code {
            Code::StalePolicy | Code::TaskNotReady | Code::NotRecorded | Code::ToolNotVerified => true,
            Code::LimitReached => self.help == WAIT || self.help == AWAIT_OUTCOMES,
            _ => false,
        }
    }
}

/// What to do where a limit looks back a while only.
const WAIT: &str = "wait and try again";
/// What to do where too many outcomes are awaited.
const AWAIT_OUTCOMES: &str = "report outcomes, or wait until the reservations expire";

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// The rules that ask.
    pub rules: Vec<Arc<str>>,
    /// Who may agree: those that every rule names.
    pub approvers: Vec<String>,
    /// How long an approval may be used: the shortest of the rules.
    pub valid_for: SignedDuration,
}

/// What a decision looked at; what stayed unknown is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LookedAt {
    /// `namespace/server/tool`.
    pub tool: Option<Arc<str>>,
    /// What the tool does.
    pub effect: Option<Effect>,
    /// Classification of what it touches.
    pub classification: Option<Classification>,
    /// Where its data goes.
    pub domain: Option<Arc<str>>,
    /// Whether that is elsewhere.
    pub cross_domain: bool,
    /// Id of the resource.
    pub resource: Option<String>,
    /// Whether people outside wrote what it returns.
    pub untrusted: bool,
    /// The limits that a permitted action counts towards.
    pub counted: Vec<(Limit, CountedBy)>,
    /// Limits of tasks above that it counts towards, each with the place of the task: the root's
    /// is 0.
    pub counted_above: Vec<(Limit, usize)>,
    /// The tasks that it is done for, the root first and the one that acts last, each as
    /// `namespace/name`; empty where no task stands above it.
    pub chain: Vec<String>,
    /// Objects and their versions.
    pub versions: Vec<(String, Arc<str>)>,
}

/// Decides one action, and takes a permitted one into the history.
///
/// `known_at`: when what is in the snapshot was last known to be current.
pub fn authorize(
    snapshot: &Snapshot,
    known_at: Timestamp,
    subject: &Subject,
    action: &Action,
    histories: &mut Histories,
    now: Timestamp,
) -> Decision {
    let mut looked_at = LookedAt::default();
    let judged = judge(snapshot, known_at, subject, action, histories, now, &mut looked_at);
    let risk = looked_at.risk();
    match judged {
        Ok(yes) => {
            let ends = histories.above.iter().map(|above| above.subject.deadline).fold(subject.deadline, Timestamp::min);
            let left = u32::try_from(ends.duration_since(now).as_secs()).unwrap_or(0);
            let light = risk == Risk::Low && !yes.depends_on_history;
            Decision {
                outcome: Outcome::Permit,
                cache_for: if light { LONGEST_REUSE.min(left) } else { 0 },
                risk,
                reasons: yes.reasons,
                notices: yes.notices,
                approval: None,
                reservation: yes.reservation,
                looked_at,
            }
        }
        Err(no) => Decision {
            outcome: if no.approval.is_some() { Outcome::NeedsApproval } else { Outcome::Deny },
            cache_for: 0,
            risk,
            reasons: no.reasons,
            notices: no.notices,
            approval: no.approval,
            reservation: None,
            looked_at,
        },
    }
}

impl LookedAt {
    /// Notes the task that acts, and those above it.
    fn note_tasks<'a>(&mut self, subject: &'a Subject, above: impl Iterator<Item = &'a Subject>) {
        if !subject.above.is_empty() {
            let names = subject.above.iter().map(|link| &link.task).chain([&subject.name]);
            self.chain = names.map(|name| subject.key_of(name)).collect();
        }
        let above = above.filter(|_| !subject.above.is_empty());
        for task in [subject].into_iter().chain(above) {
            self.versions.push((format!("AgentTask {}", task.key), task.versions[0].clone()));
            self.versions.push((format!("AgentIdentity {}", task.agent_key), task.versions[1].clone()));
        }
    }

    fn risk(&self) -> Risk {
        let reads = self.effect == Some(Effect::Read) && !self.cross_domain;
        let light = self.classification.is_some_and(|classification| classification <= Classification::Internal);
        if reads && light { Risk::Low } else { Risk::High }
    }
}

struct Yes {
    reasons: Vec<Reason>,
    notices: Vec<Reason>,
    reservation: Option<Reservation>,
    depends_on_history: bool,
}

#[derive(Default)]
struct No {
    reasons: Vec<Reason>,
    notices: Vec<Reason>,
    approval: Option<Approval>,
}

/// A denial for one reason.
fn no(code: Code, rule: Option<Arc<str>>, message: impl Into<String>, help: impl Into<String>) -> Box<No> {
    let reason = Reason { code, rule, message: message.into(), help: help.into() };
    Box::new(No { reasons: vec![reason], ..No::default() })
}

fn judge(
    snapshot: &Snapshot,
    known_at: Timestamp,
    subject: &Subject,
    action: &Action,
    histories: &mut Histories,
    now: Timestamp,
    looked_at: &mut LookedAt,
) -> Result<Yes, Box<No>> {
    looked_at.note_tasks(subject, histories.above.iter().map(|above| above.subject));
    fresh(snapshot, known_at, now)?;
    alive(subject, now)?;
    line(subject, histories.above.iter().map(|above| above.subject), now)?;
    let shard = snapshot.shard(&subject.namespace);
    snapshot.readable(shard)?;
    let (server, tool) = snapshot.tool(&subject.namespace, action)?;
    if !server.is_kubernetes {
        looked_at.versions.push((format!("ToolServer {}", server.key), server.version.clone()));
    }
    looked_at.tool = Some(tool.key.clone());
    looked_at.effect = Some(tool.effect);
    looked_at.domain = Some(tool.domain.clone());
    looked_at.untrusted = tool.untrusted;
    looked_at.cross_domain = *tool.domain != *subject.namespace;
    let values = Values::typed(tool.arguments.as_ref(), action.arguments).map_err(|error| {
        no(Code::BadArguments, None, error.to_string(), format!("call `{}` as its owner describes it", tool.name))
    })?;
    let resource = resource(&tool, action)?;
    let classification = server.classification(&tool, resource);
    looked_at.classification = Some(classification);
    looked_at.resource = resource.map(str::to_owned);
    let scope = shard.scope(&subject.scope)?;
    looked_at.versions.push((format!("TaskScope {}/{}", subject.namespace, subject.scope), scope.version.clone()));

    // Data flows between a task and those below it: what one of them has taken in, all have.
    let taint = histories.above.first().map_or(&*histories.task, |root| &*root.history);
    let (person, groups) = acts_for(subject, &histories.above);
    let facts = cedar::Facts {
        task: &subject.key,
        agent: &subject.agent_key,
        namespace: &subject.namespace,
        scope: &subject.scope,
        agent_name: &subject.agent,
        server_name: &server.name,
        tool_name: &tool.name,
        objective: &subject.objective,
        intent: action.intent,
        on_behalf_of: person,
        groups,
        depth: subject.depth(),
        tool: tool.uid.clone(),
        server: server.uid.clone(),
        effect: tool.effect,
        resource,
        classification: classification.rank(),
        domain: &tool.domain,
        cross_domain: looked_at.cross_domain,
        highest_read: taint.highest_read().map_or(-1, Classification::rank),
        untrusted: taint.untrusted(),
        domains: taint.domains().collect(),
    };
    let called = Called { server: &server, tool: &tool, values: &values, action };
    let own = View::of(snapshot, shard, subject, scope, &called);
    let (granted, own) = own.granted(&called, &facts)?;
    let mut above = vec![];
    for ancestor in &histories.above {
        let subject = ancestor.subject;
        let scope = shard.scope(&subject.scope).map_err(|no| of_above(no, subject))?;
        let of_it = cedar::Facts {
            task: &subject.key,
            agent: &subject.agent_key,
            scope: &subject.scope,
            agent_name: &subject.agent,
            objective: &subject.objective,
            depth: subject.depth(),
            ..facts.clone()
        };
        let view = View::of(snapshot, shard, subject, scope, &called);
        let (_, view) = view.granted(&called, &of_it).map_err(|no| of_above(no, subject))?;
        looked_at.versions.push((format!("TaskScope {}/{}", subject.namespace, subject.scope), scope.version.clone()));
        above.push(view);
    }
    let mut found = Found::default();
    let past = Seen { own: histories.task, all: taint };
    own.rules(&mut found, &past, None, now)?;
    for (place, view) in above.iter().enumerate() {
        view.rules(&mut found, &past, Some(place), now)?;
    }
    let mark = Mark {
        tool: tool.key.clone(),
        // Whatever a tool does, it may return what it touched.
        read: Some(classification),
        untrusted: tool.untrusted,
        domain: tool.domain.clone(),
    };
    let depends_on_history = own.view.depends_on_history() || above.iter().any(|above| above.view.depends_on_history());
    let limits = scope.compiled.limits.iter().map(|limit| (limit.clone(), None));
    let of_above = above.iter().enumerate().flat_map(|(place, view)| {
        let limits = view.view.scope.compiled.limits.iter();
        limits.map(move |limit| (limit.clone(), Some(place)))
    });
    let taken = found.conclude(limits.chain(of_above), histories, &mark, action.reports_outcome, now)?;
    let Taken { notices, reservation, counted, counted_above } = taken;
    looked_at.counted = counted;
    looked_at.counted_above = counted_above;
    let grants = granted.into_iter().map(|id| Reason {
        code: Code::Permitted,
        message: format!("`{id}` grants it"),
        rule: Some(id),
        help: String::new(),
    });
    Ok(Yes { reasons: grants.collect(), notices, reservation, depends_on_history })
}

/// What is called.
struct Called<'a> {
    server: &'a Server,
    tool: &'a ToolFacts,
    values: &'a Values,
    action: &'a Action<'a>,
}

/// What one task is judged by: the one that acts, or one above it as if it acted itself.
struct View<'a> {
    subject: &'a Subject,
    scope: &'a snapshot::Scope,
    /// What its scope permits of the tool, where it is not narrowed to others.
    permits: Option<&'a Slice>,
    /// What its scope permitted when it started, where that has changed.
    before: Option<Option<&'a Slice>>,
    rules: Vec<&'a Slice>,
}

/// The same, and the action as Cedar sees it; none where nothing has to be asked.
struct Asking<'a> {
    view: View<'a>,
    words: Option<Words>,
}

/// An action in Cedar's words.
struct Words {
    request: Request,
    entities: Cow<'static, Entities>,
}

impl<'a> View<'a> {
    fn of(
        snapshot: &'a Snapshot,
        shard: &'a snapshot::Shard,
        subject: &'a Subject,
        scope: &'a snapshot::Scope,
        called: &Called<'a>,
    ) -> Self {
        let tool = called.tool;
        let narrowed_out =
            subject.narrowed.as_ref().is_some_and(|narrowed| !narrowed.iter().any(|name| tool.is(&subject.namespace, name)));
        let permits = scope.compiled.tools.get(&*tool.key).filter(|_| !narrowed_out);
        let rules = snapshot.rules(shard, &tool.key, &subject.agent_key, tool.effect).collect();
        Self { subject, scope, permits, before: granted_before(subject, scope, tool), rules }
    }

    /// The grants that permit the action, which for the Kubernetes API none must.
    fn granted(self, called: &Called, facts: &cedar::Facts) -> Result<(Vec<Arc<str>>, Asking<'a>), Box<No>> {
        let Called { server, tool, values, action } = called;
        let lacking = || explain::out_of_scope(&self.scope.compiled, self.subject, server, tool, facts, values);
        if self.permits.is_none() && !server.is_kubernetes {
            return Err(lacking());
        }
        let cannot = |message: String| {
            no(Code::EvaluationError, None, message, "report this: Mandate could not put the action into words")
        };
        let asked = self.rules.iter().copied().chain(self.permits).chain(self.before.flatten());
        let looks = asked.filter(|slice| slice.answered(facts).is_none()).map(|slice| slice.looks).reduce(Looks::and);
        let words = looks.map(|looks| Words::of(looks, facts, values, action)).transpose().map_err(cannot)?;
        let permitted = |permits: &Slice| match permits.answered(facts) {
            Some(held) => Ok(held.to_vec()),
            None => ask(words.as_ref(), permits).inspect(|held| permits.keep(facts, held)),
        };
        let granted = self.permits.map(permitted).transpose()?.unwrap_or_default();
        if granted.is_empty() && !server.is_kubernetes {
            return Err(lacking());
        }
        if let Some(before) = self.before.filter(|_| !server.is_kubernetes) {
            let still = before.map(permitted).transpose()?;
            if still.is_none_or(|permits| permits.is_empty()) {
                let (scope, task) = (&self.subject.scope, &self.subject.name);
                let message = format!("scope `{scope}` grants `{}` now, but not when task `{task}` started", tool.name);
                return Err(no(
                    Code::OutOfScope,
                    None,
                    message,
                    "start a new task: what a task was granted can shrink and never grows",
                ));
            }
        }
        Ok((granted, Asking { view: self, words }))
    }

    fn depends_on_history(&self) -> bool {
        !self.scope.compiled.limits.is_empty() || self.rules.iter().any(|slice| slice.looks_at_history)
    }
}

impl Asking<'_> {
    /// The rules that hold for the task of this view. `place`: where it stands above the one that
    /// acts.
    fn rules(&self, found: &mut Found, past: &Seen, place: Option<usize>, now: Timestamp) -> Result<(), Box<No>> {
        for slice in &self.view.rules {
            for id in ask(self.words.as_ref(), slice)? {
                if let Some(rule) = slice.rules.get(&id) {
                    found.take(rule, past, place, now);
                }
            }
        }
        Ok(())
    }
}

/// What was done before, as rules look at it.
struct Seen<'a> {
    /// By the task that acts.
    own: &'a History,
    /// By all tasks of its chain, and those below.
    all: &'a History,
}

impl Seen<'_> {
    /// Whether one of the chain called such a tool.
    fn by_any(&self, name: &compile::ToolName, since: Option<Timestamp>) -> bool {
        name.was_called(self.own, since) || name.was_called(self.all, since) || name.was_called_below(self.all, since)
    }
}

/// The person that a task acts for, and their groups: what it does not say itself it has from the
/// tasks above it.
fn acts_for<'a>(subject: &'a Subject, above: &[Ancestor<'a>]) -> (Option<&'a str>, &'a [String]) {
    let all = || [subject].into_iter().chain(above.iter().rev().map(|above| above.subject));
    let person = all().find_map(|subject| subject.on_behalf_of.as_deref());
    let of_person = |subject: &&Subject| subject.on_behalf_of.as_deref() == person && !subject.groups.is_empty();
    (person, all().find(of_person).map(|subject| subject.groups.as_slice()).unwrap_or_default())
}

/// A reason that a task above gives.
fn of_above(mut no: Box<No>, above: &Subject) -> Box<No> {
    for reason in &mut no.reasons {
        reason.message = format!("task `{}`, above this one: {}", above.name, reason.message);
    }
    no
}

/// What a task was granted can shrink and never grows: where its scope has changed since it
/// started, the scope as it was must permit the action too. None where it has not changed.
fn granted_before<'a>(subject: &'a Subject, scope: &snapshot::Scope, tool: &ToolFacts) -> Option<Option<&'a Slice>> {
    let before = subject.granted.as_ref().filter(|before| before.digest != scope.compiled.digest)?;
    Some(before.tools.get(&*tool.key))
}

/// The holders of what is looked at.
fn entities(looks: Looks, values: &Values, action: &Action) -> Result<Cow<'static, Entities>, String> {
    if !looks.at_arguments() && !looks.at_properties() {
        return Ok(Cow::Borrowed(&NO_ENTITIES));
    }
    let properties = |given| if looks.at_properties() { Values::untyped(given) } else { Values::default() };
    let (of_subject, of_resource) = (properties(action.subject_properties), properties(action.resource_properties));
    cedar::entities(values, &of_subject, &of_resource).map(Cow::Owned)
}

static NO_ENTITIES: LazyLock<Entities> = LazyLock::new(Entities::empty);
static AUTHORIZER: LazyLock<Authorizer> = LazyLock::new(Authorizer::new);

impl Words {
    fn of(looks: Looks, facts: &cedar::Facts, values: &Values, action: &Action) -> Result<Self, String> {
        Ok(Self { request: facts.request(looks)?, entities: entities(looks, values, action)? })
    }
}

/// The ids of the policies of a slice that hold.
fn ask(words: Option<&Words>, slice: &Slice) -> Result<Vec<Arc<str>>, Box<No>> {
    let failed = |message: String, help: &str| no(Code::EvaluationError, None, message, help);
    // INVARIANT: where a slice has to be asked there are words to ask it with.
    let Some(Words { request, entities }) = words else {
        return Err(failed("a rule was not asked".to_owned(), "report this to the authors of Mandate"));
    };
    let response = AUTHORIZER.is_authorized(request, &slice.set, entities);
    let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
    if !errors.is_empty() {
        return Err(failed(
            format!("a policy could not be evaluated, and what cannot be evaluated denies: {}", errors.join("; ")),
            "the owner of the policy must make it hold for every action it can meet",
        ));
    }
    let mut held: Vec<Arc<str>> = response.diagnostics().reason().map(|id| cedar::id(id).into()).collect();
    held.sort();
    Ok(held)
}

fn fresh(snapshot: &Snapshot, known_at: Timestamp, now: Timestamp) -> Result<(), Box<No>> {
    let age = now.duration_since(known_at);
    if age <= snapshot.stale_after {
        return Ok(());
    }
    Err(no(
        Code::StalePolicy,
        None,
        format!("what Mandate knows is {} s old; it may be {} s at most", age.as_secs(), snapshot.stale_after.as_secs()),
        "the authorizer must reach its sources again; nothing is permitted until then",
    ))
}

fn alive(subject: &Subject, now: Timestamp) -> Result<(), Box<No>> {
    let name = &subject.name;
    let over = |message: String| no(Code::TaskOver, None, message, "start a new task");
    if now >= subject.deadline {
        return Err(over(format!("task `{name}` passed its deadline at {}", subject.deadline)));
    }
    if subject.ending {
        return Err(over(format!("task `{name}` is being ended")));
    }
    match subject.phase {
        Phase::Active => {}
        Phase::Pending => {
            let message = format!("task `{name}` has no authority yet");
            return Err(no(Code::TaskNotReady, None, message, "wait until it is Ready"));
        }
        Phase::Ended | Phase::Refused => return Err(over(format!("task `{name}` is over"))),
    }
    let agent = &subject.agent;
    match subject.standing {
        Standing::Good => Ok(()),
        Standing::Suspended => {
            Err(no(Code::AgentSuspended, None, format!("agent `{agent}` is suspended"), "its owner must lift the suspension"))
        }
        Standing::Gone => Err(no(Code::AgentGone, None, format!("agent `{agent}` is gone"), "create the AgentIdentity")),
    }
}

/// Whether every task above is known, and alive.
fn line<'a>(subject: &Subject, mut above: impl Iterator<Item = &'a Subject>, now: Timestamp) -> Result<(), Box<No>> {
    let unknown = |message: String| {
        Err(no(Code::UnknownParent, None, message, "start a new task, below one that runs or without a parent"))
    };
    let Some(parent) = &subject.parent else {
        return if subject.above.is_empty() { Ok(()) } else { unknown("the task names no parent and has one".to_owned()) };
    };
    if let Some(why) = &subject.unsound {
        return unknown(why.to_string());
    }
    if subject.above.last().is_none_or(|link| link.task != *parent) {
        return unknown(format!("nobody can tell what stands above task `{}`: its parent is to be `{parent}`", subject.name));
    }
    for (place, link) in subject.above.iter().enumerate() {
        let Some(above) = above.next().filter(|above| subject.is_above(place, above)) else {
            return unknown(format!("task `{}`, above this one, is gone", link.task));
        };
        if let Some(why) = &above.unsound {
            return unknown(format!("task `{}`, above this one: {why}", link.task));
        }
        alive(above, now).map_err(|no| of_above(no, above))?;
    }
    Ok(())
}

/// The resource that an action is about. Where request and arguments both name one, they must
/// agree: else the decision would be about another resource than the call.
fn resource<'a>(tool: &ToolFacts, action: &'a Action) -> Result<Option<&'a str>, Box<No>> {
    let Some(argument) = &tool.resource else { return Ok(action.resource) };
    let bad = |message: String| no(Code::BadArguments, None, message, "name the resource in the arguments of the call");
    let Some(named) = action.arguments.get(argument).and_then(Value::as_str) else {
        return Err(bad(format!("argument `{argument}`, which names the resource, is missing or no text")));
    };
    match action.resource {
        Some(other) if other != named => Err(bad(format!("the request names another resource than argument `{argument}`"))),
        _ => Ok(Some(named)),
    }
}

/// A permitted action, taken into the histories.
struct Taken {
    notices: Vec<Reason>,
    reservation: Option<Reservation>,
    counted: Vec<(Limit, CountedBy)>,
    counted_above: Vec<(Limit, usize)>,
}

/// What the rules say, one after the other.
#[derive(Default)]
struct Found {
    denials: Vec<Reason>,
    asking: Vec<(Arc<str>, crate::api::ApprovalDemand)>,
    /// Each with the place of the task above that it is counted for.
    counting: Vec<(Limit, CountedBy, Mode, Option<usize>)>,
    notices: Vec<Reason>,
}

impl Found {
    /// Takes in a rule whose forbid holds. `place`: for which task above the one that acts.
    fn take(&mut self, rule: &Arc<CompiledRule>, past: &Seen, place: Option<usize>, now: Timestamp) {
        let CompiledRule { id, mode, then, calls, hours, .. } = &**rule;
        let since = |calls: &compile::Calls| calls.within.and_then(|within| now.checked_sub(within).ok());
        let calls_hold = calls.as_ref().is_none_or(|calls| {
            let since = since(calls);
            // What must have been done first the task has done itself; what must not, none of them.
            let any = calls.any.is_empty() || calls.any.iter().any(|name| past.by_any(name, since));
            any && !calls.none.iter().any(|name| name.was_called(past.own, since))
        });
        if !calls_hold || hours.as_ref().is_some_and(|hours| !hours.hold_at(now)) {
            return;
        }
        if place.is_some() && self.knows(id) {
            return;
        }
        match (then, mode) {
            // What the agent of a task above may do in all is counted where that agent acts.
            (Then::Count(_, CountedBy::Agent), _) if place.is_some() => {}
            (Then::Count(limit, by), mode) => self.counting.push((limit.clone(), *by, *mode, place)),
            (Then::Deny(words), Mode::Enforce) => self.denials.push(rule_denied(id, words)),
            (Then::Deny(words), _) => self.notices.push(rule_denied(id, words)),
            (Then::Approve(demand), Mode::Enforce) => self.asking.push((id.clone(), demand.clone())),
            (Then::Approve(demand), _) => self.notices.push(approval_required(id, &demand.approvers)),
        }
    }

    /// Whether a rule has denied or asked already; a limit counts for each task that it is about.
    fn knows(&self, id: &Arc<str>) -> bool {
        let said = |reason: &Reason| reason.rule.as_ref() == Some(id);
        self.denials.iter().any(said) || self.notices.iter().any(said) || self.asking.iter().any(|(asking, _)| asking == id)
    }

    /// Any deny wins, then approvals, then limits; what is left is taken into the histories.
    fn conclude(
        self,
        of_scopes: impl Iterator<Item = (Limit, Option<usize>)>,
        histories: &mut Histories,
        mark: &Mark,
        awaited: bool,
        now: Timestamp,
    ) -> Result<Taken, Box<No>> {
        let Self { denials, asking, counting, mut notices } = self;
        if !denials.is_empty() {
            return Err(Box::new(No { reasons: denials, notices, approval: None }));
        }
        if !asking.is_empty() {
            let reasons = asking.iter().map(|(id, demand)| approval_required(id, &demand.approvers)).collect();
            return Err(Box::new(No { reasons, notices, approval: Some(Approval::of(asking)) }));
        }
        histories.expire(now);
        let of_scopes = of_scopes.map(|(limit, place)| (limit, CountedBy::Task, Mode::Enforce, place));
        let counting: Vec<_> = of_scopes.chain(counting).collect();
        let mut reached = vec![];
        for (limit, by, mode, place) in &counting {
            let above = place.and_then(|place| histories.above.get(place));
            let history = match (above, by) {
                (Some(above), _) => &*above.history,
                (None, CountedBy::Task) => &*histories.task,
                (None, CountedBy::Agent) => &*histories.agent,
            };
            if history.left(limit, now) == 0 {
                let reason = limit_reached(limit, *by, above.map(|above| above.subject));
                if *mode == Mode::Enforce { reached.push(reason) } else { notices.push(reason) }
            }
        }
        if !reached.is_empty() {
            return Err(Box::new(No { reasons: reached, notices, approval: None }));
        }
        if awaited && !histories.has_room() {
            return Err(no(
                Code::LimitReached,
                None,
                format!("{} actions of this task, or of one above it, await their outcome", history::MOST_RESERVED),
                AWAIT_OUTCOMES,
            ));
        }
        if !histories.can_remember(mark) {
            return Err(no(
                Code::LimitReached,
                None,
                format!(
                    "a task may touch {} tools and domains in its life, of names that are not too long",
                    history::MOST_TOUCHED
                ),
                "what cannot be remembered is not permitted: start a new task",
            ));
        }
        let (mut counted, mut counted_above) = (vec![], vec![]);
        for (limit, by, _, place) in counting {
            match place {
                None => counted.push((limit, by)),
                Some(place) => counted_above.push((limit, place)),
            }
        }
        let reservation = histories.take(mark, &counted, &counted_above, awaited, now);
        Ok(Taken { notices, reservation, counted, counted_above })
    }
}

impl Histories<'_> {
    fn expire(&mut self, now: Timestamp) {
        self.above.iter_mut().for_each(|above| above.history.expire(now));
        self.task.expire(now);
        self.agent.expire(now);
    }

    fn has_room(&self) -> bool {
        self.task.has_room() && self.agent.has_room() && self.above.iter().all(|above| above.history.has_room())
    }

    fn can_remember(&self, mark: &Mark) -> bool {
        self.task.can_remember(mark) && self.above.iter().all(|above| above.history.can_remember(mark))
    }

    /// Takes a permitted action into all of them.
    fn take(
        &mut self,
        mark: &Mark,
        counted: &[(Limit, CountedBy)],
        counted_above: &[(Limit, usize)],
        awaited: bool,
        now: Timestamp,
    ) -> Option<Reservation> {
        let mut above = vec![];
        for (place, ancestor) in self.above.iter_mut().enumerate() {
            let limits = counted_above.iter().filter(|(_, of)| *of == place).map(|(limit, _)| limit.clone());
            let limits: Vec<Limit> = limits.collect();
            above.extend(ancestor.history.take_of(Whose::Below, mark, &limits, awaited, now));
        }
        let of = |wanted: CountedBy| -> Vec<Limit> {
            counted.iter().filter(|(_, by)| *by == wanted).map(|(limit, _)| limit.clone()).collect()
        };
        let of_agent = of(CountedBy::Agent);
        let agent = match of_agent.as_slice() {
            [] => None,
            limits => self.agent.take(mark, limits, awaited, now),
        };
        let task = self.task.take(mark, &of(CountedBy::Task), awaited, now)?;
        Some(Reservation { task, above, agent })
    }
}

impl Approval {
    fn of(asking: Vec<(Arc<str>, crate::api::ApprovalDemand)>) -> Self {
        let mut approvers: Option<Vec<String>> = None;
        let mut valid_for = SignedDuration::MAX;
        let mut rules = vec![];
        for (id, demand) in asking {
            rules.push(id);
            valid_for = valid_for.min(demand.valid_for.into());
            approvers = Some(match approvers {
                None => demand.approvers,
                Some(kept) => kept.into_iter().filter(|one| demand.approvers.contains(one)).collect(),
            });
        }
        Self { rules, approvers: approvers.unwrap_or_default(), valid_for }
    }
}

fn rule_denied(id: &Arc<str>, words: &str) -> Reason {
    Reason {
        code: Code::RuleDenied,
        rule: Some(id.clone()),
        message: words.to_owned(),
        help: format!("`{id}` forbids it; its owner can say under what conditions it is not forbidden"),
    }
}

fn approval_required(id: &Arc<str>, approvers: &[String]) -> Reason {
    Reason {
        code: Code::ApprovalRequired,
        rule: Some(id.clone()),
        message: format!("`{id}` asks for a person's approval of this very action"),
        help: format!("one of these must approve: {}", approvers.join(", ")),
    }
}

fn limit_reached(limit: &Limit, by: CountedBy, above: Option<&Subject>) -> Reason {
    let whose = match (above, by) {
        (Some(above), _) => Cow::Owned(format!("task `{}`, with those below it,", above.name)),
        (None, CountedBy::Task) => Cow::Borrowed("task"),
        (None, CountedBy::Agent) => Cow::Borrowed("agent"),
    };
    let (window, help) = match limit.per {
        Some(per) => (format!(" in {} s", per.as_secs()), WAIT.to_owned()),
        None => (" in its life".to_owned(), "start a new task, or have the limit raised".to_owned()),
    };
    Reason {
        code: Code::LimitReached,
        rule: Some(limit.id.clone()),
        message: format!("the {whose} has used up the {} actions that `{}` leaves it{window}", limit.count, limit.id),
        help,
    }
}
