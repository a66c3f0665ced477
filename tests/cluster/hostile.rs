//! What can a tenant do who is allowed much, and means harm?
//!
//! Mallory has Kubernetes' role `edit` in one guarded namespace, with what an installation of
//! Mandate adds to it, and may use every scope there. Where that would not even let her try,
//! she gets more, so that what stops her is Mandate and not the lack of a right.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _};
use mandate::api::{AgentTask, ClusterAgentPolicy, Phase, TaskScope, names};
use mandate::decide::grant;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::bed::mandate::Mandate;
use crate::bed::{Bed, Call};
use crate::place::{CEILING, Outcome, Place, Reply, code, condition, merge, refusal, role_of, rule, send, status, until};

const TASKS: &str = "mandate.dev/v1alpha1";
const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// Mallory in this namespace.
async fn mallory(place: &Place<'_>) -> Result<Client> {
    let subjects = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}]);
    let edit = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"});
    place.put(RBAC, "RoleBinding", "mallory-edits", json!({"roleRef": edit, "subjects": subjects})).await?;
    let more = json!([
        rule("use", "taskscopes.mandate.dev", &[]),
        {"apiGroups": ["mandate.dev"], "resources": ["taskscopes"], "verbs": ["create", "patch"]},
        {"apiGroups": [""], "resources": ["pods/ephemeralcontainers"], "verbs": ["patch"]},
    ]);
    place.allow("mallory", &more).await?;
    for held in [rule("create", "agenttasks.mandate.dev", &[]), rule("patch", "secrets", &[])] {
        place.until_allowed("mallory", &held, true).await?;
    }
    place.bed.user("mallory", &[])
}

/// An agent, a scope to read the ledger, and mallory.
async fn hers() -> Result<(Place<'static>, Client)> {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    let mallory = mallory(&place).await?;
    Ok((place, mallory))
}

fn tasks(client: &Client, place: &Place<'_>) -> Api<AgentTask> {
    Api::namespaced(client.clone(), &place.namespace)
}

/// What the task owns, by name.
fn owns(task: &AgentTask) -> String {
    names::of_task(&task.name_any(), &task.uid().unwrap_or_default())
}

fn merge_patch(change: Value) -> Patch<Value> {
    Patch::Merge(change)
}

/// Somebody whom the policies of the installation let write what bears Mandate's names:
/// Kubernetes' own controllers. It stands for whatever may have been there before.
fn kubernetes(place: &Place<'_>) -> Result<Client> {
    place.bed.user("system:serviceaccount:kube-system:replicaset-controller", &["system:masters", "system:authenticated"])
}

#[track_caller]
fn refused<T>(answer: Result<T, kube::Error>, words: &str) {
    let said = refusal(answer).unwrap();
    assert!(
        matches!(said.code, 403 | 422) && said.message.contains(words),
        "wanted `{words}`, not {}: {}",
        said.code,
        said.message
    );
}

#[tokio::test]
async fn nothing_in_another_namespace_can_be_reached_through_a_task() -> Outcome {
    let (mine, mallory) = hers().await?;
    let theirs = Place::fresh().await?;
    theirs.agent(json!({})).await?;
    theirs.put_agent("stronger", json!({})).await?;
    theirs.scope("stronger", json!({"kubernetes": {"rules": [rule("get", "configmaps", &[])]}})).await?;
    let victim = theirs.start("victim", "stronger", json!({})).await?;
    let before = theirs.owned().await?;

    // By names that lead elsewhere.
    let away = format!("../{}/agentidentities/bot", theirs.namespace);
    for name in [away.as_str(), &format!("{}/stronger", theirs.namespace), "bot/status", "bot?watch=true"] {
        refused(mine.ask_as(&mallory, "away", "read", json!({"agent": name}), false).await, "spec.agent");
        refused(mine.ask_as(&mallory, "away", name, json!({}), false).await, "spec.scope");
    }
    // By names of what is only there, and a namespace that is not the request's.
    mine.ask_as(&mallory, "agent-of-theirs", "read", json!({"agent": "stronger"}), false).await?;
    mine.ask_as(&mallory, "scope-of-theirs", "stronger", json!({}), false).await?;
    mine.with_reason("agent-of-theirs", "AgentNotFound").await?;
    mine.with_reason("scope-of-theirs", "ScopeNotFound").await?;
    let task = json!({"apiVersion": TASKS, "kind": "AgentTask", "metadata": {"name": "x", "namespace": theirs.namespace},
        "spec": {"agent": "bot", "scope": "stronger", "objective": "x"}});
    assert_eq!(send(&mallory, "POST", &mine.path(TASKS, "agenttasks"), &task).await?.code, 400);
    assert_eq!(mine.owned().await?, [""; 0], "what cannot be is given something");

    // By what a scope names.
    let elsewhere = rule("get", "configmaps", &["ledger", &format!("../../{}/configmaps/report", theirs.namespace)]);
    let scope = json!({"metadata": {"name": "away"}, "spec": {"intent": "x", "kubernetes": {"rules": [elsewhere]}}});
    let scopes: Api<TaskScope> = Api::namespaced(mallory.clone(), &mine.namespace);
    scopes.create(&PostParams::default(), &serde_json::from_value(scope)?).await?;
    mine.ask_as(&mallory, "away", "away", json!({}), false).await?;
    let away = mine.active("away").await?;
    let bearer = mine.bearer(&away).await?;
    assert_eq!(bearer.get("ledger").await, 200);
    let there: Api<ConfigMap> = Api::namespaced(bearer.client.clone(), &theirs.namespace);
    assert_eq!(code(there.get("ledger").await), 403);

    // By making her objects those of the victim: neither side changes by it.
    let owner = json!([{"apiVersion": TASKS, "kind": "AgentTask", "name": "victim", "uid": victim.uid(), "controller": true}]);
    let labels = json!({names::MANAGED_BY: names::MANAGER, names::TASK_LABEL: "victim"});
    let account = json!({"metadata": {"name": "imitation", "labels": labels, "ownerReferences": owner}});
    let accounts: Api<ServiceAccount> = Api::namespaced(mallory.clone(), &mine.namespace);
    accounts.create(&PostParams::default(), &serde_json::from_value(account)?).await?;
    until("Kubernetes to take what is owned by nobody here", || async {
        mine.api::<ServiceAccount>().get_opt("imitation").await.ok()?.is_none().then_some(())
    })
    .await?;
    let victim = theirs.in_phase("victim", Phase::Active).await?;
    assert_eq!((theirs.owned().await?, theirs.bearer(&victim).await?.get("report").await), (before, 200));
    Ok(())
}

