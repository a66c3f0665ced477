//! Signed statements about the chain: up to this row it is what it is.
//!
//! One kind is kept for good (`checkpoint`), one stands for the last row that was committed and
//! is replaced by the next commit (`head`), and one ends a segment (`end`). A statement that is
//! replaced cannot be put back from the database, which is why a head is no checkpoint.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::AuditError;
use super::body::canonical;
use super::entry::{Hash, time};
use super::key::{PublicKey, SigningKey};

/// What every signed statement begins with, so that it is a statement about nothing else.
const DOMAIN: &str = "mandate.dev/audit/checkpoint/v1\n";

/// What a statement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// Kept for good: each so many entries, each so many seconds, and when the log is closed.
    Checkpoint,
    /// The last row that was committed; replaced by the next commit.
    Head,
    /// The last row of a segment after which another one was begun.
    End,
}

/// A signed statement about the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// When it was made.
    pub at: String,
    /// How many rows the segment has up to here.
    pub count: u64,
    /// The hash of the row.
    #[serde(with = "as_text")]
    pub hash: Hash,
    /// Which key signed it: [`PublicKey::id`].
    pub key: String,
    /// The log it speaks of.
    pub log: String,
    /// What it is for.
    pub mark: Mark,
    /// The segment of the row.
    pub segment: u64,
    /// The row.
    pub seq: u64,
    /// Ed25519, in base64.
    pub signature: String,
}

/// What is said of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said<'a> {
    pub log: &'a str,
    pub segment: u64,
    pub seq: u64,
    pub hash: Hash,
    pub count: u64,
}

impl Checkpoint {
    pub(super) fn sign(key: &SigningKey, mark: Mark, said: Said<'_>, at: Timestamp) -> Result<Self, AuditError> {
        let Said { log, segment, seq, hash, count } = said;
        let (at, log, key_id) = (time(at), log.to_owned(), key.public().id());
        let mut made = Self { at, count, hash, key: key_id, log, mark, segment, seq, signature: String::new() };
        made.signature = key.sign(made.signed()?.as_bytes());
        Ok(made)
    }

    /// The bytes that are signed: canonical JSON without the signature.
    fn signed(&self) -> Result<String, AuditError> {
        let Self { at, count, hash, key, log, mark, segment, seq, signature: _ } = self;
        let value = serde_json::json!({
            "at": at, "count": count, "hash": hash.to_string(), "key": key, "log": log, "mark": mark, "segment": segment, "seq": seq,
        });
        Ok(format!("{DOMAIN}{}", canonical(&value)?))
    }

    /// Whether one of these keys has signed it.
    pub(super) fn is_signed_by(&self, keys: &[PublicKey]) -> bool {
        let key = keys.iter().find(|key| key.id() == self.key);
        key.is_some_and(|key| self.signed().is_ok_and(|bytes| key.is_signed(bytes.as_bytes(), &self.signature)))
    }

    /// The line that is stored, without its end.
    pub(super) fn line(&self) -> Result<String, AuditError> {
        canonical(self)
    }
}

/// A hash as its text.
mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::Hash;

    pub(super) fn serialize<S: Serializer>(hash: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(hash)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
