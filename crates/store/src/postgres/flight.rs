//! One transaction in one round trip.
//!
//! All statements are sent at once, from BEGIN to COMMIT, and only then are the answers awaited: no lock is ever held while
//! something travels between us and the database. This needs statements that fail by themselves when they do not find what
//! they expect (each ends with [`exactly`] or is harmless when it does nothing): the database refuses all that follows
//! then, and COMMIT rolls back.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use deadpool_postgres::Object;
use futures::future::{MaybeDone, maybe_done};
use tokio_postgres::{Error, Statement};

use super::read::prepared;
use super::values::Value;
use crate::port::StoreError;

/// A statement with its values.
pub(super) struct Step<'b> {
    pub sql: &'static str,
    pub values: Vec<Value<'b>>,
}

/// The end of a statement that must have written a number of rows, which it returned under the name `written`: divides by
/// zero when there were others.
macro_rules! exactly {
    ($count:literal) => {
        concat!(" SELECT 1 / (count(*) = ", $count, ")::int FROM written")
    };
}

pub(super) use exactly;

/// Which step failed, and how the database said so. A failure to begin or to commit is that of no step.
pub(super) struct Failure {
    pub step: Option<usize>,
    pub error: Error,
}

type Answer<'b> = Pin<Box<dyn Future<Output = Result<u64, Error>> + Send + 'b>>;

/// Runs `steps` in a transaction of their own, in order.
///
/// # Errors
///
/// The outer one when nothing was sent. With the inner one nothing was written, or, when the connection went, nobody
/// knows.
pub(super) async fn fly(client: &Object, steps: &[Step<'_>]) -> Result<Result<(), Failure>, StoreError> {
    let mut statements: Vec<Statement> = Vec::with_capacity(steps.len());
    for step in steps {
        statements.push(prepared(client, step.sql, &step.values).await?);
    }
    let plain = |sql: &'static str| -> MaybeDone<Answer<'_>> {
        maybe_done(Box::pin(async move { client.batch_execute(sql).await.map(|()| 0) }))
    };
    let mut answers = Vec::with_capacity(steps.len() + 2);
    answers.push(plain("BEGIN"));
    for (step, statement) in steps.iter().zip(&statements) {
        answers.push(maybe_done(Box::pin(client.execute_raw(statement, &step.values)) as Answer<'_>));
    }
    poll_fn(|context| {
        // The first poll of each sends it, so they go out in this order.
        let mut is_sent = true;
        for answer in &mut answers {
            if Pin::new(&mut *answer).poll(context).is_ready() {
                // A value that the driver could not write: this one was not sent, so what was must not be kept.
                is_sent &= matches!(answer, MaybeDone::Done(Ok(_)));
            }
        }
        let mut end = plain(if is_sent { "COMMIT" } else { "ROLLBACK" });
        // Its answer is awaited below.
        let _ = Pin::new(&mut end).poll(context);
        answers.push(end);
        Poll::Ready(())
    })
    .await;
    let last = answers.len() - 1;
    let mut failure = None;
    for (index, mut answer) in answers.into_iter().enumerate() {
        Pin::new(&mut answer).await;
        let answer = Pin::new(&mut answer).take_output().expect("it was awaited");
        if let Err(error) = answer
            && failure.is_none()
        {
            let step = if index == 0 || index == last { None } else { Some(index - 1) };
            failure = Some(Failure { step, error });
        }
    }
    Ok(failure.map_or(Ok(()), Err))
}
