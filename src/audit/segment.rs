//! One database file: rows in their order, the statements about them, and where it follows on.
//!
//! Written by one connection, read by any number of others, which hold the writer up in nothing
//! (write-ahead log). A commit is all or nothing, so after a crash the last row and the signed
//! head of the segment always belong together.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::AuditError;
use super::checkpoint::{Checkpoint, Mark};
use super::entry::{Hash, Row};

/// `MNDA`: what `file` shows for it.
const APPLICATION: i32 = 0x4d4e_4441;

/// The version of the format.
pub(super) const FORMAT: i32 = 1;

/// Bytes of a page. A row of a decision takes about 1,300: of SQLite's usual pages of 4,096 a quarter
/// would stay empty, and twice as many would have to be written.
const PAGE: u32 = 8192;

/// Everything that stands in a segment. `verify` holds a segment's own schema to this text, so
/// that no view, trigger or partial index can hide a row.
pub(super) const SCHEMA: &[(&str, &str)] = &[
    (
        "entry",
        "CREATE TABLE entry (seq INTEGER PRIMARY KEY, prev BLOB NOT NULL, hash BLOB NOT NULL, id TEXT NOT NULL, at TEXT NOT NULL, \
         kind TEXT NOT NULL, namespace TEXT, task TEXT, task_uid TEXT, agent TEXT, tool TEXT, outcome TEXT, trace_id TEXT, \
         token_id TEXT, body TEXT NOT NULL) STRICT",
    ),
    ("entry_id", "CREATE INDEX entry_id ON entry (id)"),
    ("entry_at", "CREATE INDEX entry_at ON entry (at)"),
    ("entry_task", "CREATE INDEX entry_task ON entry (task) WHERE task IS NOT NULL"),
    ("entry_agent", "CREATE INDEX entry_agent ON entry (agent) WHERE agent IS NOT NULL"),
    ("entry_outcome", "CREATE INDEX entry_outcome ON entry (outcome) WHERE outcome IS NOT NULL"),
    ("entry_trace", "CREATE INDEX entry_trace ON entry (trace_id) WHERE trace_id IS NOT NULL"),
    ("entry_token", "CREATE INDEX entry_token ON entry (token_id) WHERE token_id IS NOT NULL"),
    ("checkpoint", "CREATE TABLE checkpoint (seq INTEGER PRIMARY KEY, line TEXT NOT NULL) STRICT"),
    ("head", "CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), line TEXT NOT NULL) STRICT"),
    (
        "segment",
        "CREATE TABLE segment (one INTEGER PRIMARY KEY CHECK (one = 1), log TEXT NOT NULL, number INTEGER NOT NULL, \
         first INTEGER NOT NULL, prev BLOB NOT NULL, opened TEXT NOT NULL, end_of_previous TEXT) STRICT",
    ),
];

/// Columns of a row, as [`row_of`] reads them.
pub(super) const COLUMNS: &str =
    "seq, prev, hash, id, at, kind, namespace, task, task_uid, agent, tool, outcome, trace_id, token_id, body";

/// Where the chain stands: the last row and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tip {
    pub seq: u64,
    pub hash: Hash,
}

impl Tip {
    /// What stands before the first row of a log.
    pub(super) fn genesis(log: &str) -> Self {
        Self { seq: 0, hash: Hash::of(&[b"mandate.dev/audit/genesis/v1\n", log.as_bytes()]) }
    }
}

/// How a segment begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    /// Random, the same in every segment of a log.
    pub log: String,
    pub number: u64,
    /// The row before its first one.
    pub after: Tip,
    pub opened: String,
    /// The signed end of the segment before; none in the first.
    pub end_of_previous: Option<String>,
}

/// What one commit writes.
#[derive(Debug)]
pub(super) struct Commit<'a> {
    pub rows: &'a [(u64, Hash, &'a Row)],
    /// The hash before the first of them.
    pub prev: Hash,
    pub kept: Option<&'a Checkpoint>,
    pub head: &'a Checkpoint,
    /// Whether it must be on the disk when the commit is done.
    pub durable: bool,
}

