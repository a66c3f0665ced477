//! Ids of decisions: unique, and in the order of time.

use std::sync::Mutex;
use std::sync::PoisonError;

use jiff::Timestamp;

/// A new id for a decision made at this time: a UUID (version 7), whose text is in the order of
/// time to a quarter of a microsecond, and within one process in the order in which they were
/// made.
#[must_use]
pub fn new_id(at: Timestamp) -> String {
    static LATEST: Mutex<u64> = Mutex::new(0);
    let millis = u64::try_from(at.as_millisecond()).unwrap_or_default();
    // Twelve bits of the fraction: 4096 parts of a millisecond.
    let part = u64::try_from(at.as_nanosecond().rem_euclid(1_000_000)).unwrap_or_default() * 4096 / 1_000_000;
    let ticks = {
        let mut latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = (millis << 12 | part).max(*latest + 1);
        *latest
    };
    let random = random();
    format!(
        "{:08x}-{:04x}-7{:03x}-{:04x}-{:012x}",
        ticks >> 28 & 0xffff_ffff,
        ticks >> 12 & 0xffff,
        ticks & 0xfff,
        random >> 48 & 0x3fff | 0x8000,
        random & 0xffff_ffff_ffff
    )
}

/// 64 bits that nobody can guess.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // The system's randomness does not fail once it has begun; ids stay unique by their time
    // where it would.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_order_in_which_they_were_made() {
        let at: Timestamp = "2026-01-01T00:00:00.123456Z".parse().unwrap();
        let ids: Vec<String> = std::iter::repeat_with(|| new_id(at)).take(10_000).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        let (first, later) = (&ids[0], new_id("2100-01-01T00:00:00Z".parse().unwrap()));
        assert!(*first < later);
        let form = |id: &str| id.len() == 36 && &id[14..15] == "7" && "89ab".contains(&id[19..20]);
        assert!(form(first) && form(&later), "{first} {later}");
    }
}
