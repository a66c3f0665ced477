//! Carries out the steps of a plan, in their order.
//!
//! Guarantees: an object that does not belong to the task, or a Role that does not belong to its
//! scope, by the UID in its owner reference, is never changed and never deleted. The API server
//! itself checks that, in the same request as the write: a JSON Patch `test` before a change, a
//! UID precondition before a deletion. So it holds without reading Secrets, which the controller
//! may not.
//!
//! Every step may be done again after a crash at any point, with the same result.

use std::collections::BTreeMap;
use std::fmt::Debug;

use base64::Engine as _;
use futures::future::{join_all, try_join_all};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{NamespaceResourceScope, Status};
use kube::{Api, Client, Resource, ResourceExt as _};
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tracing::warn;

use super::observe::{self, Facts};
use super::token::{self, TokenError};
use crate::api::{AgentIdentity, AgentTask, Grant, IssuedCredential, SecretKey, TaskScope, names};
use crate::decide::check::{Because, Reason};
use crate::decide::grant::{self, Fill, Object, Step};
use crate::metrics::{self, Metrics, Verb};

const BINDING: &str = "making the RoleBinding";

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The answer is no, and asking again will not change it.
    #[error("{}", .0.message)]
    Refused(Because),
    /// Something failed that may work the next time.
    #[error("{doing}")]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// No token was issued.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// What is to be copied is not there, and may still come.
    #[error("{}", .0.message)]
    Missing(Because),
}

impl ApplyError {
    fn failed(doing: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Failed { doing, source: Box::new(source) }
    }

    /// A fixed word for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Refused(because) | Self::Missing(because) => because.reason.as_str(),
            Self::Failed { .. } => "api",
            Self::Token(_) => "token",
        }
    }
}

/// Writes, and counts what it writes.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    /// The cluster.
    pub client: &'a Client,
    /// Where it is counted.
    pub metrics: &'a Metrics,
}

/// The task for which steps are carried out.
pub struct Work<'a> {
    writer: Writer<'a>,
    /// The Roles that stand.
    roles: &'a Facts,
    task: &'a AgentTask,
    namespace: String,
    owns: String,
    owner: OwnerReference,
}

impl<'a> Work<'a> {
    /// Work for one task.
    #[must_use]
    pub fn new(writer: Writer<'a>, roles: &'a Facts, task: &'a AgentTask) -> Self {
        let owner = owner_reference(task);
        Self {
            writer,
            roles,
            task,
            namespace: task.namespace().unwrap_or_default(),
            owns: names::of_task(&task.name_any(), &owner.uid),
            owner,
        }
    }

    /// Carries out steps in their order and gives back what was issued.
    ///
    /// # Errors
    /// The first [`ApplyError`]; steps after it are not tried.
    pub async fn carry_out(&self, steps: &[Step], now: Timestamp) -> Result<Vec<IssuedCredential>, ApplyError> {
        let mut issued = vec![];
        let mut secret_uid = None;
        let mut steps = steps.iter().peekable();
        while let Some(step) = steps.next() {
            match step {
                Step::EnsureRole(grant) => self.role(grant).await?,
                Step::EnsureServiceAccount => _ = self.service_account().await?,
                Step::RestoreServiceAccount(fill) => {
                    if let Ensured::Made(_) = self.service_account().await?
                        && *fill != Fill::default()
                    {
                        issued = self.fill(fill, &self.secret().await?, now).await?;
                    }
                }
                Step::EnsureBinding(role) => self.binding(role).await?,
                Step::Rebind(role) => self.rebind(role).await?,
                Step::EnsureSecret => secret_uid = Some(self.secret().await?),
                // INVARIANT: a plan puts EnsureSecret before Fill; without it there is
                // nothing to bind tokens to, and nothing is issued.
                Step::Fill(fill) => match &secret_uid {
                    Some(uid) => issued = self.fill(fill, uid, now).await?,
                    None => warn!("a plan fills a secret that it did not ensure"),
                },
                Step::Take(Object::Binding) => self.take::<RoleBinding>("taking the RoleBinding back").await?,
                // The binding is gone: what is left can go in any order.
                Step::Take(first) => {
                    let mut rest = vec![*first];
                    while let Some(Step::Take(next)) = steps.peek() {
                        rest.push(*next);
                        steps.next();
                    }
                    join_all(rest.into_iter().map(|object| self.take_one(object)))
                        .await
                        .into_iter()
                        .collect::<Result<(), _>>()?;
                }
                Step::Release => self.release().await?,
                Step::Forget => self.forget().await?,
            }
        }
        Ok(issued)
    }

