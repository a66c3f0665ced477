//! What stands in a cluster where Mandate is installed: ServiceAccounts, RBAC, admission
//! policies and webhook registrations.
//!
//! An [`Install`] goes in: the namespace Mandate lives in, the namespaces it guards, the
//! ceiling of what tasks may hold. Kubernetes objects come out, in an order in which they
//! can be applied. Nothing here speaks to a cluster. The binary prints these objects, tests
//! and the demo apply them, and the Helm chart must render to the same.
//!
//! The namespaces themselves, the CustomResourceDefinitions (see [`crds`](crate::api::crds))
//! and the Deployments are not among them.

mod name;
mod policies;
mod rbac;
pub mod vap;
mod webhooks;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::api::KubernetesRule;

/// Name of the controller's ServiceAccount, of its roles and of its Lease.
pub const CONTROLLER: &str = "mandate-controller";
/// Name of the webhook's ServiceAccount, of its roles and of its Service.
pub const WEBHOOK: &str = "mandate-webhook";
/// Name of the authorizer: its Deployment, Service, ServiceAccount and roles.
pub const AUTHORIZER: &str = "mandate-authorizer";
/// Secret in which the authorizer keeps its certificate.
pub const AUTHORIZER_CERTIFICATE: &str = "mandate-authorizer-tls";
/// Name of the ClusterRole that holds what tasks may be given at most.
pub const CEILING: &str = "mandate-ceiling";
/// Name of the Secret in which the webhook keeps its certificate.
pub const CERTIFICATE: &str = "mandate-webhook-tls";
/// Name of both webhook configurations.
pub const REGISTRATION: &str = "mandate";
/// Namespace that installations use unless told otherwise.
pub const NAMESPACE: &str = "mandate-system";

/// Where the API server finds the webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// At the Service [`WEBHOOK`] in Mandate's namespace, port 443.
    Service,
    /// At this address, to which `/mutate` and `/validate` are added: for a webhook that
    /// runs beside the cluster, as in tests. Example: `https://127.0.0.1:9443`.
    Url(String),
}

/// Who makes the webhook's certificate and tells the API server whom to trust.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Certificates {
    /// The webhook itself.
    #[default]
    Own,
    /// cert-manager, from the Certificate [`WEBHOOK`]; the webhook may then write nothing.
    CertManager,
}

/// A Secret that scopes may copy keys of (`secretKey` credentials).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSource {
    /// Its namespace, one of the guarded.
    pub namespace: String,
    /// Its name.
    pub secret_name: String,
}

/// A checked description of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    namespace: String,
    guarded: BTreeSet<String>,
    ceiling: Vec<KubernetesRule>,
    secret_keys: BTreeMap<String, BTreeSet<String>>,
    certificates: Certificates,
    webhook: Endpoint,
    /// Further kinds that hold templates of pods, as `GROUP/RESOURCE`.
    workloads: BTreeSet<String>,
}

/// Why something cannot be installed so.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InstallError {
    /// No namespace can have this name.
    #[error("`{0}` cannot be the name of a namespace; write lower-case letters, digits and `-`, at most 63")]
    Namespace(String),
    /// No Secret can have this name.
    #[error("`{0}` cannot be the name of a Secret")]
    Secret(String),
    /// Guarding Kubernetes' own namespaces could stop the cluster.
    #[error("namespace `{0}` belongs to Kubernetes and cannot be guarded: with Mandate down, the cluster could not heal itself")]
    Kubernetes(String),
    /// In Kubernetes' own namespaces Mandate would be taken for a part of Kubernetes.
    #[error("namespace `{0}` belongs to Kubernetes and cannot be Mandate's; choose one of its own, such as `mandate-system`")]
    Home(String),
    /// Guarding its own namespace could stop Mandate.
    #[error("namespace `{0}` is Mandate's own and cannot be guarded: with the webhook down, its own pods could not start")]
    Own(String),
    /// A ceiling with a wildcard is none.
    #[error("the ceiling holds `*`; name groups, resources and verbs, so that it can be reviewed")]
    Wildcard,
    /// Whoever may do this may do anything.
    #[error("the ceiling holds the verb `{0}`, with which a task could give itself any right; leave it out")]
    Verb(String),
    /// The ceiling is held by the controller too, which must not be able to read Secrets.
    #[error("the ceiling lets every Secret be read; give the rule resourceNames")]
    AllSecrets,
    /// A token that a task mints would outlive the task.
    #[error("the ceiling holds `serviceaccounts/token`: tokens that a task mints would outlive it; leave it out")]
    Tokens,
    /// The controller does nothing outside of guarded namespaces.
    #[error(
        "secretKeys names Secret `{secret}` in namespace `{namespace}`, which is not guarded; add the namespace to guardedNamespaces"
    )]
    NotGuarded {
        /// Namespace.
        namespace: String,
        /// Secret.
        secret: String,
    },
    /// Only a custom resource can be named so.
    #[error("`{0}` names no kind of workload; write GROUP/RESOURCE, such as `argoproj.io/rollouts`")]
    Workload(String),
    /// Kubernetes' own kinds are asked about already, and Mandate's make no pods.
    #[error("`{0}` need not be named: workloads of Kubernetes are asked about in any case, and Mandate's kinds make no pods")]
    KnownWorkload(String),
    /// The API server calls no such address.
    #[error("`{0}` is no address of a webhook; write `https://host:port`, without user, query or fragment")]
    Address(String),
}

