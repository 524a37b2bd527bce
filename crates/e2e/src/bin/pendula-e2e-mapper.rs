//! A worker for tests of large maps, as a process that can be killed.
//!
//! `pendula-e2e-mapper URL APP TOKEN NAME SLOTS FILE`
//!
//! Its handler `tree` grows a tree of tasks: the parameter `widths` says how many children each task of a level has. Every
//! execution adds a line to FILE before it does anything, so that none is forgotten however the process ends.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use anyhow::Context;
use pendula_worker::{Failure, Output, Shutdown, SubTask, Task, TaskRole, Worker};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Params {
    widths: Vec<u64>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Branch {
    /// How many children it and those below it have.
    widths: Vec<u64>,
    path: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, app, token, name, slots, file] = &arguments[..] else {
        anyhow::bail!("usage: pendula-e2e-mapper URL APP TOKEN NAME SLOTS FILE");
    };
    let file = Arc::new(File::options().create(true).append(true).open(file).context(file.clone())?);
    let tree = move |task: Task| grow(task, file.clone());
    let slots = slots.parse().context("SLOTS")?;
    let worker = Worker::builder(url).app(app).token(token).name(name).slots(slots).handler("tree", tree).build()?;
    worker.run(Shutdown::on_signals()).await?;
    Ok(())
}

async fn grow(task: Task, file: Arc<File>) -> Result<Output, Failure> {
    let role = task.role().ok_or_else(|| Failure::from_display("not a map"))?;
    // One write, which the kernel keeps whole.
    let line = format!("{role} {} {}\n", task.task_id(), task.attempt());
    (&*file).write_all(line.as_bytes())?;
    match role {
        TaskRole::Root => {
            let Params { widths } = task.params_json()?;
            branch(&task, &Branch { widths, path: String::new() }).await
        }
        TaskRole::Sub => branch(&task, &task.input_json()?).await,
        _ => {
            let (mut sum, mut results) = (0, task.results()?);
            while let Some(result) = results.next().await? {
                let payload = result.result.ok_or_else(|| Failure::from_display("a task left no result"))?;
                sum += serde_json::from_slice::<u64>(&payload.bytes)?;
            }
            Output::json(&sum)
        }
    }
}

/// Emits the children. What is left as result is 1, so that the sum of all is their number.
async fn branch(task: &Task, branch: &Branch) -> Result<Output, Failure> {
    if let Some((width, widths)) = branch.widths.split_first() {
        let children = (0..*width).map(|n| {
            let path = format!("{}/{n}", branch.path);
            SubTask::json(path.clone(), &Branch { widths: widths.to_vec(), path })
        });
        task.map(children).await?;
    }
    Output::json(&1)
}
