//! What is known when manifests are judged: policies, agents, scopes, tasks, and what pods use
//! (ServiceAccounts, ConfigMaps, claims and their volumes), out of the manifests themselves, and
//! with `--cluster` out of the cluster they are meant for.
//!
//! What is written in a manifest counts before what the cluster holds: it is about to be
//! applied.

use kube::api::{ApiResource, DynamicObject};
use kube::core::{DeserializeGuard, GroupVersionKind};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use jiff::Timestamp;

use crate::api::{
    AgentIdentity, AgentPolicy, AgentTask, ClusterAgentPolicy, ClusterAgentPolicySpec, GROUP, Guardrails, Mode, Owner, Phase,
    PolicyWaiver, Profile, TaskScope, Workloads,
};
use crate::cli::manifest::{Document, Problem};
use crate::cluster::connect::{Target, connect};
use crate::decide::related;
use crate::decide::site::On;
use crate::decide::world::{Loaded, Task, World};

/// Most objects of one kind that are asked for at once.
const PAGE: u32 = 500;

/// What is known, and how well.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What `decide` looks at.
    pub world: World,
    /// Whether every task of the cluster is among it: only then is a task that is not there
    /// no task.
    pub has_all_tasks: bool,
    /// What could not be learned, in words.
    pub notes: Vec<String>,
}

impl Known {
    /// Takes in what the manifests hold.
    pub fn add(&mut self, documents: &[Document], namespace: &str) -> Vec<Problem> {
        let mut problems = vec![];
        for document in documents {
            self.world.guarded.insert(document.namespace().unwrap_or(namespace).to_owned());
            self.world.learn(&super::value(document, namespace));
            let world = &mut self.world;
            let taken = match (document.group(), document.kind()) {
                (GROUP, "ClusterAgentPolicy") => read(document).map(|policy: ClusterAgentPolicy| policy.put(world, namespace)),
                (GROUP, "AgentPolicy") => read(document).map(|policy: AgentPolicy| policy.put(world, namespace)),
                (GROUP, "PolicyWaiver") => read(document).map(|waiver: PolicyWaiver| waiver.put(world, namespace)),
                (GROUP, "AgentIdentity") => read(document).map(|identity: AgentIdentity| identity.put(world, namespace)),
                (GROUP, "TaskScope") => read(document).map(|scope: TaskScope| scope.put(world, namespace)),
                (GROUP, "AgentTask") => read(document).map(|task: AgentTask| task.put(world, namespace)),
                _ => Ok(()),
            };
            if let Err(error) = taken {
                problems.push(Problem {
                    file: document.file.clone(),
                    at: Some(document.root.at),
                    message: format!("{} `{}` cannot be read: {error}", document.kind(), document.name()),
                    help: "correct the field; `kubectl explain` tells what it takes".to_owned(),
                });
            }
        }
        problems
    }

    /// Takes in what the cluster holds. What it does not tell is noted.
    pub async fn add_cluster(&mut self, target: &Target) -> anyhow::Result<()> {
        let client = connect(target).await?;
        self.list::<ClusterAgentPolicy>(&client).await?;
        self.list::<AgentPolicy>(&client).await?;
        self.list::<PolicyWaiver>(&client).await?;
        self.list::<AgentIdentity>(&client).await?;
        self.list::<TaskScope>(&client).await?;
        for on in related::LEARNED {
            self.learn(&client, *on).await?;
        }
        self.has_all_tasks = self.list::<AgentTask>(&client).await?;
        Ok(())
    }

