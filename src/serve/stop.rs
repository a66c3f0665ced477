//! Has the process been asked to end? One signal that everything with a loop listens to.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::info;

/// The signal to end in order. Clones see the same signal; once requested it stays requested.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Requests the [`Stop`] it was made with. Dropping it requests the stop too: what nobody can
/// stop any more has lost its owner.
#[derive(Debug)]
#[must_use = "dropping it requests the stop"]
pub struct Trigger(watch::Sender<bool>);

/// Why the process cannot listen to its signals.
#[derive(Debug, thiserror::Error)]
#[error("listen for SIGTERM and SIGINT")]
pub struct Error(#[from] std::io::Error);

impl Stop {
    /// A stop that its trigger requests.
    pub fn new() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (Trigger(sender), Self(receiver))
    }

    /// A stop that SIGTERM (kubelet) or SIGINT (Ctrl-C) requests. A second signal changes
    /// nothing: every wait after the first has a limit.
    ///
    /// # Errors
    /// Signals cannot be listened to.
    pub fn on_signals() -> Result<Self, Error> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (trigger, stop) = Self::new();
        // Owned by the runtime: it holds the trigger and waits for signals as long as that runs.
        tokio::spawn(async move {
            let signal = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            info!(signal, "asked to stop");
            trigger.stop();
        });
        Ok(stop)
    }

    /// Waits until the stop is requested; returns at once when it was.
    pub async fn requested(&self) {
        // An error says that the trigger is gone, which is a request too.
        let _ = self.0.clone().wait_for(|requested| *requested).await;
    }

    /// Whether the stop was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl Trigger {
    /// Requests the stop.
    pub fn stop(self) {
        // No receiver left means that nobody has to be told.
        let _ = self.0.send(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_hears_the_stop_even_when_made_before_it() {
        let (trigger, stop) = Stop::new();
        let early = stop.clone();
        assert!(!stop.is_requested());
        trigger.stop();
        early.requested().await;
        stop.clone().requested().await;
        assert!(stop.is_requested());
    }

    #[tokio::test]
    async fn a_stop_whose_owner_is_gone_counts_as_requested() {
        let (trigger, stop) = Stop::new();
        drop(trigger);
        stop.requested().await;
        assert!(stop.is_requested());
    }
}
