//! How much the open batch has become, so that it stays small enough to be written soon.

use pendula_model::change::Change;
use pendula_model::task::Task;

/// Rows that may gather while a commit is under way; beyond, inputs have to wait.
const ROWS: usize = 8_192;
/// Bytes that those rows may have.
const BYTES: usize = 64 << 20;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Gathered {
    /// Changes that are counted already.
    changes: usize,
    rows: usize,
    bytes: usize,
}

impl Gathered {
    /// Counts what was added to the batch since.
    pub(super) fn count(&mut self, changes: &[Change]) {
        for change in &changes[self.changes..] {
            let (rows, bytes) = match change {
                Change::TasksInserted(tasks) => (tasks.len(), tasks.iter().map(bytes).sum()),
                Change::TaskUpdated(task) => (1, bytes(task)),
                Change::InstanceEnded { instance, .. } => {
                    (1, instance.result.as_ref().map_or(0, |result| result.bytes.len()))
                }
                _ => (1, 0),
            };
            self.rows += rows;
            self.bytes += bytes;
        }
        self.changes = changes.len();
    }

    /// Whether it may become more.
    pub(super) fn has_room(&self) -> bool {
        self.rows < ROWS && self.bytes < BYTES
    }
}

fn bytes(task: &Task) -> usize {
    size_of::<Task>() + task.bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pendula_model::instance::Payload;
    use pendula_model::task::TaskRole;
    use pendula_model::{InstanceId, TaskId, Timestamp};

    use super::*;

    fn tasks(count: usize, bytes: usize) -> Change {
        let input = Arc::new(Payload { content_type: String::new(), bytes: vec![0; bytes] });
        let at = Timestamp::from_millis(0);
        let task = Task { input: Some(input), ..Task::new(InstanceId(1), TaskId(1), TaskRole::Sub, "".into(), at) };
        Change::TasksInserted(vec![task; count])
    }

    #[test]
    fn a_batch_is_full_by_rows_or_by_bytes_whatever_the_number_of_its_changes() {
        let mut many = Gathered::default();
        many.count(&[tasks(ROWS - 1, 0)]);
        assert!(many.has_room());
        many.count(&[tasks(ROWS - 1, 0), tasks(1, 0)]);
        assert!(!many.has_room());
        let mut large = Gathered::default();
        large.count(&[tasks(60, 1 << 20)]);
        assert!(large.has_room());
        large.count(&[tasks(60, 1 << 20), tasks(4, 1 << 20)]);
        assert!(!large.has_room());
    }
}
