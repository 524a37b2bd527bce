//! The load of the host or container, as this process may use it.
//!
//! Inside a container the host's numbers mislead: a process with 512 MiB on a machine of 64 GiB is full long before the
//! machine is. So the limits of control groups (version 2) win where they are set, on any level above us.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use pendula_model::worker::HostMetrics;

/// Clock ticks per second in `/proc/stat`; fixed in the kernel's interface for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where the kernel tells about itself.
#[derive(Debug)]
pub(crate) struct HostProbe {
    proc: PathBuf,
    cgroups: PathBuf,
    disk: PathBuf,
    last_cpu: Option<(Instant, f64)>,
}

/// Seconds of processor time and bytes of memory that a group used, and its limits.
#[derive(Debug, Default, PartialEq)]
struct Usage {
    cpu_limit: Option<f64>,
    cpu_seconds: Option<f64>,
    memory_limit: Option<u64>,
    memory_used: Option<u64>,
}

impl HostProbe {
    /// Looks at this host, and at the file system that holds `disk`.
    pub(crate) fn of_this_host(disk: PathBuf) -> Self {
        Self::new("/proc".into(), "/sys/fs/cgroup".into(), disk)
    }

    fn new(proc: PathBuf, cgroups: PathBuf, disk: PathBuf) -> Self {
        HostProbe { proc, cgroups, disk, last_cpu: None }
    }

    /// What can be told now; 0 where the system does not say. Used cores are an average since the call before, 0 at the
    /// first.
    pub(crate) fn sample(&mut self, now: Instant) -> HostMetrics {
        let group = self.group();
        let available = std::thread::available_parallelism().map_or(0.0, |cores| cores.get() as f64);
        let cpu_cores = group.cpu_limit.map_or(available, |limit| limit.min(available));
        // A limited group is judged by its own use, else by the host's, which others use too.
        let cpu_seconds = group.cpu_limit.and(group.cpu_seconds).or_else(|| self.host_cpu_seconds());
        let cpu_used = cpu_seconds.map_or(0.0, |seconds| self.cpu_used(now, seconds));
        let (memory_bytes, memory_used_bytes) = match (group.memory_limit, group.memory_used) {
            (Some(limit), Some(used)) => (limit, used),
            _ => self.host_memory().unwrap_or_default(),
        };
        let (disk_bytes, disk_used_bytes) = disk_space(&self.disk).unwrap_or_default();
        HostMetrics { cpu_cores, cpu_used, memory_bytes, memory_used_bytes, disk_bytes, disk_used_bytes }
    }

    fn cpu_used(&mut self, now: Instant, seconds: f64) -> f64 {
        let before = self.last_cpu.replace((now, seconds));
        let Some((at, before)) = before else { return 0.0 };
        let elapsed = now.duration_since(at).as_secs_f64();
        if elapsed > 0.0 { ((seconds - before) / elapsed).max(0.0) } else { 0.0 }
    }

    /// The tightest limits among our control group and those above it, each with the use of the group that sets it.
    fn group(&self) -> Usage {
        let Some(path) = fs::read_to_string(self.proc.join("self/cgroup"))
            .ok()
            .and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::/").map(str::to_owned)))
        else {
            return Usage::default();
        };
        let mut usage = Usage::default();
        for ancestor in Path::new(&path).ancestors() {
            let group = self.cgroups.join(ancestor);
            if let Some(limit) = cpu_limit(&group)
                && usage.cpu_limit.is_none_or(|tightest| limit < tightest)
            {
                usage.cpu_limit = Some(limit);
                usage.cpu_seconds = keyed(&group.join("cpu.stat"), "usage_usec").map(|micros| micros as f64 / 1e6);
            }
            if let Some(limit) = number(&group.join("memory.max"))
                && usage.memory_limit.is_none_or(|tightest| limit < tightest)
            {
                usage.memory_limit = Some(limit);
                // Cached file pages are given up under pressure.
                let cached = keyed(&group.join("memory.stat"), "inactive_file").unwrap_or(0);
                usage.memory_used = number(&group.join("memory.current")).map(|used| used.saturating_sub(cached));
            }
        }
        usage
    }

