//! Who owns a partition: one after the other, each under an epoch of its own, and each with all that was committed before.

use std::collections::BTreeMap;

use pendula_model::instance::{Instance, InstanceState, StopCause};
use pendula_model::snapshot::Snapshot;
use pendula_model::{Epoch, InstanceId, PartitionId};
use pendula_store::Batch;

use super::Audit;
use super::tasks::Spread;

/// What is known of a partition's owners.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    newest: Option<Epoch>,
    /// Under the newest epoch: the last batch that was written.
    batches: u64,
    /// Which server process was given each epoch, and which had effects performed under it.
    given: BTreeMap<Epoch, u64>,
    acted: BTreeMap<Epoch, u64>,
}

impl Audit {
    /// The store gave a partition to a server process; `from_the_living` when it was another's whose lease had not run out.
    pub(crate) fn claimed(&mut self, partition: PartitionId, epoch: Epoch, boot: u64, from_the_living: bool) {
        let epochs = self.epochs.entry(partition).or_default();
        let newest = epochs.newest;
        let other = epochs.given.insert(epoch, boot).filter(|other| *other != boot);
        epochs.newest = newest.max(Some(epoch));
        epochs.batches = 0;
        if let Some(other) = other {
            self.breaks("one_owner_per_epoch", || format!("{epoch:?} of {partition} is {other}'s and {boot}'s"));
        }
        if Some(epoch) <= newest {
            self.breaks("epochs_only_grow", || format!("{partition} went from {newest:?} to {epoch:?}"));
        }
        if from_the_living {
            self.breaks("no_needless_takeover", || format!("{boot} took {partition} from a server that had a lease"));
        }
    }

    pub(crate) fn newest_epoch(&self, partition: PartitionId) -> Epoch {
        self.epochs.get(&partition).and_then(|epochs| epochs.newest).unwrap_or(Epoch(0))
    }

    /// Clocks stand still in this history: who has a lease by its own may have lost it.
    pub(crate) fn leases_may_fail(&mut self) {
        self.leases_hold = false;
    }

    /// An owner believes that it may act.
    pub(crate) fn acts(&mut self, partition: PartitionId, epoch: Epoch) {
        let newest = self.newest_epoch(partition);
        if epoch < newest && self.leases_hold {
            self.breaks("leases_are_exclusive", || {
                format!("the lease of the owner under {epoch:?} holds, and {partition} was given away under {newest:?}")
            });
        }
    }

    /// An owner tells somebody something.
    pub(crate) fn performs(&mut self, partition: PartitionId, epoch: Epoch, boot: u64) {
        let epochs = self.epochs.entry(partition).or_default();
        self.counts.late_effects += u64::from(Some(epoch) < epochs.newest);
        let other = epochs.acted.insert(epoch, boot).filter(|other| *other != boot);
        if let Some(other) = other {
            self.breaks("one_owner_per_epoch", || {
                format!("effects under {epoch:?} of {partition} came from {other} and from {boot}")
            });
        }
    }

    /// Whether a batch that the store took is one that it wrote now, and not one that it had already; and it was the
    /// owner's to write.
    pub(super) fn is_news(&mut self, batch: &Batch, is_blind: bool) -> bool {
        let epochs = self.epochs.entry(batch.partition).or_default();
        let is_owners = Some(batch.epoch) == epochs.newest || is_blind;
        let is_repeated = Some(batch.epoch) == epochs.newest && batch.number <= epochs.batches;
        if Some(batch.epoch) == epochs.newest && !is_repeated {
            epochs.batches = batch.number;
        }
        let newest = epochs.newest;
        if !is_owners {
            let Batch { partition, epoch, .. } = *batch;
            self.breaks("only_the_owner_writes", || {
                format!("a stale owner wrote: {partition} is at {newest:?}, and this was decided under {epoch:?}")
            });
        }
        !is_repeated
    }

    /// What a new owner begins with is all that was committed before.
    pub(crate) fn restored(&mut self, epoch: Epoch, snapshot: &Snapshot) {
        self.counts.restores += 1;
        let partition = snapshot.partition;
        // Who stood still after reading may have been superseded since, and can do nothing with what it has.
        if epoch < self.newest_epoch(partition) || self.store_lies {
            return;
        }
        let is_stopping =
            |row: &&Instance| row.state == InstanceState::Stopping && row.stop_cause == Some(StopCause::User);
        self.counts.stops_taken_over += snapshot.instances.iter().filter(is_stopping).count() as u64;
        let fault = self.missing_from(snapshot);
        if let Some(fault) = fault {
            self.breaks("takeover_sees_all", || format!("{partition} under {epoch:?}: {fault}"));
        }
    }

    fn missing_from(&self, snapshot: &Snapshot) -> Option<String> {
        let all = InstanceId(i64::MIN)..=InstanceId(i64::MAX);
        let active = self.instances.range(all);
        let active = active.filter(|(id, record)| id.partition() == snapshot.partition && !record.state.is_ended());
        let mut read = snapshot.instances.iter();
        let mut fanouts = snapshot.fanouts.iter();
        let mut tasks = snapshot.tasks.iter().peekable();
        for (id, record) in active {
            let Some(row) = read.next().filter(|row| row.id == *id) else {
                return Some(format!("instance {id} is active and was not read"));
            };
            if (row.state, row.attempt) != (record.state, record.attempt) {
                let (state, attempt) = (record.state, record.attempt);
                return Some(format!("{id} is {state} in attempt {attempt}, read was {row:?}"));
            }
            let Some(Spread { fanout, tasks: stored, .. }) = record.spread.as_deref() else { continue };
            if fanouts.next() != Some(fanout) {
                return Some(format!("the tasks of {id} were read otherwise than {fanout:?}"));
            }
            for task in stored.values().filter(|task| task.is_under_way()) {
                if tasks.next() != Some(task) {
                    return Some(format!("not read was {task:?}"));
                }
            }
        }
        read.next().map(|row| format!("{row:?} was read, and is not active"))
    }
}
