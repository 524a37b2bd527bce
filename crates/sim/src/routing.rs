//! The way of a request: any server takes it, the owner carries it out, and somebody answers within a deadline.

use std::collections::BTreeMap;

use pendula_engine::{Command, Input, Reply, ReplyTo};
use pendula_model::PartitionId;

use crate::server::Life;
use crate::world::{Event, MILLI, SECOND, World};

/// How long a server looks for the owner of what is asked.
const DEADLINE: u64 = 2500 * MILLI;
const LOOK_AGAIN: u64 = 200 * MILLI;

/// A request at a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) number: u64,
    /// The server process that took it from the user.
    pub(crate) taken_by: Life,
    until: u64,
}

impl World {
    /// A user's request comes to some server.
    pub(crate) fn request_arrives(&mut self, number: u64, server: usize) {
        if self.servers[server].alive && self.servers[server].no_workers_until <= self.now {
            let until = self.now + DEADLINE;
            self.route(Wish { number, taken_by: self.life(server), until });
        }
    }

    /// A server passes a request to the owner, or looks for it a little later, or gives up.
    pub(crate) fn route(&mut self, wish: Wish) {
        let Some(command) = self.users.command(wish.number) else { return };
        if !self.lives(wish.taken_by) {
            return;
        }
        let partition = self.partition_of(&command);
        let server = wish.taken_by.server;
        if let Some(owner) = self.serving(server, partition) {
            return self.carry_out(owner, wish);
        }
        if let Some(owner) = self.believed_owner(server, partition) {
            let way = self.dice.between(50, 2 * MILLI);
            return self.after(way, Event::PassedOn(wish, owner));
        }
        self.look_again(wish);
    }

    fn look_again(&mut self, wish: Wish) {
        if self.now < wish.until {
            self.after(LOOK_AGAIN, Event::Route(wish));
        } else {
            self.answer(wish.number, wish.taken_by, None);
        }
    }

    /// A request comes to the server that another believes to be the owner.
    pub(crate) fn passed_on(&mut self, wish: Wish, to: Life) {
        let Some(command) = self.users.command(wish.number) else { return };
        if !self.lives(to) {
            return self.look_again(wish);
        }
        let partition = self.partition_of(&command);
        match self.serving(to.server, partition) {
            Some(owner) => self.carry_out(owner, wish),
            None => self.look_again(wish),
        }
    }

    fn carry_out(&mut self, number: u32, wish: Wish) {
        let Some(command) = self.users.command(wish.number) else { return };
        let Some(owner) = self.owners.get_mut(&number) else { return };
        owner.callers.insert(wish.number, wish.taken_by);
        self.audit.asked(&command);
        self.decide(number, Input::Command { command, reply_to: ReplyTo(wish.number) });
    }

    /// The owner answers.
    pub(crate) fn reply_leaves(&mut self, owner: u32, request: u64, reply: Reply) {
        if let Some(command) = self.users.command(request) {
            self.audit.replied(&command, &reply);
        }
        if let Some(caller) = self.owners.get_mut(&owner).and_then(|owner| owner.callers.remove(&request)) {
            self.answer(request, caller, Some(reply));
        }
    }

    /// Whoever waits for replies of an owner that is gone is told to try again.
    pub(crate) fn let_callers_go(&mut self, callers: BTreeMap<u64, Life>) {
        for (request, caller) in callers {
            self.answer(request, caller, None);
        }
    }

    /// An answer goes back to the user through the server that took the request; none means that it may or may not have
    /// been carried out.
    fn answer(&mut self, request: u64, caller: Life, reply: Option<Reply>) {
        if self.healed || !self.dice.chance(self.profile.replies_lost) {
            let way = self.dice.between(50, 5 * MILLI);
            self.after(way, Event::ReplyArrives(request, caller, reply.map(Box::new)));
        }
    }

    pub(crate) fn reply_arrives(&mut self, request: u64, caller: Life, reply: Option<Reply>) {
        if !self.lives(caller) || self.servers[caller.server].no_workers_until > self.now {
            return;
        }
        match reply {
            Some(reply) => self.user_hears(request, reply),
            None => {
                let pause = self.dice.between(100 * MILLI, SECOND);
                self.user_is_put_off(request, pause);
            }
        }
    }

    fn partition_of(&self, command: &Command) -> PartitionId {
        match command {
            Command::AppCreate { name, .. } => PartitionId::of_app(name, self.profile.partitions),
            Command::AppUpdate { app, .. }
            | Command::AppDelete { app }
            | Command::JobApply { app, .. }
            | Command::JobEnable { app, .. }
            | Command::JobDelete { app, .. }
            | Command::WorkerDrain { app, .. }
            | Command::WorkerList { app } => app.partition(),
            Command::JobRun(run) => run.app.partition(),
            Command::InstanceCancel { instance }
            | Command::InstanceStop { instance }
            | Command::TasksRetry { instance, .. }
            | Command::InstanceExplain { instance, .. } => instance.partition(),
        }
    }
}
