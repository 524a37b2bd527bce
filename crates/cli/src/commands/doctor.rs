//! `pendula doctor`: what works and what does not, from here.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pendula_client::{Client, ClientError};
use pendula_model::Timestamp;
use pendula_model::api::{ListenerView, ServerView, StatusView, TokenKind};
use serde::Serialize;

use super::token::kind_word;
use crate::connect::{ConnectArgs, Target};
use crate::definitions::now;
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, Shade, Table, span};

const EXAMPLES: &str = "\
Examples:
  pendula doctor
  pendula doctor --server https://pendula.example:7700 --output json
  pendula doctor --server http://server1:7700,http://server2:7700

The exit code is 0 when nothing failed (warnings are no failure), 3 when a check failed and
4 when no server answered.";

/// Check server, token, clock, store, workers and this machine
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Longest wait for one answer: a doctor who waits for ever helps nobody.
const PATIENCE: Duration = Duration::from_secs(10);
/// Skew from which times that users compare look wrong, and from which certificates and tokens may.
const SKEW_WARN: Duration = Duration::from_millis(500);
const SKEW_FAIL: Duration = Duration::from_secs(30);
/// The name of the port that each server has.
const OWN_PORT: &str = "api";
/// A background loop that has not come round for so long hangs.
const LOOP_STUCK_SECONDS: f64 = 60.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warning,
    Failed,
    Skipped,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    detail: String,
}

#[derive(Default)]
struct Report {
    checks: Vec<Check>,
    unreachable: bool,
}

impl Report {
    fn add(&mut self, check: &'static str, verdict: Verdict, detail: impl Into<String>) {
        self.checks.push(Check { check, verdict, detail: detail.into() });
    }

    fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Verdict::Ok, detail);
    }

    fn failed(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Verdict::Failed, detail);
    }
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let target = args.connect.target()?;
    let mut report = Report::default();
    report.ok("settings", format!("{}, from {}", target.server, target.origin));
    let client = target.client()?;
    if reachable(&target, &mut report).await? {
        readiness(&client, &mut report).await;
        if target.token.is_none() {
            report.add("token", Verdict::Failed, "none; `pendula login --server URL`, PENDULA_TOKEN or --token-file");
        } else if let Some(kind) = authenticated(&client, &mut report).await {
            serving(&client, kind, &mut report).await;
        }
    } else {
        for check in ["readiness", "token", "clock", "version", "store", "workers"] {
            report.add(check, Verdict::Skipped, "no server to ask");
        }
    }
    interpreters(&mut report);
    finish(&screen, report)
}

/// Waits for an answer, but not for ever.
async fn within<T>(answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {}", span(PATIENCE))),
    }
}

/// Asks each address. Of several one is enough, but somebody counts on the others.
async fn reachable(target: &Target, report: &mut Report) -> Outcome<bool> {
    let mut answers = Vec::new();
    for server in target.server.split(',') {
        let client = Target { server: server.to_owned(), ..target.clone() }.client()?;
        let begin = Instant::now();
        let answer = within(client.livez()).await.map(|()| format!("answers in {}", span(begin.elapsed())));
        answers.push((server, answer));
    }
    let is_reached = answers.iter().any(|(_, answer)| answer.is_ok());
    let is_one = answers.len() == 1;
    for (server, answer) in answers {
        match answer {
            Ok(detail) if is_one => report.ok("listener", detail),
            Ok(detail) => report.ok("listener", format!("{server} {detail}")),
            Err(why) if is_reached => report.add("listener", Verdict::Warning, why),
            Err(why) => report.failed("listener", why),
        }
    }
    report.unreachable = !is_reached;
    Ok(is_reached)
}

async fn readiness(client: &Client, report: &mut Report) {
    match within(client.readyz()).await {
        Ok(()) => report.ok("readiness", "ready"),
        Err(why) => report.failed("readiness", why),
    }
}

async fn authenticated(client: &Client, report: &mut Report) -> Option<TokenKind> {
    match within(client.whoami()).await {
        Ok(who) => {
            let app = who.app.map(|app| format!(", app {app}")).unwrap_or_default();
            report.ok("token", format!("`{}`, kind {}{app}", who.token, kind_word(who.kind)));
            Some(who.kind)
        }
        Err(why) => {
            report.failed("token", why);
            None
        }
    }
}

async fn serving(client: &Client, kind: TokenKind, report: &mut Report) {
    let asked = now();
    match within(client.status()).await {
        Ok(status) => {
            let answered = now();
            clock_skew(asked, answered, status.now, report);
            inside(&status, report);
        }
        Err(why) if kind == TokenKind::Admin => report.failed("status", why),
        Err(_) => {
            report.add("status", Verdict::Skipped, format!("needs an admin token, this is of kind {}", kind_word(kind)))
        }
    }
    if kind == TokenKind::Admin {
        servers(client, report).await;
    }
    workers(client, report).await;
}

