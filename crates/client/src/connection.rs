//! One request and its answer.

use std::time::Duration;

use pendula_model::api::{PageOf, Problem};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::address::parse_address;
use crate::error::ClientError;

/// Items of a page, the most that the server gives.
const PAGE: u32 = 1000;
/// Bytes of a foreign answer that are quoted in a message.
const QUOTED_BYTES: usize = 200;

/// A server and the token to show it. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

/// Settings of a [`Client`] beyond address and token.
pub struct ClientBuilder {
    base: String,
    token: Option<String>,
    authorities: Vec<Vec<u8>>,
    timeout: Duration,
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

    /// # Errors
    /// [`ClientError::Address`] when the address or a certificate cannot be read.
    pub fn build(self) -> Result<Client, ClientError> {
        let base = parse_address(&self.base)?;
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("pendula/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5).min(self.timeout))
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
        Ok(Client { http, base, token: self.token })
    }
}

impl Client {
    /// A client with the default settings.
    ///
    /// # Errors
    /// [`ClientError::Address`] when `base_url` is no address.
    pub fn new(base_url: &str, token: impl Into<String>) -> Result<Client, ClientError> {
        Client::builder(base_url).token(token).build()
    }

    pub fn builder(base_url: &str) -> ClientBuilder {
        ClientBuilder {
            base: base_url.to_owned(),
            token: None,
            authorities: Vec::new(),
            timeout: Duration::from_secs(60),
        }
    }

    /// The server's address.
    pub fn address(&self) -> &Url {
        &self.base
    }

    /// A request below `/api/v1`; each segment is percent-encoded, so a name may hold any character.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("http addresses have paths").clear().extend(["api", "v1"]).extend(segments);
        self.authorized(method, url)
    }

    /// A request outside of the versioned API, such as `/readyz`.
    pub(crate) fn request_root(&self, segment: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(segment);
        self.authorized(Method::GET, url)
    }

    fn authorized(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends, and turns every answer that is no success into an error.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.failed(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        let body = response.bytes().await.map_err(|error| self.failed(&error))?;
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

    /// A `POST` without a body whose answer does not matter.
    pub(crate) async fn act(&self, segments: &[&str]) -> Result<(), ClientError> {
        self.send(self.request(Method::POST, segments)).await.map(drop)
    }

    pub(crate) async fn delete(&self, segments: &[&str]) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, segments)).await.map(drop)
    }

    pub(crate) fn failed(&self, error: &reqwest::Error) -> ClientError {
        ClientError::from_reqwest(self.base.as_str().trim_end_matches('/'), error)
    }

    pub(crate) fn protocol(&self, what: String) -> ClientError {
        ClientError::Protocol { url: self.base.as_str().trim_end_matches('/').to_owned(), what }
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
                url: self.base.as_str().trim_end_matches('/').to_owned(),
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
