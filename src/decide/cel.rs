//! The second reading of rules: the same findings in the same words, as expressions of CEL for
//! the ValidatingAdmissionPolicies of an API server, which hold with Mandate down.
//!
//! In: what kind of object and where in it to look ([`Ground`]), what the policies ask, and a
//! severity. Out: the [`variables`] of one policy, among them `findings`, a list, and `text`,
//! which tells them; and what of the rules cannot be said so ([`gaps`]).
//!
//! What needs more than the object ([`Cond::Known`](super::predicate::Cond::Known)) is read as
//! *not found*: a policy that refused by a guess would refuse what is right. What is lost that
//! way is listed, never silent. Whatever goes wrong in an expression, its limit of cost too,
//! refuses (`failurePolicy: Fail`).
//!
//! The expressions are for Kubernetes 1.32 or newer (comprehensions with two variables). When
//! it checks types the API server knows the object by its schema, and when it evaluates as maps:
//! both must do.

mod gap;
mod once;
mod reading;

use std::collections::BTreeMap;

pub use gap::{Extent, Gap, gaps};
use once::Once;
use reading::{LISTS, Reader, Said, Truth, any_of, indented, literal, member, said};

use super::admit::{MANDATE, TO_COME, severity};
use super::finding::Severity;
use super::pod::CONTAINER_LISTS;
use super::rule::Level;
use super::site::{On, Ready, Step, program};
use super::world::Asked;
use crate::api::{RuleSetting, Workloads};

/// Stands between the fields of a record: rule, path, message, and ending.
const FIELD: &str = "\u{1f}";
/// Stands after every record.
const RECORD: &str = "\u{1e}";
/// Most findings that are told; more than a message can hold.
const TOLD: usize = 40;

/// What the objects of one policy have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ground {
    /// What the rules take it for.
    pub on: On,
    /// Where in the object it stands, such as `spec.template`; empty for the object itself.
    pub at: &'static str,
    /// Whether pods are made from the object: nothing in it refuses, it warns of what its pods
    /// will meet.
    pub makes_pods: bool,
    /// Whether only what stands in its `metadata` is looked at.
    pub metadata_alone: bool,
}

impl Ground {
    /// Objects of a kind.
    #[must_use]
    pub const fn whole(on: On) -> Self {
        Self { on, at: "", makes_pods: matches!(on, On::StatefulSet), metadata_alone: false }
    }

    /// Templates of pods at this place.
    #[must_use]
    pub const fn template(at: &'static str) -> Self {
        Self { at, makes_pods: true, ..Self::whole(On::Pod) }
    }

    /// Whether the API server has yet to fill in what it fills in.
    fn is_unadmitted(self) -> bool {
        self.on == On::Pod && self.makes_pods
    }

    /// What a finding weighs here.
    fn weigh(self, severity: Severity) -> Severity {
        if self.makes_pods { severity.min(Severity::Warn) } else { severity }
    }

    /// The object, or its old version, where it is to be looked at.
    fn of(self, version: &str) -> String {
        if self.at.is_empty() { version.to_owned() } else { format!("{version}.{}", self.at) }
    }
}

/// A named expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name: `variables.<name>`.
    pub name: String,
    /// What it is.
    pub expression: String,
}

/// The variables of one policy: `findings`, what they are made of, and `text`, which tells them
/// on one line. None where nothing can be found at this severity.
#[must_use]
pub fn variables(ground: Ground, asked: &[Asked], severity: Severity) -> Option<Vec<Variable>> {
    let (mut book, reader) = (Book::default(), Reader::new(ground));
    let mut found = vec![];
    for (name, tree) in trees(ground, asked, severity) {
        let pieces = tree.asked_once(reader.root(), &reader, |reader| tree.pieces(reader.root(), reader, &mut book));
        if !pieces.is_empty() {
            found.push((name, format!("variables.versions.map({}, {})", reader.root(), indented(&any_of(&pieces)))));
        }
    }
    if found.is_empty() {
        return None;
    }
    let whole: Vec<String> = found.iter().map(|(name, _)| format!("variables.{name}[i]")).collect();
    let records = format!(
        "variables.versions.transformList(i, version, {})\n  .map(text, text.split({record}).filter(one, one != '').map(one, one.split({field})))",
        whole.join(" + "),
        record = literal(RECORD),
        field = literal(FIELD)
    );
    let versions = format!(
        "request.operation == 'UPDATE' ? [{}, {}] : [{}]",
        ground.of("object"),
        ground.of("oldObject"),
        ground.of("object")
    );
    let first = [("versions".to_owned(), versions), ("endings".to_owned(), book.map())];
    let last = [("records".to_owned(), records), ("findings".to_owned(), NEW.to_owned()), ("text".to_owned(), text())];
    Some(first.into_iter().chain(found).chain(last).map(|(name, expression)| Variable { name, expression }).collect())
}

