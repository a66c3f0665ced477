//! An admission request in, a verdict out.
//!
//! Flow: the webhook reads the request's raw JSON into a [`Review`] and calls [`admit`]
//! with the current [`World`]. What only the API server knows comes back as questions in
//! the verdict.
//!
//! Guarantees: a verdict lists every finding, not the first one. On UPDATE only what the
//! request itself makes wrong is refused, so that an object that was let in earlier can
//! still lose its finalizers. DELETE is never judged. No value of a Secret is looked at.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::access;
use super::authorize::compile::{self, Place};
use super::check::{self, Case, Hold};
use super::delegate::Above;
use super::finding::{Finding, Severity, Verdict};
use super::json::{Read as _, Value};
use super::pod;
use super::rule::{Claim, Found, Level, RULES, Rule};
use super::site::{self, On, Ready, Root, Scene, Subject};
use super::waive::{self, Identity, Waivers, Word};
use super::workload;
use super::world::{Asked, DEFAULT_TOKEN, SHORTEST_TOKEN, World};
use crate::api::{
    Action, AgentPolicy, AgentTask, ClusterAgentPolicy, ClusterAgentPolicySpec, Guardrails, Mode, PolicyWaiver, Profile,
    Requester, TaskScope, Workloads, names,
};

/// One admission request.
#[derive(Clone, Copy, Debug)]
pub struct Review<'a> {
    /// What is done.
    pub operation: Operation,
    /// API group of the resource; empty for the core group.
    pub group: &'a str,
    /// Plural resource.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Namespace, or empty.
    pub namespace: &'a str,
    /// Name, or empty where the API server makes one.
    pub name: &'a str,
    /// Who does it.
    pub user: &'a Requester,
    /// The object as it would be stored; of a connection, the pod at its other end.
    pub object: &'a Value<'a>,
    /// The object as it is, on UPDATE.
    pub old: Option<&'a Value<'a>>,
}

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// Somebody connects to it, as `kubectl exec` does.
    Connect,
}

/// Judges one request.
pub fn admit(world: &World, review: &Review<'_>, now: Timestamp) -> Verdict {
    match (review.group, review.resource, review.subresource) {
        ("", "pods", "" | "ephemeralcontainers") => pod_verdict(world, review, now),
        ("", "serviceaccounts", "token") => token_request(world, review, now),
        ("", "secrets", "") => secret(world, review, now),
        (crate::api::GROUP, "agenttasks", "") => task(world, review),
        (crate::api::GROUP, "taskscopes", "") => scope(world, review),
        (crate::api::GROUP, "policywaivers", "") => waiver(world, review, now),
        (crate::api::GROUP, "agentpolicies", "") => policy::<AgentPolicy>(review, Place::In(review.namespace)),
        (crate::api::GROUP, "clusteragentpolicies", "") => policy::<ClusterAgentPolicy>(review, Place::Cluster),
        // The other kinds of Mandate are held by their schemas alone.
        (crate::api::GROUP, "agentidentities" | "toolservers", "") => Verdict::default(),
        ("", "pods", _) if review.operation == Operation::Connect => access::access(world, review, now),
        // Kinds with a template of Kubernetes' core; those of other groups an installation names.
        ("", "podtemplates" | "replicationcontrollers", "") => other_verdict(world, review, now),
        (group, _, "") if !matches!(group, "" | crate::api::GROUP) => other_verdict(world, review, now),
        (group, resource, subresource) if On::of_resource(group, resource, subresource).is_some() => {
            other_verdict(world, review, now)
        }
        _ => unknown_request(review),
    }
}

fn unknown_request(review: &Review<'_>) -> Verdict {
    Verdict::new(vec![always(
        "unknown-request",
        "",
        format!("Mandate's webhook is registered for `{}.{}` and does not know it", review.resource, review.group),
        "upgrade Mandate, or take the rule out of its webhook configuration",
    )])
}

pub(super) fn always(rule: &'static str, path: &str, message: String, help: &str) -> Finding {
    Finding {
        rule,
        severity: Severity::Deny,
        path: path.to_owned(),
        message,
        help: help.to_owned(),
        policy: MANDATE.to_owned(),
        waiver: None,
    }
}

