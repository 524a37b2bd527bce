//! The end of a history: everything is repaired, and then all that is under way must come to its end.

use pendula_engine::input::RunRequest;
use pendula_engine::{Command, Effect, Input, Output, Partition, Reply, ReplyTo};
use pendula_model::{Epoch, InstanceId, PartitionId};

use crate::server::TTL;
use crate::telling;
use crate::trace::trace;
use crate::world::{Event, MILLI, SECOND, World};

/// The longest that anything may take once nothing goes wrong any more: the longest wait, run, grace and back-off of
/// [`crate::jobs`], some of them in a row.
const LONGEST: u64 = 900 * SECOND;
/// A number that no user's request has.
const NOBODY: ReplyTo = ReplyTo(u64::MAX);

impl World {
    pub(crate) fn conclude(&mut self) {
        self.steps_lived = self.steps;
        self.heal();
        let owned = self.now + 2 * TTL.as_micros() as u64;
        if !self.run_until(owned, |_| false) {
            return;
        }
        self.check_owners();
        let epochs = self.epochs();
        let grace = self.now + 5 * SECOND;
        if !self.run_until(grace, |_| false) {
            return;
        }
        self.check_triggers();
        for partition in self.partitions() {
            self.compare_memory(partition);
        }
        self.close_down();
        if !self.settle("what is under way comes to its end", |world| {
            let is_over = |partition| world.store.load(partition).instances.is_empty();
            world.users.unanswered == 0 && world.is_idle() && world.partitions().all(is_over)
        }) {
            return;
        }
        self.check_rows();
        for partition in self.partitions() {
            self.check_memory(partition);
        }
        self.check_owners();
        if self.epochs() != epochs {
            let now = self.epochs();
            self.audit.breaks("one_owner_in_the_end", || format!("epochs went from {epochs:?} to {now:?}"));
        }
    }

    fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.profile.partitions).map(PartitionId)
    }

    fn epochs(&self) -> Vec<Epoch> {
        self.partitions().map(|partition| self.audit.newest_epoch(partition)).collect()
    }

    /// The owner of a partition, by the newest epoch.
    fn owner_of(&self, partition: PartitionId) -> Option<u32> {
        let newest = self.audit.newest_epoch(partition);
        let mut owners = self.owners.iter().filter(|(_, o)| o.partition == partition && o.epoch == newest);
        owners.next().map(|(number, _)| *number).filter(|number| {
            let life = self.owners[number].life;
            self.serving(life.server, partition) == Some(*number)
        })
    }

    /// Each partition is served by one server and no other, and partitions are shared out evenly.
    fn check_owners(&mut self) {
        for partition in self.partitions() {
            let all: Vec<(usize, Epoch)> = self
                .owners
                .values()
                .filter(|owner| owner.partition == partition)
                .map(|owner| (owner.life.server, owner.epoch))
                .collect();
            if all.len() != 1 || self.owner_of(partition).is_none() {
                let newest = self.audit.newest_epoch(partition);
                self.audit.breaks("one_owner_in_the_end", || format!("{partition} at {newest:?} is owned by {all:?}"));
            }
        }
        let shares = (0..self.servers.len())
            .map(|server| self.owners.values().filter(|owner| owner.life.server == server).count());
        let shares: Vec<usize> = shares.collect();
        if shares.iter().max() > shares.iter().min().map(|fewest| fewest + 1).as_ref() {
            self.audit.breaks("one_owner_in_the_end", || format!("servers have {shares:?} partitions"));
        }
    }

    /// Nothing goes wrong from here on, and what was broken is whole again.
    fn heal(&mut self) {
        trace!(self, "everything is repaired");
        self.healed = true;
        self.lose_answer = false;
        self.doubt_answer = false;
        self.ambushes.clear();
        self.store.goes_away(0);
        self.set_clocks_right();
        for server in 0..self.servers.len() {
            let known = &mut self.servers[server];
            known.misfortune = None;
            known.deaf = false;
            (known.no_store_until, known.no_workers_until, known.no_peers_until, known.slow_until) = (0, 0, 0, 0);
            self.after(0, Event::Boot(server));
        }
        self.wake_all();
        // A worker that stands still goes on by itself, with all that came meanwhile in its order.
        for number in 0..self.workers.len() {
            self.after(0, Event::StartWorker(number));
        }
    }

    /// Nobody asks for new work any more: the jobs go.
    fn close_down(&mut self) {
        let jobs = self.audit.jobs.values().filter(|record| record.deleted.is_none());
        let jobs: Vec<_> = jobs.map(|record| (record.job.app, record.job.spec.name.clone())).collect();
        for (app, name) in jobs {
            // One that a key stands for is answered as before, whatever became of its job.
            if self.dice.chance(100) {
                let run = RunRequest {
                    app,
                    job: name.clone(),
                    params: None,
                    due_at: None,
                    idempotency_key: Some("last".into()),
                    rerun_of: None,
                    only_unsuccessful: false,
                    priority: None,
                };
                self.ask(Command::JobRun(Box::new(run)));
            }
            self.ask(Command::JobEnable { app, name, enabled: false });
        }
    }

    fn settle(&mut self, what: &str, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now + LONGEST;
        while self.now < end {
            // Not in step with what fires each second.
            let next = self.now + 733 * MILLI;
            if !self.run_until(next, |_| false) {
                return false;
            }
            if done(self) {
                return true;
            }
        }
        let left = self.partitions().flat_map(|partition| self.store.load(partition).instances);
        let left: Vec<_> = left.map(|row| telling::instance(&row)).collect();
        let (wall, unanswered, idle) = (self.wall(), self.users.unanswered, self.is_idle());
        self.audit.breaks("nothing_stuck", || {
            format!("{what}: not until {wall}; active {left:?}, unanswered {unanswered}, idle {idle}")
        });
        false
    }

    /// Whether owners have nothing in hand.
    fn is_idle(&self) -> bool {
        let mut owners = self.partitions().map(|partition| self.owner_of(partition));
        owners.all(|owner| owner.is_some_and(|owner| self.owners[&owner].is_quiet()))
    }

    fn check_triggers(&mut self) {
        if !self.settle("owners find a moment of rest", World::is_idle) {
            return;
        }
        for (partition, now) in self.owners.values().map(|owner| (owner.partition, owner.now())) {
            self.audit.check_due(partition, now);
        }
    }

    /// The engine's memory is what the store has, and what another engine would make of it.
    fn compare_memory(&mut self, partition: PartitionId) {
        let stored = self.store.load(partition);
        let wall = self.wall();
        let owner = self.owner_of(partition).and_then(|owner| self.owners.get_mut(&owner));
        let Some(owner) = owner.filter(|owner| owner.is_quiet()) else { return };
        let gauges = owner.engine.gauges();
        let placed = stored.instances.iter().filter(|row| row.state.is_placed()).count();
        let waiting = stored.instances.len() - placed;
        let tasks = stored.tasks.iter().filter(|task| task.state.is_placed()).count();
        let mut fault = None;
        if (gauges.waiting, gauges.placed, gauges.tasks_placed) != (waiting, placed, tasks) {
            fault = Some(format!("{gauges:?}; in the store {waiting} wait, {placed} are placed with {tasks} tasks"));
        }
        let instances = stored
            .instances
            .iter()
            .map(|row| (row.id, None, format!("\"state\":\"{}\"", row.state), format!("\"attempt\":{}", row.attempt)));
        let tasks = stored.tasks.iter().map(|row| {
            let (state, attempt) = (row.state, row.attempt);
            let parts = (format!("\"task_state\":\"{state}\""), format!("\"task_attempt\":{attempt}"));
            (row.instance, Some(row.id), parts.0, parts.1)
        });
        for (instance, task, state, attempt) in instances.chain(tasks) {
            let mut asked = Output::default();
            let command = Command::InstanceExplain { instance, task };
            let now = owner.now();
            owner.engine.handle(now, Input::Command { command, reply_to: NOBODY }, &mut asked);
            let told = asked.effects.iter().find_map(|effect| match effect {
                Effect::Reply { to: NOBODY, reply: Reply::Explanation(text) } => Some(text.clone()),
                _ => None,
            });
            let agrees = told.as_ref().is_some_and(|text| text.contains(&state) && text.contains(&attempt));
            if !agrees {
                fault = Some(format!("stored is {instance} {task:?} {state} {attempt}, told is {told:?}"));
            }
            // Time may have brought more than an answer.
            owner.open.changes.append(&mut asked.changes);
            owner.open.effects.append(&mut asked.effects);
            if !owner.open.changes.is_empty() {
                break;
            }
        }
        let mut out = Output::default();
        let count = stored.instances.len();
        let other = Partition::restore(wall, 1, self.settings.clone(), stored, &mut out).gauges();
        let decided: i64 = out.changes.iter().map(inserted_less_ended).sum();
        if other.waiting + other.placed != (count as i64 + decided) as usize {
            fault = fault.or(Some(format!("{count} stored instances, {decided} more or less, became {other:?}")));
        }
        if let Some(fault) = fault {
            self.audit.breaks("memory_matches_store", || fault);
        }
    }

    /// The rows are what was committed; all that anybody was told of is there.
    fn check_rows(&mut self) {
        let mut stored: Vec<InstanceId> = Vec::new();
        let audit = &mut self.audit;
        self.store.memory.for_each_instance(|row| {
            stored.push(row.id);
            audit.compare_ended(row);
        });
        let mut tasks = 0;
        self.store.memory.for_each_task(|task| {
            tasks += 1;
            self.audit.compare_task(task);
        });
        self.audit.compare_count(tasks);
        let committed = self.audit.instances.len();
        if committed != stored.len() {
            self.audit.breaks("memory_matches_store", || format!("{committed} committed, {} stored", stored.len()));
        }
        self.audit.check_acknowledged(|id| stored.binary_search(&id).is_ok());
    }

    /// When nothing is under way and nothing will fire, the engine remembers nothing but its sessions.
    fn check_memory(&mut self, partition: PartitionId) {
        let connected = self.connected_workers(partition);
        let end = self.now + 60 * SECOND;
        let is_small = |world: &World| {
            let Some(owner) = world.owner_of(partition).and_then(|owner| world.owners.get(&owner)) else {
                return false;
            };
            let gauges = owner.engine.gauges();
            let active = gauges.waiting + gauges.placed + gauges.ready + gauges.tasks_placed;
            active + gauges.jobs_in_memory == 0 && gauges.sessions == world.connected_workers(partition)
        };
        while self.now < end {
            if is_small(self) {
                return;
            }
            let next = self.now + SECOND;
            if !self.run_until(next, |_| false) {
                return;
            }
        }
        let owner = self.owner_of(partition).and_then(|owner| self.owners.get(&owner));
        let gauges = owner.map(|owner| owner.engine.gauges());
        self.audit.breaks("no_unbounded_memory", || format!("{gauges:?} with {connected} workers connected"));
    }
}

fn inserted_less_ended(change: &pendula_model::change::Change) -> i64 {
    use pendula_model::change::Change;
    match change {
        Change::InstanceInserted { prune_at: None, .. } => 1,
        Change::InstanceEnded { .. } | Change::InstanceQuarantined { .. } => -1,
        _ => 0,
    }
}
