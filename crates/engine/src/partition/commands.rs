//! What users ask for. Each command is answered once, after the commit of what it changed.

use std::sync::Arc;

use pendula_model::app::App;
use pendula_model::change::Change;
use pendula_model::instance::{InstanceState, Origin, Reason, StopCause};
use pendula_model::job::{Job, JobSpec, ScheduleState, check_params};
use pendula_model::limits;
use pendula_model::mode::ExecutionMode;
use pendula_model::task::Fanout;
use pendula_model::{AppId, InstanceId, JobId, Revision, TaskId};
use pendula_schedule::Plan;

use super::Partition;
use super::admission::NewInstance;
use super::state::{AppEntry, JobEntry};
use crate::effect::{Effect, Refusal, Reply, ReplyTo};
use crate::input::{Command, Fact, Need, RunRequest};
use crate::lifecycle::Event;
use crate::{Output, lifecycle};

impl Partition {
    pub(super) fn on_command(&mut self, command: Command, reply_to: ReplyTo, out: &mut Output) {
        if let Some(need) = self.missing(&command) {
            return self.park(need, command, reply_to, out);
        }
        let result = match command {
            Command::AppCreate { name, namespace, allow_scripts } => {
                self.app_create(name, namespace, allow_scripts, out)
            }
            Command::AppUpdate { app, allow_scripts } => self.app_update(app, allow_scripts, out),
            Command::AppDelete { app } => self.app_delete(app, out),
            Command::JobApply { app, spec, expected_version } => self.job_apply(app, spec, expected_version, out),
            Command::JobEnable { app, name, enabled } => self.job_enable(app, name, enabled, out),
            Command::JobDelete { app, name } => self.job_delete(app, name, out),
            Command::JobRun(run) => self.job_run(*run, out),
            Command::InstanceCancel { instance } => self.instance_end_by_user(instance, Event::Cancel, out),
            Command::InstanceStop { instance } => self.instance_end_by_user(instance, Event::Stop, out),
            Command::WorkerDrain { app, worker } => self.worker_drain(app, &worker, out),
            Command::WorkerList { app } => Ok(Reply::Workers(self.worker_list(app))),
            Command::TasksRetry { instance, tasks } => self.retry_tasks(instance, &tasks),
            Command::InstanceExplain { instance, task } => self.explain(instance, task).map(Reply::Explanation),
        };
        let reply = result.unwrap_or_else(Reply::Refused);
        self.reply(reply_to, reply, out);
    }

    fn app_create(
        &mut self,
        name: String,
        namespace: String,
        allow_scripts: bool,
        out: &mut Output,
    ) -> Result<Reply, Refusal> {
        limits::check_name("name", &name)?;
        limits::check_name("namespace", &namespace)?;
        if self.apps.values().any(|entry| entry.app.name == name) {
            return Err(Refusal::Exists { what: "app", name });
        }
        let id = AppId(self.ids.next(self.now));
        let (partition, created_at) = (self.id, self.now);
        let app = App { id, name, namespace, partition, allow_scripts, created_at, version: 1 };
        out.changes.push(Change::AppInserted(app.clone()));
        self.apps.insert(id, AppEntry::new(app.clone()));
        Ok(Reply::App(app))
    }

    fn app_update(&mut self, app: AppId, allow_scripts: bool, out: &mut Output) -> Result<Reply, Refusal> {
        let entry = self.apps.get_mut(&app).ok_or(Refusal::NotFound("app"))?;
        if entry.app.allow_scripts != allow_scripts {
            entry.app.allow_scripts = allow_scripts;
            entry.app.version += 1;
            out.changes.push(Change::AppUpdated(entry.app.clone()));
        }
        Ok(Reply::App(entry.app.clone()))
    }

    /// The caller has looked that the app has no jobs in the store; jobs in memory are checked here, and the store
    /// checks again.
    fn app_delete(&mut self, app: AppId, out: &mut Output) -> Result<Reply, Refusal> {
        if !self.apps.contains_key(&app) {
            return Err(Refusal::NotFound("app"));
        }
        if self.jobs.values().any(|entry| entry.job.app == app && (!entry.deleted || entry.active() > 0)) {
            return Err(Refusal::AppNotEmpty);
        }
        self.apps.remove(&app);
        let sessions: Vec<_> = self.sessions.values().filter(|s| s.app == app).map(|s| s.id).collect();
        for session in sessions {
            self.sessions.remove(&session);
            out.effects.push(Effect::Close { session, why: "the app was deleted" });
        }
        out.changes.push(Change::AppDeleted(app));
        Ok(Reply::Done)
    }

