//! Waivers: what is let pass, by which one of them, and why another does not count.
//!
//! In go an object with what it is made from, the waivers of its namespace, what the policies
//! honour, and the time. Out comes, for each finding, the one waiver that covers it, if any.
//!
//! Guarantees: a finding is waived only where a single waiver covers it wholly: it names the
//! rule, it names the object, the policy that finds it honours the waiver, and it has not
//! expired at this moment. Two waivers of which each does half do nothing. What rules of level
//! `Always` find is never asked about here.

use std::borrow::Cow;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

use super::json::{Read as _, Value};
use super::standing::ledger::{Covers, Use};
use super::world::{Asked, World};
use crate::api::{Conditions, HonouredWaivers, Owner, PolicyWaiver, PolicyWaiverStatus, RuleName, WaivedObject};

/// What admission knows of a waiver.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiver {
    /// UID; empty in a manifest.
    pub uid: String,
    /// When it was made; not known in a manifest.
    pub created: Option<Timestamp>,
    /// Generation of its spec.
    pub generation: Option<i64>,
    /// Who answers for it.
    pub owner: Owner,
    /// When it ends.
    pub expires_at: Timestamp,
    /// What it waives.
    pub rules: Vec<RuleName>,
    /// In which objects.
    pub objects: Vec<WaivedObject>,
    /// What the controller wrote about it.
    pub status: PolicyWaiverStatus,
}

impl Waiver {
    /// What admission knows of a waiver; none of one that is being deleted.
    #[must_use]
    pub fn of(waiver: &PolicyWaiver) -> Option<Self> {
        let PolicyWaiver { metadata, spec, status } = waiver;
        metadata.deletion_timestamp.is_none().then(|| Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map(|at| at.0),
            generation: metadata.generation,
            owner: spec.owner.clone(),
            expires_at: spec.expires_at.0,
            rules: spec.rules.clone(),
            objects: spec.objects.clone(),
            status: status.clone().unwrap_or_default(),
        })
    }

    /// Whether it is over at this moment.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.expires_at
    }

    /// Whole days until it expires.
    #[must_use]
    pub fn days_left(&self, now: Timestamp) -> i64 {
        (self.expires_at.duration_since(now).as_hours() / 24).max(0)
    }

    /// From its creation to its end; one that is only a manifest would be created now.
    fn life(&self, now: Timestamp) -> SignedDuration {
        self.expires_at.duration_since(self.created.unwrap_or(now))
    }

    fn waives(&self, rule: &str) -> bool {
        self.rules.iter().any(|name| name.as_str() == rule)
    }

    fn names(&self, identity: &Identity<'_>) -> bool {
        self.objects
            .iter()
            .any(|object| object.kind == identity.kind && object.name == identity.name && object.group() == identity.group)
    }

    /// Whether something that a policy honours lets this waiver count for a rule.
    fn is_honoured(&self, rule: &str, honoured: &HonouredWaivers, now: Timestamp) -> bool {
        honoured.takes(rule) && self.life(now) <= SignedDuration::from(honoured.max_life)
    }
}

/// The waiver that lets a finding pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waived {
    /// Namespace and name.
    pub waiver: String,
    /// Its UID; empty in a manifest.
    #[serde(skip)]
    pub uid: String,
    /// When it ends.
    pub until: Timestamp,
    /// Who answers for it.
    pub owner: Owner,
}

impl fmt::Display for Waived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { waiver, uid: _, until, owner } = self;
        write!(f, "waived by PolicyWaiver {waiver} until {until}, owner {} ({})", owner.team, owner.contact)
    }
}

/// One name under which a waiver may know an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// API group; empty for the core group.
    pub group: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Name.
    pub name: Cow<'a, str>,
}

impl<'a> Identity<'a> {
    /// An object by its name.
    #[must_use]
    pub fn new(group: &'a str, kind: &'a str, name: impl Into<Cow<'a, str>>) -> Self {
        Self { group, kind, name: name.into() }
    }
}

/// On whose word an object is made from what its `ownerReferences` name. Anybody may write
/// them; that a tenant's pod says it belongs to a waived Deployment must mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word<'a> {
    /// Of the user who makes the request: believed of the controller that makes such objects.
    Of(&'a str),
    /// Of what stands in the cluster. Its garbage collector takes away what names an owner
    /// that is not there, or is there with another UID.
    Cluster,
    /// Of nobody: a manifest.
    Nobody,
}

