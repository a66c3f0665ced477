//! `mandate task start|get|end|tree`: what people do with tasks, with the reasons in words.

mod tree;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use futures::StreamExt as _;
use jiff::Timestamp;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::Outcome;
use crate::api::{AgentTask, AgentTaskSpec, Person, Phase, names};
use crate::cluster::connect::{Target, connect};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a task and wait until it has its authority
    Start(Start),
    /// Show one task, or list the tasks of a namespace
    Get(Get),
    /// Show who delegated to whom
    Tree(tree::Args),
    /// End a task and wait until its authority is taken back
    End(End),
}

#[derive(Debug, clap::Args)]
pub(super) struct Cluster {
    /// Namespace [default: the kubeconfig context's]
    #[arg(short, long)]
    pub(super) namespace: Option<String>,
    /// kubeconfig file [default: as kubectl]
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long)]
    pub(super) context: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Start {
    #[command(flatten)]
    cluster: Cluster,
    /// The AgentIdentity that does the work
    #[arg(long)]
    agent: String,
    /// The TaskScope that says what the task may do
    #[arg(long)]
    scope: String,
    /// What is to be reached, in words
    #[arg(long)]
    objective: String,
    /// Life of the task, such as `15m`
    #[arg(long, default_value = "15m")]
    ttl: crate::api::Duration,
    /// The task that delegates to this one
    #[arg(long, value_name = "TASK")]
    parent: Option<String>,
    /// User the task acts for [default: as the parent]
    #[arg(long = "for", value_name = "USER")]
    on_behalf_of: Option<String>,
    /// Name of the task [default: the agent's name and something unique]
    #[arg(long)]
    name: Option<String>,
    /// How long to wait for the authority, in seconds; 0 waits not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
    /// How the task is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct Get {
    #[command(flatten)]
    cluster: Cluster,
    /// The task; without one, all tasks of the namespace
    name: Option<String>,
    /// How tasks are printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct End {
    #[command(flatten)]
    cluster: Cluster,
    /// The task
    name: String,
    /// How it ended
    #[arg(long, value_enum, default_value_t)]
    reason: Reason,
    /// Why, in words
    #[arg(long, default_value = "")]
    message: String,
    /// How long to wait until the authority is taken back, in seconds; 0 waits not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
}

/// How a task is printed.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Text,
    /// The name alone
    Name,
    /// The whole object
    Json,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Reason {
    /// The objective is reached
    #[default]
    Completed,
    /// The objective is not reached
    Failed,
    /// The authority is taken back
    Revoked,
}

pub(super) fn run(command: Command) -> anyhow::Result<Outcome> {
    super::runtime()?.block_on(async {
        match command {
            Command::Start(args) => start(args).await,
            Command::Get(args) => get(args).await,
            Command::Tree(args) => tree::run(args).await,
            Command::End(args) => end(args).await,
        }
    })
}

async fn tasks(cluster: &Cluster) -> anyhow::Result<Api<AgentTask>> {
    let target = Target { kubeconfig: cluster.kubeconfig.clone(), context: cluster.context.clone(), act_as: None };
    let client = connect(&target).await?;
    let namespace = cluster.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    Ok(Api::namespaced(client, &namespace))
}

