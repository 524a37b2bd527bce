//! Asking several servers for a sign of life, and taking the first that gives one.
//!
//! Each is given a head start before the next is asked as well, so that the first choice wins while it is there, and costs
//! little while it is not. Nobody is told who we are: of those that answer late the connection is just dropped.

use std::time::Duration;

use futures::StreamExt;
use futures::future::poll_fn;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::{Channel, Endpoint};

use super::chain;
use crate::addresses::Asked;

/// Whatever a server says to this, it is alive. A process that is stopped has a kernel that goes on accepting connections.
const SIGN_OF_LIFE: &str = "/livez";

/// One server.
pub(super) struct Door {
    /// For people.
    pub(super) server: String,
    /// Or why there is none.
    pub(super) endpoint: Result<Endpoint, String>,
    /// How long it may take to answer.
    pub(super) within: Duration,
    /// How long it is alone, before the next is asked as well.
    pub(super) head_start: Duration,
}

/// What came of it.
pub(super) struct Knocked {
    pub(super) asked: Asked,
    /// Who answered, under which name and on which connection; or why each did not.
    pub(super) answered: Result<(usize, String, Channel), Vec<(String, String)>>,
}

enum Answer {
    Alive(Channel),
    Unreachable(String),
    Silent(Duration),
}

/// Asks one after the other until one answers.
pub(super) async fn knock(doors: Vec<Door>) -> Knocked {
    let mut servers: Vec<String> = doors.iter().map(|door| door.server.clone()).collect();
    let mut doors = doors.into_iter().enumerate();
    let (mut count, mut open, mut failures) = (0, vec![false; servers.len()], Vec::new());
    let mut answers = FuturesUnordered::new();
    let mut next_at = Instant::now();
    loop {
        let is_last = count == servers.len();
        let answer = tokio::select! {
            biased;
            Some(answer) = answers.next() => answer,
            () = sleep_until(next_at), if !is_last => {
                if let Some((at, door)) = doors.next() {
                    (count, open[at]) = (at + 1, true);
                    next_at = Instant::now() + door.head_start;
                    answers.push(async move { (at, ask(door).await) });
                }
                continue;
            }
            else => break,
        };
        let (at, answer) = answer;
        match answer {
            Answer::Alive(channel) => {
                open[at] = false;
                let answered = Ok((at, std::mem::take(&mut servers[at]), channel));
                return Knocked { asked: Asked { count, silent: places(&open) }, answered };
            }
            Answer::Unreachable(why) => {
                open[at] = false;
                failures.push((servers[at].clone(), why));
            }
            Answer::Silent(within) => failures.push((servers[at].clone(), format!("no answer within {within:?}"))),
        }
        next_at = Instant::now();
    }
    Knocked { asked: Asked { count, silent: places(&open) }, answered: Err(failures) }
}

fn places(of: &[bool]) -> Vec<usize> {
    of.iter().enumerate().filter_map(|(at, is)| is.then_some(at)).collect()
}

async fn ask(door: Door) -> Answer {
    let endpoint = match door.endpoint {
        Ok(endpoint) => endpoint,
        Err(why) => return Answer::Unreachable(why),
    };
    match timeout(door.within, is_alive(&endpoint)).await {
        Ok(Ok(channel)) => Answer::Alive(channel),
        Ok(Err(error)) => Answer::Unreachable(chain(&error)),
        Err(_) => Answer::Silent(door.within),
    }
}

async fn is_alive(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    let mut channel = endpoint.connect().await?;
    poll_fn(|context| channel.poll_ready(context)).await?;
    let request = http::Request::get(SIGN_OF_LIFE).body(Body::empty()).expect("a path makes a request");
    channel.call(request).await?;
    Ok(channel)
}
