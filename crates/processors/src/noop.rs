//! `noop`: does nothing, for measuring everything else.

use async_trait::async_trait;
use pendula_worker::{Failure, Handler, Output, Task};

pub(crate) struct Noop;

#[async_trait]
impl Handler for Noop {
    async fn run(&self, _task: Task) -> Result<Output, Failure> {
        Ok(Output::default())
    }
}
