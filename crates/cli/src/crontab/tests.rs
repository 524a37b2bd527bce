//! Whole files, written by hand with what real ones have.

use pendula_model::processor::{Processor, Script};

use super::*;

fn import(layout: Layout, path: &str, text: &str) -> Imported {
    let crontab = Crontab { path: path.into(), layout, text: text.as_bytes().to_vec() };
    let options = Options { timezone: "Europe/Berlin".into(), run_as: false, enabled: true };
    let now = "2026-11-21T08:00:00Z".parse().expect("a time");
    read(&[crontab], &options, now).remove(0)
}

fn words(imported: &Imported) -> Vec<(usize, &'static str)> {
    imported.lines.iter().map(|line| (line.number, line.fate.word())).collect()
}

fn job(imported: &Imported, number: usize) -> (&JobSpec, &Script) {
    let line = imported.lines.iter().find(|line| line.number == number).expect("a line of that number");
    let Fate::Imported { job, .. } = &line.fate else { panic!("{line:?}") };
    let Processor::Shell(script) = &job.processor else { panic!("{job:?}") };
    (job, script)
}

fn why(imported: &Imported, number: usize) -> String {
    match &imported.lines.iter().find(|line| line.number == number).expect("a line").fate {
        Fate::Unsupported { why } | Fate::Broken { why } => why.clone(),
        fate => panic!("{fate:?}"),
    }
}

const SYSTEM: &str = "\
# a system crontab, as packages ship them

SHELL=/bin/bash
PATH=/usr/sbin:/usr/bin:/bin
MAILTO=\"ops@example.org\"
10 *\t* * *\troot\tcd / && run-parts --report /etc/jobs.hourly
5-55/10 * * * * www-data command -v collect > /dev/null && collect 1 1
@weekly root test -x /opt/x -a \\! -d /run/y && /opt/x \"$(date +\\%d)\"
@reboot root /opt/boot
57 0 * * 0 root mail joe%Hello,%%100\\%
61 0 * * * root true
0 0 30 2 * root true
* * * * * root
word
";

#[test]
fn every_line_of_a_system_crontab_has_a_fate() {
    let imported = import(Layout::System, "/etc/cron.d/sample", SYSTEM);
    let expect = [
        (3, "env"),
        (4, "env"),
        (5, "unsupported"),
        (6, "imported"),
        (7, "imported"),
        (8, "imported"),
        (9, "unsupported"),
        (10, "imported"),
        (11, "broken"),
        (12, "broken"),
        (13, "broken"),
        (14, "broken"),
    ];
    assert_eq!(words(&imported), expect);
    assert!(why(&imported, 9).contains("@reboot"));
    assert!(why(&imported, 11).contains("minute"), "{}", why(&imported, 11));

    let (hourly, script) = job(&imported, 6);
    assert!(hourly.name.starts_with("sample-jobs.hourly-"), "{}", hourly.name);
    assert_eq!(hourly.description, "Imported from crontab /etc/cron.d/sample, user root, MAILTO=ops@example.org");
    assert_eq!(script.script, "cd / && run-parts --report /etc/jobs.hourly");
    assert_eq!(script.interpreter, ["/bin/bash"]);
    assert_eq!(script.env.keys().collect::<Vec<_>>(), ["PATH", "SHELL"]);
    assert_eq!(script.run_as, None);
    let trigger = hourly.trigger.as_ref().expect("a trigger");
    assert_eq!((trigger.cron.as_deref(), trigger.timezone.as_str()), (Some("10 * * * *"), "Europe/Berlin"));

    assert_eq!(job(&imported, 8).1.script, "test -x /opt/x -a \\! -d /run/y && /opt/x \"$(date +%d)\"");
    let (_, mail) = job(&imported, 10);
    assert_eq!((mail.script.as_str(), mail.stdin.as_deref()), ("mail joe", Some("Hello,\n\n100%\n")));
}

