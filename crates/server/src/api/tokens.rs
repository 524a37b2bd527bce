//! Access tokens. Only administrators get here.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as JsonAnswer};
use http::{StatusCode, header};
use pendula_model::api::{PageOf, TokenCreate, TokenKind, TokenView};
use pendula_model::token::Scope;
use pendula_model::{AppId, Timestamp, TokenId, duration, limits};

use super::body::{Json, Query};
use super::page::{Paging, page_of};
use super::problem::*;
use super::{Shared, views};
use crate::auth;

/// All tokens, oldest first, without their secrets.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", params(Paging),
    responses((status = 200, description = "A page of them.", body = PageOf<TokenView>)))]
pub(super) async fn list_tokens(
    State(api): State<Shared>,
    Query(paging): Query<Paging>,
) -> Result<JsonAnswer<PageOf<TokenView>>, ApiError> {
    let store = &*api.server.store;
    let tokens = store.tokens().await?;
    let apps = tokens.iter().filter_map(|token| token.scope.app()).collect();
    let names = api.names.of_apps(store, apps).await?;
    let views = tokens.into_iter().map(|token| views::token(&names, token)).collect();
    page_of("tokens", views, &paging, |token: &TokenView| format!("{:020}", token.id.0)).map(JsonAnswer)
}

/// Creates a token. The answer is the only place where its secret ever appears.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = TokenCreate,
    responses((status = 201, description = "The token with its secret.", body = TokenView)))]
pub(super) async fn create_token(
    State(api): State<Shared>,
    Json(wanted): Json<TokenCreate>,
) -> Result<Response, ApiError> {
    limits::check_name("name", &wanted.name)?;
    if wanted.name == auth::CONFIGURED || wanted.name.starts_with(auth::FOREIGN_MARK.trim_end()) {
        return Err(ApiError::with(&INVALID_VALUE, "is reserved for tokens of another kind").at("name"));
    }
    let scope = scope(&api, &wanted).await?;
    let expires_at = wanted.expires_in.as_deref().map(|text| expiry(text, api.now())).transpose()?;
    let (token, secret) = match (wanted.kind, &scope) {
        (TokenKind::Powerjob, Scope::App { app }) => {
            api.server.auth.create_for_powerjob(&wanted.name, *app, expires_at).await?
        }
        _ => api.server.auth.create(&wanted.name, scope, expires_at).await?,
    };
    let location = format!("/api/v1/tokens/{}", token.id);
    let view = TokenView {
        id: token.id,
        name: token.name,
        kind: wanted.kind,
        app: wanted.app,
        created_at: token.created_at,
        expires_at,
        secret: Some(secret.reveal().to_owned()),
    };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], JsonAnswer(view)).into_response())
}

/// Revokes a token at once; sessions that were opened with it are closed.
#[utoipa::path(delete, path = "/api/v1/tokens/{token}", tag = "tokens", responses((status = 204, description = "It is gone.")))]
pub(super) async fn revoke_token(
    State(api): State<Shared>,
    Extension(id): Extension<TokenId>,
) -> Result<StatusCode, ApiError> {
    if api.server.auth.revoke(id).await? { Ok(StatusCode::NO_CONTENT) } else { Err(ApiError::new(&TOKEN_NOT_FOUND)) }
}

async fn scope(api: &Shared, wanted: &TokenCreate) -> Result<Scope, ApiError> {
    let app = async || -> Result<AppId, ApiError> {
        let missing = || ApiError::with(&INVALID_VALUE, "a token of this kind belongs to an app; name it").at("app");
        let name = wanted.app.as_deref().ok_or_else(missing)?;
        let app = api.server.store.app_by_name(name).await?;
        Ok(app.ok_or_else(|| ApiError::new(&APP_NOT_FOUND).at("app"))?.id)
    };
    match wanted.kind {
        TokenKind::App | TokenKind::Powerjob => Ok(Scope::App { app: app().await? }),
        TokenKind::Worker => Ok(Scope::Worker { app: app().await? }),
        TokenKind::Admin | TokenKind::Metrics if wanted.app.is_some() => {
            Err(ApiError::with(&INVALID_VALUE, "a token of this kind belongs to no app; leave it out").at("app"))
        }
        TokenKind::Admin => Ok(Scope::Admin),
        TokenKind::Metrics => Ok(Scope::Metrics),
    }
}

fn expiry(text: &str, now: Timestamp) -> Result<Timestamp, ApiError> {
    let refuse = |message: String| ApiError::with(&INVALID_VALUE, message).at("expires_in");
    let duration = duration::parse(text).map_err(refuse)?;
    if duration.is_zero() {
        return Err(refuse("must be longer than nothing".to_owned()));
    }
    Ok(now.plus(duration))
}
