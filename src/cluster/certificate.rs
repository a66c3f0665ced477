//! Whom do API servers trust when they call us, and with what do we answer? Keeps Mandate's own
//! authority, its serving certificate and the `caBundle` of its webhook configurations.
//!
//! In go names and lives; out come a certificate in [`Serving`] that API servers trust, and a
//! bundle in every webhook configuration. Everything is kept in one Secret of a type of its own
//! that all replicas share; there is no leader: each does the same, and whoever writes second
//! fails on the resource version, reads again and finds the work done. It never writes a Secret
//! of another type, touches nothing of a webhook configuration but `caBundle`, and logs no key.
//!
//! # Order
//! Two rules make that no API server ever meets a certificate it does not trust yet:
//! 1. *A new authority is announced, then adopted* (see the module `plan`): it is in the bundle of every
//!    webhook configuration for [`Lives::settle`] before it signs anything.
//! 2. *A replica publishes before it serves*: a certificate from the Secret is served when the
//!    bundle stored beside it stands in every configuration, and has for [`Lives::settle`] as
//!    well. Only a replica with nothing to serve that this bundle trusts takes it at once,
//!    because it could not answer otherwise.
//!
//! Deleting the Secret is the way to be rid of an authority now: the next one does not keep the
//! old one in the bundle, at the price of a moment in which calls fail.
//!
//! A replica that has not heard of a new bundle cannot put the old one back: a pass reads the
//! configurations first, then the Secret, and its patch holds only for the configurations as
//! they were read. Whoever wrote a newer bundle into a configuration had stored it before.
//!
//! # When
//! Watches of the Secret and of the configurations only ring a bell; each pass reads afresh. A
//! `caBundle` that somebody overwrites (a `helm upgrade`, a GitOps sync) is put right in well
//! under a second. Errors are retried with backoff and jitter, without end: a certificate that
//! counts is served on meanwhile.
//!
//! # Rights it needs
//! | group | resource | names | verbs | where |
//! |---|---|---|---|---|
//! | `""` | `secrets` | `Own::secret` | `get`, `list`, `watch`, `update` | `Own::namespace` |
//! | `""` | `secrets` | (RBAC cannot name what does not exist) | `create` | `Own::namespace` |
//! | `admissionregistration.k8s.io` | `validatingwebhookconfigurations` | `Own::validating` | `get`, `list`, `watch`, `patch` | cluster |
//! | `admissionregistration.k8s.io` | `mutatingwebhookconfigurations` | `Own::mutating` | `get`, `list`, `watch`, `patch` | cluster |
//!
//! `create` is not needed where an empty Secret of the type [`SECRET_TYPE`] is there before.
//! `list` and `watch` work with `resourceNames`, since they select by `metadata.name`. With
//! [`Settings::Files`], none is needed.

use std::{collections::BTreeMap, fmt::Debug, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use futures::{FutureExt as _, Stream, StreamExt as _, stream::SelectAll};
use jiff::Timestamp;
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    core::v1::Secret,
};
use kube::{
    Api, Client, Resource,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use rustls::pki_types::DnsName;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::pace::{Backoff, jittered};
use crate::{
    api::names::{MANAGED_BY, MANAGER},
    metrics::{self, Metrics, Verb},
    serve::{
        Serving, Stop,
        files::{self, Files},
        readiness::Handle,
    },
};

mod plan;
mod publish;
mod stored;

pub use plan::Lives;
pub use stored::IssueError;

use plan::{Step, Wanted};
use publish::Webhooks;
use stored::{Leaf, Stored};

/// Type of the Secret that holds the authority and the serving certificate.
pub const SECRET_TYPE: &str = "mandate.dev/webhook-certificate";

/// Where the serving certificate comes from.
#[derive(Clone, Debug)]
pub enum Settings {
    /// From files that somebody else renews, who also keeps `caBundle` (cert-manager).
    Files(Files),
    /// From Mandate's own authority.
    Own(Own),
}

/// How Mandate keeps its own certificates.
#[derive(Clone, Debug)]
pub struct Own {
    /// Mandate's own namespace.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// DNS names and addresses by which API servers call; see [`service_names`].
    pub names: Vec<String>,
    /// ValidatingWebhookConfigurations whose webhooks call us.
    pub validating: Vec<String>,
    /// MutatingWebhookConfigurations whose webhooks call us.
    pub mutating: Vec<String>,
    /// How long certificates count.
    pub lives: Lives,
}

/// The names under which a cluster reaches a service.
#[must_use]
pub fn service_names(service: &str, namespace: &str) -> Vec<String> {
    ["", ".svc", ".svc.cluster.local"].iter().map(|end| format!("{service}.{namespace}{end}")).collect()
}

/// Why the certificates cannot be kept with these settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No name is given.
    #[error("issue a serving certificate without a name; give the name of the webhook's service")]
    NoNames,
    /// A name is neither a DNS name nor an address.
    #[error("issue a serving certificate for `{0}`, which is neither a DNS name nor an IP address")]
    Name(String),
}

