//! From rows to the model's words.
//!
//! Reading a row has two ways to fail: the database cannot give it (an error of the store), or what it gives makes no
//! sense (this row is unreadable, and others go on). The second is a plain text here. Both databases' rows are read here.

mod definition;
mod tasks;

use std::sync::Arc;

use pendula_model::app::App;
use pendula_model::change::Gap;
use pendula_model::instance::{Instance, InstanceState, Origin, PastAttempt, Payload, Reason, StopCause, TaskState};
use pendula_model::job::{Job, JobSpec, ScheduleState};
use pendula_model::token::{Scope, Token};
use pendula_model::worker::{BootId, WorkerRef};
use pendula_model::{AppId, InstanceId, JobId, PartitionId, Revision, TaskId, Timestamp, TokenId};

pub(crate) use self::definition::definition;
pub(crate) use self::tasks::*;

/// Why a row could not be understood.
pub(crate) type Unreadable = String;

/// A row as a database gives it. Columns are counted from 0.
pub(crate) trait StoredRow {
    /// A whole number or a truth value.
    fn int(&self, column: usize) -> Result<Option<i64>, Unreadable>;

    fn text(&self, column: usize) -> Result<Option<&str>, Unreadable>;

    fn blob(&self, column: usize) -> Result<Option<&[u8]>, Unreadable>;

    fn name(&self, column: usize) -> &str;
}

/// The columns of a row, taken one after the other in the order of the query.
pub(crate) struct Columns<'a> {
    row: &'a dyn StoredRow,
    next: usize,
}

impl<'a> Columns<'a> {
    pub fn new(row: &'a dyn StoredRow) -> Self {
        Columns { row, next: 0 }
    }

    fn take(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    fn refuse<T>(&self, why: &str) -> Result<T, Unreadable> {
        Err(format!("column `{}` {why}", self.row.name(self.next - 1)))
    }

    fn opt_int(&mut self) -> Result<Option<i64>, Unreadable> {
        let column = self.take();
        self.row.int(column)
    }

    pub fn int(&mut self) -> Result<i64, Unreadable> {
        self.opt_int()?.map_or_else(|| self.refuse("is empty"), Ok)
    }

    /// An integer that fits into a smaller type.
    fn small<T: TryFrom<i64>>(&mut self) -> Result<T, Unreadable> {
        let number = self.int()?;
        T::try_from(number).or_else(|_| self.refuse(&format!("has {number}, which is out of range")))
    }

    fn opt_small<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, Unreadable> {
        let Some(number) = self.opt_int()? else { return Ok(None) };
        let small = T::try_from(number).map(Some);
        small.or_else(|_| self.refuse(&format!("has {number}, which is out of range")))
    }

    fn time(&mut self) -> Result<Timestamp, Unreadable> {
        self.int().map(Timestamp::from_micros)
    }

    pub fn opt_time(&mut self) -> Result<Option<Timestamp>, Unreadable> {
        Ok(self.opt_int()?.map(Timestamp::from_micros))
    }

    fn opt_text(&mut self) -> Result<Option<&'a str>, Unreadable> {
        let column = self.take();
        self.row.text(column)
    }

    fn text(&mut self) -> Result<&'a str, Unreadable> {
        self.opt_text()?.map_or_else(|| self.refuse("is empty"), Ok)
    }

    fn opt_json(&mut self) -> Result<Option<Arc<str>>, Unreadable> {
        let Some(text) = self.opt_text()? else { return Ok(None) };
        match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => Ok(Some(Arc::from(text))),
            Err(error) => self.refuse(&format!("is no JSON: {error}")),
        }
    }

    fn opt_blob(&mut self) -> Result<Option<&'a [u8]>, Unreadable> {
        let column = self.take();
        self.row.blob(column)
    }

    fn word<T>(&mut self, from_code: impl FnOnce(u8) -> Option<T>) -> Result<T, Unreadable> {
        let code: u8 = self.small()?;
        from_code(code).map_or_else(|| self.refuse(&format!("has {code}, which means nothing")), Ok)
    }

    fn opt_worker(&mut self) -> Result<Option<WorkerRef>, Unreadable> {
        let name = self.opt_text()?;
        let boot = self.opt_int()?;
        match (name, boot) {
            (Some(name), Some(boot)) => Ok(Some(WorkerRef { name: name.into(), boot: BootId(boot.cast_unsigned()) })),
            (None, None) => Ok(None),
            _ => self.refuse("is empty, or the worker's name is"),
        }
    }
}