#[test]
fn settings_hold_for_the_lines_below_them() {
    let text = "0 1 * * * a\nTZ=UTC\nCRON_TZ=Asia/Tokyo\nHOME=/srv\nX=${app} 1\n0 1 * * * b\nCRON_TZ=Nowhere/Else\n0 1 * * * c\nCRON_TZ=UTC\n0 1 * * * d\n";
    let imported = import(Layout::User(Some("ann".into())), "/var/spool/cron/crontabs/ann", text);
    let (first, script) = job(&imported, 1);
    assert_eq!((first.trigger.as_ref().expect("one").timezone.as_str(), script.env.len()), ("Europe/Berlin", 0));
    assert!(first.name.starts_with("ann-a-"), "{}", first.name);
    let (second, script) = job(&imported, 6);
    assert_eq!(second.trigger.as_ref().expect("one").timezone, "Asia/Tokyo");
    assert_eq!(script.directory.as_deref(), Some("/srv"));
    assert_eq!(script.env["TZ"], "UTC");
    assert_eq!(script.env["X"], "$${app} 1");
    assert_eq!(words(&imported)[6..8], [(7, "broken"), (8, "broken")]);
    assert_eq!(job(&imported, 10).0.trigger.as_ref().expect("one").timezone, "UTC");
}

#[test]
fn the_same_file_gives_the_same_names_whatever_moved() {
    let name = |text: &str, line| job(&import(Layout::System, "/etc/cron.d/x", text), line).0.name.clone();
    let before = name("0 1 * * * root /opt/a\n", 1);
    let after = name("# a comment more\n5 2 * * * root /opt/b\n30 4 * * * root /opt/a\n", 3);
    assert_eq!(before, after);
    let twice = "0 1 * * * root /opt/a\n0 2 * * * root /opt/a\n";
    assert_eq!(name(twice, 2), format!("{before}-2"));
}

#[test]
fn strange_files_are_read_and_remarked_on() {
    let imported = import(Layout::User(None), "/tmp/x", "\u{feff}* * * * * root a\r\n0 1 * * * root b");
    assert_eq!(imported.notes.len(), 4, "{:?}", imported.notes);
    assert_eq!(job(&imported, 1).1.script, "root a");
    let crontab =
        Crontab { path: "x".into(), layout: Layout::User(None), text: b"* * * * * \xff\n* * * * * a\0b\n\n".to_vec() };
    let options = Options { timezone: "UTC".into(), run_as: false, enabled: true };
    let imported = read(&[crontab], &options, Timestamp::default()).remove(0);
    assert_eq!(words(&imported), [(1, "broken"), (2, "broken")]);
}

#[test]
fn the_place_of_a_file_tells_its_format() {
    for (path, expect) in [
        ("/etc/crontab", Layout::System),
        ("/etc/cron.d/php", Layout::System),
        ("x/etc/cron.d/php", Layout::System),
        ("/var/spool/cron/crontabs/ann", Layout::User(Some("ann".into()))),
        ("/home/ann/crontab", Layout::User(None)),
        ("-", Layout::User(None)),
    ] {
        assert_eq!(Layout::of_path(Path::new(path)), expect, "{path}");
    }
    assert!(
        is_read_from_cron_d("e2scrub_all")
            && !is_read_from_cron_d(".placeholder")
            && !is_read_from_cron_d("php.dpkg-new")
    );
}

#[test]
fn no_bytes_whatever_make_it_panic_or_lose_a_line() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let alphabet: &[u8] = b"* 019/-,@=%\\'\"#\t\r\n$}{AZaz\xc3\xa9root ";
    for _ in 0..2_000 {
        let text: Vec<u8> = (0..200)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                alphabet[(seed % alphabet.len() as u64) as usize]
            })
            .collect();
        let expect = text
            .split(|byte| *byte == b'\n')
            .filter(|line| {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let start = line.iter().find(|byte| !b" \t".contains(byte));
                start.is_some_and(|byte| *byte != b'#')
            })
            .count();
        let crontab = Crontab { path: "x".into(), layout: Layout::System, text };
        let options = Options { timezone: "UTC".into(), run_as: true, enabled: false };
        let imported = read(&[crontab], &options, Timestamp::default());
        assert_eq!(imported[0].lines.len(), expect);
    }
}
