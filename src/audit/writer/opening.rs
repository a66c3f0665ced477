//! How a log is opened: nobody else writes it, the key is the one that it was signed with, and it
//! ends as it says.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use jiff::Timestamp;
use serde_json::json;

use super::super::checkpoint::{Checkpoint, Mark};
use super::super::copy::Copy;
use super::super::entry::time;
use super::super::key::SigningKey;
use super::super::queue::Queue;
use super::super::segment::{self, Beginning, Segment, Tip};
use super::super::{AuditError, Kind, Settings, new_id};
use super::{Ask, Status, Writer};
use crate::clock::Clock;

impl Writer {
    /// Opens or begins a log and writes its `start`.
    pub(in crate::audit) fn open(settings: Settings, queue: Arc<Queue>, status: Arc<Mutex<Status>>) -> Result<Self, AuditError> {
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
pub(super) fn check_end(segment: &Segment, tip: Tip, key: &SigningKey) -> Result<(), AuditError> {
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
pub(super) fn missing(dir: &Path, after: u64) -> Result<Vec<Checkpoint>, AuditError> {
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
