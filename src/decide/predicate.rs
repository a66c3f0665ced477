//! The few words that rules are made of, with their two readings: here on raw JSON, and in
//! [`cel`](super::cel) as an expression for the API server.
//!
//! A rule names [`Site`](super::site::Site)s: forms of places, such as
//! `spec.C[].env[].valueFrom.secretKeyRef`. What must hold there is a [`Cond`], what is said
//! is a text with places in braces. Both name places by words: `this` is what stands at the
//! site, `container`, `volume`, `source`, `env` and so on the list item that it stands in,
//! `key` the innermost map key, `request.name` the name in the request; anything else is a
//! path from the root of the object, such as `spec.hostPID`. A key with dots is written in
//! brackets: `metadata.labels[mandate.dev/task]`.
//!
//! Everything is resolved once, when the rules are first used, so that nothing is parsed
//! while a review waits.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use regex::Regex;

use super::json::{Read as _, Value};
use super::site::{Item, Scene, Step};
use crate::api::Workloads;

/// A place, in words; see the head of this module.
pub type Term = &'static str;

/// What must hold at a place.
#[derive(Clone, Copy, Debug)]
pub enum Cond {
    /// Nothing more than that something stands there.
    Always,
    /// Not that.
    Not(&'static Cond),
    /// All of them.
    All(&'static [Cond]),
    /// At least one of them.
    Any(&'static [Cond]),
    /// Something stands there, and it is not null.
    Present(Term),
    /// A text of at least one character stands there.
    Text(Term),
    /// The text is this one; what is missing is the empty text.
    Is(Term, &'static str),
    /// The text is one of these.
    OneOf(Term, &'static [&'static str]),
    /// The text begins so.
    StartsWith(Term, &'static str),
    /// The text matches a regular expression (RE2, as the API server's), anywhere in it.
    Matches(Term, &'static str),
    /// The text has a credential of a known form in it; see [`literal`](super::literal), which
    /// has a pattern of it as well.
    Credential(Term),
    /// It is `true`.
    True(Term),
    /// It is `false`; what is missing is not.
    False(Term),
    /// The number is this one.
    Number(Term, i64),
    /// The number, or where there is none the default, is larger than the policy's limit.
    Over(Term, i64, Limit),
    /// Both are the same text, and not empty.
    Same(Term, Term),
    /// A list of more items than this.
    Longer(Term, usize),
    /// Some place of this form, from the root of the object, is so. In the condition `this` is
    /// that place, and the list items it stands in have their names.
    Some(&'static str, &'static Cond),
    /// The object is a template or a manifest: the API server has filled in nothing yet.
    Unadmitted,
    /// Something that only the cluster tells.
    Known(Knowledge),
}

/// A question about what is known beside the object itself.
#[derive(Clone, Copy)]
pub struct Knowledge {
    /// Whether it is so.
    pub look: fn(&Scene<'_, '_>) -> bool,
    /// What of it an expression in the API server cannot see.
    pub lacks: &'static str,
}

impl std::fmt::Debug for Knowledge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Knowledge").field(&self.lacks).finish()
    }
}

/// A number that comes from the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Longest life of a token, in seconds.
    Token,
    /// Longest life of a certificate, in seconds; the API server's least is 3600.
    Certificate,
}

/// The shortest life of a certificate that the API server takes, in seconds.
pub const LEAST_CERTIFICATE: i64 = 3600;

impl Limit {
    /// The number under one policy.
    #[must_use]
    pub fn of(self, workloads: &Workloads) -> i64 {
        let token = workloads.max_token_ttl.as_secs();
        match self {
            Self::Token => token,
            Self::Certificate => token.max(LEAST_CERTIFICATE),
        }
    }
}

/// Where a place begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the site itself.
    This,
    /// At the list item or map member of this depth, the outermost being 0.
    Item(usize),
    /// At the key of the map member of this depth.
    Key(usize),
    /// At the root of the object.
    Root,
    /// At the request.
    Request,
}

/// A resolved place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it begins.
    pub from: From,
    /// The members that lead on from there.
    pub path: Vec<&'static str>,
}

