//! The first credential of an installation.

use pendula_model::token::{Scope, Token};
use pendula_store::{Store, StoreError};

use super::authenticator::new_token;
use super::secret::{Secret, WeakSecret};
use crate::clock::Clock;

/// Name of the token that stands for the configured secret; no other may take it.
pub const CONFIGURED: &str = "configured admin";
/// Name of the token made on the first start.
const FIRST: &str = "first admin";

/// Why the server must not start.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("PENDULA_ADMIN_TOKEN is refused")]
    Weak(#[from] WeakSecret),
    #[error("reading or writing tokens")]
    Store(#[from] StoreError),
}

/// Makes sure that somebody can administer this installation.
///
/// With a `configured` secret (`PENDULA_ADMIN_TOKEN`) that one is an admin token, and one that was configured before is
/// none any more: also not where other servers share the store, which is how it is replaced everywhere. A server without
/// one takes it away only when nobody shares the store. Otherwise, when no valid admin token is left (on the first start, or after the last was revoked or ran
/// out), one is made and returned: it must be shown, once, because only its hash is kept.
///
/// # Errors
/// A weak configured secret is refused, and so the server should be.
pub async fn bootstrap(
    store: &dyn Store,
    clock: &dyn Clock,
    configured: Option<&str>,
) -> Result<Option<Secret>, BootstrapError> {
    let tokens = store.tokens().await?;
    let wanted = configured.map(Secret::configured).transpose()?;
    let says_so = wanted.is_some() || store.cluster().is_none();
    for old in tokens.iter().filter(|token| token.name == CONFIGURED && says_so) {
        if wanted.as_ref().is_none_or(|wanted| wanted.hash() != old.hash) {
            store.token_delete(old.id).await?;
        }
    }
    if let Some(wanted) = wanted {
        if store.token_by_hash(wanted.hash()).await?.is_none() {
            store.token_insert(new_token(CONFIGURED, Scope::Admin, wanted.hash(), clock.now(), None)).await?;
        }
        return Ok(None);
    }
    let now = clock.now();
    let administers = |token: &Token| token.scope == Scope::Admin && token.expires_at.is_none_or(|at| now < at);
    if tokens.iter().any(|token| (token.name != CONFIGURED || !says_so) && administers(token)) {
        return Ok(None);
    }
    let secret = Secret::generate(&Scope::Admin);
    store.token_insert(new_token(FIRST, Scope::Admin, secret.hash(), now, None)).await?;
    Ok(Some(secret))
}
