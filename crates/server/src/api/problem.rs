//! Every error that the API answers with: the table of codes, and the problem document (RFC 9457) made from one.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use pendula_model::api::Problem;

/// A kind of error. Codes are public: programs branch on them, so they are only ever added to.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    pub code: &'static str,
    pub status: u16,
    /// Whether the same request may succeed later; then the answer says when to try (`Retry-After`).
    pub retryable: bool,
    pub title: &'static str,
    /// What the caller can do about it.
    pub remedy: &'static str,
}

macro_rules! codes {
    ($($name:ident: $status:literal $code:literal $(($retryable:ident))?, $title:literal, $remedy:literal;)+) => {
        $(pub static $name: Code = Code {
            code: $code,
            status: $status,
            retryable: codes!(@ $($retryable)?),
            title: $title,
            remedy: $remedy,
        };)+

        /// The table, as `docs/rest-api.md` shows it.
        pub static CODES: &[&Code] = &[$(&$name),+];
    };
    (@ retryable) => { true };
    (@) => { false };
}

codes! {
    INVALID_BODY: 400 "invalid_body", "The body cannot be read",
        "Send JSON as the OpenAPI document describes it; the detail names the field, line and column.";
    INVALID_QUERY: 400 "invalid_query", "The query string cannot be read",
        "Use only the parameters that the OpenAPI document lists; the detail names the one that was refused.";
    INVALID_HEADER: 400 "invalid_header", "A header cannot be used here",
        "Correct or leave out the header that the detail names.";
    INVALID_PATH: 400 "invalid_path", "The path cannot be read",
        "Percent-encode names as UTF-8; ids are positive decimal numbers.";
    INVALID_CURSOR: 400 "invalid_cursor", "The cursor is none of ours",
        "Pass back `next_cursor` as it was, with the same filters; leave it out to begin again.";
    UNAUTHENTICATED: 401 "unauthenticated", "No valid credential",
        "Send `Authorization: Bearer TOKEN` with a token that is neither expired nor revoked.";
    FORBIDDEN: 403 "forbidden", "The credential does not open this",
        "Use a token of the needed kind; an administrator can create one.";
    SCRIPTS_NOT_ALLOWED: 403 "scripts_not_allowed", "The app may not run scripts",
        "An administrator can allow them: `pendula app update NAME --allow-scripts true`.";
    NO_SUCH_ROUTE: 404 "no_such_route", "Nothing is served at this path",
        "Look the path up in `/api/openapi.json`.";
    APP_NOT_FOUND: 404 "app_not_found", "No such app",
        "Check the name; a token of another app does not see it either.";
    JOB_NOT_FOUND: 404 "job_not_found", "No such job",
        "Check the name with `GET /api/v1/apps/{app}/jobs`.";
    INSTANCE_NOT_FOUND: 404 "instance_not_found", "No such instance",
        "Check the id; ended instances are forgotten after their retention, and a token of another app does not see it.";
    TASK_NOT_FOUND: 404 "task_not_found", "The instance has no such task",
        "Look at `GET /api/v1/instances/{id}/tasks`; tasks are numbered from 0.";
    RESULT_NOT_FOUND: 404 "result_not_found", "The task left no result",
        "Look at the task itself: it may not have ended, or ended without one.";
    ATTEMPT_NOT_FOUND: 404 "attempt_not_found", "The instance has no such attempt",
        "Look at `attempts` of the instance; leave `attempt` out for the latest.";
    WORKER_NOT_FOUND: 404 "worker_not_found", "No such worker",
        "Check the name with `GET /api/v1/apps/{app}/workers`; only connected workers are known.";
    SERVER_NOT_FOUND: 404 "server_not_found", "No such server",
        "Check the name with `GET /api/v1/cluster`; only servers that are alive are known.";
    TOKEN_NOT_FOUND: 404 "token_not_found", "No such token",
        "Check the id with `GET /api/v1/tokens`; it may be revoked already.";
    METHOD_NOT_ALLOWED: 405 "method_not_allowed", "The path has no such method",
        "Use one of the methods in the `Allow` header.";
    BODY_TIMEOUT: 408 "body_timeout" (retryable), "The body did not arrive in time",
        "Send the whole body within 30 seconds.";
    APP_EXISTS: 409 "app_exists", "An app of this name exists",
        "Choose another name, or use the app that is there.";
    JOB_EXISTS: 409 "job_exists", "A job of this name exists",
        "Use `PUT` to replace its definition, or choose another name.";
    APP_NOT_EMPTY: 409 "app_not_empty", "The app still has jobs",
        "Delete its jobs first.";
    JOB_DELETED: 409 "job_deleted", "The job of this instance was deleted",
        "Create the job again and run that one.";
    INSTANCE_ENDED: 409 "instance_ended", "The instance has ended already",
        "Nothing is left to stop; use `retry` to run the same again.";
    INSTANCE_ACTIVE: 409 "instance_active", "The instance is still active",
        "Wait until it ends, or stop it first.";
    INSTANCE_STARTED: 409 "instance_started", "A worker has the instance",
        "Use `stop` instead of `cancel`.";
    NOT_SHARED: 409 "not_shared", "The server is alone on its database",
        "Only servers that share a database can give their work to one another.";
    NOTHING_TO_RETRY: 409 "nothing_to_retry", "Nothing of it can be tried again like this",
        "The detail says why; `retry` without `only` runs all of it again.";
    VERSION_MISMATCH: 412 "version_mismatch", "Somebody else edited it meanwhile",
        "Read it again, repeat the edit, and send the new version in `If-Match`.";
    BODY_TOO_LARGE: 413 "body_too_large", "The body is too large",
        "Send at most what the detail says; split it into several requests.";
    UNSUPPORTED_MEDIA_TYPE: 415 "unsupported_media_type", "The body is no JSON",
        "Send `Content-Type: application/json`.";
    INVALID_VALUE: 422 "invalid_value", "A value is not acceptable",
        "Correct the field that `field` names; the detail says what is allowed.";
    TOO_MANY_FAILURES: 429 "too_many_failures" (retryable), "Too many failed authentications",
        "Correct the credential and wait as long as `Retry-After` says.";
    INTERNAL: 500 "internal", "The server made a mistake",
        "Report it with the server's log of that moment.";
    STORE_DAMAGED: 500 "store_damaged", "What is stored makes no sense",
        "Run `pendula doctor` on the server, and see the server's log for what is damaged.";
    OVERLOADED: 503 "overloaded" (retryable), "Too much is waiting already",
        "Try again later; look for work that waits without a worker.";
    UNAVAILABLE: 503 "unavailable" (retryable), "The server cannot do it now",
        "Try again as `Retry-After` says; `/readyz` tells what is wrong.";
    NOT_OWNER: 503 "not_owner" (retryable), "Another server has this now",
        "Repeat the request; any server finds the owner.";
    NO_OWNER: 503 "no_owner" (retryable), "No server has this at the moment",
        "Nothing was done. A crashed server's work is taken over within seconds: repeat the request.";
    OWNER_LOST: 503 "owner_lost" (retryable), "The server that did this went away",
        "It may have been carried out: look, or repeat it with the same idempotency key.";
    TIMEOUT: 504 "timeout" (retryable), "No answer in time",
        "It may still be carried out: look, or repeat it with the same idempotency key.";
}

