//! How long until the next attempt? Never a fixed time, so that replicas that failed together
//! do not come back together.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// Somewhere between three quarters of `time` and `time`.
pub(super) fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.75 + f64::from(u32::try_from(random() % 256).unwrap_or_default()) / 1024.0)
}

/// Some number. Nothing secret may hang on it: every `RandomState` hashes nothing to another.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// Waits that double from `first` to `longest`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Backoff {
    /// The wait after so many attempts in a row; none after none.
    pub fn after(self, attempts: u32) -> Duration {
        if attempts == 0 {
            return Duration::ZERO;
        }
        jittered(self.first.saturating_mul(1 << (attempts - 1).min(20)).min(self.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_differ() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };
        assert_eq!(backoff.after(0), Duration::ZERO);
        for (attempts, most) in [(1, 1), (2, 2), (5, 16), (6, 30), (u32::MAX, 30)] {
            let waits: std::collections::BTreeSet<_> = (0..50).map(|_| backoff.after(attempts)).collect();
            let most = Duration::from_secs(most);
            assert!(waits.iter().all(|wait| *wait <= most && *wait >= most.mul_f64(0.75)), "{waits:?}");
            assert!(waits.len() > 1);
        }
    }
}
