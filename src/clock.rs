//! The time, which never goes back while a process runs.
//!
//! A wall clock that is set back would let deadlines and renewals slip by as much; one
//! that is set forward ends things early, which is the safe side. Across a restart the
//! wall clock is believed again, and what is over stays over since it stands in a status.

use std::sync::Mutex;
use std::time::Instant;

use jiff::Timestamp;

/// A clock that never goes back.
#[derive(Debug)]
pub struct Clock(Mutex<(Timestamp, Instant)>);

impl Default for Clock {
    fn default() -> Self {
        Self(Mutex::new((Timestamp::now(), Instant::now())))
    }
}

impl Clock {
    /// The time: the wall clock's, or where that was set back, the time that has passed
    /// since the latest it ever said.
    pub fn now(&self) -> Timestamp {
        self.read(Timestamp::now(), Instant::now())
    }

    fn read(&self, wall: Timestamp, steady: Instant) -> Timestamp {
        let mut latest = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (said, at) = *latest;
        let passed = said.checked_add(steady.saturating_duration_since(at)).unwrap_or(said);
        let now = wall.max(passed);
        *latest = (now, steady);
        now
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_set_back_goes_on_from_the_latest_time_it_said() {
        let start = Timestamp::from_second(1_000).unwrap();
        let steady = Instant::now();
        let clock = Clock(Mutex::new((start, steady)));
        let after = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(clock.read(after(1_010), steady + Duration::from_secs(10)), after(1_010));
        assert_eq!(clock.read(after(500), steady + Duration::from_secs(12)), after(1_012));
        assert_eq!(clock.read(after(501), steady + Duration::from_secs(20)), after(1_020));
    }

    #[test]
    fn a_clock_set_forward_is_believed() {
        let clock = Clock(Mutex::new((Timestamp::from_second(1_000).unwrap(), Instant::now())));
        assert_eq!(clock.read(Timestamp::from_second(9_000).unwrap(), Instant::now()), Timestamp::from_second(9_000).unwrap());
    }
}
