//! The README's "Many workers, one job", word for word: a server, three workers for scripts and three of the examples,
//! each a process of its own, and real input.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use pendula_e2e::binary::{example, pendula};
use pendula_e2e::process::{eventually, marked};
use rustix::process::{Pid, Signal, kill_process};

use crate::readme::{Newcomer, blocks};

/// How long a block may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A shell into which a reader types, with everything that it starts.
struct Terminal<'a> {
    newcomer: &'a Newcomer,
    server: String,
    shell: Child,
    keyboard: ChildStdin,
    screen: Option<BufReader<ChildStdout>>,
    mark: String,
}

impl Terminal<'_> {
    fn open(newcomer: &Newcomer) -> Terminal<'_> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port is free").port();
        let (listen, mark) = (format!("127.0.0.1:{port}"), format!("pendula-e2e-terminal-{port}"));
        let server = format!("http://{listen}");
        let mut shell = newcomer.command("bash");
        // What the reader has by default, moved to a port that is free here.
        shell.env("PENDULA_LISTEN", &listen).env("PENDULA_SERVER", &server);
        shell.env("MARK", &mark).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().expect("bash is there");
        let mut keyboard = shell.stdin.take().expect("it is piped");
        let screen = shell.stdout.take().map(BufReader::new);
        keyboard.write_all(b"exec 2>&1\nset -e\n").expect("the shell reads");
        Terminal { newcomer, server, shell, keyboard, screen, mark }
    }

    /// Types a block and reads what it prints. A command that fails ends the shell, and so does a block that takes too
    /// long.
    async fn types(&mut self, text: &str) -> String {
        let end = "-- that was the block --";
        self.keyboard.write_all(format!("{text}\necho '{end}'\n").as_bytes()).expect("the shell reads");
        let mut screen = self.screen.take().expect("one block at a time");
        let reading = tokio::task::spawn_blocking(move || {
            let (mut printed, mut line) = (String::new(), Vec::new());
            loop {
                line.clear();
                let read = screen.read_until(b'\n', &mut line).expect("the shell can be read");
                let text = String::from_utf8_lossy(&line);
                if read == 0 || text.trim_end() == end {
                    return (printed, screen, read > 0);
                }
                printed.push_str(&text);
            }
        });
        let (printed, screen, is_whole) = match tokio::time::timeout(PATIENCE, reading).await {
            Ok(read) => read.expect("reading does not panic"),
            Err(_) => {
                self.close();
                panic!("not within {PATIENCE:?}:\n{text}");
            }
        };
        assert!(is_whole, "a command failed:\n{text}\n---\n{printed}");
        self.screen = Some(screen);
        printed
    }

    /// What a command prints as JSON, for what the reader reads off the screen. The shell must have written its token
    /// down.
    fn told_by(&self, command: &str) -> serde_json::Value {
        let token = std::fs::read_to_string(self.newcomer.path().join("token")).expect("the shell wrote it");
        let mut shell = self.newcomer.command("sh");
        shell.env("PENDULA_SERVER", &self.server).env("PENDULA_TOKEN", token.trim());
        let output = shell.args(["-c", &format!("{command} -o json")]).output().expect("sh is there");
        assert!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("it is JSON")
    }

    /// The id of the latest instance of a job, as a reader would copy it.
    fn latest(&self, job: &str) -> String {
        let listing = self.told_by(&format!("pendula instance list --job {job}"));
        let items = listing.get("items").unwrap_or(&listing);
        items[0]["id"].as_str().expect("there is an instance").to_owned()
    }

    /// What the latest instance of a job left.
    fn result(&self, job: &str) -> serde_json::Value {
        self.told_by(&format!("pendula instance show {}", self.latest(job)))["result"]["json"].clone()
    }

    /// Ends the shell and all that it started, by their mark.
    fn close(&mut self) {
        for pid in marked(&self.mark).into_iter().filter_map(Pid::from_raw) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.shell.wait();
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        self.close();
    }
}

