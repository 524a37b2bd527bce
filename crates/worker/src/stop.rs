//! The two steps in which a task is stopped: asked, then forced.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

const RUNNING: u8 = 0;
const CANCELLED: u8 = 1;
const KILLED: u8 = 2;

/// Where one task's stop stands. Only goes forward. A `CancellationToken` pair would do the same with four
/// allocations per task.
#[derive(Debug, Default)]
pub(crate) struct StopSignal {
    level: AtomicU8,
    changed: Notify,
}

impl StopSignal {
    pub(crate) fn cancel(&self) {
        self.raise(CANCELLED);
    }

    pub(crate) fn kill(&self) {
        self.raise(KILLED);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.level.load(Ordering::Acquire) >= CANCELLED
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.level.load(Ordering::Acquire) >= KILLED
    }

    pub(crate) async fn cancelled(&self) {
        self.reached(CANCELLED).await;
    }

    pub(crate) async fn killed(&self) {
        self.reached(KILLED).await;
    }

    fn raise(&self, level: u8) {
        if self.level.fetch_max(level, Ordering::AcqRel) < level {
            self.changed.notify_waiters();
        }
    }

    async fn reached(&self, level: u8) {
        debug_assert!(level > RUNNING);
        loop {
            // Enabled before the level is read, so that a raise in between is not missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.level.load(Ordering::Acquire) >= level {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn waiters_wake_at_their_level_and_late_ones_at_once() {
        let signal = Arc::new(StopSignal::default());
        let waiter = tokio::spawn({
            let signal = signal.clone();
            async move {
                signal.cancelled().await;
                assert!(!signal.is_killed());
                signal.killed().await;
            }
        });
        tokio::task::yield_now().await;
        signal.cancel();
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        signal.kill();
        signal.cancel();
        waiter.await.unwrap();
        assert!(signal.is_cancelled() && signal.is_killed());
        signal.killed().await;
    }
}
