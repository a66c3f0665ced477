//! The words in which the tests are written: a namespace with an agent in it, the people
//! around it, and what one can ask of a token.
#![allow(dead_code, reason = "words for tests to come; each is small")]

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use axum::http::Request;
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use mandate::api::{AgentIdentity, AgentTask, AgentTaskStatus, Phase, TaskScope};
use mandate::decide::grant;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::bed::mandate::{self as installed, Mandate, NAMESPACE};
use crate::bed::{self, Bed};

/// How long anything may take that has no promise of its own.
pub const LIMIT: Duration = Duration::from_secs(30);
/// What tasks may be given at most on every bed here: the ceiling of the examples.
pub const CEILING: &str = include_str!("../../examples/manifests/ceiling.yaml");
/// Guarded namespaces of the shared bed that are handed out to tests.
const POOL: usize = 96;
/// The namespace of the shared bed in which a `secretKey` may copy from [`SECRET`].
pub const VAULT: &str = "vault";
/// The namespace of the shared bed in which what a `secretKey` may copy from is missing.
pub const ARCHIVE: &str = "archive";
/// The Secret that the installation lets be copied.
pub const SECRET: &str = "crm-api";

/// The custom resource whose templates the webhook is asked about on the shared bed.
pub const FLEETS: &str = "test.mandate.example/fleets";

/// What a test gives back. An error ends it there and then with a panic, which says at which
/// line and leaves the bed's logs.
pub type Outcome = Result<(), Failed>;

/// Never made: see [`Outcome`].
#[derive(Debug)]
pub struct Failed;

impl<E: Display> From<E> for Failed {
    #[track_caller]
    fn from(error: E) -> Self {
        panic!("{error:#}")
    }
}

/// Looks until something is found, for as long as anything may take.
pub async fn until<T, F>(what: &str, look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Option<T>>,
{
    bed::wait(what, LIMIT, look).await
}

/// The one Mandate on the shared bed.
pub async fn shared() -> Result<&'static Mandate<'static>> {
    static SHARED: OnceCell<Mandate<'static>> = OnceCell::const_new();
    SHARED
        .get_or_try_init(|| async {
            let pool: Vec<String> = (0..POOL).map(pooled).collect();
            // The examples are written for `finance`.
            let guarded: Vec<&str> = pool.iter().map(String::as_str).chain([VAULT, ARCHIVE, "finance"]).collect();
            let copied = [VAULT, ARCHIVE].map(|namespace| format!("{namespace}/{SECRET}"));
            let mut flags: Vec<&str> = copied.iter().flat_map(|secret| ["--secret-key", secret]).collect();
            flags.extend(["--workload", FLEETS]);
            Mandate::install_as(bed::shared().await?, &guarded, CEILING, &flags).await
        })
        .await
}

fn pooled(number: usize) -> String {
    format!("t{number:02}")
}

/// One guarded namespace: two ConfigMaps, an agent `bot` once it is asked for, and alice of
/// the group `team`, who may ask for tasks, use every scope, and read the ConfigMap `ledger`.
pub struct Place<'a> {
    pub bed: &'a Bed,
    pub admin: Client,
    pub namespace: String,
}

impl Place<'static> {
    /// A namespace of the shared bed that no other test has.
    pub async fn fresh() -> Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        ensure!(number < POOL, "more tests than namespaces: raise POOL");
        Self::named(&pooled(number)).await
    }

    /// A certain namespace of the shared bed.
    pub async fn named(namespace: &str) -> Result<Self> {
        shared().await?;
        Place::on(bed::shared().await?, namespace).await
    }
}

