//! What workers tell of attempts, checked.

use std::time::Duration;

use pendula_model::instance::{Payload, Reason};
use pendula_model::{AttemptKey, limits};

use crate::error::WireError;
use crate::held;
use crate::v1;

/// News of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerReport {
    /// Which one.
    pub attempt: AttemptKey,
    /// What happened to it.
    pub news: News,
}

/// What happened to an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// It runs, for so long already.
    Started {
        /// Time since it started.
        running: Duration,
    },
    /// It tells how far it is.
    Progress {
        /// 0 to 1000.
        per_mille: u32,
        /// For people; at most [`limits::MESSAGE_BYTES`].
        message: Option<String>,
    },
    /// It is over.
    Ended(End),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// How.
    pub outcome: EndedAs,
    /// For people; at most [`limits::MESSAGE_BYTES`].
    pub message: Option<String>,
    /// What it produced; at most [`limits::TASK_RESULT_BYTES`]. Whether it is the result of a whole instance, which may be
    /// [`limits::RESULT_BYTES`] only, is not told here.
    pub result: Option<Payload>,
    /// How long it ran; `None` when it never started.
    pub ran: Option<Duration>,
    /// How long the worker has kept this report.
    pub ago: Duration,
}

/// The `Outcome` of the wire. A value that this version does not know keeps its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndedAs {
    /// Well.
    Succeeded,
    /// Not well.
    Failed {
        /// Machine-readable.
        reason: Reason,
        /// No retry can mend it.
        final_: bool,
    },
    /// Because of a stop.
    Stopped,
    /// It never started.
    Rejected {
        /// `rejected` or `processor_missing`.
        reason: Reason,
    },
    /// It started, and was given up because the worker shuts down.
    HandedBack,
    /// Something that a newer worker says. It did end; whether well is not known.
    Unknown(i32),
}

impl TryFrom<v1::Report> for WorkerReport {
    type Error = WireError;

    /// # Errors
    /// When it names no attempt, tells nothing (or something unknown), has no outcome, or exceeds a limit.
    fn try_from(report: v1::Report) -> Result<Self, WireError> {
        let attempt = held::required(report.task.as_ref(), "Report", "task")?;
        let news = match report.event {
            None => return Err(WireError::new("Report", "event", "is missing or unknown to this version")),
            Some(v1::report::Event::Started(started)) => {
                News::Started { running: Duration::from_micros(started.running_micros) }
            }
            Some(v1::report::Event::Progress(progress)) => {
                if progress.per_mille > 1000 {
                    let why = format!("{} is not allowed; 0 to 1000", progress.per_mille);
                    return Err(WireError::new("Progress", "per_mille", why));
                }
                News::Progress { per_mille: progress.per_mille, message: message(&progress.message) }
            }
            Some(v1::report::Event::Ended(ended)) => News::Ended(end(ended)?),
        };
        Ok(WorkerReport { attempt, news })
    }
}

fn end(ended: v1::Ended) -> Result<End, WireError> {
    if ended.result.len() > limits::TASK_RESULT_BYTES {
        let why = format!("{} bytes; at most {}", ended.result.len(), limits::TASK_RESULT_BYTES);
        return Err(WireError::new("Ended", "result", why));
    }
    if ended.result_content_type.len() > limits::MESSAGE_BYTES {
        return Err(WireError::new("Ended", "result_content_type", "is too long"));
    }
    let reason = |default: Reason| {
        if ended.reason.is_empty() { default } else { Reason::from_wire(&ended.reason) }
    };
    let outcome = match v1::Outcome::try_from(ended.outcome) {
        Ok(v1::Outcome::Unspecified) => return Err(WireError::new("Ended", "outcome", "is missing")),
        Ok(v1::Outcome::Succeeded) => EndedAs::Succeeded,
        Ok(v1::Outcome::Failed) => EndedAs::Failed { reason: reason(Reason::FAILED), final_: ended.r#final },
        Ok(v1::Outcome::Stopped) => EndedAs::Stopped,
        Ok(v1::Outcome::Rejected) => EndedAs::Rejected { reason: reason(Reason::REJECTED) },
        Ok(v1::Outcome::HandedBack) => EndedAs::HandedBack,
        Err(_) => EndedAs::Unknown(ended.outcome),
    };
    let has_result = !ended.result.is_empty() || !ended.result_content_type.is_empty();
    Ok(End {
        outcome,
        message: message(&ended.message),
        result: has_result.then(|| Payload { content_type: ended.result_content_type, bytes: ended.result.to_vec() }),
        ran: (ended.running_micros > 0).then(|| Duration::from_micros(ended.running_micros)),
        ago: Duration::from_micros(ended.ended_micros_ago),
    })
}

fn message(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| limits::cut(text, limits::MESSAGE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::report::Event;

    fn read(event: Option<Event>) -> Result<News, WireError> {
        let task = Some(v1::Held::root(pendula_model::InstanceId(5), 1));
        WorkerReport::try_from(v1::Report { task, event }).map(|report| report.news)
    }

    fn ended(ended: v1::Ended) -> Result<End, WireError> {
        read(Some(Event::Ended(ended))).map(|news| match news {
            News::Ended(end) => end,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn outcomes_keep_their_meaning_and_unknown_ones_their_number() {
        let failed = EndedAs::Failed { reason: Reason::EXIT_CODE, final_: true };
        for (number, expect) in [
            (1, EndedAs::Succeeded),
            (2, failed),
            (3, EndedAs::Stopped),
            (4, EndedAs::Rejected { reason: Reason::EXIT_CODE }),
            (5, EndedAs::HandedBack),
            (77, EndedAs::Unknown(77)),
            (-1, EndedAs::Unknown(-1)),
        ] {
            let wire =
                v1::Ended { outcome: number, reason: "exit_code".to_owned(), r#final: true, ..Default::default() };
            assert_eq!(ended(wire).unwrap().outcome, expect);
        }
    }

    #[test]
    fn what_decodes_to_defaults_or_is_too_large_is_refused() {
        assert_eq!(WorkerReport::try_from(v1::Report::default()).unwrap_err().field, "task");
        assert_eq!(read(None).unwrap_err().field, "event");
        assert_eq!(ended(v1::Ended::default()).unwrap_err().field, "outcome");
        let progress = v1::Progress { per_mille: 1001, ..Default::default() };
        assert_eq!(read(Some(Event::Progress(progress))).unwrap_err().field, "per_mille");
        let result = vec![0; limits::TASK_RESULT_BYTES + 1].into();
        assert_eq!(ended(v1::Ended { outcome: 1, result, ..Default::default() }).unwrap_err().field, "result");
    }

    #[test]
    fn an_end_without_details_has_none() {
        let end = ended(v1::Ended { outcome: 1, ..Default::default() }).unwrap();
        assert_eq!((end.message, end.result, end.ran, end.ago), (None, None, None, Duration::ZERO));
        let end = ended(v1::Ended { outcome: 1, message: "é".repeat(4096), ..Default::default() }).unwrap();
        assert!(end.message.unwrap().len() <= limits::MESSAGE_BYTES);
    }
}
