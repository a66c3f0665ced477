//! What may the accounts of Mandate do, and what may others do to what is Mandate's? RBAC
//! and the ValidatingAdmissionPolicies of an installation, asked on a real API server, with
//! the controller's own token.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _};
use mandate::api::names::{SCOPE_LABEL, SECRET_TYPE};
use mandate::install::{CONTROLLER, Endpoint, Install, NAMESPACE, SecretSource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::bed::Bed;
use crate::bed::mandate::apply;

const GUARDED: &str = "finance";
const OTHER: &str = "sales";
/// Where a namespace is taken down; guarded as well.
const LEAVING: &str = "leaving";
/// A RoleBinding to a task's name, made before the policies were.
const OLD_BINDING: &str = "older-than-mandate";
/// A Role of a scope, made when the ceiling was higher.
const OLD_ROLE: &str = "mandate-scope-older";

/// The bed of these tests: the policies would be in the way of others.
async fn bed() -> &'static Bed {
    static BED: OnceCell<Bed> = OnceCell::const_new();
    BED.get_or_try_init(start).await.unwrap()
}

async fn start() -> Result<Bed> {
    let bed = Bed::start("policies").await?;
    let admin = bed.admin();
    for namespace in [NAMESPACE, GUARDED, OTHER, LEAVING] {
        make(&admin, None, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})).await?;
    }
    for crd in mandate::api::crds() {
        apply(&admin, &serde_json::to_string(&crd)?).await?;
    }
    let subjects = json!([account_subject("mandate-task-older", GUARDED), {"kind": "User", "name": "alice"}]);
    make(&admin, Some(GUARDED), binding(OLD_BINDING, "Role", "some", subjects)).await?;
    make(&admin, Some(GUARDED), role_of_scope(OLD_ROLE, "secrets", "patch")).await?;
    for (name, kind) in [("open", "Opaque"), ("crm-api", "Opaque")] {
        make(&admin, Some(GUARDED), secret(name, kind)).await?;
    }
    let ceiling = serde_json::from_value(json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]))?;
    let source = SecretSource { namespace: GUARDED.into(), secret_name: "crm-api".into() };
    let install = Install::new(NAMESPACE, [GUARDED, LEAVING], Endpoint::Service)?.ceiling(ceiling)?.secret_keys([source])?;
    for object in [install.rbac(), install.policies()].concat() {
        apply(&admin, &object.to_string()).await?;
    }
    in_force(&bed).await?;
    Ok(bed)
}

/// The API server takes up a policy a moment after it is written.
async fn in_force(bed: &Bed) -> Result<()> {
    let (admin, controller) = (bed.admin(), controller_of(bed).await?);
    let mine = json!([account_subject("mandate-task-a", GUARDED)]);
    let mut secrets = role("mandate-task-probe", &["patch"]);
    secrets["rules"][0]["resources"] = json!(["secrets"]);
    let (probe, own) = ("mandate-task-probe", json!([account_subject("mandate-task-probe", GUARDED)]));
    let probes: [(&str, &Client, Value); 8] = [
        ("mandate-requesters", &admin, task("probe", Value::Null)),
        ("mandate-controller-secrets", &controller, secret("mandate-task-probe", "Opaque")),
        ("mandate-controller-owned", &controller, account("probe")),
        ("mandate-controller-bindings", &controller, binding("mandate-task-a", "ClusterRole", "mandate-ceiling", mine.clone())),
        ("mandate-controller-roles", &controller, secrets),
        ("mandate-controller-bound-roles", &controller, binding(probe, "Role", OLD_ROLE, own)),
        ("mandate-reserved-names", &admin, account("mandate-task-probe")),
        ("mandate-reserved-subjects", &admin, binding("probe", "Role", "none", mine)),
    ];
    for (policy, client, object) in probes {
        bed.wait(&format!("{policy} to be in force"), Duration::from_secs(30), || async {
            let answer = make_dry(client, GUARDED, object.clone()).await;
            is_denied(&answer, policy).then_some(())
        })
        .await?;
    }
    bed.wait("mandate-controller-tokens to be in force", Duration::from_secs(30), || async {
        let answer = mint(&controller, "default", json!({"expirationSeconds": 600})).await;
        is_denied(&answer, "mandate-controller-tokens").then_some(())
    })
    .await
}

async fn controller_of(bed: &Bed) -> Result<Client> {
    bed.token_client(&bed.service_account_token(NAMESPACE, CONTROLLER).await?)
}

async fn controller() -> Client {
    controller_of(bed().await).await.unwrap()
}

// Objects as people write them.

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
}

fn secret(name: &str, kind: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind, "stringData": {"password": "tell-nobody"}})
}

fn role(name: &str, verbs: &[&str]) -> Value {
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}]);
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules})
}

fn role_of_scope(name: &str, resource: &str, verb: &str) -> Value {
    let mut role = role(name, &[verb]);
    role["metadata"]["labels"] = json!({SCOPE_LABEL: "some"});
    role["rules"][0]["resources"] = json!([resource]);
    role
}

fn binding(name: &str, kind: &str, role: &str, subjects: Value) -> Value {
    let role_ref = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role});
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name}, "roleRef": role_ref, "subjects": subjects})
}

