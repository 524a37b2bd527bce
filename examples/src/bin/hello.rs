//! The smallest worker: one handler that greets.
//!
//! ```text
//! PENDULA_TOKEN=<worker token> cargo run -p pendula-examples --bin hello
//! ```
//!
//! A job for it: `{ name: greet, processor: { handler: hello }, params: { name: Ada } }`.

use pendula_worker::{Output, Shutdown, Task, Worker};
use serde::Deserialize;

#[derive(Deserialize)]
struct Params {
    #[serde(default = "world")]
    name: String,
}

fn world() -> String {
    "world".to_owned()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = std::env::var("PENDULA_SERVER").unwrap_or_else(|_| "http://127.0.0.1:7700".to_owned());
    let worker = Worker::builder(server)
        .token(std::env::var("PENDULA_TOKEN")?)
        .handler("hello", |task: Task| async move {
            let params: Params = task.params_json()?;
            task.log_line(format!("greeting {}", params.name));
            Ok(Output::text(format!("Hello, {}!", params.name)))
        })
        .build()?;
    worker.run(Shutdown::on_signals()).await?;
    Ok(())
}
