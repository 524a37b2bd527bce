//! Processes as `/proc` shows them.

use std::collections::HashMap;
use std::fs;
use std::io::Read;

use rustix::process::{Pid, PidfdFlags, Signal};

/// One process, known by number and start time, since numbers are used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: Pid,
    parent: i32,
    started: u64,
    pub(super) name: String,
    /// Dead and not yet collected, or its first thread has ended.
    pub(super) is_zombie: bool,
}

/// All processes that descend from `ancestor`, parents before children.
pub(super) fn descendants(ancestor: Pid) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in all() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = children.remove(&ancestor.as_raw_nonzero().get()).unwrap_or_default();
    let mut next = 0;
    while next < found.len() {
        let pid = found[next].pid.as_raw_nonzero().get();
        found.extend(children.remove(&pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// All processes whose environment says `name=value`, apart from this one. A process that replaced its environment is
/// not found.
pub(super) fn marked(name: &str, value: &str) -> Vec<Process> {
    let entry = format!("{name}={value}").into_bytes();
    let carries_it = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid.as_raw_nonzero())).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == entry)
    };
    let own = rustix::process::getpid();
    all().filter(|process| process.pid != own && carries_it(process)).collect()
}

fn all() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?))
}

fn read(number: i32) -> Option<Process> {
    let mut stat = Vec::with_capacity(512);
    fs::File::open(format!("/proc/{number}/stat")).ok()?.read_to_end(&mut stat).ok()?;
    parse(&String::from_utf8_lossy(&stat))
}

/// `pid (name) state ppid … starttime …`; the name may contain spaces and parentheses.
fn parse(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Process {
        pid: Pid::from_raw(pid.parse().ok()?)?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        name: name.to_owned(),
        is_zombie: matches!(fields[0], "Z" | "X"),
    })
}

impl Process {
    /// Sends `signal`, unless the number belongs to another process by now.
    pub(super) fn signal(&self, signal: Signal) {
        let Ok(handle) = rustix::process::pidfd_open(self.pid, PidfdFlags::empty()) else {
            // Gone, or a kernel before 5.3, where the tiny risk of a number used again remains.
            if self.is_same() {
                let _ = rustix::process::kill_process(self.pid, signal);
            }
            return;
        };
        // The handle pins the process, so what is true after it was opened stays true.
        if self.is_same() {
            let _ = rustix::process::pidfd_send_signal(&handle, signal);
        }
    }

    fn is_same(&self) -> bool {
        read(self.pid.as_raw_nonzero().get()).is_some_and(|now| now.started == self.started)
    }
}

/// Asks each to end; those that are suspended are woken, for they could not obey otherwise.
pub(super) fn terminate(processes: &[Process]) {
    for process in processes {
        process.signal(Signal::TERM);
        process.signal(Signal::CONT);
    }
}

/// Ends each.
pub(super) fn kill(processes: &[Process]) {
    for process in processes {
        process.signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_contain_what_separates_fields() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9876 10 11";
        let process = parse(stat).unwrap();
        assert_eq!((process.parent, process.started, process.name.as_str()), (7, 9876, "a) b (c"));
        assert!(parse("").is_none() && parse("42 (a) S").is_none());
    }

    #[test]
    fn this_process_descends_from_its_parent() {
        let parent = rustix::process::getppid().expect("a test has a parent");
        let own = rustix::process::getpid();
        assert!(descendants(parent).iter().any(|process| process.pid == own));
    }
}
