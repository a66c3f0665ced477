//! The one thread that writes: takes what waits, chains it, commits it, and tells who waits.
//!
//! Whatever goes wrong, the chain stays whole: a commit is all or nothing, and after one that
//! failed the segment is opened anew and held against what was acknowledged before anything more
//! is written. Until that works nothing new is taken, notes that had been taken are kept, and
//! every quarter of a second it is tried again.

mod opening;
mod upkeep;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use self::opening::{check_end, missing};
use super::checkpoint::{Checkpoint, Mark, Said};
use super::copy::Copy;
use super::entry::time;
use super::key::SigningKey;
use super::queue::{Broken, Queue, Waiting, Work};
use super::segment::{self, Beginning, Commit, Segment, Tip};
use super::{AuditError, Body, Entry, Keys, Kind, Settings, new_id};
use crate::clock::Clock;

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// How long after a failure to begin a segment or to remove old ones it is tried again.
const LATER: Duration = Duration::from_secs(60);

/// What [`super::State`] tells of the writer.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    pub last: u64,
    pub bytes: u64,
    pub segments: usize,
    pub checkpoint: Option<Checkpoint>,
    pub replaced: u64,
    pub problems: BTreeMap<&'static str, String>,
}

/// What is asked of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// To be written.
    Soon,
    /// To be on the disk when it is done.
    Durable,
    /// The same, with a checkpoint.
    Checkpoint,
    /// The same, and nothing follows.
    Last,
}

#[derive(Debug)]
pub(super) struct Writer {
    settings: Settings,
    queue: Arc<Queue>,
    status: Arc<Mutex<Status>>,
    key: SigningKey,
    clock: Clock,
    /// None after a failure, until it is opened again.
    segment: Option<Segment>,
    beginning: Beginning,
    tip: Tip,
    /// The row of the last checkpoint that was kept, and when that was.
    kept: (u64, Instant),
    copy: Option<Copy>,
    /// Since when nothing can be written, and how many refused entries an entry tells of.
    broken: Option<Timestamp>,
    told: u64,
    /// Bytes of the segments before this one.
    old_bytes: u64,
    /// When it is tried next to begin a segment, and to remove old ones.
    next_rotation: Instant,
    next_removal: Instant,
    /// Held as long as this process writes.
    _lock: File,
}

impl Writer {
    /// Writes until the log is closed.
    pub(super) fn run(mut self) -> Result<(), AuditError> {
        let _end = End(self.queue.clone());
        loop {
            let until = if self.broken.is_some() {
                self.queue.pause(RETRY);
                Instant::now()
            } else {
                self.due()
            };
            let Work { mut entries, is_last } = self.queue.take(until);
            match self.commit(&mut entries, is_last) {
                Ok(()) => self.mend(),
                Err(error) if is_last || self.queue.is_closed() => {
                    let why = error.line();
                    let notes = entries.iter().filter(|waiting| waiting.answer.is_none()).count() + self.queue.abandon();
                    refuse(entries, self.clock.now(), &why);
                    return Err(AuditError::Lost { entries: notes, why });
                }
                Err(error) => self.fail(&error, entries),
            }
            if is_last {
                return Ok(());
            }
            self.upkeep();
        }
    }

    /// When there is something to do though no entry comes: a checkpoint, where there is
    /// something that it would speak of; and a look whether a segment is too old.
    fn due(&self) -> Instant {
        let checkpoint = (self.tip.seq > self.kept.0).then(|| self.kept.1 + self.settings.checkpoint_interval);
        let look = Instant::now() + LATER;
        checkpoint.map_or(look, |checkpoint| checkpoint.min(look))
    }

