//! Who waits for which reply.

use std::collections::HashMap;

use pendula_engine::ReplyTo;
use tokio::sync::oneshot;

use super::handle::{Answer, CommandError};

/// The callers of one partition that have not been answered.
#[derive(Default)]
pub(super) struct Replies {
    last: u64,
    waiting: HashMap<ReplyTo, Waiting>,
    groups: HashMap<u64, Group>,
}

enum Waiting {
    Alone(oneshot::Sender<Answer>),
    InGroup { group: u64, position: usize },
}

/// Commands that came together are answered together.
struct Group {
    answers: Vec<Option<Answer>>,
    missing: usize,
    answer: oneshot::Sender<Vec<Answer>>,
}

impl Replies {
    pub(super) fn expect(&mut self, answer: oneshot::Sender<Answer>) -> ReplyTo {
        let to = self.number();
        self.waiting.insert(to, Waiting::Alone(answer));
        to
    }

    /// Numbers for `count` commands (at least one) that are answered together.
    pub(super) fn expect_group(&mut self, count: usize, answer: oneshot::Sender<Vec<Answer>>) -> Vec<ReplyTo> {
        let numbers: Vec<ReplyTo> = (0..count).map(|_| self.number()).collect();
        let group = numbers[0].0;
        for (position, to) in numbers.iter().enumerate() {
            self.waiting.insert(*to, Waiting::InGroup { group, position });
        }
        self.groups.insert(group, Group { answers: vec![None; count], missing: count, answer });
        numbers
    }

    /// Answers; a second reply to the same number is ignored.
    pub(super) fn answer(&mut self, to: ReplyTo, answer: Answer) {
        match self.waiting.remove(&to) {
            None => {}
            // Whoever asked may have gone.
            Some(Waiting::Alone(sender)) => drop(sender.send(answer)),
            Some(Waiting::InGroup { group: number, position }) => {
                let Some(group) = self.groups.get_mut(&number) else { return };
                group.answers[position] = Some(answer);
                group.missing -= 1;
                if group.missing == 0
                    && let Some(group) = self.groups.remove(&number)
                {
                    let _ = group.answer.send(group.answers.into_iter().flatten().collect());
                }
            }
        }
    }

    /// Everyone who still waits gets the same error.
    pub(super) fn fail_all(&mut self, error: &CommandError) {
        let waiting: Vec<ReplyTo> = self.waiting.keys().copied().collect();
        for to in waiting {
            self.answer(to, Err(error.clone()));
        }
    }

    fn number(&mut self) -> ReplyTo {
        self.last += 1;
        ReplyTo(self.last)
    }
}

#[cfg(test)]
mod tests {
    use pendula_engine::Reply;

    use super::*;

    #[test]
    fn a_group_is_answered_in_order_when_its_last_answer_is_there() {
        let mut replies = Replies::default();
        let (answer, mut waiting) = oneshot::channel();
        let numbers = replies.expect_group(3, answer);
        replies.answer(numbers[2], Ok(Reply::Done));
        replies.answer(numbers[2], Ok(Reply::Done));
        replies.answer(numbers[0], Ok(Reply::Explanation("first".to_owned())));
        assert!(waiting.try_recv().is_err());
        replies.fail_all(&CommandError::unavailable("gone"));
        let answers = waiting.try_recv().expect("all three are there");
        assert!(matches!(&answers[0], Ok(Reply::Explanation(text)) if text == "first"));
        assert_eq!(answers[1].as_ref().err(), Some(&CommandError::unavailable("gone")));
        assert!(matches!(answers[2], Ok(Reply::Done)));
    }
}
