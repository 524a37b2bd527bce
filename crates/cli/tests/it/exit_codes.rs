//! Each way to fail has its exit code and says what to do next.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::command::{Done, Pendula};

/// A server that answers every request alike, until the test ends.
fn server(status: &'static str, body: &'static str) -> String {
    server_saying(vec![(status, body)])
}

/// A server that gives these answers one after the other, and the last one for ever.
fn server_saying(answers: Vec<(&'static str, &'static str)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        let last = answers.last().copied().expect("it has something to say");
        let mut answers = answers.into_iter().chain(std::iter::repeat(last));
        for stream in listener.incoming() {
            let (Ok(mut stream), Some((status, body))) = (stream, answers.next()) else { return };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

fn run(address: &str, arguments: &[&str]) -> Done {
    Pendula::new().with("PENDULA_SERVER", address).with("PENDULA_TOKEN", "t").with("PENDULA_APP", "demo").run(arguments)
}

fn fails(done: &Done, code: i32, parts: &[&str]) {
    assert_eq!(done.code, code, "{}{}", done.out, done.err);
    for part in parts {
        assert!(done.err.contains(part), "no {part:?} in {}", done.err);
    }
    assert!(!done.err.contains("panicked"), "{}", done.err);
}

#[test]
fn usage_is_2() {
    let pendula = Pendula::new();
    fails(&pendula.run(&["job", "lst"]), 2, &["list"]);
    fails(&pendula.run(&["job", "list"]), 2, &["no token", "pendula login"]);
    fails(&run("htp://x", &["job", "list"]), 2, &["`htp://x`", "PENDULA_SERVER", "http://HOST:PORT"]);
    fails(&run("", &["job", "list"]), 2, &["it is empty"]);
    for list in ["http://a,", ",http://a", "http://a,,http://b", ","] {
        fails(&run(list, &["job", "list"]), 2, &[&format!("`{list}`"), "PENDULA_SERVER", "comma"]);
        fails(&run(list, &["worker", "--app", "demo"]), 2, &[&format!("`{list}`")]);
        fails(&pendula.run(&["login", "--server", list]), 2, &[&format!("`{list}`")]);
    }
    fails(&run("http://a,htp://x", &["job", "list"]), 2, &["`htp://x`"]);
    fails(&pendula.run(&["apply", "-f", "/does/not/exist"]), 2, &[]);
    let file = pendula.file("jobs.yaml", "app: a\njobs:\n  - name: x\n    processor: { shell: ls }\n    timeout: 5\n");
    let done = run("http://127.0.0.1:1", &["apply", "-f", &file.display().to_string()]);
    fails(&done, 2, &["jobs.yaml:5:14: jobs[0].timeout: `5` lacks a unit; write 5s or 5ms"]);
    fails(&pendula.run(&["config", "check", "--set", "listn=1"]), 2, &["listn", "did you mean `listen`"]);
    fails(&run("http://127.0.0.1:1", &["job", "run", "x", "--params", "[1]"]), 2, &["no JSON object"]);
    fails(&pendula.with("PENDULA_TOKEN", "a b").run(&["job", "list"]), 2, &["PENDULA_TOKEN holds no token"]);
}

#[test]
fn not_found_or_refused_is_3() {
    let missing = server("404 Not Found", r#"{"type":"t","title":"No such job","status":404,"code":"job_not_found"}"#);
    fails(&run(&missing, &["job", "show", "x"]), 3, &["No such job (job_not_found)"]);
    let stranger = server(
        "401 Unauthorized",
        r#"{"type":"t","title":"No valid credential","status":401,"code":"unauthenticated"}"#,
    );
    fails(&run(&stranger, &["job", "list"]), 3, &["unauthenticated", "pendula login"]);
    fails(&run(&stranger, &["job", "delete", "x"]), 3, &[]);
}

#[test]
fn unreachable_is_4() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let nobody = format!("http://{free}");
    fails(&run(&nobody, &["job", "list"]), 4, &["cannot reach", "refused", "pendula doctor"]);
    fails(&run(&nobody, &["job", "run", "x", "--wait"]), 4, &["cannot reach"]);
    let doctor = run(&nobody, &["doctor"]);
    fails(&doctor, 4, &["no server answers"]);
    assert!(doctor.out.contains("listener") && doctor.out.contains("skipped"), "{}", doctor.out);
    fails(
        &run(&server("200 OK", "<html>hello</html>"), &["job", "list"]),
        4,
        &["unexpected answer", "check the address"],
    );
    let worker = Pendula::new().with("PENDULA_TOKEN", "t");
    let done = worker.run(&["worker", "--server", &nobody, "--app", "a", "--give-up-after", "200ms"]);
    assert_eq!(done.code, 4, "{}", done.err);
    // Where nobody listens, nobody is waited for, and all that were tried are named.
    fails(&run(&nobody, &["instance", "logs", "-f", "1"]), 4, &["cannot reach", "refused"]);
    fails(&run(&nobody, &["instance", "show", "-f", "1"]), 4, &["cannot reach", "refused"]);
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let both = format!("{nobody},http://{other}");
    let named = [nobody.as_str(), &format!("http://{other}")];
    fails(&run(&both, &["job", "list"]), 4, &named);
    fails(&worker.run(&["worker", "--server", &both, "--app", "a", "--give-up-after", "500ms"]), 4, &named);
}

#[test]
fn of_several_servers_one_is_enough() {
    let dead = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let alive = server("200 OK", r#"{"items":[]}"#);
    let both = format!("http://{dead},{alive}");
    let done = run(&both, &["job", "list"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let doctor = run(&both, &["doctor", "--output", "json"]);
    let checks: serde_json::Value = serde_json::from_str(&doctor.out).expect("JSON");
    let listeners = checks.as_array().expect("a list").iter().filter(|check| check["check"] == "listener");
    let verdicts: Vec<_> = listeners.map(|check| check["verdict"].as_str().expect("a word")).collect();
    assert_eq!(verdicts, ["warning", "ok"], "{}", doctor.out);
}

/// While another server takes over from one that crashed: commands that can be repeated wait, the others say what to do.
#[test]
fn a_takeover_is_waited_for() {
    let busy = "503 Service Unavailable";
    let no_owner = r#"{"type":"t","title":"No server has this","status":503,"code":"no_owner","retryable":true}"#;
    let away = r#"{"type":"t","title":"The server cannot","status":503,"code":"unavailable","retryable":true}"#;
    let lost = r#"{"type":"t","title":"It went away","status":503,"code":"owner_lost","retryable":true}"#;
    let run_of = r#"{"instance":"7","created":true}"#;
    for (command, answer) in [
        (vec!["job", "list"], r#"{"items":[]}"#),
        (vec!["job", "run", "x"], run_of),
        (vec!["instance", "retry", "7"], run_of),
    ] {
        let passing = server_saying(vec![(busy, no_owner), (busy, away), (busy, lost), ("200 OK", answer)]);
        let done = run(&passing, &command);
        assert_eq!(done.code, 0, "{command:?}: {}", done.err);
    }
    let lost_once = server_saying(vec![(busy, lost), ("200 OK", "{}")]);
    fails(&run(&lost_once, &["app", "create", "x"]), 3, &["owner_lost", "try again"]);
}

#[test]
fn s5_7_a_doctor_who_finds_something_fails_with_3() {
    let stranger = server(
        "401 Unauthorized",
        r#"{"type":"t","title":"No valid credential","status":401,"code":"unauthenticated"}"#,
    );
    let done = run(&stranger, &["doctor", "--output", "json"]);
    assert_eq!(done.code, 4, "livez refuses: {}", done.out);
    let half = server("200 OK", "ok");
    let done = run(&half, &["doctor", "--output", "json"]);
    fails(&done, 3, &["failed: token"]);
    let checks: serde_json::Value = serde_json::from_str(&done.out).expect("JSON");
    let verdict = |name: &str| {
        checks
            .as_array()
            .expect("a list")
            .iter()
            .find(|check| check["check"] == name)
            .map(|check| check["verdict"].clone())
    };
    assert_eq!(verdict("listener"), Some("ok".into()));
    assert_eq!(verdict("token"), Some("failed".into()));
}

#[test]
fn a_reader_who_goes_away_is_no_failure() {
    let pendula = Pendula::new();
    let mut child = pendula.command(&["config", "show"]).spawn().expect("started");
    drop(child.stdout.take());
    let done = crate::command::done(child);
    fails(&done, 0, &[]);
    let mut child = pendula.command(&["--help"]).spawn().expect("started");
    drop(child.stdout.take());
    assert!(!crate::command::done(child).err.contains("panicked"));
}

#[test]
fn a_saved_token_is_shown_to_its_own_server_alone() {
    let pendula = Pendula::new();
    let profiles = "current = \"a\"\n[profiles.a]\nserver = \"http://127.0.0.1:1\"\ntoken = \"secret\"\n";
    pendula.file(".config/pendula/config.toml", profiles);
    let elsewhere = server("200 OK", "{}");
    fails(&pendula.run(&["job", "list", "--server", &elsewhere]), 2, &["no token for http://127.0.0.1"]);
    fails(&pendula.run(&["job", "list"]), 4, &["cannot reach http://127.0.0.1:1"]);
    let more = format!("http://127.0.0.1:1,{elsewhere}");
    fails(&pendula.run(&["job", "list", "--server", &more]), 2, &["no token for http://127.0.0.1"]);
    let two = profiles.replace("http://127.0.0.1:1", &more);
    pendula.file(".config/pendula/config.toml", &two);
    for either in ["http://127.0.0.1:1", &elsewhere, &more] {
        assert_ne!(pendula.run(&["job", "list", "--server", either]).code, 2, "{either}");
    }
    let listed = pendula.ok(&["login", "--list", "--output", "json"]);
    assert!(listed.contains("127.0.0.1:1") && !listed.contains("secret"), "{listed}");
}
