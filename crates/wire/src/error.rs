//! Refusals of what a peer sent.

/// A message that decoded but makes no sense: which one, which field, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}.{field}: {why}")]
pub struct WireError {
    /// Name of the message as in `worker.proto`.
    pub message: &'static str,
    /// Name of the field as in `worker.proto`; the oneof's name when no variant of it was set or known.
    pub field: &'static str,
    /// What is wrong with it, for people.
    pub why: String,
}

impl WireError {
    /// A refusal of `message.field`.
    pub fn new(message: &'static str, field: &'static str, why: impl Into<String>) -> Self {
        WireError { message, field, why: why.into() }
    }
}

/// The status with which a server closes a session whose messages it cannot accept.
impl From<WireError> for tonic::Status {
    fn from(error: WireError) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}
