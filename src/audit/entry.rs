//! What stands in one row, and the exact bytes of it that are hashed.
//!
//! In goes an entry as somebody made it; out comes its canonical text (RFC 8785), with what must
//! not be kept replaced: anything that has the form of a credential, and integers that JSON
//! readers would round. Never is the plain output of `serde_json` hashed, whose order of members
//! is up to a feature that any dependency may switch on.

use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::io;
use std::str::FromStr;

use jiff::Timestamp;
use serde_json::{Number, Value};
use sha2::{Digest as _, Sha256};

use super::{AuditError, Entry, Keys};
use crate::decide::literal;

/// What every hash of an entry begins with, so that it is the hash of nothing else.
const DOMAIN: &[u8] = b"mandate.dev/audit/entry/v1\n";

/// What stands in the place of a text that has the form of a credential.
pub(super) const REMOVED: &str = "[removed: has the form of a credential]";

/// How deep a body may be nested.
const DEPTH: usize = 64;

/// Integers beyond it are rounded by readers that know doubles alone (RFC 7493).
const EXACT: u64 = (1 << 53) - 1;

/// A SHA-256 hash, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of some bytes.
    pub(super) fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        parts.iter().for_each(|part| hasher.update(part));
        Self(hasher.finalize().into())
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = NoHash;

    fn from_str(text: &str) -> Result<Self, NoHash> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit)) {
            return Err(NoHash);
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| NoHash)?;
        }
        Ok(Self(bytes))
    }
}

/// A text that is no hash.
#[derive(Debug, thiserror::Error)]
#[error("not 64 hexadecimal digits")]
pub struct NoHash;

/// An entry as it is stored: every part of it a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub id: String,
    pub at: String,
    pub kind: String,
    pub keys: Keys,
    /// Canonical JSON.
    pub body: String,
}

impl Row {
    /// Makes the stored form of an entry; the second value says how many texts were replaced
    /// since they had the form of a credential.
    pub(super) fn of(entry: &Entry) -> (Self, u64) {
        let Entry { id, at, kind, keys, body } = entry;
        let mut removed = 0;
        let body = plain(body).unwrap_or_else(|| {
            // Only a number that is none has no canonical text, and `clean` leaves none.
            canonical(&clean(body, &mut removed)).unwrap_or_else(|_| "null".to_owned())
        });
        let (mut id, mut keys) = (id.clone(), keys.clone());
        for text in keys.texts_mut().chain([&mut id]) {
            removed += u64::from(hide(text));
        }
        (Self { id, at: time(*at), kind: kind.as_str().to_owned(), keys, body }, removed)
    }

    /// The hash of this row at its place in the chain.
    pub(super) fn hash(&self, seq: u64, prev: Hash) -> Hash {
        Hash::of(&[DOMAIN, self.text(seq, prev).as_bytes()])
    }

    /// The canonical JSON of the whole row. Members stand in the order of their names, which
    /// is written out here; the body is canonical already and goes in as it is stored, so that
    /// not one byte of it can change unseen.
    pub(super) fn text(&self, seq: u64, prev: Hash) -> String {
        let Self { id, at, kind, keys, body } = self;
        let Keys { namespace, task, task_uid, agent, tool, outcome, trace_id, token_id } = keys;
        let mut text = String::with_capacity(512 + body.len());
        text.push('{');
        member(&mut text, "agent", agent.as_deref());
        member(&mut text, "at", Some(at));
        // INVARIANT: writing to a String cannot fail.
        let _ = write!(text, "\"body\":{body},");
        member(&mut text, "id", Some(id));
        member(&mut text, "kind", Some(kind));
        member(&mut text, "namespace", namespace.as_deref());
        member(&mut text, "outcome", outcome.as_deref());
        let _ = write!(text, "\"prev\":\"{prev}\",\"seq\":{seq},");
        member(&mut text, "task", task.as_deref());
        member(&mut text, "taskUid", task_uid.as_deref());
        member(&mut text, "tokenId", token_id.as_deref());
        member(&mut text, "tool", tool.as_deref());
        member(&mut text, "traceId", trace_id.as_deref());
        // There is a comma at the end, for `seq` is never missing.
        text.pop();
        text.push('}');
        text
    }
}