fn own_binding(name: &str) -> Value {
    binding(name, "Role", name, json!([account_subject(name, GUARDED)]))
}

fn cluster_binding(name: &str, subjects: Value) -> Value {
    let mut binding = binding(name, "ClusterRole", "view", subjects);
    binding["kind"] = json!("ClusterRoleBinding");
    binding
}

fn task(name: &str, requested_by: Value) -> Value {
    let mut task = json!({
        "apiVersion": "mandate.dev/v1alpha1",
        "kind": "AgentTask",
        "metadata": {"name": name},
        "spec": {"agent": "invoice-bot", "scope": "read-ledger", "objective": "Reconcile the October invoices"},
    });
    if requested_by.is_object() {
        task["spec"]["requestedBy"] = requested_by;
    }
    task
}

fn account_subject(name: &str, namespace: &str) -> Value {
    json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
}

fn bound_to(secret: &str, seconds: u32) -> Value {
    json!({"expirationSeconds": seconds, "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": secret}})
}

// What is done with them.

async fn send(client: &Client, namespace: Option<&str>, object: Value, params: &PostParams) -> kube::Result<Value> {
    let group = object["apiVersion"].as_str().unwrap_or_default();
    let root = if group == "v1" { "/api/v1".to_owned() } else { format!("/apis/{group}") };
    let within = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
    let plural = format!("{}s", object["kind"].as_str().unwrap_or_default().to_lowercase());
    let body = serde_json::to_vec(&object).map_err(kube::Error::SerdeError)?;
    let request =
        kube::core::Request::new(format!("{root}{within}/{plural}")).create(params, body).map_err(kube::Error::BuildRequest)?;
    client.request(request).await
}

async fn make(client: &Client, namespace: Option<&str>, object: Value) -> kube::Result<Value> {
    send(client, namespace, object, &PostParams::default()).await
}

async fn make_dry(client: &Client, namespace: &str, object: Value) -> kube::Result<Value> {
    send(client, Some(namespace), object, &PostParams { dry_run: true, ..PostParams::default() }).await
}

async fn mint(client: &Client, account: &str, spec: Value) -> kube::Result<TokenRequest> {
    let request = serde_json::from_value(json!({"spec": spec})).map_err(kube::Error::SerdeError)?;
    Api::<ServiceAccount>::namespaced(client.clone(), GUARDED)
        .create_token_request(account, &PostParams::default(), &request)
        .await
}

async fn merge<K>(client: &Client, name: &str, patch: Value) -> kube::Result<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
{
    Api::<K>::namespaced(client.clone(), GUARDED).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
}

async fn delete<K>(client: &Client, name: &str) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    Api::<K>::namespaced(client.clone(), GUARDED).delete(name, &DeleteParams::default()).await.map(|_| ())
}

// What is said to it.

fn refusal<T>(answer: &kube::Result<T>) -> Option<&str> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => Some(&status.message),
        _ => None,
    }
}

fn is_denied<T>(answer: &kube::Result<T>, words: &str) -> bool {
    refusal(answer).is_some_and(|message| message.contains(words))
}

#[track_caller]
fn denied<T: Debug>(answer: kube::Result<T>, words: &str) {
    assert!(is_denied(&answer, words), "not denied with `{words}`: {answer:?}");
    let said = refusal(&answer).unwrap_or_default();
    assert!(!said.contains("tell-nobody") && !said.contains("dGVsbC1ub2JvZHk"), "a Secret is told: {said}");
}

#[tokio::test]
async fn the_controller_makes_changes_and_takes_back_what_a_task_owns() {
    let controller = controller().await;
    let name = "mandate-task-whole";
    make(&controller, Some(GUARDED), role(name, &["get"])).await.unwrap();
    make(&controller, Some(GUARDED), account(name)).await.unwrap();
    make(&controller, Some(GUARDED), own_binding(name)).await.unwrap();
    make(&controller, Some(GUARDED), secret(name, SECRET_TYPE)).await.unwrap();
    for seconds in [600, 3600] {
        mint(&controller, name, bound_to(name, seconds)).await.unwrap();
    }
    merge::<Secret>(&controller, name, json!({"data": {"kubernetes": "dG9rZW4="}})).await.unwrap();
    merge::<ServiceAccount>(&controller, name, json!({"automountServiceAccountToken": false})).await.unwrap();
    merge::<Role>(&controller, name, role(name, &["list"])).await.unwrap();
    merge::<RoleBinding>(&controller, name, json!({"metadata": {"labels": {"a": "b"}}})).await.unwrap();
    delete::<RoleBinding>(&controller, name).await.unwrap();
    delete::<Role>(&controller, name).await.unwrap();
    delete::<Secret>(&controller, name).await.unwrap();
    delete::<ServiceAccount>(&controller, name).await.unwrap();
}

#[tokio::test]
async fn the_controller_mints_tokens_of_an_agent_bound_to_the_secret_of_a_task() {
    let controller = controller().await;
    make(&controller, Some(GUARDED), account("mandate-agent-invoice")).await.unwrap();
    make(&controller, Some(GUARDED), secret("mandate-task-of-agent", SECRET_TYPE)).await.unwrap();
    mint(&controller, "mandate-agent-invoice", bound_to("mandate-task-of-agent", 600)).await.unwrap();
}

