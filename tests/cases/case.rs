//! One case of the corpus: a YAML file that says what is known, what is asked and what the
//! answer is. See `docs/cases.md` for how to write one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use json_patch::Patch;
use mandate::api::{AgentIdentity, AgentPolicy, AgentTask, ClusterAgentPolicy, PolicyWaiver, Requester, TaskScope};
use mandate::decide::admit::{Operation, Review, admit, judge};
use mandate::decide::finding::{Finding, Verdict};
use mandate::decide::mutate::{Changes, mutate};
use mandate::decide::site::On;
use mandate::decide::world::{Loaded, Task, World};
use serde::Deserialize;
use serde_json::Value as Json;

/// The namespace of every case, unless it says otherwise.
pub const NAMESPACE: &str = "finance";
/// When every case happens, unless it says otherwise.
const NOW: &str = "2026-01-05T09:00:00Z";
/// Who asks, unless the case says otherwise.
const USER: &str = "alice@example.com";
pub const CONTROLLER: &str = "system:serviceaccount:mandate-system:mandate-controller";

/// A case with where it stands and what its comment says.
pub struct Case {
    /// Its directory: the rule it is about.
    pub about: String,
    pub file: PathBuf,
    /// The comment at its top.
    pub comment: String,
    pub asked: Asked,
}

