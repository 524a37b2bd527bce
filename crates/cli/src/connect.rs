//! Which server, which token, which app: from flags, environment and profile.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pendula_client::{Client, ClientBuilder, parse_addresses};

use crate::failure::{Failure, Outcome};
use crate::profiles::{self, Profiles};

/// Address of a server that nobody named: what `pendula dev` and `pendula server` listen on.
const DEFAULT_SERVER: &str = "http://127.0.0.1:7700";
/// How long a command waits for another server to take over from one that crashed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to reach the server. The token comes from PENDULA_TOKEN, --token-file or the profile.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectArgs {
    /// Address of the server, or of several, any of which will do [default: the profile's, else http://127.0.0.1:7700]
    #[arg(long, global = true, env = "PENDULA_SERVER", value_name = "URL[,URL...]", hide_env_values = true)]
    pub server: Option<String>,
    /// File that holds the token and nothing else
    #[arg(long, global = true, env = "PENDULA_TOKEN_FILE", value_name = "FILE", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// Saved server to use (see `pendula login`)
    #[arg(long, global = true, env = "PENDULA_PROFILE", value_name = "NAME", hide_env_values = true)]
    pub profile: Option<String>,
    /// Certificates of a private authority to trust, PEM
    #[arg(long, global = true, env = "PENDULA_CA", value_name = "FILE", hide_env_values = true)]
    pub ca: Option<PathBuf>,
}

/// The app that a command is about.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AppArg {
    /// App [default: the profile's, else the only one there is]
    #[arg(long, short = 'a', global = true, env = "PENDULA_APP", value_name = "NAME", hide_env_values = true)]
    pub app: Option<String>,
}

/// What the flags, the environment and the profile come to.
#[derive(Clone)]
pub struct Target {
    /// One address, or several separated by commas.
    pub server: String,
    pub token: Option<String>,
    /// Whether the token is the profile's.
    pub token_is_saved: bool,
    pub app: Option<String>,
    /// Certificates, PEM.
    pub authority: Option<Vec<u8>>,
    /// Where address and token come from, for `doctor`.
    pub origin: String,
}

impl ConnectArgs {
    /// Decides without asking the server.
    pub fn target(&self) -> Outcome<Target> {
        let token = token_from_environment()?;
        let token = match &self.token_file {
            Some(file) => Some(read_token(file)?),
            None => token,
        };
        let path = profiles::path()?;
        let saved = Profiles::load(&path)?;
        let profile = saved.choose(self.profile.as_deref())?;
        let addresses = |text: &str| {
            parse_addresses(text).map_err(|error| {
                Failure::usage(format!("server address (--server, PENDULA_SERVER or profile): {error}"))
            })
        };
        let named = self.server.as_deref().map(addresses).transpose()?;
        let saved_for = profile.map(|(_, profile)| addresses(&profile.server)).transpose()?;
        // A saved token is shown to the servers that it was saved for and to no other, whatever address is typed.
        let knows = |server| saved_for.as_ref().is_some_and(|saved_for| saved_for.contains(server));
        let profile = profile.filter(|_| named.as_ref().is_none_or(|named| named.iter().all(knows)));
        let servers = match named.or(saved_for) {
            Some(servers) => servers,
            None => addresses(DEFAULT_SERVER)?,
        };
        let ca = self.ca.as_ref().or(profile.and_then(|(_, profile)| profile.ca.as_ref()));
        let authority = ca
            .map(|file| {
                std::fs::read(file).map_err(|error| Failure::usage(format!("reading {}: {error}", file.display())))
            })
            .transpose()?;
        let origin = match (profile, &token) {
            (Some((name, _)), None) => format!("profile `{name}` in {}", path.display()),
            (_, Some(_)) if self.token_file.is_some() => "--token-file".to_owned(),
            (_, Some(_)) => "PENDULA_TOKEN".to_owned(),
            (None, None) => "no profile".to_owned(),
        };
        Ok(Target {
            server: list(&servers),
            token_is_saved: token.is_none(),
            token: token.or_else(|| profile.map(|(_, profile)| profile.token.clone())),
            app: profile.and_then(|(_, profile)| profile.app.clone()),
            authority,
            origin,
        })
    }

    /// A client that has a token.
    pub fn open(&self) -> Outcome<Session> {
        let target = self.target()?;
        if target.token.is_none() {
            return Err(Failure::usage(format!("no token for {}", target.server))
                .hint("`pendula login --server URL` saves one, PENDULA_TOKEN or --token-file give one,\n`pendula dev` starts a server of your own and logs you in"));
        }
        Ok(Session { client: target.builder().patience(PATIENCE).build()?, default_app: target.app })
    }
}

impl Target {
    /// A client that says at once what is wrong.
    pub fn client(&self) -> Outcome<Client> {
        Ok(self.builder().build()?)
    }

    fn builder(&self) -> ClientBuilder {
        let mut builder = Client::builder(&self.server);
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        if let Some(pem) = &self.authority {
            builder = builder.authority(pem.clone());
        }
        builder
    }
}

/// Addresses as people write them.
pub fn list(servers: &[impl AsRef<str>]) -> String {
    let servers: Vec<_> = servers.iter().map(|server| server.as_ref().trim_end_matches('/')).collect();
    servers.join(",")
}

/// A client and the app that its profile names.
pub struct Session {
    pub client: Client,
    default_app: Option<String>,
}

impl Session {
    /// The app that was named, else the profile's.
    pub fn named_app(&self, named: &AppArg) -> Option<String> {
        named.app.as_ref().or(self.default_app.as_ref()).cloned()
    }

    /// The app that was named, else the profile's, else the only one that the token can see.
    pub async fn app(&self, named: &AppArg) -> Outcome<String> {
        if let Some(app) = self.named_app(named) {
            return Ok(app);
        }
        let apps = self.client.app_list().await?;
        match apps.as_slice() {
            [only] => Ok(only.name.clone()),
            [] => Err(Failure::usage("there is no app yet").hint("`pendula app create NAME` makes one")),
            several => {
                let names: Vec<_> = several.iter().map(|app| app.name.as_str()).collect();
                Err(Failure::usage(format!("which app? there are {}", names.join(", ")))
                    .hint("name it with --app or PENDULA_APP"))
            }
        }
    }
}

/// The token of PENDULA_TOKEN. There is no flag for it: other users see the arguments of a process.
pub fn token_from_environment() -> Outcome<Option<String>> {
    match std::env::var("PENDULA_TOKEN") {
        Ok(token) => clean_token(&token, "PENDULA_TOKEN").map(Some),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Failure::usage("PENDULA_TOKEN is not a token: it is not UTF-8")),
    }
}

/// The token in a file; `-` means standard input.
pub fn read_token(file: &Path) -> Outcome<String> {
    let context = |error: std::io::Error| Failure::usage(format!("reading the token from {}: {error}", file.display()));
    let text =
        if file == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    clean_token(&text.map_err(context)?, &file.display().to_string())
}

fn clean_token(text: &str, source: &str) -> Outcome<String> {
    let token = text.trim();
    if token.is_empty() {
        return Err(Failure::usage(format!("{source} holds no token: it is empty")));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage(format!("{source} holds no token: it contains spaces or unprintable characters")));
    }
    Ok(token.to_owned())
}