    /// Writes entries, and what the log has to say itself, and tells who waits. Where it cannot,
    /// the entries stay.
    fn commit(&mut self, entries: &mut Vec<Waiting>, is_last: bool) -> Result<(), AuditError> {
        self.reopen(entries)?;
        let ask = match (is_last, entries.iter().any(|waiting| waiting.answer.is_some())) {
            (true, _) => Ask::Last,
            (false, true) => Ask::Durable,
            (false, false) => Ask::Soon,
        };
        self.try_commit(entries, ask).inspect_err(|_| self.segment = None)?;
        for answer in entries.drain(..).filter_map(|waiting| waiting.answer) {
            // Whoever has gone away needs no answer.
            let _ = answer.send(Ok(()));
        }
        Ok(())
    }

    fn try_commit(&mut self, entries: &[Waiting], ask: Ask) -> Result<(), AuditError> {
        let said = self.said(ask);
        let (mut rows, mut tip, mut replaced) = (Vec::with_capacity(entries.len() + said.len()), self.tip, 0);
        for waiting in entries.iter().chain(&said) {
            let seq = tip.seq + 1;
            tip = Tip { seq, hash: waiting.row.hash(seq, tip.hash) };
            rows.push((seq, tip.hash, &waiting.row));
            replaced += waiting.replaced;
        }
        let kept = self.is_checkpoint(tip, ask).then(|| self.sign(Mark::Checkpoint, tip)).transpose()?;
        if rows.is_empty() && kept.is_none() {
            return Ok(());
        }
        let head = self.sign(Mark::Head, tip)?;
        let durable = kept.is_some() || ask != Ask::Soon;
        let commit = Commit { rows: &rows, prev: self.tip.hash, kept: kept.as_ref(), head: &head, durable };
        // INVARIANT: `reopen` has been before.
        let segment = self.segment.as_mut().ok_or(AuditError::Closed)?;
        segment.commit(&commit)?;
        let bytes = self.old_bytes + segment.bytes();
        self.tip = tip;
        self.tell(|status| {
            status.last = tip.seq;
            status.bytes = bytes;
            status.replaced += replaced;
        });
        if let Some(kept) = kept {
            self.has_kept(kept);
        }
        Ok(())
    }

    /// Entries of the log's own: that it could not be written for a while, and that it ends.
    fn said(&mut self, ask: Ask) -> Vec<Waiting> {
        let broken = self.broken.and(self.queue.broken());
        self.told = broken.as_ref().map_or(0, |broken| broken.refused);
        let gap = broken.map(|broken| self.gap(&broken));
        gap.into_iter().chain((ask == Ask::Last).then(|| self.own(Kind::Stop, json!({})))).collect()
    }

    fn gap(&self, broken: &Broken) -> Waiting {
        let body = json!({"since": time(broken.since), "refused": broken.refused, "why": broken.why});
        self.own(Kind::Gap, body)
    }

    fn own(&self, kind: Kind, body: Value) -> Waiting {
        let at = self.clock.now();
        let body = Body::of(&body).unwrap_or_default();
        Waiting::own(Entry { id: new_id(at), at, kind, keys: Keys::default(), body })
    }

    fn is_checkpoint(&self, tip: Tip, ask: Ask) -> bool {
        let Settings { checkpoint_entries, checkpoint_interval, .. } = self.settings;
        let (seq, at) = self.kept;
        let is_due = tip.seq - seq >= checkpoint_entries || at.elapsed() >= checkpoint_interval;
        tip.seq > seq && (matches!(ask, Ask::Last | Ask::Checkpoint) || is_due)
    }

    fn sign(&self, mark: Mark, tip: Tip) -> Result<Checkpoint, AuditError> {
        let Beginning { log, number, after, .. } = &self.beginning;
        let said = Said { log, segment: *number, seq: tip.seq, hash: tip.hash, count: tip.seq - after.seq };
        Checkpoint::sign(&self.key, mark, said, self.clock.now())
    }

    /// A checkpoint is on the disk; its copy may follow.
    fn has_kept(&mut self, kept: Checkpoint) {
        self.kept = (kept.seq, Instant::now());
        self.tell(|status| status.checkpoint = Some(kept.clone()));
        let is_behind = self.status().problems.contains_key("copy");
        match (&mut self.copy, is_behind) {
            (Some(_), true) => self.catch_up(),
            (Some(copy), false) => {
                let result = copy.append(&[kept]);
                self.problem("copy", result);
            }
            (None, _) => {}
        }
    }

