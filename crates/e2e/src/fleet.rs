//! A server with some workers, for tests about what becomes of work when they go away.

use std::time::Duration;

use pendula_client::{Client, RunKey, TaskFilter};
use pendula_model::api::{InstanceView, RunJob, TaskView};
use pendula_model::job::JobSpec;
use pendula_model::mode::{Broadcast, ExecutionMode};
use pendula_model::processor::{Processor, Script};
use pendula_model::{InstanceId, TaskId};

use crate::effects::Effects;
use crate::process::eventually;
use crate::server::Server;
use crate::worker::ShellWorker;

/// How long anything may take that the machine does at once when it has nothing else to do.
pub const SOON: Duration = Duration::from_secs(30);
/// The same for what follows the loss of a worker: 10 s of silence, another 10 s of patience, and a slow machine.
pub const AFTER_A_LOSS: Duration = Duration::from_secs(60);

/// The app of every fleet.
const APP: &str = "fleet";

pub struct Fleet {
    pub server: Server,
    pub effects: Effects,
    pub client: Client,
    pub token: String,
    workers: Vec<ShellWorker>,
}

impl Fleet {
    /// A server, and workers of these names that are connected.
    pub async fn start(names: &[&str]) -> Fleet {
        Fleet::at(Server::start().await, names).await
    }

    /// The same with a server that is there.
    pub async fn at(server: Server, names: &[&str]) -> Fleet {
        let token = server.app(APP).await;
        let effects = Effects::new(server.directory());
        let client = server.client();
        let mut fleet = Fleet { server, effects, client, token, workers: Vec::new() };
        for name in names {
            fleet.add(name);
        }
        fleet.connected(names).await;
        fleet
    }

    /// Starts one more worker, or another process of the same name.
    pub fn add(&mut self, name: &str) {
        let url = self.server.url();
        self.add_at(&url, name);
    }

    /// The same for a worker that dials another address than the server's.
    pub fn add_at(&mut self, url: &str, name: &str) {
        let worker = ShellWorker::start(url, APP, &self.token, name, self.server.directory());
        self.enlist(worker);
    }

    /// Takes a worker that was started by other means.
    pub fn enlist(&mut self, worker: ShellWorker) {
        self.workers.retain(|known| known.name() != worker.name());
        self.workers.push(worker);
    }

    pub fn app(&self) -> &'static str {
        APP
    }

    pub fn worker(&mut self, name: &str) -> &mut ShellWorker {
        self.workers.iter_mut().find(|worker| worker.name() == name).expect("it was started")
    }

    /// What a worker printed.
    pub fn printed_by(&self, name: &str) -> String {
        std::fs::read_to_string(self.server.directory().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Waits until workers of these names, and no others, are connected.
    pub async fn connected(&self, names: &[&str]) {
        let mut wanted = names.to_vec();
        wanted.sort_unstable();
        eventually(&format!("{wanted:?} are connected"), SOON, || async {
            let workers = self.client.worker_list(APP).await.ok()?;
            let mut there: Vec<_> = workers.iter().filter(|w| w.state == "connected").map(|w| &*w.name).collect();
            there.sort_unstable();
            (there == wanted).then_some(())
        })
        .await;
    }

    /// Creates a job and runs it.
    pub async fn run(&self, job: &JobSpec) -> InstanceId {
        self.client.job_create(APP, job).await.expect("the job is valid");
        self.run_again(&job.name).await
    }

    /// Runs a job that is there.
    pub async fn run_again(&self, job: &str) -> InstanceId {
        let run = self.client.job_run(APP, job, &RunJob::default(), RunKey::Random).await;
        run.expect("it can be run").instance.expect("an accepted run names its instance")
    }

    /// Waits for the end of an instance.
    pub async fn ended(&self, id: InstanceId, within: Duration) -> InstanceView {
        eventually(&format!("instance {id} ends"), within, || async {
            let view = self.client.instance_fetch(id).await.ok()?;
            view.state.is_ended().then_some(view)
        })
        .await
    }

    /// All tasks of an instance, in order of their numbers.
    pub async fn tasks(&self, id: InstanceId) -> Vec<TaskView> {
        let mut filter = TaskFilter { limit: Some(1000), ..TaskFilter::default() };
        let mut tasks = Vec::new();
        loop {
            let page = self.client.instance_tasks(id, &filter).await.expect("the instance exists");
            tasks.extend(page.items);
            match page.next_cursor {
                Some(cursor) => filter.cursor = Some(cursor),
                None => return tasks,
            }
        }
    }

    /// The task of a broadcast that is bound to a worker of this name.
    pub async fn task_on(&self, id: InstanceId, worker: &str) -> TaskView {
        let tasks = self.tasks(id).await;
        let found = tasks.iter().find(|task| task.target.as_deref() == Some(worker));
        found.unwrap_or_else(|| panic!("no task is bound to {worker}: {tasks:?}")).clone()
    }

    /// Waits until the task that is bound to a worker is as wanted.
    pub async fn until_task_on(
        &self,
        id: InstanceId,
        worker: &str,
        within: Duration,
        wanted: impl Fn(&TaskView) -> bool,
    ) -> TaskView {
        eventually(&format!("the task on {worker} is as wanted"), within, || async {
            let task = self.task_on(id, worker).await;
            wanted(&task).then_some(task)
        })
        .await
    }

    /// The process that each attempt at a task ran in, oldest first.
    pub async fn boots(&self, id: InstanceId, task: TaskId) -> Vec<Option<String>> {
        let detail = self.client.task_fetch(id, task).await.expect("the task exists");
        detail.attempts.into_iter().map(|attempt| attempt.worker_boot).collect()
    }

    /// Waits until a script of the instance has begun on each of these workers.
    pub async fn begun(&self, id: InstanceId, workers: &[&str]) {
        eventually(&format!("it has begun on {workers:?}"), SOON, || async {
            let begun = self.effects.per_worker(id);
            workers.iter().all(|worker| begun.contains_key(*worker)).then_some(())
        })
        .await;
    }
}

/// A job that runs a script on every worker.
pub fn broadcast(name: &str, script: &str, settings: Broadcast) -> JobSpec {
    let mode = ExecutionMode::Broadcast(settings);
    JobSpec { mode, ..JobSpec::new(name, Processor::Shell(Script::new(script))) }
}

/// The same job with scripts that [`marked`](crate::process::marked) finds, from their first moment to their last.
pub fn with_mark(job: JobSpec, mark: &str) -> JobSpec {
    let Processor::Shell(mut script) = job.processor else { panic!("only scripts can be marked") };
    script.env.insert("MARK".to_owned(), mark.to_owned());
    JobSpec { processor: Processor::Shell(script), ..job }
}
