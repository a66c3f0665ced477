//! The controller dies by SIGKILL: between any two of its writes, while tasks run out, and as
//! one of several replicas. Whatever was begun is finished, and nothing is left over.
//!
//! A [`Gate`] stops each of many tasks at another of its writes, right before the API server
//! does it or right after; then the controller dies. So one death is a death at every point.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use mandate::api::{AgentTask, Phase, TaskScope};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::bed::Bed;
use crate::bed::mandate::{Mandate, NAMESPACE};
use crate::gate::{Fault, Gate, Then, When};
use crate::place::{CEILING, LIMIT, Outcome, Place, now, rule, send, status, until};
use crate::schemas::Schemas;

/// Every write until a task with rules and a token for somebody else is ready, but for its scope's
/// Role, which the first such task makes.
const START: [&str; 8] = [
    "PATCH agenttasks/status",
    "PATCH secrets",
    "POST events",
    "POST rolebindings",
    "POST secrets",
    "POST serviceaccounts",
    "POST serviceaccounts/token",
    "POST serviceaccounts/token",
];
/// Every write until it has ended.
const END: [&str; 6] = [
    "DELETE rolebindings",
    "DELETE secrets",
    "DELETE serviceaccounts",
    "PATCH agenttasks/status",
    "PATCH secrets",
    "POST events",
];
/// Every write until it is gone, where it is deleted.
const DELETION: [&str; 5] =
    ["DELETE rolebindings", "DELETE secrets", "DELETE serviceaccounts", "PATCH agenttasks", "PATCH secrets"];

/// One namespace for each test.
const NAMESPACES: [&str; 14] = [
    "writes",
    "role",
    "shrink",
    "older",
    "start",
    "start-end",
    "start-deleted",
    "end",
    "deletion",
    "lost-answers",
    "many",
    "replicas",
    "webhook",
    "unreadable",
];

/// A Mandate whose parts may be killed, by one test at a time.
pub async fn alone() -> Result<MutexGuard<'static, Mandate<'static>>> {
    static BED: OnceCell<Bed> = OnceCell::const_new();
    static MANDATE: OnceCell<Mutex<Mandate<'static>>> = OnceCell::const_new();
    let mandate = MANDATE.get_or_try_init(|| async {
        let bed = BED.get_or_try_init(|| Bed::start("crash")).await?;
        Ok::<_, anyhow::Error>(Mutex::new(Mandate::install(bed, &NAMESPACES, CEILING).await?))
    });
    let mut mandate = mandate.await?.lock().await;
    if !mandate.webhook.is_running() {
        mandate.restart_webhook(&[]).await?;
    }
    Ok(mandate)
}

/// A namespace of that Mandate with an agent and a scope, and a controller that goes through a
/// gate.
struct Scene {
    mandate: MutexGuard<'static, Mandate<'static>>,
    place: Place<'static>,
    gate: Gate,
}

impl Scene {
    async fn set(namespace: &str) -> Result<Self> {
        let mut mandate = alone().await?;
        let place = Place::on(mandate.bed(), namespace).await?;
        let gate = Gate::open(mandate.bed()).await?;
        mandate.controller.kill9().await?;
        mandate.restart_controller_by(&gate.kubeconfig).await?;
        place.agent(json!({"audiences": ["https://ledger"]})).await?;
        let credentials = json!([{"name": "ledger", "serviceAccountToken": {"audience": "https://ledger"}}]);
        let kubernetes = json!({"rules": [rule("get", "configmaps", &["ledger"])]});
        place.scope("both", json!({"kubernetes": kubernetes, "credentials": credentials})).await?;
        Ok(Self { mandate, place, gate })
    }

    /// Asks for tasks, all at once.
    async fn ask(&self, tasks: &[String], ttl: &str) -> Result<()> {
        try_join_all(tasks.iter().map(|task| self.place.ask(task, "both", json!({"ttl": ttl})))).await?;
        Ok(())
    }

    async fn end(&self, tasks: &[String]) -> Result<()> {
        try_join_all(tasks.iter().map(|task| self.place.end(task, "Completed"))).await?;
        Ok(())
    }

