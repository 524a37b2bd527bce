//! PowerJob's OpenAPI, called as its clients call it, byte by byte where they look at bytes.

use pendula_model::instance::InstanceState;
use pendula_model::job::JobSpec;
use pendula_model::powerjob::PowerJobExecuteType::Standalone;
use pendula_model::processor::{Processor, Script};
use pendula_server::auth::md5_hex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{World, job};

/// A client of either kind.
struct Client<'a> {
    world: &'a World,
    app: i64,
    token: Option<String>,
}

async fn secret(world: &World) -> String {
    let auth = &world.server().state().auth;
    let (_, secret) = auth.create_for_powerjob("clients", world.app, None).await.expect("a new secret");
    secret.reveal().to_owned()
}

/// Sends a request as it is, and returns the answer's head and body.
async fn raw(world: &World, path: &str, headers: &str, kind: &str, body: &str) -> (String, Value) {
    raw_from("127.0.0.1", world, path, headers, kind, body).await
}

/// The same from an address of this machine.
async fn raw_from(from: &str, world: &World, path: &str, headers: &str, kind: &str, body: &str) -> (String, Value) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{from}:0").parse().expect("an address")).expect("it is this machine's");
    let mut stream = socket.connect(world.gateway.local_addr).await.expect("it listens");
    let head = format!(
        "POST /openApi/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("it takes it");
    stream.write_all(body.as_bytes()).await.expect("it takes it");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_owned(), serde_json::from_str(body).expect("JSON"))
}

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json; charset=utf-8";

impl Client<'_> {
    async fn old<'a>(world: &'a World, password: &str) -> Client<'a> {
        let body = format!("appName=demo&password={password}");
        let (_, answer) = raw(world, "assert", "", FORM, &body).await;
        let app = answer["data"].as_i64().unwrap_or_else(|| panic!("{answer}"));
        Client { world, app, token: None }
    }

    async fn new<'a>(world: &'a World, password: &str) -> Client<'a> {
        let body = json!({ "appName": "demo", "encryptedPassword": md5_hex(password), "encryptType": "md5" });
        let (_, answer) = raw(world, "authApp", "", JSON, &body.to_string()).await;
        let token = answer["data"]["token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        Client { world, app: answer["data"]["appId"].as_i64().expect("a number"), token: Some(token) }
    }

    fn headers(&self) -> String {
        let token = self.token.as_ref();
        token.map_or(String::new(), |token| {
            format!("X-POWERJOB-APP-ID: {}\r\nX-POWERJOB-ACCESS-TOKEN: {token}\r\n", self.app)
        })
    }

    async fn form(&self, path: &str, fields: &str) -> Value {
        let body = format!("appId={}&{fields}", self.app);
        let (head, answer) = raw(self.world, path, &self.headers(), FORM, &body).await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(head.contains("\r\nX-POWERJOB-AUTH-PASSED: true"), "must_10: {head}");
        answer
    }

    async fn json(&self, path: &str, mut fields: Value) -> Value {
        fields["appId"] = self.app.into();
        let (head, answer) = raw(self.world, path, &self.headers(), JSON, &fields.to_string()).await;
        assert!(head.contains("\r\nX-POWERJOB-AUTH-PASSED: true"), "must_10: {head}");
        answer
    }
}

fn request(name: &str) -> Value {
    json!({
        "jobName": name, "timeExpressionType": "API", "executeType": "STANDALONE", "processorType": "BUILT_IN",
        "processorInfo": "com.acme.A", "maxInstanceNum": 0, "concurrency": 5, "enable": true,
    })
}

