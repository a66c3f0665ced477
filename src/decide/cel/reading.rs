//! Conditions and texts of one site as expressions.

use std::fmt::Write as _;

use super::super::literal as credential;
use super::super::predicate::{From, Part, Place, Test};
use super::super::site::{On, Step};
use super::once::{Asked, Once};
use super::{ANY_LIST, Ground, Piece, in_any_list};
use crate::api::{RuleSetting, Workloads};

/// A list item or map member that was entered on the way.
#[derive(Clone, Debug)]
pub(super) struct Entered {
    /// The variable that holds its index, or its key.
    pub index: String,
    /// The variable that holds it.
    pub value: String,
    is_in_list: bool,
}

/// Reads what is written about one place.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    ground: Ground,
    root: &'static str,
    this: String,
    items: Vec<Entered>,
    /// What stands in the place of what only the cluster knows.
    unknown: bool,
    /// What is asked of many texts once.
    once: Vec<Asked>,
}

/// A condition, as far as it is not known already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    No,
    Yes,
    If(String),
}

impl Truth {
    /// The condition, of what can hold and need not.
    pub fn condition(self) -> Option<String> {
        match self {
            Self::If(condition) => Some(condition),
            Self::No | Self::Yes => None,
        }
    }

    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, other) => other,
            (one, Self::Yes) => one,
            (Self::If(one), Self::If(other)) => Self::If(format!("{one} && {other}")),
        }
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::No, other) => other,
            (one, Self::No) => one,
            // In parentheses, so that it can stand in any other condition.
            (Self::If(one), Self::If(other)) => Self::If(format!("({one} || {other})")),
        }
    }

    pub fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Yes => Self::No,
            Self::If(condition) => Self::If(format!("!({condition})")),
        }
    }
}

/// One part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// These words.
    Words(String),
    /// An expression of a text.
    Value(String),
}

impl Said {
    pub fn expression(&self) -> String {
        match self {
            Self::Words(words) => literal(words),
            Self::Value(value) => value.clone(),
        }
    }
}

/// The same with words that follow each other as one.
pub(super) fn said(parts: Vec<Said>) -> Vec<Said> {
    let mut all: Vec<Said> = vec![];
    for part in parts {
        match (all.last_mut(), part) {
            (_, Said::Words(words)) if words.is_empty() => {}
            (Some(Said::Words(before)), Said::Words(words)) => before.push_str(&words),
            (_, part) => all.push(part),
        }
    }
    all
}

/// All of these texts, one after the other.
pub(super) fn any_of(pieces: &[Piece]) -> String {
    let texts = pieces.iter().map(|Piece { when, text }| match when {
        Some(when) => format!("({when} ?\n  {} : '')", indented(text)),
        None => text.clone(),
    });
    texts.collect::<Vec<_>>().join(" +\n")
}

/// Lines after the first stand further in.
pub(super) fn indented(text: &str) -> String {
    text.replace('\n', "\n  ")
}

/// A text as CEL writes it.
pub(super) fn literal(text: &str) -> String {
    let mut all = String::with_capacity(text.len() + 2);
    all.push('\'');
    for c in text.chars() {
        match c {
            '\\' => all.push_str(r"\\"),
            '\'' => all.push_str(r"\'"),
            '\n' => all.push_str(r"\n"),
            // INVARIANT: writing to a String cannot fail.
            c if c.is_control() => _ = write!(all, "\\u{:04x}", u32::from(c)),
            c => all.push(c),
        }
    }
    all.push('\'');
    all
}

/// The lists of containers, in the order in which they are walked.
pub(super) const LISTS: &str = "['initContainers', 'containers', 'ephemeralContainers']";

/// Words that CEL keeps for itself; as members of an object its checker wants them escaped,
/// and its evaluation does not.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Members that the API server's types write as null where they are empty (`json` without
/// `omitempty`, k8s.io/api v0.37): there and not there at once.
const NULLABLE: [&str; 9] =
    ["audiences", "boundObjectRef", "containers", "expirationSeconds", "monitors", "requests", "rules", "secretRef", "sources"];

/// The same of texts.
const NULLABLE_TEXTS: [&str; 2] = ["apiGroup", "secretNamespace"];

