//! A new owner's first state, from what the store has.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use pendula_model::TaskKey;
use pendula_model::Timestamp;
use pendula_model::change::Change;
use pendula_model::id::IdSequence;
use pendula_model::instance::{InstanceState, Origin, Reason, TaskState};
use pendula_model::job::JobSpec;
use pendula_model::mode::ExecutionMode;
use pendula_model::policy::Delivery;
use pendula_model::snapshot::Snapshot;
use pendula_model::task::{Fanout, Phase, Task};

use super::fanout::{chosen_names, chosen_workers};
use super::spread::{LiveTask, Spread};
use super::state::{Active, AppEntry, Away, Dirty, Place, Random, Timer, Window};
use super::{Output, Partition, Settings};
use crate::effect::{Effect, Observation};

impl Partition {
    /// Builds the state from what the store has; `seed` feeds jitter. May already decide things (end what is
    /// quarantined, ask for schedules): commit and perform `out` as after [`Partition::handle`].
    ///
    /// Work that is with a worker keeps running there; it is lost only if its worker does not come back within
    /// [`Settings::adoption_grace`].
    pub fn restore(now: Timestamp, seed: u64, settings: Settings, snapshot: Snapshot, out: &mut Output) -> Self {
        let Snapshot { partition, last_id, apps, jobs, revisions, instances, fanouts, tasks, broken } = snapshot;
        // Nobody can be on the way back to what has just been made.
        let workers_known_at = if apps.is_empty() { now } else { now.plus(settings.lost_after) };
        let adopting_until = now.plus(settings.adoption_grace);
        let slow_workers_known_at = if apps.is_empty() { now } else { adopting_until };
        let mut fanouts: HashMap<_, _> = fanouts.into_iter().map(|fanout| (fanout.instance, fanout)).collect();
        let mut this = Partition {
            id: partition,
            settings,
            ids: IdSequence::new(partition, last_id),
            random: Random(seed),
            now,
            apps: apps.into_iter().map(|app| (app.id, AppEntry::new(app))).collect(),
            jobs: HashMap::new(),
            names: HashMap::new(),
            keys: HashMap::new(),
            parked: HashMap::new(),
            answers: HashMap::new(),
            instances: HashMap::new(),
            sessions: BTreeMap::new(),
            away: BTreeMap::new(),
            timers: BTreeSet::new(),
            window: Window::default(),
            touched: Vec::new(),
            made_ready: Vec::new(),
            to_begin: Vec::new(),
            gone_targets: Vec::new(),
            broadcasts: BTreeSet::new(),
            tasks_placed: 0,
            spreads_running: 0,
            workers_known_at,
            slow_workers_known_at,
            adopting_until,
            pumpable: BTreeSet::new(),
        };
        for (id, why) in broken {
            let prune_at = now.plus(this.settings.retention);
            out.changes.push(Change::InstanceQuarantined { id, at: now, why: why.clone(), prune_at });
            out.effects.push(Effect::Observed(Observation::Quarantined { instance: id, why }));
        }
        let deleted: BTreeSet<_> = snapshot_deleted(&jobs);
        for job in jobs {
            let id = job.id;
            if deleted.contains(&id) {
                this.insert_entry(job);
                this.jobs.get_mut(&id).expect("just inserted").deleted = true;
                this.arm(id);
            } else {
                this.remember(job);
            }
        }
        let revisions: HashMap<_, _> =
            revisions.into_iter().map(|(job, revision, spec)| ((job, revision), spec)).collect();
        for row in instances {
            let current = this.jobs.get(&row.job).map(|entry| (entry.job.revision, entry.job.spec.clone()));
            let spec = match current {
                Some((revision, spec)) if revision == row.revision => Some(spec),
                _ => revisions.get(&(row.job, row.revision)).cloned(),
            };
            let definition = spec.and_then(|spec| this.definition(row.job, row.revision, &spec));
            let Some(definition) = definition else {
                let why = format!("revision {} of job {} is missing", row.revision.0, row.job);
                let prune_at = now.plus(this.settings.retention);
                out.changes.push(Change::InstanceQuarantined { id: row.id, at: now, why: why.clone(), prune_at });
                out.effects.push(Effect::Observed(Observation::Quarantined { instance: row.id, why }));
                continue;
            };
            let id = row.id;
            let entry = this.jobs.get_mut(&row.job).expect("a definition implies the job");
            entry.triggered += usize::from(row.origin == Origin::Trigger);
            let mut active = Active {
                row,
                definition,
                place: Place::Delayed,
                dirty: Dirty::Clean,
                listed: false,
                timer: None,
                hold_until: None,
                spread: None,
                session: None,
                sequence: 0,
                sent_at: now,
                allowance: std::time::Duration::ZERO,
                progress: None,
            };
            let fanout = fanouts.remove(&id);
            let has_begun = fanout.is_some();
            if let Some(fanout) = fanout {
                active.spread = Some(Box::new(restored_spread(fanout, now)));
                let is_broadcast = matches!(active.definition.spec.mode, ExecutionMode::Broadcast(_));
                this.broadcasts.extend(is_broadcast.then_some(id));
            }
            if has_begun && active.row.state.is_placed() {
                active.place = Place::Placed;
                entry.admitted.insert(id);
                this.spreads_running += 1;
            } else if active.row.state.is_placed() {
                active.place = Place::Placed;
                entry.admitted.insert(id);
                let worker = active.row.worker.clone().expect("the store checks that placed instances have a worker");
                let app = active.row.app;
                let deadline = now.plus(this.settings.adoption_grace);
                let away = this.away.entry((app, worker.clone())).or_insert_with(|| {
                    this.timers.insert((deadline, Timer::Away(app, worker)));
                    Away { deadline, ..Away::default() }
                });
                away.held.insert(TaskKey::root(id));
            } else if active.row.attempt > 0 {
                active.place = Place::BackOff;
                entry.admitted.insert(id);
            } else if active.row.due_at > now {
                entry.delayed += 1;
            } else {
                active.place = Place::Queued;
                entry.queue.insert(active.queue_key());
            }
            let (place, due) = (active.place, active.row.due_at);
            this.instances.insert(id, active);
            if place == Place::BackOff && due <= now {
                this.make_ready(id);
            }
            this.rearm(id);
        }
        tasks.into_iter().for_each(|task| this.restore_task(task));
        // In order, so that the same store always leads to the same decisions.
        let mut begun: Vec<_> = this.instances.values().filter(|a| a.spread.is_some()).map(|a| a.row.id).collect();
        begun.sort_unstable();
        for id in begun {
            // So that more is read when there is room.
            this.list(id);
            this.queue_spread(id);
        }
        let mut queued: Vec<_> =
            this.jobs.iter().filter(|(_, entry)| !entry.queue.is_empty()).map(|(id, _)| *id).collect();
        queued.sort_unstable();
        for job in queued {
            this.admit_queued(job);
        }
        this.open_window(out);
        this.settle(out);
        this
    }
}