    fn job_apply(
        &mut self,
        app: AppId,
        spec: Arc<JobSpec>,
        expected_version: Option<u64>,
        out: &mut Output,
    ) -> Result<Reply, Refusal> {
        spec.validate()?;
        let may_script = self.apps.get(&app).ok_or(Refusal::NotFound("app"))?.app.allow_scripts;
        if spec.processor.is_script() && !may_script {
            return Err(Refusal::ScriptsNotAllowed);
        }
        let known = self.names.get(&(app, spec.name.clone())).copied().flatten();
        let found = known.and_then(|id| self.jobs.get(&id)).map_or(0, |entry| entry.job.version);
        match expected_version {
            Some(0) if found > 0 => return Err(Refusal::Exists { what: "job", name: spec.name.clone() }),
            Some(expected) if expected != found => return Err(Refusal::VersionMismatch { expected, found }),
            _ => {}
        }
        let Some(id) = known else { return self.job_create(app, spec, out) };
        let entry = self.jobs.get(&id).expect("a known name leads to a cached job");
        if *entry.job.spec == *spec {
            return Ok(Reply::Job { job: Box::new(entry.job.clone()), created: false });
        }
        let keeps_schedule = entry.job.spec.trigger == spec.trigger && entry.job.spec.enabled == spec.enabled;
        let same_run = entry.job.spec.runs_like(&spec);
        let plan = if keeps_schedule { entry.plan.clone() } else { self.plan(&spec)? };
        self.job_update(id, spec, plan, keeps_schedule, same_run, out)
    }

    fn job_create(&mut self, app: AppId, spec: Arc<JobSpec>, out: &mut Output) -> Result<Reply, Refusal> {
        let plan = self.plan(&spec)?;
        let (id, now) = (JobId(self.ids.next(self.now)), self.now);
        let next_fire = plan.as_ref().filter(|_| spec.enabled).and_then(Plan::first);
        let job = Job {
            id,
            app,
            spec,
            revision: Revision(1),
            version: 1,
            schedule: ScheduleState { anchor: now, next_fire, last_fire: None, missed: 0 },
            created_at: now,
            updated_at: now,
            deleted_at: None,
        };
        out.changes.push(Change::JobInserted(job.clone()));
        self.names.insert((app, job.spec.name.clone()), Some(id));
        self.insert_entry(job.clone());
        Ok(Reply::Job { job: Box::new(job), created: true })
    }

    /// The compiled trigger of a definition that is about to be saved.
    fn plan(&self, spec: &JobSpec) -> Result<Option<Plan>, Refusal> {
        let Some(trigger) = &spec.trigger else { return Ok(None) };
        let plan = Plan::compile(trigger, self.now)?;
        if spec.enabled {
            plan.check_future(self.now)?;
        }
        Ok(Some(plan))
    }

    fn job_update(
        &mut self,
        id: JobId,
        spec: Arc<JobSpec>,
        plan: Option<Plan>,
        keeps_schedule: bool,
        same_run: bool,
        out: &mut Output,
    ) -> Result<Reply, Refusal> {
        let now = self.now;
        if !keeps_schedule {
            self.fire_before_edit(id, out);
        }
        let entry = self.jobs.get_mut(&id).expect("the caller has just seen it");
        let job = &mut entry.job;
        if !keeps_schedule {
            // A fire time that was served is never served again, even if the clock went back since.
            let after = job.schedule.last_fire;
            let next = plan.as_ref().filter(|_| spec.enabled).and_then(|plan| match (plan.first(), after) {
                (Some(first), Some(last)) if first <= last && plan.waits_for_end() => plan.next_after_end(last),
                (Some(first), Some(last)) if first <= last => plan.next_after(last),
                (first, _) => first,
            });
            job.schedule = ScheduleState { anchor: now, next_fire: next, last_fire: after, missed: 0 };
        }
        job.spec = spec;
        job.version += 1;
        job.updated_at = now;
        if !same_run {
            job.revision = Revision(job.revision.0 + 1);
        }
        entry.plan = plan;
        entry.no_worker_told = false;
        let job = job.clone();
        out.changes.push(Change::JobUpdated(job.clone()));
        self.arm(id);
        // A lowered limit holds back what nobody has begun; a raised one lets more of the queue through.
        self.hold_back_unbegun(id);
        self.admit_queued(id);
        Ok(Reply::Job { job: Box::new(job), created: false })
    }

    fn job_enable(&mut self, app: AppId, name: String, enabled: bool, out: &mut Output) -> Result<Reply, Refusal> {
        let entry = self.job_named(app, &name)?;
        if entry.job.spec.enabled == enabled {
            return Ok(Reply::Job { job: Box::new(entry.job.clone()), created: false });
        }
        let id = entry.job.id;
        let spec = Arc::new(JobSpec { enabled, ..(*entry.job.spec).clone() });
        let plan = self.plan(&spec)?;
        self.job_update(id, spec, plan, false, true, out)
    }

    fn job_delete(&mut self, app: AppId, name: String, out: &mut Output) -> Result<Reply, Refusal> {
        let entry = self.job_named(app, &name)?;
        let (id, version, at) = (entry.job.id, entry.job.version, self.now);
        out.changes.push(Change::JobDeleted { id, version, at });
        self.names.insert((app, name), None);
        let entry = self.jobs.get_mut(&id).expect("just seen");
        entry.deleted = true;
        entry.job.schedule.next_fire = None;
        self.arm(id);
        // What waits is canceled, what runs may finish.
        let active = self.active_of(id);
        for instance in active {
            if self.instances[&instance].row.state == InstanceState::Waiting {
                self.end_waiting(instance, Event::Cancel, Reason::JOB_DELETED, out);
            }
        }
        Ok(Reply::Done)
    }