    async fn delete(&self, tasks: &[String]) -> Result<()> {
        let api: Api<AgentTask> = Api::namespaced(self.place.alice(), &self.place.namespace);
        let how = DeleteParams::background();
        try_join_all(tasks.iter().map(|task| api.delete(task, &how))).await?;
        Ok(())
    }

    /// Waits until every task here is in a phase.
    async fn all_in(&self, wanted: Phase) -> Result<()> {
        let tasks: Api<AgentTask> = self.place.api();
        let others = || async {
            let all = tasks.list(&ListParams::default()).await.ok()?;
            let others = all.items.into_iter().filter(|task| status(task).phase != Some(wanted));
            Some(others.map(|task| format!("{}: {:?}", task.name_any(), status(&task))).collect::<Vec<_>>())
        };
        let look = || async { others().await?.is_empty().then_some(()) };
        if let Err(error) = until(&format!("all tasks to be {wanted:?}"), look).await {
            anyhow::bail!("{error}; of the others {:#?}", others().await);
        }
        Ok(())
    }

    /// Waits until there is no task here any more.
    async fn all_gone(&self) -> Result<()> {
        let tasks: Api<AgentTask> = self.place.api();
        until("all tasks to be gone", || async { tasks.list(&ListParams::default()).await.ok()?.items.is_empty().then_some(()) })
            .await
    }

    /// Every task holds what it should.
    async fn all_work(&self, tasks: &[String]) -> Result<()> {
        self.all_in(Phase::Active).await?;
        for name in tasks {
            let task = self.place.active(name).await?;
            ensure!(self.place.bearer(&task).await?.get("ledger").await == 200, "{name} may not read the ledger");
            let ledger = self.place.credential(&task, "ledger").await?;
            ensure!(!ledger.is_empty() && status(&task).credentials.len() == 2, "{name} lacks a credential");
        }
        Ok(())
    }

    /// Nothing stands that a task owned, and no token works that was ever issued: not even one
    /// whose answer the controller did not live to hear.
    async fn nothing_is_left_of(&self, tokens: usize) -> Result<()> {
        self.place.nothing_left().await?;
        let issued = self.gate.tokens();
        ensure!(issued.len() >= tokens, "{} tokens went through the gate, not {tokens}", issued.len());
        for token in issued {
            until("a token to be dead", || async { (!token.works(&self.place.admin).await.ok()?).then_some(()) }).await?;
        }
        Ok(())
    }

    /// Kills the controller once every fault has happened.
    async fn die(&mut self) -> Result<()> {
        self.gate.all_happened().await?;
        self.mandate.controller.kill9().await?;
        self.gate.disarm();
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        self.mandate.restart_controller_by(&self.gate.kubeconfig.clone()).await
    }
}

/// One task for each side of each write.
fn faults(writes: usize, then: Then) -> Vec<(String, Fault)> {
    let sides = [(When::Before, "before"), (When::After, "after")];
    let points = sides.into_iter().flat_map(|side| (1..=writes).map(move |write| (side, write)));
    points.map(|((when, word), write)| (format!("{word}-{write:02}"), Fault { write, when, then })).collect()
}

fn names(faults: &[(String, Fault)]) -> Vec<String> {
    faults.iter().map(|(name, _)| name.clone()).collect()
}

/// The other tests die at each of these writes: where one is added, this fails first.
#[tokio::test]
async fn a_task_makes_the_writes_between_which_the_controller_is_killed() -> Outcome {
    let scene = Scene::set("writes").await?;
    let Scene { place, gate, .. } = &scene;
    let written = async |what: &str, count: usize| {
        until(&format!("{count} writes of {what}"), || async { (gate.writes(what).len() >= count).then_some(()) }).await?;
        let mut writes = gate.writes(what);
        writes.sort();
        gate.watch(what);
        Ok::<_, anyhow::Error>(writes)
    };
    for task in ["ended", "deleted"] {
        gate.watch(task);
        place.start(task, "both", json!({})).await?;
        assert_eq!(written(task, START.len()).await?, START);
    }
    place.end("ended", "Completed").await?;
    place.in_phase("ended", Phase::Ended).await?;
    assert_eq!(written("ended", END.len()).await?, END);
    scene.delete(&["deleted".into()]).await?;
    // A look that was due already may follow, and finds nothing left to take.
    let mut deletion = written("deleted", DELETION.len()).await?;
    deletion.dedup();
    assert_eq!(deletion, DELETION);
    scene.nothing_is_left_of(4).await?;
    Ok(())
}