impl Partition {
    /// A task that is under way.
    fn restore_task(&mut self, row: Task) {
        let now = self.now;
        let key = row.key();
        let deadline = now.plus(self.settings.adoption_grace);
        let Some(active) = self.instances.get_mut(&key.instance) else { return };
        let (app, is_stopping) = (active.row.app, active.row.state == InstanceState::Stopping);
        let spec = active.definition.spec.clone();
        let Some(spread) = active.spread.as_mut() else { return };
        if is_orphan(&row, &spec, now)
            && let Some(target) = &row.target
        {
            spread.orphans.entry(target.name.clone()).or_default().insert(key.task);
            spread.insert_live(LiveTask::new(row, Dirty::Clean, now));
            return self.rearm_task(key);
        }
        let waits_for = if row.state.is_placed() { row.worker.clone() } else { row.target.clone() };
        if row.state.is_placed()
            && let Some(worker) = &row.worker
        {
            *spread.on_worker.entry(worker.clone()).or_default() += 1;
        }
        let (is_placed, due_at) = (row.state.is_placed(), row.due_at);
        spread.insert_live(LiveTask::new(row, Dirty::Clean, now));
        if let Some(worker) = waits_for
            && (is_placed || !is_stopping)
        {
            let away = self.away.entry((app, worker.clone())).or_insert_with(|| {
                self.timers.insert((deadline, Timer::Away(app, worker)));
                Away { deadline, ..Away::default() }
            });
            if is_placed {
                away.held.insert(key);
                self.tasks_placed += 1;
            } else if due_at <= now {
                away.bound.insert(key);
            }
        }
        if is_stopping && !is_placed {
            return;
        }
        if !is_placed && due_at <= now { self.ready_task(key) } else { self.rearm_task(key) }
    }
}

/// Whether a task was lost with its worker and waits for one of the same name.
fn is_orphan(row: &Task, spec: &JobSpec, now: Timestamp) -> bool {
    let is_declared = matches!(&spec.mode, ExecutionMode::Broadcast(mode) if mode.rerun_on_same_worker);
    let may_rerun = is_declared && spec.delivery == Delivery::AtLeastOnce;
    let is_lost =
        matches!(&row.reason, Some(reason) if *reason == Reason::WORKER_LOST || *reason == Reason::WORKER_DRAINED);
    may_rerun && row.state == TaskState::Waiting && row.target.is_some() && is_lost && row.due_at > now
}

fn restored_spread(fanout: Fanout, now: Timestamp) -> Spread {
    let chosen = chosen_workers(fanout.targets.as_deref());
    let mut spread = Spread::new(fanout, Dirty::Clean, now);
    spread.unread = (spread.row.next_waiting < spread.row.next_task).then_some(spread.row.next_waiting);
    spread.joined = chosen_names(&chosen);
    if spread.row.phase == Phase::Before {
        spread.frozen = chosen;
    }
    spread
}

/// Jobs that were deleted while instances of theirs were active: their names may belong to others now.
fn snapshot_deleted(jobs: &[pendula_model::job::Job]) -> BTreeSet<pendula_model::JobId> {
    jobs.iter().filter(|job| job.deleted_at.is_some()).map(|job| job.id).collect()
}
