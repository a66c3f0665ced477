//! What the Secret holds: authorities, the bundle that clients trust, the serving certificate.
//!
//! Bytes of the Secret go in and come out. What does not parse, does not fit its key or is not
//! of its kind is simply not there: a Secret full of garbage is an empty one, and the plan
//! makes a new one of it. Issuing happens here too; when to issue is the plan's to say.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use rustls::{
    RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};

use super::plan::Wanted;
use crate::hex::hex;
use crate::serve::tls::Certificate;

/// The bundle that clients trust, PEM.
pub(super) const BUNDLE: &str = "ca.crt";
/// Serving certificate and its key, under the names that a TLS Secret has.
pub(super) const SERVING: Names = Names { cert: "tls.crt", key: "tls.key" };
/// The authority that signs.
pub(super) const CURRENT: Names = Names { cert: "authority.crt", key: "authority.key" };
/// The authority that is announced and does not sign yet.
pub(super) const NEXT: Names = Names { cert: "next-authority.crt", key: "next-authority.key" };

/// Names of a certificate and its key in the Secret.
pub(super) struct Names {
    pub cert: &'static str,
    pub key: &'static str,
}

/// Certificates in the bundle at most: the current, the next, and old ones that still count.
const BUNDLED: usize = 8;
/// Names in a serving certificate at most.
const NAMES: usize = 16;

/// Why nothing could be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Making or signing failed; the random source or the stored authority is to blame.
    #[error("issue a certificate")]
    Issue(#[from] rcgen::Error),
    /// What was issued does not serve.
    #[error("check the certificate just issued")]
    Check,
}

/// What the Secret holds, as far as it can be used.
#[derive(Clone, Default)]
pub(super) struct Stored {
    pub current: Option<Authority>,
    pub next: Option<Authority>,
    pub bundle: Vec<Trusted>,
    pub serving: Option<Leaf>,
}

/// From when until when a certificate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Validity {
    pub fn holds(self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    pub fn is_over(self, now: Timestamp) -> bool {
        self.not_after <= now
    }

    /// Two thirds of its life: time for another one.
    pub fn due(self) -> Timestamp {
        self.not_after - self.not_after.duration_since(self.not_before) / 3
    }
}

/// An authority that clients trust.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Trusted {
    pub der: CertificateDer<'static>,
    pub validity: Validity,
}

/// An authority that can sign.
#[derive(Clone)]
pub(super) struct Authority {
    pub trusted: Trusted,
    key: SecretString,
}

/// The serving certificate.
#[derive(Clone)]
pub(super) struct Leaf {
    der: CertificateDer<'static>,
    key: SecretString,
    pub validity: Validity,
    pub names: Vec<String>,
    pub certificate: Certificate,
}

impl Stored {
    /// Reads the data of a Secret.
    pub fn read(data: &BTreeMap<String, ByteString>) -> Self {
        let text = |name: &str| data.get(name).and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
        let bundle = text(BUNDLE).unwrap_or_default();
        Self {
            current: Authority::parse(text(CURRENT.cert), text(CURRENT.key)),
            next: Authority::parse(text(NEXT.cert), text(NEXT.key)),
            bundle: CertificateDer::pem_slice_iter(bundle.as_bytes())
                .take(2 * BUNDLED)
                .filter_map(|der| Trusted::parse(&der.ok()?))
                .collect(),
            serving: Leaf::parse(text(SERVING.cert), text(SERVING.key)),
        }
    }

    /// The data of the Secret.
    pub fn write(&self) -> BTreeMap<String, ByteString> {
        let Self { current, next, bundle: _, serving } = self;
        let mut data = BTreeMap::from([(BUNDLE.to_owned(), ByteString(self.bundle_pem().into_bytes()))]);
        let mut put = |names: &Names, der: &CertificateDer<'_>, key: &SecretString| {
            data.insert(names.cert.to_owned(), ByteString(pem(der).into_bytes()));
            data.insert(names.key.to_owned(), ByteString(key.expose_secret().as_bytes().to_vec()));
        };
        for (names, authority) in [(CURRENT, current), (NEXT, next)] {
            if let Some(Authority { trusted, key }) = authority {
                put(&names, &trusted.der, key);
            }
        }
        if let Some(leaf) = serving {
            put(&SERVING, &leaf.der, &leaf.key);
        }
        data
    }

    /// What clients are to trust.
    pub fn bundle_pem(&self) -> String {
        self.bundle.iter().map(|trusted| pem(&trusted.der)).collect()
    }

    /// The bundle as it should be: the current authority, the next, and of the others those
    /// whose time is not over, because certificates they signed may still be served somewhere.
    /// The order stays, so that adopting an authority leaves the bundle as it is.
    pub fn tidy_bundle(&self, now: Timestamp) -> Vec<Trusted> {
        let ours: Vec<_> = self.current.iter().chain(&self.next).map(|authority| &authority.trusted).collect();
        let kept = self.bundle.iter().filter(|trusted| ours.contains(trusted) || !trusted.validity.is_over(now));
        let mut tidy: Vec<&Trusted> = Vec::new();
        for trusted in kept.chain(ours.iter().copied()) {
            if !tidy.contains(&trusted) {
                tidy.push(trusted);
            }
        }
        while tidy.len() > BUNDLED
            && let Some(oldest) = tidy.iter().position(|trusted| !ours.contains(trusted))
        {
            tidy.remove(oldest);
        }
        tidy.into_iter().cloned().collect()
    }

    /// Whether the current authority signed the serving certificate.
    pub fn serving_is_signed_by_current(&self) -> bool {
        let (Some(current), Some(leaf)) = (&self.current, &self.serving) else { return false };
        leaf.is_signed_by(&current.trusted)
    }
}

