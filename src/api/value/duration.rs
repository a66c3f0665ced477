//! A length of time as people write it in a manifest: `90s`, `15m`, `1h30m`.

use std::{borrow::Cow, fmt, str::FromStr};

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Whole seconds, written with the units `h`, `m` and `s`, largest first, each at most
/// once. Longest: `8784h` (366 days).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(u32);

const LONGEST: u32 = 8784 * 3600;
/// What the API server checks; the same language as [`Duration::from_str`].
const PATTERN: &str = "^([0-9]{1,4}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$";
const HELP: &str = "write whole units, largest first, such as `90s`, `15m` or `1h30m`";

/// The pattern, for rules that look at durations.
pub(in crate::api) const fn pattern() -> &'static str {
    PATTERN
}

impl Duration {
    /// A length of `seconds`, cut to the longest that can be written.
    #[must_use]
    pub const fn from_secs(seconds: u32) -> Self {
        Self(if seconds > LONGEST { LONGEST } else { seconds })
    }

    /// Length in seconds.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0 as i64
    }
}

impl From<Duration> for SignedDuration {
    fn from(duration: Duration) -> Self {
        Self::from_secs(duration.as_secs())
    }
}

/// Why a text is not a [`Duration`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseDurationError {
    /// The text is not made of whole numbers with the units `h`, `m`, `s` in this order.
    #[error("`{0}` is not a duration: {HELP}")]
    Form(String),
    /// The text is well-formed but longer than 366 days.
    #[error("`{0}` is longer than 8784h (366 days)")]
    TooLong(String),
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || ParseDurationError::Form(text.to_owned());
        let mut rest = text;
        let mut total: u64 = 0;
        for (unit, seconds, digits) in [('h', 3600, 4), ('m', 60, 6), ('s', 1, 8)] {
            let Some((number, after)) = rest.split_once(unit) else { continue };
            if number.is_empty() || number.len() > digits || !number.bytes().all(|b| b.is_ascii_digit()) {
                return Err(form());
            }
            total += number.parse::<u64>().map_err(|_| form())? * seconds;
            rest = after;
        }
        if !rest.is_empty() || text.is_empty() {
            return Err(form());
        }
        u32::try_from(total)
            .ok()
            .filter(|seconds| *seconds <= LONGEST)
            .map(Self)
            .ok_or_else(|| ParseDurationError::TooLong(text.to_owned()))
    }
}

impl TryFrom<String> for Duration {
    type Error = ParseDurationError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, minutes, seconds) = (self.0 / 3600, self.0 / 60 % 60, self.0 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if seconds > 0 || self.0 == 0 {
            write!(f, "{seconds}s")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 2,
            "maxLength": 16,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{PATTERN}')"),
                "message": format!("not a duration: {HELP}"),
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_meant() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("1h30m", 5400), ("1h1m1s", 3661), ("0s", 0), ("8784h", LONGEST)] {
            assert_eq!(text.parse::<Duration>(), Ok(Duration(seconds)), "{text}");
        }
    }

    #[test]
    fn a_wrong_unit_is_refused_with_the_text_and_the_fix() {
        for text in ["15", "15 minutes", "1d", "-5m", "1.5h", "5m1h", "m", "", "5s5s", "+5s", "9999999999999999999999h"] {
            let Err(ParseDurationError::Form(quoted)) = text.parse::<Duration>() else {
                panic!("{text:?} was taken for a duration")
            };
            assert_eq!(quoted, text);
        }
        assert_eq!("8784h1s".parse::<Duration>(), Err(ParseDurationError::TooLong("8784h1s".into())));
    }

    #[test]
    fn printing_and_parsing_agree() {
        for seconds in [0, 1, 59, 60, 61, 3599, 3600, 3661, 86_400, LONGEST] {
            let duration = Duration(seconds);
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}