/// Of an update only what the request itself makes wrong: by rule and words, not by place, since
/// an item that moves in its list is no news. A record that does not have its four fields was
/// tampered with, and counts as new.
const NEW: &str = "variables.records[0].filter(new, new.size() != 4 || variables.records.size() < 2 ||
  !variables.records[1].exists(old, old.size() == 4 && old[0] == new[0] && old[2] == new[2]))";

/// The findings as people read them, like [`Finding`](super::finding::Finding).
fn text() -> String {
    let told = "'[' + f[0] + '] ' + (f[1] == '' ? '' : f[1] + ': ') + f[2] +
      (f[3] in variables.endings ? variables.endings[f[3]] : f[3])";
    format!(
        "string(variables.findings.size()) + (variables.findings.size() == 1 ? ' finding' : ' findings') +
  variables.findings.transformList(i, f, i < {TOLD},
    ' | ' + (f.size() == 4 ? {told} : f.join(' '))).join('').replace('\\n', ' ')"
    )
}

/// The endings of findings, help and policy: many findings share one.
#[derive(Default)]
struct Book {
    endings: Vec<String>,
}

impl Book {
    /// The key of an ending.
    fn key(&mut self, ending: String) -> String {
        let known = self.endings.iter().position(|known| *known == ending);
        known
            .unwrap_or_else(|| {
                self.endings.push(ending);
                self.endings.len() - 1
            })
            .to_string()
    }

    fn map(&self) -> String {
        let entries = self.endings.iter().enumerate().map(|(key, ending)| format!("  '{key}': {}", literal(ending)));
        // A map needs an entry to have a type.
        let entries: Vec<String> = entries.chain(self.endings.is_empty().then(|| "  '': ''".to_owned())).collect();
        format!("{{\n{}\n}}", entries.join(",\n"))
    }
}

/// What one policy makes of one site.
struct Case<'a> {
    severity: Severity,
    policy: &'a str,
    workloads: &'a Workloads,
    setting: Option<&'a RuleSetting>,
}

/// What the policies make of a site, the gravest first.
fn cases<'a>(site: &Ready, asked: &'a [Asked]) -> Vec<Case<'a>> {
    if site.rule.level == Level::Always {
        static OWN: Workloads = Workloads::BUILT_IN;
        return vec![Case { severity: Severity::Deny, policy: MANDATE, workloads: &OWN, setting: None }];
    }
    let of = |policy: &'a Asked| {
        let Asked { policy: name, workloads, .. } = policy;
        Some(Case { severity: severity(site.rule, policy)?, policy: name, workloads, setting: workloads.setting(site.rule.id) })
    };
    let mut cases: Vec<Case<'a>> = asked.iter().filter_map(of).collect();
    cases.sort_by_key(|case| std::cmp::Reverse(case.severity));
    cases
}

/// A text where a condition holds, and else the empty text.
struct Piece {
    /// None where it always holds, or where the text is empty if there is nothing to find.
    when: Option<String>,
    text: String,
}

/// A site with what the policies make of it.
struct Leaf<'a> {
    site: &'a Ready,
    /// See [`of_any_list`].
    steps: Vec<Step>,
    cases: Vec<Case<'a>>,
    severity: Severity,
    ground: Ground,
}

/// Sites by the steps that lead to them.
#[derive(Default)]
struct Tree<'a> {
    members: Vec<(&'static str, Tree<'a>)>,
    items: Option<(&'static str, Box<Tree<'a>>)>,
    entries: Option<Box<Tree<'a>>>,
    here: Vec<Leaf<'a>>,
}

