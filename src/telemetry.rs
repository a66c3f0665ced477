//! How the process tells people what it does: log lines on stderr, as text or as JSON; and
//! traces and metrics for a collector ([`otlp`]).
//!
//! A line is a constant message with fields. Requests' bodies, tokens and Secret values never
//! go into one, at no level.

pub mod otlp;

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Log level when none is asked for.
pub const DEFAULT: &str = "info";
/// Libraries that tell more than anyone wants at the level of the rest. A directive that names
/// one of them, such as `hyper=debug`, comes after and wins. The client's own line on a failed
/// request says neither which request nor what then happens; those who sent it say both.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,kube_client=warn,kube_client::client::builder=off,kube_runtime=warn,rustls=warn,tower=warn";

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one.
    #[error("read the log filter `{filter}`; write a level, or directives such as `info,mandate::serve=debug`")]
    Filter {
        /// What was given.
        filter: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else has set up logging in this process.
    #[error("start logging")]
    Start(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logging for the whole process. `filter` is a level (`info`) or directives as in
/// `RUST_LOG` (`info,mandate::serve=debug`).
///
/// # Errors
/// The filter does not parse, or logging was started before.
pub fn start(format: Format, filter: &str) -> Result<(), Error> {
    let registry = tracing_subscriber::registry().with(parse(filter)?);
    match format {
        Format::Text => registry.with(fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal())).try_init()?,
        Format::Json => registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr)).try_init()?,
    }
    Ok(())
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    let asked = if filter.trim().is_empty() { DEFAULT } else { filter };
    EnvFilter::builder().parse(format!("{QUIET},{asked}")).map_err(|source| Error::Filter { filter: filter.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_leaves_libraries_quiet() {
        let filter = parse("debug").unwrap().to_string();
        assert!(filter.contains("hyper=warn"), "{filter}");
        assert!(filter.split(',').any(|directive| directive == "debug"), "{filter}");
    }

    #[test]
    fn a_library_that_is_named_is_heard() {
        let filter = parse("info,hyper=trace").unwrap().to_string();
        assert!(filter.contains("hyper=trace") && !filter.contains("hyper=warn"), "{filter}");
    }

    #[test]
    fn nothing_asked_for_means_info() {
        assert_eq!(parse("").unwrap().to_string(), parse(DEFAULT).unwrap().to_string());
    }

    #[test]
    fn a_wrong_filter_is_refused_with_its_text() {
        let Err(error) = parse("mandate=loud") else { panic!("`mandate=loud` was taken for a filter") };
        assert!(error.to_string().contains("`mandate=loud`"), "{error}");
    }
}