/// A member with a comma after it; nothing where there is no value.
fn member(text: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        let _ = write!(text, "\"{name}\":");
        quote(text, value);
        text.push(',');
    }
}

/// A string as RFC 8785 asks for it: of strings `serde_json` writes that; only order and numbers
/// differ.
fn quote(text: &mut String, value: &str) {
    struct Into<'a>(&'a mut String);
    impl io::Write for Into<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push_str(std::str::from_utf8(bytes).map_err(io::Error::other)?);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    // INVARIANT: it comes in pieces that are UTF-8 each, so that it can always be written.
    let _ = serde_json::to_writer(Into(text), value);
}

/// The canonical text of a body in which nothing has to be replaced, as nearly every one is: made
/// in one go, without the copies that [`clean`] and [`canonical`] need. None where something has
/// to be, or there is a number that is no small whole one.
fn plain(body: &Value) -> Option<String> {
    fn put(text: &mut String, value: &Value) -> Option<()> {
        match value {
            Value::Null => text.push_str("null"),
            Value::Bool(flag) => text.push_str(if *flag { "true" } else { "false" }),
            Value::Number(number) => {
                let whole = number.as_i64().filter(|whole| whole.unsigned_abs() <= EXACT)?;
                let _ = write!(text, "{whole}");
            }
            Value::String(string) => put_string(text, string)?,
            Value::Array(items) => put_all(text, ['[', ']'], items.iter(), put)?,
            Value::Object(members) => {
                let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
                sorted.sort_unstable_by(|(one, _), (other, _)| in_order(one, other));
                put_all(text, ['{', '}'], sorted.into_iter(), |text, (name, value)| {
                    put_string(text, name)?;
                    text.push(':');
                    put(text, value)
                })?;
            }
        }
        Some(())
    }
    let mut text = String::with_capacity(1024);
    put(&mut text, body).map(|()| text)
}

fn put_string(text: &mut String, string: &str) -> Option<()> {
    (!literal::is_known(string)).then(|| quote(text, string))
}

fn put_all<T>(
    text: &mut String,
    [open, close]: [char; 2],
    items: impl Iterator<Item = T>,
    put: impl Fn(&mut String, T) -> Option<()>,
) -> Option<()> {
    text.push(open);
    for (at, item) in items.enumerate() {
        if at > 0 {
            text.push(',');
        }
        put(text, item)?;
    }
    text.push(close);
    Some(())
}

/// The order of names in RFC 8785, which is that of UTF-16.
fn in_order(one: &str, other: &str) -> Ordering {
    if one.is_ascii() && other.is_ascii() { one.cmp(other) } else { one.encode_utf16().cmp(other.encode_utf16()) }
}

/// A time as it is stored and hashed: microseconds, always six digits of them, so that texts
/// are in the order of time.
pub(super) fn time(at: Timestamp) -> String {
    format!("{at:.6}")
}

/// The canonical text of a value.
pub(super) fn canonical(value: &impl serde::Serialize) -> Result<String, AuditError> {
    serde_json_canonicalizer::to_string(value).map_err(AuditError::NotCanonical)
}

/// About how many bytes a body will take.
///
/// # Errors
///
/// Where it is nested deeper than anything that will be read again.
pub(super) fn weigh(body: &Value) -> Result<usize, AuditError> {
    fn weight(value: &Value, depth: usize) -> Option<usize> {
        if depth > DEPTH {
            return None;
        }
        Some(match value {
            Value::Null | Value::Bool(_) => 5,
            Value::Number(_) => 8,
            Value::String(text) => text.len() + 3,
            Value::Array(items) => items.iter().try_fold(2, |sum, item| Some(sum + weight(item, depth + 1)?))?,
            Value::Object(members) => {
                members.iter().try_fold(2, |sum, (name, value)| Some(sum + name.len() + 4 + weight(value, depth + 1)?))?
            }
        })
    }
    weight(body, 1).ok_or(AuditError::TooDeep { limit: DEPTH })
}

