//! From an `Authorization` header to a [`Principal`], and the news that one is no longer good.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pendula_model::id::drawn_id;
use pendula_model::token::{Scope, Token};
use pendula_model::{AppId, Timestamp, TokenId};
use pendula_store::{Store, StoreError};
use tokio::sync::{broadcast, watch};

use super::failures::Failures;
use super::principal::Principal;
use super::secret::{self, Secret};
use crate::clock::Clock;

/// How often an id is drawn for one token at most.
const DRAWS: usize = 5;

/// How long an accepted token is remembered without asking the store. Revocation by this server forgets it at once;
/// this bounds what another server's revocation takes.
const REMEMBERED: Duration = Duration::from_secs(2);
/// Accepted tokens that are remembered.
const REMEMBERED_TOKENS: usize = 10_000;
/// No secret is longer.
const LONGEST: usize = 512;

/// Why a caller is not let in. The two refusals look the same to the caller, who learns nothing about tokens from them.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthError {
    #[error("no credential was given")]
    Missing,
    #[error("the credential is malformed, unknown, expired or revoked")]
    Invalid,
    /// Too many failed attempts from this peer.
    #[error("too many failed attempts; wait {} s", .0.as_secs())]
    TooManyFailures(Duration),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What ceased to be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    Token(TokenId),
    /// An app was deleted, and its tokens with it.
    App(AppId),
}

/// Knows tokens. One per server.
pub struct Authenticator {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    failures: Failures,
    remembered: Mutex<Remembered>,
    revoked: broadcast::Sender<Revoked>,
    looked_at: watch::Sender<Option<LookedAt>>,
}

/// The tokens that there were when the store was last looked at, where others write to it too.
#[derive(Clone)]
struct LookedAt {
    at: Instant,
    valid: Arc<HashSet<TokenId>>,
}

#[derive(Default)]
struct Remembered {
    tokens: HashMap<[u8; 32], (Arc<Principal>, Instant)>,
    /// Grows with each revocation, so that a lookup which began before one does not bring the token back.
    revocations: u64,
}

