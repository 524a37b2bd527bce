//! Help that teaches: every command describes itself and shows examples.

use crate::command::Pendula;

const COMMANDS: &[&str] = &[
    "dev",
    "server",
    "worker",
    "apply",
    "diff",
    "export",
    "job",
    "instance",
    "app",
    "token",
    "login",
    "import crontab",
    "import powerjob",
    "doctor",
    "config",
    "migrate",
    "copy",
    "completions",
    "job run",
    "instance tasks",
    "bench map",
];

#[test]
fn every_command_has_examples_that_name_it() {
    let pendula = Pendula::new();
    let top = pendula.ok(&["--help"]);
    for expect in
        ["First steps:", "Exit codes: 0 done, 1 the instance failed, 2 usage, 3 not found or refused, 4 unreachable."]
    {
        assert!(top.contains(expect), "{top}");
    }
    for command in COMMANDS {
        let arguments: Vec<_> = command.split(' ').chain(["--help"]).collect();
        let help = pendula.ok(&arguments);
        assert!(top.contains(command.split(' ').next().expect("a word")), "{command} is missing in {top}");
        assert!(help.contains("Examples:") && help.contains(&format!("pendula {command}")), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 110), "{help}");
    }
}

#[test]
fn the_examples_of_the_help_are_accepted_by_the_parser() {
    let pendula = Pendula::new();
    for command in COMMANDS {
        let arguments: Vec<_> = command.split(' ').chain(["--help"]).collect();
        let help = pendula.ok(&arguments);
        let examples = help.lines().filter_map(|line| line.strip_prefix("  pendula "));
        for example in examples {
            // Up to the column of explanations, a pipe or a redirection; quotes are the shell's.
            let line = example.split("   ").next().unwrap_or(example).split([';', '>', '|']).next().unwrap_or(example);
            let words = split_words(line);
            let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
            // `--help` after them: the parser has to get so far without running anything.
            arguments.push("--help");
            let done = pendula.run(&arguments);
            assert_eq!(done.code, 0, "{line:?}: {}", done.err);
        }
    }
}

/// Words as a shell splits them, with single and double quotes.
fn split_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ') => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
            (_, c) => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

#[test]
fn completions_know_the_commands() {
    let script = Pendula::new().ok(&["completions", "bash"]);
    assert!(
        script.contains("pendula__subcmd__job__subcmd__run") || script.contains("pendula__job__run"),
        "{}",
        &script[..2000]
    );
}
