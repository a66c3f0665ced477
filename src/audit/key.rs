//! The key that checkpoints are signed with: Ed25519, in a file of its own.
//!
//! The private half is read here, kept in memory and shown by nothing. The public half is what
//! verifies, and is printed as PEM, which other tools read too.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, ParsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::AuditError;
use super::entry::Hash;

/// What stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const PRIVATE: &str = "PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";

/// A key that signs.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id())
    }
}

impl SigningKey {
    /// Reads the private key from a PEM file (PKCS #8).
    ///
    /// # Errors
    ///
    /// Where the file cannot be read or holds no such key.
    pub fn read(path: &Path) -> Result<Self, AuditError> {
        let text = fs::read_to_string(path).map_err(|source| AuditError::io("reading the audit key", path, source))?;
        let der = from_pem(&text, PRIVATE).ok_or_else(|| AuditError::key(path, "it holds no PEM `PRIVATE KEY`"))?;
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| AuditError::key(path, "it holds no Ed25519 key as PKCS #8"))?;
        Self::of(pair).ok_or_else(|| AuditError::key(path, "its public half is not 32 bytes"))
    }

    /// Makes a key and writes it into a new file that nobody but its owner can read.
    ///
    /// # Errors
    ///
    /// Where the file exists, cannot be written, or the system has no randomness.
    pub fn create(path: &Path) -> Result<Self, AuditError> {
        let none = || AuditError::key(path, "the system gives no randomness for a new key");
        let pair = Ed25519KeyPair::generate().map_err(|_| none())?;
        let der = pair.to_pkcs8().map_err(|_| none())?;
        write_new(path, &to_pem(der.as_ref(), PRIVATE))
            .map_err(|source| AuditError::io("writing the audit key", path, source))?;
        Self::of(pair).ok_or_else(none)
    }

    fn of(pair: Ed25519KeyPair) -> Option<Self> {
        let public = PublicKey(pair.public_key().as_ref().try_into().ok()?);
        Some(Self { pair, public })
    }

    /// The half that verifies.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The signature of some bytes, in base64.
    pub(super) fn sign(&self, bytes: &[u8]) -> String {
        BASE64_STANDARD.encode(self.pair.sign(bytes))
    }
}

/// A key that verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads a public key from a PEM file.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read or holds no Ed25519 public key.
    pub fn read(path: &Path) -> Result<Self, AuditError> {
        let text = fs::read_to_string(path).map_err(|source| AuditError::io("reading the public key", path, source))?;
        let der = from_pem(&text, PUBLIC).ok_or_else(|| AuditError::key(path, "it holds no PEM `PUBLIC KEY`"))?;
        let key = der.strip_prefix(&SPKI).and_then(|key| key.try_into().ok());
        key.map(Self).ok_or_else(|| AuditError::key(path, "it holds no Ed25519 public key"))
    }

    /// The key as PEM, which `openssl pkey -pubin` reads.
    #[must_use]
    pub fn pem(&self) -> String {
        to_pem(&[SPKI.as_slice(), &self.0].concat(), PUBLIC)
    }

    /// The first 16 hexadecimal digits of the SHA-256 of the key's SubjectPublicKeyInfo.
    #[must_use]
    pub fn id(&self) -> String {
        let mut id = Hash::of(&[&SPKI, &self.0]).to_string();
        id.truncate(16);
        id
    }

    /// Whether a signature in base64 is this key's, of these bytes.
    pub(super) fn is_signed(&self, bytes: &[u8], signature: &str) -> bool {
        let Ok(signature) = BASE64_STANDARD.decode(signature) else { return false };
        ParsedPublicKey::new(&ED25519, self.0).is_ok_and(|key| key.verify_sig(bytes, &signature).is_ok())
    }
}

/// Writes a file that did not exist, with mode 0600, and makes it durable.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // A half-written key would be taken for a broken one at the next start.
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

fn to_pem(der: &[u8], label: &str) -> String {
    let mut pem = format!("-----BEGIN {label}-----\n");
    let text = BASE64_STANDARD.encode(der);
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem + &format!("-----END {label}-----\n")
}

fn from_pem(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_whitespace().collect();
    BASE64_STANDARD.decode(body).ok()
}
