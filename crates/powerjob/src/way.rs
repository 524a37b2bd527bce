//! How a worker is spoken to.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use pendula_akka::artery::Address;
use pendula_akka::kryo::Dialect;
use pendula_model::worker::BootId;
use serde::{Deserialize, Serialize};

use crate::gate::{Closed, Gate};
use crate::run::Shared;

/// A header of messages that came over Akka: who wrote them, and how. It goes along when a message is carried to another
/// server.
const SPOKEN: &str = "pendula-powerjob-spoken";

/// How a worker's process spoke: in this dialect it wants to be written to, and no other process at its address is.
///
/// The wrong dialect is not always an error for who reads it, and whoever has the address next may speak the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Spoken {
    pub(crate) dialect: Dialect,
    /// The number of its actor system.
    pub(crate) process: u64,
}

impl Spoken {
    /// How the message with these headers was written, if it came over Akka.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Spoken> {
        headers.get(SPOKEN)?.to_str().ok()?.parse().ok()
    }

    /// Marks a message that came over Akka.
    pub(crate) fn mark(self, headers: &mut HeaderMap) {
        let value = HeaderValue::try_from(String::from(self)).expect("a word and a number");
        headers.insert(SPOKEN, value);
    }
}

/// Takes the mark from a message that did not come over Akka: only servers mark.
pub(crate) fn unmark(headers: &mut HeaderMap) {
    headers.remove(SPOKEN);
}

impl From<Spoken> for String {
    fn from(Spoken { dialect, process }: Spoken) -> String {
        match dialect {
            Dialect::Plain => format!("plain {process}"),
            Dialect::Named => format!("named {process}"),
        }
    }
}

/// Text that no server of ours wrote.
#[derive(Debug, thiserror::Error)]
#[error("it is no dialect and process")]
pub(crate) struct NotSpoken;

impl FromStr for Spoken {
    type Err = NotSpoken;

    fn from_str(text: &str) -> Result<Spoken, NotSpoken> {
        let (dialect, process) = text.split_once(' ').ok_or(NotSpoken)?;
        let dialect = match dialect {
            "plain" => Dialect::Plain,
            "named" => Dialect::Named,
            _ => return Err(NotSpoken),
        };
        Ok(Spoken { dialect, process: process.parse().map_err(|_| NotSpoken)? })
    }
}

impl TryFrom<String> for Spoken {
    type Error = NotSpoken;

    fn try_from(text: String) -> Result<Spoken, NotSpoken> {
        text.parse()
    }
}

/// What a worker speaks. Those that work on one instance together speak the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    Http,
    Akka(Dialect),
}

impl Speech {
    /// How the message with these headers came.
    pub(crate) fn of(headers: &HeaderMap) -> Speech {
        Spoken::of(headers).map_or(Speech::Http, |spoken| Speech::Akka(spoken.dialect))
    }
}

/// Where a worker is called, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Http(SocketAddr),
    Akka(Address, Spoken),
    /// The server process `carrier` calls it, to which it talks.
    Through {
        carrier: BootId,
        app: Arc<str>,
        worker: Arc<str>,
        /// How it spoke, over Akka.
        spoken: Option<Spoken>,
    },
}

impl Way {
    /// How this server calls the worker of `app` that names itself `worker`, if it may.
    pub(crate) async fn own(gate: &Gate, app: &str, worker: &str, spoken: Option<Spoken>) -> Result<Way, Closed> {
        let target = gate.target(app, worker).await?;
        let Some(spoken) = spoken else { return Ok(Way::Http(target)) };
        // A worker's Akka is where it says that it is itself: see `akka.rs`.
        let address = Address::of_worker(worker).ok_or_else(|| Closed::Address(worker.to_owned()))?;
        Ok(Way::Akka(address, spoken))
    }

    /// How the worker is called whose heartbeat came here, or was carried here by `carrier`: by ourselves, if we serve what
    /// it speaks and may call it, and by the carrier otherwise.
    ///
    /// # Errors
    /// Why nobody can.
    pub(crate) async fn to(
        shared: &Shared,
        app: &str,
        worker: &str,
        spoken: Option<Spoken>,
        carrier: Option<BootId>,
    ) -> Result<Way, String> {
        let why = match (spoken, &shared.akka_advertised) {
            (Some(_), None) => "it speaks Akka, and this server has no port for that".to_owned(),
            _ => match Way::own(&shared.gate, app, worker, spoken).await {
                Ok(way) => return Ok(way),
                Err(closed) => closed.to_string(),
            },
        };
        let Some(carrier) = carrier else { return Err(why) };
        shared.says_unequal.call_once(|| {
            tracing::warn!(
                worker,
                why,
                "this server calls some PowerJob workers through other servers, which have settings under `powerjob` \
                 that it lacks"
            );
        });
        Ok(Way::Through { carrier, app: app.into(), worker: worker.into(), spoken })
    }

    /// How it spoke, over Akka.
    pub(crate) fn spoken(&self) -> Option<Spoken> {
        match self {
            Way::Http(_) => None,
            Way::Akka(_, spoken) => Some(*spoken),
            Way::Through { spoken, .. } => *spoken,
        }
    }

    pub(crate) fn speech(&self) -> Speech {
        self.spoken().map_or(Speech::Http, |spoken| Speech::Akka(spoken.dialect))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Http(address) => write!(f, "http://{address}"),
            Way::Akka(address, _) => address.fmt(f),
            Way::Through { carrier, worker, .. } => write!(f, "{worker} through server {carrier}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spoken_is_carried_along() {
        for dialect in [Dialect::Plain, Dialect::Named] {
            for process in [1, u64::MAX] {
                let mut headers = HeaderMap::new();
                let spoken = Spoken { dialect, process };
                spoken.mark(&mut headers);
                assert_eq!((Spoken::of(&headers), Speech::of(&headers)), (Some(spoken), Speech::Akka(dialect)));
            }
        }
        for odd in ["", "plain", "plain x", "other 1"] {
            let headers = HeaderMap::from_iter([(SPOKEN.parse().unwrap(), HeaderValue::from_static(odd))]);
            assert_eq!(Spoken::of(&headers), None, "{odd}");
        }
    }
}
