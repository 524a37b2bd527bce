//! The end of a history: everything is repaired, and then all that is under way must come to its end.

use pendula_engine::input::RunRequest;
use pendula_engine::{Command, Effect, Input, Output, Partition, Reply, ReplyTo};
use pendula_model::InstanceId;

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
        let grace = self.now + 15 * SECOND;
        if !self.run_until(grace, |_| false) {
            return;
        }
        self.check_triggers();
        self.compare_memory();
        self.close_down();
        if !self.settle("what is under way comes to its end", |world| {
            world.users.unanswered == 0 && world.is_idle() && world.store.load().instances.is_empty()
        }) {
            return;
        }
        self.check_rows();
        self.check_memory();
    }

    /// Nothing goes wrong from here on, and what was broken is whole again.
    fn heal(&mut self) {
        trace!(self, "everything is repaired");
        self.healed = true;
        self.crash_in = None;
        self.lose_answer = false;
        self.doubt_answer = false;
        self.store.goes_away(0);
        self.set_clock_right();
        // Who stands still goes on by itself, with all that came meanwhile in its order.
        for number in 0..self.workers.len() {
            self.after(0, Event::StartWorker(number));
        }
        self.after(0, Event::StartOwner);
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
        let left: Vec<_> = self.store.load().instances.iter().map(telling::instance).collect();
        let (wall, unanswered, idle) = (self.wall(), self.users.unanswered, self.is_idle());
        self.audit.breaks("nothing_stuck", || {
            format!("{what}: not until {wall}; active {left:?}, unanswered {unanswered}, idle {idle}")
        });
        false
    }

    /// Whether the owner has nothing in hand.
    fn is_idle(&self) -> bool {
        let owner = self.current.and_then(|owner| self.owners.get(&owner));
        owner.is_some_and(|owner| owner.under_way.is_none() && owner.open.changes.is_empty())
    }

    fn check_triggers(&mut self) {
        if !self.settle("the owner finds a moment of rest", World::is_idle) {
            return;
        }
        let Some(owner) = self.current.and_then(|owner| self.owners.get_mut(&owner)) else { return };
        let now = owner.now();
        self.audit.check_due(now);
    }

    /// The engine's memory is what the store has, and what another engine would make of it.
    fn compare_memory(&mut self) {
        let stored = self.store.load();
        let wall = self.wall();
        let Some(owner) = self.current.and_then(|owner| self.owners.get_mut(&owner)) else { return };
        if owner.under_way.is_some() || !owner.open.changes.is_empty() {
            return;
        }
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
    fn check_memory(&mut self) {
        let connected = self.connected_workers();
        let end = self.now + 60 * SECOND;
        let is_small = |world: &World| {
            let Some(owner) = world.current.and_then(|owner| world.owners.get(&owner)) else { return false };
            let gauges = owner.engine.gauges();
            let active = gauges.waiting + gauges.placed + gauges.ready + gauges.tasks_placed;
            active + gauges.jobs_in_memory == 0 && gauges.sessions == world.connected_workers()
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
        let gauges = self.current.and_then(|owner| self.owners.get(&owner)).map(|owner| owner.engine.gauges());
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
