//! Who gets in, and what they see.

use axum::body::Body;
use http::{Method, header};
use pendula_model::Timestamp;
use pendula_model::token::Scope;
use pendula_server::api::{Guard, RouteInfo, inventory};
use serde_json::json;

use super::{Answer, Site, job, request};
use pendula_server::SystemClock;
use pendula_server::auth::{BootstrapError, WeakSecret, bootstrap};
use pendula_store::{MemoryStore, Store};

/// A path of a route with its names replaced by something of the app `demo`.
async fn path_in_demo(site: &Site, route: &RouteInfo) -> String {
    let instance = existing_instance(site).await;
    route
        .path
        .replace("{app}", "demo")
        .replace("{job}", "there")
        .replace("{id}", &instance)
        .replace("{task}", "0")
        .replace("{worker}", "w1")
        .replace("{token}", "1")
}

async fn existing_instance(site: &Site) -> String {
    site.post("/api/v1/apps/demo/jobs", &job("there")).await;
    let run = json!({ "idempotency_key": "the-one", "delay": "1h" });
    let run = site.post("/api/v1/apps/demo/jobs/there/run", &run).await.json();
    run["instance"].as_str().expect("an instance").to_owned()
}

#[tokio::test]
async fn sec_1_every_route_refuses_who_may_not_before_it_reads_the_body() {
    let site = Site::new().await;
    let auth = site.auth();
    let past = Timestamp::from_millis(1_700_000_000_000);
    let (_, expired) = auth.create("expired", Scope::Admin, Some(past)).await.unwrap();
    let (token, revoked) = auth.create("revoked", Scope::Admin, None).await.unwrap();
    let accepted = site.call(Method::GET, "/api/v1/whoami", Some(revoked.reveal()), None).await;
    assert_eq!(accepted.status, 200, "so that it is remembered when it is revoked");
    assert!(auth.revoke(token.id).await.unwrap());
    let worker = site.token(Scope::Worker { app: site.world.app }).await;
    let metrics = site.token(Scope::Metrics).await;

    let mut guarded = 0;
    for route in inventory() {
        let path = path_in_demo(&site, &route).await;
        // Not JSON, and not announced as such: whoever reads it complains about it.
        let call = async |token: Option<&str>| {
            let body = Some("{ not json".to_owned());
            site.call(route.method.clone(), &path, token, body).await
        };
        if route.guard == Guard::Anonymous {
            assert!(["/livez", "/readyz"].contains(&route.path.as_str()), "{route:?} is open to everybody");
            continue;
        }
        guarded += 1;
        let nobody =
            [None, Some(""), Some("null"), Some("x y"), Some("é"), Some(expired.reveal()), Some(revoked.reveal())];
        for token in nobody {
            let answer = call(token).await;
            assert_eq!((answer.status.as_u16(), &*answer.code()), (401, "unauthenticated"), "{route:?} {token:?}");
            assert!(answer.headers.contains_key(header::WWW_AUTHENTICATE));
        }
        assert_eq!(call(Some(&worker)).await.status, 403, "{route:?} as a worker");
        if route.path != "/metrics" {
            assert_eq!(call(Some(&metrics)).await.status, 403, "{route:?} with a token for metrics");
        }
        let foreign = call(Some(&site.others)).await;
        match route.guard {
            Guard::App(_) => foreign.refused(404, "app_not_found"),
            Guard::Instance(_) => foreign.refused(404, "instance_not_found"),
            Guard::Server(permission) if format!("{permission:?}") != "View" => foreign.refused(403, "forbidden"),
            _ => serde_json::Value::Null,
        };
    }
    assert!(guarded > 30);
}

#[tokio::test]
async fn credentials_count_only_where_they_belong() {
    let site = Site::new().await;
    let whoami = |name: &str, value: String| {
        let request = request(Method::GET, "/api/v1/whoami").header(name, value).body(Body::empty()).unwrap();
        site.send(request)
    };
    whoami("authorization", format!("bearer  {}", site.admin)).await.expect(200);
    for (name, value) in [
        ("authorization", site.admin.clone()),
        ("authorization", format!("Basic {}", site.admin)),
        ("authorization", format!("Bearer {}x", site.admin)),
        ("authorization", format!("Bearer {}", site.admin.to_uppercase())),
        ("cookie", format!("token={}", site.admin)),
        ("x-token", site.admin.clone()),
    ] {
        whoami(name, value).await.refused(401, "unauthenticated");
    }
    let twice = request(Method::GET, "/api/v1/whoami")
        .header("authorization", format!("Bearer {}", site.admin))
        .header("authorization", format!("Bearer {}", site.token));
    site.send(twice.body(Body::empty()).unwrap()).await.refused(401, "unauthenticated");
    let path = format!("/api/v1/whoami?token={}", site.admin);
    site.call(Method::GET, &path, None, None).await.refused(401, "unauthenticated");
    // Tokens of other systems are just unknown.
    let forged = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.";
    site.call(Method::GET, "/api/v1/whoami", Some(forged), None).await.refused(401, "unauthenticated");
}

