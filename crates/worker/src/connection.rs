//! Finding a server and opening a session with it. Decides nothing about attempts.

mod knock;

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
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};
use tonic::{Code, Status, Streaming};

use crate::addresses::{Address, Addresses, Asked, Pause};
use crate::worker::{Timing, WorkerError};
use knock::{Door, Knocked, knock};

/// Frames between the loop and the connection. A few, so that what is queued meanwhile makes larger frames.
const OUTGOING_FRAMES: usize = 4;
/// Bytes in flight before the receiver must have read some: enough for a batch of the largest size.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Pings find a peer that is gone without a word below the session.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long a server that another one told of may take to answer. It may be out of reach from here, and nobody would know.
const LEARNED_WITHIN: Duration = Duration::from_millis(1500);
/// How long it is given before the next is asked as well.
const LEARNED_HEAD_START: Duration = Duration::from_millis(250);

/// Settings of `https`.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    pub(crate) ca_certificates: Vec<Vec<u8>>,
    pub(crate) domain: Option<String>,
}

/// Knows the servers and the credential.
pub(crate) struct Dialer {
    addresses: Addresses,
    /// Of the configured addresses, in their order.
    endpoints: Vec<Endpoint>,
    tls: Tls,
    authorization: MetadataValue<Ascii>,
    app: Option<MetadataValue<Ascii>>,
    timing: Timing,
}

/// Both directions of an open session.
pub(crate) struct Session {
    pub(crate) outgoing: mpsc::Sender<v1::ToServer>,
    pub(crate) incoming: Streaming<v1::ToWorker>,
    pub(crate) welcome: v1::Welcome,
    pub(crate) terms: Terms,
    pub(crate) server: String,
    address: Address,
}

/// What came of asking.
pub(crate) struct Dialed {
    pub(crate) asked: Asked,
    pub(crate) outcome: Result<Box<Session>, Failed>,
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
    /// The server is there and says that it cannot serve us at the moment: it leaves, or our app's partition moves.
    #[error("{server} does not serve this worker now: {why}")]
    NotNow { server: String, why: String },
    #[error("{server} cannot be reached: {why}")]
    Unreachable { server: String, why: String },
}

impl Failed {
    /// What the server's status means for us.
    pub(crate) fn from_status(server: &str, status: &Status) -> Self {
        // What went wrong below the session has a cause that the server cannot have sent.
        let is_sent = std::error::Error::source(status).is_none();
        let (server, why) = (server.to_owned(), status.message().to_owned());
        let why = if why.is_empty() { status.code().to_string() } else { why };
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Failed::Unauthorized { server, why },
            Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => Failed::Refused { server, why },
            Code::Unavailable | Code::Aborted if is_sent => Failed::NotNow { server, why },
            _ => Failed::Unreachable { server, why },
        }
    }

    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Failed::Refused { .. } | Failed::Unauthorized { .. })
    }

    pub(crate) fn is_unauthorized(&self) -> bool {
        matches!(self, Failed::Unauthorized { .. })
    }

    /// Whether nobody said anything.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Failed::Unreachable { .. })
    }

    /// None of several answered; each has its reason.
    fn all(failures: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut failures = failures.into_iter();
        let (server, mut why) = failures.next().unwrap_or_else(|| ("no server".to_owned(), "none is known".to_owned()));
        for (server, reason) in failures {
            why.push_str(&format!("; {server} cannot be reached: {reason}"));
        }
        Failed::Unreachable { server, why }
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
        let servers: Vec<&str> = servers.iter().map(|list| listed(list)).collect::<Result<Vec<_>, _>>()?.concat();
        let endpoints: Vec<Endpoint> = servers.into_iter().map(|url| endpoint(url, &tls)).collect::<Result<_, _>>()?;
        let mut authorization = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| WorkerError::setting("token", "contains characters that no token has"))?;
        authorization.set_sensitive(true);
        let app = app.map(|app| app_metadata(app).parse().expect("percent-encoded text is ASCII"));
        let uris: Vec<Uri> = endpoints.iter().map(|endpoint| endpoint.uri().clone()).collect();
        let addresses = Addresses::new(&uris);
        Ok(Dialer { addresses, endpoints, tls, authorization, app, timing: timing.clone() })
    }

    /// Opens a session with the first server that answers of those whose turn it is.
    pub(crate) fn dial(&self, hello: v1::Hello) -> BoxFuture<'static, Dialed> {
        let turn = self.addresses.next();
        let doors = turn.iter().map(|address| self.door(address)).collect();
        let (authorization, app) = (self.authorization.clone(), self.app.clone());
        let patience = self.timing.welcome_timeout;
        async move {
            let Knocked { asked, answered } = knock(doors).await;
            let (at, server, channel) = match answered {
                Ok(answered) => answered,
                Err(failures) => return Dialed { asked, outcome: Err(Failed::all(failures)) },
            };
            let opened = tokio::time::timeout(patience, open(&server, channel, hello, authorization, app)).await;
            let outcome = match opened {
                Ok(Ok((outgoing, incoming, welcome, terms))) => {
                    let address = turn[at].clone();
                    Ok(Box::new(Session { outgoing, incoming, welcome, terms, server, address }))
                }
                Ok(Err(failed)) => Err(failed),
                Err(_) => Err(Failed::Unreachable { server, why: format!("no welcome within {patience:?}") }),
            };
            Dialed { asked, outcome }
        }
        .boxed()
    }

    fn door(&self, address: &Address) -> Door {
        let Timing { connect_timeout, head_start, .. } = self.timing;
        match address {
            Address::Configured(at) => {
                let within = if self.addresses.is_silent(address) { head_start } else { connect_timeout };
                let endpoint = self.endpoints[*at].clone();
                Door { server: endpoint.uri().to_string(), endpoint: Ok(endpoint), within, head_start }
            }
            Address::Learned(url) => Door {
                server: url.clone(),
                endpoint: endpoint(url, &self.tls).map_err(|error| error.to_string()),
                within: LEARNED_WITHIN.min(connect_timeout),
                head_start: LEARNED_HEAD_START.min(head_start),
            },
        }
    }

    /// There is a session. Learns where the servers are now.
    pub(crate) fn connected(&mut self, session: &Session) {
        self.addresses.connected(&session.address, session.welcome.addresses());
    }

    /// A session, which lasted for a while or not, is over. Returns the pause before the next.
    pub(crate) fn lost(&mut self, session: &Session, lasted: bool, failed: &Failed) -> Pause {
        if lasted {
            self.addresses.lasted();
        }
        self.addresses.lost(&session.address, failed)
    }

    /// A dialled session did not come to be. Returns the pause before dialling again, if there should be one.
    pub(crate) fn failed(&mut self, asked: &Asked, failed: &Failed) -> Option<Pause> {
        self.addresses.failed(asked, failed)
    }
}