#[tokio::test]
async fn another_tasks_objects_stay_when_a_task_ends_that_imitates_them() -> Outcome {
    let (place, mallory) = hers().await?;
    let task = place.start("task", "read", json!({})).await?;
    // Labels, owner and all but the name are those of what the task owns.
    let owner = json!([{"apiVersion": TASKS, "kind": "AgentTask", "name": "task", "uid": task.uid(), "controller": true}]);
    let labels = json!({names::MANAGED_BY: names::MANAGER, names::TASK_LABEL: "task"});
    let meta = json!({"metadata": {"name": "imitation", "labels": labels, "ownerReferences": owner}});
    let accounts: Api<ServiceAccount> = Api::namespaced(mallory.clone(), &place.namespace);
    accounts.create(&PostParams::default(), &serde_json::from_value(meta.clone())?).await?;
    let secrets: Api<Secret> = Api::namespaced(mallory, &place.namespace);
    let mut secret = meta;
    merge(&mut secret, json!({"type": names::SECRET_TYPE, "stringData": {"hers": "kept"}}));
    secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    place.end("task", "Completed").await?;
    place.in_phase("task", Phase::Ended).await?;
    // All that is left with the labels is hers, as she wrote it.
    assert_eq!(place.owned().await?, ["ServiceAccount/imitation", "Secret/imitation"]);
    let secret = place.api::<Secret>().get("imitation").await?;
    assert_eq!(secret.data.unwrap_or_default()["hers"].0, b"kept");
    Ok(())
}

#[tokio::test]
async fn a_scope_holds_what_its_author_holds_and_the_ceiling_too() -> Outcome {
    let (place, mallory) = hers().await?;
    let with = |rules: Value| json!({"metadata": {"name": "scope"}, "spec": {"intent": "x", "kubernetes": {"rules": rules}}});
    let write = |client: &Client, rules: Value| {
        let api: Api<TaskScope> = Api::namespaced(client.clone(), &place.namespace);
        async move { api.create(&PostParams::default(), &serde_json::from_value(with(rules)).map_err(kube::Error::SerdeError)?).await }
    };
    // She may do these herself, and no task may.
    for (verb, resource) in [("get", "services"), ("update", "secrets"), ("create", "pods/exec"), ("delete", "deployments.apps")]
    {
        refused(write(&mallory, json!([rule(verb, resource, &[])])).await, "is beyond the cluster's ceiling");
    }
    // Tasks may do these, and wanda may not.
    let scopes =
        json!([{"apiGroups": ["mandate.dev"], "resources": ["taskscopes"], "verbs": ["create", "patch", "update", "get"]}]);
    place.allow("wanda", &scopes).await?;
    let wanda = place.bed.user("wanda", &[])?;
    for rules in [
        json!([rule("get", "configmaps", &[])]),
        json!([rule("get", "configmaps", &["ledger"])]),
        json!([rule("get", "pods/log", &[])]),
    ] {
        refused(write(&wanda, rules).await, "`wanda` may not grant `get ");
    }
    // She may change what somebody else has written, in everything but what it grants.
    let hers: Api<TaskScope> = Api::namespaced(wanda, &place.namespace);
    let change = |spec: Value| {
        let hers = hers.clone();
        async move { hers.patch("read", &PatchParams::default(), &merge_patch(json!({"spec": spec}))).await }
    };
    change(json!({"intent": "still to read"})).await?;
    for rules in [
        json!([rule("get", "configmaps", &["ledger"]), rule("get", "configmaps", &["report"])]),
        json!([rule("get", "configmaps", &[])]),
        json!([rule("list", "configmaps", &["ledger"])]),
    ] {
        refused(change(json!({"kubernetes": {"rules": rules}})).await, "`wanda` may not grant `");
    }
    change(json!({"kubernetes": {"rules": []}})).await?;
    refused(change(json!({"kubernetes": {"rules": [rule("get", "configmaps", &["ledger"])]}})).await, "`wanda` may not grant `");
    Ok(())
}

