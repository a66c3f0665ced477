//! `mandate lint`: the webhook's verdict on manifests, before any cluster sees them.
//!
//! Flow: paths → [`manifest`] → [`world`] (what the manifests and the cluster tell of each
//! other) → [`judge`] → [`report`] → [`render`].
//!
//! Exit status: 0 nothing is refused; 1 something is; 2 something could not be read or done,
//! whatever else was found.

mod report;
mod world;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::ValueEnum;
use jiff::Timestamp;

pub(super) use report::{Finding, Object, Report, Summary};
use world::Known;

use super::manifest::{Document, Manifests, Problem};
use super::render::{self, Format};
use super::{Outcome, runtime};
use crate::api::{GROUP, Profile};
use crate::cluster::connect::Target;
use crate::decide::admit::judge;
use crate::decide::json::Value;

/// Namespace of objects that name none, as for `kubectl`.
const NAMESPACE: &str = "default";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files and directories; `-` is standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// What is refused, beside what policies refuse [default: restricted, where no policy in
    /// the manifests, in the cluster or by --policy speaks of pods]
    #[arg(long, value_enum)]
    profile: Option<ProfileName>,
    /// File with AgentPolicies and ClusterAgentPolicies to hold the manifests to; give it once
    /// for each
    #[arg(long, value_name = "FILE")]
    policy: Vec<PathBuf>,
    /// Namespace of objects that name none
    #[arg(short, long, default_value = NAMESPACE)]
    namespace: String,
    /// How findings are printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Take policies, agents, scopes and tasks of the cluster into account
    #[arg(long)]
    cluster: bool,
    /// kubeconfig file of the cluster [default: as kubectl]
    #[arg(long, value_name = "FILE", requires = "cluster")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, requires = "cluster")]
    context: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProfileName {
    /// References to Secrets, legacy tokens, lives that are too long
    Baseline,
    /// Every finding
    Restricted,
}

impl From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Self {
        match name {
            ProfileName::Baseline => Self::Baseline,
            ProfileName::Restricted => Self::Restricted,
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut known = Known::default();
    if args.cluster {
        let target = Target { kubeconfig: args.kubeconfig.clone(), context: args.context.clone(), act_as: None };
        runtime()?.block_on(known.add_cluster(&target))?;
    }
    let mut policies = Manifests::read(&args.policy);
    let none = no_policies(&args.policy, &policies);
    policies.problems.extend(none);
    let mut manifests = Manifests::read(&args.paths);
    let mut problems = policies.problems;
    problems.append(&mut manifests.problems);
    problems.extend(known.add(&policies.objects, &args.namespace));
    problems.extend(known.add(&manifests.objects, &args.namespace));
    match args.profile {
        Some(profile) => known.hold_to(profile.into()),
        None if known.speaks_of_pods() => {}
        None => known.hold_to(Profile::Restricted),
    }
    let now = Timestamp::now();
    let objects = manifests.objects.iter().map(|document| check(&known, document, &args.namespace, now)).collect();
    let report = Report::new(manifests.read, objects, problems);
    print(args.format, &report, &known.notes)?;
    Ok(match report.summary {
        Summary { problems: 1.., .. } => Outcome::Incomplete,
        Summary { denied: 1.., .. } => Outcome::No,
        _ => Outcome::Done,
    })
}

/// What was given as policies and holds none.
fn no_policies(paths: &[PathBuf], policies: &Manifests) -> Vec<Problem> {
    let is_policy =
        |document: &Document| document.group() == GROUP && ["AgentPolicy", "ClusterAgentPolicy"].contains(&document.kind());
    if paths.is_empty() || !policies.problems.is_empty() || policies.objects.iter().any(is_policy) {
        return vec![];
    }
    vec![Problem {
        file: paths[0].display().to_string().into(),
        at: None,
        message: "there is no policy in what was given by --policy".to_owned(),
        help: "give an AgentPolicy or a ClusterAgentPolicy, and manifests as paths".to_owned(),
    }]
}

/// Judges one object and places what is found.
fn check(known: &Known, document: &Document, namespace: &str, now: Timestamp) -> Object {
    let object = Object::of(document, namespace);
    let verdict = judge(&known.world, &value(document, namespace), now);
    let root = &document.root;
    let mut findings: Vec<Finding> = verdict
        .findings
        .into_iter()
        .filter(|finding| match finding.rule {
            "dead-task" => {
                let task = root.at(&finding.path).and_then(|label| label.as_text()).unwrap_or_default();
                known.is_surely_dead(&object.namespace, task, now)
            }
            _ => true,
        })
        .map(|mut finding| {
            if let Some(waiver) = &finding.waiver {
                finding.message = format!("{}; {waiver}", finding.message);
            }
            Finding { at: root.locate(&finding.path), found: finding }
        })
        .collect();
    findings.sort_by(|a, b| (a.at, a.found.rule, &a.found.path).cmp(&(b.at, b.found.rule, &b.found.path)));
    Object { findings, ..object }
}

/// An object as it is judged: with the namespace that was given on the command line, where it
/// has none of its own.
fn value<'a>(document: &'a Document, namespace: &'a str) -> Value<'a> {
    let mut value = document.root.value();
    if document.namespace().is_none() && !Object::of(document, namespace).namespace.is_empty() && namespace != NAMESPACE {
        set_namespace(&mut value, namespace);
    }
    value
}

/// Writes the namespace that was given on the command line into an object without one.
fn set_namespace<'a>(value: &mut Value<'a>, namespace: &'a str) {
    if let Value::Object(members) = value
        && let Value::Object(metadata) = members.insert_or_get_mut("metadata", Value::Object(Vec::new().into()))
    {
        metadata.insert("namespace", namespace.into());
    }
}

/// Prints the report, and beside it what is no part of a format.
fn print(format: Format, report: &Report, notes: &[String]) -> io::Result<()> {
    for note in notes {
        eprintln!("mandate: {note}");
    }
    let stdout = io::stdout().lock();
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let colour = stdout.is_terminal() && !is_plain;
    let mut out = io::BufWriter::new(stdout);
    match render::render(format, report, colour, &mut out).and_then(|()| out.flush()) {
        // Whoever reads may stop; the verdict stays what it is.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        result => result?,
    }
    if !format.tells_summary() {
        eprintln!("mandate: {}", report.summary);
    }
    Ok(())
}
