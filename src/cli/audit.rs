//! `mandate audit verify|query|tail|key`: the audit log, read. None of them writes, and none
//! holds up whoever does.
//!
//! Exit status of `verify`: 0 all holds, 1 something was changed, 2 it could not be read.

mod table;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};

use super::Outcome;
use crate::audit::read::{Cursor, Filter, Found, Joined, Reader};
use crate::audit::verify::verify;
use crate::audit::{Keys, PublicKey, SigningKey, key_path};

/// How long `tail --follow` waits before it looks again.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether anything was changed, taken out or put in since it was written
    Verify(Verify),
    /// Find decisions, each with what came of it
    Query(Query),
    /// Print the last entries, and with `--follow` those that come
    Tail(Tail),
    /// Print the public key that the log is verified with
    Key(Key),
}

#[derive(Debug, clap::Args)]
pub(super) struct Dir {
    /// Directory of the audit log
    #[arg(long, value_name = "DIR", default_value = "/var/lib/mandate/audit", env = "MANDATE_AUDIT_DIR")]
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    #[command(flatten)]
    log: Dir,
    /// Public key as `mandate audit key` prints it, kept where the log's writer cannot reach it;
    /// again for another [default: the public half of `audit.key` in the directory]
    #[arg(long = "public-key", value_name = "FILE")]
    public_keys: Vec<PathBuf>,
    /// Copy of the checkpoints, which tells whether the whole log was replaced by an older one
    #[arg(long, value_name = "FILE")]
    checkpoints: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct Query {
    #[command(flatten)]
    log: Dir,
    #[command(flatten)]
    filter: Wanted,
    /// Not before: a time such as `2026-03-01T12:00:00Z`, or how long ago, such as `2h`
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Moment>,
    /// Before: likewise
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Moment>,
    /// How many entries at most: the last ones [default: 1000 as a table, all as JSON]
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct Tail {
    #[command(flatten)]
    log: Dir,
    #[command(flatten)]
    filter: Wanted,
    /// How many entries at first
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    lines: usize,
    /// Go on with those that come
    #[arg(short, long)]
    follow: bool,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct Key {
    #[command(flatten)]
    log: Dir,
    /// File of the private key [default: `audit.key` in the directory]
    #[arg(long, value_name = "FILE")]
    audit_key: Option<PathBuf>,
    /// Print the key's id alone, as it stands in checkpoints
    #[arg(long)]
    id: bool,
}

/// Which entries are wanted: those that meet all of it.
#[derive(Debug, clap::Args)]
struct Wanted {
    /// Namespace of the task
    #[arg(short, long)]
    namespace: Option<String>,
    /// Name of the task
    #[arg(long)]
    task: Option<String>,
    /// UID of the task
    #[arg(long, value_name = "UID")]
    task_uid: Option<String>,
    /// Name of the agent
    #[arg(long)]
    agent: Option<String>,
    /// Tool, as `server/tool`
    #[arg(long)]
    tool: Option<String>,
    /// Outcome: `permit`, `deny` or `needs-approval`, or what was reported
    #[arg(long)]
    outcome: Option<String>,
    /// Trace of the request, as the gateway's log has it
    #[arg(long, value_name = "ID")]
    trace_id: Option<String>,
    /// `jti` of the token, as the API server's log has it
    #[arg(long, value_name = "ID")]
    token_id: Option<String>,
    /// Id of the decision
    #[arg(long)]
    id: Option<String>,
    /// Decisions that were not `permit`
    #[arg(long)]
    denied: bool,
}

/// How entries are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Table,
    /// One object a line
    Json,
}

pub(super) fn run(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Verify(args) => check(&args),
        Command::Query(args) => query(&args),
        Command::Tail(args) => tail(&args),
        Command::Key(args) => key(&args),
    }
}

fn check(args: &Verify) -> anyhow::Result<Outcome> {
    let Verify { log: Dir { dir }, public_keys, checkpoints, output } = args;
    let keys = if public_keys.is_empty() {
        let own = SigningKey::read(&key_path(dir)).context("no `--public-key` was given")?;
        vec![own.public()]
    } else {
        public_keys.iter().map(|path| PublicKey::read(path)).collect::<Result<_, _>>()?
    };
    let report = verify(dir, &keys, checkpoints.as_deref())?;
    let mut out = std::io::stdout().lock();
    match output {
        Output::Json => writeln!(out, "{}", table::report_json(&report))?,
        Output::Table => write!(out, "{}", table::report(&report))?,
    }
    Ok(if report.is_clean() { Outcome::Done } else { Outcome::No })
}

fn query(args: &Query) -> anyhow::Result<Outcome> {
    let Query { log: Dir { dir }, filter, since, until, limit, output } = args;
    let filter = Filter { since: since.map(|moment| moment.0), until: until.map(|moment| moment.0), ..filter.filter() };
    let mut reader = Reader::open(dir)?;
    let mut out = std::io::stdout().lock();
    if let (Output::Json, None) = (output, limit) {
        let mut cursor = Cursor::new(dir, &filter, 0);
        loop {
            let found = cursor.more()?;
            if found.is_empty() {
                return Ok(Outcome::Done);
            }
            for found in found {
                if let Some(joined) = reader.join(found, &filter)? {
                    writeln!(out, "{}", joined.json())?;
                }
            }
        }
    }
    let limit = limit.unwrap_or(1_000);
    let found = reader.newest(&filter, limit)?;
    let is_cut = found.len() == limit;
    let joined = found.into_iter().filter_map(|found| reader.join(found, &filter).transpose()).collect::<Result<Vec<_>, _>>()?;
    match output {
        Output::Json => joined.iter().try_for_each(|joined| writeln!(out, "{}", joined.json()))?,
        Output::Table if joined.is_empty() => writeln!(out, "no entries")?,
        Output::Table => write!(out, "{}", table::entries(&joined))?,
    }
    if is_cut && args.limit.is_none() {
        eprintln!("mandate: there may be more; `--limit` asks for it");
    }
    Ok(Outcome::Done)
}

fn tail(args: &Tail) -> anyhow::Result<Outcome> {
    let Tail { log: Dir { dir }, filter, lines, follow, output } = args;
    let filter = filter.filter();
    let mut reader = Reader::open(dir)?;
    // Where to go on is asked before: what comes in between is not missed.
    let end = reader.newest(&Filter::default(), 1)?.last().map_or(0, |last| last.seq);
    let found = reader.newest(&filter, *lines)?;
    let mut last = found.last().map_or(end, |last| last.seq.max(end));
    let mut print = table::Lines::new(*output == Output::Json);
    let mut show = |found: &[Found]| -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        found.iter().try_for_each(|found| writeln!(out, "{}", print.line(found)))?;
        Ok(out.flush()?)
    };
    show(&found)?;
    if !follow {
        return Ok(Outcome::Done);
    }
    let mut cursor = Cursor::new(dir, &filter, last);
    loop {
        let found = cursor.more().with_context(|| format!("going on after row {last}"))?;
        if found.is_empty() {
            std::thread::sleep(LOOK);
        }
        last = found.last().map_or(last, |found| found.seq);
        show(&found)?;
    }
}

