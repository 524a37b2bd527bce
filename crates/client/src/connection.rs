//! One request and its answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use pendula_model::api::{PageOf, Problem};
use reqwest::{Method, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::address::parse_addresses;
use crate::call::{Call, Prepared, Tries};
use crate::error::ClientError;
use crate::servers::Servers;

/// Items of a page, the most that the server gives.
const PAGE: u32 = 1000;
/// Bytes of a foreign answer that are quoted in a message.
const QUOTED_BYTES: usize = 200;
/// Longest time for a connection to be made; shorter where another server may be asked instead.
const CONNECT: Duration = Duration::from_secs(5);
const CONNECT_TO_ONE_OF_SEVERAL: Duration = Duration::from_secs(3);

/// One or several servers of an installation and the token to show them. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    servers: Arc<Servers>,
    token: Option<String>,
    patience: Duration,
}

/// Settings of a [`Client`] beyond address and token.
pub struct ClientBuilder {
    base: String,
    token: Option<String>,
    authorities: Vec<Vec<u8>>,
    timeout: Duration,
    patience: Duration,
}

impl ClientBuilder {
    /// The bearer token of each request.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Trusts the certificates in `pem` besides the system's.
    pub fn authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities.push(pem.into());
        self
    }

    /// Longest wait for a whole answer. Default 60 s; a followed log has no such limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long to send a request again when a server says that it cannot serve it at the moment, as while another takes
    /// over from one that crashed, or when the connection breaks. What reads, what carries an idempotency key and what
    /// comes to the same when done twice is sent again then; everything else only if the server says that nothing was
    /// done. Counted from the first such answer. Default: not at all.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// # Errors
    /// [`ClientError::Address`] when an address or a certificate cannot be read.
    pub fn build(self) -> Result<Client, ClientError> {
        let servers = parse_addresses(&self.base)?;
        let connect = if servers.len() > 1 { CONNECT_TO_ONE_OF_SEVERAL } else { CONNECT };
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("pendula/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect.min(self.timeout))
            .timeout(self.timeout)
            .tcp_nodelay(true);
        let mut certificates = Vec::new();
        for pem in &self.authorities {
            let read = reqwest::Certificate::from_pem_bundle(pem).unwrap_or_default();
            if read.is_empty() {
                return Err(ClientError::Address(
                    "the file of the certificate authority holds no PEM certificate".to_owned(),
                ));
            }
            certificates.extend(read);
        }
        if !certificates.is_empty() {
            http = http.tls_certs_merge(certificates);
        }
        let http = http.build().map_err(|error| ClientError::Address(format!("preparing TLS: {error}")))?;
        Ok(Client { http, servers: Arc::new(Servers::new(servers)), token: self.token, patience: self.patience })
    }
}

impl Client {
    /// A client with the default settings. `base_url` is the address of a server, or of several, separated by commas: when
    /// one cannot be reached, the next is asked, and then stayed with.
    ///
    /// # Errors
    /// [`ClientError::Address`] when `base_url` is no address.
    pub fn new(base_url: &str, token: impl Into<String>) -> Result<Client, ClientError> {
        Client::builder(base_url).token(token).build()
    }

    /// A client with other settings, for the servers that [`Client::new`] would ask.
    pub fn builder(base_url: &str) -> ClientBuilder {
        ClientBuilder {
            base: base_url.to_owned(),
            token: None,
            authorities: Vec::new(),
            timeout: Duration::from_secs(60),
            patience: Duration::ZERO,
        }
    }

    /// The servers' addresses, as they were given.
    pub fn addresses(&self) -> &[Url] {
        self.servers.all()
    }

