//! What manifests say for run-time decisions, without a cluster: policies, scopes, tool servers
//! and agents, and tasks that are live from the start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::manifest::node::Position;
use super::manifest::{Document, Manifests, Problem};
use crate::api::{AgentIdentity, AgentPolicy, AgentTask, ClusterAgentPolicy, GROUP, Link, Phase, TaskScope, ToolServer, crds};
use crate::authorizer::digest;
use crate::decide::authorize::snapshot::{ServerSource, Sheet, Sources, Written};
use crate::decide::authorize::{Standing, Subject};
use crate::decide::delegate;
use crate::decide::world::Loaded;

/// What the manifests hold.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What decisions are compiled from.
    pub sources: Sources,
    /// The tasks, in the order of their keys.
    pub subjects: Vec<Subject>,
    /// What could not be read, or not whole.
    pub problems: Vec<Problem>,
    /// Where each object was found.
    pub places: Places,
    /// Whether what stood in a manifest is not known: the file, or a document in it, cannot be
    /// read at all.
    pub is_partial: bool,
    /// Objects that stand there more than once, and what is said of them.
    twice: BTreeMap<(String, String), String>,
}

/// Tasks by `namespace/name`, each with its version.
type Tasks = BTreeMap<String, (AgentTask, Arc<str>)>;

/// What stands above a task, the root first.
struct AboveIt {
    line: Vec<Link>,
    /// The scope of each.
    scopes: Vec<String>,
    /// Whom the task acts for, by itself or by one above it.
    person: Option<String>,
}

/// The files of objects, by kind and `namespace/name`.
pub(super) type Places = BTreeMap<(String, String), Arc<str>>;

impl Known {
    /// Reads files and directories. Tasks without a time of creation are created at `begin`.
    pub fn read(paths: &[PathBuf], namespace: &str, begin: Timestamp) -> Self {
        let manifests = Manifests::read(paths);
        let is_partial = !manifests.problems.is_empty();
        let mut known = Self { problems: manifests.problems, is_partial, ..Self::default() };
        let mut identities: BTreeMap<String, (AgentIdentity, Arc<str>)> = BTreeMap::new();
        let mut tasks: Tasks = BTreeMap::new();
        for document in &manifests.objects {
            if document.group() != GROUP {
                continue;
            }
            let place = document.namespace().unwrap_or(namespace).to_owned();
            let name = document.name().to_owned();
            let value: Value = document.root.value().into();
            let version: Arc<str> = value.as_object().map(digest).unwrap_or_default().into();
            if !known.takes(document, &place, &name) {
                continue;
            }
            match document.kind() {
                "ToolServer" => {
                    let spec = known
                        .spec::<ToolServer, _>(document, value, |server| ServerSource { spec: server.spec, stopped: vec![] });
                    known.sheet(&place).servers.insert(name, Written { version, spec });
                }
                "TaskScope" => {
                    let spec = known.spec::<TaskScope, _>(document, value, |scope| scope.spec);
                    known.sheet(&place).scopes.insert(name, Written { version, spec });
                }
                "AgentPolicy" => {
                    let spec = known.spec::<AgentPolicy, _>(document, value, |policy| policy.spec);
                    known.sheet(&place).policies.insert(name, Written { version, spec });
                }
                "ClusterAgentPolicy" => {
                    let spec = known.spec::<ClusterAgentPolicy, _>(document, value, |policy| policy.spec);
                    known.sources.cluster_policies.insert(name, Written { version, spec });
                }
                "AgentIdentity" => {
                    if let Loaded::Readable(identity) = &*known.spec::<AgentIdentity, _>(document, value, |identity| identity) {
                        identities.insert(format!("{place}/{name}"), (identity.clone(), version));
                    }
                }
                "AgentTask" => {
                    if let Loaded::Readable(task) = &*known.spec::<AgentTask, _>(document, value, |task| task) {
                        tasks.insert(format!("{place}/{name}"), (task.clone(), version));
                    }
                }
                // Another kind of Mandate's, of which decisions know nothing.
                _ => {}
            }
        }
        for ((kind, key), why) in std::mem::take(&mut known.twice) {
            known.put_broken(&kind, &key, why);
            match kind.as_str() {
                "AgentIdentity" => _ = identities.remove(&key),
                "AgentTask" => _ = tasks.remove(&key),
                _ => {}
            }
        }
        let subjects = tasks.iter().map(|(key, (task, version))| subject(key, task, version, &identities, begin));
        known.subjects = subjects.map(|subject| known.below(subject, &tasks)).collect();
        known
    }

