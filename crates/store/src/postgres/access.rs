//! Apps and tokens.

use deadpool_postgres::Object;
use pendula_model::app::App;
use pendula_model::token::Token;
use pendula_model::{AppId, TokenId};

use super::error::store_error;
use super::flight::{Failure, Step, fly};
use super::read::{execute, query};
use super::values::{Value, micros};
use crate::port::StoreError;
use crate::rows::{self, app_columns, token_columns};
use crate::unreadable::{Kind, UnreadableRows};

pub(super) const APPS: &str = concat!("SELECT ", app_columns!(), " FROM app ORDER BY name");
pub(super) const APP_BY_NAME: &str = concat!("SELECT ", app_columns!(), " FROM app WHERE name = $1");
pub(super) const APP_BY_ID: &str = concat!("SELECT ", app_columns!(), " FROM app WHERE id = $1");

pub(super) async fn apps(client: &Object, unreadable: &UnreadableRows) -> Result<Vec<App>, StoreError> {
    unreadable.sift(Kind::App, &query(client, APPS, &[]).await?, rows::app)
}

pub(super) async fn app_by_name(
    client: &Object,
    unreadable: &UnreadableRows,
    name: &str,
) -> Result<Option<App>, StoreError> {
    unreadable.only(Kind::App, &query(client, APP_BY_NAME, &[Value::text(name)]).await?, rows::app)
}

pub(super) async fn app_by_id(
    client: &Object,
    unreadable: &UnreadableRows,
    id: AppId,
) -> Result<Option<App>, StoreError> {
    unreadable.only(Kind::App, &query(client, APP_BY_ID, &[Value::Int(id.0)]).await?, rows::app)
}

const INSERT_TOKEN: &str = "
    INSERT INTO token (id, name, scope, app_id, hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)";

/// The constraint that an app of a token breaks which is not there.
const APP_OF_TOKEN: &str = "token_app_id_fkey";

pub(super) async fn insert_token(client: &Object, token: &Token) -> Result<(), StoreError> {
    let app = token.scope.app();
    let values = vec![
        Value::Int(token.id.0),
        Value::text(&token.name),
        Value::text(token.scope.kind()),
        Value::OptInt(app.map(|app| app.0)),
        Value::Blob(&token.hash),
        Value::time(token.created_at),
        Value::OptInt(micros(token.expires_at)),
    ];
    let Err(Failure { error, .. }) = fly(client, &[Step { sql: INSERT_TOKEN, values }]).await? else { return Ok(()) };
    let constraint = error.as_db_error().and_then(|said| said.constraint());
    match (store_error(&error), app) {
        (StoreError::Conflict { .. }, Some(app)) if constraint == Some(APP_OF_TOKEN) => {
            Err(StoreError::Conflict { what: format!("app {app} of token {} does not exist", token.id) })
        }
        (StoreError::Conflict { .. }, _) => Err(StoreError::Exists { what: format!("token {}", token.id) }),
        (error, _) => Err(error),
    }
}

/// The id is remembered before it is nowhere else.
const DELETE_TOKEN: &str = "
    WITH gone AS (DELETE FROM token WHERE id = $1 RETURNING id)
    UPDATE meta SET value = GREATEST(meta.value::bigint, gone.id)::text FROM gone WHERE meta.key = 'last_deleted_id'";

pub(super) async fn delete_token(client: &Object, id: TokenId) -> Result<bool, StoreError> {
    Ok(execute(client, DELETE_TOKEN, &[Value::Int(id.0)]).await? > 0)
}

/// Index `token_hash`.
pub(super) const TOKEN_BY_HASH: &str = concat!("SELECT ", token_columns!(), " FROM token WHERE hash = $1");
pub(super) const TOKENS: &str = concat!("SELECT ", token_columns!(), " FROM token ORDER BY id");

pub(super) async fn token_by_hash(
    client: &Object,
    unreadable: &UnreadableRows,
    hash: [u8; 32],
) -> Result<Option<Token>, StoreError> {
    unreadable.only(Kind::Token, &query(client, TOKEN_BY_HASH, &[Value::Blob(&hash)]).await?, rows::token)
}

pub(super) async fn tokens(client: &Object, unreadable: &UnreadableRows) -> Result<Vec<Token>, StoreError> {
    unreadable.sift(Kind::Token, &query(client, TOKENS, &[]).await?, rows::token)
}
