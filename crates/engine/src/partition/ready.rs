//! Who is next among what waits for the same workers: priority with aging, and fair shares between jobs.
//!
//! Jobs take turns by weight (start-time fair queueing): each has a tag that grows by `1 / weight` with every placement,
//! and the smallest tag goes first, so that a job with a million tasks and one with a single instance that has just fired
//! both get their share. Above that stands the level: the priority of the job's first item, plus one for each
//! [`AGING`] that nothing of the job was placed though it waited. A higher level goes first, whatever the tags; and since
//! the levels of those who wait grow, nobody waits for ever.
//!
//! Within a job what is due first goes first; a point of priority is worth [`AGING`] there too.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use pendula_model::{InstanceId, JobId, Timestamp};

/// A point of priority outweighs so much waiting.
pub(super) const AGING: Duration = Duration::from_secs(60);
/// Levels that waiting brings at most: the widest difference of priorities.
const MOST_AGED: u64 = 200;
/// What one placement costs a job of weight 1; a multiple of all small weights, so that they divide it well.
const STRIDE: u64 = 720_720;

/// Place in line: smaller is earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    level: Reverse<i64>,
    tag: u64,
    first: Key,
    pub(super) job: JobId,
}

impl Rank {
    pub fn instance(&self) -> InstanceId {
        self.first.instance
    }
}

/// What waits: an instance, once for all of its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub job: JobId,
    pub instance: InstanceId,
    pub priority: i8,
    pub due_at: Timestamp,
}

/// The place of an item within its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// The due time, moved by what the priority is worth.
    virtual_due: Timestamp,
    instance: InstanceId,
    priority: i8,
    due_at: Timestamp,
}

impl Item {
    fn key(&self) -> Key {
        let worth = AGING * u32::from(self.priority.unsigned_abs());
        let virtual_due = if self.priority >= 0 { self.due_at.minus(worth) } else { self.due_at.plus(worth) };
        Key { virtual_due, instance: self.instance, priority: self.priority, due_at: self.due_at }
    }
}

/// The latest tag that was served; shared by all queues that compete for the same workers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FairClock(u64);

struct JobQueue {
    items: BTreeSet<Key>,
    tag: u64,
    /// When something of the job was placed last, if it was since the queue exists.
    served: Option<Timestamp>,
    rank: Rank,
    /// When its level grows.
    grows_at: Option<Timestamp>,
}

/// See the [module](self).
#[derive(Default)]
pub(super) struct ReadyQueue {
    jobs: HashMap<JobId, JobQueue>,
    order: BTreeSet<Rank>,
    /// When levels grow.
    growing: BTreeSet<(Timestamp, JobId)>,
    items: usize,
}

impl ReadyQueue {
    pub fn len(&self) -> usize {
        self.items
    }

    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Lets an item wait. Again is the same as once.
    pub fn insert(&mut self, now: Timestamp, clock: FairClock, item: Item) {
        let key = item.key();
        let queue = self.jobs.entry(item.job).or_insert_with(|| {
            let rank = Rank { level: Reverse(0), tag: clock.0, first: key, job: item.job };
            JobQueue { items: BTreeSet::new(), tag: clock.0, served: None, rank, grows_at: None }
        });
        self.items += usize::from(queue.items.insert(key));
        self.rerank(now, item.job);
    }

    /// Takes an item out, if it is there.
    pub fn remove(&mut self, now: Timestamp, item: Item) {
        let Some(queue) = self.jobs.get_mut(&item.job) else { return };
        if queue.items.remove(&item.key()) {
            self.items -= 1;
            self.rerank(now, item.job);
        }
    }

    /// Who is next.
    pub fn first(&mut self, now: Timestamp) -> Option<Rank> {
        while let Some((at, job)) = self.growing.first().copied()
            && at <= now
        {
            self.rerank(now, job);
        }
        self.order.first().copied()
    }

    /// Something of a job was placed: the others are next. Who was kept back for a while gets no more than its share for
    /// that.
    pub fn served(&mut self, now: Timestamp, clock: &mut FairClock, job: JobId, weight: u32) {
        let Some(queue) = self.jobs.get_mut(&job) else { return };
        clock.0 = clock.0.max(queue.tag);
        queue.tag = clock.0 + STRIDE / u64::from(weight.max(1));
        queue.served = Some(now);
        self.rerank(now, job);
    }

    /// How many instances wait altogether, and how many of the same job go before this one, counted up to `most`.
    pub fn ahead(&self, item: Item, most: usize) -> usize {
        self.jobs.get(&item.job).map_or(0, |queue| queue.items.range(..item.key()).take(most).count())
    }

