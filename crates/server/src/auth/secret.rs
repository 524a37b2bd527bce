//! Secrets: how they are made, hashed, kept out of logs, and which are too weak to accept.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pendula_model::token::Scope;
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::{Digest, Sha256};

/// Characters of a secret that was configured rather than made here, at least.
const SHORTEST_CONFIGURED: usize = 32;
/// Different characters in such a secret, at least: `aaaa…` is long and still no secret.
const FEWEST_DIFFERENT: usize = 10;
/// Defaults of other schedulers and what people type when asked for a password. All would be too short anyway; they are
/// named so that the message says why.
const KNOWN: [&str; 12] = [
    "powerjob_admin",
    "default_token",
    "powerjob",
    "dolphinscheduler123",
    "admin",
    "admin123",
    "password",
    "secret",
    "changeme",
    "pendula",
    "123456",
    "12345678",
];

/// The secret of a token. It is shown once, to the person who asked for it, and stored only as its hash.
///
/// `Debug` does not reveal it and there is no `Display`: printing one takes [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A new one: `pend_`, a letter for its kind, `_`, and 256 random bits.
    ///
    /// The prefix lets scanners of repositories find leaked ones.
    pub fn generate(scope: &Scope) -> Self {
        let mut random = [0; 32];
        SysRng.try_fill_bytes(&mut random).expect("the operating system has random numbers");
        let kind = scope.kind().chars().next().expect("kinds are not empty");
        Secret(format!("pend_{kind}_{}", URL_SAFE_NO_PAD.encode(random)))
    }

    /// A secret that an operator chose, refused when it is known or easy to guess.
    pub fn configured(text: &str) -> Result<Self, WeakSecret> {
        let lower = text.to_lowercase();
        if text.trim().is_empty() {
            return Err(WeakSecret::Empty);
        }
        if KNOWN.contains(&lower.trim()) {
            return Err(WeakSecret::Known);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(WeakSecret::Characters);
        }
        if text.len() < SHORTEST_CONFIGURED {
            return Err(WeakSecret::Short { chars: text.len() });
        }
        let mut different: Vec<u8> = text.bytes().collect();
        different.sort_unstable();
        different.dedup();
        if different.len() < FEWEST_DIFFERENT
            || KNOWN.iter().any(|known| lower.replace(known, "").len() < SHORTEST_CONFIGURED / 2)
        {
            return Err(WeakSecret::Guessable);
        }
        Ok(Secret(text.to_owned()))
    }

    /// The text, to show or send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the store keeps.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// SHA-256 is enough for what has 256 random bits. Looking the hash up leaks nothing by its timing that would help to
/// find a secret.
pub(super) fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Why a configured secret is refused. None of the messages repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakSecret {
    #[error("it is empty")]
    Empty,
    #[error("it is a well-known default; make one with `openssl rand -base64 32`")]
    Known,
    #[error("it has characters other than visible ASCII")]
    Characters,
    #[error("it has {chars} characters, at least 32 are needed; make one with `openssl rand -base64 32`")]
    Short { chars: usize },
    #[error("it repeats itself; make one with `openssl rand -base64 32`")]
    Guessable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_random_and_do_not_print_themselves() {
        let (one, two) = (Secret::generate(&Scope::Admin), Secret::generate(&Scope::Admin));
        assert_ne!(one, two);
        assert!(one.reveal().starts_with("pend_a_") && one.reveal().len() == "pend_a_".len() + 43);
        assert!(!format!("{one:?}").contains(&one.reveal()[7..]));
        assert_ne!(one.hash(), two.hash());
    }

    #[test]
    fn sec_2_weak_secrets_are_refused() {
        for (text, why) in [
            ("", WeakSecret::Empty),
            ("   ", WeakSecret::Empty),
            ("powerjob_admin", WeakSecret::Known),
            ("default_token", WeakSecret::Known),
            ("123456", WeakSecret::Known),
            ("Admin", WeakSecret::Known),
            ("password", WeakSecret::Known),
            ("only-a-little-longer", WeakSecret::Short { chars: 20 }),
            ("a secret with spaces, which is not sent well", WeakSecret::Characters),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", WeakSecret::Guessable),
            ("default_tokendefault_tokendefault_token", WeakSecret::Guessable),
        ] {
            assert_eq!(Secret::configured(text), Err(why), "{text}");
        }
        let good = "kX2wq9mV7cT4hZ0sLr8uJ5nB3yE6aD1f";
        assert_eq!(Secret::configured(good).unwrap().reveal(), good);
    }
}
