//! `mandate vap`: the rules as ValidatingAdmissionPolicies, for the API server to hold by itself.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Deserialize as _;
use serde_json::Value;

use super::{Outcome, print};
use crate::api::{AgentPolicy, ClusterAgentPolicy, Mode, Profile, Workloads};
use crate::decide::cel::{Extent, Gap};
use crate::decide::world::{Asked, Loaded, World};
use crate::install::vap::{self, Guard, Kinds};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Namespace to guard; give it once for each
    #[arg(long = "guard", value_name = "NAMESPACE", required_unless_present = "gaps")]
    guarded: Vec<String>,
    /// File with AgentPolicies and ClusterAgentPolicies to hold to; give it once for each
    /// [default: the built-in policy]
    #[arg(long = "policy", value_name = "FILE", conflicts_with = "profile")]
    policies: Vec<PathBuf>,
    /// Hold to this profile instead
    #[arg(long, value_parser = ["baseline", "restricted"])]
    profile: Option<String>,
    /// First part of the policies' names
    #[arg(long, value_name = "PREFIX", default_value = vap::PREFIX)]
    name_prefix: String,
    /// Also judge what the webhook is not asked about, such as ConfigMaps and claims to volumes,
    /// and what stands in no namespace: volumes, their classes, requests for certificates
    #[arg(long)]
    all_kinds: bool,
    /// List what these policies cannot see, and why, instead
    #[arg(long)]
    gaps: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let Args { guarded, policies, profile, name_prefix, all_kinds, gaps } = args;
    let mut out = std::io::stdout().lock();
    if *gaps {
        out.write_all(missing("").as_bytes())?;
        return Ok(Outcome::Done);
    }
    let mut guards = vap::guards(&world(policies)?, guarded)?;
    if let Some(profile) = profile {
        let profile: Profile = serde_yaml::from_str(profile)?;
        hold_to(profile, &mut guards);
    }
    out.write_all(format!("# The rules of Mandate as ValidatingAdmissionPolicies, printed by `mandate vap`. Print them\n# anew when a policy or the version changes. What they cannot see:\n#\n{}", missing("# ")).as_bytes())?;
    drop(out);
    let kinds = if *all_kinds { Kinds::All } else { Kinds::OfWebhook };
    print::documents(&vap::objects(name_prefix, &guards, kinds))
}

/// Lets a profile hold in the place of every policy.
fn hold_to(profile: Profile, guards: &mut Vec<Guard>) {
    let policy = match profile {
        Profile::Baseline => return,
        Profile::Restricted => "profile restricted".to_owned(),
    };
    let workloads = Workloads { profile, ..Workloads::BUILT_IN };
    for Guard { asked, .. } in guards {
        *asked = vec![Asked { policy: policy.clone(), mode: Mode::Enforce, workloads: workloads.clone(), honours: vec![] }];
    }
}

/// A world in which these policies stand.
fn world(files: &[PathBuf]) -> anyhow::Result<World> {
    let mut world = World::default();
    for file in files {
        let name = file.display();
        let text = std::fs::read_to_string(file).with_context(|| format!("reading `{name}`"))?;
        for (n, document) in serde_yaml::Deserializer::from_str(&text).enumerate() {
            let object = Value::deserialize(document).with_context(|| format!("`{name}`, document {}", n + 1))?;
            if !object.is_null() {
                add(&mut world, object).with_context(|| format!("`{name}`, document {}", n + 1))?;
            }
        }
    }
    Ok(world)
}

fn add(world: &mut World, object: Value) -> anyhow::Result<()> {
    let text = |at: &str| object.pointer(at).and_then(Value::as_str).map(str::to_owned);
    let name = text("/metadata/name").context("a policy needs a name")?;
    match text("/kind").as_deref() {
        Some("ClusterAgentPolicy") => {
            let policy: ClusterAgentPolicy = serde_json::from_value(object)?;
            world.cluster_policies.insert(name, Loaded::Readable(policy.spec));
        }
        Some("AgentPolicy") => {
            let namespace = text("/metadata/namespace").with_context(|| format!("AgentPolicy `{name}` needs a namespace"))?;
            let policy: AgentPolicy = serde_json::from_value(object)?;
            world.namespaces.entry(namespace).or_default().policies.insert(name, Loaded::Readable(policy.spec));
        }
        kind => {
            anyhow::bail!("an AgentPolicy or a ClusterAgentPolicy is wanted here, and this is `{}`", kind.unwrap_or("nothing"))
        }
    }
    Ok(())
}

/// What the policies cannot see, a line each.
fn missing(start: &str) -> String {
    let rules = vap::gaps().into_iter().map(|Gap { rule, extent, lacks }| {
        let extent = match extent {
            Extent::Part => "in part",
            Extent::Whole => "not at all",
        };
        let lacks: Vec<&str> = lacks.into_iter().collect();
        format!("{:<28}{extent:<12}lacks {}", rule.id, lacks.join("; "))
    });
    let others = vap::OTHERS.iter().map(|(what, why)| format!("{what:<28}{:<12}{why}", "not at all"));
    rules.chain(others).map(|line| format!("{start}{line}\n")).collect()
}
