//! What stands before every handler: who may call it, and what the path means.
//!
//! A [`Guard`] is part of a route's declaration, so there is no route without one. It runs before the body is read. It
//! also finds the app or instance that the path names and checks whose it is; handlers get them as extensions and never
//! look at the path. What belongs to another app is answered exactly as what does not exist.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{Method, header};
use pendula_model::app::App;
use pendula_model::instance::Instance;
use pendula_model::{AppId, TaskId, TokenId};
use utoipa::openapi::RefOr;
use utoipa::openapi::path::{Operation, ParameterIn};

use super::Shared;
use super::elsewhere::{self, AtOwner};
use super::problem::*;
use crate::auth::{Permission, Principal};

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Everybody, without a credential. Only for what a load balancer asks.
    Anonymous,
    /// Who has the permission where no single app is concerned. Handlers of listings show such callers only what is
    /// theirs: see [`Principal::only_app`].
    Server(Permission),
    /// Who has the permission for the app that the path names as `{app}`.
    App(Permission),
    /// Who has the permission for the app of the instance that the path names as `{id}`.
    Instance(Permission),
}

/// What a guard knows of its route.
pub(super) struct Guarded {
    pub(super) api: Shared,
    pub(super) guard: Guard,
    pub(super) operation: String,
    at_owner: AtOwner,
    idempotent: bool,
    body_bytes: usize,
    /// Query parameters that the operation documents.
    query: HashSet<String>,
    /// Headers that change what it does, of those that it documents.
    headers: HashSet<String>,
}

impl Guarded {
    pub(super) fn new(api: Shared, guard: Guard, operation: &Operation) -> Self {
        let named = |place: ParameterIn| {
            let parameters = operation.parameters.iter().flatten();
            let names = parameters.filter_map(|parameter| match parameter {
                RefOr::T(parameter) if parameter.parameter_in == place => Some(parameter.name.to_ascii_lowercase()),
                _ => None,
            });
            names.collect()
        };
        let (query, headers) = (named(ParameterIn::Query), named(ParameterIn::Header));
        let operation = operation.operation_id.clone().unwrap_or_default();
        Guarded { api, guard, operation, at_owner: AtOwner::None, idempotent: false, body_bytes: 0, query, headers }
    }

    /// With what must be answered by an owner, whether it may be asked again when nobody knows what became of it, and the
    /// bytes of a body at most.
    pub(super) fn at_owner(self, at_owner: AtOwner, idempotent: bool, body_bytes: usize) -> Self {
        Guarded { at_owner, idempotent, body_bytes, ..self }
    }
}

/// The job named by the path. It need not exist.
#[derive(Clone, Debug)]
pub(super) struct JobName(pub(super) String);

/// The worker named by the path. It need not exist.
#[derive(Clone, Debug)]
pub(super) struct WorkerName(pub(super) String);

/// The server named by the path. It need not exist.
#[derive(Clone, Debug)]
pub(super) struct ServerName(pub(super) String);

/// The task named by the path. It need not exist.
#[derive(Clone, Copy, Debug)]
pub(super) struct TaskNumber(pub(super) TaskId);

/// Headers by which callers make a change conditional or repeatable. One that we would ignore is refused: the caller
/// counts on it.
const PROMISES: [&str; 3] = ["if-match", "if-none-match", "idempotency-key"];

