//! What stands in one row, and the exact bytes of it that are hashed.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::Entry;
use super::body::{REMOVED, quote};
use crate::decide::literal;
use crate::hex::hex;

/// What every hash of an entry begins with, so that it is the hash of nothing else.
const DOMAIN: &[u8] = b"mandate.dev/audit/entry/v1\n";

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
        f.write_str(&hex(&self.0))
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

/// An entry as it is stored: every part of it a text. They stand in one piece of memory, since one
/// thread makes it and another frees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Every part behind the one before: body, id, time, kind, keys.
    text: String,
    /// Where each ends.
    ends: [u32; PARTS],
    /// A bit for each that is missing.
    missing: u16,
}

const PARTS: usize = 12;

impl Row {
    /// Makes the stored form of an entry; the second value says how many texts were replaced
    /// since they had the form of a credential.
    pub(super) fn of(entry: &Entry) -> (Self, u64) {
        let Entry { id, at, kind, keys, body } = entry;
        let mut replaced = body.replaced();
        let mut shown = |text| {
            let is_credential = literal::is_known(text);
            replaced += u64::from(is_credential);
            if is_credential { REMOVED } else { text }
        };
        let (id, keys) = (shown(id), keys.texts().map(|key| key.map(&mut shown)));
        (Self::new(body.as_str(), id, &time(*at), kind.as_str(), keys), replaced)
    }

    /// A row of its parts; keys in the order of [`Keys::texts`](super::Keys).
    pub(super) fn new(body: &str, id: &str, at: &str, kind: &str, keys: [Option<&str>; 8]) -> Self {
        let parts = [body, id, at, kind].map(Some).into_iter().chain(keys);
        let length = parts.clone().flatten().map(str::len).sum();
        let (mut text, mut ends, mut missing) = (String::with_capacity(length), [0; PARTS], 0);
        for (n, part) in parts.enumerate() {
            match part {
                Some(part) => text.push_str(part),
                None => missing |= 1 << n,
            }
            // No row of a database is as long.
            ends[n] = u32::try_from(text.len()).unwrap_or(u32::MAX);
        }
        Self { text, ends, missing }
    }

    fn part(&self, n: usize) -> Option<&str> {
        if self.missing & 1 << n != 0 {
            return None;
        }
        let begin = n.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(begin as usize..self.ends[n] as usize)
    }

    /// Canonical JSON.
    pub(super) fn body(&self) -> &str {
        self.part(0).unwrap_or_default()
    }

    pub(super) fn id(&self) -> &str {
        self.part(1).unwrap_or_default()
    }

    pub(super) fn at(&self) -> &str {
        self.part(2).unwrap_or_default()
    }

    pub(super) fn kind(&self) -> &str {
        self.part(3).unwrap_or_default()
    }

    /// In the order of [`Keys::texts`](super::Keys).
    pub(super) fn keys(&self) -> [Option<&str>; 8] {
        std::array::from_fn(|n| self.part(4 + n))
    }

    /// The hash of this row at its place in the chain.
    pub(super) fn hash(&self, seq: u64, prev: Hash) -> Hash {
        Hash::of(&[DOMAIN, self.text(seq, prev).as_bytes()])
    }

    /// The canonical JSON of the whole row. Members stand in the order of their names, which
    /// is written out here; the body is canonical already and goes in as it is stored, so that
    /// not one byte of it can change unseen.
    pub(super) fn text(&self, seq: u64, prev: Hash) -> String {
        let [namespace, task, task_uid, agent, tool, outcome, trace_id, token_id] = self.keys();
        let mut text = String::with_capacity(512 + self.text.len());
        text.push('{');
        member(&mut text, "agent", agent);
        member(&mut text, "at", Some(self.at()));
        // INVARIANT: writing to a String cannot fail.
        let _ = write!(text, "\"body\":{},", self.body());
        member(&mut text, "id", Some(self.id()));
        member(&mut text, "kind", Some(self.kind()));
        member(&mut text, "namespace", namespace);
        member(&mut text, "outcome", outcome);
        let _ = write!(text, "\"prev\":\"{prev}\",\"seq\":{seq},");
        member(&mut text, "task", task);
        member(&mut text, "taskUid", task_uid);
        member(&mut text, "tokenId", token_id);
        member(&mut text, "tool", tool);
        member(&mut text, "traceId", trace_id);
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

/// A time as it is stored and hashed: microseconds, always six digits of them, so that texts
/// are in the order of time.
pub(super) fn time(at: Timestamp) -> String {
    format!("{at:.6}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::body::canonical;
    use super::super::{Body, Keys, Kind};
    use super::*;

    fn row(keys: Keys, body: Value) -> Row {
        let body = Body::of(&body).unwrap();
        Row::of(&Entry { id: "0".to_owned(), at: Timestamp::UNIX_EPOCH, kind: Kind::Decision, keys, body }).0
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

    #[test]
    fn what_has_the_form_of_a_credential_is_never_written() {
        let key = format!("ghp_{}", "a1B2".repeat(9));
        let keys = Keys { trace_id: Some(key.clone()), ..Keys::default() };
        let entry = Entry {
            id: String::new(),
            at: Timestamp::UNIX_EPOCH,
            kind: Kind::Decision,
            keys,
            body: Body::of(&json!({"args": [{"note": format!("use {key}")}], key.clone(): 1, "digest": "5".repeat(64)})).unwrap(),
        };
        let (row, replaced) = Row::of(&entry);
        assert_eq!(replaced, 3);
        assert!(!row.text(1, Hash([0; 32])).contains("a1B2"), "{row:?}");
        let [.., trace_id, _] = row.keys();
        assert_eq!(trace_id, Some(REMOVED));
        assert!(row.body().contains(&"5".repeat(64)));
    }

    #[test]
    fn times_are_in_the_order_of_their_texts() {
        let times = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.0000019Z", "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:01Z"];
        let texts: Vec<String> = times.iter().map(|text| time(text.parse().unwrap())).collect();
        assert!(texts.is_sorted() && texts.iter().all(|text| text.len() == 27), "{texts:?}");
    }
}
