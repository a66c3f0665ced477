//! Decisions by manifests alone, for `mandate decide` and `mandate test`: the same compiler and
//! the same `authorize` as the authorizer's, with the time and the past as arguments.
//!
//! In: paths of manifests. Out: a [`Scene`] that answers, or everything that is wrong with the
//! manifests: where they are not sound, an answer would be about something else.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::known::Known;
use super::render::line;
use crate::authorizer::door::authzen::asked::Call;
use crate::decide::authorize::history::{History, Outcome as Reported};
use crate::decide::authorize::snapshot::{Compiler, Trouble};
use crate::decide::authorize::{Action, Ancestor, Decision, Histories, Snapshot, Subject, authorize};

/// What manifests say, ready to be asked.
pub(super) struct Scene {
    /// What decisions are made by.
    pub snapshot: Snapshot,
    subjects: BTreeMap<String, Subject>,
    /// Namespace of tasks that name none.
    namespace: String,
}

/// What a task wants to do.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    /// The server, by its name or `namespace/name`.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// Arguments of the call.
    pub arguments: Map<String, Value>,
    /// Id of the resource.
    pub resource: Option<String>,
    /// What is said of the subject.
    pub subject_properties: Map<String, Value>,
    /// What is said of the resource.
    pub resource_properties: Map<String, Value>,
    /// What it is for.
    pub intent: Option<String>,
}

/// What has been done, by tasks and agents, each by `namespace/name`.
#[derive(Default)]
pub(super) struct Past {
    tasks: BTreeMap<String, History>,
    agents: BTreeMap<String, History>,
}

impl Past {
    /// Takes the history of a task, to be put back.
    fn take(&mut self, task: &str) -> History {
        self.tasks.remove(task).unwrap_or_default()
    }
}

impl Scene {
    /// Reads manifests. Tasks in them without a time of creation begin at `begin`.
    ///
    /// # Errors
    /// Everything that is wrong, each with its file or its object and the field.
    pub fn read(paths: &[PathBuf], namespace: &str, begin: Timestamp) -> Result<Self, Vec<String>> {
        let known = Known::read(paths, namespace, begin);
        let mut wrong: Vec<String> = known
            .problems
            .iter()
            .map(|problem| {
                let at = problem.at.map(|at| format!(":{at}")).unwrap_or_default();
                line(&format!("{}{at}: {}", problem.file, problem.message)).into_owned()
            })
            .collect();
        let (snapshot, trouble) = Compiler::default().compile(&known.sources);
        // What cannot be read was told with its place.
        let told = trouble.iter().filter(|trouble| wrong.is_empty() || !trouble.problem.at.is_empty());
        let told: Vec<String> = told.map(|trouble| trouble_line(&known, trouble)).collect();
        wrong.extend(told);
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let subjects = known.subjects.into_iter().map(|subject| (subject.key.clone(), subject)).collect();
        Ok(Self { snapshot, subjects, namespace: namespace.to_owned() })
    }

    /// A task of the manifests, by its name or `namespace/name`.
    ///
    /// # Errors
    /// There is none, and which there are.
    pub fn task(&self, name: &str) -> Result<&Subject, String> {
        let key = if name.contains('/') { name.to_owned() } else { format!("{}/{name}", self.namespace) };
        self.subjects.get(&key).ok_or_else(|| {
            let known = self.subjects.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none".to_owned() } else { known };
            format!("there is no AgentTask `{key}` in the manifests; there are: {known}")
        })
    }

    /// The tool that a text names, as a task of a namespace calls it.
    ///
    /// # Errors
    /// It is no `server/tool`.
    pub fn tool(&self, from: &str, text: &str) -> Result<(String, String), String> {
        Call::of_tool(&self.snapshot, from, text).map(|call| (call.server, call.tool)).map_err(|why| format!("`{text}`: {why}"))
    }

