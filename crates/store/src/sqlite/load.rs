//! What a new owner of a partition reads: its size follows what is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pendula_model::instance::Instance;
use pendula_model::job::{Job, JobSpec};
use pendula_model::snapshot::Snapshot;
use pendula_model::{InstanceId, JobId, PartitionId, Revision};
use rusqlite::{Connection, params};

use super::error::OrStoreError;
use super::tasks;
use crate::laws;
use crate::port::StoreError;
use crate::rows::{self, Columns, Unreadable, app_columns, fanout_columns, instance_columns, job_columns, job_tables};
use crate::unreadable::{Kind, UnreadableRows};

pub(super) const APPS_OF_PARTITION: &str =
    concat!("SELECT ", app_columns!(), " FROM app WHERE partition = ?1 ORDER BY id");

pub(super) const ACTIVE_OF_PARTITION: &str =
    concat!("SELECT ", instance_columns!(), " FROM instance WHERE partition = ?1 AND ended_at IS NULL");

/// Index `instance_active`, primary key.
pub(super) const FANOUTS_OF_PARTITION: &str = concat!(
    "SELECT ",
    fanout_columns!(),
    " FROM instance CROSS JOIN fanout ON fanout.instance_id = instance.id
      WHERE instance.partition = ?1 AND instance.ended_at IS NULL"
);

pub(super) const JOB: &str = concat!("SELECT ", job_columns!(), " FROM ", job_tables!(), " WHERE job.id = ?1");

pub(super) const REVISION: &str = "SELECT spec FROM job_revision WHERE job_id = ?1 AND revision = ?2";

pub(super) const LAST_ID: &str = "
    SELECT max(
        coalesce((SELECT max(id) FROM app), 0), coalesce((SELECT max(id) FROM job), 0),
        coalesce((SELECT max(id) FROM instance), 0), coalesce((SELECT max(id) FROM token), 0),
        CAST(value AS INTEGER))
    FROM meta WHERE key = 'last_deleted_id'";

/// The largest id that was ever given out.
pub(crate) fn last_id(db: &Connection) -> Result<i64, StoreError> {
    db.prepare_cached(LAST_ID).and_then(|mut statement| statement.query_row([], |row| row.get(0))).or_store_error()
}

/// Reads the snapshot in one transaction.
pub(super) fn load(
    db: &mut Connection,
    partition: PartitionId,
    unreadable: &UnreadableRows,
) -> Result<Snapshot, StoreError> {
    let transaction = db.transaction().or_store_error()?;
    let db: &Connection = &transaction;
    let last_id = last_id(db)?;
    let apps = unreadable.read_all(db, Kind::App, APPS_OF_PARTITION, [partition.0], usize::MAX, rows::app)?;
    let mut snapshot = Snapshot {
        partition,
        last_id,
        apps,
        jobs: Vec::new(),
        revisions: Vec::new(),
        instances: Vec::new(),
        fanouts: Vec::new(),
        tasks: Vec::new(),
        broken: Vec::new(),
    };
    read_instances(db, &mut snapshot)?;
    read_definitions(db, &mut snapshot)?;
    read_tasks(db, &mut snapshot)?;
    for (id, why) in &snapshot.broken {
        unreadable.note_instance(*id, why);
    }
    Ok(snapshot)
}

fn read_instances(db: &Connection, snapshot: &mut Snapshot) -> Result<(), StoreError> {
    let mut statement = db.prepare_cached(ACTIVE_OF_PARTITION).or_store_error()?;
    let mut rows = statement.query([snapshot.partition.0]).or_store_error()?;
    while let Some(row) = rows.next().or_store_error()? {
        let id = InstanceId(row.get(0).or_store_error()?);
        let lawful = |instance| laws::check_instance(&instance, None).map(|()| instance);
        match rows::instance(&mut Columns::new(row)).and_then(lawful) {
            Ok(instance) => snapshot.instances.push(instance),
            Err(why) => snapshot.broken.push((id, why)),
        }
    }
    snapshot.instances.sort_unstable_by_key(|instance| instance.id);
    Ok(())
}