    fn host_cpu_seconds(&self) -> Option<f64> {
        let stat = fs::read_to_string(self.proc.join("stat")).ok()?;
        let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
        let mut next = || fields.next()?.parse::<u64>().ok();
        let (user, nice, system, _idle, _iowait) = (next()?, next()?, next()?, next()?, next()?);
        let (irq, softirq, steal) = (next().unwrap_or(0), next().unwrap_or(0), next().unwrap_or(0));
        Some((user + nice + system + irq + softirq + steal) as f64 / TICKS_PER_SECOND)
    }

    fn host_memory(&self) -> Option<(u64, u64)> {
        let path = self.proc.join("meminfo");
        let total = keyed(&path, "MemTotal:")? * 1024;
        let available = keyed(&path, "MemAvailable:")? * 1024;
        Some((total, total.saturating_sub(available)))
    }
}

/// `cpu.max` is a quota and a period in microseconds, or `max` for no quota.
fn cpu_limit(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then(|| quota / period)
}

/// A file with one number; `max` is none.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number after `key` at the beginning of a line.
fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.split_ascii_whitespace().next() == Some(key))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(unix)]
fn disk_space(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    // What is reserved for the administrator counts as used: we cannot write there.
    let (total, free) = (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize);
    Some((total, total.saturating_sub(free)))
}

#[cfg(not(unix))]
fn disk_space(_: &Path) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MIB: u64 = 1024 * 1024;

    fn probe(files: &[(&str, &str)]) -> (tempfile::TempDir, HostProbe) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let probe = HostProbe::new(root.path().join("proc"), root.path().join("cg"), root.path().to_owned());
        (root, probe)
    }

    const HOST: [(&str, &str); 2] = [
        ("proc/stat", "cpu  100 0 100 9000 50 0 0 0 0 0\ncpu0 1 1 1 1\n"),
        ("proc/meminfo", "MemTotal:       1024 kB\nMemFree:  1 kB\nMemAvailable:    256 kB\n"),
    ];

    #[test]
    fn without_limits_the_host_counts() {
        let (root, mut probe) = probe(&HOST);
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::write(root.path().join("proc/self/cgroup"), "0::/user.slice\n").unwrap();
        let start = Instant::now();
        let first = probe.sample(start);
        assert_eq!((first.memory_bytes, first.memory_used_bytes), (MIB, 768 * 1024));
        assert_eq!(first.cpu_used, 0.0);
        assert!(first.cpu_cores >= 1.0 && first.disk_bytes >= first.disk_used_bytes && first.disk_bytes > 0);
        fs::write(root.path().join("proc/stat"), "cpu  150 0 200 9999 50 0 0 0 0 0\n").unwrap();
        let second = probe.sample(start + Duration::from_secs(3));
        assert!((second.cpu_used - 0.5).abs() < 1e-9, "{}", second.cpu_used);
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts_with_its_own_use() {
        let (root, mut probe) = probe(&[
            HOST[0],
            HOST[1],
            ("proc/self/cgroup", "12:cpu:/old\n0::/pod/box\n"),
            ("cg/pod/cpu.max", "50000 100000\n"),
            ("cg/pod/cpu.stat", "usage_usec 2000000\nuser_usec 1\n"),
            ("cg/pod/memory.max", "8388608\n"),
            ("cg/pod/memory.current", "5242880\n"),
            ("cg/pod/memory.stat", "anon 1\ninactive_file 1048576\n"),
            ("cg/pod/box/cpu.max", "max 100000\n"),
            ("cg/pod/box/memory.max", "max\n"),
        ]);
        let start = Instant::now();
        let first = probe.sample(start);
        assert_eq!(first.cpu_cores, 0.5);
        assert_eq!((first.memory_bytes, first.memory_used_bytes), (8 * MIB, 4 * MIB));
        fs::write(root.path().join("cg/pod/cpu.stat"), "usage_usec 2500000\n").unwrap();
        let second = probe.sample(start + Duration::from_secs(2));
        assert!((second.cpu_used - 0.25).abs() < 1e-9, "{}", second.cpu_used);
    }

    #[test]
    fn a_system_that_tells_nothing_is_no_error() {
        let mut probe = HostProbe::new("/nonexistent".into(), "/nonexistent".into(), "/nonexistent".into());
        let metrics = probe.sample(Instant::now());
        assert_eq!((metrics.memory_bytes, metrics.disk_bytes, metrics.cpu_used), (0, 0, 0.0));
    }
}
