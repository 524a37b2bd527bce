//! `pendula export`: jobs to a definitions file.

use crate::connect::ConnectArgs;
use crate::definitions::Document;
use crate::failure::Outcome;
use crate::output::{Format, Screen, yaml};

const EXAMPLES: &str = "\
Examples:
  pendula export > jobs.yaml                   every app that the token can see
  pendula export --app demo --output json
  pendula export --app demo | pendula diff -f -    says that nothing differs";

/// Write saved jobs as a definitions file that `apply` reads back
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only this app
    #[arg(long, short, env = "PENDULA_APP", value_name = "NAME", hide_env_values = true)]
    app: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub async fn run(args: Args, screen: Screen) -> Outcome {
    let session = args.connect.open()?;
    let apps = match args.app {
        Some(app) => vec![app],
        None => session.client.app_list().await?.into_iter().map(|app| app.name).collect(),
    };
    let mut documents = Vec::new();
    for app in apps {
        let jobs = session.client.job_list(&app).await?.into_iter().map(|job| job.spec).collect();
        documents.push(Document { app: Some(app), jobs });
    }
    for (index, document) in documents.iter().enumerate() {
        if index > 0 {
            screen.line("---")?;
        }
        match screen.format {
            Format::Json => screen.document(document)?,
            Format::Table | Format::Yaml => screen.raw(yaml(document)?.as_bytes())?,
        }
    }
    Ok(())
}
