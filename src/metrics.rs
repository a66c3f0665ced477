//! What the process counts, for `/metrics`.
//!
//! Every label is an enum: names of objects and users never become labels, so the number of
//! series is fixed when the program is built. One gauge, of what stands against the rules, has
//! the guarded namespaces as a label, which the installation lists. Recording takes no lock that waits for
//! a scrape longer than it takes to copy numbers.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::api::Phase;

/// Makes an enum whose variants are label values.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The label's value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }
    };
}

label! {
    /// Resource, with its subresource, as an API server names it.
    #[allow(missing_docs, reason = "the values say it")]
    Resource {
        AgentIdentities = "agentidentities",
        AgentIdentitiesStatus = "agentidentities/status",
        AgentPolicies = "agentpolicies",
        AgentPoliciesStatus = "agentpolicies/status",
        AgentTasks = "agenttasks",
        AgentTasksStatus = "agenttasks/status",
        Bindings = "bindings",
        ClusterAgentPolicies = "clusteragentpolicies",
        ClusterAgentPoliciesStatus = "clusteragentpolicies/status",
        CronJobs = "cronjobs",
        DaemonSets = "daemonsets",
        Deployments = "deployments",
        EphemeralContainers = "pods/ephemeralcontainers",
        Events = "events",
        Jobs = "jobs",
        MutatingWebhooks = "mutatingwebhookconfigurations",
        PodAttach = "pods/attach",
        PodBinding = "pods/binding",
        PodExec = "pods/exec",
        PodPortForward = "pods/portforward",
        PodProxy = "pods/proxy",
        Pods = "pods",
        PodTemplates = "podtemplates",
        PolicyWaivers = "policywaivers",
        PolicyWaiversStatus = "policywaivers/status",
        ReplicaSets = "replicasets",
        ReplicationControllers = "replicationcontrollers",
        /// Of OpenReports, or a PolicyReport.
        Reports = "reports",
        RoleBindings = "rolebindings",
        Roles = "roles",
        Secrets = "secrets",
        ServiceAccounts = "serviceaccounts",
        ServiceAccountTokens = "serviceaccounts/token",
        StatefulSets = "statefulsets",
        TaskScopes = "taskscopes",
        ValidatingWebhooks = "validatingwebhookconfigurations",
        /// Anything else.
        Other = "other",
    }
}

impl Resource {
    /// The resource of this name (`pods`, `serviceaccounts/token`), or [`Resource::Other`].
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self::ALL.iter().copied().find(|resource| resource.as_str() == name).unwrap_or(Self::Other)
    }
}

label! {
    /// What an admission request does to its object.
    #[allow(missing_docs, reason = "the values say it")]
    Operation { Create = "create", Update = "update", Delete = "delete", Connect = "connect" }
}

label! {
    /// How an admission review was answered.
    Outcome {
        /// With or without changes and warnings.
        Allowed = "allowed",
        /// By a rule.
        Denied = "denied",
        /// Not by a rule: the request could not be read or judged. It was refused as well.
        Error = "error",
    }
}

label! {
    /// Kind that is reconciled.
    #[allow(missing_docs, reason = "the values say it")]
    Kind { AgentIdentity = "AgentIdentity", AgentTask = "AgentTask" }
}

label! {
    /// How one look at an object ended.
    Reconciled {
        /// The cluster was as it should be.
        Unchanged = "unchanged",
        /// Something was written.
        Changed = "changed",
        /// The object asks for what it may not have.
        Refused = "refused",
        /// It failed and is tried again.
        Error = "error",
    }
}

label! {
    /// How an object was written.
    #[allow(missing_docs, reason = "the values say it")]
    Verb { Create = "create", Update = "update", Patch = "patch", Delete = "delete" }
}

label! {
    /// Where a task stands.
    #[allow(missing_docs, reason = "the values say it")]
    TaskPhase { Pending = "pending", Active = "active", Ended = "ended", Refused = "refused" }
}

impl From<Phase> for TaskPhase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Pending => Self::Pending,
            Phase::Active => Self::Active,
            Phase::Ended => Self::Ended,
            Phase::Refused => Self::Refused,
        }
    }
}

