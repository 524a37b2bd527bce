//! The state machine of an instance: state × event → what follows. Nothing else moves an instance.
//!
//! Messages arrive late, twice and out of order. The caller has already dropped news of any attempt but the current one
//! (the attempt number is the fencing token); what is left may still not fit the state, and then it is old news.

use pendula_model::instance::InstanceState;

/// What can happen to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker was chosen.
    Place,
    /// The worker says that it runs.
    Start,
    /// The worker says that it ended well.
    Succeed,
    /// The worker says that it failed.
    Fail,
    /// The worker says that it was stopped.
    ReportStopped,
    /// The worker did not take it.
    Reject,
    /// The worker gave it up because it shuts down.
    HandBack,
    /// The worker vanished.
    Lose,
    /// A user, or a newer instance, wants it to end.
    Stop,
    /// A user wants it not to start.
    Cancel,
    /// The attempt ran too long.
    TimeOut,
    /// The worker did not confirm the stop in time.
    StopDeadline,
    /// It waited too long for its first attempt.
    Expire,
}

impl Event {
    /// Every event, for table tests.
    pub const ALL: [Event; 13] = {
        use Event::*;
        [
            Place,
            Start,
            Succeed,
            Fail,
            ReportStopped,
            Reject,
            HandBack,
            Lose,
            Stop,
            Cancel,
            TimeOut,
            StopDeadline,
            Expire,
        ]
    };
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The instance is now in this state.
    To(InstanceState),
    /// The attempt is over; the job's policies decide whether another follows.
    AttemptOver(AttemptEnd),
    /// The stop is settled; its cause decides what the instance becomes.
    StopSettled { confirmed: bool },
    /// It never started at this worker: back to waiting, without counting.
    Requeue,
    /// It does not apply any more; nothing changes.
    OldNews,
    /// It is a wish that cannot be granted in this state.
    Refused,
}

/// How an attempt ended, other than well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    Failed,
    Lost,
    HandedBack,
}

/// The transition table. `ever_started` tells a fresh instance from one that waits for its next attempt.
pub fn step(state: InstanceState, ever_started: bool, event: Event) -> Step {
    use Event::*;
    use InstanceState::*;
    use Step::*;
    match (state, event) {
        (Waiting, Place) => To(Dispatched),
        (Waiting, Stop | Cancel) if ever_started => To(Stopped),
        (Waiting, Stop | Cancel) => To(Canceled),
        (Waiting, Expire) if ever_started => OldNews,
        (Waiting, Expire) => To(Failed),
        (Waiting, Start | Succeed | Fail | ReportStopped | Reject | HandBack | Lose | TimeOut | StopDeadline) => {
            OldNews
        }

        (Dispatched, Start) => To(Running),
        (Dispatched | Running, Succeed) => To(Succeeded),
        // A worker that stopped it without being asked to: its own limits, or somebody at its machine.
        (Dispatched | Running, Fail | ReportStopped) => AttemptOver(AttemptEnd::Failed),
        (Dispatched, Reject) => Requeue,
        (Dispatched | Running, HandBack) => AttemptOver(AttemptEnd::HandedBack),
        (Dispatched | Running, Lose) => AttemptOver(AttemptEnd::Lost),
        (Dispatched | Running, Stop | TimeOut) => To(Stopping),
        (Dispatched | Running | Stopping, Cancel) => Refused,
        (Dispatched, Place | StopDeadline | Expire) => OldNews,
        (Running, Place | Start | Reject | StopDeadline | Expire) => OldNews,

        // However it ended meanwhile, the stop was asked for first, and is what the instance ends with.
        (Stopping, Succeed | Fail | ReportStopped | Reject | HandBack) => StopSettled { confirmed: true },
        (Stopping, Lose | StopDeadline) => StopSettled { confirmed: false },
        // Asking again is granted: it is being stopped.
        (Stopping, Stop) => To(Stopping),
        (Stopping, Place | Start | TimeOut | Expire) => OldNews,

        (Failed | Succeeded | Canceled | Stopped, Stop | Cancel) => Refused,
        (Failed | Succeeded | Canceled | Stopped, _) => OldNews,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use InstanceState::*;
    use Step::*;

    /// One row per state, one letter per event in the order of [`Event::ALL`]:
    /// `Place Start Succeed Fail ReportStopped Reject HandBack Lose Stop Cancel TimeOut StopDeadline Expire`.
    /// `d`ispatched, `r`unning, `+` succeeded, `f`ailed, `c`anceled, `s`topped, `~` stopping, `o`ver (failed), `l`ost,
    /// `h`anded back, `y`es stopped, `n`ot confirmed, `q` requeued, `.` old news, `!` refused.
    const TABLE: [(InstanceState, bool, &str); 9] = [
        (Waiting, false, "d.......cc..f"),
        (Waiting, true, "d.......ss..."),
        (Dispatched, true, ".r+ooqhl~!~.."),
        (Running, true, "..+oo.hl~!~.."),
        (Stopping, true, "..yyyyyn~!.n."),
        (Failed, true, "........!!..."),
        (Succeeded, true, "........!!..."),
        (Canceled, false, "........!!..."),
        (Stopped, true, "........!!..."),
    ];

    fn letter(step: Step) -> char {
        match step {
            To(Dispatched) => 'd',
            To(Running) => 'r',
            To(Succeeded) => '+',
            To(Failed) => 'f',
            To(Canceled) => 'c',
            To(Stopped) => 's',
            To(Stopping) => '~',
            To(Waiting) => 'w',
            AttemptOver(AttemptEnd::Failed) => 'o',
            AttemptOver(AttemptEnd::Lost) => 'l',
            AttemptOver(AttemptEnd::HandedBack) => 'h',
            StopSettled { confirmed: true } => 'y',
            StopSettled { confirmed: false } => 'n',
            Requeue => 'q',
            OldNews => '.',
            Refused => '!',
        }
    }

    #[test]
    fn every_pair_of_state_and_event_is_as_the_table_says() {
        for (state, ever_started, expected) in TABLE {
            let actual: String = Event::ALL.iter().map(|event| letter(step(state, ever_started, *event))).collect();
            assert_eq!(actual, expected, "{state}, ever started: {ever_started}");
        }
        for state in InstanceState::ALL {
            assert!(TABLE.iter().any(|row| row.0 == *state), "{state} is missing in the table");
        }
    }

    /// Scenario O-7: whatever order reports arrive in after a stop, the instance ends stopped and stays so.
    #[test]
    fn o_7_no_sequence_of_reports_leaves_an_ended_state_or_escapes_a_stop() {
        let reports =
            [Event::Start, Event::Succeed, Event::Fail, Event::ReportStopped, Event::Lose, Event::StopDeadline];
        let mut sequences = vec![vec![]];
        for _ in 0..6 {
            sequences = sequences
                .into_iter()
                .flat_map(|sequence: Vec<Event>| {
                    reports.iter().map(move |report| {
                        let mut longer = sequence.clone();
                        longer.push(*report);
                        longer
                    })
                })
                .collect();
            for sequence in &sequences {
                let mut state = Stopping;
                for event in sequence {
                    match step(state, true, *event) {
                        StopSettled { .. } => state = Stopped,
                        OldNews => {}
                        other => panic!("{sequence:?}: {state} led to {other:?}"),
                    }
                }
                assert!(matches!(state, Stopped | Stopping), "{sequence:?}");
            }
        }
    }
}
