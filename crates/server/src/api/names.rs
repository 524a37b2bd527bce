//! Names of apps and jobs for listings that know only their ids.
//!
//! A name never changes while its id lives, so what was read once may be remembered; that keeps a listing from asking
//! the store about the same job for each of its rows.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt, stream};
use pendula_model::instance::Instance;
use pendula_model::{AppId, JobId};
use pendula_store::{Store, StoreError};

/// Names that are remembered of each sort.
const REMEMBERED: usize = 50_000;
/// Questions to the store at the same time.
const AT_ONCE: usize = 16;

#[derive(Default)]
pub(super) struct Names {
    apps: Memory<AppId>,
    jobs: Memory<JobId>,
}

/// The names that one answer needs.
pub(super) struct Known {
    apps: HashMap<AppId, Arc<str>>,
    jobs: HashMap<JobId, Arc<str>>,
}

impl Known {
    /// The app's name, or its id when it was deleted meanwhile.
    pub(super) fn app(&self, id: AppId) -> String {
        self.apps.get(&id).map_or_else(|| id.to_string(), |name| name.to_string())
    }

    pub(super) fn job(&self, id: JobId) -> String {
        self.jobs.get(&id).map_or_else(|| id.to_string(), |name| name.to_string())
    }
}

impl Names {
    /// The names that a listing of `instances` shows.
    pub(super) async fn of(&self, store: &dyn Store, instances: &[Instance]) -> Result<Known, StoreError> {
        let apps = instances.iter().map(|instance| instance.app).collect();
        let Known { apps, .. } = self.of_apps(store, apps).await?;
        let (mut jobs, missing) = self.jobs.split(instances.iter().map(|instance| instance.job).collect());
        let questions: Vec<_> = missing.into_iter().map(|id| store.job_by_id(id)).collect();
        let answers: Vec<_> = stream::iter(questions).buffer_unordered(AT_ONCE).try_collect().await?;
        self.jobs.learn(answers.into_iter().flatten().map(|job| (job.id, job.spec.name.as_str().into())), &mut jobs);
        Ok(Known { apps, jobs })
    }

    /// The names of some apps.
    pub(super) async fn of_apps(&self, store: &dyn Store, apps: BTreeSet<AppId>) -> Result<Known, StoreError> {
        let (mut apps, missing) = self.apps.split(apps);
        let questions: Vec<_> = missing.into_iter().map(|id| store.app_by_id(id)).collect();
        let answers: Vec<_> = stream::iter(questions).buffer_unordered(AT_ONCE).try_collect().await?;
        self.apps.learn(answers.into_iter().flatten().map(|app| (app.id, app.name.into())), &mut apps);
        Ok(Known { apps, jobs: HashMap::new() })
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
