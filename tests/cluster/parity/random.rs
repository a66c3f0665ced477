//! Pods that nobody wrote: made by walking the schema that the API server publishes, and mended
//! by what the API server has against them until it takes them.
//!
//! Which fields there are and how they hang together comes from the schema alone; the texts in
//! them come from [`TEXTS`]. Of an object whose members are nearly all objects one is chosen:
//! a schema does not say so, but that is how Kubernetes writes "one of these".

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use kube::Client;
use mandate::decide::literal::FORMATS;
use proptest::collection::vec;
use proptest::strategy::{BoxedStrategy, Just, Strategy, Union, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use proptest::{option, sample};
use serde_json::{Map, Value, json};

use crate::admission::request::{Answer, path, request};

/// Texts that fields are filled with, the commonest forms of what Kubernetes wants first: where
/// one is refused the next is tried.
const TEXTS: &[&str] = &[
    "a",
    "crm-api",
    "mandate-task-reconcile-0123456789",
    "/data",
    "etc/kubernetes",
    "/etc/kubernetes/pki",
    "registry.example.com/agent:1",
    "PASSWORD",
    "hunter2",
    "tls-token",
    "vault:secret/data/db#password",
    "--password=hunter2",
    "https://robot:hunter2@example.com/x.git",
    "Bearer 0123456789abcdef",
    "Größe",
    "10.0.0.1",
];
/// Fields that name what would have to stand in the cluster, or are filled in by it.
const LEFT_OUT: &[&str] = &[
    "serviceAccountName",
    "serviceAccount",
    "priorityClassName",
    "priority",
    "preemptionPolicy",
    "runtimeClassName",
    "overhead",
    "nodeName",
    "ephemeralContainers",
    "resources",
    "schedulingGroup",
    "evictionRequests",
    "evictionInterceptors",
];
const NUMBERS: [i64; 8] = [1, 0, 600, 3600, 3607, 7200, 86_400, 8080];
/// How deep objects lie in each other.
const DEEPEST: u32 = 9;
/// How often a pod is mended before it is given up.
const TRIES: usize = 60;

/// The schema of pods, as the API server publishes it.
pub struct Schema {
    schemas: Value,
    /// Any text; made once, since it holds a pattern for each form of credential.
    text: BoxedStrategy<Value>,
}

/// Pods by their numbers, the same in every run.
pub struct Pods {
    schema: Schema,
    spec: BoxedStrategy<Value>,
    annotations: BoxedStrategy<Value>,
    labels: BoxedStrategy<Value>,
}

impl Schema {
    pub async fn read(admin: &Client) -> Result<Self> {
        let Answer { reply, .. } = request(admin, "GET", "/openapi/v3/api/v1", None, &Value::Null).await?;
        let schemas = reply.body.pointer("/components/schemas").context("the schemas of core/v1")?.clone();
        Ok(Self { schemas, text: text() })
    }

    fn named(&self, name: &str) -> &Value {
        &self.schemas[format!("io.k8s.api.core.v1.{name}")]
    }

    /// What a schema refers to, or itself.
    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let reference = schema["$ref"].as_str().or_else(|| schema.pointer("/allOf/0/$ref")?.as_str());
        match reference.and_then(|reference| reference.rsplit('/').next()) {
            Some(name) => self.resolved(&self.schemas[name]),
            None => schema,
        }
    }

    fn any(&self, schema: &Value, depth: u32) -> BoxedStrategy<Value> {
        let schema = self.resolved(schema);
        if let Some(properties) = schema["properties"].as_object() {
            return self.object(schema, properties, depth);
        }
        if schema["format"] == "int-or-string" {
            return sample::select(NUMBERS.to_vec()).prop_map(Value::from).boxed();
        }
        match schema["type"].as_str() {
            Some("array") => {
                let item = self.any(&schema["items"], depth);
                let (least, most) = if depth == 0 { (0, 0) } else { (1, 3) };
                vec(item, least..=most).prop_map(Value::Array).boxed()
            }
            Some("object") if schema["additionalProperties"].is_object() => {
                let entry = (sample::select(keys()), self.any(&schema["additionalProperties"], depth.saturating_sub(1)));
                vec(entry, 0..3).prop_map(|entries| Value::Object(entries.into_iter().collect())).boxed()
            }
            Some("object") => Just(json!({})).boxed(),
            Some("boolean") => proptest::bool::ANY.prop_map(Value::from).boxed(),
            Some("integer" | "number") => sample::select(NUMBERS.to_vec()).prop_map(Value::from).boxed(),
            Some("string") if schema["format"] == "date-time" => Just(json!("2026-01-05T09:00:00Z")).boxed(),
            Some("string") if schema["enum"].is_array() => {
                sample::select(schema["enum"].as_array().cloned().unwrap_or_default()).boxed()
            }
            // A quantity.
            None => Just(json!("1")).boxed(),
            _ => self.text.clone(),
        }
    }

    fn object(&self, schema: &Value, properties: &Map<String, Value>, depth: u32) -> BoxedStrategy<Value> {
        let required = |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name));
        let kept = properties.iter().filter(|(name, _)| !LEFT_OUT.contains(&name.as_str()));
        let is_object = |schema: &Value| self.resolved(schema)["properties"].is_object();
        let (objects, others): (Vec<_>, Vec<_>) = kept.partition(|(_, schema)| is_object(schema));
        let is_choice = objects.len() >= 2 && objects.len() * 3 >= properties.len() * 2 && depth > 0;
        let member = |name: &String, schema: &Value, chance: f64| {
            let (name, below) = (name.clone(), self.any(schema, depth.saturating_sub(1)));
            let there = if chance < 1.0 { option::weighted(chance, below).boxed() } else { below.prop_map(Some).boxed() };
            there.prop_map(move |value| value.map(|value| (name.clone(), value))).boxed()
        };
        let chance = |name: &str, is_deep: bool| match (required(name), is_deep && depth == 0) {
            (true, _) => 1.0,
            (_, true) => 0.001,
            _ => 0.5,
        };
        let mut members: Vec<BoxedStrategy<Option<(String, Value)>>> = vec![];
        if is_choice {
            members.push(Union::new(objects.iter().map(|(name, schema)| member(name, schema, 1.0))).boxed());
        } else {
            members.extend(objects.iter().map(|(name, schema)| member(name, schema, chance(name, true))));
        }
        let is_list = |schema: &Value| self.resolved(schema)["type"] == "array";
        members.extend(others.iter().map(|(name, schema)| member(name, schema, chance(name, is_list(schema)))));
        members.prop_map(|members| Value::Object(members.into_iter().flatten().collect())).boxed()
    }

    /// The schema of a place in a pod, and whether the object that it stands in must have it.
    fn at(&self, path: &[Step]) -> Option<(&Value, bool)> {
        let mut schema = self.named("Pod");
        let mut required = false;
        for step in path {
            let holder = self.resolved(schema);
            (schema, required) = match step {
                Step::Index(_) => (&holder["items"], false),
                Step::Member(name) => match holder["properties"].get(name) {
                    Some(found) => {
                        (found, holder["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name)))
                    }
                    None => (holder.get("additionalProperties")?, false),
                },
            };
        }
        schema.is_object().then_some((schema, required))
    }
}

fn text() -> BoxedStrategy<Value> {
    let credentials = FORMATS.iter().filter_map(|format| {
        let bare = format.pattern.replace("(?:^|[^0-9A-Za-z])", "");
        proptest::string::string_regex(&bare).ok()
    });
    let credential =
        Union::new(credentials.collect::<Vec<_>>()).prop_filter("a text of one line", |text| !text.contains(char::is_control));
    let common = sample::select(TEXTS.to_vec()).prop_map(str::to_owned);
    proptest::prop_oneof![12 => common, 1 => credential].prop_map(Value::from).boxed()
}

fn keys() -> Vec<String> {
    ["a", "password", "example.com/b", "vault.hashicorp.com/agent-inject-secret-db", "secretProviderClass", "mandate.dev/other"]
        .map(str::to_owned)
        .into()
}

/// A step into an object or a list.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Member(String),
    Index(usize),
}

