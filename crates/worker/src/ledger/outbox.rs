//! What is to be told to the server, and when again.

use std::time::Instant;

use pendula_wire::{frame, v1};

use super::{AttemptKey, Entry, Ledger, Phase, key_of};

/// A report that waits for the next frame.
#[derive(Debug)]
pub(super) enum Outgoing {
    Started(AttemptKey),
    Progress(AttemptKey, v1::Progress),
    Ended(AttemptKey),
}

impl Ledger {
    /// A handler told how far it is.
    pub(crate) fn progressed(&mut self, held: &v1::Held, progress: v1::Progress) {
        if self.connected && self.runs(key_of(held)) {
            self.outbox.push_back(Outgoing::Progress(key_of(held), progress));
        }
    }

    /// The log of an attempt that ended is on its way, so that this session may hear of its end.
    pub(crate) fn release(&mut self, held: &v1::Held) {
        let at = key_of(held);
        if self.connected
            && let Some(Entry { attempt, phase: Phase::Finished(finished) }) = self.entries.get_mut(&at.key())
            && *attempt == at.attempt
        {
            finished.released = true;
            self.queue_again(at);
        }
    }

    /// The reports of the next frame; empty when there are none.
    pub(crate) fn take_reports(&mut self, now: Instant) -> Vec<v1::Report> {
        let mut reports = Vec::with_capacity(self.outbox.len().min(frame::BATCH_ENTRIES));
        let mut bytes = 0;
        while bytes < frame::BATCH_BYTES && reports.len() < frame::BATCH_ENTRIES {
            let Some(outgoing) = self.outbox.pop_front() else { break };
            if let Some(report) = self.report(now, outgoing) {
                bytes += frame::entry_bytes(&report);
                reports.push(report);
            }
        }
        reports
    }

    pub(super) fn report_started(&mut self, now: Instant) {
        while let Some((since, at)) = self.young.front()
            && now.duration_since(*since) >= self.timing.started_after
        {
            if self.connected && self.runs(*at) {
                self.outbox.push_back(Outgoing::Started(*at));
            }
            self.young.pop_front();
        }
    }

    /// Puts the end of an attempt into the next frame, unless it stands there, was acknowledged, or must not yet.
    pub(super) fn queue_again(&mut self, at: AttemptKey) {
        if let Some(Entry { attempt, phase: Phase::Finished(finished) }) = self.entries.get_mut(&at.key())
            && *attempt == at.attempt
            && finished.released
            && !finished.queued
        {
            finished.queued = true;
            self.outbox.push_back(Outgoing::Ended(at));
        }
    }

    fn report(&mut self, now: Instant, outgoing: Outgoing) -> Option<v1::Report> {
        let (at, event) = match outgoing {
            Outgoing::Progress(at, progress) => self.runs(at).then_some((at, v1::report::Event::Progress(progress)))?,
            Outgoing::Started(at) => match self.entries.get(&at.key()) {
                Some(Entry { attempt, phase: Phase::Running(run) }) if *attempt == at.attempt => {
                    let running_micros = now.duration_since(run.since).as_micros() as u64;
                    (at, v1::report::Event::Started(v1::Started { running_micros }))
                }
                _ => return None,
            },
            Outgoing::Ended(at) => match self.entries.get_mut(&at.key()) {
                Some(Entry { attempt, phase: Phase::Finished(finished) }) if *attempt == at.attempt => {
                    finished.queued = false;
                    let ended_micros_ago = now.duration_since(finished.at).as_micros() as u64;
                    self.sent.push_back((now, at));
                    (at, v1::report::Event::Ended(v1::Ended { ended_micros_ago, ..finished.ended.clone() }))
                }
                _ => return None,
            },
        };
        Some(v1::Report { task: Some(at.into()), event: Some(event) })
    }
}
