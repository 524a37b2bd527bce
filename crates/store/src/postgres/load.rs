//! What a new owner of a partition reads: its size follows what is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deadpool_postgres::{Object, Transaction};
use futures::TryStreamExt;
use pendula_model::instance::Instance;
use pendula_model::job::{Job, JobSpec};
use pendula_model::snapshot::Snapshot;
use pendula_model::{InstanceId, JobId, PartitionId, Revision};
use tokio_postgres::Row;

use super::error::OrStoreError;
use super::instances::active_columns;
use super::read::{at_one_moment, prepared, query};
use super::tasks::under_way;
use super::values::{Value, ints};
use crate::laws;
use crate::port::StoreError;
use crate::rows::{
    self, Columns, Unreadable, app_columns, fanout_columns, job_columns, job_tables, task_columns, whole_task_columns,
};
use crate::unreadable::{Kind, UnreadableRows};

/// Index `app_by_partition`.
pub(super) const APPS_OF_PARTITION: &str =
    concat!("SELECT ", app_columns!(), " FROM app WHERE partition = $1 ORDER BY id");

/// Index `instance_by_job`.
pub(super) const ACTIVE_OF_PARTITION: &str =
    concat!("SELECT ", active_columns!(), " FROM instance WHERE partition = $1");

/// Index `instance_by_job`, primary key.
pub(super) const FANOUTS_OF_PARTITION: &str = concat!(
    "SELECT ",
    fanout_columns!(),
    " FROM instance JOIN fanout ON fanout.instance_id = instance.id WHERE instance.partition = $1"
);

/// Index `task_under_way`.
pub(super) const TASKS_UNDER_WAY: &str =
    concat!("SELECT ", whole_task_columns!(), " FROM task WHERE instance_id = ANY($1) AND ", under_way!());

pub(super) const JOBS: &str = concat!("SELECT ", job_columns!(), " FROM ", job_tables!(), " WHERE job.id = ANY($1)");

pub(super) const REVISIONS: &str = "
    SELECT n.job_id, n.revision,
        (SELECT r.spec FROM job_revision r WHERE r.job_id = n.job_id AND r.revision = n.revision) AS spec
    FROM (SELECT unnest($1::bigint[]) AS job_id, unnest($2::bigint[]) AS revision) AS n";

/// Each partition remembers the largest id that was written in it, which is cheaper to ask for than the end of a table
/// whose newest rows are the first to go. The others are asked all the same; tokens belong to no partition. Whoever fills a
/// store with rows of another one sets `last_deleted_id` to the largest of them.
pub(super) const LAST_ID: &str = "
    SELECT GREATEST(
        (SELECT max(last_id) FROM partition),
        COALESCE((SELECT max(id) FROM app), 0), COALESCE((SELECT max(id) FROM job), 0),
        COALESCE((SELECT max(id) FROM ended_instance), 0), COALESCE((SELECT max(id) FROM token), 0),
        meta.value::bigint)
    FROM meta WHERE meta.key = 'last_deleted_id'";

const EXISTS: &str = "SELECT 1 FROM partition WHERE id = $1";

/// Reads the snapshot at one moment.
pub(super) async fn load(
    client: &mut Object,
    partition: PartitionId,
    unreadable: &UnreadableRows,
) -> Result<Snapshot, StoreError> {
    let moment = at_one_moment(client).await?;
    let id = Value::Short(partition.0.into());
    if query(&moment, EXISTS, std::slice::from_ref(&id)).await?.is_empty() {
        return Err(StoreError::Corrupt { why: format!("there is no row for partition {partition}") });
    }
    let last_id = query(&moment, LAST_ID, &[]).await?;
    let Some(last_id) = last_id.first() else {
        return Err(StoreError::Corrupt { why: "the row `last_deleted_id` of `meta` is missing".to_owned() });
    };
    let last_id = last_id.try_get(0).or_store_error()?;
    let apps = query(&moment, APPS_OF_PARTITION, std::slice::from_ref(&id)).await?;
    let apps = unreadable.sift(Kind::App, &apps, rows::app)?;
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
    read_instances(&moment, &mut snapshot).await?;
    read_definitions(&moment, &mut snapshot).await?;
    read_tasks(&moment, &mut snapshot).await?;
    moment.commit().await.or_store_error()?;
    for (id, why) in &snapshot.broken {
        unreadable.note_instance(*id, why);
    }
    Ok(snapshot)
}

