//! YAML text in, trees with positions out: the only file that knows the YAML crate.
//!
//! Flow: the parser's events go to a [`Builder`], document by document; a document that
//! cannot be read is reported and the next one is read.

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, Tag as Written};

use super::build::{Builder, Read};
use super::node::{Position, What};
use super::scalar::{self, Tag};

/// Reads every document of a text.
pub(super) fn read(text: &str, all: &mut Read) {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder::default();
    while !all.is_hopeless() {
        match parser.next_event() {
            None => break,
            Some(Ok((Event::DocumentStart(..), _))) => builder = Builder::default(),
            Some(Ok((Event::DocumentEnd, _))) => std::mem::take(&mut builder).finish(all),
            Some(Ok((event, span))) => take(event, &span, &mut builder),
            Some(Err(error)) => {
                let message = format!("this is no YAML: {}", error.info());
                builder.fail(position(*error.marker()), message, advice(text, error.marker().line()));
                std::mem::take(&mut builder).finish(all);
                if !parser.proceed_next_document().unwrap_or(false) {
                    break;
                }
            }
        }
    }
}

fn take(event: Event<'_>, span: &Span, builder: &mut Builder) {
    let at = position(span.start);
    match event {
        Event::Scalar(text, style, anchor, tag) => {
            scalar(at, &text, style == ScalarStyle::Plain, anchor, tag.as_deref(), builder);
        }
        Event::SequenceStart(_, anchor, _) => builder.begin_list(at, anchor),
        Event::MappingStart(_, anchor, _) => builder.begin_object(at, anchor),
        Event::SequenceEnd | Event::MappingEnd => builder.end(),
        Event::Alias(anchor) => builder.alias(at, anchor),
        // The rest is about the text, not about what it says.
        _ => {}
    }
}

fn scalar(at: Position, text: &str, is_plain: bool, anchor: usize, written: Option<&Written>, builder: &mut Builder) {
    let core = written.and_then(|tag| tag.suffix_in_namespace("tag:yaml.org,2002:"));
    if is_plain && text == "<<" && builder.wants_key() && core.as_deref().map_or(written.is_none(), |name| name == "merge") {
        return builder.merge(at);
    }
    let tag = match (written, &core) {
        (None, _) => Tag::None,
        (Some(_), Some(name)) => Tag::core(name),
        (Some(_), None) => Tag::Text,
    };
    match scalar::resolve(text, is_plain, tag) {
        Ok(What::Null) if builder.wants_key() => builder.fail(at, "a key is missing", "write the key as a text"),
        Ok(what) => builder.put(at, what, anchor),
        Err(message) => builder.fail(at, message, "put quotes around it if it is a text"),
    }
}

/// What to do about a line that cannot be read.
fn advice(text: &str, line: usize) -> &'static str {
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    if line.contains("{{") || text.lines().any(|line| line.trim_start().starts_with("{{")) {
        "a template is no manifest yet: render it (`helm template …`) and pipe the output to `mandate lint -`"
    } else if line.trim_start_matches(' ').starts_with('\t') {
        "indent with spaces"
    } else {
        "correct the line; a text with `: `, ` #` or a leading `*`, `&`, `%`, `@` or `` ` `` needs quotes"
    }
}

fn position(marker: granit_parser::Marker) -> Position {
    Position { line: marker.line().max(1), column: marker.col() + 1 }
}
