//! Apps and tokens.

use pendula_model::app::App;
use pendula_model::token::Token;
use pendula_model::{AppId, TokenId};
use rusqlite::{Connection, params};

use super::commit::remember_deleted;
use super::error::OrStoreError;
use crate::port::StoreError;
use crate::rows::{self, app_columns, token_columns};
use crate::unreadable::{Kind, UnreadableRows};

const APPS: &str = concat!("SELECT ", app_columns!(), " FROM app ORDER BY name");
pub(super) const APP_BY_NAME: &str = concat!("SELECT ", app_columns!(), " FROM app WHERE name = ?1");
const APP_BY_ID: &str = concat!("SELECT ", app_columns!(), " FROM app WHERE id = ?1");

pub(super) fn apps(db: &Connection, unreadable: &UnreadableRows) -> Result<Vec<App>, StoreError> {
    unreadable.read_all(db, Kind::App, APPS, [], usize::MAX, rows::app)
}

pub(super) fn app_by_name(db: &Connection, unreadable: &UnreadableRows, name: &str) -> Result<Option<App>, StoreError> {
    unreadable.read_one(db, Kind::App, APP_BY_NAME, [name], rows::app)
}

pub(super) fn app_by_id(db: &Connection, unreadable: &UnreadableRows, id: AppId) -> Result<Option<App>, StoreError> {
    unreadable.read_one(db, Kind::App, APP_BY_ID, [id.0], rows::app)
}

pub(super) fn insert_token(db: &Connection, token: &Token) -> Result<(), StoreError> {
    let app = token.scope.app();
    if let Some(app) = app
        && app_by_id(db, &UnreadableRows::default(), app)?.is_none()
    {
        return Err(StoreError::Conflict { what: format!("app {app} of token {} does not exist", token.id) });
    }
    let sql = "INSERT INTO token (id, name, scope, app_id, hash, created_at, expires_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let values = params![
        token.id.0,
        token.name,
        token.scope.kind(),
        app.map(|app| app.0),
        token.hash.as_slice(),
        token.created_at.as_micros(),
        token.expires_at.map(|at| at.as_micros()),
    ];
    match db.execute(sql, values).or_store_error() {
        Ok(_) => Ok(()),
        Err(StoreError::Conflict { .. }) => Err(StoreError::Exists { what: format!("token {}", token.id) }),
        Err(error) => Err(error),
    }
}

pub(super) fn delete_token(db: &Connection, id: TokenId) -> Result<bool, StoreError> {
    let deleted = db.execute("DELETE FROM token WHERE id = ?1", [id.0]).or_store_error()?;
    if deleted > 0 {
        remember_deleted(db, id.0)?;
    }
    Ok(deleted > 0)
}

/// Index `token_hash`.
pub(super) const TOKEN_BY_HASH: &str = concat!("SELECT ", token_columns!(), " FROM token WHERE hash = ?1");
const TOKENS: &str = concat!("SELECT ", token_columns!(), " FROM token ORDER BY id");

pub(super) fn token_by_hash(
    db: &Connection,
    unreadable: &UnreadableRows,
    hash: [u8; 32],
) -> Result<Option<Token>, StoreError> {
    unreadable.read_one(db, Kind::Token, TOKEN_BY_HASH, [hash.as_slice()], rows::token)
}

pub(super) fn tokens(db: &Connection, unreadable: &UnreadableRows) -> Result<Vec<Token>, StoreError> {
    unreadable.read_all(db, Kind::Token, TOKENS, [], usize::MAX, rows::token)
}
