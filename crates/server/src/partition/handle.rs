//! How the rest of the server reaches a partition's loop.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pendula_engine::effect::Refusal;
use pendula_engine::{Command, Gauges, Input, Reply, WorkerHello};
use pendula_model::PartitionId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::session::Outbox;

/// Messages that wait for a partition's loop at most. Whoever sends more waits.
const INBOX: usize = 4096;
/// Bytes that workers' inputs and results have in there at most.
const INBOX_BYTES: usize = 32 << 20;

/// What a loop takes in.
pub(crate) enum Message {
    Input(Input),
    /// One that brings bytes, with its share of what may wait.
    Much {
        input: Input,
        share: OwnedSemaphorePermit,
    },
    /// A worker's session, and where to put what is for it.
    Connected {
        hello: Box<WorkerHello>,
        outbox: Arc<Outbox>,
    },
    Command {
        command: Command,
        answer: oneshot::Sender<Answer>,
    },
    Commands {
        commands: Vec<Command>,
        answer: oneshot::Sender<Vec<Answer>>,
    },
}

pub(crate) type Answer = Result<Reply, CommandError>;

/// Why a command has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// It was not carried out, or its commit was refused; the same command may succeed in a moment.
    #[error("the partition cannot answer now: {why}")]
    Unavailable { why: String },
    /// Another server has the partition, or nobody has it. It was not carried out.
    #[error("the partition is not on this server")]
    NotHere,
    /// The partition went away while it was carried out; whether it was, is not known.
    #[error("the partition moved while the command was carried out; it may have been")]
    Unknown,
    /// The deadline passed; it may still be carried out.
    #[error("no answer in time; the command may still be carried out")]
    Timeout,
}

impl CommandError {
    pub(crate) fn unavailable(why: impl Into<String>) -> Self {
        CommandError::Unavailable { why: why.into() }
    }
}

/// All partitions of the installation. Cheap to clone.
#[derive(Clone)]
pub struct Partitions {
    slots: Arc<[Slot]>,
}

struct Slot {
    inbox: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    standing: Arc<Standing>,
}

/// What a loop lets others see.
#[derive(Default)]
pub(crate) struct Standing {
    /// Owned, or about to be: what is sent is taken.
    here: AtomicBool,
    owned: AtomicBool,
    gauges: Mutex<Gauges>,
}

impl Standing {
    pub(crate) fn set_here(&self, here: bool) {
        self.here.store(here, Ordering::Release);
    }

    fn is_here(&self) -> bool {
        self.here.load(Ordering::Acquire)
    }

    pub(crate) fn set_owned(&self, owned: bool) {
        self.owned.store(owned, Ordering::Release);
    }

    /// Puts `gauges` in place and returns what was there.
    pub(crate) fn set_gauges(&self, gauges: Gauges) -> Gauges {
        std::mem::replace(&mut self.gauges.lock().expect("nothing panics while it holds this lock"), gauges)
    }
}

/// What the owned partitions hold, summed up.
#[derive(Clone, Copy, Debug, Default)]
pub struct PartitionsStatus {
    pub owned: u32,
    pub total: u32,
    pub gauges: Gauges,
}

/// The loop's end of what [`Partitions`] sends.
pub(crate) struct Mailbox {
    pub(crate) partition: PartitionId,
    pub(crate) inbox: mpsc::Receiver<Message>,
    /// Taken out of the inbox, and not yet looked at.
    pub(crate) taken: VecDeque<Message>,
    pub(crate) standing: Arc<Standing>,
}

impl Partitions {
    /// `count` partitions, and for each what its loop needs.
    pub(crate) fn new(count: u16) -> (Self, Vec<Mailbox>) {
        let mut slots = Vec::with_capacity(count.into());
        let mut mailboxes = Vec::with_capacity(count.into());
        for partition in (0..count).map(PartitionId) {
            let (sender, inbox) = mpsc::channel(INBOX);
            let standing = Arc::new(Standing::default());
            let room = Arc::new(Semaphore::new(INBOX_BYTES));
            slots.push(Slot { inbox: sender, room, standing: standing.clone() });
            mailboxes.push(Mailbox { partition, inbox, taken: VecDeque::new(), standing });
        }
        (Partitions { slots: slots.into() }, mailboxes)
    }

    /// The partition of an app, from its name. (An id carries its partition itself.)
    pub fn of_app_name(&self, name: &str) -> PartitionId {
        PartitionId::of_app(name, self.slots.len() as u16)
    }

    /// Whether this server has the partition, or is about to.
    pub fn is_here(&self, partition: PartitionId) -> bool {
        self.slots.get(usize::from(partition.0)).is_some_and(|slot| slot.standing.is_here())
    }

    /// Whether this server owns the partition.
    pub(crate) fn is_owned(&self, partition: PartitionId) -> bool {
        self.slots.get(usize::from(partition.0)).is_some_and(|slot| slot.standing.owned.load(Ordering::Acquire))
    }

