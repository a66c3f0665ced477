//! Tells what stands: in a report a namespace, in the statuses of policies and waivers, in
//! metrics. Written is only what is new, and no object more often than every few seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Books, Scan};
use crate::api::{AgentPolicy, AgentPolicyStatus, ClusterAgentPolicy, PolicyWaiver, Violations, names};
use crate::decide::finding::Severity;
use crate::decide::standing::ledger::{Covers, Use};
use crate::decide::standing::report::{Report, report};
use crate::decide::waive;
use crate::decide::world::Loaded;
use crate::metrics::{self, Verb};

/// Least time between two looks at one namespace's numbers.
const LOOK: Duration = Duration::from_secs(1);
/// Least time between two writes of one report, and between two rounds of statuses.
const PACE: Duration = Duration::from_secs(3);
/// What could not be written is tried again after so long.
const RETRY: Duration = Duration::from_secs(15);
/// How often it is looked whether reports can be written, while they cannot.
const LOOK_FOR_REPORTS: Duration = Duration::from_secs(60);
/// Most statuses that are remembered as written; one that is forgotten costs a write.
const MOST_WRITTEN: usize = 4096;
/// Most objects that a waiver's status names.
const MOST_COVERED: usize = 32;

/// Kinds of reports, of which the first that is installed is taken: group, version, kind,
/// resource.
const REPORTS: [(&str, &str, &str, &str); 2] =
    [("openreports.io", "v1alpha1", "Report", "reports"), ("wgpolicyk8s.io", "v1alpha2", "PolicyReport", "policyreports")];

/// What was told last, so that only news is written.
pub(super) struct Publisher {
    scan: Scan,
    pages: BTreeMap<String, Page>,
    reports: Reports,
    /// Statuses as they were written last, by UID: a watch brings them back later.
    written: BTreeMap<String, Value>,
    next_statuses: Instant,
}

/// One namespace.
#[derive(Default)]
struct Page {
    /// None while not everything has been looked at.
    seen: Option<Seen>,
    /// What the metrics show.
    shown: BTreeMap<(&'static str, Severity), u64>,
    /// What the report shows, and of which revision it is.
    report: Option<(u64, Report)>,
    next_look: Option<Instant>,
    next_report: Option<Instant>,
    /// Whether the report of our name is somebody else's.
    is_taken: bool,
}

/// What stands in one namespace, in numbers.
struct Seen {
    revision: u64,
    by_policy: BTreeMap<String, Violations>,
    /// By the UID of the waiver.
    waivers: BTreeMap<String, (Option<Use>, Covers)>,
}

/// A status that is news.
struct News {
    uid: String,
    resource: ApiResource,
    namespace: Option<String>,
    body: Value,
    label: metrics::Resource,
}

impl Publisher {
    pub(super) fn new(scan: Scan) -> Self {
        let now = Instant::now();
        let pages = scan.guarded.iter().map(|namespace| (namespace.clone(), Page::default())).collect();
        let reports = Reports { kind: None, next_look: now, is_told: false };
        Self { scan, pages, reports, written: BTreeMap::new(), next_statuses: now }
    }

    /// Tells whatever is new and may be told now.
    pub(super) async fn publish(&mut self, books: &Books) {
        self.look(books);
        self.report(books).await;
        if Instant::now() >= self.next_statuses {
            let mut failed = false;
            for news in self.news(books) {
                failed |= self.write(news).await.is_err();
            }
            self.next_statuses = Instant::now() + if failed { RETRY } else { PACE };
        }
    }

    /// Takes the numbers from the ledger, and brings the metrics up to date.
    fn look(&mut self, books: &Books) {
        let world = books.world.read().unwrap_or_else(PoisonError::into_inner);
        let mut ledger = books.ledger();
        for (namespace, page) in &mut self.pages {
            let revision = ledger.revision(namespace);
            if !ledger.is_complete(namespace) {
                page.seen = None;
                continue;
            }
            let is_known = page.seen.as_ref().is_some_and(|seen| seen.revision == revision);
            if is_known || page.seen.is_some() && page.next_look.is_some_and(|next| next > Instant::now()) {
                continue;
            }
            let counts = ledger.counts(namespace);
            for (rule, severity) in page.shown.keys().filter(|key| !counts.contains_key(*key)) {
                self.scan.metrics.violations(namespace, rule, severity.as_str(), 0);
            }
            for ((rule, severity), count) in &counts {
                self.scan.metrics.violations(namespace, rule, severity.as_str(), *count);
            }
            page.shown = counts;
            let there = world.namespaces.get(namespace).into_iter().flat_map(|here| here.waivers.values());
            let there: BTreeSet<&str> = there.map(|waiver| waiver.uid.as_str()).collect();
            ledger.forget_waivers(namespace, &there);
            let mut covers = ledger.covers(namespace, MOST_COVERED);
            let waivers = there
                .iter()
                .map(|uid| ((*uid).to_owned(), (ledger.uses(namespace, uid), covers.remove(uid).unwrap_or_default())));
            let waivers = waivers.collect();
            let by_policy = ledger.by_policy(namespace).into_iter().map(|(policy, count)| (policy.to_owned(), count)).collect();
            page.seen = Some(Seen { revision, by_policy, waivers });
            page.next_look = Some(Instant::now() + LOOK);
        }
    }

