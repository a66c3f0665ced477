//! The serving certificate from two files that somebody else renews: cert-manager through a
//! mounted Secret, or an administrator.
//!
//! The files are read and compared on a timer. File notifications are no use here: a mounted
//! Secret is renewed by swapping a symbolic link two levels up, which an inotify watch on the
//! file's path does not see a second time.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    metrics::Metrics,
    serve::{
        Serving, Stop,
        readiness::Handle,
        tls::{self, Certificate},
    },
};

/// Where the certificate is and how often to look.
#[derive(Clone, Debug)]
pub struct Files {
    /// Certificate chain, PEM, the serving certificate first.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Time between two looks.
    pub every: Duration,
}

impl Files {
    /// These two files, looked at every 10 s.
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { cert: cert.into(), key: key.into(), every: Duration::from_secs(10) }
    }
}

/// Longest file that is read.
const LONGEST: u64 = 1 << 20;

/// Why the files cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("read `{path}`")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The files do not make a certificate. Half of a renewal looks like this for a moment.
    #[error("use the certificate in `{cert}`")]
    Unusable {
        /// Which certificate.
        cert: PathBuf,
        /// Why.
        #[source]
        source: tls::Error,
    },
}

/// Keeps `serving` what the files say, until `stop`. `ready` is dropped with the first
/// certificate that is served. Files that are missing or do not fit together change nothing:
/// the last good certificate is served on, a warning is logged, and they are read again.
pub async fn follow(files: Files, serving: Arc<Serving>, metrics: Arc<Metrics>, ready: Handle, stop: Stop) {
    let mut ready = Some(ready);
    let mut warned = None;
    loop {
        match load(&files).await {
            Ok(certificate) => {
                if !serving.current().is_some_and(|current| current.is(&certificate)) {
                    info!(not_after = %certificate.not_after(), "serving certificate loaded");
                    metrics.certificate_expires(certificate.not_after());
                    serving.replace(certificate);
                }
                ready = None;
                warned = None;
            }
            Err(error) => {
                let text = chain(&error);
                if warned.as_ref() != Some(&text) {
                    warn!(error = text, "serving certificate not loaded");
                    warned = Some(text);
                }
            }
        }
        tokio::select! {
            () = stop.requested() => break,
            () = sleep(files.every) => {}
        }
    }
    drop(ready);
}

async fn load(files: &Files) -> Result<Certificate, Error> {
    let owned = files.clone();
    // Joining fails only when the read panics or the runtime ends; both count as unreadable.
    tokio::task::spawn_blocking(move || {
        let chain = read(&owned.cert)?;
        let key = secrecy::SecretSlice::from(read(&owned.key)?);
        Certificate::from_pem(&chain, secrecy::ExposeSecret::expose_secret(&key))
            .map_err(|source| Error::Unusable { cert: owned.cert, source })
    })
    .await
    .unwrap_or_else(|error| Err(Error::Read { path: files.cert.clone(), source: io::Error::other(error) }))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
