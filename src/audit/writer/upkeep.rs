//! Segments: another one is begun when it is time, and old ones are removed.
//!
//! Neither keeps entries from being written when it fails.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;

use super::super::checkpoint::Mark;
use super::super::entry::time;
use super::super::segment::{self, Beginning, Segment};
use super::super::{AuditError, Kind, Settings};
use super::{Ask, LATER, Writer};

impl Writer {
    /// Begins the next segment and removes old ones, where it is time. That this fails does not
    /// keep entries from being written.
    pub(super) fn upkeep(&mut self) {
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
    pub(super) fn measure(&mut self) -> Result<(), AuditError> {
        let segments = segment::list(&self.settings.dir)?;
        let old = segments.iter().filter(|(number, _)| *number != self.beginning.number);
        self.old_bytes = old.map(|(_, path)| segment::size(path)).sum();
        let bytes = self.old_bytes + self.segment.as_ref().map_or(0, Segment::bytes);
        self.tell(|status| (status.segments, status.bytes) = (segments.len(), bytes));
        Ok(())
    }
}
