//! Which changes of a batch are written by one statement.
//!
//! Many rows in one statement cost a fraction of what they cost one by one. But a statement sees the rows as they were
//! before it, and can touch each only once; and what a change expects may be what an earlier one of the same batch left.
//! So each change goes to a group of its kind that comes after all groups that it depends on: those with a change that
//! writes what it reads or writes, or reads what it writes. Within a group the order does not matter, and between groups it
//! is kept where it does.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};

use pendula_model::change::{Change, Gap};
use pendula_model::instance::{Instance, PastAttempt, Payload};
use pendula_model::job::{Job, ScheduleState};
use pendula_model::task::{Fanout, Task};
use pendula_model::{JobId, Timestamp};

use super::values::stored_task;

/// Rows of one statement at most; more of them make it no faster, only larger.
const ROWS: usize = 5_000;

/// Bytes of payloads in one statement, about: the database holds them several times while it runs.
const BYTES: usize = 4 << 20;

/// One row to be written, of which many of the same kind go into one statement.
#[derive(Clone, Copy, Debug)]
pub(super) enum Row<'b> {
    Schedule(Advance<'b>),
    Gap(JobId, &'b Gap),
    NewJob(&'b Job),
    /// Under way.
    NewInstance(&'b Instance),
    /// Ended as it is made.
    NewEnded(&'b Instance, Timestamp),
    Instance(Moved<'b, Instance>),
    Ended(&'b Instance, Timestamp),
    Attempt(&'b PastAttempt),
    NewFanout(&'b Fanout),
    Fanout(Moved<'b, Fanout>),
    NewTask(&'b Task),
    Task(&'b Task),
    /// Of a kind that comes seldom: by itself, after all before it and before all after it.
    Alone(&'b Change),
}

/// A schedule that moves on from what is expected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Advance<'b> {
    pub job: JobId,
    pub expected_next: Option<Timestamp>,
    pub schedule: &'b ScheduleState,
}

/// A row that moves on from the version that is expected.
#[derive(Debug)]
pub(super) struct Moved<'b, T> {
    pub from: i64,
    pub to: &'b T,
}

impl<T> Clone for Moved<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Moved<'_, T> {}

/// What changes read and write, beyond what the database's own constraints look after: that a name, a fire or a key is
/// taken is found out whatever the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Thing {
    /// A job's row.
    Job(i64),
    /// That a job and its definition are there.
    Definition(i64),
    /// A job's gaps, which are numbered one after the other.
    Gaps(i64),
    /// Whether an instance is there and under way.
    Life(i64),
    /// An instance's row.
    Instance(i64),
    /// That an instance became tasks.
    Spread(i64),
    /// How far an instance's tasks are.
    Counts(i64),
    Task(i64, i64),
}

/// Groups are counted from 1 here, so that 0 is before all.
#[derive(Clone, Copy, Default)]
struct Use {
    /// The last group that wrote it, and at which place in it.
    written: usize,
    place: usize,
    /// The last group that wrote or read it.
    touched: usize,
}

struct Group<'b> {
    rows: Vec<Row<'b>>,
    bytes: usize,
}

#[derive(Default)]
struct Arrangement<'b> {
    groups: Vec<Group<'b>>,
    uses: HashMap<Thing, Use>,
    /// The last group of each kind.
    latest: HashMap<Discriminant<Row<'b>>, usize>,
    /// What comes now depends on all groups up to this one.
    floor: usize,
}

/// The groups of `changes`, each with rows of one kind, to be written in order. When they are not `merged`, each change is
/// a group of its own.
pub(super) fn arrange(changes: &[Change], merged: bool) -> Vec<Vec<Row<'_>>> {
    let mut arrangement = Arrangement::default();
    for change in changes {
        if !merged {
            arrangement.floor = arrangement.groups.len();
        }
        arrangement.add(change);
    }
    arrangement.groups.into_iter().map(|group| group.rows).collect()
}

impl<'b> Arrangement<'b> {
    fn add(&mut self, change: &'b Change) {
        use Thing::*;
        match change {
            Change::ScheduleAdvanced { job, expected_next, schedule } => {
                let row = Advance { job: *job, expected_next: *expected_next, schedule };
                self.step(Row::Schedule(row), 0, &[], Job(job.0));
            }
            Change::GapRecorded { job, gap } => {
                self.put(Row::Gap(*job, gap), 0, &[Definition(job.0)], &[Gaps(job.0)]);
            }
            Change::JobInserted(job) => {
                self.put(Row::NewJob(job), 0, &[], &[Job(job.id.0), Definition(job.id.0)]);
            }
            Change::InstanceInserted { instance, prune_at } => {
                let row = match prune_at {
                    None => Row::NewInstance(instance),
                    Some(prune_at) => Row::NewEnded(instance, *prune_at),
                };
                self.put(row, bytes(instance), &[Definition(instance.job.0)], &[Life(instance.id.0)]);
            }
            Change::InstanceUpdated(instance) => {
                let row = Moved { from: i64::from(instance.version) - 1, to: &**instance };
                self.step(Row::Instance(row), bytes(instance), &[Life(instance.id.0)], Instance(instance.id.0));
            }
            Change::InstanceEnded { instance, prune_at } => {
                self.put(Row::Ended(instance, *prune_at), bytes(instance), &[], &[Life(instance.id.0)]);
            }
            Change::AttemptEnded(past) => self.put(Row::Attempt(past), 0, &[Life(past.instance.0)], &[]),
            Change::FanoutInserted(fanout) => {
                let id = fanout.instance.0;
                self.put(Row::NewFanout(fanout), 0, &[Life(id)], &[Spread(id), Counts(id)]);
            }
            Change::FanoutUpdated(fanout) => {
                let id = fanout.instance.0;
                let row = Moved { from: i64::from(fanout.version) - 1, to: fanout };
                self.step(Row::Fanout(row), 0, &[Spread(id)], Counts(id));
            }
            Change::TasksInserted(tasks) => {
                for task in tasks {
                    let id = task.instance.0;
                    let writes = [Task(id, stored_task(task.id))];
                    self.put(Row::NewTask(task), task.bytes(), &[Life(id), Spread(id)], &writes);
                }
            }
            Change::TaskUpdated(task) => {
                let writes = [Task(task.instance.0, stored_task(task.id))];
                self.put(Row::Task(task), task.bytes(), &[], &writes);
            }
            Change::AppInserted(_)
            | Change::AppUpdated(_)
            | Change::AppDeleted(_)
            | Change::JobUpdated(_)
            | Change::JobDeleted { .. }
            | Change::InstanceQuarantined { .. }
            | Change::TasksCopied { .. } => {
                self.groups.push(Group { rows: vec![Row::Alone(change)], bytes: 0 });
                self.floor = self.groups.len();
            }
        }
    }

    /// The last group that a change with these reads and writes depends on.
    fn dependency(&self, reads: &[Thing], writes: &[Thing]) -> usize {
        let found = |thing| self.uses.get(thing).copied().unwrap_or_default();
        let read = reads.iter().map(|thing| found(thing).written).max().unwrap_or(0);
        let written = writes.iter().map(|thing| found(thing).touched).max().unwrap_or(0);
        self.floor.max(read).max(written)
    }

    fn put(&mut self, row: Row<'b>, bytes: usize, reads: &[Thing], writes: &[Thing]) {
        let after = self.dependency(reads, writes);
        let latest = self.latest.entry(discriminant(&row)).or_default();
        let has_room = |group: &Group<'b>| group.rows.len() < ROWS && group.bytes + bytes <= BYTES;
        if *latest <= after || !has_room(&self.groups[*latest - 1]) {
            self.groups.push(Group { rows: Vec::new(), bytes: 0 });
            *latest = self.groups.len();
        }
        let number = *latest;
        let group = &mut self.groups[number - 1];
        group.bytes += bytes;
        group.rows.push(row);
        let place = group.rows.len() - 1;
        for thing in reads {
            let used = self.uses.entry(*thing).or_default();
            used.touched = used.touched.max(number);
        }
        for thing in writes {
            self.uses.insert(*thing, Use { written: number, place, touched: number });
        }
    }

    /// Like [`Arrangement::put`] for a step of a row from one version to the next: when the step before it is the last that
    /// anybody had to do with the row, both become one.
    fn step(&mut self, row: Row<'b>, bytes: usize, reads: &[Thing], writes: Thing) {
        let used = self.uses.get(&writes).copied().unwrap_or_default();
        let after = self.dependency(reads, &[writes]);
        if used.written > self.floor && used.written == after {
            let before = &mut self.groups[after - 1].rows[used.place];
            if let Some(both) = joined(before, &row) {
                *before = both;
                return;
            }
        }
        self.put(row, bytes, reads, &[writes]);
    }
}

/// Two steps of one row as one, when they fit together and no guard lies between them that only the first must pass.
fn joined<'b>(first: &Row<'b>, second: &Row<'b>) -> Option<Row<'b>> {
    match (first, second) {
        (Row::Instance(first), Row::Instance(second)) if i64::from(first.to.version) == second.from => {
            Some(Row::Instance(Moved { from: first.from, to: second.to }))
        }
        (Row::Fanout(first), Row::Fanout(second)) if i64::from(first.to.version) == second.from => {
            Some(Row::Fanout(Moved { from: first.from, to: second.to }))
        }
        (Row::Schedule(first), Row::Schedule(second))
            if first.schedule.next_fire == second.expected_next
                // Only an enabled job fires next.
                && (second.schedule.next_fire.is_some() || first.schedule.next_fire.is_none()) =>
        {
            Some(Row::Schedule(Advance { expected_next: first.expected_next, ..*second }))
        }
        _ => None,
    }
}

/// About what an instance weighs beyond its numbers.
fn bytes(instance: &Instance) -> usize {
    let text = |text: &Option<std::sync::Arc<str>>| text.as_ref().map_or(0, |text| text.len());
    let result = |result: &Payload| result.bytes.len();
    text(&instance.params)
        + text(&instance.placement)
        + text(&instance.message)
        + instance.result.as_ref().map_or(0, result)
}

#[cfg(test)]
mod tests;
