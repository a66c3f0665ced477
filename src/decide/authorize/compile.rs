//! Scopes and rules as Cedar policies, indexed so that a decision looks at its own slice.
//!
//! One object is compiled by itself, so that a change compiles one object. Scopes become
//! permits and rules forbids; nothing else exists, and so nothing widens. What Cedar cannot say
//! (windows of time, what was called how often) stands beside the forbid and is looked at where
//! the forbid holds.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use cedar_policy::pst::BinaryOp;
use cedar_policy::{Policy, PolicySet};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::cedar::{self, Facts, Head, Kind, Looks, Node};
use super::history::{History, Limit};
use crate::api::{
    ActionMatch, ActionRule, ApprovalDemand, Bound, Classification, CountedBy, Effect, Guardrails, HistoryCondition, Limits,
    Mode, Pattern, TaskScopeSpec, TimeWindow, ToolGrant, Weekday,
};

/// Largest depth and size of an expert's expression, in characters.
const LONGEST_EXPRESSION: usize = 4096;

/// What is wrong with an object, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Field path.
    pub at: String,
    /// What is wrong, in words, and what to write instead.
    pub message: String,
}

/// One rule of a policy, ready to be asked.
#[derive(Clone, Debug)]
pub struct CompiledRule {
    /// Leads back to object and rule: `AgentPolicy finance/agents#no-export`.
    pub id: Arc<str>,
    /// How far it goes.
    pub mode: Mode,
    /// What follows where it applies.
    pub then: Then,
    /// What must have been called, or not, for it to apply.
    pub calls: Option<Calls>,
    /// The hours in which it applies.
    pub hours: Option<Hours>,
    forbid: Policy,
    looks: Looks,
    looks_at_history: bool,
    keys: Vec<Key>,
}

/// What follows where a rule applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// Refuse, with these words.
    Deny(String),
    /// Ask a person.
    Approve(ApprovalDemand),
    /// Count, and refuse beyond.
    Count(Limit, CountedBy),
}

/// What must have been called, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// One of these was called.
    pub any: Vec<ToolName>,
    /// None of these was called.
    pub none: Vec<ToolName>,
    /// How far back.
    pub within: Option<SignedDuration>,
}

/// Hours of the week.
#[derive(Clone, Debug)]
pub struct Hours {
    days: Vec<Weekday>,
    from: i32,
    until: i32,
    zone: TimeZone,
    outside: bool,
}

/// Where in the index a rule stands: the narrowest thing that its `match` names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Tool(ToolName),
    Agent(String),
    Effect(Effect),
}

/// A tool, or all tools of a server, as a rule names them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ToolName {
    /// `namespace/server/tool`.
    Tool(String),
    /// `namespace/server`.
    Server(String),
    /// `server/tool`, of any namespace.
    AnyTool(String),
    /// `server`, of any namespace.
    AnyServer(String),
}

/// The tools of a scope, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct CompiledScope {
    /// By tool key.
    pub tools: BTreeMap<String, Slice>,
    /// Its limits on all calls.
    pub limits: Vec<Limit>,
    /// As they were written, to say what is lacking.
    pub grants: Vec<ToolGrant>,
    /// Of the same.
    pub digest: [u8; 32],
}

/// The policies that one kind of action is judged by.
#[derive(Clone, Debug, Default)]
pub struct Slice {
    /// The policies.
    pub set: PolicySet,
    /// The rules they come from, by id; none for permits.
    pub rules: BTreeMap<Arc<str>, Arc<CompiledRule>>,
    /// What they look at.
    pub looks: Looks,
    /// Whether an answer may change with what was done before.
    pub looks_at_history: bool,
    /// What was answered before, where that can be used again.
    answered: Option<Answered>,
}

/// The answers of a scope's permits of one tool that look at the class of the data alone: Cedar is
/// asked once for each class.
#[derive(Clone, Debug)]
struct Answered {
    namespace: String,
    scope: String,
    by_class: [OnceLock<Vec<Arc<str>>>; Classification::ALL.len()],
}