/// A resolved condition.
#[derive(Debug)]
pub enum Test {
    /// See [`Cond::Always`].
    Always,
    /// See [`Cond::Not`].
    Not(Box<Test>),
    /// See [`Cond::All`].
    All(Vec<Test>),
    /// See [`Cond::Any`].
    Any(Vec<Test>),
    /// See [`Cond::Present`].
    Present(Place),
    /// See [`Cond::Text`].
    Text(Place),
    /// See [`Cond::Is`] and [`Cond::OneOf`].
    OneOf(Place, Vec<&'static str>),
    /// See [`Cond::StartsWith`].
    StartsWith(Place, &'static str),
    /// See [`Cond::Matches`].
    Matches(Place, Arc<Regex>),
    /// See [`Cond::Credential`].
    Credential(Place),
    /// See [`Cond::True`] and [`Cond::False`].
    Bool(Place, bool),
    /// See [`Cond::Number`].
    Number(Place, i64),
    /// See [`Cond::Over`].
    Over(Place, i64, Limit),
    /// See [`Cond::Same`].
    Same(Place, Place),
    /// See [`Cond::Longer`].
    Longer(Place, usize),
    /// See [`Cond::Some`]; one entry a form, since `C` stands for three.
    Some(Vec<Vec<Step>>, Box<Test>),
    /// What it says holds as it stands; that it can be answered once for a whole object is
    /// only the cheaper way.
    Shared(Shared, Box<Test>),
    /// See [`Cond::Unadmitted`].
    Unadmitted,
    /// See [`Cond::Known`].
    Known(Knowledge),
}

/// How a [`Test::Some`] is answered once for a whole object. Without it a pod of ten thousand
/// mounts and as many volumes would cost a hundred million looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Which of the [`Answers`] it is.
    slot: usize,
    /// Where the places inside and the one outside must bear the same text: both.
    same: Option<(Place, Place)>,
}

/// What has been answered for a whole object.
#[derive(Debug)]
pub struct Answers(Vec<OnceCell<Answer>>);

#[derive(Debug)]
enum Answer {
    Holds(bool),
    Texts(BTreeSet<String>),
}

impl Answers {
    pub(super) fn none_of(slots: usize) -> Self {
        Self(std::iter::repeat_with(OnceCell::new).take(slots).collect())
    }
}

/// What resolving keeps: a pattern is compiled once, however many places it is asked at.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    patterns: BTreeMap<&'static str, Arc<Regex>>,
    /// How many answers are shared.
    pub(super) slots: usize,
}

impl Resolver {
    fn pattern(&mut self, pattern: &'static str) -> Result<Arc<Regex>, RuleError> {
        if let Some(regex) = self.patterns.get(pattern) {
            return Ok(regex.clone());
        }
        let regex = Arc::new(Regex::new(pattern).map_err(|error| RuleError::Regex(pattern, Box::new(error)))?);
        self.patterns.insert(pattern, regex.clone());
        Ok(regex)
    }

    /// The cheaper way to ask whether some place is so, where there is one.
    fn shared(&mut self, some: Test, outer: usize) -> Test {
        let Test::Some(_, inner) = &some else { return some };
        if outer == 0 || some.is_of_policy() {
            return some;
        }
        let same = match &**inner {
            alone if !alone.leans_on(outer) => None,
            Test::Same(inside, outside) => Some((inside, outside, [].as_slice())),
            Test::All(all) => match all.split_first() {
                Some((Test::Same(inside, outside), rest)) => Some((inside, outside, rest)),
                _ => return some,
            },
            _ => return some,
        };
        let same = match same {
            None => None,
            Some((inside, outside, rest)) => {
                let fits = !inside.leans_on(outer) && outside.is_outside(outer) && !rest.iter().any(|test| test.leans_on(outer));
                if !fits {
                    return some;
                }
                Some((inside.clone(), outside.clone()))
            }
        };
        self.slots += 1;
        Test::Shared(Shared { slot: self.slots - 1, same }, Box::new(some))
    }
}

