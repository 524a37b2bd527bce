//! The store of a history: the real memory store with its real guards, and what may go wrong with it.

use pendula_model::change::Change;
use pendula_model::instance::{Instance, TaskState};
use pendula_model::job::Job;
use pendula_model::snapshot::Snapshot;
use pendula_model::task::Task;
use pendula_model::worker::BootId;
use pendula_model::{Epoch, InstanceId, JobId, PartitionId, TaskId, Timestamp};
use pendula_store::Holding;
use pendula_store::{Batch, MemoryStore, StoreError, TaskFilter};

use crate::breakage::Breakage;
use crate::dice::Dice;

const HAS_IT: &str = "the memory store has this partition";

pub(crate) struct SimStore {
    pub(crate) memory: MemoryStore,
    away_until: u64,
}

impl SimStore {
    pub(crate) fn new(partitions: u16) -> Self {
        SimStore { memory: MemoryStore::shared(partitions, [0; 32]), away_until: 0 }
    }

    pub(crate) fn is_away(&self, now: u64) -> bool {
        now < self.away_until
    }

    pub(crate) fn goes_away(&mut self, until: u64) {
        self.away_until = until;
    }

    /// A claim of a server that has the store to itself.
    pub(crate) fn claim_alone(&self, partition: PartitionId) -> Epoch {
        self.memory.claim_sync(partition).expect(HAS_IT)
    }

    /// A claim among several; with fewer conditions when the store is broken on purpose.
    pub(crate) fn claim(
        &self,
        partition: PartitionId,
        boot: BootId,
        seen: Epoch,
        now: Timestamp,
        breakage: Option<Breakage>,
    ) -> Option<Epoch> {
        let holding = self.holding(partition, now);
        let claim = |seen| self.memory.claim_from_sync(partition, boot, seen, now).expect(HAS_IT);
        match breakage {
            // As an `UPDATE` without a condition: whoever saw the same writes the same.
            Some(Breakage::ClaimBlind) if holding.epoch.0 == seen.0 + 1 => Some(holding.epoch),
            Some(Breakage::ClaimFromTheLiving) => {
                if let Some(owner) = holding.owner {
                    self.memory.release_sync(partition, owner, holding.epoch, now);
                }
                claim(seen)
            }
            Some(Breakage::SeenUnchecked) => claim(holding.epoch),
            _ => claim(seen),
        }
    }

    /// Whose a partition is.
    pub(crate) fn holding(&self, partition: PartitionId, now: Timestamp) -> Holding {
        self.memory.view_sync(now).holdings[usize::from(partition.0)]
    }

    /// Whether a server has a lease.
    pub(crate) fn is_seated(&self, boot: BootId, now: Timestamp) -> bool {
        let servers = self.memory.view_sync(now).servers;
        servers.iter().any(|seated| seated.seat.boot == boot && seated.is_alive())
    }

    pub(crate) fn load(&self, partition: PartitionId) -> Snapshot {
        self.memory.load_sync(partition).expect(HAS_IT)
    }

    pub(crate) fn jobs_due(
        &self,
        partition: PartitionId,
        until: Timestamp,
        after: Option<(Timestamp, JobId)>,
        limit: usize,
    ) -> Vec<Job> {
        self.memory.jobs_due_sync(partition, until, after, limit)
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

    /// Writes a batch; less strictly, or less of it, when the store is broken on purpose. Only one that is numbered may be
    /// sent again.
    pub(crate) fn commit(
        &mut self,
        batch: &Batch,
        is_numbered: bool,
        breakage: Option<Breakage>,
        dice: &mut Dice,
    ) -> Result<(), StoreError> {
        let number = if is_numbered { batch.number } else { 0 };
        let mut batch = Batch { number, ..batch.clone() };
        match breakage {
            Some(Breakage::EpochUnchecked) => batch.epoch = self.epoch(batch.partition),
            Some(Breakage::KeysForgotten) => batch.changes.iter_mut().for_each(forget_key),
            Some(Breakage::FireInTwoSteps) => batch.changes.iter_mut().for_each(forget_fire),
            Some(Breakage::WritesLost) if dice.chance(50) => return Ok(()),
            Some(Breakage::TaskEndsLost) => batch.changes.retain(|change| !ends_task(change) || dice.chance(800)),
            Some(Breakage::CommitUnnumbered) => batch.number = 0,
            Some(Breakage::EndedRowsWritten) => {
                self.write_blindly(batch);
                return Ok(());
            }
            _ => {}
        }
        self.memory.commit_sync(&batch)
    }

    fn epoch(&self, partition: PartitionId) -> Epoch {
        self.holding(partition, Timestamp::MIN).epoch
    }

    /// Each change on its own, whoever writes and whatever was there.
    fn write_blindly(&mut self, batch: Batch) {
        let (partition, epoch) = (batch.partition, self.epoch(batch.partition));
        for mut change in batch.changes {
            if let Change::InstanceUpdated(row) | Change::InstanceEnded { instance: row, .. } = &mut change
                && let Some(stored) = self.memory.instance_sync(row.id)
            {
                row.version = stored.version + 1;
            }
            // What even this store cannot write is what it would have overwritten.
            let _ = self.memory.commit_sync(&Batch { partition, epoch, number: 0, changes: vec![change] });
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