/// The middleware.
pub(super) async fn check(
    State(guarded): State<Arc<Guarded>>,
    path: Result<RawPathParams, axum::extract::rejection::RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match authorize(&guarded, path, &mut request).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    let Some(caller) = caller.filter(|_| changes_something(request.method())) else {
        return answer(&guarded, request, next).await;
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = answer(&guarded, request, next).await;
    let made = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    tracing::info!(
        target: "audit",
        token = ?caller.name,
        token_id = %caller.token_id,
        operation = guarded.operation,
        %method,
        path = ?path,
        made,
        status = response.status().as_u16(),
        "change"
    );
    response
}

/// Has the handler answer, here or where what the path names is owned.
async fn answer(guarded: &Guarded, request: Request, next: Next) -> Response {
    if !guarded.at_owner.holds(&request) {
        return next.run(request).await;
    }
    let of_instance = || request.extensions().get::<Instance>().map(|instance| instance.id.partition());
    let partition = request.extensions().get::<App>().map(|app| app.partition).or_else(of_instance);
    let repeatable = elsewhere::is_repeatable(request.method(), request.headers(), guarded.idempotent);
    elsewhere::answer(&guarded.api, partition, repeatable, guarded.body_bytes, request, next).await
}

fn changes_something(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

async fn authorize(
    guarded: &Guarded,
    path: Result<RawPathParams, axum::extract::rejection::RawPathParamsRejection>,
    request: &mut Request,
) -> Result<Option<Arc<Principal>>, ApiError> {
    let caller = match guarded.guard {
        Guard::Anonymous => None,
        guard => {
            let (peer, credential) = credential(request);
            let caller = guarded.api.server.auth.authenticate_from(peer, credential.as_deref()).await?;
            // Whoever may not see any app is told so before anything is looked up for them.
            match guard {
                Guard::Server(permission) => permitted(&caller, permission, None)?,
                _ => permitted(&caller, Permission::View, None)?,
            }
            request.extensions_mut().insert(caller.clone());
            Some(caller)
        }
    };
    let path = path.map_err(|rejection| ApiError::with(&INVALID_PATH, rejection.body_text()))?;
    for (name, value) in &path {
        match name {
            "app" => {
                let app = find_app(guarded, caller.as_deref(), value).await?;
                request.extensions_mut().insert(app);
            }
            "id" if matches!(guarded.guard, Guard::Instance(_)) => {
                let instance = find_instance(guarded, caller.as_deref(), value).await?;
                request.extensions_mut().insert(instance);
            }
            "token" => {
                let id: TokenId = value.parse().map_err(|_| ApiError::new(&TOKEN_NOT_FOUND))?;
                request.extensions_mut().insert(id);
            }
            "task" => {
                let id: TaskId = value.parse().map_err(|_| ApiError::new(&TASK_NOT_FOUND))?;
                request.extensions_mut().insert(TaskNumber(id));
            }
            "job" => drop(request.extensions_mut().insert(JobName(value.to_owned()))),
            "server" => drop(request.extensions_mut().insert(ServerName(value.to_owned()))),
            "worker" => drop(request.extensions_mut().insert(WorkerName(value.to_owned()))),
            other => unreachable!("routes use no other names in their paths, but there is {{{other}}}"),
        }
    }
    if let Some(caller) = &caller {
        match guarded.guard {
            Guard::App(permission) => {
                permitted(caller, permission, request.extensions().get::<App>().map(|app| app.id))?
            }
            Guard::Instance(permission) => {
                permitted(caller, permission, request.extensions().get::<Instance>().map(|instance| instance.app))?;
            }
            Guard::Anonymous | Guard::Server(_) => {}
        }
    }
    check_query(guarded, request)?;
    check_promises(guarded, request)?;
    Ok(caller)
}

fn permitted(caller: &Principal, permission: Permission, app: Option<AppId>) -> Result<(), ApiError> {
    if caller.may(permission, app) { Ok(()) } else { Err(ApiError::new(&FORBIDDEN)) }
}

/// Where the caller is, and what they show.
fn credential(request: &Request) -> (IpAddr, Option<String>) {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    // Those who cannot be told apart share one allowance of failures.
    let peer = peer.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip());
    let mut headers = request.headers().get_all(header::AUTHORIZATION).iter();
    let credential = match (headers.next(), headers.next()) {
        (None, _) => None,
        (Some(value), None) => Some(value.to_str().unwrap_or("").to_owned()),
        // Which one a proxy in front of us looked at, we cannot know.
        (Some(_), Some(_)) => Some(String::new()),
    };
    (peer, credential)
}

async fn find_app(guarded: &Guarded, caller: Option<&Principal>, name: &str) -> Result<App, ApiError> {
    let app = guarded.api.server.store.app_by_name(name).await?;
    app.filter(|app| caller.is_none_or(|caller| caller.may(Permission::View, Some(app.id))))
        .ok_or_else(|| ApiError::new(&APP_NOT_FOUND))
}

async fn find_instance(guarded: &Guarded, caller: Option<&Principal>, id: &str) -> Result<Instance, ApiError> {
    let Ok(id) = id.parse() else { return Err(ApiError::new(&INSTANCE_NOT_FOUND)) };
    let instance = guarded.api.server.store.instance(id).await?;
    instance
        .filter(|instance| caller.is_none_or(|caller| caller.may(Permission::View, Some(instance.app))))
        .ok_or_else(|| ApiError::new(&INSTANCE_NOT_FOUND))
}

fn check_query(guarded: &Guarded, request: &Request) -> Result<(), ApiError> {
    let query = request.uri().query().unwrap_or("");
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split('=').next().unwrap_or("");
        if !guarded.query.contains(name) {
            let name: String = name.chars().take(100).collect();
            let mut known: Vec<_> = guarded.query.iter().map(String::as_str).collect();
            known.sort_unstable();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(ApiError::with(&INVALID_QUERY, format!("`{name}` is unknown; allowed: {known}")).at(name));
        }
    }
    Ok(())
}

fn check_promises(guarded: &Guarded, request: &Request) -> Result<(), ApiError> {
    if !changes_something(request.method()) {
        return Ok(());
    }
    let ignored =
        PROMISES.iter().find(|name| request.headers().contains_key(**name) && !guarded.headers.contains(**name));
    match ignored {
        Some(name) => {
            Err(ApiError::with(&INVALID_HEADER, format!("`{name}` is not supported by this operation")).at(*name))
        }
        None => Ok(()),
    }
}
