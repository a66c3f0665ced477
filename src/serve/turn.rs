//! When a connection of many streams is looked at again: after all else that is ready.
//!
//! Each answer wakes its connection, and the runtime runs what was woken last first: without a
//! turn to wait for, every answer is a record of TLS and a write of its own, and wakes its reader
//! alone. With one, the answers that are ready together leave together.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// A turn that is waited for again and again.
#[derive(Default)]
pub(super) struct Turn {
    signal: Arc<Signal>,
    is_asked: bool,
}

#[derive(Default)]
struct Signal {
    has_come: AtomicBool,
    task: AtomicWaker,
}

impl Turn {
    /// Ready when everything has run that was ready when it was first asked for. To be asked for
    /// within a task of Tokio; outside of one it is ready at once.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.signal.task.register(context.waker());
        if !self.is_asked {
            self.is_asked = true;
            // Whoever else wakes the task meanwhile does not bring the turn.
            let waker = Waker::from(Arc::clone(&self.signal));
            let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
        }
        if self.signal.has_come.swap(false, Ordering::AcqRel) {
            self.is_asked = false;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.has_come.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Many tasks wake one; it is looked at once, when all of them have run.
    async fn looks(tasks: u32) -> (u32, u32) {
        let (done, waker) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicWaker::new()));
        for _ in 0..tasks {
            let (done, waker) = (done.clone(), waker.clone());
            tokio::spawn(async move {
                done.fetch_add(1, Ordering::Relaxed);
                waker.wake();
            });
        }
        let (mut turn, mut looked) = (Turn::default(), 0);
        poll_fn(|context| {
            waker.register(context.waker());
            if turn.poll(context).is_pending() {
                return Poll::Pending;
            }
            looked += 1;
            if done.load(Ordering::Relaxed) == tasks { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        (looked, done.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn what_is_ready_together_is_looked_at_once() {
        for tasks in [1, 100] {
            let looked = tokio::spawn(looks(tasks)).await.unwrap();
            assert_eq!(looked, (1, tasks));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_up_is_lost_among_threads() {
        for _ in 0..500 {
            let (_, done) = tokio::spawn(looks(20)).await.unwrap();
            assert_eq!(done, 20);
        }
    }
}