impl<'a> Place<'a> {
    /// A guarded namespace of any bed.
    pub async fn on(bed: &'a Bed, namespace: &str) -> Result<Self> {
        let place = Self { bed, admin: bed.admin(), namespace: namespace.to_owned() };
        for name in ["ledger", "report"] {
            place.put("v1", "ConfigMap", name, json!({"data": {"name": name}})).await?;
        }
        let asks = json!([
            {"apiGroups": ["mandate.dev"], "resources": ["agenttasks"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
            {"apiGroups": ["mandate.dev"], "resources": ["taskscopes"], "verbs": ["use"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get", "patch", "delete"]},
            rule("get", "configmaps", &["ledger"]),
        ]);
        place.allow("alice", &asks).await?;
        Ok(place)
    }

    /// Applies an object as the administrator; `rest` is everything but its type and name.
    pub async fn put(&self, api_version: &str, kind: &str, name: &str, rest: Value) -> Result<DynamicObject> {
        let mut object =
            json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": self.namespace}});
        merge(&mut object, rest);
        let object: DynamicObject = serde_json::from_value(object)?;
        installed::apply_one(&self.admin, &object).await.with_context(|| format!("apply {kind} {name}"))
    }

    /// Gives a user rights in the namespace, and waits until they hold.
    pub async fn allow(&self, user: &str, rules: &Value) -> Result<()> {
        let subject = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]);
        self.bind(&format!("of-{user}"), subject, rules).await?;
        for rule in rules.as_array().context("a list of rules")? {
            self.until_allowed(user, rule, true).await?;
        }
        Ok(())
    }

    /// A Role with these rules and its binding, both under one name.
    pub async fn bind(&self, name: &str, subjects: Value, rules: &Value) -> Result<()> {
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name});
        self.put("rbac.authorization.k8s.io/v1", "Role", name, json!({"rules": rules})).await?;
        self.put("rbac.authorization.k8s.io/v1", "RoleBinding", name, json!({"roleRef": role, "subjects": subjects})).await?;
        Ok(())
    }