/// What the decision is, without a cluster.
pub struct Decided {
    /// Of the object as the case has it, or as it is changed where the case is about that.
    pub verdict: Verdict,
    pub changes: Changes,
    /// The object with the changes.
    pub object: Json,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// What stands in the cluster, as manifests. What cannot be read stands there as broken,
    /// just as a watch would bring it.
    #[serde(default)]
    pub world: Vec<Json>,
    now: Option<String>,
    pub request: Request,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Request {
    pub operation: Verb,
    /// Taken from the kind of the object where it is not given.
    resource: Option<String>,
    #[serde(default)]
    group: String,
    #[serde(default)]
    subresource: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub user: Option<Requester>,
    pub object: Json,
    pub old_object: Option<Json>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    Create,
    Update,
    /// The object is the pod that is connected to.
    Connect,
    /// No request: the object is judged as it stands in a manifest.
    Manifest,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Expect {
    Word(Word),
    Detail(Detail),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    /// The validating webhook has nothing to say.
    Allowed,
    /// Neither has the mutating one.
    Unchanged,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Detail {
    /// Every finding, in order. Of the changed object, where the case expects changes.
    #[serde(default)]
    findings: Vec<Expected>,
    /// Every question to the API server, as "USER may VERB RESOURCE in NAMESPACE".
    #[serde(default)]
    questions: Vec<String>,
    /// The changes, as JSON Patch, all of them.
    patch: Option<Vec<Json>>,
    /// What the changed object holds: of an object at least these members, of a list these
    /// items and no others.
    becomes: Option<Json>,
    /// A fragment of every warning of the mutating webhook, in order.
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    rule: String,
    severity: String,
    path: String,
    /// A fragment of the message.
    message: String,
    policy: Option<String>,
    /// The waiver that lets it pass, as `namespace/name`; of none that is named nothing may be.
    waiver: Option<String>,
}

impl Case {
    /// Reads one file.
    pub fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let comment: Vec<&str> = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
        let asked = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let about = file.parent().and_then(Path::file_name).unwrap().to_str().unwrap().to_owned();
        Self { about, file: file.to_owned(), comment: comment.join(" "), asked }
    }

    /// The numbers after the word "case" in the comment.
    pub fn numbers(&self) -> Vec<u32> {
        let words = self.comment.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let words: Vec<&str> = words.collect();
        words.windows(2).filter(|pair| pair[0].eq_ignore_ascii_case("case")).filter_map(|pair| pair[1].parse().ok()).collect()
    }

    /// Whether the case shows something wrong that is found or mended.
    pub fn is_caught(&self) -> bool {
        match &self.asked.expect {
            Expect::Word(_) => false,
            Expect::Detail(detail) => {
                !detail.findings.is_empty()
                    || detail.becomes.is_some()
                    || detail.patch.as_ref().is_some_and(|patch| !patch.is_empty())
            }
        }
    }

    /// Whether the case expects a finding of this rule.
    pub fn finds(&self, rule: &str) -> bool {
        matches!(&self.asked.expect, Expect::Detail(detail) if detail.findings.iter().any(|expected| expected.rule == rule))
    }

    /// When the case happens.
    pub fn now(&self) -> Result<Timestamp, String> {
        self.asked.now.as_deref().unwrap_or(NOW).parse().map_err(|error| format!("now: {error}"))
    }

    /// Whether the case is about what the mutating webhook does.
    pub fn is_about_changes(&self) -> bool {
        match &self.asked.expect {
            Expect::Word(word) => matches!(word, Word::Unchanged),
            Expect::Detail(detail) => detail.patch.is_some() || detail.becomes.is_some(),
        }
    }

    /// What is known in the case.
    pub fn world(&self) -> Result<World, String> {
        known(&self.asked.world)
    }

    /// Decides the case.
    pub fn decided(&self) -> Result<Decided, String> {
        let Asked { world, now: _, request, expect: _ } = &self.asked;
        let (world, now) = (known(world)?, self.now()?);
        let (object, changes) = request.changed(&world, now)?;
        let verdict = request.judged(&world, if self.is_about_changes() { &object } else { &request.object }, now);
        Ok(Decided { verdict, changes, object })
    }

    /// Judges the case and says what is not as written.
    pub fn judge(&self) -> Result<(), String> {
        let Decided { verdict, changes, object } = self.decided()?;
        match &self.asked.expect {
            Expect::Word(word) => {
                if matches!(word, Word::Unchanged) {
                    same("changes", &Changes::default(), &changes)?;
                }
                compare(&verdict, &Detail::default())
            }
            Expect::Detail(detail) => {
                compare(&verdict, detail)?;
                if let Some(patch) = &detail.patch {
                    same("patch", patch, &changes.patch)?;
                }
                if let Some(part) = &detail.becomes {
                    holds(&object, part, "").map_err(|why| format!("{why}\nof {object:#}"))?;
                }
                let told = detail.patch.is_some() || detail.becomes.is_some();
                let warnings_fit = detail.warnings.len() == changes.warnings.len()
                    && detail.warnings.iter().zip(&changes.warnings).all(|(fragment, warning)| warning.contains(fragment));
                if told && !warnings_fit {
                    return Err(format!("warnings are {:#?}", changes.warnings));
                }
                Ok(())
            }
        }
    }
}

impl Request {
    /// The object as the mutating webhook leaves it. Asked once more it changes nothing.
    fn changed(&self, world: &World, now: Timestamp) -> Result<(Json, Changes), String> {
        if matches!(self.operation, Verb::Manifest | Verb::Connect) {
            return Ok((self.object.clone(), Changes::default()));
        }
        let changes = self.with(&self.object, |review| mutate(world, review, now));
        let mut object = self.object.clone();
        apply(&changes, &mut object)?;
        let again = self.with(&object, |review| mutate(world, review, now));
        let mut twice = object.clone();
        apply(&again, &mut twice)?;
        same("object when asked twice", &object, &twice)?;
        Ok((object, changes))
    }

    fn judged(&self, world: &World, object: &Json, now: Timestamp) -> Verdict {
        if matches!(self.operation, Verb::Manifest) {
            return judge(world, &serde_json::from_str(&with_namespace(object).to_string()).unwrap(), now);
        }
        self.with(object, |review| admit(world, review, now))
    }

    /// Group, resource and subresource.
    pub fn resource(&self) -> (&str, &str, &str) {
        match (&self.resource, self.object["kind"].as_str()) {
            (Some(resource), _) => (self.group.as_str(), resource.as_str(), self.subresource.as_str()),
            (None, Some("Pod")) => ("", "pods", self.subresource.as_str()),
            (None, Some("Secret")) => ("", "secrets", ""),
            (None, Some("TokenRequest")) => ("", "serviceaccounts", "token"),
            (None, Some("AgentTask")) => ("mandate.dev", "agenttasks", ""),
            (None, Some("TaskScope")) => ("mandate.dev", "taskscopes", ""),
            (None, Some("AgentIdentity")) => ("mandate.dev", "agentidentities", ""),
            (None, Some("AgentPolicy")) => ("mandate.dev", "agentpolicies", ""),
            (None, Some("PolicyWaiver")) => ("mandate.dev", "policywaivers", ""),
            (None, Some("ClusterAgentPolicy")) => ("mandate.dev", "clusteragentpolicies", ""),
            (None, kind) => {
                let on = On::of_kind(self.object["apiVersion"].as_str().unwrap_or_default(), kind.unwrap_or_default());
                let Some(on) = on else { panic!("the case must say which resource {kind:?} is") };
                let (group, _, resource, subresource) = on.resource();
                (group, resource, subresource)
            }
        }
    }

    /// Who asks.
    pub fn user(&self) -> Requester {
        self.user.clone().unwrap_or_else(|| Requester {
            username: USER.to_owned(),
            groups: vec!["finance".to_owned(), "system:authenticated".to_owned()],
            ..Requester::default()
        })
    }

    pub fn with<T>(&self, object: &Json, ask: impl FnOnce(&Review<'_>) -> T) -> T {
        let (group, resource, subresource) = self.resource();
        let user = self.user();
        let (text, old) = (object.to_string(), self.old_object.as_ref().map(Json::to_string));
        let value = serde_json::from_str(&text).unwrap();
        let old = old.as_ref().map(|old| serde_json::from_str(old).unwrap());
        ask(&Review {
            operation: match self.operation {
                Verb::Create => Operation::Create,
                Verb::Update => Operation::Update,
                Verb::Connect => Operation::Connect,
                Verb::Manifest => panic!("a manifest is no request"),
            },
            group,
            resource,
            subresource,
            namespace: self.namespace.as_deref().unwrap_or(NAMESPACE),
            name: self.name.as_deref().or_else(|| object["metadata"]["name"].as_str()).unwrap_or_default(),
            user: &user,
            object: &value,
            old: old.as_ref(),
        })
    }
}

/// Applies changes as the API server does.
pub fn apply(changes: &Changes, object: &mut Json) -> Result<(), String> {
    let patch: Patch =
        serde_json::from_value(Json::Array(changes.patch.clone())).map_err(|error| format!("no JSON Patch: {error}"))?;
    json_patch::patch(object, &patch)
        .map_err(|error| format!("the changes cannot be made: {error}\n{:#}", Json::Array(changes.patch.clone())))
}

/// A manifest in the namespace of the cases, unless it says otherwise.
fn with_namespace(object: &Json) -> Json {
    let mut object = object.clone();
    if object["metadata"].is_object() && object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = NAMESPACE.into();
    }
    object
}

/// The world that these manifests make.
fn known(manifests: &[Json]) -> Result<World, String> {
    let mut world = World { controller: CONTROLLER.to_owned(), guarded: [NAMESPACE.to_owned()].into(), ..World::default() };
    for manifest in manifests {
        let mut manifest = manifest.clone();
        manifest.as_object_mut().unwrap().entry("apiVersion").or_insert_with(|| "mandate.dev/v1alpha1".into());
        let kind = manifest["kind"].as_str().unwrap_or_default().to_owned();
        let name = manifest["metadata"]["name"].as_str().ok_or("a manifest of the world has no name")?.to_owned();
        let namespace = manifest["metadata"]["namespace"].as_str().unwrap_or(NAMESPACE).to_owned();
        let broken = |error: serde_json::Error| error.to_string();
        let whole = |error: serde_json::Error| format!("{kind} {name}: {error}");
        let ours = manifest["apiVersion"] == "mandate.dev/v1alpha1";
        if ours && kind == "ClusterAgentPolicy" {
            let policy = serde_json::from_value(manifest).map(|policy: ClusterAgentPolicy| policy.spec).map_err(broken);
            world.cluster_policies.insert(name, policy.map_or_else(Loaded::Broken, Loaded::Readable));
            continue;
        }
        if !ours {
            world.learn(&serde_json::from_str(&with_namespace(&manifest).to_string()).unwrap());
            continue;
        }
        let here = world.namespaces.entry(namespace).or_default();
        match kind.as_str() {
            "AgentPolicy" => {
                let policy = serde_json::from_value(manifest).map(|policy: AgentPolicy| policy.spec).map_err(broken);
                here.policies.insert(name, policy.map_or_else(Loaded::Broken, Loaded::Readable));
            }
            "AgentIdentity" => {
                _ = here.identities.insert(name.clone(), serde_json::from_value::<AgentIdentity>(manifest).map_err(whole)?);
            }
            "TaskScope" => _ = here.scopes.insert(name.clone(), serde_json::from_value::<TaskScope>(manifest).map_err(whole)?),
            "AgentTask" => here.put_task(name.clone(), Task::of(&serde_json::from_value::<AgentTask>(manifest).map_err(whole)?)),
            // One that cannot be read waives nothing.
            "PolicyWaiver" => _ = serde_json::from_value::<PolicyWaiver>(manifest).map(|waiver| here.put_waiver(name, &waiver)),
            _ => return Err(format!("Mandate has no kind `{kind}`")),
        }
    }
    Ok(world)
}

fn compare(verdict: &Verdict, expected: &Detail) -> Result<(), String> {
    let Verdict { findings, questions } = verdict;
    let fits = findings.len() == expected.findings.len()
        && expected.findings.iter().zip(findings).all(|(expected, found)| fits(expected, found));
    if !fits {
        let mut text = "findings are\n".to_owned();
        for Finding { rule, severity, path, message, policy, waiver, help: _ } in findings {
            let severity = serde_json::to_value(severity).unwrap();
            let waiver = waiver.as_ref().map(|waived| format!(", waiver: {}", waived.waiver)).unwrap_or_default();
            let _ = writeln!(
                text,
                "  - {{rule: {rule}, severity: {}, path: \"{path}\", message: \"{message}\"{waiver}}} # {policy}",
                severity.as_str().unwrap()
            );
        }
        return Err(text);
    }
    if let Some(helpless) =
        findings.iter().find(|found| mandate::decide::rule::find(found.rule).is_some() && found.help.is_empty())
    {
        return Err(format!("{} says nothing about what to do instead", helpless.rule));
    }
    let questions: Vec<String> = questions
        .iter()
        .map(|question| format!("{} may {} in {}", question.who.username, question.permission, question.namespace))
        .collect();
    same("questions", &expected.questions, &questions)
}

fn fits(expected: &Expected, found: &Finding) -> bool {
    let Expected { rule, severity, path, message, policy, waiver } = expected;
    *rule == found.rule
        && serde_json::to_value(found.severity).unwrap() == *severity
        && *path == found.path
        && found.message.contains(message)
        && policy.as_ref().is_none_or(|policy| *policy == found.policy)
        && waiver.as_deref() == found.waiver.as_ref().map(|waived| waived.waiver.as_str())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, found: &T) -> Result<(), String> {
    if expected == found { Ok(()) } else { Err(format!("{what} should be\n{expected:#?}\nand is\n{found:#?}")) }
}

/// Whether `whole` holds `part`.
fn holds(whole: &Json, part: &Json, at: &str) -> Result<(), String> {
    match (whole, part) {
        (Json::Object(whole), Json::Object(part)) => part.iter().try_for_each(|(key, part)| match whole.get(key) {
            Some(whole) => holds(whole, part, &format!("{at}.{key}")),
            None => Err(format!("{at}.{key} is missing")),
        }),
        (Json::Array(whole), Json::Array(part)) if whole.len() == part.len() => {
            whole.iter().zip(part).enumerate().try_for_each(|(n, (whole, part))| holds(whole, part, &format!("{at}[{n}]")))
        }
        _ if whole == part => Ok(()),
        _ => Err(format!("{at} should be {part} and is {whole}")),
    }
}