async fn start(args: Start) -> anyhow::Result<Outcome> {
    let api = tasks(&args.cluster).await?;
    let spec = json!({
        "agent": args.agent, "scope": args.scope, "objective": args.objective, "ttl": args.ttl, "parent": args.parent,
        "onBehalfOf": args.on_behalf_of.map(|user| Person { user }),
    });
    let spec: AgentTaskSpec = serde_json::from_value(spec).context("making the task")?;
    let metadata = ObjectMeta {
        generate_name: args.name.is_none().then(|| format!("{}-", args.agent)),
        name: args.name,
        ..ObjectMeta::default()
    };
    let task = AgentTask { metadata, spec, status: None };
    let task = match api.create(&PostParams::default(), &task).await {
        Ok(task) => task,
        Err(kube::Error::Api(status)) => {
            eprintln!("the task was not created: {}", status.message);
            return Ok(Outcome::No);
        }
        Err(error) => return Err(error).context("creating the task"),
    };
    if args.wait == 0 {
        show(&task, args.output)?;
        return Ok(Outcome::Done);
    }
    let name = task.name_any();
    let settled = follow(&api, &name, Duration::from_secs(args.wait), |phase| phase != Phase::Pending).await?;
    let Some(task) = settled else {
        eprintln!("task `{name}` has no authority after {} s; it goes on waiting (`mandate task get {name}`)", args.wait);
        return Ok(Outcome::No);
    };
    show(&task, args.output)?;
    Ok(if phase(&task) == Phase::Active { Outcome::Done } else { Outcome::No })
}

fn phase(task: &AgentTask) -> Phase {
    task.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

/// Follows a task until its phase is as wanted, telling each condition as it comes. None
/// where that does not happen in time.
async fn follow(
    api: &Api<AgentTask>,
    name: &str,
    limit: Duration,
    wanted: fn(Phase) -> bool,
) -> anyhow::Result<Option<AgentTask>> {
    let watch = async {
        let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut stream = std::pin::pin!(watcher(api.clone(), one).default_backoff().applied_objects());
        let mut told = String::new();
        while let Some(event) = stream.next().await {
            let task = event.context("watching the task")?;
            let news = conditions(&task);
            if news != told {
                eprint!("{news}");
                told = news;
            }
            if wanted(phase(&task)) {
                return Ok(task);
            }
        }
        bail!("the watch of task `{name}` ended")
    };
    match tokio::time::timeout(limit, watch).await {
        Ok(task) => task.map(Some),
        Err(_) => Ok(None),
    }
}

/// The conditions of a task, one a line.
fn conditions(task: &AgentTask) -> String {
    let conditions = task.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().map(|c| format!("{}={} {}: {}\n", c.type_, c.status, c.reason, c.message)).collect()
}

fn show(task: &AgentTask, output: Output) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Name => writeln!(out, "{}", task.name_any())?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(task)?)?,
        Output::Text => {
            let status = task.status.clone().unwrap_or_default();
            let spec = &task.spec;
            writeln!(out, "Task        {}/{}", task.namespace().unwrap_or_default(), task.name_any())?;
            writeln!(
                out,
                "Phase       {:?} ({})",
                phase(task),
                status.reason.as_deref().unwrap_or("not seen by the controller yet")
            )?;
            writeln!(out, "Agent       {} with scope {}", spec.agent, spec.scope)?;
            writeln!(out, "Objective   {}", spec.objective)?;
            if let Some(requester) = &spec.requested_by {
                writeln!(out, "Asked by    {}", requester.username)?;
            }
            if let Some(parent) = &spec.parent {
                let above = status.chain.iter().map(|link| link.task.as_str()).collect::<Vec<_>>().join(" > ");
                writeln!(out, "Below       {}", if above.is_empty() { parent } else { &above })?;
            }
            if let Some(person) = &spec.on_behalf_of {
                writeln!(out, "Acts for    {}", person.user)?;
            }
            match (&status.ended_at, &status.expires_at) {
                (Some(ended), _) => writeln!(out, "Over since  {}", ended.0)?,
                (None, Some(expires)) => writeln!(out, "Expires     {} ({})", expires.0, left(expires.0))?,
                (None, None) => {}
            }
            for credential in &status.credentials {
                let audience = credential.audience.as_deref().unwrap_or(if credential.expires_at.is_some() {
                    "the API server"
                } else {
                    "static secret"
                });
                let fate = match &credential.expires_at {
                    _ if status.ended_at.is_some() => "taken back".to_owned(),
                    Some(at) => format!("expires {}", at.0),
                    None => "never expires".to_owned(),
                };
                writeln!(out, "Credential  {} for {audience}, {fate}", credential.name)?;
            }
            for risk in &status.accepted_risks {
                writeln!(
                    out,
                    "Risk        {} is a copy of Secret {}: accepted by {} ({}): {}",
                    risk.credential, risk.secret_name, risk.owner.team, risk.owner.contact, risk.reason
                )?;
            }
            if phase(task) == Phase::Active {
                writeln!(out, "Secret      {}", status.secret.as_deref().unwrap_or("-"))?;
                writeln!(out, "Pods        label {}: {}", names::TASK_LABEL, task.name_any())?;
            }
            write!(out, "{}", conditions(task))?;
        }
    }
    Ok(())
}