    fn meta(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.owns.clone()),
            namespace: Some(self.namespace.clone()),
            owner_references: Some(vec![self.owner.clone()]),
            labels: Some(labels([(names::TASK_LABEL, self.task.name_any())])),
            ..ObjectMeta::default()
        }
    }

    /// The Role of the scope, which tasks share: most find it as it should be.
    async fn role(&self, grant: &Grant) -> Result<(), ApplyError> {
        let scope = &self.task.spec.scope;
        if self.roles.hold(&self.namespace, scope, grant) {
            return Ok(());
        }
        ensure_role(self.writer, &self.namespace, scope, grant).await
    }

    async fn service_account(&self) -> Result<Ensured, ApplyError> {
        let account =
            ServiceAccount { metadata: self.meta(), automount_service_account_token: Some(false), ..ServiceAccount::default() };
        let keep = [json!({"op": "add", "path": "/automountServiceAccountToken", "value": false})];
        self.writer.ensure(&account, &self.owner, &keep, "making the ServiceAccount").await
    }

    async fn binding(&self, role: &str) -> Result<(), ApplyError> {
        match self.bind(role).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => self.rebind(role).await,
            bound => bound.map_err(|error| refusal(error, &self.owns, BINDING)),
        }
    }

    /// Takes back what binds the task otherwise, and binds it.
    async fn rebind(&self, role: &str) -> Result<(), ApplyError> {
        let api: Api<RoleBinding> = Api::namespaced(self.writer.client.clone(), &self.namespace);
        if let Some(found) = api.get_opt(&self.owns).await.map_err(ApplyError::failed(BINDING))? {
            if !belongs(&found.metadata, &self.owner.uid) {
                return Err(ApplyError::Refused(taken(&self.owns, "it has another owner")));
            }
            if observe::binding_digest(&found) == observe::binding_to(role) {
                return Ok(());
            }
            self.writer.delete(&api, &self.owns, found.metadata.uid, BINDING).await?;
        }
        self.bind(role).await.map_err(|error| refusal(error, &self.owns, BINDING))
    }

    /// Makes the RoleBinding.
    async fn bind(&self, role: &str) -> Result<(), kube::Error> {
        let subject = Subject {
            kind: "ServiceAccount".into(),
            name: self.owns.clone(),
            namespace: Some(self.namespace.clone()),
            ..Subject::default()
        };
        let role_ref =
            RoleRef { api_group: Some("rbac.authorization.k8s.io".into()), kind: "Role".into(), name: role.to_owned() };
        let binding = RoleBinding { metadata: self.meta(), role_ref, subjects: Some(vec![subject]) };
        self.writer.create(&binding).await?;
        Ok(())
    }

    /// The Secret, and its UID.
    async fn secret(&self) -> Result<String, ApplyError> {
        let secret = Secret { metadata: self.meta(), type_: Some(names::SECRET_TYPE.into()), ..Secret::default() };
        Ok(self.writer.ensure(&secret, &self.owner, &[], "making the Secret").await?.uid())
    }

    async fn fill(&self, fill: &Fill, secret_uid: &str, now: Timestamp) -> Result<Vec<IssuedCredential>, ApplyError> {
        let minted = try_join_all(fill.mint.iter().map(|mint| async move {
            let minted =
                token::mint(self.writer.client, &self.namespace, &self.owns, &self.task.spec.agent, secret_uid, mint).await?;
            self.writer.metrics.minted();
            self.writer.metrics.wrote(Verb::Create, metrics::Resource::ServiceAccountTokens);
            Ok::<_, ApplyError>((mint, minted))
        }));
        let copied =
            try_join_all(fill.copy.iter().map(|(name, key)| async move { Ok::<_, ApplyError>((name, self.copy(key).await?)) }));
        let (minted, copied) = futures::future::try_join(minted, copied).await?;
        let mut data: BTreeMap<&str, SecretString> = BTreeMap::new();
        let mut issued = vec![];
        for (mint, minted) in minted {
            data.insert(&mint.name, encode(minted.token.expose_secret().as_bytes()));
            issued.push(IssuedCredential {
                name: mint.name.clone(),
                audience: mint.audience.clone(),
                token_id: minted.id,
                issued_at: Time(now),
                expires_at: Some(Time(minted.expires_at)),
            });
        }
        for (name, value) in copied {
            data.insert(name, encode(value.expose_secret()));
            issued.push(IssuedCredential {
                name: name.clone(),
                audience: None,
                token_id: None,
                issued_at: Time(now),
                expires_at: None,
            });
        }
        let data: BTreeMap<&str, &str> = data.iter().map(|(name, value)| (*name, value.expose_secret())).collect();
        let write = json!({"op": "add", "path": "/data", "value": data});
        self.writer
            .change::<Secret>(&self.namespace, &self.owns, &self.owner, &[write])
            .await
            .map_err(|error| refusal(error, &self.owns, "writing the credentials"))?;
        Ok(issued)
    }

    /// The value of one key of a Secret that a ClusterAgentPolicy lets be copied.
    async fn copy(&self, key: &SecretKey) -> Result<SecretBox<Vec<u8>>, ApplyError> {
        let api: Api<Secret> = Api::namespaced(self.writer.client.clone(), &self.namespace);
        let missing = |what: String| ApplyError::Missing(Because::new(Reason::SecretKeyNotFound, what));
        let mut secret = api.get(&key.secret_name).await.map_err(|error| match &error {
            kube::Error::Api(status) if status.is_not_found() => missing(format!(
                "there is no Secret `{}` in namespace `{}` to copy key `{}` from; create it",
                key.secret_name, self.namespace, key.key
            )),
            kube::Error::Api(status) if status.is_forbidden() => ApplyError::Refused(Because::new(
                Reason::SecretKeyNotAllowed,
                format!(
                    "Mandate may not read Secret `{}`; a cluster administrator can name it in secretKeys of the installation",
                    key.secret_name
                ),
            )),
            _ => ApplyError::failed("reading the Secret to copy from")(error),
        })?;
        let value = secret.data.as_mut().and_then(|data| data.remove(&key.key));
        value.map(|bytes| SecretBox::new(Box::new(bytes.0))).ok_or_else(|| {
            missing(format!("Secret `{}` in namespace `{}` has no key `{}`; add it", key.secret_name, self.namespace, key.key))
        })
    }

    async fn take_one(&self, object: Object) -> Result<(), ApplyError> {
        match object {
            Object::Binding => self.take::<RoleBinding>("taking the RoleBinding back").await,
            Object::Role => self.take::<Role>("taking the Role back").await,
            Object::ServiceAccount => self.take::<ServiceAccount>("taking the ServiceAccount back").await,
            Object::Secret => self.take_secret().await,
        }
    }

    /// Deletes an object of the task's name, where it is the task's.
    async fn take<K>(&self, doing: &'static str) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.writer.take::<K>(&self.namespace, &self.owns, &self.owner.uid, doing).await
    }

    /// The Secret may not be read; a change of nothing, guarded by its owner, tells its UID.
    async fn take_secret(&self) -> Result<(), ApplyError> {
        const DOING: &str = "taking the Secret back";
        let api: Api<Secret> = Api::namespaced(self.writer.client.clone(), &self.namespace);
        match self.writer.change::<Secret>(&self.namespace, &self.owns, &self.owner, &[]).await {
            Ok(uid) => self.writer.delete(&api, &self.owns, Some(uid), DOING).await,
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(kube::Error::Api(status)) if status.is_invalid() || is_by_policy(&status) => {
                warn!(
                    namespace = self.namespace,
                    name = self.owns,
                    "a secret with the name of a task's is not the task's, and stays"
                );
                Ok(())
            }
            Err(error) => Err(ApplyError::failed(DOING)(error)),
        }
    }

    /// Takes the finalizer off the task.
    async fn release(&self) -> Result<(), ApplyError> {
        let Some(place) = self.task.finalizers().iter().position(|finalizer| finalizer == names::FINALIZER) else {
            return Ok(());
        };
        let path = format!("/metadata/finalizers/{place}");
        let patch = [json!({"op": "test", "path": path, "value": names::FINALIZER}), json!({"op": "remove", "path": path})];
        let api: Api<AgentTask> = Api::namespaced(self.writer.client.clone(), &self.namespace);
        match api.patch_metadata(&self.task.name_any(), &params(), &json_patch::<AgentTask>(&patch)).await {
            Ok(_) => {
                self.writer.metrics.wrote(Verb::Patch, metrics::Resource::AgentTasks);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(ApplyError::failed("releasing the task")(error)),
        }
    }

    async fn forget(&self) -> Result<(), ApplyError> {
        let api: Api<AgentTask> = Api::namespaced(self.writer.client.clone(), &self.namespace);
        self.writer.delete(&api, &self.task.name_any(), self.task.uid(), "deleting the finished task").await
    }
}