#[tokio::test]
async fn the_controller_mints_no_token_that_is_not_a_tasks_bound_and_short() {
    let controller = controller().await;
    for name in ["mandate-task-mint", "mandate-task-other", "mandate-agent-mint"] {
        make(&controller, Some(GUARDED), account(name)).await.unwrap();
    }
    for name in ["mandate-task-mint", "mandate-task-other"] {
        make(&controller, Some(GUARDED), secret(name, SECRET_TYPE)).await.unwrap();
    }
    let (task, agent) = ("mandate-task-mint", "mandate-agent-mint");
    denied(mint(&controller, "default", bound_to(task, 600)).await, "not of ServiceAccount `default`");
    for account in [task, agent] {
        denied(mint(&controller, account, json!({"expirationSeconds": 600})).await, "must be bound to the Secret of its task");
        denied(mint(&controller, account, bound_to("open", 600)).await, "must be bound to the Secret of its task");
        let pod = json!({"expirationSeconds": 600, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": task}});
        denied(mint(&controller, account, pod).await, "must be bound to the Secret of its task");
        // 3607 would be a token of one year.
        for seconds in [3601, 3607, 86_400] {
            denied(mint(&controller, account, bound_to(task, seconds)).await, "3600 seconds at most");
        }
    }
    denied(mint(&controller, task, bound_to("mandate-task-other", 600)).await, "must be bound to the Secret of its task");
}

#[tokio::test]
async fn the_controller_learns_no_secret() {
    let controller = controller().await;
    let secrets: Api<Secret> = Api::namespaced(controller.clone(), GUARDED);
    denied(secrets.get("open").await, "cannot get resource");
    denied(secrets.list(&ListParams::default()).await, "cannot list resource");
    let policy = "mandate-controller-secrets";
    // A patch answers with the whole object, a patch of nothing too.
    denied(merge::<Secret>(&controller, "open", json!({})).await, policy);
    let disguise = merge::<Secret>(&controller, "open", json!({"type": SECRET_TYPE})).await;
    assert!(format!("{disguise:?}").contains("type: Invalid value"), "{disguise:?}");
    let nothing: Patch<()> = Patch::Json(serde_json::from_value(json!([])).unwrap());
    denied(secrets.patch("open", &PatchParams::default(), &nothing).await, policy);
    let dry = PatchParams { dry_run: true, ..PatchParams::apply("mandate").force() };
    let apply = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "open"}});
    denied(secrets.patch("open", &dry, &Patch::Apply(apply)).await, policy);
    denied(delete::<Secret>(&controller, "open").await, policy);
    // Named by an administrator.
    assert!(secrets.get("crm-api").await.is_ok());
    denied(merge::<Secret>(&controller, "crm-api", json!({})).await, policy);
}

#[tokio::test]
async fn the_controller_makes_no_secret_of_another_type_or_name() {
    let controller = controller().await;
    let policy = "mandate-controller-secrets";
    for object in [
        secret("mandate-task-opaque", "Opaque"),
        secret("mandate-agent-secret", SECRET_TYPE),
        secret("anything", SECRET_TYPE),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mandate-task-legacy", "annotations": {"kubernetes.io/service-account.name": "default"}}, "type": "kubernetes.io/service-account-token"}),
    ] {
        denied(make(&controller, Some(GUARDED), object).await, policy);
    }
}

#[tokio::test]
async fn the_controller_touches_nothing_that_is_not_a_tasks() {
    let (controller, admin) = (controller().await, bed().await.admin());
    make(&admin, Some(GUARDED), account("theirs")).await.unwrap();
    make(&admin, Some(GUARDED), role("theirs", &["get"])).await.unwrap();
    make(&admin, Some(GUARDED), binding("theirs", "Role", "theirs", json!([account_subject("theirs", GUARDED)]))).await.unwrap();
    let policy = "may write what belongs to tasks, agents and scopes only, not `theirs`";
    let label = || json!({"metadata": {"labels": {"a": "b"}}});
    denied(merge::<ServiceAccount>(&controller, "theirs", label()).await, policy);
    denied(merge::<Role>(&controller, "theirs", label()).await, policy);
    denied(merge::<RoleBinding>(&controller, "theirs", label()).await, policy);
    denied(delete::<ServiceAccount>(&controller, "theirs").await, policy);
    denied(delete::<Role>(&controller, "theirs").await, policy);
    denied(delete::<RoleBinding>(&controller, "theirs").await, policy);
    let policy = "mandate-controller-owned";
    denied(make(&controller, Some(GUARDED), account("mandate-other")).await, policy);
    denied(make(&controller, Some(GUARDED), role("mandate-ceiling", &["get"])).await, policy);
    // An agent is bound to no role, ever.
    denied(make(&controller, Some(GUARDED), role("mandate-agent-a", &["get"])).await, policy);
    // Of a scope there is nothing but Roles.
    denied(make(&controller, Some(GUARDED), account("mandate-scope-a")).await, policy);
    make(&controller, Some(GUARDED), role("mandate-task-for-agent", &["get"])).await.unwrap();
    let to_scope = json!([account_subject("mandate-scope-a", GUARDED)]);
    let bound = make(&controller, Some(GUARDED), binding("mandate-scope-a", "Role", "mandate-task-for-agent", to_scope)).await;
    denied(bound, "ValidatingAdmissionPolicy 'mandate-controller-");
    let to_agent = json!([account_subject("mandate-agent-a", GUARDED)]);
    let bound = make(&controller, Some(GUARDED), binding("mandate-agent-a", "Role", "mandate-task-for-agent", to_agent)).await;
    // Two policies say no; which one is heard is chance.
    denied(bound, "ValidatingAdmissionPolicy 'mandate-controller-");
}