    fn rerank(&mut self, now: Timestamp, job: JobId) {
        let Some(queue) = self.jobs.get_mut(&job) else { return };
        let old = (queue.rank, queue.grows_at);
        let Some(first) = queue.items.first().copied() else {
            self.order.remove(&old.0);
            old.1.map(|at| self.growing.remove(&(at, job)));
            self.jobs.remove(&job);
            return;
        };
        let (level, grows_at) = level(now, &first, queue.served);
        queue.rank = Rank { level: Reverse(level), tag: queue.tag, first, job };
        queue.grows_at = grows_at;
        if queue.rank != old.0 {
            self.order.remove(&old.0);
        }
        // A new job stands nowhere yet.
        self.order.insert(queue.rank);
        if grows_at != old.1 {
            old.1.map(|at| self.growing.remove(&(at, job)));
            grows_at.map(|at| self.growing.insert((at, job)));
        }
    }
}

/// Priority and what was waited since the job had its turn; and when it will be one more.
fn level(now: Timestamp, first: &Key, served: Option<Timestamp>) -> (i64, Option<Timestamp>) {
    let since = served.map_or(first.due_at, |served| served.max(first.due_at));
    let aged = (now.since(since).as_micros() / AGING.as_micros()).min(u128::from(MOST_AGED)) as u32;
    let grows_at = (u64::from(aged) < MOST_AGED).then(|| since.plus(AGING * (aged + 1)));
    (i64::from(first.priority) + i64::from(aged), grows_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn item(job: i64, instance: i64, priority: i8, due: i64) -> Item {
        Item { job: JobId(job), instance: InstanceId(instance), priority, due_at: at(due) }
    }

    /// Serves `turns` placements of jobs that never run out, and counts them.
    fn serve(queue: &mut ReadyQueue, clock: &mut FairClock, weights: &[u32], turns: usize, now: i64) -> Vec<usize> {
        let mut counts = vec![0; weights.len()];
        for _ in 0..turns {
            let job = queue.first(at(now)).expect("they never run out").job;
            let index = job.0 as usize;
            counts[index] += 1;
            queue.served(at(now), clock, job, weights[index]);
        }
        counts
    }

    #[test]
    fn jobs_share_by_weight_whatever_they_bring() {
        let (mut queue, mut clock) = (ReadyQueue::default(), FairClock::default());
        for job in 0..3 {
            queue.insert(at(0), clock, item(job, job + 1, 0, 0));
        }
        assert_eq!(serve(&mut queue, &mut clock, &[1, 2, 5], 800, 0), [100, 200, 500]);
    }

    #[test]
    fn a_new_job_is_next_and_not_more_than_that() {
        let (mut queue, mut clock) = (ReadyQueue::default(), FairClock::default());
        queue.insert(at(0), clock, item(0, 1, 0, 0));
        serve(&mut queue, &mut clock, &[1], 1_000_000, 1);
        queue.insert(at(2), clock, item(1, 2, 0, 2));
        assert_eq!(queue.first(at(2)).unwrap().instance(), InstanceId(2));
        // It has no claim on what was served before it came.
        assert_eq!(serve(&mut queue, &mut clock, &[1, 1], 100, 2), [50, 50]);
    }

    #[test]
    fn priority_goes_first_and_waiting_overtakes_it_in_the_end() {
        let (mut queue, mut clock) = (ReadyQueue::default(), FairClock::default());
        queue.insert(at(0), clock, item(0, 1, 0, 0));
        queue.insert(at(0), clock, item(1, 2, 5, 0));
        let mut served_low = None;
        for second in 0..600 {
            let job = queue.first(at(second)).unwrap().job;
            queue.served(at(second), &mut clock, job, 1);
            if job == JobId(0) {
                served_low = Some(second);
                break;
            }
        }
        // Five points are worth five minutes.
        assert!((300..=360).contains(&served_low.unwrap()), "{served_low:?}");
    }

    #[test]
    fn a_job_that_is_served_all_the_time_does_not_age() {
        let (mut queue, mut clock) = (ReadyQueue::default(), FairClock::default());
        queue.insert(at(0), clock, item(0, 1, 0, 0));
        for second in 0..3600 {
            queue.first(at(second));
            queue.served(at(second), &mut clock, JobId(0), 1);
        }
        queue.insert(at(3600), clock, item(1, 2, 0, 3600));
        assert_eq!(queue.first(at(3600)).unwrap().job, JobId(1));
    }

    #[test]
    fn within_a_job_what_is_due_first_goes_first_and_priority_counts_as_waiting() {
        let (mut queue, clock) = (ReadyQueue::default(), FairClock::default());
        let items = [item(0, 1, 0, 100), item(0, 2, 0, 50), item(0, 3, 1, 105), item(0, 4, -1, 0)];
        items.iter().for_each(|item| queue.insert(at(200), clock, *item));
        queue.insert(at(200), clock, items[0]);
        let mut order = Vec::new();
        while let Some(rank) = queue.first(at(200)) {
            let item = items.iter().find(|item| item.instance == rank.instance()).unwrap();
            assert_eq!(queue.ahead(*item, 10), 0);
            order.push(item.instance.0);
            queue.remove(at(200), *item);
        }
        assert_eq!(order, [3, 2, 4, 1]);
        assert!(queue.is_empty());
    }
}
