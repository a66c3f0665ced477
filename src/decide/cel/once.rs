//! What places below one item ask of their texts, asked once: for which of all these
//! texts it holds. A pattern of seven thousand characters then stands in an expression once,
//! however many places it is for.

use super::super::predicate::{From, Place, Test};
use super::super::site::Step;
use super::Leaf;
use super::reading::{Reader, Truth, optional};
use crate::api::Workloads;

/// Conditions shorter than this are not worth it.
const SHORTEST: usize = 800;

/// A condition that is asked once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// What is asked of a variable `text`.
    pub condition: String,
    /// The variable that holds the texts for which it holds.
    pub answer: String,
    /// The lists of texts it is asked of.
    lists: Vec<String>,
    /// The sites whose texts these are.
    sites: Vec<Vec<Step>>,
}

/// Conditions that are asked once.
#[derive(Debug, Default)]
pub(super) struct Once(Vec<Asked>);

impl Asked {
    /// Whether the texts of a site are among those that it is asked of.
    pub fn covers(&self, site: &[Step]) -> bool {
        self.sites.iter().any(|known| known == site)
    }
}

impl Once {
    /// What these sites, below `this`, ask of their texts whatever else holds.
    pub fn of(leaves: &[(&Leaf<'_>, Vec<Step>)], this: &str, reader: &Reader) -> Self {
        let mut all: Vec<Asked> = vec![];
        for (leaf, steps) in leaves {
            let mut first = vec![];
            asked_first(&leaf.site.when, &mut first);
            let Some(texts) = texts(this, steps) else { continue };
            for condition in first.into_iter().filter_map(|test| Self::condition(test, reader)) {
                let at = all.iter().position(|asked| asked.condition == condition).unwrap_or_else(|| {
                    all.push(Asked { condition, answer: format!("found{}", all.len()), lists: vec![], sites: vec![] });
                    all.len() - 1
                });
                let Asked { lists, sites, .. } = &mut all[at];
                if !lists.contains(&texts) {
                    lists.push(texts.clone());
                    sites.push(leaf.steps.clone());
                }
            }
        }
        // Where one site asks for itself there is nothing to share.
        let mentions =
            |asked: &Asked, leaf: &Leaf<'_>| asked.covers(&leaf.steps) && mentions(&leaf.site.when, &asked.condition, reader);
        all.retain(|asked| leaves.iter().filter(|(leaf, _)| mentions(asked, leaf)).count() > 1);
        Self(all)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn asked(&self) -> &[Asked] {
        &self.0
    }

    /// An expression of a text, with the variables.
    pub fn around(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, Asked { condition, answer, lists, .. }| {
            format!("[({}).filter(text, {condition})].map({answer},\n{text})[0]", lists.join(" +\n"))
        })
    }

    /// A condition on a text and on nothing else, if it is long enough; the text is `text`.
    pub fn condition(test: &Test, reader: &Reader) -> Option<String> {
        if !is_of_text(test) {
            return None;
        }
        match reader.bare("text").holds(test, &Workloads::BUILT_IN) {
            Truth::If(condition) if condition.len() >= SHORTEST => Some(condition),
            _ => None,
        }
    }
}

/// The conditions on the text alone that are asked whatever else holds.
fn asked_first<'t>(test: &'t Test, found: &mut Vec<&'t Test>) {
    match test {
        Test::Any(any) => any.iter().for_each(|one| asked_first(one, found)),
        Test::Not(inner) => asked_first(inner, found),
        test if is_of_text(test) => found.push(test),
        Test::All(all) => all.first().into_iter().for_each(|first| asked_first(first, found)),
        _ => {}
    }
}

/// Whether the condition is asked somewhere in a test.
fn mentions(test: &Test, condition: &str, reader: &Reader) -> bool {
    Once::condition(test, reader).as_deref() == Some(condition)
        || match test {
            Test::Not(inner) => mentions(inner, condition, reader),
            Test::All(many) | Test::Any(many) => many.iter().any(|one| mentions(one, condition, reader)),
            _ => false,
        }
}

/// Whether a condition is about the text that stands at the place, and nothing else.
fn is_of_text(test: &Test) -> bool {
    let is_text = |place: &Place| place.from == From::This && place.path.is_empty();
    match test {
        Test::Not(inner) => is_of_text(inner),
        Test::All(many) | Test::Any(many) => !many.is_empty() && many.iter().all(is_of_text),
        Test::Text(place)
        | Test::OneOf(place, _)
        | Test::StartsWith(place, _)
        | Test::Matches(place, _)
        | Test::Credential(place) => is_text(place),
        _ => false,
    }
}

/// The texts to which these steps lead, a list; none where they enter lists in lists.
fn texts(this: &str, steps: &[Step]) -> Option<String> {
    let member = |step: &Step| match step {
        Step::Member(name) => Some(*name),
        _ => None,
    };
    let first = steps.iter().position(Step::is_entry);
    let path: Vec<&str> = steps[..first.unwrap_or(steps.len())].iter().map(member).collect::<Option<_>>()?;
    let Some(first) = first else {
        let text = if path.is_empty() { this.to_owned() } else { format!("{}.orValue('')", optional(this, &path)) };
        return Some(format!("[string({text})]"));
    };
    let after: Vec<&str> = steps[first + 1..].iter().map(member).collect::<Option<_>>()?;
    let of = |none: &str| if path.is_empty() { this.to_owned() } else { format!("{}.orValue({none})", optional(this, &path)) };
    let one = if after.is_empty() { "one".to_owned() } else { format!("{}.orValue('')", optional("one", &after)) };
    Some(match steps[first] {
        Step::Members => format!("{}.transformList(key, one, string({one}))", of("{}")),
        _ if after.is_empty() => of("[]"),
        _ => format!("{}.map(one, string({one}))", of("[]")),
    })
}