/// A segment that is written.
#[derive(Debug)]
pub(super) struct Segment {
    connection: Connection,
    path: PathBuf,
    pub beginning: Beginning,
    is_durable: bool,
    /// The database, and its write-ahead log once there is one.
    files: [Option<Inode>; 2],
}

/// Which file it is, whatever its name: device and inode.
type Inode = (u64, u64);

/// The file of a segment.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("audit-{number:08}.db"))
}

/// The segments of a directory, in their order.
pub(super) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, AuditError> {
    let failed = |source| AuditError::io("listing the segments in", dir, source);
    let mut found = vec![];
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".db")?.parse().ok());
        found.extend(number.map(|number| (number, dir.join(name))));
    }
    found.sort();
    Ok(found)
}

impl Segment {
    /// Makes the file of a segment: whole or not at all, under its name only when it is whole
    /// and on the disk.
    pub(super) fn place(dir: &Path, beginning: &Beginning) -> Result<PathBuf, AuditError> {
        let path = path(dir, beginning.number);
        let new = path.with_extension("new");
        for leftover in [new.clone(), beside(&new, "-journal")] {
            remove_file(&leftover)?;
        }
        let failed = |source| AuditError::io("beginning segment", &path, source);
        // Nobody else reads what agents did; what SQLite puts beside it has the same mode.
        fs::File::options().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
        write_new(&new, beginning).map_err(|source| AuditError::sqlite("beginning segment", &path, source))?;
        fs::rename(&new, &path).map_err(failed)?;
        if let Err(source) = fs::File::open(dir).and_then(|dir| dir.sync_all()) {
            // What may be gone after a crash must not be written to.
            remove_file(&path)?;
            return Err(failed(source));
        }
        Ok(path)
    }

