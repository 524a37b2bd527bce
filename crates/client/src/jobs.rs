//! `/apps/{app}/jobs` and what belongs to a job.

use pendula_model::Timestamp;
use pendula_model::api::{
    ApplyRequest, ApplyResult, GapList, JobView, NextFires, PageOf, RevisionView, RunJob, RunMany, RunManyResult,
    RunResult,
};
use pendula_model::job::JobSpec;
use pendula_model::trigger::Trigger;
use reqwest::Method;

use crate::connection::Client;
use crate::error::ClientError;

/// How a run is told from another when the request is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunKey<'a> {
    /// The same key within an app means the same run, whoever asks and however often.
    Given(&'a str),
    /// Each request makes a run of its own, unless its body carries a key.
    Random,
}

/// Jobs, and about as many bytes, of one apply; well below the server's own limits.
const APPLY_JOBS: usize = 5_000;
const APPLY_BYTES: usize = 2 * 1024 * 1024;

impl Client {
    /// Every job of an app, by name.
    pub async fn job_list(&self, app: &str) -> Result<Vec<JobView>, ClientError> {
        self.all(&["apps", app, "jobs"]).await
    }

    pub async fn job_create(&self, app: &str, spec: &JobSpec) -> Result<JobView, ClientError> {
        self.post(&["apps", app, "jobs"], spec).await
    }

    pub async fn job_fetch(&self, app: &str, job: &str) -> Result<JobView, ClientError> {
        self.get(&["apps", app, "jobs", job]).await
    }

    /// Replaces a definition, if its version is still `version` (without one: whatever it is).
    pub async fn job_update(
        &self,
        app: &str,
        job: &str,
        version: Option<u64>,
        spec: &JobSpec,
    ) -> Result<JobView, ClientError> {
        let mut request = self.request(Method::PUT, &["apps", app, "jobs", job]).json(spec);
        if let Some(version) = version {
            request = request.header(http::header::IF_MATCH, &format!("\"{version}\""));
        }
        self.json(request).await
    }

    pub async fn job_delete(&self, app: &str, job: &str) -> Result<(), ClientError> {
        self.delete(&["apps", app, "jobs", job]).await
    }

    /// Creates and updates jobs by name; each is accepted or refused by itself.
    pub async fn apply(&self, app: &str, request: &ApplyRequest) -> Result<ApplyResult, ClientError> {
        self.post(&["apps", app, "apply"], request).await
    }

    /// The same for any number of jobs, in requests that the server's limits allow. They are carried out one after the
    /// other: an error leaves the ones before it applied.
    pub async fn apply_all(&self, app: &str, jobs: Vec<JobSpec>, dry_run: bool) -> Result<ApplyResult, ClientError> {
        let mut applied = Vec::with_capacity(jobs.len());
        let (mut page, mut bytes) = (Vec::new(), 0);
        let mut jobs = jobs.into_iter().peekable();
        while let Some(job) = jobs.next() {
            bytes += serde_json::to_vec(&job).map_or(0, |json| json.len());
            page.push(job);
            if page.len() >= APPLY_JOBS || bytes >= APPLY_BYTES || jobs.peek().is_none() {
                let request = ApplyRequest { jobs: std::mem::take(&mut page), dry_run };
                applied.extend(self.apply(app, &request).await?.jobs);
                bytes = 0;
            }
        }
        Ok(ApplyResult { jobs: applied })
    }

    pub async fn job_run(&self, app: &str, job: &str, run: &RunJob, key: RunKey<'_>) -> Result<RunResult, ClientError> {
        let mut request = self.request(Method::POST, &["apps", app, "jobs", job, "run"]).json(run);
        if let RunKey::Given(key) = key {
            request = request.key(key);
        }
        self.json(request).await
    }

    /// Up to 10,000 runs, acknowledged together.
    pub async fn job_run_many(&self, app: &str, job: &str, runs: &RunMany) -> Result<RunManyResult, ClientError> {
        self.post(&["apps", app, "jobs", job, "run-many"], runs).await
    }

    pub async fn job_enable(&self, app: &str, job: &str) -> Result<JobView, ClientError> {
        self.json(self.request(Method::POST, &["apps", app, "jobs", job, "enable"]).repeatable()).await
    }

    pub async fn job_disable(&self, app: &str, job: &str) -> Result<JobView, ClientError> {
        self.json(self.request(Method::POST, &["apps", app, "jobs", job, "disable"]).repeatable()).await
    }

    /// The next `count` fire times after `after` (default: now).
    pub async fn job_next(
        &self,
        app: &str,
        job: &str,
        count: u32,
        after: Option<Timestamp>,
    ) -> Result<NextFires, ClientError> {
        let request = self.request(Method::GET, &["apps", app, "jobs", job, "next"]);
        self.json(request.query(&[("count", count)]).query(&[("after", after)])).await
    }

    /// The next `count` fire times after `after` (default: now) of a trigger that is not saved.
    pub async fn preview(
        &self,
        trigger: &Trigger,
        count: u32,
        after: Option<Timestamp>,
    ) -> Result<NextFires, ClientError> {
        let request = self.request(Method::POST, &["preview"]).json(trigger).repeatable();
        self.json(request.query(&[("count", count)]).query(&[("after", after)])).await
    }

    /// The definitions that a job had, newest first.
    pub async fn job_revisions(&self, app: &str, job: &str) -> Result<PageOf<RevisionView>, ClientError> {
        self.get(&["apps", app, "jobs", job, "revisions"]).await
    }

    /// Stretches of fire times that made no instance.
    pub async fn job_gaps(&self, app: &str, job: &str) -> Result<GapList, ClientError> {
        self.get(&["apps", app, "jobs", job, "gaps"]).await
    }
}