    /// Waits until the API server's authorization says the same of a user and a rule.
    pub async fn until_allowed(&self, user: &str, rule: &Value, wanted: bool) -> Result<()> {
        let text = |list: &str| rule[list][0].as_str().map(str::to_owned);
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.to_owned()),
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(self.namespace.clone()),
                    group: text("apiGroups"),
                    resource: text("resources"),
                    name: text("resourceNames"),
                    verb: text("verbs"),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.admin.clone());
        until(&format!("`{user}` to be allowed {rule}: {wanted}"), || async {
            let answer = reviews.create(&PostParams::default(), &review).await.ok()?;
            (answer.status?.allowed == wanted).then_some(())
        })
        .await
    }

    /// The agent `bot`, ready; `spec` is merged into what it has by default.
    pub async fn agent(&self, spec: Value) -> Result<()> {
        self.put_agent("bot", spec).await?;
        self.agent_ready("bot").await
    }

    pub async fn put_agent(&self, name: &str, spec: Value) -> Result<()> {
        let mut whole = json!({"owner": {"team": "team", "contact": "team@example.com"}, "purpose": "Is tested"});
        merge(&mut whole, spec);
        self.put("mandate.dev/v1alpha1", "AgentIdentity", name, json!({"spec": whole})).await?;
        Ok(())
    }

    pub async fn agent_ready(&self, name: &str) -> Result<()> {
        let agents: Api<AgentIdentity> = self.api();
        until(&format!("agent {name} in {} to be Ready", self.namespace), || async {
            let status = agents.get(name).await.ok()?.status?;
            status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(())
        })
        .await
    }

    /// A scope; `spec` is merged into what it has by default.
    pub async fn scope(&self, name: &str, spec: Value) -> Result<()> {
        let mut whole = json!({"intent": "Is tested", "maxTTL": "1h"});
        merge(&mut whole, spec);
        self.put("mandate.dev/v1alpha1", "TaskScope", name, json!({"spec": whole})).await?;
        Ok(())
    }

    /// A scope that lets the ConfigMap `ledger` be read.
    pub async fn scope_to_read(&self, name: &str) -> Result<()> {
        self.scope(name, json!({"kubernetes": {"rules": [rule("get", "configmaps", &["ledger"])]}})).await
    }

    /// Alice asks for a task of `bot`; `spec` is merged into what it has by default.
    pub async fn ask(&self, name: &str, scope: &str, spec: Value) -> Result<AgentTask, kube::Error> {
        self.ask_as(&self.alice(), name, scope, spec, false).await
    }

    pub async fn ask_as(
        &self,
        who: &Client,
        name: &str,
        scope: &str,
        spec: Value,
        dry_run: bool,
    ) -> Result<AgentTask, kube::Error> {
        let mut whole = json!({"agent": "bot", "scope": scope, "objective": "Is tested", "ttl": "10m"});
        merge(&mut whole, spec);
        let task = json!({"metadata": {"name": name}, "spec": whole});
        let task: AgentTask = serde_json::from_value(task).map_err(kube::Error::SerdeError)?;
        let api: Api<AgentTask> = Api::namespaced(who.clone(), &self.namespace);
        api.create(&PostParams { dry_run, ..PostParams::default() }, &task).await
    }

    pub fn alice(&self) -> Client {
        self.bed.user("alice", &["team"]).expect("the bed makes clients for users")
    }

    /// Alice asks for a task, and it gets its authority.
    pub async fn start(&self, name: &str, scope: &str, spec: Value) -> Result<AgentTask> {
        self.ask(name, scope, spec).await.with_context(|| format!("ask for task {name}"))?;
        self.active(name).await
    }

    pub async fn active(&self, name: &str) -> Result<AgentTask> {
        self.in_phase(name, Phase::Active).await
    }

    /// Waits until a task is in a phase.
    pub async fn in_phase(&self, name: &str, wanted: Phase) -> Result<AgentTask> {
        self.task_when(name, &format!("to be {wanted:?}"), |task| status(task).phase == Some(wanted)).await
    }

    /// Waits until a task stands with a reason, and shows how it stands where it never does.
    pub async fn with_reason(&self, name: &str, wanted: &str) -> Result<AgentTask> {
        self.task_when(name, &format!("to have reason {wanted}"), |task| status(task).reason.as_deref() == Some(wanted)).await
    }

    pub async fn task_when(&self, name: &str, what: &str, is: impl Fn(&AgentTask) -> bool) -> Result<AgentTask> {
        let tasks: Api<AgentTask> = self.api();
        let what = format!("task {name} in {} {what}", self.namespace);
        match until(&what, || async { tasks.get_opt(name).await.ok().flatten().filter(&is) }).await {
            Ok(task) => Ok(task),
            Err(error) => bail!("{error}; it is {:#?}", tasks.get_opt(name).await?.map(|task| task.status)),
        }
    }

    /// Sets `spec.end` as alice.
    pub async fn end(&self, name: &str, reason: &str) -> Result<()> {
        let tasks: Api<AgentTask> = Api::namespaced(self.alice(), &self.namespace);
        let end = Patch::Merge(json!({"spec": {"end": {"reason": reason}}}));
        tasks.patch(name, &PatchParams::default(), &end).await.with_context(|| format!("end task {name}"))?;
        Ok(())
    }

    /// Merges a change into an object of the namespace, as the administrator.
    pub async fn change<K>(&self, name: &str, change: Value) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let changed = self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
        changed.with_context(|| format!("change {} {name}", K::kind(&())))
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    /// A credential out of a task's Secret, as a pod of the task would read it.
    pub async fn credential(&self, task: &AgentTask, name: &str) -> Result<String> {
        let secret = status(task).secret.context("a task with a Secret")?;
        let secret: Secret = self.api().get(&secret).await.context("read the task's Secret")?;
        let value = secret.data.unwrap_or_default().remove(name).with_context(|| format!("no credential `{name}`"))?;
        Ok(String::from_utf8(value.0)?)
    }

    /// Whoever holds the task's token for the API server.
    pub async fn bearer(&self, task: &AgentTask) -> Result<Bearer> {
        let token = self.credential(task, "kubernetes").await?;
        Ok(Bearer { client: self.bed.token_client(&token)?, namespace: self.namespace.clone(), token })
    }

    /// The ServiceAccounts, RoleBindings and Secrets that tasks own here, and Roles such as they
    /// had before they shared those of their scopes, as `Kind/name`.
    pub async fn owned(&self) -> Result<Vec<String>> {
        let mut all = vec![];
        self.owned_of::<ServiceAccount>(&mut all).await?;
        self.owned_of::<Role>(&mut all).await?;
        self.owned_of::<RoleBinding>(&mut all).await?;
        self.owned_of::<Secret>(&mut all).await?;
        Ok(all)
    }

    async fn owned_of<K>(&self, all: &mut Vec<String>) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let of_tasks = ListParams::default().labels("app.kubernetes.io/managed-by=mandate,!mandate.dev/agent,!mandate.dev/scope");
        let found = self.api::<K>().list_metadata(&of_tasks).await?;
        all.extend(found.iter().map(|object| format!("{}/{}", K::kind(&()), object.name_any())));
        Ok(())
    }

    /// The Roles of the scopes here.
    pub async fn roles(&self) -> Result<BTreeSet<String>> {
        let of_scopes = ListParams::default().labels("app.kubernetes.io/managed-by=mandate,mandate.dev/scope");
        Ok(self.api::<Role>().list_metadata(&of_scopes).await?.iter().map(|role| role.name_any()).collect())
    }

    /// Waits until these Roles of scopes stand here and no others.
    pub async fn roles_are<const N: usize>(&self, wanted: [&str; N]) -> Result<()> {
        let wanted: BTreeSet<String> = wanted.map(str::to_owned).into();
        let look = || async { (self.roles().await.ok()? == wanted).then_some(()) };
        match until(&format!("the Roles to be {wanted:?}"), look).await {
            Ok(()) => Ok(()),
            Err(error) => bail!("{error}; they are {:?}", self.roles().await?),
        }
    }

    /// Waits until the Role stands that holds what a scope grants; its name.
    pub async fn role_of_scope(&self, name: &str) -> Result<String> {
        let scope = self.api::<TaskScope>().get(name).await?;
        let role = grant::name_of_role(name, &grant::of_scope(&scope)).context("a scope with rules")?;
        until(&format!("the Role {role}"), || async { self.api::<Role>().get_opt(&role).await.ok()?.map(|_| ()) }).await?;
        Ok(role)
    }

    /// Waits until no task owns anything here.
    pub async fn nothing_left(&self) -> Result<()> {
        match until("nothing to be left of any task", || async { self.owned().await.ok()?.is_empty().then_some(()) }).await {
            Ok(()) => Ok(()),
            Err(error) => bail!("{error}; left in {}: {:?}", self.namespace, self.owned().await?),
        }
    }

    /// The Events about an object of this name, as `reason: note`.
    pub async fn events(&self, name: &str) -> Result<Vec<String>> {
        let all = self.api::<Event>().list(&ListParams::default()).await?;
        let about = all.items.into_iter().filter(|event| event.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(name));
        Ok(about.map(|event| format!("{}: {}", event.reason.unwrap_or_default(), event.note.unwrap_or_default())).collect())
    }

    /// Waits until a request that is tried again and again is refused, for what the webhook
    /// judges by reaches it by a watch; gives back the words of the refusal.
    pub async fn refused<T, F>(&self, what: &str, mut attempt: impl FnMut() -> F) -> Result<kube::core::Status>
    where
        F: Future<Output = Result<T, kube::Error>>,
    {
        until(&format!("{what} to be refused"), || {
            let answer = attempt();
            async move { refusal(answer.await).ok() }
        })
        .await
    }

    /// Path of a resource of the namespace, for [`send`].
    pub fn path(&self, group_version: &str, resource: &str) -> String {
        let root = if group_version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{group_version}") };
        format!("{root}/namespaces/{}/{resource}", self.namespace)
    }
}

