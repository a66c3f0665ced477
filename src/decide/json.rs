//! Reading raw JSON without losing what we do not know.
//!
//! Objects under review are read as they came, never through typed structs: a struct drops
//! the fields it does not know, and a new kind of volume would then be invisible.

pub use serde_json_borrow::Value;

/// Reading members without caring about their absence.
pub trait Read<'a> {
    /// A member that is there and not null.
    fn member(&'a self, key: &str) -> Option<&'a Value<'a>>;
    /// A text member, or the empty text.
    fn text(&'a self, key: &str) -> &'a str;
    /// A whole number. One that is too large is the largest there is, and a fraction is cut:
    /// neither may pass for a member that is not there.
    fn whole(&'a self, key: &str) -> Option<i64>;
    /// The items of a list member; none where it is missing or not a list.
    fn items(&'a self, key: &str) -> &'a [Value<'a>];
    /// The members of an object; none where it is not one.
    fn members(&'a self) -> impl Iterator<Item = (&'a str, &'a Value<'a>)>;
    /// What a path of members leads to.
    fn at(&'a self, path: &[&str]) -> Option<&'a Value<'a>>;
}

impl<'a> Read<'a> for Value<'a> {
    fn member(&'a self, key: &str) -> Option<&'a Value<'a>> {
        // The last one wins where a key is written twice, as in the API server.
        let (_, value) = self.members().filter(|(name, _)| *name == key).last()?;
        (!value.is_null()).then_some(value)
    }

    fn text(&'a self, key: &str) -> &'a str {
        self.member(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn whole(&'a self, key: &str) -> Option<i64> {
        whole(self.member(key)?)
    }

    fn items(&'a self, key: &str) -> &'a [Value<'a>] {
        match self.member(key) {
            Some(Value::Array(items)) => items,
            _ => &[],
        }
    }

    fn members(&'a self) -> impl Iterator<Item = (&'a str, &'a Value<'a>)> {
        self.as_object().into_iter().flat_map(|object| object.iter())
    }

    fn at(&'a self, path: &[&str]) -> Option<&'a Value<'a>> {
        path.iter().try_fold(self, |value, key| value.member(key))
    }
}

/// The whole number that a value is; see [`Read::whole`].
#[must_use]
pub fn whole(value: &Value<'_>) -> Option<i64> {
    // `as` keeps to the largest and the smallest.
    value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))
}
