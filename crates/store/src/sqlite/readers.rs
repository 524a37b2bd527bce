//! A few threads with connections that only read, so that a listing never waits for a commit.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::port::StoreError;

type Question = Box<dyn FnOnce(&mut Connection) + Send>;

/// A handle on the threads; dropping it ends them after what is queued.
pub(crate) struct Readers {
    queue: Option<mpsc::Sender<Question>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Starts one thread per connection.
    pub fn spawn(name: &str, connections: Vec<Connection>) -> Result<Readers, StoreError> {
        let (queue, inbox) = mpsc::channel::<Question>();
        let inbox = Arc::new(Mutex::new(inbox));
        let mut threads = Vec::new();
        for mut db in connections {
            let inbox = inbox.clone();
            let run = move || {
                loop {
                    let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(question) = next else { break };
                    question(&mut db);
                }
            };
            let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
            threads.push(thread.map_err(|error| StoreError::Unavailable { why: format!("no thread: {error}") })?);
        }
        Ok(Readers { queue: Some(queue), threads })
    }

    /// Runs `question` on the next free connection.
    pub async fn ask<T, F>(&self, question: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let stopped = || StoreError::Unavailable { why: "the reading threads have stopped".to_owned() };
        let (reply, answer) = oneshot::channel();
        let ask = move |db: &mut Connection| {
            // A caller that went away does not need the answer.
            let _ = reply.send(question(db));
        };
        self.queue.as_ref().ok_or_else(stopped)?.send(Box::new(ask)).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reading thread of the store panicked");
            }
        }
    }
}