/// Why one pass failed. It is tried again.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error("read webhook configuration `{name}`")]
    ReadConfiguration { name: String, source: kube::Error },
    #[error("write the bundle into webhook configuration `{name}`")]
    Publish { name: String, source: kube::Error },
    #[error("read secret `{name}`")]
    ReadSecret { name: String, source: kube::Error },
    #[error("write secret `{name}`")]
    WriteSecret { name: String, source: kube::Error },
    #[error("use secret `{name}`, whose type is `{found}` and not `{SECRET_TYPE}`; delete it or give another name")]
    NotOurs { name: String, found: String },
    #[error("issue")]
    Issue(#[from] IssueError),
}

impl PassError {
    /// Whether somebody else was faster, so that reading again is all there is to do.
    fn is_lost_race(&self) -> bool {
        match self {
            Self::WriteSecret { source: kube::Error::Api(status), .. } => {
                status.is_conflict() || status.is_already_exists() || status.is_not_found()
            }
            Self::Publish { source: kube::Error::Api(status), .. } => {
                status.is_conflict() || status.is_invalid() || status.is_not_found()
            }
            _ => false,
        }
    }
}

/// A pass is a handful of requests.
const PASS: Duration = Duration::from_secs(30);
/// Time between passes, growing while each finds something to write: whoever writes the same
/// field as we do must not make us write without end.
const SPACING: Backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(10) };
/// Time between passes that fail.
const RETRY: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) };

/// Keeps `serving` and the webhook configurations until `stop`. `ready` is dropped when the
/// first certificate is served and every configuration trusts it.
///
/// # Errors
/// Only for settings that can never work, before anything is read or written. The cluster's
/// errors are logged and retried.
pub async fn keep(
    client: Client,
    settings: Settings,
    serving: Arc<Serving>,
    metrics: Arc<Metrics>,
    ready: Handle,
    stop: Stop,
) -> Result<(), Error> {
    let own = match settings {
        Settings::Own(own) => own,
        Settings::Files(files) => {
            files::follow(files, serving, metrics, ready, stop).await;
            return Ok(());
        }
    };
    check(&own.names)?;
    let mut bell = pin!(bell(&client, &own));
    let mut keeper = Keeper::new(client, own, serving, metrics);
    let mut ready = Some(ready);
    let (mut busy, mut failed) = (0_u32, 0_u32);
    loop {
        let pass = tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            pass = timeout(PASS, keeper.pass()) => pass,
        };
        let look = match pass {
            Ok(Ok(Pass { wrote, in_place, look })) => {
                failed = 0;
                busy = if wrote { busy.saturating_add(1) } else { 0 };
                if in_place {
                    drop(ready.take());
                }
                look
            }
            Ok(Err(error)) if error.is_lost_race() => {
                debug!(error = &error as &dyn std::error::Error, "somebody else wrote first, reading again");
                busy = busy.saturating_add(1);
                Duration::ZERO
            }
            Ok(Err(error)) => {
                failed = failed.saturating_add(1);
                warn!(error = &error as &dyn std::error::Error, "could not keep the webhook certificate, trying again");
                RETRY.after(failed)
            }
            Err(_) => {
                failed = failed.saturating_add(1);
                warn!(limit = ?PASS, "keeping the webhook certificate took too long, trying again");
                RETRY.after(failed)
            }
        };
        let next = async {
            if failed == 0 {
                tokio::select! {
                    () = sleep(look) => {}
                    Some(()) = bell.next() => {}
                }
            } else {
                sleep(look).await;
            }
            sleep(SPACING.after(busy + 1)).await;
            // Everything that rang until now is seen by the next pass.
            while bell.next().now_or_never().flatten().is_some() {}
        };
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            () = next => {}
        }
    }
}

fn check(names: &[String]) -> Result<(), Error> {
    if names.is_empty() {
        return Err(Error::NoNames);
    }
    for name in names {
        if name.parse::<IpAddr>().is_err() && DnsName::try_from(name.as_str()).is_err() {
            return Err(Error::Name(name.clone()));
        }
    }
    Ok(())
}

/// Rings when the Secret or a configuration changes, appears or goes. Metadata only: keys need
/// not come over the wire for that.
fn bell(client: &Client, own: &Own) -> impl Stream<Item = ()> + use<> {
    let Own { namespace, secret, validating, mutating, names: _, lives: _ } = own;
    let mut bells = SelectAll::new();
    bells.push(rings(Api::<PartialObjectMeta<Secret>>::namespaced(client.clone(), namespace), secret).boxed());
    for name in validating {
        bells.push(rings(Api::<PartialObjectMeta<ValidatingWebhookConfiguration>>::all(client.clone()), name).boxed());
    }
    for name in mutating {
        bells.push(rings(Api::<PartialObjectMeta<MutatingWebhookConfiguration>>::all(client.clone()), name).boxed());
    }
    bells
}

