//! What others were told: it must be on disk by then, and stay true.

use pendula_engine::{Command, Dispatch, Effect, Reply};
use pendula_model::instance::InstanceState;
use pendula_model::worker::WorkerRef;
use pendula_model::{AttemptKey, InstanceId};

use super::Audit;
use crate::telling;

impl Audit {
    /// A session is welcomed before anything else is said on it.
    pub(crate) fn speaks(&mut self, effect: &Effect) {
        let session = match effect {
            Effect::Welcome { session, .. } => {
                self.welcomed.insert(*session);
                return;
            }
            Effect::Dispatch(dispatch) => dispatch.session,
            Effect::Stop { session, .. }
            | Effect::Ack { session, .. }
            | Effect::Mapped { session, .. }
            | Effect::Drain { session } => *session,
            _ => return,
        };
        if !self.welcomed.contains(&session) {
            self.breaks("welcome_comes_first", || format!("{} before its welcome", telling::effect(effect)));
        }
    }

    /// A dispatch leaves for `worker`.
    pub(crate) fn dispatched(&mut self, dispatch: &Dispatch, worker: &WorkerRef) {
        let (key, attempt) = (dispatch.key().key(), dispatch.attempt);
        let record = self.attempts.get(&key);
        let is_committed = record.is_some_and(|record| record.placed.iter().any(|p| p.0 == attempt && p.1 == *worker));
        if !is_committed {
            self.breaks("no_dispatch_before_commit", || {
                format!("attempt {attempt} of {key} left for {worker}, which the store does not know")
            });
        }
        self.check_given(dispatch);
    }

    /// A worker is told how many sub-tasks of a task are on disk.
    pub(crate) fn mapped(&mut self, attempt: AttemptKey, reply: &Result<u64, String>) {
        let key = attempt.key();
        let stored = self.emitted(key).unwrap_or_default();
        if let Ok(told) = reply
            && *told > stored
        {
            self.breaks("acknowledged_work_never_lost", || {
                format!("{told} sub-tasks of {key} were acknowledged, and {stored} are stored")
            });
        }
    }

    /// A request reaches an owner.
    pub(crate) fn asked(&mut self, command: &Command) {
        if let Command::TasksRetry { instance, tasks } = command {
            self.retries_asked.entry(*instance).or_default().push(tasks.clone());
        }
    }

    /// A worker is told that the end of an attempt is on disk.
    pub(crate) fn end_acknowledged(&mut self, attempt: AttemptKey) {
        let (key, number) = (attempt.key(), attempt.attempt);
        let Some(record) = self.attempts.get(&key) else { return };
        if record.newest == number
            && let Some(worker) = record.with.clone()
        {
            self.breaks("acknowledged_work_never_lost", || {
                format!("the end of attempt {number} of {key} was acknowledged, and it is stored as with {worker}")
            });
        }
    }

    /// A worker gives up, or forgets, an attempt because it was told to: then that is not its own any more.
    pub(crate) fn given_up(&mut self, attempt: AttemptKey, worker: &WorkerRef) {
        let (key, number) = (attempt.key(), attempt.attempt);
        let Some(record) = self.attempts.get(&key) else { return };
        if record.newest == number && record.with.as_ref() == Some(worker) {
            self.breaks("current_attempts_are_kept", || {
                format!("{worker} was told to give up attempt {number} of {key}, which is its own")
            });
        }
    }

    /// A user is answered.
    pub(crate) fn replied(&mut self, command: &Command, reply: &Reply) {
        match reply {
            Reply::Instance { id, .. } => {
                self.acknowledged.insert(*id);
                if let Command::JobRun(run) = command
                    && let Some(key) = &run.idempotency_key
                    && self.keys.get(&(run.app, key.clone())).is_some_and(|known| known != id)
                {
                    self.breaks("idempotency_key_one_instance", || format!("key {key} was answered with {id}"));
                }
                if !self.instances.contains_key(id) {
                    self.breaks("acknowledged_work_never_lost", || {
                        format!("instance {id} was acknowledged and is not stored")
                    });
                }
            }
            Reply::Job { job, .. } => {
                let record = self.jobs.get_mut(&job.id);
                let stored = record.as_ref().map(|record| record.job.version);
                if let Some(record) = record
                    && !job.spec.enabled
                {
                    record.disabled_ack = Some((job.version, job.updated_at));
                }
                if stored.is_none_or(|stored| stored < job.version) {
                    self.breaks("acknowledged_work_never_lost", || {
                        format!("version {} of job {} was acknowledged; stored is {stored:?}", job.version, job.id)
                    });
                }
            }
            Reply::Done => self.done(command),
            Reply::Retried(count) => {
                let Command::TasksRetry { instance, .. } = command else { return };
                let retried = self.spread(*instance).map_or(0, |spread| spread.retried.values().sum::<u32>());
                if *count > retried as usize {
                    self.breaks("acknowledged_work_never_lost", || {
                        format!("{count} tasks of {instance} were to be tried again, {retried} are stored")
                    });
                }
            }
            Reply::App(_) | Reply::Workers(_) | Reply::Explanation(_) | Reply::Refused(_) => {}
        }
    }

    fn done(&mut self, command: &Command) {
        match command {
            Command::InstanceStop { instance } | Command::InstanceCancel { instance } => {
                let state = self.instances.get(instance).map(|record| record.state);
                let granted = state.is_some_and(|state| state.is_ended() || state == InstanceState::Stopping);
                if !granted {
                    self.breaks("acknowledged_work_never_lost", || {
                        format!("the stop of {instance} was acknowledged, and it is stored as {state:?}")
                    });
                }
            }
            Command::JobDelete { app, name } => {
                let of_name = |record: &&super::JobRecord| record.job.app == *app && record.job.spec.name == *name;
                // The name may be another's by now.
                let first = self.jobs.values().filter(of_name).find(|record| record.deleted.is_some());
                if first.is_none() {
                    self.breaks("acknowledged_work_never_lost", || {
                        format!("the end of job {name} was acknowledged, and none of that name has gone")
                    });
                }
            }
            _ => {}
        }
    }

    /// At the end everything that anybody was told of is stored and has ended.
    pub(crate) fn check_acknowledged(&mut self, is_stored: impl Fn(InstanceId) -> bool) {
        let lost = self.acknowledged.iter().find(|id| {
            let ended = self.instances.get(id).is_some_and(|record| record.state.is_ended());
            !ended || !is_stored(**id)
        });
        if let Some(lost) = lost.copied() {
            self.breaks("acknowledged_work_never_lost", || format!("instance {lost} was acknowledged and is gone"));
        }
    }
}
