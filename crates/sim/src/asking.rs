//! What servers ask of the store, and its answers: both take their time, and either may be lost on the way.
//!
//! What was sent may be done long after whoever sent it is gone, or has given up waiting and asked again.

use std::rc::Rc;

use pendula_model::snapshot::Snapshot;
use pendula_model::{Epoch, PartitionId};
use pendula_store::{Batch, StoreError};
use pendula_store::{ClusterView, Renewal, Seat};

use crate::faults::Point;
use crate::server::{Life, TTL};
use crate::trace::trace;
use crate::world::{Event, MILLI, SECOND, World};

/// Without an answer for so long, a server takes the store for unreachable.
const PATIENCE: u64 = 3 * SECOND;

/// A question.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Join,
    Renew {
        lapses: u32,
        is_leaving: bool,
    },
    View,
    Claim {
        partition: PartitionId,
        seen: Epoch,
        /// What was read too early, where that is broken.
        early: Option<Rc<Snapshot>>,
    },
    Load {
        partition: PartitionId,
        epoch: Epoch,
    },
    Release {
        partition: PartitionId,
        epoch: Epoch,
    },
    Leave,
    /// A batch of an owner.
    Commit {
        owner: u32,
        batch: Rc<Batch>,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Joined,
    Renewed(bool),
    Viewed(Rc<ClusterView>),
    Claimed(Option<Epoch>),
    Loaded(Box<Snapshot>),
    Released,
    Left,
    Committed(Result<(), StoreError>),
    /// Nobody knows whether it was done.
    Unreached,
}

#[derive(Debug)]
pub(crate) struct Asked {
    life: Life,
    /// By the monotonic clock of who asked.
    at: u64,
    op: Op,
    /// It came to the store, or was found not to.
    arrived: bool,
    /// Whoever asked waits no more.
    heard: bool,
}

impl World {
    /// Sends a question to the store; its number.
    pub(crate) fn ask_store(&mut self, life: Life, op: Op) -> u64 {
        let id = self.next_asked;
        self.next_asked += 1;
        let way = self.way_to_store(life.server);
        self.asked.insert(id, Asked { life, at: self.monotonic(life.server), op, arrived: false, heard: false });
        self.after(way, Event::AtStore(id));
        if self.profile.is_cluster() {
            self.after(PATIENCE, Event::Overdue(id));
        }
        id
    }

    /// What a process has asked and has not reached the store yet.
    pub(crate) fn asked_by(&self, life: Life) -> Vec<u64> {
        self.asked.iter().filter(|(_, asked)| asked.life == life && !asked.arrived).map(|(id, _)| *id).collect()
    }

    /// It never reaches the store.
    pub(crate) fn forget_asked(&mut self, id: u64) {
        self.asked.remove(&id);
    }

    /// Which server waits for an answer.
    pub(crate) fn asker(&self, id: u64) -> Option<usize> {
        self.asked.get(&id).map(|asked| asked.life.server)
    }

    pub(crate) fn has_no_store(&self, server: usize) -> bool {
        self.store.is_away(self.now) || self.servers[server].no_store_until > self.now
    }

    fn way_to_store(&mut self, server: usize) -> u64 {
        if self.servers[server].slow_until > self.now && self.dice.chance(600) {
            // Now and then something lies about until nobody counts on it any more.
            let longest = if self.dice.chance(150) { 15 * SECOND } else { 4 * SECOND };
            return self.dice.below(longest);
        }
        self.store_takes()
    }