#[tokio::test]
async fn must_10_clients_of_both_kinds_save_run_and_ask() {
    let world = World::new().await;
    let password = secret(&world).await;
    for client in [Client::old(&world, &password).await, Client::new(&world, &password).await] {
        let name = if client.token.is_some() { "new" } else { "old" };
        let saved = client.json("saveJob", request(name)).await;
        let job = saved["data"].as_i64().unwrap_or_else(|| panic!("{saved}"));
        let fetched = client.form("fetchJob", &format!("jobId={job}")).await;
        assert_eq!((&fetched["data"]["jobName"], &fetched["data"]["appId"]), (&json!(name), &json!(client.app)));
        assert_eq!(fetched["data"]["timeExpressionType"], 1);
        let exported = client.form("exportJob", &format!("jobId={job}")).await;
        assert_eq!(exported["data"]["executeType"], "STANDALONE");
        let run = client.form("runJob", &format!("jobId={job}&delay=3600000&instanceParams=a%20b")).await;
        let id = run["data"].as_i64().unwrap_or_else(|| panic!("{run}"));
        assert_eq!(client.form("fetchInstanceStatus", &format!("instanceId={id}")).await["data"], 1);
        let info = client.form("fetchInstanceInfo", &format!("instanceId={id}")).await;
        assert_eq!((&info["data"]["instanceParams"], &info["data"]["jobId"]), (&json!("a b"), &json!(job)));
        let page = client.json("queryInstance", json!({ "jobIdEq": job, "statusIn": [1] })).await;
        assert_eq!(page["data"]["totalItems"], 1);
        assert_eq!(client.form("cancelInstance", &format!("instanceId={id}")).await["success"], true);
        assert_eq!(client.form("fetchInstanceStatus", &format!("instanceId={id}")).await["data"], 9);
        assert_eq!(client.form("cancelInstance", &format!("instanceId={id}")).await["success"], false);
        assert_eq!(client.form("retryInstance", &format!("instanceId={id}")).await["success"], true);
        let workflow = client.form("runWorkflow", "workflowId=1").await;
        assert!(workflow["message"].as_str().unwrap().contains("not served yet"), "{workflow}");
        let absent = client.form("fetchInstanceStatus", "instanceId=77").await;
        assert!(absent["message"].as_str().unwrap().contains("can't find instance by instanceId: 77"));
        assert_eq!(client.form("deleteJob", &format!("jobId={job}")).await["success"], true);
    }
}

#[tokio::test]
async fn sec_4_nobody_is_served_without_a_secret_and_scripts_are_out_of_reach() {
    let world = World::new().await;
    let password = secret(&world).await;
    let (_, answer) = raw(&world, "assert", "", FORM, "appName=demo&password=guess").await;
    assert_eq!(answer["message"], "PowerJobException: password error!");
    let (_, answer) = raw(&world, "assert", "", FORM, "appName=demo").await;
    assert_eq!(answer["success"], false);
    let guess = json!({ "appName": "demo", "encryptedPassword": md5_hex("guess"), "encryptType": "md5" }).to_string();
    let (_, answer) = raw(&world, "authApp", "", JSON, &guess).await;
    assert_eq!(answer["success"], false);
    // With the true number of the app, as any worker can learn it.
    let body = format!("appId={}&jobId=1", world.app.0);
    for headers in [
        String::new(),
        format!("X-POWERJOB-APP-ID: {}\r\n", world.app.0),
        format!("X-POWERJOB-APP-ID: {}\r\nX-POWERJOB-ACCESS-TOKEN: 1.9999999999999.ab\r\n", world.app.0),
        "X-POWERJOB-ACCESS-TOKEN: x\r\n".to_owned(),
    ] {
        let (head, answer) = raw(&world, "fetchAllJob", &headers, FORM, &body).await;
        assert!(head.contains("\r\nX-POWERJOB-AUTH-PASSED: false"), "{head}");
        assert_eq!(answer["success"], false, "{headers}");
    }
    // The app's own scripts are not there, as far as a client can see.
    let script = world.apply(JobSpec::new("script", Processor::Shell(Script::new("true")))).await;
    world.apply(job("A", Standalone)).await;
    let client = Client::new(&world, &password).await;
    assert_eq!(client.form("fetchAllJob", "").await["data"].as_array().map(Vec::len), Some(1));
    for call in ["runJob", "fetchJob", "deleteJob"] {
        assert_eq!(client.form(call, &format!("jobId={}", script.id.0)).await["success"], false, "{call}");
    }
    let mut shell = request("shell");
    shell["processorType"] = "SHELL".into();
    assert_eq!(client.json("saveJob", shell).await["success"], false);
    // Saving over it would make it PowerJob's.
    assert_eq!(client.json("saveJob", request("script")).await["success"], false);
    let run = world.run("script").await;
    assert_eq!(client.form("fetchInstanceInfo", &format!("instanceId={}", run.0)).await["success"], false);
    assert_eq!(client.form("stopInstance", &format!("instanceId={}", run.0)).await["success"], false);
    assert_eq!(world.instance(run).await.state, InstanceState::Waiting);
}

