//! The REST API, request by request, in front of a whole server.

mod abuse;
mod access;
mod apps_and_jobs;
mod described;
mod instances;
mod logs;
mod tasks;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use pendula_model::AppId;
use pendula_model::token::Scope;
use pendula_server::auth::Authenticator;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::world::World;

/// A server with the app `demo` (of the world) and the app `other`, and tokens of each kind.
pub struct Site {
    pub world: World,
    pub router: axum::Router,
    pub admin: String,
    /// Of `demo`.
    pub token: String,
    /// Of `other`.
    pub others: String,
    pub other_app: AppId,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The stable code of a problem.
    pub fn code(&self) -> String {
        let problem = self.json();
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json", "{self:?}");
        assert_eq!(problem["status"], self.status.as_u16(), "{self:?}");
        problem["code"].as_str().unwrap_or_else(|| panic!("no code: {self:?}")).to_owned()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status.as_u16(), self.code().as_str()), (status, code), "{self:?}");
        self.json()
    }
}

impl Site {
    pub async fn new() -> Site {
        let world = World::new().await;
        let admin = world.server().first_admin().expect("the first start makes one").reveal().to_owned();
        let router = pendula_server::api::router(world.server().state().clone());
        let mut site = Site { world, router, admin, token: String::new(), others: String::new(), other_app: AppId(1) };
        let other = site.post("/api/v1/apps", &json!({ "name": "other", "allow_scripts": true })).await.expect(201);
        site.other_app = other["id"].as_str().expect("ids are strings").parse().expect("an id");
        site.token = site.token(Scope::App { app: site.world.app }).await;
        site.others = site.token(Scope::App { app: site.other_app }).await;
        site
    }

    pub fn auth(&self) -> Arc<Authenticator> {
        self.world.server().state().auth.clone()
    }

    pub async fn token(&self, scope: Scope) -> String {
        let (_, secret) = self.auth().create("test", scope, None).await.expect("a new token");
        secret.reveal().to_owned()
    }

    /// As the administrator.
    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, Some(&self.admin), None).await
    }

    /// As the administrator.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, Some(&self.admin), Some(body.to_string())).await
    }

    pub async fn call(&self, method: Method, path: &str, token: Option<&str>, body: Option<String>) -> Answer {
        let mut request = request(method, path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        self.send(request.body(Body::from(body.unwrap_or_default())).expect("a request")).await
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("the router always answers");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        Answer { status: parts.status, headers: parts.headers, text }
    }
}

/// A request from a peer of its own, so that failures of one do not block another.
pub fn request(method: Method, path: &str) -> http::request::Builder {
    static PEER: AtomicU32 = AtomicU32::new(0x0A00_0001);
    let peer = IpAddr::V4(Ipv4Addr::from_bits(PEER.fetch_add(1, Ordering::Relaxed)));
    Request::builder().method(method).uri(path).extension(ConnectInfo(SocketAddr::new(peer, 1)))
}

/// A definition that runs nothing by itself.
pub fn job(name: &str) -> Value {
    json!({ "name": name, "processor": { "handler": "h" } })
}

/// A name as it stands in a path or query.
pub fn segment(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
