//! `pendula login`: servers and tokens saved under a name.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use pendula_client::parse_addresses;
use pendula_model::api::WhoAmI;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::token::kind_word;
use crate::connect::{Target, list as listed, read_token, token_from_environment};
use crate::failure::{Failure, Outcome};
use crate::output::{Screen, Shade, Table};
use crate::profiles::{self, Profile, Profiles};

const EXAMPLES: &str = "\
Examples:
  pendula login --server https://pendula.example:7700          asks for the token
  pendula login prod --server https://pendula.example:7700 --token-file token.txt
  pendula login prod --server https://server1.example:7700,https://server2.example:7700
  pendula login prod                                           use it from now on
  pendula login --list
  pendula login prod --forget

Profiles are kept in ~/.config/pendula/config.toml, readable by you alone.";

/// Save a server and its token as a profile, or switch between profiles
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the profile [default: default]
    name: Option<String>,
    /// Address of the server, or of several; without it, an existing profile is switched to
    #[arg(long, short, value_name = "URL[,URL...]")]
    server: Option<String>,
    /// File that holds the token, - for standard input [default: PENDULA_TOKEN, else asks]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// App that commands mean when none is named
    #[arg(long, short, value_name = "NAME")]
    app: Option<String>,
    /// Certificates of a private authority to trust, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Show the profiles
    #[arg(long, conflicts_with_all = ["server", "forget"])]
    list: bool,
    /// Remove a profile
    #[arg(long, requires = "name", conflicts_with = "server")]
    forget: bool,
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let path = profiles::path()?;
    let mut profiles = Profiles::load(&path)?;
    if args.list {
        return list(&screen, &profiles);
    }
    if let (true, Some(name)) = (args.forget, &args.name) {
        profiles.choose(Some(name))?;
        profiles.profiles.remove(name);
        profiles.current = profiles.current.filter(|current| current != name);
        profiles.save(&path)?;
        return screen.done(format!("forgot profile {name}; its token is still valid until it is revoked"));
    }
    let Some(server) = &args.server else {
        let Some(name) = &args.name else {
            return Err(Failure::usage("which server?").hint("pendula login --server URL\npendula login --list"));
        };
        profiles.choose(Some(name))?;
        profiles.current = Some(name.clone());
        profiles.save(&path)?;
        return screen.done(format!("using profile {name}"));
    };
    let (name, profile, who) = sign_in(&args, server).await?;
    let summary = format!(
        "logged in to {} with a token of kind {}; saved as profile {name}",
        profile.server,
        kind_word(who.kind)
    );
    profiles.profiles.insert(name.clone(), profile);
    profiles.current = Some(name);
    profiles.save(&path)?;
    screen.done(summary)
}

/// Asks the server who the token is before anything is saved.
async fn sign_in(args: &Args, server: &str) -> Outcome<(String, Profile, WhoAmI)> {
    let server = listed(&parse_addresses(server)?);
    let token = match &args.token_file {
        Some(file) => read_token(file)?,
        None => match token_from_environment()? {
            Some(token) => token,
            None => ask_token(&server)?,
        },
    };
    let ca = match &args.ca {
        Some(file) => {
            Some(std::path::absolute(file).map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?)
        }
        None => None,
    };
    let authority = ca
        .as_ref()
        .map(|file| std::fs::read(file).map_err(|error| Failure::usage(format!("reading {}: {error}", file.display()))))
        .transpose()?;
    let target = Target {
        server: server.clone(),
        token: Some(token.clone()),
        token_is_saved: false,
        app: None,
        authority,
        origin: "login".to_owned(),
    };
    let who = target.client()?.whoami().await?;
    let name = args.name.clone().unwrap_or_else(|| "default".to_owned());
    let app = args.app.clone().or_else(|| who.app.clone());
    Ok((name, Profile { server, token, app, ca }, who))
}

fn list(screen: &Screen, profiles: &Profiles) -> Outcome {
    let mut table = Table::new(["", "NAME", "SERVER", "APP"]);
    for (name, profile) in &profiles.profiles {
        let mark = if profiles.current.as_ref() == Some(name) { "*" } else { "" };
        let app = profile.app.clone().unwrap_or_default();
        let cells = [mark.to_owned(), name.clone(), profile.server.clone(), app];
        table.shaded_row(cells.map(|cell| (Shade::Plain, cell)));
    }
    // Without the tokens, whatever the format.
    let names: Vec<_> = profiles
        .profiles
        .iter()
        .map(|(name, profile)| {
            let current = profiles.current.as_ref() == Some(name);
            serde_json::json!({ "name": name, "server": profile.server, "app": profile.app, "current": current })
        })
        .collect();
    screen.show(&names, |screen| {
        if names.is_empty() {
            screen.line("no profiles; `pendula login --server URL` makes one")
        } else {
            screen.table(table)
        }
    })
}

/// Reads a token from the terminal without showing it.
fn ask_token(server: &str) -> Outcome<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage("no token given")
            .hint("--token-file FILE, --token-file - for standard input, or PENDULA_TOKEN"));
    }
    let context = |error: rustix::io::Errno| Failure::refused(format!("setting up the terminal: {error}"));
    eprint!("token for {server}: ");
    let _ = std::io::stderr().flush();
    let visible = tcgetattr(&stdin).map_err(context)?;
    let mut hidden = visible.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(context)?;
    let mut token = String::new();
    let read = stdin.lock().read_line(&mut token);
    let restored = tcsetattr(&stdin, OptionalActions::Flush, &visible);
    eprintln!();
    restored.map_err(context)?;
    read.map_err(|error| Failure::usage(format!("reading the token: {error}")))?;
    let token = token.trim();
    if token.is_empty() { Err(Failure::usage("no token given")) } else { Ok(token.to_owned()) }
}
