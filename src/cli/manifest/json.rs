//! JSON text in, trees with positions out.
//!
//! A JSON file may hold several objects without anything between them, as `kubectl` reads it,
//! and characters that YAML does not let stand in a text. What is no JSON from its beginning to
//! its end is left to YAML, which has objects in braces of its own.

use serde_json::value::RawValue;

use super::build::{Builder, Read};
use super::node::{Position, What};

/// Reads every value of a text, if it is nothing but JSON; whether it is.
pub(super) fn read(text: &str, all: &mut Read) -> bool {
    let trimmed = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    if !trimmed.starts_with(['{', '[']) {
        return false;
    }
    // Looks at every byte and builds nothing: what follows can trust the text.
    let is_json = serde_json::Deserializer::from_str(trimmed).into_iter::<&RawValue>().all(|value| value.is_ok());
    if is_json {
        let begin = text.len() - trimmed.len();
        Walk { rest: trimmed, at: Position::of(text, begin), depth: 0, builder: Builder::default() }.run(all);
    }
    is_json
}

/// Where the reading is.
struct Walk<'a> {
    rest: &'a str,
    at: Position,
    depth: usize,
    builder: Builder,
}

impl Walk<'_> {
    fn run(mut self, all: &mut Read) {
        while let Some(first) = self.rest.bytes().next() {
            let at = self.at;
            match first {
                b'{' | b'[' => {
                    self.depth += 1;
                    if first == b'{' {
                        self.builder.begin_object(at, 0);
                    } else {
                        self.builder.begin_list(at, 0);
                    }
                    self.skip(1);
                }
                b'}' | b']' => {
                    self.depth -= 1;
                    self.builder.end();
                    self.skip(1);
                }
                b' ' | b'\t' | b'\r' | b'\n' | b',' | b':' => {
                    self.skip(1);
                    continue;
                }
                b'"' => self.text(at),
                _ => self.word(at),
            }
            if self.depth == 0 {
                std::mem::take(&mut self.builder).finish(all);
                if all.is_hopeless() {
                    break;
                }
            }
        }
    }

    fn text(&mut self, at: Position) {
        let mut is_escaped = false;
        let inside = self.rest.bytes().skip(1).take_while(|byte| {
            let is_end = *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            !is_end
        });
        let quoted = &self.rest[..inside.count() + 2];
        match serde_json::from_str::<Box<str>>(quoted) {
            Ok(text) => self.builder.put(at, What::Text(text), 0),
            Err(_) => self.builder.fail(at, "the text holds half a character", "write both `\\u` escapes of the pair"),
        }
        self.skip(quoted.len());
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self, at: Position) {
        let end = self.rest.find([' ', '\t', '\r', '\n', ',', ':', '}', ']']).unwrap_or(self.rest.len());
        let word = &self.rest[..end];
        let what = match word {
            "null" => Some(What::Null),
            "true" => Some(What::Bool(true)),
            "false" => Some(What::Bool(false)),
            _ => None,
        };
        let number = || serde_json::from_str::<serde_json::Number>(word).ok();
        let what = what.or_else(|| {
            let number = number()?;
            let whole = number.as_i64().map(What::Int).or_else(|| number.as_u64().map(What::Large));
            whole.or_else(|| number.as_f64().map(What::Float))
        });
        match what {
            Some(what) => self.builder.put(at, what, 0),
            None => self.builder.fail(at, "the number is too large", "put quotes around it if it is a text"),
        }
        self.skip(end);
    }

    fn skip(&mut self, bytes: usize) {
        let (passed, rest) = self.rest.split_at(bytes);
        self.at = Position::of(passed, bytes).after(self.at);
        self.rest = rest;
    }
}
