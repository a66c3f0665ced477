//! Entries and verdicts of the audit log, as people read them.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Found, Joined};
use crate::audit::verify::Report;

/// Columns of a line of `tail`, with their widths; the last one takes what it needs.
const WIDTHS: [usize; 6] = [27, 9, 15, 28, 20, 0];
const HEADS: [&str; 6] = ["TIME", "KIND", "OUTCOME", "TASK", "AGENT", "TOOL"];

/// Entries as a table whose columns are as wide as what stands in them.
pub(super) fn entries(all: &[Joined]) -> String {
    let heads = ["TIME", "KIND", "OUTCOME", "TASK", "AGENT", "TOOL", "THEN", "ID"].map(str::to_owned);
    let rows: Vec<[String; 8]> = std::iter::once(heads).chain(all.iter().map(row)).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
            // Nothing follows the last column.
            let padding = if column + 1 == row.len() { 0 } else { width + 2 - cell.chars().count() };
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', padding));
        }
        text.push('\n');
    }
    text
}

fn row(joined: &Joined) -> [String; 8] {
    let Joined { entry, outcomes } = joined;
    let [time, kind, outcome, task, agent, tool] = cells(entry);
    let then: Vec<String> = outcomes.iter().map(|outcome| printable(outcome.keys().outcome.as_deref())).collect();
    let then = if then.is_empty() { "-".to_owned() } else { then.join(",") };
    [time, kind, outcome, task, agent, tool, then, printable(Some(entry.id()))]
}

fn cells(found: &Found) -> [String; 6] {
    let keys = found.keys();
    let task = match (&keys.namespace, &keys.task) {
        (Some(namespace), Some(task)) => Some(format!("{namespace}/{task}")),
        (_, task) => task.clone(),
    };
    [
        printable(Some(found.at())),
        printable(Some(found.kind())),
        printable(keys.outcome.as_deref()),
        printable(task.as_deref()),
        printable(keys.agent.as_deref()),
        printable(keys.tool.as_deref()),
    ]
}

/// What agents send stands in the log as it came; a terminal gets nothing but its letters.
fn printable(text: Option<&str>) -> String {
    let text: String = text.unwrap_or("-").chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Lines of `tail`, which knows no widths before.
pub(super) struct Lines {
    is_json: bool,
    has_heads: bool,
}

impl Lines {
    pub(super) fn new(is_json: bool) -> Self {
        Self { is_json, has_heads: false }
    }

    pub(super) fn line(&mut self, found: &Found) -> String {
        if self.is_json {
            return found.json();
        }
        let line = fixed(&cells(found));
        if std::mem::replace(&mut self.has_heads, true) { line } else { format!("{}\n{line}", fixed(&HEADS.map(str::to_owned))) }
    }
}

fn fixed(cells: &[String; 6]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(WIDTHS) {
        // INVARIANT: writing to a String cannot fail.
        let _ = write!(line, "{cell:<width$}{}", if width == 0 { "" } else { "  " });
    }
    line
}

/// What `verify` says.
pub(super) fn report(report: &Report) -> String {
    let Report { segments, rows, range, removed, checkpoints, problems, more } = report;
    let mut text = String::new();
    for problem in problems {
        // INVARIANT: writing to a String cannot fail.
        let _ = writeln!(text, "{problem}");
    }
    if *more > 0 {
        let _ = writeln!(text, "and {more} more");
    }
    let of = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let range = range.map_or_else(String::new, |(first, last)| format!(", {first} to {last}"));
    let removed = removed.map_or_else(String::new, |through| format!("; rows up to {through} were removed, as an entry says"));
    let (kept, copied) = checkpoints;
    let copied = if *copied == 0 { String::new() } else { format!(" and {} in the copy", of(*copied, "checkpoint")) };
    let verdict = if problems.is_empty() { "nothing was changed" } else { "NOT as it was written" };
    let _ = writeln!(
        text,
        "{verdict}: {} in {}{range}, {}{copied}{removed}",
        of(*rows, "row"),
        of(*segments, "segment"),
        of(*kept, "checkpoint")
    );
    text
}

/// The same for programs.
pub(super) fn report_json(report: &Report) -> Value {
    let Report { segments, rows, range, removed, checkpoints, problems, more } = report;
    let problems: Vec<Value> =
        problems.iter().map(|problem| json!({"file": problem.file, "what": problem.what.to_string()})).collect();
    json!({
        "clean": report.is_clean(),
        "segments": segments,
        "rows": rows,
        "first": range.map(|(first, _)| first),
        "last": range.map(|(_, last)| last),
        "removedThrough": removed,
        "checkpoints": checkpoints.0,
        "copies": checkpoints.1,
        "problems": problems,
        "more": more,
    })
}
