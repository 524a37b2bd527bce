//! Reading what a request brings: its JSON body and its query string, with errors that name the field.

use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::IntoResponse;
use bytes::Bytes;
use http::request::Parts;
use http::{StatusCode, header};
use http_body_util::{BodyExt, Collected, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::problem::*;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        check_content_type(&request)?;
        parse(&read(request, state).await?).map(Json)
    }
}

/// A JSON body that may be left out, or be `null`.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let content_type = check_content_type(&request);
        let body = read(request, state).await?;
        if body.is_empty() {
            return Ok(OptionalJson(T::default()));
        }
        content_type?;
        parse::<Option<T>>(&body).map(|body| OptionalJson(body.unwrap_or_default()))
    }
}

/// A query string. That no unknown names are in it was checked before: see [`super::guard`].
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let parsed = axum::extract::Query::try_from_uri(&parts.uri);
        parsed.map(|query| Query(query.0)).map_err(|rejection| ApiError::with(&INVALID_QUERY, rejection.body_text()))
    }
}

/// A form cannot be taken for JSON, so no web page can send one without the browser asking us first.
fn check_content_type(request: &Request) -> Result<(), ApiError> {
    let value = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json")) {
        Ok(())
    } else {
        Err(ApiError::new(&UNSUPPORTED_MEDIA_TYPE))
    }
}

/// All of a body, of at most `limit` bytes, for whoever may have to send it more than once.
pub(super) async fn whole(body: axum::body::Body, limit: usize) -> Result<Bytes, ApiError> {
    let read = tokio::time::timeout(BODY_TIME, Limited::new(body, limit).collect()).await;
    let read = read.map_err(|_| ApiError::new(&BODY_TIMEOUT))?;
    read.map(Collected::to_bytes).map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => ApiError::new(&BODY_TOO_LARGE),
        None => ApiError::with(&INVALID_BODY, "the connection broke while the body was read"),
    })
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let read = tokio::time::timeout(BODY_TIME, Bytes::from_request(request, state)).await;
    read.map_err(|_| ApiError::new(&BODY_TIMEOUT))?.map_err(|rejection: BytesRejection| {
        match rejection.into_response().status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(&BODY_TOO_LARGE),
            _ => ApiError::with(&INVALID_BODY, "the connection broke while the body was read"),
        }
    })
}

/// Nesting is limited to 128 levels by the parser.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut parser = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut parser).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { path };
        ApiError::with(&INVALID_BODY, shortened(error.inner().to_string())).at(shortened(field))
    })?;
    parser.end().map_err(|error| ApiError::with(&INVALID_BODY, error.to_string()))?;
    Ok(parsed)
}

/// What a caller sent may be part of a message, but not all of a megabyte.
fn shortened(text: String) -> String {
    const LONGEST: usize = 500;
    if text.len() <= LONGEST {
        return text;
    }
    // The end says where: line and column.
    let (mut head, mut tail) = (LONGEST * 3 / 5, text.len() - LONGEST * 2 / 5);
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{} … {}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use pendula_model::job::JobSpec;

    #[test]
    fn errors_name_field_and_line() {
        let body = "{\n \"name\": \"a\",\n \"processor\": {\"shell\": \"ls\"},\n \"retry\": {\"attempts\": \"x\"}}";
        let problem = parse::<JobSpec>(body.as_bytes()).unwrap_err().to_problem();
        assert_eq!(problem.field.as_deref(), Some("retry.attempts"));
        assert!(problem.detail.unwrap().contains("line 4"));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse::<serde_json::Value>(deep.as_bytes()).is_err());
        let long = format!("{{\"{}\": 1}}", "é".repeat(100_000));
        assert!(parse::<JobSpec>(long.as_bytes()).unwrap_err().to_problem().detail.unwrap().len() < 600);
        assert!(parse::<u32>(b"1 2").is_err());
    }
}
