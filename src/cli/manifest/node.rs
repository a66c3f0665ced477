//! A document as a tree in which every field knows where it is written.
//!
//! Out of it come the object as `decide` judges it, and the place of any field that a finding
//! names. Nothing here knows YAML.

use std::fmt;

use crate::decide::json::Value;

/// A place in a file: line and column, in characters, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Position {
    /// Where every file begins.
    pub const START: Self = Self { line: 1, column: 1 };

    /// A byte of a text.
    pub fn of(text: &str, byte: usize) -> Self {
        let end = (0..=byte.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        let before = &text[..end];
        let line = before.rfind('\n').map_or(0, |end| end + 1);
        Self { line: before.bytes().filter(|byte| *byte == b'\n').count() + 1, column: before[line..].chars().count() + 1 }
    }

    /// This place in a text that itself begins at `start`.
    pub fn after(self, start: Self) -> Self {
        let column = if self.line == 1 { self.column + start.column - 1 } else { self.column };
        Self { line: self.line + start.line - 1, column }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub at: Position,
    /// The value.
    pub what: What,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Nothing.
    Null,
    /// A truth.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number that is too large for [`What::Int`].
    Large(u64),
    /// A number with a fraction.
    Float(f64),
    /// A text.
    Text(Box<str>),
    /// A list.
    List(Vec<Node>),
    /// An object; each key is there once.
    Object(Vec<Member>),
}

/// A member of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name.
    pub key: Box<str>,
    /// Where the name stands.
    pub at: Position,
    /// Its value.
    pub value: Node,
}

impl What {
    /// A text.
    pub fn text(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl Node {
    /// The members of an object; none where it is not one.
    pub fn members(&self) -> &[Member] {
        match &self.what {
            What::Object(members) => members,
            _ => &[],
        }
    }

    /// A member, where there is one.
    pub fn member(&self, key: &str) -> Option<&Self> {
        self.members().iter().find(|member| &*member.key == key).map(|member| &member.value)
    }

    /// The text of a member, or the empty text.
    pub fn text(&self, key: &str) -> &str {
        self.member(key).and_then(Self::as_text).unwrap_or_default()
    }

    /// A text.
    pub fn as_text(&self) -> Option<&str> {
        match &self.what {
            What::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as it is judged.
    pub fn value(&self) -> Value<'_> {
        match &self.what {
            What::Null => Value::Null,
            What::Bool(bool) => Value::Bool(*bool),
            What::Int(number) => (*number).into(),
            What::Large(number) => (*number).into(),
            What::Float(number) => (*number).into(),
            What::Text(text) => Value::from(&**text),
            What::List(items) => Value::Array(items.iter().map(Self::value).collect()),
            What::Object(members) => Value::Object(members.iter().map(|member| (&*member.key, member.value.value())).collect()),
        }
    }

    /// What stands at a path such as `spec.containers[0].env` or
    /// `metadata.labels['mandate.dev/task']`.
    pub fn at<'a>(&'a self, path: &str) -> Option<&'a Self> {
        let Found { node, rest, .. } = self.walk(path);
        rest.is_empty().then_some(node)
    }

    /// Where a path leads: its key, or the nearest field above that is written down.
    pub fn locate(&self, path: &str) -> Position {
        self.walk(path).at
    }

    fn walk<'a, 'p>(&'a self, path: &'p str) -> Found<'a, 'p> {
        let mut found = Found { node: self, at: self.at, rest: path };
        while let Some(next) = found.node.step(found.rest) {
            found = next;
        }
        found
    }

    /// One member or item further, where that is there.
    fn step<'a, 'p>(&'a self, path: &'p str) -> Option<Found<'a, 'p>> {
        if path.is_empty() {
            return None;
        }
        match &self.what {
            What::List(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let node = items.get(index.parse::<usize>().ok()?)?;
                Some(Found { node, at: node.at, rest })
            }
            What::Object(members) => {
                let (member, rest) = match path.strip_prefix("['") {
                    Some(quoted) => {
                        let (key, rest) = quoted.split_once("']")?;
                        (members.iter().find(|member| &*member.key == key)?, rest)
                    }
                    // A key may hold dots itself: the longest one that is written there.
                    None => {
                        let path = path.strip_prefix('.').unwrap_or(path);
                        let fits = members.iter().filter_map(|member| {
                            let rest = path.strip_prefix(&*member.key)?;
                            (rest.is_empty() || rest.starts_with(['.', '['])).then_some((member, rest))
                        });
                        fits.max_by_key(|(member, _)| member.key.len())?
                    }
                };
                Some(Found { node: &member.value, at: member.at, rest })
            }
            _ => None,
        }
    }
}

/// How far a path could be followed.
struct Found<'a, 'p> {
    node: &'a Node,
    at: Position,
    rest: &'p str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::manifest::build::Read;

    fn located(text: &str, path: &str) -> (usize, usize) {
        let read = Read::of(text);
        let at = read.documents[0].locate(path);
        (at.line, at.column)
    }

    const POD: &str = "kind: Pod\nmetadata:\n  annotations:\n    a.b/c: x\n    a.b: y\nspec:\n  containers:\n  - name: a\n    env:\n    - {name: n, valueFrom: {secretKeyRef: {name: s}}}\n";

    #[test]
    fn a_path_leads_to_its_key() {
        assert_eq!(located(POD, "spec.containers[0].env[0].valueFrom.secretKeyRef"), (10, 29));
        assert_eq!(located(POD, "metadata.annotations['a.b/c']"), (4, 5));
        assert_eq!(located(POD, "metadata.annotations.a.b"), (5, 5));
        assert_eq!(located(POD, "spec.containers[0]"), (8, 5));
    }

    #[test]
    fn a_field_that_is_not_there_is_placed_at_the_nearest_above() {
        assert_eq!(located(POD, "spec.automountServiceAccountToken"), (6, 1));
        assert_eq!(located(POD, "spec.containers[0].env[7].valueFrom"), (9, 5));
        assert_eq!(located(POD, "spec.containers[1].env"), (7, 3));
        assert_eq!(located(POD, "type"), (1, 1));
        assert_eq!(located(POD, ""), (1, 1));
        assert_eq!(located(POD, "spec..[']["), (6, 1));
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(located("{\"ä€😀\": {\"k\": 1}}", "ä€😀.k"), (1, 10));
        assert_eq!(Position::of("ä\n€x", 6), Position { line: 2, column: 2 });
    }
}