    /// Brings the copy of the checkpoints up to what the segments have.
    fn catch_up(&mut self) {
        let Some(copy) = &mut self.copy else { return };
        let result = missing(&self.settings.dir, copy.last.as_ref().map_or(0, |last| last.seq))
            .and_then(|checkpoints| copy.append(&checkpoints));
        self.problem("copy", result);
    }

    /// Opens the segment again after a failure. What a commit that failed has written after all
    /// is taken as written.
    fn reopen(&mut self, entries: &mut Vec<Waiting>) -> Result<(), AuditError> {
        if self.segment.is_some() {
            return Ok(());
        }
        let segment = Segment::open(segment::path(&self.settings.dir, self.beginning.number))?;
        let path = segment.path();
        if segment.beginning != self.beginning || segment.hash_of(self.tip.seq)? != Some(self.tip.hash) {
            return Err(AuditError::changed(path, format!("row {}, which was acknowledged, is not in it", self.tip.seq)));
        }
        let tip = segment.tip()?;
        check_end(&segment, tip, &self.key)?;
        let mut written = segment.after(self.tip.seq)?;
        entries.retain(|waiting| {
            let is_it = |(id, kind): &(String, String)| id == waiting.row.id() && kind == waiting.row.kind();
            // Who waits has brought it since.
            let at = written.iter().position(is_it).filter(|_| waiting.answer.is_none());
            at.map(|at| written.swap_remove(at)).is_none()
        });
        self.tip = tip;
        self.segment = Some(segment);
        Ok(())
    }

    fn fail(&mut self, error: &AuditError, entries: Vec<Waiting>) {
        let now = self.clock.now();
        let line = error.line();
        if self.broken.is_none() {
            tracing::error!(error = %line, "the audit log cannot be written");
        }
        let since = *self.broken.get_or_insert(now);
        let (records, notes): (Vec<_>, Vec<_>) = entries.into_iter().partition(|waiting| waiting.answer.is_some());
        // Callers hear when all is in its place: what they try next fails at once.
        self.queue.breaks(since, line.clone(), records.len() as u64);
        self.queue.put_back(notes);
        refuse(records, since, &line);
    }

    fn mend(&mut self) {
        if self.broken.take().is_none() {
            return;
        }
        let Some(mut was) = self.queue.mends() else { return };
        tracing::info!(refused = was.refused, "the audit log can be written again");
        // What was refused while the entry that tells of it was written.
        was.refused -= self.told.min(was.refused);
        if was.refused > 0 {
            self.queue.put_back(vec![self.gap(&was)]);
        }
    }

    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, what: impl FnOnce(&mut Status)) {
        what(&mut self.status());
    }

    /// Remembers what is wrong, or that it is well again.
    fn problem(&self, what: &'static str, result: Result<(), AuditError>) {
        let mut status = self.status();
        match result {
            Ok(()) => drop(status.problems.remove(what)),
            Err(error) => {
                let line = error.line();
                if status.problems.get(what) != Some(&line) {
                    tracing::warn!(error = %line, "the audit log goes on, but");
                }
                status.problems.insert(what, line);
            }
        }
    }
}

/// However the writer ends, nobody waits for it in vain.
struct End(Arc<Queue>);

impl Drop for End {
    fn drop(&mut self) {
        let lost = self.0.abandon();
        if lost > 0 {
            tracing::error!(entries = lost, "the writer of the audit log ended with entries that were not written");
        }
    }
}

/// Tells who waits that it was not written.
fn refuse(entries: Vec<Waiting>, since: Timestamp, why: &str) {
    for answer in entries.into_iter().filter_map(|waiting| waiting.answer) {
        // Whoever has gone away needs no answer.
        let _ = answer.send(Err(AuditError::Broken { since, why: why.to_owned() }));
    }
}