/// The value without what must not be kept.
fn clean(value: &Value, removed: &mut u64) -> Value {
    match value {
        Value::Number(number) if !is_exact(number) => Value::String(number.to_string()),
        Value::String(text) => {
            let mut text = text.clone();
            *removed += u64::from(hide(&mut text));
            Value::String(text)
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| clean(item, removed)).collect()),
        Value::Object(members) => {
            let cleaned = members.iter().map(|(name, value)| {
                let mut name = name.clone();
                if hide(&mut name) {
                    *removed += 1;
                    name = format!("{REMOVED} {removed}");
                }
                (name, clean(value, removed))
            });
            Value::Object(cleaned.collect())
        }
        other => other.clone(),
    }
}

/// Replaces a text that has a credential in it.
fn hide(text: &mut String) -> bool {
    let found = literal::is_known(text);
    if found {
        REMOVED.clone_into(text);
    }
    found
}

/// Whether every reader of JSON reads the same number.
fn is_exact(number: &Number) -> bool {
    if let Some(whole) = number.as_i64() {
        return whole.unsigned_abs() <= EXACT;
    }
    if let Some(whole) = number.as_u64() {
        return whole <= EXACT;
    }
    number.as_f64().is_some_and(f64::is_finite)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Kind;
    use super::*;

    fn row(keys: Keys, body: Value) -> Row {
        let entry = Entry { id: "0".to_owned(), at: Timestamp::UNIX_EPOCH, kind: Kind::Decision, keys, body };
        Row::of(&entry).0
    }

    fn all_keys() -> Keys {
        let text = |text: &str| Some(text.to_owned());
        Keys {
            namespace: text("finance"),
            task: text("t\"é\u{1f600}\u{7}"),
            task_uid: text("u"),
            agent: text("a"),
            tool: text("ledger/read"),
            outcome: text("permit"),
            trace_id: text("4bf92f3577b34da6a3ce929d0e0e4736"),
            token_id: text("j"),
        }
    }

    #[test]
    fn what_is_hashed_is_canonical_json_of_the_whole_row() {
        for keys in [Keys::default(), all_keys()] {
            let row = row(keys, json!({"b": [1.0, 1e30, -0.0, "\u{2028}<"], "a": {"é": null, "z": true}}));
            let text = row.text(7, Hash::of(&[b"x"]));
            let again: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(text, canonical(&again).unwrap());
        }
    }

    #[test]
    fn the_hash_of_a_known_row_never_changes() {
        let row = row(all_keys(), json!({"reason": "scope", "n": 3}));
        let expected = concat!(
            r#"{"agent":"a","at":"1970-01-01T00:00:00.000000Z","body":{"n":3,"reason":"scope"},"id":"0","kind":"decision","#,
            r#""namespace":"finance","outcome":"permit","prev":"0000000000000000000000000000000000000000000000000000000000000000","#,
            r#""seq":1,"task":"t\"é😀\u0007","taskUid":"u","tokenId":"j","tool":"ledger/read","traceId":"4bf92f3577b34da6a3ce929d0e0e4736"}"#
        );
        assert_eq!(row.text(1, Hash([0; 32])), expected);
        assert_eq!(row.hash(1, Hash([0; 32])), Hash::of(&[b"mandate.dev/audit/entry/v1\n", expected.as_bytes()]));
    }

    /// The example of RFC 8785, section 3.2.2, and the names of section 3.2.3, whose order is
    /// that of UTF-16 and not of UTF-8.
    #[test]
    fn canonical_text_is_that_of_the_standard() {
        let example = r#"{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"#;
        let value: Value = serde_json::from_str(example).unwrap();
        let expected = concat!(
            r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"#,
            r#""string":"€$\u000f\nA'B\"\\\\\"/"}"#
        );
        assert_eq!(canonical(&value).unwrap(), expected);
        let names = json!({"\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": 4, "\u{1f600}": 5, "\u{80}": 6, "\u{f6}": 7});
        let order: Vec<u32> = canonical(&names).unwrap().split(':').skip(1).map(|rest| rest[..1].parse().unwrap()).collect();
        assert_eq!(order, [2, 4, 6, 7, 1, 5, 3]);
    }

    #[test]
    fn what_is_written_in_one_go_is_the_canonical_text() {
        use proptest::prelude::*;
        let name = "[a-zé\u{fb33}\u{1f600}\"\\\\\r]{0,4}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-9..9_i64).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,20}".prop_map(Value::from),
            "[\u{0}-\u{20}\"\\\\\u{7f}\u{2028}a]{0,5}".prop_map(Value::from),
        ];
        let body = leaf.prop_recursive(4, 64, 8, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                proptest::collection::btree_map(name, inner, 0..8).prop_map(|members| members.into_iter().collect()),
            ]
        });
        proptest!(|(body in body)| {
            let mut removed = 0;
            let careful = canonical(&clean(&body, &mut removed)).unwrap();
            if let Some(text) = plain(&body) {
                prop_assert_eq!(removed, 0);
                prop_assert_eq!(text, careful);
            }
        });
        assert!(plain(&json!({"b": [1, -2, "é"], "a": null})).is_some_and(|text| text == r#"{"a":null,"b":[1,-2,"é"]}"#));
        assert_eq!(plain(&json!({"a": format!("ghp_{}", "a1B2".repeat(9))})), None);
    }

    /// Samples of appendix B of RFC 8785, as bits of doubles.
    #[test]
    fn numbers_are_written_as_the_standard_says() {
        for (bits, text) in [
            (0x0000_0000_0000_0000_u64, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            assert_eq!(canonical(&json!(f64::from_bits(bits))).unwrap(), text);
        }
    }

    #[test]
    fn integers_that_readers_would_round_are_written_as_text() {
        let body = row(Keys::default(), json!({"max": u64::MAX, "min": i64::MIN, "exact": EXACT, "small": -5})).body;
        assert_eq!(body, r#"{"exact":9007199254740991,"max":"18446744073709551615","min":"-9223372036854775808","small":-5}"#);
    }

    #[test]
    fn what_has_the_form_of_a_credential_is_never_written() {
        let key = format!("ghp_{}", "a1B2".repeat(9));
        let keys = Keys { trace_id: Some(key.clone()), ..Keys::default() };
        let entry = Entry {
            id: String::new(),
            at: Timestamp::UNIX_EPOCH,
            kind: Kind::Decision,
            keys,
            body: json!({"args": [{"note": format!("use {key}")}], key.clone(): 1, "digest": "5".repeat(64)}),
        };
        let (row, removed) = Row::of(&entry);
        assert_eq!(removed, 3);
        assert!(!row.text(1, Hash([0; 32])).contains("a1B2"), "{row:?}");
        assert_eq!(row.keys.trace_id.as_deref(), Some(REMOVED));
        assert!(row.body.contains(&"5".repeat(64)));
    }

    #[test]
    fn a_body_nested_without_end_is_refused() {
        let mut body = Value::Null;
        for _ in 0..10_000 {
            body = Value::Array(vec![body]);
        }
        assert!(matches!(weigh(&body), Err(AuditError::TooDeep { .. })));
        // A value is dropped by recursion too; this one would not survive that in a small stack.
        std::mem::forget(body);
        assert!(weigh(&json!({"a": ["b", 1, null]})).unwrap() > 10);
    }

    #[test]
    fn times_are_in_the_order_of_their_texts() {
        let times = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.0000019Z", "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:01Z"];
        let texts: Vec<String> = times.iter().map(|text| time(text.parse().unwrap())).collect();
        assert!(texts.is_sorted() && texts.iter().all(|text| text.len() == 27), "{texts:?}");
    }
}
