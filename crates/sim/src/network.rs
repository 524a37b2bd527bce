//! Connections between workers and owners: each carries one session, in order unless the profile says otherwise, and may
//! break, or swallow everything without a word.

use std::time::Duration;

use pendula_engine::input::{Report, WorkerHello};
use pendula_engine::{Dispatch, Input, Mapping};
use pendula_model::worker::WorkerRef;
use pendula_model::{AttemptKey, SessionId};

use crate::breakage::Breakage;
use crate::trace::trace;
use crate::world::{Event, MILLI, SECOND, World};

/// A worker that was silent for so long is taken for gone.
const SILENCE: u64 = 10 * SECOND;

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
    pub(crate) owner: u32,
    server_open: bool,
    worker_open: bool,
    swallows: bool,
    /// When the last message of each direction arrives, so that the next does not arrive before it.
    last_to_worker: u64,
    last_to_server: u64,
    heard_at: u64,
}

impl World {
    /// A worker dials whoever owns the partition; `None` when nobody does.
    pub(crate) fn connect(&mut self, worker: usize) -> Option<u32> {
        let owner = self.current?;
        let id = self.next_connection;
        self.next_connection += 1;
        let connection = Connection {
            worker,
            boot: self.workers[worker].boot,
            session: SessionId(u64::from(id)),
            owner,
            server_open: true,
            worker_open: true,
            swallows: false,
            last_to_worker: 0,
            last_to_server: 0,
            heard_at: self.now,
        };
        self.connections.insert(id, connection);
        self.after(SILENCE, Event::Silence(id));
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
        let (owner, session) = (connection.owner, connection.session);
        let input = match message {
            ToServer::Hello(mut hello) => {
                if let Some(owner) = self.owners.get_mut(&owner) {
                    owner.sessions.insert(session, id);
                }
                hello.session = session;
                Input::WorkerConnected(hello)
            }
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
        self.decide(owner, Input::WorkerDisconnected { session });
    }

    /// The server closes its end; the worker will notice.
    pub(crate) fn server_closes(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(&id).filter(|c| c.server_open) else { return };
        connection.server_open = false;
        if let Some(owner) = self.owners.get_mut(&connection.owner) {
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
        trace!(self, "connection {id} {}", if swallow { "swallows everything" } else { "breaks" });
        if swallow {
            let found_out = self.dice.between(8 * SECOND, 25 * SECOND);
            self.connections.get_mut(&id).expect("just seen").swallows = true;
            self.after(found_out, Event::WorkerSeesClose(id));
        } else {
            let (first, second) = (self.dice.below(200 * MILLI), self.dice.below(200 * MILLI));
            self.after(first, Event::WorkerSeesClose(id));
            self.after(second, Event::ServerSeesClose(id));
        }
    }
}