/// Whoever holds a token.
pub struct Bearer {
    pub client: Client,
    namespace: String,
    pub token: String,
}

impl Bearer {
    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// HTTP status of reading a ConfigMap.
    pub async fn get(&self, name: &str) -> u16 {
        code(self.config_maps().get(name).await)
    }

    /// HTTP status of changing a ConfigMap.
    pub async fn patch(&self, name: &str) -> u16 {
        let change = Patch::Merge(json!({"data": {"written": "yes"}}));
        code(self.config_maps().patch(name, &PatchParams::default(), &change).await)
    }

    /// HTTP status of listing the ConfigMaps.
    pub async fn list(&self) -> u16 {
        code(self.config_maps().list(&ListParams::default()).await)
    }

    /// Waits until the token may no longer read a ConfigMap; how long that took.
    pub async fn loses(&self, name: &str) -> Result<Duration> {
        self.answers(name, |code| code == 401 || code == 403).await
    }

    /// Waits until the token itself is dead; how long that took.
    pub async fn dies(&self, name: &str) -> Result<Duration> {
        self.answers(name, |code| code == 401).await
    }

    async fn answers(&self, name: &str, wanted: fn(u16) -> bool) -> Result<Duration> {
        let since = Instant::now();
        until("the token to be refused", || async { wanted(self.get(name).await).then_some(()) }).await?;
        Ok(since.elapsed())
    }
}

