//! How servers know each other.
//!
//! All servers of an installation know one secret, which lies in their database. What one shows to another follows from it
//! and from the boot id of the one that is meant, so it opens nothing at any other process: not at one that has the address
//! now, and not at a later one of the same server.

use pendula_model::worker::BootId;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The installation's secret.
#[derive(Clone)]
pub(crate) struct PeerKey([u8; 32]);

impl PeerKey {
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        PeerKey(secret)
    }

    /// What a peer shows to the process `boot`.
    pub(super) fn token(&self, boot: BootId) -> String {
        let mut hash = Sha256::new();
        hash.update(b"pendula peer\0");
        hash.update(self.0);
        hash.update(boot.0.to_be_bytes());
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether `shown` comes from a peer that means the process `boot`.
    pub(super) fn accepts(&self, boot: BootId, shown: &[u8]) -> bool {
        self.token(boot).as_bytes().ct_eq(shown).into()
    }
}

/// Never shown.
impl std::fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_one_process_of_one_installation() {
        let (ours, others) = (PeerKey::new([1; 32]), PeerKey::new([2; 32]));
        let token = ours.token(BootId(7));
        assert!(ours.accepts(BootId(7), token.as_bytes()));
        assert!(!ours.accepts(BootId(8), token.as_bytes()));
        assert!(!others.accepts(BootId(7), token.as_bytes()));
        assert!(!ours.accepts(BootId(7), b""));
        assert_eq!(format!("{ours:?}"), "PeerKey");
    }
}
