//! `mandate docs DIR`: the parts of the documentation that the binary knows best, written into
//! a checkout: the table of rules in `README.md` and the command line in `docs/cli.md`.
//!
//! For `make generate`, so it is not shown in the help; `tests/cli.rs` holds the committed files
//! to what it writes.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Arg, Command, CommandFactory as _};

use super::{Cli, Outcome, explain};
use crate::decide::rule::RULES;

/// Between these lines of the README stands what is generated.
const BEGIN: &str = "<!-- rules -->\n";
const END: &str = "<!-- /rules -->\n";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The checkout
    #[arg(default_value = ".")]
    dir: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let readme = args.dir.join("README.md");
    let text = std::fs::read_to_string(&readme).with_context(|| format!("reading `{}`", readme.display()))?;
    let text = between(&text, &rules()?)
        .with_context(|| format!("`{}` has no lines `{}` and `{}`", readme.display(), BEGIN.trim(), END.trim()))?;
    std::fs::write(&readme, text).with_context(|| format!("writing `{}`", readme.display()))?;
    let cli = args.dir.join("docs/cli.md");
    std::fs::write(&cli, command_line()?).with_context(|| format!("writing `{}`", cli.display()))?;
    Ok(Outcome::Done)
}

/// The text with something else between the marks.
fn between(text: &str, new: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{new}{END}{after}"))
}

fn rules() -> Result<String, fmt::Error> {
    let mut table = "| rule | refused | what it finds |\n|---|---|---|\n".to_owned();
    for rule in RULES {
        writeln!(table, "| `{}` | {} | {} |", rule.id, explain::level(rule.level), rule.what.trim_end_matches('.'))?;
    }
    Ok(table)
}

fn command_line() -> Result<String, fmt::Error> {
    // Names and defaults of whoever reads it, not of whoever generates it.
    let mut mandate = Cli::command().term_width(0);
    mandate.build();
    let mut text = String::new();
    writeln!(text, "# Command line\n\n<!-- Written by `make generate`. -->\n")?;
    writeln!(text, "The same binary is `mandate` and, installed as `kubectl-mandate`, `kubectl mandate`.\n")?;
    writeln!(text, "Exit status: 0 done; 1 the answer is no (a task was refused, manifests have findings); 2 it")?;
    writeln!(text, "could not be done (wrong usage, no cluster, no file).\n")?;
    writeln!(text, "Every command takes these, and `--help`:\n")?;
    mandate.get_arguments().filter(|arg| arg.is_global_set()).try_for_each(|arg| argument(&mut text, arg))?;
    command(&mut text, &mandate)?;
    Ok(text)
}

/// The commands below one, each with what it takes.
fn command(text: &mut String, above: &Command) -> fmt::Result {
    for command_ in above.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help") {
        if command_.has_subcommands() {
            command(text, command_)?;
            continue;
        }
        let mut shown = command_.clone();
        let usage = shown.render_usage().to_string();
        writeln!(text, "\n## {}\n", command_.get_bin_name().unwrap_or(command_.get_name()))?;
        if let Some(about) = command_.get_long_about().or_else(|| command_.get_about()) {
            writeln!(text, "{}.\n", about.to_string().trim_end_matches('.'))?;
        }
        writeln!(text, "```\n{}\n```", usage.trim_start_matches("Usage: "))?;
        let mut arguments = command_
            .get_arguments()
            .filter(|arg| !arg.is_hide_set() && !arg.is_global_set() && arg.get_id() != "help")
            .peekable();
        if arguments.peek().is_some() {
            writeln!(text)?;
        }
        arguments.try_for_each(|arg| argument(text, arg))?;
    }
    Ok(())
}

fn argument(text: &mut String, arg: &Arg) -> fmt::Result {
    let value = arg.get_value_names().filter(|_| arg.get_action().takes_values()).and_then(<[_]>::first);
    let names = [arg.get_short().map(|short| format!("-{short}")), arg.get_long().map(|long| format!("--{long}"))];
    let names: Vec<String> = names.into_iter().flatten().collect();
    match (names.is_empty(), value) {
        (true, value) => write!(text, "- `{}`", value.map_or(arg.get_id().as_str(), |value| value.as_str()))?,
        (false, Some(value)) => write!(text, "- `{} <{value}>`", names.join("`, `"))?,
        (false, None) => write!(text, "- `{}`", names.join("`, `"))?,
    }
    if let Some(help) = arg.get_long_help().or_else(|| arg.get_help()) {
        write!(text, ": {}", help.to_string().replace('\n', " "))?;
    }
    if let Some(variable) = arg.get_env() {
        write!(text, "; from the environment: `{}`", variable.to_string_lossy())?;
    }
    if let Some(default) =
        arg.get_default_values().first().filter(|default| arg.get_action().takes_values() && !default.is_empty())
    {
        write!(text, "; by default `{}`", default.to_string_lossy())?;
    }
    writeln!(text)?;
    let values = arg.get_possible_values();
    let is_yes_or_no = values.iter().all(|value| ["true", "false"].contains(&value.get_name()));
    for value in values.iter().filter(|_| arg.get_action().takes_values() && !is_yes_or_no) {
        match value.get_help() {
            Some(help) => writeln!(text, "  - `{}`: {help}", value.get_name())?,
            None => writeln!(text, "  - `{}`", value.get_name())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let text = format!("a\n{BEGIN}old\n{END}z\n");
        assert_eq!(between(&text, "new\n"), Some(format!("a\n{BEGIN}new\n{END}z\n")));
        assert_eq!(between("no marks\n", "new\n"), None);
    }
}