/// What the controller holds for its own work is no part of the ceiling, though RBAC would let
/// it hand that out too.
#[tokio::test]
async fn no_task_gets_a_right_that_mandate_itself_works_with() -> Outcome {
    let (place, mallory) = hers().await?;
    let rights = [
        ("patch", "secrets"),
        ("create", "secrets"),
        ("delete", "secrets"),
        ("create", "serviceaccounts/token"),
        ("create", "serviceaccounts"),
        ("patch", "serviceaccounts"),
        ("get", "agenttasks.mandate.dev"),
        ("patch", "agenttasks.mandate.dev"),
    ];
    let scopes: Api<TaskScope> = Api::namespaced(mallory.clone(), &place.namespace);
    let each = rights.iter().enumerate().map(|(number, (verb, resource))| {
        let (place, scopes, mallory) = (&place, &scopes, &mallory);
        async move {
            let name = format!("own-{number}");
            // Hidden behind what the ceiling does hold.
            let rules = json!([rule("get", "configmaps", &["ledger"]), rule(verb, resource, &[])]);
            let scope = json!({"metadata": {"name": name}, "spec": {"intent": "x", "kubernetes": {"rules": rules}}});
            scopes.create(&PostParams::default(), &serde_json::from_value(scope)?).await?;
            place.ask_as(mallory, &name, &name, json!({}), false).await?;
            let task = place.in_phase(&name, Phase::Refused).await.with_context(|| format!("{verb} {resource}"))?;
            assert_eq!(condition(&task, "Stalled").as_deref(), Some("True BeyondCeiling"), "{verb} {resource}");
            let words = status(&task).conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.message).unwrap_or_default();
            let resource = resource.split('.').next().unwrap_or_default();
            assert!(words.contains(&format!("works with `{verb} {resource}` itself")), "{words}");
            Ok::<_, anyhow::Error>(())
        }
    });
    try_join_all(each).await?;
    assert_eq!(place.owned().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn what_a_task_holds_is_written_by_nobody_but_mandate() -> Outcome {
    let (place, mallory) = hers().await?;
    let task = place.start("task", "read", json!({})).await?;
    let (name, bearer) = (owns(&task), place.bearer(&task).await?);
    let (roles, role): (Api<Role>, _) = (Api::namespaced(mallory.clone(), &place.namespace), role_of(&task));
    let wider = json!({"rules": [rule("get", "configmaps", &[])]});
    refused(roles.patch(&role, &PatchParams::default(), &merge_patch(wider.clone())).await, "cannot patch resource \"roles\"");
    // With the right to write Roles too, as an `admin` of the namespace has it.
    place.allow("mallory", &json!([
        {"apiGroups": ["mandate.dev"], "resources": ["taskscopes"], "verbs": ["use"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["patch", "create", "delete", "get"]},
    ])).await?;
    place.until_allowed("mallory", &rule("patch", "roles.rbac.authorization.k8s.io", &[]), true).await?;
    let policy = "mandate-reserved-names";
    refused(roles.patch(&role, &PatchParams::default(), &merge_patch(wider)).await, policy);
    let bindings: Api<RoleBinding> = Api::namespaced(mallory.clone(), &place.namespace);
    let her_too = json!({"subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}]});
    refused(bindings.patch(&name, &PatchParams::default(), &merge_patch(her_too)).await, policy);
    // Without its owner it would be nobody's to take back; with a finalizer it would stay.
    for meta in [json!({"ownerReferences": null}), json!({"finalizers": ["example.com/held"]})] {
        let change = merge_patch(json!({"metadata": meta}));
        refused(roles.patch(&role, &PatchParams::default(), &change).await, "mandate-");
        refused(bindings.patch(&name, &PatchParams::default(), &change).await, "mandate-");
        let accounts: Api<ServiceAccount> = Api::namespaced(mallory.clone(), &place.namespace);
        refused(accounts.patch(&name, &PatchParams::default(), &change).await, "mandate-");
        let secrets: Api<Secret> = Api::namespaced(mallory.clone(), &place.namespace);
        refused(secrets.patch(&name, &PatchParams::default(), &change).await, "mandate-");
    }
    assert_eq!((bearer.get("ledger").await, bearer.get("report").await), (200, 403));
    Ok(())
}

#[tokio::test]
async fn a_status_that_a_tenant_writes_is_never_believed() -> Outcome {
    let (place, mallory) = hers().await?;
    let forged = json!({"phase": "Active", "serviceAccount": "default", "secret": "anything",
        "grant": {"scopeUID": "x", "rules": [rule("get", "configmaps", &[])]}, "conditions": []});
    let spec = json!({"agent": "bot", "scope": "later", "objective": "x", "ttl": "10m"});
    let task = json!({"apiVersion": TASKS, "kind": "AgentTask", "metadata": {"name": "task"}, "spec": spec, "status": forged});
    let path = place.path(TASKS, "agenttasks");
    let made = send(&mallory, "POST", &path, &task).await?;
    assert_eq!((made.code, &made.body["status"]), (201, &Value::Null), "{made:?}");
    place.with_reason("task", "ScopeNotFound").await?;
    let one = format!("{path}/task");
    let patched = send(&mallory, "PATCH", &one, &json!({"status": forged})).await?;
    assert_eq!((patched.code, &patched.body["status"]["phase"]), (200, &json!("Pending")));
    let sub = send(&mallory, "PATCH", &format!("{one}/status"), &json!({"status": forged})).await?;
    assert!(sub.code == 403 && sub.message().contains("cannot patch resource \"agenttasks/status\""), "{sub:?}");
    let sub = send(&mallory, "PUT", &format!("{one}/status"), &task).await?;
    assert_eq!(sub.code, 403, "{sub:?}");
    let said = pod(&mallory, &place, json!({"metadata": {"labels": {names::TASK_LABEL: "task"}}})).await?;
    assert!(said.code == 403 && said.message().contains("[dead-task]"), "{said:?}");
    // When the scope comes, the task gets what that gives.
    place.scope_to_read("later").await?;
    let task = place.active("task").await?;
    let bearer = place.bearer(&task).await?;
    assert_eq!((bearer.get("ledger").await, bearer.get("report").await), (200, 403));
    Ok(())
}

#[tokio::test]
async fn nobody_else_can_be_made_the_requester_of_a_task() -> Outcome {
    let (place, mallory) = hers().await?;
    place.put_agent("secretary", json!({"actsFor": {"users": ["alice"], "groups": ["team"]}})).await?;
    place.agent_ready("secretary").await?;
    let alice = json!({"username": "alice", "groups": ["team", "system:masters"], "extra": {"example.com/role": ["lead"]}});
    let path = place.path(TASKS, "agenttasks");
    for (name, written) in [("name", alice.clone()), ("nothing", Value::Null), ("username", json!({"username": ""}))] {
        let mut task = json!({"apiVersion": TASKS, "kind": "AgentTask", "metadata": {"generateName": format!("{name}-")},
            "spec": {"agent": "bot", "scope": "read", "objective": "x"}});
        task["spec"]["requestedBy"] = written;
        let made = send(&mallory, "POST", &path, &task).await?;
        let requester = &made.body["spec"]["requestedBy"];
        assert_eq!((made.code, &requester["username"]), (201, &json!("mallory")), "{made:?}");
        assert!(!requester.to_string().contains("team") && !requester.to_string().contains("lead"), "{requester}");
    }
    place.start("task", "read", json!({})).await?;
    let task = format!("{path}/task");
    for change in [
        json!({"username": "mallory"}),
        json!({"groups": ["team", "system:masters"]}),
        json!({"extra": {"a": ["b"]}}),
        json!({"uid": "0"}),
    ] {
        let said = send(&mallory, "PATCH", &task, &json!({"spec": {"requestedBy": change}})).await?;
        assert!(said.code == 422 && said.message().contains("a task does not change once it exists"), "{said:?}");
    }
    let removed = send(&mallory, "PATCH", &task, &json!({"spec": {"requestedBy": null}})).await?;
    assert_eq!(removed.body["spec"]["requestedBy"]["username"], "alice", "{removed:?}");
    // Nor does she get what alice would get, by saying that she is alice.
    let for_alice = json!({"agent": "secretary", "onBehalfOf": {"user": "alice"}, "requestedBy": alice});
    refused(place.ask_as(&mallory, "for-alice", "read", for_alice, false).await, "it takes the verb `act-for`");
    Ok(())
}

#[tokio::test]
async fn a_task_without_its_finalizer_still_loses_its_authority() -> Outcome {
    let (place, mallory) = hers().await?;
    let task = place.start("unheld", "read", json!({})).await?;
    let (bearer, hers) = (place.bearer(&task).await?, tasks(&mallory, &place));
    hers.patch("unheld", &PatchParams::default(), &merge_patch(json!({"metadata": {"finalizers": []}}))).await?;
    hers.delete("unheld", &DeleteParams::background()).await?;
    bearer.loses("ledger").await?;
    place.nothing_left().await?;
    assert!(hers.get_opt("unheld").await?.is_none());
    Ok(())
}

/// Kubernetes' garbage collector takes the owner off what a task owns, where the task's deletion
/// says so; with the controller down it has all the time that it needs.
#[tokio::test]
async fn a_task_that_is_deleted_so_that_it_orphans_still_loses_its_authority() -> Outcome {
    let bed = Bed::start("orphans").await?;
    let mut mandate = Mandate::install(&bed, &["orphans"], CEILING).await?;
    let place = Place::on(&bed, "orphans").await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    let hers = tasks(&mallory(&place).await?, &place);
    let all = [place.start("deleted", "read", json!({})).await?, place.start("marked", "read", json!({})).await?];
    let bearers = [place.bearer(&all[0]).await?, place.bearer(&all[1]).await?];
    // The API server takes up a policy a moment after an installation.
    let roles: Api<Role> = Api::namespaced(kubernetes(&place)?, &place.namespace);
    let (role, orphan) = (role_of(&all[0]), merge_patch(json!({"metadata": {"ownerReferences": null}})));
    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    place.refused("to orphan a Role", || roles.patch(&role, &dry, &orphan)).await?;

    mandate.controller.kill9().await?;
    let mark = bed.audit_mark()?;
    hers.delete("deleted", &DeleteParams::orphan()).await?;
    hers.patch("marked", &PatchParams::default(), &merge_patch(json!({"metadata": {"finalizers": ["orphan"]}}))).await?;
    hers.delete("marked", &DeleteParams::default()).await?;
    let tried = |task: &AgentTask, calls: &[Call]| {
        calls
            .iter()
            .any(|call| call.user.ends_with(":generic-garbage-collector") && call.verb == "patch" && call.name == owns(task))
    };
    // It looks for new kinds twice a minute.
    bed.wait("the garbage collector to try", Duration::from_secs(120), || async {
        let calls = bed.calls_since(mark).ok()?;
        all.iter().all(|task| tried(task, &calls)).then_some(())
    })
    .await?;
    assert_eq!(place.owned().await?.len(), 6);
    mandate.restart_controller().await?;
    for bearer in &bearers {
        bearer.loses("ledger").await?;
    }
    place.nothing_left().await?;
    bed.wait("the tasks to be gone", Duration::from_secs(120), || async {
        hers.list_metadata(&ListParams::default()).await.ok()?.items.is_empty().then_some(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_task_that_is_held_by_somebody_elses_finalizer_has_no_authority() -> Outcome {
    let (place, mallory) = hers().await?;
    let task = place.start("held", "read", json!({})).await?;
    let (bearer, hers) = (place.bearer(&task).await?, tasks(&mallory, &place));
    let held = merge_patch(json!({"metadata": {"finalizers": ["example.com/held", names::FINALIZER]}}));
    hers.patch("held", &PatchParams::default(), &held).await?;
    hers.delete("held", &DeleteParams::background()).await?;
    bearer.loses("ledger").await?;
    place.nothing_left().await?;
    let task = place.task_when("held", "to be left by Mandate", |task| task.finalizers() == ["example.com/held"]).await?;
    assert!(task.metadata.deletion_timestamp.is_some());
    let said = pod(&mallory, &place, json!({"metadata": {"labels": {names::TASK_LABEL: "held"}}})).await?;
    assert!(said.code == 403 && said.message().contains("[dead-task]"), "{said:?}");
    hers.patch("held", &PatchParams::default(), &merge_patch(json!({"metadata": {"finalizers": []}}))).await?;
    Ok(())
}

/// Objects that stand where a task's would stand, as `kubernetes` writes them.
fn foreign(name: &str, ledger: &str, task: &AgentTask) -> Vec<(&'static str, Value)> {
    let config_map =
        |controller| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "ledger", "uid": ledger, "controller": controller});
    let second =
        json!([config_map(true), {"apiVersion": TASKS, "kind": "AgentTask", "name": task.name_any(), "uid": task.uid()}]);
    let labels = json!({names::MANAGED_BY: names::MANAGER, names::TASK_LABEL: task.name_any()});
    let metas = [
        ("bare", json!({})),
        ("labelled", json!({"labels": labels})),
        ("owned by another", json!({"labels": labels, "ownerReferences": [config_map(true)]})),
        ("owned by another first", json!({"labels": labels, "ownerReferences": second})),
    ];
    metas
        .into_iter()
        .map(|(form, mut meta)| {
            meta["name"] = json!(name);
            (form, json!({"metadata": meta}))
        })
        .collect()
}

#[tokio::test]
async fn what_stands_where_a_tasks_would_stand_is_neither_changed_nor_deleted() -> Outcome {
    let (place, mallory) = hers().await?;
    let kubernetes = kubernetes(&place)?;
    let role_ref = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "of-alice"});
    let kinds = [
        ("v1", "serviceaccounts", json!({})),
        (RBAC, "rolebindings", json!({"roleRef": role_ref, "subjects": []})),
        ("v1", "secrets", json!({"type": "Opaque", "stringData": {"theirs": "kept"}})),
        ("v1", "secrets", json!({"type": names::SECRET_TYPE, "stringData": {"theirs": "kept"}})),
    ];
    let ledger = place.api::<ConfigMap>().get("ledger").await?.uid().context("a UID")?;
    let mut stand = vec![];
    for (k, (version, resource, content)) in kinds.iter().enumerate() {
        for form in 0..4 {
            let name = format!("{resource}-{k}-{form}");
            let task = place.ask_as(&mallory, &name, &name, json!({}), false).await?;
            let (form, mut object) = foreign(&owns(&task), &ledger, &task).swap_remove(form);
            merge(&mut object, content.clone());
            let path = place.path(version, resource);
            let early = send(&mallory, "POST", &path, &object).await?;
            assert_eq!(early.code, 403, "mallory makes {form} {resource}: {early:?}");
            let made = send(&kubernetes, "POST", &path, &object).await?;
            assert_eq!(made.code, 201, "{form} {resource}: {made:?}");
            stand.push((name, form, format!("{path}/{}", owns(&task)), made.body));
        }
    }
    let unchanged = async |form: &str, path: &str, made: &Value| {
        let now = send(&place.admin, "GET", path, &Value::Null).await?;
        assert_eq!(now.body["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"], "{form} {path}: {now:?}");
        Ok::<_, anyhow::Error>(())
    };
    for (name, form, path, made) in &stand {
        place.scope_to_read(name).await?;
        let task = place.in_phase(name, Phase::Refused).await.with_context(|| format!("{form} {path}"))?;
        assert_eq!(condition(&task, "Stalled").as_deref(), Some("True NameTaken"), "{form} {path}");
        let words = status(&task).conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.message).unwrap_or_default();
        assert!(words.contains(&owns(&task)) && words.contains("is left alone"), "{words}");
        unchanged(form, path, made).await?;
        // Not when the task is over, nor when it goes.
        let hers = tasks(&mallory, &place);
        hers.delete(name, &DeleteParams::background()).await?;
        until("the task to be gone", || async { hers.get_opt(name).await.ok()?.is_none().then_some(()) }).await?;
        unchanged(form, path, made).await?;
    }
    // What was made before the foreign object was met is gone again: only the foreign are left.
    let labelled = stand.iter().filter(|(_, form, ..)| *form != "bare").count();
    assert_eq!(place.owned().await?.len(), labelled);
    Ok(())
}

#[tokio::test]
async fn a_role_of_somebody_else_that_stands_where_a_scopes_would_is_neither_used_nor_changed() -> Outcome {
    let (place, mallory) = hers().await?;
    let (kubernetes, path) = (kubernetes(&place)?, place.path(RBAC, "roles"));
    let ledger = place.api::<ConfigMap>().get("ledger").await?.uid().context("a UID")?;
    let rules = json!({"kubernetes": {"rules": [rule("get", "configmaps", &["ledger"])]}});
    for number in 0..4 {
        let name = format!("scope-{number}");
        place.scope(&name, json!({})).await?;
        let mut to_come = place.api::<TaskScope>().get(&name).await?;
        to_come.spec.kubernetes = serde_json::from_value(rules["kubernetes"].clone())?;
        let role = grant::name_of_role(&name, &grant::of_scope(&to_come)).context("a Role")?;
        let labels = json!({names::MANAGED_BY: names::MANAGER, names::SCOPE_LABEL: name});
        let another = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "ledger", "uid": ledger, "controller": true});
        let second = json!({"apiVersion": TASKS, "kind": "TaskScope", "name": name, "uid": to_come.uid()});
        let (form, meta) = [
            ("bare", json!({})),
            ("labelled", json!({"labels": labels})),
            ("owned by another", json!({"labels": labels, "ownerReferences": [another]})),
            ("owned by another first", json!({"labels": labels, "ownerReferences": [another, second]})),
        ][number]
            .clone();
        // It holds just what the scope grants, so that only whose it is can tell.
        let mut object = json!({"metadata": {"name": role}, "rules": rules["kubernetes"]["rules"]});
        merge(&mut object, json!({"metadata": meta}));
        assert_eq!(send(&mallory, "POST", &path, &object).await?.code, 403, "mallory makes one that is {form}");
        let made = send(&kubernetes, "POST", &path, &object).await?;
        assert_eq!(made.code, 201, "{form}: {made:?}");
        place.change::<TaskScope>(&name, json!({"spec": rules})).await?;

        let start = format!("task-{number}");
        place.ask_as(&mallory, &start, &name, json!({}), false).await?;
        let task = place.in_phase(&start, Phase::Refused).await.with_context(|| form.to_owned())?;
        assert_eq!(condition(&task, "Stalled").as_deref(), Some("True NameTaken"), "{form}");
        let words = status(&task).conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.message).unwrap_or_default();
        assert!(words.contains(&role) && words.contains("is left alone"), "{words}");
        // Nor is it taken away when the scope lets go of it, or of the task.
        place.change::<TaskScope>(&name, json!({"spec": {"kubernetes": null}})).await?;
        tasks(&mallory, &place).delete(&start, &DeleteParams::background()).await?;
        let now = send(&place.admin, "GET", &format!("{path}/{role}"), &Value::Null).await?;
        assert_eq!(now.body["metadata"]["resourceVersion"], made.body["metadata"]["resourceVersion"], "{form}: {now:?}");
        // Once it is gone the scope serves.
        kubernetes_deletes(&place, &role).await?;
        place.change::<TaskScope>(&name, json!({"spec": rules})).await?;
        place.start(&format!("again-{number}"), &name, json!({})).await?;
    }
    Ok(())
}

