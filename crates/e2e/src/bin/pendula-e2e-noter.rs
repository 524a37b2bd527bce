//! A worker that writes down what it runs, as a process that can be killed.
//!
//! `pendula-e2e-noter URL[,URL…] APP TOKEN NAME SLOTS FILE`
//!
//! Every execution adds a line to FILE before it does anything. Handlers: `note` is done at once, `linger` after as many
//! milliseconds as the parameter `millis` says (333 without it), or when it is told to stop, `spread` is a map whose root emits as many sub-tasks as the parameter `tasks`
//! says.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use pendula_worker::{Failure, Output, Shutdown, SubTask, Task, TaskRole, Worker};
use serde::Deserialize;

#[derive(Deserialize)]
struct Params {
    tasks: u64,
}

#[derive(Deserialize)]
struct Linger {
    millis: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [urls, app, token, name, slots, file] = &arguments[..] else {
        anyhow::bail!("usage: pendula-e2e-noter URL[,URL…] APP TOKEN NAME SLOTS FILE");
    };
    let file = Arc::new(File::options().create(true).append(true).open(file).context(file.clone())?);
    let mut urls = urls.split(',');
    let mut worker = Worker::builder(urls.next().context("URL")?);
    for url in urls {
        worker = worker.server(url);
    }
    let noted = |file: &Arc<File>| file.clone();
    let (quick, slow, wide) = (noted(&file), noted(&file), noted(&file));
    let worker = worker
        .app(app)
        .token(token)
        .name(name)
        .slots(slots.parse().context("SLOTS")?)
        .handler("note", move |task: Task| {
            let written = write_down(&task, &quick);
            async move { written.map(|()| Output::default()) }
        })
        .handler("linger", move |task: Task| {
            let written = write_down(&task, &slow);
            async move {
                written?;
                let Linger { millis } = task.params_json().unwrap_or(Linger { millis: 333 });
                task.log_line("begun");
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(millis)) => Ok(Output::default()),
                    () = task.cancelled() => Err(Failure::from_display("told to stop")),
                }
            }
        })
        .handler("spread", move |task: Task| {
            let written = write_down(&task, &wide);
            async move {
                written?;
                if task.role() == Some(TaskRole::Root) {
                    let Params { tasks } = task.params_json()?;
                    task.map((0..tasks).map(|number| SubTask::text(format!("part {number}"), ""))).await?;
                }
                Ok(Output::default())
            }
        })
        .build()?;
    worker.run(Shutdown::on_signals()).await?;
    Ok(())
}

/// One write, which the kernel keeps whole.
fn write_down(task: &Task, file: &File) -> Result<(), Failure> {
    let line = format!("{} {} {}\n", task.instance(), task.task_id(), task.attempt());
    let mut file = file;
    Ok(file.write_all(line.as_bytes())?)
}
