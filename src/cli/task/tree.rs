//! `mandate task tree`: who delegated to whom, where each stands, and how long it lives.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use anyhow::{Context as _, bail};
use kube::ResourceExt as _;
use kube::api::ListParams;

use super::{Cluster, Outcome, left, phase, tasks};
use crate::api::AgentTask;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    cluster: Cluster,
    /// The task at the top; without one, every task of the namespace that has no parent
    name: Option<String>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<Outcome> {
    let api = tasks(&args.cluster).await?;
    let all = api.list(&ListParams::default()).await.context("listing tasks")?.items;
    let Some(rows) = rows(&all, args.name.as_deref()) else {
        bail!("there is no task `{}` in this namespace", args.name.unwrap_or_default());
    };
    let mut out = std::io::stdout().lock();
    if !rows.is_empty() {
        writeln!(out, "{}", line("NAME", "AGENT", "PHASE", "REASON", "EXPIRES"))?;
    }
    for (name, task) in rows {
        let status = task.status.clone().unwrap_or_default();
        let expires = status.expires_at.filter(|_| status.ended_at.is_none()).map_or_else(|| "-".to_owned(), |at| left(at.0));
        let phase = format!("{:?}", phase(task));
        writeln!(out, "{}", line(&name, &task.spec.agent, &phase, &status.reason.unwrap_or_default(), &expires))?;
    }
    Ok(Outcome::Done)
}

fn line(name: &str, agent: &str, phase: &str, reason: &str, expires: &str) -> String {
    format!("{name:<44} {agent:<20} {phase:<8} {reason:<20} {expires}")
}

/// The tasks in the order of the tree, each with its name set in; none where the task at the top
/// is not there.
fn rows<'a>(all: &'a [AgentTask], top: Option<&str>) -> Option<Vec<(String, &'a AgentTask)>> {
    let by_name: BTreeMap<String, &AgentTask> = all.iter().map(|task| (task.name_any(), task)).collect();
    let mut tree = Tree { all: &by_name, rows: vec![], seen: BTreeSet::new() };
    if let Some(top) = top {
        let (name, task) = by_name.get_key_value(top)?;
        tree.add(name, task, "", "");
        return Some(tree.rows);
    }
    let is_below = |task: &AgentTask| task.spec.parent.as_ref().is_some_and(|parent| by_name.contains_key(parent));
    by_name.iter().filter(|(_, task)| !is_below(task)).for_each(|(name, task)| tree.add(name, task, "", ""));
    // Those that stand above themselves stand below nobody else.
    by_name.iter().for_each(|(name, task)| tree.add(name, task, "", ""));
    Some(tree.rows)
}

struct Tree<'a, 'b> {
    all: &'b BTreeMap<String, &'a AgentTask>,
    rows: Vec<(String, &'a AgentTask)>,
    seen: BTreeSet<&'b str>,
}

impl<'a, 'b> Tree<'a, 'b> {
    fn add(&mut self, name: &'b str, task: &'a AgentTask, before: &str, mark: &str) {
        if !self.seen.insert(name) {
            return;
        }
        let gone = task.spec.parent.as_ref().filter(|parent| !self.all.contains_key(*parent));
        let gone = gone.map(|parent| format!(" (below {parent}, gone)")).unwrap_or_default();
        self.rows.push((format!("{before}{mark}{name}{gone}"), task));
        let before = match mark {
            "" => before.to_owned(),
            "├─ " => format!("{before}│  "),
            _ => format!("{before}   "),
        };
        let children: Vec<_> = self.all.iter().filter(|(_, child)| child.spec.parent.as_deref() == Some(name)).collect();
        for (index, (name, child)) in children.iter().enumerate() {
            let mark = if index + 1 == children.len() { "└─ " } else { "├─ " };
            self.add(name, child, &before, mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tree(tasks: &[(&str, Option<&str>)], top: Option<&str>) -> Option<Vec<String>> {
        let task = |(name, parent): &(&str, Option<&str>)| -> AgentTask {
            let spec = json!({"agent": "bot", "scope": "s", "objective": "o", "parent": parent});
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
        };
        let all: Vec<AgentTask> = tasks.iter().map(task).collect();
        rows(&all, top).map(|rows| rows.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn each_task_stands_below_its_parent() {
        let all = [("b", Some("a")), ("a", None), ("d", Some("b")), ("c", Some("a")), ("lone", None), ("lost", Some("old"))];
        let expected = ["a", "├─ b", "│  └─ d", "└─ c", "lone", "lost (below old, gone)"];
        assert_eq!(tree(&all, None).unwrap(), expected);
        assert_eq!(tree(&all, Some("b")).unwrap(), ["b", "└─ d"]);
        assert_eq!(tree(&all, Some("nobody")), None);
    }

    #[test]
    fn tasks_that_name_each_other_are_each_shown_once() {
        assert_eq!(tree(&[("a", Some("b")), ("b", Some("a"))], None).unwrap(), ["a", "└─ b"]);
        assert_eq!(tree(&[("a", Some("a"))], Some("a")).unwrap(), ["a"]);
    }
}
