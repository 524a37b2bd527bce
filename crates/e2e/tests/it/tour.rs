//! The README's five minutes, word for word, with the real program.

use std::collections::BTreeMap;
use std::time::Duration;

use pendula_e2e::process::{Process, eventually};

use crate::readme::{Newcomer, blocks, typed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readme_tour_works_word_for_word() {
    let newcomer = Newcomer::new();
    let mut dev = newcomer.command("pendula");
    let log = newcomer.path().join("dev.log");
    let mut server = Process::start(dev.args(["dev", "--port", "0"]), &log).expect("the program starts");
    eventually("the server says how to go on", Duration::from_secs(60), || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(server.is_running(), "{said}");
        std::future::ready(said.contains("In another terminal").then_some(()))
    })
    .await;

    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut job = "hello";
    for (language, text) in blocks("Five minutes") {
        match language.as_str() {
            "yaml" => std::fs::write(newcomer.path().join("tour.yaml"), text).expect("the home is writable"),
            "sh" => {
                for line in text.lines() {
                    let line = typed(line);
                    if line.is_empty() || line == "make run" || line.starts_with("alias ") {
                        continue;
                    }
                    for name in ["tour", "countdown"] {
                        if line.contains(name) {
                            job = name;
                        }
                    }
                    let line = match line.strip_suffix(" ID") {
                        Some(command) => format!("{command} {}", newcomer.latest(job)),
                        None => line.to_owned(),
                    };
                    // What is on a machine without cron, the reader skips too.
                    let line = match line.strip_prefix("pendula import crontab /etc/crontab") {
                        Some(rest) => {
                            let own = "17 * * * * root run-parts /etc/cron.hourly\n";
                            std::fs::write(newcomer.path().join("crontab"), own).expect("the home is writable");
                            format!("pendula import crontab --system crontab{rest}")
                        }
                        None => line,
                    };
                    let text = newcomer.succeeds(&line);
                    seen.insert(line, text);
                }
            }
            other => panic!("a block in `{other}`, which no reader can follow"),
        }
    }
    let said = |part: &str| -> &str {
        let found = seen.iter().find(|(line, _)| line.contains(part));
        found.unwrap_or_else(|| panic!("the tour has no `{part}`")).1
    };
    assert!(said("job run hello").contains("hello, you"), "the parameter arrives");
    assert!(said("job run tour --wait").contains("step 3"), "the log is shown");
    assert!(said("instance show").contains("tour of app demo"), "{}", said("instance show"));
    assert!(said("instance logs -f").contains("step 3"));

    // On its schedule, too: an instance that the trigger made ends well.
    eventually("a scheduled run succeeds", Duration::from_secs(30), || async {
        let json = newcomer.succeeds("pendula instance list --job tour -o json");
        let listing: serde_json::Value = serde_json::from_str(&json).ok()?;
        let items = listing.get("items").unwrap_or(&listing).as_array()?.clone();
        let good = |item: &serde_json::Value| item["origin"] == "trigger" && item["state"] == "succeeded";
        items.iter().any(good).then_some(())
    })
    .await;

    // Nothing is gone after a kill.
    server.kill();
    let before = newcomer.shell("pendula job list").status.code();
    assert_eq!(before, Some(4), "no server: unreachable");
    let mut dev = newcomer.command("pendula");
    let _server =
        Process::start(dev.args(["dev", "--port", "0"]), &newcomer.path().join("dev2.log")).expect("it starts");
    eventually("it is back", Duration::from_secs(60), || async {
        newcomer.shell("pendula job show tour").status.success().then_some(())
    })
    .await;
}
