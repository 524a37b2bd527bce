//! A whole log as a file.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::header;
use pendula_model::TaskId;
use pendula_model::instance::Instance;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Shared;
use super::body::Query;
use super::logs::{self, Part};
use super::problem::ApiError;

/// Bytes read from the store at once, and so held in memory.
const PIECE: usize = 256 * 1024;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichAttempt {
    /// Which task's log. Default 0.
    #[param(value_type = Option<u64>)]
    task: Option<TaskId>,
    /// Which attempt's log. Default: the latest.
    attempt: Option<u32>,
}

/// The log of an attempt as a text file of any size: what is stored of it now.
#[utoipa::path(get, path = "/api/v1/instances/{id}/logs/download", tag = "logs", params(WhichAttempt),
    responses((status = 200, description = "The file. Lost parts are marked by a line.", body = String, content_type = "text/plain")))]
pub(super) async fn download_log(
    State(api): State<Shared>,
    Extension(instance): Extension<Instance>,
    Query(which): Query<WhichAttempt>,
) -> Result<Response, ApiError> {
    let author = logs::author(&api, &instance, which.task).await?;
    let attempt = author.attempt(which.attempt)?;
    let key = author.log(attempt)?;
    // The first piece is read before the answer begins, so that an error can still be one.
    let first = logs::piece(&api, key, 0, PIECE).await?;
    let abandoned = author.is_abandoned(&api, attempt).await?;
    // What is left to send: a piece that was read already, or the offset of the next.
    let stream = stream::unfold(Some((Some(first), 0)), move |left| {
        let api = api.clone();
        async move {
            let (read, offset) = left?;
            let piece = match read {
                Some(piece) => piece,
                None => match logs::piece(&api, key, offset, PIECE).await {
                    Ok(piece) => piece,
                    // A download that breaks off is noticed by the client; one that is just too short is not.
                    Err(error) => return Some((Err(std::io::Error::other(error.code.title)), None)),
                },
            };
            let next = piece.next_offset;
            let cut_off = abandoned && piece.is_unfinished();
            (next > offset).then(|| (Ok(bytes(piece.parts, cut_off)), Some((None, next))))
        }
    });
    let task = which.task.map(|task| format!("-{task}")).unwrap_or_default();
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{}{task}-{attempt}.log\"", instance.id)),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

fn bytes(parts: Vec<Part>, cut_off: bool) -> Bytes {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text { data, .. } => text.push_str(&data),
            Part::Gap { bytes, .. } => text.push_str(&format!("\n[{bytes} bytes of the log were lost here]\n")),
        }
    }
    if cut_off {
        text.push_str("\n[the log is cut off here: the worker vanished with the rest]\n");
    }
    text.into()
}