/// What a finding weighs under one policy; none where the policy does not look.
pub(super) fn severity(rule: &Rule, asked: &Asked) -> Option<Severity> {
    let setting = asked.workloads.setting(rule.id);
    let by_rule = match (setting.and_then(|setting| setting.action), rule.level, asked.workloads.profile) {
        (Some(Action::Off), ..) | (None, Level::OptIn, _) => return None,
        (Some(Action::Deny), ..) => Severity::Deny,
        (Some(Action::Audit), ..) => Severity::Audit,
        (Some(Action::Warn), ..) | (None, Level::Advice, _) | (None, Level::Restricted, Profile::Baseline) => Severity::Warn,
        (None, ..) => Severity::Deny,
    };
    let by_mode = match asked.mode {
        Mode::Enforce => Severity::Deny,
        Mode::Warn => Severity::Warn,
        Mode::Audit => Severity::Audit,
    };
    Some(by_rule.min(by_mode))
}

/// Whether a policy lets a rule's finding at something of this name pass.
pub(super) fn allows(policy: &Asked, rule: &Rule, name: &str) -> bool {
    policy.workloads.setting(rule.id).is_some_and(|setting| setting.allows(name))
}

/// What a finding weighs under one policy, and the waiver that made it lighter.
pub(super) fn weight(rule: &Rule, policy: &Asked, waivers: &Waivers<'_>) -> Option<(Severity, Option<waive::Waived>)> {
    let severity = severity(rule, policy)?;
    Some(match waivers.covering(rule.id, policy) {
        Some(waived) => (severity.min(Severity::Warn), Some(waived)),
        None => (severity, None),
    })
}

/// Adds a finding at a place whose findings begin at `first`; where two policies find the same,
/// the graver one stays.
pub(super) fn add(findings: &mut Vec<Finding>, first: usize, new: Finding) {
    let here = findings.get_mut(first..).unwrap_or_default();
    match here.iter_mut().find(|old| old.rule == new.rule && old.path == new.path && old.message == new.message) {
        Some(old) if old.severity >= new.severity => {}
        Some(old) => *old = new,
        None => findings.push(new),
    }
}

/// Everything that the rules find in one object, under every policy that holds.
fn examine(subject: &Subject<'_>, asked: &[Asked], waivers: &Waivers<'_>) -> Vec<Finding> {
    let mut findings = vec![];
    site::program().walk(subject, &mut |site, scene| at_site(site, scene, asked, waivers, &mut findings));
    for rule in RULES.iter().filter(|_| subject.on == On::Pod) {
        let Some(code) = rule.code else { continue };
        let mut found = vec![];
        (code.look)(subject, &mut found);
        for Found { path, message, help, allow } in found {
            let first = findings.len();
            let new = |(severity, waiver), policy: &str| Finding {
                rule: rule.id,
                severity,
                path: path.clone(),
                message: message.clone(),
                help: help.clone(),
                policy: policy.to_owned(),
                waiver,
            };
            if rule.level == Level::Always {
                add(&mut findings, first, new((Severity::Deny, None), MANDATE));
                continue;
            }
            for policy in asked {
                let weight = weight(rule, policy, waivers).filter(|_| allow.is_empty() || !allows(policy, rule, &allow));
                if let Some(weight) = weight {
                    add(&mut findings, first, new(weight, &policy.policy));
                }
            }
        }
    }
    findings
}

fn at_site(site: &Ready, scene: &Scene<'_, '_>, asked: &[Asked], waivers: &Waivers<'_>, findings: &mut Vec<Finding>) {
    let rule = site.rule;
    let first = findings.len();
    let finding = |(severity, waiver), workloads: &Workloads, policy: &str| {
        let (path, message, help) = site::told(site, scene, workloads);
        Finding { rule: rule.id, severity, path, message, help, policy: policy.to_owned(), waiver }
    };
    if rule.level == Level::Always {
        if site.is_broken(scene, &Workloads::BUILT_IN, None) {
            add(findings, first, finding((Severity::Deny, None), &Workloads::BUILT_IN, MANDATE));
        }
        return;
    }
    let mut broken = None;
    for policy in asked {
        broken = Some(site.is_broken(scene, &policy.workloads, broken));
        if broken != Some(true) {
            continue;
        }
        let allowed = site.allowable(scene).is_some_and(|text| allows(policy, rule, text));
        if let Some(weight) = weight(rule, policy, waivers).filter(|_| !allowed) {
            add(findings, first, finding(weight, &policy.workloads, &policy.policy));
        }
    }
}