#[tokio::test]
async fn an_apps_token_sees_its_app_alone() {
    let site = Site::new().await;
    let own = |method, path, body| site.call(method, path, Some(&site.token), body);
    site.post("/api/v1/apps/other/jobs", &job("secret-job")).await.expect(201);
    let theirs = site.post("/api/v1/apps/other/jobs/secret-job/run", &json!({ "delay": "1h" })).await.expect(201);
    let theirs = theirs["instance"].as_str().unwrap().to_owned();
    let theirs_path = format!("/api/v1/instances/{theirs}");
    own(Method::POST, "/api/v1/apps/demo/jobs", Some(job("mine").to_string())).await.expect(201);
    own(Method::POST, "/api/v1/apps/demo/jobs/mine/run", None).await.expect(201);

    let mut seen = String::new();
    for path in
        ["/api/v1/apps", "/api/v1/instances", "/api/v1/apps/demo/jobs", "/api/v1/apps/demo/workers", "/api/v1/whoami"]
    {
        let answer = own(Method::GET, path, None).await;
        assert_eq!(answer.status, 200, "{path} {answer:?}");
        seen += &answer.text;
    }
    assert!(seen.contains("mine") && !seen.contains("other") && !seen.contains("secret") && !seen.contains(&theirs));

    let foreign = own(Method::GET, "/api/v1/apps/other", None).await;
    let absent = own(Method::GET, "/api/v1/apps/none", None).await;
    assert_eq!(foreign.text, absent.text, "what exists elsewhere looks like what does not exist");
    let foreign = own(Method::GET, &theirs_path, None).await;
    let absent = own(Method::GET, "/api/v1/instances/1", None).await;
    assert_eq!(foreign.text, absent.text);
    own(Method::GET, "/api/v1/instances?app=other", None).await.refused(404, "app_not_found");
    own(Method::POST, "/api/v1/apps", Some(json!({ "name": "new" }).to_string())).await.refused(403, "forbidden");
    let scripts = Some(json!({ "allow_scripts": true }).to_string());
    own(Method::PATCH, "/api/v1/apps/demo", scripts).await.refused(403, "forbidden");
    own(Method::DELETE, "/api/v1/apps/demo", None).await.refused(403, "forbidden");
    own(Method::GET, "/api/v1/tokens", None).await.refused(403, "forbidden");
    own(Method::GET, "/metrics", None).await.refused(403, "forbidden");
}

#[tokio::test]
async fn sec_2_tokens_are_shown_once_stored_hashed_and_revoked_at_once() {
    let site = Site::new().await;
    let wanted = json!({ "name": "ci", "kind": "app", "app": "demo", "expires_in": "90d" });
    let made = site.post("/api/v1/tokens", &wanted).await.expect(201);
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("pend_a") && made["expires_at"].is_string());
    let list = site.get("/api/v1/tokens").await;
    assert!(list.text.contains("\"ci\"") && !list.text.contains(secret) && !list.text.contains("\"secret\""));
    let stored = format!("{:?}", site.world.server().state().store.tokens().await.unwrap());
    assert!(!stored.contains(secret));

    let me = site.call(Method::GET, "/api/v1/whoami", Some(secret), None).await.expect(200);
    assert_eq!(me, json!({ "token": "ci", "kind": "app", "app": "demo" }));
    let path = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    site.call(Method::DELETE, &path, Some(&site.admin), None).await.expect(204);
    site.call(Method::GET, "/api/v1/whoami", Some(secret), None).await.refused(401, "unauthenticated");
    site.call(Method::DELETE, &path, Some(&site.admin), None).await.refused(404, "token_not_found");

    for (wanted, code) in [
        (json!({ "name": "", "kind": "admin" }), "invalid_value"),
        (json!({ "name": "a", "kind": "app" }), "invalid_value"),
        (json!({ "name": "a", "kind": "admin", "app": "demo" }), "invalid_value"),
        (json!({ "name": "a", "kind": "admin", "expires_in": "0s" }), "invalid_value"),
        (json!({ "name": "a", "kind": "admin", "expires_in": "soon" }), "invalid_value"),
        (json!({ "name": "configured admin", "kind": "admin" }), "invalid_value"),
        (json!({ "name": "a", "kind": "worker", "app": "none" }), "app_not_found"),
        (json!({ "name": "a", "kind": "root" }), "invalid_body"),
    ] {
        assert_eq!(site.post("/api/v1/tokens", &wanted).await.code(), code, "{wanted}");
    }
}