    /// A question reaches the store.
    pub(crate) fn at_store(&mut self, id: u64) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        asked.arrived = true;
        let (life, op) = (asked.life, asked.op.clone());
        if asked.heard {
            self.asked.remove(&id);
        }
        if self.has_no_store(life.server) {
            let found_out = self.dice.below(300 * MILLI);
            return self.after(found_out, Event::FromStore(id, Answer::Unreached));
        }
        let now = self.store_clock();
        let (point, answer) = match op {
            Op::Join => {
                let seat =
                    Seat { boot: life.boot_id(), name: String::new(), address: String::new(), version: String::new() };
                self.store.memory.join_sync(&seat, TTL, now);
                (Some(Point::Join), Answer::Joined)
            }
            Op::Renew { is_leaving, .. } => {
                let renewal = Renewal { boot: life.boot_id(), ttl: TTL, is_leaving, skew_micros: 0 };
                let is_renewed = self.store.memory.renew_sync(renewal, now);
                (is_renewed.then_some(Point::Renew), Answer::Renewed(is_renewed))
            }
            Op::View => (None, Answer::Viewed(Rc::new(self.store.memory.view_sync(now)))),
            Op::Claim { partition, seen, .. } => {
                let epoch = self.claim_at_store(life, partition, seen);
                (epoch.map(|_| Point::Claim), Answer::Claimed(epoch))
            }
            Op::Load { partition, .. } => (Some(Point::Load), Answer::Loaded(Box::new(self.store.load(partition)))),
            Op::Release { partition, epoch } => {
                let is_done = self.store.memory.release_sync(partition, life.boot_id(), epoch, now);
                (is_done.then_some(Point::Release), Answer::Released)
            }
            Op::Leave => {
                self.store.memory.leave_sync(life.boot_id(), now);
                (Some(Point::Leave), Answer::Left)
            }
            Op::Commit { owner, batch } => {
                let (point, result) = self.commit_at_store(life, owner, &batch);
                (point, Answer::Committed(result))
            }
        };
        if let Some(point) = point {
            self.reaches(life, point);
        }
        if !self.lives(life) {
            self.asked.remove(&id);
            return;
        }
        if std::mem::take(&mut self.servers[life.server].deaf) {
            trace!(self, "server s{} does not hear the answer of the store", life.server);
            if self.dice.chance(500) {
                let found_out = self.dice.below(300 * MILLI);
                self.after(found_out, Event::FromStore(id, Answer::Unreached));
            }
            return;
        }
        let way = self.way_to_store(life.server);
        self.after(way, Event::FromStore(id, answer));
    }

    /// A server waited long enough.
    pub(crate) fn overdue(&mut self, id: u64) {
        self.store_answers(id, Answer::Unreached);
    }

    /// The store's answer arrives, unless nobody waits for it any more.
    pub(crate) fn store_answers(&mut self, id: u64, answer: Answer) {
        let Some(asked) = self.asked.get_mut(&id).filter(|asked| !asked.heard) else { return };
        asked.heard = true;
        let (life, at, op) = (asked.life, asked.at, asked.op.clone());
        // What was given up may still be on its way there.
        if asked.arrived {
            self.asked.remove(&id);
        }
        if !self.lives(life) {
            return;
        }
        let answer = if self.servers[life.server].no_store_until > self.now { Answer::Unreached } else { answer };
        match (op, answer) {
            (Op::Join, answer) => self.joined(life, at, matches!(answer, Answer::Joined)),
            (Op::Renew { lapses, .. }, Answer::Renewed(is_renewed)) => {
                self.renewed(life, lapses, at, Some(is_renewed));
            }
            (Op::Renew { lapses, .. }, _) => self.renewed(life, lapses, at, None),
            (Op::View, Answer::Viewed(view)) => self.viewed(life, view),
            (Op::View, _) => {}
            (Op::Claim { partition, early, .. }, Answer::Claimed(epoch)) => {
                self.claimed(life, id, partition, epoch, early);
            }
            (Op::Claim { partition, .. }, _) => self.claimed(life, id, partition, None, None),
            (Op::Load { partition, epoch }, Answer::Loaded(snapshot)) => {
                self.loaded(life, partition, epoch, Some(snapshot));
            }
            (Op::Load { partition, epoch }, _) => self.loaded(life, partition, epoch, None),
            (Op::Release { partition, epoch }, answer) => {
                self.released(life, partition, epoch, matches!(answer, Answer::Released));
            }
            (Op::Leave, Answer::Left) => self.kill_server(life.server),
            (Op::Leave, _) => {}
            (Op::Commit { owner, batch }, Answer::Committed(result)) => self.settled(owner, batch.number, result),
            (Op::Commit { owner, batch }, _) => {
                self.after(250 * MILLI, Event::WriteAgain(owner, batch.number));
            }
        }
    }

    fn claim_at_store(&mut self, life: Life, partition: PartitionId, seen: Epoch) -> Option<Epoch> {
        let now = self.store_clock();
        let boot = life.boot_id();
        let former = self.store.holding(partition, now).owner.filter(|owner| *owner != boot);
        let from_the_living = former.is_some_and(|owner| self.store.is_seated(owner, now));
        let epoch = if self.profile.is_cluster() {
            self.store.claim(partition, boot, seen, now, self.breakage)?
        } else {
            self.store.claim_alone(partition)
        };
        self.audit.claimed(partition, epoch, life.boot, from_the_living);
        Some(epoch)
    }
}
