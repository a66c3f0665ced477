//! What the standard environment variables of OpenTelemetry ask for.
//!
//! Where neither an endpoint for traces nor one for metrics is named, nothing is asked for. What
//! is asked for in vain is an error that names the variable and what to write, never a default
//! that somebody finds out about when the traces are missed.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

use super::sampler::Sampler;

/// A variable whose value cannot be followed. The value is not repeated: headers hold secrets.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("environment variable `{variable}`: {problem}; {help}")]
pub struct WrongSetting {
    /// Its name.
    pub variable: String,
    /// What is wrong.
    pub problem: String,
    /// What to write.
    pub help: &'static str,
}

/// What is sent, and where to.
#[derive(Debug)]
pub struct Settings {
    /// Where spans go; none where nobody wants them.
    pub traces: Option<Target>,
    /// Where metrics go; none where nobody wants them.
    pub metrics: Option<Target>,
    /// Who sends: attributes of the resource, each once.
    pub resource: Vec<(String, String)>,
    /// Which traces are kept.
    pub sampler: Sampler,
    /// Time between two pushes of metrics.
    pub metrics_every: Duration,
    /// Longest time that a span waits for others to be sent with.
    pub spans_every: Duration,
    /// Most spans that wait.
    pub spans_waiting: usize,
}

/// A collector.
#[derive(Clone)]
pub struct Target {
    /// `http://` or `https://`, host and port.
    pub endpoint: String,
    /// Sent with each request. Their values are secret.
    pub headers: MetadataMap,
    /// Longest time for one request with all its retries.
    pub timeout: Duration,
    /// Authorities that the collector's certificate may come from, PEM; left out, those of the system.
    pub authorities: Option<PathBuf>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("endpoint", &self.endpoint).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// The variables, by name. A variable that is empty counts as unset, as the specification wants it.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

/// What a variable says.
struct Said {
    variable: String,
    value: String,
}

impl Said {
    fn wrong(self, problem: impl Into<String>, help: &'static str) -> WrongSetting {
        WrongSetting { variable: self.variable, problem: problem.into(), help }
    }
}

impl Variables<'_> {
    fn get(&self, variable: &str) -> Option<Said> {
        let value = (self.0)(variable)?.trim().to_owned();
        (!value.is_empty()).then(|| Said { variable: variable.to_owned(), value })
    }

    /// `OTEL_EXPORTER_OTLP_…` of one signal, or else of both.
    fn of(&self, signal: &str, name: &str) -> Option<Said> {
        self.get(&format!("OTEL_EXPORTER_OTLP_{signal}_{name}")).or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{name}")))
    }

    fn number(&self, variable: &str, default: u64, least: u64) -> Result<u64, WrongSetting> {
        self.get(variable).map_or(Ok(default), |said| number(said, least))
    }

    fn is_disabled(&self) -> Result<bool, WrongSetting> {
        let Some(said) = self.get("OTEL_SDK_DISABLED") else { return Ok(false) };
        match said.value.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(said.wrong("is neither", "write `true` or `false`")),
        }
    }

    fn target(&self, signal: &str) -> Result<Option<Target>, WrongSetting> {
        if let Some(said) = self.get(&format!("OTEL_{signal}_EXPORTER")) {
            match said.value.as_str() {
                "otlp" => {}
                "none" => return Ok(None),
                _ => return Err(said.wrong("only OTLP is spoken", "write `otlp` or `none`")),
            }
        }
        let Some(endpoint) = self.of(signal, "ENDPOINT") else { return Ok(None) };
        let endpoint = endpoint_of(endpoint)?;
        if let Some(said) = self.of(signal, "PROTOCOL").filter(|said| said.value != "grpc") {
            return Err(
                said.wrong("OTLP over HTTP is not supported", "write `grpc`, and the collector's port for it, such as 4317")
            );
        }
        if let Some(said) = self.of(signal, "COMPRESSION").filter(|said| said.value != "none") {
            return Err(said.wrong("compression is not supported", "leave it out"));
        }
        for name in ["CLIENT_KEY", "CLIENT_CERTIFICATE"] {
            if let Some(said) = self.of(signal, name) {
                return Err(said.wrong("client certificates are not supported", "authenticate by OTEL_EXPORTER_OTLP_HEADERS"));
            }
        }
        let timeout = self.of(signal, "TIMEOUT").map_or(Ok(10_000), |said| number(said, 1))?;
        let headers = self.of(signal, "HEADERS").map_or_else(|| Ok(MetadataMap::new()), headers)?;
        let authorities = self.of(signal, "CERTIFICATE").map(|said| said.value.into());
        Ok(Some(Target { endpoint, headers, timeout: Duration::from_millis(timeout), authorities }))
    }

    fn sampler(&self) -> Result<Sampler, WrongSetting> {
        let ratio = match self.get("OTEL_TRACES_SAMPLER_ARG") {
            None => 1.0,
            Some(said) => match said.value.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
                _ => return Err(said.wrong("is no share", "write a number between 0 and 1, such as `0.1`")),
            },
        };
        let Some(said) = self.get("OTEL_TRACES_SAMPLER") else { return Ok(Sampler::following_parents(1.0)) };
        Ok(match said.value.as_str() {
            "always_on" => Sampler::of_each(1.0),
            "always_off" => Sampler::of_each(0.0),
            "traceidratio" => Sampler::of_each(ratio),
            "parentbased_always_on" => Sampler::following_parents(1.0),
            "parentbased_always_off" => Sampler::following_parents(0.0),
            "parentbased_traceidratio" => Sampler::following_parents(ratio),
            _ => {
                let help = "write `always_on`, `always_off`, `traceidratio`, or one of them after `parentbased_`";
                return Err(said.wrong("there is no such sampler", help));
            }
        })
    }

    fn resource(&self, service: &str) -> Result<Vec<(String, String)>, WrongSetting> {
        let mut all = vec![
            ("service.name".to_owned(), service.to_owned()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id".to_owned(), format!("{:032x}", fastrand::u128(..))),
        ];
        if let Some(said) = self.get("OTEL_RESOURCE_ATTRIBUTES") {
            let pairs = pairs(&said.value);
            pairs
                .ok_or_else(|| said.wrong("holds something else than pairs", PAIRS))?
                .into_iter()
                .for_each(|pair| put(&mut all, pair));
        }
        if let Some(said) = self.get("OTEL_SERVICE_NAME") {
            put(&mut all, ("service.name".to_owned(), said.value));
        }
        Ok(all)
    }
}

