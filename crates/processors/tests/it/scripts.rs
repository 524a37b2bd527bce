//! Scripts: what they get, what they print, how they end.

use std::time::{Duration, Instant};

use pendula_processors::script::{Language, ScriptConfig};
use serde_json::{Value, json};

use crate::attempt::{self, shell, supervised};
use crate::processes::Mailbox;

async fn python(definition: Value, params: Value) -> attempt::Ended {
    attempt::start(Language::Python, supervised(), &definition, &params).end().await
}

#[tokio::test]
async fn output_comes_in_order_and_codes_tell_success() {
    let ended = shell("echo one; echo two >&2; printf three").await;
    assert_eq!((ended.outcome.is_ok(), ended.log.as_str()), (true, "one\ntwo\nthree"));
    let ended = shell("echo working; echo broken >&2; exit 3").await;
    assert_eq!((ended.reason(), ended.message()), ("exit_code", "exit code 3: working\nbroken"));
    assert!(shell(json!({ "script": "exit 3", "success_codes": [0, 3] })).await.outcome.is_ok());
    let ended = shell("kill -SEGV $$").await;
    assert_eq!(ended.reason(), "signal");
}

#[tokio::test]
async fn results_come_from_lines_and_from_the_file() {
    let ended = shell("echo ::output a=1; echo '{\"b\": [2]}' > \"$PENDULA_RESULT_FILE\"").await;
    assert_eq!(ended.result(), json!({ "a": "1", "b": [2] }));
    assert_eq!(ended.log, "::output a=1\n");
    assert_eq!(shell("echo plain > \"$PENDULA_RESULT_FILE\"; exit 1").await.result(), json!({ "result": "plain" }));
    let ended = shell("head -c 70000 /dev/zero > \"$PENDULA_RESULT_FILE\"").await;
    assert_eq!(ended.reason(), "result_too_large");
    let ended = shell("ln -s /etc/passwd \"$PENDULA_RESULT_FILE\"").await;
    assert!(ended.message().contains("result file"), "{}", ended.message());
}

#[tokio::test]
async fn parameters_arrive_by_environment_file_input_and_arguments() {
    let params = json!({ "day": "it's $(a) \"day\"", "n": 7 });
    let text = r#"
import json, os, sys
print(os.environ["PENDULA_PARAM_day"], os.environ["PENDULA_PARAM_n"], sys.argv[1:])
assert json.load(open(os.environ["PENDULA_PARAMS_FILE"])) == json.loads(os.environ["PENDULA_PARAMS"]) == json.load(sys.stdin)
print(os.environ["PENDULA_FIRE_TIME"], os.environ["PENDULA_TIMEZONE"], os.environ["PENDULA_ATTEMPT"], os.environ["WHEN"])
print(os.listdir("."), "${params.day}")
"#;
    let definition = json!({
        "script": text, "args": ["${params.day}", "x"], "stdin": "${params | json}",
        "env": { "WHEN": "${fire_time | plus('-1d') | date('yyyyMMdd')}" }
    });
    let ended = python(definition, params).await;
    let expected = "it's $(a) \"day\" 7 ['it\\'s $(a) \"day\"', 'x']\n\
                    2026-11-21T03:30:00+01:00 Europe/Berlin 1 20261120\n[] ${params.day}\n";
    assert_eq!(ended.log, expected, "{:?}", ended.outcome);
}

#[tokio::test]
async fn sec_6_the_environment_is_clean() {
    let known = [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TZ",
        "TMPDIR",
        "SSL_CERT_FILE",
        "PYTHONUNBUFFERED",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
    ];
    let ended = shell("env").await;
    // The test itself runs with many others, set by cargo.
    for name in ended.log.lines().filter_map(|line| line.split('=').next()) {
        assert!(known.contains(&name) || name.starts_with("PENDULA_"), "{name}");
    }
    assert!(!ended.log.contains("TOKEN"));
    let ended = shell("cat /proc/$PPID/environ | tr '\\0' '\\n'; ls -l /proc/self/fd | wc -l").await;
    assert!(!ended.log.contains('='), "the supervisor has no environment to leak: {}", ended.log);
}

#[tokio::test]
async fn o_9_bytes_that_are_no_text_do_not_break_the_log() {
    let ended = shell(r"printf '\377\376 \303'; sleep 0.05; printf '\251 \033[31mred\033[0m\n'").await;
    assert_eq!(ended.log, "\u{fffd}\u{fffd} é \u{1b}[31mred\u{1b}[0m\n");
}

