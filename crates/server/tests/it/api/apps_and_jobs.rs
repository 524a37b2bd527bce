//! Apps, jobs and their definitions.

use axum::body::Body;
use http::{Method, header};
use serde_json::{Value, json};

use super::{Answer, Site, job, request};

const JOBS: &str = "/api/v1/apps/demo/jobs";

async fn put(site: &Site, name: &str, header: Option<(&str, &str)>, body: &Value) -> Answer {
    let mut request = request(Method::PUT, &format!("{JOBS}/{name}"))
        .header(header::AUTHORIZATION, format!("Bearer {}", site.token))
        .header(header::CONTENT_TYPE, "application/json");
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    site.send(request.body(Body::from(body.to_string())).unwrap()).await
}

#[tokio::test]
async fn apps_come_and_go() {
    let site = Site::new().await;
    let app = site.post("/api/v1/apps", &json!({ "name": "每日 报表" })).await;
    assert_eq!(app.headers[header::LOCATION], "/api/v1/apps/%E6%AF%8F%E6%97%A5%20%E6%8A%A5%E8%A1%A8");
    let path = app.headers[header::LOCATION].to_str().unwrap().to_owned();
    app.expect(201);
    site.post("/api/v1/apps", &json!({ "name": "每日 报表" })).await.refused(409, "app_exists");
    site.post("/api/v1/apps", &json!({ "name": "a/b" })).await.refused(422, "invalid_value");

    let script = json!({ "name": "s", "processor": { "shell": "ls" } });
    let refused = site.post(&format!("{path}/jobs"), &script).await.refused(403, "scripts_not_allowed");
    assert!(refused["detail"].as_str().unwrap().contains("allow-scripts"));
    let allow = Some(json!({ "allow_scripts": true }).to_string());
    let app = site.call(Method::PATCH, &path, Some(&site.admin), allow).await.expect(200);
    assert_eq!((&app["allow_scripts"], &app["version"]), (&json!(true), &json!(2)));
    site.post(&format!("{path}/jobs"), &script).await.expect(201);

    site.call(Method::DELETE, &path, Some(&site.admin), None).await.refused(409, "app_not_empty");
    site.call(Method::DELETE, &format!("{path}/jobs/s"), Some(&site.admin), None).await.expect(204);
    site.call(Method::DELETE, &path, Some(&site.admin), None).await.expect(204);
    site.get(&path).await.refused(404, "app_not_found");

    let page = site.get("/api/v1/apps?limit=1").await.expect(200);
    assert_eq!(page["items"][0]["name"], "demo");
    let next = format!("/api/v1/apps?limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
    let page = site.get(&next).await.expect(200);
    assert_eq!(page["items"][0]["name"], "other");
    assert!(page.get("next_cursor").is_none());
}

#[tokio::test]
async fn a_job_is_created_edited_and_deleted() {
    let site = Site::new().await;
    let created = site.post(JOBS, &job("a")).await;
    assert_eq!(created.headers[header::ETAG], "\"1\"");
    assert_eq!(created.headers[header::LOCATION], format!("{JOBS}/a"));
    let view = created.expect(201);
    assert_eq!((&view["app"], &view["version"], &view["revision"]), (&json!("demo"), &json!(1), &json!(1)));
    site.post(JOBS, &job("a")).await.refused(409, "job_exists");

    let mut edited = job("a");
    edited["priority"] = json!(5);
    put(&site, "a", Some(("if-match", "\"7\"")), &edited).await.refused(412, "version_mismatch");
    let view = put(&site, "a", Some(("if-match", "\"1\"")), &edited).await.expect(200);
    assert_eq!((&view["version"], &view["spec"]["priority"]), (&json!(2), &json!(5)));
    put(&site, "a", Some(("if-match", "\"1\"")), &job("a")).await.refused(412, "version_mismatch");
    put(&site, "a", Some(("if-match", "*")), &edited).await.expect(200);
    put(&site, "b", Some(("if-match", "*")), &job("b")).await.refused(412, "version_mismatch");
    put(&site, "b", Some(("if-match", "\"1\"")), &job("b")).await.refused(412, "version_mismatch");
    put(&site, "a", Some(("if-none-match", "*")), &edited).await.refused(412, "version_mismatch");
    put(&site, "a", Some(("if-match", "one")), &edited).await.refused(400, "invalid_header");
    put(&site, "a", Some(("idempotency-key", "k")), &edited).await.refused(400, "invalid_header");
    put(&site, "b", None, &job("b")).await.expect(201);
    let refused = put(&site, "b", None, &job("c")).await.refused(422, "invalid_value");
    assert_eq!(refused["field"], "name");

    let disabled = site.post(&format!("{JOBS}/a/disable"), &Value::Null).await.expect(200);
    assert_eq!(disabled["spec"]["enabled"], false);
    let list = site.get(&format!("{JOBS}?enabled=false")).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    site.post(&format!("{JOBS}/a/enable"), &Value::Null).await.expect(200);
    site.post(&format!("{JOBS}/none/enable"), &Value::Null).await.refused(404, "job_not_found");

    let revisions = site.get(&format!("{JOBS}/a/revisions")).await.expect(200);
    let numbers: Vec<_> = revisions["items"].as_array().unwrap().iter().map(|item| &item["revision"]).collect();
    assert_eq!(numbers, [2, 1]);
    assert_eq!(site.get(&format!("{JOBS}/a/gaps")).await.expect(200), json!({ "gaps": [] }));
    site.call(Method::DELETE, &format!("{JOBS}/a"), Some(&site.token), None).await.expect(204);
    site.get(&format!("{JOBS}/a")).await.refused(404, "job_not_found");
    site.call(Method::DELETE, &format!("{JOBS}/a"), Some(&site.token), None).await.refused(404, "job_not_found");
}

#[tokio::test]
async fn jobs_are_listed_in_pages() {
    let site = Site::new().await;
    for number in 0..7 {
        site.post(JOBS, &job(&format!("job-{number}"))).await.expect(201);
    }
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = site.get(&format!("{JOBS}?limit=3{cursor}")).await.expect(200);
        names.extend(
            page["items"].as_array().unwrap().iter().map(|job| job["spec"]["name"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(names, (0..7).map(|number| format!("job-{number}")).collect::<Vec<_>>());
    let found = site.get(&format!("{JOBS}?contains=B-4")).await.expect(200);
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    site.get(&format!("{JOBS}?cursor=x")).await.refused(400, "invalid_cursor");
    for query in ["limit=0", "limit=1001", "limit=x", "enabled=maybe", "limit=1&limit=2", "nope=1", "order=1;DROP"] {
        site.get(&format!("{JOBS}?{query}")).await.refused(400, "invalid_query");
    }
}

#[tokio::test]
async fn what_cannot_work_is_refused_with_its_field() {
    let site = Site::new().await;
    for (mut spec, status, field) in [
        (json!({ "trigger": { "cron": "61 * * * * ?" } }), 422, "trigger.cron"),
        (json!({ "trigger": { "cron": "0 0 0 30 2 ?" } }), 422, "trigger.cron"),
        (json!({ "trigger": { "cron": "@daily", "timezone": "Mars/Base" } }), 422, "trigger.timezone"),
        (json!({ "trigger": { "fixed_rate": "1ms" } }), 422, "trigger.fixed_rate"),
        (json!({ "trigger": { "at": "2001-01-01T00:00:00Z" } }), 422, "trigger.at"),
        (json!({ "retry": { "attempts": 0 } }), 422, "retry.attempts"),
        (json!({ "priority": 101 }), 422, "priority"),
        (json!({ "priority": "high" }), 400, "priority"),
        (json!({ "timeout": 30 }), 400, "timeout"),
        (json!({ "retries": 3 }), 400, "retries"),
    ] {
        spec["name"] = json!("a");
        spec["processor"] = json!({ "handler": "h" });
        let problem = site.post(JOBS, &spec).await;
        assert_eq!(problem.status, status, "{spec} {problem:?}");
        let problem = problem.json();
        assert_eq!(problem["field"], field, "{spec} {problem}");
        if status == 400 {
            assert!(problem["detail"].as_str().unwrap().contains("line 1"), "{problem}");
        }
    }
    site.post(JOBS, &json!({ "name": "a" })).await.refused(400, "invalid_body");
    let form = request(Method::POST, JOBS).header("authorization", format!("Bearer {}", site.token));
    let form = form.header("content-type", "application/x-www-form-urlencoded").body(Body::from("name=a")).unwrap();
    site.send(form).await.refused(415, "unsupported_media_type");
}

#[tokio::test]
async fn the_preview_is_what_a_saved_job_shows() {
    let site = Site::new().await;
    let trigger = json!({ "cron": "0 30 2 * * ?", "timezone": "Asia/Shanghai" });
    let preview = site.post("/api/v1/preview?count=3", &trigger).await.expect(200);
    let mut spec = job("a");
    spec["trigger"] = trigger;
    let saved = site.post(JOBS, &spec).await.expect(201);
    let next = site.get(&format!("{JOBS}/a/next?count=3")).await.expect(200);
    assert_eq!(preview, next);
    assert_eq!(saved["next_fire"], next["fires"][0]);
    assert_eq!(next["fires"].as_array().unwrap().len(), 3);
    let later = site.get(&format!("{JOBS}/a/next?count=1&after=2030-01-01T00:00:00Z")).await.expect(200);
    assert_eq!(later["fires"], json!(["2030-01-01T18:30:00Z"]));
    site.post("/api/v1/preview", &json!({ "cron": "x" })).await.refused(422, "invalid_value");
    site.post("/api/v1/preview?count=0", &json!({ "cron": "@daily" })).await.refused(400, "invalid_query");

    site.post(JOBS, &job("by-hand")).await.expect(201);
    let none = site.get(&format!("{JOBS}/by-hand/next")).await.expect(200);
    assert!(none["fires"].as_array().unwrap().is_empty() && none["note"].is_string());
    site.post(&format!("{JOBS}/a/disable"), &Value::Null).await.expect(200);
    let none = site.get(&format!("{JOBS}/a/next")).await.expect(200);
    assert!(none["fires"].as_array().unwrap().is_empty() && none["note"].is_string());
}

#[tokio::test]
async fn apply_plans_and_carries_out_each_job_by_itself() {
    let site = Site::new().await;
    site.post(JOBS, &job("same")).await.expect(201);
    site.post(JOBS, &job("edited")).await.expect(201);
    let mut edited = job("edited");
    edited["description"] = json!("new");
    let bad = json!({ "name": "bad", "processor": { "handler": "h" }, "trigger": { "cron": "nope" } });
    let jobs = json!([job("same"), edited, job("new"), bad]);
    let apply = async |dry_run: bool| {
        let body = json!({ "jobs": jobs, "dry_run": dry_run });
        site.post("/api/v1/apps/demo/apply", &body).await.expect(200)
    };
    let actions = |result: &Value| -> Vec<String> {
        let jobs = result["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["action"].as_str().unwrap().to_owned()).collect()
    };
    let plan = apply(true).await;
    assert_eq!(actions(&plan), ["unchanged", "updated", "created", "refused"]);
    assert_eq!(plan["jobs"][3]["problem"]["field"], "trigger.cron");
    assert_eq!(plan["jobs"][1]["before"], job("edited"));
    site.get(&format!("{JOBS}/new")).await.refused(404, "job_not_found");

    assert_eq!(actions(&apply(false).await), actions(&plan));
    let view = site.get(&format!("{JOBS}/edited")).await.expect(200);
    assert_eq!((&view["version"], &view["spec"]["description"]), (&json!(2), &json!("new")));
    assert_eq!(actions(&apply(false).await), ["unchanged", "unchanged", "unchanged", "refused"]);

    let twice = json!({ "jobs": [job("x"), job("x")] });
    let refused = site.post("/api/v1/apps/demo/apply", &twice).await.refused(422, "invalid_value");
    assert_eq!(refused["field"], "jobs[1].name");
}

#[tokio::test]
async fn o_17_edits_race_and_none_is_lost() {
    let site = Site::new().await;
    let mut spec = job("raced");
    spec["trigger"] = json!({ "fixed_rate": "100ms" });
    site.post(JOBS, &spec).await.expect(201);
    let mut acknowledged = 0;
    for round in 0..30 {
        let view = site.get(&format!("{JOBS}/raced")).await.expect(200);
        let version = format!("\"{}\"", view["version"]);
        let edit = |text: &str| {
            let mut spec = spec.clone();
            spec["description"] = json!(format!("{text} {round}"));
            spec
        };
        let (one, two) = (edit("one"), edit("two"));
        let header = Some(("if-match", version.as_str()));
        let (one, two) = tokio::join!(put(&site, "raced", header, &one), put(&site, "raced", header, &two));
        let mut statuses = [one.status.as_u16(), two.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412], "round {round}");
        acknowledged += 1;
    }
    let view = site.get(&format!("{JOBS}/raced")).await.expect(200);
    assert_eq!(view["version"], 1 + acknowledged);

    // Disabled while it fires ten times a second: no fire time after the answer makes an instance.
    let view = site.post(&format!("{JOBS}/raced/disable"), &Value::Null).await.expect(200);
    let disabled_at = view["updated_at"].as_str().unwrap().parse::<pendula_model::Timestamp>().unwrap();
    let path = "/api/v1/instances?app=demo&job=raced&limit=1000";
    let before = site.get(path).await.expect(200);
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    let after = site.get(path).await.expect(200);
    assert_eq!(before["items"].as_array().unwrap().len(), after["items"].as_array().unwrap().len());
    for instance in after["items"].as_array().unwrap() {
        let fire: pendula_model::Timestamp = instance["fire_time"].as_str().unwrap().parse().unwrap();
        assert!(fire <= disabled_at, "{instance}");
    }
    let view = site.get(&format!("{JOBS}/raced")).await.expect(200);
    assert_eq!(view["spec"]["enabled"], false);
}