const PAIRS: &str = "write `name=value,name=value`, with `%2C` for a comma in a value";

impl Settings {
    /// Reads the variables of the process. `service`: the name of who sends, where no variable
    /// says it.
    ///
    /// # Errors
    /// [`WrongSetting`].
    pub fn read(service: &str) -> Result<Option<Self>, WrongSetting> {
        Self::of(service, &|variable| std::env::var(variable).ok())
    }

    /// The same of any variables.
    ///
    /// # Errors
    /// [`WrongSetting`].
    pub fn of(service: &str, variables: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, WrongSetting> {
        let variables = Variables(variables);
        if variables.is_disabled()? {
            return Ok(None);
        }
        let (traces, metrics) = (variables.target("TRACES")?, variables.target("METRICS")?);
        if traces.is_none() && metrics.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            traces,
            metrics,
            resource: variables.resource(service)?,
            sampler: variables.sampler()?,
            metrics_every: Duration::from_millis(variables.number("OTEL_METRIC_EXPORT_INTERVAL", 60_000, 100)?),
            spans_every: Duration::from_millis(variables.number("OTEL_BSP_SCHEDULE_DELAY", 5000, 1)?),
            spans_waiting: usize::try_from(variables.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048, 1)?.min(MOST_WAITING)).unwrap_or(1),
        }))
    }
}

/// Most spans that may be made to wait, some hundred megabytes of them.
const MOST_WAITING: u64 = 100_000;

fn number(said: Said, least: u64) -> Result<u64, WrongSetting> {
    match said.value.parse::<u64>() {
        Ok(number) if (least..=86_400_000).contains(&number) => Ok(number),
        _ => Err(said.wrong(format!("must be a whole number from {least} to 86400000"), "durations are in milliseconds")),
    }
}

fn endpoint_of(said: Said) -> Result<String, WrongSetting> {
    let help = "write the URL of the collector's port for gRPC, such as `http://collector:4317`";
    let Ok(url) = said.value.parse::<axum::http::Uri>() else { return Err(said.wrong("is no URL", help)) };
    let scheme = url.scheme_str().unwrap_or_default();
    let authority = url.authority().map(ToString::to_string).unwrap_or_default();
    if !["http", "https"].contains(&scheme) || authority.is_empty() || authority.contains('@') {
        return Err(said.wrong("must begin with `http://` or `https://` and hold no user", help));
    }
    if !["", "/"].contains(&url.path()) || url.query().is_some() {
        return Err(said.wrong("has a path, which gRPC has no use for", help));
    }
    Ok(format!("{scheme}://{authority}"))
}

