//! Processes of the server: they start, die, stand still and wake up, each with clocks of its own.
//!
//! [`seat`] is how one keeps its lease, [`taking`] how partitions come to it and leave it. What a partition does under one
//! epoch is in [`crate::owner`]. One server alone has the store to itself, as with SQLite: no lease, and each claim is
//! granted.

mod seat;
mod taking;

use std::collections::VecDeque;
use std::rc::Rc;

use pendula_model::worker::BootId;
use pendula_model::{PartitionId, Timestamp};
use pendula_store::ClusterView;

use crate::breakage::Breakage;
use crate::faults::{FailPoint, Misfortune, Point};
use crate::trace::trace;
use crate::world::{Event, MILLI, SECOND, World};
pub(crate) use seat::{Seat, TTL};
pub(crate) use taking::Hold;

/// By how much a monotonic clock may be fast or slow: one in a hundred.
const MOST_DRIFT: u64 = 10_000;
/// The largest error of a wall clock that is kept right.
const ADJUSTED: u64 = 50 * MILLI;

/// A process of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Life {
    pub(crate) server: usize,
    pub(crate) boot: u64,
}

impl Life {
    pub(crate) fn boot_id(self) -> BootId {
        BootId(self.boot)
    }
}

/// Whether a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Goes,
    /// The process is gone, and everything in it.
    Died,
    /// It is done when the process wakes up: the caller puts it in front of what is held up.
    StandsStill,
}

pub(crate) struct Server {
    pub(crate) boot: u64,
    pub(crate) alive: bool,
    stands_until: u64,
    /// What happens to it when it wakes up, in order.
    held_up: VecDeque<Event>,
    /// What befalls it, and before which of its next steps.
    pub(crate) misfortune: Option<(u32, Misfortune)>,
    /// By how much its wall clock is ahead, in microseconds.
    wall_offset: i64,
    /// By how much its monotonic clock is fast, in millionths, and how long it stood still.
    drift: i64,
    lag: u64,
    pub(crate) seat: Seat,
    /// Counts the leases that are over, to tell what was asked under an earlier one.
    lapses: u32,
    renewing: bool,
    /// It was asked to shut down.
    leaving: bool,
    view: Option<Rc<ClusterView>>,
    holds: Vec<Hold>,
    pub(crate) no_store_until: u64,
    pub(crate) no_workers_until: u64,
    pub(crate) no_peers_until: u64,
    pub(crate) slow_until: u64,
    /// It does not hear the next answer of the store.
    pub(crate) deaf: bool,
}

impl Server {
    pub(crate) fn new(partitions: u16) -> Self {
        Server {
            boot: 0,
            alive: false,
            stands_until: 0,
            held_up: VecDeque::new(),
            misfortune: None,
            wall_offset: 0,
            drift: 0,
            lag: 0,
            seat: Seat::Out,
            lapses: 0,
            renewing: false,
            leaving: false,
            view: None,
            holds: vec![Hold::Nothing; partitions.into()],
            no_store_until: 0,
            no_workers_until: 0,
            no_peers_until: 0,
            slow_until: 0,
            deaf: false,
        }
    }

    pub(crate) fn stands_still(&self, now: u64) -> bool {
        now < self.stands_until
    }

    /// Puts something off until it wakes up, after what was put off before.
    pub(crate) fn hold_up(&mut self, event: Event) {
        self.held_up.push_back(event);
    }

    /// The same for what was begun: it comes first.
    pub(crate) fn go_on_with(&mut self, event: Event) {
        self.held_up.push_front(event);
    }

    /// Its monotonic clock.
    fn monotonic(&self, now: u64) -> u64 {
        let passed = i128::from(now.saturating_sub(self.lag));
        (passed * i128::from(1_000_000 + self.drift) / 1_000_000) as u64
    }

    /// How much time passes while its monotonic clock goes on by `micros`.
    fn real(&self, micros: u64) -> u64 {
        (i128::from(micros) * 1_000_000 / i128::from(1_000_000 + self.drift)) as u64 + 1
    }
}

impl World {
    pub(crate) fn life(&self, server: usize) -> Life {
        Life { server, boot: self.servers[server].boot }
    }

    pub(crate) fn lives(&self, life: Life) -> bool {
        self.servers[life.server].alive && self.servers[life.server].boot == life.boot
    }

    /// The process with this boot id, if it is alive.
    fn process(&self, boot: BootId) -> Option<Life> {
        let server = self.servers.iter().position(|server| server.alive && server.boot == boot.0)?;
        Some(self.life(server))
    }

