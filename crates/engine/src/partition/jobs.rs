//! The cache of definitions. Only what fires soon or has active instances is in memory; the rest is read when a command
//! needs it, and the command waits parked meanwhile.
//!
//! Why a read can never bring back something stale: it is performed after the commit of everything emitted before it
//! was asked for; what is in the cache wins over what is read; and what is being read does not leave the cache.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use pendula_model::job::{Job, JobSpec};
use pendula_model::{InstanceId, JobId, Revision, TaskId};
use pendula_schedule::Plan;

use super::Partition;
use super::state::{Definition, JobEntry, Timer};
use crate::effect::{Effect, Refusal, Reply, ReplyTo};
use crate::input::{Command, Fact, Need};
use crate::{Output, input::RunRequest};

impl Partition {
    /// What a command needs from the store before it can be decided.
    pub(super) fn missing(&self, command: &Command) -> Option<Need> {
        let name = |app, name: &String| {
            let key = (app, name.clone());
            if self.names.contains_key(&key) { None } else { Some(Need::JobByName(key.0, key.1)) }
        };
        match command {
            Command::JobApply { app, spec, .. } => name(*app, &spec.name),
            Command::JobEnable { app, name: job, .. } | Command::JobDelete { app, name: job } => name(*app, job),
            Command::JobRun(run) => {
                let RunRequest { app, job, idempotency_key, .. } = &**run;
                let idempotency = || {
                    let key = (*app, idempotency_key.clone()?);
                    if self.keys.contains_key(&key) { None } else { Some(Need::Idempotency(key.0, key.1)) }
                };
                let base = || {
                    let need = Need::Fanout(run.rerun_of.filter(|_| run.only_unsuccessful)?);
                    (!self.answers.contains_key(&need)).then_some(need)
                };
                name(*app, job).or_else(idempotency).or_else(base)
            }
            Command::TasksRetry { instance, tasks } => {
                let need = self.unsuccessful(*instance, tasks);
                (self.instances.contains_key(instance) && !self.answers.contains_key(&need)).then_some(need)
            }
            _ => None,
        }
    }

    /// The question for tasks that ended without success.
    pub(super) fn unsuccessful(&self, instance: InstanceId, tasks: &[TaskId]) -> Need {
        Need::UnsuccessfulTasks { instance, tasks: tasks.to_vec(), asked: self.retries_of(instance) }
    }

    pub(super) fn park(&mut self, need: Need, command: Command, reply_to: ReplyTo, out: &mut Output) {
        let waiting = self.parked.entry(need.clone()).or_default();
        if waiting.is_empty() {
            out.effects.push(Effect::Load(vec![need]));
        }
        waiting.push((command, reply_to));
    }

    pub(super) fn on_loaded(&mut self, facts: Vec<Fact>, out: &mut Output) {
        for fact in facts {
            let need = match fact {
                Fact::Job { need, job } => {
                    if let Need::JobByName(app, name) = &need {
                        let known = self.names.entry((*app, name.clone())).or_insert(job.as_ref().map(|job| job.id));
                        if *known == job.as_ref().map(|job| job.id) {
                            job.into_iter().for_each(|job| self.remember(job));
                        }
                    } else {
                        job.into_iter().for_each(|job| self.remember(job));
                    }
                    need
                }
                Fact::Idempotency { need, instance } => {
                    if let Need::Idempotency(app, key) = &need {
                        self.keys.entry((*app, key.clone())).or_insert(instance);
                    }
                    need
                }
                Fact::Fanout { ref need, .. } | Fact::Tasks { ref need, .. } => {
                    let need = need.clone();
                    self.answers.insert(need.clone(), fact);
                    need
                }
                Fact::Unreadable { need, why } => {
                    for (_, reply_to) in self.parked.remove(&need).unwrap_or_default() {
                        self.reply(reply_to, Reply::Refused(Refusal::Unreadable(why.clone())), out);
                    }
                    continue;
                }
            };
            for (command, reply_to) in self.parked.remove(&need).unwrap_or_default() {
                self.on_command(command, reply_to, out);
            }
            self.answers.remove(&need);
        }
    }

