//! How long to wait before an object that failed is tried again: longer each time, and
//! never the same for two objects that failed together.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(300);

/// Failures in a row, by object.
#[derive(Debug, Default)]
pub struct Backoff(Mutex<HashMap<String, u32>>);

impl Backoff {
    /// Counts one more failure and says how long to wait.
    pub fn failed(&self, object: String) -> Duration {
        let mut counts = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let failures = counts.entry(object).or_default();
        *failures = failures.saturating_add(1);
        delay(*failures)
    }

    /// Forgets the failures of an object that works again.
    pub fn worked(&self, object: &str) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(object);
    }
}

/// Doubles with each failure up to five minutes; between half and all of that.
fn delay(failures: u32) -> Duration {
    let whole = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST);
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_bounds() {
        for failures in [1, 2, 5, 20, u32::MAX] {
            let wait = delay(failures);
            assert!(wait >= FIRST / 2 && wait <= LONGEST, "{failures}: {wait:?}");
        }
        assert!(delay(10) > delay(1));
    }

    #[test]
    fn an_object_that_works_again_starts_anew() {
        let backoff = Backoff::default();
        for _ in 0..10 {
            backoff.failed("a".into());
        }
        backoff.worked("a");
        assert!(backoff.failed("a".into()) <= FIRST);
    }
}
