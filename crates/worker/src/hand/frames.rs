//! What a worker has to say besides signs of life, kind by kind.

use std::time::Instant;

use pendula_wire::v1;
use v1::to_server::Message;

use super::logs::OpenLogs;
use super::questions::Questions;
use crate::ledger::Ledger;

/// The next frame of one kind, if there is something to say.
type Frame = fn(&mut Ledger, &mut OpenLogs, &mut Questions, Instant) -> Option<Message>;

/// Each kind gets its turn, so that a flood of one holds up no other.
pub(super) const FRAMES: [Frame; 4] = [reports, logs, maps, pages];

fn reports(ledger: &mut Ledger, _: &mut OpenLogs, _: &mut Questions, now: Instant) -> Option<Message> {
    let reports = ledger.take_reports(now);
    (!reports.is_empty()).then_some(Message::Reports(v1::Reports { reports }))
}

fn logs(ledger: &mut Ledger, logs: &mut OpenLogs, _: &mut Questions, _: Instant) -> Option<Message> {
    let chunks = logs.take_chunks(|flushed| ledger.release(flushed));
    (!chunks.is_empty()).then_some(Message::Logs(v1::LogChunks { chunks }))
}

fn maps(ledger: &mut Ledger, _: &mut OpenLogs, questions: &mut Questions, _: Instant) -> Option<Message> {
    let requests = questions.take_maps(ledger);
    (!requests.is_empty()).then_some(Message::Maps(v1::MapRequests { requests }))
}

fn pages(ledger: &mut Ledger, _: &mut OpenLogs, questions: &mut Questions, _: Instant) -> Option<Message> {
    let requests = questions.take_pages(ledger);
    (!requests.is_empty()).then_some(Message::Results(v1::ResultRequests { requests }))
}