async fn kubernetes_deletes(place: &Place<'_>, role: &str) -> Result<()> {
    Api::<Role>::namespaced(kubernetes(place)?, &place.namespace).delete(role, &DeleteParams::default()).await?;
    Ok(())
}

/// Whose it is does not tell what it holds.
#[tokio::test]
async fn a_role_that_is_made_to_look_like_a_scopes_own_holds_what_the_scope_grants_before_it_is_bound() -> Outcome {
    let (place, mallory) = hers().await?;
    place.scope("planned", json!({})).await?;
    let mut to_come = place.api::<TaskScope>().get("planned").await?;
    let rules = json!({"kubernetes": {"rules": [rule("get", "configmaps", &["ledger"])]}});
    to_come.spec.kubernetes = serde_json::from_value(rules["kubernetes"].clone())?;
    let role = grant::name_of_role("planned", &grant::of_scope(&to_come)).context("a Role")?;
    let owner = json!([{"apiVersion": TASKS, "kind": "TaskScope", "name": "planned", "uid": to_come.uid(), "controller": true}]);
    let meta = json!({"name": role, "labels": {names::MANAGED_BY: names::MANAGER, names::SCOPE_LABEL: "planned"}, "ownerReferences": owner});
    let wide = json!({"metadata": meta, "rules": [rule("get", "configmaps", &[])]});
    let made = send(&kubernetes(&place)?, "POST", &place.path(RBAC, "roles"), &wide).await?;
    assert_eq!(made.code, 201, "{made:?}");
    place.change::<TaskScope>("planned", json!({"spec": rules})).await?;
    place.ask_as(&mallory, "task", "planned", json!({}), false).await?;
    let bearer = place.bearer(&place.active("task").await?).await?;
    assert_eq!((bearer.get("ledger").await, bearer.get("report").await), (200, 403));
    Ok(())
}

