//! The findings in everything that stands, added up: small, and the same whatever the order in
//! which it was looked at.
//!
//! A pass over one kind in one namespace is opened, every object is put, and the pass is
//! closed: what was not seen in it is gone. In between, single changes come as they happen.
//! Nothing may be told of a namespace before its passes are closed ([`Ledger::is_complete`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::{SCANNED, Scanned, Standing, folded, judge};
use crate::api::Violations;
use crate::decide::finding::Severity;
use crate::decide::json::{Read as _, Value};
use crate::decide::world::World;

/// Most bytes of texts that are kept for all objects together; past that findings are counted
/// and their texts are not kept.
const ROOM: usize = 16 * 1024 * 1024;

/// Findings by namespace and object.
#[derive(Debug, Default)]
pub struct Ledger {
    namespaces: BTreeMap<String, Page>,
    texts: Texts,
}

#[derive(Debug, Default)]
struct Page {
    /// By kind and name; those in which nothing is found are not there.
    objects: BTreeMap<(&'static str, Box<str>), Entry>,
    passes: BTreeMap<&'static str, Pass>,
    /// By the UID of the waiver.
    uses: BTreeMap<Box<str>, Use>,
    revision: u64,
}

/// What is kept of one object.
#[derive(Debug)]
pub(super) struct Entry {
    pub uid: u128,
    pass: u32,
    pub findings: Arc<[Standing]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pass {
    number: u32,
    is_closed: bool,
}

/// How a waiver was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// How many objects came to stand because of it.
    pub count: i64,
    /// When the latest of them was seen.
    pub last: Option<Timestamp>,
    /// What is older was counted before this process began.
    pub since: Option<Timestamp>,
}

/// What a waiver covers now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Covers {
    /// How many objects.
    pub count: i64,
    /// The first of them, as `Kind/name`.
    pub objects: Vec<String>,
}

impl Ledger {
    /// Opens a pass over everything of one kind.
    pub fn open(&mut self, namespace: &str, kind: &Scanned) {
        let pass = self.page(namespace).passes.entry(kind.kind).or_default();
        *pass = Pass { number: pass.number.wrapping_add(1), is_closed: false };
    }

    /// Closes the pass: what was not seen in it is gone.
    pub fn close(&mut self, namespace: &str, kind: &Scanned) {
        let page = self.page(namespace);
        let pass = page.passes.entry(kind.kind).or_default();
        pass.is_closed = true;
        let number = pass.number;
        page.objects.retain(|(of, _), entry| *of != kind.kind || entry.pass == number);
        page.revision += 1;
        self.texts.forget_unused();
    }

    /// What is known of a namespace is not to be told until every pass is closed anew.
    pub fn reopen(&mut self, namespace: &str) {
        self.page(namespace).passes.values_mut().for_each(|pass| pass.is_closed = false);
    }

    /// Whether everything in a namespace has been looked at.
    #[must_use]
    pub fn is_complete(&self, namespace: &str) -> bool {
        self.namespaces
            .get(namespace)
            .is_some_and(|page| SCANNED.iter().all(|kind| page.passes.get(kind.kind).is_some_and(|pass| pass.is_closed)))
    }

    /// Grows with every change.
    #[must_use]
    pub fn revision(&self, namespace: &str) -> u64 {
        self.namespaces.get(namespace).map_or(0, |page| page.revision)
    }

    /// Looks at one object, as it now is.
    pub fn put(&mut self, world: &World, namespace: &str, kind: &Scanned, object: &Value<'_>, now: Timestamp) {
        let none = Value::Null;
        let metadata = object.member("metadata").unwrap_or(&none);
        let name = metadata.text("name");
        let findings = judge(world, namespace, kind, name, object, now);
        let uid = number(metadata.text("uid"));
        let created = metadata.text("creationTimestamp").parse::<Timestamp>().ok();
        let findings = (!findings.is_empty()).then(|| self.texts.keep(findings));
        let page = self.page(namespace);
        let key = (kind.kind, Box::from(name));
        let pass = page.passes.get(kind.kind).copied().unwrap_or_default().number;
        let before = page.objects.get(&key).filter(|entry| entry.uid == uid);
        let Some(findings) = findings else {
            page.revision += u64::from(page.objects.remove(&key).is_some());
            return;
        };
        let waived_before: Vec<&str> = before.into_iter().flat_map(|entry| waivers(&entry.findings)).collect();
        let new: BTreeSet<&str> = waivers(&findings).filter(|waiver| !waived_before.contains(waiver)).collect();
        let seeds = world.namespaces.get(namespace).into_iter().flat_map(|here| here.waivers.values());
        for waiver in seeds.filter(|waiver| new.contains(waiver.uid.as_str())) {
            let seed = || {
                let last = waiver.status.last_used.as_ref().map(|at| at.0);
                Use { count: waiver.status.uses, last, since: last }
            };
            let known = page.uses.entry(waiver.uid.as_str().into()).or_insert_with(seed);
            if known.since.is_none_or(|since| created.is_none_or(|created| created > since)) {
                known.count += 1;
                known.last = Some(now);
            }
        }
        if before.is_none_or(|entry| entry.findings != findings) {
            page.revision += 1;
        }
        page.objects.insert(key, Entry { uid, pass, findings });
    }

