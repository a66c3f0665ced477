//! `mandate decide`: may this task do this? By manifests alone, in the words of the authorizer.
//!
//! Exit status: 0 it is permitted; 1 it is denied, or a person has to be asked; 2 it could not be
//! decided, since the manifests are not sound or the request cannot be understood.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::Value;

use super::render::line;
use super::scene::{Ended, Past, Scene, Wish, arguments};
use super::{Outcome, manifest};
use crate::authorizer::Answer;
use crate::authorizer::door::authzen::Answered;
use crate::authorizer::door::authzen::asked::{Asked, NOTHING, Sought};
use crate::decide::authorize::{Decision, Outcome as Decided, Reason, Subject};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File or directory of manifests; give it once for each
    #[arg(short = 'f', long, required = true, value_name = "PATH")]
    manifests: Vec<PathBuf>,
    /// Namespace of manifests and tasks that name none
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
    /// Request of AuthZEN's evaluation API, as JSON; `-` is standard input. Its `subject.id` names
    /// the task
    #[arg(long, value_name = "FILE", required_unless_present = "task", conflicts_with_all = ["task", "tool", "arguments", "resource", "intent"])]
    request: Option<PathBuf>,
    /// The task that acts, an AgentTask of the manifests
    #[arg(long, value_name = "[NAMESPACE/]NAME", requires = "tool")]
    task: Option<String>,
    /// What it calls
    #[arg(long, value_name = "[NAMESPACE/]SERVER/TOOL", requires = "task")]
    tool: Option<String>,
    /// Argument of the call, its value as JSON or else as text; give it once for each
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    arguments: Vec<String>,
    /// Id of the resource
    #[arg(long, value_name = "ID")]
    resource: Option<String>,
    /// What the agent says this is for
    #[arg(long, value_name = "TEXT")]
    intent: Option<String>,
    /// What the task has called before, in this order; `?NAME=VALUE&…` gives arguments, and
    /// `@ID` before them a resource
    #[arg(long, value_name = "SERVER/TOOL")]
    after: Vec<String>,
    /// When, such as `2026-10-05T09:00:00Z` [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Text,
    /// As the AuthZEN API answers
    Json,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let at = args.at.unwrap_or_else(Timestamp::now);
    let scene = match Scene::read(&args.manifests, &args.namespace, at) {
        Ok(scene) => scene,
        Err(wrong) => {
            wrong.iter().for_each(|wrong| eprintln!("mandate: {wrong}"));
            bail!("the manifests are not sound");
        }
    };
    let (subject, wish) = match &args.request {
        Some(file) => requested(&scene, file)?,
        None => flagged(&scene, args)?,
    };
    let mut past = Past::default();
    for before in &args.after {
        let wish = earlier(&scene, &subject, before)?;
        let decision = scene.ask(&subject, &wish, &mut past, at, Ended::Unsaid);
        if decision.outcome != Decided::Permit {
            bail!("--after {before}: it would not have been permitted itself: {}", words(decision));
        }
    }
    let decision = scene.ask(&subject, &wish, &mut past, at, Ended::Unsaid);
    let outcome = if decision.outcome == Decided::Permit { Outcome::Done } else { Outcome::No };
    print(args.output, decision, at)?;
    Ok(outcome)
}

fn requested(scene: &Scene, file: &std::path::Path) -> anyhow::Result<(Subject, Wish)> {
    let named = file.display();
    let node = manifest::document(file).map_err(|problem| anyhow!("`{named}`: {}", problem.message))?;
    let body: Value = node.value().into();
    let body = body.as_object().with_context(|| format!("`{named}` must hold one JSON object"))?;
    let asked = Asked::read(body, &NOTHING, Sought::Nothing).map_err(|why| anyhow!("`{named}`: {why}"))?;
    let id = asked.subject.id.unwrap_or_default();
    let subject = scene.task(id.strip_prefix("task:").unwrap_or(id)).map_err(|why| anyhow!(why))?.clone();
    let (call, resource) = asked.action(&scene.snapshot, &subject.namespace).map_err(|why| anyhow!("`{named}`: {why}"))?;
    let wish = Wish {
        server: call.server,
        tool: call.tool,
        arguments: asked.action.1.clone(),
        resource: resource.map(str::to_owned),
        subject_properties: asked.subject.without_token(),
        resource_properties: asked.resource.properties.clone(),
        intent: asked.context.get("intent").and_then(Value::as_str).map(str::to_owned),
    };
    Ok((subject, wish))
}

fn flagged(scene: &Scene, args: &Args) -> anyhow::Result<(Subject, Wish)> {
    let (Some(task), Some(tool)) = (&args.task, &args.tool) else { bail!("give --request, or --task and --tool") };
    let subject = scene.task(task).map_err(|why| anyhow!(why))?.clone();
    let (server, tool) = scene.tool(&subject.namespace, tool).map_err(|why| anyhow!("--tool {why}"))?;
    let arguments = arguments(&args.arguments).map_err(|why| anyhow!("--arg {why}"))?;
    let wish = Wish { server, tool, arguments, resource: args.resource.clone(), intent: args.intent.clone(), ..Wish::default() };
    Ok((subject, wish))
}

/// `server/tool[@resource][?name=value&…]`.
fn earlier(scene: &Scene, subject: &Subject, text: &str) -> anyhow::Result<Wish> {
    let (called, given) = text.split_once('?').unwrap_or((text, ""));
    let (called, resource) = match called.split_once('@') {
        Some((called, resource)) => (called, Some(resource.to_owned())),
        None => (called, None),
    };
    let (server, tool) = scene.tool(&subject.namespace, called).map_err(|why| anyhow!("--after {why}"))?;
    let given: Vec<String> = given.split('&').filter(|text| !text.is_empty()).map(str::to_owned).collect();
    let arguments = arguments(&given).map_err(|why| anyhow!("--after {text}: {why}"))?;
    Ok(Wish { server, tool, arguments, resource, ..Wish::default() })
}

fn words(decision: Decision) -> String {
    Answer { id: String::new(), at: Timestamp::MIN, decision }.words()
}

fn print(output: Output, decision: Decision, at: Timestamp) -> anyhow::Result<()> {
    let text = match output {
        Output::Json => {
            // Nothing was recorded, so there is nothing to find by an id.
            let answer = Answer { id: String::new(), at, decision };
            serde_json::to_string_pretty(&Answered { answer, unproved: None })? + "\n"
        }
        Output::Text => for_people(&decision),
    };
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

/// The answer in the words of its reasons.
pub(super) fn for_people(decision: &Decision) -> String {
    let mut text = format!("{}\n", decision.outcome.as_str());
    if !decision.looked_at.chain.is_empty() {
        let _ = writeln!(text, "  chain: {}", line(&decision.looked_at.chain.join(" > ")));
    }
    let mut say = |reason: &Reason, mark: &str| {
        let rule = reason.rule.as_ref().map(|rule| format!(" [{rule}]")).unwrap_or_default();
        // INVARIANT: writing to a String cannot fail.
        let _ = writeln!(text, "{mark}{}{rule}: {}", reason.code.as_str(), line(&reason.message));
        if !reason.help.is_empty() {
            let _ = writeln!(text, "    help: {}", line(&reason.help));
        }
    };
    decision.reasons.iter().for_each(|reason| say(reason, "  "));
    decision.notices.iter().for_each(|reason| say(reason, "  not enforced: "));
    if decision.cache_for > 0 {
        let _ = writeln!(text, "  an enforcement point may use this answer again for {} s", decision.cache_for);
    }
    text
}