    /// Writes the reports that have news.
    async fn report(&mut self, books: &Books) {
        let Self { scan, pages, reports, .. } = self;
        for (namespace, page) in pages {
            let may = !page.is_taken && page.next_report.is_none_or(|next| next <= Instant::now());
            let Some(seen) = page.seen.as_ref().filter(|_| may) else { continue };
            if page.report.as_ref().is_some_and(|(revision, _)| *revision == seen.revision) {
                continue;
            }
            let Some(kind) = reports.installed(&scan.client).await else { return };
            let (revision, new) = {
                let ledger = books.ledger();
                (ledger.revision(namespace), report(&ledger, namespace))
            };
            let is_first = match &mut page.report {
                Some((shown, old)) if *old == new => {
                    *shown = revision;
                    continue;
                }
                known => known.is_none(),
            };
            let api: Api<DynamicObject> = Api::namespaced_with(scan.client.clone(), namespace, &kind);
            match write_report(&api, &kind, namespace, &new, is_first).await {
                Ok(true) => {
                    scan.metrics.wrote(Verb::Patch, metrics::Resource::Reports);
                    page.report = Some((revision, new));
                    page.next_report = Some(Instant::now() + PACE);
                }
                Ok(false) => {
                    warn!(namespace, kind = kind.kind, "the report `mandate` is somebody else's, so nothing is reported here");
                    page.is_taken = true;
                }
                Err(error) => {
                    warn!(%error, namespace, kind = kind.kind, "what stands could not be reported; it is tried again");
                    page.next_report = Some(Instant::now() + RETRY);
                    if matches!(&error, kube::Error::Api(answer) if answer.code == 404) {
                        // The kind, or the namespace, is there no more.
                        reports.kind = None;
                    }
                }
            }
        }
    }

    /// The statuses of policies and waivers that are not what they should be.
    fn news(&self, books: &Books) -> Vec<News> {
        let now = books.clock.now();
        let world = books.world.read().unwrap_or_else(PoisonError::into_inner);
        let seen = |namespace: &str| self.pages.get(namespace).and_then(|page| page.seen.as_ref());
        let mut all = vec![];
        for policy in self.scan.policies.state() {
            let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
            let known = world.namespaces.get(&namespace).and_then(|here| here.policies.get(&name));
            let Some(seen) = seen(&namespace).filter(|_| is_same(known, &policy.spec)) else { continue };
            let stands = seen.by_policy.get(&format!("AgentPolicy {namespace}/{name}")).copied().unwrap_or_default();
            let new = policy_status(policy.status.as_ref(), policy.metadata.generation, stands, now);
            all.extend(self.of::<AgentPolicy>(
                &policy.metadata,
                policy.status.as_ref(),
                &new,
                metrics::Resource::AgentPoliciesStatus,
            ));
        }
        for policy in self.scan.cluster_policies.state() {
            let name = policy.name_any();
            let held: Option<Vec<&Seen>> = self
                .pages
                .iter()
                .filter(|(namespace, _)| policy.spec.holds_in(namespace))
                .map(|(_, page)| page.seen.as_ref())
                .collect();
            let Some(held) = held.filter(|_| is_same(world.cluster_policies.get(&name), &policy.spec)) else { continue };
            let named = format!("ClusterAgentPolicy {name}");
            let here = held.iter().filter_map(|seen| seen.by_policy.get(&named));
            let stands = here.fold(Violations::default(), |all, here| Violations {
                deny: all.deny + here.deny,
                warn: all.warn + here.warn,
                audit: all.audit + here.audit,
            });
            let new = policy_status(policy.status.as_ref(), policy.metadata.generation, stands, now);
            all.extend(self.of::<ClusterAgentPolicy>(
                &policy.metadata,
                policy.status.as_ref(),
                &new,
                metrics::Resource::ClusterAgentPoliciesStatus,
            ));
        }
        for (namespace, here) in &world.namespaces {
            for (name, waiver) in &here.waivers {
                let seen = match self.pages.get(namespace) {
                    Some(page) => page.seen.as_ref().and_then(|seen| seen.waivers.get(&waiver.uid)).cloned(),
                    None => Some((None, Covers::default())),
                };
                let new = waive::status(&world, namespace, waiver, seen, now);
                let metadata = ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(namespace.clone()),
                    uid: Some(waiver.uid.clone()),
                    ..ObjectMeta::default()
                };
                all.extend(self.of::<PolicyWaiver>(
                    &metadata,
                    Some(&waiver.status),
                    &new,
                    metrics::Resource::PolicyWaiversStatus,
                ));
            }
        }
        all
    }