fn key(args: &Key) -> anyhow::Result<Outcome> {
    let Key { log: Dir { dir }, audit_key, id } = args;
    let path = audit_key.clone().unwrap_or_else(|| key_path(dir));
    let public = SigningKey::read(&path)?.public();
    let mut out = std::io::stdout().lock();
    if *id {
        writeln!(out, "{}", public.id())?;
    } else {
        write!(out, "{}", public.pem())?;
    }
    Ok(Outcome::Done)
}

impl Wanted {
    fn filter(&self) -> Filter {
        let Self { namespace, task, task_uid, agent, tool, outcome, trace_id, token_id, id, denied } = self;
        let keys = Keys {
            namespace: namespace.clone(),
            task: task.clone(),
            task_uid: task_uid.clone(),
            agent: agent.clone(),
            tool: tool.clone(),
            outcome: outcome.clone(),
            trace_id: trace_id.clone(),
            token_id: token_id.clone(),
        };
        Filter { since: None, until: None, id: id.clone(), keys, denied: *denied }
    }
}

/// A time that was given as such, or as how long ago.
#[derive(Clone, Copy, Debug)]
struct Moment(Timestamp);

fn moment(text: &str) -> anyhow::Result<Moment> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Moment(at));
    }
    let Ok(ago) = text.parse::<crate::api::Duration>() else {
        bail!("`{text}` is neither a time such as `2026-03-01T12:00:00Z` nor how long ago, such as `2h`");
    };
    Ok(Moment(Timestamp::now().checked_sub(SignedDuration::from(ago)).context("that is before all time")?))
}