    /// A request below `/api/v1`; each segment is percent-encoded, so a name may hold any character.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> Call {
        let mut url = self.servers.all()[0].clone();
        url.path_segments_mut().expect("http addresses have paths").clear().extend(["api", "v1"]).extend(segments);
        self.authorized(method, url)
    }

    /// A request outside of the versioned API, such as `/readyz`.
    pub(crate) fn request_root(&self, segment: &str) -> Call {
        let mut url = self.servers.all()[0].clone();
        url.set_path(segment);
        self.authorized(Method::GET, url)
    }

    fn authorized(&self, method: Method, url: Url) -> Call {
        let request = self.http.request(method.clone(), url);
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        Call::new(&method, request)
    }

    /// Sends, and turns every answer that is no success into an error. The body of a success is still to come.
    pub(crate) async fn send(&self, call: Call) -> Result<Response, ClientError> {
        let (call, mut tries) = (call.build()?, Tries::new(self.patience));
        loop {
            match self.send_once(&call).await {
                Ok(response) => return Ok(response),
                Err(error) => tries.pause(&call, error).await?,
            }
        }
    }

    /// The same with the body.
    pub(crate) async fn fetch(&self, call: Call) -> Result<(HeaderMap, Bytes), ClientError> {
        let (call, mut tries) = (call.build()?, Tries::new(self.patience));
        loop {
            match self.fetch_once(&call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => tries.pause(&call, error).await?,
            }
        }
    }

    async fn fetch_once(&self, call: &Prepared) -> Result<(HeaderMap, Bytes), ClientError> {
        let mut response = self.send_once(call).await?;
        let headers = std::mem::take(response.headers_mut());
        match response.bytes().await {
            Ok(body) => Ok((headers, body)),
            Err(error) => Err(self.broke(&error)),
        }
    }

    /// Asks the servers in turn until one can be reached. One that breaks off, or cannot serve now, is not the first to be
    /// asked the next time.
    pub(crate) async fn send_once(&self, call: &Prepared) -> Result<Response, ClientError> {
        let mut unreached = Vec::new();
        for place in self.servers.in_turn() {
            let response = match self.http.execute(call.to(&self.servers.all()[place])).await {
                Ok(response) => response,
                Err(error) if error.is_connect() => {
                    unreached.push(ClientError::from_reqwest(self.servers.name(place), &error));
                    continue;
                }
                Err(error) => {
                    self.servers.stay_with(place);
                    return Err(self.broke(&error));
                }
            };
            self.servers.stay_with(place);
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            let error = self.refused(response).await;
            if matches!(status.as_u16(), 502..=504) {
                self.servers.pass_over(place);
            }
            return Err(error);
        }
        Err(ClientError::none_reached(unreached))
    }

    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let (_, body) = self.fetch(call).await?;
        serde_json::from_slice(&body).map_err(|error| self.protocol(format!("{error} in {}", quote(&body))))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, segments: &[&str]) -> Result<T, ClientError> {
        self.json(self.request(Method::GET, segments)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.json(self.request(Method::POST, segments).json(body)).await
    }

    /// All items of a listing, page by page.
    pub(crate) async fn all<T: DeserializeOwned>(&self, segments: &[&str]) -> Result<Vec<T>, ClientError> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let request = self.request(Method::GET, segments).query(&[("limit", PAGE)]).query(&[("cursor", &cursor)]);
            let page: PageOf<T> = self.json(request).await?;
            items.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(items),
            }
        }
    }

    pub(crate) async fn delete(&self, segments: &[&str]) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, segments)).await.map(drop)
    }

    /// The server that is asked broke off.
    pub(crate) fn broke(&self, error: &reqwest::Error) -> ClientError {
        let error = self.failed(error);
        self.servers.pass_over(self.servers.place());
        error
    }

    /// The server that is asked fell silent, or ended what has no end.
    pub(crate) fn lost(&self, why: &str) -> ClientError {
        let url = self.servers.current().to_owned();
        self.servers.pass_over(self.servers.place());
        ClientError::Unreachable { url, why: why.to_owned(), maybe_sent: true }
    }

    fn failed(&self, error: &reqwest::Error) -> ClientError {
        ClientError::from_reqwest(self.servers.current(), error)
    }

    pub(crate) fn protocol(&self, what: String) -> ClientError {
        ClientError::Protocol { url: self.servers.current().to_owned(), what }
    }

    async fn refused(&self, response: Response) -> ClientError {
        let status = response.status();
        let body = match response.bytes().await {
            Ok(body) => body,
            Err(error) => return self.failed(&error),
        };
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => ClientError::Problem(Box::new(problem)),
            // What a proxy says while the server behind it is away.
            Err(_) if matches!(status.as_u16(), 502..=504) => ClientError::Unreachable {
                url: self.servers.current().to_owned(),
                why: not_ready(&body).unwrap_or_else(|| format!("a gateway answered {status}")),
                maybe_sent: true,
            },
            Err(_) => self.protocol(format!("{status}, {}; is this a Pendula server?", quote(&body))),
        }
    }
}

/// What `/readyz` says keeps the server from its work.
fn not_ready(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Readiness {
        problems: Vec<String>,
    }
    let Readiness { problems } = serde_json::from_slice(body).ok()?;
    Some(format!("the server is not ready: {}", problems.join("; ")))
}

fn quote(body: &[u8]) -> String {
    if body.is_empty() {
        return "an empty body".to_owned();
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(QUOTED_BYTES)]);
    format!("{text:?}")
}