#[tokio::test]
async fn a_role_that_loses_its_labels_gets_them_back() -> Outcome {
    let (place, _) = hers().await?;
    let role = role_of(&place.start("task", "read", json!({})).await?);
    let roles: Api<Role> = Api::namespaced(kubernetes(&place)?, &place.namespace);
    roles.patch(&role, &PatchParams::default(), &merge_patch(json!({"metadata": {"labels": null}}))).await?;
    place.roles_are([role.as_str()]).await?;
    Ok(())
}

/// Kubernetes' garbage collector would take the owner off the Roles too.
#[tokio::test]
async fn a_scope_that_is_deleted_so_that_it_orphans_still_ends_its_tasks_and_goes() -> Outcome {
    let (place, _) = hers().await?;
    let bearer = place.bearer(&place.start("task", "read", json!({})).await?).await?;
    let scopes: Api<TaskScope> = place.api();
    scopes.delete("read", &DeleteParams::orphan()).await?;
    bearer.loses("ledger").await?;
    let task = place.in_phase("task", Phase::Ended).await?;
    assert_eq!(status(&task).reason.as_deref(), Some("ScopeDeleted"));
    place.nothing_left().await?;
    place.roles_are([]).await?;
    place
        .bed
        .wait("the scope to be gone", Duration::from_secs(120), || async {
            scopes.get_opt("read").await.ok()?.is_none().then_some(())
        })
        .await?;
    Ok(())
}

