//! Names for entries, which have none: the same line of the same file gets the same name each time, so that a second
//! import updates what the first one made.

use std::collections::BTreeSet;

/// The names that were given so far.
#[derive(Default)]
pub(super) struct Names(BTreeSet<String>);

/// Characters of each of the two readable parts.
const PART_CHARS: usize = 40;

impl Names {
    /// `FILE-PROGRAM-HASH`, and a number when that is taken, as by the same command at two times.
    pub(super) fn give(&mut self, file: &str, user: Option<&str>, command: &str) -> String {
        let hash = fnv(&[file, user.unwrap_or(""), command]);
        let parts = [part(file), part(&program(command)), format!("{:06x}", hash >> 40)];
        let base = parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("-");
        let mut name = base.clone();
        let mut count = 1;
        while !self.0.insert(name.clone()) {
            count += 1;
            name = format!("{base}-{count}");
        }
        name
    }
}

/// FNV-1a; the parts are kept apart by a byte that none of them has.
fn fnv(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn part(text: &str) -> String {
    let mut clean = String::new();
    for c in text.chars().take(PART_CHARS) {
        let c = if c.is_alphanumeric() || c == '.' || c == '_' { c } else { '-' };
        if c != '-' || !clean.ends_with('-') {
            clean.push(c);
        }
    }
    clean.trim_matches(['-', '.']).to_owned()
}

/// Words after which the program is still to come.
const BEFORE: [&str; 18] = [
    "if", "then", "else", "do", "while", "until", "!", "{", "(", "exec", "nice", "ionice", "nohup", "sudo", "env",
    "time", "chronic", "flock",
];
/// Programs that only prepare or guard what a line is about.
const GUARDS: [&str; 14] =
    ["[", "[[", "test", "command", "cd", "true", ":", ".", "source", "set", "export", "umask", "sleep", "fi"];

/// The program that a command is about, as far as one can tell without being a shell: the first that is no test, no
/// `cd` and the like. `run-parts` is about the directory that it is given.
fn program(command: &str) -> String {
    for simple in command.split(['&', '|', ';', '\n']) {
        let mut words = simple.split_ascii_whitespace().peekable();
        while let Some(word) = words.next() {
            let assignment = word
                .split_once('=')
                .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
            let number = word.parse::<f64>().is_ok();
            if assignment || number || BEFORE.contains(&word) || word.starts_with(['-', '<', '>']) {
                continue;
            }
            let base = |word: &str| word.trim_matches(['"', '\'']).rsplit('/').next().unwrap_or_default().to_owned();
            let name = base(word);
            if GUARDS.contains(&name.as_str()) {
                break;
            }
            if name == "run-parts"
                && let Some(directory) = words.find(|word| !word.starts_with('-'))
            {
                return base(directory);
            }
            if !part(&name).is_empty() {
                return name;
            }
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_behind_its_guards() {
        for (command, expect) in [
            ("/usr/bin/backup.sh -v", "backup.sh"),
            ("cd / && run-parts --report /etc/cron.hourly", "cron.hourly"),
            ("test -x /usr/sbin/x || { cd / && run-parts /etc/cron.daily; }", "cron.daily"),
            ("[ -x /usr/lib/clean ] && if [ ! -d /run ]; then /usr/lib/clean; fi", "clean"),
            ("command -v tool > /dev/null && tool 1 1", "tool"),
            ("MODE=1 nice -n 10 /sbin/scrub -A", "scrub"),
            ("FOO=bar /opt/it >/dev/null 2>&1", "it"),
            ("\"/opt/my tool\"", "my"),
            ("true", ""),
        ] {
            assert_eq!(program(command), expect, "{command}");
        }
    }

    #[test]
    fn names_are_stable_unique_and_allowed() {
        let mut names = Names::default();
        let first = names.give("php", Some("root"), "/usr/lib/clean");
        assert_eq!(first, Names::default().give("php", Some("root"), "/usr/lib/clean"));
        assert!(first.starts_with("php-clean-"), "{first}");
        assert_eq!(names.give("php", Some("root"), "/usr/lib/clean"), format!("{first}-2"));
        assert_ne!(names.give("php", Some("www"), "/usr/lib/clean"), first);
        for command in ["//", "…", &"x/".repeat(500), "'", "\u{1F600}"] {
            let name = names.give("my file\u{7}", None, command);
            pendula_model::limits::check_name("name", &name).expect(command);
        }
    }
}