impl Trusted {
    fn parse(der: &CertificateDer<'static>) -> Option<Self> {
        let (_, x509) = x509_parser::parse_x509_certificate(der).ok()?;
        let validity = validity(&x509)?;
        x509.is_ca().then(|| Self { der: der.clone(), validity })
    }
}

impl Authority {
    fn parse(cert: Option<&str>, key: Option<&str>) -> Option<Self> {
        let trusted = Trusted::parse(&CertificateDer::from_pem_slice(cert?.as_bytes()).ok()?)?;
        let pair = KeyPair::from_pem(key?).ok()?;
        let (_, x509) = x509_parser::parse_x509_certificate(&trusted.der).ok()?;
        let fits = x509.tbs_certificate.subject_pki.raw == pair.subject_public_key_info();
        fits.then(|| Self { trusted: trusted.clone(), key: key.unwrap_or_default().into() })
    }

    /// A new authority, for `life` from now.
    pub fn issue(life: Duration, backdate: Duration, now: Timestamp) -> Result<Self, IssueError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        limit(&mut params, now, backdate, life, Timestamp::MAX);
        // Each has its own name: where two are trusted, nobody tries the wrong one.
        let id = Sha256::digest(key.subject_public_key_info());
        let id = hex(&id[..4]);
        params.distinguished_name = name(&format!("mandate webhook authority {id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let cert = params.self_signed(&key)?;
        let trusted = Trusted::parse(cert.der()).ok_or(IssueError::Check)?;
        Ok(Self { trusted, key: key.serialize_pem().into() })
    }

    /// A new serving certificate for `names`, for the life wanted, and not for longer than the
    /// authority itself counts.
    pub fn sign(&self, names: Vec<String>, wanted: &Wanted, now: Timestamp) -> Result<Leaf, IssueError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        let (life, backdate) = (wanted.lives.serving, wanted.lives.backdate);
        limit(&mut params, now, backdate, life, self.trusted.validity.not_after);
        params.distinguished_name = name("mandate webhook");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(&self.trusted.der, KeyPair::from_pem(self.key.expose_secret())?)?;
        let cert = params.signed_by(&key, &issuer)?;
        Leaf::parse(Some(&cert.pem()), Some(&key.serialize_pem())).ok_or(IssueError::Check)
    }
}

impl Leaf {
    fn parse(cert: Option<&str>, key: Option<&str>) -> Option<Self> {
        let (cert, key) = (cert?, key?);
        let certificate = Certificate::from_pem(cert.as_bytes(), key.as_bytes()).ok()?;
        let der = CertificateDer::from_pem_slice(cert.as_bytes()).ok()?;
        let (_, x509) = x509_parser::parse_x509_certificate(&der).ok()?;
        let validity = validity(&x509)?;
        let names = x509.subject_alternative_name().ok()??.value.general_names.iter().filter_map(text).collect();
        Some(Self { der: der.clone(), key: key.into(), validity, names, certificate })
    }

    /// Whether every one of `names` is in it.
    pub fn covers(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.names.contains(name))
    }

    /// `names`, and those it has already: two versions of Mandate with different names that
    /// run side by side during an upgrade then agree on one certificate instead of replacing
    /// each other's for ever. The next renewal leaves out what is not wanted any more.
    pub fn names_and(&self, names: &[String]) -> Vec<String> {
        let mut all = names.to_vec();
        all.extend(self.names.iter().filter(|name| !names.contains(name)).cloned());
        if all.len() > NAMES { names.to_vec() } else { all }
    }

    pub fn is_signed_by(&self, authority: &Trusted) -> bool {
        let mut roots = RootCertStore::empty();
        let Ok(parsed) = ParsedCertificate::try_from(&self.der) else { return false };
        let Ok(began) = u64::try_from(self.validity.not_before.as_second()) else { return false };
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        // Whether its time has come is the plan's question: asked here for a moment when it had.
        let then = UnixTime::since_unix_epoch(Duration::from_secs(began));
        roots.add(authority.der.clone()).is_ok()
            && verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], then, algorithms.all).is_ok()
    }
}

/// States both ends of a certificate's life: left alone, it would count until the year 4096.
/// It begins in the past, because the clocks of API servers may be behind ours.
fn limit(params: &mut CertificateParams, now: Timestamp, backdate: Duration, life: Duration, most: Timestamp) {
    let signed = |time| SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    let begin = now.saturating_sub(signed(backdate)).unwrap_or(now);
    let end = now.saturating_add(signed(life)).unwrap_or(most).min(most);
    params.not_before = SystemTime::from(begin).into();
    params.not_after = SystemTime::from(end).into();
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn validity(x509: &X509Certificate<'_>) -> Option<Validity> {
    let at = |seconds| Timestamp::from_second(seconds).ok();
    let (not_before, not_after) = (x509.validity().not_before.timestamp(), x509.validity().not_after.timestamp());
    Some(Validity { not_before: at(not_before)?, not_after: at(not_after)? })
}

fn text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn pem(der: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