/// A pod of one container, with this merged into it.
async fn pod(client: &Client, place: &Place<'_>, change: Value) -> Result<Reply> {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    merge(&mut pod, change);
    send(client, "POST", &place.path("v1", "pods"), &pod).await
}

/// Every way in which a pod's spec reaches a Secret.
fn ways(secret: &str) -> Vec<(&'static str, Value)> {
    let container = |list: &str, more: Value| {
        let mut container = json!({"name": "d", "image": "i"});
        merge(&mut container, more);
        json!({list: [container]})
    };
    let volume = |source: Value| {
        let mut volume = json!({"name": "v"});
        merge(&mut volume, source);
        json!({"volumes": [volume]})
    };
    let key =
        json!({"env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": secret, "key": "kubernetes", "optional": true}}}]});
    let whole = json!({"envFrom": [{"prefix": "T_", "secretRef": {"name": secret}}]});
    vec![
        ("volume", volume(json!({"secret": {"secretName": secret, "optional": true}}))),
        ("some keys", volume(json!({"secret": {"secretName": secret, "items": [{"key": "kubernetes", "path": "t"}]}}))),
        ("projected", volume(json!({"projected": {"sources": [{"downwardAPI": {"items": []}}, {"secret": {"name": secret}}]}}))),
        ("env", container("containers", key.clone())),
        ("envFrom", container("containers", whole.clone())),
        ("env of an init container", container("initContainers", key)),
        ("envFrom of an init container", container("initContainers", whole)),
        ("csi", volume(json!({"csi": {"driver": "d.example.com", "nodePublishSecretRef": {"name": secret}}}))),
        ("cephfs", volume(json!({"cephfs": {"monitors": ["m"], "secretRef": {"name": secret}}}))),
        ("azureFile", volume(json!({"azureFile": {"shareName": "s", "secretName": secret}}))),
        ("flexVolume", volume(json!({"flexVolume": {"driver": "a/b", "secretRef": {"name": secret}}}))),
    ]
}