/// The sites that can find something of this severity, in trees that become a variable each:
/// one expression has a limit of cost, so the lists that can be long stand by themselves.
fn trees<'a>(ground: Ground, asked: &'a [Asked], severity: Severity) -> BTreeMap<String, Tree<'a>> {
    let mut trees: BTreeMap<String, Tree<'a>> = BTreeMap::new();
    for site in program().sites(ground.on) {
        if ground.metadata_alone && site.steps.first() != Some(&Step::Member("metadata")) {
            continue;
        }
        let cases = cases(site, asked);
        let Some(steps) = of_any_list(site) else { continue };
        if cases.iter().any(|case| ground.weigh(case.severity) == severity) {
            trees
                .entry(variable_of(&steps, site.rule.id))
                .or_default()
                .put(&steps, Leaf { site, steps: steps.clone(), cases, severity, ground });
        }
    }
    trees
}

/// The step into whichever of the three lists of containers the variable `list` names.
const ANY_LIST: Step = Step::Member("C");

/// The steps to a site; where it stands alike in each of the three lists of containers, once
/// for all of them.
fn of_any_list(site: &Ready) -> Option<Vec<Step>> {
    if !site.at.starts_with("spec.C[]") {
        return Some(site.steps.clone());
    }
    in_any_list(&site.steps)
}

/// The steps in any list of containers, made of those in the first.
fn in_any_list(steps: &[Step]) -> Option<Vec<Step>> {
    match steps {
        [spec, Step::Member(list), rest @ ..] if *list == CONTAINER_LISTS[0] => Some([&[*spec, ANY_LIST], rest].concat()),
        _ => None,
    }
}

/// The variable that a site belongs to, named after the list it stands in. Lists in lists can be
/// so long that each rule has a variable to itself.
fn variable_of(steps: &[Step], rule: &str) -> String {
    let member = |at: usize| match steps.get(at) {
        Some(&ANY_LIST) => Some("containers"),
        Some(Step::Member(name)) if name.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Some(*name),
        _ => None,
    };
    let (first, at) = match (member(0), member(1)) {
        (Some("spec"), Some(second)) => (second, 2),
        (Some(first), _) => (first, 1),
        (None, _) => return "whole".to_owned(),
    };
    match member(at + 1) {
        Some(second) if steps.get(at).is_some_and(Step::is_entry) && steps.get(at + 2).is_some_and(Step::is_entry) => {
            format!("{first}_{second}_{}", rule.replace('-', "_"))
        }
        _ => first.to_owned(),
    }
}

impl<'a> Tree<'a> {
    fn put(&mut self, steps: &[Step], leaf: Leaf<'a>) {
        let Some((step, rest)) = steps.split_first() else { return self.here.push(leaf) };
        let next = match step {
            Step::Member(name) => {
                let at = self.members.iter().position(|(member, _)| member == name).unwrap_or_else(|| {
                    self.members.push((name, Self::default()));
                    self.members.len() - 1
                });
                &mut self.members[at].1
            }
            Step::Items(name) => &mut self.items.get_or_insert_with(|| (name, Box::default())).1,
            Step::Members => self.entries.get_or_insert_default(),
        };
        next.put(rest, leaf);
    }

    /// What there is to find at `this`, an expression of something that is there, and below.
    fn pieces(&self, this: &str, reader: &Reader, book: &mut Book) -> Vec<Piece> {
        let mut pieces: Vec<Piece> =
            self.here.iter().flat_map(|leaf| leaf.pieces(&reader.at_site(this, &leaf.steps), book)).collect();
        for (name, below) in &self.members {
            if Step::Member(name) == ANY_LIST {
                let inner = below.pieces(&Reader::any_list(this), reader, book);
                let text = format!("{LISTS}.map(list,\n  {}).join('')", indented(&any_of(&inner)));
                pieces.extend((!inner.is_empty()).then_some(Piece { when: None, text }));
                continue;
            }
            let (is_there, value) = member(this, name);
            let mut inner = below.pieces(&value, reader, book);
            pieces.extend(match inner.pop() {
                None => None,
                Some(Piece { when, text }) if inner.is_empty() => {
                    let when = when.map_or_else(|| is_there.clone(), |when| format!("{is_there} && {when}"));
                    Some(Piece { when: Some(when), text })
                }
                Some(last) => {
                    inner.push(last);
                    Some(Piece { when: Some(is_there), text: any_of(&inner) })
                }
            });
        }
        pieces.extend(self.items.as_ref().and_then(|(name, below)| below.each(this, &reader.enter(name), book)));
        pieces.extend(self.entries.as_ref().and_then(|below| below.each(this, &reader.enter_members(), book)));
        pieces
    }