    pub(crate) fn monotonic(&self, server: usize) -> u64 {
        self.servers[server].monotonic(self.now)
    }

    /// What a server's wall clock shows.
    pub(crate) fn wall_of(&self, server: usize) -> Timestamp {
        Timestamp::from_micros(self.wall().as_micros() + self.servers[server].wall_offset)
    }

    /// Draws the errors of a server's clocks.
    pub(crate) fn set_clocks(&mut self, server: usize) {
        if !self.profile.is_cluster() {
            return;
        }
        let most = (self.profile.skew.as_micros() as u64).max(ADJUSTED);
        let offset = self.dice.below(2 * most) as i64 - most as i64;
        let drift = self.dice.below(2 * MOST_DRIFT) as i64 - MOST_DRIFT as i64;
        let server = &mut self.servers[server];
        (server.wall_offset, server.drift) = (offset, drift);
    }

    pub(crate) fn wall_jumps(&mut self, server: usize, micros: i64) {
        self.latest = self.latest.max(self.wall_of(server));
        self.servers[server].wall_offset += micros;
        // The shell notices jumps and looks up.
        let owners: Vec<u32> =
            self.owners.iter().filter(|(_, owner)| owner.life.server == server).map(|(number, _)| *number).collect();
        for owner in owners {
            self.after(0, Event::Alarm(owner));
        }
    }

    /// Every wall clock shows what all others show, and at least what any ever showed, so that nothing waits for it.
    pub(crate) fn set_clocks_right(&mut self) {
        let behind = self.latest.as_micros() - self.wall().as_micros();
        self.skipped += behind.max(0);
        self.servers.iter_mut().for_each(|server| server.wall_offset = 0);
    }

    /// One step of a server.
    pub(crate) fn step(&mut self, server: usize) -> Step {
        self.steps += 1;
        match &mut self.servers[server].misfortune {
            None => Step::Goes,
            Some((0, misfortune)) => {
                let misfortune = *misfortune;
                self.servers[server].misfortune = None;
                self.befall(server, misfortune)
            }
            Some((left, _)) => {
                *left -= 1;
                Step::Goes
            }
        }
    }

    pub(crate) fn befall(&mut self, server: usize, misfortune: Misfortune) -> Step {
        trace!(self, "server s{server} meets {misfortune:?}");
        match misfortune {
            Misfortune::Crash => {
                self.audit.counts.crashes += 1;
                self.kill_server(server);
                Step::Died
            }
            Misfortune::Stall(length) => {
                self.stand_still(server, length.as_micros() as u64);
                Step::StandsStill
            }
            Misfortune::Suspend(length) => {
                let length = length.as_micros() as u64;
                self.servers[server].lag += length;
                self.stand_still(server, length);
                Step::StandsStill
            }
            Misfortune::Deaf => {
                self.servers[server].deaf = true;
                Step::Goes
            }
        }
    }

    /// A server does nothing for so long, from now on.
    pub(crate) fn stand_still(&mut self, server: usize, micros: u64) {
        if !self.servers[server].alive || micros == 0 {
            return;
        }
        self.audit.counts.stalls += 1;
        let until = self.now + micros;
        self.servers[server].stands_until = until;
        let life = self.life(server);
        self.at(until, Event::Wakes(life));
        self.expect_pings(life);
    }

    /// What happened to a server while it stood still.
    pub(crate) fn wakes(&mut self, life: Life) {
        while self.lives(life) && !self.servers[life.server].stands_still(self.now) && self.violation().is_none() {
            let Some(event) = self.servers[life.server].held_up.pop_front() else { return };
            self.happen(event);
        }
    }

    /// Whoever stands still goes on, with all that came meanwhile in its order.
    pub(crate) fn wake_all(&mut self) {
        for server in 0..self.servers.len() {
            self.servers[server].stands_until = 0;
            let life = self.life(server);
            self.after(0, Event::Wakes(life));
        }
    }

    pub(crate) fn boot_server(&mut self, server: usize) {
        if self.servers[server].alive {
            return;
        }
        self.next_life += 1;
        let boot = self.next_life;
        let former = &self.servers[server];
        self.servers[server] = Server {
            boot,
            alive: true,
            wall_offset: former.wall_offset,
            drift: former.drift,
            lag: former.lag,
            no_store_until: former.no_store_until,
            no_workers_until: former.no_workers_until,
            no_peers_until: former.no_peers_until,
            slow_until: former.slow_until,
            ..Server::new(self.profile.partitions)
        };
        let life = self.life(server);
        trace!(self, "server s{server} starts as {boot}");
        if self.profile.is_cluster() {
            self.beat(life);
        } else {
            self.servers[server].seat = Seat::In { until: u64::MAX };
            self.take_again(life);
        }
    }