    /// Opens a segment for writing. What a crash has left in its write-ahead log is taken up.
    pub(super) fn open(path: PathBuf) -> Result<Self, AuditError> {
        let failed = |source| AuditError::sqlite("opening segment", &path, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
        let format: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if format != FORMAT {
            return Err(AuditError::Format { path, format });
        }
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed)?;
        if mode != "wal" {
            return Err(AuditError::changed(&path, "its journal cannot be a write-ahead log"));
        }
        // A write-ahead log that a long reader has made large is cut back.
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 16777216").map_err(failed)?;
        let beginning = beginning(&connection).map_err(failed)?;
        let files = [inode(&path), inode(&beside(&path, "-wal"))];
        Ok(Self { connection, path, beginning, is_durable: true, files })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The last row, or what stands before the first.
    pub(super) fn tip(&self) -> Result<Tip, AuditError> {
        let last = self.connection.query_row("SELECT seq, hash FROM entry ORDER BY seq DESC LIMIT 1", [], |row| {
            Ok(Tip { seq: row.get(0)?, hash: hash_of(row, 1)? })
        });
        let last = last.optional().map_err(|source| AuditError::sqlite("reading the last row of", &self.path, source))?;
        Ok(last.unwrap_or(self.beginning.after))
    }

    /// The signed head.
    pub(super) fn head(&self) -> Result<Option<Checkpoint>, AuditError> {
        let failed = |source| AuditError::sqlite("reading the head of", &self.path, source);
        let line = self.connection.query_row("SELECT line FROM head", [], |row| row.get::<_, String>(0));
        let Some(line) = line.optional().map_err(failed)? else { return Ok(None) };
        serde_json::from_str(&line).map(Some).map_err(|_| AuditError::changed(&self.path, "its head is no signed statement"))
    }

    /// The last checkpoint that is kept.
    pub(super) fn last_checkpoint(&self) -> Result<Option<Checkpoint>, AuditError> {
        Ok(checkpoints(&self.connection, 0)
            .map_err(|source| AuditError::sqlite("reading checkpoints of", &self.path, source))?
            .pop())
    }

    /// The hash of a row; of the row before the first one too.
    pub(super) fn hash_of(&self, seq: u64) -> Result<Option<Hash>, AuditError> {
        if seq == self.beginning.after.seq {
            return Ok(Some(self.beginning.after.hash));
        }
        let hash = self.connection.query_row("SELECT hash FROM entry WHERE seq = ?1", [seq], |row| hash_of(row, 0));
        hash.optional().map_err(|source| AuditError::sqlite("reading a row of", &self.path, source))
    }

    /// The kind of the last row.
    pub(super) fn last_kind(&self) -> Result<Option<String>, AuditError> {
        let kind = self.connection.query_row("SELECT kind FROM entry ORDER BY seq DESC LIMIT 1", [], |row| row.get(0));
        kind.optional().map_err(|source| AuditError::sqlite("reading the last row of", &self.path, source))
    }

    /// Ids and kinds of the rows after one.
    pub(super) fn after(&self, seq: u64) -> Result<Vec<(String, String)>, AuditError> {
        let failed = |source| AuditError::sqlite("reading the last rows of", &self.path, source);
        let mut statement = self.connection.prepare("SELECT id, kind FROM entry WHERE seq > ?1").map_err(failed)?;
        let rows = statement.query_map([seq], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// Writes rows and statements in one transaction.
    pub(super) fn commit(&mut self, commit: &Commit<'_>) -> Result<(), AuditError> {
        self.write(commit).map_err(|source| AuditError::sqlite("writing to", &self.path, source))?;
        self.check_in_place()
    }

    fn write(&mut self, commit: &Commit<'_>) -> rusqlite::Result<()> {
        let Commit { rows, mut prev, kept, head, durable } = *commit;
        if durable != self.is_durable {
            let level = if durable { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" };
            self.connection.execute_batch(level)?;
            self.is_durable = durable;
        }
        let transaction = self.connection.transaction()?;
        let mut insert = transaction.prepare(&format!(
            "INSERT INTO entry ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)"
        ))?;
        for (seq, hash, row) in rows {
            let [namespace, task, task_uid, agent, tool, outcome, trace_id, token_id] = row.keys();
            insert.execute(params![
                seq,
                prev.as_bytes(),
                hash.as_bytes(),
                row.id(),
                row.at(),
                row.kind(),
                namespace,
                task,
                task_uid,
                agent,
                tool,
                outcome,
                trace_id,
                token_id,
                row.body()
            ])?;
            prev = *hash;
        }
        drop(insert);
        if let Some(kept) = kept {
            keep(&transaction, kept)?;
        }
        set_head(&transaction, head)?;
        transaction.commit()
    }

    /// Writes down that another segment follows.
    pub(super) fn end(&mut self, end: &Checkpoint) -> Result<(), AuditError> {
        let failed = |source| AuditError::sqlite("ending segment", &self.path, source);
        let transaction = self.connection.transaction().map_err(failed)?;
        set_head(&transaction, end).map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    /// How many bytes the database takes, without its write-ahead log.
    pub(super) fn bytes(&self) -> u64 {
        let pages = |name: &str| self.connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u64>(0));
        pages("page_count").unwrap_or_default() * pages("page_size").unwrap_or_default()
    }

    /// Whether what is written still stands under its name: to a file that was removed one can
    /// write on and on, and nothing would be left of it.
    fn check_in_place(&mut self) -> Result<(), AuditError> {
        let wal = beside(&self.path, "-wal");
        let now = [inode(&self.path), inode(&wal)];
        if self.files[1].is_none() {
            self.files[1] = now[1];
        }
        if now == self.files && !now.contains(&None) {
            return Ok(());
        }
        let gone = if now[0] == self.files[0] { wal } else { self.path.clone() };
        Err(AuditError::Gone { path: gone })
    }
}

/// How a segment begins.
pub(super) fn read_beginning(path: &Path) -> Result<Beginning, AuditError> {
    beginning(&read(path)?).map_err(|source| AuditError::sqlite("reading the beginning of", path, source))
}

/// Removes a segment.
pub(super) fn remove(path: &Path) -> Result<(), AuditError> {
    // First the database: one without its write-ahead log would be taken for one that lacks rows.
    remove_file(path)?;
    ["-wal", "-shm"].iter().try_for_each(|ending| remove_file(&beside(path, ending)))
}

/// How many bytes a segment takes; none where it is gone.
pub(super) fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Removes a file, where it is there.
fn remove_file(path: &Path) -> Result<(), AuditError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(AuditError::io("removing", path, source)),
        _ => Ok(()),
    }
}

/// Opens a segment for reading alone.
pub(super) fn read(path: &Path) -> Result<Connection, AuditError> {
    let open = |path: &Path| -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    let fail = |source| AuditError::sqlite("reading segment", path, source);
    fs::metadata(path).map_err(|source| AuditError::io("reading segment", path, source))?;
    let connection = open(path).or_else(|error| {
        // On a read-only file system there is no room for the files of a write-ahead log; where
        // there is none, nothing is in it.
        let is_alone = !beside(path, "-wal").exists();
        let text = path.to_str().filter(|text| is_alone && !text.contains(['?', '#', '%']));
        text.map_or(Err(error), |text| open(Path::new(&format!("file:{text}?immutable=1"))))
    });
    let connection = connection.map_err(fail)?;
    let format: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(fail)?;
    if format == FORMAT { Ok(connection) } else { Err(AuditError::Format { path: path.to_owned(), format }) }
}

fn write_new(path: &Path, beginning: &Beginning) -> rusqlite::Result<()> {
    let Beginning { log, number, after, opened, end_of_previous } = beginning;
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.execute_batch(&format!(
        "PRAGMA page_size = {PAGE}; PRAGMA synchronous = FULL; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}"
    ))?;
    let transaction = connection.transaction()?;
    SCHEMA.iter().try_for_each(|(_, sql)| transaction.execute_batch(sql))?;
    transaction.execute(
        "INSERT INTO segment (one, log, number, first, prev, opened, end_of_previous) VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
        params![log, number, after.seq + 1, after.hash.as_bytes(), opened, end_of_previous],
    )?;
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)
}

pub(super) fn beginning(connection: &Connection) -> rusqlite::Result<Beginning> {
    connection.query_row("SELECT log, number, first, prev, opened, end_of_previous FROM segment", [], |row| {
        let first: u64 = row.get(2)?;
        Ok(Beginning {
            log: row.get(0)?,
            number: row.get(1)?,
            after: Tip { seq: first.saturating_sub(1), hash: hash_of(row, 3)? },
            opened: row.get(4)?,
            end_of_previous: row.get(5)?,
        })
    })
}

/// The checkpoints after a row that can be read; `verify` looks at the others.
pub(super) fn checkpoints(connection: &Connection, after: u64) -> rusqlite::Result<Vec<Checkpoint>> {
    let mut statement = connection.prepare("SELECT line FROM checkpoint WHERE seq > ?1 ORDER BY seq")?;
    let lines: Vec<String> = statement.query_map([after], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// A row as [`COLUMNS`] bring it: its place, what stands before it, its hash, and itself.
pub(super) fn row_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<(u64, Hash, Hash, Row)> {
    let text = |column: usize| row.get::<_, String>(column);
    let mut keys: [Option<String>; 8] = Default::default();
    for (n, key) in keys.iter_mut().enumerate() {
        *key = row.get(6 + n)?;
    }
    let stored = Row::new(&text(14)?, &text(3)?, &text(4)?, &text(5)?, keys.each_ref().map(Option::as_deref));
    Ok((row.get(0)?, hash_of(row, 1)?, hash_of(row, 2)?, stored))
}

fn hash_of(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Hash> {
    let bytes: Vec<u8> = row.get(column)?;
    Hash::from_bytes(&bytes).ok_or(rusqlite::Error::InvalidColumnType(column, "hash".to_owned(), rusqlite::types::Type::Blob))
}

fn keep(connection: &Connection, kept: &Checkpoint) -> rusqlite::Result<()> {
    debug_assert_eq!(kept.mark, Mark::Checkpoint);
    let line = kept.line().map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection.execute("INSERT OR REPLACE INTO checkpoint (seq, line) VALUES (?1, ?2)", params![kept.seq, line]).map(drop)
}

fn set_head(connection: &Connection, head: &Checkpoint) -> rusqlite::Result<()> {
    let line = head.line().map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection.execute("INSERT OR REPLACE INTO head (one, line) VALUES (1, ?1)", [line]).map(drop)
}

/// A file beside another: its name with an ending more.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn inode(path: &Path) -> Option<Inode> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