#[tokio::test]
async fn the_controller_binds_a_role_of_a_scope_to_the_tasks_own_account_only() {
    let controller = controller().await;
    let name = "mandate-task-bind";
    make(&controller, Some(GUARDED), role(name, &["get"])).await.unwrap();
    make(&controller, Some(GUARDED), role("mandate-task-bind-2", &["get"])).await.unwrap();
    let own = || json!([account_subject(name, GUARDED)]);
    let role_of_a_scope = "must bind a Role of a scope";
    make(&bed().await.admin(), Some(GUARDED), role("theirs-to-bind", &["get"])).await.unwrap();
    // It holds the ceiling itself, so that RBAC alone would let it be bound.
    denied(make(&controller, Some(GUARDED), binding(name, "ClusterRole", "mandate-ceiling", own())).await, role_of_a_scope);
    denied(make(&controller, Some(GUARDED), binding(name, "Role", "mandate-task-bind-2", own())).await, role_of_a_scope);
    denied(make(&controller, Some(GUARDED), binding(name, "Role", "theirs-to-bind", own())).await, role_of_a_scope);
    let account_of_own_name = "the ServiceAccount of its own name and namespace";
    for subjects in [
        json!([]),
        json!([account_subject(name, GUARDED), account_subject("default", GUARDED)]),
        json!([account_subject("mandate-task-bind-2", GUARDED)]),
        json!([account_subject(name, OTHER)]),
        json!([{"kind": "User", "name": name}]),
        json!([{"kind": "Group", "name": "system:authenticated"}]),
    ] {
        denied(make(&controller, Some(GUARDED), binding(name, "Role", name, subjects)).await, account_of_own_name);
    }
    make(&controller, Some(GUARDED), role_of_scope("mandate-scope-bind", "configmaps", "get")).await.unwrap();
    make(&controller, Some(GUARDED), binding(name, "Role", "mandate-scope-bind", own())).await.unwrap();
    let more = json!({"subjects": [account_subject(name, GUARDED), {"kind": "User", "name": "mallory"}]});
    denied(merge::<RoleBinding>(&controller, name, more).await, account_of_own_name);
    // As the controller of before does, while an installation is upgraded.
    make(&controller, Some(GUARDED), own_binding("mandate-task-bind-2")).await.unwrap();
}

/// A Role of a scope stands for as long as the scope, and the ceiling changes meanwhile.
#[tokio::test]
async fn the_controller_binds_no_role_that_the_ceiling_no_longer_holds() {
    let controller = controller().await;
    let name = "mandate-task-late";
    let bind =
        |role: &str| make(&controller, Some(GUARDED), binding(name, "Role", role, json!([account_subject(name, GUARDED)])));
    // What it works with itself, so that RBAC would let it.
    denied(bind(OLD_ROLE).await, "Mandate works with `patch secrets` itself");
    // What it no longer holds.
    let kubernetes = bed()
        .await
        .user("system:serviceaccount:kube-system:replicaset-controller", &["system:masters", "system:authenticated"])
        .unwrap();
    make(&kubernetes, Some(GUARDED), role_of_scope("mandate-scope-lost", "configmaps", "delete")).await.unwrap();
    denied(bind("mandate-scope-lost").await, "attempting to grant RBAC permissions not currently held");
    // What does not stand.
    let missing = bind("mandate-scope-missing").await;
    assert!(matches!(&missing, Err(kube::Error::Api(status)) if status.code == 404), "{missing:?}");
    make(&controller, Some(GUARDED), role_of_scope("mandate-scope-held", "configmaps", "get")).await.unwrap();
    bind("mandate-scope-held").await.unwrap();
}

#[tokio::test]
async fn the_controller_hands_out_nothing_beyond_the_ceiling() {
    let controller = controller().await;
    let beyond = "attempting to grant RBAC permissions not currently held";
    denied(make(&controller, Some(GUARDED), role("mandate-task-beyond", &["get", "delete"])).await, beyond);
    make(&controller, Some(GUARDED), role("mandate-task-below", &["get"])).await.unwrap();
    denied(merge::<Role>(&controller, "mandate-task-below", role("mandate-task-below", &["update"])).await, beyond);
}

