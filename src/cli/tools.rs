//! `mandate tools`: what an MCP server lists, as a ToolServer, and whether it is still that.
//!
//! What a server says of its tools proves nothing. An import therefore has the strictest effect
//! and classification of each tool, until its owner has looked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use jiff::Timestamp;

use super::Outcome;
use super::known::Known;
use crate::api::{Argument, Tool, ToolServerSpec};
use crate::authorizer::mcp::is_method;
use crate::authorizer::tools::client::Asking;
use crate::authorizer::tools::listing::Listed;
use crate::authorizer::tools::reach::Reach;
use crate::decide::world::Loaded;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Print a ToolServer with what an MCP server lists. Review it before it is applied
    Import(Import),
    /// Compare ToolServers of manifests with what their MCP servers list; status 1 where a tool is
    /// no longer what was reviewed
    Check(Check),
}

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// Endpoint of the MCP server
    #[arg(long)]
    url: String,
    /// Name of the ToolServer
    #[arg(long)]
    name: String,
    /// Its namespace
    #[arg(long, short, default_value = "default")]
    namespace: String,
    /// File with the bearer token that the server wants
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// Files or directories of manifests
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Namespace of manifests that name none
    #[arg(long, short, default_value = "default")]
    namespace: String,
    /// Only the ToolServer of this name
    #[arg(long)]
    name: Option<String>,
    /// File with the bearer token that the servers want; with several servers, choose one by --name
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

pub(super) fn run(command: Command) -> anyhow::Result<Outcome> {
    super::runtime()?.block_on(async {
        match command {
            Command::Import(args) => import(args).await,
            Command::Check(args) => check(args).await,
        }
    })
}

fn token(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let read = |file: &Path| std::fs::read_to_string(file).with_context(|| format!("reading `{}`", file.display()));
    Ok(file.map(read).transpose()?.map(|text| text.trim().to_owned()))
}

async fn import(args: Import) -> anyhow::Result<Outcome> {
    let Import { url, name, namespace, token_file } = args;
    let token = token(token_file.as_deref())?;
    let listed = Asking::new(Reach::of_a_person())
        .tools(&url, token.as_deref())
        .await
        .with_context(|| format!("asking `{url}` for its tools"))?;
    std::io::stdout().write_all(manifest(&url, &name, &namespace, &listed)?.as_bytes())?;
    Ok(Outcome::Done)
}

/// Most tools of a ToolServer, and most arguments of a tool.
const MOST_TOOLS: usize = 128;
const MOST_ARGUMENTS: usize = 64;

fn manifest(url: &str, name: &str, namespace: &str, listed: &[Listed]) -> anyhow::Result<String> {
    let (listed, left_out): (Vec<&Listed>, Vec<&Listed>) = listed.iter().partition(|tool| may_be_named(&tool.name));
    if listed.is_empty() {
        bail!("the server lists no tool that a ToolServer can name");
    }
    if listed.len() > MOST_TOOLS {
        bail!("the server lists {} tools; a ToolServer has {MOST_TOOLS} at most: describe it in several", listed.len());
    }
    let (name, namespace, url) = (quoted(name), quoted(namespace), quoted(url));
    let mut text = format!(
        "# Review this before it is applied: who answers for the server, and what each tool does and\n\
         # touches, which its owner alone can know. What is not reviewed has the strictest effect and\n\
         # classification. What a server says of its own tools proves nothing.\n\
         apiVersion: mandate.dev/v1alpha1\nkind: ToolServer\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n\
         \x20 owner: {{team: unreviewed, contact: unreviewed}} # review: who answers for it\n\
         \x20 mcp: {{url: {url}}}\n\x20 tools:\n"
    );
    for tool in listed {
        write_tool(&mut text, tool);
    }
    for tool in left_out {
        let _ = writeln!(text, "  # left out, since no ToolServer can name it: {}", comment(&tool.name));
    }
    Ok(text)
}

/// Whether a ToolServer can name it: as the schema of the kind has it, and not like a method.
fn may_be_named(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let ends = name.chars().next().is_some_and(word) && name.chars().next_back().is_some_and(word);
    ends && name.len() <= 128 && name.chars().all(|c| word(c) || "-./".contains(c)) && !is_method(name)
}