    /// A task with those above it. What a controller would check before it issues anything is
    /// checked here: there is none.
    fn below(&self, mut subject: Subject, tasks: &Tasks) -> Subject {
        match tasks.get(&subject.key).map(|(task, _)| self.above(&subject.namespace, &subject.name, task, tasks, 0)) {
            Some(Ok(above)) => subject.above = above.line,
            Some(Err(why)) => subject.unsound = Some(why.into()),
            None => {}
        }
        subject
    }

    fn above(&self, namespace: &str, name: &str, task: &AgentTask, tasks: &Tasks, below: usize) -> Result<AboveIt, String> {
        let own = task.spec.on_behalf_of.as_ref().map(|person| person.user.clone());
        let Some(parent) = &task.spec.parent else { return Ok(AboveIt { line: vec![], scopes: vec![], person: own }) };
        if below > delegate::DEEPEST {
            return Err(format!("more than {} tasks stand above one another, or one above itself", delegate::DEEPEST));
        }
        let Some((above, _)) = tasks.get(&format!("{namespace}/{parent}")) else {
            return Err(format!("there is no AgentTask `{parent}` to be the parent of `{name}`"));
        };
        let AboveIt { mut line, mut scopes, person } = self.above(namespace, parent, above, tasks, below + 1)?;
        line.push(Link { task: parent.clone(), uid: above.uid().unwrap_or_default(), agent: above.spec.agent.clone() });
        scopes.push(above.spec.scope.clone());
        for (index, scope) in scopes.iter().rev().enumerate() {
            let written = self.sources.namespaces.get(namespace).and_then(|sheet| sheet.scopes.get(scope));
            let spec = match written.map(|written| &*written.spec) {
                Some(Loaded::Readable(spec)) => Some(spec),
                _ => None,
            };
            delegate::delegates(spec, scope, &task.spec.agent, index + 1).map_err(|hold| format!("task `{name}`: {hold}"))?;
        }
        if own.is_some() && own != person {
            return Err(format!("task `{name}` acts for another person than its parent `{parent}`"));
        }
        Ok(AboveIt { line, scopes, person })
    }

    fn sheet(&mut self, namespace: &str) -> &mut Sheet {
        self.sources.namespaces.entry(namespace.to_owned()).or_default()
    }

    /// Whether an object can be taken in under its kind and name.
    fn takes(&mut self, document: &Document, place: &str, name: &str) -> bool {
        let kind = document.kind();
        if !schemas().contains_key(kind) {
            self.is_partial = true;
            self.say(document, format!("Mandate has no kind `{kind}`"));
            return false;
        }
        let is_name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
        };
        if !is_name(name) || !is_name(place) {
            self.is_partial = true;
            self.say(document, format!("{kind} `{name}` has no name that Kubernetes would take, or no such namespace"));
            return false;
        }
        let key = (kind.to_owned(), format!("{place}/{name}"));
        if let Some(file) = self.places.insert(key.clone(), document.file.clone()) {
            self.is_partial = true;
            let why = format!("{kind} `{name}` stands in `{file}` already: which of them counts, nobody can tell");
            self.say(document, why.clone());
            self.twice.insert(key, why);
            return false;
        }
        true
    }

    /// The part of an object that decisions look at. What cannot be read to its last field takes
    /// its place: nobody can tell what the field was meant to hold back.
    fn spec<K: DeserializeOwned, T>(&mut self, document: &Document, value: Value, of: impl FnOnce(K) -> T) -> Arc<Loaded<T>> {
        let mut strange = vec![];
        if let Some(schema) = schemas().get(document.kind()) {
            unknown(schema, &value, String::new(), &mut strange);
        }
        if !strange.is_empty() {
            let why = format!("it has no field `{}`", strange.join("`, `"));
            for path in strange {
                let at = document.root.locate(&path);
                self.say_at(document, at, format!("{} `{}` has no field `{path}`", document.kind(), document.name()));
            }
            return Arc::new(Loaded::Broken(why));
        }
        Arc::new(match serde_json::from_value(value) {
            Ok(object) => Loaded::Readable(of(object)),
            Err(error) => {
                self.say(document, format!("{} `{}` cannot be read: {error}", document.kind(), document.name()));
                Loaded::Broken(error.to_string())
            }
        })
    }

    /// Puts what cannot be read in the place of objects that were there before, in files that now
    /// cannot be read whole: their old version must not stand, and not be forgotten either.
    pub fn keep_broken(&mut self, before: &Places) {
        let unread: Vec<Arc<str>> = self.problems.iter().map(|problem| problem.file.clone()).collect();
        for ((kind, key), file) in before {
            if !unread.contains(file) || self.places.contains_key(&(kind.clone(), key.clone())) {
                continue;
            }
            let why = format!("`{file}` can no longer be read whole");
            if self.put_broken(kind, key, why) {
                self.places.insert((kind.clone(), key.clone()), file.clone());
            }
        }
    }

    /// Puts something that cannot be used in the place of an object. False where the kind has no
    /// such place: a task or an agent that cannot be read is none.
    fn put_broken(&mut self, kind: &str, key: &str, why: String) -> bool {
        let version: Arc<str> = why.as_str().into();
        let (place, name) = key.split_once('/').unwrap_or(("", key));
        let name = name.to_owned();
        match kind {
            "ToolServer" => {
                let spec = Arc::new(Loaded::Broken(why));
                self.sheet(place).servers.insert(name, Written { version, spec });
            }
            "TaskScope" => {
                let spec = Arc::new(Loaded::Broken(why));
                self.sheet(place).scopes.insert(name, Written { version, spec });
            }
            "AgentPolicy" => {
                let spec = Arc::new(Loaded::Broken(why));
                self.sheet(place).policies.insert(name, Written { version, spec });
            }
            "ClusterAgentPolicy" => {
                let spec = Arc::new(Loaded::Broken(why));
                self.sources.cluster_policies.insert(name, Written { version, spec });
            }
            _ => return false,
        }
        true
    }

    fn say(&mut self, document: &Document, message: String) {
        self.say_at(document, document.root.at, message);
    }

    fn say_at(&mut self, document: &Document, at: Position, message: String) {
        self.problems.push(Problem {
            file: document.file.clone(),
            at: Some(at),
            message,
            help: "correct the field; `kubectl explain` tells what the kind has".to_owned(),
        });
    }
}

