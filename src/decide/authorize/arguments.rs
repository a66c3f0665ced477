//! The arguments of a call, as the tool's owner typed them.
//!
//! A value that does not fit its type denies the call, and so does an argument that nobody
//! declared: what no rule can look at must not pass beneath the rules.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::api::{Amount, Argument, ArgumentType};

/// Longest text of a `string` argument, in bytes.
pub const LONGEST_TEXT: usize = 64 * 1024;
/// Below this a float of 64 bits tells four decimals apart (2^53 ten-thousandths).
const LARGEST_FRACTION: f64 = 900_719_925_474.0;
/// Most entries of a `strings` argument.
pub const MOST_ENTRIES: usize = 1024;

/// Typed values by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// Texts.
    pub texts: BTreeMap<String, String>,
    /// Integers and decimals.
    pub numbers: BTreeMap<String, Amount>,
    /// Booleans.
    pub flags: BTreeMap<String, bool>,
    /// Lists of texts.
    pub lists: BTreeMap<String, Vec<String>>,
}

/// Why a call's arguments cannot be looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// Nobody declared it.
    #[error("argument `{0}` is not among those that the tool's owner lists ({1})")]
    Undeclared(String, String),
    /// It has to be there.
    #[error("argument `{0}` is missing")]
    Missing(String),
    /// It is something else.
    #[error("argument `{0}` must be {1}")]
    Type(String, &'static str),
}

impl Values {
    /// The arguments of a call by their declaration; without one, none can be looked at.
    ///
    /// # Errors
    /// [`ArgumentError`], the first in the order of names.
    pub fn typed(declared: Option<&BTreeMap<String, Argument>>, given: &Map<String, Value>) -> Result<Self, ArgumentError> {
        let Some(declared) = declared else { return Ok(Self::default()) };
        if let Some(name) = given.keys().filter(|name| !declared.contains_key(*name)).min() {
            let known = declared.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none".to_owned() } else { known };
            return Err(ArgumentError::Undeclared(shown(name), known));
        }
        let mut values = Self::default();
        for (name, argument) in declared {
            match given.get(name) {
                None | Some(Value::Null) if argument.required => return Err(ArgumentError::Missing(name.clone())),
                None | Some(Value::Null) => {}
                Some(value) => {
                    values.take(name, argument.type_, value).map_err(|what| ArgumentError::Type(name.clone(), what))?;
                }
            }
        }
        Ok(values)
    }

    /// Properties that an enforcement point gives, by the types they have. What has no type here
    /// is left out: nobody declared it, and nothing is denied for it.
    #[must_use]
    pub fn untyped(given: &Map<String, Value>) -> Self {
        let mut values = Self::default();
        for (name, value) in given {
            let type_ = match value {
                Value::String(_) => ArgumentType::String,
                Value::Number(_) => ArgumentType::Decimal,
                Value::Bool(_) => ArgumentType::Boolean,
                Value::Array(_) => ArgumentType::Strings,
                Value::Null | Value::Object(_) => continue,
            };
            _ = values.take(name, type_, value);
        }
        values
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { texts, numbers, flags, lists } = self;
        texts.is_empty() && numbers.is_empty() && flags.is_empty() && lists.is_empty()
    }

