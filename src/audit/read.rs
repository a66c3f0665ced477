//! Rows of a log, for those who only read: while it is written, after a crash, or from a copy.
//!
//! Each look takes a few hundred rows and lets go again, so that a reader holds up nothing: not
//! the writer, and not for long the shortening of its write-ahead log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::Connection;
use rusqlite::types::Value as Sql;
use serde_json::value::RawValue;

use super::entry::{Hash, Row, time};
use super::segment::{self, COLUMNS};
use super::{AuditError, Keys, Kind};

/// How many rows one look takes.
const LOOK: usize = 500;

/// Which rows are wanted: those that meet all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// The decision, and its outcomes.
    pub id: Option<String>,
    /// Keys that are equal.
    pub keys: Keys,
    /// Decisions that were not `permit`.
    pub denied: bool,
}

impl Filter {
    /// The conditions in SQL, with what stands in them.
    fn conditions(&self) -> (String, Vec<Sql>) {
        let Self { since, until, id, keys, denied } = self;
        let Keys { namespace, task, task_uid, agent, tool, outcome, trace_id, token_id } = keys.clone();
        let wanted = [
            ("at >=", since.map(time)),
            ("at <", until.map(time)),
            ("id =", id.clone()),
            ("namespace =", namespace),
            ("task =", task),
            ("task_uid =", task_uid),
            ("agent =", agent),
            ("tool =", tool),
            ("outcome =", outcome),
            ("trace_id =", trace_id),
            ("token_id =", token_id),
        ];
        let (mut sql, mut values) = (String::new(), vec![]);
        for (condition, value) in wanted {
            let Some(value) = value else { continue };
            values.push(Sql::Text(value));
            // INVARIANT: writing to a String cannot fail.
            let _ = write!(sql, " AND {condition} ?{}", values.len());
        }
        if *denied {
            sql.push_str(" AND kind = 'decision' AND outcome <> 'permit'");
        }
        (sql, values)
    }

    /// Whether a row is wanted.
    fn is_met_by(&self, found: &Found) -> bool {
        let Self { since, until, id, keys, denied } = self;
        let row = &found.row;
        let wanted = keys.texts().into_iter().zip(row.keys());
        let [.., outcome, _, _] = row.keys();
        since.is_none_or(|since| *row.at() >= *time(since))
            && until.is_none_or(|until| *row.at() < *time(until))
            && id.as_ref().is_none_or(|id| row.id() == id)
            && wanted.into_iter().all(|(wanted, is)| wanted.is_none() || wanted == is)
            && (!denied || (row.kind() == Kind::Decision.as_str() && outcome.is_some_and(|is| is != "permit")))
    }
}

/// A row that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place in the chain.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    prev: Hash,
    row: Row,
}

impl Found {
    /// Id of the decision.
    #[must_use]
    pub fn id(&self) -> &str {
        self.row.id()
    }

    /// When it was, in RFC 3339.
    #[must_use]
    pub fn at(&self) -> &str {
        self.row.at()
    }

    /// What it tells: a word of [`Kind`].
    #[must_use]
    pub fn kind(&self) -> &str {
        self.row.kind()
    }

    /// What it is found by.
    #[must_use]
    pub fn keys(&self) -> Keys {
        let [namespace, task, task_uid, agent, tool, outcome, trace_id, token_id] =
            self.row.keys().map(|key| key.map(str::to_owned));
        Keys { namespace, task, task_uid, agent, tool, outcome, trace_id, token_id }
    }

    /// All else, as JSON.
    #[must_use]
    pub fn body(&self) -> &str {
        self.row.body()
    }

    /// The row as one line of JSON: what was hashed, and its hash.
    #[must_use]
    pub fn json(&self) -> String {
        let (row, body) = (&self.row, self.row.body());
        // What somebody has put there may be anything; the line stays JSON.
        let is_json = serde_json::from_str::<&RawValue>(body).is_ok() && !body.contains('\n');
        let quoted = (!is_json).then(|| serde_json::Value::from(body).to_string());
        let row =
            quoted.map_or(Cow::Borrowed(row), |body| Cow::Owned(Row::new(&body, row.id(), row.at(), row.kind(), row.keys())));
        let mut text = row.text(self.seq, self.prev);
        text.pop();
        // INVARIANT: writing to a String cannot fail.
        let _ = write!(text, ",\"hash\":\"{}\"}}", self.hash);
        text
    }
}