fn rings<K>(api: Api<K>, name: &str) -> impl Stream<Item = ()> + Send + use<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let name = name.to_owned();
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watcher(api, only).default_backoff().filter_map(move |event| {
        let rang = match event {
            Ok(watcher::Event::Init) => None,
            Ok(_) => Some(()),
            Err(error) => {
                warn!(name, error = &error as &dyn std::error::Error, "watch failed, trying again");
                None
            }
        };
        std::future::ready(rang)
    })
}

/// How a pass ended.
struct Pass {
    /// Something was written.
    wrote: bool,
    /// A certificate is served that every configuration trusts.
    in_place: bool,
    /// When there is something to do next, if nobody rings.
    look: Duration,
}

struct Keeper {
    own: Own,
    wanted: Wanted,
    secrets: Api<Secret>,
    validating: Api<ValidatingWebhookConfiguration>,
    mutating: Api<MutatingWebhookConfiguration>,
    serving: Arc<Serving>,
    metrics: Arc<Metrics>,
    /// The bundle that stands in every configuration, and since when we know. On the process's
    /// own clock, which nobody sets.
    published: Option<(String, Instant)>,
    /// What we serve.
    loaded: Option<Leaf>,
    /// Configurations that were missing at the last pass, to say so once.
    missing: Vec<String>,
}

impl Keeper {
    fn new(client: Client, own: Own, serving: Arc<Serving>, metrics: Arc<Metrics>) -> Self {
        Self {
            wanted: Wanted { names: own.names.clone(), lives: own.lives },
            secrets: Api::namespaced(client.clone(), &own.namespace),
            validating: Api::all(client.clone()),
            mutating: Api::all(client),
            own,
            serving,
            metrics,
            published: None,
            loaded: None,
            missing: Vec::new(),
        }
    }

    /// Reads the configurations, then the Secret (the order matters, see above), brings the
    /// Secret up to date, then the configurations, then what is served.
    async fn pass(&mut self) -> Result<Pass, PassError> {
        let now = Timestamp::now();
        let validating = read(&self.validating, &self.own.validating).await?;
        let mutating = read(&self.mutating, &self.own.mutating).await?;
        let complete = self.complete(&validating, &mutating);
        let secret = self.read_secret().await?;
        let found = secret.as_ref().and_then(|secret| secret.data.as_ref()).map(Stored::read).unwrap_or_default();

        let in_all = |bundle: &str| {
            complete
                && validating.iter().all(|configuration| publish::patch(configuration, bundle).is_none())
                && mutating.iter().all(|configuration| publish::patch(configuration, bundle).is_none())
        };
        let bundle = found.bundle_pem();
        self.stands(&bundle, in_all(&bundle));
        let step = plan::plan(&found, &self.wanted, self.published_for(), now);
        if let Step::Keep(look) = step {
            let published = self.published_for().is_some();
            let wrote = !published && self.publish(&validating, &mutating, &bundle).await?;
            if !published && complete {
                self.stands(&bundle, true);
            }
            let (in_place, wait) = self.load(&found, now);
            let look = Duration::try_from(look.duration_since(now)).unwrap_or_default();
            // Replicas that all wake at the moment a renewal is due would race for it.
            let look = look + jittered(look / 100);
            return Ok(Pass { wrote, in_place, look: wait.map_or(look, |wait| wait.min(look)) });
        }
        let then = step.take(&found, &self.wanted, now)?;
        self.write_secret(secret, &then).await?;
        info!(?step, secret = self.own.secret, "webhook certificates written");
        // Configurations may have changed meanwhile: publish from a fresh look.
        Ok(Pass { wrote: true, in_place: false, look: Duration::ZERO })
    }

    /// Remembers since when this bundle stands everywhere.
    fn stands(&mut self, bundle: &str, everywhere: bool) {
        let since = self.published.take().filter(|(known, _)| known == bundle);
        self.published = everywhere.then(|| since.unwrap_or_else(|| (bundle.to_owned(), Instant::now())));
    }

    fn published_for(&self) -> Option<Duration> {
        self.published.as_ref().map(|(_, since)| since.elapsed())
    }

    /// Whether every configuration is there. Says so when one is not, once.
    fn complete(&mut self, validating: &[ValidatingWebhookConfiguration], mutating: &[MutatingWebhookConfiguration]) -> bool {
        let missing: Vec<_> = [
            absent("ValidatingWebhookConfiguration", &self.own.validating, validating),
            absent("MutatingWebhookConfiguration", &self.own.mutating, mutating),
        ]
        .concat();
        if missing != self.missing {
            match missing.as_slice() {
                [] => info!("every webhook configuration is there"),
                missing => warn!(?missing, "webhook configurations are missing; waiting for them"),
            }
        }
        self.missing = missing;
        self.missing.is_empty()
    }