    /// Carries out one command and waits for its reply, which comes after the commit.
    ///
    /// A command whose caller gave up before the loop took it is not carried out.
    pub async fn command(&self, partition: PartitionId, command: Command, deadline: Duration) -> Answer {
        let deadline = Instant::now() + deadline;
        let Some(slot) = self.slots.get(usize::from(partition.0)) else {
            return Ok(Reply::Refused(Refusal::NotFound("partition")));
        };
        if !slot.standing.is_here() {
            return Err(CommandError::NotHere);
        }
        let (answer, waiting) = oneshot::channel();
        slot.push(Message::Command { command, answer }, deadline).await?;
        answered(waiting, deadline).await?
    }

    /// Carries out many, in order, with one push into the inbox and usually one commit.
    ///
    /// The answers come in the order of the commands.
    pub async fn commands(
        &self,
        partition: PartitionId,
        commands: Vec<Command>,
        deadline: Duration,
    ) -> Vec<Result<Reply, CommandError>> {
        let deadline = Instant::now() + deadline;
        let count = commands.len();
        let Some(slot) = self.slots.get(usize::from(partition.0)) else {
            return vec![Ok(Reply::Refused(Refusal::NotFound("partition"))); count];
        };
        if !slot.standing.is_here() {
            return vec![Err(CommandError::NotHere); count];
        }
        let (answer, waiting) = oneshot::channel();
        let answers = match slot.push(Message::Commands { commands, answer }, deadline).await {
            Ok(()) => answered(waiting, deadline).await,
            Err(error) => Err(error),
        };
        answers.unwrap_or_else(|error| vec![Err(error); count])
    }

    /// Sends what needs no answer; waits while the inbox is full, which pushes back on the sender's peer.
    pub(crate) async fn tell(&self, partition: PartitionId, message: Message) -> Result<(), CommandError> {
        let slot = self.slots.get(usize::from(partition.0)).ok_or(CommandError::unavailable("no such partition"))?;
        if !slot.standing.is_here() {
            return Err(CommandError::NotHere);
        }
        slot.inbox.send(message).await.map_err(|_| CommandError::unavailable("the server is shutting down"))
    }

    /// The same for an input that brings `bytes`; waits until there is room for them too.
    pub(crate) async fn tell_much(
        &self,
        partition: PartitionId,
        input: Input,
        bytes: usize,
    ) -> Result<(), CommandError> {
        if bytes == 0 {
            return self.tell(partition, Message::Input(input)).await;
        }
        let slot = self.slots.get(usize::from(partition.0)).ok_or(CommandError::unavailable("no such partition"))?;
        let share = u32::try_from(bytes.min(INBOX_BYTES)).expect("the bound fits");
        let share = slot.room.clone().acquire_many_owned(share).await.expect("nobody closes it");
        self.tell(partition, Message::Much { input, share }).await
    }

    /// What the partitions hold at the moment.
    pub fn status(&self) -> PartitionsStatus {
        let mut status = PartitionsStatus { total: self.slots.len() as u32, ..PartitionsStatus::default() };
        for slot in self.slots.iter() {
            status.owned += u32::from(slot.standing.owned.load(Ordering::Acquire));
            let gauges = *slot.standing.gauges.lock().expect("nothing panics while it holds this lock");
            status.gauges.waiting += gauges.waiting;
            status.gauges.ready += gauges.ready;
            status.gauges.placed += gauges.placed;
            status.gauges.tasks_placed += gauges.tasks_placed;
            status.gauges.sessions += gauges.sessions;
            status.gauges.slots += gauges.slots;
            status.gauges.jobs_in_memory += gauges.jobs_in_memory;
        }
        status
    }
}

impl Slot {
    async fn push(&self, message: Message, deadline: Instant) -> Result<(), CommandError> {
        match timeout_at(deadline, self.inbox.reserve()).await {
            Ok(Ok(permit)) => {
                permit.send(message);
                Ok(())
            }
            Ok(Err(_)) => Err(CommandError::unavailable("the server is shutting down")),
            Err(_) => Err(CommandError::unavailable("too much work waits for it")),
        }
    }
}

async fn answered<T>(waiting: oneshot::Receiver<T>, deadline: Instant) -> Result<T, CommandError> {
    match timeout_at(deadline, waiting).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(CommandError::unavailable("the server is shutting down")),
        Err(_) => Err(CommandError::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use pendula_model::SessionId;

    use super::*;

    #[tokio::test]
    async fn what_waits_is_bounded_by_bytes_too_and_room_comes_back_with_what_is_taken() {
        let (partitions, mut mailboxes) = Partitions::new(1);
        mailboxes[0].standing.set_here(true);
        let much = |bytes| {
            let input = Input::Mapped { session: SessionId(1), maps: Vec::new() };
            partitions.tell_much(PartitionId(0), input, bytes)
        };
        much(0).now_or_never().expect("what brings nothing needs no room").expect("sent");
        much(2 * INBOX_BYTES).now_or_never().expect("even what is larger than the bound").expect("sent");
        let mut next = std::pin::pin!(much(1));
        assert!(next.as_mut().now_or_never().is_none());
        let inbox = &mut mailboxes[0].inbox;
        assert!(matches!(inbox.try_recv(), Ok(Message::Input(_))));
        drop(inbox.try_recv().expect("the large one"));
        next.now_or_never().expect("there is room again").expect("sent");
    }
}
