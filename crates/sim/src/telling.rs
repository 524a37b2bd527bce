//! One line per thing that happens, short enough to be read.

use pendula_engine::input::{Report, ReportEvent};
use pendula_engine::{Command, Effect, Fact, Input, Reply};
use pendula_model::change::Change;
use pendula_model::instance::Instance;
use pendula_model::job::Job;

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
            format!("AttemptEnded {} attempt {}: {} ({:?})", past.instance, past.attempt, past.reason, past.message)
        }
        other => format!("{other:?}"),
    }
}

pub(crate) fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Reply { to, reply: answer } => format!("Reply to {}: {}", to.0, reply(answer)),
        Effect::Dispatch(d) => {
            format!("Dispatch {} attempt {} on {} as number {}", d.instance, d.attempt, d.session, d.sequence)
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
    format!("{} attempt {}: {event}", report.instance, report.attempt)
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