/// An answer that is an error.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub code: &'static Code,
    detail: Option<String>,
    field: Option<String>,
    retry_after: Duration,
}

impl ApiError {
    /// An error that needs no explanation beyond its remedy.
    pub fn new(code: &'static Code) -> Self {
        ApiError { code, detail: None, field: None, retry_after: Duration::from_secs(1) }
    }

    /// With what was wrong with this very request.
    pub fn with(code: &'static Code, detail: impl Into<String>) -> Self {
        ApiError { detail: Some(detail.into()), ..ApiError::new(code) }
    }

    /// With the field that was refused, as a dotted path; an empty one means the whole.
    pub fn at(self, field: impl Into<String>) -> Self {
        let field = field.into();
        ApiError { field: (!field.is_empty()).then_some(field), ..self }
    }

    /// With the time after which a retryable request may be repeated. Default 1 s.
    pub fn after(self, retry_after: Duration) -> Self {
        ApiError { retry_after, ..self }
    }

    /// The document.
    pub fn to_problem(&self) -> Problem {
        Problem {
            kind: format!("urn:pendula:problem:{}", self.code.code),
            title: self.code.title.to_owned(),
            status: self.code.status,
            code: self.code.code.to_owned(),
            detail: Some(self.detail.clone().unwrap_or_else(|| self.code.remedy.to_owned())),
            field: self.field.clone(),
            retryable: self.code.retryable,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status).expect("the table has only valid ones");
        let body = serde_json::to_vec(&self.to_problem()).expect("a problem is plain JSON");
        let content_type = HeaderValue::from_static("application/problem+json");
        let mut response = (status, [(header::CONTENT_TYPE, content_type)], body).into_response();
        let headers = response.headers_mut();
        if self.code.retryable {
            let seconds = self.retry_after.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.code == &NOT_OWNER {
            headers.insert(crate::cluster::NOT_OWNER, HeaderValue::from_static("partition"));
        }
        if self.code == &UNAUTHENTICATED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pendula\""));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_words_and_have_a_remedy() {
        let mut words: Vec<_> = CODES.iter().map(|code| code.code).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), CODES.len());
        for code in CODES {
            assert!(code.code.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", code.code);
            assert!(StatusCode::from_u16(code.status).unwrap().as_u16() >= 400 && code.remedy.ends_with('.'));
        }
    }
}