/// Where an object stands, for the ids and for short names.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// In a namespace.
    In(&'a str),
    /// In none: a ClusterAgentPolicy.
    Cluster,
}

/// Compiles the rules of one policy.
///
/// # Errors
/// Every problem, each with its field.
pub fn policy(place: Place, name: &str, guardrails: &Guardrails) -> Result<Vec<Arc<CompiledRule>>, Vec<Problem>> {
    let owner = match place {
        Place::In(namespace) => format!("AgentPolicy {namespace}/{name}"),
        Place::Cluster => format!("ClusterAgentPolicy {name}"),
    };
    let (mut rules, mut problems) = (vec![], vec![]);
    for (index, rule) in guardrails.rules.iter().enumerate() {
        let at = format!("spec.rules[{index}]");
        let id: Arc<str> = format!("{owner}#{}", rule.name).into();
        // Of two rules of one name only one would be asked.
        if guardrails.rules[..index].iter().any(|other| other.name == rule.name) {
            let message = format!("another rule is called `{}` too: give each its own name", rule.name);
            problems.push(Problem { at: format!("{at}.name"), message });
            continue;
        }
        match self::rule(place, id, &at, rule, guardrails.mode) {
            Ok(rule) => rules.push(Arc::new(rule)),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

fn rule(place: Place, id: Arc<str>, at: &str, rule: &ActionRule, mode: Mode) -> Result<CompiledRule, Vec<Problem>> {
    let ActionRule { name: _, deny, require_approval, limit, matches, when } = rule;
    let mut problems = vec![];
    let mut say = |at: String, message: String| problems.push(Problem { at, message });
    let then = match (deny, require_approval, limit) {
        (Some(words), None, None) => Some(Then::Deny(words.clone())),
        (None, Some(demand), None) => Some(Then::Approve(demand.clone())),
        (None, None, Some(limit)) => {
            if limit.by == CountedBy::Agent && limit.per.is_none() {
                say(format!("{at}.limit"), "a limit by `agent` needs `per`: an agent has no end; write `per: 1h`".to_owned());
            }
            let per = limit.per.map(SignedDuration::from);
            Some(Then::Count(Limit { id: id.clone(), count: u64::from(limit.count), per }, limit.by))
        }
        _ => {
            say(at.to_owned(), "give exactly one of `deny`, `requireApproval` and `limit`".to_owned());
            None
        }
    };
    let mut names = |field: &str, list: &[String]| -> Vec<ToolName> {
        let mut read = vec![];
        for (index, text) in list.iter().enumerate() {
            match ToolName::read(place, text) {
                Ok(name) => read.push(name),
                Err(message) => problems.push(Problem { at: format!("{at}.{field}[{index}]"), message }),
            }
        }
        read
    };
    let tools = names("match.tools", &matches.tools);
    let history = when.history.clone().unwrap_or_default();
    let any = names("when.history.called", &history.called);
    let none = names("when.history.notCalled", &history.not_called);
    let mut nodes = matched(place, matches, &tools);
    nodes.extend(remembered(&history));
    if let Some(text) = &when.cedar {
        match (place, expression(text)) {
            (Place::In(_), _) => problems.push(Problem {
                at: format!("{at}.when.cedar"),
                message: "only a ClusterAgentPolicy may hold an expression; write the rule with `match` and `when`".to_owned(),
            }),
            (Place::Cluster, Ok(node)) => nodes.push(node),
            (Place::Cluster, Err(message)) => problems.push(Problem { at: format!("{at}.when.cedar"), message }),
        }
    }
    let hours = when.time.as_ref().map(Hours::read).transpose().unwrap_or_else(|message| {
        problems.push(Problem { at: format!("{at}.when.time"), message });
        None
    });
    for (name, bound) in &matches.arguments {
        if let Err(message) = bound.one_kind() {
            problems.push(Problem { at: format!("{at}.match.arguments.{name}"), message });
        }
    }
    let counts = matches!(then, Some(Then::Count(..)));
    let looks = Looks::of(&nodes);
    let looks_at_history = counts || when.history.is_some() || when.cedar.is_some();
    let head = Head { tool: None, effects: matches.effects.clone() };
    let forbid = cedar::policy(&id, false, &head, nodes).and_then(|policy| cedar::validate(&policy).map(|()| policy));
    let forbid = forbid.map_err(|message| {
        let field = if when.cedar.is_some() { ".when.cedar" } else { "" };
        problems.push(Problem { at: format!("{at}{field}"), message });
    });
    let calls =
        (!any.is_empty() || !none.is_empty()).then(|| Calls { any, none, within: history.within.map(SignedDuration::from) });
    match (then, forbid) {
        (Some(then), Ok(forbid)) if problems.is_empty() => {
            let keys = keys(place, matches, tools);
            Ok(CompiledRule { id, mode, then, calls, hours, forbid, looks, looks_at_history, keys })
        }
        _ => Err(problems),
    }
}

/// An expert's expression, of a size that stays cheap.
fn expression(text: &str) -> Result<Node, String> {
    if text.len() > LONGEST_EXPRESSION {
        return Err(format!("must have {LONGEST_EXPRESSION} characters at most"));
    }
    cedar::read(text)
}

/// `match`, but for the effects, which stand in the head.
fn matched(place: Place, matches: &ActionMatch, tools: &[ToolName]) -> Vec<Node> {
    let ActionMatch {
        agents,
        tools: _,
        effects: _,
        resources,
        classification,
        cross_domain,
        principal_groups,
        delegation_depth,
        arguments,
    } = matches;
    let mut nodes = vec![];
    if !tools.is_empty() {
        nodes.push(cedar::any(tools.iter().map(ToolName::node).collect()));
    }
    if !agents.is_empty() {
        let agent = |name: &String| match (place, name.contains('/')) {
            (Place::Cluster, false) => cedar::binary(BinaryOp::Eq, cedar::context("agentName"), cedar::text(name)),
            _ => cedar::binary(BinaryOp::Eq, cedar::context("agent"), cedar::entity(Kind::Agent, &full(place, name))),
        };
        nodes.push(cedar::any(agents.iter().map(agent).collect()));
    }
    if !resources.is_empty() {
        nodes.push(about(resources));
    }
    if let Some(classification) = classification {
        nodes.push(cedar::binary(BinaryOp::GreaterEq, cedar::context("classification"), cedar::long(classification.rank())));
    }
    if *cross_domain {
        nodes.push(cedar::context("crossDomain"));
    }
    if !principal_groups.is_empty() {
        let groups = cedar::texts(principal_groups.iter().map(String::as_str));
        nodes.push(cedar::binary(BinaryOp::ContainsAny, cedar::context("principalGroups"), groups));
    }
    if let Some(depth) = delegation_depth {
        nodes.push(cedar::binary(BinaryOp::GreaterEq, cedar::context("delegationDepth"), cedar::long(i64::from(*depth))));
    }
    nodes.extend(arguments.iter().map(|(name, bound)| bound.in_rule(name)));
    nodes
}

/// The part of `when.history` that Cedar can say.
fn remembered(history: &HistoryCondition) -> Vec<Node> {
    let HistoryCondition { read_at_least, untrusted_content, domains, called: _, not_called: _, within: _ } = history;
    let past = |name: &str| cedar::attribute(cedar::context("history"), name);
    let mut nodes = vec![];
    if let Some(classification) = read_at_least {
        nodes.push(cedar::binary(BinaryOp::GreaterEq, past("highestRead"), cedar::long(classification.rank())));
    }
    if *untrusted_content {
        nodes.push(past("untrusted"));
    }
    if !domains.is_empty() {
        nodes.push(cedar::binary(BinaryOp::ContainsAny, past("domains"), cedar::texts(domains.iter().map(String::as_str))));
    }
    nodes
}

/// About one of some resources.
fn about(resources: &[Pattern]) -> Node {
    cedar::all(vec![cedar::has("resourceId"), cedar::like_any(&cedar::context("resourceId"), resources)])
}

/// The narrowest thing that a rule names; every action it can match meets one of these keys.
fn keys(place: Place, matches: &ActionMatch, tools: Vec<ToolName>) -> Vec<Key> {
    if !tools.is_empty() {
        return tools.into_iter().map(Key::Tool).collect();
    }
    if !matches.agents.is_empty() {
        return matches.agents.iter().map(|name| Key::Agent(full(place, name))).collect();
    }
    let effects = if matches.effects.is_empty() { &Effect::ALL[..] } else { &matches.effects };
    effects.iter().copied().map(Key::Effect).collect()
}

/// A name with the namespace of its policy, where it has none of its own.
fn full(place: Place, name: &str) -> String {
    match place {
        Place::In(namespace) if !name.contains('/') => format!("{namespace}/{name}"),
        _ => name.to_owned(),
    }
}

impl ToolName {
    fn read(place: Place, text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` must be `server/tool`, `server/*`, `namespace/server/tool` or `namespace/server/*`");
        let parts: Vec<&str> = text.splitn(3, '/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(wrong());
        }
        Ok(match (parts.as_slice(), place) {
            ([server, "*"], Place::In(namespace)) => Self::Server(format!("{namespace}/{server}")),
            ([server, tool], Place::In(namespace)) => Self::Tool(format!("{namespace}/{server}/{tool}")),
            ([server, "*"], Place::Cluster) => Self::AnyServer((*server).to_owned()),
            ([_, _], Place::Cluster) => Self::AnyTool(text.to_owned()),
            ([namespace, server, "*"], _) => Self::Server(format!("{namespace}/{server}")),
            ([_, _, _], _) => Self::Tool(text.to_owned()),
            _ => return Err(wrong()),
        })
    }

    fn node(&self) -> Node {
        let eq = |left, right| cedar::binary(BinaryOp::Eq, left, right);
        match self {
            Self::Tool(key) => eq(cedar::resource(), cedar::entity(Kind::Tool, key)),
            Self::Server(key) => eq(cedar::context("server"), cedar::entity(Kind::Server, key)),
            Self::AnyServer(name) => eq(cedar::context("serverName"), cedar::text(name)),
            Self::AnyTool(name) => {
                let (server, tool) = name.split_once('/').unwrap_or((name, ""));
                cedar::all(vec![
                    eq(cedar::context("serverName"), cedar::text(server)),
                    eq(cedar::context("toolName"), cedar::text(tool)),
                ])
            }
        }
    }

    /// Whether a task below one called such a tool since a time.
    #[must_use]
    pub fn was_called_below(&self, history: &History, since: Option<Timestamp>) -> bool {
        match self {
            Self::Tool(key) | Self::Server(key) => history.called_below(key, since),
            Self::AnyTool(name) | Self::AnyServer(name) => history.called_anywhere_below(name, since),
        }
    }

    /// Whether the task itself called such a tool since a time.
    #[must_use]
    pub fn was_called(&self, history: &History, since: Option<Timestamp>) -> bool {
        match self {
            Self::Tool(key) | Self::Server(key) => history.called(key, since),
            Self::AnyTool(name) | Self::AnyServer(name) => history.called_anywhere(name, since),
        }
    }
}

impl Bound {
    /// What kind of argument it bounds.
    fn one_kind(&self) -> Result<(), String> {
        let Self { min, max, one_of, is } = self;
        let numbers = min.is_some() || max.is_some();
        match (numbers, !one_of.is_empty(), is.is_some()) {
            (true, false, false) | (false, true, false) | (false, false, true) => Ok(()),
            (false, false, false) => Err("bounds nothing: give `min`, `max`, `oneOf` or `is`".to_owned()),
            _ => {
                Err("bounds more than one type: `min` and `max` are for numbers, `oneOf` for texts, `is` for booleans".to_owned())
            }
        }
    }

    /// In a scope: the argument is there and within.
    fn in_scope(&self, name: &str) -> Node {
        self.read(name, |here, inside| cedar::all(vec![here, inside]), BinaryOp::ContainsAll)
    }

    /// In a rule: the argument is within, or not there, since then nobody can tell.
    fn in_rule(&self, name: &str) -> Node {
        self.read(name, |here, inside| cedar::either(here, inside, cedar::flag(true)), BinaryOp::ContainsAny)
    }

    fn read(&self, name: &str, join: impl Fn(Node, Node) -> Node, of_list: BinaryOp) -> Node {
        let Self { min, max, one_of, is } = self;
        let held = |kind| cedar::holder("arguments", kind);
        if let Some(is) = is {
            let flags = held("flags");
            return join(cedar::has_tag(&flags, name), cedar::binary(BinaryOp::Eq, cedar::tag(&flags, name), cedar::flag(*is)));
        }
        if !one_of.is_empty() {
            let (texts, lists) = (held("texts"), held("lists"));
            let exact: Vec<&str> = one_of.iter().filter_map(Pattern::exact).collect();
            let none = exact.is_empty();
            let exact = cedar::texts(exact);
            let list = match of_list {
                // Cedar knows no set of nothing; a list is held to exact texts alone.
                _ if none => cedar::flag(false),
                BinaryOp::ContainsAll => cedar::binary(of_list, exact, cedar::tag(&lists, name)),
                _ => cedar::binary(of_list, cedar::tag(&lists, name), exact),
            };
            let one = join(cedar::has_tag(&texts, name), cedar::like_any(&cedar::tag(&texts, name), one_of));
            let many = join(cedar::has_tag(&lists, name), list);
            // An argument is a text or a list, never both. In a scope one of them must be there
            // and within; in a rule it is enough that one is within, or that neither is there.
            return match of_list {
                BinaryOp::ContainsAll => cedar::any(vec![one, many]),
                _ => cedar::all(vec![one, many]),
            };
        }
        let numbers = held("numbers");
        let value = || cedar::tag(&numbers, name);
        let low = min.map(|min| cedar::binary(BinaryOp::GreaterEq, value(), cedar::amount(min)));
        let high = max.map(|max| cedar::binary(BinaryOp::LessEq, value(), cedar::amount(max)));
        join(cedar::has_tag(&numbers, name), cedar::all(low.into_iter().chain(high).collect()))
    }
}

impl Hours {
    fn read(window: &TimeWindow) -> Result<Self, String> {
        let TimeWindow { days, from, until, zone, outside } = window;
        let minute = |text: &str| -> Option<i32> {
            let (hours, minutes) = text.split_once(':')?;
            let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
            ((0..24).contains(&hours) && (0..60).contains(&minutes) || (hours, minutes) == (24, 0))
                .then_some(hours * 60 + minutes)
        };
        let minute = |text: &str| minute(text).ok_or_else(|| format!("`{text}` is no time of day such as `08:30`"));
        let zone = TimeZone::get(zone).map_err(|_| format!("`{zone}` is no time zone such as `UTC` or `Europe/Berlin`"))?;
        let (from, until) = (minute(from)?, minute(until)?);
        if from == until {
            return Err("`from` and `until` are the same minute: leave both out for the whole day".to_owned());
        }
        Ok(Self { days: days.clone(), from, until, zone, outside: *outside })
    }

    /// Whether the rule applies at a time.
    #[must_use]
    pub fn hold_at(&self, now: Timestamp) -> bool {
        let local = now.to_zoned(self.zone.clone());
        let minute = i32::from(local.hour()) * 60 + i32::from(local.minute());
        let past_midnight = self.until < self.from && minute < self.until;
        // What goes on past midnight belongs to the day on which it began.
        let day =
            if past_midnight { local.date().yesterday().map_or(local.weekday(), |date| date.weekday()) } else { local.weekday() };
        let hours =
            if self.until < self.from { minute >= self.from || past_midnight } else { (self.from..self.until).contains(&minute) };
        let inside = hours && (self.days.is_empty() || self.days.iter().any(|named| weekday(*named) == day));
        inside != self.outside
    }
}

fn weekday(day: Weekday) -> jiff::civil::Weekday {
    match day {
        Weekday::Mon => jiff::civil::Weekday::Monday,
        Weekday::Tue => jiff::civil::Weekday::Tuesday,
        Weekday::Wed => jiff::civil::Weekday::Wednesday,
        Weekday::Thu => jiff::civil::Weekday::Thursday,
        Weekday::Fri => jiff::civil::Weekday::Friday,
        Weekday::Sat => jiff::civil::Weekday::Saturday,
        Weekday::Sun => jiff::civil::Weekday::Sunday,
    }
}

/// What tells these grants from others.
#[must_use]
pub fn digest(tools: &[ToolGrant]) -> [u8; 32] {
    Sha256::digest(serde_json::to_vec(tools).unwrap_or_default()).into()
}

/// Compiles the tools that a task was granted at its start.
///
/// # Errors
/// Every problem, each with its field.
pub fn granted_at_start(namespace: &str, scope: &str, tools: &[ToolGrant]) -> Result<CompiledScope, Vec<Problem>> {
    grants(namespace, scope, tools, Limits::default())
}

/// Compiles the tools and limits of one scope.
///
/// # Errors
/// Every problem, each with its field.
pub fn scope(namespace: &str, name: &str, spec: &TaskScopeSpec) -> Result<CompiledScope, Vec<Problem>> {
    grants(namespace, name, &spec.tools, spec.limits)
}

fn grants(namespace: &str, name: &str, tools: &[ToolGrant], limits: Limits) -> Result<CompiledScope, Vec<Problem>> {
    let mut problems = vec![];
    let mut permits: BTreeMap<String, Vec<(Policy, Looks)>> = BTreeMap::new();
    for (index, grant) in tools.iter().enumerate() {
        let at = format!("spec.tools[{index}]");
        for (name, bound) in &grant.arguments {
            if let Err(message) = bound.one_kind() {
                problems.push(Problem { at: format!("{at}.arguments.{name}"), message });
            }
        }
        let server = full(Place::In(namespace), &grant.server);
        for tool in &grant.names {
            let key = format!("{server}/{tool}");
            let id = format!("TaskScope {namespace}/{name}#tools[{index}].{tool}");
            let when = granted(namespace, name, grant);
            let looks = Looks::of(&when);
            let head = Head { tool: Some(key.clone()), effects: vec![] };
            match cedar::policy(&id, true, &head, when).and_then(|policy| cedar::validate(&policy).map(|()| policy)) {
                Ok(policy) => permits.entry(key).or_default().push((policy, looks)),
                Err(message) => problems.push(Problem { at: at.clone(), message }),
            }
        }
    }
    let mut compiled = CompiledScope {
        tools: BTreeMap::new(),
        limits: limits_of(namespace, name, limits),
        grants: tools.to_vec(),
        digest: digest(tools),
    };
    for (key, policies) in permits {
        let looks = policies.iter().fold(Looks::default(), |all, (_, looks)| all.and(*looks));
        let answered = looks.at_class_alone().then(|| Answered {
            namespace: namespace.to_owned(),
            scope: name.to_owned(),
            by_class: Default::default(),
        });
        match cedar::set(policies.into_iter().map(|(policy, _)| policy)) {
            Ok(set) => _ = compiled.tools.insert(key, Slice { set, looks, answered, ..Slice::default() }),
            Err(message) => problems.push(Problem { at: "spec.tools".to_owned(), message }),
        }
    }
    if problems.is_empty() { Ok(compiled) } else { Err(problems) }
}

fn granted(namespace: &str, scope: &str, grant: &ToolGrant) -> Vec<Node> {
    let ToolGrant { server: _, names: _, classification, resources, arguments } = grant;
    let eq = |name: &str, value: &str| cedar::binary(BinaryOp::Eq, cedar::context(name), cedar::text(value));
    let mut nodes = vec![
        eq("namespace", namespace),
        eq("scope", scope),
        cedar::binary(BinaryOp::LessEq, cedar::context("classification"), cedar::long(classification.rank())),
    ];
    if !resources.is_empty() {
        nodes.push(about(resources));
    }
    nodes.extend(arguments.iter().map(|(name, bound)| bound.in_scope(name)));
    nodes
}

fn limits_of(namespace: &str, name: &str, limits: Limits) -> Vec<Limit> {
    let limit = |field: &str, count: Option<u32>, per: Option<SignedDuration>| {
        let id = format!("TaskScope {namespace}/{name}#limits.{field}").into();
        Some(Limit { id, count: u64::from(count?), per })
    };
    let Limits { actions, per_minute } = limits;
    [limit("actions", actions, None), limit("perMinute", per_minute, Some(SignedDuration::from_mins(1)))]
        .into_iter()
        .flatten()
        .collect()
}

/// The rules of many policies, by what they are about.
#[derive(Clone, Debug, Default)]
pub struct Index {
    tools: BTreeMap<String, Slice>,
    any_tools: BTreeMap<String, Slice>,
    agents: BTreeMap<String, Slice>,
    effects: BTreeMap<Effect, Slice>,
}

impl Index {
    /// Puts rules in their places.
    ///
    /// # Errors
    /// Two rules of one id: the objects they come from have one name.
    pub fn build<'a>(rules: impl IntoIterator<Item = &'a Arc<CompiledRule>>) -> Result<Self, String> {
        let mut places: BTreeMap<Key, BTreeMap<Arc<str>, Arc<CompiledRule>>> = BTreeMap::new();
        for rule in rules {
            for key in &rule.keys {
                places.entry(key.clone()).or_default().insert(rule.id.clone(), rule.clone());
            }
        }
        let mut index = Self::default();
        for (key, rules) in places {
            let slice = Slice::of(rules)?;
            match key {
                Key::Tool(ToolName::Tool(key) | ToolName::Server(key)) => index.tools.insert(key, slice),
                Key::Tool(ToolName::AnyTool(key) | ToolName::AnyServer(key)) => index.any_tools.insert(key, slice),
                Key::Agent(key) => index.agents.insert(key, slice),
                Key::Effect(effect) => index.effects.insert(effect, slice),
            };
        }
        Ok(index)
    }

    /// Every slice that an action meets. `tool`: `namespace/server/tool`; `agent`:
    /// `namespace/name`.
    pub fn slices<'a>(&'a self, tool: &'a str, agent: &'a str, effect: Effect) -> impl Iterator<Item = &'a Slice> {
        let Self { tools, any_tools, agents, effects } = self;
        let (namespace, any_tool) = tool.split_once('/').unwrap_or(("", tool));
        let any_server = any_tool.split_once('/').map_or(any_tool, |(server, _)| server);
        let server = &tool[..(namespace.len() + 1 + any_server.len()).min(tool.len())];
        let bare = agent.split_once('/').map_or(agent, |(_, name)| name);
        [
            tools.get(tool),
            tools.get(server),
            any_tools.get(any_tool),
            any_tools.get(any_server),
            agents.get(agent),
            agents.get(bare),
            effects.get(&effect),
        ]
        .into_iter()
        .flatten()
    }
}

impl Slice {
    fn of(rules: BTreeMap<Arc<str>, Arc<CompiledRule>>) -> Result<Self, String> {
        let set = cedar::set(rules.values().map(|rule| rule.forbid.clone()))?;
        let looks = rules.values().fold(Looks::default(), |all, rule| all.and(rule.looks));
        let looks_at_history = rules.values().any(|rule| rule.looks_at_history || rule.calls.is_some());
        Ok(Self { set, rules, looks, looks_at_history, answered: None })
    }

    /// The permits that hold, where that was asked before of an action that is alike to them.
    #[must_use]
    pub fn answered(&self, facts: &Facts) -> Option<&[Arc<str>]> {
        self.place(facts)?.get().map(Vec::as_slice)
    }

    /// Keeps an answer for actions that are alike.
    pub fn keep(&self, facts: &Facts, held: &[Arc<str>]) {
        if let Some(place) = self.place(facts) {
            let _ = place.get_or_init(|| held.to_vec());
        }
    }

    fn place(&self, facts: &Facts) -> Option<&OnceLock<Vec<Arc<str>>>> {
        let Answered { namespace, scope, by_class } = self.answered.as_ref()?;
        let is_of_it = facts.namespace == namespace && facts.scope == scope;
        by_class.get(usize::try_from(facts.classification).ok().filter(|_| is_of_it)?)
    }
}
