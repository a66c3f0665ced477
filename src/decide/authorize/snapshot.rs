//! Everything that decisions are made by, compiled, and immutable.
//!
//! One shard a namespace. What cannot be read or compiled is kept as such: it denies those it
//! would have held, and never leaves its old version standing.

use std::collections::BTreeMap;
use std::sync::Arc;

use cedar_policy::EntityUid;
use jiff::SignedDuration;

use super::cedar::Kind;
use super::compile::{self, CompiledRule, CompiledScope, Index, Place, Problem, Slice};
use super::{Action, Code, No, STALE_AFTER, no};
use crate::api::{
    AgentPolicySpec, Argument, Classification, ClusterAgentPolicySpec, Effect, Guardrails, ResourceClass, TaskScopeSpec,
    ToolServerSpec,
};
use crate::decide::world::Loaded;

/// By this name rules speak of the API server: `kubernetes/delete`. No ToolServer has it.
pub const KUBERNETES: &str = "kubernetes";

/// An object as it was written, and which version of it.
#[derive(Clone, Debug)]
pub struct Written<T> {
    /// What tells this version from every other: the UID and the generation, or a digest.
    pub version: Arc<str>,
    /// The object.
    pub spec: Arc<Loaded<T>>,
}

/// What decisions are compiled from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// By namespace.
    pub namespaces: BTreeMap<String, Sheet>,
    /// ClusterAgentPolicies by name.
    pub cluster_policies: BTreeMap<String, Written<ClusterAgentPolicySpec>>,
}

/// What stands in one namespace.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    /// ToolServers by name.
    pub servers: BTreeMap<String, Written<ServerSource>>,
    /// TaskScopes by name.
    pub scopes: BTreeMap<String, Written<TaskScopeSpec>>,
    /// AgentPolicies by name.
    pub policies: BTreeMap<String, Written<AgentPolicySpec>>,
}

/// A ToolServer, and which of its tools are not what was reviewed.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSource {
    /// As it was written.
    pub spec: ToolServerSpec,
    /// Tools that are not called for now.
    pub stopped: Vec<Stopped>,
}

/// A tool that is not called for now, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Its name.
    pub tool: String,
    /// Why.
    pub why: Why,
}

/// Why a tool is not called for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its server describes it otherwise than its pin says.
    Changed,
    /// Its server does not list it.
    Missing,
    /// Its pin was not yet compared with what the server says.
    NotLookedAt,
    /// What was last compared is too old, and the server does not answer.
    NotReachable,
}

/// Compiles, and keeps what did not change.
#[derive(Debug, Default)]
pub struct Compiler {
    policies: BTreeMap<String, Kept<Vec<Arc<CompiledRule>>>>,
    scopes: BTreeMap<String, Kept<Arc<Scope>>>,
    /// By namespace, each with what it was made of.
    rules: BTreeMap<String, (Vec<Arc<CompiledRule>>, Arc<Rules>)>,
}

#[derive(Debug)]
struct Kept<T> {
    version: Arc<str>,
    made: Result<T, Vec<Problem>>,
}

/// What decisions are made by.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// How old what is known may be.
    pub stale_after: SignedDuration,
    shards: BTreeMap<String, Arc<Shard>>,
    everywhere: Arc<Rules>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { stale_after: STALE_AFTER, shards: BTreeMap::new(), everywhere: Arc::default() }
    }
}

/// One namespace.
#[derive(Debug, Default)]
pub struct Shard {
    servers: BTreeMap<String, Result<Arc<Server>, String>>,
    scopes: BTreeMap<String, Result<Arc<Scope>, String>>,
    rules: Arc<Rules>,
}

/// The rules of some policies.
#[derive(Debug, Default)]
struct Rules {
    index: Index,
    /// Policies that cannot be used, and why.
    broken: Vec<(String, String)>,
}

/// A scope, ready to be asked.
#[derive(Debug)]
pub struct Scope {
    /// Its tools and limits.
    pub compiled: CompiledScope,
    /// Version of the object.
    pub version: Arc<str>,
}