// INVARIANT of what writes here: writing to a String cannot fail.
fn write_tool(text: &mut String, tool: &Listed) {
    let _ = writeln!(text, "  - name: {}", quoted(&tool.name));
    if !tool.description().is_empty() {
        let _ = writeln!(text, "    # it says: {}", comment(tool.description()));
    }
    let hints: Vec<String> = tool.hints().map(|(name, value)| format!("{name} {value}")).collect();
    if !hints.is_empty() {
        let _ = writeln!(text, "    # it says of itself, unproved: {}", comment(&hints.join(", ")));
    }
    text.push_str("    effect: admin # review: read, write, export or admin\n");
    text.push_str("    classification: restricted # review: public, internal, confidential or restricted\n");
    let arguments = tool.arguments();
    match arguments.len() {
        0 => text.push_str("    arguments: {}\n"),
        many if many > MOST_ARGUMENTS => {
            let _ = writeln!(text, "    arguments: {{}} # review: it has {many}, and {MOST_ARGUMENTS} can be listed");
        }
        _ => text.push_str("    arguments:\n"),
    }
    for (name, Argument { type_, required }) in arguments.iter().filter(|_| arguments.len() <= MOST_ARGUMENTS) {
        let required = if *required { ", required: true" } else { "" };
        let _ = writeln!(text, "      {}: {{type: {}{required}}}", quoted(name), type_.as_str());
    }
    let _ = writeln!(text, "    pin: {}", tool.pin());
}

/// A text as YAML reads it back, quoted where it has to be.
fn quoted(text: &str) -> String {
    let plain = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].iter().any(|word| text.eq_ignore_ascii_case(word));
    if plain && !word { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// A text that somebody else wrote, on one line of a comment.
fn comment(text: &str) -> String {
    let plain = |c: char| if c.is_control() || "\u{2028}\u{2029}\u{feff}".contains(c) { ' ' } else { c };
    let short: String = text.chars().map(plain).take(200).collect();
    if text.chars().count() > 200 { format!("{short}…") } else { short }
}

async fn check(args: Check) -> anyhow::Result<Outcome> {
    let Check { paths, namespace, name: only, token_file } = args;
    let token = token(token_file.as_deref())?;
    let known = Known::read(&paths, &namespace, Timestamp::now());
    for problem in &known.problems {
        eprintln!("mandate: {}: {}", problem.file, problem.message);
    }
    let mut outcome = if known.problems.is_empty() { Outcome::Done } else { Outcome::Incomplete };
    let mut servers = vec![];
    for (namespace, sheet) in &known.sources.namespaces {
        for (name, written) in sheet.servers.iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == *name)) {
            if let Loaded::Readable(source) = &*written.spec
                && let Some(mcp) = &source.spec.mcp
            {
                servers.push((format!("{namespace}/{name}"), &mcp.url, &source.spec));
            }
        }
    }
    match servers.len() {
        0 => bail!("the manifests hold no such ToolServer with `mcp.url`"),
        // A token is for one server; another one must not see it.
        2.. if token.is_some() => bail!("--token-file is for one server, and there are several: choose one by --name"),
        _ => {}
    }
    let (asking, mut out) = (Asking::new(Reach::of_a_person()), std::io::stdout());
    for (key, url, spec) in servers {
        match asking.tools(url, token.as_deref()).await {
            Err(error) => {
                eprintln!("mandate: {key}: {error}");
                outcome = Outcome::Incomplete;
            }
            Ok(listed) => {
                let Compared { drift, notes } = compare(spec, &listed);
                for line in drift.iter().chain(&notes) {
                    writeln!(out, "{key}: {line}")?;
                }
                match (drift.is_empty(), outcome) {
                    (false, Outcome::Done) => outcome = Outcome::No,
                    (true, _) => writeln!(out, "{key}: every pinned tool is what was reviewed")?,
                    _ => {}
                }
            }
        }
    }
    Ok(outcome)
}

/// What a server says otherwise than its ToolServer.
#[derive(Debug, PartialEq, Eq)]
struct Compared {
    /// Tools that are stopped.
    drift: Vec<String>,
    /// What is worth knowing and stops nothing.
    notes: Vec<String>,
}

