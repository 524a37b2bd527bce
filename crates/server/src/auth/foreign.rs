//! Secrets for clients of PowerJob's OpenAPI, which show the MD5 of a password, or the password itself.
//!
//! The password is a secret of ours with 256 random bits. What is stored is the hash of its MD5, under a prefix that no
//! `Authorization` header can have: what travels to the gateway, usually in the clear, opens nothing of the REST API.

use std::net::IpAddr;
use std::sync::Arc;

use md5::{Digest, Md5};
use pendula_model::token::{Scope, Token};
use pendula_model::{AppId, Timestamp};
use pendula_store::StoreError;

use super::authenticator::{AuthError, Authenticator};
use super::principal::Principal;
use super::secret::{self, Secret};

const PREFIX: &str = "powerjob\n";
/// The name of such a token's row begins so; by it listings and the gateway tell them from others.
pub(crate) const MARK: &str = "powerjob: ";

/// Whether a token's row is for clients of PowerJob's OpenAPI.
pub fn is_for_powerjob(token: &Token) -> bool {
    token.name.starts_with(MARK) && matches!(token.scope, Scope::App { .. })
}

/// MD5 in lower-case hexadecimal digits, as PowerJob's clients send a password.
pub fn md5_hex(text: &str) -> String {
    Md5::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(md5: &str) -> [u8; 32] {
    secret::hash(&format!("{PREFIX}{}", md5.to_ascii_lowercase()))
}

impl Authenticator {
    /// Makes a secret for an app's clients of PowerJob's OpenAPI. It exists nowhere else.
    pub async fn create_for_powerjob(
        &self,
        name: &str,
        app: AppId,
        expires_at: Option<Timestamp>,
    ) -> Result<(Token, Secret), StoreError> {
        let hash = |secret: &Secret| hash(&md5_hex(secret.reveal()));
        self.create_hashed(&format!("{MARK}{name}"), Scope::App { app }, expires_at, hash).await
    }

    /// Whom the MD5 of a password stands for. A peer that fails too often is refused for a while.
    pub async fn authenticate_powerjob(&self, peer: IpAddr, md5: &str) -> Result<Arc<Principal>, AuthError> {
        let is_md5 = md5.len() == 32 && md5.bytes().all(|byte| byte.is_ascii_hexdigit());
        let hash = if is_md5 { Ok(hash(md5)) } else { Err(AuthError::Invalid) };
        self.authenticate_hash_from(peer, hash).await
    }
}

#[cfg(test)]
mod tests {
    use pendula_model::PartitionId;
    use pendula_model::app::App;
    use pendula_model::change::Change;
    use pendula_store::{Batch, MemoryStore};

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn sec_4_a_powerjob_clients_secret_opens_nothing_else() {
        let (store, app, partition) = (Arc::new(MemoryStore::new(1)), AppId(7), PartitionId(0));
        let owned = App {
            id: app,
            name: "demo".to_owned(),
            namespace: "default".to_owned(),
            partition,
            allow_scripts: false,
            created_at: Timestamp::from_micros(0),
            version: 1,
        };
        let epoch = store.claim_sync(partition).unwrap();
        store.commit_sync(&Batch { partition, epoch, number: 0, changes: vec![Change::AppInserted(owned)] }).unwrap();
        let auth = Authenticator::new(store, Arc::new(SystemClock));
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let (token, secret) = auth.create_for_powerjob("billing", app, None).await.unwrap();
        assert!(is_for_powerjob(&token));
        let md5 = md5_hex(secret.reveal());
        let principal = auth.authenticate_powerjob(peer, &md5).await.expect("it is good");
        assert_eq!(principal.scope.app(), Some(app));
        for text in [secret.reveal(), &md5, &format!("powerjob{md5}")] {
            let refused = auth.authenticate_from(peer, Some(&format!("Bearer {text}"))).await;
            assert!(matches!(refused, Err(AuthError::Invalid)), "{refused:?}");
        }
        let (_, native) = auth.create("native", Scope::App { app }, None).await.unwrap();
        let refused = auth.authenticate_powerjob(peer, &md5_hex(native.reveal())).await;
        assert!(matches!(refused, Err(AuthError::Invalid)), "{refused:?}");
        assert_eq!(md5_hex(""), "d41d8cd98f00b204e9800998ecf8427e");
    }
}