/// Columns of `app`, as [`app`] reads them.
macro_rules! app_columns {
    () => {
        "id, name, namespace, partition, allow_scripts, created_at, version"
    };
}

pub(crate) fn app(columns: &mut Columns<'_>) -> Result<App, Unreadable> {
    Ok(App {
        id: AppId(columns.int()?),
        name: columns.text()?.to_owned(),
        namespace: columns.text()?.to_owned(),
        partition: PartitionId(columns.small()?),
        allow_scripts: columns.int()? != 0,
        created_at: columns.time()?,
        version: columns.small()?,
    })
}

/// Columns of `job` joined with the `job_revision` that it runs, as [`job`] reads them. Without the revision's row the
/// definition is empty, and so the job unreadable.
macro_rules! job_columns {
    () => {
        "job.id, job.app_id, job.name, job.enabled, job.revision, job.version, job.anchor, job.next_fire, \
         job.last_fire, job.missed, job.created_at, job.updated_at, job.deleted_at, job_revision.spec"
    };
}

/// The join that goes with [`job_columns`].
macro_rules! job_tables {
    () => {
        "job LEFT JOIN job_revision ON job_revision.job_id = job.id AND job_revision.revision = job.revision"
    };
}

pub(crate) fn job(columns: &mut Columns<'_>) -> Result<Job, Unreadable> {
    let id = JobId(columns.int()?);
    let app = AppId(columns.int()?);
    let name = columns.text()?;
    let enabled = columns.int()? != 0;
    let revision = Revision(columns.small()?);
    let version = columns.small()?;
    let schedule = ScheduleState {
        anchor: columns.time()?,
        next_fire: columns.opt_time()?,
        last_fire: columns.opt_time()?,
        missed: columns.small()?,
    };
    let created_at = columns.time()?;
    let updated_at = columns.time()?;
    let deleted_at = columns.opt_time()?;
    let mut spec = spec(columns)?;
    if spec.name != name {
        return columns.refuse("is the definition of another name");
    }
    spec.enabled = enabled;
    Ok(Job { id, app, spec: Arc::new(spec), revision, version, schedule, created_at, updated_at, deleted_at })
}

/// The column `spec` of `job_revision`.
pub(crate) fn spec(columns: &mut Columns<'_>) -> Result<JobSpec, Unreadable> {
    let text = columns.text()?;
    definition(text).or_else(|error| columns.refuse(&format!("is no definition: {error}")))
}

pub(crate) fn revision(columns: &mut Columns<'_>) -> Result<(Revision, Timestamp, Arc<JobSpec>), Unreadable> {
    Ok((Revision(columns.small()?), columns.time()?, Arc::new(spec(columns)?)))
}

pub(crate) fn gap(columns: &mut Columns<'_>) -> Result<Gap, Unreadable> {
    Ok(Gap { from: columns.time()?, to: columns.time()?, count: columns.small()?, noticed_at: columns.time()? })
}

/// Columns of `instance`, as [`instance`] reads them.
macro_rules! instance_columns {
    () => {
        "id, app_id, job_id, revision, origin, fire_time, missed_before, rerun_of, idempotency_key, params, priority, \
         created_at, due_at, expires_at, state, version, attempt, failures, losses, worker_name, worker_boot, \
         placement, dispatched_at, started_at, ended_at, stop_cause, stop_deadline, reason, message, result_type, result"
    };
}

