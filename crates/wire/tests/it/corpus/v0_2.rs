//! What release 0.2 says besides: instances with many tasks, and where the servers are.

use pendula_wire::v1::*;

use super::v0_1::{dispatch, dispatch_max, held, held_max, text, welcome, welcome_max};
use super::{Example, three};

fn part() -> Dispatch {
    Dispatch {
        role: TaskRole::Shard.into(),
        task_name: text(),
        input: br#"{"file":"a.txt"}"#.as_slice().into(),
        input_content_type: "application/json".to_owned(),
        shard_index: 2,
        shard_total: 8,
        emitted: 4000,
        ..dispatch()
    }
}

fn part_max() -> Dispatch {
    Dispatch {
        // A role of a version to come.
        role: i32::MAX,
        task_name: "x".repeat(1000),
        input: vec![0xff; 1000].into(),
        input_content_type: "x".repeat(1000),
        shard_index: u32::MAX,
        shard_total: u32::MAX,
        emitted: u64::MAX,
        ..dispatch_max()
    }
}

fn sub_task() -> SubTask {
    SubTask { name: text(), input: "a.txt".into(), content_type: "text/plain".to_owned() }
}

fn sub_task_max() -> SubTask {
    SubTask { name: "x".repeat(1000), input: vec![0xff; 1000].into(), content_type: "x".repeat(1000) }
}

fn request() -> MapRequest {
    MapRequest { task: Some(held()), first: 3, tasks: vec![sub_task(), SubTask::default()] }
}

fn request_max() -> MapRequest {
    MapRequest { task: Some(held_max()), first: u64::MAX, tasks: vec![sub_task_max(); 10] }
}

fn reply() -> MapReply {
    MapReply { task: Some(held()), emitted: 5, refusal: text() }
}

fn reply_max() -> MapReply {
    MapReply { task: Some(held_max()), emitted: u64::MAX, refusal: "x".repeat(1000) }
}

fn wish() -> ResultRequest {
    ResultRequest { task: Some(held()), request: 2, from: 1000 }
}

fn wish_max() -> ResultRequest {
    ResultRequest { task: Some(held_max()), request: u64::MAX, from: u64::MAX }
}

fn result() -> TaskResult {
    TaskResult {
        task: 7,
        name: text(),
        outcome: TaskOutcome::Lost.into(),
        result: br#"{"words":3}"#.as_slice().into(),
        content_type: "application/json".to_owned(),
        reason: "worker_lost".to_owned(),
        message: text(),
        worker: "w1".to_owned(),
    }
}

fn result_max() -> TaskResult {
    // An outcome of a version to come.
    TaskResult { task: u64::MAX, outcome: i32::MAX, result: vec![0xff; 1000].into(), ..result() }
}

fn page() -> ResultPage {
    ResultPage {
        task: Some(held()),
        request: 2,
        results: vec![result(), TaskResult::default()],
        next: 1200,
        end: true,
        refusal: text(),
    }
}

fn page_max() -> ResultPage {
    ResultPage {
        task: Some(held_max()),
        request: u64::MAX,
        results: vec![result_max(); 10],
        next: u64::MAX,
        end: true,
        refusal: "x".repeat(1000),
    }
}

fn introduced() -> Welcome {
    let servers = vec!["http://10.0.0.1:7700".to_owned(), "https://server2.example".to_owned()];
    Welcome { servers, ..welcome() }
}

fn introduced_max() -> Welcome {
    Welcome { servers: vec!["x".repeat(1000); 100], ..welcome_max() }
}

pub fn examples() -> Vec<Example> {
    let to_server = |message| ToServer { message: Some(message) };
    let to_worker = |message| ToWorker { message: Some(message) };
    let maps = MapRequests { requests: vec![request()] };
    let replies = MapReplies { replies: vec![reply()] };
    let wishes_max = ResultRequests { requests: vec![wish_max(); 100] };
    let pages_max = ResultPages { pages: vec![page_max(); 10] };
    [
        three(
            to_server(to_server::Message::Maps(maps.clone())),
            to_server(to_server::Message::Results(wishes_max.clone())),
        ),
        three(
            to_worker(to_worker::Message::Maps(replies.clone())),
            to_worker(to_worker::Message::Results(pages_max.clone())),
        ),
        three(Dispatches { dispatches: vec![part()] }, Dispatches { dispatches: vec![part_max(); 100] }),
        three(part(), part_max()),
        three(introduced(), introduced_max()),
        three(maps, MapRequests { requests: vec![request_max(); 10] }),
        three(request(), request_max()),
        three(sub_task(), sub_task_max()),
        three(replies, MapReplies { replies: vec![reply_max(); 100] }),
        three(reply(), reply_max()),
        three(ResultRequests { requests: vec![wish()] }, wishes_max),
        three(wish(), wish_max()),
        three(ResultPages { pages: vec![page()] }, pages_max),
        three(page(), page_max()),
        three(result(), result_max()),
    ]
    .into_iter()
    .flatten()
    .collect()
}
