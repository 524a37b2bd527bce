//! What was written, and where.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::options::{OPTIONS, Opt, find, nearest, nearest_variable};

/// Variables of the other roles of the `pendula` binary, which a server ignores.
const FOREIGN: &[&str] = &[
    "PENDULA_APP",
    "PENDULA_CA",
    "PENDULA_CONFIG",
    "PENDULA_OUTPUT",
    "PENDULA_PROFILE",
    "PENDULA_PROFILES",
    "PENDULA_SERVER",
    "PENDULA_TOKEN",
    "PENDULA_TOKEN_FILE",
];

/// Everything that a configuration is made of.
#[derive(Clone, Debug, Default)]
pub struct ConfigSources {
    /// A TOML file that must exist.
    pub file: Option<PathBuf>,
    /// The environment's variables; those without the prefix `PENDULA_` are ignored.
    pub environment: Vec<(String, String)>,
    pub flags: Flags,
}

impl ConfigSources {
    /// `file` and `flags`, and this process's environment.
    pub fn of_process(file: Option<PathBuf>, flags: Flags) -> Self {
        // What is not UTF-8 is none of ours.
        let environment =
            std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        ConfigSources { file, environment: environment.collect(), flags }
    }
}

/// What was typed on the command line.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--listen`
    pub listen: Option<String>,
    /// `--advertise`
    pub advertise: Option<String>,
    /// `--database`
    pub database: Option<String>,
    /// `--log-format`
    pub log_format: Option<String>,
    /// `--set KEY=VALUE`, any number of times.
    pub set: Vec<String>,
}

/// Texts by key, defaults included.
#[derive(Clone, PartialEq)]
pub(super) struct Raw {
    written: BTreeMap<&'static str, Written>,
    pub(super) warnings: Vec<String>,
}

#[derive(Clone, PartialEq)]
struct Written {
    text: String,
    /// For error messages: file and key, variable, or flag.
    origin: String,
}

impl Raw {
    pub(super) fn gather(sources: &ConfigSources) -> Result<Raw, ConfigError> {
        let mut raw = Raw { written: BTreeMap::new(), warnings: Vec::new() };
        for option in OPTIONS {
            if let Some(default) = option.default {
                raw.put(option, default.to_owned(), format!("the default of `{}`", option.key));
            }
        }
        if let Some(file) = &sources.file {
            raw.add_file(file)?;
        }
        raw.add_environment(&sources.environment)?;
        raw.add_flags(&sources.flags)?;
        Ok(raw)
    }