label! {
    /// What is sent to a collector.
    #[allow(missing_docs, reason = "the values say it")]
    Signal { Traces = "traces", Metrics = "metrics" }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSignal {
    signal: Signal,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Review {
    resource: Resource,
    operation: Operation,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Look {
    kind: Kind,
    outcome: Reconciled,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    verb: Verb,
    resource: Resource,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decided {
    door: &'static str,
    outcome: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InPhase {
    phase: TaskPhase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Standing {
    namespace: String,
    rule: &'static str,
    severity: &'static str,
}

/// Everything that is counted. One for the process, shared by whatever counts.
#[derive(Debug)]
pub struct Metrics {
    admission_reviews: Family<Review, Counter>,
    admission_duration: Histogram,
    reconciles: Family<Look, Counter>,
    reconcile_duration: Histogram,
    api_writes: Family<Write, Counter>,
    tasks: Family<InPhase, Gauge>,
    violations: Family<Standing, Gauge>,
    tokens_minted: Counter,
    certificate_expiry: Gauge,
    decisions: Family<Decided, Counter>,
    decision_duration: Histogram,
    tasks_known: Gauge,
    known_age: Gauge<f64, AtomicU64>,
    audit_broken: Gauge,
    audit_queue: Gauge,
    telemetry_lost: Family<OfSignal, Counter>,
}

/// A verdict takes microseconds; what takes longer than a second has failed its caller.
const ADMISSION_BUCKETS: [f64; 12] = [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];
/// A look is a handful of API calls.
const RECONCILE_BUCKETS: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

impl Metrics {
    /// Registers every metric under the prefix `mandate_`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            admission_reviews: Family::default(),
            admission_duration: Histogram::new(ADMISSION_BUCKETS),
            reconciles: Family::default(),
            reconcile_duration: Histogram::new(RECONCILE_BUCKETS),
            api_writes: Family::default(),
            tasks: Family::default(),
            violations: Family::default(),
            tokens_minted: Counter::default(),
            certificate_expiry: Gauge::default(),
            decisions: Family::default(),
            decision_duration: Histogram::new(ADMISSION_BUCKETS),
            tasks_known: Gauge::default(),
            known_age: Gauge::default(),
            audit_broken: Gauge::default(),
            audit_queue: Gauge::default(),
            telemetry_lost: Family::default(),
        };
        let Self {
            admission_reviews,
            admission_duration,
            reconciles,
            reconcile_duration,
            api_writes,
            tasks,
            violations,
            tokens_minted,
            certificate_expiry,
            decisions,
            decision_duration,
            tasks_known,
            known_age,
            audit_broken,
            audit_queue,
            telemetry_lost,
        } = &metrics;
        let to = registry.sub_registry_with_prefix("mandate");
        to.register("admission_reviews", "Admission reviews answered", admission_reviews.clone());
        to.register_with_unit(
            "admission_duration",
            "Time from a review's last byte to its answer",
            Unit::Seconds,
            admission_duration.clone(),
        );
        to.register("reconciles", "Looks at an object", reconciles.clone());
        to.register_with_unit("reconcile_duration", "Time one look took", Unit::Seconds, reconcile_duration.clone());
        to.register("api_writes", "Objects written in the cluster", api_writes.clone());
        to.register("tasks", "Tasks in each phase", tasks.clone());
        to.register(
            "violations",
            "Findings in what stands in guarded namespaces, by what would happen today",
            violations.clone(),
        );
        to.register("tokens_minted", "Tokens requested for tasks and issued", tokens_minted.clone());
        to.register_with_unit(
            "certificate_expiry_timestamp",
            "When the serving certificate expires, in Unix time; 0 before there is one",
            Unit::Seconds,
            certificate_expiry.clone(),
        );
        to.register("decisions", "Actions decided at run time, by the first reason", decisions.clone());
        to.register_with_unit(
            "decision_duration",
            "Time from a question to its answer, on the disk where it must be",
            Unit::Seconds,
            decision_duration.clone(),
        );
        to.register("tasks_known", "Tasks that the authorizer knows", tasks_known.clone());
        to.register_with_unit(
            "known_age",
            "How old what the authorizer knows is; beyond its bound everything is denied",
            Unit::Seconds,
            known_age.clone(),
        );
        to.register(
            "audit_broken",
            "1 while nothing can be written to the audit log, and so every action is denied",
            audit_broken.clone(),
        );
        to.register("audit_queue", "Entries that wait to be written to the audit log", audit_queue.clone());
        to.register("telemetry_lost", "Spans, and pushes of metrics, that no collector took", telemetry_lost.clone());
        metrics
    }

    /// An action was decided. Door, outcome and code are words of closed sets.
    pub fn decided(&self, door: &'static str, outcome: &'static str, code: &'static str, took: Duration) {
        self.decisions.get_or_create(&Decided { door, outcome, code }).inc();
        self.decision_duration.observe(took.as_secs_f64());
    }

    /// So many tasks are known, and what is known is so old.
    pub fn knows(&self, tasks: usize, age: Duration) {
        self.tasks_known.set(i64::try_from(tasks).unwrap_or(i64::MAX));
        self.known_age.set(age.as_secs_f64());
    }

    /// How the audit log is.
    pub fn audit(&self, is_broken: bool, queued: usize) {
        self.audit_broken.set(i64::from(is_broken));
        self.audit_queue.set(i64::try_from(queued).unwrap_or(i64::MAX));
    }

    /// So many spans, or pushes of metrics, were lost.
    pub fn lost(&self, signal: Signal, count: u64) {
        self.telemetry_lost.get_or_create(&OfSignal { signal }).inc_by(count);
    }

    /// An admission review was answered.
    pub fn reviewed(&self, resource: Resource, operation: Operation, outcome: Outcome, took: Duration) {
        self.admission_reviews.get_or_create(&Review { resource, operation, outcome }).inc();
        self.admission_duration.observe(took.as_secs_f64());
    }

    /// An object was looked at.
    pub fn reconciled(&self, kind: Kind, outcome: Reconciled, took: Duration) {
        self.reconciles.get_or_create(&Look { kind, outcome }).inc();
        self.reconcile_duration.observe(took.as_secs_f64());
    }

    /// An object was written.
    pub fn wrote(&self, verb: Verb, resource: Resource) {
        self.api_writes.get_or_create(&Write { verb, resource }).inc();
    }

    /// So many tasks are in this phase now.
    pub fn tasks(&self, phase: TaskPhase, count: usize) {
        self.tasks.get_or_create(&InPhase { phase }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// So many findings of a rule stand in a guarded namespace now.
    pub fn violations(&self, namespace: &str, rule: &'static str, severity: &'static str, count: u64) {
        let labels = Standing { namespace: namespace.to_owned(), rule, severity };
        if count == 0 {
            self.violations.remove(&labels);
        } else {
            self.violations.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A token was issued.
    pub fn minted(&self) {
        self.tokens_minted.inc();
    }

    /// The certificate served from now on expires then.
    pub fn certificate_expires(&self, at: Timestamp) {
        self.certificate_expiry.set(at.as_second());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_what_was_counted() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.reviewed(Resource::of("pods"), Operation::Create, Outcome::Denied, Duration::from_micros(80));
        metrics.reconciled(Kind::AgentTask, Reconciled::Changed, Duration::from_millis(7));
        metrics.wrote(Verb::Patch, Resource::AgentTasksStatus);
        metrics.tasks(Phase::Active.into(), 3);
        metrics.violations("finance", "secret-env", "deny", 4);
        metrics.violations("finance", "secret-volume", "warn", 1);
        metrics.violations("finance", "secret-volume", "warn", 0);
        metrics.minted();
        metrics.certificate_expires(Timestamp::from_second(1_800_000_000).unwrap());
        metrics.decided("authzen", "deny", "OutOfScope", Duration::from_micros(80));
        metrics.knows(2, Duration::from_millis(1500));
        metrics.audit(true, 7);
        metrics.lost(Signal::Traces, 3);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for line in [
            r#"mandate_admission_reviews_total{resource="pods",operation="create",outcome="denied"} 1"#,
            r#"mandate_admission_duration_seconds_bucket{le="0.0001"} 1"#,
            r#"mandate_reconciles_total{kind="AgentTask",outcome="changed"} 1"#,
            r#"mandate_api_writes_total{verb="patch",resource="agenttasks/status"} 1"#,
            r#"mandate_tasks{phase="active"} 3"#,
            r#"mandate_violations{namespace="finance",rule="secret-env",severity="deny"} 4"#,
            "mandate_tokens_minted_total 1",
            r#"mandate_decisions_total{door="authzen",outcome="deny",code="OutOfScope"} 1"#,
            r#"mandate_decision_duration_seconds_bucket{le="0.0001"} 1"#,
            "mandate_tasks_known 2",
            "mandate_known_age_seconds 1.5",
            "mandate_audit_broken 1",
            "mandate_audit_queue 7",
            r#"mandate_telemetry_lost_total{signal="traces"} 3"#,
            "mandate_certificate_expiry_timestamp_seconds 1800000000",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\nnot in\n{page}");
        }
        assert!(!page.contains("secret-volume"), "what stands no more is counted on:\n{page}");
    }

    #[test]
    fn a_resource_nobody_knows_is_counted_as_other() {
        assert_eq!(Resource::of("widgets"), Resource::Other);
        assert_eq!(Resource::of("serviceaccounts/token"), Resource::ServiceAccountTokens);
    }
}
