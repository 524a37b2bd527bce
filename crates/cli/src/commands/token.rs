//! `pendula token`: credentials.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use pendula_model::api::{TokenCreate, TokenKind};
use pendula_model::{TokenId, duration};

use super::moment::parse_duration;
use crate::connect::ConnectArgs;
use crate::definitions::now;
use crate::failure::Outcome;
use crate::output::{Screen, Table, clock};

const EXAMPLES: &str = "\
Examples:
  pendula token create alice --kind admin --expires-in 90d
  pendula token create reports-worker --kind worker --app reports
  pendula token create ci --kind app --app reports
  pendula token list
  pendula token revoke 123456789               works at once, on every connection

The secret is shown once, when the token is created; the server keeps only its hash.";

/// List, create and revoke access tokens
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List tokens, without their secrets
    #[command(visible_alias = "ls")]
    List,
    /// Create a token and print its secret
    Create {
        /// For people, to know it again
        name: String,
        #[arg(long, short)]
        kind: Kind,
        /// App that it opens, for kinds app and worker
        #[arg(long, short, required_if_eq_any([("kind", "app"), ("kind", "worker")]))]
        app: Option<String>,
        /// End of its validity, as 90d [default: none]
        #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
        expires_in: Option<Duration>,
        /// Print only the secret, for scripts
        #[arg(long, short)]
        quiet: bool,
    },
    /// Revoke a token
    Revoke { id: TokenId },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Everything
    Admin,
    /// One app's jobs, instances, logs and workers
    App,
    /// Running one app's work, nothing else
    Worker,
    /// Reading /metrics, nothing else
    Metrics,
    /// The password of one app's clients of PowerJob's OpenAPI, nothing else
    Powerjob,
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let session = args.connect.open()?;
    let client = &session.client;
    match args.command {
        Command::List => {
            let tokens = client.token_list().await?;
            screen.show(&tokens, |screen| {
                let mut table = Table::new(["ID", "NAME", "KIND", "APP", "CREATED", "EXPIRES"]);
                for token in &tokens {
                    table.row([
                        token.id.to_string(),
                        token.name.clone(),
                        kind_word(token.kind).to_owned(),
                        token.app.clone().unwrap_or_default(),
                        clock(token.created_at, now()),
                        token.expires_at.map_or("never".to_owned(), |at| clock(at, now())),
                    ]);
                }
                screen.table(table)
            })
        }
        Command::Create { name, kind, app, expires_in, quiet } => {
            let kind = match kind {
                Kind::Admin => TokenKind::Admin,
                Kind::App => TokenKind::App,
                Kind::Worker => TokenKind::Worker,
                Kind::Metrics => TokenKind::Metrics,
                Kind::Powerjob => TokenKind::Powerjob,
            };
            let create = TokenCreate { name, kind, app, expires_in: expires_in.map(duration::format) };
            let token = client.token_create(&create).await?;
            let secret = token.secret.clone().unwrap_or_default();
            if quiet {
                return screen.line(secret);
            }
            screen.show(&token, |screen| {
                screen.line(format!("token {} `{}`; its secret, shown only now:\n{secret}", token.id, token.name))
            })
        }
        Command::Revoke { id } => {
            client.token_revoke(id).await?;
            screen.done(format!("revoked token {id}"))
        }
    }
}

pub(super) fn kind_word(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Admin => "admin",
        TokenKind::App => "app",
        TokenKind::Worker => "worker",
        TokenKind::Metrics => "metrics",
        TokenKind::Powerjob => "powerjob",
    }
}
