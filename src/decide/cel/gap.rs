//! What of the rules no expression can say, and what it would need.

use std::collections::BTreeSet;

use super::super::predicate::Test;
use super::super::rule::{RULES, Rule};
use super::super::site::{Ready, program};
use super::Ground;
use super::reading::{Reader, Truth};
use crate::api::Workloads;

/// How much of a rule is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Some of what it finds.
    Part,
    /// All of it.
    Whole,
}

/// A rule that expressions cannot say.
#[derive(Clone, Debug)]
pub struct Gap {
    /// The rule.
    pub rule: &'static Rule,
    /// How much of it is missing.
    pub extent: Extent,
    /// What they lack to say it.
    pub lacks: BTreeSet<&'static str>,
}

/// The rules that expressions about these objects cannot say, in the order of their names.
#[must_use]
pub fn gaps(grounds: &[Ground]) -> Vec<Gap> {
    RULES.iter().filter_map(|rule| gap(rule, grounds)).collect()
}

fn gap(rule: &'static Rule, grounds: &[Ground]) -> Option<Gap> {
    let mut lacks: BTreeSet<&'static str> = rule.code.iter().map(|code| code.lacks).collect();
    let mut says_some = false;
    for ground in grounds {
        for site in program().sites(ground.on).filter(|site| site.rule.id == rule.id) {
            let (least, most) = between(site, *ground);
            says_some |= least != Truth::No;
            if least != most {
                needs(&site.when, &mut lacks);
            }
        }
    }
    let extent = if says_some { Extent::Part } else { Extent::Whole };
    (!lacks.is_empty()).then_some(Gap { rule, extent, lacks })
}

/// When a site is broken for certain, and when it may be.
fn between(site: &Ready, ground: Ground) -> (Truth, Truth) {
    let reader = Reader::of(&site.steps, ground);
    (reader.holds(&site.when, &Workloads::BUILT_IN), reader.with_unknown(true).holds(&site.when, &Workloads::BUILT_IN))
}

fn needs(test: &Test, lacks: &mut BTreeSet<&'static str>) {
    match test {
        Test::Known(knowledge) => _ = lacks.insert(knowledge.lacks),
        Test::Not(inner) | Test::Some(_, inner) | Test::Shared(_, inner) => needs(inner, lacks),
        Test::All(many) | Test::Any(many) => many.iter().for_each(|one| needs(one, lacks)),
        _ => {}
    }
}
