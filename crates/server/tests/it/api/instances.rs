//! Running jobs, and what can be done to instances.

use std::sync::Arc;

use axum::body::Body;
use http::{Method, header};
use serde_json::{Value, json};

use super::{Answer, Site, job, request};

const JOBS: &str = "/api/v1/apps/demo/jobs";

async fn site_with_job() -> Site {
    let site = Site::new().await;
    site.post(JOBS, &job("a")).await.expect(201);
    site
}

async fn run(site: &Site, body: &Value) -> Value {
    site.post(&format!("{JOBS}/a/run"), body).await.expect(201)
}

fn id(run: &Value) -> String {
    run["instance"].as_str().unwrap_or_else(|| panic!("no instance: {run}")).to_owned()
}

#[tokio::test]
async fn a_run_is_on_disk_when_it_is_acknowledged() {
    let site = site_with_job().await;
    let answer = site.post(&format!("{JOBS}/a/run"), &json!({ "params": { "k": "v" }, "priority": 7 })).await;
    let location = answer.headers[header::LOCATION].to_str().unwrap().to_owned();
    let run = answer.expect(201);
    assert_eq!((&run["created"], location), (&json!(true), format!("/api/v1/instances/{}", id(&run))));
    let view = site.get(&format!("/api/v1/instances/{}", id(&run))).await.expect(200);
    assert_eq!((&view["app"], &view["job"], &view["state"]), (&json!("demo"), &json!("a"), &json!("waiting")));
    assert_eq!((&view["params"], &view["priority"], &view["origin"]), (&json!({ "k": "v" }), &json!(7), &json!("api")));
    let tasks = site.get(&format!("/api/v1/instances/{}/tasks", id(&run))).await.expect(200);
    assert_eq!((&tasks["items"][0]["name"], &tasks["items"][0]["state"]), (&json!("root"), &json!("waiting")));
    let explained = site.get(&format!("/api/v1/instances/{}/explain", id(&run))).await.expect(200);
    assert!(explained["why"].as_str().unwrap().contains("no worker"), "{explained}");
    // Without a body, and without a content type.
    site.call(Method::POST, &format!("{JOBS}/a/run"), Some(&site.token), None).await.expect(201);
    site.post(&format!("{JOBS}/none/run"), &json!({})).await.refused(404, "job_not_found");
    for (body, field) in [
        (json!({ "delay": "soon" }), "delay"),
        (json!({ "delay": "1s", "due_at": "2030-01-01T00:00:00Z" }), "delay"),
        (json!({ "priority": 101 }), "priority"),
        (json!({ "idempotency_key": "" }), "idempotency_key"),
        (json!({ "idempotency_key": "k".repeat(129) }), "idempotency_key"),
        (json!({ "params": { "large": "x".repeat(70_000) } }), "params"),
    ] {
        let problem = site.post(&format!("{JOBS}/a/run"), &body).await.refused(422, "invalid_value");
        assert_eq!(problem["field"], field);
    }
}

#[tokio::test]
async fn the_same_idempotency_key_is_the_same_instance() {
    let site = Arc::new(site_with_job().await);
    let run = async |header: Option<&str>, body: Value| -> Answer {
        let mut request = request(Method::POST, &format!("{JOBS}/a/run"))
            .header(header::AUTHORIZATION, format!("Bearer {}", site.token))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = header {
            request = request.header("idempotency-key", key);
        }
        site.send(request.body(Body::from(body.to_string())).unwrap()).await
    };
    let first = run(Some("k1"), json!({})).await.expect(201);
    let again = run(None, json!({ "idempotency_key": "k1" })).await.expect(200);
    assert_eq!((id(&again), &again["created"]), (id(&first), &json!(false)));
    run(Some("k1"), json!({ "idempotency_key": "k2" })).await.refused(422, "invalid_value");

    // Many at once make one.
    let racing: Vec<_> = (0..20)
        .map(|_| {
            let site = site.clone();
            tokio::spawn(
                async move { site.post(&format!("{JOBS}/a/run"), &json!({ "idempotency_key": "race" })).await },
            )
        })
        .collect();
    let (mut created, mut ids) = (0, std::collections::BTreeSet::new());
    for answer in racing {
        let answer = answer.await.unwrap();
        created += usize::from(answer.status == 201);
        ids.insert(id(&answer.json()));
    }
    assert_eq!((created, ids.len()), (1, 1));
}

