//! Authority to be asked about: namespaces with tasks, scopes and tools, three rules that hold
//! everywhere, and as many other policies as are wanted.
//!
//! The same objects are compiled in process, written as manifests, and given to OPA as data and
//! Rego ([`super::opa`]).

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use mandate::api::{AgentPolicySpec, Phase, TaskScopeSpec};
use mandate::authorizer::digest;
use mandate::decide::authorize::snapshot::{ServerSource, Sources, Written};
use mandate::decide::authorize::{Standing, Subject};
use mandate::decide::world::Loaded;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How policies are spread: a hundred in one namespace are many.
pub const POLICIES_A_NAMESPACE: usize = 100;

/// What the other policies are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// A tool each, in namespaces of [`POLICIES_A_NAMESPACE`].
    Spread,
    /// A tool each, all in one namespace.
    Tools,
    /// An agent each, all in one namespace.
    Agents,
    /// The same effect all, in one namespace: an action meets every one.
    SameEffect,
}

impl Others {
    pub const ALL: [Self; 4] = [Self::Spread, Self::Tools, Self::Agents, Self::SameEffect];

    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spread => "spread",
            Self::Tools => "tools",
            Self::Agents => "agents",
            Self::SameEffect => "effect",
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Self::Spread => "a tool each, 100 to a namespace",
            Self::Tools => "a tool each, one namespace",
            Self::Agents => "an agent each, one namespace",
            Self::SameEffect => "all about the same effect, one namespace",
        }
    }

    /// Namespace of the policy of a number.
    pub fn namespace(self, n: usize) -> String {
        namespace(if self == Self::Spread { n / POLICIES_A_NAMESPACE } else { 0 })
    }

    /// The rule of the policy of a number.
    fn rule(self, n: usize) -> Value {
        let matches = match self {
            Self::Spread | Self::Tools => json!({"tools": [format!("ledger/tool-{n}")], "arguments": {"amount": {"min": 100}}}),
            Self::Agents => json!({"agents": [format!("bot-{n}")], "arguments": {"amount": {"min": 100}}}),
            Self::SameEffect => json!({"effects": ["write"], "arguments": {"account": {"oneOf": [format!("closed-{n}")]}}}),
        };
        json!({"name": "bound", "deny": "beyond what this policy lets pass", "match": matches})
    }
}

pub fn namespace(n: usize) -> String {
    format!("team-{n}")
}

/// The object of a policy, and the spec in it.
pub fn policy(others: Others, n: usize, change: usize) -> Value {
    json!({
        "apiVersion": "mandate.dev/v1alpha1", "kind": "AgentPolicy",
        "metadata": {"name": format!("policy-{n}"), "namespace": others.namespace(n)},
        "spec": {"owner": {"team": format!("team-{change}"), "contact": "c@example.com"}, "rules": [others.rule(n)]}
    })
}

/// The rules that hold everywhere: one on arguments, two on what was done before.
pub fn guard() -> Value {
    json!({
        "apiVersion": "mandate.dev/v1alpha1", "kind": "ClusterAgentPolicy", "metadata": {"name": "guard"},
        "spec": {"owner": {"team": "security", "contact": "s@example.com"}, "rules": [
            {"name": "no-large-posting", "deny": "nobody posts so much without a person",
             "match": {"tools": ["ledger/post"], "arguments": {"amount": {"min": 5000}}}},
            {"name": "no-export-after-outside-text", "deny": "what strangers wrote may have asked for it",
             "match": {"effects": ["export"]}, "when": {"history": {"untrustedContent": true}}},
            {"name": "nothing-leaves-after-confidential-data", "deny": "this task has read confidential data",
             "match": {"effects": ["write", "export"], "crossDomain": true}, "when": {"history": {"readAtLeast": "confidential"}}},
        ]}
    })
}

/// What a namespace has beside policies.
pub fn standing(namespace: &str) -> [Value; 4] {
    let object = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "mandate.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec});
    let owner = json!({"team": "finance", "contact": "f@example.com"});
    [
        object(
            "ToolServer",
            "ledger",
            json!({"owner": owner, "tools": [
                {"name": "search", "effect": "read", "classification": "internal"},
                {"name": "read", "effect": "read", "classification": "internal", "arguments": {"account": {"type": "string", "required": true}}},
                {"name": "post", "effect": "write", "classification": "internal",
                 "arguments": {"account": {"type": "string", "required": true}, "amount": {"type": "decimal", "required": true}, "text": {"type": "string"}}},
                {"name": "export", "effect": "export", "classification": "confidential", "arguments": {"rows": {"type": "integer"}}},
            ]}),
        ),
        object(
            "TaskScope",
            "reconcile",
            json!({"intent": "Match invoices with the ledger", "tools": [
                {"server": "ledger", "names": ["search", "read"]},
                {"server": "ledger", "names": ["post"], "arguments": {"amount": {"max": 10000}}},
            ]}),
        ),
        object("AgentIdentity", "bot", json!({"owner": owner, "purpose": "Reconciles invoices with the ledger"})),
        object(
            "AgentTask",
            "task-0",
            json!({"agent": "bot", "scope": "reconcile", "objective": "Reconcile the invoices of October", "ttl": "24h"}),
        ),
    ]
}