    fn take(&mut self, name: &str, type_: ArgumentType, value: &Value) -> Result<(), &'static str> {
        let name = name.to_owned();
        match (type_, value) {
            (ArgumentType::String, Value::String(text)) if text.len() <= LONGEST_TEXT => {
                self.texts.insert(name, text.clone());
            }
            (ArgumentType::String, _) => return Err("a text of 64 KiB at most"),
            (ArgumentType::Integer, Value::Number(number)) => {
                // Never by way of a float: 2^63 and 1e3 are not what the tool may read them as.
                let whole = number.as_i64().and_then(|number| Amount::from_integer(number).ok());
                self.numbers.insert(name, whole.ok_or("a whole number between ±922337203685477")?);
            }
            (ArgumentType::Integer, _) => return Err("a whole number between ±922337203685477"),
            // Beyond this a JSON number with decimals may have been rounded when it was read.
            (ArgumentType::Decimal, Value::Number(number))
                if number.is_f64() && number.as_f64().is_none_or(|number| number.abs() >= LARGEST_FRACTION) =>
            {
                return Err("an exact number with four decimals at most; write one this large as a text");
            }
            (ArgumentType::Decimal, Value::Number(number)) => {
                let exact = number.to_string().parse().map_err(|_| "an exact number with four decimals at most")?;
                self.numbers.insert(name, exact);
            }
            (ArgumentType::Decimal, Value::String(text)) => {
                let exact = text.parse().map_err(|_| "an exact number with four decimals at most")?;
                self.numbers.insert(name, exact);
            }
            (ArgumentType::Decimal, _) => return Err("an exact number with four decimals at most"),
            (ArgumentType::Boolean, Value::Bool(flag)) => _ = self.flags.insert(name, *flag),
            (ArgumentType::Boolean, _) => return Err("`true` or `false`"),
            (ArgumentType::Strings, Value::Array(entries)) if entries.len() <= MOST_ENTRIES => {
                let texts: Option<Vec<String>> = entries
                    .iter()
                    .map(|entry| entry.as_str().filter(|text| text.len() <= LONGEST_TEXT).map(str::to_owned))
                    .collect();
                self.lists.insert(name, texts.ok_or("a list of texts")?);
            }
            (ArgumentType::Strings, _) => return Err("a list of 1,024 texts at most"),
            (ArgumentType::Any, _) => {}
        }
        Ok(())
    }
}

/// A name that somebody else chose, short enough to stand in a message.
fn shown(name: &str) -> String {
    let short: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    if short.len() == name.len() { short } else { format!("{short}…") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn typed(type_: &str, value: &Value) -> Result<Values, ArgumentError> {
        let declared: BTreeMap<String, Argument> = serde_json::from_value(json!({"x": {"type": type_}})).unwrap();
        Values::typed(Some(&declared), json!({"x": value}).as_object().unwrap())
    }

    #[test]
    fn a_value_of_another_type_denies() {
        for (type_, value) in [
            ("string", json!(1)),
            ("string", json!("a".repeat(LONGEST_TEXT + 1))),
            ("integer", json!("1")),
            ("integer", json!(1.0)),
            ("integer", json!(u64::MAX)),
            ("integer", json!(9_223_372_036_854_775_807_i64)),
            ("decimal", json!(0.00001)),
            ("decimal", json!("NaN")),
            ("decimal", json!(1e300)),
            ("decimal", json!(900_719_925_474.5)),
            ("decimal", json!(true)),
            ("boolean", json!("true")),
            ("strings", json!("a")),
            ("strings", json!(["a", 1])),
            ("strings", json!(vec!["a"; MOST_ENTRIES + 1])),
        ] {
            assert!(matches!(typed(type_, &value), Err(ArgumentError::Type(..))), "{type_}");
        }
    }

    #[test]
    fn numbers_keep_their_exact_value() {
        assert_eq!(typed("decimal", &json!(0.1)).unwrap().numbers["x"], "0.1".parse().unwrap());
        assert_eq!(typed("decimal", &json!("12.50")).unwrap().numbers["x"], "12.5".parse().unwrap());
        assert_eq!(typed("integer", &json!(-3)).unwrap().numbers["x"], "-3".parse().unwrap());
    }

    #[test]
    fn an_argument_that_nobody_declared_denies() {
        let declared = BTreeMap::new();
        let given = json!({"surprise": 1});
        let error = Values::typed(Some(&declared), given.as_object().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "argument `surprise` is not among those that the tool's owner lists (none)");
    }

    #[test]
    fn a_required_argument_cannot_be_null() {
        let declared: BTreeMap<String, Argument> =
            serde_json::from_value(json!({"x": {"type": "string", "required": true}})).unwrap();
        for given in [json!({}), json!({"x": null})] {
            let error = Values::typed(Some(&declared), given.as_object().unwrap()).unwrap_err();
            assert_eq!(error, ArgumentError::Missing("x".into()));
        }
    }
}
