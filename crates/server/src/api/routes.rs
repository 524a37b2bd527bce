//! All routes, each with its guard. This file is the whole surface of the API.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use http::Method;
use pendula_model::api::Problem;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn, PathItem};
use utoipa::openapi::response::Response;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use super::elsewhere::AtOwner;
use super::guard::{self, Guard, Guarded};
use super::{
    Shared, apply, apps, cluster, explain, instances, jobs, log_download, logs, runs, server, tasks, tokens, workers,
};
use crate::auth::Permission::*;

/// Bytes of a body, unless the route says otherwise: more than any definition needs.
const BODY_BYTES: usize = 1024 * 1024;
/// Bytes of a body that brings many definitions or runs.
const BULK_BYTES: usize = 16 * 1024 * 1024;

/// One operation and who may call it.
struct Route {
    guard: Guard,
    body_bytes: usize,
    at_owner: AtOwner,
    idempotent: bool,
    operation: UtoipaMethodRouter<Shared>,
}

/// What changes something in an app is done by whoever owns its partition, and so is what asks its memory.
fn route(guard: Guard, operation: UtoipaMethodRouter<Shared>) -> Route {
    Route { guard, body_bytes: BODY_BYTES, at_owner: AtOwner::None, idempotent: false, operation }
}

impl Route {
    fn body(self, body_bytes: usize) -> Self {
        Route { body_bytes, ..self }
    }

    fn at_owner(self) -> Self {
        Route { at_owner: AtOwner::All, ..self }
    }

    fn following_at_owner(self) -> Self {
        Route { at_owner: AtOwner::Following, ..self }
    }

    /// Twice comes to the same as once.
    fn idempotent(self) -> Self {
        Route { idempotent: true, ..self }
    }
}

fn all() -> Vec<Route> {
    use Guard::{Anonymous, App, Instance, Server};
    vec![
        route(Anonymous, routes!(server::livez)),
        route(Anonymous, routes!(server::readyz)),
        route(Server(ReadMetrics), routes!(server::metrics)),
        route(Server(View), routes!(server::openapi)),
        route(Server(View), routes!(server::whoami)),
        route(Server(ViewServer), routes!(server::status)),
        route(Server(ViewServer), routes!(cluster::show_cluster)),
        route(Server(ManageServers), routes!(cluster::drain_server)),
        route(Server(ManageServers), routes!(cluster::undrain_server)),
        route(Server(View), routes!(server::preview)),
        route(Server(View), routes!(apps::list_apps)),
        route(Server(ManageApps), routes!(apps::create_app)).at_owner(),
        route(App(View), routes!(apps::show_app)),
        route(App(ManageApps), routes!(apps::update_app)).at_owner(),
        route(App(ManageApps), routes!(apps::delete_app)).at_owner(),
        route(App(View), routes!(jobs::list_jobs)),
        route(App(Define), routes!(jobs::create_job)).at_owner(),
        route(App(View), routes!(jobs::show_job)),
        route(App(Define), routes!(jobs::put_job)).at_owner(),
        route(App(Define), routes!(jobs::delete_job)).at_owner(),
        route(App(Operate), routes!(jobs::enable_job)).at_owner().idempotent(),
        route(App(Operate), routes!(jobs::disable_job)).at_owner().idempotent(),
        route(App(View), routes!(jobs::next_fires)),
        route(App(View), routes!(jobs::list_revisions)),
        route(App(View), routes!(jobs::list_gaps)),
        route(App(Define), routes!(apply::apply_jobs)).body(BULK_BYTES).at_owner(),
        route(App(Operate), routes!(runs::run_job)).at_owner(),
        route(App(Operate), routes!(runs::run_many)).body(BULK_BYTES).at_owner(),
        route(Server(View), routes!(instances::list_instances)),
        route(Instance(View), routes!(instances::show_instance)),
        route(Instance(View), routes!(tasks::list_tasks)),
        route(Instance(View), routes!(tasks::show_task)),
        route(Instance(View), routes!(tasks::read_result)),
        route(Instance(Operate), routes!(tasks::retry_tasks)).at_owner(),
        route(Instance(View), routes!(explain::explain_instance)).at_owner(),
        route(Instance(Operate), routes!(instances::stop_instance)).at_owner().idempotent(),
        route(Instance(Operate), routes!(instances::cancel_instance)).at_owner().idempotent(),
        route(Instance(Operate), routes!(runs::retry_instance)).at_owner(),
        route(Instance(View), routes!(logs::read_log)).following_at_owner(),
        route(Instance(View), routes!(log_download::download_log)),
        route(App(View), routes!(workers::list_workers)).at_owner(),
        route(App(Operate), routes!(workers::drain_worker)).at_owner().idempotent(),
        route(Server(ManageTokens), routes!(tokens::list_tokens)),
        route(Server(ManageTokens), routes!(tokens::create_token)),
        route(Server(ManageTokens), routes!(tokens::revoke_token)),
    ]
}

