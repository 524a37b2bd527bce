//! A run that is waited for survives the server's end: server and worker are processes, and the server is killed.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use crate::command::{Pendula, done};
use crate::live::ADMIN;

/// A child that does not outlive its test.
pub struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn serve(pendula: &Pendula, address: SocketAddr) -> Killed {
    let data = format!("sqlite:{}", pendula.home().join("data").display());
    let mut command = pendula.command(&["server", "--listen", &address.to_string(), "--database", &data]);
    let child = command
        .env("PENDULA_ADMIN_TOKEN", ADMIN)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    let server = Killed(child.expect("started"));
    let begin = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30), "the server does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

#[test]
fn a_waited_run_survives_a_killed_server() {
    let address = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let pendula = Pendula::new().with("PENDULA_SERVER", &format!("http://{address}"));
    let server = serve(&pendula, address);
    let as_admin = |arguments: &[&str]| {
        let mut command = pendula.command(arguments);
        command.env("PENDULA_TOKEN", ADMIN);
        command
    };
    let ok = |arguments: &[&str]| {
        let ended = done(as_admin(arguments).spawn().expect("started"));
        assert_eq!(ended.code, 0, "{arguments:?}: {}{}", ended.out, ended.err);
        ended.out
    };
    ok(&["app", "create", "demo", "--allow-scripts"]);
    let token = ok(&["token", "create", "w", "--kind", "worker", "--app", "demo", "--quiet"]);
    let worker = pendula
        .command(&["worker", "--app", "demo", "--name", "w1"])
        .env("PENDULA_TOKEN", token.trim())
        .stderr(std::process::Stdio::null())
        .spawn();
    let _worker = Killed(worker.expect("started"));
    // The task goes on when this file appears, so that the test decides what happens first.
    let gate = pendula.home().join("gate").display().to_string();
    let script = format!("echo before; while [ ! -e {gate} ]; do sleep 0.05; done; echo after");
    let jobs = format!(
        "app: demo\njobs:\n  - name: slow\n    delivery: at_most_once\n    processor: {{ shell: \"{script}\" }}\n"
    );
    let file = pendula.file("jobs.yaml", &jobs).display().to_string();
    ok(&["apply", "-f", &file]);

    let mut waiting = as_admin(&["job", "run", "slow", "--wait"]).spawn().expect("started");
    let mut out = BufReader::new(waiting.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("the log's first line");
    assert_eq!(line, "before\n");
    drop(server);
    std::fs::write(&gate, "").expect("written");
    let _server = serve(&pendula, address);
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("the rest of the log");
    let ended = done(waiting);
    assert_eq!((ended.code, rest.as_str()), (0, "after\n"), "{}", ended.err);
}
