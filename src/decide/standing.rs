//! What stands in a cluster and would not be let in today: pods that were admitted before
//! Mandate came, while it was down, or before a policy asked for more.
//!
//! One object at a time goes in, as raw as the API server has it, and comes out as the few
//! [`Standing`] findings that are kept of it; the [`Ledger`] adds them up. Of an object in
//! which nothing is found nothing is kept, and equal findings (pods of one template) are kept
//! once, so that memory does not grow with the number of pods.
//!
//! What is only about the moment of admission is left out: that a task was over when its pod
//! started, that a policy could not be read.

pub mod ledger;
pub mod report;

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::admit;
use super::finding::{Finding, Severity};
use super::json::Value;
use super::pod;
use super::waive::{Identity, Waiver};
use super::world::{Asked, World};
use crate::api::{RuleName, WaivedObject};

pub use ledger::Ledger;

/// A kind of which everything that stands in guarded namespaces is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Scanned {
    /// API group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural resource.
    pub resource: &'static str,
    /// Which of them, as a field selector; empty for all.
    pub fields: &'static str,
}

/// Secrets are not among them: whoever may list their names may read them all, and the
/// controller reads none.
pub const SCANNED: &[Scanned] = &[
    // What is over holds nothing any more.
    Scanned { group: "", version: "v1", kind: "Pod", resource: "pods", fields: "status.phase!=Succeeded,status.phase!=Failed" },
    Scanned { group: "", version: "v1", kind: "ServiceAccount", resource: "serviceaccounts", fields: "" },
];

/// One finding as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// What would happen because of it today.
    pub severity: Severity,
    /// The rule.
    pub rule: &'static str,
    /// The field; empty where several places are one entry.
    pub path: Box<str>,
    /// What is wrong there.
    pub message: Box<str>,
    /// The policy that asks for it.
    pub policy: Box<str>,
    /// The waiver that lets it pass: its name and UID.
    pub waiver: Option<(Box<str>, Box<str>)>,
    /// Whether it is the one that is told, where several policies find the same.
    pub is_told: bool,
    /// How many places it stands for.
    pub places: u32,
}

/// Most findings of one object that are kept with their texts; the others are counted.
const MOST: usize = 32;
/// Longest text that is kept, in characters.
const LONGEST: usize = 320;

/// Everything that is found in one object, each policy's findings by themselves.
#[must_use]
pub fn judge(world: &World, namespace: &str, kind: &Scanned, name: &str, object: &Value<'_>, now: Timestamp) -> Vec<Standing> {
    let (asked, _) = world.asked_of_pods(namespace);
    let itself = Identity::new(kind.group, kind.kind, name);
    let under = |policy: Option<&Asked>| admit::stands(world, namespace, itself.clone(), object, policy, now);
    let mut findings = under(None);
    findings.extend(asked.iter().flat_map(|policy| under(Some(policy))));
    let task = pod::task_label(object);
    let task_is_gone = task.is_some_and(|task| world.task(namespace, task).is_none());
    findings.retain(|finding| match finding.rule {
        "dead-task" | "unreadable-policy" => false,
        // What a task owned goes with it, and nobody can say any more whether it was its own.
        "other-tasks-credentials" => !task_is_gone,
        _ => true,
    });
    kept(findings)
}

/// Findings as they are kept: gravest first, the same for the same object.
fn kept(mut findings: Vec<Finding>) -> Vec<Standing> {
    // Of the same place the graver one is told, then the one that stands first.
    findings.sort_by(|a, b| {
        let place = |f: &Finding| (f.rule, f.path.clone(), f.message.clone());
        place(a).cmp(&place(b)).then(b.severity.cmp(&a.severity))
    });
    let mut all: Vec<Standing> = vec![];
    let mut last: Option<(&'static str, String, String)> = None;
    for Finding { rule, severity, path, message, help: _, policy, waiver } in findings {
        let place = Some((rule, path, message));
        let is_told = place != last;
        if let Some((_, path, message)) = &place {
            all.push(Standing {
                severity,
                rule,
                path: cut(path),
                message: cut(message),
                policy: policy.into(),
                waiver: waiver.map(|waived| (waived.waiver.rsplit('/').next().unwrap_or_default().into(), waived.uid.into())),
                is_told,
                places: 1,
            });
        }
        last = place;
    }
    all.sort_by(|a, b| b.is_told.cmp(&a.is_told).then(b.severity.cmp(&a.severity)).then_with(|| a.cmp(b)));
    if all.len() > MOST {
        let rest = folded(all.split_off(MOST));
        all.extend(rest);
    }
    all
}

/// Findings of one rule and policy as one each, without their texts.
fn folded(findings: Vec<Standing>) -> Vec<Standing> {
    let mut sums: BTreeMap<Standing, u32> = BTreeMap::new();
    for finding in findings {
        let places = finding.places;
        let bare = Standing { path: "".into(), message: "".into(), places: 0, ..finding };
        let sum = sums.entry(bare).or_default();
        *sum = sum.saturating_add(places);
    }
    sums.into_iter().map(|(bare, places)| Standing { places, ..bare }).collect()
}

fn cut(text: &str) -> Box<str> {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// What the verdict on everything in one namespace hangs on. Where it differs from what it
/// was, all is to be looked at anew; where a policy's status or a waiver's count of uses is
/// written, it does not.
#[derive(Clone, Debug, PartialEq)]
pub struct Basis {
    asked: Vec<Asked>,
    waivers: Vec<Counting>,
}

#[derive(Clone, Debug, PartialEq)]
struct Counting {
    name: String,
    uid: String,
    created: Option<Timestamp>,
    expires_at: Timestamp,
    rules: Vec<RuleName>,
    objects: Vec<WaivedObject>,
}

impl Basis {
    /// What it hangs on at this moment: a waiver that is over counts no more.
    #[must_use]
    pub fn of(world: &World, namespace: &str, now: Timestamp) -> Self {
        let waivers = world.namespaces.get(namespace).into_iter().flat_map(|here| &here.waivers);
        let counting = waivers.filter(|(_, waiver)| !waiver.is_expired(now)).map(|(name, waiver)| {
            let Waiver { uid, created, generation: _, owner: _, expires_at, rules, objects, status: _ } = waiver.clone();
            Counting { name: name.clone(), uid, created, expires_at, rules, objects }
        });
        Self { asked: world.asked_of_pods(namespace).0, waivers: counting.collect() }
    }

    /// When it changes by itself.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        self.waivers.iter().map(|waiver| waiver.expires_at).min()
    }
}

#[cfg(test)]
mod tests;