#[tokio::test]
async fn killed_at_any_write_of_a_start_the_controller_finishes_it_when_it_comes_back() -> Outcome {
    let mut scene = Scene::set("start").await?;
    let faults = faults(START.len(), Then::Silence);
    let tasks = names(&faults);
    scene.gate.arm(faults);
    scene.ask(&tasks, "10m").await?;
    scene.die().await?;
    scene.restart().await?;
    scene.all_work(&tasks).await?;
    scene.end(&tasks).await?;
    scene.all_in(Phase::Ended).await?;
    scene.nothing_is_left_of(2 * tasks.len()).await?;
    Ok(())
}

#[tokio::test]
async fn killed_while_it_makes_the_role_of_a_scope_the_controller_finishes_when_it_comes_back() -> Outcome {
    let mut scene = Scene::set("role").await?;
    for (scope, when) in [("before", When::Before), ("after", When::After)] {
        let tasks = [format!("{scope}-1"), format!("{scope}-2")];
        try_join_all(tasks.iter().map(|task| scene.place.ask(task, scope, json!({"agent": "bot"})))).await?;
        // The text of nothing else that is written has this in it before the Role stands.
        scene.gate.arm([(format!("mandate-scope-{scope}-"), Fault { write: 1, when, then: Then::Silence })]);
        scene.place.scope_to_read(scope).await?;
        scene.die().await?;
        scene.restart().await?;
        for task in &tasks {
            let task = scene.place.active(task).await?;
            assert_eq!(scene.place.bearer(&task).await?.get("ledger").await, 200, "{}", task.name_any());
        }
        scene.end(&tasks).await?;
    }
    scene.all_in(Phase::Ended).await?;
    scene.nothing_is_left_of(4).await?;
    Ok(())
}

/// Every write until a task whose scope shrank holds less.
const SHRINKING: [&str; 4] = ["DELETE rolebindings", "PATCH agenttasks/status", "POST events", "POST rolebindings"];

#[tokio::test]
async fn killed_at_any_write_by_which_a_task_shrinks_the_controller_finishes_it_when_it_comes_back() -> Outcome {
    let mut scene = Scene::set("shrink").await?;
    let rules = |names: &[&str]| json!({"spec": {"kubernetes": {"rules": names.iter().map(|name| rule("get", "configmaps", &[name])).collect::<Vec<_>>()}}});
    scene.place.change::<TaskScope>("both", rules(&["ledger", "report"])).await?;
    let faults = faults(SHRINKING.len(), Then::Silence);
    let tasks = names(&faults);
    scene.ask(&tasks, "10m").await?;
    scene.all_work(&tasks).await?;
    let mut bearers = vec![];
    for task in &tasks {
        bearers.push(scene.place.bearer(&scene.place.active(task).await?).await?);
        assert_eq!(bearers[bearers.len() - 1].get("report").await, 200, "{task}");
    }
    scene.gate.arm(faults);
    scene.place.change::<TaskScope>("both", rules(&["ledger"])).await?;
    scene.die().await?;
    scene.restart().await?;
    for (task, bearer) in tasks.iter().zip(&bearers) {
        scene.place.with_reason(task, "Narrowed").await?;
        until(&format!("{task} to hold what is left"), || async {
            (bearer.get("report").await == 403 && bearer.get("ledger").await == 200).then_some(())
        })
        .await?;
    }
    let role = scene.place.role_of_scope("both").await?;
    scene.place.roles_are([role.as_str()]).await?;
    scene.end(&tasks).await?;
    scene.all_in(Phase::Ended).await?;
    scene.nothing_is_left_of(2 * tasks.len()).await?;
    Ok(())
}

