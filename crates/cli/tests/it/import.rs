//! Crontabs without a server: the plan, the report, the definitions file.

use crate::command::Pendula;

const CRON_D: &str = "\
SHELL=/bin/bash
MAILTO=ops
*/10 * * * * root test -d /x && /usr/lib/collect 1 1
59 23 * * * backup /usr/lib/rotate --date=$(date +\\%F)
@reboot root /usr/bin/boot
61 * * * * root true
";

#[test]
fn the_plan_needs_no_server_and_drops_nothing() {
    let pendula = Pendula::new();
    pendula.file("etc/cron.d/sample", CRON_D);
    pendula.file("etc/cron.d/sample.dpkg-old", "* * * * * root false\n");
    let directory = pendula.home().join("etc/cron.d").display().to_string();
    let report = pendula.json(&["import", "crontab", &directory, "--dry-run", "--timezone", "America/New_York"]);
    let lines = report["files"][0]["lines"].as_array().expect("lines");
    let statuses: Vec<_> = lines
        .iter()
        .map(|line| (line["line"].as_u64().expect("a number"), line["status"].as_str().expect("a word")))
        .collect();
    let expect = [(1, "env"), (2, "unsupported"), (3, "imported"), (4, "imported"), (5, "unsupported"), (6, "broken")];
    assert_eq!(statuses, expect);
    assert_eq!(report["files"].as_array().expect("files").len(), 1);
    assert!(report["notes"][0].as_str().expect("a note").contains("sample.dpkg-old"));
    let rotate = &lines[3];
    assert_eq!(rotate["job"]["processor"]["shell"]["script"], "/usr/lib/rotate --date=$(date +%F)");
    assert_eq!(rotate["next"].as_array().expect("fires").len(), 3);
    for fire in rotate["next"].as_array().expect("fires") {
        let fire = fire.as_str().expect("a time");
        assert!(fire.ends_with("T04:59:00Z") || fire.ends_with("T03:59:00Z"), "{fire} is not 23:59 in New York");
    }
    let table = pendula.ok(&["import", "crontab", &directory, "--dry-run"]);
    assert!(table.contains("6 lines: 2 imported, 1 env, 2 unsupported, 1 broken; nothing was saved"), "{table}");
    assert!(table.contains("@reboot") && table.contains("minute"), "{table}");
}

#[test]
fn a_definitions_file_can_be_made_from_standard_input() {
    let pendula = Pendula::new();
    let file = pendula.home().join("jobs.yaml").display().to_string();
    let done = pendula.run_with_input(
        &["import", "crontab", "-", "--user", "ann", "--save", &file, "--app", "a"],
        "@daily  mail ann%hi%\n",
    );
    assert_eq!(done.code, 0, "{}", done.err);
    let text = std::fs::read_to_string(&file).expect("written");
    for part in ["app: a", "name: ann-mail-", "cron: \"@daily\"", "script: mail ann", "delivery: at_most_once"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn an_unknown_zone_or_file_is_refused() {
    let pendula = Pendula::new();
    let done = pendula.run(&["import", "crontab", "/dev/null", "--timezone", "Mars/Olympus", "--dry-run"]);
    assert_eq!((done.code, done.err.contains("Mars/Olympus")), (2, true), "{}", done.err);
    assert_eq!(pendula.run(&["import", "crontab", "/does/not/exist", "--dry-run"]).code, 2);
}
