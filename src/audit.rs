//! The audit log: what was decided at run time, by which rules, and what came of it.
//!
//! In goes an [`Entry`] for each decision and each outcome; it becomes a row of a SQLite database,
//! chained to the row before by a hash, with signed [`Checkpoint`]s along the way. Whoever must
//! not act before the decision is on the disk awaits [`Log::record`]; whoever may uses
//! [`Log::note`]. [`verify`] says whether anything was changed since, and where.
//!
//! One thread writes; everything that waits when a commit begins goes into it. Nothing is lost
//! silently: what cannot be queued or written is an error that the caller sees, and after a time
//! in which nothing could be written an entry says how long that was and how much was refused.
//!
//! Never in here: a client of a cluster, and a text that has the form of a credential. Such a
//! text is replaced before it is hashed or written.

mod body;
mod checkpoint;
mod copy;
mod entry;
mod id;
mod key;
mod queue;
pub mod read;
mod segment;
#[cfg(test)]
mod tests;
pub mod verify;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

pub use self::body::Body;
pub use self::checkpoint::{Checkpoint, Mark};
pub use self::entry::{Hash, NoHash};
pub use self::id::new_id;
pub use self::key::{PublicKey, SigningKey};
pub use self::queue::Broken;
use self::queue::Queue;
use self::writer::{Status, Writer};

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Of a decision: unique, and in the order of time, as [`new_id`] makes them. Of an outcome:
    /// the id of its decision.
    pub id: String,
    /// When it was decided or happened. Kept to the microsecond.
    pub at: Timestamp,
    /// What it tells.
    pub kind: Kind,
    /// What it can be found by.
    pub keys: Keys,
    /// All else. At most [`Settings::body_bytes`].
    pub body: Body,
}

/// What an entry tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Somebody asked and was answered.
    Decision,
    /// What came of it, as the enforcement point has reported.
    Outcome,
    /// The log was opened. Written by the log itself.
    Start,
    /// The log was closed. Written by the log itself.
    Stop,
    /// For a while nothing could be written. Written by the log itself, when it can again.
    Gap,
    /// Old segments are about to be removed. Written by the log itself.
    Removal,
}

impl Kind {
    /// Every kind.
    pub const ALL: &[Self] = &[Self::Decision, Self::Outcome, Self::Start, Self::Stop, Self::Gap, Self::Removal];

    /// The word that stands in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Outcome => "outcome",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Gap => "gap",
            Self::Removal => "removal",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What entries are found by, and joined with the logs of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Namespace of the task.
    pub namespace: Option<String>,
    /// Name of the task.
    pub task: Option<String>,
    /// UID of the task: a name may come again, a UID does not.
    pub task_uid: Option<String>,
    /// Name of the agent.
    pub agent: Option<String>,
    /// The tool that was asked for, as `server/tool`.
    pub tool: Option<String>,
    /// Of a decision `permit`, `deny` or `needs-approval`; of an outcome what came of it.
    pub outcome: Option<String>,
    /// Trace of the request (W3C Trace Context), by which the gateway's log tells of it.
    pub trace_id: Option<String>,
    /// The `jti` of the token, by which the API server's log tells of it. Never the token.
    pub token_id: Option<String>,
}

impl Keys {
    fn texts(&self) -> [Option<&str>; 8] {
        let Self { namespace, task, task_uid, agent, tool, outcome, trace_id, token_id } = self;
        [namespace, task, task_uid, agent, tool, outcome, trace_id, token_id].map(Option::as_deref)
    }
}

/// Where a log lies, and how it is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the segments. Made where it is missing.
    pub dir: PathBuf,
    /// File of the key that signs; made at the first start. None: `audit.key` in `dir`.
    pub key: Option<PathBuf>,
    /// File that every checkpoint is also appended to. Kept where whoever can write to `dir`
    /// cannot, it catches a log that was replaced as a whole.
    pub checkpoints: Option<PathBuf>,
    /// A checkpoint each so many entries.
    pub checkpoint_entries: u64,
    /// A checkpoint so long after the last one, where there are new entries.
    pub checkpoint_interval: Duration,
    /// Another segment is begun when one has so many bytes.
    pub segment_bytes: u64,
    /// Another segment is begun when one is so old.
    pub segment_age: Duration,
    /// A segment is removed so long after the next one was begun. None: never.
    pub keep_for: Option<Duration>,
    /// The oldest segments are removed while all take more bytes than this. None: never.
    pub keep_bytes: Option<u64>,
    /// How many notes may wait. As many again may wait for an answer.
    pub queue_entries: usize,
    /// How many bytes of notes may wait, about. As many again may wait for an answer.
    pub queue_bytes: usize,
    /// How large a body may be, in bytes.
    pub body_bytes: usize,
    /// How long a note may wait for others before it is written.
    pub note_delay: Duration,
}

