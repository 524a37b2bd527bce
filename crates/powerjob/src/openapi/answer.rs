//! What a client is answered: always 200, and what it looks at.

use axum::response::{IntoResponse, Response};
use http::header;
use pendula_engine::effect::Refusal;
use pendula_server::CommandError;
use pendula_store::StoreError;
use serde_json::{Value, json};

use crate::exact_case::AUTH_PASSED;

/// Why a call is not carried out.
#[derive(Debug)]
pub(crate) struct Refused {
    message: String,
    code: Option<i64>,
}

impl Refused {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Refused { message: message.into(), code: None }
    }

    pub(super) fn code(code: i64, message: impl Into<String>) -> Self {
        Refused { message: message.into(), code: Some(code) }
    }

    /// As clients read it.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn away() -> Self {
        Refused::new("the server cannot read its store now; try again")
    }

    /// Whether the client did not prove itself, so that it has to say who it is again.
    fn is_about_who(&self) -> bool {
        self.code.is_some_and(|code| matches!(code, -1002 | -500..=-300))
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a call of PowerJob's OpenAPI was refused");
        Refused::away()
    }
}

impl From<CommandError> for Refused {
    fn from(error: CommandError) -> Self {
        Refused::new(error.to_string())
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Refused::new(refusal.to_string())
    }
}

/// An answer with the header without which a client repeats its call.
pub(super) fn answer(answered: Result<Value, Refused>) -> Response {
    let (passed, body) = match answered {
        Ok(data) => ("true", json!({ "success": true, "data": data, "message": null })),
        Err(refused) => {
            let passed = if refused.is_about_who() { "false" } else { "true" };
            let code = refused.code.map(|code| code.to_string());
            (passed, json!({ "success": false, "data": null, "message": refused.message, "code": code }))
        }
    };
    ([(header::CONTENT_TYPE.as_str(), "application/json"), (AUTH_PASSED, passed)], body.to_string()).into_response()
}

/// The answer of a call that says who the client is: never to be repeated, whatever it says.
pub(super) fn of_introduction(answered: Result<Value, Refused>) -> Response {
    let mut response = answer(answered);
    response.headers_mut().insert(AUTH_PASSED, http::HeaderValue::from_static("true"));
    response
}