    /// A status, where it is news.
    fn of<K>(&self, metadata: &ObjectMeta, found: Option<&K::Status>, new: &K::Status, label: metrics::Resource) -> Option<News>
    where
        K: Resource<DynamicType = ()> + HasStatus,
    {
        if found == Some(new) {
            return None;
        }
        let uid = metadata.uid.clone().unwrap_or_default();
        let body = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": metadata.name, "uid": metadata.uid},
            "status": new,
        });
        // What was written a moment ago may not have come back yet.
        if self.written.get(&uid) == Some(&body) {
            return None;
        }
        Some(News { uid, resource: ApiResource::erase::<K>(&()), namespace: metadata.namespace.clone(), body, label })
    }

    async fn write(&mut self, News { uid, resource, namespace, body, label }: News) -> Result<(), ()> {
        let client = self.scan.client.clone();
        let api: Api<DynamicObject> = match &namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        match api.patch_status(name, &PatchParams::apply(names::MANAGER).force(), &Patch::Apply(&body)).await {
            Ok(_) => self.scan.metrics.wrote(Verb::Patch, label),
            // Gone, or made anew, in the meantime.
            Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => {}
            Err(error) => {
                warn!(%error, namespace, name, kind = resource.kind, "a status could not be written; it is tried again");
                return Err(());
            }
        }
        if self.written.len() >= MOST_WRITTEN {
            self.written.clear();
        }
        self.written.insert(uid, body);
        Ok(())
    }
}

/// A kind with a status that can be compared and written.
trait HasStatus {
    type Status: PartialEq + Serialize;
}

impl HasStatus for AgentPolicy {
    type Status = AgentPolicyStatus;
}

impl HasStatus for ClusterAgentPolicy {
    type Status = AgentPolicyStatus;
}

impl HasStatus for PolicyWaiver {
    type Status = crate::api::PolicyWaiverStatus;
}

/// Whether the numbers were counted under the very spec that the status is to speak of.
fn is_same<S: PartialEq>(known: Option<&Loaded<S>>, spec: &S) -> bool {
    matches!(known, Some(Loaded::Readable(known)) if known == spec)
}

/// The status of a policy; its time is that of the numbers.
fn policy_status(
    found: Option<&AgentPolicyStatus>,
    generation: Option<i64>,
    stands: Violations,
    now: Timestamp,
) -> AgentPolicyStatus {
    let since = found
        .filter(|found| found.violations == Some(stands) && found.observed_generation == generation)
        .and_then(|found| found.observed_at.clone());
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    AgentPolicyStatus { observed_generation: generation, violations: Some(stands), observed_at: Some(since.unwrap_or(now)) }
}

/// Which kind of report is installed.
struct Reports {
    kind: Option<ApiResource>,
    next_look: Instant,
    is_told: bool,
}

impl Reports {
    /// The kind that is installed. That none is, is told once.
    async fn installed(&mut self, client: &Client) -> Option<ApiResource> {
        if self.kind.is_some() || Instant::now() < self.next_look {
            return self.kind.clone();
        }
        self.next_look = Instant::now() + LOOK_FOR_REPORTS;
        for (group, version, kind, plural) in REPORTS {
            let api_version = format!("{group}/{version}");
            match client.list_api_group_resources(&api_version).await {
                Ok(list) if list.resources.iter().any(|resource| resource.name == plural) => {
                    info!(api_version, kind, "what stands is reported");
                    self.kind = Some(ApiResource {
                        group: group.into(),
                        version: version.into(),
                        api_version,
                        kind: kind.into(),
                        plural: plural.into(),
                    });
                    return self.kind.clone();
                }
                Ok(_) => {}
                // The API server says it in plain text, which has no reason.
                Err(kube::Error::Api(answer)) if answer.code == 404 => {}
                Err(error) => {
                    warn!(%error, api_version, "it could not be found out whether reports are installed");
                    return None;
                }
            }
        }
        if !std::mem::replace(&mut self.is_told, true) {
            info!(
                "neither Report (openreports.io) nor PolicyReport (wgpolicyk8s.io) is installed, so nothing is reported; metrics and statuses say what stands"
            );
        }
        None
    }
}

/// Writes the report of a namespace; false where the one that is there is somebody else's.
async fn write_report(
    api: &Api<DynamicObject>,
    kind: &ApiResource,
    namespace: &str,
    report: &Report,
    is_first: bool,
) -> Result<bool, kube::Error> {
    if is_first
        && let Some(there) = api.get_opt(names::MANAGER).await?
        && there.labels().get(names::MANAGED_BY).map(String::as_str) != Some(names::MANAGER)
    {
        return Ok(false);
    }
    let body = json!({
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": names::MANAGER, "namespace": namespace, "labels": {names::MANAGED_BY: names::MANAGER}},
        "scope": {"apiVersion": "v1", "kind": "Namespace", "name": namespace},
        "summary": report.summary,
        "results": report.results,
    });
    api.patch(names::MANAGER, &PatchParams::apply(names::MANAGER).force(), &Patch::Apply(&body)).await?;
    Ok(true)
}