    /// Every object of a kind; whether all of them are known now.
    async fn list<K: Live>(&mut self, client: &Client) -> anyhow::Result<bool> {
        use anyhow::Context as _;
        let resource = [K::plural(&()), K::group(&())].join(".");
        let resource = resource.trim_end_matches('.');
        let api = Api::<DeserializeGuard<K>>::all(client.clone());
        let mut page = kube::api::ListParams::default().limit(PAGE);
        loop {
            let list = match api.list(&page).await {
                Ok(list) => list,
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    self.notes.push(format!("the cluster knows no {resource}; is Mandate installed there?"));
                    return Ok(false);
                }
                Err(kube::Error::Api(status)) if status.is_forbidden() => {
                    self.notes.push(format!("you may not list {resource}, so those of the cluster are not known"));
                    return Ok(false);
                }
                Err(error) => return Err(error).with_context(|| format!("listing {resource} of the cluster")),
            };
            page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            for guarded in list.items {
                let (namespace, name) = place(&guarded, "");
                match guarded.0 {
                    Ok(object) => object.put(&mut self.world, ""),
                    Err(error) => {
                        self.notes.push(format!("{} `{name}` of the cluster cannot be read: {}", K::kind(&()), error.error));
                        K::put_broken(&mut self.world, namespace, name, error.error);
                    }
                }
            }
            if page.continue_token.is_none() {
                return Ok(true);
            }
        }
    }

    /// What pods use of a kind. Kinds that the cluster does not have tell nothing.
    async fn learn(&mut self, client: &Client, on: On) -> anyhow::Result<()> {
        use anyhow::Context as _;
        let (group, version, plural, _) = on.resource();
        let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, on.kind()), plural);
        let api = Api::<DynamicObject>::all_with(client.clone(), &kind);
        let mut page = kube::api::ListParams::default().limit(PAGE);
        loop {
            let list = match api.list(&page).await {
                Ok(list) => list,
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(kube::Error::Api(status)) if status.is_forbidden() => {
                    self.notes.push(format!("you may not list {plural}, so those of the cluster are not known"));
                    return Ok(());
                }
                Err(error) => return Err(error).with_context(|| format!("listing {plural} of the cluster")),
            };
            for object in list.items {
                let mut object = serde_json::to_value(object).context("reading what was listed")?;
                object["apiVersion"] = kind.api_version.clone().into();
                object["kind"] = on.kind().into();
                self.world.learn(&(&object).into());
            }
            page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if page.continue_token.is_none() {
                return Ok(());
            }
        }
    }

    /// Has a profile hold everywhere.
    pub fn hold_to(&mut self, profile: Profile) {
        let guardrails = Guardrails {
            owner: Owner { team: "lint".into(), contact: "lint".into() },
            mode: Mode::Enforce,
            controls: vec![],
            workloads: Some(Workloads { profile, ..Workloads::BUILT_IN }),
            rules: vec![],
        };
        let policy = ClusterAgentPolicySpec { namespaces: vec![], guardrails, allow_secret_keys: vec![], waivers: None };
        self.world.cluster_policies.insert("mandate lint".into(), Loaded::Readable(policy));
    }

    /// Whether any policy says what pods may hold.
    pub fn speaks_of_pods(&self) -> bool {
        let cluster = self.world.cluster_policies.values().map(|policy| match policy {
            Loaded::Readable(spec) => spec.guardrails.workloads.is_some(),
            Loaded::Broken(_) => true,
        });
        let namespaced = self.world.namespaces.values().flat_map(|here| here.policies.values()).map(|policy| match policy {
            Loaded::Readable(spec) => spec.guardrails.workloads.is_some(),
            Loaded::Broken(_) => true,
        });
        cluster.chain(namespaced).any(|speaks| speaks)
    }

    /// Whether it is certain that a task is dead. A task that stands in no manifest may stand
    /// in the cluster, and one that does gets its authority only there.
    pub fn is_surely_dead(&self, namespace: &str, task: &str, now: Timestamp) -> bool {
        self.has_all_tasks
            || self
                .world
                .task(namespace, task)
                .is_some_and(|task| task.ending || matches!(task.phase, Phase::Ended | Phase::Refused) || now >= task.deadline)
    }
}

fn read<K: DeserializeOwned>(document: &Document) -> Result<K, serde_json::Error> {
    serde_json::from_value(document.root.value().into())
}

/// A kind of which something is known.
trait Live: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned {
    /// Takes an object in. `namespace`: where it stands if it does not say.
    fn put(self, world: &mut World, namespace: &str);

    /// Takes in that an object cannot be read. Whoever needs it is refused as if it were not
    /// there; a policy refuses, as it does in the cluster.
    fn put_broken(_: &mut World, _namespace: String, _name: String, _why: String) {}
}

fn place(object: &impl Resource, namespace: &str) -> (String, String) {
    (object.meta().namespace.clone().unwrap_or_else(|| namespace.to_owned()), object.meta().name.clone().unwrap_or_default())
}

impl Live for ClusterAgentPolicy {
    fn put(self, world: &mut World, _: &str) {
        world.cluster_policies.insert(self.name_any(), Loaded::Readable(self.spec));
    }

    fn put_broken(world: &mut World, _: String, name: String, why: String) {
        world.cluster_policies.insert(name, Loaded::Broken(why));
    }
}

impl Live for AgentPolicy {
    fn put(self, world: &mut World, namespace: &str) {
        let (namespace, name) = place(&self, namespace);
        world.namespaces.entry(namespace).or_default().policies.insert(name, Loaded::Readable(self.spec));
    }

    fn put_broken(world: &mut World, namespace: String, name: String, why: String) {
        world.namespaces.entry(namespace).or_default().policies.insert(name, Loaded::Broken(why));
    }
}

impl Live for PolicyWaiver {
    fn put(self, world: &mut World, namespace: &str) {
        let (namespace, name) = place(&self, namespace);
        world.namespaces.entry(namespace).or_default().put_waiver(name, &self);
    }
}

impl Live for AgentIdentity {
    fn put(self, world: &mut World, namespace: &str) {
        let (namespace, name) = place(&self, namespace);
        world.namespaces.entry(namespace).or_default().identities.insert(name, self);
    }
}

impl Live for TaskScope {
    fn put(self, world: &mut World, namespace: &str) {
        let (namespace, name) = place(&self, namespace);
        world.namespaces.entry(namespace).or_default().scopes.insert(name, self);
    }
}

impl Live for AgentTask {
    fn put(self, world: &mut World, namespace: &str) {
        let (namespace, name) = place(&self, namespace);
        let mut task = Task::of(&self);
        if self.metadata.creation_timestamp.is_none() {
            // Its time begins when the API server creates it.
            task.deadline = Timestamp::MAX;
        }
        world.namespaces.entry(namespace).or_default().put_task(name, task);
    }
}
