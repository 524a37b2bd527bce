//! All workers that we talk to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::association::{Association, Greeted, Outgoing, SendError, closed, fresh};
use super::counters::Counters;
use super::gate::Gate;
use super::inbound::{Payload, ReplyTo};
use super::limits::Limits;
use super::room::Room;
use crate::artery::address::WORKER_SYSTEM;
use crate::artery::{Address, UniqueAddress};

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// It did not go out, or may not have.
    #[error(transparent)]
    Send(#[from] SendError),
    /// It went out, and no answer came in time.
    #[error("it did not answer within {0:?}")]
    NoAnswer(Duration),
    /// The worker was started anew meanwhile: whom we asked is gone.
    #[error("it was started anew before it answered")]
    Restarted,
    /// Too many questions wait already.
    #[error("too many questions wait for answers already")]
    TooMany,
}

/// Who is to hear something: whoever is at an address, or one process there and no other.
#[derive(Clone, Copy, Debug)]
pub struct Hearer<'a> {
    worker: &'a Address,
    process: Option<u64>,
}

impl<'a> From<&'a Address> for Hearer<'a> {
    fn from(worker: &'a Address) -> Self {
        Hearer { worker, process: None }
    }
}

impl<'a> From<&'a UniqueAddress> for Hearer<'a> {
    fn from(worker: &'a UniqueAddress) -> Self {
        Hearer { worker: &worker.address, process: Some(worker.uid) }
    }
}

/// The way to workers. Cheap to clone; of no use any more once its node is closed.
#[derive(Clone)]
pub struct Associations {
    shared: Arc<Shared>,
}

struct Shared {
    advertised: UniqueAddress,
    limits: Limits,
    gate: Arc<dyn Gate>,
    room: Arc<Room>,
    counters: Arc<Counters>,
    tasks: TaskTracker,
    stop: CancellationToken,
    table: Mutex<Table>,
    asks: Mutex<HashMap<String, Asked>>,
}

#[derive(Default)]
struct Table {
    workers: HashMap<Address, Arc<Association>>,
    /// Who has which number. Numbers are anybody's to claim, so that one counts only where it came from.
    by_uid: HashMap<(u64, IpAddr), Address>,
}

struct Asked {
    worker: Address,
    process: Option<u64>,
    answer: oneshot::Sender<Payload>,
}

impl Associations {
    pub(super) fn new(
        advertised: Address,
        limits: Limits,
        gate: Arc<dyn Gate>,
        room: Arc<Room>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let shared = Shared {
            advertised: fresh(advertised),
            limits,
            gate,
            room,
            counters: Arc::default(),
            tasks,
            stop,
            table: Mutex::default(),
            asks: Mutex::default(),
        };
        Associations { shared: Arc::new(shared) }
    }

    /// Tells `worker`'s actor of that name something, and returns once it is written to the worker's socket.
    ///
    /// It dials if it has to. What is for one process is written only to a connection over which that process said who it
    /// is. Dropping the future takes the message back if it was not written yet.
    ///
    /// # Errors
    /// It was not, or may not have been.
    pub async fn tell(
        &self,
        worker: impl Into<Hearer<'_>>,
        actor: &str,
        payload: impl Into<Bytes>,
    ) -> Result<(), SendError> {
        let what = Outgoing::Message { actor: actor.to_owned(), answer_to: None, payload: payload.into() };
        self.send(worker.into(), what).await
    }

