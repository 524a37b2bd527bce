//! The `http` processor: one request made by the worker, and the rule that tells success.
//!
//! Redirects are followed here and not by the client, because each step passes the egress guard ([`egress`]) and must
//! not carry credentials to another site. Proxies from the environment are not used: behind one, the guard would see
//! the proxy's address instead of the target's.

pub mod egress;
pub mod expression;
mod request;
mod response;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pendula_model::instance::Reason;
use pendula_model::processor::Http;
use pendula_worker::{Failure, Handler, Output, Task};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use crate::facts::Facts;
use egress::{EgressDenied, EgressPolicy, GuardedResolver};
use request::Prepared;
use response::Received;

/// For the whole exchange, when the definition names no other time.
const TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS: u32 = 5;
const MAX_BODY: u64 = 1024 * 1024;

/// The HTTP client cannot be set up on this machine.
#[derive(Debug, thiserror::Error)]
#[error("setting up the HTTP client of the `http` processor")]
pub struct HttpSetupError(#[from] reqwest::Error);

/// The handler behind `http`.
#[derive(Clone, Debug)]
pub struct HttpHandler {
    client: Client,
    policy: Arc<EgressPolicy>,
}

impl HttpHandler {
    /// A handler whose requests go where `policy` permits.
    ///
    /// # Errors
    /// When the client cannot be set up, for instance because the system's certificates cannot be read.
    pub fn new(policy: EgressPolicy) -> Result<Self, HttpSetupError> {
        let policy = Arc::new(policy);
        let client = Client::builder()
            .dns_resolver(GuardedResolver::new(policy.clone()))
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .user_agent(concat!("pendula/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(HttpHandler { client, policy })
    }
}

#[async_trait]
impl Handler for HttpHandler {
    async fn run(&self, task: Task) -> Result<Output, Failure> {
        let http: Http = task.config_json()?;
        let facts =
            Facts::of(&task).map_err(|error| invalid(format!("the parameters are not a JSON object: {error}")))?;
        let prepared = Prepared::new(&http, &facts).map_err(invalid)?;
        let rule = response::SuccessRule::new(&http.success).map_err(invalid)?;
        let timeout = http.timeout.unwrap_or(TIMEOUT);
        let max_body = http.max_body.unwrap_or(MAX_BODY);

        let started = Instant::now();
        let exchange = async {
            let response = self.follow(prepared, http.redirects.unwrap_or(REDIRECTS), &task).await?;
            Received::read(response, max_body).await
        };
        let received = tokio::select! {
            received = tokio::time::timeout(timeout, exchange) => {
                let late = || Failure::new(Reason::from_wire("http_timeout"), format!("no complete answer within {timeout:?}"));
                received.map_err(|_| late())??
            }
            () = task.cancelled() => return Err(Failure::new(Reason::FAILED, "stopped before the answer was complete")),
        };
        received.log(&task, started.elapsed()).await;
        rule.judge(&received)
    }
}

impl HttpHandler {
    /// Sends the request and follows redirects, at most `redirects`.
    async fn follow(&self, mut request: Prepared, redirects: u32, task: &Task) -> Result<reqwest::Response, Failure> {
        for step in 0.. {
            let host = request.url.host_str().unwrap_or_default();
            self.policy.check_literal(host).map_err(|error| denied(&error))?;
            task.log().write_line(&format!("{} {}", request.method, shown(&request.url))).await;
            let response = self.client.execute(request.to_reqwest()).await.map_err(failure)?;
            let Some(next) = request.redirected(&response)? else { return Ok(response) };
            if step == redirects {
                let message = format!("more than {redirects} redirects, the last one to {}", shown(&next.url));
                return Err(Failure::new(Reason::from_wire("http_redirects"), message));
            }
            task.log().write_line(&format!("{} → {}", response.status(), shown(&next.url))).await;
            request = next;
        }
        unreachable!("the loop ends by an answer or by the limit")
    }
}

/// A URL for people: without password.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() {
        // Fails only for URLs that cannot have one.
        let _ = url.set_password(Some("***"));
    }
    url.to_string()
}

fn denied(error: &EgressDenied) -> Failure {
    Failure::new(Reason::from_wire("egress_denied"), error.to_string()).without_retry()
}

/// Tells apart what went wrong on the way.
fn failure(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(error) = current.downcast_ref::<EgressDenied>() {
            return denied(error);
        }
        cause = current.source();
    }
    let reason = if error.is_timeout() {
        "http_timeout"
    } else if error.is_body() || error.is_decode() {
        "http_body"
    } else {
        "http_connect"
    };
    Failure { reason: Reason::from_wire(reason), ..Failure::from(error) }
}

fn invalid(message: String) -> Failure {
    crate::script::invalid(message)
}
