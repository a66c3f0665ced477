//! What `mandate lint` and the printed policies see of a case, and why that is not the same.
//!
//! The webhook's decision is the measure. `tests/cases.rs` holds what is written here to the
//! truth for lint, `tests/cluster/parity.rs` for the policies on a real API server: a case that
//! is not listed must come out alike, in the same words, and one that is listed must not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use mandate::decide::admit;
use mandate::decide::cel::{Extent, Gap};
use mandate::decide::finding::{Finding, Severity};
use mandate::decide::rule::find;
use mandate::decide::site::On;
use mandate::decide::workload;
use mandate::decide::world::{Account, World};
use mandate::install::vap;

use crate::case::{self, Case, Verb};

/// Cases that lint sees otherwise, with the reason. Those of updates and of what is no manifest
/// are not listed; see [`of_lint`].
pub const BY_LINT: &[(&str, &str)] = &[
    ("mutation/a-place-that-is-taken", UNSET),
    ("mutation/kept-pods", UNSET),
    ("mutation/longer-deadline-is-cut", UNSET),
    ("mutation/never-a-year-by-what-is-left", UNSET),
    ("mutation/pod-as-the-api-server-sends-it", UNSET),
    ("mutation/pod-of-a-task", UNSET),
    ("mutation/shorter-deadline-stays", UNSET),
    ("mutation/unknown-fields-survive", UNSET),
    ("task-token/without-an-end", "of a token Secret of an agent lint says what it says of any"),
];
const UNSET: &str = "in a manifest the webhook has yet to set a task's ServiceAccount";

/// Cases that the policies see otherwise, with the reason. What only misses findings of rules
/// that no expression can say is not listed; see [`of_policies`].
pub const BY_POLICIES: &[(&str, &str)] = &[
    ("literal-password/arguments", "lacks flags whose value is the next argument"),
    ("literal-password/hooks-and-probes", "lacks flags whose value is the next argument"),
    ("task-token/pointed-at-a-task", "of a token Secret of a task they say what they say of any"),
];

/// The words of findings, by what happens because of them.
pub type Words = BTreeMap<Severity, BTreeSet<String>>;

pub fn words<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Words {
    let mut words = Words::new();
    for finding in findings {
        words.entry(finding.severity).or_default().insert(finding.to_string());
    }
    words
}

/// The same as lint has it: what a webhook only warns about in a template, since its pods are
/// refused later, lint refuses.
pub fn as_of_manifest(findings: &[Finding]) -> Vec<Finding> {
    let of_manifest = |finding: &Finding| match finding.message.strip_prefix(admit::TO_COME) {
        Some(message) => Finding { severity: Severity::Deny, message: message.to_owned(), ..finding.clone() },
        None => finding.clone(),
    };
    findings.iter().map(of_manifest).collect()
}

/// The directory and the name of a case's file.
pub fn name(case: &Case) -> String {
    format!("{}/{}", case.about, case.file.file_stem().unwrap_or_default().to_string_lossy())
}

/// What is known in the case, and that ServiceAccounts mount no token by themselves: the cases
/// leave that out, and on the real API server it is so.
fn world(case: &Case) -> Result<World, String> {
    let mut world = case.world()?;
    let spec = &case.asked.request.object["spec"];
    let named = ["serviceAccountName", "serviceAccount"].map(|field| spec[field].as_str().unwrap_or("default").to_owned());
    let here = world.namespaces.entry(namespace(case).to_owned()).or_default();
    for account in named {
        here.accounts.insert(account, Account { automount: Some(false), ..Account::default() });
    }
    Ok(world)
}

/// The namespace of the request.
pub fn namespace(case: &Case) -> &str {
    case.asked.request.namespace.as_deref().unwrap_or(case::NAMESPACE)
}

/// The case as the policies are asked about it; none where it is about no request that they are
/// asked about.
pub fn requested(mut case: Case) -> Option<Case> {
    // Of waivers they know nothing.
    case.asked.world.retain(|manifest| manifest["kind"] != "PolicyWaiver");
    let request = &case.asked.request;
    let (group, resource, subresource) = match request.operation {
        Verb::Create | Verb::Update => request.resource(),
        Verb::Connect | Verb::Manifest => return None,
    };
    let is_known = vap::WORKLOADS.contains(&(group, resource)) || On::of_resource(group, resource, subresource).is_some();
    let is_part_of_pod = (resource, subresource) == ("pods", "ephemeralcontainers");
    (is_known || is_part_of_pod).then_some(case)
}

/// The webhook's decision about the object as it stands in the case.
pub fn decided(case: &Case) -> Result<Vec<Finding>, String> {
    let request = &case.asked.request;
    if request.operation == Verb::Manifest {
        return Ok(case.decided()?.verdict.findings);
    }
    let (world, now) = (case.world()?, case.now()?);
    Ok(request.with(&request.object, |review| admit::admit(&world, review, now)).findings)
}

/// What lint says of the same object, as a manifest.
pub fn linted(case: &Case) -> Result<Vec<Finding>, String> {
    if case.asked.request.operation == Verb::Manifest {
        return decided(case);
    }
    let mut object = case.asked.request.object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.insert("namespace".to_owned(), namespace(case).into());
    }
    let text = object.to_string();
    let value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok(admit::judge(&world(case)?, &value, case.now()?).findings)
}

/// Why lint does not see a case as the webhook does, where it is not in [`BY_LINT`].
pub fn of_lint(case: &Case) -> Option<&'static str> {
    let object = &case.asked.request.object;
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let json = object.to_string();
    let has_template = serde_json::from_str(&json).is_ok_and(|value| !workload::templates(&value).is_empty());
    if case.asked.request.operation == Verb::Manifest {
        None
    } else if case.about == "waivers" {
        Some("a waiver is for what a workload's controller makes, and in a manifest nobody says who makes it")
    } else if case.asked.request.operation == Verb::Update {
        Some("a manifest has no older version: all that is wrong in it is found")
    } else if case.asked.request.operation == Verb::Connect
        || (On::of_kind(text("apiVersion"), text("kind")).is_none() && !has_template)
    {
        Some("it is about a request, not about a manifest")
    } else {
        None
    }
}

/// What no expression can say; found out once.
pub fn gaps() -> &'static [Gap] {
    static GAPS: LazyLock<Vec<Gap>> = LazyLock::new(vap::gaps);
    &GAPS
}

/// Of the webhook's findings those that the policies cannot see, by the rule, with the reason.
pub fn of_policies(finding: &Finding) -> Option<String> {
    if find(finding.rule).is_none() {
        return Some("what is about tasks and policies themselves is the webhook's alone".to_owned());
    }
    let gap = gaps().iter().find(|gap| gap.rule.id == finding.rule && gap.extent == Extent::Whole)?;
    Some(format!("lacks {}", gap.lacks.iter().copied().collect::<Vec<_>>().join("; ")))
}
