//! What must be read before some changes can be written: those that depend on a text that only we can understand.
//!
//! Read before the transaction, and each statement that relies on it expects it still to be so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deadpool_postgres::Object;
use pendula_model::change::Change;
use pendula_model::job::{Job, JobSpec};
use pendula_model::{InstanceId, JobId, Revision};
use tokio_postgres::Row;

use crate::port::{Batch, StoreError};
use crate::postgres::load::REVISIONS;
use crate::postgres::read::query;
use crate::postgres::values::ints;
use crate::rows::{self, Columns, fanout_columns};

/// A refusal, as a text.
type Refused = String;

/// What is stored of the revision that a job moves to.
#[derive(Debug)]
pub(super) enum Kept {
    No,
    /// The same definition.
    Alike {
        text: String,
    },
    /// The same definition, by an earlier change of the batch.
    InBatch,
    Unreadable {
        text: String,
    },
}

/// What cannot be read of an instance.
#[derive(Clone, Copy, Default)]
pub(super) struct Damage {
    pub params: bool,
    pub placement: bool,
    pub fanout: bool,
}

#[derive(Default)]
pub(super) struct Known {
    /// Definitions of the batch as they are stored.
    texts: BTreeMap<(JobId, Revision), String>,
    /// For each edit of a job, by its new version.
    kept: BTreeMap<(JobId, u64), Kept>,
    damages: BTreeMap<InstanceId, Damage>,
}

impl Known {
    /// Reads what `batch` needs to know, which is nothing for nearly all.
    pub async fn read(client: &Object, batch: &Batch) -> Result<Result<Known, Refused>, StoreError> {
        let mut known = Known::default();
        let mut edited = Vec::new();
        let mut set_aside = Vec::new();
        for change in &batch.changes {
            let job = match change {
                Change::JobInserted(job) => job,
                Change::JobUpdated(job) => {
                    edited.push((job.id, job.revision));
                    job
                }
                Change::InstanceQuarantined { id, .. } => {
                    set_aside.push(id.0);
                    continue;
                }
                _ => continue,
            };
            match serde_json::to_string(&*job.spec) {
                // The first one stays: whether a job is enabled is no part of its definition.
                Ok(text) => drop(known.texts.entry((job.id, job.revision)).or_insert(text)),
                Err(error) => return Ok(Err(format!("the definition of job {} cannot be written: {error}", job.id))),
            }
        }
        if !edited.is_empty() {
            let stored = read_revisions(client, &edited).await?;
            if let Err(refused) = known.compare(&batch.changes, &stored) {
                return Ok(Err(refused));
            }
        }
        if !set_aside.is_empty() {
            known.damages = read_damages(client, &set_aside).await?;
        }
        Ok(Ok(known))
    }

    /// Decides for each edit what becomes of its revision.
    fn compare(&mut self, changes: &[Change], stored: &BTreeMap<(JobId, Revision), String>) -> Result<(), Refused> {
        let mut in_batch: BTreeMap<(JobId, Revision), Arc<JobSpec>> = BTreeMap::new();
        for change in changes {
            let job = match change {
                Change::JobInserted(job) => {
                    in_batch.insert((job.id, job.revision), job.spec.clone());
                    continue;
                }
                Change::JobUpdated(job) => job,
                _ => continue,
            };
            let key = (job.id, job.revision);
            let another = || format!("revision {} of job {} is another definition", job.revision.0, job.id);
            let kept = match (in_batch.get(&key), stored.get(&key)) {
                (Some(spec), _) if spec.runs_like(&job.spec) => Kept::InBatch,
                (Some(_), _) => return Err(another()),
                (None, None) => Kept::No,
                (None, Some(text)) => match rows::definition(text) {
                    Ok(spec) if spec.runs_like(&job.spec) => Kept::Alike { text: text.clone() },
                    Ok(_) => return Err(another()),
                    Err(_) => Kept::Unreadable { text: text.clone() },
                },
            };
            if matches!(kept, Kept::No | Kept::Unreadable { .. }) {
                in_batch.insert(key, job.spec.clone());
            }
            self.kept.insert((job.id, job.version), kept);
        }
        Ok(())
    }

    /// The definition of a job of the batch, as it is stored.
    pub fn text_of(&self, job: &Job) -> String {
        self.texts.get(&(job.id, job.revision)).cloned().unwrap_or_default()
    }

    pub fn kept(&self, job: &Job) -> &Kept {
        self.kept.get(&(job.id, job.version)).unwrap_or(&Kept::No)
    }

    pub fn damage(&self, id: InstanceId) -> Damage {
        self.damages.get(&id).copied().unwrap_or_default()
    }
}

async fn read_revisions(
    client: &Object,
    wanted: &[(JobId, Revision)],
) -> Result<BTreeMap<(JobId, Revision), String>, StoreError> {
    let wanted: BTreeSet<_> = wanted.iter().copied().collect();
    let wanted: Vec<_> = wanted.into_iter().collect();
    let values = [ints(&wanted, |(job, _)| job.0), ints(&wanted, |(_, revision)| i64::from(revision.0))];
    let rows = query(client, REVISIONS, &values).await?;
    let key = |job: i64, revision: i64| (JobId(job), Revision(u32::try_from(revision).unwrap_or(u32::MAX)));
    let kept = |row: &Row| row.get::<_, Option<String>>(2).map(|text| (key(row.get(0), row.get(1)), text));
    Ok(rows.iter().filter_map(kept).collect())
}

const TEXTS: &str = "SELECT id, params, placement FROM instance WHERE id = ANY($1)";

const FANOUTS: &str = concat!("SELECT ", fanout_columns!(), " FROM fanout WHERE instance_id = ANY($1)");

async fn read_damages(client: &Object, ids: &[i64]) -> Result<BTreeMap<InstanceId, Damage>, StoreError> {
    let mut damages: BTreeMap<InstanceId, Damage> = BTreeMap::new();
    let is_damaged =
        |text: Option<&str>| text.is_some_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_err());
    let wanted = [ints(ids, |id| *id)];
    for row in query(client, TEXTS, &wanted).await? {
        let damage = damages.entry(InstanceId(row.get(0))).or_default();
        (damage.params, damage.placement) = (is_damaged(row.get(1)), is_damaged(row.get(2)));
    }
    for row in query(client, FANOUTS, &wanted).await? {
        let is_readable = rows::fanout(&mut Columns::new(&row)).is_ok();
        damages.entry(InstanceId(row.get(0))).or_default().fanout = !is_readable;
    }
    Ok(damages)
}