/// A system that agents call.
#[derive(Debug)]
pub struct Server {
    /// `namespace/name`.
    pub key: Arc<str>,
    /// Name.
    pub name: String,
    /// Version of the object.
    pub version: Arc<str>,
    /// Type of its resources in AuthZEN requests.
    pub resource_type: String,
    /// The audience that tokens for it carry.
    pub audience: Option<String>,
    /// The same as a Cedar entity.
    pub uid: EntityUid,
    tools: BTreeMap<String, Arc<ToolFacts>>,
    stopped: Vec<Stopped>,
    usable_from: Vec<String>,
    resources: Vec<ResourceClass>,
    /// Whether it is the API server itself, of which RBAC and not a scope says what is granted.
    pub(super) is_kubernetes: bool,
}

/// A request to the Kubernetes API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KubernetesRequest<'a> {
    /// Namespace of the object; empty where it has none.
    pub namespace: &'a str,
    /// Plural resource.
    pub resource: &'a str,
    /// Subresource; empty where it is the object itself.
    pub subresource: &'a str,
}

impl KubernetesRequest<'_> {
    fn effect(&self, verb: &str) -> Effect {
        let into = ["exec", "attach", "portforward", "proxy", "token", "ephemeralcontainers", "approval"];
        match verb {
            _ if into.contains(&self.subresource) => Effect::Admin,
            "get" | "list" | "watch" => Effect::Read,
            "create" | "update" | "patch" | "delete" | "deletecollection" => Effect::Write,
            _ => Effect::Admin,
        }
    }

    fn classification(&self) -> Classification {
        if self.resource == "secrets" { Classification::Confidential } else { Classification::Internal }
    }

    fn domain(&self) -> &str {
        if self.namespace.is_empty() { "cluster" } else { self.namespace }
    }
}

/// A tool.
#[derive(Debug)]
pub struct ToolFacts {
    /// `namespace/server/tool`.
    pub key: Arc<str>,
    /// Name.
    pub name: String,
    /// What it does.
    pub effect: Effect,
    /// The data it touches.
    pub classification: Classification,
    /// Where its data goes.
    pub domain: Arc<str>,
    /// Whether people outside wrote what it returns.
    pub untrusted: bool,
    /// Its arguments, where they are declared.
    pub arguments: Option<BTreeMap<String, Argument>>,
    /// The argument that names the resource.
    pub resource: Option<String>,
    /// The same as a Cedar entity.
    pub uid: EntityUid,
}

/// Something wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The object: `AgentPolicy finance/agents`.
    pub object: String,
    /// What is wrong.
    pub problem: Problem,
}

