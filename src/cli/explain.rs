//! `mandate explain RULE`: what a rule finds, why it matters, what to write instead.

use std::io::Write as _;

use super::Outcome;
use crate::decide::rule::{self, Level, RULES};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The rule's id, as denials name it; without one, all rules are listed
    rule: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut out = std::io::stdout().lock();
    let Some(id) = &args.rule else {
        for rule in RULES {
            writeln!(out, "{:<28} {:<10} {}", rule.id, level(rule.level), rule.what)?;
        }
        return Ok(Outcome::Done);
    };
    let Some(rule) = rule::find(id) else {
        anyhow::bail!("there is no rule `{id}`; `mandate explain` lists them");
    };
    writeln!(
        out,
        "{}  ({}; since {})\n\nFinds: {}\n\nWhy: {}\n\nInstead: {}",
        rule.id,
        outcome(rule.level),
        rule.since,
        rule.what,
        rule.why,
        rule.fix
    )?;
    if !rule.allows.is_empty() {
        writeln!(out, "\nA policy's `allow` names: {}", rule.allows)?;
    }
    for reference in rule.references {
        writeln!(out, "\nSee: {reference}")?;
    }
    Ok(Outcome::Done)
}

/// What becomes of what the rule finds, where a policy says nothing else.
fn outcome(level: Level) -> &'static str {
    match level {
        Level::Always => "refused whatever a policy says",
        Level::Baseline => "refused under both profiles",
        Level::Restricted => "refused under restricted, a warning under baseline",
        Level::Advice => "a warning under both profiles",
        Level::OptIn => "nothing, until a policy gives it an action",
    }
}

/// From which profile on a rule refuses, as people write it.
pub(super) fn level(level: Level) -> &'static str {
    match level {
        Level::Always => "always",
        Level::Baseline => "baseline",
        Level::Restricted => "restricted",
        Level::Advice => "advice",
        Level::OptIn => "opt-in",
    }
}
