//! How partitions come to a server and leave it: claim, load, serve; and commit, let go, release, tell.

use std::rc::Rc;

use pendula_model::snapshot::Snapshot;
use pendula_model::worker::BootId;
use pendula_model::{Epoch, PartitionId};
use pendula_store::{ClusterView, Seated};

use super::{Life, Step};
use crate::asking::Op;
use crate::breakage::Breakage;
use crate::trace::trace;
use crate::world::{Event, MILLI, World};

/// What a server has to do with a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Nothing,
    /// By this question; the answer to an earlier one does not count.
    Claiming {
        asked: u64,
    },
    Loading {
        epoch: Epoch,
    },
    Serving {
        owner: u32,
    },
    /// It does nothing for it any more; the store is to know, and then the successor.
    Releasing {
        epoch: Epoch,
        successor: Option<usize>,
    },
}

impl World {
    fn hold(&mut self, life: Life, partition: PartitionId) -> &mut Hold {
        &mut self.servers[life.server].holds[usize::from(partition.0)]
    }

    /// A server alone claims what it has not.
    pub(crate) fn take_again(&mut self, life: Life) {
        for partition in (0..self.profile.partitions).map(PartitionId) {
            if *self.hold(life, partition) == Hold::Nothing {
                self.claim(life, partition, Epoch(0));
            }
        }
    }

    /// What a server makes of what it sees: it takes what is free and its own to take, and gives what is too much.
    pub(super) fn look_around(&mut self, life: Life, view: &ClusterView) {
        if !self.acts(life.server) {
            return;
        }
        let (me, leaving) = (life.boot_id(), self.servers[life.server].leaving);
        let is_alive = |boot: BootId| view.servers.iter().any(|seated| seated.seat.boot == boot && seated.is_alive());
        let mut shares = shares(view);
        for holding in &view.holdings {
            let (partition, epoch) = (holding.partition, holding.epoch);
            let hold = *self.hold(life, partition);
            match hold {
                Hold::Serving { owner } if self.knows_better(owner, epoch) => {
                    self.drop_owner(owner, "the store has a newer epoch");
                }
                Hold::Loading { epoch: ours } if ours < epoch => *self.hold(life, partition) = Hold::Nothing,
                Hold::Nothing if !leaving => {
                    let is_mine = holding.owner == Some(me);
                    let is_free = holding.owner.is_none_or(|owner| !is_alive(owner));
                    let chosen = is_free.then(|| least(&mut shares, partition)).flatten() == Some(me);
                    let jumps_in = is_free && !self.healed && self.dice.chance(150);
                    if is_mine || chosen || jumps_in {
                        self.claim(life, partition, epoch);
                    }
                }
                _ => {}
            }
        }
        if leaving {
            self.hand_over_all(life);
        } else {
            self.balance(life, view, &shares);
        }
    }

    /// Whether an owner learns that it was superseded, and minds.
    fn knows_better(&self, owner: u32, epoch: Epoch) -> bool {
        let is_stale = self.owners.get(&owner).is_some_and(|owner| owner.epoch < epoch);
        is_stale && self.breakage != Some(Breakage::FencedIgnored) && !self.ignores_leases()
    }

    /// Gives one partition to whoever has the fewest, if that makes things more even.
    fn balance(&mut self, life: Life, view: &ClusterView, shares: &[(BootId, usize)]) {
        let Some(mine) = shares.iter().find(|share| share.0 == life.boot_id()).map(|share| share.1) else { return };
        let Some((poorest, fewest)) = shares.iter().min_by_key(|share| share.1).copied() else { return };
        let moves = |hold: &Hold| matches!(hold, Hold::Releasing { .. } | Hold::Loading { .. } | Hold::Claiming { .. });
        if mine < fewest + 2 || self.servers[life.server].holds.iter().any(moves) {
            return;
        }
        let to = self.process(poorest).map(|life| life.server);
        for holding in view.holdings.iter().rev() {
            if let Some(owner) = self.serving(life.server, holding.partition) {
                return self.close_owner(owner, to);
            }
        }
    }

    pub(crate) fn claim(&mut self, life: Life, partition: PartitionId, seen: Epoch) {
        if self.breakage == Some(Breakage::LoadBeforeClaim) {
            *self.hold(life, partition) = Hold::Loading { epoch: seen };
            self.ask_store(life, Op::Load { partition, epoch: seen });
            return;
        }
        self.ask_for(life, partition, seen, None);
    }

