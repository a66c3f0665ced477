//! The page of `/metrics` in OTLP's words.
//!
//! In goes the page itself, so that what is pushed and what is scraped cannot differ: the same
//! names, labels, numbers and bounds. Names are those after `# TYPE`; a database that adds
//! `_total` to counters, as Prometheus does, shows what it would have scraped.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::span::text;

/// What is counted from when to when, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub from: u64,
    pub to: u64,
}

/// Labels of a series.
type Labels = Vec<(String, String)>;

/// A family of the page.
#[derive(Default)]
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    unit: &'a str,
    kind: &'a str,
    samples: Vec<Sample<'a>>,
}

struct Sample<'a> {
    /// What follows the name of the family: `_total`, `_bucket`.
    suffix: &'a str,
    labels: Labels,
    value: &'a str,
}

/// Every metric of the page that has a value.
pub(super) fn metrics(page: &str, time: Span) -> Vec<Metric> {
    families(page).iter().filter_map(|family| metric(family, time)).collect()
}

fn families(page: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family> = vec![];
    for line in page.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (Some(word), Some(name), said) = (words.next(), words.next(), words.next().unwrap_or_default()) else { continue };
            if families.last().is_none_or(|family| family.name != name) {
                families.push(Family { name, ..Family::default() });
            }
            let Some(family) = families.last_mut() else { continue };
            match word {
                "HELP" => family.help = said,
                "TYPE" => family.kind = said,
                "UNIT" => family.unit = said,
                _ => {}
            }
        } else if let Some(family) = families.last_mut() {
            family.samples.extend(sample(line, family.name));
        }
    }
    families
}

/// One line of numbers.
fn sample<'a>(line: &'a str, family: &str) -> Option<Sample<'a>> {
    let rest = line.strip_prefix(family)?;
    let (suffix, rest) = rest.split_at(rest.find(['{', ' '])?);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inner) => labels(inner)?,
        None => (vec![], rest),
    };
    Some(Sample { suffix, labels, value: rest.split_whitespace().next()? })
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut text: &str) -> Option<(Labels, &str)> {
    let mut labels = vec![];
    loop {
        text = text.trim_start_matches(',');
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let (mut value, mut chars) = (String::new(), rest.char_indices());
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((name.to_owned(), value));
        text = &rest[end + 1..];
    }
}

fn metric(family: &Family, time: Span) -> Option<Metric> {
    let Family { name, help, unit, kind, samples } = family;
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match *kind {
        "counter" => {
            let data_points = samples.iter().filter(|sample| sample.suffix == "_total").filter_map(|sample| point(sample, time));
            Data::Sum(Sum { data_points: data_points.collect(), aggregation_temporality: cumulative, is_monotonic: true })
        }
        "gauge" => {
            // It holds for the moment.
            let time = Span { from: 0, ..time };
            Data::Gauge(Gauge { data_points: samples.iter().filter_map(|sample| point(sample, time)).collect() })
        }
        "histogram" => Data::Histogram(Histogram { data_points: buckets(samples, time), aggregation_temporality: cumulative }),
        _ => return None,
    };
    let is_empty = match &data {
        Data::Sum(sum) => sum.data_points.is_empty(),
        Data::Gauge(gauge) => gauge.data_points.is_empty(),
        Data::Histogram(histogram) => histogram.data_points.is_empty(),
        _ => true,
    };
    let unit = if *unit == "seconds" { "s" } else { unit };
    let (name, description, unit) = ((*name).to_owned(), (*help).to_owned(), unit.to_owned());
    (!is_empty).then(|| Metric { name, description, unit, data: Some(data), ..Metric::default() })
}

