//! Dialling a server and opening a session. Decides nothing about attempts.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use pendula_wire::v1::worker_service_client::WorkerServiceClient;
use pendula_wire::v1::{self, to_server, to_worker};
use pendula_wire::welcome::Terms;
use pendula_wire::{APP_METADATA, app_metadata, frame};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::worker::{Timing, WorkerError};

/// Frames between the loop and the connection. A few, so that what is queued meanwhile makes larger frames.
const OUTGOING_FRAMES: usize = 4;
/// Bytes in flight before the receiver must have read some: enough for a batch of the largest size.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Pings find a peer that is gone without a word below the session.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Settings of `https`.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    pub(crate) ca_certificates: Vec<Vec<u8>>,
    pub(crate) domain: Option<String>,
}

/// Knows the servers and the credential.
pub(crate) struct Dialer {
    endpoints: Vec<Endpoint>,
    next: usize,
    authorization: MetadataValue<Ascii>,
    app: Option<MetadataValue<Ascii>>,
    timeout: Duration,
}

/// Both directions of an open session.
pub(crate) struct Session {
    pub(crate) outgoing: mpsc::Sender<v1::ToServer>,
    pub(crate) incoming: Streaming<v1::ToWorker>,
    pub(crate) welcome: v1::Welcome,
    pub(crate) terms: Terms,
    pub(crate) server: String,
}

/// Why there is no session.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The server is there and does not accept the token: it was revoked, ran out, or is another app's.
    #[error("{server} refuses this worker: the token was not accepted ({why})")]
    Unauthorized { server: String, why: String },
    /// The server is there and does not want us as we are: version, settings.
    #[error("{server} refuses this worker: {why}")]
    Refused { server: String, why: String },
    #[error("{server} cannot be reached: {why}")]
    Unreachable { server: String, why: String },
}

impl Failed {
    /// What the server's status means for us.
    pub(crate) fn from_status(server: &str, status: &Status) -> Self {
        let (server, why) = (server.to_owned(), status.message().to_owned());
        let why = if why.is_empty() { status.code().to_string() } else { why };
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Failed::Unauthorized { server, why },
            Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => Failed::Refused { server, why },
            _ => Failed::Unreachable { server, why },
        }
    }

    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Failed::Refused { .. } | Failed::Unauthorized { .. })
    }

    pub(crate) fn is_unauthorized(&self) -> bool {
        matches!(self, Failed::Unauthorized { .. })
    }
}

impl Dialer {
    pub(crate) fn new(
        servers: &[String],
        token: &str,
        app: Option<&str>,
        tls: Tls,
        timing: &Timing,
    ) -> Result<Self, WorkerError> {
        let endpoints = servers.iter().map(|url| endpoint(url, &tls, timing)).collect::<Result<_, _>>()?;
        let mut authorization = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| WorkerError::setting("token", "contains characters that no token has"))?;
        authorization.set_sensitive(true);
        let app = app.map(|app| app_metadata(app).parse().expect("percent-encoded text is ASCII"));
        Ok(Dialer { endpoints, next: 0, authorization, app, timeout: timing.connect_timeout })
    }

    pub(crate) fn servers(&self) -> usize {
        self.endpoints.len()
    }

    /// Opens a session with the next server in turn.
    pub(crate) fn dial(&mut self, hello: v1::Hello) -> BoxFuture<'static, Result<Box<Session>, Failed>> {
        let endpoint = self.endpoints[self.next % self.endpoints.len()].clone();
        self.next = (self.next + 1) % self.endpoints.len();
        let (authorization, app, timeout) = (self.authorization.clone(), self.app.clone(), self.timeout);
        async move {
            let server = endpoint.uri().to_string();
            let opened = tokio::time::timeout(timeout, open(&endpoint, hello, authorization, app)).await;
            opened
                .unwrap_or_else(|_| Err(Failed::Unreachable { server, why: format!("no welcome within {timeout:?}") }))
        }
        .boxed()
    }
}

async fn open(
    endpoint: &Endpoint,
    hello: v1::Hello,
    authorization: MetadataValue<Ascii>,
    app: Option<MetadataValue<Ascii>>,
) -> Result<Box<Session>, Failed> {
    let server = endpoint.uri().to_string();
    let unreachable = |why: String| Failed::Unreachable { server: server.clone(), why };
    let channel = endpoint.connect().await.map_err(|error| unreachable(chain(&error)))?;
    let mut client = WorkerServiceClient::new(channel).max_decoding_message_size(frame::MAX_MESSAGE_BYTES);
    let (outgoing, frames) = mpsc::channel(OUTGOING_FRAMES);
    let hello = v1::ToServer { message: Some(to_server::Message::Hello(hello)) };
    outgoing.try_send(hello).map_err(|_| unreachable("the first frame found no room".to_owned()))?;
    let mut request = tonic::Request::new(ReceiverStream::new(frames));
    request.metadata_mut().insert("authorization", authorization);
    if let Some(app) = app {
        request.metadata_mut().insert(APP_METADATA, app);
    }
    let response = client.session(request).await.map_err(|status| Failed::from_status(&server, &status))?;
    let mut incoming = response.into_inner();
    let first = incoming.message().await.map_err(|status| Failed::from_status(&server, &status))?;
    let Some(v1::ToWorker { message: Some(to_worker::Message::Welcome(welcome)) }) = first else {
        return Err(unreachable("the session did not begin with a welcome".to_owned()));
    };
    let terms = welcome.terms().map_err(|error| Failed::Refused { server: server.clone(), why: error.to_string() })?;
    Ok(Box::new(Session { outgoing, incoming, welcome, terms, server }))
}

fn endpoint(url: &str, tls: &Tls, timing: &Timing) -> Result<Endpoint, WorkerError> {
    let refuse = |why: String| WorkerError::setting("server", format!("{url:?}: {why}"));
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| refuse(chain(&error)))?;
    let endpoint = match endpoint.uri().scheme_str() {
        Some("http") => endpoint,
        Some("https") => {
            let mut config = ClientTlsConfig::new()
                .with_native_roots()
                .ca_certificates(tls.ca_certificates.iter().map(Certificate::from_pem));
            if let Some(domain) = &tls.domain {
                config = config.domain_name(domain);
            }
            endpoint.tls_config(config).map_err(|error| refuse(chain(&error)))?
        }
        _ => return Err(refuse("must begin with http:// or https://".to_owned())),
    };
    Ok(endpoint
        .connect_timeout(timing.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES))
}

/// An error and its causes: tonic's own text is only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_tell_a_refusal_from_an_outage() {
        for (code, refused) in [
            (Code::Unauthenticated, true),
            (Code::PermissionDenied, true),
            (Code::FailedPrecondition, true),
            (Code::Unavailable, false),
            (Code::Internal, false),
        ] {
            assert_eq!(Failed::from_status("s", &Status::new(code, "why")).is_refused(), refused, "{code:?}");
        }
    }

    #[test]
    fn addresses_and_tokens_are_checked_early() {
        let dialer = |url: &str, token: &str| {
            Dialer::new(&[url.to_owned()], token, Some("每日"), Tls::default(), &Timing::default()).map(|_| ())
        };
        assert!(dialer("http://127.0.0.1:7700", "abc").is_ok());
        for (url, token, setting) in
            [("ftp://a", "t", "server:"), ("127.0.0.1", "t", "server:"), ("http://a", "\n", "token:")]
        {
            assert!(dialer(url, token).unwrap_err().to_string().starts_with(setting), "{url}");
        }
    }
}
