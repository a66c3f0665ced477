//! JSON that means one thing: no member twice, not too deep (I-JSON, RFC 7493).
//!
//! Where two readers of one text may see two values, what was decided and what is done differ.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Deepest nesting of arrays and objects.
pub const DEEPEST: usize = 32;

/// Reads one JSON value and nothing after it.
///
/// # Errors
/// What is wrong and where; never a value.
pub fn read(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Depth(0).deserialize(&mut reader).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// A value that is read by [`read`]'s rules wherever it stands in a typed structure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strict(pub Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Depth(0).deserialize(deserializer).map(Self)
    }
}

struct Depth(usize);

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Depth {
    fn below<E: de::Error>(&self) -> Result<Self, E> {
        if self.0 >= DEEPEST {
            return Err(E::custom(format!("nested more than {DEEPEST} deep")));
        }
        Ok(Self(self.0 + 1))
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is none"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut entries = vec![];
        while let Some(entry) = seq.next_element_seed(self.below()?)? {
            entries.push(entry);
        }
        Ok(Value::Array(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(self.below()?)?;
            if members.insert(name, value).is_some() {
                return Err(de::Error::custom("a member stands there twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_may_stand_once() {
        assert!(read(br#"{"a": {"b": 1, "c": 2}}"#).is_ok());
        let error = read(br#"{"a": {"b": 1, "b": 2}}"#).unwrap_err();
        assert!(error.starts_with("a member stands there twice"), "{error}");
        // The same name, written in another way.
        assert!(read(br#"{"a": 1, "\u0061": 2}"#).is_err());
    }

    #[test]
    fn depth_is_bounded_and_nothing_may_follow() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(deep(DEEPEST).as_bytes()).is_ok());
        assert!(read(deep(DEEPEST + 1).as_bytes()).is_err());
        assert!(read(b"{} {}").is_err() && read(b"").is_err() && read(b"\"\\ud800\"").is_err());
    }
}
