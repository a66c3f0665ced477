//! An admission request in, a verdict out.
//!
//! Flow: the webhook reads the request's raw JSON into a [`Review`] and calls [`admit`]
//! with the current [`World`]. What only the API server knows comes back as questions in
//! the verdict.
//!
//! Guarantees: a verdict lists every finding, not the first one. On UPDATE only what the
//! request itself makes wrong is refused, so that an object that was let in earlier can
//! still lose its finalizers. DELETE is never judged. No value of a Secret is looked at.

use jiff::Timestamp;

use super::check::{self, Case, Hold};
use super::finding::{Finding, Severity, Verdict};
use super::json::{Read as _, Value};
use super::pod;
use super::rule::{self, Claim, Found, Level, Pod, RULES, Rule, YEAR_LONG_MARK};
use super::world::{Asked, World};
use crate::api::{AgentTask, ClusterAgentPolicySpec, Mode, Profile, Requester, TaskScope, names};

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
    /// The object as it would be stored.
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
}

/// Judges one request.
pub fn admit(world: &World, review: &Review<'_>, now: Timestamp) -> Verdict {
    match (review.group, review.resource, review.subresource) {
        ("", "pods", "" | "ephemeralcontainers") => pod_verdict(world, review, now),
        ("", "serviceaccounts", "token") => token_request(world, review, now),
        ("", "secrets", "") => secret(world, review),
        (crate::api::GROUP, "agenttasks", "") => task(world, review),
        (crate::api::GROUP, "taskscopes", "") => scope(world, review),
        // The other kinds of Mandate are held by their schemas alone.
        (crate::api::GROUP, "agentidentities" | "agentpolicies" | "clusteragentpolicies", "") => Verdict::default(),
        _ => Verdict::new(vec![always(
            "unknown-request",
            "",
            format!("Mandate's webhook is registered for `{}.{}` and does not know it", review.resource, review.group),
            "upgrade Mandate, or take the rule out of its webhook configuration",
        )]),
    }
}

fn always(rule: &'static str, path: &str, message: String, help: &str) -> Finding {
    Finding { rule, severity: Severity::Deny, path: path.to_owned(), message, help: help.to_owned(), policy: "Mandate".to_owned() }
}

/// What a finding weighs under one policy.
fn severity(rule: &Rule, asked: &Asked) -> Severity {
    let by_profile = match (rule.level, asked.workloads.profile) {
        (Level::Restricted, Profile::Baseline) => Severity::Warn,
        _ => Severity::Deny,
    };
    let by_mode = match asked.mode {
        Mode::Enforce => Severity::Deny,
        Mode::Warn => Severity::Warn,
        Mode::Audit => Severity::Audit,
    };
    by_profile.min(by_mode)
}

/// Adds findings; where two policies find the same, the graver one stays.
fn add(findings: &mut Vec<Finding>, rule: &'static str, severity: Severity, policy: &str, found: Vec<Found>) {
    for Found { path, message, help } in found {
        let new = Finding { rule, severity, path, message, help, policy: policy.to_owned() };
        match findings.iter_mut().find(|old| old.rule == rule && old.path == new.path) {
            Some(old) if old.severity >= severity => {}
            Some(old) => *old = new,
            None => findings.push(new),
        }
    }
}

fn pod_verdict(world: &World, review: &Review<'_>, now: Timestamp) -> Verdict {
    let mut findings = pod_findings(world, review.namespace, review.object, now);
    if let (Operation::Update, Some(old)) = (review.operation, review.old) {
        let before = pod_findings(world, review.namespace, old, now);
        findings.retain(|finding| !before.iter().any(|old| old.rule == finding.rule && old.message == finding.message));
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

/// Everything wrong with a pod, under every policy that holds.
fn pod_findings<'a>(world: &World, namespace: &str, object: &'a Value<'a>, now: Timestamp) -> Vec<Finding> {
    static NO_SPEC: Value<'static> = Value::Null;
    let spec = object.member("spec").unwrap_or(&NO_SPEC);
    let label = pod::task_label(object);
    let task = label.and_then(|name| world.task(namespace, name));
    let unusable = label.and_then(|name| match task {
        None => Some(format!("there is no AgentTask `{name}` in namespace `{namespace}`")),
        Some(task) => world.usable(namespace, name, task, now).err(),
    });
    let claim = label.map(|name| Claim { name, task, unusable: unusable.as_deref() });
    let subject = Pod { spec, root: "spec", reaches: pod::reaches(spec, "spec"), task: claim };
    let (asked, broken) = world.asked_of_pods(namespace);
    let mut findings: Vec<_> = broken
        .into_iter()
        .map(|(policy, why)| always("unreadable-policy", "", format!("{policy} cannot be read, so no pod is let in: {why}"), "correct or delete the policy"))
        .collect();
    for rule in RULES {
        for policy in &asked {
            let mut found = vec![];
            (rule.check)(&subject, policy.workloads, &mut found);
            if found.is_empty() {
                continue;
            }
            if rule.level == Level::Always {
                add(&mut findings, rule.id, Severity::Deny, "Mandate", found);
                break;
            }
            add(&mut findings, rule.id, severity(rule, policy), &policy.policy, found);
        }
    }
    findings
}

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
        return refuse(format!("tokens of `{account}` are issued by Mandate alone"), "start a task whose TaskScope has a credential with `subject: identity`");
    }
    if account.starts_with(names::TASK_PREFIX) {
        let Some((name, task)) = world.owner_of(review.namespace, account) else {
            return refuse(format!("no task owns ServiceAccount `{account}` any more"), "");
        };
        if !review.user.groups.iter().any(|group| group == "system:nodes") || bound_to != "Pod" {
            return refuse(format!("tokens of task `{name}` are issued by Mandate and to the task's own pods alone"), "read the task's Secret, or label the pod `mandate.dev/task`");
        }
        return match world.usable(review.namespace, name, task, now) {
            Ok(()) => Verdict::default(),
            Err(why) => refuse(why, ""),
        };
    }
    other_token(world, review, bound_to)
}

