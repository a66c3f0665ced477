//! The one thread that writes: takes what waits, chains it, commits it, and tells who waits.
//!
//! Whatever goes wrong, the chain stays whole: a commit is all or nothing, and after one that
//! failed the segment is opened anew and held against what was acknowledged before anything more
//! is written. Until that works nothing new is taken, notes that had been taken are kept, and
//! every quarter of a second it is tried again.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, Mark, Said};
use super::copy::Copy;
use super::entry::{Row, time};
use super::key::SigningKey;
use super::queue::{Broken, Queue, Waiting, Work, own};
use super::segment::{self, Beginning, Commit, Segment, Tip};
use super::{AuditError, Kind, Settings, new_id};
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
    /// Opens or begins a log and writes its `start`.
    pub(super) fn open(settings: Settings, queue: Arc<Queue>, status: Arc<Mutex<Status>>) -> Result<Self, AuditError> {
        let dir = &settings.dir;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| AuditError::io("making the directory of the audit log", dir, source))?;
        let lock = lock(dir)?;
        let segments = segment::list(dir)?;
        let key = key(&settings, segments.is_empty())?;
        let clock = Clock::default();
        let segment = match segments.last() {
            Some((_, path)) => Segment::open(path.clone())?,
            None => Segment::open(Segment::place(dir, &first(clock.now()))?)?,
        };
        let copy = settings.checkpoints.as_deref().map(Copy::open).transpose()?;
        let (tip, beginning) = (segment.tip()?, segment.beginning.clone());
        if segments.last().is_some_and(|(number, _)| *number != beginning.number) {
            return Err(AuditError::changed(segment.path(), format!("it is segment {} by what stands in it", beginning.number)));
        }
        check_end(&segment, tip, &key)?;
        if let Some(copy) = &copy {
            check_copy(copy, tip, &beginning.log)?;
        }
        let last_kept = segment.last_checkpoint()?;
        let kept = (last_kept.as_ref().map_or(beginning.after.seq, |kept| kept.seq), Instant::now());
        let is_clean = tip.seq == 0 || segment.last_kind()?.is_none_or(|kind| kind == Kind::Stop.as_str());
        let now = Instant::now();
        let mut writer = Self {
            settings,
            queue,
            status,
            key,
            clock,
            segment: Some(segment),
            beginning,
            tip,
            kept,
            copy,
            broken: None,
            told: 0,
            old_bytes: 0,
            next_rotation: now,
            next_removal: now,
            _lock: lock,
        };
        writer.measure()?;
        writer.tell(|status| status.checkpoint = last_kept);
        let start = writer.own(
            Kind::Start,
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "key": writer.key.public().id(),
                "clean": is_clean,
            }),
        );
        writer.try_commit(&[start], Ask::Durable)?;
        writer.catch_up();
        Ok(writer)
    }

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
            let (row, hidden) = Row::of(&waiting.entry);
            let seq = tip.seq + 1;
            tip = Tip { seq, hash: row.hash(seq, tip.hash) };
            rows.push((seq, tip.hash, row));
            replaced += hidden;
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
        let now = self.clock.now();
        own(new_id(now), now, kind, body)
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
            let is_it = |(id, kind): &(String, String)| *id == waiting.entry.id && kind == waiting.entry.kind.as_str();
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

    /// Begins the next segment and removes old ones, where it is time. That this fails does not
    /// keep entries from being written.
    fn upkeep(&mut self) {
        let now = Instant::now();
        if self.segment.is_some() && self.next_rotation <= now && self.is_full() {
            let result = self.rotate();
            (self.next_rotation, self.next_removal) = (if result.is_ok() { now } else { now + LATER }, now);
            self.problem("segment", result);
        }
        if self.segment.is_some() && self.next_removal <= now {
            self.next_removal = now + LATER;
            let result = self.remove_old();
            self.problem("removal", result);
        }
    }

    fn is_full(&self) -> bool {
        let has_rows = self.tip.seq > self.beginning.after.seq;
        let age = self.beginning.opened.parse::<Timestamp>().map(|opened| self.clock.now().duration_since(opened));
        let is_old = age.is_ok_and(|age| age.unsigned_abs() >= self.settings.segment_age && age.is_positive());
        let is_large = self.segment.as_ref().is_some_and(|segment| segment.bytes() >= self.settings.segment_bytes);
        has_rows && (is_old || is_large)
    }

    /// Begins another segment. All of the old one is on the disk before the new one, which says
    /// how the old one ends, has its name; so whatever comes between, the two fit.
    fn rotate(&mut self) -> Result<(), AuditError> {
        self.try_commit(&[], Ask::Checkpoint).inspect_err(|_| self.segment = None)?;
        let end = self.sign(Mark::End, self.tip)?;
        let Beginning { log, number, .. } = &self.beginning;
        let (log, number, opened) = (log.clone(), number + 1, time(self.clock.now()));
        let beginning = Beginning { log, number, after: self.tip, opened, end_of_previous: Some(end.line()?) };
        let path = Segment::place(&self.settings.dir, &beginning)?;
        // From here on the new one is the log, whether it can be opened now or later.
        self.beginning = beginning;
        self.kept.0 = self.tip.seq;
        let ended = self.segment.take().map_or(Ok(()), |mut old| old.end(&end));
        self.problem("end of a segment", ended);
        self.segment = Some(Segment::open(path)?);
        self.measure()
    }

    /// Removes the oldest segments that need not be kept. That they are removed is an entry,
    /// durable before they are: what is missing without such an entry was taken.
    fn remove_old(&mut self) -> Result<(), AuditError> {
        let old = self.old()?;
        let (Some((first, _)), Some((last, _))) = (old.first(), old.last()) else { return Ok(()) };
        let all = segment::list(&self.settings.dir)?;
        // The segment that is written is never among the old ones.
        let Some((_, next)) = all.iter().find(|(number, _)| number > last) else { return Ok(()) };
        let after = segment::read_beginning(next)?.after;
        let body = json!({"segments": [first, last], "through": after.seq, "hash": after.hash.to_string()});
        let removal = self.own(Kind::Removal, body);
        self.try_commit(&[removal], Ask::Durable).inspect_err(|_| self.segment = None)?;
        old.iter().try_for_each(|(_, path)| segment::remove(path))?;
        tracing::info!(segments = old.len(), through = after.seq, "old segments of the audit log removed");
        self.measure()
    }

    /// The segments that need not be kept, beginning with the oldest.
    fn old(&self) -> Result<Vec<(u64, PathBuf)>, AuditError> {
        let Settings { dir, keep_for, keep_bytes, .. } = &self.settings;
        if keep_for.is_none() && keep_bytes.is_none() {
            return Ok(vec![]);
        }
        let mut old = vec![];
        let mut bytes = self.status().bytes;
        let segments = segment::list(dir)?;
        // The last one is written, and never among them.
        for (at, next) in segments.iter().zip(segments.iter().skip(1)) {
            let is_too_much = keep_bytes.is_some_and(|most| bytes > most);
            if !is_too_much && !self.is_over(*keep_for, &next.1)? {
                break;
            }
            bytes = bytes.saturating_sub(segment::size(&at.1));
            old.push(at.clone());
        }
        Ok(old)
    }

    /// Whether a segment need not be kept any more, by when the next one was begun.
    fn is_over(&self, keep_for: Option<Duration>, next: &Path) -> Result<bool, AuditError> {
        let Some(keep_for) = keep_for else { return Ok(false) };
        let begun = segment::read_beginning(next)?.opened.parse::<Timestamp>();
        let age = begun.map(|begun| self.clock.now().duration_since(begun));
        Ok(age.is_ok_and(|age| age.is_positive() && age.unsigned_abs() > keep_for))
    }

    /// Counts segments and their bytes.
    fn measure(&mut self) -> Result<(), AuditError> {
        let segments = segment::list(&self.settings.dir)?;
        let old = segments.iter().filter(|(number, _)| *number != self.beginning.number);
        self.old_bytes = old.map(|(_, path)| segment::size(path)).sum();
        let bytes = self.old_bytes + self.segment.as_ref().map_or(0, Segment::bytes);
        self.tell(|status| (status.segments, status.bytes) = (segments.len(), bytes));
        Ok(())
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

/// How a new log begins.
fn first(now: Timestamp) -> Beginning {
    let log = new_id(now);
    let after = Tip::genesis(&log);
    Beginning { log, number: 1, after, opened: time(now), end_of_previous: None }
}

/// Keeps other processes from writing.
fn lock(dir: &Path) -> Result<File, AuditError> {
    let path: PathBuf = dir.join("audit.lock");
    let failed = |source| AuditError::io("locking", &path, source);
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AuditError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The key that signs. Only a new log gets a new key: to go on with another one would make
/// whoever can remove the key its owner.
fn key(settings: &Settings, is_new: bool) -> Result<SigningKey, AuditError> {
    let path = settings.key_path();
    if path.exists() {
        return SigningKey::read(&path);
    }
    if is_new {
        return SigningKey::create(&path);
    }
    Err(AuditError::key(&path, "it is not there, and the log was signed with it"))
}

/// Whether a segment ends as its head says, by our key.
fn check_end(segment: &Segment, tip: Tip, key: &SigningKey) -> Result<(), AuditError> {
    let changed = |why: String| Err(AuditError::changed(segment.path(), why));
    let Beginning { log, after, end_of_previous, .. } = &segment.beginning;
    let head = segment.head()?;
    let (signed, mark): (Checkpoint, _) = match (head, end_of_previous) {
        (Some(head), _) => (head, Mark::Head),
        (None, Some(end)) if tip == *after => match serde_json::from_str(end) {
            Ok(end) => (end, Mark::End),
            Err(_) => return changed("what ends the segment before is no signed statement".to_owned()),
        },
        (None, None) if tip == Tip::genesis(log) => return Ok(()),
        (None, _) => return changed("it has no signed head".to_owned()),
    };
    let ours = key.public().id();
    if signed.key != ours {
        return changed(format!("it was signed with key {}, and the key given is {ours}", signed.key));
    }
    if !signed.is_signed_by(&[key.public()]) || signed.log != *log {
        return changed("the signature of its head does not hold".to_owned());
    }
    // The end of a segment is signed when the next one is on the disk; and a checkpoint that is
    // kept could be put in the place of the head by anybody who takes the rows after it out.
    if signed.mark != mark {
        return changed("its head is a statement of another kind; is the next segment missing?".to_owned());
    }
    if (signed.seq, signed.hash) != (tip.seq, tip.hash) {
        return changed(format!("its last row is {}, and its signed head speaks of row {}", tip.seq, signed.seq));
    }
    Ok(())
}

/// Whether a log has all that the copy of its checkpoints speaks of.
fn check_copy(copy: &Copy, tip: Tip, log: &str) -> Result<(), AuditError> {
    let Some(last) = &copy.last else { return Ok(()) };
    let wrong = if last.log != log {
        format!("it is of log {}, and this is log {log}", last.log)
    } else if last.seq > tip.seq {
        format!("it has a checkpoint of row {}, and the log ends with row {}", last.seq, tip.seq)
    } else if last.seq == tip.seq && last.hash != tip.hash {
        format!("its checkpoint of row {} is of another row", last.seq)
    } else {
        return Ok(());
    };
    Err(AuditError::changed(copy.path(), wrong))
}

/// The checkpoints of all segments after a row.
fn missing(dir: &Path, after: u64) -> Result<Vec<Checkpoint>, AuditError> {
    let mut found = vec![];
    for (_, path) in segment::list(dir)?.iter().rev() {
        let failed = |source| AuditError::sqlite("reading checkpoints of", path, source);
        let connection = segment::read(path)?;
        let mut here = segment::checkpoints(&connection, after).map_err(failed)?;
        let begins_after = segment::beginning(&connection).map_err(failed)?.after.seq;
        here.append(&mut found);
        found = here;
        if begins_after <= after {
            break;
        }
    }
    Ok(found)
}
