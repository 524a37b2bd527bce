//! What an owner reads for its engine: definitions, schedules, tasks. The store may be away meanwhile.

use pendula_engine::{Fact, Input, Need};
use pendula_model::job::Job;
use pendula_model::{InstanceId, TaskId, Timestamp};

use crate::breakage::Breakage;
use crate::world::{Event, MILLI, World};

/// Schedules read at once: few, so that reading takes several steps.
const PAGE: usize = 4;
/// A page of schedules that is being read.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) until: Timestamp,
    pub(crate) jobs: Vec<Job>,
}

impl World {
    /// Whether the server of an owner cannot reach the store.
    fn cannot_read(&self, owner: u32) -> bool {
        self.owners.get(&owner).is_some_and(|owner| self.has_no_store(owner.life.server))
    }

    pub(crate) fn read(&mut self, number: u32, needs: Vec<Need>) {
        if self.cannot_read(number) {
            self.after(250 * MILLI, Event::Read(number, needs));
            return;
        }
        let facts = needs.into_iter().map(|need| match &need {
            Need::JobById(id) => Fact::Job { job: self.store.memory.job_by_id_sync(*id), need },
            Need::JobByName(app, name) => Fact::Job { job: self.store.memory.job_by_name_sync(*app, name), need },
            Need::Idempotency(app, key) => {
                let instance = self.store.memory.instance_by_idempotency_key_sync(*app, key);
                Fact::Idempotency { instance, need }
            }
            Need::Fanout(id) => {
                let fanout = self.store.memory.fanout_sync(*id).zip(self.store.memory.instance_sync(*id));
                Fact::Fanout { fanout: fanout.map(|(fanout, row)| (fanout, row.state.is_ended())), need }
            }
            Need::UnsuccessfulTasks { instance, tasks, .. } => {
                let rows = self.store.unsuccessful(*instance, tasks);
                Fact::Tasks { tasks: rows, need }
            }
        });
        let input = Input::Loaded(facts.collect());
        let takes = self.store_takes();
        self.after(takes, Event::Answer(number, Box::new(input)));
    }

    pub(crate) fn read_schedules(&mut self, number: u32, mut reading: Reading) {
        if self.cannot_read(number) {
            self.after(250 * MILLI, Event::ReadSchedules(number, reading));
            return;
        }
        let after = reading.jobs.last().and_then(|job| Some((job.schedule.next_fire?, job.id)));
        let Some(partition) = self.owners.get(&number).map(|owner| owner.partition) else { return };
        let mut page = self.store.jobs_due(partition, reading.until, after, PAGE);
        let is_last = page.len() < PAGE;
        if self.breakage == Some(Breakage::SchedulesUnread) && self.dice.chance(300) {
            page.pop();
        }
        reading.jobs.extend(page);
        let takes = self.store_takes();
        let next = if is_last {
            Event::Answer(number, Box::new(Input::SchedulesLoaded { until: reading.until, jobs: reading.jobs }))
        } else {
            Event::ReadSchedules(number, reading)
        };
        self.after(takes, next);
    }

    /// A page of waiting tasks.
    pub(crate) fn read_tasks(&mut self, number: u32, instance: InstanceId, from: TaskId, limit: usize) {
        if self.cannot_read(number) {
            self.after(250 * MILLI, Event::ReadTasks(number, instance, from, limit));
            return;
        }
        let mut tasks = self.store.tasks_waiting(instance, from, limit);
        self.audit.counts.pages += 1;
        let next = tasks.last().map_or(from, |last| last.id.next());
        let mut complete = self.store.tasks_waiting(instance, next, 1).is_empty();
        match self.breakage {
            Some(Breakage::TasksUnread) => drop(tasks.pop()),
            Some(Breakage::PagesEndEarly) => complete = true,
            _ => {}
        }
        let takes = self.store_takes();
        let input = Input::TasksLoaded { instance, from, tasks, complete };
        self.after(takes, Event::Answer(number, Box::new(input)));
    }
}