/// The sources as the reader has them: what is built, the examples and the documentation.
fn check_out(newcomer: &Newcomer) {
    let home = newcomer.path();
    let repository = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let release = home.join("target/release");
    std::fs::create_dir_all(&release).expect("the home is writable");
    symlink(pendula(), release.join("pendula")).expect("the name is free");
    symlink(example("crew"), release.join("crew")).expect("the name is free");
    for directory in ["docs", "examples"] {
        symlink(repository.join(directory), home.join(directory)).expect("the name is free");
    }
}

/// The texts whose words and lines the jobs count.
fn texts(newcomer: &Newcomer) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(newcomer.path().join("docs")).expect("the documentation is there");
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readme_runs_the_examples_on_many_workers_word_for_word() {
    let newcomer = Newcomer::new();
    check_out(&newcomer);
    let mut terminal = Terminal::open(&newcomer);
    let blocks = blocks("Many workers, one job");
    assert!(blocks.iter().all(|(language, _)| language == "sh"), "only what can be typed: {blocks:?}");
    let [(_, start), (_, run), (_, look)] = &blocks[..] else { panic!("three blocks: {blocks:?}") };

    // Everything is built already, by this very test run.
    let (build, start) = start.split_once('\n').expect("several lines");
    assert!(build.starts_with("cargo build "), "{build}");
    terminal.types(start).await;
    terminal.types("echo \"$PENDULA_TOKEN\" > token").await;
    eventually("six workers are connected", Duration::from_secs(30), || {
        let workers = terminal.told_by("pendula worker list");
        std::future::ready((workers.as_array().is_some_and(|workers| workers.len() == 6)).then_some(()))
    })
    .await;

    let printed = terminal.types(run).await;
    let texts = texts(&newcomer);
    let read: Vec<_> = texts.iter().map(|path| std::fs::read_to_string(path).expect("it is text")).collect();
    let words = |text: &String| text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).count();
    let words: usize = read.iter().map(words).sum();
    let lines: usize = read.iter().map(|text| text.lines().count()).sum();
    assert!(printed.contains(&format!("succeeded ({words} words, ")), "{words} words:\n{printed}");
    let counted = terminal.result("count-words");
    assert_eq!(counted["files"], texts.len(), "{counted}");
    assert_eq!(counted["commonest"].as_array().map(Vec::len), Some(10), "{counted}");
    let counted = terminal.result("count-lines");
    let expected = (texts.len().to_string(), lines.to_string());
    assert_eq!((&counted["files"], &counted["lines"]), (&expected.0.into(), &expected.1.into()), "{counted}");
    assert!(printed.contains("3 files rotated and 0 deleted on 3 workers"), "{printed}");
    for worker in 1..=3 {
        let home = newcomer.path().join(format!("target/many/{worker}"));
        assert!(home.join("app.log.1").exists() && !home.join("app.log").exists(), "rotated on worker {worker}");
    }
    let total = 100_000 + 4;
    assert!(printed.contains(&format!("{total} total")), "a hundred thousand rows and four headings:\n{printed}");

    let id = terminal.latest("count-words");
    let tasks = terminal.told_by(&format!("pendula instance tasks {id} -n 1000"));
    let items = tasks["items"].as_array().expect("a page of tasks").clone();
    let workers: BTreeSet<_> = items.iter().filter_map(|task| task["worker"].as_str()).collect();
    assert!(workers.iter().all(|worker| worker.starts_with("rust-")), "only these have the handler: {workers:?}");
    assert!(workers.len() > 1, "the work was shared: {workers:?}");

    let printed = terminal.types(&look.replace(" ID", &format!(" {id}"))).await;
    assert!(printed.contains("worker-sdk.md"), "{printed}");
    assert!(printed.contains("rust-"), "{printed}");
    eventually("all of them have ended", Duration::from_secs(30), || async {
        (marked(&terminal.mark).len() == 1).then_some(())
    })
    .await;
}
