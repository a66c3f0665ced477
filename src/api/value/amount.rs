//! An exact number with at most four decimals.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Ten-thousandths in one.
const SCALE: i64 = 10_000;

/// An exact number with at most four decimals, between ±922,337,203,685,477.5807: what a tool's
/// arguments are counted and bounded in. Never a float: `0.1` is `0.1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

/// Why a text is no [`Amount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAmountError {
    /// It is not written as one.
    #[error("is no number such as `1000` or `12.50`")]
    Form,
    /// It has more than four decimals.
    #[error("has more than four decimals")]
    Decimals,
    /// It is too large.
    #[error("lies beyond ±922337203685477.5807")]
    Range,
}

impl Amount {
    /// A whole number.
    ///
    /// # Errors
    /// [`ParseAmountError::Range`].
    pub fn from_integer(number: i64) -> Result<Self, ParseAmountError> {
        number.checked_mul(SCALE).map(Self).ok_or(ParseAmountError::Range)
    }

    /// Ten-thousandths of one.
    #[must_use]
    pub fn ten_thousandths(self) -> i64 {
        self.0
    }

    /// Whether it has no decimals.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.0 % SCALE == 0
    }
}

impl std::str::FromStr for Amount {
    type Err = ParseAmountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, "0"));
        let written = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !written(whole) || !written(decimals) {
            return Err(ParseAmountError::Form);
        }
        let decimals = decimals.trim_end_matches('0');
        if decimals.len() > 4 {
            return Err(ParseAmountError::Decimals);
        }
        let whole: i64 = whole.parse().map_err(|_| ParseAmountError::Range)?;
        let part: i64 = format!("{decimals:0<4}").parse().map_err(|_| ParseAmountError::Form)?;
        let size = whole.checked_mul(SCALE).and_then(|whole| whole.checked_add(part)).ok_or(ParseAmountError::Range)?;
        Ok(Self(if negative { -size } else { size }))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / SCALE, (self.0 % SCALE).abs());
        if self.0 < 0 && whole == 0 {
            f.write_str("-")?;
        }
        write!(f, "{whole}")?;
        if part != 0 {
            write!(f, ".{}", format!("{part:04}").trim_end_matches('0'))?;
        }
        Ok(())
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_whole() { serializer.serialize_i64(self.0 / SCALE) } else { serializer.collect_str(self) }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or a number with up to four decimals in quotes, such as `\"12.50\"`")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Amount, E> {
                Amount::from_integer(number).map_err(|error| E::custom(format!("`{number}` {error}")))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Amount, E> {
                let number = i64::try_from(number).map_err(|_| E::custom(format!("`{number}` {}", ParseAmountError::Range)))?;
                self.visit_i64(number)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                text.parse().map_err(|error| E::custom(format!("`{text}` {error}")))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Amount".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true, "pattern": r"^-?[0-9]{1,15}(\.[0-9]{1,4})?$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_to_four_decimals() {
        for (text, shown) in [("0", "0"), ("12.50", "12.5"), ("-0.0001", "-0.0001"), ("-3.10", "-3.1"), ("1000", "1000")] {
            assert_eq!(text.parse::<Amount>().unwrap().to_string(), shown);
        }
        assert!("0.1".parse::<Amount>().unwrap() < "0.1001".parse().unwrap());
    }

    #[test]
    fn what_is_no_exact_number_is_refused() {
        for (text, why) in [
            ("1e3", ParseAmountError::Form),
            ("", ParseAmountError::Form),
            ("-", ParseAmountError::Form),
            ("1.", ParseAmountError::Form),
            ("NaN", ParseAmountError::Form),
            ("1_000", ParseAmountError::Form),
            ("0.00001", ParseAmountError::Decimals),
            ("922337203685478", ParseAmountError::Range),
            ("99999999999999999999", ParseAmountError::Range),
        ] {
            assert_eq!(text.parse::<Amount>(), Err(why), "{text}");
        }
    }

    #[test]
    fn an_amount_survives_writing_and_reading() {
        for text in ["7", "-7", "\"0.25\""] {
            let amount: Amount = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&amount).unwrap(), text);
        }
        assert!(serde_json::from_str::<Amount>("0.25").is_err(), "a float is not exact");
    }
}
