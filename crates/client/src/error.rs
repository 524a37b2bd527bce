//! What can go wrong between a client and its server.

use pendula_model::api::Problem;

/// Why a request brought no answer of its type.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server understood and refused; `code` tells programs why.
    #[error("{}", describe(.0))]
    Problem(Box<Problem>),
    /// No answer: no route, no listener, a broken or silent connection, a certificate that is not trusted.
    #[error("cannot reach {url}: {why}")]
    Unreachable {
        /// Whose, or `any server` of several; then `why` names each.
        url: String,
        why: String,
        /// Whether the server may have got, and acted on, the request.
        maybe_sent: bool,
    },
    /// An answer that this version does not understand, from something that may not be a Pendula server.
    #[error("{url} gave an unexpected answer: {what}")]
    Protocol { url: String, what: String },
    /// The address, or the certificate of an authority, is not one.
    #[error("{0}")]
    Address(String),
}

impl ClientError {
    /// The stable code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            ClientError::Problem(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// Whether the same request may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            ClientError::Problem(problem) => problem.retryable,
            ClientError::Unreachable { .. } => true,
            ClientError::Protocol { .. } | ClientError::Address(_) => false,
        }
    }

    /// Of several servers none was reached; each has its reason.
    pub(crate) fn none_reached(errors: impl IntoIterator<Item = ClientError>) -> Self {
        let mut errors: Vec<ClientError> = errors.into_iter().collect();
        if errors.len() == 1 {
            return errors.remove(0);
        }
        let reason = |error: &ClientError| match error {
            ClientError::Unreachable { url, why, .. } => format!("{url}: {why}"),
            other => other.to_string(),
        };
        let why = errors.iter().map(reason).collect::<Vec<_>>().join("; ");
        ClientError::Unreachable { url: "any server".to_owned(), why, maybe_sent: false }
    }

    /// From a request to `url` that `reqwest` gave up.
    pub(crate) fn from_reqwest(url: &str, error: &reqwest::Error) -> Self {
        let why = if error.is_timeout() { "no answer in time".to_owned() } else { root_cause(error) };
        ClientError::Unreachable { url: url.to_owned(), why, maybe_sent: !error.is_connect() }
    }
}

fn describe(problem: &Problem) -> String {
    let Problem { title, detail, field, .. } = problem;
    match (field, detail) {
        (Some(field), Some(detail)) if detail.starts_with(field.as_str()) => detail.clone(),
        (Some(field), detail) => format!("{field}: {}", detail.as_ref().unwrap_or(title)),
        (None, Some(detail)) if detail != title => format!("{title}: {detail}"),
        (None, _) => title.clone(),
    }
}

/// The innermost message: `reqwest` wraps "connection refused" in three layers that say "error sending request".
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
