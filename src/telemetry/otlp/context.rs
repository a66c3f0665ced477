//! Whose trace it is: W3C Trace Context, version 00.

use std::fmt;

use axum::http::HeaderMap;

/// The span of a caller, as its `traceparent` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Id of the trace; never 0.
    pub trace: u128,
    /// Id of the caller's span; never 0.
    pub span: u64,
    /// Whether the caller keeps the trace.
    pub sampled: bool,
}

/// Id of a trace as it is written: 32 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Parent {
    /// The span that a request over HTTP belongs to.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get("traceparent")?.to_str().ok()?)
    }

    /// Reads the value of a `traceparent`. One that breaks the form is none, as the standard wants it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let version = digits(parts.next()?, 2)?;
        let (trace, span, flags) = (digits(parts.next()?, 32)?, digits(parts.next()?, 16)?, digits(parts.next()?, 2)?);
        // A later version may say more; this one says no more.
        let is_one = version != 0xff && (version != 0 || parts.next().is_none()) && trace != 0 && span != 0;
        is_one.then_some(Self { trace, span: u64::try_from(span).ok()?, sampled: flags & 1 == 1 })
    }

    /// Id of the trace, as it is written.
    #[must_use]
    pub const fn trace_id(&self) -> TraceId {
        TraceId(self.trace)
    }
}

/// A number in exactly so many digits, letters among them small.
fn digits(text: &str, count: usize) -> Option<u128> {
    let is_one = text.len() == count && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_one.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_parent_is_read_as_the_standard_writes_it() {
        let parent = Parent::parse(&format!("00-{TRACE}-b7ad6b7169203331-01")).unwrap();
        assert_eq!(parent.trace_id().to_string(), TRACE);
        assert_eq!((parent.span, parent.sampled), (0xb7ad_6b71_6920_3331, true));
        assert!(!Parent::parse(&format!("00-{TRACE}-b7ad6b7169203331-02")).unwrap().sampled);
        assert!(Parent::parse(&format!("cc-{TRACE}-b7ad6b7169203331-01-more")).is_some());
    }

    #[test]
    fn what_breaks_the_form_is_no_parent() {
        for text in [
            String::new(),
            "00-x-y-z".to_owned(),
            format!("00-{TRACE}"),
            format!("00-{TRACE}-b7ad6b7169203331"),
            format!("00-{TRACE}-b7ad6b7169203331-01-more"),
            format!("ff-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{}-b7ad6b7169203331-01", TRACE.to_ascii_uppercase()),
            format!("00-{TRACE}0-b7ad6b7169203331-01"),
            format!("00-{TRACE}-+7ad6b7169203331-01"),
            format!("00-{TRACE}-b7ad6b7169203331-0\u{e9}"),
        ] {
            assert_eq!(Parent::parse(&text), None, "{text}");
        }
    }
}