/// A decision with what came of it, or another row alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The decision, or a row that belongs to none.
    pub entry: Found,
    /// Its outcomes, in their order.
    pub outcomes: Vec<Found>,
}

impl Joined {
    /// One line of JSON; a decision's outcomes stand in `outcomes`.
    #[must_use]
    pub fn json(&self) -> String {
        let mut text = self.entry.json();
        if self.entry.kind() == Kind::Decision.as_str() {
            let outcomes: Vec<String> = self.outcomes.iter().map(Found::json).collect();
            text.pop();
            // INVARIANT: writing to a String cannot fail.
            let _ = write!(text, ",\"outcomes\":[{}]}}", outcomes.join(","));
        }
        text
    }
}

/// Reads a log.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    open: BTreeMap<u64, Connection>,
    /// The first and the last id of segments that get no more rows. Ids are in the order of time,
    /// so few segments have to be asked for one.
    ids: BTreeMap<u64, (String, String)>,
}

impl Reader {
    /// Opens a log for reading.
    ///
    /// # Errors
    ///
    /// Where there is none in this directory.
    pub fn open(dir: &Path) -> Result<Self, AuditError> {
        if segment::list(dir)?.is_empty() {
            return Err(AuditError::None { dir: dir.to_owned() });
        }
        Ok(Self { dir: dir.to_owned(), open: BTreeMap::new(), ids: BTreeMap::new() })
    }

    /// The last rows that meet a filter, the oldest of them first.
    ///
    /// # Errors
    ///
    /// Where a segment cannot be read.
    pub fn newest(&mut self, filter: &Filter, limit: usize) -> Result<Vec<Found>, AuditError> {
        let (conditions, values) = filter.conditions();
        let mut found = vec![];
        for (number, path) in segment::list(&self.dir)?.iter().rev() {
            if found.len() >= limit {
                break;
            }
            let Some(connection) = self.segment(*number, path)? else { continue };
            let rest = limit - found.len();
            let sql = format!("SELECT {COLUMNS} FROM entry WHERE true{conditions} ORDER BY seq DESC LIMIT {rest}");
            found.extend(select(connection, &sql, &values, path)?);
        }
        found.reverse();
        Ok(found)
    }

    /// A row as it is told: a decision with its outcomes; an outcome with its decision, once,
    /// where the decision itself does not meet the filter; everything else alone.
    ///
    /// # Errors
    ///
    /// Where a segment cannot be read.
    pub fn join(&mut self, found: Found, filter: &Filter) -> Result<Option<Joined>, AuditError> {
        let (decision, outcome) = (Kind::Decision.as_str(), Kind::Outcome.as_str());
        if ![decision, outcome].contains(&found.kind()) {
            return Ok(Some(Joined { entry: found, outcomes: vec![] }));
        }
        let all = self.of_id(found.id())?;
        let outcomes: Vec<Found> = all.iter().filter(|other| other.kind() == outcome).cloned().collect();
        if found.kind() == decision {
            return Ok(Some(Joined { entry: found, outcomes }));
        }
        let is_told = all.iter().any(|other| {
            filter.is_met_by(other) && (other.kind() == decision || (other.kind() == outcome && other.seq < found.seq))
        });
        if is_told {
            return Ok(None);
        }
        let of = all.into_iter().find(|other| other.kind() == decision);
        Ok(Some(match of {
            Some(entry) => Joined { entry, outcomes },
            None => Joined { entry: found, outcomes: vec![] },
        }))
    }

    /// Every row with an id.
    fn of_id(&mut self, id: &str) -> Result<Vec<Found>, AuditError> {
        let segments = segment::list(&self.dir)?;
        let last = segments.last().map_or(0, |(number, _)| *number);
        let mut found = vec![];
        for (number, path) in segments {
            if number != last && self.ids(number, &path)?.is_none_or(|(first, last)| *id < **first || *id > **last) {
                continue;
            }
            let Some(connection) = self.segment(number, &path)? else { continue };
            let sql = format!("SELECT {COLUMNS} FROM entry WHERE id = ?1 ORDER BY seq");
            found.extend(select(connection, &sql, &[Sql::Text(id.to_owned())], &path)?);
        }
        Ok(found)
    }