impl Compiler {
    /// Everything that decisions are made by, and everything that is wrong with it.
    pub fn compile(&mut self, sources: &Sources) -> (Snapshot, Vec<Trouble>) {
        let mut trouble = vec![];
        let mut local: BTreeMap<String, Vec<Arc<CompiledRule>>> = BTreeMap::new();
        let mut broken: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        let (mut all, mut all_broken) = (vec![], vec![]);
        let Self { policies: mut old_policies, scopes: mut old_scopes, rules: mut old_rules } = std::mem::take(self);
        for (name, written) in &sources.cluster_policies {
            let object = format!("ClusterAgentPolicy {name}");
            let namespaces = match &*written.spec {
                Loaded::Readable(spec) => spec.namespaces.clone(),
                Loaded::Broken(_) => vec![],
            };
            let spec = loaded(&written.spec, |spec| &spec.guardrails);
            let kept = self.policy(&mut old_policies, object.clone(), Place::Cluster, name, &written.version, spec);
            match &kept.made {
                Ok(rules) if namespaces.is_empty() => all.extend(rules.iter().cloned()),
                Ok(rules) => namespaces
                    .iter()
                    .for_each(|namespace| local.entry(namespace.clone()).or_default().extend(rules.iter().cloned())),
                Err(problems) => {
                    let why = report(&mut trouble, &object, problems);
                    if namespaces.is_empty() {
                        all_broken.push((object, why));
                    } else {
                        namespaces.iter().for_each(|namespace| {
                            broken.entry(namespace.clone()).or_default().push((object.clone(), why.clone()));
                        });
                    }
                }
            }
        }
        let mut shards: BTreeMap<String, Shard> = BTreeMap::new();
        for (namespace, sheet) in &sources.namespaces {
            let shard = shards.entry(namespace.clone()).or_default();
            for (name, written) in &sheet.servers {
                let made = match &*written.spec {
                    Loaded::Readable(source) => {
                        unambiguous(&source.spec).map(|()| Arc::new(Server::of(namespace, name, &written.version, source)))
                    }
                    Loaded::Broken(why) => Err(why.clone()),
                };
                if let Err(why) = &made {
                    trouble.push(Trouble { object: format!("ToolServer {namespace}/{name}"), problem: whole(why) });
                }
                shard.servers.insert(name.clone(), made);
            }
            for (name, written) in &sheet.scopes {
                let object = format!("TaskScope {namespace}/{name}");
                let kept = self.scope(&mut old_scopes, namespace, name, written);
                let made = kept.made.as_ref().map(Arc::clone).map_err(|problems| report(&mut trouble, &object, problems));
                shard.scopes.insert(name.clone(), made);
            }
            for (name, written) in &sheet.policies {
                let object = format!("AgentPolicy {namespace}/{name}");
                let spec = loaded(&written.spec, |spec| &spec.guardrails);
                let kept = self.policy(&mut old_policies, object.clone(), Place::In(namespace), name, &written.version, spec);
                match &kept.made {
                    Ok(rules) => local.entry(namespace.clone()).or_default().extend(rules.iter().cloned()),
                    Err(problems) => {
                        let why = report(&mut trouble, &object, problems);
                        broken.entry(namespace.clone()).or_default().push((object, why));
                    }
                }
            }
        }
        for namespace in local.keys().chain(broken.keys()) {
            shards.entry(namespace.clone()).or_default();
        }
        for (namespace, shard) in &mut shards {
            let (of_it, broken) = (local.remove(namespace).unwrap_or_default(), broken.remove(namespace).unwrap_or_default());
            shard.rules = self.indexed(old_rules.remove(namespace), namespace, of_it, broken);
        }
        let shards = shards.into_iter().map(|(namespace, shard)| (namespace, Arc::new(shard))).collect();
        let snapshot = Snapshot { stale_after: STALE_AFTER, shards, everywhere: Arc::new(Rules::of(all.iter(), all_broken)) };
        trouble.extend(snapshot.unmet(sources));
        (snapshot, trouble)
    }

    /// The rules of a namespace in their index, the old one where it holds the very same.
    fn indexed(
        &mut self,
        old: Option<(Vec<Arc<CompiledRule>>, Arc<Rules>)>,
        namespace: &str,
        rules: Vec<Arc<CompiledRule>>,
        broken: Vec<(String, String)>,
    ) -> Arc<Rules> {
        let same = |before: &[Arc<CompiledRule>]| {
            before.len() == rules.len() && before.iter().zip(&rules).all(|(before, now)| Arc::ptr_eq(before, now))
        };
        let made = match old {
            Some((before, made)) if made.broken == broken && same(&before) => made,
            _ => Arc::new(Rules::of(rules.iter(), broken)),
        };
        self.rules.insert(namespace.to_owned(), (rules, made.clone()));
        made
    }

    fn policy(
        &mut self,
        old: &mut BTreeMap<String, Kept<Vec<Arc<CompiledRule>>>>,
        object: String,
        place: Place,
        name: &str,
        version: &Arc<str>,
        spec: Result<&Guardrails, &String>,
    ) -> &Kept<Vec<Arc<CompiledRule>>> {
        let kept = match old.remove(&object) {
            Some(kept) if kept.version == *version => kept,
            _ => Kept {
                version: version.clone(),
                made: spec.map_err(|why| vec![whole(why)]).and_then(|guardrails| compile::policy(place, name, guardrails)),
            },
        };
        // It was taken out of the old ones, so that nothing stands here yet.
        self.policies.entry(object).or_insert(kept)
    }