    /// Takes a job from the store into the cache, unless it is there already.
    pub(super) fn remember(&mut self, job: Job) {
        if self.jobs.contains_key(&job.id) {
            return;
        }
        self.names.insert((job.app, job.spec.name.clone()), Some(job.id));
        self.insert_entry(job);
    }

    pub(super) fn insert_entry(&mut self, job: Job) {
        let plan = job.spec.trigger.as_ref().and_then(|trigger| Plan::compile(trigger, job.schedule.anchor).ok());
        let id = job.id;
        let entry = JobEntry {
            job,
            plan,
            armed: None,
            deleted: false,
            definitions: HashMap::new(),
            admitted: BTreeSet::new(),
            queue: BTreeSet::new(),
            delayed: 0,
            triggered: 0,
            no_worker_told: false,
        };
        self.jobs.insert(id, entry);
        self.arm(id);
    }

    /// Sets the timer of a job's next fire when it lies in the window, and takes an outdated one away.
    pub(super) fn arm(&mut self, id: JobId) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        let horizon = self.window.until.max(self.window.loading.unwrap_or_default());
        let wanted = entry.job.schedule.next_fire.filter(|next| *next < horizon && !entry.deleted);
        if entry.armed == wanted {
            return;
        }
        if let Some(old) = entry.armed {
            self.timers.remove(&(old, Timer::Trigger(id)));
        }
        if let Some(at) = wanted {
            self.timers.insert((at, Timer::Trigger(id)));
        }
        entry.armed = wanted;
    }

    /// The definition of a job's revision, shared by all its instances. `spec` is used when it is not cached.
    pub(super) fn definition(
        &mut self,
        job: JobId,
        revision: Revision,
        spec: &Arc<JobSpec>,
    ) -> Option<Arc<Definition>> {
        let entry = self.jobs.get_mut(&job)?;
        if let Some(known) = entry.definitions.get(&revision) {
            return Some(known.clone());
        }
        let class = self.apps.get_mut(&entry.job.app)?.class_of(spec);
        let definition = Arc::new(Definition { revision, spec: spec.clone(), class });
        entry.definitions.insert(revision, definition.clone());
        Some(definition)
    }

    /// Forgets what neither fires soon nor has active instances, nor is being read for a command.
    pub(super) fn sweep(&mut self) {
        debug_assert!(self.window.loading.is_none(), "a read under way would bring back what is forgotten now");
        // Without parked commands (the usual case, with the largest caches) nothing is copied to look for them.
        let parked = &self.parked;
        let is_read = |need: &dyn Fn() -> Need| !parked.is_empty() && parked.contains_key(&need());
        self.keys.retain(|(app, key), _| is_read(&|| Need::Idempotency(*app, key.clone())));
        self.jobs.retain(|_, entry| {
            // Revisions that only the cache itself still refers to.
            let current = entry.job.revision;
            entry.definitions.retain(|revision, definition| *revision == current || Arc::strong_count(definition) > 1);
            let is_read = is_read(&|| Need::JobByName(entry.job.app, entry.job.spec.name.clone()));
            entry.active() > 0 || entry.armed.is_some() || is_read
        });
        let jobs = &self.jobs;
        self.names.retain(|(app, name), id| {
            id.is_some_and(|id| jobs.contains_key(&id)) || is_read(&|| Need::JobByName(*app, name.clone()))
        });
        let used: BTreeSet<_> = jobs
            .values()
            .flat_map(|entry| entry.definitions.values().map(|definition| (entry.job.app, definition.class)))
            .collect();
        for (app, entry) in &mut self.apps {
            entry.classes.retain(|id, class| !class.ready.is_empty() || used.contains(&(*app, *id)));
        }
        for session in self.sessions.values_mut() {
            session.eligible.retain(|class, _| used.contains(&(session.app, *class)));
        }
    }
}