/// One part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// These words.
    Words(&'static str),
    /// What stands at the place, or else the default.
    Place(Place, &'static str),
    /// A number of the policy.
    Limit(Limit),
}

/// What is wrong in how a rule is written; none of the rules here makes one, which a test
/// shows.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// A regular expression that is none.
    #[error("`{0}` is no regular expression")]
    Regex(&'static str, #[source] Box<regex::Error>),
    /// A brace that is not closed.
    #[error("`{0}` has a brace without its partner")]
    Brace(&'static str),
    /// A place with a character that no place has.
    #[error("`{0}` is no place; a brace that is meant as such is written twice")]
    Place(&'static str),
    /// `key` where nothing has a key.
    #[error("`{0}` speaks of a key at a place that has none")]
    Key(&'static str),
}

/// The path that a text of members writes.
pub(super) fn members(text: &'static str) -> Vec<&'static str> {
    let mut path = vec![];
    let mut rest = text;
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some((key, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            path.push(key);
            rest = after;
            continue;
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        path.push(&rest[..end]);
        rest = &rest[end..];
    }
    path
}

/// Resolves a term at a place that is reached by `steps`.
fn place(term: Term, steps: &[Step]) -> Result<Place, RuleError> {
    if term.is_empty() || !term.chars().all(|c| c.is_ascii_alphanumeric() || "._-/[]".contains(c)) {
        return Err(RuleError::Place(term));
    }
    let end = term.find(['.', '[']).unwrap_or(term.len());
    let (word, rest) = term.split_at(end);
    let item = |name: &str| {
        let entered = steps.iter().filter(|step| step.is_entry());
        entered.enumerate().filter(|(_, step)| step.item_name() == Some(name)).map(|(depth, _)| depth).last()
    };
    let from = match word {
        "this" => From::This,
        "request" => From::Request,
        "key" => {
            let entered = steps.iter().filter(|step| step.is_entry()).enumerate();
            let innermost = entered.filter(|(_, step)| matches!(step, Step::Members)).map(|(depth, _)| depth).last();
            From::Key(innermost.ok_or(RuleError::Key(term))?)
        }
        name => match item(name) {
            Some(depth) => From::Item(depth),
            None => return Ok(Place { from: From::Root, path: members(term) }),
        },
    };
    Ok(Place { from, path: members(rest) })
}

/// Resolves a condition at a place that is reached by `steps`.
pub(super) fn test(cond: &Cond, steps: &[Step], resolver: &mut Resolver) -> Result<Test, RuleError> {
    let at = |term| place(term, steps);
    Ok(match *cond {
        Cond::Always => Test::Always,
        Cond::Not(inner) => Test::Not(Box::new(test(inner, steps, resolver)?)),
        Cond::All(all) => Test::All(all.iter().map(|one| test(one, steps, resolver)).collect::<Result<_, _>>()?),
        Cond::Any(any) => Test::Any(any.iter().map(|one| test(one, steps, resolver)).collect::<Result<_, _>>()?),
        Cond::Present(term) => Test::Present(at(term)?),
        Cond::Text(term) => Test::Text(at(term)?),
        Cond::Is(term, text) => Test::OneOf(at(term)?, vec![text]),
        Cond::OneOf(term, texts) => Test::OneOf(at(term)?, texts.to_vec()),
        Cond::StartsWith(term, start) => Test::StartsWith(at(term)?, start),
        Cond::Matches(term, pattern) => Test::Matches(at(term)?, resolver.pattern(pattern)?),
        Cond::Credential(term) => Test::Credential(at(term)?),
        Cond::True(term) => Test::Bool(at(term)?, true),
        Cond::False(term) => Test::Bool(at(term)?, false),
        Cond::Number(term, number) => Test::Number(at(term)?, number),
        Cond::Over(term, default, limit) => Test::Over(at(term)?, default, limit),
        Cond::Same(one, other) => Test::Same(at(one)?, at(other)?),
        Cond::Longer(term, items) => Test::Longer(at(term)?, items),
        Cond::Some(form, inner) => {
            let forms = super::site::forms(form);
            // The items of the inner form come after those of the outer one.
            let entered: Vec<Step> = steps.iter().filter(|step| step.is_entry()).copied().collect();
            let outer = entered.len();
            let whole: Vec<Step> = entered.into_iter().chain(forms.first().into_iter().flatten().copied()).collect();
            let inner = Box::new(test(inner, &whole, resolver)?);
            resolver.shared(Test::Some(forms, inner), outer)
        }
        Cond::Unadmitted => Test::Unadmitted,
        Cond::Known(knowledge) => Test::Known(knowledge),
    })
}

/// Resolves a text at a place that is reached by `steps`. A brace that is meant as such is
/// written twice.
pub(super) fn text(text: &'static str, steps: &[Step]) -> Result<Vec<Part>, RuleError> {
    let mut parts = vec![];
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (words, braces) = rest.split_at(at);
        if braces.starts_with("{{") || braces.starts_with("}}") {
            parts.push(Part::Words(&rest[..=at]));
            rest = &braces[2..];
            continue;
        }
        if !words.is_empty() {
            parts.push(Part::Words(words));
        }
        let (inside, after) = braces.strip_prefix('{').and_then(|rest| rest.split_once('}')).ok_or(RuleError::Brace(text))?;
        let (term, default) = inside.split_once('|').unwrap_or((inside, ""));
        parts.push(match term {
            "maxToken" => Part::Limit(Limit::Token),
            "maxCertificate" => Part::Limit(Limit::Certificate),
            term => Part::Place(place(term, steps)?, default),
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Words(rest));
    }
    Ok(parts)
}

/// What a place leads to.
enum Found<'a> {
    Value(&'a Value<'a>),
    Text(&'a str),
}

impl Place {
    /// Whether it begins at one of the outermost items, of which there are `outer`.
    fn is_outside(&self, outer: usize) -> bool {
        match self.from {
            From::Item(depth) | From::Key(depth) => depth < outer,
            From::Root | From::Request => true,
            From::This => false,
        }
    }

    /// Whether what it leads to hangs on which of the outermost items it is asked at.
    fn leans_on(&self, outer: usize) -> bool {
        matches!(self.from, From::Item(depth) | From::Key(depth) if depth < outer)
    }

    fn find<'a>(&self, scene: &Scene<'a, '_>) -> Option<Found<'a>> {
        let start = match self.from {
            From::This => scene.this,
            From::Item(depth) => scene.items.get(depth)?.value,
            From::Key(depth) => return Some(Found::Text(scene.items.get(depth)?.key?)),
            From::Request => return (self.path == ["name"]).then_some(Found::Text(scene.subject.name)),
            From::Root => {
                let (first, rest) = self.path.split_first()?;
                return scene.subject.root.member(first)?.at(rest).map(Found::Value);
            }
        };
        start.at(&self.path).filter(|value| !value.is_null()).map(Found::Value)
    }

    /// The text there, or the empty text.
    pub(super) fn text<'a>(&self, scene: &Scene<'a, '_>) -> &'a str {
        match self.find(scene) {
            Some(Found::Text(text)) => text,
            Some(Found::Value(value)) => value.as_str().unwrap_or_default(),
            None => "",
        }
    }

    fn value<'a>(&self, scene: &Scene<'a, '_>) -> Option<&'a Value<'a>> {
        match self.find(scene) {
            Some(Found::Value(value)) => Some(value),
            _ => None,
        }
    }

    fn number(&self, scene: &Scene<'_, '_>) -> Option<i64> {
        self.value(scene).and_then(super::json::whole)
    }
}

impl Test {
    /// Whether it depends on what the policy says.
    pub(super) fn is_of_policy(&self) -> bool {
        match self {
            Self::Over(..) => true,
            Self::Not(inner) | Self::Some(_, inner) | Self::Shared(_, inner) => inner.is_of_policy(),
            Self::All(many) | Self::Any(many) => many.iter().any(Self::is_of_policy),
            _ => false,
        }
    }

    /// Whether the answer hangs on which of the outermost items it is asked at.
    fn leans_on(&self, outer: usize) -> bool {
        match self {
            Self::Always | Self::Unadmitted => false,
            Self::Not(inner) | Self::Some(_, inner) | Self::Shared(_, inner) => inner.leans_on(outer),
            Self::All(many) | Self::Any(many) => many.iter().any(|one| one.leans_on(outer)),
            Self::Present(place)
            | Self::Text(place)
            | Self::OneOf(place, _)
            | Self::StartsWith(place, _)
            | Self::Matches(place, _)
            | Self::Credential(place)
            | Self::Bool(place, _)
            | Self::Number(place, _)
            | Self::Over(place, ..)
            | Self::Longer(place, _) => place.leans_on(outer),
            Self::Same(one, other) => one.leans_on(outer) || other.leans_on(outer),
            Self::Known(_) => true,
        }
    }

    /// Whether it holds.
    pub(super) fn holds(&self, scene: &Scene<'_, '_>, workloads: &Workloads) -> bool {
        match self {
            Self::Always => true,
            Self::Not(inner) => !inner.holds(scene, workloads),
            Self::All(all) => all.iter().all(|one| one.holds(scene, workloads)),
            Self::Any(any) => any.iter().any(|one| one.holds(scene, workloads)),
            Self::Present(place) => place.find(scene).is_some(),
            Self::Text(place) => !place.text(scene).is_empty(),
            Self::OneOf(place, texts) => texts.contains(&place.text(scene)),
            Self::StartsWith(place, start) => place.text(scene).starts_with(start),
            Self::Matches(place, regex) => regex.is_match(place.text(scene)),
            Self::Credential(place) => super::literal::is_known(place.text(scene)),
            Self::Bool(place, wanted) => place.value(scene).and_then(Value::as_bool) == Some(*wanted),
            Self::Number(place, number) => place.number(scene) == Some(*number),
            Self::Over(place, default, limit) => place.number(scene).unwrap_or(*default) > limit.of(workloads),
            Self::Same(one, other) => {
                let text = one.text(scene);
                !text.is_empty() && text == other.text(scene)
            }
            Self::Longer(place, items) => matches!(place.value(scene), Some(Value::Array(list)) if list.len() > *items),
            Self::Some(forms, inner) => forms.iter().any(|form| {
                let mut found = false;
                scene.subject.root.visit(form, &mut scene.items.to_vec(), &mut |this, items: &[Item<'_>]| {
                    found = found || inner.holds(&Scene { this, items, ..*scene }, workloads);
                });
                found
            }),
            Self::Shared(shared, some) => some.shared(shared, scene, workloads),
            Self::Unadmitted => scene.subject.unadmitted,
            Self::Known(knowledge) => (knowledge.look)(scene),
        }
    }

    /// Whether it holds, asked once for the whole object.
    fn shared(&self, Shared { slot, same }: &Shared, scene: &Scene<'_, '_>, workloads: &Workloads) -> bool {
        let Some(answer) = scene.answers.0.get(*slot) else { return self.holds(scene, workloads) };
        let Some((inside, outside)) = same else {
            return matches!(answer.get_or_init(|| Answer::Holds(self.holds(scene, workloads))), Answer::Holds(true));
        };
        let text = outside.text(scene);
        let texts = answer.get_or_init(|| Answer::Texts(self.texts(inside, scene, workloads)));
        matches!(texts, Answer::Texts(texts) if !text.is_empty() && texts.contains(text))
    }

    /// The texts that places inside bear, where all that is asked beside the text holds.
    fn texts(&self, inside: &Place, scene: &Scene<'_, '_>, workloads: &Workloads) -> BTreeSet<String> {
        let mut texts = BTreeSet::new();
        let Self::Some(forms, inner) = self else { return texts };
        let rest = match &**inner {
            Self::All(all) => all.get(1..).unwrap_or_default(),
            _ => &[],
        };
        for form in forms {
            scene.subject.root.visit(form, &mut scene.items.to_vec(), &mut |this, items: &[Item<'_>]| {
                let here = Scene { this, items, ..*scene };
                if rest.iter().all(|test| test.holds(&here, workloads)) {
                    texts.insert(inside.text(&here).to_owned());
                }
            });
        }
        texts
    }
}

/// A text, as it reads at a place under a policy. `unnamed` says what a list item or map member
/// of some depth is called that has no name.
pub(super) fn write(parts: &[Part], scene: &Scene<'_, '_>, workloads: &Workloads, unnamed: &dyn Fn(usize) -> String) -> String {
    let mut text = String::new();
    for part in parts {
        // INVARIANT: writing to a String cannot fail.
        let _ = match part {
            Part::Words(words) => text.write_str(words),
            Part::Limit(limit) => write!(text, "{}", limit.of(workloads)),
            Part::Place(place, default) => match place.find(scene) {
                Some(Found::Text(found)) => text.write_str(found),
                Some(Found::Value(Value::Str(found))) => text.write_str(found),
                Some(Found::Value(value)) => match super::json::whole(value) {
                    Some(number) => write!(text, "{number}"),
                    None => text.write_str(default),
                },
                None => match place {
                    Place { from: From::Item(depth), path } if default.is_empty() && path == &["name"] => {
                        text.write_str(&unnamed(*depth))
                    }
                    _ => text.write_str(default),
                },
            },
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_dots_are_written_in_brackets() {
        assert_eq!(members("metadata.labels[mandate.dev/task].x"), ["metadata", "labels", "mandate.dev/task", "x"]);
        assert_eq!(members(""), Vec::<&str>::new());
    }

    #[test]
    fn a_brace_that_is_meant_as_such_is_written_twice() {
        assert_eq!(text("a {{b: {spec.c|d}}}", &[]).unwrap().len(), 4);
        for wrong in ["a {b", "a b}", "{b: c}", "{}"] {
            assert!(text(wrong, &[]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_are_resolved_by_the_lists_around_them() {
        let steps = &super::super::site::forms("spec.containers[].env[].value")[0];
        assert_eq!(place("container.name", steps).unwrap(), Place { from: From::Item(0), path: vec!["name"] });
        assert_eq!(place("env.name", steps).unwrap(), Place { from: From::Item(1), path: vec!["name"] });
        assert_eq!(place("this", steps).unwrap(), Place { from: From::This, path: vec![] });
        assert_eq!(place("spec.hostPID", steps).unwrap(), Place { from: From::Root, path: vec!["spec", "hostPID"] });
        assert!(place("key", steps).is_err());
    }
}
