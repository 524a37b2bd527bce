//! What processors log, in the logs of their attempts.
//!
//! Workers send their lines a few seconds late, without saying of which attempt, and lose some when they are in trouble.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pendula_model::{AppId, AttemptKey, InstanceId, TaskId};
use pendula_server::Gateway;
use pendula_store::TaskFilter;
use tokio::sync::Mutex;

use crate::messages::InstanceLogContent;

/// Workers send their last lines this long after the end, or never.
const LAST_LINES: Duration = Duration::from_secs(12);
/// One writer per log at a time.
const STRIPES: usize = 64;

/// Where the lines go. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogLines {
    gateway: Gateway,
    stripes: Arc<[Mutex<()>]>,
}

impl LogLines {
    pub(crate) fn new(gateway: Gateway) -> Self {
        LogLines { gateway, stripes: (0..STRIPES).map(|_| Mutex::new(())).collect() }
    }

    /// Appends the lines of one request, of instances of `app`; those of others are dropped.
    pub(crate) async fn append(&self, app: AppId, worker: &str, lines: Vec<InstanceLogContent>) {
        let mut texts: BTreeMap<InstanceId, String> = BTreeMap::new();
        for line in lines {
            let text = texts.entry(InstanceId(line.instance_id)).or_default();
            text.push_str(&render(worker, &line));
            text.push('\n');
        }
        for (instance, text) in texts {
            if let Some(key) = self.attempt_of(app, instance, worker).await {
                self.write(app, key, &text, false).await;
            }
        }
    }

    /// What the worker has, or had, of an instance.
    async fn attempt_of(&self, app: AppId, instance: InstanceId, worker: &str) -> Option<AttemptKey> {
        let store = &self.gateway.server().store;
        let row = store.instance(instance).await.ok().flatten().filter(|row| row.app == app)?;
        let root = (row.attempt > 0).then_some(AttemptKey::root(instance, row.attempt));
        if row.worker.is_some() {
            return root;
        }
        // A broadcast has a task for each worker, of its name.
        let mut filter = TaskFilter {
            instance,
            states: Vec::new(),
            name_contains: Some(worker.to_owned()),
            from: TaskId::ROOT,
            limit: 100,
        };
        loop {
            let page = store.tasks(filter.clone()).await.ok()?;
            let own = page.items.iter().find(|task| task.target.as_ref().is_some_and(|target| *target.name == *worker));
            if let Some(task) = own {
                return (task.attempt > 0).then_some(AttemptKey::new(task.key(), task.attempt));
            }
            let Some(last) = page.items.last().filter(|_| page.more) else { return root };
            filter.from = last.id.next();
        }
    }

    /// Says that nothing follows, once the last lines can have come.
    pub(crate) fn end_soon(&self, app: AppId, key: AttemptKey) {
        let lines = self.clone();
        self.gateway.spawn(async move {
            tokio::time::sleep(LAST_LINES).await;
            lines.write(app, key, "", true).await;
        });
    }

    async fn write(&self, app: AppId, key: AttemptKey, text: &str, end: bool) {
        let _alone = self.stripes[key.instance.0.unsigned_abs() as usize % STRIPES].lock().await;
        if let Err(error) = self.gateway.append_log(app, key, text, end).await {
            tracing::warn!(instance = %key.instance, %error, "lines of a PowerJob worker were lost");
        }
    }
}

/// As PowerJob shows a line.
fn render(worker: &str, line: &InstanceLogContent) -> String {
    let level = match line.log_level {
        1 => "DEBUG",
        2 => "INFO",
        3 => "WARN",
        4 => "ERROR",
        _ => "OFF",
    };
    let at = jiff::Timestamp::from_millisecond(line.log_time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{} [{worker}] {level} {}", at.strftime("%Y-%m-%d %H:%M:%S%.3f"), line.log_content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_looks_as_in_powerjob() {
        let line = InstanceLogContent {
            instance_id: 1,
            log_time: 1_761_000_001_000,
            log_level: 2,
            log_content: "step 1 done".to_owned(),
        };
        assert_eq!(render("10.0.0.5:27777", &line), "2025-10-20 22:40:01.000 [10.0.0.5:27777] INFO step 1 done");
    }
}
