//! Clients prove themselves by their app's secret, in one of two ways.
//!
//! Since 5.1.0 they send its MD5 once (`authApp`), and a token with each call. Before, they send the secret once
//! (`assert`), and then nothing but the number of their app that they were given. So they are given a number that nobody
//! can guess: 62 bits that follow from the secret, and mean the app to us alone. It survives our restarts, and ends with
//! the secret.

use std::net::IpAddr;

use pendula_model::token::Token;
use pendula_model::{AppId, InstanceId, Timestamp, TokenId};
use pendula_server::auth::{AuthError, is_for_powerjob, md5_hex};
use sha2::{Digest, Sha256};

use super::answer::Refused;
use super::fields::Fields;
use crate::run::Shared;

/// How long a token of ours is good. Clients ask for another one by themselves.
const GOOD_FOR_MILLIS: i64 = 7 * 24 * 3600 * 1000;
/// In the number that a client before 5.1.0 is given. No id has it for decades.
const MARK: i64 = 1 << 62;

pub(super) const APP_HEADER: &str = "x-powerjob-app-id";
pub(super) const TOKEN_HEADER: &str = "x-powerjob-access-token";

/// Checks a password given as its MD5; returns its app and the row of the secret.
pub(super) async fn password(
    shared: &Shared,
    peer: IpAddr,
    app_name: &str,
    md5: &str,
) -> Result<(AppId, Token), Refused> {
    let server = shared.gateway.server();
    let invalid = || Refused::code(-402, format!("INVALID_APP:{app_name}"));
    let app = server.store.app_by_name(app_name).await.map_err(|_| Refused::away())?.ok_or_else(invalid)?;
    let principal = match server.auth.authenticate_powerjob(peer, md5).await {
        Ok(principal) => principal,
        Err(AuthError::Store(_)) => return Err(Refused::away()),
        Err(error @ AuthError::TooManyFailures(_)) => return Err(Refused::code(-400, error.to_string())),
        Err(_) => return Err(Refused::code(-400, "INCORRECT_PASSWORD")),
    };
    if principal.scope.app() != Some(app.id) {
        return Err(Refused::code(-400, "INCORRECT_PASSWORD"));
    }
    let token = secrets(shared).await?.into_iter().find(|token| token.id == principal.token_id);
    token.map(|token| (app.id, token)).ok_or_else(|| Refused::code(-400, "INCORRECT_PASSWORD"))
}

/// The MD5 of what a client since 5.1.0 sends.
pub(super) fn md5_of(password: &str, encrypt_type: Option<&str>) -> Result<String, Refused> {
    match encrypt_type.unwrap_or("none").to_ascii_lowercase().as_str() {
        "md5" => Ok(password.to_ascii_lowercase()),
        "none" | "" => Ok(md5_hex(password)),
        other => Err(Refused::code(-300, format!("INVALID_REQUEST:unknown_encrypt_type_{other}"))),
    }
}

pub(super) fn access_token(secret: &Token, now: Timestamp) -> String {
    let until = now.as_millis() + GOOD_FOR_MILLIS;
    format!("{}.{until}.{}", secret.id, seal(secret, "access", &until.to_string()))
}

/// The number that stands for the app in the calls of a client before 5.1.0.
pub(super) fn secret_number(secret: &Token) -> i64 {
    let hash = digest(secret, "app id", "");
    let bits = i64::from_be_bytes(hash[..8].try_into().expect("eight bytes"));
    (bits & (MARK - 1)) | MARK
}

/// Whom a call is from.
pub(super) async fn caller(
    shared: &Shared,
    peer: IpAddr,
    call: &str,
    headers: &http::HeaderMap,
    fields: &Fields,
) -> Result<AppId, Refused> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    match (text(APP_HEADER), text(TOKEN_HEADER)) {
        (None, None) if is_anonymous(call) && fields.long("appId").is_none() => by_instance(shared, peer, fields).await,
        (None, None) => by_number(shared, peer, fields).await,
        (None, _) => Err(Refused::code(-300, "INVALID_REQUEST:lack_of_appId_in_header")),
        (Some(_), None | Some("")) => Err(Refused::code(-1002, "OPEN_API_AUTH_FAILED:token_is_empty")),
        (Some(app), Some(token)) => by_token(shared, app, token).await,
    }
}