/// The schema of each kind.
fn schemas() -> &'static BTreeMap<String, Value> {
    static SCHEMAS: std::sync::LazyLock<BTreeMap<String, Value>> = std::sync::LazyLock::new(|| {
        let schema = |crd: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition| {
            let schema = serde_json::to_value(&crd.spec.versions.first()?.schema).ok()?;
            Some((crd.spec.names.kind.clone(), schema.get("openAPIV3Schema")?.clone()))
        };
        crds().iter().filter_map(schema).collect()
    });
    &SCHEMAS
}

fn unknown(schema: &Value, value: &Value, path: String, found: &mut Vec<String>) {
    match (value, &schema["properties"], &schema["additionalProperties"]) {
        (Value::Object(members), Value::Object(properties), _) => {
            for (name, member) in members {
                let here = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match properties.get(name) {
                    Some(schema) => unknown(schema, member, here, found),
                    None if path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) => {}
                    None => found.push(here),
                }
            }
        }
        (Value::Object(members), _, of @ Value::Object(_)) => {
            for (name, member) in members {
                unknown(of, member, format!("{path}.{name}"), found);
            }
        }
        (Value::Array(items), ..) => {
            for (index, item) in items.iter().enumerate() {
                unknown(&schema["items"], item, format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

/// A task of a manifest: live unless it is ended, from its creation or else from `begin` on.
fn subject(
    key: &str,
    task: &AgentTask,
    version: &Arc<str>,
    identities: &BTreeMap<String, (AgentIdentity, Arc<str>)>,
    begin: Timestamp,
) -> Subject {
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    let agent_key = format!("{namespace}/{}", task.spec.agent);
    let identity = identities.get(&agent_key);
    let created = task.metadata.creation_timestamp.as_ref().map_or(begin, |time| time.0);
    let standing = match identity {
        None => Standing::Gone,
        Some((identity, _)) if identity.spec.suspend => Standing::Suspended,
        Some(_) => Standing::Good,
    };
    let own = Subject::of(task, namespace, name);
    Subject {
        phase: Phase::Active,
        deadline: created.checked_add(SignedDuration::from(task.spec.ttl)).unwrap_or(Timestamp::MAX),
        standing,
        versions: [version.clone(), identity.map(|(_, version)| version.clone()).unwrap_or_default()],
        uid: task.uid().unwrap_or_default(),
        agent_key,
        ..own
    }
}