/// Whether the name can stand after a dot.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.contains("__")
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether something has this member, and the member.
pub(super) fn member(of: &str, name: &str) -> (String, String) {
    match (is_name(name), RESERVED.contains(&name)) {
        (true, false) => {
            let unless_null = if NULLABLE.contains(&name) { format!(" && dyn({of}.{name}) != null") } else { String::new() };
            (format!("has({of}.{name}){unless_null}"), format!("{of}.{name}"))
        }
        (true, true) => (format!("has(dyn({of}).{name})"), format!("dyn({of}).{name}")),
        // The key of a map.
        (false, _) => (format!("{} in {of}", literal(name)), format!("{of}[{}]", literal(name))),
    }
}

/// A member that may be missing, of something that may be missing.
pub(super) fn optional(of: &str, path: &[&str]) -> String {
    path.iter().fold(of.to_owned(), |of, name| match (is_name(name), RESERVED.contains(name)) {
        (true, false) => format!("{of}.?{name}"),
        (true, true) => format!("dyn({of}).?{name}"),
        (false, _) => format!("{of}[?{}]", literal(name)),
    })
}

impl Reader {
    /// At the object itself.
    pub fn new(ground: Ground) -> Self {
        let root = if ground.on == On::Pod { "pod" } else { "whole" };
        Self { ground, root, this: root.to_owned(), items: vec![], unknown: false, once: vec![] }
    }

    /// At a place that these steps lead to.
    pub fn of(steps: &[Step], ground: Ground) -> Self {
        steps.iter().fold(Self::new(ground), |reader, step| match step {
            Step::Member(name) => reader.at(&member(&reader.this, name).1),
            Step::Items(name) => reader.enter(name),
            Step::Members => reader.enter_members(),
        })
    }

    /// The items of whichever list of containers `list` names.
    pub fn any_list(spec: &str) -> String {
        format!("dyn({spec})[?list].orValue([])")
    }

    /// Whether only one item was entered, and that one of a list.
    pub fn is_first_list(&self) -> bool {
        matches!(self.items.as_slice(), [only] if only.is_in_list)
    }

    /// With the answers to what is asked once.
    pub fn knowing(&self, once: &Once) -> Self {
        Self { once: [self.once.as_slice(), once.asked()].concat(), ..self.clone() }
    }