impl Settings {
    /// What is usual, for a log in this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            key: None,
            checkpoints: None,
            checkpoint_entries: 1_000,
            checkpoint_interval: Duration::from_secs(60),
            segment_bytes: 256 << 20,
            segment_age: Duration::from_secs(24 * 60 * 60),
            keep_for: None,
            keep_bytes: None,
            queue_entries: 16_384,
            queue_bytes: 64 << 20,
            body_bytes: 64 << 10,
            note_delay: Duration::from_millis(100),
        }
    }

    /// The file of the key.
    #[must_use]
    pub fn key_path(&self) -> PathBuf {
        self.key.clone().unwrap_or_else(|| key_path(&self.dir))
    }
}

/// Where the key of a log lies unless somebody says otherwise.
#[must_use]
pub fn key_path(dir: &Path) -> PathBuf {
    dir.join("audit.key")
}

/// How a log is, for readiness and metrics.
#[derive(Clone, Debug)]
pub struct State {
    /// Nothing can be written: since when, and why. None: all is well.
    pub broken: Option<Broken>,
    /// Entries that wait.
    pub queued: usize,
    /// The last row.
    pub last: u64,
    /// Bytes of all segments, without what is still in a write-ahead log.
    pub bytes: u64,
    /// How many segments there are.
    pub segments: usize,
    /// The last checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// Texts that were replaced since they had the form of a credential.
    pub replaced: u64,
    /// What is wrong though entries are written: the copy of the checkpoints, the begin of a
    /// segment, the removal of old ones.
    pub problems: Vec<String>,
}

/// The log. Clones are the same log; it ends when the last one is gone, or by [`Log::close`].
#[derive(Clone, Debug)]
pub struct Log(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    queue: Arc<Queue>,
    status: Arc<Mutex<Status>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    end: Mutex<Option<oneshot::Receiver<Result<(), AuditError>>>>,
}

impl Log {
    /// Opens a log, or begins one where there is none. What a crash has left is taken up. Blocks
    /// until its `start` is durable.
    ///
    /// # Errors
    ///
    /// Where another process has it open, it cannot be read or written, was signed by another
    /// key, or does not end as its signed head (or the copy of the checkpoints) says. Such a log
    /// is left as it is; `mandate audit verify` says more.
    pub fn open(settings: &Settings) -> Result<Self, AuditError> {
        let queue = Arc::new(Queue::new(settings));
        let status = Arc::new(Mutex::new(Status::default()));
        let writer = Writer::open(settings.clone(), queue.clone(), status.clone())?;
        let (tell, end) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                // Where nobody waits for the end, the log has said what was wrong.
                let _ = tell.send(writer.run());
            })
            .map_err(|source| AuditError::io("starting the writer of", &settings.dir, source))?;
        Ok(Self(Arc::new(Handle { queue, status, thread: Mutex::new(Some(thread)), end: Mutex::new(Some(end)) })))
    }

    /// Writes an entry and returns when it is durable: committed, and the disk has said so.
    /// Where this future is dropped before, the entry is written all the same.
    ///
    /// # Errors
    ///
    /// The entry cannot be relied on: it is too large, the queue is full, the log is broken or
    /// closed, or the commit failed. A commit that failed may still turn up, where the disk did
    /// not keep it from being written but could not say so.
    pub async fn record(&self, entry: Entry) -> Result<(), AuditError> {
        let answer = self.0.queue.record(entry)?;
        answer.await.unwrap_or(Err(AuditError::Closed))
    }

    /// Leaves an entry to be written soon, in about [`Settings::note_delay`]. Takes no longer
    /// than a lock; entries are written in the order in which they came.
    ///
    /// # Errors
    ///
    /// The entry will not be written: it is too large, the queue is full, or the log is broken or
    /// closed.
    pub fn note(&self, entry: Entry) -> Result<(), AuditError> {
        self.0.queue.note(entry)
    }

    /// Whether so much waits to be written that callers should wait for it, by [`Log::record`].
    /// Of what is noted in spite of it some will find no room.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.0.queue.is_half_full()
    }

    /// How the log is.
    #[must_use]
    pub fn state(&self) -> State {
        let Status { last, bytes, segments, checkpoint, replaced, problems } = self.0.status().clone();
        let problems = problems.into_values().collect();
        State { broken: self.0.queue.broken(), queued: self.0.queue.len(), last, bytes, segments, checkpoint, replaced, problems }
    }

    /// Writes what waits and a last checkpoint, and ends. Other clones are closed with it.
    ///
    /// # Errors
    ///
    /// Where something that waited could not be written.
    pub async fn close(self) -> Result<(), AuditError> {
        self.0.queue.close();
        let end = self.0.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        match end {
            Some(end) => end.await.unwrap_or(Err(AuditError::Closed)),
            None => Err(AuditError::Closed),
        }
    }
}