/// A path as the API server writes it: `spec.containers[0].ports[1]`, `metadata.labels[a.b/c]`.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = vec![];
    let mut rest = path;
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some((inside, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            steps.push(inside.parse().map_or_else(|_| Step::Member(inside.to_owned()), Step::Index));
            rest = after;
            continue;
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        // Some are written as Go has them: `spec.HostPID`.
        let (first, tail) = rest.split_at(rest.chars().next().map_or(0, char::len_utf8));
        steps.push(Step::Member(format!("{}{}", first.to_lowercase(), &tail[..end - first.len()])));
        rest = &rest[end..];
    }
    steps
}

/// The same place in every item of a list whose index the path leaves out.
fn every_item(pod: &Value, path: &[Step]) -> Vec<Vec<Step>> {
    let is_list = |above: &[Step]| get(pod, above).and_then(Value::as_array).map(Vec::len);
    for (at, step) in path.iter().enumerate() {
        if let (Step::Member(_), Some(items)) = (step, is_list(&path[..at])) {
            let of = |index| [&path[..at], &[Step::Index(index)], &path[at..]].concat();
            return (0..items).rev().map(of).filter(|place| get(pod, place).is_some()).collect();
        }
    }
    vec![path.to_vec()]
}

fn get<'a>(value: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Member(name) => value.get(name),
        Step::Index(index) => value.get(index),
    })
}

fn get_mut<'a>(value: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Member(name) => value.get_mut(name),
        Step::Index(index) => value.get_mut(index),
    })
}

/// Takes away what stands at a place, or at the nearest place above it that is there.
fn remove(pod: &mut Value, path: &[Step]) {
    let Some((last, above)) = path.split_last() else { return };
    if above.is_empty() {
        return;
    }
    match (get_mut(pod, above), last) {
        (Some(Value::Object(members)), Step::Member(name)) if members.contains_key(name) => _ = members.remove(name),
        (Some(Value::Array(items)), Step::Index(index)) if *index < items.len() => _ = items.remove(*index),
        _ => remove(pod, above),
    }
}