/// Whose rule it is, where no policy can set it.
pub(super) const MANDATE: &str = "Mandate";

/// An object of any kind as it stands in a manifest: what would be found in it, and in the
/// pods that are made from it. Its namespace is its own, or `default`.
pub fn judge(world: &World, object: &Value<'_>, now: Timestamp) -> Verdict {
    let on = On::of_kind(object.text("apiVersion"), object.text("kind"));
    let namespace = on.map_or_else(|| site::namespace(object), |on| on.namespace(object));
    let itself = Identity::new(group_of(object), object.text("kind"), name_of(object));
    Verdict::new(object_findings(world, Reviewed { namespace, itself, word: Word::Nobody, on, object, unadmitted: true }, now))
}

/// Every finding that one policy, or Mandate itself where none is given, has in an object that
/// stands in the cluster. Those of other policies are not among them.
#[must_use]
pub fn stands(
    world: &World,
    namespace: &str,
    itself: Identity<'_>,
    object: &Value<'_>,
    policy: Option<&Asked>,
    now: Timestamp,
) -> Vec<Finding> {
    let on = On::ALL.iter().copied().find(|on| on.kind() == itself.kind && on.resource().0 == itself.group);
    let reviewed = Reviewed { namespace, itself, word: Word::Cluster, on, object, unadmitted: false };
    let mut findings = found_under(world, &reviewed, policy.map_or(&[], std::slice::from_ref), now);
    findings.retain(|finding| (finding.policy == MANDATE) == policy.is_none());
    findings
}

fn group_of<'a>(object: &'a Value<'a>) -> &'a str {
    object.text("apiVersion").split_once('/').map_or("", |(group, _)| group)
}

fn name_of<'a>(object: &'a Value<'a>) -> &'a str {
    object.member("metadata").map_or("", |metadata| metadata.text("name"))
}

/// One object, as far as the rules look at it.
#[derive(Clone, Debug)]
struct Reviewed<'a> {
    namespace: &'a str,
    /// What waivers know it as.
    itself: Identity<'a>,
    /// On whose word it was made from something.
    word: Word<'a>,
    on: Option<On>,
    object: &'a Value<'a>,
    unadmitted: bool,
}

impl<'a> Reviewed<'a> {
    /// The object of a request, as it is to be or as it was.
    fn of(review: &Review<'a>, object: &'a Value<'a>) -> Self {
        let on = On::of_resource(review.group, review.resource, review.subresource);
        let word = Word::Of(&review.user.username);
        Self { namespace: review.namespace, itself: identity(review, object), word, on, object, unadmitted: false }
    }
}

/// What waivers know the object of a request as: of a subresource it is the whole.
pub(super) fn identity<'a>(review: &Review<'a>, object: &'a Value<'a>) -> Identity<'a> {
    let (group, kind) = match (review.group, review.resource) {
        ("", "pods") => ("", "Pod"),
        ("", "serviceaccounts") => ("", "ServiceAccount"),
        (group, _) => (group, object.text("kind")),
    };
    // The API server may have made the name after it made the request.
    Identity::new(group, kind, if review.name.is_empty() { name_of(object) } else { review.name })
}

/// Whether pods can be made from objects of a kind: from those that rules look at themselves
/// they are not, with one exception.
fn makes_pods(on: Option<On>) -> bool {
    matches!(on, None | Some(On::StatefulSet))
}

/// Everything wrong with an object of any kind, and with the templates in it, under every
/// policy that holds.
fn object_findings(world: &World, reviewed: Reviewed<'_>, now: Timestamp) -> Vec<Finding> {
    let (asked, broken) = world.asked_of_pods(reviewed.namespace);
    let mut findings = found_under(world, &reviewed, &asked, now);
    if !broken.is_empty() && (reviewed.on.is_some() || !workload::templates(reviewed.object).is_empty()) {
        findings.extend(broken_policies(broken));
    }
    findings
}

