//! Inside the supervisor: start the script, obey the worker, and end when no process is left.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command as Program, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, WaitOptions};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use rustix::{fs::Gid, fs::Uid};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::process_tree::{self, Process};
use super::{Command, Launch, Report};

/// How long what a script left behind may take to end by itself, such as a `tee` that reads its last lines.
const SETTLE: Duration = Duration::from_millis(200);
/// How long it may then take to obey TERM.
const OBEY: Duration = Duration::from_secs(1);
/// Between two rounds of KILL, when the last one found the same processes as the one before. Else the next one follows
/// at once: some start others faster than they are counted, and only haste catches them.
const KILL_ROUND: Duration = Duration::from_millis(20);

/// Watches one script, then exits.
pub(super) fn run() -> ! {
    // On a thread of its own, because the caller may be inside a runtime already, where no other may start.
    let watched = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(watch())
    });
    let code = match watched.join() {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            eprintln!("[pendula] the supervisor failed: {error}");
            1
        }
        Err(_) => 1,
    };
    std::process::exit(code);
}

/// What the supervisor is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The script's end, or a command.
    Running,
    /// The end of what it left behind, by itself.
    Settling(Instant),
    /// The same, after TERM.
    Obeying(Instant),
    /// The same, after KILL, the next round of which is due then.
    Killing(Instant),
}

async fn watch() -> std::io::Result<()> {
    // Away from the terminal and the group of the worker, whose Ctrl-C is not meant for the script.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // A script of the same user must not look into its supervisor.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let mut child_ended = signal(SignalKind::child())?;
    // Whoever signals a whole container or service reaches the worker too, and the worker decides.
    let _ignored = ignore_polite_signals()?;

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let Some(launch) = lines.next_line().await? else { return Ok(()) };
    let launch: Launch = serde_json::from_str(&launch)?;
    let script = match start(&launch) {
        Ok(pid) => pid,
        Err(error) => {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            report(&Report::NotStarted { missing, message: error.to_string() });
            return Ok(());
        }
    };
    report(&Report::Started);

    let mut phase = Phase::Running;
    let (mut stopping, mut worker_gone) = (false, false);
    let mut last_round = Vec::new();
    while collect(script, &mut phase, stopping) {
        let timer = match phase {
            Phase::Running => None,
            Phase::Settling(until) | Phase::Obeying(until) | Phase::Killing(until) => Some(until),
        };
        tokio::select! {
            _ = child_ended.recv() => {}
            line = lines.next_line(), if !worker_gone => match read_command(line) {
                Some(Command::Terminate) => {
                    stopping = true;
                    process_tree::terminate(&tree());
                }
                Some(Command::Kill) => phase = Phase::Killing(Instant::now()),
                None => {
                    worker_gone = true;
                    phase = Phase::Killing(Instant::now());
                }
            },
            () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => phase = next(phase, &mut last_round),
        }
    }
    if worker_gone {
        let _ = std::fs::remove_dir_all(&launch.scratch);
    }
    report(&Report::Empty);
    Ok(())
}

/// Collects all children that ended. Returns whether any is left.
fn collect(script: Pid, phase: &mut Phase, stopping: bool) -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == script => {
                report(&Report::Ended { code: status.exit_status(), signal: status.terminating_signal() });
                // When it was asked to stop, the rest of the tree has the same grace, which the worker measures.
                if *phase == Phase::Running && !stopping {
                    *phase = Phase::Settling(Instant::now() + SETTLE);
                }
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// What follows when the time of `phase` is over.
fn next(phase: Phase, last_round: &mut Vec<Process>) -> Phase {
    match phase {
        Phase::Running => Phase::Running,
        Phase::Settling(_) => {
            let left = tree();
            let alive = left.iter().filter(|process| !process.is_zombie);
            let processes = alive.map(|p| format!("{} ({})", p.name, p.pid.as_raw_nonzero())).collect();
            report(&Report::LeftBehind { processes });
            process_tree::terminate(&left);
            Phase::Obeying(Instant::now() + OBEY)
        }
        Phase::Obeying(_) | Phase::Killing(_) => {
            let round = tree();
            process_tree::kill(&round);
            let pause = if round == *last_round { KILL_ROUND } else { Duration::ZERO };
            *last_round = round;
            Phase::Killing(Instant::now() + pause)
        }
    }
}

fn tree() -> Vec<Process> {
    process_tree::descendants(rustix::process::getpid())
}

fn start(launch: &Launch) -> std::io::Result<Pid> {
    let output = std::io::stderr().as_fd().try_clone_to_owned()?;
    let [program, arguments @ ..] = &launch.command[..] else {
        return Err(std::io::Error::other("no program was named"));
    };
    let mut command = Program::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(&launch.environment)
        .current_dir(&launch.directory)
        .stdout(Stdio::from(output.try_clone()?))
        .stderr(Stdio::from(output))
        .process_group(0);
    match &launch.stdin {
        Some(path) => command.stdin(std::fs::File::open(path)?),
        None => command.stdin(Stdio::null()),
    };
    let user = launch.user.clone();
    // Rights belong to threads: this one gives them up, the script inherits its lack of them, and the supervisor keeps
    // its own, which it needs to end the script.
    let starting = std::thread::spawn(move || {
        if let Some(user) = user {
            let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
            set_thread_groups(&groups)?;
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)?;
        }
        command.spawn()
    });
    let child = starting.join().map_err(|_| std::io::Error::other("the thread that starts the script panicked"))??;
    Ok(Pid::from_raw(child.id().cast_signed()).expect("a process has a number"))
}

fn ignore_polite_signals() -> std::io::Result<Vec<SignalStream>> {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()];
    kinds.into_iter().map(signal).collect()
}

/// The end of the pipe, or what is no command, means that the worker is gone.
fn read_command(line: std::io::Result<Option<String>>) -> Option<Command> {
    serde_json::from_str(&line.ok()??).ok()
}

/// Nobody listens only when the worker is gone, and then the tree is being killed anyway.
fn report(report: &Report) {
    let line = serde_json::to_string(report).expect("a report always becomes JSON");
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