fn headers(said: Said) -> Result<MetadataMap, WrongSetting> {
    let mut headers = MetadataMap::new();
    let Some(pairs) = pairs(&said.value) else { return Err(said.wrong("holds something else than pairs", PAIRS)) };
    for (name, value) in pairs {
        let name = AsciiMetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes()).ok();
        let value = AsciiMetadataValue::try_from(value).ok();
        let (Some(name), Some(mut value)) = (name, value) else {
            return Err(said.wrong("holds what cannot stand in a header", "write names and values in ASCII, `%20` for a space"));
        };
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// `name=value` pairs as W3C Baggage writes them.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let name = decoded(name.trim())?;
        (!name.is_empty()).then_some((name, decoded(value.trim())?))
    };
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(pair).collect()
}

/// Without percent-encoding.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let code = part.get(..2).filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

fn put(all: &mut Vec<(String, String)>, (name, value): (String, String)) {
    match all.iter_mut().find(|(known, _)| *known == name) {
        Some(known) => known.1 = value,
        None => all.push((name, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Settings>, WrongSetting> {
        let find = |wanted: &str| variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned());
        Settings::of("mandate-test", &find)
    }

    fn with(more: &[(&str, &str)]) -> Result<Settings, WrongSetting> {
        let all = [&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")], more].concat();
        of(&all).map(|settings| settings.expect("an endpoint is named"))
    }

    #[test]
    fn without_an_endpoint_nothing_is_sent() {
        assert!(of(&[]).unwrap().is_none());
        assert!(of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " "), ("OTEL_SERVICE_NAME", "x")]).unwrap().is_none());
        assert!(of(&[("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1")]).unwrap().is_none());
    }

    #[test]
    fn one_signal_alone_may_be_asked_for() {
        let traces = of(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c:4317/")]).unwrap().unwrap();
        assert_eq!(traces.traces.unwrap().endpoint, "https://c:4317");
        assert!(traces.metrics.is_none());
        let metrics = with(&[("OTEL_TRACES_EXPORTER", "none")]).unwrap();
        assert!(metrics.traces.is_none() && metrics.metrics.is_some());
    }

    #[test]
    fn what_is_said_of_one_signal_wins() {
        let settings = with(&[
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://other:4317"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "3000"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "500"),
        ])
        .unwrap();
        let (traces, metrics) = (settings.traces.unwrap(), settings.metrics.unwrap());
        assert_eq!((traces.endpoint.as_str(), traces.timeout), ("http://collector:4317", Duration::from_millis(500)));
        assert_eq!((metrics.endpoint.as_str(), metrics.timeout), ("http://other:4317", Duration::from_secs(3)));
    }

    #[test]
    fn what_cannot_be_followed_names_the_variable_and_what_to_write() {
        for (variable, value, words) in [
            ("OTEL_SDK_DISABLED", "yes", "write `true` or `false`"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4317", "write the URL"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces", "has a path"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://me:secret@collector:4317", "hold no user"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "write `grpc`"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "not supported"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem", "OTEL_EXPORTER_OTLP_HEADERS"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "write `name=value,name=value`"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%zz", "write `name=value,name=value`"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=secret", "cannot stand in a header"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%0A", "cannot stand in a header"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0", "milliseconds"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "whole number"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "write `otlp` or `none`"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote", "parentbased_"),
            ("OTEL_TRACES_SAMPLER_ARG", "10%", "between 0 and 1"),
            ("OTEL_TRACES_SAMPLER_ARG", "NaN", "between 0 and 1"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team", "write `name=value,name=value`"),
        ] {
            let error = with(&[(variable, value)]).unwrap_err();
            assert_eq!(error.variable, variable, "{error}");
            let error = error.to_string();
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("secret"), "it shows the value: {error}");
        }
    }

    #[test]
    fn headers_are_sent_and_never_shown() {
        let settings = with(&[("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20s3cret, x-team = finance")]).unwrap();
        let headers = &settings.traces.as_ref().unwrap().headers;
        assert_eq!(headers.get("authorization").unwrap().to_str().unwrap(), "Bearer s3cret");
        assert_eq!(headers.get("x-team").unwrap().to_str().unwrap(), "finance");
        assert!(!format!("{settings:?} {headers:?}").contains("s3cret"));
    }

    #[test]
    fn a_service_is_called_as_its_name_says_before_its_attributes() {
        let name = |settings: Settings| settings.resource[0].1.clone();
        assert_eq!(name(with(&[]).unwrap()), "mandate-test");
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,team=x%2Cy");
        let settings = with(&[attributes]).unwrap();
        assert!(settings.resource.contains(&("team".to_owned(), "x,y".to_owned())), "{settings:?}");
        assert_eq!(name(settings), "a");
        assert_eq!(name(with(&[attributes, ("OTEL_SERVICE_NAME", "b")]).unwrap()), "b");
    }
}
