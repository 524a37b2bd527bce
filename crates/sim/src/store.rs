//! The store of a history: the real memory store with its real guards, and what may go wrong with it.

use pendula_model::change::Change;
use pendula_model::instance::{Instance, TaskState};
use pendula_model::job::Job;
use pendula_model::snapshot::Snapshot;
use pendula_model::task::Task;
use pendula_model::{Epoch, InstanceId, JobId, PartitionId, TaskId, Timestamp};
use pendula_store::{Batch, MemoryStore, StoreError, TaskFilter};

use crate::breakage::Breakage;
use crate::dice::Dice;

/// All of a history happens in one partition.
pub(crate) const PARTITION: PartitionId = PartitionId(0);

pub(crate) struct SimStore {
    pub(crate) memory: MemoryStore,
    epoch: Epoch,
    away_until: u64,
}

impl SimStore {
    pub(crate) fn new() -> Self {
        SimStore { memory: MemoryStore::new(1), epoch: Epoch(0), away_until: 0 }
    }

    pub(crate) fn is_away(&self, now: u64) -> bool {
        now < self.away_until
    }

    pub(crate) fn goes_away(&mut self, until: u64) {
        self.away_until = until;
    }

    pub(crate) fn is_current(&self, epoch: Epoch) -> bool {
        self.epoch == epoch
    }

    pub(crate) fn claim(&mut self) -> Epoch {
        self.epoch = self.memory.claim_sync(PARTITION).expect("the memory store has this partition");
        self.epoch
    }

    pub(crate) fn load(&self) -> Snapshot {
        self.memory.load_sync(PARTITION).expect("the memory store has this partition")
    }

    pub(crate) fn jobs_due(&self, until: Timestamp, after: Option<(Timestamp, JobId)>, limit: usize) -> Vec<Job> {
        self.memory.jobs_due_sync(PARTITION, until, after, limit)
    }

    pub(crate) fn tasks_waiting(&self, instance: InstanceId, from: TaskId, limit: usize) -> Vec<Task> {
        self.memory.tasks_waiting_sync(instance, from, limit, usize::MAX)
    }

    /// All tasks of an instance in any of `states` (none means all), without their inputs and results.
    pub(crate) fn tasks_of(&self, instance: InstanceId, states: Vec<TaskState>) -> Vec<Task> {
        let filter = TaskFilter { instance, states, name_contains: None, from: TaskId::ROOT, limit: usize::MAX };
        self.memory.tasks_sync(&filter).items
    }

    /// Tasks that ended without success, with all that belongs to them: those named, or all when none is named.
    pub(crate) fn unsuccessful(&self, instance: InstanceId, named: &[TaskId]) -> Vec<Task> {
        let mut ids: Vec<TaskId> =
            self.tasks_of(instance, vec![TaskState::Failed, TaskState::Lost]).iter().map(|task| task.id).collect();
        ids.retain(|id| named.is_empty() || named.contains(id));
        ids.into_iter().filter_map(|id| self.memory.task_sync(instance, id)).collect()
    }

    /// Writes a batch under `epoch`; less strictly, or less of it, when the store is broken on purpose.
    pub(crate) fn commit(
        &mut self,
        epoch: Epoch,
        changes: &[Change],
        breakage: Option<Breakage>,
        dice: &mut Dice,
    ) -> Result<(), StoreError> {
        let mut batch = Batch { partition: PARTITION, epoch, number: 0, changes: changes.to_vec() };
        match breakage {
            Some(Breakage::EpochUnchecked) => batch.epoch = self.epoch,
            Some(Breakage::KeysForgotten) => batch.changes.iter_mut().for_each(forget_key),
            Some(Breakage::FireInTwoSteps) => batch.changes.iter_mut().for_each(forget_fire),
            Some(Breakage::WritesLost) if dice.chance(50) => return Ok(()),
            Some(Breakage::TaskEndsLost) => batch.changes.retain(|change| !ends_task(change) || dice.chance(800)),
            Some(Breakage::EndedRowsWritten) => {
                self.write_blindly(batch);
                return Ok(());
            }
            _ => {}
        }
        self.memory.commit_sync(&batch)
    }

    /// Each change on its own, whoever writes and whatever was there.
    fn write_blindly(&mut self, batch: Batch) {
        for mut change in batch.changes {
            if let Change::InstanceUpdated(row) | Change::InstanceEnded { instance: row, .. } = &mut change
                && let Some(stored) = self.memory.instance_sync(row.id)
            {
                row.version = stored.version + 1;
            }
            let alone = Batch { partition: PARTITION, epoch: self.epoch, number: 0, changes: vec![change] };
            // What even this store cannot write is what it would have overwritten.
            let _ = self.memory.commit_sync(&alone);
        }
    }
}

fn ends_task(change: &Change) -> bool {
    matches!(change, Change::TaskUpdated(row) if row.role.is_counted() && row.state.is_ended())
}

fn forget_fire(change: &mut Change) {
    if let Some(row) = row_of(change) {
        row.fire_time = None;
    }
}

fn forget_key(change: &mut Change) {
    if let Some(row) = row_of(change) {
        row.idempotency_key = None;
    }
}

fn row_of(change: &mut Change) -> Option<&mut Instance> {
    match change {
        Change::InstanceInserted { instance: row, .. }
        | Change::InstanceEnded { instance: row, .. }
        | Change::InstanceUpdated(row) => Some(row),
        _ => None,
    }
}