    /// The variable of the object.
    pub fn root(&self) -> &'static str {
        self.root
    }

    /// At a place, an expression of something that is there.
    pub fn at(&self, this: &str) -> Self {
        Self { this: this.to_owned(), ..self.clone() }
    }

    /// At a site, which these steps lead to.
    pub fn at_site(&self, this: &str, steps: &[Step]) -> Self {
        let once = self.once.iter().filter(|asked| asked.covers(steps)).cloned().collect();
        Self { this: this.to_owned(), once, ..self.clone() }
    }

    /// At a place where nothing is asked already.
    pub fn bare(&self, this: &str) -> Self {
        Self { this: this.to_owned(), once: vec![], ..self.clone() }
    }

    /// In an item of a list whose items are called so.
    pub fn enter(&self, name: &str) -> Self {
        self.entered(if is_name(name) && !RESERVED.contains(&name) { name } else { "item" }, true)
    }

    /// In a member of a map.
    pub fn enter_members(&self) -> Self {
        self.entered("member", false)
    }

    fn entered(&self, name: &str, is_in_list: bool) -> Self {
        let is_taken = |name: &str| name == self.root || self.items.iter().any(|item| item.value == name);
        let value = if is_taken(name) { format!("{name}{}", self.items.len()) } else { name.to_owned() };
        let mut inner = self.at(&value);
        inner.items.push(Entered { index: format!("{value}{}", if is_in_list { "Index" } else { "Key" }), value, is_in_list });
        inner
    }

    /// What was entered last.
    pub fn innermost(&self) -> Option<&Entered> {
        self.items.last()
    }

    /// With what only the cluster knows taken for this.
    pub fn with_unknown(&self, unknown: bool) -> Self {
        Self { unknown, ..self.clone() }
    }

    /// Where a place begins, and what leads on from there.
    fn place<'p>(&self, place: &'p Place) -> (String, &'p [&'static str]) {
        let item = |depth: usize| self.items.get(depth);
        let start = match place.from {
            From::This => self.this.clone(),
            From::Item(depth) => item(depth).map_or_else(|| "''".to_owned(), |item| item.value.clone()),
            From::Key(depth) => item(depth).map_or_else(|| "''".to_owned(), |item| item.index.clone()),
            From::Root => self.root.to_owned(),
            // Templates are asked about by the name of what they stand in; their pods have none yet.
            From::Request if self.ground.is_unadmitted() => return ("''".to_owned(), &[]),
            From::Request => "request".to_owned(),
        };
        (start, &place.path)
    }

    /// What stands there, or else the default, an expression.
    fn value(&self, place: &Place, default: &str) -> String {
        match self.place(place) {
            (value, []) => value,
            (start, path) => {
                let value = format!("{}.orValue({default})", optional(&start, path));
                match path.last() {
                    Some(last) if NULLABLE_TEXTS.contains(last) => {
                        format!("(type(dyn({value})) == string ? {value} : {default})")
                    }
                    _ => value,
                }
            }
        }
    }

    fn word(&self, place: &Place) -> String {
        self.value(place, "''")
    }

    /// Whether a condition holds, under the numbers of a policy.
    pub fn holds(&self, test: &Test, workloads: &Workloads) -> Truth {
        let holds = |test: &Test| self.holds(test, workloads);
        let is_asked = |asked: &&Asked| Once::condition(test, self).as_ref() == Some(&asked.condition);
        if let Some(Asked { answer, .. }) = self.once.iter().find(is_asked) {
            return Truth::If(format!("{} in {answer}", self.this));
        }
        match test {
            Test::Always => Truth::Yes,
            Test::Not(inner) => self.with_unknown(!self.unknown).holds(inner, workloads).not(),
            Test::All(all) => all.iter().fold(Truth::Yes, |so_far, one| so_far.and(holds(one))),
            Test::Any(any) => any.iter().fold(Truth::No, |so_far, one| so_far.or(holds(one))),
            Test::Present(place) => match self.place(place) {
                (_, []) => Truth::Yes,
                (start, path) => Truth::If(format!("{}.hasValue()", optional(&start, path))),
            },
            Test::Text(place) => Truth::If(format!("{} != ''", self.word(place))),
            Test::OneOf(place, texts) => Truth::If(match texts.as_slice() {
                [one] => format!("{} == {}", self.word(place), literal(one)),
                many => {
                    format!("{} in [{}]", self.word(place), many.iter().map(|one| literal(one)).collect::<Vec<_>>().join(", "))
                }
            }),
            Test::StartsWith(place, start) => Truth::If(format!("{}.startsWith({})", self.word(place), literal(start))),
            Test::Matches(place, regex) => Truth::If(format!("{}.matches({})", self.word(place), literal(regex.as_str()))),
            // The cheaper pattern first: in the API server a look costs by the length of the pattern.
            Test::Credential(place) => {
                let text = self.word(place);
                let looks = [credential::MARK, credential::HINT, credential::KNOWN];
                Truth::If(looks.map(|pattern| format!("{text}.matches({})", literal(pattern))).join(" && "))
            }
            // What is missing is neither.
            Test::Bool(place, true) => Truth::If(self.value(place, "false")),
            Test::Bool(place, false) => Truth::If(format!("!{}", self.value(place, "true"))),
            Test::Number(place, number) => {
                Truth::If(format!("{} == {number}", self.value(place, if *number == 0 { "1" } else { "0" })))
            }
            Test::Over(place, default, limit) => {
                Truth::If(format!("{} > {}", self.value(place, &default.to_string()), limit.of(workloads)))
            }
            Test::Same(one, other) => {
                let text = self.word(one);
                Truth::If(format!("{text} != '' && {text} == {}", self.word(other)))
            }
            Test::Longer(place, items) => Truth::If(format!("{}.size() > {items}", self.value(place, "[]"))),
            Test::Some(forms, inner) => {
                let any: Option<Vec<Step>> = forms.first().filter(|_| forms.len() > 1).and_then(|form| in_any_list(form));
                let forms = any.map_or_else(|| forms.clone(), |form| vec![form]);
                forms.iter().fold(Truth::No, |so_far, form| so_far.or(self.bare(self.root).some(form, inner, workloads)))
            }
            Test::Shared(_, some) => holds(some),
            Test::Unadmitted if self.ground.is_unadmitted() => Truth::Yes,
            Test::Unadmitted => Truth::No,
            Test::Known(_) if self.unknown => Truth::Yes,
            Test::Known(_) => Truth::No,
        }
    }

    /// Whether there is a place of this form, from here, where the condition holds.
    fn some(&self, form: &[Step], inner: &Test, workloads: &Workloads) -> Truth {
        let Some((step, rest)) = form.split_first() else { return self.holds(inner, workloads) };
        if *step == ANY_LIST {
            return match self.at(&Self::any_list(&self.this)).some(rest, inner, workloads) {
                Truth::If(condition) => Truth::If(format!("{LISTS}.exists(list, {condition})")),
                known => known,
            };
        }
        let entered = match step {
            Step::Member(name) => {
                let (is_there, value) = member(&self.this, name);
                return Truth::If(is_there).and(self.at(&value).some(rest, inner, workloads));
            }
            Step::Items(name) => self.enter(name),
            Step::Members => self.enter_members(),
        };
        let Some(Entered { index, value, .. }) = entered.innermost() else { return Truth::No };
        match entered.some(rest, inner, workloads) {
            Truth::No => Truth::No,
            Truth::Yes => Truth::If(format!("{}.size() > 0", self.this)),
            Truth::If(condition) => Truth::If(format!("{}.exists({index}, {value}, {condition})", self.this)),
        }
    }

    /// Whether a policy's `allow` names what stands at a place.
    pub fn allows(&self, place: &Place, setting: &RuleSetting) -> Truth {
        let text = self.word(place);
        let (beginnings, whole): (Vec<&str>, Vec<&str>) =
            setting.allow.iter().map(String::as_str).partition(|allowed| allowed.ends_with('*'));
        let whole = match whole.as_slice() {
            [] => Truth::No,
            whole => Truth::If(format!("{text} in [{}]", whole.iter().map(|one| literal(one)).collect::<Vec<_>>().join(", "))),
        };
        beginnings.iter().fold(whole, |so_far, beginning| {
            so_far.or(Truth::If(format!("{text}.startsWith({})", literal(beginning.trim_end_matches('*')))))
        })
    }

    /// A text at a site that these steps lead to, under the numbers of a policy.
    pub fn text(&self, parts: &[Part], steps: &[Step], workloads: &Workloads) -> Vec<Said> {
        let parts = parts.iter().map(|part| match part {
            Part::Words(words) => Said::Words((*words).to_owned()),
            Part::Limit(limit) => Said::Words(limit.of(workloads).to_string()),
            Part::Place(place, default) => {
                let default = match (place, *default) {
                    // What has no name is called by its place.
                    (Place { from: From::Item(depth), path }, "") if path == &["name"] => self.called(*depth, steps),
                    // What has a number for default is one.
                    (_, number) if number.parse::<i64>().is_ok() => number.to_owned(),
                    (_, default) => literal(default),
                };
                Said::Value(format!("string({})", self.value(place, &default)))
            }
        });
        said(parts.collect())
    }

    /// What a list item or map member of this depth is called that has no name.
    fn called(&self, depth: usize, steps: &[Step]) -> String {
        let entered = steps.iter().enumerate().filter(|(_, step)| step.is_entry()).nth(depth);
        let (Some((at, entry)), Some(item)) = (entered, self.items.get(depth)) else { return literal("") };
        let list = match steps.get(at.wrapping_sub(1)) {
            Some(&ANY_LIST) => "list".to_owned(),
            Some(Step::Member(name)) => literal(name),
            _ => literal(""),
        };
        let (open, close) = if matches!(entry, Step::Members) { ("['", "']") } else { ("[", "]") };
        format!("{list} + {} + string({}) + {}", literal(open), item.index, literal(close))
    }

    /// The path of a place that these steps lead to, in an object that holds it at `at`.
    pub fn path(&self, at: &str, steps: &[Step], field: &str) -> Vec<Said> {
        let (mut path, mut items) = (vec![Said::Words(at.to_owned())], self.items.iter());
        let mut is_first = at.is_empty();
        for step in steps {
            match step {
                &ANY_LIST => path.extend([Said::Words(".".to_owned()), Said::Value("list".to_owned())]),
                Step::Member(name) => path.push(Said::Words(format!("{}{name}", if is_first { "" } else { "." }))),
                Step::Items(_) | Step::Members => {
                    let (open, close) = if matches!(step, Step::Members) { ("['", "']") } else { ("[", "]") };
                    let index = items.next().map_or_else(|| literal(""), |item| format!("string({})", item.index));
                    path.extend([Said::Words(open.to_owned()), Said::Value(index), Said::Words(close.to_owned())]);
                }
            }
            is_first = false;
        }
        path.push(Said::Words(if is_first { field.trim_start_matches('.') } else { field }.to_owned()));
        said(path)
    }
}
