//! Definitions files: YAML or JSON with `app:` and `jobs:`, one document or several.
//!
//! ```yaml
//! app: demo
//! jobs:
//!   - name: heartbeat
//!     trigger: { cron: "* * * * *" }
//!     processor: { shell: "date" }
//! ```

mod diff;
mod locate;
mod read;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pendula_model::job::JobSpec;
use serde::{Deserialize, Serialize};

pub use diff::{changes, plan_line};

use crate::failure::{Failure, Outcome};

/// One document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The app that the jobs belong to; `--app` when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    pub jobs: Vec<JobSpec>,
}

/// A job with the place that it was read from.
#[derive(Clone, Debug)]
pub struct Defined {
    pub spec: JobSpec,
    source: std::sync::Arc<Source>,
    index: usize,
}

/// A document's text, padded so that its line numbers are those of its file.
#[derive(Debug)]
struct Source {
    file: PathBuf,
    text: String,
}

impl Defined {
    /// Where a field of this job stands, as `jobs.yaml:12:5`; the job itself when the field is not written down.
    pub fn place(&self, field: &str) -> String {
        let file = self.source.file.display();
        match locate::position(&self.source.text, self.index, field) {
            Some((line, column)) => format!("{file}:{line}:{column}"),
            None => format!("{file}"),
        }
    }
}

/// The jobs of each app, in the order of the files.
#[derive(Debug, Default)]
pub struct Definitions {
    pub apps: BTreeMap<String, Vec<Defined>>,
}

impl Definitions {
    /// Reads files, directories (all `*.yaml`, `*.yml`, `*.json` below them) and standard input (`-`).
    ///
    /// `default_app` serves documents without `app:`. All that can be checked without a server is checked here, so that
    /// an error names its line.
    pub fn read(paths: &[PathBuf], default_app: Option<&str>) -> Outcome<Definitions> {
        let mut definitions = Definitions::default();
        for file in files(paths)? {
            let text = read_text(&file)?;
            definitions.add(&file, &text, default_app)?;
        }
        Ok(definitions)
    }

    fn add(&mut self, file: &Path, text: &str, default_app: Option<&str>) -> Outcome {
        for (document, text) in read::documents(file, text)? {
            let Some(app) = document.app.as_deref().or(default_app) else {
                return Err(Failure::usage(format!("{}: the document has no `app:`", file.display()))
                    .hint("write it there, or name it with --app"));
            };
            let source = std::sync::Arc::new(Source { file: file.to_owned(), text });
            let jobs = self.apps.entry(app.to_owned()).or_default();
            for (index, spec) in document.jobs.into_iter().enumerate() {
                let job = Defined { spec, source: source.clone(), index };
                if let Some(first) = jobs.iter().find(|other| other.spec.name == job.spec.name) {
                    let (here, there) = (job.place("name"), first.place("name"));
                    return Err(Failure::usage(format!(
                        "{here}: job `{}` is defined already, at {there}",
                        job.spec.name
                    )));
                }
                check(&job)?;
                jobs.push(job);
            }
        }
        Ok(())
    }
}

fn check(job: &Defined) -> Outcome {
    let invalid = job.spec.validate().err().or_else(|| {
        let trigger = job.spec.trigger.as_ref()?;
        pendula_schedule::Plan::compile(trigger, now()).err()
    });
    match invalid {
        Some(invalid) => {
            Err(Failure::usage(format!("{}: job `{}`: {invalid}", job.place(&invalid.field), job.spec.name)))
        }
        None => Ok(()),
    }
}

/// The time of day, for previews and checks; the server's own decides.
pub fn now() -> pendula_model::Timestamp {
    pendula_model::Timestamp::from_jiff(jiff::Timestamp::now())
}

fn read_text(file: &Path) -> Outcome<String> {
    let text =
        if file == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    text.map_err(|error| Failure::usage(format!("reading {}: {error}", file.display())))
}

fn files(paths: &[PathBuf]) -> Outcome<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let before = files.len();
        collect(path, &mut files)?;
        if files.len() == before {
            return Err(Failure::usage(format!("{} holds no *.yaml, *.yml or *.json", path.display())));
        }
    }
    Ok(files)
}