/// Each server looks at all others: what one of them cannot reach, requests through it cannot reach either.
async fn servers(client: &Client, report: &mut Report) {
    let overview = match within(client.cluster(None)).await {
        Ok(overview) if overview.shared => overview,
        Ok(_) => return,
        Err(why) => return report.failed("servers", why),
    };
    let ownerless = overview.partitions.iter().filter(|partition| partition.owner.is_none()).count();
    if ownerless > 0 {
        report.failed("servers", format!("{ownerless} partitions have no owner"));
    }
    let alive: Vec<_> = overview.servers.iter().filter(|server| server.lease_seconds > 0.0).collect();
    for server in &alive {
        let seen = match within(client.cluster(Some(&server.boot))).await {
            Ok(seen) => seen,
            Err(why) => {
                report.failed("servers", format!("{}: {why}", server.name));
                continue;
            }
        };
        let unreached: Vec<_> = seen
            .servers
            .iter()
            .filter(|other| other.lease_seconds > 0.0 && !other.reach.reached)
            .map(|other| format!("{} ({})", other.name, other.reach.problem.as_deref().unwrap_or("no answer")))
            .collect();
        if !unreached.is_empty() {
            let what = format!("{} does not reach {}", server.name, unreached.join(", "));
            report.failed("servers", format!("{what}: is its `advertise` right, and its port open to the others?"));
        }
        let skew = Duration::from_secs_f64(server.skew_seconds.abs());
        if skew >= SKEW_WARN {
            let verdict = if skew >= SKEW_FAIL { Verdict::Failed } else { Verdict::Warning };
            report.add("servers", verdict, format!("{}: its clock is {} off the database's", server.name, span(skew)));
        }
    }
    gateways(&alive, report);
    let mut versions: Vec<_> = alive.iter().map(|server| server.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    if versions.len() > 1 {
        report.add(
            "servers",
            Verdict::Warning,
            format!("versions {} at once: finish the upgrade", versions.join(" and ")),
        );
    }
    report.ok("servers", format!("{} share the work, and were asked to reach each other", alive.len()));
}

/// Servers may have different gateways, and serve each other's workers. Who loses the only one that has a port should know.
fn gateways(servers: &[&ServerView], report: &mut Report) {
    let ports = |status: &StatusView| {
        let names = status.listeners.iter().map(|listener| listener.name.as_str()).filter(|name| *name != OWN_PORT);
        names.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let known = servers.iter().filter_map(|server| Some((server.name.as_str(), ports(server.status.as_ref()?))));
    let known: Vec<_> = known.collect();
    if known.iter().all(|(_, ports)| *ports == known[0].1) {
        return;
    }
    let each = known.into_iter().map(|(server, ports)| {
        let ports = ports.into_iter().collect::<Vec<_>>().join(" and ");
        format!("{server} for {}", if ports.is_empty() { "none" } else { &ports })
    });
    let what = format!("servers listen for gateways differently: {}", each.collect::<Vec<_>>().join(", "));
    let then = "workers are served as long as one that has their port lives, by whichever owns their app";
    report.add("gateways", Verdict::Warning, format!("{what}; {then}"));
}

/// The server's clock was read between the two moments of ours; what lies outside of them is skew.
fn clock_skew(asked: Timestamp, answered: Timestamp, server: Timestamp, report: &mut Report) {
    let (skew, direction) =
        if server < asked { (asked.since(server), "behind") } else { (server.since(answered), "ahead of") };
    let detail = if skew.is_zero() {
        format!("agrees with ours to {}", span(answered.since(asked)))
    } else {
        format!("{} {direction} ours; it changes no result, but the times that you compare", span(skew))
    };
    let verdict = match skew {
        skew if skew >= SKEW_FAIL => Verdict::Failed,
        skew if skew >= SKEW_WARN => Verdict::Warning,
        _ => Verdict::Ok,
    };
    report.add("clock", verdict, detail);
}

fn inside(status: &StatusView, report: &mut Report) {
    let ours = env!("CARGO_PKG_VERSION");
    if status.version == ours {
        report.ok("version", ours);
    } else {
        report.add("version", Verdict::Warning, format!("the server has {}, this is {ours}", status.version));
    }
    let store = &status.store;
    report.ok("store", format!("{}, schema {}, {:.1} MiB", store.kind, store.schema, store.bytes as f64 / 1_048_576.0));
    for listener in &status.listeners {
        let tls = if listener.tls { "TLS" } else { "plain text" };
        let loopback = ["127.", "[::1]", "localhost"].iter().any(|prefix| listener.address.starts_with(prefix));
        let verdict = match (listener.authenticated, listener.tls || loopback) {
            // Its workers have no way to authenticate; the operator asked for it.
            (false, _) if is_powerjob(listener) => Verdict::Warning,
            (false, _) => Verdict::Failed,
            (true, false) => Verdict::Warning,
            (true, true) => Verdict::Ok,
        };
        let open = match listener.authenticated {
            true => "",
            false if is_powerjob(listener) => ", unauthenticated: open to all machines that `powerjob.allow` lists",
            false => ", open to everybody",
        };
        report.add("port", verdict, format!("{} on {}, {tls}{open}", listener.name, listener.address));
    }
    let partitions = format!("{} of {}", status.partitions_owned, status.partitions_total);
    // Where servers share them, others have the rest: see `servers`.
    let is_alone = status.store.kind == "sqlite";
    let is_complete = status.partitions_owned == status.partitions_total;
    let owned = if is_complete || !is_alone { Verdict::Ok } else { Verdict::Warning };
    report.add("partitions", owned, partitions);
    for (name, age) in status.loops.iter().filter(|(_, age)| **age > LOOP_STUCK_SECONDS) {
        report.failed("loops", format!("`{name}` has not come round for {}", span(Duration::from_secs_f64(*age))));
    }
    let verdict = if status.ready { Verdict::Warning } else { Verdict::Failed };
    for problem in &status.problems {
        report.add("problem", verdict, problem.clone());
    }
}

/// Whether a port is one of PowerJob's gateway.
fn is_powerjob(listener: &ListenerView) -> bool {
    listener.name.starts_with("powerjob ")
}

async fn workers(client: &Client, report: &mut Report) {
    let apps = match within(client.app_list()).await {
        Ok(apps) => apps,
        Err(why) => return report.failed("workers", why),
    };
    if apps.is_empty() {
        report.add("workers", Verdict::Warning, "there is no app yet; `pendula app create NAME`");
    }
    for app in apps {
        match within(client.worker_list(&app.name)).await {
            Ok(workers) if workers.is_empty() => {
                report.add("workers", Verdict::Warning, format!("app {}: none; its instances wait", app.name));
            }
            Ok(workers) => {
                let slots: u32 = workers.iter().map(|worker| worker.slots).sum();
                let running: u32 = workers.iter().map(|worker| worker.running).sum();
                report.ok("workers", format!("app {}: {}, {running} of {slots} slots busy", app.name, workers.len()));
            }
            Err(why) => report.failed("workers", format!("app {}: {why}", app.name)),
        }
    }
}

/// What a worker on this machine would need for scripts.
fn interpreters(report: &mut Report) {
    for (check, program, argument) in [("sh", "/bin/sh", "-c :"), ("python3", "python3", "--version")] {
        let run = Command::new(program)
            .args(argument.split(' '))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match run {
            Ok(status) if status.success() => report.ok(check, "runs on this machine"),
            Ok(status) => report.add(check, Verdict::Warning, format!("{program} does not work here: {status}")),
            Err(error) => report.add(
                check,
                Verdict::Warning,
                format!("a worker on this machine could not run it: {program}: {error}"),
            ),
        }
    }
}

fn finish(screen: &Screen, report: Report) -> Outcome {
    screen.show(&report.checks, |screen| {
        let mut table = Table::new(["CHECK", "VERDICT", "DETAIL"]);
        for check in &report.checks {
            let (shade, word) = match check.verdict {
                Verdict::Ok => (Shade::Good, "ok"),
                Verdict::Warning => (Shade::Busy, "warning"),
                Verdict::Failed => (Shade::Bad, "failed"),
                Verdict::Skipped => (Shade::Faint, "skipped"),
            };
            table.shaded_row([
                (Shade::Plain, check.check.to_owned()),
                (shade, word.to_owned()),
                (Shade::Plain, check.detail.clone()),
            ]);
        }
        screen.table(table)
    })?;
    let failed: Vec<_> =
        report.checks.iter().filter(|check| check.verdict == Verdict::Failed).map(|check| check.check).collect();
    match (failed.as_slice(), report.unreachable) {
        ([], _) => Ok(()),
        (_, true) => Err(Failure::unreachable("no server answers at that address")
            .hint("is the address right, and the server started? `pendula dev` starts one here")),
        (failed, false) => Err(Failure::refused(format!("failed: {}", failed.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_outside_of_the_exchange_is_skew() {
        let at = Timestamp::from_millis;
        for (server, verdict, words) in [
            (1_050, Verdict::Ok, "agrees"),
            (900, Verdict::Ok, "100ms behind"),
            (2_100, Verdict::Warning, "1s ahead of"),
            (61_100, Verdict::Failed, "ahead of"),
        ] {
            let mut report = Report::default();
            clock_skew(at(1_000), at(1_100), at(server), &mut report);
            assert_eq!(report.checks[0].verdict, verdict, "{server}");
            assert!(report.checks[0].detail.contains(words), "{}", report.checks[0].detail);
        }
    }
}
