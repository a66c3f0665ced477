//! Was anything changed since it was written?
//!
//! In go the segments of a log, the public keys that it may be signed with, and the copy of the
//! checkpoints where there is one. Out comes what holds and what does not, row by row. Reads
//! alone, also while the log is written. That nothing could be read is an error; that something
//! is wrong is not.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _};
use serde::Deserialize;

use super::checkpoint::{Checkpoint, Mark};
use super::entry::{Hash, Row};
use super::key::PublicKey;
use super::segment::{self, Beginning, COLUMNS, SCHEMA, Tip};
use super::{AuditError, Kind};

/// How many rows are read at once.
const LOOK: u64 = 1_000;

/// How many problems are told one by one.
const TOLD: usize = 100;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments that were read.
    pub segments: u64,
    /// Rows that were read.
    pub rows: u64,
    /// The first and the last of them.
    pub range: Option<(u64, u64)>,
    /// Up to this row an entry says that rows were removed, since they need not be kept.
    pub removed: Option<u64>,
    /// Checkpoints in the log, and in the copy, that hold.
    pub checkpoints: (u64, u64),
    /// What is wrong, in the order of the log: the first hundred.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: u64,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What is wrong, and in which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A segment, or the copy of the checkpoints.
    pub file: PathBuf,
    /// What is wrong.
    pub what: Wrong,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.file.file_name().map_or_else(|| self.file.to_string_lossy(), |name| name.to_string_lossy());
        write!(f, "{name}: {}", self.what)
    }
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Wrong {
    #[error("row {0} was changed: what stands in it has not the hash that it was given")]
    Changed(u64),
    #[error("row {0} does not follow row {before}: it names another hash, so one of the two was put in the place of another", before = .0.saturating_sub(1))]
    NotLinked(u64),
    #[error("{} missing", rows(*.first, *.last))]
    Missing { first: u64, last: u64 },
    #[error("row {0} comes after row {1}: it was put in")]
    OutOfOrder(u64, u64),
    #[error("{} cut off: {by} speaks of row {last}", rows(*.first, *.last))]
    Cut { first: u64, last: u64, by: &'static str },
    #[error("{} added without the key: the signed head speaks of row {head}", rows(*.first, *.last), head = .first.saturating_sub(1))]
    Added { first: u64, last: u64 },
    #[error("{} written anew without the key: {by} of row {last} is of another row", rows(*.first, *.last))]
    Rewritten { first: u64, last: u64, by: &'static str },
    #[error("{by} of row {seq} is signed by key `{key}`, which is none of those that were given")]
    OtherKey { by: &'static str, seq: u64, key: String },
    #[error("{by} of row {seq} was changed: its signature does not hold")]
    NotSigned { by: &'static str, seq: u64 },
    #[error("{by} of row {seq} is none of this place or log: it was signed for another")]
    Misplaced { by: &'static str, seq: u64 },
    #[error("{by} cannot be read: it is no signed statement")]
    NoStatement { by: &'static str },
    #[error("it has no signed head")]
    NoHead,
    #[error("it follows no segment that ends as it says: {0}")]
    Beginning(String),
    #[error("a segment must follow, and is missing")]
    NoSuccessor,
    #[error("{} not there, and no entry says that they were removed", rows(*.first, *.last))]
    Removed { first: u64, last: u64 },
    #[error("its schema was changed: `{0}`")]
    Schema(String),
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("line {0} is no checkpoint")]
    NoCheckpoint(usize),
    #[error("it has checkpoints, and the log has no segment")]
    NoLog,
}

fn rows(first: u64, last: u64) -> String {
    if first == last { format!("row {first} is") } else { format!("rows {first} to {last} are") }
}

const HEAD: &str = "the signed head";
const CHECKPOINT: &str = "the checkpoint";
const END: &str = "the signed end";
const COPY: &str = "the copy of the checkpoint";

/// Verifies a log.
///
/// # Errors
///
/// Where there is no log, or it cannot be read. What was found until then is not told.
pub fn verify(dir: &Path, keys: &[PublicKey], copy: Option<&Path>) -> Result<Report, AuditError> {
    let mut walk = Walk { keys, copy, ..Walk::default() };
    // First the copy: the log has at least what it had then.
    if let Some(copy) = copy {
        walk.read_copy(copy)?;
    }
    if segment::list(dir)?.is_empty() {
        let Some(copy) = copy.filter(|_| !walk.copies.is_empty()) else {
            return Err(AuditError::None { dir: dir.to_owned() });
        };
        walk.problem(copy, Wrong::NoLog);
        return Ok(walk.report);
    }
    let (mut done, mut growing) = (0, None::<PathBuf>);
    // Segments may be begun while others are read.
    loop {
        let segments = segment::list(dir)?;
        let Some((number, path)) = segments.iter().find(|(number, _)| *number > done) else { break };
        if let Some(path) = growing.take() {
            // It was read while it was written, and is complete now.
            let result = walk.rest(&path);
            walk.settle(&path, result)?;
        }
        let result = walk.segment(*number, path);
        walk.settle(path, result)?;
        done = *number;
        growing = segments.last().filter(|(last, _)| *last == done).map(|(_, path)| path.clone());
    }
    walk.end();
    Ok(walk.report)
}

/// Whether the database itself is wrong, and not that it cannot be reached.
fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    let is_other = matches!(
        error,
        rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::QueryReturnedNoRows
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..)
            | rusqlite::Error::SqlInputError { .. }
            | rusqlite::Error::FromSqlConversionFailure(..)
    );
    is_other || matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown))
}

#[derive(Default)]
struct Walk<'a> {
    keys: &'a [PublicKey],
    copy: Option<&'a Path>,
    copies: BTreeMap<u64, Vec<Checkpoint>>,
    report: Report,
    /// The row before; none at the begin, and after what could not be read.
    tip: Option<Tip>,
    log: Option<String>,
    /// Up to this row a signed statement holds.
    vouched: u64,
    /// Rows that are not there, and where that shows.
    missing: Vec<(u64, u64, PathBuf)>,
    /// What the last entry about a removal says.
    removal: Option<Removal>,
    /// The last segment, and whether it says that another one follows.
    last: Option<(PathBuf, bool)>,
}

