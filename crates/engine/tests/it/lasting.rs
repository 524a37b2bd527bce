//! What remains in memory over time, and rows that cannot be read.

use std::time::Duration;

use pendula_engine::effect::Observation;
use pendula_engine::input::Outcome;
use pendula_engine::{Command, Reply};
use pendula_model::instance::InstanceState::*;
use pendula_model::instance::Reason;
use pendula_model::job::JobSpec;
use pendula_model::policy::{Concurrency, Overflow};
use pendula_model::trigger::Misfire;

use crate::script::{SECOND, Script, after_end, every, fires, job};

#[test]
fn a_job_that_neither_fires_soon_nor_runs_is_forgotten_and_found_again() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    let id = script.apply(fires("daily", every(86_400_000))).id;
    script.apply(job("manual"));
    for (_, id, _) in script.dispatched() {
        script.end(worker, id, Outcome::Succeeded);
    }
    script.pass(SECOND * 60);
    script.input(pendula_engine::Input::Tick);
    for (_, id, _) in script.dispatched() {
        script.end(worker, id, Outcome::Succeeded);
    }
    script.pass(SECOND * 60);
    assert_eq!(script.partition.gauges().jobs_in_memory, 0);
    let run = script.run("manual");
    assert_eq!(script.state(run), Dispatched);
    script.end(worker, run, Outcome::Succeeded);
    script.pass(Duration::from_secs(86_400));
    assert_eq!(script.instances(id).len(), 2, "the next day it fires");
}

/// Commands that are always being read for do not keep everything else in memory.
#[test]
fn parked_commands_do_not_keep_the_rest_in_memory() {
    let mut script = Script::new();
    for n in 0..100 {
        script.apply(job(&format!("j{n}")));
    }
    assert_eq!(script.partition.gauges().jobs_in_memory, 100);
    script.pass(SECOND * 20);
    script.run("j1");
    script.hold_reads = true;
    let waiting = script.send(Command::JobEnable { app: script.app, name: "j0".into(), enabled: false });
    script.pass(SECOND * 20);
    assert_eq!(script.partition.gauges().jobs_in_memory, 1, "only the one that has an instance");
    script.hold_reads = false;
    let need = script.held_reads.pop().expect("it asked");
    script.answer(need);
    assert!(matches!(script.reply(waiting), Some(Reply::Job { job, .. }) if !job.spec.enabled));
}

/// A read that was under way for long must not bring back what has changed since.
#[test]
fn what_is_being_read_does_not_leave_the_cache() {
    let mut script = Script::new();
    let worker = script.worker("w", 1);
    script.apply(fires("j", every(60_000)));
    script.end_all(worker);
    script.pass(SECOND * 30);
    assert_eq!(script.partition.gauges().jobs_in_memory, 0);
    script.hold_reads = true;
    let waiting = script.send(Command::JobEnable { app: script.app, name: "j".into(), enabled: false });
    let need = script.held_reads.pop().expect("it asked");
    let stale = script.fact(need);
    // Meanwhile it fires, and would be forgotten.
    script.pass(SECOND * 31);
    script.end_all(worker);
    script.pass(SECOND * 20);
    script.input(pendula_engine::Input::Loaded(vec![stale]));
    let Some(Reply::Job { job, .. }) = script.reply(waiting) else { panic!("no job") };
    assert_eq!(job.schedule.last_fire, Some(script.now.minus(SECOND * 21)));
}

#[test]
fn a_row_that_cannot_be_read_is_set_aside_and_the_rest_goes_on() {
    let mut script = Script::new();
    script.apply(job("good"));
    script.apply(job("odd"));
    let (good, broken, odd) = (script.run("good"), script.run("good"), script.run("odd"));
    // An edit, so that the running revision is only in the history, which then is lost.
    script.apply(JobSpec { priority: 1, ..job("odd") });
    script.restart_with(|snapshot| {
        snapshot.instances.retain(|row| row.id != broken);
        snapshot.broken.push((broken, "state 99 is unknown".to_owned()));
        snapshot.revisions.clear();
        snapshot.jobs.retain(|job| job.spec.name == "odd" || job.spec.name == "good");
        for job in snapshot.jobs.iter_mut().filter(|job| job.spec.name == "odd") {
            job.revision.0 += 7;
        }
        for row in &mut snapshot.instances {
            if row.id == good {
                assert_eq!(row.revision.0, 1);
            }
        }
    });
    for id in [broken, odd] {
        assert_eq!((script.state(id), script.reason(id)), (Failed, Some(Reason::QUARANTINED)));
    }
    let told = script.observed.iter().filter(|o| matches!(o, Observation::Quarantined { .. })).count();
    assert_eq!(told, 2);
    script.worker("w", 1);
    assert_eq!(script.state(good), Dispatched);
}

/// O-15: a thousand schedules, three days, nobody to run them.
#[test]
fn o_15_three_days_without_workers() {
    let mut script = Script::new();
    let kinds: [(&str, Overflow, u32); 3] =
        [("skip", Overflow::Skip, 0), ("replace", Overflow::Replace, 10), ("queue", Overflow::Queue, 5)];
    for n in 0..1_000u64 {
        let (kind, overflow, queue) = kinds[n as usize % 3];
        let concurrency = Concurrency { limit: Some(1), overflow, queue };
        let mut trigger = if n % 10 == 9 { after_end(600_000) } else { every(1_800_000 + n * 1_000) };
        trigger.misfire = Misfire::FireOnce;
        script.apply(JobSpec { concurrency, ..fires(&format!("{kind}{n}"), trigger) });
    }
    let per_job = 3 * 24 * 2 + 1;
    for hour in 1..=72 {
        script.pass(SECOND * 3_600);
        let gauges = script.partition.gauges();
        assert!(gauges.waiting <= 1_000 * 6, "hour {hour}: {gauges:?}");
        assert_eq!((gauges.jobs_in_memory, gauges.placed), (1_000, 0), "each has one that waits");
    }
    assert!(script.rows.len() <= 1_000 * per_job, "{} rows", script.rows.len());
    let told = script.observed.iter().filter(|o| matches!(o, Observation::NoWorker { .. })).count();
    assert_eq!(told, 1_000, "one alert per job");
    assert_eq!(script.missed(), 0, "the server was there all the time");

    // Workers return: what waits is served, as each policy left it, with no flood.
    let waiting = script.rows.values().filter(|row| row.state == Waiting).count();
    // A third of them queue; of those, 33 are fixed delays, which wait for their one instance.
    let queues = 333 - 33;
    assert_eq!(waiting, 1_000 + 5 * queues, "one each, five more where they queue");
    let worker = script.worker("w", 50);
    let mut served = 0;
    loop {
        let batch = script.dispatched();
        assert!(batch.len() <= 50);
        if batch.is_empty() {
            break;
        }
        served += batch.len();
        for (_, id, _) in batch {
            script.end(worker, id, Outcome::Succeeded);
        }
    }
    assert_eq!(served, waiting);
    assert_eq!(script.partition.gauges().waiting, 0);
}
