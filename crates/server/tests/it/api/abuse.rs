//! Hostile and oversized requests: bounded, refused clearly, and harmless.

use axum::body::Body;
use http::{Method, header};
use pendula_model::TaskId;
use pendula_server::api::inventory;
use pendula_store::{InstanceFilter, JobFilter};
use serde_json::{Value, json};

use super::{Site, job, request, segment};

const JOBS: &str = "/api/v1/apps/demo/jobs";

/// Everything that the store has, as text.
async fn stored(site: &Site) -> String {
    let store = &site.world.server().state().store;
    let jobs = store.jobs(JobFilter { limit: 10_000, ..JobFilter::default() }).await.unwrap().items;
    let instances = store.instances(InstanceFilter { limit: 10_000, ..InstanceFilter::default() }).await.unwrap().items;
    let mut text = format!("{:?}{:?}", store.apps().await.unwrap(), store.tokens().await.unwrap());
    for job in &jobs {
        text += &format!("{job:?}{:?}", store.job_revisions(job.id, 100).await.unwrap());
    }
    for instance in &instances {
        text += &format!("{instance:?}{:?}", store.past_attempts(instance.id, TaskId::ROOT).await.unwrap());
    }
    text
}

#[tokio::test]
async fn sec_11_get_changes_nothing_and_has_no_hidden_verbs() {
    let site = Site::new().await;
    site.post(JOBS, &job("a")).await.expect(201);
    let run = site.post(&format!("{JOBS}/a/run"), &json!({ "delay": "1h" })).await.expect(201);
    let instance = run["instance"].as_str().unwrap();
    let fill = |path: &str| {
        path.replace("{app}", "demo")
            .replace("{job}", "a")
            .replace("{id}", instance)
            .replace("{task}", "0")
            .replace("{worker}", "w")
            .replace("{token}", "1")
    };
    let before = stored(&site).await;
    for route in inventory() {
        let path = fill(&route.path);
        if route.method == Method::GET {
            // What never ran has left nothing to be read.
            let expected = if path.ends_with("/result") { 404 } else { 200 };
            assert_eq!(site.get(&path).await.status, expected, "{path}");
            let head = site.call(Method::HEAD, &path, Some(&site.admin), None).await;
            assert_eq!((head.status.as_u16(), head.text.len()), (expected, 0), "{path}");
            // No header or parameter makes another method of it.
            let disguised = request(Method::GET, &path)
                .header(header::AUTHORIZATION, format!("Bearer {}", site.admin))
                .header("x-http-method-override", "DELETE");
            assert_eq!(site.send(disguised.body(Body::empty()).unwrap()).await.status, expected);
            site.get(&format!("{path}?_method=DELETE")).await;
        } else if !inventory().iter().any(|other| other.path == route.path && other.method == Method::GET) {
            let answer = site.get(&path).await;
            let allowed = answer.headers[header::ALLOW].to_str().unwrap().to_owned();
            assert!(allowed.contains(route.method.as_str()), "{path}: {allowed}");
            answer.refused(405, "method_not_allowed");
        }
    }
    assert_eq!(stored(&site).await, before);
}