/// The body of an entry about a removal.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Removal {
    through: u64,
}

/// Statements about rows of one segment.
struct Statements {
    kept: BTreeMap<u64, Checkpoint>,
    head: Option<Checkpoint>,
    last: Option<u64>,
}

impl Walk<'_> {
    fn problem(&mut self, file: &Path, what: Wrong) {
        let problem = Problem { file: file.to_owned(), what };
        if self.report.problems.contains(&problem) {
            return;
        }
        if self.report.problems.len() < TOLD {
            self.report.problems.push(problem);
        } else {
            self.report.more += 1;
        }
    }

    /// What became of a segment: that it is damaged is a problem, that it cannot be reached an error.
    fn settle(&mut self, path: &Path, result: Result<(), AuditError>) -> Result<(), AuditError> {
        match result {
            Err(AuditError::Sqlite { source, .. }) if is_damage(&source) => {
                self.problem(path, Wrong::Damaged(source.to_string()));
                self.tip = None;
                Ok(())
            }
            // Removed since it was listed; an entry will say so.
            Err(_) if !path.exists() => Ok(()),
            result => result,
        }
    }

    /// Reads the copy of the checkpoints. A line that is the beginning of the next was torn by a
    /// full disk and written again.
    fn read_copy(&mut self, path: &Path) -> Result<(), AuditError> {
        let bytes = fs::read(path).map_err(|source| AuditError::io("reading the copy of the checkpoints", path, source))?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Ok(checkpoint) = serde_json::from_str::<Checkpoint>(line) else {
                let is_torn = lines.get(at + 1).is_none_or(|next| next.starts_with(line));
                if !is_torn {
                    self.problem(path, Wrong::NoCheckpoint(at + 1));
                }
                continue;
            };
            if self.is_signed(path, &checkpoint, COPY, Mark::Checkpoint) {
                self.copies.entry(checkpoint.seq).or_default().push(checkpoint);
            }
        }
        Ok(())
    }

    /// Whether a statement is one of ours, of the right kind.
    fn is_signed(&mut self, file: &Path, said: &Checkpoint, by: &'static str, mark: Mark) -> bool {
        let (seq, key) = (said.seq, said.key.clone());
        let what = if !self.keys.iter().any(|key| key.id() == said.key) {
            Wrong::OtherKey { by, seq, key }
        } else if !said.is_signed_by(self.keys) {
            Wrong::NotSigned { by, seq }
        } else if said.mark != mark || self.log.as_ref().is_some_and(|log| *log != said.log) {
            Wrong::Misplaced { by, seq }
        } else {
            return true;
        };
        self.problem(file, what);
        false
    }

    fn segment(&mut self, number: u64, path: &Path) -> Result<(), AuditError> {
        let failed = |source| AuditError::sqlite("reading segment", path, source);
        let connection = segment::read(path)?;
        self.report.segments += 1;
        self.check_schema(&connection, path).map_err(failed)?;
        let beginning = segment::beginning(&connection).map_err(failed)?;
        self.begin(&beginning, number, path);
        self.content(&connection, &beginning, path, -1).map_err(failed)?;
        self.check_indexes(&connection, path).map_err(failed)
    }

    /// The rows that have come to a segment since it was read.
    fn rest(&mut self, path: &Path) -> Result<(), AuditError> {
        let failed = |source| AuditError::sqlite("reading segment", path, source);
        let Some(tip) = self.tip else { return Ok(()) };
        let connection = segment::read(path)?;
        let beginning = segment::beginning(&connection).map_err(failed)?;
        let after = i64::try_from(tip.seq).unwrap_or(i64::MAX);
        self.content(&connection, &beginning, path, after).map_err(failed)
    }

    fn content(&mut self, connection: &Connection, beginning: &Beginning, path: &Path, after: i64) -> rusqlite::Result<()> {
        let statements = self.statements(connection, path, beginning.number)?;
        self.rows(connection, path, &statements, after)?;
        self.close(path, beginning, &statements);
        Ok(())
    }

    /// A segment's schema is what this version makes and nothing else.
    fn check_schema(&mut self, connection: &Connection, path: &Path) -> rusqlite::Result<()> {
        let mut statement = connection.prepare("SELECT name, sql FROM sqlite_schema")?;
        let is = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, Option<String>>(1)?.unwrap_or_default())))?;
        let is: BTreeMap<String, String> = is.collect::<Result<_, _>>()?;
        let ours: BTreeMap<String, String> = SCHEMA.iter().map(|(name, sql)| ((*name).to_owned(), (*sql).to_owned())).collect();
        let names = is.keys().chain(ours.keys());
        let wrong: std::collections::BTreeSet<String> = names.filter(|name| is.get(*name) != ours.get(*name)).cloned().collect();
        for name in wrong {
            self.problem(path, Wrong::Schema(name));
        }
        Ok(())
    }

    /// Rows that the table has and an index has not would be found by no query.
    fn check_indexes(&mut self, connection: &Connection, path: &Path) -> rusqlite::Result<()> {
        let mut statement = connection.prepare("PRAGMA integrity_check(10)")?;
        let said: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for line in said.into_iter().filter(|line| line != "ok") {
            self.problem(path, Wrong::Damaged(line));
        }
        Ok(())
    }

    /// Holds the beginning of a segment to the end of the one before.
    fn begin(&mut self, beginning: &Beginning, number: u64, path: &Path) {
        let Beginning { log, number: says, after, end_of_previous, .. } = beginning;
        if *says != number {
            self.problem(path, Wrong::Beginning(format!("it is segment {says} under the name of segment {number}")));
        }
        let first = self.log.get_or_insert_with(|| log.clone());
        if first != log {
            let what = format!("it is of log {log}, and those before are of log {first}");
            self.problem(path, Wrong::Beginning(what));
        }
        match end_of_previous.as_deref().map(serde_json::from_str::<Checkpoint>) {
            Some(Ok(end)) => {
                if self.is_signed(path, &end, END, Mark::End) && (end.seq, end.hash) != (after.seq, after.hash) {
                    self.problem(path, Wrong::Misplaced { by: END, seq: end.seq });
                }
            }
            Some(Err(_)) => self.problem(path, Wrong::NoStatement { by: END }),
            None if number == 1 && *after == Tip::genesis(log) => {}
            None => self.problem(path, Wrong::Beginning("no signed end of the segment before is in it".to_owned())),
        }
        match self.tip {
            Some(tip) if tip == *after => {}
            Some(tip) if tip.seq < after.seq => self.missing.push((tip.seq + 1, after.seq, path.to_owned())),
            Some(tip) if tip.seq > after.seq => {
                self.problem(path, Wrong::Added { first: after.seq + 1, last: tip.seq });
            }
            Some(tip) => {
                let first = self.vouched + 1;
                self.problem(path, Wrong::Rewritten { first, last: tip.seq, by: END });
            }
            None if self.report.range.is_none() && after.seq > 0 => self.missing.push((1, after.seq, path.to_owned())),
            None => {}
        }
        self.tip = Some(*after);
        self.vouched = self.vouched.max(after.seq);
    }

    /// The signed statements of a segment, and its last row, as of one moment.
    fn statements(&mut self, connection: &Connection, path: &Path, number: u64) -> rusqlite::Result<Statements> {
        let (lines, head, last) = {
            let moment = connection.unchecked_transaction()?;
            let mut statement = moment.prepare("SELECT line FROM checkpoint ORDER BY seq")?;
            let lines: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            let head: Option<String> = moment.query_row("SELECT line FROM head", [], |row| row.get(0)).optional()?;
            let last: Option<u64> = moment.query_row("SELECT max(seq) FROM entry", [], |row| row.get(0))?;
            (lines, head, last)
        };
        let mut kept = BTreeMap::new();
        for line in lines {
            match serde_json::from_str::<Checkpoint>(&line) {
                Err(_) => self.problem(path, Wrong::NoStatement { by: CHECKPOINT }),
                Ok(said) if !self.is_signed(path, &said, CHECKPOINT, Mark::Checkpoint) => {}
                Ok(said) if said.segment != number => self.problem(path, Wrong::Misplaced { by: CHECKPOINT, seq: said.seq }),
                Ok(said) => drop(kept.insert(said.seq, said)),
            }
        }
        let head = match head.map(|line| serde_json::from_str::<Checkpoint>(&line)) {
            None => None,
            Some(Err(_)) => {
                self.problem(path, Wrong::NoStatement { by: HEAD });
                None
            }
            Some(Ok(said)) => {
                let mark = if said.mark == Mark::End { Mark::End } else { Mark::Head };
                let is_ours = self.is_signed(path, &said, HEAD, mark) && said.segment == number;
                is_ours.then_some(said)
            }
        };
        Ok(Statements { kept, head, last })
    }

    fn rows(&mut self, connection: &Connection, path: &Path, statements: &Statements, mut after: i64) -> rusqlite::Result<()> {
        let Some(last) = statements.last else { return Ok(()) };
        let sql = format!("SELECT {COLUMNS} FROM entry WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT {LOOK}");
        let mut statement = connection.prepare(&sql)?;
        loop {
            let mut rows = statement.query(rusqlite::params![after, last])?;
            let mut read = 0;
            while let Some(row) = rows.next()? {
                let (seq, prev, hash, row) = segment::row_of(row)?;
                self.row(path, (seq, prev, hash), &row, statements);
                after = i64::try_from(seq).unwrap_or(i64::MAX);
                read += 1;
            }
            if read < LOOK {
                return Ok(());
            }
        }
    }

    fn row(&mut self, path: &Path, (seq, prev, hash): (u64, Hash, Hash), row: &Row, statements: &Statements) {
        self.report.rows += 1;
        self.report.range = Some((self.report.range.map_or(seq, |(first, _)| first), seq));
        // INVARIANT: `begin` has set it.
        let before = self.tip.unwrap_or(Tip { seq: seq.saturating_sub(1), hash: prev });
        let follows = seq == before.seq + 1;
        if seq <= before.seq {
            self.problem(path, Wrong::OutOfOrder(seq, before.seq));
        } else if !follows {
            self.problem(path, Wrong::Missing { first: before.seq + 1, last: seq - 1 });
        }
        if row.hash(seq, prev) != hash {
            self.problem(path, Wrong::Changed(seq));
        } else if follows && prev != before.hash {
            self.problem(path, Wrong::NotLinked(seq));
        } else if row.kind() == Kind::Removal.as_str() {
            self.removal = serde_json::from_str(row.body()).ok().or(self.removal);
        }
        self.tip = Some(Tip { seq, hash });
        let copies = self.copies.get(&seq).cloned().unwrap_or_default();
        let kept = statements.kept.get(&seq).map(|said| (said, CHECKPOINT));
        let head = statements.head.as_ref().filter(|said| said.seq == seq).map(|said| (said, HEAD));
        let said = kept.into_iter().chain(head).chain(copies.iter().map(|said| (said, COPY)));
        for (said, by) in said.collect::<Vec<_>>() {
            if said.hash == hash {
                self.vouched = seq;
                self.report.checkpoints.0 += u64::from(by == CHECKPOINT);
                self.report.checkpoints.1 += u64::from(by == COPY);
            } else {
                let first = (self.vouched + 1).min(seq);
                self.problem(path, Wrong::Rewritten { first, last: seq, by });
            }
        }
    }

    /// Holds the end of a segment to what is signed.
    fn close(&mut self, path: &Path, beginning: &Beginning, statements: &Statements) {
        let Statements { kept, head, last } = statements;
        let last = last.unwrap_or(beginning.after.seq);
        let furthest = kept.last_key_value().map(|(seq, _)| (*seq, CHECKPOINT));
        let head_says = head.as_ref().map(|head| (head.seq, HEAD));
        match head_says.into_iter().chain(furthest).max_by_key(|(seq, _)| *seq) {
            Some((seq, by)) if seq > last => self.problem(path, Wrong::Cut { first: last + 1, last: seq, by }),
            _ => {}
        }
        match head {
            Some(head) if head.seq < last => self.problem(path, Wrong::Added { first: head.seq + 1, last }),
            None if last > beginning.after.seq => self.problem(path, Wrong::NoHead),
            _ => {}
        }
        self.last = Some((path.to_owned(), head.as_ref().is_some_and(|head| head.mark == Mark::End)));
    }

    /// What can only be said when all was read.
    fn end(&mut self) {
        let through = self.removal.map(|removal| removal.through);
        self.report.removed = through;
        for (first, last, path) in std::mem::take(&mut self.missing) {
            if through.is_some_and(|through| last <= through) {
                continue;
            }
            let what = if first == 1 { Wrong::Removed { first, last } } else { Wrong::Missing { first, last } };
            self.problem(&path, what);
        }
        if let Some((path, true)) = self.last.take() {
            self.problem(&path, Wrong::NoSuccessor);
        }
        let last = self.tip.map_or(0, |tip| tip.seq);
        let copied = self.copies.last_key_value().map_or(0, |(seq, _)| *seq);
        if let Some(path) = self.copy.filter(|_| copied > last) {
            self.problem(path, Wrong::Cut { first: last + 1, last: copied, by: COPY });
        }
        let logs: Vec<&Checkpoint> = self.copies.values().flatten().collect();
        let other = logs.iter().find(|said| self.log.as_ref().is_some_and(|log| *log != said.log)).map(|said| said.seq);
        if let (Some(path), Some(seq)) = (self.copy, other) {
            self.problem(path, Wrong::Misplaced { by: COPY, seq });
        }
    }
}
