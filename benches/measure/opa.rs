//! OPA, asked the same: its data and Rego from the objects of [`super::authority`], and its
//! processes.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::authority::{Others, POLICIES_A_NAMESPACE, namespace, namespaces};

/// Where the binary is; built where it is not there yet.
pub fn binary() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/opa/build.sh");
    let output = Command::new(&script).stderr(Stdio::inherit()).output().context("run benches/opa/build.sh")?;
    ensure!(output.status.success(), "benches/opa/build.sh failed");
    let path = String::from_utf8(output.stdout)?;
    Ok(path.lines().last().context("benches/opa/build.sh printed no path")?.into())
}

/// Writes Rego and data into a directory; policies are spread over namespaces.
pub fn write(dir: &Path, policies: usize) -> Result<Vec<PathBuf>> {
    let [policy, others, data] = ["policy.rego", "others.rego", "data.json"].map(|name| dir.join(name));
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/opa/policy.rego"), &policy)?;
    let bounds = (0..policies).map(|n| {
        let namespace = namespace(n / POLICIES_A_NAMESPACE);
        format!(
            "\ndenials contains \"AgentPolicy {namespace}/policy-{n}#bound: beyond what this policy lets pass\" if {{\n\
             \tinput.resource.id == \"{namespace}/ledger/tool-{n}\"\n\tinput.action.properties.amount >= 100\n}}\n"
        )
    });
    let rego: String = std::iter::once("package mandate\n".to_owned()).chain(bounds).collect();
    fs::write(&others, rego)?;
    fs::write(&data, facts(namespaces(Others::Spread, policies)).to_string())?;
    Ok(vec![policy, others, data])
}

/// What [`super::authority::standing`] says, by the keys that the Rego looks up.
fn facts(namespaces: usize) -> Value {
    let deadline = (Timestamp::now() + SignedDuration::from_hours(24)).as_nanosecond() as i64;
    let [mut tasks, mut agents, mut tools, mut scopes, mut histories] = std::array::from_fn(|_| Map::new());
    for n in 0..namespaces {
        let namespace = namespace(n);
        let task = json!({"namespace": namespace, "agent": format!("{namespace}/bot"), "scope": "reconcile", "phase": "Active", "ending": false, "deadline": deadline});
        tasks.insert(format!("{namespace}/task-0"), task);
        agents.insert(format!("{namespace}/bot"), json!({"standing": "Good"}));
        histories.insert(format!("{namespace}/task-0"), json!({"highest_read": 1, "untrusted": false, "domains": [namespace]}));
        let tool = |name: &str, effect: &str, arguments: Option<Value>| {
            let mut tool = json!({"server": "ledger", "name": name, "effect": effect, "classification": 1, "domain": namespace});
            if let Some(arguments) = arguments {
                tool["arguments"] = arguments;
            }
            (format!("{namespace}/ledger/{name}"), tool)
        };
        let account = json!({"type": "string", "required": true});
        tools.extend([
            tool("search", "read", None),
            tool("read", "read", Some(json!({"account": account}))),
            tool(
                "post",
                "write",
                Some(
                    json!({"account": account, "amount": {"type": "decimal", "required": true}, "text": {"type": "string", "required": false}}),
                ),
            ),
        ]);
        let grant = |name: &str, arguments: Value| {
            (format!("{namespace}/ledger/{name}"), json!({"classification": 1, "arguments": arguments}))
        };
        let grants: Map<String, Value> =
            [grant("search", json!({})), grant("read", json!({})), grant("post", json!({"amount": {"max": 10000}}))]
                .into_iter()
                .collect();
        scopes.insert(namespace, json!({"reconcile": grants}));
    }
    json!({"tasks": tasks, "agents": agents, "tools": tools, "scopes": scopes, "histories": histories})
}

/// What came of asking in OPA's own process.
#[derive(Debug, Deserialize)]
pub struct Asked {
    pub decisions: u32,
    pub permitted: u32,
    pub cpu_ns: u64,
    pub p50_ns: u64,
    pub p99_ns: u64,
}

/// Asks a prepared query, again and again, pinned as `wrap` says.
pub fn prepared(
    binary: &Path,
    wrap: &[&str],
    dir: &Path,
    paths: &[PathBuf],
    inputs: &[Value],
    rounds: usize,
    parsed: bool,
) -> Result<Asked> {
    let run = dir.join("run.json");
    fs::write(&run, json!({"paths": paths, "inputs": inputs, "rounds": rounds, "parsed": parsed}).to_string())?;
    let output = command(binary, wrap).arg("prepared").arg(&run).stderr(Stdio::inherit()).output().context("start OPA")?;
    ensure!(output.status.success(), "OPA could not evaluate its policy");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// OPA's own server over HTTPS. `logs`: whether it writes each decision to its console, where nobody
/// reads.
pub fn serve(
    binary: &Path,
    wrap: &[&str],
    paths: &[PathBuf],
    certificate: &Path,
    key: &Path,
    logs: bool,
) -> Result<(Child, u16)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = command(binary, wrap);
    command.args(["run", "--server", "--log-level", "error", "--skip-version-check", "--skip-known-schema-check"]);
    command.arg("--addr").arg(format!("https://127.0.0.1:{port}"));
    command.arg("--tls-cert-file").arg(certificate).arg("--tls-private-key-file").arg(key).args(paths);
    if logs {
        command.args(["--set", "decision_logs.console=true"]).stderr(Stdio::null());
    }
    Ok((command.stdout(Stdio::null()).spawn().context("start OPA's server")?, port))
}

/// OPA on one core, as the process that it is measured beside.
fn command(binary: &Path, wrap: &[&str]) -> Command {
    let mut command = match wrap {
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(binary);
            command
        }
        [] => Command::new(binary),
    };
    command.env("GOMAXPROCS", "1");
    command
}