/// With the token of a task that may patch Secrets it could read them all, and with one that
/// may mint tokens act as anybody: what holds the controller does not hold a task.
#[tokio::test]
async fn the_controller_gives_no_task_what_it_works_with_itself() {
    let controller = controller().await;
    let with = |rules: Value| {
        let mut role = role("mandate-task-own", &[]);
        role["rules"] = rules;
        role
    };
    let one = |group: &str, resource: &str, verb: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
    let rbac = "rbac.authorization.k8s.io";
    for (group, resource, verb) in [
        ("", "secrets", "create"),
        ("", "secrets", "patch"),
        ("", "secrets", "delete"),
        ("", "serviceaccounts/token", "create"),
        ("", "serviceaccounts", "patch"),
        ("", "serviceaccounts", "list"),
        (rbac, "roles", "create"),
        (rbac, "rolebindings", "create"),
        ("mandate.dev", "agenttasks", "delete"),
        ("mandate.dev", "agenttasks/status", "patch"),
        ("events.k8s.io", "events", "create"),
    ] {
        let words = format!("Mandate works with `{verb} {resource}` itself");
        denied(make(&controller, Some(GUARDED), with(json!([one(group, resource, verb)]))).await, &words);
        // Behind what it may hand out, and by name.
        let mut named = one(group, resource, verb);
        named["resourceNames"] = json!(["one"]);
        denied(make(&controller, Some(GUARDED), with(json!([one("", "configmaps", "get"), named]))).await, &words);
    }
    // Named by an administrator, for a task to have a copy of one key.
    let named = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["crm-api"]}]);
    denied(make(&controller, Some(GUARDED), with(named)).await, "Mandate works with `get secrets` itself");
    make(&controller, Some(GUARDED), with(json!([one("", "configmaps", "get")]))).await.unwrap();
    let later = json!({"rules": [one("", "secrets", "patch")]});
    denied(merge::<Role>(&controller, "mandate-task-own", later).await, "mandate-controller-roles");
}

#[tokio::test]
async fn what_a_task_owns_is_orphaned_by_nobody() {
    let bed = bed().await;
    let controller = controller().await;
    let collector = bed
        .user("system:serviceaccount:kube-system:generic-garbage-collector", &["system:masters", "system:authenticated"])
        .unwrap();
    let name = "mandate-task-orphan";
    let owner =
        make(&bed.admin(), Some(GUARDED), json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "an-owner"}}))
            .await
            .unwrap();
    let references = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "an-owner", "uid": owner["metadata"]["uid"], "controller": true}]);
    let of_scope = "mandate-scope-orphan";
    for mut object in
        [account(name), secret(name, SECRET_TYPE), role(name, &["get"]), role(of_scope, &["get"]), own_binding(name)]
    {
        object["metadata"]["ownerReferences"] = references.clone();
        make(&controller, Some(GUARDED), object).await.unwrap();
    }
    let another = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "another", "uid": "another"});
    for references in [Value::Null, json!([]), json!([another]), json!([another, references[0]])] {
        let patch = json!({"metadata": {"ownerReferences": references}});
        for client in [&collector, &controller] {
            let words = "belongs to a task or a scope and cannot be orphaned";
            denied(merge::<ServiceAccount>(client, name, patch.clone()).await, words);
            denied(merge::<Secret>(client, name, patch.clone()).await, words);
            denied(merge::<Role>(client, name, patch.clone()).await, words);
            denied(merge::<Role>(client, of_scope, patch.clone()).await, words);
            denied(merge::<RoleBinding>(client, name, patch.clone()).await, words);
        }
    }
    // Everything else of it may be changed as before.
    merge::<Role>(&collector, name, json!({"metadata": {"labels": {"a": "b"}}})).await.unwrap();
}

#[tokio::test]
async fn the_controller_does_nothing_where_nothing_is_guarded() {
    let controller = controller().await;
    let name = "mandate-task-elsewhere";
    for namespace in [OTHER, NAMESPACE, "kube-system"] {
        for object in [account(name), secret(name, SECRET_TYPE), role(name, &["get"]), own_binding(name)] {
            denied(make(&controller, Some(namespace), object).await, "cannot create resource");
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(controller.clone(), namespace);
        let token = accounts.create_token_request("default", &PostParams::default(), &TokenRequest::default()).await;
        denied(token, "cannot create resource \"serviceaccounts/token\"");
    }
}

#[tokio::test]
async fn nobody_else_makes_or_changes_what_bears_the_name_of_a_task_or_an_agent() {
    let bed = bed().await;
    let (admin, controller) = (bed.admin(), controller().await);
    let editor = editor(bed).await;
    for (client, namespace) in [(&admin, GUARDED), (&admin, OTHER), (&editor, GUARDED)] {
        for name in ["mandate-task-mine", "mandate-agent-mine", "mandate-scope-mine"] {
            for object in [account(name), secret(name, "Opaque"), secret(name, SECRET_TYPE)] {
                denied(make(client, Some(namespace), object).await, &format!("`{name}` is a name that only Mandate may give"));
            }
        }
    }
    for object in [
        role("mandate-task-mine", &["get"]),
        role("mandate-scope-mine", &["get"]),
        binding("mandate-task-mine", "Role", "some", json!([])),
    ] {
        denied(make(&admin, Some(GUARDED), object).await, "mandate-reserved-names");
    }
    let generated = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"generateName": "mandate-task-"}});
    denied(make(&admin, Some(GUARDED), generated).await, "mandate-reserved-names");
    let name = "mandate-task-theirs";
    make(&controller, Some(GUARDED), account(name)).await.unwrap();
    make(&controller, Some(GUARDED), secret(name, SECRET_TYPE)).await.unwrap();
    make(&controller, Some(GUARDED), role(name, &["get"])).await.unwrap();
    let label = || json!({"metadata": {"labels": {"mandate.dev/task": "another"}}});
    denied(merge::<ServiceAccount>(&editor, name, label()).await, "mandate-reserved-names");
    denied(merge::<Secret>(&editor, name, json!({"data": {"kubernetes": "Zm9yZ2Vk"}})).await, "mandate-reserved-names");
    denied(merge::<Role>(&admin, name, role(name, &["delete"])).await, "mandate-reserved-names");
    denied(merge::<Role>(&admin, OLD_ROLE, role(OLD_ROLE, &["delete"])).await, "mandate-reserved-names");
    // What only looks alike is anybody's.
    for name in ["mandate-tasks", "mandate-other", "my-mandate-task-a"] {
        make_dry(&editor, GUARDED, account(name)).await.unwrap();
    }
    // To take something back is never refused.
    delete::<Secret>(&editor, name).await.unwrap();
    delete::<ServiceAccount>(&editor, name).await.unwrap();
    delete::<Role>(&admin, name).await.unwrap();
}