#[tokio::test]
async fn many_runs_stand_each_for_itself() {
    let site = site_with_job().await;
    let runs = json!({ "runs": [{}, { "idempotency_key": "k" }, { "idempotency_key": "k" }, { "delay": "x" }, {}] });
    let result = site.post(&format!("{JOBS}/a/run-many"), &runs).await.expect(200);
    let runs = result["runs"].as_array().unwrap();
    let created: Vec<_> = runs.iter().map(|run| run["created"].as_bool().unwrap()).collect();
    assert_eq!(created, [true, true, false, false, true]);
    assert_eq!(runs[1]["instance"], runs[2]["instance"]);
    assert_eq!((&runs[3]["problem"]["code"], runs[3].get("instance")), (&json!("invalid_value"), None));
    let absent = site.post(&format!("{JOBS}/none/run-many"), &json!({ "runs": [{}] })).await.expect(200);
    assert_eq!(absent["runs"][0]["problem"]["code"], "job_not_found");
    for none in [json!([]), json!([{ "delay": "x" }])] {
        let result = site.post(&format!("{JOBS}/a/run-many"), &json!({ "runs": none })).await.expect(200);
        assert_eq!(result["runs"].as_array().unwrap().len(), none.as_array().unwrap().len());
    }
    let too_many = json!({ "runs": vec![json!({}); 10_001] });
    site.post(&format!("{JOBS}/a/run-many"), &too_many).await.refused(422, "invalid_value");
    let many = json!({ "runs": vec![json!({}); 10_000] });
    let result = site.post(&format!("{JOBS}/a/run-many"), &many).await.expect(200);
    assert!(result["runs"].as_array().unwrap().iter().all(|run| run["created"] == true));
}

#[tokio::test]
async fn instances_are_found_by_app_job_state_and_time() {
    let site = site_with_job().await;
    site.post(JOBS, &job("b")).await.expect(201);
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(id(&run(&site, &json!({ "delay": "1h" })).await));
    }
    let b = id(&site.post(&format!("{JOBS}/b/run"), &json!({ "delay": "1h" })).await.expect(201));
    site.post(&format!("/api/v1/instances/{}/cancel", made[0]), &Value::Null).await.expect(200);
    made.reverse();

    let list = async |query: &str| -> Vec<String> {
        let page = site.get(&format!("/api/v1/instances?{query}")).await.expect(200);
        page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(list("app=demo&job=a").await, made);
    assert_eq!(list("app=demo&job=b").await, [b]);
    assert_eq!(list("state=canceled").await, made[4..]);
    assert_eq!(list("state=waiting,canceled").await.len(), 6);
    assert_eq!(list("from=2100-01-01T00:00:00Z").await, [""; 0]);
    assert_eq!(list("before=2100-01-01T00:00:00%2B02:00").await.len(), 6);
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = site.get(&format!("/api/v1/instances?app=demo&job=a&limit=2{cursor}")).await.expect(200);
        paged.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, made);
    site.get("/api/v1/instances?job=a").await.refused(400, "invalid_query");
    site.get("/api/v1/instances?state=done").await.refused(400, "invalid_query");
    site.get("/api/v1/instances?from=yesterday").await.refused(400, "invalid_query");
    site.get("/api/v1/instances?app=demo&job=none").await.refused(404, "job_not_found");
    for id in ["x", "-1", "0", "99999999999999999999", "1"] {
        site.get(&format!("/api/v1/instances/{id}")).await.refused(404, "instance_not_found");
    }
}

#[tokio::test]
async fn an_ended_instance_stays_ended_and_can_be_run_again() {
    let site = site_with_job().await;
    let first = id(&run(&site, &json!({ "params": { "k": 1 }, "priority": 3 })).await);
    let path = |action: &str| format!("/api/v1/instances/{first}/{action}");
    site.post(&path("retry"), &Value::Null).await.refused(409, "instance_active");
    let canceled = site.post(&path("cancel"), &Value::Null).await.expect(200);
    assert_eq!((&canceled["state"], &canceled["reason"]), (&json!("canceled"), &json!("by_user")));
    site.post(&path("cancel"), &Value::Null).await.refused(409, "instance_ended");
    site.post(&path("stop"), &Value::Null).await.refused(409, "instance_ended");
    let explained = site.get(&path("explain")).await.expect(200);
    assert!(explained["why"].as_str().unwrap().contains("by_user"), "{explained}");

    let again = site.post(&path("retry"), &Value::Null).await.expect(201);
    let view = site.get(&format!("/api/v1/instances/{}", id(&again))).await.expect(200);
    assert_eq!((&view["rerun_of"], &view["origin"]), (&json!(first), &json!("rerun")));
    assert_eq!((&view["params"], &view["priority"]), (&json!({ "k": 1 }), &json!(3)));

    site.call(Method::DELETE, &format!("{JOBS}/a"), Some(&site.admin), None).await.expect(204);
    site.post(&path("retry"), &Value::Null).await.refused(409, "job_deleted");
    let view = site.get(&format!("/api/v1/instances/{first}")).await.expect(200);
    assert_eq!(view["job"], "a", "history keeps the name");
    site.post(JOBS, &job("a")).await.expect(201);
    site.post(&path("retry"), &Value::Null).await.refused(409, "job_deleted");
}
