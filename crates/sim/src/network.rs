//! Connections between workers and owners: each carries one session, in order unless the profile says otherwise, and may
//! break, or swallow everything without a word. Workers dial any server; one that is not the owner passes the session on,
//! or refuses it.

use std::time::Duration;

use pendula_engine::input::{Report, WorkerHello};
use pendula_engine::{Dispatch, Input, Mapping};
use pendula_model::worker::WorkerRef;
use pendula_model::{AttemptKey, SessionId};

use crate::breakage::Breakage;
use crate::faults::Fault;
use crate::server::Life;
use crate::trace::trace;
use crate::world::{Event, MILLI, SECOND, World};

/// A worker that was silent for so long is taken for gone.
const SILENCE: u64 = 10 * SECOND;

/// A worker that is not welcomed for so long dials again.
const NO_WELCOME: u64 = 10 * SECOND;

/// What a server says to a worker.
#[derive(Clone, Debug)]
pub(crate) enum ToWorker {
    Welcome { abort: Vec<AttemptKey> },
    Dispatch(Box<Dispatch>),
    Stop { attempt: AttemptKey, grace: Duration, abandon: bool },
    Ack { attempt: AttemptKey },
    Mapped { attempt: AttemptKey, reply: Result<u64, String> },
    Drain,
}

/// What a worker says to a server.
#[derive(Clone, Debug)]
pub(crate) enum ToServer {
    Hello(Box<WorkerHello>),
    Alive { seen: u64, held: Vec<AttemptKey> },
    Draining,
    Reports(Vec<Report>),
    Maps(Vec<Mapping>),
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: usize,
    pub(crate) boot: u64,
    pub(crate) session: SessionId,
    /// The server process that took it.
    pub(crate) entry: Life,
    /// The one that it is passed on to.
    pub(crate) relay: Option<Life>,
    /// Whom the session is with, once its hello was taken.
    pub(crate) owner: Option<u32>,
    server_open: bool,
    worker_open: bool,
    swallows: bool,
    /// When the last message of each direction arrives, so that the next does not arrive before it.
    last_to_worker: u64,
    last_to_server: u64,
    heard_at: u64,
}

impl World {
    /// A worker dials some server; `None` when that is not there.
    pub(crate) fn connect(&mut self, worker: usize) -> Option<u32> {
        let server = self.dice.below(self.servers.len() as u64) as usize;
        if !self.servers[server].alive || self.servers[server].no_workers_until > self.now {
            return None;
        }
        let id = self.next_connection;
        self.next_connection += 1;
        let connection = Connection {
            worker,
            boot: self.workers[worker].boot,
            session: SessionId(u64::from(id)),
            entry: self.life(server),
            relay: None,
            owner: None,
            server_open: true,
            worker_open: true,
            swallows: false,
            last_to_worker: 0,
            last_to_server: 0,
            heard_at: self.now,
        };
        self.connections.insert(id, connection);
        self.after(SILENCE, Event::Silence(id));
        self.after(NO_WELCOME, Event::DialOverdue(id));
        Some(id)
    }

    pub(crate) fn process_behind(&self, connection: u32) -> WorkerRef {
        let Connection { worker, boot, .. } = self.connections[&connection];
        self.workers[worker].reference(boot)
    }

    pub(crate) fn send_to_worker(&mut self, id: u32, message: ToWorker) {
        // A session begins with its welcome; and who asked for a drain is there to ask again.
        let may_fail = !matches!(message, ToWorker::Welcome { .. } | ToWorker::Drain);
        for (at, message) in self.routed(message, may_fail) {
            let Some(connection) = self.connections.get_mut(&id).filter(|c| c.server_open && !c.swallows) else {
                return;
            };
            let at = if self.profile.reorders && may_fail { at } else { at.max(connection.last_to_worker) };
            connection.last_to_worker = at.max(connection.last_to_worker);
            self.at(at, Event::ToWorker(id, message));
        }
    }

    pub(crate) fn send_to_server(&mut self, id: u32, message: ToServer) {
        let may_fail = !matches!(message, ToServer::Hello(_));
        for (at, message) in self.routed(message, may_fail) {
            let Some(connection) = self.connections.get_mut(&id).filter(|c| c.worker_open && !c.swallows) else {
                return;
            };
            let at = if self.profile.reorders && may_fail { at } else { at.max(connection.last_to_server) };
            connection.last_to_server = at.max(connection.last_to_server);
            self.at(at, Event::ToServer(id, message));
        }
    }