/// A task as a version of Mandate has left it in which each had a Role of its own.
async fn make_older(place: &Place<'_>, task: &AgentTask) -> Result<()> {
    let controller = place.bed.token_client(&place.bed.service_account_token(NAMESPACE, "mandate-controller").await?)?;
    let owns = status(task).service_account.context("a ServiceAccount")?;
    let bindings: Api<RoleBinding> = Api::namespaced(controller.clone(), &place.namespace);
    let mut binding = bindings.get(&owns).await?;
    let meta = ObjectMeta { resource_version: None, uid: None, managed_fields: None, ..binding.metadata.clone() };
    let shared = place.api::<Role>().get(&binding.role_ref.name).await?;
    let role = Role { metadata: meta.clone(), rules: shared.rules };
    Api::<Role>::namespaced(controller, &place.namespace).create(&PostParams::default(), &role).await?;
    bindings.delete(&owns, &DeleteParams::default()).await?;
    binding.metadata = meta;
    binding.role_ref.name = owns;
    bindings.create(&PostParams::default(), &binding).await?;
    Ok(())
}

#[tokio::test]
async fn a_task_with_a_role_of_its_own_goes_on_when_a_controller_comes_that_gives_none() -> Outcome {
    let mut scene = Scene::set("older").await?;
    let both = json!([rule("get", "configmaps", &["ledger"]), rule("get", "configmaps", &["report"])]);
    scene.place.scope("wide", json!({"kubernetes": {"rules": both}})).await?;
    let tasks = [scene.place.start("kept", "both", json!({})).await?, scene.place.start("shrunk", "wide", json!({})).await?];
    scene.mandate.controller.kill9().await?;
    let mut before = vec![];
    for task in &tasks {
        make_older(&scene.place, task).await?;
        before.push(scene.place.api::<RoleBinding>().get(&status(task).service_account.unwrap_or_default()).await?);
    }
    assert_eq!(scene.place.owned().await?.len(), 8, "four of each task");
    scene.restart().await?;
    // Somebody is served, so everybody was looked at.
    scene.place.start("later", "both", json!({})).await?;
    let [kept, shrunk] = [scene.place.bearer(&tasks[0]).await?, scene.place.bearer(&tasks[1]).await?];
    assert_eq!((kept.get("ledger").await, shrunk.get("report").await), (200, 200));
    for binding in &before {
        let now = scene.place.api::<RoleBinding>().get(&binding.name_any()).await?;
        assert_eq!(now.metadata.uid, binding.metadata.uid, "it was bound anew");
    }
    let less = json!({"spec": {"kubernetes": {"rules": [rule("get", "configmaps", &["ledger"])]}}});
    scene.place.change::<TaskScope>("wide", less).await?;
    scene.place.with_reason("shrunk", "Narrowed").await?;
    assert_eq!((shrunk.get("ledger").await, shrunk.get("report").await), (200, 403));
    let names = ["kept", "shrunk", "later"].map(str::to_owned);
    scene.end(&names).await?;
    scene.all_in(Phase::Ended).await?;
    scene.nothing_is_left_of(3).await?;
    Ok(())
}

#[tokio::test]
async fn a_task_that_is_ended_while_its_start_was_cut_short_leaves_nothing() -> Outcome {
    let mut scene = Scene::set("start-end").await?;
    let faults = faults(START.len(), Then::Silence);
    let tasks = names(&faults);
    scene.gate.arm(faults);
    scene.ask(&tasks, "10m").await?;
    scene.die().await?;
    scene.end(&tasks).await?;
    scene.restart().await?;
    scene.all_in(Phase::Ended).await?;
    scene.nothing_is_left_of(tasks.len() / 2).await?;
    Ok(())
}

#[tokio::test]
async fn a_task_that_is_deleted_while_its_start_was_cut_short_leaves_nothing() -> Outcome {
    let mut scene = Scene::set("start-deleted").await?;
    let faults = faults(START.len(), Then::Silence);
    let tasks = names(&faults);
    scene.gate.arm(faults);
    scene.ask(&tasks, "10m").await?;
    scene.die().await?;
    scene.delete(&tasks).await?;
    scene.restart().await?;
    scene.all_gone().await?;
    scene.nothing_is_left_of(tasks.len() / 2).await?;
    Ok(())
}

