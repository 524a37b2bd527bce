//! The environment of a script: clean, apart from what the definition, the attempt and the worker's owner give.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ScriptConfig;
use super::plan::Program;
use super::scratch::Scratch;
use super::user::Account;
use crate::facts::{Facts, Input, Part};
use crate::supervisor::{Launch, SCRATCH_VARIABLE};

/// What a script gets from the worker's own environment.
const PASSED: [&str; 11] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SSL_CERT_FILE"];
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes of an input that come as a variable too; the kernel takes twice as much in one.
const INPUT_BYTES: usize = 64 * 1024;

/// What the supervisor is told.
pub(super) fn launch(
    program: Program,
    facts: &Facts,
    account: Option<Account>,
    scratch: &Scratch,
    config: &ScriptConfig,
) -> Launch {
    let mut environment = inherited(&config.pass_environment, |name| std::env::var(name).ok());
    if let Some(account) = &account {
        environment.insert("HOME".to_owned(), account.home.clone());
        environment.insert("SHELL".to_owned(), "/bin/sh".to_owned());
        environment.extend(["USER", "LOGNAME"].map(|name| (name.to_owned(), account.name.clone())));
    }
    // Without it, Python keeps output back until a block is full, and the log would not be live.
    environment.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
    environment.extend(program.environment);
    environment.extend(of_attempt(facts));
    if let Some(part) = &facts.part {
        environment.extend(of_part(part).into_iter().chain(scratch.exchange(part)).map(owned));
    }
    environment.extend(program.variables);
    environment.insert("PENDULA_PARAMS_FILE".to_owned(), scratch.params_file());
    environment.insert("PENDULA_RESULT_FILE".to_owned(), scratch.result_file());
    environment.insert(SCRATCH_VARIABLE.to_owned(), scratch.path_text());

    let mut command = program.interpreter;
    command.push(scratch.script_file());
    command.extend(program.arguments);
    Launch {
        command,
        environment,
        directory: program.directory.map_or_else(|| scratch.work_directory(), Into::into),
        stdin: scratch.stdin_file(),
        user: account.map(|account| account.rights),
        scratch: scratch.path().to_owned(),
    }
}

/// Variables of the worker that scripts may see.
fn inherited(further: &[String], of_worker: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let names = PASSED.into_iter().chain(further.iter().map(String::as_str));
    // The worker's own settings, its token among them, all begin so.
    let names = names.filter(|name| !name.to_ascii_uppercase().starts_with("PENDULA_"));
    let mut environment: BTreeMap<String, String> =
        names.filter_map(|name| Some((name.to_owned(), of_worker(name)?))).collect();
    environment.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
    environment
}

/// `PENDULA_INSTANCE` and its siblings. A parameter becomes `PENDULA_PARAM_<name>` if it is text, a number or a truth
/// value; characters of its name that no variable may have become `_`, and an exact name wins over a changed one.
fn of_attempt(facts: &Facts) -> BTreeMap<String, String> {
    let zone = facts.fire_time.time_zone().iana_name().unwrap_or("UTC");
    let mut environment: BTreeMap<String, String> = [
        ("PENDULA_INSTANCE", facts.instance.clone()),
        ("PENDULA_ATTEMPT", facts.attempt.to_string()),
        ("PENDULA_APP", facts.app.clone()),
        ("PENDULA_JOB", facts.job.clone()),
        ("PENDULA_FIRE_TIME", facts.fire_time_text()),
        ("PENDULA_TIMEZONE", zone.to_owned()),
        ("PENDULA_PARAMS", facts.params_json()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let mut changed = Vec::new();
    for (name, value) in &facts.params {
        let text = match value {
            Value::String(text) if !text.contains('\0') => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => continue,
        };
        let safe: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let variable = format!("PENDULA_PARAM_{safe}");
        if safe == *name {
            environment.insert(variable, text);
        } else {
            changed.push((variable, text));
        }
    }
    for (variable, text) in changed {
        environment.entry(variable).or_insert(text);
    }
    environment
}

/// `PENDULA_TASK_ROLE` and its siblings, for a task of an instance with many.
fn of_part(part: &Part) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        ("PENDULA_TASK_ROLE", part.role.to_string()),
        ("PENDULA_TASK_ID", part.id.to_string()),
        ("PENDULA_TASK_NAME", part.name.clone()),
    ];
    let input = part.input.as_ref().and_then(Input::text);
    if let Some(text) = input.filter(|text| text.len() <= INPUT_BYTES && !text.contains('\0')) {
        environment.push(("PENDULA_TASK_INPUT", text.to_owned()));
    }
    if let Some(shard) = part.shard {
        environment.push(("PENDULA_SHARD_INDEX", shard.index.to_string()));
        environment.push(("PENDULA_SHARD_TOTAL", shard.total.to_string()));
    }
    environment
}

