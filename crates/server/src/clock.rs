//! Time, as an argument: the partitions and the sessions ask a [`Clock`], never the system.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pendula_model::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::health::Health;
use crate::metrics::Metrics;

/// How often wall clock and monotonic clock are compared.
const COMPARED: Duration = Duration::from_secs(1);
/// A difference that counts as a jump.
const JUMP: Duration = Duration::from_secs(1);
/// How long a jump is shown as a worry.
const SHOWN: Duration = Duration::from_secs(600);

/// Where the server reads the time. Tests pass their own.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock, which may jump.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX)),
            Err(before) => Timestamp::default().minus(before.duration()),
        }
    }
}

/// Both clocks at one moment: a thread that has to wait between the two readings reads them again, or its waiting would
/// look like a jump.
fn both(clock: &dyn Clock) -> (Timestamp, Instant) {
    loop {
        let first = Instant::now();
        let wall = clock.now();
        if first.elapsed() < JUMP / 10 {
            return (wall, first);
        }
    }
}

/// Compares the clocks for ever. A jump of the wall clock is logged, and wakes everyone who sleeps until a wall time.
pub(crate) async fn watch_for_jumps(
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    jumps: watch::Sender<u64>,
) {
    let tick = metrics.tick("clock");
    health.watch("clock", tick.clone());
    let mut last_jump: Option<Instant> = None;
    let mut before = both(clock.as_ref());
    loop {
        tick.at(before.0);
        tokio::time::sleep(COMPARED).await;
        let after = both(clock.as_ref());
        let expected = before.0.plus(after.1 - before.1);
        let (ahead, behind) = (after.0.since(expected), expected.since(after.0));
        if ahead > JUMP || behind > JUMP {
            let seconds = ahead.as_secs_f64() - behind.as_secs_f64();
            tracing::warn!(seconds, "the wall clock jumped");
            health.worrying("clock", format!("the wall clock jumped by {seconds:.3} s"));
            last_jump = Some(after.1);
            jumps.send_modify(|count| *count += 1);
        } else if last_jump.is_some_and(|at| at.elapsed() > SHOWN) {
            last_jump = None;
            health.recovered("clock");
        }
        before = after;
    }
}
