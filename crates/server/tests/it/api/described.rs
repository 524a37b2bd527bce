//! What is said about the API (OpenAPI, the manual) is what it does.

use std::collections::BTreeSet;

use http::Method;
use pendula_server::api::{CODES, Guard, inventory};
use serde_json::Value;

use super::Site;

const MANUAL: &str = include_str!("../../../../../docs/rest-api.md");

fn operations(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().expect("paths");
    let of = |(path, item): (&String, &Value)| {
        let methods: Vec<_> = item.as_object().expect("an item").keys().cloned().collect();
        methods.into_iter().map(|method| (path.clone(), method.to_uppercase())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}

#[tokio::test]
async fn the_openapi_document_and_the_routes_are_the_same() {
    let site = Site::new().await;
    let document = site.call(Method::GET, "/api/openapi.json", Some(&site.token), None).await.expect(200);
    assert_eq!(document["openapi"], "3.1.0");
    let routes: BTreeSet<_> = inventory().into_iter().map(|route| (route.path, route.method.to_string())).collect();
    assert_eq!(operations(&document), routes);

    for (path, method) in operations(&document) {
        let operation = &document["paths"][&path][method.to_lowercase()];
        // The router knows it: without a credential it is refused, not unknown.
        let named = path.replace(['{', '}'], "");
        let answer = site.call(method.parse().unwrap(), &named, None, None).await;
        let open = operation["security"] == serde_json::json!([{}]);
        assert_eq!(answer.status == 401, !open, "{method} {path}: {answer:?}");
        assert!(open || operation["responses"]["default"].is_object(), "{method} {path}");
        assert!(operation["summary"].is_string() && operation["operationId"].is_string());
        let parameters = operation["parameters"].as_array().expect("parameters");
        for name in path.split(['{', '}']).skip(1).step_by(2) {
            assert!(parameters.iter().any(|it| it["in"] == "path" && it["name"] == name), "{method} {path}: {name}");
        }
        assert!(
            ["GET", "DELETE"].contains(&&*method) || operation.get("requestBody").is_some() || answer.status == 401
        );
    }
    let ids: Vec<_> = operations(&document)
        .iter()
        .map(|(path, method)| document["paths"][path][method.to_lowercase()]["operationId"].clone())
        .collect();
    assert_eq!(ids.iter().map(Value::to_string).collect::<BTreeSet<_>>().len(), ids.len(), "operation ids are unique");
}

#[tokio::test]
async fn every_reference_in_the_document_leads_somewhere() {
    let site = Site::new().await;
    let document = site.get("/api/openapi.json").await.expect(200);
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 30);
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}

#[test]
fn the_manual_lists_every_route_and_every_code() {
    let needs = |guard| match guard {
        Guard::Anonymous => "nothing".to_owned(),
        Guard::Server(permission) => format!("{permission:?}"),
        Guard::App(permission) | Guard::Instance(permission) => format!("{permission:?} in the app"),
    };
    let routes =
        inventory().into_iter().map(|route| format!("| `{} {}` | {} | ", route.method, route.path, needs(route.guard)));
    let codes = CODES.iter().map(|code| {
        let retry = if code.retryable { "yes" } else { "no" };
        format!("| `{}` | {} | {retry} | {} | {} |", code.code, code.status, code.title, code.remedy)
    });
    for row in routes.chain(codes) {
        assert!(MANUAL.contains(&row), "docs/rest-api.md lacks this row:\n{row}");
    }
    let rows = MANUAL.lines().filter(|line| {
        ["| `GET /", "| `PUT /", "| `POST /", "| `PATCH /", "| `DELETE /"].iter().any(|start| line.starts_with(start))
    });
    assert_eq!(rows.count(), inventory().len(), "docs/rest-api.md has rows for routes that do not exist");
}

#[tokio::test]
async fn the_server_says_how_it_does() {
    let site = Site::new().await;
    let open = |path: &'static str| site.call(Method::GET, path, None, None);
    assert_eq!(open("/livez").await.text, "ok\n");
    crate::world::until("it is ready", async || open("/readyz").await.status == 200).await;
    let health = &site.world.server().state().health;
    health.broken("test", "made for this test");
    let unready = open("/readyz").await.expect(503);
    assert_eq!(unready["problems"][0], "test: made for this test");
    health.recovered("test");
    open("/readyz").await.expect(200);

    let status = site.get("/api/v1/status").await.expect(200);
    assert_eq!(
        (&status["ready"], &status["partitions_owned"]),
        (&serde_json::json!(true), &status["partitions_total"])
    );
    assert_eq!(status["listeners"][0]["authenticated"], true);
    let metrics = site.get("/metrics").await;
    assert!(metrics.status == 200 && metrics.text.ends_with("# EOF\n"));
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let scrape = site.token(pendula_model::token::Scope::Metrics).await;
    assert_eq!(site.call(Method::GET, "/metrics", Some(&scrape), None).await.status, 200);
}