/// Makes sure the ServiceAccount of an identity stands.
///
/// # Errors
/// [`ApplyError`].
pub async fn ensure_identity(writer: Writer<'_>, identity: &AgentIdentity) -> Result<String, ApplyError> {
    let owner = owner_reference(identity);
    let name = names::of_agent(&identity.name_any());
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: identity.namespace(),
            owner_references: Some(vec![owner.clone()]),
            labels: Some(labels([("mandate.dev/agent", identity.name_any())])),
            ..ObjectMeta::default()
        },
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    };
    let keep = [json!({"op": "add", "path": "/automountServiceAccountToken", "value": false})];
    writer.ensure(&account, &owner, &keep, "making the ServiceAccount").await?;
    Ok(name)
}

/// Makes sure that the Role stands which holds a grant of a scope.
///
/// # Errors
/// [`ApplyError`].
pub async fn ensure_role(writer: Writer<'_>, namespace: &str, scope: &str, grant: &Grant) -> Result<(), ApplyError> {
    let owner = owned_by::<TaskScope>(scope.to_owned(), grant.scope_uid.clone());
    let rules: Vec<PolicyRule> = grant.rules.iter().map(PolicyRule::from).collect();
    let labels = labels([(names::SCOPE_LABEL, scope.to_owned())]);
    // By its labels it is seen, by the watches here and by the policies on what is bound.
    let keep = [
        json!({"op": "add", "path": "/rules", "value": rules}),
        json!({"op": "add", "path": "/metadata/labels", "value": labels}),
    ];
    let role = Role {
        metadata: ObjectMeta {
            name: grant::name_of_role(scope, grant),
            namespace: Some(namespace.to_owned()),
            owner_references: Some(vec![owner.clone()]),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        rules: Some(rules),
    };
    writer.ensure(&role, &owner, &keep, "making the Role").await?;
    Ok(())
}

/// Deletes a Role, where it is of the scope with this UID.
///
/// # Errors
/// [`ApplyError`].
pub async fn take_role(writer: Writer<'_>, namespace: &str, name: &str, scope_uid: &str) -> Result<(), ApplyError> {
    writer.take::<Role>(namespace, name, scope_uid, "taking a Role of a scope back").await
}

fn labels<const N: usize>(own: [(&str, String); N]) -> BTreeMap<String, String> {
    let managed = (names::MANAGED_BY.to_owned(), names::MANAGER.to_owned());
    own.into_iter().map(|(key, value)| (key.to_owned(), value)).chain([managed]).collect()
}

/// The owner that makes an object ours. It does not block the owner's deletion: that would
/// need a right on finalizers where the API server checks for it, and buys nothing.
fn owner_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    owned_by::<K>(owner.meta().name.clone().unwrap_or_default(), owner.meta().uid.clone().unwrap_or_default())
}