/// Adds what lies below a directory, sorted, without what is hidden.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Outcome {
    let context = |error: std::io::Error| Failure::usage(format!("reading {}: {error}", directory.display()));
    let entries: Result<Vec<_>, _> = std::fs::read_dir(directory).map_err(context)?.collect();
    let mut entries: Vec<_> = entries.map_err(context)?.into_iter().map(|entry| entry.path()).collect();
    entries.sort();
    for entry in entries {
        let hidden = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let definition =
            entry.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if hidden {
            continue;
        } else if entry.is_dir() {
            collect(&entry, files)?;
        } else if definition {
            files.push(entry);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Definitions, String> {
        let mut definitions = Definitions::default();
        match definitions.add(Path::new("jobs.yaml"), text, None) {
            Ok(()) => Ok(definitions),
            Err(failure) => Err(format!("{failure:?}")),
        }
    }

    fn refused(text: &str, expect: &[&str]) {
        let message = read(text).expect_err(text);
        for part in expect {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
    }

    #[test]
    fn several_documents_are_read_yaml_and_json() {
        let text = "# two apps\napp: a\njobs:\n  - name: one\n    processor: { shell: ls }\n---\n\
            {\"app\": \"b\", \"jobs\": [\n\t{\"name\": \"two\", \"processor\": {\"handler\": \"h\"}}]}\n---\n# nothing\n";
        let definitions = read(text).expect("valid");
        assert_eq!(definitions.apps["a"][0].spec.name, "one");
        assert_eq!(definitions.apps["b"][0].spec.name, "two");
        assert_eq!(definitions.apps["b"][0].place("name"), "jobs.yaml:8:11");
    }

    #[test]
    fn errors_name_file_line_column_and_path() {
        refused("app: a\njobs:\n  - name: x\n    procesor: {}\n", &["jobs.yaml:4", "jobs[0]", "procesor"]);
        refused(
            "app: a\njobs:\n  - name: x\n    processor: { shell: ls }\n    timeout: 5\n",
            &["jobs.yaml:5", "jobs[0].timeout", "5s"],
        );
        refused("app: a\njobs:\n  - name: [\n", &["jobs.yaml:"]);
        refused("jobs: []\n", &["no `app:`"]);
        let second = "app: a\njobs: []\n---\napp: a\njobs:\n  - name: x\n    processor: { shell: ls }\n    trigger:\n      cron: 99 * * * *\n";
        refused(second, &["jobs.yaml:9:13", "job `x`", "trigger.cron"]);
        refused(
            "app: a\njobs:\n  - { name: x, processor: { shell: ls } }\n  - { name: x, processor: { shell: ls } }\n",
            &["jobs.yaml:4:13", "already", "jobs.yaml:3:13"],
        );
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "app: a\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let below = level - 1;
            text.push_str(&format!("a{level}: &a{level} [*a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}]\n"));
        }
        refused(&format!("{text}jobs: *a8\n"), &["jobs.yaml"]);
    }

    fn round_trip(spec: &JobSpec) {
        let document = Document { app: Some("2026-11-21".into()), jobs: vec![spec.clone()] };
        let text = crate::output::yaml(&document).expect("written");
        let read = read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(read.apps["2026-11-21"][0].spec, *spec, "{text}");
    }

    fn spec(json: serde_json::Value) -> JobSpec {
        serde_json::from_value(json).expect("a definition")
    }

    #[test]
    fn what_is_exported_reads_back_the_same() {
        let cron = serde_json::json!({ "cron": "*/5 * * * 1-5", "timezone": "Europe/Berlin", "misfire": "skip" });
        round_trip(&spec(serde_json::json!({
            "name": "yes",
            "description": "null",
            "trigger": cron,
            "processor": { "shell": { "script": "set -e\n  echo 'a: b' # not a comment\n\ttrue\n\n", "env": { "A": "1", "B": "~", "C": "" }, "stdin": " a\n" } },
            "params": { "n": 1, "f": 1.5, "text": "0x1f", "list": [], "none": null, "deep": { "a b": [true, "true", "é\u{7}"] } },
            "retry": { "attempts": 3, "backoff": { "exponential": { "initial": "5s", "max": "5m" } } },
            "workers": { "labels": { "zone": "1" }, "names": ["w1"] },
            "concurrency": { "limit": 1, "overflow": "replace" }
        })));
        for trigger in [
            serde_json::json!({ "fixed_rate": "100ms", "start": "2026-11-21T08:00:00Z" }),
            serde_json::json!({ "daily_window": { "every": "10m", "from": "22:00", "to": "06:00", "weekdays": ["mon", "sun"] } }),
            serde_json::json!({ "at": "2046-11-21T08:00:00.000001Z" }),
        ] {
            round_trip(&spec(
                serde_json::json!({ "name": "1e3", "trigger": trigger, "processor": { "handler": { "name": "h", "config": { "a": [1, { "b": null }] } } } }),
            ));
        }
        round_trip(&spec(serde_json::json!({
            "name": "h",
            "processor": { "http": { "url": "https://example.org/?a=b#c", "headers": { "X": "- y: z" }, "body": "{\"a\": 1}", "success": { "status": ["200-299"] } } }
        })));
    }

    #[test]
    fn any_text_of_a_script_survives_the_export() {
        for script in [
            "- a",
            "a: b",
            "#a",
            " a",
            "a ",
            "a\n",
            "a\n\n",
            "\na",
            "  a\nb",
            "a\n  b\n",
            "\ta",
            "a\tb",
            "|",
            ">",
            "'",
            "\"",
            "\\",
            "a\\nb",
            "---",
            "...",
            "a\n---\nb",
            "!x",
            "&a",
            "*a",
            "%a",
            "@a",
            "`a`",
            "{a}",
            "[a]",
            "0",
            "1.5",
            "true",
            "~",
            "2026-11-21",
            "=",
            "a\r\nb",
            "é 日报 \u{1F600}",
            "\u{feff}a",
            "\u{85}a\u{2028}b",
            "a\u{7}",
            "a \n b \n",
            "x: |\n  y",
            &"long ".repeat(60),
            &"line\n".repeat(50),
        ] {
            round_trip(&spec(serde_json::json!({ "name": "x", "processor": { "shell": script } })));
            round_trip(&spec(
                serde_json::json!({ "name": "x", "processor": { "shell": { "script": script, "args": [script], "stdin": script } } }),
            ));
        }
    }
}
