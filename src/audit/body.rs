//! What an entry tells beside its keys: canonical JSON (RFC 8785) from the moment it is made, so
//! that what waits to be written is the text that will be hashed.
//!
//! What must not be kept is replaced on the way: anything that has the form of a credential, and
//! integers that JSON readers would round. Never is a value taken as `serde_json` writes it: the
//! order of its members is up to a feature that any dependency may switch on. That of a structure
//! is its own.

use std::cmp::Ordering;
use std::io;

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};
use serde_json::{Number, Value};

use super::AuditError;
use crate::decide::literal;

/// What stands in the place of a text that has the form of a credential.
pub(super) const REMOVED: &str = "[removed: has the form of a credential]";

/// How deep a body may be nested.
const DEPTH: usize = 64;

/// Integers beyond it are rounded by readers that know doubles alone (RFC 7493).
const EXACT: u64 = (1 << 53) - 1;

/// The body of an [`Entry`](super::Entry). In it integers beyond 2⁵³ − 1 are texts, and texts that
/// have the form of a credential are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Canonical JSON.
    text: String,
    /// How many texts were replaced.
    replaced: u64,
}

impl Default for Body {
    /// An object without members.
    fn default() -> Self {
        Self { text: "{}".to_owned(), replaced: 0 }
    }
}

impl Body {
    /// The body that says what a value does.
    ///
    /// # Errors
    ///
    /// It is nested deeper than 64.
    pub fn of(value: &Value) -> Result<Self, AuditError> {
        if !is_within(value, DEPTH) {
            return Err(AuditError::TooDeep { limit: DEPTH });
        }
        match plain(value) {
            Some(text) => Ok(Self { text, replaced: 0 }),
            None => {
                let mut replaced = 0;
                let text = canonical(&clean(value, &mut replaced))?;
                Ok(Self { text, replaced })
            }
        }
    }

    /// The same of a structure whose members stand in the order of their names (that of UTF-16,
    /// in bytes where they are ASCII), all the way down: written in one go.
    ///
    /// # Errors
    ///
    /// It has no form in JSON.
    pub fn in_order(told: &impl Serialize) -> Result<Self, AuditError> {
        let Some(text) = written(told) else { return Self::of(&serde_json::to_value(told).map_err(AuditError::NotCanonical)?) };
        debug_assert_eq!(
            Self::of(&serde_json::from_str(&text).unwrap_or_default()).map(|body| body.text).ok(),
            Some(text.clone())
        );
        Ok(Self { text, replaced: 0 })
    }

    /// Canonical JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How many texts were replaced.
    pub(super) fn replaced(&self) -> u64 {
        self.replaced
    }
}

/// The text of what serializes its members in order, made in one go, as it can be of nearly every
/// body. None where something has to be replaced, a sign is escaped, or there is a number that is no
/// small whole one: then care must be taken.
fn written(told: &impl Serialize) -> Option<String> {
    let (mut text, mut look) = (Vec::with_capacity(1024), Look::default());
    told.serialize(&mut Serializer::with_formatter(&mut text, &mut look)).ok()?;
    String::from_utf8(text).ok().filter(|_| !look.needs_care)
}

/// Writes JSON as short as it can be, and sees whether care must be taken. What is written then
/// counts for nothing.
#[derive(Default)]
struct Look {
    needs_care: bool,
}

impl Look {
    fn care(&mut self) -> io::Result<()> {
        self.needs_care = true;
        Ok(())
    }
}

impl Formatter for &mut Look {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        // The whole text: where a sign is escaped, care is taken anyway.
        self.needs_care |= literal::is_known(fragment);
        writer.write_all(fragment.as_bytes())
    }

    fn write_i64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: i64) -> io::Result<()> {
        self.needs_care |= value.unsigned_abs() > EXACT;
        write!(writer, "{value}")
    }

    fn write_u64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: u64) -> io::Result<()> {
        self.needs_care |= value > EXACT;
        write!(writer, "{value}")
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, _: &mut W, _: CharEscape) -> io::Result<()> {
        self.care()
    }

    fn write_u128<W: ?Sized + io::Write>(&mut self, _: &mut W, _: u128) -> io::Result<()> {
        self.care()
    }

    fn write_i128<W: ?Sized + io::Write>(&mut self, _: &mut W, _: i128) -> io::Result<()> {
        self.care()
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, _: &mut W, _: f32) -> io::Result<()> {
        self.care()
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, _: &mut W, _: f64) -> io::Result<()> {
        self.care()
    }

    fn write_raw_fragment<W: ?Sized + io::Write>(&mut self, _: &mut W, _: &str) -> io::Result<()> {
        self.care()
    }
}

