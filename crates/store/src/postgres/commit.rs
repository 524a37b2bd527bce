//! A batch of changes as one transaction, which is sent at once and awaited once.
//!
//! It begins with the partition's row, by which commits of a partition come one after the other and a stale owner is found
//! out; then come the [groups](super::groups) of changes, each with its guards. When one of them does not find what it
//! expects, nothing is written; then the batch is tried again change by change, and what comes of that counts: it is
//! slower, and can name the change.

pub(super) mod instances;
pub(super) mod jobs;
mod known;
pub(super) mod tasks;

use std::fmt::Display;
use std::time::Duration;

use deadpool_postgres::Object;
use pendula_model::Epoch;
use pendula_model::change::Change;

use self::known::{Kept, Known};
use super::connect::Lane;
use super::error::{OrStoreError, is_lost_race, is_stale_statement, is_standby, store_error};
use super::flight::{Failure, Step, exactly, fly};
use super::groups::{Row, arrange};
use super::read::within;
use super::values::Value;
use crate::laws;
use crate::port::{Batch, StoreError};

/// So often a transaction is begun that the database gives up because of others. Whoever wins such a race is through then.
pub(super) const RACES: usize = 3;

/// The rows of a group, which are all of one kind.
macro_rules! rows_of {
    ($rows:expr, $row:pat => $value:expr) => {
        $rows
            .iter()
            .map(|row| match row {
                $row => $value,
                other => unreachable!("{other:?} in a group of another kind"),
            })
            .collect::<Vec<_>>()
    };
}

use rows_of;

/// How long an answer may take: ten times as long as a busy database needs for a row, and time for what went before.
fn deadline(batch: &Batch) -> Duration {
    let rows = |change: &Change| match change {
        Change::TasksInserted(tasks) => tasks.len(),
        Change::TasksCopied { count, .. } => usize::try_from(*count).unwrap_or(usize::MAX),
        _ => 1,
    };
    let rows = batch.changes.iter().map(rows).fold(0, usize::saturating_add);
    Duration::from_secs(10) + Duration::from_micros(300).saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX))
}

/// [`Store::commit`](crate::Store::commit).
pub(super) async fn commit(lane: &Lane, batch: &Batch) -> Result<(), StoreError> {
    within(lane, deadline(batch), async |client| attempt(lane, client, batch).await).await
}

async fn attempt(lane: &Lane, client: &Object, batch: &Batch) -> Result<(), StoreError> {
    let lawful = batch.changes.iter().try_for_each(|change| laws::check(batch.partition, change));
    let known = match lawful {
        Ok(()) => Known::read(client, batch).await?,
        Err(what) => Err(what),
    };
    let known = match known {
        Ok(known) => known,
        // A stale owner is told that it is, whatever it wants.
        Err(what) => return standing(client, batch).await?.map_or(Err(StoreError::Conflict { what }), |()| Ok(())),
    };
    let merged = write(lane, client, batch, &known, true).await;
    let Err(StoreError::Conflict { what }) = &merged else { return merged };
    if batch.changes.len() == 1 {
        return merged;
    }
    let single = write(lane, client, batch, &known, false).await;
    if single.is_ok() {
        tracing::warn!(partition = %batch.partition, what, "a batch was refused as a whole and accepted change by change");
    }
    single
}

/// Holds the row until the end of the transaction. Nothing is written when the batch is known, or the epoch is another.
pub(super) const HOLD: &str = concat!(
    "WITH written AS (
          UPDATE partition SET batch = GREATEST(batch, $3), last_id = GREATEST(last_id, $4)
          WHERE id = $1 AND epoch = $2 AND ($3 = 0 OR batch < $3) RETURNING 1)",
    exactly!("1")
);

const STANDING: &str = "SELECT epoch, batch FROM partition WHERE id = $1";

