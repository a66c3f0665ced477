//! Which certificate does a handshake get? The one that was put there last.
//!
//! PEM goes in, a checked [`CertifiedKey`] comes out, and [`Serving`] hands it to every new
//! handshake from then on; connections that are open keep theirs. It never fetches or renews
//! a certificate: `cluster::certificate` and [`super::files`] do. It never shows a key.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

pub(super) const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Why a certificate or the TLS configuration is unusable. No variant carries key material.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificate chain is not PEM, is empty, or its first certificate does not parse.
    #[error("read the certificate chain")]
    Chain,
    /// The private key is not PEM or of no known kind.
    #[error("read the private key")]
    Key,
    /// The key does not belong to the certificate, or its kind is not supported.
    #[error("pair the certificate with its key")]
    Pair(#[source] rustls::Error),
    /// The TLS library refused the configuration.
    #[error("build the TLS configuration")]
    Config(#[source] rustls::Error),
}

/// The certificate that is served now. Replaced while connections go on; the hot path is one
/// atomic load a handshake.
#[derive(Default)]
pub struct Serving(ArcSwapOption<Certificate>);

/// A certificate that can be served, and when it ends.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    not_after: Timestamp,
}

impl Certificate {
    /// Checks that the chain parses and that the key belongs to its first certificate. Says
    /// nothing about who signed it or whether its time has come.
    ///
    /// # Errors
    /// Anything that would only show at the first handshake.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|_| Error::Chain)?;
        let first = chain.first().ok_or(Error::Chain)?;
        let not_after = not_after(first).ok_or(Error::Chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Error::Key)?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(Error::Pair)?;
        Ok(Self { key: Arc::new(key), not_after })
    }

    /// The last moment at which peers accept it.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether both are the same certificate.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }
}

impl Serving {
    /// Nothing to serve yet: handshakes fail until [`Serving::replace`].
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Serves `certificate` to every handshake that begins from now on.
    pub fn replace(&self, certificate: Certificate) {
        self.0.store(Some(Arc::new(certificate)));
    }

    /// What is served now.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Certificate>> {
        self.0.load_full()
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|certificate| Arc::clone(&certificate.key))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Serving").field(&self.0.load()).finish()
    }
}

/// Authorities whose client certificates are taken. A client may show none; one that shows a
/// certificate of another authority is turned away.
#[derive(Clone, Debug, Default)]
pub struct Clients(Option<Arc<RootCertStore>>);

impl Clients {
    /// No client certificate is asked for.
    pub const NONE: Self = Self(None);

    /// The authorities in a PEM file.
    ///
    /// # Errors
    /// There is no certificate in it, or one that is none.
    pub fn from_pem(authorities: &[u8]) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(authorities) {
            store.add(authority.map_err(|_| Error::Chain)?).map_err(|_| Error::Chain)?;
        }
        if store.is_empty() { Err(Error::Chain) } else { Ok(Self(Some(Arc::new(store)))) }
    }
}

/// TLS 1.2 and 1.3, HTTP/2 before HTTP/1.1, sessions resumed from tickets.
pub(super) fn config(certificate: Arc<Serving>, clients: &Clients) -> Result<Arc<ServerConfig>, Error> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13, &TLS12]).map_err(Error::Config)?;
    let mut config = match &clients.0 {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider()).allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(|error| Error::Config(rustls::Error::General(error.to_string())))?)
        }
    }
    .with_cert_resolver(certificate);
    config.alpn_protocols = vec![H2.to_vec(), HTTP1.to_vec()];
    // Tickets keep no state here; one a handshake is enough for clients that reconnect.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(Error::Config)?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Named, not the process-wide default, so that nothing depends on who installed which.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The name in a client's certificate: the first URI among its alternative names (SPIFFE), else
/// the common name of its subject.
pub(super) fn client_name(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let uri = parsed.subject_alternative_name().ok().flatten().and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
    });
    let common = || parsed.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned);
    uri.or_else(common).map(Into::into)
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}
