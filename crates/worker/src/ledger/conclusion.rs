//! What is told about the end of an attempt.

use std::time::Duration;

use pendula_model::instance::{Payload, Reason};
use pendula_model::limits;
use pendula_wire::{WireError, v1};

use super::stopping::Cause;
use super::{Rejection, Run};
use crate::event::Returned;
use crate::handler::{Failure, Output};
use crate::worker::Summary;

/// The end of an attempt that ran for so long. A cause outweighs what the handler returned: after a stop nobody knows whether
/// "done" means all of it.
pub(super) fn conclude(run: &Run, ran: Duration, how: Returned) -> v1::Ended {
    let cause = run.stop.as_ref().map(|stop| stop.cause);
    let failed = |failure| failed(failure, run.result_bytes);
    let mut ended = match how {
        Returned::Done(Ok(output)) => succeeded(output, run.result_bytes),
        Returned::Done(Err(failure)) => failed(failure),
        Returned::Panicked(message) => failed(Failure::new(Reason::PANICKED, message)),
        Returned::Dropped if cause.is_some() => v1::Ended::default(),
        Returned::Dropped => failed(Failure::new(Reason::FAILED, "the handler was dropped before it returned")),
    };
    match cause {
        None => {}
        Some(Cause::Server) => overrule(&mut ended, v1::Outcome::Stopped, None),
        Some(Cause::Drain) => overrule(&mut ended, v1::Outcome::HandedBack, Some(Reason::WORKER_DRAINED)),
        Some(Cause::Timeout) => {
            overrule(&mut ended, v1::Outcome::Failed, Some(Reason::TIMEOUT));
            ended.message = format!("ran longer than {:?}", run.timeout.unwrap_or_default());
        }
    }
    // 0 would say that it never started.
    ended.running_micros = (ran.as_micros() as u64).max(1);
    ended
}

fn overrule(ended: &mut v1::Ended, outcome: v1::Outcome, reason: Option<Reason>) {
    ended.outcome = outcome.into();
    ended.reason = reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default();
    ended.r#final = false;
}

fn succeeded(output: Output, result_bytes: usize) -> v1::Ended {
    if let Some(why) = output.result.as_ref().and_then(|result| too_large(result, result_bytes)) {
        return failed(Failure::new(Reason::from_wire("result_too_large"), why).without_retry(), result_bytes);
    }
    let message = output.message.unwrap_or_default();
    ended(v1::Outcome::Succeeded, String::new(), message, output.result, false)
}

fn failed(failure: Failure, result_bytes: usize) -> v1::Ended {
    let Failure { reason, mut message, mut result, retry } = failure;
    if let Some(why) = result.as_ref().and_then(|result| too_large(result, result_bytes)) {
        message = if message.is_empty() { why } else { format!("{message} ({why})") };
        result = None;
    }
    ended(v1::Outcome::Failed, reason.as_str().to_owned(), message, result, !retry)
}

fn too_large(result: &Payload, limit: usize) -> Option<String> {
    let bytes = result.bytes.len();
    (bytes > limit).then(|| format!("the result of {bytes} bytes is larger than the allowed {limit}"))
}

fn ended(outcome: v1::Outcome, reason: String, message: String, result: Option<Payload>, is_final: bool) -> v1::Ended {
    let Payload { content_type, bytes } = result.unwrap_or(Payload { content_type: String::new(), bytes: Vec::new() });
    let message =
        if message.len() > limits::MESSAGE_BYTES { limits::cut(&message, limits::MESSAGE_BYTES) } else { message };
    v1::Ended {
        outcome: outcome.into(),
        reason,
        message,
        result: bytes.into(),
        result_content_type: content_type,
        r#final: is_final,
        ..v1::Ended::default()
    }
}

/// The end of an attempt that is refused.
pub(super) fn rejected(rejection: Rejection) -> v1::Ended {
    refused(
        &Reason::REJECTED,
        match rejection {
            Rejection::NoSlot => "the worker has no free slot",
            Rejection::Draining => "the worker is shutting down",
            Rejection::TooManyUnacked => "too many results of the worker wait for the server",
        },
    )
}

/// The end of an attempt that this worker cannot run at all.
pub(crate) fn refused(reason: &Reason, message: impl Into<String>) -> v1::Ended {
    ended(v1::Outcome::Rejected, reason.as_str().to_owned(), message.into(), None, false)
}

/// The end of an attempt that makes no sense on any worker.
pub(crate) fn unrunnable(error: &WireError) -> v1::Ended {
    ended(v1::Outcome::Failed, Reason::INVALID_DEFINITION.as_str().to_owned(), error.to_string(), None, true)
}

/// The end of an attempt that was stopped while it waited for its predecessor to go.
pub(super) fn stopped_unstarted() -> v1::Ended {
    ended(v1::Outcome::Stopped, String::new(), String::new(), None, false)
}

pub(super) fn count(summary: &mut Summary, ended: &v1::Ended) {
    match ended.outcome() {
        v1::Outcome::Succeeded => summary.succeeded += 1,
        v1::Outcome::Failed => summary.failed += 1,
        v1::Outcome::Stopped => summary.stopped += 1,
        v1::Outcome::Rejected => summary.rejected += 1,
        v1::Outcome::HandedBack => summary.handed_back += 1,
        v1::Outcome::Unspecified => debug_assert!(false, "we never end an attempt without an outcome"),
    }
}