/// Whether the batch is written already: nothing when it is not, and could be.
async fn standing(client: &Object, batch: &Batch) -> Result<Option<()>, StoreError> {
    let statement = client.prepare_cached(STANDING).await.or_store_error()?;
    let partition = batch.partition;
    let row = client.query_opt(&statement, &[&i32::from(partition.0)]).await.or_store_error()?;
    let Some(row) = row else {
        return Err(StoreError::Corrupt { why: format!("there is no row for partition {partition}") });
    };
    if Epoch(row.get(0)) != batch.epoch {
        return Err(StoreError::Fenced { partition, ours: batch.epoch });
    }
    Ok((batch.number > 0 && row.get::<_, i64>(1) >= stored_number(batch.number)).then_some(()))
}

fn stored_number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

async fn write(lane: &Lane, client: &Object, batch: &Batch, known: &Known, merged: bool) -> Result<(), StoreError> {
    let (steps, changes) = steps(batch, known, merged);
    for race in 1.. {
        let Err(Failure { step, error }) = fly(client, &steps).await? else { return Ok(()) };
        if is_stale_statement(&error) {
            client.statement_cache.clear();
        }
        if is_standby(&error) {
            lane.forget_idle();
        }
        if is_lost_race(&error) && race < RACES {
            continue;
        }
        let Some(step) = step else { return Err(store_error(&error)) };
        return match store_error(&error) {
            StoreError::Conflict { what } if step == 0 => {
                let why = format!("the row of partition {} changed meanwhile ({what})", batch.partition);
                standing(client, batch).await?.ok_or(StoreError::Unavailable { why })
            }
            StoreError::Conflict { what } => Err(StoreError::Conflict { what: expected(changes[step], &what) }),
            error => Err(error),
        };
    }
    unreachable!("the last race is not run again")
}

/// All statements, each with a change that it is about.
fn steps<'b>(batch: &'b Batch, known: &Known, merged: bool) -> (Vec<Step<'b>>, Vec<Option<Row<'b>>>) {
    let hold = vec![
        Value::Short(batch.partition.0.into()),
        Value::Int(batch.epoch.0),
        Value::Int(stored_number(batch.number)),
        Value::Int(batch.changes.iter().map(new_id).max().unwrap_or(0)),
    ];
    let mut steps = vec![Step { sql: HOLD, values: hold }];
    let mut changes = vec![None];
    for rows in arrange(&batch.changes, merged) {
        let Some(first) = rows.first() else { continue };
        match first {
            Row::Schedule(_) => jobs::advance(&rows, &mut steps),
            Row::Gap(..) => jobs::record_gaps(&rows, &mut steps),
            Row::NewJob(_) => jobs::insert(&rows, known, &mut steps),
            Row::NewInstance(_) => instances::insert(&rows, &mut steps),
            Row::NewEnded(..) => instances::insert_ended(&rows, &mut steps),
            Row::Instance(_) => instances::update(&rows, &mut steps),
            Row::Ended(..) => instances::end(&rows, &mut steps),
            Row::Attempt(_) => instances::insert_attempts(&rows, &mut steps),
            Row::NewFanout(_) => tasks::insert_fanouts(&rows, &mut steps),
            Row::Fanout(_) => tasks::update_fanouts(&rows, &mut steps),
            Row::NewTask(_) => tasks::insert(&rows, &mut steps),
            Row::Task(_) => tasks::update(&rows, &mut steps),
            Row::Alone(change) => alone(change, known, &mut steps),
        }
        changes.resize(steps.len(), Some(*first));
    }
    (steps, changes)
}

/// All statements for a batch about which nothing is known.
#[cfg(test)]
pub(super) fn all_steps(batch: &Batch) -> Vec<Step<'_>> {
    steps(batch, &Known::default(), true).0
}

