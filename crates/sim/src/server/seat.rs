//! A server's lease: taken, prolonged each second, and given up by its own clock before the store would say so.

use std::rc::Rc;
use std::time::Duration;

use pendula_store::ClusterView;

use super::{Life, Server};
use crate::asking::Op;
use crate::breakage::Breakage;
use crate::trace::trace;
use crate::world::{Event, SECOND, World};

/// How long a lease lasts, by the store's clock.
pub(crate) const TTL: Duration = Duration::from_secs(5);
const RENEW_EVERY: u64 = SECOND;
/// A server stops acting when nine tenths of its lease have passed since before it asked for it.
const OWN_COUNT: u64 = TTL.as_micros() as u64 * 9 / 10;

/// Whether a server has a lease, as far as it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    Out,
    Joining,
    /// Until its monotonic clock shows this.
    In {
        until: u64,
    },
}

impl Server {
    pub(super) fn is_in(&self, now: u64) -> bool {
        matches!(self.seat, Seat::In { until } if until == u64::MAX || self.monotonic(now) < until)
    }
}

impl World {
    /// Time to renew, or to try again to join.
    pub(crate) fn beat(&mut self, life: Life) {
        let server = &mut self.servers[life.server];
        let next = server.real(RENEW_EVERY);
        self.after(next, Event::Beat(life));
        self.renew(life);
    }

    fn renew(&mut self, life: Life) {
        let server = &mut self.servers[life.server];
        match server.seat {
            Seat::Out => self.join(life),
            Seat::In { .. } if !std::mem::replace(&mut server.renewing, true) => {
                let (lapses, is_leaving) = (server.lapses, server.leaving);
                self.ask_store(life, Op::Renew { lapses, is_leaving });
            }
            _ => {}
        }
    }

    fn join(&mut self, life: Life) {
        self.servers[life.server].seat = Seat::Joining;
        self.ask_store(life, Op::Join);
    }

    pub(crate) fn joined(&mut self, life: Life, asked_at: u64, is_heard: bool) {
        let server = &mut self.servers[life.server];
        if server.seat != Seat::Joining {
            return;
        }
        server.renewing = false;
        if !is_heard {
            // The next beat tries again.
            server.seat = Seat::Out;
            return;
        }
        self.prolong(life, asked_at);
        self.ask_store(life, Op::View);
    }

    /// The store's word on a renewal; none when it was not heard.
    pub(crate) fn renewed(&mut self, life: Life, lapses: u32, asked_at: u64, answer: Option<bool>) {
        let server = &mut self.servers[life.server];
        if server.lapses != lapses || !matches!(server.seat, Seat::In { .. }) {
            return;
        }
        server.renewing = false;
        match answer {
            Some(true) => {
                self.prolong(life, asked_at);
                self.ask_store(life, Op::View);
            }
            Some(false) => self.lapse(life, "its renewal was refused"),
            None => {}
        }
    }

    fn prolong(&mut self, life: Life, asked_at: u64) {
        let now = self.now;
        let counted_late = self.breakage == Some(Breakage::LeaseCountedLate);
        let server = &mut self.servers[life.server];
        let from = if counted_late { server.monotonic(now) + OWN_COUNT / 9 } else { asked_at };
        let earlier = if let Seat::In { until } = server.seat { until } else { 0 };
        let until = (from + OWN_COUNT).max(earlier);
        server.seat = Seat::In { until };
        let left = server.real(until.saturating_sub(server.monotonic(now)));
        self.after(left, Event::LeaseOver(life));
    }

    /// Looks whether the lease has run out.
    pub(crate) fn lease_over(&mut self, life: Life) {
        let is_out = matches!(self.servers[life.server].seat, Seat::In { .. }) && !self.acts(life.server);
        if is_out {
            self.lapse(life, "its lease is over");
        }
    }

    /// Everything that a server did under its lease is over; it begins anew.
    pub(crate) fn lapse(&mut self, life: Life, why: &str) {
        trace!(self, "server s{} lets go of everything: {why}", life.server);
        self.audit.counts.lapses += 1;
        self.servers[life.server].lapses += 1;
        self.servers[life.server].renewing = false;
        if !self.ignores_leases() {
            self.let_go_of_all(life.server, why);
        }
        if self.servers[life.server].leaving {
            // There is nothing left to hand over.
            return self.kill_server(life.server);
        }
        self.join(life);
    }

    pub(crate) fn viewed(&mut self, life: Life, view: Rc<ClusterView>) {
        self.servers[life.server].view = Some(view.clone());
        self.look_around(life, &view);
    }

    /// Its operator asks it to shut down.
    pub(crate) fn retire_server(&mut self, server: usize) {
        if !self.servers[server].alive || self.servers[server].leaving {
            return;
        }
        let life = self.life(server);
        trace!(self, "server s{server} is asked to shut down");
        self.servers[server].leaving = true;
        self.renew(life);
        self.after(4 * SECOND, Event::Exit(life));
        self.hand_over_all(life);
    }
}
