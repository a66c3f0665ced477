//! What the binary prints for others to apply: definitions, roles, webhooks, completions.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;
use serde::Serialize;

use super::{Cli, Outcome};
use crate::install::{self, Endpoint, Install, SecretSource};

/// Where Mandate is installed and what it guards.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Namespace of Mandate itself
    #[arg(long, default_value = install::NAMESPACE)]
    namespace: String,
    /// Namespace to guard; give it once for each
    #[arg(long = "guard", value_name = "NAMESPACE")]
    guarded: Vec<String>,
    /// File with the RBAC rules (a YAML list) that tasks may be given at most [default: nothing]
    #[arg(long, value_name = "FILE")]
    ceiling: Option<PathBuf>,
    /// Secret that `secretKey` credentials may copy from; give it once for each
    #[arg(long = "secret-key", value_name = "NAMESPACE/NAME")]
    secret_keys: Vec<String>,
    /// Base URL of the webhook where it is no Service in the cluster, such as
    /// `https://127.0.0.1:8443`
    #[arg(long, value_name = "URL")]
    webhook_url: Option<String>,
    /// Custom resource whose templates of pods are looked at too, such as
    /// `argoproj.io/rollouts`; give it once for each
    #[arg(long = "workload", value_name = "GROUP/RESOURCE")]
    workloads: Vec<String>,
}

impl Args {
    fn install(&self) -> anyhow::Result<Install> {
        let webhook = self.webhook_url.clone().map_or(Endpoint::Service, Endpoint::Url);
        let ceiling = match &self.ceiling {
            Some(file) => {
                let text = std::fs::read_to_string(file).with_context(|| format!("reading `{}`", file.display()))?;
                serde_yaml::from_str(&text).with_context(|| format!("reading the list of rules in `{}`", file.display()))?
            }
            None => vec![],
        };
        let sources = self.secret_keys.iter().map(|source| {
            let (namespace, secret_name) = source.split_once('/').with_context(|| format!("`{source}` is not NAMESPACE/NAME"))?;
            Ok(SecretSource { namespace: namespace.to_owned(), secret_name: secret_name.to_owned() })
        });
        let sources = sources.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Install::new(&self.namespace, &self.guarded, webhook)?
            .ceiling(ceiling)?
            .secret_keys(sources)?
            .workloads(&self.workloads)?)
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Completion {
    /// The shell
    shell: Shell,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Schema {
    /// What `when.cedar` of a ClusterAgentPolicy may speak of, in the Cedar schema language
    Cedar,
}

pub(super) fn schema(schema: &Schema) -> anyhow::Result<Outcome> {
    let Schema::Cedar = schema;
    std::io::stdout().write_all(crate::decide::authorize::cedar::SCHEMA.as_bytes())?;
    Ok(Outcome::Done)
}

#[derive(Debug, clap::Args)]
pub(super) struct Crds {
    /// Write one file a kind into this directory instead
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

pub(super) fn crds(args: &Crds) -> anyhow::Result<Outcome> {
    let Some(dir) = &args.output_dir else { return documents(&crate::api::crds()) };
    for crd in crate::api::crds() {
        let file = dir.join(format!("{}.yaml", crd.spec.names.plural));
        std::fs::write(&file, document(&crd)?).with_context(|| format!("writing `{}`", file.display()))?;
    }
    Ok(Outcome::Done)
}

pub(super) fn rbac(args: &Args) -> anyhow::Result<Outcome> {
    let install = args.install()?;
    documents(&[install.rbac(), install.policies()].concat())
}

pub(super) fn webhooks(args: &Args) -> anyhow::Result<Outcome> {
    documents(&args.install()?.webhooks())
}

pub(super) fn completion(args: &Completion) -> anyhow::Result<Outcome> {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut Cli::command(), "mandate", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Outcome::Done)
}

/// Prints objects as one stream of YAML documents.
pub(super) fn documents<T: Serialize>(objects: &[T]) -> anyhow::Result<Outcome> {
    let mut out = std::io::stdout().lock();
    for object in objects {
        out.write_all(document(object)?.as_bytes())?;
    }
    Ok(Outcome::Done)
}

/// One YAML document. By way of JSON: fields in the order of their names, whatever the type.
fn document<T: Serialize>(object: &T) -> anyhow::Result<String> {
    Ok(format!("---\n{}", serde_yaml::to_string(&serde_json::to_value(object)?)?))
}