impl Handle {
    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handle {
    /// Blocks until what waits is written: who drops a log without closing it loses nothing.
    fn drop(&mut self) {
        self.queue.close();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer of the audit log has panicked");
        }
    }
}

/// What can go wrong with a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// Another process writes it.
    #[error("another process has the audit log in `{}` open", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// There is nothing to read.
    #[error("there is no audit log in `{}`", dir.display())]
    None {
        /// The directory.
        dir: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{doing} `{}`", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A database could not be read or written.
    #[error("{doing} `{}`", path.display())]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// With which segment.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A segment was written by another version.
    #[error("segment `{}` has format {format}, and this version of mandate reads format {}", path.display(), segment::FORMAT)]
    Format {
        /// The segment.
        path: PathBuf,
        /// What stands in it.
        format: i32,
    },
    /// A file that is open was removed or replaced.
    #[error("`{}` was removed or replaced while it is written to; put it back", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// The log is not as it was left.
    #[error(
        "the audit log was changed since it was written: `{}`: {why}; `mandate audit verify` says more; \
         to begin another log, move this one out of the way",
        path.display()
    )]
    Changed {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is no usable key.
    #[error("audit key `{}`: {why}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A body that does not fit.
    #[error("an audit entry of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
    /// A body that is nested too deeply.
    #[error("the body of an audit entry is nested deeper than {limit}")]
    TooDeep {
        /// How deep it may be.
        limit: usize,
    },
    /// A value that has no canonical form.
    #[error("the body of an audit entry has no canonical form")]
    NotCanonical(#[source] serde_json::Error),
    /// More comes than can be written.
    #[error("the queue of the audit log is full: {entries} entries of about {bytes} bytes wait")]
    QueueFull {
        /// How many wait.
        entries: usize,
        /// About how many bytes.
        bytes: usize,
    },
    /// Nothing can be written at the moment.
    #[error("the audit log cannot be written since {since}: {why}")]
    Broken {
        /// Since when.
        since: Timestamp,
        /// Why.
        why: String,
    },
    /// The log is closed.
    #[error("the audit log is closed")]
    Closed,
    /// What waited could not be written before the end.
    #[error("the audit log was closed with {entries} entries that could not be written: {why}")]
    Lost {
        /// How many.
        entries: usize,
        /// Why.
        why: String,
    },
}

impl AuditError {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    fn sqlite(doing: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        Self::Sqlite { doing, path: path.to_owned(), source }
    }

    fn key(path: &Path, why: impl Into<String>) -> Self {
        Self::Key { path: path.to_owned(), why: why.into() }
    }

    fn changed(path: &Path, why: impl Into<String>) -> Self {
        Self::Changed { path: path.to_owned(), why: why.into() }
    }

    /// A fixed word for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "locked",
            Self::None { .. } => "none",
            Self::Io { .. } => "io",
            Self::Sqlite { .. } => "database",
            Self::Format { .. } => "format",
            Self::Gone { .. } => "gone",
            Self::Changed { .. } => "changed",
            Self::Key { .. } => "key",
            Self::TooLarge { .. } | Self::TooDeep { .. } | Self::NotCanonical(_) => "entry",
            Self::QueueFull { .. } => "queue_full",
            Self::Broken { .. } => "broken",
            Self::Closed => "closed",
            Self::Lost { .. } => "lost",
        }
    }

    /// The error with its causes, on one line.
    fn line(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}