/// The same under these policies, of those that can be read.
fn found_under(world: &World, reviewed: &Reviewed<'_>, asked: &[Asked], now: Timestamp) -> Vec<Finding> {
    let Reviewed { namespace, itself, word, on, object, unadmitted } = reviewed;
    let waivers = Waivers::over(world, namespace, &waive::identities(itself.clone(), object, *word), now);
    let subject = Subject {
        root: Root::Object(object, ""),
        on: On::Pod,
        name: &itself.name,
        namespace,
        unadmitted: *unadmitted,
        task: None,
        world,
    };
    let mut findings = match *on {
        Some(On::Pod) => examine_pod(subject, asked, &waivers, now),
        Some(on) => examine(&Subject { on, ..subject }, asked, &waivers),
        None => vec![],
    };
    let templates = if makes_pods(*on) { workload::templates(object) } else { vec![] };
    for template in &templates {
        let pod = Subject { root: template.root(), name: "", unadmitted: true, ..subject };
        findings.extend(examine_pod(pod, asked, &waivers, now));
    }
    findings
}

/// Policies that cannot be read: nothing is let in under a rule that nobody knows.
pub(super) fn broken_policies(broken: Vec<(String, String)>) -> impl Iterator<Item = Finding> {
    broken.into_iter().map(|(policy, why)| {
        always(
            "unreadable-policy",
            "",
            format!("{policy} cannot be read, so nothing is let in: {why}"),
            "correct or delete the policy",
        )
    })
}

/// What is not a pod: other objects as they are, and templates with a warning of what their
/// pods will meet, so that an object which makes no pod yet is never in the way.
fn other_verdict(world: &World, review: &Review<'_>, now: Timestamp) -> Verdict {
    let on = On::of_resource(review.group, review.resource, review.subresource);
    let of = |object| object_findings(world, Reviewed::of(review, object), now);
    let mut findings = only_new(of(review.object), review.old.map(of));
    if makes_pods(on) {
        findings.iter_mut().filter(|finding| finding.severity == Severity::Deny).for_each(|finding| {
            finding.severity = Severity::Warn;
            finding.message = format!("{TO_COME}{}", finding.message);
        });
    }
    Verdict::new(findings)
}

/// What a warning about a template says before the words of the denial that its pods will meet.
pub const TO_COME: &str = "its pods will be refused: ";

/// Of an update only what the request itself makes wrong. By rule and words, not by place: an
/// item that moves in its list is no news.
fn only_new(mut findings: Vec<Finding>, before: Option<Vec<Finding>>) -> Vec<Finding> {
    if let Some(before) = before {
        let before: BTreeSet<(&str, &str)> = before.iter().map(|old| (old.rule, old.message.as_str())).collect();
        findings.retain(|finding| !before.contains(&(finding.rule, finding.message.as_str())));
    }
    findings
}

fn pod_verdict(world: &World, review: &Review<'_>, now: Timestamp) -> Verdict {
    // A container that is added later is judged as a part of the pod.
    let of = |object| object_findings(world, Reviewed { on: Some(On::Pod), ..Reviewed::of(review, object) }, now);
    let old = review.old.filter(|_| review.operation == Operation::Update);
    let mut findings = only_new(of(review.object), old.map(of));
    if let Some(old) = old {
        // A task that ended in the meantime must not keep its pods from being changed or
        // cleaned up; what starts new in them is judged above.
        findings.retain(|finding| finding.rule != "dead-task" || pod::task_label(old) != pod::task_label(review.object));
        if pod::task_label(old) != pod::task_label(review.object) {
            findings.push(always(
                "task-label-changed",
                "metadata.labels['mandate.dev/task']",
                "the task of a pod is fixed when the pod is created".to_owned(),
                "create a new pod with the other label",
            ));
        }
    }
    Verdict::new(findings)
}

/// Everything wrong with a pod or the template of one, by these policies.
fn examine_pod(pod: Subject<'_>, asked: &[Asked], waivers: &Waivers<'_>, now: Timestamp) -> Vec<Finding> {
    let Subject { root, namespace, world, .. } = pod;
    let label = root.member("metadata").and_then(|metadata| metadata.at(&["labels", names::TASK_LABEL])).and_then(Value::as_str);
    let task = label.and_then(|name| world.task(namespace, name));
    let unusable = label.and_then(|name| match task {
        None => Some(format!("there is no AgentTask `{name}` in namespace `{namespace}`")),
        Some(task) => world.usable(namespace, name, task, now).err(),
    });
    let claim = label.map(|name| Claim { name, task, unusable: unusable.as_deref() });
    examine(&Subject { task: claim, ..pod }, asked, waivers)
}

/// Seconds that pass at most between the two webhooks.
const MOMENT: i64 = 60;