#[tokio::test]
async fn what_is_not_served_says_so() {
    let site = Site::new().await;
    for path in
        ["/", "/api", "/api/v1", "/api/v2/apps", "/actuator/env", "/debug/pprof", "/api/v1/apps/demo/jobs/", "/..%2f"]
    {
        site.get(path).await.refused(404, "no_such_route");
        site.call(Method::GET, path, None, None).await.refused(404, "no_such_route");
    }
    for answer in [site.get("/livez").await, site.get("/api/v1/apps").await, site.get("/nope").await] {
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
    site.get("/api/v1/apps/%ff").await.refused(400, "invalid_path");
}

#[tokio::test]
async fn sec_8_strings_are_only_ever_strings() {
    let site = Site::new().await;
    let corpus = [
        "'",
        "\"",
        "';--",
        "' OR '1'='1",
        "'; DROP TABLE job; --",
        "1); DELETE FROM token; --",
        "\\'; SELECT 1; --",
        "%",
        "_",
        "%%",
        "a%' ESCAPE '!",
        "${7*7}",
        "{{7*7}}",
        "$(id)",
        "`id`",
        "|id",
        "<script>alert(1)</script>",
        "../../etc/passwd",
        "%2e%2e",
        "\u{202e}gnp",
        "NULL",
        "null",
        "0x27",
        "ＡＢＣ'",
        "🦀",
        "a\tb",
        "a\u{0}b",
        "a\r\nSet-Cookie: x=1",
        "{\"$ne\":null}",
        "1 UNION SELECT hash FROM token",
    ];
    let count = site.get("/api/v1/tokens").await.expect(200)["items"].as_array().unwrap().len();
    for text in corpus {
        let nameable = !text.contains(['/', '\u{202e}']) && !text.chars().any(char::is_control);
        let mut spec = job(text);
        spec["description"] = json!(text);
        spec["params"] = json!({ text: text });
        spec["workers"] = json!({ "labels": { text: text }, "names": [text] });
        let answer = site.post(JOBS, &spec).await;
        if !nameable {
            answer.refused(422, "invalid_value");
            continue;
        }
        let saved = answer.expect(201);
        let found = site.get(&format!("{JOBS}/{}", segment(text))).await.expect(200);
        assert_eq!((&found["spec"]["name"], &found["spec"]["params"]), (&json!(text), &spec["params"]));
        assert_eq!(found["id"], saved["id"]);
        let contains = site.get(&format!("{JOBS}?contains={}", segment(text))).await.expect(200);
        let names: Vec<_> =
            contains["items"].as_array().unwrap().iter().map(|job| job["spec"]["name"].as_str().unwrap()).collect();
        assert!(names.contains(&text), "{text}: {names:?}");
        let lower = text.to_ascii_lowercase();
        assert!(names.iter().all(|name| name.to_ascii_lowercase().contains(&lower)), "{text}: {names:?}");
        let run = json!({ "idempotency_key": text, "params": { "p": text } });
        let run = site.post(&format!("{JOBS}/{}/run", segment(text)), &run).await.expect(201);
        let instance = site.get(&format!("/api/v1/instances/{}", run["instance"].as_str().unwrap())).await.expect(200);
        assert_eq!((&instance["idempotency_key"], &instance["job"]), (&json!(text), &json!(text)));
        site.post("/api/v1/apps", &json!({ "name": text, "namespace": text })).await.expect(201);
        site.get(&format!("/api/v1/apps/{}", segment(text))).await.expect(200);
        site.get(&format!("/api/v1/instances?app={0}&job={0}", segment(text))).await.refused(404, "job_not_found");
        for query in ["cursor", "state", "from"] {
            assert_eq!(
                site.get(&format!("/api/v1/instances?{query}={}", segment(text))).await.status,
                400,
                "{query} {text}"
            );
        }
        site.get(&format!("/api/v1/instances/{}", segment(text))).await.refused(404, "instance_not_found");
        site.call(Method::DELETE, &format!("/api/v1/tokens/{}", segment(text)), Some(&site.admin), None)
            .await
            .refused(404, "token_not_found");
        site.post(&format!("/api/v1/apps/demo/workers/{}/drain", segment(text)), &Value::Null)
            .await
            .refused(404, "worker_not_found");
    }
    assert_eq!(site.get("/api/v1/tokens").await.expect(200)["items"].as_array().unwrap().len(), count);
}

#[tokio::test]
async fn sec_14_too_much_is_refused_quickly_and_clearly() {
    let site = Site::new().await;
    let raw = async |path: &str, body: String| site.call(Method::POST, path, Some(&site.token), Some(body)).await;
    let started = std::time::Instant::now();

    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(2 << 20));
    raw(JOBS, large.clone()).await.refused(413, "body_too_large");
    raw("/api/v1/apps/demo/apply", format!("{{\"jobs\":\"{}\"}}", "x".repeat(17 << 20)))
        .await
        .refused(413, "body_too_large");

    let labels: String = (0..1_000_000).map(|number| format!("\"l{number}\":\"\",")).collect();
    let many = |key: &str| {
        format!(
            "{{\"jobs\":[{{\"name\":\"a\",\"processor\":{{\"handler\":\"h\"}},\"workers\":{{\"{key}\":{{{}\"z\":\"\"}}}}}}]}}",
            labels
        )
    };
    let body = many("labels");
    assert!(body.len() < 16 << 20);
    let result = raw("/api/v1/apps/demo/apply", body).await.expect(200);
    assert_eq!(result["jobs"][0]["problem"]["field"], "workers.labels");

    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(50_000), close.repeat(50_000));
        raw(JOBS, deep.clone()).await.refused(400, "invalid_body");
        raw(JOBS, format!("{{\"name\":\"a\",\"processor\":{{\"handler\":\"h\"}},\"params\":{{\"p\":{deep}}}}}"))
            .await
            .refused(400, "invalid_body");
    }
    for cron in ["*,".repeat(100_000), "0-59/1,".repeat(50_000), "L".repeat(200_000), "0 0 0 ? * MON#1,".repeat(20_000)]
    {
        let mut spec = job("a");
        spec["trigger"] = json!({ "cron": cron });
        let problem = site.post(JOBS, &spec).await.refused(422, "invalid_value");
        assert!(problem.to_string().len() < 2_000, "{}", problem.to_string().len());
        let problem = site.post("/api/v1/preview", &spec["trigger"]).await.refused(422, "invalid_value");
        assert!(problem.to_string().len() < 2_000);
    }
    let mut spec = job("a");
    spec["params"] = json!({ "p": "x".repeat(100_000) });
    site.post(JOBS, &spec).await.refused(422, "invalid_value");
    let long = "x".repeat(10_000);
    for path in [format!("{JOBS}?{long}=1"), format!("{JOBS}?cursor={long}"), format!("/api/v1/instances?state={long}")]
    {
        let answer = site.get(&path).await;
        assert!(answer.status == 400 && answer.text.len() < 2_000, "{path} {}", answer.text.len());
    }
    site.get(&format!("{JOBS}/{long}")).await.refused(404, "job_not_found");
    site.post("/api/v1/preview?count=1001", &json!({ "cron": "@daily" })).await.refused(400, "invalid_query");
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
    site.get("/api/v1/whoami").await.expect(200);
}
