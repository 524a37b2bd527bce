//! One who does through one server whatever people do, over and over, while everything breaks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pendula_client::{Client, ClientError, FollowOptions, RunKey};
use pendula_model::InstanceId;
use pendula_model::api::{LogEvent, RunJob};
use pendula_model::instance::InstanceState;

use super::WELL_WITHIN;

/// Asks one server alone, whether it owns the app, is about to, or is dead.
pub struct Prober {
    pub client: Client,
    pub app: &'static str,
    pub name: String,
    pub stop: Arc<AtomicBool>,
    /// Errors that were not typed and retryable.
    pub untyped: Arc<AtomicUsize>,
    pub done: Done,
}

/// How often each thing was done, and how long the slowest took, retries included.
#[derive(Default)]
pub struct Done(BTreeMap<&'static str, (u32, Duration)>);

impl Done {
    pub fn add(&mut self, other: Done) {
        for (what, (times, slowest)) in other.0 {
            self.one(what, times, slowest);
        }
    }

    fn one(&mut self, what: &'static str, times: u32, took: Duration) {
        let (known, slowest) = self.0.entry(what).or_default();
        *known += times;
        *slowest = (*slowest).max(took);
    }

    pub fn print(&self) {
        for (what, (times, slowest)) in &self.0 {
            println!("{what:<8} {times:>6} times, {:>6} ms at most", slowest.as_millis());
        }
    }

    /// Everything that people do was done.
    pub fn verify(&self) {
        for what in ["run", "show", "why", "follow", "stop", "cancel", "retry", "workers"] {
            assert!(self.0.contains_key(what), "nobody did {what}");
        }
    }
}

impl Prober {
    pub async fn run(mut self) -> Done {
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            self.live_through(&format!("{}-{number}", self.name)).await;
        }
        self.done
    }

    /// Runs, looks, follows, stops and retries an instance, and cancels another one.
    async fn live_through(&mut self, key: &str) {
        let (client, app) = (self.client.clone(), self.app);
        let run = RunJob::default();
        let started = self.insist("run", || client.job_run(app, "probed", &run, RunKey::Given(key))).await;
        let id = started.instance.expect("an accepted run names its instance");
        let follower = tokio::spawn(follow(client.clone(), id));
        self.insist("show", || client.instance_fetch(id)).await;
        self.insist("why", || client.instance_explain(id, None)).await;
        self.insist("workers", || client.worker_list(app)).await;
        self.insist("stop", || async { unless_ended(client.instance_stop(id).await) }).await;
        let begun = Instant::now();
        let ended = follower.await.expect("a follower does not panic");
        self.done.one("follow", 1, begun.elapsed());
        match ended {
            // What had not begun yet when it was stopped is canceled.
            Ok(InstanceState::Stopped | InstanceState::Canceled) => {}
            Ok(state) => panic!("{id}, which takes a minute, {state:?}"),
            Err(error) => self.complain("follow", &error),
        }
        let again = format!("{key}-again");
        let retried = self.insist("retry", || client.instance_retry(id, RunKey::Given(&again))).await;
        let retried = retried.instance.expect("a retry names its instance");
        self.insist("stop", || async { unless_ended(client.instance_stop(retried).await) }).await;

        let later = RunJob { delay: Some("1h".to_owned()), ..RunJob::default() };
        let key = format!("{key}-later");
        let waiting = self.insist("run", || client.job_run(app, "probed", &later, RunKey::Given(&key))).await;
        let waiting = waiting.instance.expect("an accepted run names its instance");
        self.insist("cancel", || async { unless_ended(client.instance_cancel(waiting).await) }).await;
        let view = self.insist("show", || client.instance_fetch(waiting)).await;
        assert_eq!(view.state, InstanceState::Canceled, "cancelled, and acknowledged: {view:?}");
    }

    /// Repeats what is refused for the moment. What fails in another way is counted, and repeated too.
    async fn insist<T, F: Future<Output = Result<T, ClientError>>>(
        &mut self,
        what: &'static str,
        ask: impl Fn() -> F,
    ) -> T {
        let begun = Instant::now();
        loop {
            match ask().await {
                Ok(answer) => {
                    self.done.one(what, 1, begun.elapsed());
                    return answer;
                }
                Err(error) if error.is_retryable() => {}
                Err(error) => self.complain(what, &error),
            }
            assert!(begun.elapsed() < 2 * WELL_WITHIN, "{}: {what} takes too long", self.name);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn complain(&self, what: &str, error: &ClientError) {
        println!("{}: {what}: {error}", self.name);
        self.untyped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whoever repeats a request whose answer was lost may find that it was carried out.
fn unless_ended<T>(answer: Result<T, ClientError>) -> Result<(), ClientError> {
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some("instance_ended") => Ok(()),
        Err(error) => Err(error),
    }
}

/// Reads a log to its end, and tells how the instance ended.
async fn follow(client: Client, id: InstanceId) -> Result<InstanceState, ClientError> {
    let begun = Instant::now();
    let mut follow = client.follow(id, FollowOptions::default());
    while let Some(event) = follow.next().await {
        match event {
            Ok(LogEvent::End { state, .. }) => return Ok(state),
            Ok(_) => {}
            Err(error) if error.is_retryable() && begun.elapsed() < 2 * WELL_WITHIN => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                follow = client.follow(id, FollowOptions::default());
            }
            Err(error) => return Err(error),
        }
    }
    panic!("{id}: following ended without an end")
}