    fn ask_for(&mut self, life: Life, partition: PartitionId, seen: Epoch, early: Option<Rc<Snapshot>>) {
        let asked = self.ask_store(life, Op::Claim { partition, seen, early });
        *self.hold(life, partition) = Hold::Claiming { asked };
    }

    pub(crate) fn claimed(
        &mut self,
        life: Life,
        asked: u64,
        partition: PartitionId,
        epoch: Option<Epoch>,
        early: Option<Rc<Snapshot>>,
    ) {
        if *self.hold(life, partition) != (Hold::Claiming { asked }) {
            return;
        }
        let Some(epoch) = epoch else {
            *self.hold(life, partition) = Hold::Nothing;
            if !self.profile.is_cluster() {
                self.after(200 * MILLI, Event::TakeAgain(life));
            }
            return;
        };
        trace!(self, "server s{} has claimed {partition} under {epoch:?}", life.server);
        *self.hold(life, partition) = Hold::Loading { epoch };
        match early {
            Some(snapshot) => self.serve(life, partition, epoch, Box::new(Snapshot::clone(&snapshot))),
            None => {
                self.ask_store(life, Op::Load { partition, epoch });
            }
        }
    }

    pub(crate) fn loaded(&mut self, life: Life, partition: PartitionId, epoch: Epoch, snapshot: Option<Box<Snapshot>>) {
        match snapshot {
            Some(snapshot) if self.breakage == Some(Breakage::LoadBeforeClaim) => {
                if *self.hold(life, partition) == (Hold::Loading { epoch }) {
                    self.ask_for(life, partition, epoch, Some(Rc::from(snapshot)));
                }
            }
            Some(snapshot) => self.serve(life, partition, epoch, snapshot),
            None => self.after(250 * MILLI, Event::LoadAgain(life, partition, epoch)),
        }
    }

    pub(crate) fn load_again(&mut self, life: Life, partition: PartitionId, epoch: Epoch) {
        if *self.hold(life, partition) == (Hold::Loading { epoch }) {
            self.ask_store(life, Op::Load { partition, epoch });
        }
    }

    /// What was claimed and read becomes an owner.
    pub(crate) fn serve(&mut self, life: Life, partition: PartitionId, epoch: Epoch, snapshot: Box<Snapshot>) {
        if *self.hold(life, partition) != (Hold::Loading { epoch }) {
            return;
        }
        match self.step(life.server) {
            Step::Goes => {}
            Step::Died => return,
            Step::StandsStill => {
                return self.servers[life.server].go_on_with(Event::Serve(life, partition, epoch, snapshot));
            }
        }
        let number = self.new_owner(life, epoch, *snapshot);
        *self.hold(life, partition) = Hold::Serving { owner: number };
        self.go_on(number);
        self.set_alarm(number);
    }

    /// An owner is gone from its server, which lives on: its callers and workers are let go.
    pub(crate) fn drop_owner(&mut self, number: u32, why: &str) {
        let Some(owner) = self.forget_owner(number) else { return };
        trace!(self, "owner {number} is gone: {why}");
        let (life, partition) = (owner.life, owner.partition);
        *self.hold(life, partition) = Hold::Nothing;
        self.let_callers_go(owner.callers);
        self.let_workers_go(number);
        if !self.profile.is_cluster() {
            let pause = self.restart_pause();
            self.after(pause, Event::TakeAgain(life));
        }
    }

    pub(super) fn let_go_of_all(&mut self, server: usize, why: &str) {
        let owners: Vec<u32> =
            self.owners.iter().filter(|(_, owner)| owner.life.server == server).map(|(number, _)| *number).collect();
        for owner in owners {
            self.drop_owner(owner, why);
        }
        self.servers[server].holds.fill(Hold::Nothing);
    }

    /// Begins a hand-over: nothing new is taken, and what was decided is still committed and performed.
    pub(crate) fn close_owner(&mut self, number: u32, successor: Option<usize>) {
        let Some(owner) = self.owners.get_mut(&number) else { return };
        if owner.closing.is_some() {
            return;
        }
        owner.closing = Some(successor);
        trace!(self, "owner {number} hands over to {successor:?}");
        self.go_on(number);
    }

