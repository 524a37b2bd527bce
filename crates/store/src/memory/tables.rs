//! The rows and the indexes over them, with an undo log, so that a batch is written entirely or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pendula_model::app::App;
use pendula_model::change::Gap;
use pendula_model::instance::{Instance, PastAttempt};
use pendula_model::job::{Job, JobSpec};
use pendula_model::task::{Fanout, Task};
use pendula_model::token::Token;
use pendula_model::{AppId, AttemptKey, Epoch, InstanceId, JobId, PartitionId, Revision, TaskKey, Timestamp, TokenId};

use super::cluster::Servers;

#[derive(Clone, Debug)]
pub(super) struct InstanceRow {
    pub instance: Instance,
    pub prune_at: Option<Timestamp>,
}

/// How to take one write back.
enum Undo {
    App(AppId, Option<App>),
    Job(JobId, Option<Job>),
    Revision((JobId, Revision), Option<(Timestamp, Arc<JobSpec>)>),
    Gaps(JobId, Option<Vec<Gap>>),
    Instance(InstanceId, Option<InstanceRow>),
    PastAttempt(AttemptKey, Option<PastAttempt>),
    Fanout(InstanceId, Option<Fanout>),
    Task(TaskKey, Option<Task>),
    Token(TokenId, Option<Token>),
}

/// Rows are read freely and written through `put_*` alone, which keep the indexes and the undo log.
#[derive(Default)]
pub(super) struct Tables {
    pub epochs: Vec<Epoch>,
    /// The last batch written under the present epoch, of those that are numbered.
    pub numbers: BTreeMap<PartitionId, u64>,
    pub servers: Servers,
    pub apps: BTreeMap<AppId, App>,
    pub jobs: BTreeMap<JobId, Job>,
    pub revisions: BTreeMap<(JobId, Revision), (Timestamp, Arc<JobSpec>)>,
    /// Oldest first.
    pub gaps: BTreeMap<JobId, Vec<Gap>>,
    pub instances: BTreeMap<InstanceId, InstanceRow>,
    pub past_attempts: BTreeMap<AttemptKey, PastAttempt>,
    pub fanouts: BTreeMap<InstanceId, Fanout>,
    pub tasks: BTreeMap<TaskKey, Task>,
    pub tokens: BTreeMap<TokenId, Token>,

    pub app_by_name: BTreeMap<String, AppId>,
    /// Undeleted jobs only.
    pub job_by_name: BTreeMap<(AppId, String), JobId>,
    pub jobs_due: BTreeSet<(PartitionId, Timestamp, JobId)>,
    pub fires: BTreeMap<(JobId, Timestamp), InstanceId>,
    pub idempotency: BTreeMap<(AppId, Arc<str>), InstanceId>,
    pub active: BTreeSet<(PartitionId, InstanceId)>,
    pub by_job: BTreeSet<(JobId, InstanceId)>,
    pub prunable: BTreeSet<(Timestamp, InstanceId)>,
    pub under_way: BTreeSet<TaskKey>,

    /// The largest id that was ever stored.
    pub last_id: i64,
    undo: Vec<Undo>,
    last_id_before: i64,
}

impl Tables {
    pub fn new(partitions: u16) -> Self {
        Tables { epochs: vec![Epoch(0); usize::from(partitions)], ..Tables::default() }
    }

    /// From here on writes can be taken back.
    pub fn begin(&mut self) {
        self.undo.clear();
        self.last_id_before = self.last_id;
    }