    fn job_named(&self, app: AppId, name: &str) -> Result<&JobEntry, Refusal> {
        let id = self.names.get(&(app, name.to_owned())).copied().flatten();
        id.and_then(|id| self.jobs.get(&id)).ok_or(Refusal::NotFound("job"))
    }

    fn job_run(&mut self, run: RunRequest, out: &mut Output) -> Result<Reply, Refusal> {
        let RunRequest { app, job, params, due_at, idempotency_key, rerun_of, only_unsuccessful, priority } = run;
        if let Some(key) = &idempotency_key {
            if key.is_empty() || key.len() > limits::IDEMPOTENCY_KEY_BYTES {
                let message = format!("1 to {} bytes", limits::IDEMPOTENCY_KEY_BYTES);
                return Err(pendula_model::Invalid::new("idempotency_key", message).into());
            }
            if let Some(Some(id)) = self.keys.get(&(app, key.clone())) {
                return Ok(Reply::Instance { id: *id, created: false });
            }
        }
        let may_script = self.apps.get(&app).ok_or(Refusal::NotFound("app"))?.app.allow_scripts;
        let entry = self.job_named(app, &job)?;
        if entry.job.spec.processor.is_script() && !may_script {
            return Err(Refusal::ScriptsNotAllowed);
        }
        let params = match params {
            None => None,
            Some(overrides) => {
                let mut merged = entry.job.spec.params.clone();
                merged.extend(overrides);
                check_params(&merged)?;
                Some(serde_json::to_string(&merged).expect("a JSON object always becomes text").into())
            }
        };
        if self.instances.len() >= self.settings.max_active {
            return Err(Refusal::Overloaded(self.settings.max_active));
        }
        let base = match rerun_of.filter(|_| only_unsuccessful) {
            Some(base) => Some(self.base(base, &entry.job.spec.mode)?),
            None => None,
        };
        let new = NewInstance {
            base,
            job: entry.job.id,
            origin: if rerun_of.is_some() { Origin::Rerun } else { Origin::Api },
            fire_time: None,
            missed_before: 0,
            due_at: due_at.unwrap_or(self.now).max(self.now),
            params,
            idempotency_key: idempotency_key.clone(),
            rerun_of,
            priority,
        };
        let id = self.create_instance(new, out);
        if let Some(key) = idempotency_key {
            self.keys.insert((app, key), Some(id));
        }
        Ok(Reply::Instance { id, created: true })
    }

    /// What an instance came to that is to be repeated where it did not succeed.
    fn base(&self, id: InstanceId, mode: &ExecutionMode) -> Result<Fanout, Refusal> {
        let Some(Fact::Fanout { fanout: Some((base, ended)), .. }) = self.answers.get(&Need::Fanout(id)) else {
            return Err(Refusal::NoRetry("it has no tasks; run all of it again"));
        };
        if !ended {
            return Err(Refusal::NoRetry("it has not ended; retry its tasks"));
        }
        let was_broadcast = base.targets.is_some();
        if was_broadcast || matches!(mode, ExecutionMode::Standalone | ExecutionMode::Broadcast(_)) {
            return Err(Refusal::NoRetry(
                "only tasks of a map or of shards can be repeated alone; run all of it again",
            ));
        }
        let has_last = matches!(mode, ExecutionMode::MapReduce(_));
        if base.counts.succeeded == base.counts.total && !has_last {
            return Err(Refusal::NoRetry("all of its tasks succeeded"));
        }
        Ok(base.clone())
    }

    fn retry_tasks(&mut self, id: InstanceId, tasks: &[TaskId]) -> Result<Reply, Refusal> {
        let need = self.unsuccessful(id, tasks);
        let found = match self.answers.get(&need) {
            Some(Fact::Tasks { tasks, .. }) => tasks.clone(),
            _ => Vec::new(),
        };
        self.tasks_retry(id, found)
    }

    fn instance_end_by_user(&mut self, id: InstanceId, event: Event, out: &mut Output) -> Result<Reply, Refusal> {
        let active = self.instances.get(&id).ok_or(Refusal::NotActive)?;
        match lifecycle::step(active.row.state, active.ever_started(), event) {
            lifecycle::Step::Refused => Err(Refusal::AlreadyStarted(active.row.state)),
            lifecycle::Step::To(InstanceState::Stopping) => {
                self.stop_attempt(id, StopCause::User, out);
                Ok(Reply::Done)
            }
            _ => {
                self.end_waiting(id, event, Reason::BY_USER, out);
                Ok(Reply::Done)
            }
        }
    }

    fn worker_drain(&mut self, app: AppId, name: &str, out: &mut Output) -> Result<Reply, Refusal> {
        let mut found = false;
        for session in self.sessions.values_mut() {
            if session.app == app && *session.info.worker.name == *name {
                found = true;
                session.draining = true;
                out.effects.push(Effect::Drain { session: session.id });
            }
        }
        if found { Ok(Reply::Done) } else { Err(Refusal::NotFound("worker")) }
    }
}
