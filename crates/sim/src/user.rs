//! Users: they ask for things, lose the answers, and ask again.

use std::collections::BTreeMap;
use std::sync::Arc;

use pendula_engine::effect::Refusal;
use pendula_engine::input::RunRequest;
use pendula_engine::{Command, Reply};
use pendula_model::{AppId, InstanceId, TaskId};

use crate::jobs::invent;
use crate::trace::trace;
use crate::world::{Event, MILLI, SECOND, World};

/// How long a user waits for an answer before asking again.
const PATIENCE: u64 = 3 * SECOND;
/// How often somebody asks for the same thing.
const TRIES: u32 = 5;
const NAMES: [&str; 5] = ["j0", "j1", "j2", "j3", "j4"];

/// What somebody wants.
struct Request {
    command: Command,
    tries: u32,
    answered: bool,
}

#[derive(Default)]
pub(crate) struct Users {
    /// One for each partition.
    pub(crate) apps: Vec<AppId>,
    requests: BTreeMap<u64, Request>,
    next: u64,
    /// Instances that somebody heard of.
    known: Vec<InstanceId>,
    keys: u64,
    /// Requests that somebody still waits for.
    pub(crate) unanswered: usize,
}

impl Users {
    /// What is asked for.
    pub(crate) fn command(&self, request: u64) -> Option<Command> {
        self.requests.get(&request).map(|request| request.command.clone())
    }
}

impl World {
    /// Somebody asks for something new.
    pub(crate) fn user_acts(&mut self) {
        let mean = self.profile.request_every.as_micros() as u64;
        let pause = self.dice.below(2 * mean);
        if !self.healed {
            self.after(pause, Event::UserActs);
        }
        if self.healed || self.users.apps.is_empty() {
            return;
        }
        let app = *self.dice.pick(&self.users.apps);
        let wall = self.wall();
        let known = self.known_instance();
        let dice = &mut self.dice;
        let name = (*dice.pick(&NAMES)).to_owned();
        let command = match (dice.below(100), known) {
            (0..24, _) => {
                let spec = Arc::new(invent(dice, &name, wall, &self.profile));
                Command::JobApply { app, spec, expected_version: None }
            }
            (24..34, _) => Command::JobEnable { app, name, enabled: dice.chance(500) },
            (34..37, _) => Command::JobDelete { app, name },
            (37..41, Some(instance)) => {
                let task = dice.chance(500).then(|| TaskId(dice.below(6)));
                Command::InstanceExplain { instance, task }
            }
            (41..48, Some(instance)) => Command::InstanceStop { instance },
            (48..51, Some(instance)) => Command::InstanceCancel { instance },
            (51..57, Some(instance)) => {
                let instance = self.audit.troubled().filter(|_| dice.chance(800)).unwrap_or(instance);
                let some = dice.below(3);
                let tasks =
                    if dice.chance(500) { Vec::new() } else { (0..=some).map(|_| TaskId(dice.below(8))).collect() };
                Command::TasksRetry { instance, tasks }
            }
            (57..58, _) => {
                let worker = dice.below(self.profile.workers as u64);
                Command::WorkerDrain { app, worker: format!("w{worker}") }
            }
            (58..60, _) => Command::WorkerList { app },
            _ => {
                let mut key = None;
                if dice.chance(500) {
                    self.users.keys += u64::from(dice.chance(800));
                    key = Some(Arc::from(format!("k{}", self.users.keys)));
                }
                let delay = std::time::Duration::from_millis(dice.below(8_000));
                let rerun_of = known.filter(|_| dice.chance(250));
                let again = rerun_of.and_then(|id| self.audit.job_of(id));
                let (app, job) = again.unwrap_or((app, name));
                Command::JobRun(Box::new(RunRequest {
                    app,
                    job,
                    params: None,
                    due_at: dice.chance(250).then(|| wall.plus(delay)),
                    idempotency_key: key,
                    rerun_of,
                    only_unsuccessful: rerun_of.is_some() && dice.chance(700),
                    priority: dice.chance(100).then(|| dice.between(0, 5) as i8),
                }))
            }
        };
        self.ask(command);
    }

    /// One that somebody was told of, or that stands in a listing: the latest are of more interest than those that ended
    /// long ago.
    fn known_instance(&mut self) -> Option<InstanceId> {
        let known = &self.users.known;
        let listed: Vec<InstanceId> = match self.dice.below(10) {
            0..4 => known.clone(),
            4..6 => known.iter().rev().take(4).copied().collect(),
            _ => self.audit.instances.keys().rev().take(6).copied().collect(),
        };
        (!listed.is_empty()).then(|| *self.dice.pick(&listed))
    }

    pub(crate) fn ask(&mut self, command: Command) {
        let number = self.users.next;
        self.users.next += 1;
        self.users.unanswered += 1;
        self.users.requests.insert(number, Request { command, tries: 0, answered: false });
        self.send_request(number);
    }

    /// The first time, or once more because nobody answered.
    pub(crate) fn send_request(&mut self, number: u64) {
        let Some(request) = self.users.requests.get_mut(&number).filter(|request| !request.answered) else { return };
        let patient = self.healed || request.tries < TRIES;
        request.tries += 1;
        let tries = request.tries;
        if !patient {
            request.answered = true;
            self.users.unanswered -= 1;
            return;
        }
        let way = self.dice.between(50, 5 * MILLI);
        let server = self.dice.below(self.servers.len() as u64) as usize;
        self.after(way, Event::Request(number, server));
        let again = if self.healed { SECOND } else { PATIENCE };
        self.after(again, Event::AskAgain(number, tries));
    }

    /// Nobody answered the latest try.
    pub(crate) fn ask_again(&mut self, number: u64, tries: u32) {
        if self.users.requests.get(&number).is_some_and(|request| request.tries == tries) {
            self.send_request(number);
        }
    }

    /// The server does not know: the user asks again soon.
    pub(crate) fn user_is_put_off(&mut self, number: u64, pause: u64) {
        let Some(request) = self.users.requests.get(&number).filter(|request| !request.answered) else { return };
        let tries = request.tries;
        self.audit.counts.put_off += 1;
        self.after(pause, Event::AskAgain(number, tries));
    }

    pub(crate) fn user_hears(&mut self, number: u64, reply: Reply) {
        let Some(request) = self.users.requests.get_mut(&number).filter(|request| !request.answered) else { return };
        request.answered = true;
        self.users.unanswered -= 1;
        trace!(self, "user hears the answer to {number}");
        match reply {
            Reply::App(app) => self.users.apps.push(app.id),
            // Who asked twice may hear of the second first; the name tells which it is.
            Reply::Refused(Refusal::Exists { name, .. }) => self.users.apps.extend(self.audit.app_named(&name)),
            Reply::Instance { id, .. } => self.users.known.push(id),
            _ => {}
        }
    }
}