/// How long until then, in words.
fn left(at: Timestamp) -> String {
    let seconds = at.duration_since(Timestamp::now()).as_secs();
    match u32::try_from(seconds) {
        Ok(seconds) => format!("in {}", crate::api::Duration::from_secs(seconds)),
        Err(_) => "past".to_owned(),
    }
}

async fn get(args: Get) -> anyhow::Result<Outcome> {
    let api = tasks(&args.cluster).await?;
    if let Some(name) = &args.name {
        let Some(task) = api.get_opt(name).await.context("reading the task")? else {
            bail!("there is no task `{name}` in this namespace");
        };
        show(&task, args.output)?;
        return Ok(Outcome::Done);
    }
    let all = api.list(&ListParams::default()).await.context("listing tasks")?;
    let mut out = std::io::stdout().lock();
    if matches!(args.output, Output::Json) {
        writeln!(out, "{}", serde_json::to_string_pretty(&all.items)?)?;
        return Ok(Outcome::Done);
    }
    if matches!(args.output, Output::Text) && !all.items.is_empty() {
        writeln!(out, "{}", row(["NAME", "AGENT", "SCOPE", "PHASE", "REASON", "EXPIRES"]))?;
    }
    for task in &all.items {
        match args.output {
            Output::Name => writeln!(out, "{}", task.name_any())?,
            _ => {
                let status = task.status.clone().unwrap_or_default();
                let expires =
                    status.expires_at.filter(|_| status.ended_at.is_none()).map_or_else(|| "-".to_owned(), |at| left(at.0));
                let (name, phase, reason) = (task.name_any(), format!("{:?}", phase(task)), status.reason.unwrap_or_default());
                writeln!(out, "{}", row([&name, &task.spec.agent, &task.spec.scope, &phase, &reason, &expires]))?;
            }
        }
    }
    Ok(Outcome::Done)
}

/// One line of the list.
fn row([name, agent, scope, phase, reason, expires]: [&str; 6]) -> String {
    format!("{name:<40} {agent:<20} {scope:<20} {phase:<8} {reason:<18} {expires}")
}

async fn end(args: End) -> anyhow::Result<Outcome> {
    let api = tasks(&args.cluster).await?;
    let reason = match args.reason {
        Reason::Completed => "Completed",
        Reason::Failed => "Failed",
        Reason::Revoked => "Revoked",
    };
    let Some(task) = api.get_opt(&args.name).await.context("reading the task")? else {
        bail!("there is no task `{}` in this namespace", args.name);
    };
    if matches!(phase(&task), Phase::Ended | Phase::Refused) {
        show(&task, Output::Text)?;
        return Ok(Outcome::Done);
    }
    let patch = json!({"spec": {"end": {"reason": reason, "message": args.message}}});
    api.patch(&args.name, &PatchParams::default(), &Patch::Merge(patch)).await.context("ending the task")?;
    if args.wait == 0 {
        return Ok(Outcome::Done);
    }
    let over =
        follow(&api, &args.name, Duration::from_secs(args.wait), |phase| matches!(phase, Phase::Ended | Phase::Refused)).await?;
    match over {
        Some(_) => Ok(Outcome::Done),
        None => {
            eprintln!(
                "task `{}` is asked to end, and its authority is not yet taken back after {} s; is the controller running?",
                args.name, args.wait
            );
            Ok(Outcome::No)
        }
    }
}
