//! Rows that could not be understood: told once, skipped by listings, shown in the status until repaired.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use pendula_model::InstanceId;

use crate::rows::Unreadable;

/// Rows remembered at most; a store with more of them needs no longer list.
const REMEMBERED: usize = 1_000;

/// What a row is, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    App,
    Job,
    Revision,
    Gap,
    Instance,
    PastAttempt,
    Fanout,
    Task,
    Token,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::App => "app",
            Kind::Job => "job",
            Kind::Revision => "revision of job",
            Kind::Gap => "gap of job",
            Kind::Instance => "instance",
            Kind::PastAttempt => "past attempt of instance",
            Kind::Fanout => "task counts of instance",
            Kind::Task => "task",
            Kind::Token => "token",
        })
    }
}

/// Which row, for messages and to ask for it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowId {
    pub kind: Kind,
    pub id: i64,
    /// Of a task, whose `id` is its instance's: its number.
    pub part: i64,
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Task => write!(f, "task {}/{}", self.id, self.part),
            kind => write!(f, "{kind} {}", self.id),
        }
    }
}

/// The rows that were met; shared by all connections of a store.
#[derive(Clone, Default)]
pub(crate) struct UnreadableRows {
    known: Arc<Mutex<BTreeMap<RowId, Unreadable>>>,
}

impl UnreadableRows {
    /// Remembers an instance that makes no sense, and logs it when it is new.
    pub fn note_instance(&self, id: InstanceId, why: &str) {
        self.note(RowId { kind: Kind::Instance, id: id.0, part: 0 }, why);
    }

    /// The same of any row.
    pub fn note(&self, row: RowId, why: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < REMEMBERED && known.insert(row, why.to_owned()).is_none() {
            tracing::error!(%row, why, "a stored row cannot be understood; it is left out until it is repaired");
        }
    }

    /// Those that are remembered.
    pub fn rows(&self) -> Vec<RowId> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Forgets one, because it can be read again.
    pub fn forget(&self, row: RowId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&row);
    }

    /// One line per row.
    pub fn lines(&self) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(row, why)| format!("{row}: {why}")).collect()
    }
}
