//! From definition and facts to a program: which interpreter, which text, which arguments. Pure.

use std::collections::BTreeMap;

use pendula_model::processor::Script;

use super::Language;
use crate::facts::Facts;
use crate::template::{self, Place, TemplateError, shell};

/// Shells in whose text templates are expanded, by the name of their program.
const SHELLS: [&str; 9] = ["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "yash", "busybox"];
/// Longest first line that names an interpreter, as in the kernel.
const SHEBANG_BYTES: usize = 255;

/// A script ready to be written to a file and started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// Program and arguments that come before the script's file.
    pub(super) interpreter: Vec<String>,
    /// Name of the script's file, for messages of the interpreter.
    pub(super) file_name: &'static str,
    pub(super) text: String,
    pub(super) arguments: Vec<String>,
    /// From the definition, expanded.
    pub(super) environment: BTreeMap<String, String>,
    /// Values of templates in the text.
    pub(super) variables: Vec<(String, String)>,
    pub(super) stdin: Option<String>,
    /// None is an empty directory made for the attempt.
    pub(super) directory: Option<String>,
}

pub(super) fn plan(language: Language, script: &Script, facts: &Facts) -> Result<Program, TemplateError> {
    let plain = |text: &String| template::expand(text, facts, Place::Plain);
    let interpreter = interpreter(language, script);
    let has_shell = interpreter.iter().take(2).any(|word| SHELLS.contains(&base_name(word)));
    let (text, variables) = if language == Language::Shell && has_shell {
        let program = shell::expand(&script.script, facts)?;
        (program.text, program.variables)
    } else {
        (script.script.clone(), Vec::new())
    };
    let expand_entry = |(name, value): (&String, &String)| Ok((name.clone(), plain(value)?));
    Ok(Program {
        interpreter,
        file_name: if language == Language::Python { "script.py" } else { "script" },
        text,
        arguments: script.args.iter().map(plain).collect::<Result<_, _>>()?,
        environment: script.env.iter().map(expand_entry).collect::<Result<_, TemplateError>>()?,
        variables,
        stdin: script.stdin.as_ref().map(plain).transpose()?,
        directory: script.directory.clone(),
    })
}

fn interpreter(language: Language, script: &Script) -> Vec<String> {
    if !script.interpreter.is_empty() {
        return script.interpreter.clone();
    }
    match (language, shebang(&script.script)) {
        (Language::Shell, Some(interpreter)) => interpreter,
        (Language::Shell, None) => vec!["/bin/sh".to_owned()],
        (Language::Python, _) => vec!["python3".to_owned()],
    }
}

/// `#!program [argument]`, read as the kernel reads it: all after the program is one argument.
fn shebang(text: &str) -> Option<Vec<String>> {
    let line = text.strip_prefix("#!")?.lines().next()?.trim();
    if line.is_empty() || line.len() > SHEBANG_BYTES {
        return None;
    }
    let (program, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let words = [program, argument.trim()];
    Some(words.into_iter().filter(|word| !word.is_empty()).map(str::to_owned).collect())
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::sample;
    use serde_json::json;

    fn planned(language: Language, script: &Script) -> Program {
        plan(language, script, &sample(json!({ "x": "it's" }))).unwrap()
    }

    #[test]
    fn the_interpreter_comes_from_the_definition_the_first_line_or_the_language() {
        let interpreter = |language, text: &str| planned(language, &Script::new(text)).interpreter;
        assert_eq!(interpreter(Language::Shell, "ls"), ["/bin/sh"]);
        assert_eq!(interpreter(Language::Shell, "#!/bin/bash -eu\nls"), ["/bin/bash", "-eu"]);
        assert_eq!(interpreter(Language::Shell, "#! /usr/bin/env bash\nls"), ["/usr/bin/env", "bash"]);
        assert_eq!(interpreter(Language::Python, "#!/bin/bash\nls"), ["python3"]);
        let named = Script { interpreter: vec!["perl".to_owned(), "-w".to_owned()], ..Script::new("#!/bin/sh") };
        assert_eq!(planned(Language::Shell, &named).interpreter, ["perl", "-w"]);
    }

    #[test]
    fn templates_in_text_become_variables_for_shells_alone() {
        let text = "#!/usr/bin/env bash\necho ${params.x}";
        let program = planned(Language::Shell, &Script::new(text));
        assert_eq!(program.text, "#!/usr/bin/env bash\necho \"${__PENDULA_0}\"");
        assert_eq!(program.variables, [("__PENDULA_0".to_owned(), "it's".to_owned())]);
        let text = "#!/usr/bin/perl\nprint ${params.x}";
        assert_eq!(planned(Language::Shell, &Script::new(text)).text, text);
        assert_eq!(planned(Language::Python, &Script::new("f'${params.x}'")).text, "f'${params.x}'");
    }

    #[test]
    fn arguments_environment_and_input_are_expanded_literally() {
        let script = Script {
            args: vec!["--x=${params.x}".to_owned()],
            env: [("X".to_owned(), "${instance}".to_owned())].into(),
            stdin: Some("${params | json}".to_owned()),
            ..Script::new("cat")
        };
        let program = planned(Language::Python, &script);
        assert_eq!(program.arguments, ["--x=it's"]);
        assert_eq!(program.environment["X"], "7001");
        assert_eq!(program.stdin.as_deref(), Some(r#"{"x":"it's"}"#));
    }
}
