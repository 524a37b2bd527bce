//! Handlers that emit sub-tasks: always the same ones for the same task, in batches, and all of them are answered for
//! before the handler ends.

use std::sync::Arc;

use pendula_engine::input::Outcome;
use pendula_engine::{Dispatch, Mapping, NewTask};
use pendula_model::instance::{Payload, Reason};
use pendula_model::{AttemptKey, InstanceId, TaskId};

use super::{Link, Phase};
use crate::dice::Dice;
use crate::network::ToServer;
use crate::trace::trace;
use crate::world::{Event, MILLI, SECOND, World};

/// Sub-tasks of these emit no more.
const DEEPEST: u64 = 3;
/// The server refused to take sub-tasks.
pub(crate) const REFUSED: &str = "map_refused";
/// Where messages get lost within a session, those without an answer are sent again after so long.
const EMIT_AGAIN: u64 = 5 * SECOND;

/// What a running handler emits.
pub(crate) struct Emission {
    depth: u64,
    /// How many sub-tasks it emits altogether.
    total: u64,
    /// How many of them were sent, and answered.
    sent: u64,
    answered: u64,
    /// Since when an answer is awaited.
    asked_at: u64,
    /// The rest of the handler's work is done.
    pub(super) is_last: bool,
}

impl Emission {
    /// What the handler of a dispatched task is going to emit, if it may and there is any.
    pub(super) fn of(dispatch: &Dispatch, dice: &mut Dice) -> Option<Self> {
        let part = dispatch.part.as_ref().filter(|part| part.role.may_map())?;
        let depth = part.input.as_ref().map_or(0, |input| depth_of(input));
        let total = total(dispatch.instance, dispatch.task, depth);
        // What earlier tries emitted is emitted again, or skipped.
        let position = if dice.chance(500) { 0 } else { part.emitted.min(total) };
        let emission = Emission { depth, total, sent: position, answered: position, asked_at: 0, is_last: false };
        (!emission.is_done()).then_some(emission)
    }

    pub(super) fn is_done(&self) -> bool {
        self.answered >= self.total
    }

    fn waits(&self) -> bool {
        self.sent > self.answered
    }
}

/// How many sub-tasks a task emits, whoever runs it and however often.
fn total(instance: InstanceId, task: TaskId, depth: u64) -> u64 {
    let mut dice = Dice::new((instance.0 as u64).wrapping_mul(0x9e37_79b9) ^ task.0);
    match (depth, dice.below(100)) {
        (DEEPEST.., _) => 0,
        (0, 0..10) => 0,
        (0, 10..75) => dice.between(1, 6),
        (0, 75..96) => dice.between(5, 20),
        (0, _) => dice.between(20, 60),
        (_, 0..85) => 0,
        _ => dice.between(1, 3),
    }
}

fn depth_of(input: &Payload) -> u64 {
    String::from_utf8_lossy(&input.bytes).parse().unwrap_or_default()
}

impl World {
    /// A handler comes to its next batch.
    pub(crate) fn emits(&mut self, number: usize, key: AttemptKey) {
        let batch = self.dice.between(1, 12);
        let Some(Phase::Running { cause: None, emission: Some(emission), .. }) = self.workers[number].entry(key) else {
            return;
        };
        if emission.waits() || emission.is_done() {
            return;
        }
        emission.sent = (emission.sent + batch).min(emission.total);
        self.send_emission(number, key);
    }

    /// Sends what is not answered, if there is somebody to send it to.
    fn send_emission(&mut self, number: usize, key: AttemptKey) {
        let now = self.now;
        let worker = &mut self.workers[number];
        let Link::Up(connection) = worker.link else { return };
        let Some(Phase::Running { cause: None, emission: Some(emission), .. }) = worker.entry(key) else { return };
        if !emission.waits() {
            return;
        }
        emission.asked_at = now;
        let (first, end, below) = (emission.answered, emission.sent, emission.depth + 1);
        // Some begin a little earlier than they must.
        let first = if self.dice.chance(100) { first - first.min(2) } else { first };
        let task = |position: u64| NewTask {
            name: sub_task_name(key.task, position),
            input: Some(Arc::new(Payload::json(below.to_string()))),
        };
        let mapping = Mapping { attempt: key, first, tasks: (first..end).map(task).collect() };
        trace!(self, "worker w{number} emits {first}..{end} from attempt {} of {}", key.attempt, key.key());
        if self.dice.chance(50) {
            self.send_to_server(connection, ToServer::Maps(vec![mapping.clone()]));
        }
        self.send_to_server(connection, ToServer::Maps(vec![mapping]));
    }

    /// The server tells how many sub-tasks of a task are on disk, or why no more will be.
    pub(super) fn mapped(&mut self, number: usize, key: AttemptKey, reply: Result<u64, String>) {
        let boot = self.workers[number].boot;
        let Some(Phase::Running { emission: Some(emission), .. }) = self.workers[number].entry(key) else { return };
        match reply {
            Ok(emitted) => {
                emission.answered = emission.answered.max(emitted).min(emission.total);
                emission.sent = emission.sent.max(emission.answered);
                let (is_done, is_last) = (emission.is_done(), emission.is_last);
                if !is_done {
                    let pause = self.dice.below(100 * MILLI);
                    self.after(pause, Event::Emits(number, boot, key));
                } else if is_last {
                    self.after(0, Event::HandlerEnds(number, boot, key, Outcome::Succeeded));
                }
            }
            Err(why) => {
                trace!(self, "worker w{number} hears about {key:?}: {why}");
                let outcome = Outcome::Failed { reason: Reason::from_wire(REFUSED), final_: true };
                self.after(0, Event::HandlerEnds(number, boot, key, outcome));
            }
        }
    }

    /// A new session has heard nothing of what the last one did not answer.
    pub(super) fn emit_again(&mut self, number: usize) {
        let boot = self.workers[number].boot;
        let running = self.workers[number].held(|phase| matches!(phase, Phase::Running { emission: Some(_), .. }));
        for key in running {
            self.send_emission(number, key);
            self.after(0, Event::Emits(number, boot, key));
        }
    }

    /// Sends again what should have been answered long ago.
    pub(super) fn emit_overdue(&mut self, number: usize) {
        let now = self.now;
        let overdue = |phase: &Phase| {
            let Phase::Running { emission: Some(emission), .. } = phase else { return false };
            emission.waits() && now - emission.asked_at >= EMIT_AGAIN
        };
        let overdue = self.workers[number].held(overdue);
        overdue.into_iter().for_each(|key| self.send_emission(number, key));
    }
}

/// The name of the sub-task that a task emits at a position.
pub(crate) fn sub_task_name(parent: TaskId, position: u64) -> Arc<str> {
    format!("{parent}.{position}").into()
}

/// The other way round.
pub(crate) fn position_of(name: &str) -> Option<(TaskId, u64)> {
    let (parent, position) = name.split_once('.')?;
    Some((parent.parse().ok()?, position.parse().ok()?))
}