fn put(pod: &mut Value, path: &[Step], value: Value) -> bool {
    let Some((last, above)) = path.split_last() else { return false };
    match (get_mut(pod, above), last) {
        (Some(Value::Object(members)), Step::Member(name)) => _ = members.insert(name.clone(), value),
        (Some(Value::Array(items)), Step::Index(index)) if *index < items.len() => items[*index] = value,
        _ => return false,
    }
    true
}

impl Pods {
    pub fn of(schema: Schema) -> Self {
        let metadata = &schema.schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]["properties"];
        Self {
            spec: schema.any(schema.named("PodSpec"), DEEPEST),
            annotations: schema.any(&metadata["annotations"], 1),
            labels: schema.any(&metadata["labels"], 1),
            schema,
        }
    }

    /// The pod of this number, mended until the API server takes it in a namespace, with what the
    /// API server makes of it; none where it never takes it.
    pub async fn taken(&self, admin: &Client, namespace: &str, number: u64) -> Result<Option<(Value, Value)>> {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut mender =
            Mender { schema: &self.schema, runner: TestRunner::new_with_rng(Config::default(), rng), tried: BTreeMap::new() };
        let mut pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "random"}, "spec": mender.one_of(&self.spec)?});
        pod["metadata"]["annotations"] = mender.one_of(&self.annotations)?;
        pod["metadata"]["labels"] = mender.one_of(&self.labels)?;
        let path = format!("{}?dryRun=All", path("v1", "pods", Some(namespace)));
        for _ in 0..TRIES {
            // Names that must differ do.
            for list in ["containers", "initContainers", "volumes"] {
                let items = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
                items.into_iter().flatten().enumerate().for_each(|(n, item)| item["name"] = json!(format!("{}{n}", &list[..1])));
            }
            let Answer { reply, .. } = request(admin, "POST", &path, None, &pod).await?;
            match (reply.code, reply.body.pointer("/details/causes").and_then(Value::as_array)) {
                (201, _) => return Ok(Some((pod, reply.body))),
                (422, Some(causes)) => mender.mend(&mut pod, causes)?,
                _ => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// Mends one pod.
struct Mender<'a> {
    schema: &'a Schema,
    runner: TestRunner,
    /// How often the API server had something against each place.
    tried: BTreeMap<String, usize>,
}

impl Mender<'_> {
    fn one_of(&mut self, strategy: &BoxedStrategy<Value>) -> Result<Value> {
        Ok(strategy.new_tree(&mut self.runner).map_err(|why| anyhow::anyhow!("{why}"))?.current())
    }

    /// Changes what the API server has something against.
    fn mend(&mut self, pod: &mut Value, causes: &[Value]) -> Result<()> {
        // The last item of a list first, so that the places of the others do not move.
        for cause in causes.iter().rev() {
            let text = |field: &str| cause[field].as_str().unwrap_or_default();
            let times = self.tried.entry(text("field").to_owned()).or_default();
            *times += 1;
            let times = *times - 1;
            for place in every_item(pod, &steps(text("field"))) {
                let better = if times < 6 || text("reason") == "FieldValueRequired" {
                    self.better(pod, &place, text("reason"), text("message"), times)?
                } else {
                    None
                };
                // What is refused time and again is not at fault alone.
                let above = place.len().saturating_sub(times.saturating_sub(6) / 2).max(4).min(place.len());
                if !better.is_some_and(|value| put(pod, &place, value)) {
                    remove(pod, &place[..above]);
                }
            }
        }
        Ok(())
    }

    /// What might do at a place: what the API server says would, or else something that the
    /// schema has there if there must be something.
    fn better(&mut self, pod: &Value, place: &[Step], reason: &str, message: &str, times: usize) -> Result<Option<Value>> {
        let Some((schema, required)) = self.schema.at(place) else { return Ok(None) };
        let schema = self.schema.resolved(schema).clone();
        if schema["type"] != "string" {
            let strategy = self.schema.any(&schema, 3);
            let is_number = schema["type"] == "integer";
            return Ok(if required || reason == "FieldValueRequired" || is_number {
                Some(self.one_of(&strategy)?)
            } else {
                None
            });
        }
        // A name of nothing becomes one of what is there.
        if reason == "FieldValueNotFound" {
            return Ok((times < 3).then(|| json!(format!("v{times}"))));
        }
        let supported =
            message.split_once("supported values: ").map(|(_, values)| values.split('"').skip(1).step_by(2).collect::<Vec<_>>());
        let example =
            message.split_once("e.g. ").and_then(|(_, rest)| rest.trim_start_matches('\'').split(['\'', ' ', ',', ')']).next());
        let text = match (supported, example) {
            (Some(values), _) if !values.is_empty() => Some(values[times % values.len()]),
            (_, Some(example)) => Some(example),
            _ if required || reason == "FieldValueRequired" || get(pod, place).is_none() => Some(TEXTS[times % TEXTS.len()]),
            _ => None,
        };
        Ok(text.map(|text| json!(text)))
    }
}
