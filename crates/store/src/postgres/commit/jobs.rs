//! Writes of apps, jobs, definitions, schedules and gaps.

use pendula_model::app::App;
use pendula_model::job::Job;
use pendula_model::{AppId, JobId, Timestamp};

use super::{Kept, Known, rows_of};
use crate::laws::GAPS_KEPT;
use crate::postgres::flight::{Step, exactly};
use crate::postgres::groups::{Advance, Row};
use crate::postgres::values::{Value, ints, opt_times, times};

// --- apps -----------------------------------------------------------------------------------------------------------

const INSERT_APP: &str = concat!(
    "WITH written AS (
          INSERT INTO app (id, name, namespace, partition, allow_scripts, created_at, version)
          VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING 1)",
    exactly!("1")
);

pub(super) fn insert_app<'b>(app: &'b App, steps: &mut Vec<Step<'b>>) {
    let values = vec![
        Value::Int(app.id.0),
        Value::text(&app.name),
        Value::text(&app.namespace),
        Value::Short(app.partition.0.into()),
        Value::Flag(app.allow_scripts),
        Value::time(app.created_at),
        Value::Int(app.version.cast_signed()),
    ];
    steps.push(Step { sql: INSERT_APP, values });
}

/// The name decides the partition and never changes.
const UPDATE_APP: &str = concat!(
    "WITH written AS (
          UPDATE app SET namespace = $3, allow_scripts = $4, version = $5
          WHERE id = $1 AND name = $2 AND version = $5 - 1 RETURNING 1)",
    exactly!("1")
);

pub(super) fn update_app<'b>(app: &'b App, steps: &mut Vec<Step<'b>>) {
    let values = vec![
        Value::Int(app.id.0),
        Value::text(&app.name),
        Value::text(&app.namespace),
        Value::Flag(app.allow_scripts),
        Value::Int(app.version.cast_signed()),
    ];
    steps.push(Step { sql: UPDATE_APP, values });
}

/// Ids of tokens are nowhere else when these are gone.
const REMEMBER_TOKENS: &str = "
    UPDATE meta SET value = GREATEST(meta.value::bigint, gone.id)::text
    FROM (SELECT max(id) AS id FROM token WHERE app_id = $1) AS gone
    WHERE meta.key = 'last_deleted_id' AND gone.id IS NOT NULL";

/// Tokens go with it.
const DELETE_APP: &str = concat!(
    "WITH written AS (
          DELETE FROM app
          WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM job WHERE app_id = $1 AND deleted_at IS NULL) RETURNING 1)",
    exactly!("1")
);

pub(super) fn delete_app(id: AppId, steps: &mut Vec<Step<'_>>) {
    steps.push(Step { sql: REMEMBER_TOKENS, values: vec![Value::Int(id.0)] });
    steps.push(Step { sql: DELETE_APP, values: vec![Value::Int(id.0)] });
}

// --- jobs -----------------------------------------------------------------------------------------------------------

const INSERT_JOBS: &str = concat!(
    "WITH written AS (
          INSERT INTO job (
              partition, id, app_id, name, enabled, revision, version, anchor, next_fire, last_fire, missed, created_at,
              updated_at)
          SELECT $2, n.* FROM (SELECT
              unnest($3::bigint[]) AS id, unnest($4::bigint[]) AS app_id, unnest($5::text[]) AS name,
              unnest($6::boolean[]) AS enabled, unnest($7::bigint[]) AS revision, unnest($8::bigint[]) AS version,
              unnest($9::bigint[]) AS anchor, unnest($10::bigint[]) AS next_fire, unnest($11::bigint[]) AS last_fire,
              unnest($12::bigint[]) AS missed, unnest($13::bigint[]) AS created_at,
              unnest($14::bigint[]) AS updated_at) AS n
          WHERE (SELECT o.id FROM app o WHERE o.id = n.app_id) IS NOT NULL
          RETURNING 1)",
    exactly!("$1")
);

const INSERT_REVISIONS: &str = concat!(
    "WITH written AS (
          INSERT INTO job_revision (job_id, revision, saved_at, spec)
          SELECT unnest($2::bigint[]), unnest($3::bigint[]), unnest($4::bigint[]), unnest($5::text[])
          RETURNING 1)",
    exactly!("$1")
);

