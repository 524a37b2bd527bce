//! What a new owner of a partition reads before it acts. Its size follows what is under way, never history.

use std::sync::Arc;

use crate::app::App;
use crate::id::{InstanceId, JobId, PartitionId, Revision};
use crate::instance::Instance;
use crate::job::{Job, JobSpec};
use crate::task::{Fanout, Task};

/// A partition as the store has it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub partition: PartitionId,
    /// The largest id ever stored, of any partition and kind; 0 when there is none.
    pub last_id: i64,
    pub apps: Vec<App>,
    /// Jobs (deleted ones too) that active instances belong to.
    pub jobs: Vec<Job>,
    /// The definitions that active instances were fired with, as far as they differ from the job's own revision.
    pub revisions: Vec<(JobId, Revision, Arc<JobSpec>)>,
    /// Instances that have not ended, in order of id.
    pub instances: Vec<Instance>,
    /// How far those of them are that have many tasks.
    pub fanouts: Vec<Fanout>,
    /// Their tasks that are under way ([`Task::is_under_way`]); the others are read when there is room for them.
    pub tasks: Vec<Task>,
    /// Active instances whose row or definition could not be read, and why; the owner ends them as quarantined.
    pub broken: Vec<(InstanceId, String)>,
}