/// The calls in which clients before 5.1.0 do not say who they are.
fn is_anonymous(call: &str) -> bool {
    matches!(call, "fetchInstanceStatus" | "fetchInstanceInfo")
}

/// From an address that proved itself before, about an instance of an app that it proved itself for.
async fn by_instance(shared: &Shared, peer: IpAddr, fields: &Fields) -> Result<AppId, Refused> {
    let nobody = || Refused::code(-1002, "OPEN_API_AUTH_FAILED:token_is_empty");
    let good = secrets(shared).await?;
    let is_good = |id: &TokenId| good.iter().any(|secret| secret.id == *id);
    let known = shared.known_clients.of(peer);
    let apps: Vec<AppId> = known.iter().filter(|(_, secret)| is_good(secret)).map(|(app, _)| *app).collect();
    let first = *apps.first().ok_or_else(nobody)?;
    let id = InstanceId(fields.long("instanceId").unwrap_or(0));
    let row = shared.gateway.server().store.instance(id).await.map_err(|_| Refused::away())?;
    // One that is not theirs is as if it were not there.
    Ok(row.map(|row| row.app).filter(|app| apps.contains(app)).unwrap_or(first))
}

async fn by_number(shared: &Shared, peer: IpAddr, fields: &Fields) -> Result<AppId, Refused> {
    let missing = || Refused::code(-1002, "OPEN_API_AUTH_FAILED:token_is_empty");
    // Queries have it under another name.
    let number = fields.long("appId").or_else(|| fields.long("appIdEq")).filter(|number| number & MARK != 0);
    let number = number.ok_or_else(missing)?;
    let found = secrets(shared).await?.into_iter().find(|secret| secret_number(secret) == number);
    let found = found.and_then(|secret| Some((secret.scope.app()?, secret.id)));
    let (app, secret) = found.ok_or_else(|| Refused::code(-401, "INVALID_TOKEN:create the client again"))?;
    shared.known_clients.note(peer, app, secret);
    Ok(app)
}

async fn by_token(shared: &Shared, app: &str, token: &str) -> Result<AppId, Refused> {
    let invalid = || Refused::code(-401, "INVALID_TOKEN:it is not ours, or its password was revoked");
    let mut parts = token.splitn(3, '.');
    let (Some(id), Some(until), Some(shown)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(invalid());
    };
    let secret = secrets(shared).await?.into_iter().find(|secret| secret.id.to_string() == id).ok_or_else(invalid)?;
    if seal(&secret, "access", until) != shown {
        return Err(invalid());
    }
    let until: i64 = until.parse().map_err(|_| invalid())?;
    if until <= shared.gateway.server().clock.now().as_millis() {
        return Err(Refused::code(-403, "TOKEN_EXPIRED:ask for another one"));
    }
    let own = secret.scope.app().ok_or_else(invalid)?;
    if own.to_string() != app {
        return Err(Refused::code(-300, "INVALID_REQUEST:Inconsistent_appId_from_token_and_header"));
    }
    Ok(own)
}

/// The secrets that are good now.
async fn secrets(shared: &Shared) -> Result<Vec<Token>, Refused> {
    let server = shared.gateway.server();
    let mut tokens = server.store.tokens().await.map_err(|_| Refused::away())?;
    let now = server.clock.now();
    tokens.retain(|token| is_for_powerjob(token) && token.expires_at.is_none_or(|at| at > now));
    Ok(tokens)
}

fn seal(secret: &Token, purpose: &str, text: &str) -> String {
    digest(secret, purpose, text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The stored hash is known to the store alone, and nothing of it can be told from what follows from it.
fn digest(secret: &Token, purpose: &str, text: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(format!("pendula powerjob {purpose}\0"));
    hash.update(secret.hash);
    hash.update(text);
    // Twice, so that nothing can be appended.
    Sha256::digest(hash.finalize()).into()
}