/// A string as RFC 8785 asks for it: of strings `serde_json` writes that; only order and numbers
/// differ.
pub(super) fn quote(text: &mut String, value: &str) {
    if value.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        text.push('"');
        text.push_str(value);
        text.push('"');
        return;
    }
    // INVARIANT: a string can always be written.
    text.push_str(&serde_json::to_string(value).unwrap_or_default());
}

/// The canonical text of a value of which it can be made in one go, without the copies that
/// [`clean`] and [`canonical`] need.
fn plain(body: &Value) -> Option<String> {
    written(&Sorted(body))
}

/// A value whose members are serialized in their order.
struct Sorted<'a>(&'a Value);

impl Serialize for Sorted<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(items) => serializer.collect_seq(items.iter().map(Sorted)),
            Value::Object(members) => {
                let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
                sorted.sort_unstable_by(|(one, _), (other, _)| in_order(one, other));
                serializer.collect_map(sorted.into_iter().map(|(name, value)| (name, Sorted(value))))
            }
            other => other.serialize(serializer),
        }
    }
}

/// The order of names in RFC 8785, which is that of UTF-16.
fn in_order(one: &str, other: &str) -> Ordering {
    if one.is_ascii() && other.is_ascii() { one.cmp(other) } else { one.encode_utf16().cmp(other.encode_utf16()) }
}

/// The canonical text of a value.
pub(super) fn canonical(value: &impl Serialize) -> Result<String, AuditError> {
    serde_json_canonicalizer::to_string(value).map_err(AuditError::NotCanonical)
}

/// Whether a value is nested no deeper than this.
fn is_within(value: &Value, depth: usize) -> bool {
    let Some(below) = depth.checked_sub(1) else { return false };
    match value {
        Value::Array(items) => items.iter().all(|item| is_within(item, below)),
        Value::Object(members) => members.values().all(|value| is_within(value, below)),
        _ => true,
    }
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

    use super::*;

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
        let body = Body::of(&json!({"max": u64::MAX, "min": i64::MIN, "exact": EXACT, "small": -5})).unwrap();
        assert_eq!(
            body.as_str(),
            r#"{"exact":9007199254740991,"max":"18446744073709551615","min":"-9223372036854775808","small":-5}"#
        );
    }

    #[derive(Serialize)]
    struct Told<'a> {
        a: &'a str,
        b: Option<u64>,
        c: [i64; 2],
        d: f64,
    }

    #[test]
    fn a_structure_says_the_same_as_its_value() {
        let key = format!("ghp_{}", "a1B2".repeat(9));
        let quoted = format!("\"{key}");
        for (a, b, d, replaced) in [
            ("", None, 0.0, 0),
            ("wörd \u{2028}", Some(7), 0.5, 0),
            ("two\nlines and \"signs\" \\ \u{7}", Some(EXACT), 1e30, 0),
            (key.as_str(), Some(u64::MAX), -0.0, 1),
            (quoted.as_str(), None, 3.0, 1),
        ] {
            for c in [[0, -5], [i64::MIN, 1]] {
                let told = Told { a, b, c, d };
                let body = Body::in_order(&told).unwrap();
                assert_eq!(body, Body::of(&serde_json::to_value(&told).unwrap()).unwrap());
                assert_eq!((body.replaced, body.as_str().contains("a1B2")), (replaced, false), "{body:?}");
            }
        }
        // Nothing in it needs care, so it is written in one go.
        #[derive(Serialize)]
        struct Plain {
            a: &'static str,
            b: [u64; 2],
        }
        assert_eq!(Body::in_order(&Plain { a: "é", b: [1, EXACT] }).unwrap().as_str(), r#"{"a":"é","b":[1,9007199254740991]}"#);
    }

    #[test]
    fn a_body_nested_without_end_is_refused() {
        let nested = |depth| (1..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        assert!(Body::of(&nested(DEPTH)).is_ok());
        let body = nested(10_000);
        assert!(matches!(Body::of(&body), Err(AuditError::TooDeep { .. })));
        // A value is dropped by recursion too; this one would not survive that in a small stack.
        std::mem::forget(body);
    }
}