    /// The end of a hand-over, once an owner has nothing in hand any more.
    pub(crate) fn close_if_done(&mut self, number: u32) {
        let Some(owner) = self.owners.get(&number) else { return };
        let Some(successor) = owner.closing.filter(|_| owner.is_idle()) else { return };
        let (life, partition, epoch) = (owner.life, owner.partition, owner.epoch);
        self.audit.counts.hand_overs += 1;
        self.drop_owner(number, "it was handed over");
        *self.hold(life, partition) = Hold::Releasing { epoch, successor };
        self.ask_store(life, Op::Release { partition, epoch });
    }

    pub(crate) fn released(&mut self, life: Life, partition: PartitionId, epoch: Epoch, is_heard: bool) {
        let Hold::Releasing { epoch: ours, successor } = *self.hold(life, partition) else { return };
        if ours != epoch {
            return;
        }
        if !is_heard {
            return self.after(250 * MILLI, Event::ReleaseAgain(life, partition, epoch));
        }
        *self.hold(life, partition) = Hold::Nothing;
        if let Some(successor) = successor.filter(|other| self.are_linked(life.server, *other)) {
            let way = self.dice.between(50, 2 * MILLI);
            self.after(way, Event::Told(successor, partition, epoch));
        }
        self.leave_if_empty(life);
    }

    pub(crate) fn release_again(&mut self, life: Life, partition: PartitionId, epoch: Epoch) {
        if matches!(*self.hold(life, partition), Hold::Releasing { epoch: ours, .. } if ours == epoch) {
            self.ask_store(life, Op::Release { partition, epoch });
        }
    }

    /// A server hears that a partition is there for it.
    pub(crate) fn told(&mut self, server: usize, partition: PartitionId, epoch: Epoch) {
        let life = self.life(server);
        if !self.servers[server].alive || self.servers[server].leaving || !self.acts(server) {
            return;
        }
        if *self.hold(life, partition) == Hold::Nothing {
            self.claim(life, partition, epoch);
        }
    }

    pub(super) fn hand_over_all(&mut self, life: Life) {
        let shares = self.servers[life.server].view.clone().map(|view: Rc<ClusterView>| shares(&view));
        for partition in (0..self.profile.partitions).map(PartitionId) {
            if let Some(owner) = self.serving(life.server, partition) {
                let mut others = shares.clone().unwrap_or_default();
                others.retain(|(boot, _)| *boot != life.boot_id());
                let to = least(&mut others, partition).and_then(|boot| self.process(boot));
                self.close_owner(owner, to.map(|life| life.server));
            }
        }
        self.leave_if_empty(life);
    }

    fn leave_if_empty(&mut self, life: Life) {
        let server = &self.servers[life.server];
        if self.lives(life) && server.leaving && server.holds.iter().all(|hold| *hold == Hold::Nothing) {
            self.ask_store(life, Op::Leave);
        }
    }

    /// A partition moves to some other server.
    pub(crate) fn move_some(&mut self) {
        let serving: Vec<u32> = self.owners.keys().copied().collect();
        if serving.is_empty() {
            return;
        }
        let owner = *self.dice.pick(&serving);
        let server = self.owners[&owner].life.server;
        let others: Vec<usize> =
            (0..self.servers.len()).filter(|other| *other != server && self.servers[*other].alive).collect();
        let successor = (!others.is_empty()).then(|| *self.dice.pick(&others));
        // Who stands still is asked when it wakes up.
        self.after(0, Event::Close(owner, successor));
    }
}

/// Those who may own partitions, and how many they have.
fn shares(view: &ClusterView) -> Vec<(BootId, usize)> {
    let has = |boot: BootId| view.holdings.iter().filter(|holding| holding.owner == Some(boot)).count();
    let eligible = view.servers.iter().filter(|seated: &&Seated| seated.is_alive() && !seated.is_leaving);
    eligible.map(|seated| (seated.seat.boot, has(seated.seat.boot))).collect()
}

/// Whoever has the fewest gets one more.
fn least(shares: &mut [(BootId, usize)], partition: PartitionId) -> Option<BootId> {
    let spread = |boot: BootId| boot.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(u32::from(partition.0) * 7);
    let share = shares.iter_mut().min_by_key(|(boot, count)| (*count, spread(*boot)))?;
    share.1 += 1;
    Some(share.0)
}
