//! Servers that the CLI knows by name: `~/.config/pendula/config.toml`, readable by its owner alone.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    /// The one that is used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default)]
    pub profiles: BTreeMap<String, Profile>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// One address, or several separated by commas.
    pub server: String,
    pub token: String,
    /// The app that commands mean when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// File with the certificates of a private authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("server", &self.server).field("app", &self.app).finish_non_exhaustive()
    }
}

/// Where the profiles are kept: `PENDULA_PROFILES`, else below the user's configuration directory.
pub fn path() -> Outcome<PathBuf> {
    if let Some(path) = std::env::var_os("PENDULA_PROFILES").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    Ok(user_directory("XDG_CONFIG_HOME", ".config")?.join("pendula/config.toml"))
}

/// A directory of the user's as the XDG Base Directory Specification has it: an absolute path in `variable`, or
/// `fallback` below the home directory.
pub fn user_directory(variable: &str, fallback: &str) -> Outcome<PathBuf> {
    if let Some(path) = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute()) {
        return Ok(path);
    }
    match std::env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(home) => Ok(home.join(fallback)),
        None => Err(Failure::usage(format!("neither HOME nor {variable} names a directory"))
            .hint("set HOME, or PENDULA_PROFILES to a file")),
    }
}

impl Profiles {
    /// What is saved; nothing when the file does not exist.
    pub fn load(path: &Path) -> Outcome<Profiles> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Profiles::default()),
            Err(error) => return Err(Failure::usage(format!("reading {}: {error}", path.display()))),
        };
        let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode()).unwrap_or(0o600);
        if mode & 0o077 != 0 {
            eprintln!("pendula: {} holds tokens and others may read it: chmod 600 {0}", path.display());
        }
        toml::from_str(&text)
            .map_err(|error| Failure::usage(format!("{}: {}", path.display(), error.to_string().trim_end())))
    }

    /// Replaces the file in one step, so that a crash leaves the old one or the new one.
    pub fn save(&self, path: &Path) -> Outcome {
        let context = |error: std::io::Error| Failure::refused(format!("writing {}: {error}", path.display()));
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(context)?;
        let text = toml::to_string(self).expect("strings and paths in tables become TOML");
        // A temporary file is created with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(context)?;
        file.write_all(text.as_bytes()).map_err(context)?;
        file.as_file().sync_all().map_err(context)?;
        file.persist(path).map_err(|error| context(error.error))?;
        Ok(())
    }

    /// The profile called `name`, or the current one, with its name.
    pub fn choose(&self, name: Option<&str>) -> Outcome<Option<(&str, &Profile)>> {
        let Some(name) = name.or(self.current.as_deref()) else { return Ok(None) };
        match self.profiles.get_key_value(name) {
            Some((name, profile)) => Ok(Some((name, profile))),
            None => {
                let known: Vec<_> = self.profiles.keys().map(String::as_str).collect();
                let known = if known.is_empty() {
                    "there are none yet".to_owned()
                } else {
                    format!("known: {}", known.join(", "))
                };
                Err(Failure::usage(format!("there is no profile `{name}`; {known}")).hint("`pendula login` makes one"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Profiles {
        let profile = Profile { server: "http://a:7700".into(), token: "t".into(), app: Some("demo".into()), ca: None };
        Profiles { current: Some("dev".into()), profiles: BTreeMap::from([("dev".into(), profile)]) }
    }

    #[test]
    fn what_is_saved_is_loaded_and_nobody_else_may_read_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/config.toml");
        assert_eq!(Profiles::load(&path).expect("no file is fine"), Profiles::default());
        sample().save(&path).expect("saved");
        assert_eq!(Profiles::load(&path).expect("loaded"), sample());
        let mode = std::fs::metadata(&path).expect("it exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_current_profile_is_the_default_and_an_unknown_one_an_error() {
        let profiles = sample();
        assert_eq!(profiles.choose(None).expect("known").expect("there is one").0, "dev");
        assert!(profiles.choose(Some("prod")).is_err());
        assert!(Profiles::default().choose(None).expect("fine").is_none());
        assert!(!format!("{:?}", sample()).contains("token"));
    }
}