    /// Decides at a time. A permitted action becomes part of the past; `reported`: how it ended,
    /// or that nobody has said so.
    pub fn ask(&self, subject: &Subject, wish: &Wish, past: &mut Past, at: Timestamp, reported: Ended) -> Decision {
        let Wish { server, tool, arguments, resource, subject_properties, resource_properties, intent } = wish;
        let action = Action {
            server,
            tool,
            resource: resource.as_deref(),
            arguments,
            subject_properties,
            resource_properties,
            intent: intent.as_deref(),
            reports_outcome: reported != Ended::Unsaid,
            kubernetes: None,
        };
        let mut above = self.above(subject, past);
        let (mut task, mut agent) = (past.take(&subject.key), past.agents.remove(&subject.agent_key).unwrap_or_default());
        let ancestors = above.iter_mut().map(|(subject, history)| Ancestor { subject, history }).collect();
        let mut histories = Histories { task: &mut task, agent: &mut agent, above: ancestors };
        let decision = authorize(&self.snapshot, at, subject, &action, &mut histories, at);
        if let Some(reservation) = &decision.reservation {
            // As the authorizer does: what an agent has tried, it has tried.
            if let Some(id) = reservation.agent {
                agent.settle(id, Reported::Completed, at);
            }
            let ended = match reported {
                Ended::Completed => Some(Reported::Completed),
                Ended::Failed => Some(Reported::Failed),
                Ended::Never | Ended::Unsaid => None,
            };
            if let Some(ended) = ended {
                task.settle(reservation.task, ended, at);
                let of_above = above.iter_mut().zip(&reservation.above);
                of_above.for_each(|((_, history), id)| _ = history.settle(*id, ended, at));
            }
        }
        past.agents.insert(subject.agent_key.clone(), agent);
        let histories = above.into_iter().map(|(subject, history)| (subject.key.clone(), history));
        past.tasks.extend(histories.chain([(subject.key.clone(), task)]));
        decision
    }

    /// The tasks above one, the root first, until one is not there, with what they have done.
    fn above(&self, subject: &Subject, past: &mut Past) -> Vec<(&Subject, History)> {
        let found = subject.above.iter().map(|link| self.subjects.get(&subject.key_of(&link.task)));
        found.map_while(|found| found).map(|found| (found, past.take(&found.key))).collect()
    }
}

/// How a permitted action ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Ended {
    /// The enforcement point does not report outcomes: it counts as carried out.
    #[default]
    #[serde(skip)]
    Unsaid,
    /// It was carried out, and reported.
    Completed,
    /// It failed, and that was reported.
    Failed,
    /// A report was promised and does not come.
    Never,
}

/// The arguments `name=value` of a command line: JSON where it is JSON, else a text.
///
/// # Errors
/// One of them has no `=`.
pub(super) fn arguments(given: &[String]) -> Result<Map<String, Value>, String> {
    let read = |text: &String| {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        Ok((name.to_owned(), value))
    };
    given.iter().map(read).collect()
}

/// A time so long after another.
pub(super) fn later(at: Timestamp, by: crate::api::Duration) -> Timestamp {
    at.checked_add(SignedDuration::from(by)).unwrap_or(Timestamp::MAX)
}

/// What the compiler has against an object, with its file.
fn trouble_line(known: &Known, trouble: &Trouble) -> String {
    let Trouble { object, problem } = trouble;
    let place = object.split_once(' ').and_then(|(kind, key)| {
        let key = if key.contains('/') { key.to_owned() } else { return file_of_cluster(known, kind, key) };
        known.places.get(&(kind.to_owned(), key)).cloned()
    });
    let file = place.map(|file| format!("{file}: ")).unwrap_or_default();
    line(&format!("{file}{object}: {problem}")).into_owned()
}

/// A ClusterAgentPolicy stands under whatever namespace its manifest was read with.
fn file_of_cluster(known: &Known, kind: &str, name: &str) -> Option<std::sync::Arc<str>> {
    let is_it = |(of, key): &(String, String)| of == kind && key.rsplit('/').next() == Some(name);
    known.places.iter().find(|(place, _)| is_it(place)).map(|(_, file)| file.clone())
}
