//! `mandate lint`: the webhook's verdict on manifests, before any cluster sees them.

use std::io::Write as _;
use std::path::PathBuf;

use clap::ValueEnum;

use super::{Outcome, manifest};
use crate::api::{ClusterAgentPolicySpec, Guardrails, Mode, Owner, Profile, Requester, Workloads};
use crate::decide::admit::{self, Operation, Review};
use crate::decide::finding::Severity;
use crate::decide::json::Value;
use crate::decide::world::{Loaded, World};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files and directories; `-` is standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// What is refused
    #[arg(long, value_enum, default_value = "restricted")]
    profile: ProfileName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProfileName {
    /// References to Secrets, legacy tokens, lives that are too long
    Baseline,
    /// Every finding
    Restricted,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let world = world(match args.profile {
        ProfileName::Baseline => Profile::Baseline,
        ProfileName::Restricted => Profile::Restricted,
    });
    let documents = manifest::read(&args.paths)?;
    let mut out = std::io::stdout().lock();
    let (mut denied, mut warned) = (0, 0);
    for document in &documents {
        let object = &document.object;
        let Some((group, resource)) = judged(object["apiVersion"].as_str(), object["kind"].as_str()) else { continue };
        let text = object.to_string();
        let value: Value<'_> = serde_json::from_str(&text)?;
        let name = object["metadata"]["name"].as_str().unwrap_or("?");
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        let user = Requester::default();
        let review = Review {
            operation: Operation::Create,
            group,
            resource,
            subresource: "",
            namespace,
            name,
            user: &user,
            object: &value,
            old: None,
        };
        // INVARIANT: what `judged` lets through is judged without a task or a time: a pod's
        // task cannot be known from a file, so its label is left to the cluster.
        let verdict = admit::admit(&world, &review, jiff::Timestamp::UNIX_EPOCH);
        for finding in verdict.findings.iter().filter(|finding| finding.rule != "dead-task") {
            let word = match finding.severity {
                Severity::Deny => {
                    denied += 1;
                    "deny"
                }
                Severity::Warn | Severity::Audit => {
                    warned += 1;
                    "warn"
                }
            };
            writeln!(
                out,
                "{}: {word}: {resource} {namespace}/{name}: [{}] {}: {}",
                document.file, finding.rule, finding.path, finding.message
            )?;
            if !finding.help.is_empty() {
                writeln!(out, "  help: {}", finding.help)?;
            }
        }
    }
    writeln!(out, "{} documents read, {denied} denied, {warned} warned", documents.len())?;
    Ok(if denied > 0 { Outcome::No } else { Outcome::Done })
}

/// The resource of a kind that is judged from a file.
fn judged(api_version: Option<&str>, kind: Option<&str>) -> Option<(&'static str, &'static str)> {
    match (api_version?, kind?) {
        ("v1", "Pod") => Some(("", "pods")),
        ("v1", "Secret") => Some(("", "secrets")),
        _ => None,
    }
}

/// A world in which one policy of this profile holds everywhere.
fn world(profile: Profile) -> World {
    let guardrails = Guardrails {
        owner: Owner { team: "lint".into(), contact: "lint".into() },
        mode: Mode::Enforce,
        controls: vec![],
        workloads: Some(Workloads { profile, ..Workloads::BUILT_IN }),
    };
    let policy = ClusterAgentPolicySpec { namespaces: vec![], guardrails, allow_secret_keys: vec![] };
    let mut world = World::default();
    world.cluster_policies.insert("lint".into(), Loaded::Readable(policy));
    world
}