#[tokio::test]
async fn killed_at_any_write_of_an_end_the_controller_finishes_it_when_it_comes_back() -> Outcome {
    let mut scene = Scene::set("end").await?;
    let faults = faults(END.len(), Then::Silence);
    let tasks = names(&faults);
    scene.ask(&tasks, "10m").await?;
    scene.all_work(&tasks).await?;
    scene.gate.arm(faults);
    scene.end(&tasks).await?;
    scene.die().await?;
    scene.restart().await?;
    scene.all_in(Phase::Ended).await?;
    scene.nothing_is_left_of(2 * tasks.len()).await?;
    Ok(())
}

#[tokio::test]
async fn killed_at_any_write_of_a_deletion_the_controller_finishes_it_when_it_comes_back() -> Outcome {
    let mut scene = Scene::set("deletion").await?;
    let faults = faults(DELETION.len(), Then::Silence);
    let tasks = names(&faults);
    scene.ask(&tasks, "10m").await?;
    scene.all_work(&tasks).await?;
    scene.gate.arm(faults);
    scene.delete(&tasks).await?;
    scene.die().await?;
    scene.restart().await?;
    scene.all_gone().await?;
    scene.nothing_is_left_of(2 * tasks.len()).await?;
    Ok(())
}

/// The controller lives, and hears of one write of each task that the API server is not
/// available: of half of them after it was done.
#[tokio::test]
async fn a_write_whose_answer_is_lost_is_made_again() -> Outcome {
    let scene = Scene::set("lost-answers").await?;
    // All but the Event, which nothing depends on, and which is not tried again.
    let of = |writes: &[&str]| faults(writes.len() - 1, Then::Error);
    let tasks = names(&of(&START));
    scene.gate.arm(of(&START));
    scene.ask(&tasks, "10m").await?;
    scene.gate.all_happened().await?;
    scene.all_work(&tasks).await?;
    let ended = names(&of(&END));
    scene.gate.arm(of(&END));
    scene.end(&tasks).await?;
    scene.gate.all_happened().await?;
    assert!(ended.iter().all(|task| tasks.contains(task)), "a task that was never started");
    scene.all_in(Phase::Ended).await?;
    scene.nothing_is_left_of(2 * tasks.len()).await?;
    Ok(())
}

#[tokio::test]
async fn tasks_whose_time_ran_out_while_no_controller_ran_all_end_when_one_is_back() -> Outcome {
    let mut scene = Scene::set("many").await?;
    let tasks: Vec<String> = (0..50).map(|number| format!("task-{number:02}")).collect();
    scene.ask(&tasks, "25s").await?;
    scene.all_work(&tasks).await?;
    scene.mandate.controller.kill9().await?;
    let all = scene.place.api::<AgentTask>().list(&ListParams::default()).await?.items;
    let last = all.iter().filter_map(|task| status(task).expires_at).max().map(|at| at.0);
    until("the last deadline to pass", || async { last.is_some_and(|last| now() > last).then_some(()) }).await?;
    // Nobody was there to take anything back.
    assert_eq!(scene.place.owned().await?.len(), 3 * tasks.len());
    scene.restart().await?;
    let back = Instant::now();
    scene.all_in(Phase::Ended).await?;
    let took = back.elapsed();
    assert!(took < Duration::from_secs(15), "it took {took:?}");
    for task in scene.place.api::<AgentTask>().list(&ListParams::default()).await?.items {
        assert_eq!(status(&task).reason.as_deref(), Some("Expired"), "{}", task.name_any());
    }
    scene.nothing_is_left_of(2 * tasks.len()).await?;
    Ok(())
}