pub(super) fn insert<'b>(rows: &[Row<'b>], known: &Known, steps: &mut Vec<Step<'b>>) {
    let rows: Vec<&'b Job> = rows_of!(rows, Row::NewJob(job) => *job);
    let Some(first) = rows.first() else { return };
    let texts = |text: fn(&Job) -> &str| Value::owned_texts(rows.iter().map(|job| text(job).to_owned()));
    let values = vec![
        Value::count(rows.len()),
        Value::Short(first.id.partition().0.into()),
        ints(&rows, |job| job.id.0),
        ints(&rows, |job| job.app.0),
        texts(|job| &job.spec.name),
        Value::Flags(rows.iter().map(|job| Some(job.spec.enabled)).collect()),
        ints(&rows, |job| job.revision.0.into()),
        ints(&rows, |job| job.version.cast_signed()),
        times(&rows, |job| job.schedule.anchor),
        opt_times(&rows, |job| job.schedule.next_fire),
        opt_times(&rows, |job| job.schedule.last_fire),
        ints(&rows, |job| job.schedule.missed.cast_signed()),
        times(&rows, |job| job.created_at),
        times(&rows, |job| job.updated_at),
    ];
    steps.push(Step { sql: INSERT_JOBS, values });
    insert_revisions(&rows, known, steps);
}

fn insert_revisions<'b>(rows: &[&'b Job], known: &Known, steps: &mut Vec<Step<'b>>) {
    let values = vec![
        Value::count(rows.len()),
        ints(rows, |job| job.id.0),
        ints(rows, |job| job.revision.0.into()),
        times(rows, |job| job.updated_at),
        Value::owned_texts(rows.iter().map(|job| known.text_of(job))),
    ];
    steps.push(Step { sql: INSERT_REVISIONS, values });
}

const UPDATE_JOB: &str = concat!(
    "WITH written AS (
          UPDATE job SET name = $2, enabled = $3, revision = $4, version = $5, anchor = $6, next_fire = $7,
              last_fire = $8, missed = $9, updated_at = $10
          WHERE id = $1 AND version = $5 - 1 AND app_id = $11 AND revision <= $4 AND deleted_at IS NULL RETURNING 1)",
    exactly!("1")
);

/// A definition is what it was when the batch was looked at.
const REVISION_IS_AS_KNOWN: &str = concat!(
    "WITH written AS (SELECT 1 FROM job_revision WHERE job_id = $1 AND revision = $2 AND spec = $3)",
    exactly!("1")
);

const DELETE_REVISION: &str = concat!(
    "WITH written AS (
          DELETE FROM job_revision WHERE job_id = $1 AND revision = $2 AND spec = $3 RETURNING 1)",
    exactly!("1")
);

const SUPERSEDE: &str = "
    UPDATE job_revision SET superseded = TRUE WHERE job_id = $1 AND revision < $2 AND NOT superseded";

pub(super) fn update<'b>(job: &'b Job, known: &Known, steps: &mut Vec<Step<'b>>) {
    let schedule = &job.schedule;
    let values = vec![
        Value::Int(job.id.0),
        Value::text(&job.spec.name),
        Value::Flag(job.spec.enabled),
        Value::Int(job.revision.0.into()),
        Value::Int(job.version.cast_signed()),
        Value::time(schedule.anchor),
        Value::opt_time(schedule.next_fire),
        Value::opt_time(schedule.last_fire),
        Value::Int(schedule.missed.cast_signed()),
        Value::time(job.updated_at),
        Value::Int(job.app.0),
    ];
    steps.push(Step { sql: UPDATE_JOB, values });
    let key = || vec![Value::Int(job.id.0), Value::Int(job.revision.0.into())];
    let with = |text: &str| [key(), vec![Value::owned(text.to_owned())]].concat();
    match known.kept(job) {
        Kept::Alike { text } => {
            steps.push(Step { sql: REVISION_IS_AS_KNOWN, values: with(text) });
            return;
        }
        Kept::InBatch => return,
        // Saving the job again is how an unreadable definition is repaired.
        Kept::Unreadable { text } => steps.push(Step { sql: DELETE_REVISION, values: with(text) }),
        Kept::No => {}
    }
    insert_revisions(&[job], known, steps);
    steps.push(Step { sql: SUPERSEDE, values: key() });
}