    fn scope(
        &mut self,
        old: &mut BTreeMap<String, Kept<Arc<Scope>>>,
        namespace: &str,
        name: &str,
        written: &Written<TaskScopeSpec>,
    ) -> &Kept<Arc<Scope>> {
        let key = format!("{namespace}/{name}");
        let version = &written.version;
        let kept = match old.remove(&key) {
            Some(kept) if kept.version == *version => kept,
            _ => Kept {
                version: version.clone(),
                made: loaded(&written.spec, |spec| spec)
                    .map_err(|why| vec![whole(why)])
                    .and_then(|spec| compile::scope(namespace, name, spec))
                    .map(|compiled| Arc::new(Scope { compiled, version: version.clone() })),
            },
        };
        self.scopes.entry(key).or_insert(kept)
    }
}

fn loaded<T, U>(spec: &Loaded<T>, of: impl Fn(&T) -> &U) -> Result<&U, &String> {
    match spec {
        Loaded::Readable(spec) => Ok(of(spec)),
        Loaded::Broken(why) => Err(why),
    }
}

/// What an API server would not have let in, and what leaves it open how an action is judged.
fn unambiguous(spec: &ToolServerSpec) -> Result<(), String> {
    for (index, tool) in spec.tools.iter().enumerate() {
        let name = &tool.name;
        if spec.tools[..index].iter().any(|other| other.name == *name) {
            return Err(format!("spec.tools[{index}].name: another tool is called `{name}` too"));
        }
        let declared = |argument: &String| tool.arguments.as_ref().is_some_and(|arguments| arguments.contains_key(argument));
        if let Some(argument) = tool.resource.as_ref().filter(|argument| !declared(argument)) {
            return Err(format!("spec.tools[{index}].resource: `{argument}` is no argument that `{name}` declares"));
        }
    }
    Ok(())
}

fn whole(why: &str) -> Problem {
    Problem { at: String::new(), message: why.to_owned() }
}

fn report(trouble: &mut Vec<Trouble>, object: &str, problems: &[Problem]) -> String {
    trouble.extend(problems.iter().map(|problem| Trouble { object: object.to_owned(), problem: problem.clone() }));
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.at.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.at, self.message) }
    }
}

impl Rules {
    fn of<'a>(rules: impl Iterator<Item = &'a Arc<CompiledRule>>, mut broken: Vec<(String, String)>) -> Self {
        let index = Index::build(rules).unwrap_or_else(|why| {
            broken.push(("policies".to_owned(), why));
            Index::default()
        });
        Self { index, broken }
    }

    fn readable(&self) -> Result<(), Box<No>> {
        match self.broken.first() {
            None => Ok(()),
            Some((policy, why)) => Err(no(
                Code::Unreadable,
                Some(policy.as_str().into()),
                format!("{policy} cannot be used, and what it would forbid is not known: {why}"),
                "its owner must correct it; nothing it could hold is permitted until then",
            )),
        }
    }
}

static NOWHERE: std::sync::LazyLock<Shard> = std::sync::LazyLock::new(Shard::default);

impl Snapshot {
    pub(super) fn shard(&self, namespace: &str) -> &Shard {
        self.shards.get(namespace).map_or(&NOWHERE, |shard| shard)
    }

