//! What tasks did before this process began, out of the audit log: a restart must not make a
//! task forget that it has read confidential data, nor give it its limits anew.
//!
//! Only what was permitted counts. What was given back afterwards still counts after a restart:
//! rather too much than too little.

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr as _;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::api::{Classification, CountedBy, Link};
use crate::audit::AuditError;
use crate::audit::read::{Cursor, Filter, Found};
use crate::audit::{Keys, Kind};
use crate::decide::authorize::history::{History, Limit, Mark, Whose};
use crate::decide::authorize::{LookedAt, Subject};

/// No task lives longer, and no window looks back further.
const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// What was done before.
#[derive(Debug, Default)]
pub struct Past {
    /// By namespace, name and UID of the task.
    tasks: HashMap<String, History>,
    /// By `namespace/name` of the agent.
    agents: HashMap<String, History>,
}

/// By what a task is known in the past.
fn of_task(namespace: &str, name: &str, uid: &str) -> String {
    format!("{namespace}/{name}/{uid}")
}

/// The parts of a decision's entry that are remembered.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    #[serde(default)]
    classification: Option<Classification>,
    #[serde(default)]
    untrusted: bool,
    #[serde(default)]
    domain: Option<String>,
    #[serde(default)]
    counted: Vec<Counted>,
    #[serde(default)]
    above: Option<Vec<Above>>,
}

/// A limit that counted an action, as the log keeps it: its members in the order of their names.
#[derive(Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Counted {
    /// Whose actions it counts together.
    pub by: CountedBy,
    /// How many it permits.
    pub count: u64,
    /// The limit.
    pub limit: String,
    /// In how many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<i64>,
}

/// A task above the one that acted, as the log keeps it: the root first, its members in the order
/// of their names.
#[derive(Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Above {
    agent: String,
    /// Its limits that counted the action.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    counted: Vec<Counted>,
    /// Its name; its namespace is that of the one that acted.
    task: String,
    uid: String,
}

/// What the log keeps of the tasks above the one that acted.
pub(super) fn of_above(subject: &Subject, looked_at: &LookedAt) -> Vec<Above> {
    let counted = |place: usize| {
        let limits = looked_at.counted_above.iter().filter(move |(_, of)| *of == place);
        limits.map(|(limit, _)| Counted::of(limit, CountedBy::Task)).collect()
    };
    let links = subject.above.iter().enumerate();
    links
        .map(|(place, Link { task, uid, agent })| Above {
            task: task.clone(),
            uid: uid.clone(),
            agent: agent.clone(),
            counted: counted(place),
        })
        .collect()
}

impl Counted {
    pub(super) fn of(limit: &Limit, by: CountedBy) -> Self {
        Self { limit: limit.id.to_string(), count: limit.count, seconds: limit.per.map(|per| per.as_secs()), by }
    }

    fn limit(&self) -> Limit {
        Limit { id: self.limit.as_str().into(), count: self.count, per: self.seconds.map(SignedDuration::from_secs) }
    }
}

impl Past {
    /// Reads the log of a directory.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn read(dir: &Path, now: Timestamp) -> Result<Self, AuditError> {
        let mut past = Self::default();
        let since = now.checked_sub(LONGEST_LIFE).ok();
        let permitted = Keys { outcome: Some("permit".to_owned()), ..Keys::default() };
        let mut cursor = Cursor::new(dir, &Filter { since, keys: permitted, ..Filter::default() }, 0);
        loop {
            let found = cursor.more()?;
            if found.is_empty() {
                return Ok(past);
            }
            found.iter().for_each(|found| past.take(found));
        }
    }

    fn take(&mut self, found: &Found) {
        let keys = found.keys();
        let Keys {
            namespace: Some(namespace), task: Some(task), task_uid: Some(uid), agent: Some(agent), tool: Some(tool), ..
        } = &keys
        else {
            return;
        };
        let (Ok(at), Ok(done)) = (Timestamp::from_str(found.at()), serde_json::from_str::<Done>(found.body())) else { return };
        if found.kind() != Kind::Decision.as_str() {
            return;
        }
        let Done { classification, untrusted, domain, counted, above } = done;
        let mark = Mark {
            tool: tool.as_str().into(),
            read: classification,
            untrusted,
            domain: domain.unwrap_or_default().as_str().into(),
        };
        let of = |wanted: CountedBy| -> Vec<Limit> {
            counted.iter().filter(|counted| counted.by == wanted).map(Counted::limit).collect()
        };
        for Above { task, uid, agent: _, counted } in above.iter().flatten() {
            let limits: Vec<Limit> = counted.iter().map(Counted::limit).collect();
            let history = self.tasks.entry(of_task(namespace, task, uid)).or_default();
            history.take_of(Whose::Below, &mark, &limits, false, at);
        }
        self.tasks.entry(of_task(namespace, task, uid)).or_default().take(&mark, &of(CountedBy::Task), false, at);
        let of_agent = of(CountedBy::Agent);
        if !of_agent.is_empty() {
            self.agents.entry(format!("{namespace}/{agent}")).or_default().take(&mark, &of_agent, false, at);
        }
    }

    /// What a task did.
    pub(super) fn task(&mut self, namespace: &str, name: &str, uid: &str) -> History {
        self.tasks.remove(&of_task(namespace, name, uid)).unwrap_or_default()
    }

    /// What the tasks of an agent did.
    pub(super) fn agent(&mut self, key: &str) -> History {
        self.agents.remove(key).unwrap_or_default()
    }
}
