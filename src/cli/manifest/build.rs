//! One document, value by value in, as a tree out.
//!
//! Guarantees: work and memory in proportion to the text. Nesting, values and what aliases add
//! up to are bounded: nine lines of aliases can stand for more values than there is memory.
//! Aliases and merge keys mean what they mean to `kubectl`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::node::{Member, Node, Position, What};

/// Deepest nesting, aliases included: what is deeper is no manifest, and whoever walks it
/// by recursion would run out of stack.
const DEEPEST: usize = 100;
/// Most values in one document.
const MOST_NODES: usize = 1_000_000;
/// What aliases may add to one document, in bytes: more than the API server takes at all.
const MOST_ALIASED: usize = 16 * 1024 * 1024;
/// What a node weighs without its text.
const NODE: usize = 64;
/// Most faults that are told of one document.
const MOST_FAULTS: usize = 10;
/// Faults after which a file is given up.
const TOO_MANY_FAULTS: usize = 100;

/// What a text holds.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// The documents that could be read, without empty ones.
    pub documents: Vec<Node>,
    /// What could not, or not without a doubt.
    pub faults: Vec<Fault>,
}

/// What is wrong with a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Where.
    pub at: Position,
    /// What.
    pub message: String,
    /// What to write instead.
    pub help: &'static str,
}

impl Read {
    /// Every document of a text.
    pub fn of(text: &str) -> Self {
        let mut all = Self::default();
        if !super::json::read(text, &mut all) {
            super::yaml::read(text, &mut all);
        }
        all
    }

    /// Whether so much is wrong that the rest is not worth reading.
    pub fn is_hopeless(&self) -> bool {
        self.faults.len() >= TOO_MANY_FAULTS
    }
}

/// A list or an object that is still open.
enum Open {
    List { at: Position, anchor: usize, items: Vec<Node> },
    Object { at: Position, anchor: usize, entries: Vec<Entry>, key: Option<Key> },
}

/// A member as it is written. A key may come more than once: written twice, or merged in.
struct Entry {
    member: Member,
    is_merged: bool,
}

/// A key whose value has not come yet.
enum Key {
    Name(Box<str>, Position),
    /// `<<`: the members of the value are the object's own.
    Merge(Position),
}

/// What an anchor stands for.
struct Anchored {
    node: Node,
    weight: usize,
    height: usize,
}

/// Builds one document.
#[derive(Default)]
pub(super) struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: BTreeMap<usize, Anchored>,
    nodes: usize,
    aliased: usize,
    faults: Vec<Fault>,
    /// Why the document is given up; what comes after is passed over.
    failed: Option<Fault>,
}

impl Builder {
    /// The document is over.
    pub fn finish(mut self, all: &mut Read) {
        if let Some(fault) = self.failed {
            self.root = None;
            self.faults = vec![fault];
        }
        all.documents.extend(self.root.filter(|root| root.what != What::Null));
        all.faults.append(&mut self.faults);
        if all.is_hopeless() {
            let at = all.faults.last().map_or(Position::START, |fault| fault.at);
            all.faults.push(Fault {
                at,
                message: "too much is wrong; the rest of the file is not read".to_owned(),
                help: "is it a manifest?",
            });
        }
    }

    /// Gives the document up. The first reason stays.
    pub fn fail(&mut self, at: Position, message: impl Into<String>, help: &'static str) {
        self.failed.get_or_insert_with(|| Fault { at, message: message.into(), help });
    }

    /// A list begins. `anchor`: the number of its anchor, or 0.
    pub fn begin_list(&mut self, at: Position, anchor: usize) {
        self.begin(at, Open::List { at, anchor, items: vec![] });
    }

    /// An object begins; keys and values come in turn.
    pub fn begin_object(&mut self, at: Position, anchor: usize) {
        self.begin(at, Open::Object { at, anchor, entries: vec![], key: None });
    }

    fn begin(&mut self, at: Position, open: Open) {
        self.count(at);
        if self.open.len() >= DEEPEST {
            self.fail(
                at,
                format!("the document is nested more than {DEEPEST} levels deep"),
                "Kubernetes has no such object: flatten it",
            );
        }
        if self.failed.is_none() {
            self.open.push(open);
        }
    }

    /// What was begun last is complete.
    pub fn end(&mut self) {
        if self.failed.is_some() {
            return;
        }
        match self.open.pop() {
            Some(Open::List { at, anchor, items }) => self.complete(Node { at, what: What::List(items) }, anchor),
            Some(Open::Object { at, anchor, entries, .. }) => {
                let what = What::Object(self.members(entries));
                self.complete(Node { at, what }, anchor);
            }
            None => {}
        }
    }

    /// A value that holds no other.
    pub fn put(&mut self, at: Position, what: What, anchor: usize) {
        self.count(at);
        self.complete(Node { at, what }, anchor);
    }