fn point(sample: &Sample, time: Span) -> Option<NumberDataPoint> {
    let value = match sample.value.parse() {
        Ok(whole) => Value::AsInt(whole),
        Err(_) => Value::AsDouble(sample.value.parse().ok()?),
    };
    Some(NumberDataPoint {
        attributes: attributes(&sample.labels),
        start_time_unix_nano: time.from,
        time_unix_nano: time.to,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

/// The page counts what is at or below each bound; OTLP what lies between two.
fn buckets(samples: &[Sample], time: Span) -> Vec<HistogramDataPoint> {
    let mut points: BTreeMap<Labels, HistogramDataPoint> = BTreeMap::new();
    for Sample { suffix, labels, value } in samples {
        let (bound, series): (Labels, Labels) = labels.iter().cloned().partition(|(name, _)| name == "le");
        let point = points.entry(series).or_insert_with_key(|series| HistogramDataPoint {
            attributes: attributes(series),
            start_time_unix_nano: time.from,
            time_unix_nano: time.to,
            ..HistogramDataPoint::default()
        });
        match *suffix {
            "_count" => point.count = value.parse().unwrap_or_default(),
            "_sum" => point.sum = value.parse().ok(),
            "_bucket" => {
                let below: u64 = point.bucket_counts.iter().sum();
                point.bucket_counts.push(value.parse::<u64>().unwrap_or_default().saturating_sub(below));
                let bound = bound.first().and_then(|(_, bound)| bound.parse::<f64>().ok()).filter(|bound| bound.is_finite());
                point.explicit_bounds.extend(bound);
            }
            _ => {}
        }
    }
    points.into_values().collect()
}

fn attributes(labels: &[(String, String)]) -> Vec<KeyValue> {
    let attribute =
        |(name, value): &(String, String)| KeyValue { key: name.clone(), value: Some(text(value)), ..KeyValue::default() };
    labels.iter().map(attribute).collect()
}

/// Who sends.
pub(super) fn resource(all: &[(String, String)]) -> Resource {
    Resource { attributes: attributes(all), ..Resource::default() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry_proto::tonic::common::v1::any_value;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::metrics::{Metrics, Operation, Outcome, Resource as Reviewed};

    const TIME: Span = Span { from: 5, to: 9 };

    fn all(text: &str) -> Vec<Metric> {
        metrics(text, TIME)
    }

    fn shown(all: &[KeyValue]) -> Vec<String> {
        let value = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.clone()) {
            Some(any_value::Value::StringValue(text)) => text,
            other => panic!("{other:?}"),
        };
        all.iter().map(|pair| format!("{}={}", pair.key, value(pair))).collect()
    }

    #[test]
    fn every_kind_of_metric_keeps_its_name_labels_and_numbers() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.reviewed(Reviewed::of("pods"), Operation::Create, Outcome::Denied, Duration::from_micros(80));
        metrics.reviewed(Reviewed::of("pods"), Operation::Create, Outcome::Denied, Duration::from_secs(9));
        metrics.violations("fin\"an\\ce", "secret-env", "deny", 4);
        metrics.knows(2, Duration::from_millis(1500));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let all = all(&text);
        let of = |name: &str| all.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name} is not in {text}"));

        let Some(Data::Sum(reviews)) = &of("mandate_admission_reviews").data else { panic!("{all:?}") };
        assert!(reviews.is_monotonic);
        assert_eq!(shown(&reviews.data_points[0].attributes), ["resource=pods", "operation=create", "outcome=denied"]);
        assert_eq!(reviews.data_points[0].value, Some(Value::AsInt(2)));
        assert_eq!((reviews.data_points[0].start_time_unix_nano, reviews.data_points[0].time_unix_nano), (5, 9));

        let took = of("mandate_admission_duration_seconds");
        assert_eq!((took.unit.as_str(), took.description.as_str()), ("s", "Time from a review's last byte to its answer."));
        let Some(Data::Histogram(took)) = &took.data else { panic!("{all:?}") };
        let point = &took.data_points[0];
        assert_eq!(point.explicit_bounds[..3], [0.000_05, 0.000_1, 0.000_25]);
        assert_eq!(point.explicit_bounds.last(), Some(&1.0));
        assert_eq!(point.bucket_counts, [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!((point.count, point.sum), (2, Some(9.000_08)));

        let Some(Data::Gauge(violations)) = &of("mandate_violations").data else { panic!("{all:?}") };
        assert!(shown(&violations.data_points[0].attributes).contains(&"namespace=fin\"an\\ce".to_owned()), "{violations:?}");
        let Some(Data::Gauge(age)) = &of("mandate_known_age_seconds").data else { panic!("{all:?}") };
        assert_eq!(age.data_points[0].value, Some(Value::AsDouble(1.5)));
    }

    #[test]
    fn what_has_no_value_yet_is_not_sent() {
        let mut registry = Registry::default();
        let _metrics = Metrics::register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(all(&text).iter().all(|metric| metric.name != "mandate_decisions"));
    }
}