/// Clients before 5.1.0 ask for an instance by its id and nothing else.
#[tokio::test]
async fn sec_4_an_instance_is_shown_without_a_credential_only_where_its_apps_secret_was_shown() {
    let world = World::new().await;
    let auth = &world.server().state().auth;
    let (token, secret) = auth.create_for_powerjob("clients", world.app, None).await.expect("a new secret");
    world.apply(job("A", Standalone)).await;
    let script = world.apply(JobSpec::new("script", Processor::Shell(Script::new("true")))).await;
    let (id, of_script) = (world.run("A").await, world.run(&script.spec.name).await);
    let ask = async |from: &str, id: pendula_model::InstanceId| {
        let mut answers = Vec::new();
        for call in ["fetchInstanceStatus", "fetchInstanceInfo"] {
            let (head, answer) = raw_from(from, &world, call, "", FORM, &format!("instanceId={}", id.0)).await;
            let passed = head.contains("\r\nX-POWERJOB-AUTH-PASSED: true");
            answers.push((passed, answer["success"] == true));
        }
        assert_eq!(answers[0], answers[1]);
        answers[0]
    };
    let (nobody, absent, seen) = ((false, false), (true, false), (true, true));
    assert_eq!(ask("127.0.0.1", id).await, nobody);
    // One that says with each call who it is opens nothing for those that do not.
    let new = Client::new(&world, secret.reveal()).await;
    assert_eq!(new.form("fetchInstanceStatus", &format!("instanceId={}", id.0)).await["data"], 1);
    assert_eq!(ask("127.0.0.1", id).await, nobody);
    Client::old(&world, secret.reveal()).await;
    assert_eq!(ask("127.0.0.1", id).await, seen);
    assert_eq!(ask("127.0.0.2", id).await, nobody);
    assert_eq!(ask("127.0.0.1", of_script).await, absent);
    assert_eq!(ask("127.0.0.1", pendula_model::InstanceId(77)).await, absent);
    // Nothing else is.
    let (head, _) = raw(&world, "stopInstance", "", FORM, &format!("instanceId={}", id.0)).await;
    assert!(head.contains("\r\nX-POWERJOB-AUTH-PASSED: false"), "{head}");
    auth.revoke(token.id).await.expect("it goes");
    assert_eq!(ask("127.0.0.1", id).await, nobody);
}

#[tokio::test]
async fn a_secret_that_was_revoked_opens_nothing_any_more() {
    let world = World::new().await;
    let auth = &world.server().state().auth;
    let (token, secret) = auth.create_for_powerjob("clients", world.app, None).await.expect("a new secret");
    let (old, new) = (Client::old(&world, secret.reveal()).await, Client::new(&world, secret.reveal()).await);
    auth.revoke(token.id).await.expect("it goes");
    for client in [old, new] {
        let (head, answer) =
            raw(&world, "fetchAllJob", &client.headers(), FORM, &format!("appId={}", client.app)).await;
        assert!(head.contains("X-POWERJOB-AUTH-PASSED: false"), "{head}");
        assert_eq!(answer["success"], false);
    }
}
