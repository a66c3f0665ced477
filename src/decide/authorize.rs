//! May this task do this, now?
//!
//! In: what is compiled of scopes, policies and tool servers; the task as it stands; the action
//! with its arguments; what the task has done; the time. Out: a [`Decision`] with its reasons.
//!
//! Order: the snapshot is fresh → task and agent are alive → the tool is known and what was
//! reviewed → the arguments have their types → the scope permits → no policy denies → nobody has
//! to be asked → no limit is reached. Default deny. What cannot be evaluated denies, and names
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

use crate::api::{AgentTask, AgentTaskSpec, Classification, CountedBy, Effect, Mode, Phase};
use arguments::Values;
use cedar::Looks;
use compile::{CompiledRule, Slice, Then};
use history::{History, Limit, Mark};
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
    /// How many tasks stand above it.
    pub depth: u32,
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
        let AgentTaskSpec { agent, scope, objective, on_behalf_of, narrow, requested_by, end, .. } = &task.spec;
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
            narrowed: narrow.as_ref().and_then(|narrow| narrow.tools.clone()),
            ending: end.is_some() || task.metadata.deletion_timestamp.is_some(),
            ..Self::default()
        }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// In the history of the task.
    pub task: u64,
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
            let left = u32::try_from(subject.deadline.duration_since(now).as_secs()).unwrap_or(0);
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
    looked_at.versions.push((format!("AgentTask {}", subject.key), subject.versions[0].clone()));
    looked_at.versions.push((format!("AgentIdentity {}", subject.agent_key), subject.versions[1].clone()));
    fresh(snapshot, known_at, now)?;
    alive(subject, now)?;
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
        on_behalf_of: subject.on_behalf_of.as_deref(),
        groups: &subject.groups,
        depth: subject.depth,
        tool: tool.uid.clone(),
        server: server.uid.clone(),
        effect: tool.effect,
        resource,
        classification: classification.rank(),
        domain: &tool.domain,
        cross_domain: looked_at.cross_domain,
        highest_read: histories.task.highest_read().map_or(-1, Classification::rank),
        untrusted: histories.task.untrusted(),
        domains: histories.task.domains().collect(),
    };
    let lacking = || explain::out_of_scope(&scope.compiled, subject, &server, &tool, &facts, &values);
    let narrowed_out =
        subject.narrowed.as_ref().is_some_and(|narrowed| !narrowed.iter().any(|name| tool.is(&subject.namespace, name)));
    let permits = scope.compiled.tools.get(&*tool.key).filter(|_| !narrowed_out);
    if permits.is_none() && !server.is_kubernetes {
        return Err(lacking());
    }
    let slices: Vec<&Slice> = snapshot.rules(shard, &tool.key, &subject.agent_key, tool.effect).collect();
    let cannot =
        |message: String| no(Code::EvaluationError, None, message, "report this: Mandate could not put the action into words");
    let before = granted_before(subject, scope, &tool);
    let asked = slices.iter().copied().chain(permits).chain(before.flatten());
    let looks = asked.fold(Looks::default(), |all, slice| all.and(slice.looks));
    let request = facts.request(looks).map_err(cannot)?;
    let entities = &entities(looks, &values, action).map_err(cannot)?;

    let granted = match permits {
        Some(permits) => ask(permits, &request, entities)?,
        None => vec![],
    };
    if granted.is_empty() && !server.is_kubernetes {
        return Err(lacking());
    }
    if let Some(before) = before.filter(|_| !server.is_kubernetes) {
        let still = before.map(|permits| ask(permits, &request, entities)).transpose()?;
        if still.is_none_or(|permits| permits.is_empty()) {
            let (scope, task) = (&subject.scope, &subject.name);
            let message = format!("scope `{scope}` grants `{}` now, but not when task `{task}` started", tool.name);
            return Err(no(
                Code::OutOfScope,
                None,
                message,
                "start a new task: what a task was granted can shrink and never grows",
            ));
        }
    }
    let mut found = Found::default();
    for slice in &slices {
        for id in ask(slice, &request, entities)? {
            if let Some(rule) = slice.rules.get(id.as_str()) {
                found.take(rule, histories.task, now);
            }
        }
    }
    let mark = Mark {
        tool: tool.key.clone(),
        // Whatever a tool does, it may return what it touched.
        read: Some(classification),
        untrusted: tool.untrusted,
        domain: tool.domain.clone(),
    };
    let depends_on_history = !scope.compiled.limits.is_empty() || slices.iter().any(|slice| slice.looks_at_history);
    let taken = found.conclude(&scope.compiled.limits, histories, &mark, action.reports_outcome, now)?;
    let Taken { notices, reservation, counted } = taken;
    looked_at.counted = counted;
    let grants = granted.into_iter().map(|id| Reason {
        code: Code::Permitted,
        message: format!("`{id}` grants it"),
        rule: Some(id.into()),
        help: String::new(),
    });
    Ok(Yes { reasons: grants.collect(), notices, reservation, depends_on_history })
}

/// What a task was granted can shrink and never grows: where its scope has changed since it
/// started, the scope as it was must permit the action too. None where it has not changed.
fn granted_before<'a>(subject: &'a Subject, scope: &snapshot::Scope, tool: &ToolFacts) -> Option<Option<&'a Slice>> {
    let before = subject.granted.as_ref().filter(|before| before.digest != scope.compiled.digest)?;
    Some(before.tools.get(&*tool.key))
}