    /// Whether a key is next.
    pub fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Object { key: None, .. }))
    }

    /// The key `<<`: the members of the value that comes are the object's own.
    pub fn merge(&mut self, at: Position) {
        if let Some(Open::Object { key, .. }) = self.open.last_mut() {
            *key = Some(Key::Merge(at));
        }
    }

    /// One more value that is written down.
    fn count(&mut self, at: Position) {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            self.fail(at, format!("the document has more than {MOST_NODES} values"), "split it");
        }
    }

    /// A value is complete: remembers it where it has an anchor, and puts it in its place.
    fn complete(&mut self, node: Node, anchor: usize) {
        if anchor != 0 {
            let weight = weight(&node);
            if self.charge(node.at, weight) {
                self.anchors.insert(anchor, Anchored { height: height(&node), weight, node: node.clone() });
            }
        }
        self.place(node);
    }

    /// An alias: what its anchor stands for, in the place where that is written.
    pub fn alias(&mut self, at: Position, anchor: usize) {
        if self.failed.is_some() {
            return;
        }
        let Some(Anchored { weight, height, .. }) = self.anchors.get(&anchor) else {
            return self.fail(at, "an alias stands inside of what it stands for", "write the value out");
        };
        let (weight, height) = (*weight, *height);
        if self.open.len() + height > DEEPEST {
            return self.fail(
                at,
                format!("with its aliases the document is nested more than {DEEPEST} levels deep"),
                "write the values out",
            );
        }
        if self.charge(at, weight)
            && let Some(anchored) = self.anchors.get(&anchor)
        {
            let node = anchored.node.clone();
            self.place(node);
        }
    }

    /// Whether aliases may add so much more.
    fn charge(&mut self, at: Position, weight: usize) -> bool {
        self.aliased = self.aliased.saturating_add(weight);
        if self.aliased > MOST_ALIASED {
            self.fail(at, "aliases make the document larger than any object may be", "write the values out");
        }
        self.failed.is_none()
    }

    fn place(&mut self, node: Node) {
        if self.failed.is_some() {
            return;
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Object { entries, key, .. }) => match key.take() {
                None => match name(&node) {
                    Some(name) => *key = Some(Key::Name(name, node.at)),
                    None => self.fail(node.at, "a key that is no text", "write the key as a text"),
                },
                Some(Key::Name(key, at)) => entries.push(Entry { member: Member { key, at, value: node }, is_merged: false }),
                Some(Key::Merge(at)) => match merged(node) {
                    Some(members) => entries.extend(members.into_iter().map(|member| Entry { member, is_merged: true })),
                    None => {
                        self.fail(at, "`<<` takes an object or a list of objects", "merge an alias of an object (`<<: *base`)");
                    }
                },
            },
        }
    }

    /// The members an object has in the end. As `kubectl` reads it the last one wins, be it
    /// written or merged; YAML itself forbids the same key twice, so that is a fault.
    fn members(&mut self, entries: Vec<Entry>) -> Vec<Member> {
        if entries.len() < 2 {
            return entries.into_iter().map(|entry| entry.member).collect();
        }
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by(|a, b| entries[*a].member.key.cmp(&entries[*b].member.key));
        let mut is_last = vec![true; entries.len()];
        for same in order.chunk_by(|a, b| entries[*a].member.key == entries[*b].member.key).filter(|same| same.len() > 1) {
            // INVARIANT: the sort is stable, so that equal keys stand in the order of the text.
            same[..same.len() - 1].iter().for_each(|index| is_last[*index] = false);
            let mut written = same.iter().map(|index| &entries[*index]).filter(|entry| !entry.is_merged);
            if let (Some(first), Some(second)) = (written.next(), written.next())
                && self.faults.len() < MOST_FAULTS
            {
                let message =
                    format!("key `{}` is written twice; the first one is in line {}", second.member.key, first.member.at.line);
                self.faults.push(Fault {
                    at: second.member.at,
                    message,
                    help: "remove one of them: which one holds depends on who reads it",
                });
            }
        }
        entries.into_iter().zip(is_last).filter_map(|(entry, is_last)| is_last.then_some(entry.member)).collect()
    }
}

/// A key as JSON has it, where it can be one.
fn name(node: &Node) -> Option<Box<str>> {
    let name = match &node.what {
        What::Text(text) => return Some(text.clone()),
        What::Bool(bool) => Cow::Borrowed(if *bool { "true" } else { "false" }),
        What::Int(number) => Cow::Owned(number.to_string()),
        What::Large(number) => Cow::Owned(number.to_string()),
        What::Float(number) => Cow::Owned(number.to_string()),
        What::Null | What::List(_) | What::Object(_) => return None,
    };
    Some(name.into())
}

/// What `<<` brings, the one that holds last.
fn merged(node: Node) -> Option<Vec<Member>> {
    match node.what {
        What::Object(members) => Some(members),
        What::List(items) => {
            let mut all = vec![];
            for item in items.into_iter().rev() {
                let What::Object(members) = item.what else { return None };
                all.extend(members);
            }
            Some(all)
        }
        _ => None,
    }
}

fn weight(node: &Node) -> usize {
    NODE + match &node.what {
        What::Text(text) => text.len(),
        What::List(items) => items.iter().map(weight).sum(),
        What::Object(members) => members.iter().map(|member| NODE + member.key.len() + weight(&member.value)).sum(),
        _ => 0,
    }
}

fn height(node: &Node) -> usize {
    match &node.what {
        What::List(items) => 1 + items.iter().map(height).max().unwrap_or_default(),
        What::Object(members) => 1 + members.iter().map(|member| height(&member.value)).max().unwrap_or_default(),
        _ => 0,
    }
}