    /// What `find` finds, with what several places below `this` ask of their texts asked once.
    fn asked_once(&self, this: &str, reader: &Reader, find: impl FnOnce(&Reader) -> Vec<Piece>) -> Vec<Piece> {
        let mut leaves = vec![];
        self.leaves(&mut vec![], &mut leaves);
        // In lists it is asked for each item.
        leaves.retain(|(_, steps)| this != reader.root() || !steps.iter().any(|step| matches!(step, Step::Items(_))));
        let once = Once::of(&leaves, this, reader);
        let pieces = find(&reader.knowing(&once));
        if pieces.is_empty() || once.is_empty() {
            pieces
        } else {
            vec![Piece { when: None, text: once.around(&any_of(&pieces)) }]
        }
    }

    /// Every site here and below, with the steps that lead there from here.
    fn leaves<'b>(&'b self, steps: &mut Vec<Step>, found: &mut Vec<(&'b Leaf<'a>, Vec<Step>)>) {
        found.extend(self.here.iter().map(|leaf| (leaf, steps.clone())));
        let members = self.members.iter().map(|(name, below)| (Step::Member(name), below));
        let items = self.items.iter().map(|(name, below)| (Step::Items(name), &**below));
        let entries = self.entries.iter().map(|below| (Step::Members, &**below));
        for (step, below) in members.chain(items).chain(entries) {
            steps.push(step);
            below.leaves(steps, found);
            steps.pop();
        }
    }

    /// The same for every item of `list`, which `reader` has entered.
    fn each(&self, list: &str, reader: &Reader, book: &mut Book) -> Option<Piece> {
        let item = reader.innermost()?;
        let inner = if reader.is_first_list() {
            self.asked_once(&item.value, reader, |reader| self.pieces(&item.value, reader, book))
        } else {
            self.pieces(&item.value, reader, book)
        };
        let inner = match inner.as_slice() {
            [] => return None,
            [Piece { when: Some(when), text }] => format!("{when},\n{text}"),
            many => any_of(many),
        };
        let each = format!("{list}.transformList({}, {},\n  {}).join('')", item.index, item.value, indented(&inner));
        Some(Piece { when: None, text: each })
    }
}

impl Leaf<'_> {
    fn pieces(&self, reader: &Reader, book: &mut Book) -> Vec<Piece> {
        let Self { site, steps, cases, severity, ground } = self;
        let mut pieces = vec![];
        // Where two policies find the same, the graver one speaks; see `admit`.
        let mut before: Vec<(Vec<Said>, Truth)> = vec![];
        for case in cases {
            let allowed =
                site.allow.as_ref().zip(case.setting).map_or(Truth::No, |(place, setting)| reader.allows(place, setting));
            let broken = reader.holds(&site.when, case.workloads).and(allowed.not());
            let message = reader.text(&site.message, steps, case.workloads);
            let mut when = broken.clone();
            for (_, other) in before.iter().filter(|(words, _)| *words == message) {
                when = if *other == broken { Truth::No } else { when.and(other.clone().not()) };
            }
            if when != Truth::No && ground.weigh(case.severity) == *severity {
                pieces.push(Piece { when: when.condition(), text: self.record(&message, case, reader, book) });
            }
            before.push((message, broken));
        }
        pieces
    }

    /// One finding, as a record.
    fn record(&self, message: &[Said], case: &Case<'_>, reader: &Reader, book: &mut Book) -> String {
        let Self { site, steps, ground, .. } = self;
        let help = reader.text(&site.help, steps, case.workloads);
        let to_come = if ground.weigh(case.severity) == case.severity { "" } else { TO_COME };
        let message = [&[Said::Words(to_come.to_owned())], message].concat();
        let policy = Said::Words(format!(" ({})", case.policy));
        let ending: Vec<Said> = match help.as_slice() {
            [] => vec![policy],
            help => [&[Said::Words("; help: ".to_owned())], help, &[policy]].concat(),
        };
        let ending = match said(ending).as_slice() {
            [Said::Words(words)] => vec![Said::Words(book.key(words.clone()))],
            other => other.to_vec(),
        };
        let field = || vec![Said::Words(FIELD.to_owned())];
        let id = vec![Said::Words(site.rule.id.to_owned())];
        let path = reader.path(ground.at, steps, site.field);
        let end = vec![Said::Words(RECORD.to_owned())];
        let parts = said([id, field(), path, field(), message, field(), ending, end].concat());
        let parts: Vec<String> = parts.iter().map(Said::expression).collect();
        format!("[{}].join('')", parts.join(", "))
    }
}

#[cfg(test)]
mod tests;