#[tokio::test]
async fn o_9_output_is_seen_while_the_script_runs() {
    let mailbox = Mailbox::new();
    let script = format!("printf 'no line break yet'; read answer < {}; echo; echo $answer", mailbox.path());
    let started = attempt::start(Language::Shell, supervised(), &json!(script), &json!({}));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !started.probe.log_text().contains("no line break yet") {
        assert!(Instant::now() < deadline, "the output does not arrive");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    std::fs::write(mailbox.path(), "go on\n").unwrap();
    assert_eq!(started.end().await.log, "no line break yet\ngo on\n");
}

#[tokio::test]
async fn sec_14_a_flood_of_output_is_cut_and_the_script_goes_on() {
    let config = ScriptConfig { log_bytes: 100_000, ..supervised() };
    let script = "head -c 50000000 /dev/zero | tr '\\0' x; echo; echo ::output done=yes";
    let ended = attempt::start(Language::Shell, config, &json!(script), &json!({})).end().await;
    assert_eq!(ended.result(), json!({ "done": "yes" }));
    assert!(ended.log.len() < 101_000, "{} bytes", ended.log.len());
    assert!(ended.log.ends_with("[pendula] the output exceeds 100000 bytes; the rest is not logged\n"));
    // The first line was broken where it exceeded what a line may have.
    assert_eq!(ended.log.lines().next().map(str::len), Some(65536));
}

#[tokio::test]
async fn o_9_the_last_lines_of_a_background_reader_are_not_lost() {
    let ended = shell("#!/usr/bin/env bash\nexec > >(sleep 0.05; cat)\necho hello").await;
    assert_eq!((ended.outcome.is_ok(), ended.log.as_str()), (true, "hello\n"));
}

#[tokio::test]
async fn what_is_missing_is_said_plainly() {
    let ended = shell(json!({ "script": "1", "interpreter": ["no-such-interpreter"] })).await;
    assert_eq!(ended.reason(), "processor_missing");
    assert!(ended.message().contains("`no-such-interpreter`"), "{}", ended.message());
    let ended = shell(json!({ "script": "pwd", "directory": "/no/such/place" })).await;
    assert_eq!(ended.reason(), "directory_missing");
    assert!(ended.message().contains("/no/such/place"));
    assert_eq!(shell(json!({ "script": "pwd", "directory": "/usr" })).await.log, "/usr\n");
    let ended = shell("echo ${params.day}").await;
    assert_eq!(ended.reason(), "invalid_definition");
    assert!(ended.message().contains("params.day"));
    // The weaker mode says it in the same way.
    let definition = json!({ "script": "1", "interpreter": ["no-such-interpreter"] });
    let ended = attempt::start(Language::Shell, ScriptConfig::default(), &definition, &json!({})).end().await;
    assert_eq!(ended.reason(), "processor_missing");
}

#[tokio::test]
async fn nothing_is_left_on_disk() {
    let scratch = tempfile::tempdir().unwrap();
    let config = ScriptConfig { scratch: scratch.path().to_owned(), ..supervised() };
    let script = "ls -ld \"$PENDULA_SCRATCH\" | cut -c1-10; ls -l \"$0\" | cut -c1-10; touch file; mkdir -p a/b";
    let ended = attempt::start(Language::Shell, config, &json!(script), &json!({})).end().await;
    assert_eq!(ended.log, "drwx------\n-rw-------\n");
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read_dir(&scratch).unwrap().count() > 0 {
        assert!(Instant::now() < deadline, "the directory of the attempt stays");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn sec_17_another_user_needs_permission() {
    let definition =
        json!({ "script": "id -un; id -Gn; echo $HOME $USER; echo ok > \"$PENDULA_RESULT_FILE\"", "run_as": "nobody" });
    let ended = shell(definition.clone()).await;
    assert_eq!(ended.reason(), "invalid_definition");
    if !rustix::process::geteuid().is_root() {
        eprintln!("the rest needs root and is skipped");
        return;
    }
    let config = ScriptConfig { run_as: vec!["nobody".to_owned()], ..supervised() };
    let ended = attempt::start(Language::Shell, config, &definition, &json!({})).end().await;
    assert!(ended.log.starts_with("nobody\nnogroup\n") && ended.log.ends_with(" nobody\n"), "{}", ended.log);
    assert_eq!(ended.result(), json!({ "result": "ok" }));
}