/// What is known of a route from outside, for tests and documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteInfo {
    pub method: Method,
    /// With names in braces: `/api/v1/apps/{app}`.
    pub path: String,
    pub guard: Guard,
}

/// Every route there is.
pub fn inventory() -> Vec<RouteInfo> {
    let info = |mut route: Route| {
        let (method, path, _) = operation(&mut route.operation);
        RouteInfo { method, path, guard: route.guard }
    };
    all().into_iter().map(info).collect()
}

/// The OpenAPI document, without serving anything.
pub fn document() -> OpenApi {
    let mut router = OpenApiRouter::<Shared>::with_openapi(frame());
    for mut route in all() {
        describe(&mut route);
        router = router.routes(route.operation);
    }
    router.into_openapi()
}

/// The routes behind their guards.
pub(super) fn router(api: &Shared) -> axum::Router<Shared> {
    let mut router = axum::Router::new();
    for mut route in all() {
        describe(&mut route);
        let (_, path, operation) = operation(&mut route.operation);
        let guarded = Guarded::new(api.clone(), route.guard, operation);
        let guarded = guarded.at_owner(route.at_owner, route.idempotent, route.body_bytes);
        let guarded = Arc::new(guarded);
        let methods = route.operation.map(|methods| {
            methods
                .layer(DefaultBodyLimit::max(route.body_bytes))
                .route_layer(from_fn_with_state(guarded, guard::check))
        });
        router = router.route(&path, methods.2);
    }
    router
}

/// The single operation of a route.
fn operation(operation: &mut UtoipaMethodRouter<Shared>) -> (Method, String, &mut Operation) {
    let (path, item) = operation.1.paths.iter_mut().next().expect("each route has one path");
    let PathItem { get, put, post, delete, patch, .. } = item;
    let methods = [
        (Method::GET, get),
        (Method::PUT, put),
        (Method::POST, post),
        (Method::DELETE, delete),
        (Method::PATCH, patch),
    ];
    let (method, operation) = methods
        .into_iter()
        .find_map(|(method, operation)| operation.as_mut().map(|operation| (method, operation)))
        .expect("each route has one operation");
    (method, path.clone(), operation)
}

/// Adds to an operation's description what follows from its path and guard.
fn describe(route: &mut Route) {
    let guard = route.guard;
    let body_bytes = route.body_bytes;
    let (_, path, operation) = operation(&mut route.operation);
    let parameters = operation.parameters.get_or_insert_default();
    parameters
        .retain(|parameter| !matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Path));
    for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        let mut parameter = Parameter::new(name);
        parameter.parameter_in = ParameterIn::Path;
        parameter.required = Required::True;
        parameter.schema = Some(String::schema());
        parameters.push(RefOr::T(parameter));
    }
    if operation.request_body.is_some() {
        let note = format!("\n\nThe body has at most {body_bytes} bytes.");
        operation.description.get_or_insert_default().push_str(&note);
    }
    let needs = match guard {
        Guard::Anonymous => {
            operation.security = Some(vec![SecurityRequirement::default()]);
            return;
        }
        Guard::Server(permission) => format!("{permission:?}"),
        Guard::App(permission) => format!("{permission:?}, in the app"),
        Guard::Instance(permission) => format!("{permission:?}, in the instance's app"),
    };
    operation.description.get_or_insert_default().push_str(&format!("\n\nNeeds the permission `{needs}`."));
    operation.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let mut problem = Response::new("An error; `code` says which.");
    problem.content.insert("application/problem+json".to_owned(), content.into());
    operation.responses.responses.insert("default".to_owned(), RefOr::T(problem));
}

fn frame() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Pendula")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The REST API of Pendula. Errors are problem documents (RFC 9457) with a stable `code`."))
        .build();
    let mut components = Components::new();
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.security_schemes.insert("token".to_owned(), token.into());
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}