/// Kubernetes' own makers: API group and kind of the owner, name of the ServiceAccount in
/// `kube-system` as which its controller acts.
const MAKERS: [(&str, &str, &str); 7] = [
    ("apps", "DaemonSet", "daemon-set-controller"),
    ("apps", "Deployment", "deployment-controller"),
    ("apps", "ReplicaSet", "replicaset-controller"),
    ("apps", "StatefulSet", "statefulset-controller"),
    ("batch", "CronJob", "cronjob-controller"),
    ("batch", "Job", "job-controller"),
    ("", "ReplicationController", "replication-controller"),
];
/// What all of them act as where the controller manager runs without
/// `--use-service-account-credentials`.
const ALL_MAKERS: &str = "system:kube-controller-manager";
const ACCOUNTS: &str = "system:serviceaccount:kube-system:";

/// An object as itself, then as what it was made from, as far as that can be believed.
#[must_use]
pub fn identities<'a>(itself: Identity<'a>, object: &'a Value<'a>, word: Word<'_>) -> Vec<Identity<'a>> {
    let mut all = vec![itself];
    let Some(metadata) = object.member("metadata") else { return all };
    let controls = |reference: &&Value<'_>| reference.member("controller").and_then(Value::as_bool) == Some(true);
    let Some(owner) = metadata.items("ownerReferences").iter().find(controls) else { return all };
    let group = owner.text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    let (kind, name) = (owner.text("kind"), owner.text("name"));
    let Some((_, _, maker)) = MAKERS.iter().find(|(of, made, _)| (*of, *made) == (group, kind)) else { return all };
    let believed = match word {
        Word::Of(user) => user == ALL_MAKERS || user.strip_prefix(ACCOUNTS) == Some(maker),
        Word::Cluster => true,
        Word::Nobody => false,
    };
    if !believed {
        return all;
    }
    all.push(Identity::new(group, kind, name));
    // One step further, by the names that Kubernetes gives: a pod says only who made it.
    match kind {
        "ReplicaSet" => {
            let hash = metadata.member("labels").map_or("", |labels| labels.text("pod-template-hash"));
            let deployment = name.strip_suffix(hash).and_then(|rest| rest.strip_suffix('-'));
            all.extend(deployment.filter(|_| !hash.is_empty()).map(|name| Identity::new("apps", "Deployment", name)));
        }
        "Job" => {
            let scheduled = |minute: &str| !minute.is_empty() && minute.bytes().all(|byte| byte.is_ascii_digit());
            let cron_job = name.rsplit_once('-').filter(|(_, minute)| scheduled(minute));
            all.extend(cron_job.map(|(name, _)| Identity::new("batch", "CronJob", name)));
        }
        _ => {}
    }
    all
}

/// The waivers that may cover what is found in one object.
#[derive(Clone, Debug)]
pub struct Waivers<'a> {
    namespace: &'a str,
    now: Timestamp,
    /// By name, and only those that name the object and are not over.
    all: Vec<(&'a str, &'a Waiver)>,
}

impl<'a> Waivers<'a> {
    /// Those of the namespace that name one of these.
    #[must_use]
    pub fn over(world: &'a World, namespace: &'a str, identities: &[Identity<'_>], now: Timestamp) -> Self {
        let here = world.namespaces.get(namespace).into_iter().flat_map(|here| &here.waivers);
        let named =
            here.filter(|(_, waiver)| !waiver.is_expired(now) && identities.iter().any(|identity| waiver.names(identity)));
        Self { namespace, now, all: named.map(|(name, waiver)| (name.as_str(), waiver)).collect() }
    }

    /// The one that covers what a rule finds under a policy. Of several the one with the shortest
    /// life, then the first by name: it counts under every policy under which another counts, so
    /// that all policies are given the same one, and that one does it alone.
    #[must_use]
    pub fn covering(&self, rule: &str, policy: &Asked) -> Option<Waived> {
        let honoured = |waiver: &Waiver| policy.honours.iter().any(|honoured| waiver.is_honoured(rule, honoured, self.now));
        let counting = self.all.iter().filter(|(_, waiver)| waiver.waives(rule) && honoured(waiver));
        let (name, waiver) = counting.min_by_key(|(name, waiver)| (waiver.life(self.now), *name))?;
        Some(Waived {
            waiver: format!("{}/{name}", self.namespace),
            uid: waiver.uid.clone(),
            until: waiver.expires_at,
            owner: waiver.owner.clone(),
        })
    }
}

/// Whether a waiver counts, in one word and in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Whether it counts for at least one of its rules.
    pub counts: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, in words.
    pub message: String,
}

