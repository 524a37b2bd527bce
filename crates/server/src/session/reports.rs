//! A worker's reports in the engine's words. Durations become times by our clock; the worker's is never used.

use std::time::Duration;

use pendula_engine::{Report, ReportEvent, input};
use pendula_model::instance::Reason;
use pendula_model::{TaskId, Timestamp, limits};
use pendula_wire::report::{End, EndedAs, News, WorkerReport};

pub(super) fn report(now: Timestamp, report: WorkerReport) -> Report {
    let event = match report.news {
        News::Started { running } => ReportEvent::Started { started_at: now.minus(running) },
        News::Progress { per_mille, message } => ReportEvent::Progress { per_mille, message: message.map(Into::into) },
        News::Ended(end) => ended(now, end),
    };
    Report { attempt: report.attempt, event }
}

/// Bytes of the result that a report brings.
pub(super) fn result_bytes(report: &WorkerReport) -> usize {
    match &report.news {
        News::Ended(End { result: Some(result), .. }) => result.bytes.len(),
        _ => 0,
    }
}

/// Whether it has a result that only a task of an instance with many may have. The first task may be one of those, or
/// all that there is of a standalone instance: the store knows.
pub(super) fn is_large_for_an_instance(report: &WorkerReport) -> bool {
    report.attempt.task == TaskId::ROOT && result_bytes(report) > limits::RESULT_BYTES
}

/// Takes a result away that is too large for an instance. Half a result is none, so a success with it is a failure; a
/// worker that knows the limit says the same of itself.
pub(super) fn without_large_result(report: &mut WorkerReport) {
    let bytes = result_bytes(report);
    let News::Ended(end) = &mut report.news else { return };
    let why = format!("the result of {bytes} bytes is larger than the allowed {}", limits::RESULT_BYTES);
    end.result = None;
    end.message = Some(match (&end.outcome, end.message.take()) {
        (EndedAs::Succeeded, _) | (_, None) => why,
        (_, Some(message)) => limits::cut(&format!("{message} ({why})"), limits::MESSAGE_BYTES),
    });
    if end.outcome == EndedAs::Succeeded {
        end.outcome = EndedAs::Failed { reason: Reason::from_wire("result_too_large"), final_: true };
    }
}

fn ended(now: Timestamp, end: End) -> ReportEvent {
    let started_at = end.ran.map(|ran: Duration| now.minus(end.ago).minus(ran));
    let mut message = end.message;
    let outcome = match end.outcome {
        EndedAs::Succeeded => input::Outcome::Succeeded,
        EndedAs::Failed { reason, final_ } => input::Outcome::Failed { reason, final_ },
        EndedAs::Stopped => input::Outcome::Stopped,
        EndedAs::Rejected { reason } => input::Outcome::Rejected { reason },
        EndedAs::HandedBack => input::Outcome::HandedBack,
        // It ended, and success would be a guess.
        EndedAs::Unknown(number) => {
            message.get_or_insert_with(|| {
                format!("the worker reported outcome {number}, which this server does not know")
            });
            input::Outcome::Failed { reason: Reason::from_wire("unknown_outcome"), final_: false }
        }
    };
    ReportEvent::Ended { outcome, message: message.map(Into::into), result: end.result, started_at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pendula_model::instance::Payload;
    use pendula_model::{AttemptKey, InstanceId};

    #[test]
    fn a_large_result_of_the_first_task_is_looked_at_and_no_success_without_it() {
        let told = |task, bytes| {
            let result = Some(Payload { content_type: "text/plain".to_owned(), bytes: vec![b'x'; bytes] });
            let (ran, ago) = (None, Duration::ZERO);
            let end = End { outcome: EndedAs::Succeeded, message: Some("done".to_owned()), result, ran, ago };
            let attempt = AttemptKey { instance: InstanceId(1), task: TaskId(task), attempt: 1 };
            WorkerReport { attempt, news: News::Ended(end) }
        };
        assert!(!is_large_for_an_instance(&told(0, limits::RESULT_BYTES)));
        assert!(!is_large_for_an_instance(&told(1, limits::RESULT_BYTES + 1)));
        let mut large = told(0, limits::RESULT_BYTES + 1);
        assert!(is_large_for_an_instance(&large));
        without_large_result(&mut large);
        let ReportEvent::Ended { outcome, message, result, .. } = report(Timestamp::from_millis(0), large).event else {
            panic!("an end stays an end");
        };
        let reason = Reason::from_wire("result_too_large");
        assert_eq!((outcome, result), (input::Outcome::Failed { reason, final_: true }, None));
        assert!(message.is_some_and(|text| text.contains("65537") && text.contains("65536")));
    }

    #[test]
    fn durations_count_back_from_now_and_unknown_outcomes_are_failures() {
        let now = Timestamp::from_millis(100_000);
        let end = End {
            outcome: EndedAs::Unknown(77),
            message: None,
            result: None,
            ran: Some(Duration::from_secs(10)),
            ago: Duration::from_secs(5),
        };
        let wire = WorkerReport { attempt: AttemptKey::root(InstanceId(1), 2), news: News::Ended(end) };
        let ReportEvent::Ended { outcome, message, started_at, .. } = report(now, wire).event else {
            panic!("an end stays an end");
        };
        assert_eq!(started_at, Some(Timestamp::from_millis(85_000)));
        assert!(matches!(outcome, input::Outcome::Failed { final_: false, .. }));
        assert!(message.is_some_and(|text| text.contains("77")));
    }
}