impl Authenticator {
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let (revoked, _) = broadcast::channel(1024);
        Authenticator {
            store,
            clock,
            failures: Failures::default(),
            remembered: Mutex::default(),
            revoked,
            looked_at: watch::Sender::new(None),
        }
    }

    /// Whom the value of an `Authorization` header stands for: `Bearer SECRET`.
    pub async fn authenticate(&self, header: Option<&str>) -> Result<Arc<Principal>, AuthError> {
        let hash = hash_of(header)?;
        match self.remembered(&hash) {
            Some(principal) => Ok(principal),
            None => self.look_up(hash).await,
        }
    }

    /// The same for a caller at `peer`, who is refused for a while after too many failures.
    ///
    /// A token that was accepted before is looked up all the same: others behind the same address may be failing, and
    /// must not be able to lock out those who have a credential.
    pub async fn authenticate_from(&self, peer: IpAddr, header: Option<&str>) -> Result<Arc<Principal>, AuthError> {
        self.authenticate_hash_from(peer, hash_of(header)).await
    }

    pub(super) async fn authenticate_hash_from(
        &self,
        peer: IpAddr,
        hash: Result<[u8; 32], AuthError>,
    ) -> Result<Arc<Principal>, AuthError> {
        let found = match hash {
            Ok(hash) => match self.remembered(&hash) {
                Some(principal) => return Ok(principal),
                None => match self.failures.blocked(peer, Instant::now()) {
                    Some(wait) if !self.was_accepted(&hash) => return Err(AuthError::TooManyFailures(wait)),
                    _ => self.look_up(hash).await,
                },
            },
            Err(error) => Err(error),
        };
        if let Err(AuthError::Invalid) = found {
            if let Some(wait) = self.failures.blocked(peer, Instant::now()) {
                return Err(AuthError::TooManyFailures(wait));
            }
            self.failures.record(peer, Instant::now());
            tracing::info!(target: "audit", %peer, "refused a credential");
        }
        found
    }

    /// Makes a token. The secret exists nowhere else.
    pub async fn create(
        &self,
        name: &str,
        scope: Scope,
        expires_at: Option<Timestamp>,
    ) -> Result<(Token, Secret), StoreError> {
        self.create_hashed(name, scope, expires_at, Secret::hash).await
    }

    /// The same, stored as `hash` of the secret.
    pub(super) async fn create_hashed(
        &self,
        name: &str,
        scope: Scope,
        expires_at: Option<Timestamp>,
        hash: impl Fn(&Secret) -> [u8; 32],
    ) -> Result<(Token, Secret), StoreError> {
        let mut draws = 0;
        loop {
            let secret = Secret::generate(&scope);
            let token = new_token(name, scope.clone(), hash(&secret), self.clock.now(), expires_at);
            draws += 1;
            match self.store.token_insert(token.clone()).await {
                // The id was drawn in this very millisecond by somebody else.
                Err(StoreError::Exists { .. }) if draws < DRAWS => {}
                inserted => return inserted.map(|()| (token, secret)),
            }
        }
    }

    /// Makes a token invalid at once; whether there was one.
    pub async fn revoke(&self, id: TokenId) -> Result<bool, StoreError> {
        let found = self.store.token_delete(id).await?;
        self.forget(Revoked::Token(id));
        Ok(found)
    }

    /// To be called when an app was deleted, with which the store forgets its tokens.
    pub fn app_deleted(&self, app: AppId) {
        self.forget(Revoked::App(app));
    }

    /// What is revoked from now on. Most users want [`Authenticator::ended`].
    pub fn revocations(&self) -> broadcast::Receiver<Revoked> {
        self.revoked.subscribe()
    }

    /// Resolves when the principal's token expires or is revoked, with the reason. For connections that outlive a
    /// request: run it beside them and close them when it resolves.
    pub async fn ended(&self, principal: &Principal) -> &'static str {
        let since = Instant::now();
        let (mut revocations, mut looked_at) = (self.revoked.subscribe(), self.looked_at.subscribe());
        // What was revoked between authentication and subscription is no news any more.
        if self.is_gone(principal).await {
            return "its token was revoked";
        }
        loop {
            let now = self.clock.now();
            if principal.expires_at.is_some_and(|at| at <= now) {
                return "its token has expired";
            }
            // Bounded, because the wall clock that decides may jump.
            let pause =
                principal.expires_at.map_or(Duration::from_secs(60), |at| at.since(now)).min(Duration::from_secs(60));
            tokio::select! {
                news = revocations.recv() => match news {
                    Ok(Revoked::Token(id)) if id == principal.token_id => return "its token was revoked",
                    Ok(Revoked::App(app)) if principal.scope.app() == Some(app) => return "its app was deleted",
                    Ok(_) => {}
                    Err(_) => if self.is_gone(principal).await { return "its token was revoked" },
                },
                Ok(()) = looked_at.changed() => {
                    let looked = looked_at.borrow_and_update();
                    // What was looked at before may not have had it yet.
                    let is_gone = looked.as_ref().is_some_and(|looked| {
                        looked.at > since && !looked.valid.contains(&principal.token_id)
                    });
                    if is_gone {
                        return "its token was revoked";
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn is_gone(&self, principal: &Principal) -> bool {
        match self.store.tokens().await {
            Ok(tokens) => !tokens.iter().any(|token| token.id == principal.token_id),
            // The store being away is no reason to send workers away; requests are refused meanwhile anyhow.
            Err(_) => false,
        }
    }

    fn remembered(&self, hash: &[u8; 32]) -> Option<Arc<Principal>> {
        let (principal, since) = self.cache().tokens.get(hash)?.clone();
        let fresh = since.elapsed() < REMEMBERED && principal.expires_at.is_none_or(|at| self.clock.now() < at);
        fresh.then_some(principal)
    }

    /// Whether the token was good when it was last looked at, however long ago.
    fn was_accepted(&self, hash: &[u8; 32]) -> bool {
        self.cache().tokens.contains_key(hash)
    }

    async fn look_up(&self, hash: [u8; 32]) -> Result<Arc<Principal>, AuthError> {
        let revocations = self.cache().revocations;
        let token = self.store.token_by_hash(hash).await?;
        let Some(token) = token.filter(|token| token.expires_at.is_none_or(|at| self.clock.now() < at)) else {
            self.cache().tokens.remove(&hash);
            return Err(AuthError::Invalid);
        };
        let principal = Arc::new(Principal::from(token));
        let mut cache = self.cache();
        if cache.revocations == revocations {
            if cache.tokens.len() >= REMEMBERED_TOKENS {
                cache.tokens.clear();
            }
            cache.tokens.insert(hash, (principal.clone(), Instant::now()));
        }
        Ok(principal)
    }

    fn forget(&self, revoked: Revoked) {
        let mut cache = self.cache();
        cache.revocations += 1;
        cache.tokens.retain(|_, (principal, _)| match revoked {
            Revoked::Token(id) => principal.token_id != id,
            Revoked::App(app) => principal.scope.app() != Some(app),
        });
        drop(cache);
        // Nobody listening is fine.
        let _ = self.revoked.send(revoked);
    }

    fn cache(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().expect("nothing panics while it holds this lock")
    }
}

/// Notices what other servers on the same store revoked, for ever.
pub(crate) async fn watch_store(auth: Arc<Authenticator>) {
    loop {
        let at = Instant::now();
        // A store that is away is no reason to send anybody away.
        if let Ok(tokens) = auth.store.tokens().await {
            let valid = tokens.iter().map(|token| token.id).collect();
            auth.looked_at.send_replace(Some(LookedAt { at, valid: Arc::new(valid) }));
        }
        tokio::time::sleep(REMEMBERED).await;
    }
}

pub(super) fn new_token(
    name: &str,
    scope: Scope,
    hash: [u8; 32],
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> Token {
    let id = TokenId(drawn_id(now, rand::random()));
    Token { id, name: name.to_owned(), scope, hash, created_at: now, expires_at }
}

fn hash_of(header: Option<&str>) -> Result<[u8; 32], AuthError> {
    let (scheme, secret) = header.ok_or(AuthError::Missing)?.split_once(' ').ok_or(AuthError::Invalid)?;
    let secret = secret.trim();
    let shaped = !secret.is_empty() && secret.len() <= LONGEST && secret.bytes().all(|byte| byte.is_ascii_graphic());
    if !scheme.eq_ignore_ascii_case("bearer") || !shaped {
        return Err(AuthError::Invalid);
    }
    Ok(secret::hash(secret))
}

#[cfg(test)]
mod tests {
    use pendula_store::MemoryStore;

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn guessers_lock_nobody_out_who_shares_their_address() {
        let auth = Authenticator::new(Arc::new(MemoryStore::new(1)), Arc::new(SystemClock));
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let (token, secret) = auth.create("t", Scope::Admin, None).await.unwrap();
        let header = format!("Bearer {}", secret.reveal());
        auth.authenticate_from(peer, Some(&header)).await.expect("the token is good");
        while !matches!(auth.authenticate_from(peer, Some("Bearer guess")).await, Err(AuthError::TooManyFailures(_))) {}
        // It was accepted too long ago to be taken on trust, and is looked up.
        auth.cache().tokens.values_mut().for_each(|(_, since)| *since -= REMEMBERED);
        auth.authenticate_from(peer, Some(&header)).await.expect("it is still good");
        auth.revoke(token.id).await.unwrap();
        let refused = auth.authenticate_from(peer, Some(&header)).await;
        assert!(matches!(refused, Err(AuthError::TooManyFailures(_))), "{refused:?}");
    }
}