/// Reads the jobs and revisions that the instances need; instances without go to the broken ones.
fn read_definitions(db: &Connection, snapshot: &mut Snapshot) -> Result<(), StoreError> {
    let used: BTreeSet<_> = snapshot.instances.iter().map(|instance| (instance.job, instance.revision)).collect();
    let mut jobs: BTreeMap<JobId, Result<Job, Unreadable>> = BTreeMap::new();
    let mut without: BTreeMap<(JobId, Revision), Unreadable> = BTreeMap::new();
    for (id, revision) in used {
        let job = match jobs.entry(id) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => new.insert(read_job(db, id)?),
        };
        match job {
            Err(why) => {
                without.insert((id, revision), format!("job {id} cannot be understood: {why}"));
            }
            Ok(job) if job.revision == revision => {}
            Ok(_) => match read_revision(db, id, revision)? {
                Ok(spec) => snapshot.revisions.push((id, revision, spec)),
                Err(why) => {
                    let text = format!("revision {} of job {id} cannot be understood: {why}", revision.0);
                    without.insert((id, revision), text);
                }
            },
        }
    }
    snapshot.jobs = jobs.into_values().flatten().collect();
    if !without.is_empty() {
        set_aside(snapshot, |instance| without.get(&(instance.job, instance.revision)).cloned());
    }
    Ok(())
}

/// Moves the instances that `why_broken` has something against to the broken ones.
fn set_aside(snapshot: &mut Snapshot, why_broken: impl Fn(&Instance) -> Option<Unreadable>) {
    let broken = &mut snapshot.broken;
    snapshot.instances.retain(|instance| {
        let why = why_broken(instance);
        let is_whole = why.is_none();
        broken.extend(why.map(|why| (instance.id, why)));
        is_whole
    });
}

/// Reads how far the instances with many tasks are, and of those tasks what is under way.
fn read_tasks(db: &Connection, snapshot: &mut Snapshot) -> Result<(), StoreError> {
    let mut broken: BTreeMap<InstanceId, Unreadable> = BTreeMap::new();
    let mut begun = BTreeSet::new();
    let mut statement = db.prepare_cached(FANOUTS_OF_PARTITION).or_store_error()?;
    let mut rows = statement.query([snapshot.partition.0]).or_store_error()?;
    while let Some(row) = rows.next().or_store_error()? {
        let id = InstanceId(row.get(0).or_store_error()?);
        begun.insert(id);
        let lawful = |fanout| laws::check_fanout(&fanout).map(|()| fanout);
        match rows::fanout(&mut Columns::new(row)).and_then(lawful) {
            Ok(fanout) => snapshot.fanouts.push(fanout),
            Err(why) => drop(broken.insert(id, format!("how far its tasks are cannot be understood: {why}"))),
        }
    }
    let mut statement = db.prepare_cached(tasks::UNDER_WAY).or_store_error()?;
    for fanout in &snapshot.fanouts {
        let mut rows = statement.query([fanout.instance.0]).or_store_error()?;
        while let Some(row) = rows.next().or_store_error()? {
            let lawful = |task| laws::check_task(&task).map(|()| task);
            match rows::whole_task(&mut Columns::new(row)).and_then(lawful) {
                Ok(task) => snapshot.tasks.push(task),
                Err(why) => {
                    let number: i64 = row.get(1).or_store_error()?;
                    broken.insert(fanout.instance, format!("its task {number} cannot be understood: {why}"));
                    break;
                }
            }
        }
    }
    set_aside(snapshot, |instance| match broken.get(&instance.id) {
        None => laws::check_begun(instance, begun.contains(&instance.id)).err(),
        why => why.cloned(),
    });
    let whole: BTreeSet<_> = snapshot.instances.iter().map(|instance| instance.id).collect();
    snapshot.fanouts.retain(|fanout| whole.contains(&fanout.instance));
    snapshot.tasks.retain(|task| whole.contains(&task.instance));
    snapshot.fanouts.sort_unstable_by_key(|fanout| fanout.instance);
    snapshot.tasks.sort_unstable_by_key(|task| task.key());
    Ok(())
}

fn read_job(db: &Connection, id: JobId) -> Result<Result<Job, Unreadable>, StoreError> {
    let mut statement = db.prepare_cached(JOB).or_store_error()?;
    let mut rows = statement.query([id.0]).or_store_error()?;
    match rows.next().or_store_error()? {
        Some(row) => Ok(rows::job(&mut Columns::new(row))),
        None => Ok(Err("there is no such job".to_owned())),
    }
}

fn read_revision(
    db: &Connection,
    id: JobId,
    revision: Revision,
) -> Result<Result<Arc<JobSpec>, Unreadable>, StoreError> {
    let mut statement = db.prepare_cached(REVISION).or_store_error()?;
    let mut rows = statement.query(params![id.0, revision.0]).or_store_error()?;
    match rows.next().or_store_error()? {
        Some(row) => Ok(rows::spec(&mut Columns::new(row)).map(Arc::new)),
        None => Ok(Err("it is not kept".to_owned())),
    }
}
