//! What a YAML scalar means: text as written in, JSON value out.
//!
//! YAML has two answers, and only one of them is what a cluster gets: `kubectl` and the API
//! server read manifests with `sigs.k8s.io/yaml`, which follows YAML 1.1 as go-yaml v2 does.
//! There `yes`, `on` and `y` are booleans and `0644` is octal. A reader of YAML 1.2 would see
//! `hostNetwork: yes` as text and judge another object than the one that is applied. The table
//! in the tests was printed by `sigs.k8s.io/yaml` 1.6.0.

use super::node::What;

/// The type that a tag asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// None is written: the text itself decides.
    None,
    /// `!!str`, `!` and every tag that Kubernetes does not know.
    Text,
    /// `!!bool`.
    Bool,
    /// `!!int`.
    Int,
    /// `!!float`.
    Float,
    /// `!!null`.
    Null,
    /// `!!timestamp`, which stays a text.
    Timestamp,
    /// `!!binary`: a text in Base64.
    Binary,
}

impl Tag {
    /// The tag `!!` of this name.
    pub(super) fn core(name: &str) -> Self {
        match name {
            "bool" => Self::Bool,
            "int" => Self::Int,
            "float" => Self::Float,
            "null" => Self::Null,
            "timestamp" => Self::Timestamp,
            "binary" => Self::Binary,
            _ => Self::Text,
        }
    }
}

/// The value of a scalar, or why there is none. `is_plain`: it stands there without quotes.
pub(super) fn resolve(text: &str, is_plain: bool, tag: Tag) -> Result<What, &'static str> {
    let what = match tag {
        Tag::Text => return Ok(What::text(text)),
        Tag::None if !is_plain => return Ok(What::text(text)),
        Tag::Binary => return binary(text),
        Tag::None | Tag::Timestamp | Tag::Bool | Tag::Int | Tag::Float | Tag::Null => plain(text)?,
    };
    match (tag, what) {
        (Tag::Float, What::Int(number)) => Ok(What::Float(number as f64)),
        (Tag::Float, What::Large(number)) => Ok(What::Float(number as f64)),
        (Tag::None | Tag::Timestamp, what)
        | (Tag::Bool, what @ What::Bool(_))
        | (Tag::Int, what @ (What::Int(_) | What::Large(_)))
        | (Tag::Float, what @ What::Float(_))
        | (Tag::Null, what @ What::Null) => Ok(what),
        _ => Err("the value is not of the type that its tag names"),
    }
}

fn binary(text: &str) -> Result<What, &'static str> {
    use base64::Engine as _;
    let packed: String = text.split_ascii_whitespace().collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(packed).map_err(|_| "`!!binary` is no Base64")?;
    Ok(What::text(&String::from_utf8_lossy(&bytes)))
}

fn plain(text: &str) -> Result<What, &'static str> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => What::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => What::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => What::Bool(false),
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" => {
            return Err("infinity and `.nan` are no numbers in JSON");
        }
        _ => match text.as_bytes()[0] {
            b'0'..=b'9' | b'+' | b'-' => {
                let digits = text.replace('_', "");
                whole(&digits).or_else(|| fraction(&digits))
            }
            b'.' => fraction(text),
            _ => None,
        }
        .unwrap_or_else(|| What::text(text)),
    })
}

/// A whole number as Go writes them: `0x`, `0o` and `0b`, and octal after a leading zero.
fn whole(text: &str) -> Option<What> {
    let (is_negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.starts_with(|digit: char| digit.is_digit(radix)) {
        return None;
    }
    let number = i128::from(u64::from_str_radix(digits, radix).ok()?);
    let number = if is_negative { -number } else { number };
    match i64::try_from(number) {
        Ok(number) => Some(What::Int(number)),
        // What is smaller than the smallest is read as a fraction.
        Err(_) => u64::try_from(number).ok().map(What::Large),
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, where it is finite.
fn fraction(text: &str) -> Option<What> {
    let is_decimal = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    let number: f64 = if is_decimal { text.parse().ok()? } else { return None };
    number.is_finite().then_some(What::Float(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As JSON, or `!` where there is none.
    fn json(text: &str) -> String {
        match resolve(text, true, Tag::None) {
            Ok(What::Null) => "null".to_owned(),
            Ok(What::Bool(bool)) => bool.to_string(),
            Ok(What::Int(number)) => number.to_string(),
            Ok(What::Large(number)) => number.to_string(),
            Ok(What::Float(number)) => number.to_string(),
            Ok(What::Text(text)) => format!("{text:?}"),
            Ok(other) => format!("{other:?}"),
            Err(_) => "!".to_owned(),
        }
    }

    #[test]
    fn scalars_mean_what_kubectl_reads() {
        let table = "yes true|y true|Y true|n false|on true|Off false|oN \"oN\"|TRUE true|tRue \"tRue\"|~ null|Null null|0644 420|0o644 420|\
            0O17 15|0x1F 31|-0x1F -31|0b11 3|-0b11 -3|1_000 1000|0_7 7|+12 12|-12 -12|08 8|09.5 9.5|1e3 1000|1E-3 0.001|.5 0.5|5. 5|\
            .inf !|-.Inf !|.nan !|1.0 1|100000000000000000000 100000000000000000000|18446744073709551615 18446744073709551615|\
            9223372036854775808 9223372036854775808|-9223372036854775808 -9223372036854775808|-9223372036854775809 -9223372036854776000|\
            0xFFFFFFFFFFFFFFFF 18446744073709551615|0x1FFFFFFFFFFFFFFFF \"0x1FFFFFFFFFFFFFFFF\"|1:30 \"1:30\"|2001-12-14 \"2001-12-14\"|\
            1e400 \"1e400\"|123456789.123 123456789.123|3.0e10 30000000000|_1 \"_1\"|1__0 10|1_ 1|+ \"+\"|. \".\"|1.2.3 \"1.2.3\"|0x \"0x\"|\
            0b \"0b\"|1e \"1e\"|= \"=\"|<< \"<<\"|0777 511|-0777 -511|+0x10 16|0xg \"0xg\"|1.e3 1000|0. 0|-.5 -0.5|+.5 0.5|.e3 \".e3\"|\
            1,000 \"1,000\"|2020-1-1 \"2020-1-1\"|-0 0|00 0|0e0 0|1_0.5 10.5|0x_1 1|_ \"_\"|__ \"__\"|1E+3 1000|NaN \"NaN\"|inf \"inf\"|\
            Infinity \"Infinity\"|0x1p4 \"0x1p4\"|1p4 \"1p4\"|0b2 \"0b2\"|0o8 \"0o8\"|0B11 3|0X1F 31|0+1 \"0+1\"|-+1 \"-+1\"";
        for row in table.split('|') {
            let (text, means) = row.split_once(' ').unwrap();
            assert_eq!(json(text), means, "`{text}`");
        }
    }

    #[test]
    fn quotes_and_tags_decide_before_the_text_does() {
        assert_eq!(resolve("yes", false, Tag::None), Ok(What::text("yes")));
        assert_eq!(resolve("yes", false, Tag::Bool), Ok(What::Bool(true)));
        assert_eq!(resolve("12", true, Tag::Text), Ok(What::text("12")));
        assert_eq!(resolve("12", false, Tag::Int), Ok(What::Int(12)));
        assert_eq!(resolve("3", true, Tag::Float), Ok(What::Float(3.0)));
        assert_eq!(resolve("aGVsbG8=", true, Tag::Binary), Ok(What::text("hello")));
        assert!(resolve("abc", true, Tag::Int).is_err());
    }
}