/// HTTP status of an answer; 0 where there was none.
pub fn code<T>(answer: Result<T, kube::Error>) -> u16 {
    match answer {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(_) => 0,
    }
}

/// The words of a refusal.
pub fn refusal<T>(answer: Result<T, kube::Error>) -> Result<kube::core::Status> {
    match answer {
        Ok(_) => bail!("it was let through"),
        Err(kube::Error::Api(status)) => Ok(*status),
        Err(error) => Err(error.into()),
    }
}

/// An answer with what client libraries leave out.
#[derive(Debug)]
pub struct Reply {
    pub code: u16,
    /// The texts of the `Warning` headers.
    pub warnings: Vec<String>,
    pub body: Value,
}

impl Reply {
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

/// One request as it is, by a client's way to the API server.
pub async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<Reply> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(kube::client::Body::from(serde_json::to_vec(body)?))?;
    let (head, body) = client.send(request).await?.into_parts();
    let bytes = body.collect_bytes().await?;
    // Not `to_str`: it gives up where a text is not ASCII.
    let warnings =
        head.headers.get_all("warning").iter().map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned()).collect();
    Ok(Reply { code: head.status.as_u16(), warnings, body: serde_json::from_slice(&bytes).unwrap_or_default() })
}

pub fn status(task: &AgentTask) -> AgentTaskStatus {
    task.status.clone().unwrap_or_default()
}

/// The Role that a running task is bound to.
pub fn role_of(task: &AgentTask) -> String {
    grant::role_of(task).unwrap_or_default()
}

/// The condition of this type, as `status reason`.
pub fn condition(task: &AgentTask, type_: &str) -> Option<String> {
    let found = status(task).conditions.into_iter().find(|condition| condition.type_ == type_)?;
    Some(format!("{} {}", found.status, found.reason))
}

/// A rule on one resource, written `configmaps` or `deployments.apps`, perhaps with names.
pub fn rule(verb: &str, resource: &str, names: &[&str]) -> Value {
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let mut rule = json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
    if !names.is_empty() {
        rule["resourceNames"] = json!(names);
    }
    rule
}

/// The controller's user name.
pub fn controller() -> String {
    format!("system:serviceaccount:{NAMESPACE}:mandate-controller")
}

pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Objects are merged, everything else is replaced.
pub fn merge(into: &mut Value, changes: Value) {
    match changes {
        Value::Object(changes) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (key, value) in changes {
                merge(&mut into[key], value);
            }
        }
        value => *into = value,
    }
}