#[tokio::test]
async fn nobody_else_binds_a_role_to_a_task_or_an_agent() {
    let admin = bed().await.admin();
    let words = "a task gets its authority from its TaskScope";
    for subject in [
        account_subject("mandate-task-a", GUARDED),
        account_subject("mandate-agent-a", OTHER),
        json!({"kind": "User", "name": "system:serviceaccount:finance:mandate-task-a"}),
        json!({"kind": "User", "name": "system:serviceaccount:finance:mandate-agent-a"}),
    ] {
        let among = json!([{"kind": "User", "name": "alice"}, subject]);
        denied(make(&admin, Some(GUARDED), binding("mine", "ClusterRole", "view", among.clone())).await, words);
        denied(make(&admin, Some(OTHER), binding("mine", "ClusterRole", "view", among.clone())).await, words);
        denied(make(&admin, None, cluster_binding("mine", among)).await, words);
    }
    let others = json!([
        {"kind": "User", "name": "mandate-task-a"},
        {"kind": "User", "name": "system:serviceaccount:finance:my-mandate-task-a"},
        {"kind": "Group", "name": "mandate-agent-owners"},
        account_subject("mandate-controller", NAMESPACE),
    ]);
    make_dry(&admin, GUARDED, binding("theirs-too", "ClusterRole", "view", others.clone())).await.unwrap();
    make(&admin, None, cluster_binding("bound-to-others", others)).await.unwrap();
    let bindings: Api<ClusterRoleBinding> = Api::all(admin);
    let worse = Patch::Merge(json!({"subjects": [account_subject("mandate-task-a", GUARDED)]}));
    denied(bindings.patch("bound-to-others", &PatchParams::default(), &worse).await, words);
}

#[tokio::test]
async fn a_binding_that_stood_before_can_be_labelled_and_emptied_but_not_widened() {
    let admin = bed().await.admin();
    merge::<RoleBinding>(&admin, OLD_BINDING, json!({"metadata": {"labels": {"seen": "yes"}, "finalizers": ["example.com/a"]}}))
        .await
        .unwrap();
    merge::<RoleBinding>(&admin, OLD_BINDING, json!({"metadata": {"finalizers": null}})).await.unwrap();
    let more = json!({"subjects": [account_subject("mandate-task-older", GUARDED), account_subject("mandate-task-a", GUARDED)]});
    denied(merge::<RoleBinding>(&admin, OLD_BINDING, more).await, "mandate-reserved-subjects");
    merge::<RoleBinding>(&admin, OLD_BINDING, json!({"subjects": [{"kind": "User", "name": "alice"}]})).await.unwrap();
    delete::<RoleBinding>(&admin, OLD_BINDING).await.unwrap();
}

#[tokio::test]
async fn a_task_says_who_asked_for_it_and_nobody_else() {
    let bed = bed().await;
    let admin = bed.admin();
    let subjects = json!([account_subject("pipeline", OTHER), {"kind": "User", "name": "alice"}]);
    make(&admin, Some(GUARDED), binding("starters", "ClusterRole", "mandate-edit", subjects)).await.unwrap();
    let pipeline = bed.token_client(&bed.service_account_token(OTHER, "pipeline").await.unwrap()).unwrap();
    let policy = "mandate-requesters";
    for client in [&admin, &pipeline, &bed.user("alice", &["staff"]).unwrap()] {
        let me = who_am_i(client).await.unwrap();
        assert!(me["extra"].is_object(), "no extra, so that less is tested than should be: {me}");
        make_dry(client, GUARDED, task("true", me.clone())).await.unwrap();
        denied(make_dry(client, GUARDED, task("silent", Value::Null)).await, policy);
        let forge = |field: &str, value: Value| {
            let mut other = me.clone();
            other[field] = value;
            task("forged", other)
        };
        denied(make_dry(client, GUARDED, forge("username", json!("bob"))).await, policy);
        denied(make_dry(client, GUARDED, forge("groups", json!(["system:authenticated", "finance-leads"]))).await, policy);
        denied(make_dry(client, GUARDED, forge("groups", json!([]))).await, policy);
        denied(make_dry(client, GUARDED, forge("extra", json!({"example.com/role": ["lead"]}))).await, policy);
        denied(make_dry(client, GUARDED, forge("extra", json!({}))).await, policy);
    }
}