fn alone<'b>(change: &'b Change, known: &Known, steps: &mut Vec<Step<'b>>) {
    match change {
        Change::AppInserted(app) => jobs::insert_app(app, steps),
        Change::AppUpdated(app) => jobs::update_app(app, steps),
        Change::AppDeleted(id) => jobs::delete_app(*id, steps),
        Change::JobUpdated(job) => jobs::update(job, known, steps),
        Change::JobDeleted { id, version, at } => jobs::delete(*id, *version, *at, steps),
        Change::InstanceQuarantined { id, at, why, prune_at } => {
            instances::quarantine(*id, *at, why, *prune_at, known, steps);
        }
        Change::TasksCopied { from, to, at, count } => tasks::copy(*from, *to, *at, *count, steps),
        other => unreachable!("{other:?} stands alone"),
    }
}

/// The id that a change brings into the store; it must not be given again even when its row is gone.
fn new_id(change: &Change) -> i64 {
    match change {
        Change::AppInserted(app) => app.id.0,
        Change::JobInserted(job) => job.id.0,
        Change::InstanceInserted { instance, .. } => instance.id.0,
        _ => 0,
    }
}

/// What a refused row expected, and what the database said. Of rows that were written together it is about the first.
fn expected(row: Option<Row<'_>>, said: &str) -> String {
    let at = |what: &dyn Display, version: i64| format!("{what} is not at version {version}");
    let expected = match row {
        None => "the partition is ours".to_owned(),
        Some(Row::Schedule(row)) => format!("job {} does not fire next at {:?}", row.job, row.expected_next),
        Some(Row::Gap(job, _)) => format!("job {job} of a gap does not exist"),
        Some(Row::NewJob(job)) => {
            format!("job {} or its name `{}` exists, or app {} does not", job.id, job.spec.name, job.app)
        }
        Some(Row::NewInstance(new) | Row::NewEnded(new, _)) => format!(
            "instance {} of job {} (fire time {:?}, idempotency key {:?}) exists, or revision {} is not kept",
            new.id, new.job, new.fire_time, new.idempotency_key, new.revision.0
        ),
        Some(Row::Instance(row)) => at(&format!("instance {} has ended or", row.to.id), row.from),
        Some(Row::Ended(new, _)) => at(&format!("instance {} has ended or", new.id), i64::from(new.version) - 1),
        Some(Row::Attempt(past)) => format!(
            "attempt {} of task {}/{} is kept already, or the instance is not",
            past.attempt, past.instance, past.task
        ),
        Some(Row::NewFanout(new)) => {
            format!("instance {} became tasks already, has ended or does not exist", new.instance)
        }
        Some(Row::Fanout(row)) => at(&format!("the count of tasks of instance {}", row.to.instance), row.from),
        Some(Row::NewTask(new)) => {
            format!("task {} exists, or its instance never became tasks, or has ended", new.key())
        }
        Some(Row::Task(new)) => {
            at(&format!("task {} has ended, is bound elsewhere or", new.key()), i64::from(new.version) - 1)
        }
        Some(Row::Alone(change)) => expected_alone(change),
    };
    format!("{expected} ({said})")
}

fn expected_alone(change: &Change) -> String {
    match change {
        Change::AppInserted(app) => format!("app {} or its name `{}` exists", app.id, app.name),
        Change::AppUpdated(app) => format!("app {} is not at version {}", app.id, app.version.wrapping_sub(1)),
        Change::AppDeleted(id) => format!("app {id} is gone or still has jobs"),
        Change::JobUpdated(job) => {
            let before = job.version.wrapping_sub(1);
            format!("job {} is not at version {before}, or `{}` is taken", job.id, job.spec.name)
        }
        Change::JobDeleted { id, version, .. } => format!("job {id} is not at version {version}"),
        Change::InstanceQuarantined { id, .. } => format!("instance {id} has ended"),
        Change::TasksCopied { from, to, count, .. } => format!(
            "not {count} tasks of instance {from} did not succeed, or it has not ended, or instance {to} takes no tasks or \
             has them"
        ),
        other => format!("{other:?}"),
    }
}