    /// Every slice of rules that an action meets.
    pub(super) fn rules<'a>(
        &'a self,
        shard: &'a Shard,
        tool: &'a str,
        agent: &'a str,
        effect: Effect,
    ) -> impl Iterator<Item = &'a Slice> {
        shard.rules.index.slices(tool, agent, effect).chain(self.everywhere.index.slices(tool, agent, effect))
    }

    pub(super) fn readable(&self, shard: &Shard) -> Result<(), Box<No>> {
        self.everywhere.readable()?;
        shard.rules.readable()
    }

    /// The server that a namespace calls by a name: its own, or `namespace/name` of one that it
    /// may use.
    #[must_use]
    pub fn server(&self, from: &str, name: &str) -> Option<&Arc<Server>> {
        let (namespace, name) = name.split_once('/').unwrap_or((from, name));
        self.shard(namespace).servers.get(name)?.as_ref().ok()
    }

    /// Every server that a namespace may use, its own first.
    pub fn servers<'a>(&'a self, from: &'a str) -> impl Iterator<Item = &'a Arc<Server>> {
        let own = self.shard(from).servers.values();
        let others =
            self.shards.iter().filter(move |(namespace, _)| *namespace != from).flat_map(|(_, shard)| shard.servers.values());
        own.chain(others).filter_map(|server| server.as_ref().ok()).filter(move |server| server.usable_from(from))
    }

    /// The server that a namespace calls by a name, where it may.
    pub(super) fn usable(&self, from: &str, called: &str) -> Result<&Arc<Server>, Box<No>> {
        let (namespace, name) = called.split_once('/').unwrap_or((from, called));
        let unknown = |why: String| no(Code::UnknownServer, None, why, "a ToolServer must describe what agents call");
        let server = match self.shard(namespace).servers.get(name) {
            Some(Ok(server)) => server,
            Some(Err(why)) => {
                let message = format!("ToolServer `{namespace}/{name}` cannot be read: {why}");
                return Err(no(
                    Code::Unreadable,
                    Some(format!("ToolServer {namespace}/{name}").into()),
                    message,
                    "its owner must correct it",
                ));
            }
            None => return Err(unknown(format!("there is no ToolServer `{namespace}/{name}`"))),
        };
        if !server.usable_from(from) {
            let message = format!("ToolServer `{}` may not be used from namespace `{from}`", server.key);
            return Err(no(Code::ServerNotUsable, None, message, format!("its owner can add `{from}` to `usableFrom`")));
        }
        Ok(server)
    }

    /// The tool that an action calls.
    pub(super) fn tool(&self, from: &str, action: &Action) -> Result<(Arc<Server>, Arc<ToolFacts>), Box<No>> {
        if let Some(request) = &action.kubernetes {
            return Ok(Server::kubernetes(from, action.tool, request));
        }
        let server = self.usable(from, action.server)?;
        let Some(tool) = server.tools.get(action.tool) else {
            let known = server.tools.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let message = format!("ToolServer `{}` lists no tool of this name, letter for letter", server.key);
            return Err(no(Code::UnknownTool, None, message, format!("it lists: {known}")));
        };
        if let Some(stopped) = server.stopped.iter().find(|stopped| stopped.tool == tool.name) {
            return Err(stopped.no());
        }
        Ok((server.clone(), tool.clone()))
    }

    /// What scopes name that is not there, or that bounds what has no such type. Each such grant
    /// permits nothing, or not what its author meant.
    fn unmet(&self, sources: &Sources) -> Vec<Trouble> {
        let mut found = vec![];
        for (namespace, sheet) in &sources.namespaces {
            for (name, written) in &sheet.scopes {
                let Loaded::Readable(spec) = &*written.spec else { continue };
                let object = format!("TaskScope {namespace}/{name}");
                let problems = super::explain::unmet(self, namespace, &spec.tools);
                found.extend(problems.into_iter().map(|problem| Trouble { object: object.clone(), problem }));
            }
        }
        found
    }
}

impl Stopped {
    fn no(&self) -> Box<No> {
        let (code, why, help) = match self.why {
            Why::Changed => (
                Code::ToolChanged,
                "is no longer what was reviewed: its description or schema has changed",
                "its owner must review it and pin it anew",
            ),
            Why::Missing => (
                Code::ToolChanged,
                "is no longer what was reviewed: its server does not list it",
                "its owner must review what has become of it",
            ),
            Why::NotLookedAt => (
                Code::ToolNotVerified,
                "is not looked at yet: nothing has compared it with what was reviewed",
                "wait and try again: its server is being asked",
            ),
            Why::NotReachable => (
                Code::ToolNotVerified,
                "was not looked at for too long: its server does not say whether it is what was reviewed",
                "wait and try again, or have its owner look at the status of the ToolServer",
            ),
        };
        no(code, None, format!("tool `{}` {why}", self.tool), help)
    }
}

impl Shard {
    pub(super) fn scope(&self, name: &str) -> Result<&Arc<Scope>, Box<No>> {
        match self.scopes.get(name) {
            Some(Ok(scope)) => Ok(scope),
            Some(Err(why)) => {
                Err(no(Code::Unreadable, None, format!("TaskScope `{name}` cannot be used: {why}"), "its author must correct it"))
            }
            None => Err(no(Code::UnknownScope, None, format!("TaskScope `{name}` is gone"), "start a task with another scope")),
        }
    }
}