pub(crate) fn instance(columns: &mut Columns<'_>) -> Result<Instance, Unreadable> {
    Ok(Instance {
        id: InstanceId(columns.int()?),
        app: AppId(columns.int()?),
        job: JobId(columns.int()?),
        revision: Revision(columns.small()?),
        origin: columns.word(Origin::from_code)?,
        fire_time: columns.opt_time()?,
        missed_before: columns.small()?,
        rerun_of: columns.opt_int()?.map(InstanceId),
        idempotency_key: columns.opt_text()?.map(Arc::from),
        params: columns.opt_json()?,
        priority: columns.small()?,
        created_at: columns.time()?,
        due_at: columns.time()?,
        expires_at: columns.opt_time()?,
        state: columns.word(InstanceState::from_code)?,
        version: columns.small()?,
        attempt: columns.small()?,
        failures: columns.small()?,
        losses: columns.small()?,
        worker: columns.opt_worker()?,
        placement: columns.opt_json()?,
        dispatched_at: columns.opt_time()?,
        started_at: columns.opt_time()?,
        ended_at: columns.opt_time()?,
        stop_cause: match columns.opt_int()? {
            None => None,
            Some(code) => match u8::try_from(code).ok().and_then(StopCause::from_code) {
                Some(cause) => Some(cause),
                None => return columns.refuse(&format!("has {code}, which means nothing")),
            },
        },
        stop_deadline: columns.opt_time()?,
        reason: columns.opt_text()?.map(Reason::from_wire),
        message: columns.opt_text()?.map(Arc::from),
        result: payload(columns)?,
    })
}

fn payload(columns: &mut Columns<'_>) -> Result<Option<Payload>, Unreadable> {
    let content_type = columns.opt_text()?;
    let bytes = columns.opt_blob()?;
    match (content_type, bytes) {
        (Some(content_type), Some(bytes)) => {
            Ok(Some(Payload { content_type: content_type.to_owned(), bytes: bytes.to_owned() }))
        }
        (None, None) => Ok(None),
        _ => columns.refuse("is empty, or its type is"),
    }
}

pub(crate) fn past_attempt(columns: &mut Columns<'_>) -> Result<PastAttempt, Unreadable> {
    Ok(PastAttempt {
        instance: InstanceId(columns.int()?),
        task: TaskId(columns.small()?),
        attempt: columns.small()?,
        state: columns.word(TaskState::from_code)?,
        worker: columns.opt_worker()?,
        placement: columns.opt_json()?,
        dispatched_at: columns.opt_time()?,
        started_at: columns.opt_time()?,
        ended_at: columns.time()?,
        reason: Reason::from_wire(columns.text()?),
        message: columns.opt_text()?.map(Arc::from),
    })
}

/// Columns of `token`, as [`token`] reads them.
macro_rules! token_columns {
    () => {
        "id, name, scope, app_id, hash, created_at, expires_at"
    };
}

pub(crate) fn token(columns: &mut Columns<'_>) -> Result<Token, Unreadable> {
    let id = TokenId(columns.int()?);
    let name = columns.text()?.to_owned();
    let kind = columns.text()?;
    let app = columns.opt_int()?.map(AppId);
    let scope = match (kind, app) {
        ("admin", None) => Scope::Admin,
        ("metrics", None) => Scope::Metrics,
        ("app", Some(app)) => Scope::App { app },
        ("worker", Some(app)) => Scope::Worker { app },
        _ => return columns.refuse("does not go with the scope"),
    };
    let Some(hash) = columns.opt_blob()?.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) else {
        return columns.refuse("does not have 32 bytes");
    };
    Ok(Token { id, name, scope, hash, created_at: columns.time()?, expires_at: columns.opt_time()? })
}

pub(crate) use {app_columns, instance_columns, job_columns, job_tables, token_columns};