fn owned_by<K: Resource<DynamicType = ()>>(name: String, uid: String) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name,
        uid,
        controller: Some(true),
        block_owner_deletion: None,
    }
}

fn belongs(meta: &ObjectMeta, owner_uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|reference| reference.uid == owner_uid && reference.controller == Some(true))
}

fn encode(bytes: &[u8]) -> SecretString {
    base64::engine::general_purpose::STANDARD.encode(bytes).into()
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(names::MANAGER.to_owned()), ..PatchParams::default() }
}

/// A JSON Patch. The operations are our own text, so that they parse is an invariant; where
/// it did not hold, nothing would be changed.
fn json_patch<K: Serialize>(operations: &[Value]) -> Patch<K> {
    Patch::Json(serde_json::from_value(Value::Array(operations.to_vec())).unwrap_or_default())
}

/// An object that stands now, by its UID.
enum Ensured {
    /// It was not there.
    Made(String),
    /// It was there, and is ours.
    Found(String),
}

impl Ensured {
    fn uid(self) -> String {
        match self {
            Self::Made(uid) | Self::Found(uid) => uid,
        }
    }
}

impl Writer<'_> {
    fn wrote<K: Resource<DynamicType = ()>>(&self, verb: Verb) {
        self.metrics.wrote(verb, metrics::Resource::of(&K::plural(&())));
    }

    /// Changes an object only if its first owner is ours; the API server checks both in one.
    /// Gives back its UID.
    async fn change<K>(
        &self,
        namespace: &str,
        name: &str,
        owner: &OwnerReference,
        operations: &[Value],
    ) -> Result<String, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let mut guarded = vec![json!({"op": "test", "path": "/metadata/ownerReferences/0/uid", "value": owner.uid})];
        guarded.extend_from_slice(operations);
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let changed = api.patch_metadata(name, &params(), &json_patch::<K>(&guarded)).await?;
        self.wrote::<K>(Verb::Patch);
        Ok(changed.metadata.uid.unwrap_or_default())
    }

    /// Makes an object, or where one stands already that is ours, brings it to what it should
    /// be.
    async fn ensure<K>(
        &self,
        object: &K,
        owner: &OwnerReference,
        keep: &[Value],
        doing: &'static str,
    ) -> Result<Ensured, ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        match self.create(object).await {
            Ok(made) => Ok(Ensured::Made(made.uid().unwrap_or_default())),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let found = self.change::<K>(&namespace, &name, owner, keep).await;
                found.map(Ensured::Found).map_err(|error| refusal(error, &name, doing))
            }
            Err(error) => Err(refusal(error, &name, doing)),
        }
    }

    async fn create<K>(&self, object: &K) -> Result<K, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        let create = PostParams { field_manager: Some(names::MANAGER.to_owned()), ..PostParams::default() };
        let made = api.create(&create, object).await?;
        self.wrote::<K>(Verb::Create);
        Ok(made)
    }

    /// Deletes an object of this name, where it belongs to the owner with this UID.
    async fn take<K>(&self, namespace: &str, name: &str, owner_uid: &str, doing: &'static str) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let Some(found) = api.get_metadata_opt(name).await.map_err(ApplyError::failed(doing))? else { return Ok(()) };
        if !belongs(&found.metadata, owner_uid) {
            warn!(namespace, name, "an object with a name of Mandate's has another owner, and stays");
            return Ok(());
        }
        self.delete(&api, name, found.metadata.uid, doing).await
    }

    async fn delete<K>(&self, api: &Api<K>, name: &str, uid: Option<String>, doing: &'static str) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let only_this = Preconditions { uid, resource_version: None };
        match api.delete(name, &DeleteParams::background().preconditions(only_this)).await {
            Ok(_) => {
                self.wrote::<K>(Verb::Delete);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            Err(error) => Err(ApplyError::failed(doing)(error)),
        }
    }
}