    /// The meaning of an option that may be unset.
    pub(super) fn get<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        debug_assert!(find(key).is_some(), "{key} is not described");
        let Some(Written { text, origin }) = self.written.get(key) else { return Ok(None) };
        read(text.trim()).map(Some).map_err(|allowed| {
            let secret = find(key).is_some_and(|option| option.secret);
            let value = if secret { "(secret)".to_owned() } else { without_password(text) };
            ConfigError::Value { origin: origin.clone(), value, allowed }
        })
    }

    /// The meaning of an option that has a default.
    pub(super) fn need<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        Ok(self.get(key, read)?.unwrap_or_else(|| panic!("{key} has no default")))
    }

    fn put(&mut self, option: &'static Opt, text: String, origin: String) {
        self.written.insert(option.key, Written { text, origin });
    }

    fn add_file(&mut self, file: &Path) -> Result<(), ConfigError> {
        let name = file.display().to_string();
        let refuse = |why: String| ConfigError::File { file: name.clone(), why };
        let text = std::fs::read_to_string(file).map_err(|error| refuse(error.to_string()))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| refuse(error.to_string()))?;
        self.add_table(&name, "", table)
    }

    fn add_table(&mut self, file: &str, prefix: &str, table: toml::Table) -> Result<(), ConfigError> {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            let origin = format!("{file}: `{key}`");
            let text = match value {
                toml::Value::Table(table) if find(&key).is_none() => {
                    let inner = format!("{key}.");
                    if !OPTIONS.iter().any(|option| option.key.starts_with(&inner)) {
                        return Err(ConfigError::Unknown { origin, nearest: nearest(&key) });
                    }
                    self.add_table(file, &inner, table)?;
                    continue;
                }
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(yes) => yes.to_string(),
                other => other.to_string(),
            };
            let Some(option) = find(&key) else {
                return Err(ConfigError::Unknown { origin, nearest: nearest(&key) });
            };
            self.put(option, text, origin);
        }
        Ok(())
    }

    fn add_environment(&mut self, environment: &[(String, String)]) -> Result<(), ConfigError> {
        for (variable, text) in environment {
            let Some(rest) = variable.strip_prefix("PENDULA_") else { continue };
            if let Some(option) = OPTIONS.iter().find(|option| option.variable() == *variable) {
                self.put(option, text.clone(), format!("environment variable {variable}"));
                continue;
            }
            if FOREIGN.contains(&variable.as_str()) {
                continue;
            }
            // A misspelling is an error. Anything else may come from elsewhere: Kubernetes sets PENDULA_SERVICE_HOST,
            // PENDULA_PORT and the like for a service that is called `pendula`.
            if let Some(key) = nearest_variable(rest) {
                let origin = format!("environment variable {variable}");
                return Err(ConfigError::Unknown { origin, nearest: Some(key) });
            }
            self.warnings.push(format!("environment variable {variable} is no option and has no effect"));
        }
        Ok(())
    }

    fn add_flags(&mut self, flags: &Flags) -> Result<(), ConfigError> {
        let own = [
            ("--listen", "listen", &flags.listen),
            ("--advertise", "advertise", &flags.advertise),
            ("--database", "database", &flags.database),
            ("--log-format", "log.format", &flags.log_format),
        ];
        for (flag, key, text) in own {
            if let (Some(text), Some(option)) = (text, find(key)) {
                self.put(option, text.clone(), format!("flag {flag}"));
            }
        }
        for pair in &flags.set {
            let origin = format!("flag --set {}", pair.split('=').next().unwrap_or_default());
            let Some((key, text)) = pair.split_once('=') else {
                let allowed = "write --set KEY=VALUE".to_owned();
                return Err(ConfigError::Value { origin, value: pair.clone(), allowed });
            };
            let Some(option) = find(key.trim()) else {
                return Err(ConfigError::Unknown { origin, nearest: nearest(key.trim()) });
            };
            self.put(option, text.to_owned(), origin);
        }
        Ok(())
    }

    pub(super) fn to_toml_documented(&self) -> String {
        let mut text = String::from("# Pendula's configuration. Every option may also be an environment variable.\n");
        let mut table = "";
        for option in OPTIONS {
            let (prefix, name) = option.key.rsplit_once('.').unwrap_or(("", option.key));
            if prefix != table {
                text.push_str(&format!("\n[{prefix}]\n"));
                table = prefix;
            }
            text.push('\n');
            for line in option.doc.lines() {
                text.push_str(&format!("# {}\n", line.trim()));
            }
            let default = option.default.unwrap_or("not set");
            text.push_str(&format!("# Default: {default}. Environment: {}.\n", option.variable()));
            match self.written.get(option.key) {
                Some(_) if option.secret => text.push_str(&format!("# {name} is set, and not shown\n")),
                Some(written) => text.push_str(&format!("{name} = {}\n", quoted(&without_password(&written.text)))),
                None => text.push_str(&format!("# {name} = \"\"\n")),
            }
        }
        text
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.written.iter().map(|(key, written)| {
            let secret = find(key).is_some_and(|option| option.secret);
            (key, if secret { "(secret)".to_owned() } else { without_password(&written.text) })
        });
        f.debug_map().entries(shown).finish()
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A URL without what stands before the `@` of its authority.
pub(super) fn without_password(text: &str) -> String {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, rest)) => format!("{scheme}://…@{rest}"),
        None => text.to_owned(),
    }
}
