//! What is known when an admission request is judged: plain data, kept current by watches.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;

use super::related::Related;
use super::waive::Waiver;
use crate::api::{
    AgentIdentity, AgentPolicySpec, AgentTask, ClusterAgentPolicySpec, Guardrails, HonouredWaivers, Link, Mode, Phase,
    PolicyWaiver, TaskScope, Workloads, names,
};

/// The API server issues no token that lives shorter, in seconds.
pub const SHORTEST_TOKEN: i64 = 600;
/// Life of a token where nothing asks for less, in seconds; the API server's own default.
pub const DEFAULT_TOKEN: i64 = 3600;

/// Everything an admission decision may look at.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// User name of Mandate's controller, the only one that may make what is reserved.
    pub controller: String,
    /// Namespaces that Mandate guards.
    pub guarded: BTreeSet<String>,
    /// ClusterAgentPolicies by name.
    pub cluster_policies: BTreeMap<String, Loaded<ClusterAgentPolicySpec>>,
    /// What stands in each namespace.
    pub namespaces: BTreeMap<String, Namespace>,
    /// What is known of objects that pods use; see [`World::learn`].
    pub related: Related,
}

/// What stands in one namespace.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// AgentPolicies by name.
    pub policies: BTreeMap<String, Loaded<AgentPolicySpec>>,
    /// AgentIdentities by name.
    pub identities: BTreeMap<String, AgentIdentity>,
    /// TaskScopes by name.
    pub scopes: BTreeMap<String, TaskScope>,
    /// AgentTasks by name.
    pub tasks: BTreeMap<String, Task>,
    /// Names of tasks by the name of what they own.
    pub owners: BTreeMap<String, String>,
    /// ServiceAccounts by name, where they are looked at: the webhook sees what they bring in
    /// the pod itself.
    pub accounts: BTreeMap<String, Account>,
    /// PolicyWaivers by name. One that cannot be read is not there: it waives nothing.
    pub waivers: BTreeMap<String, Waiver>,
}

/// What a ServiceAccount brings to its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Whether its token is mounted by default; where it says nothing, it is.
    pub automount: Option<bool>,
    /// Names of its pull secrets.
    pub pull_secrets: Vec<String>,
}

/// An object as it could be read. One that cannot takes the place of its old version, so
/// that a rule nobody can read any more refuses instead of standing as it was.
#[derive(Clone, Debug)]
pub enum Loaded<T> {
    /// The object.
    Readable(T),
    /// Why it cannot be read.
    Broken(String),
}

/// What admission needs to know of a task; small, since there can be very many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// UID of the task.
    pub uid: String,
    /// Its AgentIdentity.
    pub agent: String,
    /// Its TaskScope.
    pub scope: String,
    /// Where it stands.
    pub phase: Phase,
    /// Name of its ServiceAccount, RoleBinding and Secret.
    pub owns: String,
    /// When it ends by itself.
    pub deadline: Timestamp,
    /// Whether somebody has asked for its end.
    pub ending: bool,
    /// Whether it holds rights on the Kubernetes API.
    pub has_rules: bool,
    /// Whether it has a parent.
    pub is_child: bool,
    /// The tasks above it, once it has its authority.
    pub chain: Vec<Link>,
}

impl Task {
    /// What admission needs to know of a task as the API server has it.
    #[must_use]
    pub fn of(task: &AgentTask) -> Self {
        let status = task.status.clone().unwrap_or_default();
        let uid = task.uid().unwrap_or_default();
        Self {
            agent: task.spec.agent.clone(),
            scope: task.spec.scope.clone(),
            phase: status.phase.unwrap_or_default(),
            owns: names::of_task(&task.name_any(), &uid),
            deadline: deadline(task),
            ending: task.spec.end.is_some() || task.metadata.deletion_timestamp.is_some(),
            is_child: task.spec.parent.is_some(),
            chain: status.chain,
            has_rules: status.grant.is_some_and(|grant| !grant.rules.is_empty()),
            uid,
        }
    }
}

/// When a task ends by itself: its creation plus its `ttl`. It is known from the spec
/// alone, so that it holds even where no status was ever written. A status can make it earlier,
/// where a parent ends before, and never later. A task without a time of creation is over: the
/// API server gives every object one.
#[must_use]
pub fn deadline(task: &AgentTask) -> Timestamp {
    let Some(created) = &task.metadata.creation_timestamp else { return Timestamp::MIN };
    let own = created.0.checked_add(SignedDuration::from(task.spec.ttl)).unwrap_or(Timestamp::MAX);
    let noted = task.status.as_ref().and_then(|status| status.expires_at.as_ref());
    noted.map_or(own, |noted| own.min(noted.0))
}

/// What one policy asks of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The policy, as people name it.
    pub policy: String,
    /// What happens where it is broken.
    pub mode: Mode,
    /// What it asks.
    pub workloads: Workloads,
    /// Which waivers count against it: each entry is what one ClusterAgentPolicy honours.
    pub honours: Vec<HonouredWaivers>,
}

