//! A file of test cases: YAML, read to its last field. What is misspelled would test nothing.

use std::path::Path;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::manifest::document;
use super::super::manifest::node::{Node, Position, What};
use super::super::scene::{Ended, Wish};
use crate::api::Duration;
use crate::decide::authorize::Outcome;

/// When cases begin, where the file does not say: a Monday at noon, so that rules on hours of the
/// week give the same answer every day.
const BEGIN: &str = "2026-01-05T12:00:00Z";

/// A file of test cases.
pub(super) struct File {
    /// Paths from the file's own directory.
    pub manifests: Vec<String>,
    /// Namespace of manifests and tasks that name none.
    pub namespace: String,
    /// When each case begins.
    pub at: Timestamp,
    /// The cases.
    pub cases: Vec<Case>,
}

/// One case.
pub(super) struct Case {
    /// What it shows.
    pub name: String,
    /// Where it stands.
    pub at: Position,
    /// The task that acts.
    pub task: String,
    /// What it does, in this order.
    pub steps: Vec<Step>,
}

/// One thing that a task does.
pub(super) struct Step {
    /// Where it stands.
    pub at: Position,
    /// `server/tool`.
    pub tool: String,
    /// When.
    pub when: Option<Timestamp>,
    /// How long after the step before.
    pub after: Option<Duration>,
    /// How it ended, where outcomes are reported.
    pub reported: Ended,
    /// The answer.
    pub expected: Expected,
    /// What is asked; server and tool are still to be found.
    pub wish: Wish,
}

/// The answer that is expected.
pub(super) struct Expected {
    /// Yes, no, or not without a person.
    pub outcome: Outcome,
    /// Code of a reason.
    pub code: Option<String>,
    /// Rule of a reason: its name, or with its object.
    pub rule: Option<String>,
    /// Words of a reason.
    pub words: Option<String>,
    /// For how many seconds it may be used again.
    pub cache_for: Option<u32>,
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its place.
    pub fn read(path: &Path) -> Result<Self, Vec<String>> {
        let root = document(path).map_err(|problem| {
            let at = problem.at.map(|at| format!(":{at}")).unwrap_or_default();
            vec![format!("{}{at}: {}", problem.file, problem.message)]
        })?;
        let mut reader = Reader { file: path.display().to_string(), problems: vec![] };
        let file = reader.file(&root);
        match file {
            Some(file) if reader.problems.is_empty() => Ok(file),
            _ => Err(reader.problems),
        }
    }
}

/// Reads, and collects what is wrong.
struct Reader {
    file: String,
    problems: Vec<String>,
}

impl Reader {
    fn say(&mut self, at: Position, message: &str) {
        self.problems.push(format!("{}:{at}: {message}", self.file));
    }

    /// Whether a node is an object of these fields alone.
    fn is_of(&mut self, node: &Node, what: &str, fields: &[&str]) -> bool {
        if !matches!(node.what, What::Object(_)) {
            self.say(node.at, &format!("{what} must be an object with the fields {}", fields.join(", ")));
            return false;
        }
        for member in node.members().iter().filter(|member| !fields.contains(&&*member.key)) {
            self.say(member.at, &format!("{what} has no field `{}`; it has: {}", member.key, fields.join(", ")));
        }
        true
    }

    /// A field, where it is there.
    fn field<T: DeserializeOwned>(&mut self, node: &Node, name: &str) -> Option<T> {
        let member = node.member(name)?;
        match serde_json::from_value(Value::from(member.value())) {
            Ok(value) => Some(value),
            Err(error) => {
                self.say(node.locate(name), &format!("`{name}`: {error}"));
                None
            }
        }
    }

    /// A field that must be there.
    fn needed<T: DeserializeOwned>(&mut self, node: &Node, what: &str, name: &str) -> Option<T> {
        if node.member(name).is_none() {
            self.say(node.at, &format!("{what} needs `{name}`"));
            return None;
        }
        self.field(node, name)
    }

    /// The entries of a list that must be there and hold something.
    fn list<'a>(&mut self, node: &'a Node, what: &str, name: &str) -> &'a [Node] {
        match node.member(name).map(|member| &member.what) {
            Some(What::List(items)) if !items.is_empty() => items,
            _ => {
                self.say(node.locate(name), &format!("{what} needs a list `{name}` with at least one entry"));
                &[]
            }
        }
    }

    fn file(&mut self, root: &Node) -> Option<File> {
        if !self.is_of(root, "a test file", &["manifests", "namespace", "at", "cases"]) {
            return None;
        }
        let manifests: Option<Vec<String>> = self.needed(root, "a test file", "manifests");
        let namespace: Option<String> = self.field(root, "namespace");
        let begin: Option<Timestamp> = match root.member("at") {
            None => BEGIN.parse().ok(),
            Some(_) => self.field(root, "at"),
        };
        let cases: Vec<Case> = self.list(root, "a test file", "cases").iter().filter_map(|case| self.case(case)).collect();
        Some(File { manifests: manifests?, namespace: namespace.unwrap_or_else(|| "default".to_owned()), at: begin?, cases })
    }

    fn case(&mut self, node: &Node) -> Option<Case> {
        if !self.is_of(node, "a case", &["name", "task", "steps"]) {
            return None;
        }
        let name = self.needed(node, "a case", "name");
        let task = self.needed(node, "a case", "task");
        let steps = self.list(node, "a case", "steps").iter().filter_map(|step| self.step(step)).collect();
        Some(Case { name: name?, at: node.at, task: task?, steps })
    }

    fn step(&mut self, node: &Node) -> Option<Step> {
        const FIELDS: &[&str] = &[
            "tool",
            "arguments",
            "resource",
            "subjectProperties",
            "resourceProperties",
            "intent",
            "at",
            "after",
            "reported",
            "expect",
            "code",
            "rule",
            "words",
            "cacheFor",
        ];
        if !self.is_of(node, "a step", FIELDS) {
            return None;
        }
        let tool = self.needed(node, "a step", "tool");
        let expect: Option<String> = self.needed(node, "a step", "expect");
        let outcome = expect.and_then(|word| self.outcome(node, &word));
        let none = |map: Option<Map<String, Value>>| map.unwrap_or_default();
        let wish = Wish {
            server: String::new(),
            tool: String::new(),
            arguments: none(self.field(node, "arguments")),
            resource: self.field(node, "resource"),
            subject_properties: none(self.field(node, "subjectProperties")),
            resource_properties: none(self.field(node, "resourceProperties")),
            intent: self.field(node, "intent"),
        };
        let expected = Expected {
            outcome: outcome?,
            code: self.field(node, "code"),
            rule: self.field(node, "rule"),
            words: self.field(node, "words"),
            cache_for: self.field(node, "cacheFor"),
        };
        Some(Step {
            at: node.at,
            tool: tool?,
            when: self.field(node, "at"),
            after: self.field(node, "after"),
            reported: self.field(node, "reported").unwrap_or_default(),
            expected,
            wish,
        })
    }

    fn outcome(&mut self, node: &Node, word: &str) -> Option<Outcome> {
        let all = [Outcome::Permit, Outcome::Deny, Outcome::NeedsApproval];
        let found = all.into_iter().find(|outcome| outcome.as_str() == word);
        if found.is_none() {
            let message = format!("`expect` must be `permit`, `deny` or `needs-approval`, and is `{word}`");
            self.say(node.locate("expect"), &message);
        }
        found
    }
}
