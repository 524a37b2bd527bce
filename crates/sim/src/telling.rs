//! One line per thing that happens, short enough to be read.

use pendula_engine::input::{Report, ReportEvent};
use pendula_engine::{Command, Effect, Fact, Input, Mapping, Reply};
use pendula_model::change::Change;
use pendula_model::instance::{Instance, PastAttempt};
use pendula_model::job::Job;
use pendula_model::task::{Fanout, Task};

pub(crate) fn change(change: &Change) -> String {
    match change {
        Change::JobInserted(row) => format!("JobInserted {}", job(row)),
        Change::JobUpdated(row) => format!("JobUpdated {}", job(row)),
        Change::ScheduleAdvanced { job, expected_next, schedule } => {
            format!("ScheduleAdvanced {job}: {expected_next:?} to {:?}", schedule.next_fire)
        }
        Change::InstanceInserted { instance: row, .. } => format!("InstanceInserted {}", instance(row)),
        Change::InstanceUpdated(row) => format!("InstanceUpdated {}", instance(row)),
        Change::InstanceEnded { instance: row, .. } => format!("InstanceEnded {}", instance(row)),
        Change::AttemptEnded(past) => {
            let PastAttempt { instance, task, attempt, reason, message, .. } = past;
            format!("AttemptEnded {instance}/{task} attempt {attempt}: {reason} ({message:?})")
        }
        Change::FanoutInserted(row) => format!("FanoutInserted {}", fanout(row)),
        Change::FanoutUpdated(row) => format!("FanoutUpdated {}", fanout(row)),
        Change::TasksInserted(rows) => {
            format!("TasksInserted {:?}", rows.iter().map(task).collect::<Vec<_>>())
        }
        Change::TaskUpdated(row) => format!("TaskUpdated {}", task(row)),
        other => format!("{other:?}"),
    }
}

pub(crate) fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Reply { to, reply: answer } => format!("Reply to {}: {}", to.0, reply(answer)),
        Effect::Dispatch(d) => {
            let (key, role) = (d.key().key(), d.part.as_ref().map(|part| part.role));
            format!("Dispatch {key} {role:?} attempt {} on {} as number {}", d.attempt, d.session, d.sequence)
        }
        Effect::Stop { session, attempt, grace, abandon } => {
            let (key, number) = (attempt.key(), attempt.attempt);
            format!("Stop {key} attempt {number} on {session}, grace {grace:?}, abandon {abandon}")
        }
        Effect::Ack { session, attempt } => {
            format!("Ack {} attempt {} on {session}", attempt.key(), attempt.attempt)
        }
        Effect::Mapped { session, attempt, reply } => {
            format!("Mapped {} attempt {} on {session}: {reply:?}", attempt.key(), attempt.attempt)
        }
        other => format!("{other:?}"),
    }
}

pub(crate) fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Job { job: row, created } => format!("created {created}, {}", job(row)),
        Reply::Workers(workers) => format!("{} workers", workers.len()),
        other => format!("{other:?}"),
    }
}

pub(crate) fn input(input: &Input) -> String {
    match input {
        Input::Command { command: wish, reply_to } => format!("command {}: {}", reply_to.0, command(wish)),
        Input::Loaded(facts) => {
            let facts = facts.iter().map(|fact| match fact {
                Fact::Job { need, job: row } => format!("{need:?}: {:?}", row.as_ref().map(job)),
                Fact::Idempotency { need, instance } => format!("{need:?}: {instance:?}"),
                Fact::Fanout { need, fanout } => format!("{need:?}: {fanout:?}"),
                Fact::Tasks { need, tasks } => {
                    format!("{need:?}: {:?}", tasks.iter().map(|task| task.id.0).collect::<Vec<_>>())
                }
                Fact::Unreadable { need, why } => format!("{need:?}: unreadable, {why}"),
            });
            format!("Loaded {:?}", facts.collect::<Vec<_>>())
        }
        Input::SchedulesLoaded { until, jobs } => {
            format!("SchedulesLoaded until {until}: {:?}", jobs.iter().map(|job| job.id.0).collect::<Vec<_>>())
        }
        Input::WorkerConnected(hello) => format!(
            "WorkerConnected {} session {}, running {:?}, finished {:?}",
            hello.info.worker, hello.session, hello.running, hello.finished
        ),
        Input::Reported { session, reports } => {
            format!("Reported on {session}: {:?}", reports.iter().map(report).collect::<Vec<_>>())
        }
        Input::TasksLoaded { instance, from, tasks, complete } => {
            let tasks: Vec<u64> = tasks.iter().map(|task| task.id.0).collect();
            format!("TasksLoaded of {instance} from {from}: {tasks:?}, complete {complete}")
        }
        Input::Mapped { session, maps } => {
            let maps = maps.iter().map(|map| {
                let Mapping { attempt, first, tasks } = map;
                let end = first + tasks.len() as u64;
                format!("{} attempt {}: {first}..{end}", attempt.key(), attempt.attempt)
            });
            format!("Mapped on {session}: {:?}", maps.collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    }
}

fn command(command: &Command) -> String {
    match command {
        Command::JobApply { spec, expected_version, .. } => {
            format!("JobApply {} expecting {expected_version:?}", serde_json::to_string(spec).unwrap_or_default())
        }
        other => format!("{other:?}"),
    }
}

fn report(report: &Report) -> String {
    let event = match &report.event {
        ReportEvent::Ended { outcome, .. } => format!("{outcome:?}"),
        other => format!("{other:?}"),
    };
    format!("{} attempt {}: {event}", report.attempt.key(), report.attempt.attempt)
}

fn job(job: &Job) -> String {
    let Job { id, spec, version, revision, schedule, .. } = job;
    format!(
        "{id} {} v{version} r{} enabled {} limit {:?} {:?} next {:?}",
        spec.name, revision.0, spec.enabled, spec.concurrency.limit, spec.concurrency.overflow, schedule.next_fire
    )
}

pub(crate) fn instance(row: &Instance) -> String {
    let worker = row.worker.as_ref().map(|worker| worker.to_string());
    format!(
        "{} of {} v{} {} attempt {} fire {:?} due {} worker {worker:?} reason {:?}",
        row.id, row.job, row.version, row.state, row.attempt, row.fire_time, row.due_at, row.reason
    )
}

fn fanout(row: &Fanout) -> String {
    let Fanout { instance, version, phase, counts, next_task, next_waiting, base, .. } = row;
    let counts = format!(
        "{} waiting {} running {} succeeded {} failed {} lost {} stopped of {}",
        counts.waiting, counts.running, counts.succeeded, counts.failed, counts.lost, counts.stopped, counts.total
    );
    format!("{instance} v{version} {phase}: {counts}; next {next_task}, waiting from {next_waiting}, base {base:?}")
}

fn task(row: &Task) -> String {
    let Task { role, name, version, state, attempt, emitted, due_at, reason, .. } = row;
    let [worker, target] = [&row.worker, &row.target].map(|who| who.as_ref().map(ToString::to_string));
    let key = row.key();
    format!(
        "{key} {role} `{name}` v{version} {state} attempt {attempt} emitted {emitted} due {due_at} worker {worker:?} \
         target {target:?} reason {reason:?}"
    )
}