impl Server {
    fn of(namespace: &str, name: &str, version: &Arc<str>, source: &ServerSource) -> Self {
        let ServerSource { spec, stopped } = source;
        let ToolServerSpec { owner: _, audience, domain, usable_from, mcp: _, resource_type, tools, resources } = spec;
        let key: Arc<str> = format!("{namespace}/{name}").into();
        let home: Arc<str> = domain.as_deref().unwrap_or(namespace).into();
        let facts = tools.iter().map(|tool| {
            let key: Arc<str> = format!("{key}/{}", tool.name).into();
            let facts = ToolFacts {
                uid: Kind::Tool.uid(&key),
                key,
                name: tool.name.clone(),
                effect: tool.effect,
                classification: tool.classification,
                domain: tool.domain.as_deref().map_or_else(|| home.clone(), Into::into),
                untrusted: tool.untrusted,
                arguments: tool.arguments.clone(),
                resource: tool.resource.clone(),
            };
            (tool.name.clone(), Arc::new(facts))
        });
        Self {
            tools: facts.collect(),
            uid: Kind::Server.uid(&key),
            key,
            name: name.to_owned(),
            version: version.clone(),
            resource_type: resource_type.clone(),
            audience: audience.clone(),
            stopped: stopped.clone(),
            usable_from: usable_from.clone(),
            resources: resources.clone(),
            is_kubernetes: false,
        }
    }

    /// The API server as a server of a namespace, whose tools are the verbs.
    fn kubernetes(from: &str, verb: &str, request: &KubernetesRequest) -> (Arc<Self>, Arc<ToolFacts>) {
        let key: Arc<str> = format!("{from}/{KUBERNETES}").into();
        let tool: Arc<str> = format!("{key}/{verb}").into();
        let facts = ToolFacts {
            uid: Kind::Tool.uid(&tool),
            key: tool,
            name: verb.to_owned(),
            effect: request.effect(verb),
            classification: request.classification(),
            domain: request.domain().into(),
            untrusted: false,
            arguments: None,
            resource: None,
        };
        let server = Self {
            uid: Kind::Server.uid(&key),
            key,
            name: KUBERNETES.to_owned(),
            version: Arc::default(),
            resource_type: String::new(),
            audience: None,
            tools: BTreeMap::new(),
            stopped: vec![],
            usable_from: vec![],
            resources: vec![],
            is_kubernetes: true,
        };
        (Arc::new(server), Arc::new(facts))
    }

    /// Whether scopes of a namespace may name it.
    #[must_use]
    pub fn usable_from(&self, namespace: &str) -> bool {
        self.key.split_once('/').is_some_and(|(own, _)| own == namespace)
            || self.usable_from.iter().any(|usable| usable == namespace)
    }

    /// Its tools, in the order of their names.
    pub fn tools(&self) -> impl Iterator<Item = &Arc<ToolFacts>> {
        self.tools.values()
    }

    /// A tool by its exact name.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<&Arc<ToolFacts>> {
        self.tools.get(name)
    }

    /// Resources by their exact ids.
    pub fn known_resources(&self) -> impl Iterator<Item = &str> {
        self.resources.iter().flat_map(|class| &class.ids).filter_map(|id| id.exact())
    }

    /// How an action is classified: as the resource where the server names it, else as the tool.
    #[must_use]
    pub fn classification(&self, tool: &ToolFacts, resource: Option<&str>) -> Classification {
        let of = |id: &str| {
            let named = self.resources.iter().filter(|class| class.ids.iter().any(|pattern| pattern.matches(id)));
            named.map(|class| class.classification).max()
        };
        resource.and_then(of).unwrap_or(tool.classification)
    }
}

impl ToolFacts {
    /// Whether a task of a namespace means this tool by `server/tool` or `namespace/server/tool`.
    #[must_use]
    pub fn is(&self, from: &str, name: &str) -> bool {
        *self.key == *name || self.key.strip_prefix(from).and_then(|rest| rest.strip_prefix('/')) == Some(name)
    }
}