/// Whether a waiver counts at this moment, and if not, why.
#[must_use]
pub fn effect(world: &World, namespace: &str, waiver: &Waiver, now: Timestamp) -> Effect {
    let not = |reason, message| Effect { counts: false, reason, message };
    if waiver.is_expired(now) {
        return not("Expired", format!("it expired at {}", waiver.expires_at));
    }
    if !world.guarded.contains(namespace) {
        return not("NamespaceNotGuarded", format!("Mandate does not guard namespace `{namespace}`: nothing is refused there"));
    }
    let holding = || world.cluster_policies_in(namespace);
    let honouring: Vec<(&str, &HonouredWaivers)> =
        holding().filter_map(|(name, spec)| Some((name, spec.waivers.as_ref()?))).collect();
    if honouring.is_empty() {
        return not("NotHonoured", format!("no ClusterAgentPolicy honours waivers in namespace `{namespace}` (`spec.waivers`)"));
    }
    let (mut by, mut rules, mut missing) = (vec![], 0, vec![]);
    let mut too_long = false;
    for rule in &waiver.rules {
        let rule = rule.as_str();
        let takers: Vec<&(&str, &HonouredWaivers)> = honouring.iter().filter(|(_, honoured)| honoured.takes(rule)).collect();
        let counting = takers.iter().filter(|(_, honoured)| waiver.is_honoured(rule, honoured, now)).map(|(name, _)| *name);
        let before = by.len();
        by.extend(counting);
        match (by.len() > before, takers.iter().max_by_key(|(_, honoured)| honoured.max_life)) {
            (true, _) => rules += 1,
            (false, Some((name, honoured))) => {
                too_long = true;
                missing.push(format!("`{rule}` is waived for {} at most by ClusterAgentPolicy `{name}`", honoured.max_life));
            }
            (false, None) => missing.push(format!("no policy lets `{rule}` be waived")),
        }
    }
    by.sort_unstable();
    by.dedup();
    let missing = missing.join("; ");
    if rules == 0 {
        return not(if too_long { "LivesTooLong" } else { "RuleNotHonoured" }, missing);
    }
    // A policy that honours no waivers goes on refusing whatever others say.
    let strict = holding().filter(|(name, spec)| spec.guardrails.workloads.is_some() && !by.contains(name)).map(|(name, _)| name);
    let strict: Vec<&str> = strict.collect();
    let strict = match strict.as_slice() {
        [] => String::new(),
        names => format!("; `{}` does not honour it and holds as before", names.join("`, `")),
    };
    let message = format!("honoured by ClusterAgentPolicy `{}` until {}{strict}", by.join("`, `"), waiver.expires_at);
    if missing.is_empty() {
        return Effect { counts: true, reason: "Honoured", message };
    }
    Effect { counts: true, reason: "PartlyHonoured", message: format!("{message}; but {missing}") }
}

/// What the status of a waiver says. Where what it covers is not known (yet), what was written
/// before stays.
#[must_use]
pub fn status(
    world: &World,
    namespace: &str,
    waiver: &Waiver,
    seen: Option<(Option<Use>, Covers)>,
    now: Timestamp,
) -> PolicyWaiverStatus {
    let Effect { counts, reason, message } = effect(world, namespace, waiver, now);
    let mut conditions = Conditions::from(&waiver.status.conditions);
    conditions.set("Ready", counts, reason, &message, waiver.generation, now);
    let mut status = PolicyWaiverStatus {
        observed_generation: waiver.generation,
        days_left: Some(waiver.days_left(now)),
        conditions: conditions.into_vec(),
        ..waiver.status.clone()
    };
    if let Some((used, Covers { count, objects })) = seen {
        status.covers = count;
        status.objects = objects;
        if let Some(used) = used {
            status.uses = used.count;
            // The API server keeps whole seconds, and what is written twice must be the same.
            status.last_used = used.last.map(|at| Time(Timestamp::from_second(at.as_second()).unwrap_or(at)));
        }
    }
    status
}

#[cfg(test)]
mod tests;