fn owned((name, value): (&'static str, String)) -> (String, String) {
    (name.to_owned(), value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::sample;
    use pendula_worker::{Shard, TaskRole};
    use serde_json::json;

    #[test]
    fn secrets_of_the_worker_stay_with_it() {
        let further = ["PENDULA_TOKEN", "pendula_token", "JAVA_HOME", "MISSING"].map(str::to_owned);
        let environment = inherited(&further, |name| match name {
            "MISSING" | "PATH" => None,
            _ => Some(format!("<{name}>")),
        });
        assert!(!environment.values().any(|value| value.to_lowercase().contains("token")));
        assert_eq!((environment["JAVA_HOME"].as_str(), environment["PATH"].as_str()), ("<JAVA_HOME>", DEFAULT_PATH));
    }

    #[test]
    fn parameters_become_variables_with_safe_names() {
        let facts = sample(json!({
            "day": "it's", "n": 1.5, "ok": true, "a-b": "changed", "a_b": "exact", "o": {}, "nul": "\0", "é=": "x"
        }));
        let environment = of_attempt(&facts);
        let get = |name: &str| environment.get(name).map(String::as_str);
        assert_eq!(get("PENDULA_PARAM_day"), Some("it's"));
        assert_eq!(get("PENDULA_PARAM_n"), Some("1.5"));
        assert_eq!(get("PENDULA_PARAM_ok"), Some("true"));
        assert_eq!(get("PENDULA_PARAM_a_b"), Some("exact"));
        assert_eq!(get("PENDULA_PARAM___"), Some("x"));
        assert_eq!((get("PENDULA_PARAM_o"), get("PENDULA_PARAM_nul")), (None, None));
        assert_eq!(get("PENDULA_FIRE_TIME"), Some("2026-11-21T02:30:00+08:00"));
        assert_eq!(get("PENDULA_TIMEZONE"), Some("Asia/Shanghai"));
    }
    #[test]
    fn an_input_is_a_variable_if_it_can_be_one() {
        let input = |bytes: &[u8]| {
            let input = Some(Input { bytes: bytes.to_vec(), content_type: "a/b".to_owned() });
            let shard = Some(Shard { index: 2, total: 8 });
            let part = Part { role: TaskRole::Shard, id: 7, name: "a".to_owned(), input, shard };
            let environment: BTreeMap<_, _> = of_part(&part).into_iter().collect();
            assert_eq!(
                (environment["PENDULA_TASK_ROLE"].as_str(), &*environment["PENDULA_SHARD_INDEX"]),
                ("shard", "2")
            );
            environment.get("PENDULA_TASK_INPUT").map(String::len)
        };
        assert_eq!((input("é".as_bytes()), input(b"")), (Some(2), Some(0)));
        assert_eq!(input(&vec![b'x'; INPUT_BYTES]), Some(INPUT_BYTES));
        for none in [b"\xff".as_slice(), b"a\0b", &vec![b'x'; INPUT_BYTES + 1]] {
            assert_eq!(input(none), None);
        }
    }
}