    /// The first and the last id of a segment that gets no more rows.
    fn ids(&mut self, number: u64, path: &Path) -> Result<Option<&(String, String)>, AuditError> {
        if !self.ids.contains_key(&number) {
            let Some(connection) = self.segment(number, path)? else { return Ok(None) };
            // Two questions, for of one that asks both SQLite reads the whole index.
            let sql = "SELECT (SELECT min(id) FROM entry), (SELECT max(id) FROM entry)";
            let ids = connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
            let (first, last): (Option<String>, Option<String>) =
                ids.map_err(|source| AuditError::sqlite("reading segment", path, source))?;
            self.ids.insert(number, (first.unwrap_or_default(), last.unwrap_or_default()));
        }
        Ok(self.ids.get(&number))
    }

    /// A segment; none where it was removed meanwhile.
    fn segment(&mut self, number: u64, path: &Path) -> Result<Option<&Connection>, AuditError> {
        if let std::collections::btree_map::Entry::Vacant(place) = self.open.entry(number) {
            match segment::read(path) {
                Ok(connection) => place.insert(connection),
                Err(_) if !path.exists() => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        Ok(self.open.get(&number))
    }
}

/// Goes through a log from some row on, and on again when there is more.
#[derive(Debug)]
pub struct Cursor {
    dir: PathBuf,
    conditions: String,
    values: Vec<Sql>,
    segment: Option<(u64, Connection, PathBuf)>,
    /// The last row that was looked at or is not wanted.
    after: u64,
}

impl Cursor {
    /// Begins after a row; 0 is before the first.
    #[must_use]
    pub fn new(dir: &Path, filter: &Filter, after: u64) -> Self {
        let (conditions, values) = filter.conditions();
        Self { dir: dir.to_owned(), conditions, values, segment: None, after }
    }

    /// More rows; none where there are no more yet.
    ///
    /// # Errors
    ///
    /// Where a segment cannot be read.
    pub fn more(&mut self) -> Result<Vec<Found>, AuditError> {
        loop {
            // What comes next is asked first: a segment that has a successor gets no more rows.
            let next = self.next_segment()?;
            let found = self.look()?;
            if !found.is_empty() {
                return Ok(found);
            }
            let Some((number, path)) = next else { return Ok(vec![]) };
            match segment::read(&path) {
                Ok(connection) => self.segment = Some((number, connection, path)),
                // Removed since it was listed.
                Err(_) if !path.exists() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// More rows of this segment. Those that are not wanted are looked at once.
    fn look(&mut self) -> Result<Vec<Found>, AuditError> {
        let Some((_, connection, path)) = &self.segment else { return Ok(vec![]) };
        let end: Option<u64> = connection
            .query_row("SELECT max(seq) FROM entry", [], |row| row.get(0))
            .map_err(|source| AuditError::sqlite("reading segment", path, source))?;
        let (after, end) = (self.after, end.unwrap_or_default());
        let sql = format!(
            "SELECT {COLUMNS} FROM entry WHERE seq > {after} AND seq <= {end}{} ORDER BY seq LIMIT {LOOK}",
            self.conditions
        );
        let found = select(connection, &sql, &self.values, path)?;
        let seen = if found.len() < LOOK { end } else { found.last().map_or(end, |last| last.seq) };
        self.after = after.max(seen);
        Ok(found)
    }

    fn next_segment(&self) -> Result<Option<(u64, PathBuf)>, AuditError> {
        let current = self.segment.as_ref().map_or(0, |(number, ..)| *number);
        Ok(segment::list(&self.dir)?.into_iter().find(|(number, _)| *number > current))
    }
}

fn select(connection: &Connection, sql: &str, values: &[Sql], path: &Path) -> Result<Vec<Found>, AuditError> {
    let failed = |source| AuditError::sqlite("reading segment", path, source);
    let mut statement = connection.prepare(sql).map_err(failed)?;
    let rows = statement.query_map(rusqlite::params_from_iter(values), |row| {
        segment::row_of(row).map(|(seq, prev, hash, row)| Found { seq, hash, prev, row })
    });
    rows.and_then(Iterator::collect).map_err(failed)
}
