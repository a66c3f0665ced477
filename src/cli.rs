//! The command line: `mandate`, and `kubectl mandate` where it is installed as
//! `kubectl-mandate`.
//!
//! Exit status: 0 done; 1 the answer is no (a task was refused, manifests have findings, an action
//! is not permitted);
//! 2 it could not be done, or not all of it (bad usage, no cluster, a file that cannot be read).

mod audit;
mod authorizer;
mod decide;
mod docs;
mod explain;
mod known;
mod lint;
mod manifest;
mod print;
mod render;
mod run;
mod scene;
mod task;
mod test;
mod tools;
mod vap;
mod waivers;

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::telemetry;

/// Authority for AI agents on Kubernetes that is asked for, bounded, watched and taken back.
#[derive(Debug, Parser)]
#[command(name = "mandate", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// How log lines look
    #[arg(long, global = true, value_enum, default_value_t, env = "MANDATE_LOG_FORMAT")]
    log_format: telemetry::Format,
    /// What is logged: a level, or directives such as `info,mandate::serve=debug` [default:
    /// `info` for `run`, `warn` for all else]
    #[arg(long, global = true, value_name = "FILTER", env = "MANDATE_LOG")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run Mandate in a cluster, or beside one
    #[command(subcommand)]
    Run(run::Role),
    /// Start, look at and end tasks
    #[command(subcommand)]
    Task(task::Command),
    /// Check manifests for credentials that reach a pod, with or without a cluster
    Lint(lint::Args),
    /// Decide an action of a task by manifests alone; status 1 where it is not permitted
    Decide(Box<decide::Args>),
    /// Run tests of scopes and policies; status 1 where an answer is not the expected one
    Test(test::Args),
    /// List waivers with their owners, days left and uses; status 1 where one does not count
    Waivers(waivers::Args),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Tell all about a rule, or list the rules
    Explain(explain::Args),
    /// Describe the tools of an MCP server, and find out whether they have changed
    #[command(subcommand)]
    Tools(tools::Command),
    /// Print the CustomResourceDefinitions
    Crds(print::Crds),
    /// Print ServiceAccounts, roles and the policies that hold the controller to its own objects
    Rbac(print::Args),
    /// Print the webhook configurations
    Webhooks(print::Args),
    /// Print the rules as ValidatingAdmissionPolicies, which hold without the webhook
    Vap(vap::Args),
    /// Print a schema
    #[command(subcommand)]
    Schema(print::Schema),
    /// Print completions for a shell
    Completion(print::Completion),
    /// Write what is generated of the documentation into a checkout
    #[command(hide = true)]
    Docs(docs::Args),
}

/// How a command ends when nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Done.
    Done,
    /// The answer is no.
    No,
    /// Not all of it could be done; why has been printed.
    Incomplete,
}

/// Runs one command and says how it ended.
pub fn run(cli: Cli) -> ExitCode {
    let level = if matches!(cli.command, Command::Run(_)) { telemetry::DEFAULT } else { "warn" };
    let result = telemetry::start(cli.log_format, cli.log.as_deref().unwrap_or(level))
        .map_err(anyhow::Error::from)
        .and_then(|()| dispatch(cli.command));
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Ok(Outcome::Incomplete) => ExitCode::from(2),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mandate: {}", one_line(&error));
            ExitCode::from(2)
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Run(role) => run::run(role),
        Command::Task(command) => task::run(command),
        Command::Lint(args) => lint::run(&args),
        Command::Decide(args) => decide::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Waivers(args) => waivers::run(&args),
        Command::Audit(command) => audit::run(command),
        Command::Explain(args) => explain::run(&args),
        Command::Tools(command) => tools::run(command),
        Command::Crds(args) => print::crds(&args),
        Command::Rbac(args) => print::rbac(&args),
        Command::Webhooks(args) => print::webhooks(&args),
        Command::Vap(args) => vap::run(&args),
        Command::Schema(schema) => print::schema(&schema),
        Command::Completion(args) => print::completion(&args),
        Command::Docs(args) => docs::run(&args),
    }
}

/// An error with its causes, on one line.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for (n, cause) in error.chain().enumerate() {
        // INVARIANT: writing to a String cannot fail.
        let _ = write!(text, "{}{cause}", if n == 0 { "" } else { ": " });
    }
    text
}

/// `mandate … | head` is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe))
}

/// A runtime for commands that wait for a cluster.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    use anyhow::Context as _;
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
