//! Why nothing could be read.

use thiserror::Error;

/// Why a database cannot be read. No message holds a password.
#[derive(Debug, Error)]
pub enum ImportError {
    /// What was typed cannot be meant: the URL, the file.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers there; it may help to try again.
    #[error("{0}")]
    Unreachable(String),
    /// The database says no, or is none of PowerJob's.
    #[error("{0}")]
    Refused(String),
}
