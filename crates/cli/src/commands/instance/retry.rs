//! Running again what has ended, and trying single tasks again.

use pendula_client::{Client, RunKey};
use pendula_model::{InstanceId, TaskId};

use crate::commands::ask::random_key;
use crate::commands::watch::wait;
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, count};

pub(super) async fn retry(
    screen: &Screen,
    client: &Client,
    id: InstanceId,
    only_unsuccessful: bool,
    waits: bool,
) -> Outcome {
    let key = random_key();
    let result = match only_unsuccessful {
        true => client.instance_retry_unsuccessful(id, RunKey::Given(&key)).await?,
        false => client.instance_retry(id, RunKey::Given(&key)).await?,
    };
    let again = result.instance.ok_or_else(|| Failure::refused("the server made no instance"))?;
    if !waits {
        let what = if only_unsuccessful { "those tasks again that did not succeed in" } else { "what ran as" };
        return screen.show(&result, |screen| {
            screen.line(format!("instance {again} runs {what} {id}\n  follow it: pendula instance logs -f {again}"))
        });
    }
    wait(screen, client, again).await?.verdict(screen, again, None)
}

pub(super) async fn retry_tasks(screen: &Screen, client: &Client, id: InstanceId, tasks: Vec<TaskId>) -> Outcome {
    let all = tasks.is_empty();
    let mut done = client.tasks_retry(id, tasks).await?;
    // No more than there were at first: what fails again meanwhile is for another time.
    let (most, mut latest) = (done.retried + done.left, done);
    while all && latest.left > 0 && latest.retried > 0 && done.retried < most {
        latest = client.tasks_retry(id, Vec::new()).await?;
        done.retried += latest.retried;
        done.left = latest.left;
    }
    screen.show(&done, |screen| {
        let left = match done.left {
            0 => String::new(),
            left => format!("; {} stand as failed or lost", count(left)),
        };
        screen.line(format!("{} tasks of instance {id} are tried again{left}", count(done.retried)))
    })
}