/// Tokens: of tasks only for their own pods and only while the task lives; of others only
/// bound and short.
fn token_request(world: &World, review: &Review<'_>, now: Timestamp) -> Verdict {
    let account = review.name;
    let bound_to = review.object.at(&["spec", "boundObjectRef"]).map_or("", |reference| reference.text("kind"));
    let refuse = |message: String, help: &str| Verdict::new(vec![always("task-token", "", message, help)]);
    if review.user.username == world.controller {
        // What the controller may ask for is held by the ValidatingAdmissionPolicy
        // mandate-controller-tokens, which also holds when this process is not there.
        return Verdict::default();
    }
    if account.starts_with(names::AGENT_PREFIX) {
        return refuse(
            format!("tokens of `{account}` are issued by Mandate alone"),
            "start a task whose TaskScope has a credential with `subject: identity`",
        );
    }
    if account.starts_with(names::TASK_PREFIX) {
        let Some((name, task)) = world.owner_of(review.namespace, account) else {
            return refuse(format!("no task owns ServiceAccount `{account}` any more"), "");
        };
        if !review.user.groups.iter().any(|group| group == "system:nodes") || bound_to != "Pod" {
            return refuse(
                format!("tokens of task `{name}` are issued by Mandate and to the task's own pods alone"),
                "read the task's Secret, or label the pod `mandate.dev/task`",
            );
        }
        // The mutating webhook has cut it to the life that is left, a moment ago.
        let most = task.deadline.duration_since(now).as_secs().max(SHORTEST_TOKEN).saturating_add(MOMENT);
        let seconds = review.object.member("spec").and_then(|spec| spec.whole("expirationSeconds")).unwrap_or(DEFAULT_TOKEN);
        return match world.usable(review.namespace, name, task, now) {
            Ok(()) if seconds > most => refuse(format!("a token of {seconds} s would outlive task `{name}`"), "ask for less"),
            Ok(()) => Verdict::default(),
            Err(why) => refuse(why, ""),
        };
    }
    other_verdict(world, review, now)
}

/// Secrets: whatever the policies let pass, none is filled with a token of a task or an agent
/// that has no end. Changing what is already there changes nothing about the token in it,
/// unless it is pointed at another ServiceAccount.
fn secret(world: &World, review: &Review<'_>, now: Timestamp) -> Verdict {
    let account_of = |secret: &Value<'_>| match secret.at(&["metadata", "annotations", "kubernetes.io/service-account.name"]) {
        Some(Value::Str(name)) if secret.text("type") == "kubernetes.io/service-account-token" => name.to_string(),
        _ => String::new(),
    };
    let account = account_of(review.object);
    let is_ours = account.starts_with(names::TASK_PREFIX) || account.starts_with(names::AGENT_PREFIX);
    if !is_ours || review.old.is_some_and(|old| account_of(old) == account) {
        return other_verdict(world, review, now);
    }
    let path = "metadata.annotations['kubernetes.io/service-account.name']";
    let message = format!("tokens of `{account}` are issued by Mandate alone");
    Verdict::new(vec![always("task-token", path, message, "let a TaskScope issue the token (`credentials`)")])
}

