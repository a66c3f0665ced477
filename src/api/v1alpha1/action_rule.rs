//! The `rules` of a policy: what agents may not do, or not without more.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::value::{Amount, Classification, Duration, Effect, Pattern};

/// One rule on the actions of agents: `deny`, `requireApproval` or `limit`, on the actions that
/// `match` names, where `when` holds. Rules restrict; only a TaskScope grants.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.deny), has(self.requireApproval), has(self.limit)].filter(x, x).size() == 1").message("give exactly one of `deny`, `requireApproval` and `limit`"))]
pub struct ActionRule {
    /// Name, by which every decision that it makes names it. Example:
    /// `no-egress-after-confidential-read`.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Refuse, with these words. Example: `this task has read confidential data; it may not
    /// send data outside`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub deny: Option<String>,
    /// Refuse until a person has agreed to this very action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_approval: Option<ApprovalDemand>,
    /// Refuse beyond a number of actions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<RateLimit>,
    /// The actions it is about. Left out, all actions.
    #[serde(default, rename = "match", skip_serializing_if = "ActionMatch::is_all")]
    pub matches: ActionMatch,
    /// What else must hold for the rule to apply. Left out, nothing.
    #[serde(default, skip_serializing_if = "When::is_always")]
    pub when: When,
}

/// Whom to ask.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalDemand {
    /// Who may agree: `user:` or `group:` and a name, as the API server's authentication gives
    /// it. Example: `["group:finance-leads"]`.
    #[schemars(length(min = 1, max = 32), inner(length(min = 6, max = 262), pattern(r"^(user|group):.+$")))]
    pub approvers: Vec<String>,
    /// How long an approval may be used, `1m` to `24h`. Default `10m`.
    #[serde(default = "ten_minutes")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('24h')").message("validFor must lie between `1m` and `24h`"))]
    pub valid_for: Duration,
}

fn ten_minutes() -> Duration {
    Duration::from_secs(600)
}

/// So many actions in so long. Only those that were permitted count.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// How many are permitted, 0 to 1,000,000.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub count: u32,
    /// In how long, `1s` to `24h`, looking back from each action. Left out, in the whole life of
    /// the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("per must lie between `1s` and `24h`"))]
    pub per: Option<Duration>,
    /// Whose actions count together: `task` (default), or `agent`: all tasks of the agent, which
    /// needs a `per`.
    #[serde(default, skip_serializing_if = "CountedBy::is_task")]
    pub by: CountedBy,
}

/// Whose actions count together.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum CountedBy {
    /// Those of one task.
    #[default]
    Task,
    /// Those of all tasks of an agent.
    Agent,
}

impl CountedBy {
    fn is_task(&self) -> bool {
        *self == Self::Task
    }
}

/// Which actions a rule is about. Every member that is given must match; of a list, one entry.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ActionMatch {
    /// AgentIdentities, by name; in a ClusterAgentPolicy that means those of any namespace, and
    /// `namespace/name` means one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 127)))]
    pub agents: Vec<String>,
    /// Tools: `server/tool`, or `server/*` for all tools of a server; those of another namespace
    /// as `namespace/server/tool`. In a ClusterAgentPolicy `server/tool` means a server of that
    /// name in any namespace. Example: `["ledger/export", "mail/*"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub tools: Vec<String>,
    /// What the tool does. Example: `[write, export]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub effects: Vec<Effect>,
    /// Ids of resources; each `*` stands for any text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub resources: Vec<Pattern>,
    /// Data classified like this or higher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<Classification>,
    /// Only actions whose data leaves the namespace of the task. Default false: wherever it goes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cross_domain: bool,
    /// Only tasks for a person of one of these groups. A task for nobody is in no group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub principal_groups: Vec<String>,
    /// Only from this depth of delegation on; a task that no other task started has depth 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16))]
    pub delegation_depth: Option<u32>,
    /// Arguments, by name. A call that leaves the argument out matches too: nobody can tell what
    /// it will be.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub arguments: BTreeMap<String, Bound>,
}

impl ActionMatch {
    /// Whether it matches every action.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

/// What the value of an argument must be. Every member that is given must hold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Bound {
    /// This much at least, of an `integer` or a `decimal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Amount>,
    /// This much at most, of an `integer` or a `decimal`. Example: `1000`, `"12.50"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Amount>,
    /// One of these, each `*` standing for any text; of a `strings` argument, each entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub one_of: Vec<Pattern>,
    /// This, of a `boolean`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<bool>,
}

/// What else must hold for a rule to apply. Every member that is given must hold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct When {
    /// What the task has done before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryCondition>,
    /// At which times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeWindow>,
    /// An expression of the Cedar policy language, true where the rule applies; only in a
    /// ClusterAgentPolicy. It is validated against Mandate's schema (`mandate schema cedar`).
    /// Example: `context.objective like "*payroll*"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub cedar: Option<String>,
}

impl When {
    /// Whether it always holds.
    #[must_use]
    pub fn is_always(&self) -> bool {
        *self == Self::default()
    }
}

/// What a task has done before. Every member that is given must hold.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HistoryCondition {
    /// It has read data classified like this or higher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_at_least: Option<Classification>,
    /// It has taken in content that people outside wrote.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untrusted_content: bool,
    /// It has touched one of these domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub domains: Vec<String>,
    /// It has called one of these tools (as in `match.tools`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)))]
    pub called: Vec<String>,
    /// It has not called any of these tools yet: what is permitted only after one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)))]
    pub not_called: Vec<String>,
    /// How far `called` and `notCalled` look back, `1s` to `24h`. Left out, to the task's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Duration>,
}

/// Hours of the week.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TimeWindow {
    /// Days of the week. Default: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub days: Vec<Weekday>,
    /// From this minute on, `00:00` to `23:59`. Default `00:00`.
    #[serde(default = "midnight")]
    #[schemars(pattern(r"^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub from: String,
    /// Until just before this minute, `00:01` to `24:00`. Earlier than `from`, the window goes on
    /// past midnight. Default `24:00`.
    #[serde(default = "end_of_day")]
    #[schemars(pattern(r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"))]
    pub until: String,
    /// Time zone by its IANA name. Default `UTC`. Example: `Europe/Berlin`.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64), pattern(r"^[A-Za-z0-9_+\-/]+$"))]
    pub zone: String,
    /// Whether the rule applies outside of these hours instead of in them. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outside: bool,
}

fn midnight() -> String {
    "00:00".to_owned()
}

fn end_of_day() -> String {
    "24:00".to_owned()
}

fn utc() -> String {
    "UTC".to_owned()
}

/// A day of the week.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Weekday {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}