    /// Asks it something and waits for the answer.
    ///
    /// # Errors
    /// There is none, for whichever reason; only [`SendError::NotSent`] and its like say that the worker did not hear it.
    pub async fn ask(
        &self,
        worker: impl Into<Hearer<'_>>,
        actor: &str,
        payload: impl Into<Bytes>,
        within: Duration,
    ) -> Result<Payload, AskError> {
        let hearer = worker.into();
        let deadline = Instant::now() + within;
        let name = format!("{:032x}", rand::random::<u128>());
        let (answer, answered) = oneshot::channel();
        {
            let mut asks = lock(&self.shared.asks);
            if asks.len() >= self.shared.limits.asks {
                return Err(AskError::TooMany);
            }
            asks.insert(name.clone(), Asked { worker: hearer.worker.clone(), process: hearer.process, answer });
        }
        let _forget = Forget { shared: &self.shared, name: &name };
        let answer_to = Some(name.clone());
        let what = Outgoing::Message { actor: actor.to_owned(), answer_to, payload: payload.into() };
        match timeout_at(deadline, self.send(hearer, what)).await {
            Ok(sent) => sent?,
            Err(_) => return Err(AskError::NoAnswer(within)),
        }
        match timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(AskError::Restarted),
            Err(_) => Err(AskError::NoAnswer(within)),
        }
    }

    /// Answers a question of a process that is there.
    ///
    /// # Errors
    /// The answer did not go out, or may not have.
    pub async fn reply(&self, to: &ReplyTo, payload: impl Into<Bytes>) -> Result<(), SendError> {
        let what = Outgoing::Answer { recipient: to.recipient.clone(), payload: payload.into() };
        self.send(Hearer::from(&to.worker), what).await
    }

    /// Whether there is a connection of ours to the worker now. That it is there does not say that the worker is.
    pub fn is_connected(&self, worker: &Address) -> bool {
        lock(&self.shared.table).workers.get(worker).is_some_and(|association| association.is_connected())
    }

    /// Workers that we talk to.
    pub fn count(&self) -> usize {
        lock(&self.shared.table).workers.len()
    }

    /// Connections that workers have to us.
    pub fn connections(&self) -> usize {
        self.shared.room.connections()
    }

    /// Bytes that were received and not worked off.
    pub fn held(&self) -> usize {
        self.shared.room.held()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    async fn send(&self, Hearer { worker, process }: Hearer<'_>, what: Outgoing) -> Result<(), SendError> {
        let association = {
            let mut table = lock(&self.shared.table);
            let us = &self.shared.advertised.address;
            self.association(&mut table, worker, us).ok_or(SendError::Full)?
        };
        let sent = association.send(what, process)?;
        sent.await.unwrap_or_else(|_| Err(closed()))
    }

    /// The worker's association, a new one if need be; `None` when there are too many.
    fn association(&self, table: &mut Table, worker: &Address, us: &Address) -> Option<Arc<Association>> {
        if let Some(association) = table.workers.get(worker).filter(|association| !association.is_over()) {
            return Some(association.clone());
        }
        if table.workers.len() >= self.shared.limits.associations || self.shared.stop.is_cancelled() {
            return None;
        }
        // A worker has one number towards all, by which servers tell each other of it.
        let advertised = &self.shared.advertised;
        let is_worker = advertised.address.system() == WORKER_SYSTEM && advertised.address == *us;
        let us = if is_worker { advertised.clone() } else { fresh(us.clone()) };
        let association = Association::new(worker.clone(), us, self.shared.limits);
        table.workers.insert(worker.clone(), association.clone());
        let (this, running) = (self.clone(), association.clone());
        self.shared.tasks.spawn(async move {
            let Shared { gate, counters, stop, .. } = &*this.shared;
            running.clone().run(gate.clone(), counters.clone(), stop.clone()).await;
            this.forget(&running);
        });
        Some(association)
    }

    fn forget(&self, association: &Arc<Association>) {
        let mut table = lock(&self.shared.table);
        if table.workers.get(&association.worker).is_some_and(|known| Arc::ptr_eq(known, association)) {
            table.workers.remove(&association.worker);
            table.by_uid.retain(|_, worker| *worker != association.worker);
        }
    }

    /// A worker said who it is, over a connection from `peer`, and by which address it knows us.
    pub(super) async fn greeted(&self, from: &UniqueAddress, to: &Address, peer: IpAddr) -> Result<(), String> {
        let worker = &from.address;
        // Whom we would not dial need not wait for an answer, and takes no place.
        self.may_be(from, peer).await?;
        let mut table = lock(&self.shared.table);
        let advertised = &self.shared.advertised.address;
        // Who dials us by another name does not say by which address it knows us as ourselves.
        let us = if to.system() == advertised.system() { to } else { advertised };
        let association = self.association(&mut table, worker, us).ok_or("there are too many workers")?;
        match self.met(table, &association, from.uid, Some(to), peer) {
            true => Ok(()),
            false => Err("that process of the worker is gone".to_owned()),
        }
    }

    /// A worker that we greeted said who it is; false when we did not, or it is gone, or it cannot be from there.
    pub(super) async fn introduced(&self, from: &UniqueAddress, peer: IpAddr) -> bool {
        let is_known = lock(&self.shared.table).workers.contains_key(&from.address);
        if !is_known || self.may_be(from, peer).await.is_err() {
            return false;
        }
        let table = lock(&self.shared.table);
        let Some(association) = table.workers.get(&from.address).cloned() else { return false };
        self.met(table, &association, from.uid, None, peer)
    }

    /// Whether who says so from there can be that process: everybody may say anything, and who has the worker's place is
    /// told what it is told, and nobody else any more.
    async fn may_be(&self, from: &UniqueAddress, peer: IpAddr) -> Result<(), String> {
        if self.known(from.uid, peer).as_ref() == Some(&from.address) {
            return Ok(());
        }
        let target = self.shared.gate.target(&from.address, Some(peer));
        let deadline = Instant::now() + self.shared.limits.connect;
        timeout_at(deadline, target).await.map_err(|_| "its address cannot be resolved in time".to_owned())?.map(drop)
    }

    fn met(
        &self,
        mut table: MutexGuard<'_, Table>,
        association: &Association,
        uid: u64,
        us: Option<&Address>,
        peer: IpAddr,
    ) -> bool {
        let worker = &association.worker;
        let greeted = association.greeted(uid, us, peer);
        // One that is said to be in very many places at once is forgotten in the others.
        let is_crowded = table.by_uid.len() >= 2 * self.shared.limits.associations;
        if greeted == Greeted::Restarted || is_crowded {
            table.by_uid.retain(|_, known| known != worker);
        }
        if greeted != Greeted::Stale {
            table.by_uid.insert((uid, peer), worker.clone());
        }
        drop(table);
        if greeted == Greeted::Restarted {
            // Whom they asked is gone.
            lock(&self.shared.asks).retain(|_, asked| asked.worker != *worker || asked.process == Some(uid));
        }
        greeted != Greeted::Stale
    }

    pub(super) fn known(&self, uid: u64, peer: IpAddr) -> Option<Address> {
        lock(&self.shared.table).by_uid.get(&(uid, peer)).cloned()
    }

    pub(super) fn heard(&self, worker: &Address) {
        self.with(worker, Association::heard);
    }

    pub(super) fn acknowledge(&self, worker: &Address, recipient: &str) {
        self.with(worker, |association| association.acknowledge(recipient));
    }

    pub(super) fn quarantined(&self, worker: &Address, uid: u64) {
        self.with(worker, |association| association.quarantined(uid));
    }

    fn with(&self, worker: &Address, act: impl FnOnce(&Association)) {
        let association = lock(&self.shared.table).workers.get(worker).cloned();
        if let Some(association) = association {
            act(&association);
        }
    }

    /// Whether somebody waits for that answer.
    pub(super) fn answered(&self, name: &str, payload: Payload) -> bool {
        let asked = lock(&self.shared.asks).remove(name);
        asked.is_some_and(|asked| asked.answer.send(payload).is_ok())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a question from the table once nobody waits for its answer.
struct Forget<'a> {
    shared: &'a Shared,
    name: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.shared.asks).remove(self.name);
    }
}