/// The namespace's policy only records: what guards Mandate's own credentials holds all the same.
async fn only_audited(place: &Place<'_>, mallory: &Client) -> Result<()> {
    let policy = json!({"metadata": {"name": format!("audit-{}", place.namespace)}, "spec": {
        "owner": {"team": "team", "contact": "team@example.com"}, "mode": "audit", "namespaces": [place.namespace],
        "workloads": {"profile": "baseline"}}});
    let policies: Api<ClusterAgentPolicy> = Api::all(place.admin.clone());
    policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;
    until("the policy to let Secrets pass", || async {
        let static_secret = json!({"spec": {"volumes": [{"name": "v", "secret": {"secretName": "static"}}]}});
        (pod(mallory, place, static_secret).await.ok()?.code == 201).then_some(())
    })
    .await
}

#[tokio::test]
async fn no_pod_reaches_the_credentials_of_another_task() -> Outcome {
    let (place, mallory) = hers().await?;
    let victim = place.start("victim", "read", json!({})).await?;
    place.start("own", "read", json!({})).await?;
    let secret = owns(&victim);
    only_audited(&place, &mallory).await?;
    let carriers = [("a pod of no task", json!({})), ("a pod of her task", json!({"labels": {names::TASK_LABEL: "own"}}))];
    for (way, spec) in ways(&secret) {
        for (carrier, meta) in &carriers {
            let said = pod(&mallory, &place, json!({"metadata": meta, "spec": spec})).await?;
            let words = format!("reaches `{secret}`, the credentials of a task that is not the pod's own");
            assert!(said.code == 403 && said.message().contains("[other-tasks-credentials]"), "{way}, {carrier}: {said:?}");
            assert!(said.message().contains(&words), "{way}, {carrier}: {said:?}");
        }
    }
    // A Secret of that name that is yet to come.
    let later = names::of_task("later", "uid");
    let said =
        pod(&mallory, &place, json!({"spec": {"volumes": [{"name": "v", "secret": {"secretName": later, "optional": true}}]}}))
            .await?;
    assert!(said.code == 403 && said.message().contains("[other-tasks-credentials]"), "{said:?}");
    // As the victim's or the agent's ServiceAccount, by either name of the field.
    for (carrier, meta) in &carriers {
        for account in [secret.as_str(), "mandate-agent-bot"] {
            for field in ["serviceAccountName", "serviceAccount"] {
                let said = pod(&mallory, &place, json!({"metadata": meta, "spec": {field: account}})).await?;
                assert!(
                    said.code == 403 && said.message().contains("[borrowed-service-account]"),
                    "{carrier}, {field}: {said:?}"
                );
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_pod_that_runs_does_not_come_to_another_tasks_credentials() -> Outcome {
    let (place, mallory) = hers().await?;
    let victim = place.start("victim", "read", json!({})).await?;
    let own = place.start("own", "read", json!({})).await?;
    only_audited(&place, &mallory).await?;
    let labelled = json!({"metadata": {"labels": {names::TASK_LABEL: "own"}}});
    for (carrier, meta) in [("a pod of no task", json!({})), ("a pod of her task", labelled)] {
        let made = until(&format!("{carrier} to be let in"), || async {
            pod(&mallory, &place, meta.clone()).await.ok().filter(|made| made.code == 201)
        })
        .await?;
        let path = format!("{}/{}", place.path("v1", "pods"), made.body["metadata"]["name"].as_str().context("a name")?);
        for task in [json!("victim"), json!("own"), Value::Null] {
            let same = made.body["metadata"]["labels"].get(names::TASK_LABEL).unwrap_or(&Value::Null) == &task;
            let said = send(&mallory, "PATCH", &path, &json!({"metadata": {"labels": {names::TASK_LABEL: task}}})).await?;
            assert_eq!(said.code, if same { 200 } else { 403 }, "{carrier} becomes one of {task}: {said:?}");
            assert!(same || said.message().contains("[task-label-changed]"), "{said:?}");
        }
        for source in [
            json!({"env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": owns(&victim), "key": "kubernetes"}}}]}),
            json!({"envFrom": [{"secretRef": {"name": owns(&victim)}}]}),
        ] {
            let mut debugger = json!({"name": "debugger", "image": "i"});
            merge(&mut debugger, source);
            let said = send(
                &mallory,
                "PATCH",
                &format!("{path}/ephemeralcontainers"),
                &json!({"spec": {"ephemeralContainers": [debugger]}}),
            )
            .await?;
            assert!(said.code == 403 && said.message().contains("[other-tasks-credentials]"), "{carrier}: {said:?}");
        }
        let harmless = json!({"spec": {"ephemeralContainers": [{"name": "debugger", "image": "i"}]}});
        assert_eq!(send(&mallory, "PATCH", &format!("{path}/ephemeralcontainers"), &harmless).await?.code, 200, "{carrier}");
    }
    // Her own task's pod has her own task's credentials, and no others.
    let made = pod(&mallory, &place, json!({"metadata": {"labels": {names::TASK_LABEL: "own"}}})).await?;
    assert_eq!(made.body["spec"]["serviceAccountName"], json!(owns(&own)));
    assert!(!made.body.to_string().contains(&owns(&victim)), "{made:?}");
    Ok(())
}