    /// When a message arrives: never, once, or twice.
    fn routed<M: Clone>(&mut self, message: M, may_fail: bool) -> Vec<(u64, M)> {
        let at = self.now + self.dice.between(50, 2 * MILLI);
        if !may_fail || self.healed {
            return vec![(at, message)];
        }
        let profile = &self.profile;
        if self.dice.chance(profile.lost) {
            return Vec::new();
        }
        let at = if self.dice.chance(profile.late) { at + self.dice.below(3 * SECOND) } else { at };
        if self.dice.chance(profile.repeated) {
            let again = at + self.dice.below(SECOND);
            return vec![(at, message.clone()), (again, message)];
        }
        vec![(at, message)]
    }

    pub(crate) fn arrives_at_server(&mut self, id: u32, message: ToServer) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id).filter(|c| c.server_open && !c.swallows) else { return };
        connection.heard_at = now;
        let message = match message {
            ToServer::Hello(hello) => return self.greeted(id, hello),
            message => message,
        };
        let (Some(owner), session) = (connection.owner, connection.session) else { return };
        let input = match message {
            ToServer::Hello(_) => return,
            ToServer::Alive { seen, held } => {
                Input::WorkerAlive { session, dispatches_seen: seen, held, metrics: None }
            }
            ToServer::Draining => Input::WorkerDraining { session },
            ToServer::Reports(reports) => Input::Reported { session, reports },
            ToServer::Maps(mut maps) => {
                if self.breakage == Some(Breakage::MapsTakenAgain) {
                    for map in &mut maps {
                        // As if nobody looked at what is there already.
                        map.first = self.audit.emitted(map.attempt.key()).unwrap_or(map.first);
                    }
                }
                Input::Mapped { session, maps }
            }
        };
        self.decide(owner, input);
    }

    /// A worker's first words: taken by the owner, passed on to it, or refused.
    fn greeted(&mut self, id: u32, mut hello: Box<WorkerHello>) {
        let Some(connection) = self.connections.get(&id) else { return };
        let is_relayed = connection.relay.is_some();
        let at = connection.relay.unwrap_or(connection.entry);
        if !self.lives(at) {
            return;
        }
        let partition = hello.app.partition();
        if let Some(number) = self.serving(at.server, partition) {
            let connection = self.connections.get_mut(&id).expect("just seen");
            connection.owner = Some(number);
            hello.session = connection.session;
            self.audit.counts.retold += hello.finished.len() as u64;
            let owner = self.owners.get_mut(&number).expect("it is served");
            owner.sessions.insert(hello.session, id);
            return self.decide(number, Input::WorkerConnected(hello));
        }
        match self.believed_owner(at.server, partition).filter(|_| !is_relayed) {
            Some(relay) => {
                let way = self.dice.between(50, 2 * MILLI);
                self.connections.get_mut(&id).expect("just seen").relay = Some(relay);
                self.after(way, Event::ToServer(id, ToServer::Hello(hello)));
            }
            None => self.server_closes(id),
        }
    }

    pub(crate) fn arrives_at_worker(&mut self, id: u32, message: ToWorker) {
        let Some(connection) = self.connections.get(&id).filter(|c| c.worker_open && !c.swallows) else { return };
        let (worker, boot) = (connection.worker, connection.boot);
        if self.workers[worker].is(boot) {
            self.worker_takes(worker, id, message);
        }
    }

    /// Looks whether the worker was heard lately.
    pub(crate) fn silence(&mut self, id: u32) {
        let now = self.now;
        let Some(connection) = self.connections.get(&id).filter(|c| c.server_open) else { return };
        let heard_at = connection.heard_at;
        if self.breakage == Some(Breakage::SilenceUnnoticed) {
            return;
        }
        if now - heard_at >= SILENCE {
            trace!(self, "silence on connection {id}");
            self.server_loses(id);
        } else {
            self.at(heard_at + SILENCE, Event::Silence(id));
        }
    }

    /// The server's end of a connection is gone, and its owner is told.
    pub(crate) fn server_loses(&mut self, id: u32) {
        let Some(connection) = self.connections.get(&id).filter(|c| c.server_open) else { return };
        let (owner, session) = (connection.owner, connection.session);
        self.server_closes(id);
        if let Some(owner) = owner {
            self.decide(owner, Input::WorkerDisconnected { session });
        }
    }

    /// The server closes its end; the worker will notice.
    pub(crate) fn server_closes(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(&id).filter(|c| c.server_open) else { return };
        connection.server_open = false;
        if let Some(owner) = connection.owner.and_then(|owner| self.owners.get_mut(&owner)) {
            owner.sessions.remove(&connection.session);
        }
        let at = connection.last_to_worker.max(self.now + MILLI);
        if !connection.swallows {
            self.at(at, Event::WorkerSeesClose(id));
        }
    }

    /// The worker closes its end, or dies; the server will notice.
    pub(crate) fn worker_closes(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(&id).filter(|c| c.worker_open) else { return };
        connection.worker_open = false;
        let at = connection.last_to_server.max(self.now + MILLI);
        if !connection.swallows {
            self.at(at, Event::ServerSeesClose(id));
        }
    }

    /// Both ends of a connection see it break.
    pub(crate) fn break_connection(&mut self, swallow: bool) {
        let open = self.connections.iter().filter(|(_, c)| c.server_open && c.worker_open && !c.swallows);
        let open: Vec<u32> = open.map(|(id, _)| *id).collect();
        if open.is_empty() {
            return;
        }
        let id = *self.dice.pick(&open);
        if swallow { self.swallow(id) } else { self.break_now(id) }
    }

    fn swallow(&mut self, id: u32) {
        trace!(self, "connection {id} swallows everything");
        let found_out = self.dice.between(8 * SECOND, 25 * SECOND);
        self.connections.get_mut(&id).expect("the caller has it").swallows = true;
        self.after(found_out, Event::WorkerSeesClose(id));
    }

    fn break_now(&mut self, id: u32) {
        trace!(self, "connection {id} breaks");
        let (first, second) = (self.dice.below(200 * MILLI), self.dice.below(200 * MILLI));
        self.after(first, Event::WorkerSeesClose(id));
        self.after(second, Event::ServerSeesClose(id));
    }

    /// The connections that go through a server, or end there.
    fn through(&self, server: usize, wanted: impl Fn(&Connection) -> bool) -> Vec<u32> {
        let touches = |c: &Connection| c.entry.server == server || c.relay.is_some_and(|relay| relay.server == server);
        let open = self.connections.iter().filter(|(_, c)| (c.server_open || c.worker_open) && touches(c) && wanted(c));
        open.map(|(id, _)| *id).collect()
    }

    /// A server process is gone. Its machine says so to everybody, unless that is gone too.
    pub(crate) fn break_off(&mut self, life: Life) {
        for id in self.through(life.server, |c| c.entry == life || c.relay == Some(life)) {
            let may_be_silent = self.profile.is_cluster() && self.profile.may(Fault::HalfOpen) && !self.healed;
            let is_silent = may_be_silent && self.dice.chance(200);
            let connection = self.connections.get_mut(&id).expect("just listed");
            let ends_here = connection.relay.unwrap_or(connection.entry) == life;
            connection.server_open &= !ends_here;
            if connection.swallows {
                continue;
            }
            if is_silent { self.swallow(id) } else { self.break_now(id) }
        }
    }

    /// An owner is gone from a server that lives: its workers are asked to connect again.
    pub(crate) fn let_workers_go(&mut self, owner: u32) {
        let theirs: Vec<u32> =
            self.connections.iter().filter(|(_, c)| c.owner == Some(owner)).map(|(id, _)| *id).collect();
        theirs.into_iter().for_each(|id| self.server_closes(id));
    }

    /// A server stands still, and does not answer the pings of who is connected.
    pub(crate) fn expect_pings(&mut self, life: Life) {
        for id in self.through(life.server, |c| c.worker_open) {
            let found_out = self.dice.between(10 * SECOND, 20 * SECOND);
            self.after(found_out, Event::PingOverdue(id, life.server));
        }
    }

    pub(crate) fn ping_overdue(&mut self, id: u32, server: usize) {
        if self.servers[server].stands_still(self.now) {
            self.worker_sees_close(id);
        }
    }

    /// The way between a server and workers, or between it and other servers, swallows everything.
    pub(crate) fn cut(&mut self, server: usize, from_workers: bool) {
        let ids = self.through(server, |c| !c.swallows && (c.entry.server == server || !from_workers));
        for id in ids {
            let connection = &self.connections[&id];
            if from_workers || connection.relay.is_some() {
                self.swallow(id);
            }
        }
    }
}
