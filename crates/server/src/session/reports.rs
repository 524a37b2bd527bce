//! A worker's reports in the engine's words. Durations become times by our clock; the worker's is never used.

use std::time::Duration;

use pendula_engine::{Report, ReportEvent, input};
use pendula_model::Timestamp;
use pendula_model::instance::Reason;
use pendula_wire::report::{End, EndedAs, News, WorkerReport};

pub(super) fn report(now: Timestamp, report: WorkerReport) -> Report {
    let event = match report.news {
        News::Started { running } => ReportEvent::Started { started_at: now.minus(running) },
        News::Progress { per_mille, message } => ReportEvent::Progress { per_mille, message: message.map(Into::into) },
        News::Ended(end) => ended(now, end),
    };
    Report { instance: report.instance, attempt: report.attempt, event }
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
    use pendula_model::InstanceId;

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
        let wire = WorkerReport { instance: InstanceId(1), attempt: 2, news: News::Ended(end) };
        let ReportEvent::Ended { outcome, message, started_at, .. } = report(now, wire).event else {
            panic!("an end stays an end");
        };
        assert_eq!(started_at, Some(Timestamp::from_millis(85_000)));
        assert!(matches!(outcome, input::Outcome::Failed { final_: false, .. }));
        assert!(message.is_some_and(|text| text.contains("77")));
    }
}
