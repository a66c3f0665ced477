//! What the binary prints for others to apply: definitions, roles, webhooks, completions.

use std::io::Write as _;

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde::Serialize;

use super::{Cli, Outcome};

/// Where Mandate is installed and what it guards.
#[derive(Debug, clap::Args)]
pub(super) struct Install {
    /// Namespace of Mandate itself
    #[arg(long, default_value = "mandate-system")]
    namespace: String,
    /// Namespace to guard; give it once for each
    #[arg(long = "guard", value_name = "NAMESPACE")]
    guarded: Vec<String>,
    /// File with the RBAC rules (a YAML list) that tasks may be given at most
    #[arg(long, value_name = "FILE")]
    ceiling: Option<std::path::PathBuf>,
    /// Secret that `secretKey` credentials may copy from, as NAMESPACE/NAME; give it once for each
    #[arg(long = "secret-key", value_name = "NAMESPACE/NAME")]
    secret_keys: Vec<String>,
    /// Base URL of the webhook where it is no Service in the cluster, such as
    /// `https://127.0.0.1:8443`
    #[arg(long, value_name = "URL")]
    webhook_url: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Completion {
    /// The shell
    shell: Shell,
}

pub(super) fn crds() -> anyhow::Result<Outcome> {
    documents(&crate::api::crds())
}

pub(super) fn rbac(install: &Install) -> anyhow::Result<Outcome> {
    let _ = install;
    Ok(Outcome::Done)
}

pub(super) fn webhooks(install: &Install) -> anyhow::Result<Outcome> {
    let _ = install;
    Ok(Outcome::Done)
}

pub(super) fn completion(args: &Completion) -> anyhow::Result<Outcome> {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut Cli::command(), "mandate", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Outcome::Done)
}

/// Prints objects as one stream of YAML documents.
fn documents<T: Serialize>(objects: &[T]) -> anyhow::Result<Outcome> {
    let mut out = std::io::stdout().lock();
    for object in objects {
        // By way of JSON: fields in the order of their names, whatever the type.
        let sorted = serde_json::to_value(object)?;
        write!(out, "---\n{}", serde_yaml::to_string(&sorted)?)?;
    }
    Ok(Outcome::Done)
}