/// The addresses in one text, of which several are separated by commas.
fn listed(text: &str) -> Result<Vec<&str>, WorkerError> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(WorkerError::setting("server", format!("{text:?}: an address is missing")));
    }
    Ok(parts)
}

type Opened = (mpsc::Sender<v1::ToServer>, Streaming<v1::ToWorker>, v1::Welcome, Terms);

async fn open(
    server: &str,
    channel: Channel,
    hello: v1::Hello,
    authorization: MetadataValue<Ascii>,
    app: Option<MetadataValue<Ascii>>,
) -> Result<Opened, Failed> {
    let unreachable = |why: &str| Failed::Unreachable { server: server.to_owned(), why: why.to_owned() };
    let mut client = WorkerServiceClient::new(channel).max_decoding_message_size(frame::MAX_MESSAGE_BYTES);
    let (outgoing, frames) = mpsc::channel(OUTGOING_FRAMES);
    let hello = v1::ToServer { message: Some(to_server::Message::Hello(hello)) };
    outgoing.try_send(hello).map_err(|_| unreachable("the first frame found no room"))?;
    let mut request = tonic::Request::new(ReceiverStream::new(frames));
    request.metadata_mut().insert("authorization", authorization);
    if let Some(app) = app {
        request.metadata_mut().insert(APP_METADATA, app);
    }
    let response = client.session(request).await.map_err(|status| Failed::from_status(server, &status))?;
    let mut incoming = response.into_inner();
    let first = incoming.message().await.map_err(|status| Failed::from_status(server, &status))?;
    let Some(v1::ToWorker { message: Some(to_worker::Message::Welcome(welcome)) }) = first else {
        return Err(unreachable("the session did not begin with a welcome"));
    };
    let refused =
        |error: pendula_wire::WireError| Failed::Refused { server: server.to_owned(), why: error.to_string() };
    let terms = welcome.terms().map_err(refused)?;
    Ok((outgoing, incoming, welcome, terms))
}

fn endpoint(url: &str, tls: &Tls) -> Result<Endpoint, WorkerError> {
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
    fn who_says_not_now_was_reached() {
        let failed = |status: &Status| Failed::from_status("s", status).is_unreachable();
        for code in [Code::Unavailable, Code::Aborted] {
            assert!(!failed(&Status::new(code, "the partition moved")), "{code:?}");
        }
        assert!(failed(&Status::new(Code::Internal, "why")));
        // As tonic has it for what went wrong on this side.
        assert!(failed(&Status::from_error(Box::new(std::io::Error::other("broken pipe")))));
        let mut broken = Status::unavailable("error trying to connect");
        broken.set_source(std::sync::Arc::new(std::io::Error::other("broken pipe")));
        assert!(failed(&broken));
    }

    #[test]
    fn addresses_and_tokens_are_checked_early() {
        let dialer = |url: &str, token: &str| {
            Dialer::new(&[url.to_owned()], token, Some("每日"), Tls::default(), &Timing::default()).map(|_| ())
        };
        assert!(dialer("http://127.0.0.1:7700", "abc").is_ok());
        assert!(dialer("http://127.0.0.1:7700, https://b", "abc").is_ok());
        for (url, token, setting) in [
            ("ftp://a", "t", "server:"),
            ("127.0.0.1", "t", "server:"),
            ("http://a,", "t", "server:"),
            ("http://a,,http://b", "t", "server:"),
            ("http://a,b", "t", "server:"),
            ("", "t", "server:"),
            ("http://a", "\n", "token:"),
        ] {
            assert!(dialer(url, token).unwrap_err().to_string().starts_with(setting), "{url}");
        }
    }
}