impl Install {
    /// An installation in `namespace` that guards `guarded`, with an empty ceiling: tasks
    /// hold nothing on the Kubernetes API.
    ///
    /// # Errors
    /// [`InstallError`] where a namespace cannot exist or must not be guarded, or where the
    /// API server would not call the address.
    pub fn new(
        namespace: impl Into<String>,
        guarded: impl IntoIterator<Item = impl Into<String>>,
        webhook: Endpoint,
    ) -> Result<Self, InstallError> {
        let namespace = name::home(namespace.into())?;
        let guarded = guarded.into_iter().map(|guarded| name::guarded(guarded.into(), &namespace)).collect::<Result<_, _>>()?;
        let webhook = match webhook {
            Endpoint::Service => Endpoint::Service,
            Endpoint::Url(url) => Endpoint::Url(name::address(url)?),
        };
        Ok(Self {
            namespace,
            guarded,
            ceiling: vec![],
            secret_keys: BTreeMap::new(),
            certificates: Certificates::Own,
            webhook,
            workloads: BTreeSet::new(),
        })
    }

    /// The most that any task may hold, in any guarded namespace.
    ///
    /// # Errors
    /// [`InstallError`] for rules that would be no ceiling.
    pub fn ceiling(self, rules: Vec<KubernetesRule>) -> Result<Self, InstallError> {
        rules.iter().try_for_each(bounded)?;
        Ok(Self { ceiling: rules, ..self })
    }

    /// The Secrets of which keys may be copied into tasks. None by default; a
    /// ClusterAgentPolicy must allow each use as well.
    ///
    /// # Errors
    /// [`InstallError`] for one that cannot exist or lies outside of the guarded namespaces.
    pub fn secret_keys(self, sources: impl IntoIterator<Item = SecretSource>) -> Result<Self, InstallError> {
        let mut secret_keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for SecretSource { namespace, secret_name } in sources {
            let secret = name::secret(secret_name)?;
            if !self.guarded.contains(&namespace) {
                return Err(InstallError::NotGuarded { namespace, secret });
            }
            secret_keys.entry(namespace).or_default().insert(secret);
        }
        Ok(Self { secret_keys, ..self })
    }

    /// Further kinds whose templates of pods are looked at, as `GROUP/RESOURCE`; those of
    /// Kubernetes are in any case.
    ///
    /// # Errors
    /// [`InstallError`] for what no custom resource is called.
    pub fn workloads(self, kinds: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, InstallError> {
        let workloads = kinds.into_iter().map(|kind| name::workload(kind.into())).collect::<Result<_, _>>()?;
        Ok(Self { workloads, ..self })
    }

    /// Who makes the webhook's certificate; the webhook itself unless told otherwise.
    #[must_use]
    pub fn certificates(self, certificates: Certificates) -> Self {
        Self { certificates, ..self }
    }

    /// The namespace Mandate lives in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Every object, in an order in which they can be applied: what grants and what bounds
    /// before what calls the webhook.
    #[must_use]
    pub fn objects(&self) -> Vec<Value> {
        [self.rbac(), self.policies(), self.webhooks()].concat()
    }

    /// ServiceAccounts, roles and bindings.
    #[must_use]
    pub fn rbac(&self) -> Vec<Value> {
        rbac::objects(self)
    }

    /// ValidatingAdmissionPolicies that hold the controller to its own objects and others
    /// off them, with their bindings.
    #[must_use]
    pub fn policies(&self) -> Vec<Value> {
        policies::objects(self)
    }

    /// The registrations of the webhook.
    #[must_use]
    pub fn webhooks(&self) -> Vec<Value> {
        webhooks::objects(self)
    }
}

/// Refuses a rule that would be no ceiling, or would give the controller what it must not hold.
fn bounded(rule: &KubernetesRule) -> Result<(), InstallError> {
    let KubernetesRule { api_groups, resources, resource_names, verbs } = rule;
    if [api_groups, resources, verbs].into_iter().flatten().any(|word| word.contains('*')) {
        return Err(InstallError::Wildcard);
    }
    if let Some(verb) = verbs.iter().find(|verb| ["escalate", "bind", "impersonate"].contains(&verb.as_str())) {
        return Err(InstallError::Verb(verb.clone()));
    }
    if !api_groups.iter().any(String::is_empty) {
        return Ok(());
    }
    let holds = |resource: &str| resources.iter().any(|held| held == resource);
    if holds("serviceaccounts/token") {
        return Err(InstallError::Tokens);
    }
    let reads = verbs.iter().any(|verb| ["get", "list", "watch"].contains(&verb.as_str()));
    if holds("secrets") && reads && resource_names.is_empty() {
        return Err(InstallError::AllSecrets);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
