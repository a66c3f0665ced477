//! Is everything in place to answer? Ready when every [`Handle`] that was given out is dropped.
//!
//! Readiness is owned, not set: who starts something that must have happened before traffic
//! comes takes a handle, moves it to where it happens and drops it there. A handle that a panic
//! drops counts as not ready for ever; a part that ends in an error before it got that far has
//! to end the process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing::info;

/// What is still to be waited for. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, usize>>>);

/// Something that has not happened yet. Drop it when it has.
#[derive(Debug)]
#[must_use = "dropping it says that what it waits for has happened"]
pub struct Handle {
    waits_for: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Nothing to wait for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Not ready until this handle is dropped. `waits_for` is shown to people: `task watch`.
    pub fn handle(&self, waits_for: &'static str) -> Handle {
        *self.pending_counts().entry(waits_for).or_default() += 1;
        Handle { waits_for, readiness: self.clone() }
    }

    /// What is still waited for, in the order of the names.
    #[must_use]
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending_counts().keys().copied().collect()
    }

    /// Whether nothing is waited for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.pending_counts().is_empty()
    }

    fn pending_counts(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        // The map is whole between any two statements, so a panic elsewhere cannot have broken it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut counts = self.readiness.pending_counts();
        if let Some(count) = counts.get_mut(self.waits_for) {
            *count -= 1;
            if *count == 0 {
                counts.remove(self.waits_for);
            }
        }
        let ready = counts.is_empty();
        drop(counts);
        info!(part = self.waits_for, ready, "part is ready");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_panics_is_never_ready() {
        let readiness = Readiness::new();
        let handle = readiness.handle("watch");
        let part = std::thread::spawn(move || {
            let _watch = handle;
            panic!("as the test wants");
        });
        assert!(part.join().is_err());
        assert_eq!(readiness.pending(), ["watch"]);
    }

    #[test]
    fn ready_only_when_every_handle_is_dropped() {
        let readiness = Readiness::new();
        let (tasks, scopes) = (readiness.handle("task watch"), readiness.handle("scope watch"));
        assert_eq!(readiness.pending(), ["scope watch", "task watch"]);
        drop(tasks);
        assert_eq!(readiness.pending(), ["scope watch"]);
        assert!(!readiness.is_ready());
        drop(scopes);
        assert!(readiness.is_ready());
    }

    #[test]
    fn two_handles_of_one_name_are_both_waited_for() {
        let readiness = Readiness::new();
        let (first, second) = (readiness.handle("watch"), readiness.handle("watch"));
        drop(first);
        assert_eq!(readiness.pending(), ["watch"]);
        drop(second);
        assert!(readiness.is_ready());
    }
}