/// What a failure means: a refusal of the API server that stays one, or something to try
/// again.
fn refusal(error: kube::Error, name: &str, doing: &'static str) -> ApplyError {
    let kube::Error::Api(status) = &error else { return ApplyError::failed(doing)(error) };
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    if causes.iter().any(|cause| cause.reason == "NamespaceTerminating") {
        return ApplyError::failed(doing)(error);
    }
    let because = if status.is_forbidden() && status.message.contains("attempting to grant RBAC permissions not currently held") {
        // The API server lists what is missing, one rule a line, after the first line.
        let missing: Vec<&str> = status.message.lines().skip(1).map(str::trim).collect();
        let message = format!(
            "the scope is beyond the cluster's ceiling: Mandate's controller does not hold {}; a cluster administrator can add it to ceiling.rules",
            missing.join(", ")
        );
        Because::new(Reason::BeyondCeiling, message)
    } else if status.is_forbidden()
        && [names::ROLES_POLICY, names::BOUND_ROLES_POLICY].iter().any(|policy| status.message.contains(policy))
    {
        let said = status.message.split_once("denied request: ").map_or(status.message.as_str(), |(_, said)| said);
        Because::new(Reason::BeyondCeiling, format!("the scope is {said}"))
    } else if status.is_forbidden() && !is_by_policy(status) {
        let message =
            format!("Mandate may not work in this namespace ({}); the platform can add it to guardedNamespaces", status.message);
        Because::new(Reason::NamespaceNotGuarded, message)
    } else if status.is_invalid() || status.is_forbidden() {
        taken(name, &status.message)
    } else {
        return ApplyError::failed(doing)(error);
    };
    ApplyError::Refused(because)
}

/// An object of somebody else stands there.
fn taken(name: &str, said: &str) -> Because {
    let message = format!(
        "an object called `{name}` stands there that is not Mandate's, and is left alone ({said}); delete it and create a new task"
    );
    Because::new(Reason::NameTaken, message)
}

/// Whether a ValidatingAdmissionPolicy said no: to the controller they say that an object is
/// not one of its own.
fn is_by_policy(status: &Status) -> bool {
    status.is_forbidden() && status.message.contains("ValidatingAdmissionPolicy")
}
