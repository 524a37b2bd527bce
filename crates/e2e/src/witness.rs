//! A worker inside the test that counts what it really ran.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pendula_model::InstanceId;
use pendula_worker::{Output, Task, Worker};
use tokio_util::sync::CancellationToken;

/// Runs the handlers `count` (at once) and `linger` (for a second and a half) and remembers every execution.
pub struct Witness {
    executions: Arc<Mutex<HashMap<InstanceId, u32>>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Witness {
    pub fn start(url: &str, app: &str, token: &str) -> Witness {
        let executions: Arc<Mutex<HashMap<InstanceId, u32>>> = Arc::default();
        let stop = CancellationToken::new();
        let count = {
            let executions = executions.clone();
            move |task: Task| {
                *executions.lock().expect("no handler panics").entry(task.instance()).or_default() += 1;
                async { Ok(Output::default()) }
            }
        };
        let linger = {
            let executions = executions.clone();
            move |task: Task| {
                *executions.lock().expect("no handler panics").entry(task.instance()).or_default() += 1;
                async move {
                    task.log_line("begun");
                    tokio::time::sleep(Duration::from_millis(1500)).await;
                    task.log_line("done");
                    Ok(Output::text("lingered"))
                }
            }
        };
        let worker = Worker::builder(url)
            .app(app)
            .token(token)
            .name("witness")
            .slots(256)
            .handler("count", count)
            .handler("linger", linger)
            .build()
            .expect("the worker is well-formed");
        let shutdown = pendula_worker::Shutdown::when(stop.clone().cancelled_owned());
        let task = tokio::spawn(async move {
            worker.run(shutdown).await.expect("the worker runs until it is asked to stop");
        });
        Witness { executions, stop, task }
    }

    /// How often each instance was executed so far.
    pub fn executions(&self) -> HashMap<InstanceId, u32> {
        self.executions.lock().expect("no handler panics").clone()
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the worker did not panic");
    }
}