#[tokio::test]
async fn the_garbage_collector_takes_what_a_task_leaves() {
    let bed = bed().await;
    let (admin, controller) = (bed.admin(), controller().await);
    let owner =
        make(&admin, Some(GUARDED), json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stands-for-a-task"}}))
            .await
            .unwrap();
    let name = "mandate-task-garbage";
    let references = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "stands-for-a-task", "uid": owner["metadata"]["uid"], "controller": true}]);
    for mut object in [account(name), secret(name, SECRET_TYPE), role(name, &["get"]), own_binding(name)] {
        object["metadata"]["ownerReferences"] = references.clone();
        make(&controller, Some(GUARDED), object).await.unwrap();
    }
    let foreground = DeleteParams::foreground();
    Api::<ConfigMap>::namespaced(admin.clone(), GUARDED).delete("stands-for-a-task", &foreground).await.unwrap();
    gone::<ServiceAccount>(bed, GUARDED, name).await.unwrap();
    gone::<Secret>(bed, GUARDED, name).await.unwrap();
    gone::<Role>(bed, GUARDED, name).await.unwrap();
    gone::<RoleBinding>(bed, GUARDED, name).await.unwrap();
}

#[tokio::test]
async fn a_guarded_namespace_goes_with_all_that_is_in_it() {
    let bed = bed().await;
    let controller = controller().await;
    let name = "mandate-task-leaving";
    for object in [account(name), secret(name, SECRET_TYPE), role(name, &["get"])] {
        make(&controller, Some(LEAVING), object).await.unwrap();
    }
    let namespaces: Api<Namespace> = Api::all(bed.admin());
    namespaces.delete(LEAVING, &DeleteParams::default()).await.unwrap();
    let look = || async { namespaces.get_opt(LEAVING).await.ok()?.is_none().then_some(()) };
    bed.wait("the namespace to go", Duration::from_secs(60), look).await.unwrap();
}

#[tokio::test]
async fn the_api_server_finds_nothing_wrong_in_the_policies() {
    let bed = bed().await;
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(bed.admin());
    let looked = || async {
        let all = policies.list(&ListParams::default().labels("app.kubernetes.io/name=mandate")).await.ok()?.items;
        all.iter().all(|policy| policy.status.as_ref().is_some_and(|status| status.type_checking.is_some())).then_some(all)
    };
    let all = bed.wait("the policies to be type-checked", Duration::from_secs(30), looked).await.unwrap();
    assert_eq!(all.len(), 10);
    for policy in all {
        let warnings = policy.status.as_ref().and_then(|status| status.type_checking.as_ref()?.expression_warnings.clone());
        assert!(warnings.is_none_or(|warnings| warnings.is_empty()), "{}: {:?}", policy.name_any(), policy.status);
    }
}

#[tokio::test]
async fn every_account_may_do_what_it_needs_and_nothing_near_it() {
    let bed = bed().await;
    let (controller, webhook) = (
        format!("system:serviceaccount:{NAMESPACE}:mandate-controller"),
        format!("system:serviceaccount:{NAMESPACE}:mandate-webhook"),
    );
    let admission = "admissionregistration.k8s.io";
    for (user, may, verb, group, resource, namespace, name) in [
        (&controller, true, "patch", "mandate.dev", "agenttasks/status", GUARDED, ""),
        (&controller, true, "create", "events.k8s.io", "events", GUARDED, ""),
        (&controller, true, "update", "coordination.k8s.io", "leases", NAMESPACE, "mandate-controller"),
        (&controller, false, "update", "coordination.k8s.io", "leases", NAMESPACE, "another"),
        (&controller, false, "update", "coordination.k8s.io", "leases", "kube-system", "mandate-controller"),
        (&controller, true, "get", "", "configmaps", GUARDED, ""),
        (&controller, false, "get", "", "configmaps", OTHER, ""),
        (&controller, true, "get", "", "secrets", GUARDED, "crm-api"),
        (&controller, false, "get", "", "secrets", GUARDED, "open"),
        (&controller, false, "list", "", "secrets", "", ""),
        (&controller, false, "create", "mandate.dev", "agenttasks", GUARDED, ""),
        (&controller, false, "update", "mandate.dev", "taskscopes", GUARDED, ""),
        (&controller, false, "create", "rbac.authorization.k8s.io", "clusterrolebindings", "", ""),
        (&controller, false, "bind", "rbac.authorization.k8s.io", "roles", GUARDED, ""),
        (&controller, false, "escalate", "rbac.authorization.k8s.io", "roles", GUARDED, ""),
        (&controller, false, "impersonate", "", "serviceaccounts", GUARDED, ""),
        (&controller, false, "patch", admission, "validatingadmissionpolicies", "", "mandate-controller-tokens"),
        (&controller, false, "delete", admission, "validatingadmissionpolicybindings", "", "mandate-controller-tokens"),
        (&controller, false, "patch", admission, "validatingwebhookconfigurations", "", "mandate"),
        (&webhook, true, "watch", "mandate.dev", "agenttasks", "", ""),
        (&webhook, false, "patch", "mandate.dev", "agenttasks", GUARDED, ""),
        (&webhook, true, "update", "", "secrets", NAMESPACE, "mandate-webhook-tls"),
        (&webhook, false, "create", "", "secrets", NAMESPACE, ""),
        (&webhook, false, "get", "", "secrets", NAMESPACE, "another"),
        (&webhook, false, "get", "", "secrets", GUARDED, "mandate-webhook-tls"),
        (&webhook, true, "patch", admission, "validatingwebhookconfigurations", "", "mandate"),
        (&webhook, false, "patch", admission, "validatingwebhookconfigurations", "", "another"),
        (&webhook, false, "create", "", "serviceaccounts/token", GUARDED, ""),
    ] {
        let said = allowed(bed, user, (verb, group, resource, namespace, name)).await.unwrap();
        assert_eq!(said, may, "{user} {verb} {group}/{resource} in `{namespace}` `{name}`");
    }
}

