//! Why a host cannot be used, in words that say what to do.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::tls;
use super::url::{Place, Url};

/// What one host had to say.
pub(super) struct Refusal {
    pub text: String,
    /// Trying again does not help before somebody changes something.
    pub is_final: bool,
}

impl Refusal {
    pub fn silence(place: &Place<'_>, after: Duration) -> Refusal {
        let text =
            format!("{place} says nothing for {} s: it is overloaded, stopped, or behind a firewall", after.as_secs());
        Refusal { text, is_final: false }
    }

    pub fn of(place: &Place<'_>, url: &Url, error: tokio_postgres::Error) -> Refusal {
        if let Some(said) = error.as_db_error() {
            let message = said.message();
            let (advice, is_final) = match said.code() {
                &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                    (" (check user and password of the URL, and pg_hba.conf of the server)".to_owned(), true)
                }
                &SqlState::INVALID_CATALOG_NAME => {
                    let database = url.database.as_deref().or(url.user.as_deref()).unwrap_or("NAME");
                    (format!(" (make it: CREATE DATABASE {database})"), true)
                }
                &SqlState::INSUFFICIENT_PRIVILEGE => (" (GRANT the user of the URL what it needs)".to_owned(), true),
                &SqlState::TOO_MANY_CONNECTIONS => (" (raise max_connections of the server)".to_owned(), false),
                _ => (String::new(), false),
            };
            return Refusal { text: format!("{place}: {message}{advice}"), is_final };
        }
        let Some(cause) = error.source() else { return Refusal { text: format!("{place}: {error}"), is_final: false } };
        let Some(io) = cause.downcast_ref::<io::Error>() else {
            // What the driver finds out by itself: a kind of authentication that it does not know, no TLS where it must be.
            return Refusal {
                text: format!("{place}: {cause}{}", advice_by_driver(&cause.to_string())),
                is_final: true,
            };
        };
        if let Some(tls) = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            let advice = tls::advice(tls).map(|advice| format!(" ({advice})")).unwrap_or_default();
            let is_final = matches!(tls, rustls::Error::InvalidCertificate(_));
            return Refusal { text: format!("{place}: TLS: {tls}{advice}"), is_final };
        }
        let text = match io.kind() {
            io::ErrorKind::PermissionDenied if io.to_string() == "database does not allow writes" => {
                format!("{place} is a standby or read-only")
            }
            io::ErrorKind::ConnectionRefused => {
                format!("{place}: connection refused (does PostgreSQL run there, and listen at that address?)")
            }
            io::ErrorKind::TimedOut => format!("{place} does not answer: it is down, or behind a firewall"),
            _ => format!("{place}: {io}"),
        };
        Refusal { text, is_final: false }
    }
}

fn advice_by_driver(cause: &str) -> &'static str {
    match cause {
        "server does not support TLS" => " (set ssl = on there, or sslmode=prefer in the URL)",
        "password missing" => " (the server wants one: postgres://USER:PASSWORD@…)",
        _ => "",
    }
}