    /// Takes back what was written since [`Tables::begin`].
    pub fn roll_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::App(id, row) => self.put_app(id, row),
                Undo::Job(id, row) => self.put_job(id, row),
                Undo::Revision(id, row) => self.put_revision(id, row),
                Undo::Gaps(id, row) => self.put_gaps(id, row),
                Undo::Instance(id, row) => self.put_instance(id, row),
                Undo::PastAttempt(id, row) => self.put_past_attempt(id, row),
                Undo::Fanout(id, row) => self.put_fanout(id, row),
                Undo::Task(key, row) => self.put_task(key, row),
                Undo::Token(id, row) => self.put_token(id, row),
            }
            // The write that took it back logged itself.
            self.undo.pop();
        }
        self.last_id = self.last_id_before;
    }

    pub fn put_app(&mut self, id: AppId, row: Option<App>) {
        if let Some(app) = &row {
            self.last_id = self.last_id.max(id.0);
            self.app_by_name.insert(app.name.clone(), id);
        }
        let before = replace(&mut self.apps, id, row);
        if let Some(old) = &before
            && self.apps.get(&id).is_none_or(|new| new.name != old.name)
        {
            self.app_by_name.remove(&old.name);
        }
        self.undo.push(Undo::App(id, before));
    }

    pub fn put_job(&mut self, id: JobId, row: Option<Job>) {
        let before = self.jobs.remove(&id);
        if let Some(job) = &before {
            if job.deleted_at.is_none() {
                self.job_by_name.remove(&(job.app, job.spec.name.clone()));
            }
            if let Some(at) = job.schedule.next_fire {
                self.jobs_due.remove(&(id.partition(), at, id));
            }
        }
        if let Some(job) = &row {
            self.last_id = self.last_id.max(id.0);
            if job.deleted_at.is_none() {
                self.job_by_name.insert((job.app, job.spec.name.clone()), id);
            }
            if let Some(at) = job.schedule.next_fire {
                self.jobs_due.insert((id.partition(), at, id));
            }
        }
        replace(&mut self.jobs, id, row);
        self.undo.push(Undo::Job(id, before));
    }

    pub fn put_revision(&mut self, id: (JobId, Revision), row: Option<(Timestamp, Arc<JobSpec>)>) {
        let before = replace(&mut self.revisions, id, row);
        self.undo.push(Undo::Revision(id, before));
    }

    pub fn put_gaps(&mut self, id: JobId, row: Option<Vec<Gap>>) {
        let before = replace(&mut self.gaps, id, row);
        self.undo.push(Undo::Gaps(id, before));
    }

    pub fn put_instance(&mut self, id: InstanceId, row: Option<InstanceRow>) {
        let before = replace(&mut self.instances, id, row);
        let after = self.instances.get(&id);
        // What never changes in a row's life is indexed when it comes and when it goes.
        if let (None, Some(InstanceRow { instance, .. })) = (&before, after) {
            self.last_id = self.last_id.max(id.0);
            self.by_job.insert((instance.job, id));
            if let Some(at) = instance.fire_time {
                self.fires.insert((instance.job, at), id);
            }
            if let Some(key) = &instance.idempotency_key {
                self.idempotency.insert((instance.app, key.clone()), id);
            }
        }
        if let (Some(InstanceRow { instance, .. }), None) = (&before, after) {
            self.by_job.remove(&(instance.job, id));
            if let Some(at) = instance.fire_time {
                self.fires.remove(&(instance.job, at));
            }
            if let Some(key) = &instance.idempotency_key {
                self.idempotency.remove(&(instance.app, key.clone()));
            }
        }
        if let Some(at) = before.as_ref().and_then(|row| row.prune_at) {
            self.prunable.remove(&(at, id));
        }
        if let Some(at) = after.and_then(|row| row.prune_at) {
            self.prunable.insert((at, id));
        }
        if after.is_some_and(|row| !row.instance.state.is_ended()) {
            self.active.insert((id.partition(), id));
        } else {
            self.active.remove(&(id.partition(), id));
        }
        self.undo.push(Undo::Instance(id, before));
    }

    pub fn put_past_attempt(&mut self, id: AttemptKey, row: Option<PastAttempt>) {
        let before = replace(&mut self.past_attempts, id, row);
        self.undo.push(Undo::PastAttempt(id, before));
    }

    pub fn put_fanout(&mut self, id: InstanceId, row: Option<Fanout>) {
        let before = replace(&mut self.fanouts, id, row);
        self.undo.push(Undo::Fanout(id, before));
    }

    pub fn put_task(&mut self, key: TaskKey, row: Option<Task>) {
        if row.as_ref().is_some_and(Task::is_under_way) {
            self.under_way.insert(key);
        } else {
            self.under_way.remove(&key);
        }
        let before = replace(&mut self.tasks, key, row);
        self.undo.push(Undo::Task(key, before));
    }

    pub fn put_token(&mut self, id: TokenId, row: Option<Token>) {
        if row.is_some() {
            self.last_id = self.last_id.max(id.0);
        }
        let before = replace(&mut self.tokens, id, row);
        self.undo.push(Undo::Token(id, before));
    }
}

fn replace<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, row: Option<V>) -> Option<V> {
    match row {
        Some(row) => map.insert(key, row),
        None => map.remove(&key),
    }
}
