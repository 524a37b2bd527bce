//! The README as a newcomer reads it: its sections' blocks, typed in a home of one's own.

use std::path::Path;
use std::process::{Command, Output};

use pendula_e2e::binary::pendula;

/// The fenced blocks of a section of the README: language and text of each.
pub fn blocks(section: &str) -> Vec<(String, String)> {
    let readme = include_str!("../../../../README.md");
    let text = readme.split(&format!("## {section}\n")).nth(1).expect("the section is there");
    let text = text.split("\n## ").next().expect("a section has text");
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((language.to_owned(), text.join("\n")));
        }
    }
    blocks
}

/// What is to be typed of a line, without the remark behind it.
pub fn typed(line: &str) -> &str {
    line.split(" #").next().unwrap_or_default().trim()
}

/// A home of its own, in which `pendula` is on the path.
pub struct Newcomer {
    home: tempfile::TempDir,
}

impl Newcomer {
    pub fn new() -> Newcomer {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        std::fs::create_dir(home.path().join("bin")).expect("the home is empty");
        std::os::unix::fs::symlink(pendula(), home.path().join("bin/pendula")).expect("the name is free");
        Newcomer { home }
    }

    pub fn path(&self) -> &Path {
        self.home.path()
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = format!("{}:{}", self.path().join("bin").display(), std::env::var("PATH").unwrap_or_default());
        command.env("HOME", self.path()).env("PATH", path).current_dir(self.path());
        for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "PENDULA_TOKEN", "PENDULA_SERVER"] {
            command.env_remove(name);
        }
        command
    }

    pub fn shell(&self, line: &str) -> Output {
        self.command("sh").args(["-c", line]).output().expect("sh is there")
    }

    pub fn succeeds(&self, line: &str) -> String {
        let output = self.shell(line);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{line}` failed:\n{text}");
        text
    }

    /// The id of the latest instance of a job, as a reader of the README would copy it.
    pub fn latest(&self, job: &str) -> String {
        let json = self.succeeds(&format!("pendula instance list --job {job} -o json"));
        let listing: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
        let items = listing.get("items").unwrap_or(&listing);
        items[0]["id"].as_str().expect("there is an instance").to_owned()
    }
}