const DELETE_JOB: &str = concat!(
    "WITH written AS (
          UPDATE job SET deleted_at = $3, updated_at = $3, next_fire = NULL
          WHERE id = $1 AND version = $2 AND deleted_at IS NULL RETURNING 1)",
    exactly!("1")
);

pub(super) fn delete(id: JobId, version: u64, at: Timestamp, steps: &mut Vec<Step<'_>>) {
    let values = vec![Value::Int(id.0), Value::Int(version.cast_signed()), Value::time(at)];
    steps.push(Step { sql: DELETE_JOB, values });
}

/// The last condition is not taken apart, or the planner might think of the index of names, which holds all jobs that are
/// not deleted.
pub(in crate::postgres) const ADVANCE_SCHEDULES: &str = concat!(
    "WITH written AS (
          UPDATE job SET anchor = n.anchor, next_fire = n.next_fire, last_fire = n.last_fire, missed = n.missed
          FROM (SELECT
              unnest($2::bigint[]) AS id, unnest($3::bigint[]) AS expected, unnest($4::bigint[]) AS anchor,
              unnest($5::bigint[]) AS next_fire, unnest($6::bigint[]) AS last_fire,
              unnest($7::bigint[]) AS missed) AS n
          WHERE job.id = n.id AND job.next_fire IS NOT DISTINCT FROM n.expected
              AND CASE WHEN job.deleted_at IS NULL THEN job.enabled OR n.next_fire IS NULL ELSE FALSE END
          RETURNING 1)",
    exactly!("$1")
);

pub(super) fn advance<'b>(rows: &[Row<'b>], steps: &mut Vec<Step<'b>>) {
    let rows: Vec<Advance<'b>> = rows_of!(rows, Row::Schedule(row) => *row);
    let values = vec![
        Value::count(rows.len()),
        ints(&rows, |row| row.job.0),
        opt_times(&rows, |row| row.expected_next),
        times(&rows, |row| row.schedule.anchor),
        opt_times(&rows, |row| row.schedule.next_fire),
        opt_times(&rows, |row| row.schedule.last_fire),
        ints(&rows, |row| row.schedule.missed.cast_signed()),
    ];
    steps.push(Step { sql: ADVANCE_SCHEDULES, values });
}

/// At most one for each job, which is what numbers it.
pub(in crate::postgres) const INSERT_GAPS: &str = concat!(
    "WITH written AS (
          INSERT INTO gap (job_id, number, first_fire, last_fire, fires, noticed_at)
          SELECT n.job_id, COALESCE((SELECT max(number) FROM gap WHERE gap.job_id = n.job_id), 0) + 1, n.first_fire,
              n.last_fire, n.fires, n.noticed_at
          FROM (SELECT
              unnest($2::bigint[]) AS job_id, unnest($3::bigint[]) AS first_fire, unnest($4::bigint[]) AS last_fire,
              unnest($5::bigint[]) AS fires, unnest($6::bigint[]) AS noticed_at) AS n
          WHERE (SELECT o.id FROM job o WHERE o.id = n.job_id) IS NOT NULL
          RETURNING 1)",
    exactly!("$1")
);

/// Numbers of a job have no holes.
pub(in crate::postgres) const DELETE_OLD_GAPS: &str = "
    DELETE FROM gap USING (
        SELECT n.id, (SELECT max(number) FROM gap WHERE gap.job_id = n.id) - $2 AS number
        FROM (SELECT unnest($1::bigint[]) AS id) AS n) AS old
    WHERE gap.job_id = old.id AND gap.number <= old.number";

pub(super) fn record_gaps<'b>(rows: &[Row<'b>], steps: &mut Vec<Step<'b>>) {
    let rows = rows_of!(rows, Row::Gap(job, gap) => (*job, *gap));
    let values = vec![
        Value::count(rows.len()),
        ints(&rows, |(job, _)| job.0),
        ints(&rows, |(_, gap)| gap.from.as_micros()),
        ints(&rows, |(_, gap)| gap.to.as_micros()),
        ints(&rows, |(_, gap)| gap.count.cast_signed()),
        ints(&rows, |(_, gap)| gap.noticed_at.as_micros()),
    ];
    steps.push(Step { sql: INSERT_GAPS, values });
    steps.push(Step { sql: DELETE_OLD_GAPS, values: vec![ints(&rows, |(job, _)| job.0), Value::count(GAPS_KEPT)] });
}