impl World {
    /// What the policies ask of pods in a namespace, and the policies that cannot be read.
    ///
    /// Where no ClusterAgentPolicy speaks of pods, the built-in one holds: an AgentPolicy is
    /// written inside the namespace and only ever adds to what must hold.
    #[must_use]
    pub fn asked_of_pods(&self, namespace: &str) -> (Vec<Asked>, Vec<(String, String)>) {
        let mut asked = vec![];
        let mut broken = vec![];
        // Against a ClusterAgentPolicy count the waivers that it honours itself; the others have
        // no say of their own.
        let everywhere: Vec<HonouredWaivers> =
            self.cluster_policies_in(namespace).filter_map(|(_, spec)| spec.waivers.clone()).collect();
        let mut take = |policy: String, guardrails: &Guardrails, honours: Vec<HonouredWaivers>| {
            let Some(workloads) = guardrails.workloads.clone() else { return false };
            asked.push(Asked { policy, mode: guardrails.mode, workloads, honours });
            true
        };
        let mut spoken_for = false;
        for (name, policy) in &self.cluster_policies {
            let named = || format!("ClusterAgentPolicy {name}");
            match policy {
                Loaded::Readable(spec) if spec.holds_in(namespace) => {
                    spoken_for |= take(named(), &spec.guardrails, spec.waivers.iter().cloned().collect());
                }
                Loaded::Readable(_) => {}
                Loaded::Broken(why) => broken.push((named(), why.clone())),
            }
        }
        for (name, policy) in self.namespaces.get(namespace).into_iter().flat_map(|here| &here.policies) {
            let named = || format!("AgentPolicy {namespace}/{name}");
            match policy {
                Loaded::Readable(spec) => _ = take(named(), &spec.guardrails, everywhere.clone()),
                Loaded::Broken(why) => broken.push((named(), why.clone())),
            }
        }
        if !spoken_for {
            asked.push(Asked {
                policy: "built-in policy".to_owned(),
                mode: Mode::Enforce,
                workloads: Workloads::BUILT_IN,
                honours: everywhere,
            });
        }
        (asked, broken)
    }

    /// The ClusterAgentPolicies that hold in a namespace and can be read.
    pub fn cluster_policies_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a str, &'a ClusterAgentPolicySpec)> {
        self.cluster_policies.iter().filter_map(move |(name, policy)| match policy {
            Loaded::Readable(spec) if spec.holds_in(namespace) => Some((name.as_str(), spec)),
            _ => None,
        })
    }

    /// The task of this name.
    #[must_use]
    pub fn task(&self, namespace: &str, name: &str) -> Option<&Task> {
        self.namespaces.get(namespace)?.tasks.get(name)
    }

    /// The task that owns what has this name.
    #[must_use]
    pub fn owner_of(&self, namespace: &str, owned: &str) -> Option<(&str, &Task)> {
        let here = self.namespaces.get(namespace)?;
        let name = here.owners.get(owned)?;
        Some((name, here.tasks.get(name)?))
    }

    /// Why a task may not be used at this moment.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn usable(&self, namespace: &str, name: &str, task: &Task, now: Timestamp) -> Result<(), String> {
        self.stands(namespace, name, task, now)?;
        if task.is_child == task.chain.is_empty() {
            return Err(format!("the tasks above task `{name}` are not written down"));
        }
        for link in &task.chain {
            let above = self.task(namespace, &link.task).filter(|above| above.uid == link.uid);
            let above = above.ok_or_else(|| format!("task `{}`, above task `{name}`, is gone", link.task))?;
            self.stands(namespace, &link.task, above, now).map_err(|why| format!("{why}, and task `{name}` with it"))?;
        }
        Ok(())
    }

    /// The same, whatever stands above it.
    fn stands(&self, namespace: &str, name: &str, task: &Task, now: Timestamp) -> Result<(), String> {
        if now >= task.deadline {
            return Err(format!("task `{name}` passed its deadline at {}", task.deadline));
        }
        if task.ending {
            return Err(format!("task `{name}` is being ended"));
        }
        match task.phase {
            Phase::Active => {}
            Phase::Pending => return Err(format!("task `{name}` has no authority yet; wait until it is Ready")),
            Phase::Ended | Phase::Refused => return Err(format!("task `{name}` is over")),
        }
        match self.namespaces.get(namespace).and_then(|here| here.identities.get(&task.agent)) {
            None => Err(format!("agent `{}` of task `{name}` is gone", task.agent)),
            Some(identity) if identity.spec.suspend => Err(format!("agent `{}` of task `{name}` is suspended", task.agent)),
            Some(_) => Ok(()),
        }
    }
}

impl Namespace {
    /// Takes in a waiver as it now is; one that is being deleted goes.
    pub fn put_waiver(&mut self, name: String, waiver: &PolicyWaiver) {
        match Waiver::of(waiver) {
            Some(waiver) => _ = self.waivers.insert(name, waiver),
            None => _ = self.waivers.remove(&name),
        }
    }

    /// Takes in a task as it now is.
    pub fn put_task(&mut self, name: String, task: Task) {
        self.forget_task(&name);
        self.owners.insert(task.owns.clone(), name.clone());
        self.tasks.insert(name, task);
    }

    /// Forgets a task.
    pub fn forget_task(&mut self, name: &str) {
        if let Some(old) = self.tasks.remove(name) {
            self.owners.remove(&old.owns);
        }
    }
}