/// Reads an object of Mandate with the very type that the controller uses.
fn read<T: DeserializeOwned>(object: &Value<'_>) -> Result<T, Box<Finding>> {
    let text = serde_json::to_string(object).map_err(|error| unreadable(&error))?;
    serde_json::from_str(&text).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> Box<Finding> {
    Box::new(always(
        "unreadable-object",
        "",
        format!("the controller could not read this object: {error}"),
        "correct the field that is named",
    ))
}

fn task(world: &World, review: &Review<'_>) -> Verdict {
    if review.operation == Operation::Update {
        return Verdict::default(); // immutable but for `end`: held by the schema
    }
    let task: AgentTask = match read(review.object) {
        Ok(task) => task,
        Err(finding) => return Verdict::new(vec![*finding]),
    };
    if !world.guarded.contains(review.namespace) {
        return Verdict::new(vec![always(
            "namespace-not-guarded",
            "metadata.namespace",
            format!("Mandate does not work in namespace `{}`", review.namespace),
            "use a guarded namespace, or have the platform add this one to guardedNamespaces",
        )]);
    }
    let here = world.namespaces.get(review.namespace);
    let policies: Vec<(&str, &ClusterAgentPolicySpec)> = world.cluster_policies_in(review.namespace).collect();
    let case = Case {
        task: &task,
        namespace: review.namespace,
        identity: here.and_then(|here| here.identities.get(&task.spec.agent)),
        scope: here.and_then(|here| here.scopes.get(&task.spec.scope)),
        policies: &policies,
        above: Above::Unknown,
    };
    match check::check(case) {
        Ok(granted) => Verdict { findings: vec![], questions: granted.questions },
        Err(Hold::Refuse(because)) => Verdict::new(vec![always("task-refused", "spec", because.message, "")]),
        // GitOps applies in any order: what is missing now may come; the task waits for it.
        Err(Hold::Wait(because)) => {
            Verdict::new(vec![Finding { severity: Severity::Warn, ..always("task-waits", "spec", because.message, "") }])
        }
    }
}

fn scope(world: &World, review: &Review<'_>) -> Verdict {
    let new: TaskScope = match read(review.object) {
        Ok(scope) => scope,
        Err(finding) => return Verdict::new(vec![*finding]),
    };
    // An old version that cannot be read grants nothing that the new one could lean on.
    let old: Option<TaskScope> = review.old.and_then(|old| read(old).ok());
    let before = old.map(|old| old.spec.kubernetes.rules).unwrap_or_default();
    if let Err(problems) = compile::scope(review.namespace, &new.name_any(), &new.spec) {
        return unusable("scope-refused", problems);
    }
    match check::authorship(review.user, &world.controller, review.namespace, &new.spec.kubernetes.rules, &before) {
        Ok(questions) => Verdict { findings: vec![], questions },
        Err(because) => Verdict::new(vec![always("scope-refused", "spec.kubernetes.rules", because.message, "")]),
    }
}

/// A policy whose rules the authorizer will be able to use: compiled as it compiles them.
fn policy<K: Resource<DynamicType = ()> + DeserializeOwned + AsRef<Guardrails>>(review: &Review<'_>, place: Place) -> Verdict {
    let policy: K = match read(review.object) {
        Ok(policy) => policy,
        Err(finding) => return Verdict::new(vec![*finding]),
    };
    match compile::policy(place, &policy.name_any(), policy.as_ref()) {
        Ok(_) => Verdict::default(),
        Err(problems) => unusable("policy-refused", problems),
    }
}

/// What cannot be used at run time is not let in: it would deny everybody it speaks of.
fn unusable(rule: &'static str, problems: Vec<compile::Problem>) -> Verdict {
    Verdict::new(problems.into_iter().map(|compile::Problem { at, message }| always(rule, &at, message, "")).collect())
}

/// A waiver: whether it can ever count, and whether it does now.
fn waiver(world: &World, review: &Review<'_>, now: Timestamp) -> Verdict {
    if review.operation == Operation::Update {
        return Verdict::default(); // immutable but for an earlier end: held by the schema
    }
    let waiver: PolicyWaiver = match read(review.object) {
        Ok(waiver) => waiver,
        Err(finding) => return Verdict::new(vec![*finding]),
    };
    let Some(known) = waive::Waiver::of(&waiver) else { return Verdict::default() };
    if known.is_expired(now) {
        return Verdict::new(vec![always(
            "waiver-refused",
            "spec.expiresAt",
            format!("the waiver would be over before it begins: `{}` is past", known.expires_at),
            "set `expiresAt` to a time that is to come, such as a few days from now, or leave the waiver out",
        )]);
    }
    let effect = waive::effect(world, review.namespace, &known, now);
    if effect.reason == "Honoured" {
        return Verdict::default();
    }
    // GitOps applies in any order: the policy may come after the waiver.
    let help = "ask the owner of the ClusterAgentPolicy for `waivers` with these rules and a `maxLife` that is long enough";
    Verdict::new(vec![Finding { severity: Severity::Warn, ..always("waiver-not-honoured", "spec", effect.message, help) }])
}

/// The finding that a "no" to a question of a scope or task makes.
#[must_use]
pub fn refused(review: &Review<'_>, because: &check::Because) -> Finding {
    let (rule, path) =
        if review.resource == "taskscopes" { ("scope-refused", "spec.kubernetes.rules") } else { ("task-refused", "spec") };
    always(rule, path, because.message.clone(), "")
}