    /// The process is gone without a word. What it sent to the store may be on its way still.
    pub(crate) fn kill_server(&mut self, server: usize) {
        if !self.servers[server].alive {
            return;
        }
        let life = self.life(server);
        trace!(self, "server s{server} is gone");
        self.servers[server].alive = false;
        self.servers[server].held_up.clear();
        self.servers[server].misfortune = None;
        self.servers[server].stands_until = 0;
        let theirs: Vec<u32> =
            self.owners.iter().filter(|(_, owner)| owner.life == life).map(|(number, _)| *number).collect();
        for owner in theirs {
            self.forget_owner(owner);
        }
        self.break_off(life);
        let on_their_way: Vec<u64> = self.asked_by(life);
        for asked in on_their_way {
            if !self.profile.is_cluster() || self.dice.chance(500) {
                self.forget_asked(asked);
            }
        }
        let pause = if self.healed || !self.profile.is_cluster() || self.dice.chance(600) {
            self.restart_pause()
        } else {
            self.dice.between(2 * SECOND, 20 * SECOND)
        };
        self.after(pause, Event::Boot(server));
    }

    pub(crate) fn restart_pause(&mut self) -> u64 {
        self.dice.between(50 * MILLI, 1500 * MILLI)
    }

    /// Whether a server may act: commit and perform. By its own clock, which is all that it has.
    pub(crate) fn acts(&self, server: usize) -> bool {
        self.ignores_leases() || self.servers[server].is_in(self.now)
    }

    /// Whether that is broken. Once all is repaired it is not: who has nothing to commit would never learn that it was
    /// superseded.
    pub(crate) fn ignores_leases(&self) -> bool {
        !self.healed && self.breakage.is_some_and(Breakage::ignores_leases)
    }

    /// Something happens to the next server that gets so far.
    pub(crate) fn lie_in_wait(&mut self, point: FailPoint) {
        self.ambushes.push(point);
    }

    /// A server got so far: the store has done it, and the answer is on its way. It may be hit.
    pub(crate) fn reaches(&mut self, life: Life, point: Point) {
        let Some(position) = self.ambushes.iter().position(|ambush| ambush.point == point) else { return };
        self.ambushes[position].nth = self.ambushes[position].nth.saturating_sub(1);
        let FailPoint { nth, what, steps, .. } = self.ambushes[position];
        if nth == 0 && self.lives(life) {
            self.ambushes.remove(position);
            self.audit.counts.ambushes += 1;
            match steps {
                None => drop(self.befall(life.server, what)),
                Some(steps) => self.servers[life.server].misfortune = Some((steps, what)),
            }
        }
    }

    /// A server among those that have a partition in hand, or any.
    pub(crate) fn some_server(&mut self) -> usize {
        let busy = |server: &&usize| self.servers[**server].holds.iter().any(|hold| *hold != Hold::Nothing);
        let all: Vec<usize> = (0..self.servers.len()).collect();
        let busy: Vec<usize> = all.iter().filter(busy).copied().collect();
        if busy.is_empty() || self.dice.chance(300) { *self.dice.pick(&all) } else { *self.dice.pick(&busy) }
    }

    /// The owner that a server runs for a partition, if that takes inputs.
    pub(crate) fn serving(&self, server: usize, partition: PartitionId) -> Option<u32> {
        let Hold::Serving { owner } = self.servers[server].holds[usize::from(partition.0)] else { return None };
        self.owners.get(&owner).is_some_and(|owner| owner.closing.is_none()).then_some(owner)
    }

    /// Where a server believes that a partition is owned, if it can reach that.
    pub(crate) fn believed_owner(&self, server: usize, partition: PartitionId) -> Option<Life> {
        let view = self.servers[server].view.as_ref()?;
        let owner = view.holdings[usize::from(partition.0)].owner?;
        self.process(owner).filter(|life| self.are_linked(server, life.server))
    }

    /// Whether two servers reach each other.
    pub(crate) fn are_linked(&self, one: usize, other: usize) -> bool {
        let is_cut = |server: usize| self.servers[server].no_peers_until > self.now;
        one != other && !is_cut(one) && !is_cut(other)
    }
}