#[tokio::test]
async fn neither_a_template_nor_another_namespace_is_a_way_to_a_tasks_credentials() -> Outcome {
    let (mine, mallory) = hers().await?;
    let theirs = Place::fresh().await?;
    theirs.agent(json!({})).await?;
    theirs.scope_to_read("read").await?;
    let victim = theirs.start("victim", "read", json!({})).await?;
    let said = pod(&mallory, &mine, json!({"metadata": {"labels": {names::TASK_LABEL: "victim"}}})).await?;
    assert!(said.code == 403 && said.message().contains("there is no AgentTask `victim`"), "{said:?}");
    // Also where her own task bears the victim's name, the pod is hers.
    mine.ask_as(&mallory, "victim", "read", json!({}), false).await?;
    let own = mine.active("victim").await?;
    let made = until("the pod to be let in", || async {
        pod(&mallory, &mine, json!({"metadata": {"labels": {names::TASK_LABEL: "victim"}}}))
            .await
            .ok()
            .filter(|made| made.code == 201)
    })
    .await?;
    assert_ne!(owns(&own), owns(&victim));
    assert_eq!(made.body["spec"]["serviceAccountName"], json!(owns(&own)));
    let said =
        pod(&mallory, &mine, json!({"spec": {"volumes": [{"name": "v", "secret": {"secretName": owns(&victim)}}]}})).await?;
    assert!(said.code == 403 && said.message().contains("[other-tasks-credentials]"), "{said:?}");

    // A ReplicaSet is let in, since its template is nobody's pod; its pods are not.
    let spec = json!({"containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": owns(&own)}}]}]});
    let set = json!({"metadata": {"name": "many"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "many"}},
        "template": {"metadata": {"labels": {"app": "many"}}, "spec": spec}}});
    let sets: Api<ReplicaSet> = Api::namespaced(mallory, &mine.namespace);
    sets.create(&PostParams::default(), &serde_json::from_value(set)?).await?;
    let failed = until("the ReplicaSet to fail", || async {
        let conditions = mine.api::<ReplicaSet>().get("many").await.ok()?.status?.conditions?;
        conditions.into_iter().find(|condition| condition.type_.as_deref() == Some("ReplicaFailure"))?.message
    })
    .await?;
    assert!(failed.contains("[other-tasks-credentials]"), "{failed}");
    Ok(())
}

#[tokio::test]
async fn nobody_but_mandate_mints_tokens_of_tasks_and_agents() -> Outcome {
    let (place, mallory) = hers().await?;
    let task = place.start("task", "read", json!({})).await?;
    place.put("v1", "ServiceAccount", "builder", json!({})).await?;
    only_audited(&place, &mallory).await?;
    let made = pod(&mallory, &place, json!({"metadata": {"labels": {names::TASK_LABEL: "task"}}})).await?;
    let own_pod =
        json!({"kind": "Pod", "apiVersion": "v1", "name": made.body["metadata"]["name"], "uid": made.body["metadata"]["uid"]});
    let its_secret = json!({"kind": "Secret", "apiVersion": "v1", "name": owns(&task)});
    let accounts: Api<ServiceAccount> = Api::namespaced(mallory.clone(), &place.namespace);
    let mint = async |account: &str, spec: &Value| -> Result<_, kube::Error> {
        let request: TokenRequest = serde_json::from_value(json!({"spec": spec})).map_err(kube::Error::SerdeError)?;
        accounts.create_token_request(account, &PostParams::default(), &request).await
    };
    for spec in [
        json!({}),
        json!({"expirationSeconds": 600}),
        json!({"expirationSeconds": 3607}),
        json!({"audiences": ["https://cloud"]}),
        json!({"expirationSeconds": 600, "boundObjectRef": own_pod}),
        json!({"expirationSeconds": 600, "boundObjectRef": its_secret}),
    ] {
        for account in [owns(&task).as_str(), "mandate-agent-bot"] {
            refused(mint(account, &spec).await, "[task-token]");
        }
    }
    mint("builder", &json!({})).await.context("a token that is not Mandate's, where the policy only records")?;

    // Tokens that never end, by Secrets that Kubernetes fills.
    let legacy = |name: &str, account: &str| {
        let annotations = json!({"kubernetes.io/service-account.name": account});
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "annotations": annotations}, "type": "kubernetes.io/service-account-token"})
    };
    let path = place.path("v1", "secrets");
    let made = send(&mallory, "POST", &path, &legacy("builder-token", "builder")).await?;
    assert_eq!(made.code, 201, "{made:?}");
    for account in [owns(&task).as_str(), "mandate-agent-bot"] {
        let said = send(&mallory, "POST", &path, &legacy("endless", account)).await?;
        assert!(said.code == 403 && said.message().contains("[task-token]"), "{said:?}");
        let annotations = &legacy("", account)["metadata"]["annotations"];
        let said =
            send(&mallory, "PATCH", &format!("{path}/builder-token"), &json!({"metadata": {"annotations": annotations}})).await?;
        assert!(said.code == 403 && said.message().contains("[task-token]"), "{said:?}");
    }
    Ok(())
}

/// What the tenant reaches directly, with no task between.
#[tokio::test]
async fn the_role_of_a_tenant_ends_at_the_namespace() -> Outcome {
    let (_, mallory) = hers().await?;
    let theirs = Place::fresh().await?;
    let (there, home) = (theirs.namespace.as_str(), crate::bed::mandate::NAMESPACE);
    for namespace in [there, home] {
        denied::<Secret>(&mallory, namespace).await;
        denied::<RoleBinding>(&mallory, namespace).await;
        denied::<AgentTask>(&mallory, namespace).await;
        let accounts: Api<ServiceAccount> = Api::namespaced(mallory.clone(), namespace);
        let token = accounts.create_token_request("mandate-controller", &PostParams::default(), &TokenRequest::default()).await;
        assert_eq!(code(token), 403);
    }
    let policies: Api<ClusterAgentPolicy> = Api::all(mallory.clone());
    assert_eq!(code(policies.list(&ListParams::default()).await), 403);
    Ok(())
}

async fn denied<K>(client: &Client, namespace: &str)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    assert_eq!(code(api.list(&ListParams::default()).await), 403, "{} in {namespace}", K::kind(&()));
    assert_eq!(code(api.delete("any", &DeleteParams::default()).await), 403, "{} in {namespace}", K::kind(&()));
}