fn other_token(world: &World, review: &Review<'_>, bound_to: &str) -> Verdict {
    let seconds = review.object.member("spec").and_then(|spec| spec.whole("expirationSeconds")).unwrap_or(3600);
    let (asked, _) = world.asked_of_pods(review.namespace);
    let mut findings = vec![];
    // INVARIANT: the registry holds the rule; without it nothing would be let through.
    let rule = rule::find("unbound-token-request").unwrap_or(&RULES[0]);
    for policy in &asked {
        let most = policy.workloads.max_token_ttl.as_secs();
        let mut found = vec![];
        if bound_to.is_empty() {
            found.push(Found {
                path: "spec.boundObjectRef".to_owned(),
                message: format!("a token of ServiceAccount `{}` is bound to no object, so that nothing takes it back", review.name),
                help: "bind it to a Pod or Secret (`kubectl create token --bound-object-kind …`), or let a TaskScope issue it".to_owned(),
            });
        }
        if seconds == YEAR_LONG_MARK {
            found.push(Found {
                path: "spec.expirationSeconds".to_owned(),
                message: format!("a token of ServiceAccount `{}` asks for 3607 s, for which the API server issues a token of one year", review.name),
                help: "ask for 3600 s".to_owned(),
            });
        } else if seconds > most {
            found.push(Found {
                path: "spec.expirationSeconds".to_owned(),
                message: format!("a token of ServiceAccount `{}` lives {seconds} s; the policy allows {most} s", review.name),
                help: format!("ask for {most} s or less"),
            });
        }
        add(&mut findings, rule.id, severity(rule, policy), &policy.policy, found);
    }
    Verdict::new(findings)
}

/// Secrets: only those that ask for a token without an end are ever sent here.
fn secret(world: &World, review: &Review<'_>) -> Verdict {
    let is_legacy = |object: &Value<'_>| {
        matches!(object.member("type"), Some(Value::Str(kind)) if kind == "kubernetes.io/service-account-token")
    };
    // Changing what is already there changes nothing about the token in it, unless it is
    // pointed at another ServiceAccount.
    let account = |object: &Value<'_>| match object.at(&["metadata", "annotations", "kubernetes.io/service-account.name"]) {
        Some(Value::Str(name)) => name.to_string(),
        _ => String::new(),
    };
    if !is_legacy(review.object) || review.old.is_some_and(|old| account(old) == account(review.object)) {
        return Verdict::default();
    }
    let rule = rule::find("legacy-token-secret").unwrap_or(&RULES[0]);
    let (asked, _) = world.asked_of_pods(review.namespace);
    let mut findings = vec![];
    for policy in &asked {
        let found = Found {
            path: "type".to_owned(),
            message: format!("Secret `{}` asks for a token of ServiceAccount `{}` that never expires", review.name, account(review.object)),
            help: "ask for a token by TokenRequest (`kubectl create token`), or let a TaskScope issue one".to_owned(),
        };
        add(&mut findings, rule.id, severity(rule, policy), &policy.policy, vec![found]);
    }
    Verdict::new(findings)
}

/// Reads an object of Mandate with the very type that the controller uses.
fn read<T: serde::de::DeserializeOwned>(object: &Value<'_>) -> Result<T, Box<Finding>> {
    let text = serde_json::to_string(object).map_err(|error| unreadable(&error))?;
    serde_json::from_str(&text).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> Box<Finding> {
    Box::new(always("unreadable-object", "", format!("the controller could not read this object: {error}"), "correct the field that is named"))
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
    };
    match check::check(case) {
        Ok(granted) => Verdict { findings: vec![], questions: granted.questions },
        Err(Hold::Refuse(because)) => Verdict::new(vec![always("task-refused", "spec", because.message, "")]),
        // GitOps applies in any order: what is missing now may come; the task waits for it.
        Err(Hold::Wait(because)) => Verdict::new(vec![Finding { severity: Severity::Warn, ..always("task-waits", "spec", because.message, "") }]),
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
    match check::authorship(review.user, &world.controller, review.namespace, &new.spec.kubernetes.rules, &before) {
        Ok(questions) => Verdict { findings: vec![], questions },
        Err(because) => Verdict::new(vec![always("scope-refused", "spec.kubernetes.rules", because.message, "")]),
    }
}

/// The finding that a "no" to a question of a scope or task makes.
#[must_use]
pub fn refused(review: &Review<'_>, because: &check::Because) -> Finding {
    let (rule, path) = if review.resource == "taskscopes" { ("scope-refused", "spec.kubernetes.rules") } else { ("task-refused", "spec") };
    always(rule, path, because.message.clone(), "")
}