#[tokio::test]
async fn kubernetes_roles_for_people_hold_what_belongs_to_them() {
    let bed = bed().await;
    for role in ["view", "edit", "admin"] {
        let subjects = json!([{"kind": "User", "name": format!("person-{role}")}]);
        make(&bed.admin(), Some(OTHER), binding(&format!("a-{role}"), "ClusterRole", role, subjects)).await.unwrap();
    }
    // Kubernetes adds the roles together in its own time.
    let ready = || async {
        let use_scopes = ("use", "mandate.dev", "taskscopes", OTHER, "");
        allowed(bed, "person-admin", use_scopes).await.ok()?.then_some(())
    };
    bed.wait("the roles to be added", Duration::from_secs(30), ready).await.unwrap();
    for (person, may, verb, resource) in [
        ("view", true, "list", "agenttasks"),
        ("view", true, "get", "taskscopes"),
        ("view", false, "create", "agenttasks"),
        ("view", false, "get", "clusteragentpolicies"),
        ("edit", true, "get", "agentpolicies"),
        ("edit", true, "create", "agenttasks"),
        ("edit", true, "delete", "agenttasks"),
        ("edit", false, "patch", "agenttasks/status"),
        ("edit", false, "use", "taskscopes"),
        ("edit", false, "create", "taskscopes"),
        ("edit", false, "update", "agentidentities"),
        ("edit", false, "delete", "agentpolicies"),
        ("admin", true, "create", "taskscopes"),
        ("admin", true, "update", "agentidentities"),
        ("admin", true, "delete", "agentpolicies"),
        ("admin", true, "create", "agenttasks"),
        ("admin", false, "create", "clusteragentpolicies"),
        ("admin", false, "act-for", "users"),
        ("admin", false, "patch", "agenttasks/status"),
    ] {
        let said = allowed(bed, &format!("person-{person}"), (verb, "mandate.dev", resource, OTHER, "")).await.unwrap();
        assert_eq!(said, may, "{person} {verb} {resource}");
    }
}

/// Somebody with Kubernetes' role `edit` in the guarded namespace.
async fn editor(bed: &Bed) -> Client {
    let subjects = json!([{"kind": "User", "name": "edith"}]);
    make(&bed.admin(), Some(GUARDED), binding("edith", "ClusterRole", "edit", subjects)).await.unwrap();
    bed.user("edith", &[]).unwrap()
}

/// The user of a client as the API server sees them, in the form of `requestedBy`.
async fn who_am_i(client: &Client) -> Result<Value> {
    let review =
        Api::<SelfSubjectReview>::all(client.clone()).create(&PostParams::default(), &SelfSubjectReview::default()).await?;
    let user = review.status.and_then(|status| status.user_info).context("an answer")?;
    Ok(serde_json::to_value(user)?)
}

/// Verb, group, resource with its subresource, namespace, name.
type Action<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str);

async fn allowed(bed: &Bed, user: &str, (verb, group, resource, namespace, name): Action<'_>) -> Result<bool> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let attributes = json!({"verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace, "name": name});
    let review: SubjectAccessReview = serde_json::from_value(json!({"spec": {"user": user, "resourceAttributes": attributes}}))?;
    let answer = Api::<SubjectAccessReview>::all(bed.admin()).create(&PostParams::default(), &review).await?;
    let status = answer.status.context("an answer")?;
    ensure!(status.evaluation_error.is_none(), "{status:?}");
    Ok(status.allowed)
}

async fn gone<K>(bed: &Bed, namespace: &str, name: &str) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(bed.admin(), namespace);
    let look = || async { api.get_metadata_opt(name).await.ok()?.is_none().then_some(()) };
    bed.wait(&format!("{} {name} to go", K::kind(&())), Duration::from_secs(60), look).await
}