#[tokio::test]
async fn sec_4_a_workers_token_ends_with_its_app_and_tells_who_waits_on_it() {
    let site = Site::new().await;
    let auth = site.auth();
    let worker = site.token(Scope::Worker { app: site.other_app }).await;
    let principal = auth.authenticate(Some(&format!("Bearer {worker}"))).await.unwrap();
    let waiting = tokio::spawn({
        let auth = auth.clone();
        let principal = principal.clone();
        async move { auth.ended(&principal).await }
    });
    site.call(Method::DELETE, "/api/v1/apps/other", Some(&site.admin), None).await.expect(204);
    crate::world::soon("the session hears of it", waiting).await.unwrap();
    assert!(auth.authenticate(Some(&format!("Bearer {worker}"))).await.is_err());
    // And one that comes too late is told at once.
    crate::world::soon("a late session hears of it", auth.ended(&principal)).await;
}

#[tokio::test]
async fn failed_authentications_are_limited_per_peer() {
    let site = Site::new().await;
    let attempt = async |peer: [u8; 4], token: &str| -> Answer {
        let peer = axum::extract::ConnectInfo(std::net::SocketAddr::from((peer, 1)));
        let request =
            http::Request::get("/api/v1/whoami").extension(peer).header("authorization", format!("Bearer {token}"));
        site.send(request.body(Body::empty()).unwrap()).await
    };
    let (bad, good) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    attempt(bad, &site.admin).await.expect(200);
    let mut blocked = 0;
    for number in 0..40 {
        let answer = attempt(bad, &format!("guess-{number}")).await;
        if answer.status == 429 {
            blocked += 1;
            assert!(answer.headers.contains_key(header::RETRY_AFTER));
            answer.refused(429, "too_many_failures");
        }
    }
    assert!(blocked >= 15, "{blocked}");
    attempt(good, "guess").await.refused(401, "unauthenticated");
    // Who was let in just now shares an address with the guesser and is not punished for it.
    attempt(bad, &site.admin).await.expect(200);
}

#[tokio::test]
async fn sec_2_the_first_start_makes_an_admin_and_weak_secrets_keep_it_from_starting() {
    let (one, two) = (MemoryStore::new(4), MemoryStore::new(4));
    let start = async |store: &MemoryStore, configured: Option<&str>| bootstrap(store, &SystemClock, configured).await;
    let first = start(&one, None).await.unwrap().expect("there was no token");
    let other = start(&two, None).await.unwrap().expect("there was no token");
    assert_ne!(first.reveal(), other.reveal(), "two installations share nothing");
    assert!(start(&one, None).await.unwrap().is_none(), "it is shown once");

    for weak in ["", "123456", "admin", "password", "powerjob_admin", "default_token", "short-but-random-4f9a"] {
        let refused = start(&one, Some(weak)).await.expect_err(weak);
        let BootstrapError::Weak(why) = refused else { panic!("{refused:?}") };
        assert_eq!(why == WeakSecret::Empty, weak.is_empty());
        assert!(weak.is_empty() || !why.to_string().contains(weak), "a secret is not repeated");
    }

    let (old, new) = ("kX2wq9mV7cT4hZ0sLr8uJ5nB3yE6aD1f", "pQ7vR2xN9bM4kW8tY1zC5gH3jF6dS0aL");
    for configured in [old, old, new] {
        assert!(start(&two, Some(configured)).await.unwrap().is_none());
    }
    let tokens = two.tokens().await.unwrap();
    assert_eq!(tokens.len(), 2, "the first one, and the newly configured in place of the old: {tokens:?}");
    // Locked out: the only administrator was revoked.
    for token in tokens {
        two.token_delete(token.id).await.unwrap();
    }
    assert!(start(&two, None).await.unwrap().is_some());
}

#[tokio::test]
async fn changes_are_audited_without_secrets() {
    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::TRACE);
    let _guard = tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish());

    let site = Site::new().await;
    let made = site.post("/api/v1/tokens", &json!({ "name": "ci\nforged", "kind": "admin" })).await;
    made.refused(422, "invalid_value");
    let made = site.post("/api/v1/tokens", &json!({ "name": "ci", "kind": "admin" })).await.expect(201);
    let secret = made["secret"].as_str().unwrap();
    site.call(Method::POST, "/api/v1/apps/demo/jobs", Some(secret), Some(job("audited").to_string())).await.expect(201);
    site.call(Method::GET, "/api/v1/apps/demo/jobs", Some(secret), None).await.expect(200);
    site.call(Method::POST, "/api/v1/apps/demo/jobs", Some(&site.others), Some("{}".into()))
        .await
        .refused(404, "app_not_found");

    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let audit: Vec<_> = text.lines().filter(|line| line.contains(" audit: ")).collect();
    let created = audit.iter().find(|line| line.contains("create_job")).unwrap_or_else(|| panic!("no audit in {text}"));
    assert!(
        created.contains("token=\"ci\"") && created.contains("/jobs/audited") && created.contains("status=201"),
        "{created}"
    );
    assert!(!audit.iter().any(|line| line.contains("list_jobs")), "reading is no change");
    for secret in [secret, &site.admin, &site.token] {
        assert!(!text.contains(secret), "a secret is in the log");
    }
}