    async fn publish(
        &self,
        validating: &[ValidatingWebhookConfiguration],
        mutating: &[MutatingWebhookConfiguration],
        bundle: &str,
    ) -> Result<bool, PassError> {
        let mut wrote = false;
        for configuration in validating {
            wrote |= self.publish_in(&self.validating, configuration, bundle).await?;
        }
        for configuration in mutating {
            wrote |= self.publish_in(&self.mutating, configuration, bundle).await?;
        }
        Ok(wrote)
    }

    async fn publish_in<K>(&self, api: &Api<K>, configuration: &K, bundle: &str) -> Result<bool, PassError>
    where
        K: Webhooks + Clone + DeserializeOwned + Debug,
    {
        let Some(patch) = publish::patch(configuration, bundle) else { return Ok(false) };
        let name = configuration.meta().name.clone().unwrap_or_default();
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch(&name, &params, &Patch::Json::<()>(patch)).await {
            Ok(_) => {
                self.metrics.wrote(Verb::Patch, K::COUNTED);
                info!(kind = %K::kind(&()), name, "bundle written into the webhook configuration");
                Ok(true)
            }
            Err(source) => Err(PassError::Publish { name, source }),
        }
    }

    /// Serves what is stored, if it may be served yet: whether it is served and trusted
    /// everywhere, and when to look again if not.
    fn load(&mut self, stored: &Stored, now: Timestamp) -> (bool, Option<Duration>) {
        let Some(leaf) = &stored.serving else { return (false, None) };
        let published = self.published_for();
        if self.loaded.as_ref().is_some_and(|loaded| loaded.certificate.is(&leaf.certificate)) {
            return (published.is_some(), None);
        }
        let can_wait = self
            .loaded
            .as_ref()
            .is_some_and(|loaded| loaded.validity.holds(now) && stored.bundle.iter().any(|trusted| loaded.is_signed_by(trusted)));
        let left = published.map(|stood| self.wanted.lives.settle.saturating_sub(stood));
        if can_wait && left != Some(Duration::ZERO) {
            return (false, left);
        }
        info!(not_after = %leaf.validity.not_after, "serving certificate loaded");
        self.metrics.certificate_expires(leaf.validity.not_after);
        self.serving.replace(leaf.certificate.clone());
        self.loaded = Some(leaf.clone());
        (published.is_some(), None)
    }

    async fn read_secret(&self) -> Result<Option<Secret>, PassError> {
        let name = &self.own.secret;
        let failed = |source| PassError::ReadSecret { name: name.clone(), source };
        let secret = self.secrets.get_opt(name).await.map_err(failed)?;
        match secret.as_ref().and_then(|secret| secret.type_.as_deref()) {
            _ if secret.is_none() => Ok(None),
            Some(SECRET_TYPE) => Ok(secret),
            found => Err(PassError::NotOurs { name: name.clone(), found: found.unwrap_or_default().to_owned() }),
        }
    }

    async fn write_secret(&self, found: Option<Secret>, then: &Stored) -> Result<(), PassError> {
        let name = &self.own.secret;
        let failed = |source| PassError::WriteSecret { name: name.clone(), source };
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let data = Some(then.write());
        let verb = if let Some(found) = found {
            // The resource version that was read goes back with it: whoever is second fails.
            self.secrets.replace(name, &params, &Secret { data, ..found }).await.map_err(failed)?;
            Verb::Update
        } else {
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), MANAGER.to_owned())])),
                ..ObjectMeta::default()
            };
            let secret = Secret { metadata, data, type_: Some(SECRET_TYPE.to_owned()), ..Secret::default() };
            self.secrets.create(&params, &secret).await.map_err(failed)?;
            Verb::Create
        };
        self.metrics.wrote(verb, metrics::Resource::Secrets);
        Ok(())
    }
}

async fn read<K: Webhooks + Clone + DeserializeOwned + Debug>(api: &Api<K>, names: &[String]) -> Result<Vec<K>, PassError> {
    let mut found = Vec::new();
    for name in names {
        let failed = |source| PassError::ReadConfiguration { name: name.clone(), source };
        found.extend(api.get_opt(name).await.map_err(failed)?);
    }
    Ok(found)
}

/// Names that were asked for and not found.
fn absent(kind: &str, names: &[String], found: &[impl Webhooks]) -> Vec<String> {
    let is_there = |name: &&String| found.iter().any(|configuration| configuration.meta().name.as_ref() == Some(*name));
    names.iter().filter(|name| !is_there(name)).map(|name| format!("{kind}/{name}")).collect()
}