fn compare(spec: &ToolServerSpec, listed: &[Listed]) -> Compared {
    let (mut drift, mut notes) = (vec![], vec![]);
    for tool in &spec.tools {
        let name = &tool.name;
        let now = listed.iter().find(|listed| listed.name == *name);
        match (now, &tool.pin) {
            (None, Some(_)) => drift.push(format!("tool `{name}` is no longer listed")),
            (None, None) => notes.push(format!("tool `{name}` is not listed, and has no pin")),
            (Some(now), None) => notes.push(format!("tool `{name}` has no pin; to hold it to this: `pin: {}`", now.pin())),
            (Some(now), Some(pin)) if now.pin() != *pin => {
                drift.push(format!(
                    "tool `{name}` is not what was reviewed{}; once it is: `pin: {}`",
                    changes(tool, now),
                    now.pin()
                ));
            }
            (Some(_), Some(_)) => {}
        }
    }
    let unknown = listed.iter().filter(|listed| spec.tools.iter().all(|tool| tool.name != listed.name));
    notes.extend(
        unknown.map(|tool| format!("tool `{}` is listed by the server alone, and cannot be called", comment(&tool.name))),
    );
    Compared { drift, notes }
}

/// How the arguments of a tool differ from those that its owner lists.
fn changes(tool: &Tool, now: &Listed) -> String {
    let none = BTreeMap::new();
    let (before, now) = (tool.arguments.as_ref().unwrap_or(&none), now.arguments());
    let mut found = vec![];
    for (name, argument) in &now {
        match before.get(name) {
            None => found.push(format!("argument `{}` is new", comment(name))),
            Some(listed) if listed.type_ != argument.type_ => {
                found.push(format!("argument `{}` is now of type `{}`", comment(name), argument.type_.as_str()));
            }
            Some(listed) if listed.required != argument.required => {
                let now = if argument.required { "required" } else { "optional" };
                found.push(format!("argument `{}` is now {now}", comment(name)));
            }
            Some(_) => {}
        }
    }
    found.extend(before.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("argument `{name}` is gone")));
    if found.is_empty() {
        " (its description, or what its schema says beside the types)".to_owned()
    } else {
        format!(" ({})", found.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::ToolServer;

    fn listed() -> Vec<Listed> {
        let tool = |value| Listed::read(value).unwrap();
        vec![
            tool(json!({"name": "search", "description": "Find\nkind: Evil \u{2028}# x", "annotations": {"readOnlyHint": true},
                "inputSchema": {"required": ["on"], "properties": {"on": {"type": "string"}, "a: b": {"type": "integer"}}}})),
            tool(json!({"name": "no", "inputSchema": {"type": "object"}})),
            tool(json!({"name": "two words"})),
            tool(json!({"name": "resources/read"})),
        ]
    }

    #[test]
    fn an_import_can_be_read_and_has_the_strictest_of_everything() {
        let text = manifest("http://127.0.0.1:1/mcp", "ledger", "finance", &listed()).unwrap();
        let server: ToolServer = serde_yaml::from_str(&text).unwrap();
        let [search, no] = &server.spec.tools[..] else { panic!("{text}") };
        assert_eq!((search.effect.as_str(), search.classification.as_str()), ("admin", "restricted"));
        assert_eq!(search.arguments.as_ref().unwrap().keys().collect::<Vec<_>>(), ["a: b", "on"]);
        assert!(search.arguments.as_ref().unwrap()["on"].required);
        assert_eq!(no.arguments, Some(BTreeMap::new()));
        assert!(text.contains("# it says of itself, unproved: readOnlyHint true\n"), "{text}");
        assert!(text.contains("no ToolServer can name it: two words\n") && text.contains("name it: resources/read\n"), "{text}");
        assert_eq!(compare(&server.spec, &listed()[..2]), Compared { drift: vec![], notes: vec![] });
    }

    #[test]
    fn a_check_says_what_has_changed() {
        let text = manifest("http://127.0.0.1:1/mcp", "ledger", "finance", &listed()).unwrap();
        let server: ToolServer = serde_yaml::from_str(&text).unwrap();
        let changed = Listed::read(json!({"name": "search", "inputSchema": {"properties": {"to": {"type": "string"}}}})).unwrap();
        let Compared { drift, notes } = compare(&server.spec, &[changed, Listed::read(json!({"name": "new"})).unwrap()]);
        assert!(
            drift[0].starts_with(
                "tool `search` is not what was reviewed (argument `to` is new, argument `a: b` is gone, argument `on` is gone)"
            ),
            "{drift:?}"
        );
        assert_eq!(drift[1], "tool `no` is no longer listed");
        assert_eq!(notes, ["tool `new` is listed by the server alone, and cannot be called"]);
    }
}