/// How many namespaces so many policies stand in.
pub fn namespaces(others: Others, policies: usize) -> usize {
    if others == Others::Spread { policies.div_ceil(POLICIES_A_NAMESPACE).max(1) } else { 1 }
}

/// Everything, as manifests would hold it.
pub fn objects(others: Others, policies: usize) -> Vec<Value> {
    let namespaces = (0..namespaces(others, policies)).flat_map(|n| standing(&namespace(n)));
    namespaces.chain([guard()]).chain((0..policies).map(|n| policy(others, n, 0))).collect()
}

/// Everything, as the compiler takes it.
pub fn sources(others: Others, policies: usize) -> Sources {
    let mut sources = Sources::default();
    objects(others, policies).into_iter().for_each(|object| put(&mut sources, object));
    sources
}

/// Takes an object in, in the place of the one that had its name.
pub fn put(sources: &mut Sources, object: Value) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let spec = object["spec"].clone();
    let version = version(&spec);
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    match object["kind"].as_str() {
        Some("ClusterAgentPolicy") => _ = sources.cluster_policies.insert(name, written(version, read(spec))),
        Some("AgentPolicy") => {
            let spec: AgentPolicySpec = read(spec);
            sources.namespaces.entry(namespace).or_default().policies.insert(name, written(version, spec));
        }
        Some("TaskScope") => {
            let spec: TaskScopeSpec = read(spec);
            sources.namespaces.entry(namespace).or_default().scopes.insert(name, written(version, spec));
        }
        Some("ToolServer") => {
            let server = ServerSource { spec: read(spec), stopped: vec![] };
            sources.namespaces.entry(namespace).or_default().servers.insert(name, written(version, server));
        }
        _ => {}
    }
}

/// What tells a version from every other, as it looks in a cluster: a UID, and a generation.
fn version(spec: &Value) -> Arc<str> {
    let digest = spec.as_object().map(digest).unwrap_or_default();
    let digits = digest.trim_start_matches("sha256:");
    format!("{}-{}-{}-{}-{}/1", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..32]).into()
}

fn written<T>(version: Arc<str>, spec: T) -> Written<T> {
    Written { version, spec: Arc::new(Loaded::Readable(spec)) }
}

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object of the bench")
}

/// A live task of a namespace.
pub fn subject(namespace: &str, name: &str) -> Subject {
    Subject {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        key: format!("{namespace}/{name}"),
        uid: format!("uid-of-{name}"),
        agent: "bot".to_owned(),
        agent_key: format!("{namespace}/bot"),
        scope: "reconcile".to_owned(),
        objective: "Reconcile the invoices of October".to_owned(),
        phase: Phase::Active,
        deadline: Timestamp::now() + SignedDuration::from_hours(24),
        standing: Standing::Good,
        versions: [version(&json!({"task": name})), version(&json!({"agent": "bot"}))],
        ..Subject::default()
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A light read without arguments.
    Search,
    /// A light read with an argument.
    Read,
    /// A write with arguments that scope and rules bound.
    Post,
    /// The same, of more than a rule lets pass.
    TooMuch,
}

impl Ask {
    pub const ALL: [Self; 4] = [Self::Search, Self::Read, Self::Post, Self::TooMuch];

    pub fn words(self) -> &'static str {
        match self {
            Self::Search => "a read without arguments, permitted",
            Self::Read => "a read with an argument, permitted",
            Self::Post => "a write with arguments, permitted",
            Self::TooMuch => "a write with arguments, denied",
        }
    }

    pub fn tool(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Read => "read",
            Self::Post | Self::TooMuch => "post",
        }
    }

    pub fn is_permitted(self) -> bool {
        self != Self::TooMuch
    }

    pub fn arguments(self, n: usize) -> Value {
        let account = format!("account-{n:04}");
        match self {
            Self::Search => json!({}),
            Self::Read => json!({"account": account}),
            Self::Post => json!({"account": account, "amount": 10 + n % 90, "text": "Invoice of October, paid"}),
            Self::TooMuch => json!({"account": account, "amount": 6000 + n, "text": "Invoice of October, paid"}),
        }
    }

    /// The body of an AuthZEN request.
    pub fn body(self, namespace: &str, token: &str, n: usize) -> Value {
        json!({
            "subject": {"type": "agent", "id": format!("{namespace}/task-0"), "properties": {"token": token}},
            "action": {"name": "call", "properties": self.arguments(n)},
            "resource": {"type": "tool", "id": format!("{namespace}/ledger/{}", self.tool())},
            "context": {"intent": "match invoice with posting"}
        })
    }

    /// The body of a request with several evaluations of one task.
    pub fn batch(self, namespace: &str, token: &str, n: usize, many: usize) -> Value {
        let mut body = self.body(namespace, token, n);
        let of = |n: usize| {
            let one = self.body(namespace, token, n);
            json!({"action": one["action"], "resource": one["resource"]})
        };
        let evaluations: Vec<Value> = (0..many).map(|other| of(n + other)).collect();
        body["evaluations"] = evaluations.into();
        body
    }
}
