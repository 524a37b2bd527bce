//! A worker inside the bench that notes when its handler is called, by the clock of the one who submitted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use pendula_model::{InstanceId, Timestamp};
use pendula_worker::{Output, Shutdown, Task, Worker};
use tokio::sync::watch;

use super::rig::{APP, Rig};

/// One call of the handler.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub at: Instant,
    pub wall: Timestamp,
    pub fire_time: Timestamp,
}

pub struct Watch {
    calls: Arc<Mutex<HashMap<InstanceId, Call>>>,
    count: watch::Receiver<usize>,
    shutdown: Shutdown,
}

impl Watch {
    /// Connects a worker with the handler `watch`.
    pub async fn start(rig: &Rig, slots: u32) -> anyhow::Result<Watch> {
        let calls: Arc<Mutex<HashMap<InstanceId, Call>>> = Arc::default();
        let (counter, count) = watch::channel(0);
        let handler = {
            let calls = calls.clone();
            move |task: Task| {
                let call = Call { at: Instant::now(), wall: now(), fire_time: task.fire_time() };
                let mut calls = calls.lock().expect("no handler panics");
                calls.insert(task.instance(), call);
                counter.send_replace(calls.len());
                async { Ok(Output::default()) }
            }
        };
        let worker = Worker::builder(rig.url())
            .app(APP)
            .token(&*rig.worker_token)
            .name("watch")
            .slots(slots)
            .handler("watch", handler)
            .build()?;
        let shutdown = Shutdown::new();
        tokio::spawn(worker.run(shutdown.clone()));
        while rig.client.worker_list(APP).await?.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        Ok(Watch { calls, count, shutdown })
    }

    /// Waits until the handler was called `calls` times.
    pub async fn wait(&mut self, calls: usize) {
        // The sender lives in the handler, which lives as long as the worker.
        let _ = self.count.wait_for(|count| *count >= calls).await;
    }

    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    pub fn calls(&self) -> HashMap<InstanceId, Call> {
        self.calls.lock().expect("no handler panics").clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shutdown.now();
    }
}

pub fn now() -> Timestamp {
    Timestamp::from_jiff(jiff::Timestamp::now())
}