/// Shows each row to `look` as it comes, so that many are never held twice.
async fn for_each(
    moment: &Transaction<'_>,
    sql: &'static str,
    values: &[Value<'_>],
    mut look: impl FnMut(&Row) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let statement = prepared(moment, sql, values).await?;
    let rows = moment.query_raw(&statement, values).await.or_store_error()?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await.or_store_error()? {
        look(&row)?;
    }
    Ok(())
}

async fn read_instances(moment: &Transaction<'_>, snapshot: &mut Snapshot) -> Result<(), StoreError> {
    let partition = Value::Short(snapshot.partition.0.into());
    for_each(moment, ACTIVE_OF_PARTITION, &[partition], |row| {
        let id = InstanceId(row.try_get(0).or_store_error()?);
        let lawful = |instance| laws::check_instance(&instance, None).map(|()| instance);
        match rows::instance(&mut Columns::new(row)).and_then(lawful) {
            Ok(instance) => snapshot.instances.push(instance),
            Err(why) => snapshot.broken.push((id, why)),
        }
        Ok(())
    })
    .await?;
    snapshot.instances.sort_unstable_by_key(|instance| instance.id);
    Ok(())
}

/// Reads the jobs and revisions that the instances need; instances without go to the broken ones.
async fn read_definitions(moment: &Transaction<'_>, snapshot: &mut Snapshot) -> Result<(), StoreError> {
    let used: BTreeSet<_> = snapshot.instances.iter().map(|instance| (instance.job, instance.revision)).collect();
    let jobs = read_jobs(moment, &used).await?;
    let mut without: BTreeMap<(JobId, Revision), Unreadable> = BTreeMap::new();
    let mut others = Vec::new();
    for (id, revision) in used {
        match jobs.get(&id) {
            None => {
                drop(without.insert((id, revision), format!("job {id} cannot be understood: there is no such job")))
            }
            Some(Err(why)) => drop(without.insert((id, revision), format!("job {id} cannot be understood: {why}"))),
            Some(Ok(job)) if job.revision == revision => {}
            Some(Ok(_)) => others.push((id, revision)),
        }
    }
    for ((id, revision), spec) in read_revisions(moment, &others).await? {
        match spec {
            Ok(spec) => snapshot.revisions.push((id, revision, spec)),
            Err(why) => {
                let text = format!("revision {} of job {id} cannot be understood: {why}", revision.0);
                without.insert((id, revision), text);
            }
        }
    }
    snapshot.jobs = jobs.into_values().flatten().collect();
    if !without.is_empty() {
        set_aside(snapshot, |instance| without.get(&(instance.job, instance.revision)).cloned());
    }
    Ok(())
}

async fn read_jobs(
    moment: &Transaction<'_>,
    used: &BTreeSet<(JobId, Revision)>,
) -> Result<BTreeMap<JobId, Result<Job, Unreadable>>, StoreError> {
    let ids: BTreeSet<_> = used.iter().map(|(id, _)| id.0).collect();
    let ids: Vec<_> = ids.into_iter().collect();
    let mut jobs = BTreeMap::new();
    for_each(moment, JOBS, &[ints(&ids, |id| *id)], |row| {
        jobs.insert(JobId(row.try_get(0).or_store_error()?), rows::job(&mut Columns::new(row)));
        Ok(())
    })
    .await?;
    Ok(jobs)
}

type Definition = Result<Arc<JobSpec>, Unreadable>;

async fn read_revisions(
    moment: &Transaction<'_>,
    wanted: &[(JobId, Revision)],
) -> Result<BTreeMap<(JobId, Revision), Definition>, StoreError> {
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let values = [ints(wanted, |(id, _)| id.0), ints(wanted, |(_, revision)| i64::from(revision.0))];
    let mut revisions = BTreeMap::new();
    for_each(moment, REVISIONS, &values, |row| {
        let revision: i64 = row.try_get(1).or_store_error()?;
        let revision = Revision(u32::try_from(revision).unwrap_or(u32::MAX));
        let is_kept = row.try_get::<_, Option<&str>>(2).or_store_error()?.is_some();
        let spec = match is_kept {
            false => Err("it is not kept".to_owned()),
            true => {
                let mut columns = Columns::new(row);
                let key = columns.int().and_then(|_| columns.int());
                key.and_then(|_| rows::spec(&mut columns)).map(Arc::new)
            }
        };
        revisions.insert((JobId(row.try_get(0).or_store_error()?), revision), spec);
        Ok(())
    })
    .await?;
    Ok(revisions)
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
async fn read_tasks(moment: &Transaction<'_>, snapshot: &mut Snapshot) -> Result<(), StoreError> {
    let mut broken: BTreeMap<InstanceId, Unreadable> = BTreeMap::new();
    let mut begun = BTreeSet::new();
    let partition = Value::Short(snapshot.partition.0.into());
    for_each(moment, FANOUTS_OF_PARTITION, &[partition], |row| {
        let id = InstanceId(row.try_get(0).or_store_error()?);
        begun.insert(id);
        let lawful = |fanout| laws::check_fanout(&fanout).map(|()| fanout);
        match rows::fanout(&mut Columns::new(row)).and_then(lawful) {
            Ok(fanout) => snapshot.fanouts.push(fanout),
            Err(why) => drop(broken.insert(id, format!("how far its tasks are cannot be understood: {why}"))),
        }
        Ok(())
    })
    .await?;
    if !snapshot.fanouts.is_empty() {
        let ids = [ints(&snapshot.fanouts, |fanout| fanout.instance.0)];
        for_each(moment, TASKS_UNDER_WAY, &ids, |row| {
            let lawful = |task| laws::check_task(&task).map(|()| task);
            match rows::whole_task(&mut Columns::new(row)).and_then(lawful) {
                Ok(task) => snapshot.tasks.push(task),
                Err(why) => {
                    let (id, number): (i64, i64) = (row.try_get(0).or_store_error()?, row.try_get(1).or_store_error()?);
                    broken.insert(InstanceId(id), format!("its task {number} cannot be understood: {why}"));
                }
            }
            Ok(())
        })
        .await?;
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