/// Such as one that another version has stored.
#[tokio::test]
async fn an_object_that_cannot_be_read_counts_as_gone_and_keeps_nothing_else_from_going_on() -> Outcome {
    let mut scene = Scene::set("unreadable").await?;
    let place = &scene.place;
    place.put_agent("odd", json!({})).await?;
    place.agent_ready("odd").await?;
    place.start("good", "both", json!({})).await?;
    place.scope_to_read("read").await?;
    let odd = place.bearer(&place.start("odd", "read", json!({"agent": "odd"})).await?).await?;
    let schemas = Schemas::away(&place.admin, &["AgentIdentity", "AgentPolicy"]).await?;
    place.put("mandate.dev/v1alpha1", "AgentPolicy", "odd", json!({"spec": {"mode": "dream"}})).await?;
    let path = format!("{}/odd", place.path("mandate.dev/v1alpha1", "agentidentities"));
    let changed = send(&place.admin, "PATCH", &path, &json!({"spec": {"owner": null, "purpose": 7}})).await?;
    assert_eq!(changed.code, 200, "{}", changed.message());

    odd.loses("ledger").await?;
    let task = place.in_phase("odd", Phase::Ended).await?;
    assert_eq!(status(&task).reason.as_deref(), Some("AgentDeleted"));
    // Whoever starts now meets them in its first list.
    scene.mandate.controller.kill9().await?;
    scene.restart().await?;
    let place = &scene.place;
    place.start("later", "both", json!({})).await?;
    scene.end(&["good".into(), "later".into()]).await?;
    scene.all_in(Phase::Ended).await?;
    scene.nothing_is_left_of(5).await?;
    for (resource, name) in [("agentidentities", "odd"), ("agentpolicies", "odd")] {
        let path = format!("{}/{name}", scene.place.path("mandate.dev/v1alpha1", resource));
        assert_eq!(send(&scene.place.admin, "DELETE", &path, &json!(null)).await?.code, 200, "{resource}");
    }
    schemas.back(&scene.place.admin).await?;
    Ok(())
}

/// Who holds the Lease of the controllers.
async fn holder(leases: &Api<Lease>) -> Option<String> {
    leases.get_opt("mandate-controller").await.ok()??.spec?.holder_identity
}

#[tokio::test]
async fn when_the_controller_that_works_is_killed_another_replica_takes_over() -> Outcome {
    let mut scene = Scene::set("replicas").await?;
    scene.mandate.controller.kill9().await?;
    let kubeconfig: PathBuf = scene.gate.kubeconfig.clone();
    let mut first = scene.mandate.start_replica(&kubeconfig).await?;
    let second = scene.mandate.start_replica(&kubeconfig).await?;
    let task = scene.place.start("task", "both", json!({})).await?;
    let bearer = scene.place.bearer(&task).await?;
    let leases: Api<Lease> = Api::namespaced(scene.place.admin.clone(), NAMESPACE);
    let before = holder(&leases).await;
    assert!(second.log().contains("standing by"), "two work at once:\n{}", second.log());

    first.kill9().await?;
    let dead = Instant::now();
    scene.place.end("task", "Completed").await?;
    until("another replica to hold the lease", || async { holder(&leases).await.filter(|new| Some(new) != before.as_ref()) })
        .await?;
    // It waits 15 s after the last sign of life, and looks every 2 s.
    assert!(dead.elapsed() < Duration::from_secs(20), "it took {:?}", dead.elapsed());
    bearer.loses("ledger").await?;
    scene.place.in_phase("task", Phase::Ended).await?;

    // Somebody who takes the Lease away ends the one that works: it must not go on beside them.
    let mut second = second;
    let taken = json!({"spec": {"holderIdentity": "somebody-else", "renewTime": null}});
    leases.patch("mandate-controller", &PatchParams::default(), &Patch::Merge(taken)).await?;
    let how = second.ended(LIMIT).await?;
    assert!(!how.success() && second.log().contains("the lease was lost"), "{how}:\n{}", second.log_tail(5));
    leases.delete("mandate-controller", &DeleteParams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn a_controller_that_cannot_renew_its_lease_ends() -> Outcome {
    let mut scene = Scene::set("replicas").await?;
    scene.mandate.controller.kill9().await?;
    let kubeconfig: PathBuf = scene.gate.kubeconfig.clone();
    let mut cut_off = scene.mandate.start_replica(&kubeconfig).await?;
    scene.gate.shut();
    let how = cut_off.ended(LIMIT).await?;
    assert!(!how.success() && cut_off.log().contains("the lease was lost"), "{how}:\n{}", cut_off.log_tail(5));
    let leases: Api<Lease> = Api::namespaced(scene.place.admin.clone(), NAMESPACE);
    leases.delete("mandate-controller", &DeleteParams::default()).await?;
    Ok(())
}
