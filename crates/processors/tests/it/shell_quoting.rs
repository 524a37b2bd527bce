//! Real shells print what a template stands for, to the letter, wherever it stands.

use std::process::{Command, Stdio};

use pendula_processors::facts::Facts;
use pendula_processors::template::shell;
use proptest::prelude::*;
use serde_json::json;

fn facts(value: &str) -> Facts {
    let at = jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC);
    let serde_json::Value::Object(params) = json!({ "v": value }) else { unreachable!("it is an object") };
    Facts {
        instance: "1".to_owned(),
        attempt: 1,
        app: "demo".to_owned(),
        job: "test".to_owned(),
        fire_time: at.clone(),
        created_time: at,
        params,
        part: None,
    }
}

/// Programs that print the value between `<` and `>`, each with the template in another place.
const CONTEXTS: [&str; 16] = [
    "printf '<%s>' ${params.v}",
    "printf '<%s>' \"${params.v}\"",
    "printf '<%s>' '${params.v}'",
    "printf '%s' '<'${params.v}'>'",
    "printf '%s' \"<${params.v}>\"",
    "printf '%s' '<${params.v}>'",
    "# don't trip over ${params.v} \"\nprintf '<%s>' ${params.v}",
    "printf '%s' \"$(printf '<%s>' ${params.v})\"",
    "printf '%s' \"$(printf '<%s>' \"${params.v}\")\"",
    "printf '%s' \"$(printf '%s' '<${params.v}>')\"",
    "x=${params.v}; printf '<%s>' \"$x\"",
    "printf '<%s>' \"${UNSET:-${params.v}}\"",
    "printf '<%s>' ${UNSET:-${params.v}}",
    "cat <<END\n<${params.v}>\nEND\nprintf ''",
    "cat <<-END\n\t<${params.v}>\n\tEND",
    "if true; then (printf '<%s>' ${params.v}) | cat; fi",
];

fn run(shell: &str, context: &str, value: &str) -> String {
    let program = shell::expand(context, &facts(value)).expect("the template can stand there");
    assert!(value.is_empty() || value.len() < 4 || !program.text.contains(value), "the value is in the text");
    let output = Command::new(shell)
        .args(["-c", &program.text])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(program.variables)
        .stdin(Stdio::null())
        .output()
        .expect("the shell runs");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)
        .expect("what goes in as UTF-8 comes out as UTF-8")
        .trim_end_matches('\n')
        .to_owned()
}

fn shells() -> impl Iterator<Item = &'static str> {
    ["/bin/sh", "/bin/bash"].into_iter().filter(|path| std::path::Path::new(path).exists())
}

#[test]
fn sec_6_hostile_values_are_printed_not_run() {
    for value in [
        "",
        " ",
        "*",
        "$(touch /tmp/pwned)",
        "`id`",
        "';id;'",
        "\";id;\"",
        "a\nb",
        "${HOME}",
        "$HOME",
        "\\",
        "\\'",
        "\\\"",
        "END",
        "a\nEND\nid",
        "-n",
        "%s%n",
        "&& id",
        "| id",
        "> /tmp/x",
        "~",
        "!!",
        "{a,b}",
        "é\u{1f600}",
        "'\"'\"'",
        "$((1+1))",
        "${instance}",
        "#",
        "x # y",
    ] {
        for context in CONTEXTS {
            for shell in shells() {
                assert_eq!(run(shell, context, value), format!("<{value}>"), "{shell}: {context}: {value:?}");
            }
        }
    }
}

proptest! {
    // Each case starts two processes.
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn sec_6_any_value_is_printed_literally(
        value in "([ -~]|[\n\t'\"$`\\\\(){};&|<>*?#!~é]){0,20}",
        context in proptest::sample::select(CONTEXTS.to_vec()),
    ) {
        for shell in shells() {
            prop_assert_eq!(run(shell, context, &value), format!("<{value}>"));
        }
    }
}