    /// An object is gone.
    pub fn remove(&mut self, namespace: &str, kind: &Scanned, name: &str) {
        let page = self.page(namespace);
        page.revision += u64::from(page.objects.remove(&(kind.kind, Box::from(name))).is_some());
    }

    /// The number of findings that are told in a namespace, by rule and severity.
    #[must_use]
    pub fn counts(&self, namespace: &str) -> BTreeMap<(&'static str, Severity), u64> {
        let mut counts = BTreeMap::new();
        for finding in self.findings(namespace).filter(|finding| finding.is_told) {
            *counts.entry((finding.rule, finding.severity)).or_default() += u64::from(finding.places);
        }
        counts
    }

    /// What stands in a namespace against each policy, by the policy's name as findings have it.
    #[must_use]
    pub fn by_policy(&self, namespace: &str) -> BTreeMap<&str, Violations> {
        let mut counts: BTreeMap<&str, Violations> = BTreeMap::new();
        for finding in self.findings(namespace) {
            let of = counts.entry(&finding.policy).or_default();
            let count = match finding.severity {
                Severity::Deny => &mut of.deny,
                Severity::Warn => &mut of.warn,
                Severity::Audit => &mut of.audit,
            };
            *count += i64::from(finding.places);
        }
        counts
    }

    /// How a waiver was used; none where nothing came to stand because of it since this
    /// process began.
    #[must_use]
    pub fn uses(&self, namespace: &str, uid: &str) -> Option<Use> {
        self.namespaces.get(namespace)?.uses.get(uid).copied()
    }

    /// What each waiver of a namespace covers now, by its UID.
    #[must_use]
    pub fn covers(&self, namespace: &str, most: usize) -> BTreeMap<&str, Covers> {
        let mut all: BTreeMap<&str, Covers> = BTreeMap::new();
        for ((kind, name), entry) in self.objects(namespace) {
            for waiver in waivers(&entry.findings).collect::<BTreeSet<_>>() {
                let covers = all.entry(waiver).or_default();
                covers.count += 1;
                if covers.objects.len() < most {
                    covers.objects.push(format!("{kind}/{name}"));
                }
            }
        }
        all
    }

    /// Forgets how waivers were used that are there no more.
    pub fn forget_waivers(&mut self, namespace: &str, there: &BTreeSet<&str>) {
        self.page(namespace).uses.retain(|uid, _| there.contains(&**uid));
    }

    /// How many different sets of findings are kept.
    #[cfg(test)]
    pub(super) fn distinct(&self) -> usize {
        self.texts.known.len()
    }

    /// Every object in which something is found, by kind and name.
    pub(super) fn objects(&self, namespace: &str) -> impl Iterator<Item = (&(&'static str, Box<str>), &Entry)> {
        self.namespaces.get(namespace).into_iter().flat_map(|page| &page.objects)
    }

    fn findings(&self, namespace: &str) -> impl Iterator<Item = &Standing> {
        self.objects(namespace).flat_map(|(_, entry)| entry.findings.iter())
    }

    fn page(&mut self, namespace: &str) -> &mut Page {
        if !self.namespaces.contains_key(namespace) {
            self.namespaces.insert(namespace.to_owned(), Page::default());
        }
        self.namespaces.entry(namespace.to_owned()).or_default()
    }
}

/// The UIDs of the waivers among findings.
fn waivers(findings: &[Standing]) -> impl Iterator<Item = &str> {
    findings.iter().filter_map(|finding| finding.waiver.as_ref().map(|(_, uid)| &**uid))
}

/// A UID as a number; 0 where it is none.
fn number(uid: &str) -> u128 {
    let digits: String = uid.chars().filter(|c| *c != '-').collect();
    if digits.len() == 32 { u128::from_str_radix(&digits, 16).unwrap_or_default() } else { 0 }
}

/// Findings that many objects share, each kept once.
#[derive(Debug, Default)]
struct Texts {
    known: BTreeSet<Arc<[Standing]>>,
    bytes: usize,
}

impl Texts {
    fn keep(&mut self, findings: Vec<Standing>) -> Arc<[Standing]> {
        if let Some(known) = self.known.get(findings.as_slice()) {
            return known.clone();
        }
        let findings = if self.bytes > ROOM { folded(findings) } else { findings };
        if let Some(known) = self.known.get(findings.as_slice()) {
            return known.clone();
        }
        let new: Arc<[Standing]> = findings.into();
        self.bytes += size(&new);
        self.known.insert(new.clone());
        new
    }

    fn forget_unused(&mut self) {
        self.known.retain(|findings| Arc::strong_count(findings) > 1);
        self.bytes = self.known.iter().map(|findings| size(findings)).sum();
    }
}

fn size(findings: &[Standing]) -> usize {
    findings.iter().map(|finding| size_of::<Standing>() + finding.path.len() + finding.message.len() + finding.policy.len()).sum()
}
