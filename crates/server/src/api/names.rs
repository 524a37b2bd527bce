//! Names of apps and jobs, and modes of revisions, for listings that know only their ids.
//!
//! A name never changes while its id lives, nor does a revision, so what was read once may be remembered; that keeps a
//! listing from asking the store about the same job for each of its rows.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt, stream};
use pendula_model::instance::Instance;
use pendula_model::job::Job;
use pendula_model::{AppId, JobId, Revision};
use pendula_store::{Store, StoreError};

/// Names that are remembered of each sort.
const REMEMBERED: usize = 50_000;
/// Revisions of one job that are looked through for the one that an instance has.
const REVISIONS: usize = 1_000;
/// Questions to the store at the same time.
const AT_ONCE: usize = 16;

#[derive(Default)]
pub(super) struct Names {
    apps: Memory<AppId>,
    jobs: Memory<JobId>,
    modes: Memory<(JobId, Revision)>,
}

/// The names that one answer needs.
pub(super) struct Known {
    apps: HashMap<AppId, Arc<str>>,
    jobs: HashMap<JobId, Arc<str>>,
    modes: HashMap<(JobId, Revision), Arc<str>>,
}

impl Known {
    /// The app's name, or its id when it was deleted meanwhile.
    pub(super) fn app(&self, id: AppId) -> String {
        self.apps.get(&id).map_or_else(|| id.to_string(), |name| name.to_string())
    }

    pub(super) fn job(&self, id: JobId) -> String {
        self.jobs.get(&id).map_or_else(|| id.to_string(), |name| name.to_string())
    }

    /// How the instance becomes tasks.
    pub(super) fn mode(&self, instance: &Instance) -> String {
        self.modes
            .get(&(instance.job, instance.revision))
            .map_or_else(|| "standalone".to_owned(), |mode| mode.to_string())
    }
}

impl Names {
    /// The names that a listing of `instances` shows.
    pub(super) async fn of(&self, store: &dyn Store, instances: &[Instance]) -> Result<Known, StoreError> {
        let apps = instances.iter().map(|instance| instance.app).collect();
        let Known { apps, .. } = self.of_apps(store, apps).await?;
        let (mut jobs, unnamed) = self.jobs.split(instances.iter().map(|instance| instance.job).collect());
        let revisions = instances.iter().map(|instance| (instance.job, instance.revision)).collect();
        let (mut modes, unknown) = self.modes.split(revisions);
        let wanted: BTreeSet<JobId> = unnamed.into_iter().chain(unknown.iter().map(|(job, _)| *job)).collect();
        let questions: Vec<_> = wanted.into_iter().map(|id| store.job_by_id(id)).collect();
        let answers: Vec<Option<Job>> = stream::iter(questions).buffer_unordered(AT_ONCE).try_collect().await?;
        let read: Vec<Job> = answers.into_iter().flatten().collect();
        self.jobs.learn(read.iter().map(|job| (job.id, job.spec.name.as_str().into())), &mut jobs);
        let mode = |job: &Job| ((job.id, job.revision), job.spec.mode.as_str().into());
        self.modes.learn(read.iter().map(mode), &mut modes);
        let older = unknown.into_iter().filter(|revision| !modes.contains_key(revision)).collect::<Vec<_>>();
        self.older_modes(store, older, &read, &mut modes).await?;
        Ok(Known { apps, jobs, modes })
    }

    /// Modes of revisions that are not their jobs' present ones.
    async fn older_modes(
        &self,
        store: &dyn Store,
        unknown: Vec<(JobId, Revision)>,
        jobs: &[Job],
        modes: &mut HashMap<(JobId, Revision), Arc<str>>,
    ) -> Result<(), StoreError> {
        for (id, revision) in unknown {
            if modes.contains_key(&(id, revision)) {
                continue;
            }
            let revisions = store.job_revisions(id, REVISIONS).await?;
            let mode = |(number, _, spec): &(Revision, _, Arc<pendula_model::job::JobSpec>)| {
                ((id, *number), spec.mode.as_str().into())
            };
            self.modes.learn(revisions.iter().map(mode), modes);
            if !modes.contains_key(&(id, revision))
                && let Some(job) = jobs.iter().find(|job| job.id == id)
            {
                // Too long ago to be worth more reading.
                self.modes.learn([((id, revision), job.spec.mode.as_str().into())].into_iter(), modes);
            }
        }
        Ok(())
    }

    /// The names of some apps.
    pub(super) async fn of_apps(&self, store: &dyn Store, apps: BTreeSet<AppId>) -> Result<Known, StoreError> {
        let (mut apps, missing) = self.apps.split(apps);
        let questions: Vec<_> = missing.into_iter().map(|id| store.app_by_id(id)).collect();
        let answers: Vec<_> = stream::iter(questions).buffer_unordered(AT_ONCE).try_collect().await?;
        self.apps.learn(answers.into_iter().flatten().map(|app| (app.id, app.name.into())), &mut apps);
        Ok(Known { apps, jobs: HashMap::new(), modes: HashMap::new() })
    }
}

struct Memory<Id>(Mutex<HashMap<Id, Arc<str>>>);

impl<Id> Default for Memory<Id> {
    fn default() -> Self {
        Memory(Mutex::default())
    }
}

impl<Id: Copy + Ord + Hash> Memory<Id> {
    /// What is remembered of `ids`, and the rest.
    fn split(&self, ids: BTreeSet<Id>) -> (HashMap<Id, Arc<str>>, Vec<Id>) {
        let memory = self.0.lock().expect("nothing panics while it holds this lock");
        let (known, missing): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| memory.contains_key(id));
        (known.into_iter().map(|id| (id, memory[&id].clone())).collect(), missing)
    }

    /// Remembers what was read, and adds it to what is known.
    fn learn(&self, read: impl Iterator<Item = (Id, Arc<str>)>, known: &mut HashMap<Id, Arc<str>>) {
        let mut memory = self.0.lock().expect("nothing panics while it holds this lock");
        for (id, name) in read {
            if memory.len() >= REMEMBERED {
                memory.clear();
            }
            memory.insert(id, name.clone());
            known.insert(id, name);
        }
    }
}
