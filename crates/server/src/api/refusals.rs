//! What the engine, the partitions, the store and the authenticator refuse, as errors of the API. All of it is here.

use pendula_engine::effect::Refusal;
use pendula_model::Invalid;
use pendula_store::StoreError;

use super::problem::*;
use crate::auth::AuthError;
use crate::partition::CommandError;

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::NotFound("app") => ApiError::new(&APP_NOT_FOUND),
            Refusal::NotFound("worker") => ApiError::new(&WORKER_NOT_FOUND),
            Refusal::NotFound("instance") => ApiError::new(&INSTANCE_NOT_FOUND),
            Refusal::NotFound(_) => ApiError::new(&JOB_NOT_FOUND),
            Refusal::Exists { what: "app", .. } => ApiError::with(&APP_EXISTS, detail),
            Refusal::Exists { .. } => ApiError::with(&JOB_EXISTS, detail),
            Refusal::VersionMismatch { .. } => ApiError::with(&VERSION_MISMATCH, detail),
            Refusal::Invalid(invalid) => invalid.into(),
            Refusal::ScriptsNotAllowed => ApiError::with(&SCRIPTS_NOT_ALLOWED, detail),
            Refusal::AppNotEmpty => ApiError::new(&APP_NOT_EMPTY),
            Refusal::NotActive => ApiError::new(&INSTANCE_ENDED),
            Refusal::AlreadyStarted(_) => ApiError::with(&INSTANCE_STARTED, detail),
            Refusal::NoRetry(why) => ApiError::with(&NOTHING_TO_RETRY, why),
            Refusal::Unreadable(_) => {
                tracing::error!(detail, "a command met something damaged in the store");
                ApiError::new(&STORE_DAMAGED)
            }
            Refusal::Overloaded(_) => ApiError::with(&OVERLOADED, detail),
        }
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        ApiError::with(&INVALID_VALUE, invalid.message).at(invalid.field)
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Unavailable { .. } => ApiError::with(&UNAVAILABLE, error.to_string()),
            CommandError::NotHere => ApiError::new(&NOT_OWNER),
            CommandError::Unknown => ApiError::new(&OWNER_LOST),
            CommandError::Timeout => ApiError::new(&TIMEOUT),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fenced { .. } | StoreError::Conflict { .. } | StoreError::Unavailable { .. } => {
                // Paths and statements in the cause are for the operator, not for the caller.
                tracing::warn!(%error, "a request could not be served by the store");
                ApiError::with(&UNAVAILABLE, "the store cannot answer now")
            }
            StoreError::Exists { .. } => {
                tracing::error!(%error, "a name that was drawn at random is taken");
                ApiError::new(&INTERNAL)
            }
            StoreError::Corrupt { .. } | StoreError::Refused(_) => {
                tracing::error!(%error, "a request met something damaged in the store");
                ApiError::new(&STORE_DAMAGED)
            }
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Missing | AuthError::Invalid => ApiError::with(&UNAUTHENTICATED, error.to_string()),
            AuthError::TooManyFailures(wait) => ApiError::with(&TOO_MANY_FAILURES, error.to_string()).after(wait),
            AuthError::Store(error) => error.into(),
        }
    }
}
