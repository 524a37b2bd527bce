//! A request before it is sent, as often as need be.

use std::time::Duration;

use reqwest::{Method, Request, RequestBuilder, Url};
use serde::Serialize;
use tokio::time::Instant;

use crate::error::ClientError;

/// Pauses between the tries of one call.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A request for any of the servers.
pub(crate) struct Call {
    request: RequestBuilder,
    repeatable: bool,
}

impl Call {
    /// Reads can be repeated, everything else only when it is said to be [`Call::repeatable`], or carries a key.
    pub(crate) fn new(method: &Method, request: RequestBuilder) -> Self {
        Call { request, repeatable: matches!(*method, Method::GET | Method::HEAD) }
    }

    pub(crate) fn query(self, query: &(impl Serialize + ?Sized)) -> Self {
        Call { request: self.request.query(query), ..self }
    }

    pub(crate) fn json(self, body: &(impl Serialize + ?Sized)) -> Self {
        Call { request: self.request.json(body), ..self }
    }

    pub(crate) fn header(self, name: http::HeaderName, value: &str) -> Self {
        Call { request: self.request.header(name, value), ..self }
    }

    /// Instead of the client's limit for a whole answer.
    pub(crate) fn timeout(self, timeout: Duration) -> Self {
        Call { request: self.request.timeout(timeout), ..self }
    }

    /// By this key the server knows it again, so it can be repeated.
    pub(crate) fn key(self, key: &str) -> Self {
        let request = self.request.header("Idempotency-Key", key);
        Call { request, repeatable: true }
    }

    /// Twice comes to the same as once.
    pub(crate) fn repeatable(self) -> Self {
        Call { repeatable: true, ..self }
    }

    pub(crate) fn build(self) -> Result<Prepared, ClientError> {
        let Call { request, repeatable } = self;
        let request = request.build().map_err(|error| ClientError::Address(format!("making a request: {error}")))?;
        Ok(Prepared { request, repeatable })
    }
}

/// A call that only lacks its server.
pub(crate) struct Prepared {
    request: Request,
    repeatable: bool,
}

impl Prepared {
    /// The request to send to one server.
    pub(crate) fn to(&self, server: &Url) -> Request {
        let mut request = self.request.try_clone().expect("bodies are whole");
        let mut url = server.clone();
        url.set_path(request.url().path());
        url.set_query(request.url().query());
        *request.url_mut() = url;
        request
    }

    /// Whether it can be sent again after `error` without being done twice, and may succeed then.
    fn may_be_repeated(&self, error: &ClientError) -> bool {
        match error {
            ClientError::Problem(problem) => match problem.code.as_str() {
                // Nothing was done.
                "not_owner" | "no_owner" => true,
                // Of this there is already too much.
                "overloaded" => false,
                _ => self.repeatable && problem.status == 503 && problem.retryable,
            },
            // Where nobody listens, nobody will in a moment; whoever had a connection may find another server.
            ClientError::Unreachable { maybe_sent, .. } => self.repeatable && *maybe_sent,
            ClientError::Protocol { .. } | ClientError::Address(_) => false,
        }
    }
}

/// How often a call was sent, and whether that was enough.
pub(crate) struct Tries {
    patience: Duration,
    began: Instant,
    give_up: Option<Instant>,
    pause: Duration,
}

impl Tries {
    pub(crate) fn new(patience: Duration) -> Self {
        Tries { patience, began: Instant::now(), give_up: None, pause: FIRST_PAUSE }
    }

    /// Waits until `call` may be sent again after `error`. The time for it is counted from the first error: a server takes
    /// its own time before it gives one.
    ///
    /// # Errors
    /// With `error`, when it should not be sent again.
    pub(crate) async fn pause(&mut self, call: &Prepared, error: ClientError) -> Result<(), ClientError> {
        let now = Instant::now();
        let give_up = *self.give_up.get_or_insert(now + self.patience);
        // A try that was silent for longer than that would be so again.
        let was_silent = now - self.began > self.patience && matches!(error, ClientError::Unreachable { .. });
        if was_silent || !call.may_be_repeated(&error) || now + self.pause > give_up {
            return Err(error);
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.began = Instant::now();
        Ok(())
    }
}