/// The holders of what is looked at.
fn entities<'a>(looks: Looks, values: &Values, action: &Action) -> Result<Cow<'a, Entities>, String> {
    if !looks.at_arguments() && !looks.at_properties() {
        return Ok(Cow::Borrowed(&NO_ENTITIES));
    }
    let properties = |given| if looks.at_properties() { Values::untyped(given) } else { Values::default() };
    let (of_subject, of_resource) = (properties(action.subject_properties), properties(action.resource_properties));
    cedar::entities(values, &of_subject, &of_resource).map(Cow::Owned)
}

static NO_ENTITIES: LazyLock<Entities> = LazyLock::new(Entities::empty);
static AUTHORIZER: LazyLock<Authorizer> = LazyLock::new(Authorizer::new);

/// The ids of the policies of a slice that hold.
fn ask(slice: &Slice, request: &Request, entities: &Entities) -> Result<Vec<String>, Box<No>> {
    let response = AUTHORIZER.is_authorized(request, &slice.set, entities);
    let failed: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
    if !failed.is_empty() {
        return Err(no(
            Code::EvaluationError,
            None,
            format!("a policy could not be evaluated, and what cannot be evaluated denies: {}", failed.join("; ")),
            "the owner of the policy must make it hold for every action it can meet",
        ));
    }
    let mut held: Vec<String> = response.diagnostics().reason().map(|id| cedar::id(id).to_owned()).collect();
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
}

/// What the rules say, one after the other.
#[derive(Default)]
struct Found {
    denials: Vec<Reason>,
    asking: Vec<(Arc<str>, crate::api::ApprovalDemand)>,
    counting: Vec<(Limit, CountedBy, Mode)>,
    notices: Vec<Reason>,
}

impl Found {
    fn take(&mut self, rule: &Arc<CompiledRule>, history: &History, now: Timestamp) {
        let CompiledRule { id, mode, then, calls, hours, .. } = &**rule;
        let since = |calls: &compile::Calls| calls.within.and_then(|within| now.checked_sub(within).ok());
        let called = |names: &[compile::ToolName], since| names.iter().any(|name| name.was_called(history, since));
        let calls_hold = calls.as_ref().is_none_or(|calls| {
            let since = since(calls);
            (calls.any.is_empty() || called(&calls.any, since)) && !called(&calls.none, since)
        });
        if !calls_hold || hours.as_ref().is_some_and(|hours| !hours.hold_at(now)) {
            return;
        }
        match (then, mode) {
            (Then::Count(limit, by), mode) => self.counting.push((limit.clone(), *by, *mode)),
            (Then::Deny(words), Mode::Enforce) => self.denials.push(rule_denied(id, words)),
            (Then::Deny(words), _) => self.notices.push(rule_denied(id, words)),
            (Then::Approve(demand), Mode::Enforce) => self.asking.push((id.clone(), demand.clone())),
            (Then::Approve(demand), _) => self.notices.push(approval_required(id, &demand.approvers)),
        }
    }

    /// Any deny wins, then approvals, then limits; what is left is taken into the histories.
    fn conclude(
        self,
        of_scope: &[Limit],
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
        histories.task.expire(now);
        histories.agent.expire(now);
        let counting: Vec<(Limit, CountedBy, Mode)> =
            of_scope.iter().map(|limit| (limit.clone(), CountedBy::Task, Mode::Enforce)).chain(counting).collect();
        let mut reached = vec![];
        for (limit, by, mode) in &counting {
            let history = match by {
                CountedBy::Task => &*histories.task,
                CountedBy::Agent => &*histories.agent,
            };
            if history.left(limit, now) == 0 {
                let reason = limit_reached(limit, *by);
                if *mode == Mode::Enforce { reached.push(reason) } else { notices.push(reason) }
            }
        }
        if !reached.is_empty() {
            return Err(Box::new(No { reasons: reached, notices, approval: None }));
        }
        if awaited && !(histories.task.has_room() && histories.agent.has_room()) {
            return Err(no(
                Code::LimitReached,
                None,
                format!("{} actions of this task await their outcome", history::MOST_RESERVED),
                AWAIT_OUTCOMES,
            ));
        }
        if !histories.task.can_remember(mark) {
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
        let counted: Vec<(Limit, CountedBy)> = counting.into_iter().map(|(limit, by, _)| (limit, by)).collect();
        let of = |wanted: CountedBy| -> Vec<Limit> {
            counted.iter().filter(|(_, by)| *by == wanted).map(|(limit, _)| limit.clone()).collect()
        };
        let of_agent = of(CountedBy::Agent);
        let agent = match of_agent.as_slice() {
            [] => None,
            limits => histories.agent.take(mark, limits, awaited, now),
        };
        let task = histories.task.take(mark, &of(CountedBy::Task), awaited, now);
        Ok(Taken { notices, reservation: task.map(|task| Reservation { task, agent }), counted })
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

fn limit_reached(limit: &Limit, by: CountedBy) -> Reason {
    let whose = match by {
        CountedBy::Task => "task",
        CountedBy::Agent => "agent",
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
