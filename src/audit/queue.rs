//! What waits to be written: bounded, in order, for one writer.
//!
//! Whoever brings an entry makes its row, takes a lock and leaves it there; hash and disk are the
//! writer's. While the log is broken nothing new is taken, so a caller learns at once.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::entry::Row;
use super::{AuditError, Entry, Settings};

/// How many entries go into one commit at most.
pub(super) const BATCH: usize = 2_000;

/// Whom to tell what became of an entry.
pub(super) type Answer = oneshot::Sender<Result<(), AuditError>>;

/// An entry that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub row: Row,
    /// How many texts of it were replaced.
    pub replaced: u64,
    /// About how much memory it takes, in bytes; nothing, where it is the log's own and always
    /// has room.
    weight: usize,
    /// Somebody waits for it to be durable.
    pub answer: Option<Answer>,
}

impl Waiting {
    /// An entry of the log's own.
    pub(super) fn own(entry: Entry) -> Self {
        Self::new(&entry, 0, None)
    }

    fn new(entry: &Entry, weight: usize, answer: Option<Answer>) -> Self {
        let (row, replaced) = Row::of(entry);
        Self { row, replaced, weight, answer }
    }
}

/// Since when nothing can be written, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Since when.
    pub since: Timestamp,
    /// Why, in one line.
    pub why: String,
    /// Entries that were refused since, or were lost by a failed commit whose caller was told.
    pub refused: u64,
}

/// What the writer gets.
#[derive(Debug)]
pub(super) struct Work {
    pub entries: Vec<Waiting>,
    /// Nothing comes after these.
    pub is_last: bool,
}

#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
    entries: usize,
    bytes: usize,
    body: usize,
    delay: Duration,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// How many of them somebody waits for.
    records: usize,
    /// When the oldest came.
    oldest: Option<Instant>,
    sleeps: Sleeps,
    broken: Option<Broken>,
    is_closed: bool,
}

/// What wakes the writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sleeps {
    #[default]
    Not,
    /// Until anything comes.
    Idle,
    /// Until somebody waits for an answer, or there is enough for a commit.
    Gathers,
}

impl Queue {
    pub(super) fn new(settings: &Settings) -> Self {
        let &Settings { queue_entries, queue_bytes, body_bytes, note_delay, .. } = settings;
        Self {
            inner: Mutex::default(),
            wake: Condvar::new(),
            entries: queue_entries,
            bytes: queue_bytes,
            body: body_bytes,
            delay: note_delay,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an entry that nobody waits for.
    pub(super) fn note(&self, entry: Entry) -> Result<(), AuditError> {
        self.push(entry, None, 1)
    }

    /// Takes an entry and says where its answer will come. Notes cannot take the room of what
    /// somebody waits for: of that there is as much again.
    pub(super) fn record(&self, entry: Entry) -> Result<oneshot::Receiver<Result<(), AuditError>>, AuditError> {
        let (answer, coming) = oneshot::channel();
        self.push(entry, Some(answer), 2).map(|()| coming)
    }

    fn push(&self, entry: Entry, answer: Option<Answer>, shares: usize) -> Result<(), AuditError> {
        let body = entry.body.as_str().len();
        if body > self.body {
            return Err(AuditError::TooLarge { bytes: body, limit: self.body });
        }
        let weight = body + 512;
        let waiting = Waiting::new(&entry, weight, answer);
        let mut inner = self.lock();
        if inner.is_closed {
            return Err(AuditError::Closed);
        }
        if let Some(broken) = &mut inner.broken {
            broken.refused += 1;
            return Err(AuditError::Broken { since: broken.since, why: broken.why.clone() });
        }
        if inner.waiting.len() >= shares * self.entries || inner.bytes + weight > shares * self.bytes {
            return Err(AuditError::QueueFull { entries: inner.waiting.len(), bytes: inner.bytes });
        }
        inner.bytes += weight;
        inner.records += usize::from(waiting.answer.is_some());
        inner.oldest.get_or_insert_with(Instant::now);
        inner.waiting.push_back(waiting);
        let wakes = match inner.sleeps {
            Sleeps::Not => false,
            Sleeps::Idle => true,
            Sleeps::Gathers => inner.records > 0 || inner.waiting.len() >= BATCH,
        };
        if wakes {
            inner.sleeps = Sleeps::Not;
            drop(inner);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits for work, no longer than until a time: everything that waits, at once where
    /// somebody waits for an answer, and where not when there is enough or the oldest has waited
    /// long enough.
    pub(super) fn take(&self, until: Instant) -> Work {
        let mut inner = self.lock();
        loop {
            let now = Instant::now();
            let gathered = inner.oldest.map(|oldest| oldest + self.delay);
            let is_due = inner.records > 0 || inner.waiting.len() >= BATCH || gathered.is_some_and(|at| at <= now);
            if is_due || inner.is_closed || until <= now {
                inner.sleeps = Sleeps::Not;
                return inner.drain();
            }
            inner.sleeps = if inner.waiting.is_empty() { Sleeps::Idle } else { Sleeps::Gathers };
            let wait = gathered.map_or(until, |at| at.min(until)).saturating_duration_since(now);
            inner = self.wake.wait_timeout(inner, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Puts back what could not be written, before all else. Nobody waits for it any more.
    pub(super) fn put_back(&self, entries: Vec<Waiting>) {
        let mut inner = self.lock();
        for waiting in entries.into_iter().rev() {
            inner.bytes += waiting.weight;
            inner.records += usize::from(waiting.answer.is_some());
            inner.waiting.push_front(waiting);
        }
        if !inner.waiting.is_empty() {
            inner.oldest.get_or_insert_with(Instant::now);
        }
    }

    /// Takes nothing from now on.
    pub(super) fn breaks(&self, since: Timestamp, why: String, lost: u64) {
        let mut inner = self.lock();
        match &mut inner.broken {
            Some(broken) => {
                broken.why = why;
                broken.refused += lost;
            }
            None => inner.broken = Some(Broken { since, why, refused: lost }),
        }
    }

    /// Takes entries again. Says how it was broken, where it was.
    pub(super) fn mends(&self) -> Option<Broken> {
        self.lock().broken.take()
    }

    pub(super) fn broken(&self) -> Option<Broken> {
        self.lock().broken.clone()
    }

    /// Whether half of the room for notes is taken.
    pub(super) fn is_half_full(&self) -> bool {
        let inner = self.lock();
        2 * inner.waiting.len() >= self.entries || 2 * inner.bytes >= self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Waits a while, less where the log is closed meanwhile.
    pub(super) fn pause(&self, length: Duration) {
        let inner = self.lock();
        drop(self.wake.wait_timeout_while(inner, length, |inner| !inner.is_closed));
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Takes nothing any more; the writer ends when it has written what waits.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.wake.notify_all();
    }

    /// Takes nothing any more and drops what waits, since nobody will write it.
    pub(super) fn abandon(&self) -> usize {
        let mut inner = self.lock();
        inner.is_closed = true;
        let work = inner.drain();
        drop(inner);
        work.entries.into_iter().filter(|waiting| waiting.answer.is_none()).count()
    }
}

impl Inner {
    fn drain(&mut self) -> Work {
        let many = self.waiting.len().min(BATCH);
        let entries: Vec<Waiting> = self.waiting.drain(..many).collect();
        self.bytes -= entries.iter().map(|waiting| waiting.weight).sum::<usize>();
        self.records -= entries.iter().filter(|waiting| waiting.answer.is_some()).count();
        self.oldest = (!self.waiting.is_empty()).then(Instant::now);
        Work { entries, is_last: self.is_closed && self.waiting.is_empty() }
    }
}
