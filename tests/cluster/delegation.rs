//! Tasks below others: what a child holds, who may ask for one, and with whom it ends.

use std::time::Duration;

use anyhow::Context as _;
use kube::api::{DeleteParams, ListParams};
use mandate::api::{AgentIdentity, AgentTask, Phase, TaskScope};
use serde_json::{Value, json};

use crate::place::{Outcome, Place, rule, shared, status};

/// Agents `lead` and `writer`, and the scope `lead`, which reads both ConfigMaps and delegates to
/// the writer; beside it `read`, which reads the ledger alone.
async fn place_with(delegation: Value) -> anyhow::Result<Place<'static>> {
    let place = Place::fresh().await?;
    for agent in ["lead", "writer"] {
        place.put_agent(agent, json!({})).await?;
        place.agent_ready(agent).await?;
    }
    let rules = json!([rule("get", "configmaps", &["ledger"]), rule("get", "configmaps", &["report"])]);
    place.scope("lead", json!({"kubernetes": {"rules": rules}, "delegation": delegation})).await?;
    place.scope_to_read("read").await?;
    Ok(place)
}

async fn place() -> anyhow::Result<Place<'static>> {
    place_with(json!({"to": ["writer"]})).await
}

fn below(parent: &str) -> Value {
    json!({"agent": "writer", "parent": parent})
}

/// Alice's task of the lead.
async fn lead(place: &Place<'_>, name: &str) -> anyhow::Result<AgentTask> {
    place.start(name, "lead", json!({"agent": "lead"})).await
}

/// Asks for a child that is refused.
async fn refused(place: &Place<'_>, name: &str, scope: &str, spec: Value, reason: &str, words: &str) -> anyhow::Result<()> {
    place.ask(name, scope, spec).await?;
    let task = place.in_phase(name, Phase::Refused).await?;
    let status = status(&task);
    let said = status.conditions.iter().find(|condition| condition.type_ == "Stalled").context("a reason")?;
    assert_eq!(status.reason.as_deref(), Some(reason), "{}", said.message);
    assert!(said.message.contains(words), "{}", said.message);
    Ok(())
}

#[tokio::test]
async fn a_child_works_inside_of_its_parent_and_names_it() -> Outcome {
    let place = place().await?;
    let parent = lead(&place, "lead").await?;
    let mut spec = below("lead");
    spec["ttl"] = json!("1h");
    let child = place.start("child", "read", spec).await?;
    let bearer = place.bearer(&child).await?;
    assert_eq!((bearer.get("ledger").await, bearer.get("report").await), (200, 403));
    let of_child = status(&child);
    let [link] = of_child.chain.as_slice() else { panic!("{of_child:?}") };
    assert_eq!((link.task.as_str(), Some(&link.uid), link.agent.as_str()), ("lead", parent.metadata.uid.as_ref(), "lead"));
    assert_eq!(of_child.expires_at, status(&parent).expires_at, "it would outlive its parent");
    assert!(status(&parent).chain.is_empty());
    Ok(())
}

#[tokio::test]
async fn what_a_parent_cannot_give_is_refused_with_its_reason() -> Outcome {
    let place = place().await?;
    place.agent(json!({})).await?;
    place.scope("wide", json!({"kubernetes": {"rules": [rule("patch", "configmaps", &["report"])]}})).await?;
    lead(&place, "lead").await?;
    let words = "would hold `patch configmaps/report`, which its parent `lead` does not";
    refused(&place, "wider", "wide", below("lead"), "BeyondParent", words).await?;
    let of_bot = json!({"agent": "bot", "parent": "lead"});
    refused(&place, "of-bot", "read", of_bot, "NotDelegable", "delegates to writer, not to `bot`").await?;
    // A scope without `delegation` has no children.
    place.start("reader", "read", json!({"agent": "lead"})).await?;
    refused(&place, "below-reader", "read", below("reader"), "NotDelegable", "delegates to nobody").await?;
    Ok(())
}

#[tokio::test]
async fn a_chain_is_no_deeper_and_no_wider_than_every_scope_above_allows() -> Outcome {
    let place = place_with(json!({"to": ["writer", "lead"], "maxChildren": 1})).await?;
    lead(&place, "root").await?;
    place.start("middle", "lead", json!({"agent": "lead", "parent": "root"})).await?;
    refused(&place, "leaf", "read", below("middle"), "TooDeep", "2 levels below a task of TaskScope `lead`, which allows 1")
        .await?;
    refused(&place, "second", "read", below("root"), "TooManyChildren", "as many children as TaskScope `lead` allows (1)")
        .await?;
    place.change::<TaskScope>("lead", json!({"spec": {"delegation": {"maxDepth": 2}}})).await?;
    place.end("middle", "Completed").await?;
    place.in_phase("middle", Phase::Ended).await?;
    place.start("middle-2", "lead", json!({"agent": "lead", "parent": "root"})).await?;
    let leaf = place.start("leaf-2", "read", below("middle-2")).await?;
    let names: Vec<String> = status(&leaf).chain.into_iter().map(|link| link.task).collect();
    assert_eq!(names, ["root", "middle-2"]);
    Ok(())
}

#[tokio::test]
async fn a_foreigner_starts_no_child_without_the_verb_delegate() -> Outcome {
    let place = place().await?;
    lead(&place, "lead").await?;
    let bob = place.bed.user("bob", &[])?;
    let asks = json!([rule("create", "agenttasks.mandate.dev", &[]), rule("use", "taskscopes.mandate.dev", &["read"])]);
    place.allow("bob", &asks).await?;
    place.ask_as(&bob, "foreign", "read", below("lead"), false).await?;
    let task = place.in_phase("foreign", Phase::Refused).await?;
    assert_eq!(status(&task).reason.as_deref(), Some("DelegationNotAllowed"), "{:?}", status(&task));
    place
        .allow(
            "bob",
            &json!([
                rule("create", "agenttasks.mandate.dev", &[]),
                rule("use", "taskscopes.mandate.dev", &["read"]),
                rule("delegate", "agenttasks.mandate.dev", &["lead"]),
            ]),
        )
        .await?;
    place.until_allowed("bob", &rule("delegate", "agenttasks.mandate.dev", &["lead"]), true).await?;
    place.ask_as(&bob, "trusted", "read", below("lead"), false).await?;
    place.active("trusted").await?;
    Ok(())
}

#[tokio::test]
async fn a_child_that_comes_before_its_parent_waits_for_it() -> Outcome {
    let place = place().await?;
    place.ask("child", "read", below("lead")).await?;
    place.with_reason("child", "ParentNotFound").await?;
    lead(&place, "lead").await?;
    place.active("child").await?;
    Ok(())
}

/// A root, its child and its grandchild, all running.
async fn three(place: &Place<'_>) -> anyhow::Result<crate::place::Bearer> {
    place.change::<TaskScope>("lead", json!({"spec": {"delegation": {"to": ["writer", "lead"], "maxDepth": 2}}})).await?;
    lead(place, "root").await?;
    place.start("middle", "lead", json!({"agent": "lead", "parent": "root"})).await?;
    let leaf = place.start("leaf", "read", below("middle")).await?;
    place.bearer(&leaf).await
}

async fn ended_with_its_parent(place: &Place<'_>, name: &str) -> anyhow::Result<()> {
    let task = place.in_phase(name, Phase::Ended).await?;
    assert_eq!(status(&task).reason.as_deref(), Some("ParentEnded"), "{name}");
    Ok(())
}

#[tokio::test]
async fn whatever_stands_below_a_task_ends_with_it() -> Outcome {
    let place = place().await?;
    let leaf = three(&place).await?;
    place.end("root", "Revoked").await?;
    let lost = leaf.loses("ledger").await?;
    assert!(lost < Duration::from_secs(1), "the leaf had its authority for {lost:?} after its root's end");
    for name in ["middle", "leaf"] {
        ended_with_its_parent(&place, name).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_suspension_of_an_agent_ends_the_children_of_its_tasks() -> Outcome {
    let place = place().await?;
    lead(&place, "lead").await?;
    let child = place.start("child", "read", below("lead")).await?;
    let bearer = place.bearer(&child).await?;
    place.change::<AgentIdentity>("lead", json!({"spec": {"suspend": true}})).await?;
    let lost = bearer.loses("ledger").await?;
    assert!(lost < Duration::from_secs(1), "{lost:?}");
    ended_with_its_parent(&place, "child").await?;
    Ok(())
}

#[tokio::test]
async fn a_parent_made_anew_under_its_name_does_not_carry_the_child() -> Outcome {
    let place = place().await?;
    lead(&place, "lead").await?;
    place.start("child", "read", below("lead")).await?;
    let tasks = place.api::<AgentTask>();
    tasks.delete("lead", &DeleteParams::background()).await?;
    crate::place::until("the parent to be gone", || async { tasks.get_opt("lead").await.ok()?.is_none().then_some(()) }).await?;
    lead(&place, "lead").await?;
    ended_with_its_parent(&place, "child").await?;
    let bound = place.api::<k8s_openapi::api::rbac::v1::RoleBinding>();
    let bound = bound.list_metadata(&ListParams::default().labels("mandate.dev/task=child")).await?;
    assert_eq!(bound.items.len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_child_shrinks_with_its_parent() -> Outcome {
    let place = place().await?;
    place
        .scope(
            "both",
            json!({"kubernetes": {"rules": [rule("get", "configmaps", &["ledger"]), rule("get", "configmaps", &["report"])]}}),
        )
        .await?;
    lead(&place, "lead").await?;
    let child = place.start("child", "both", below("lead")).await?;
    let bearer = place.bearer(&child).await?;
    assert_eq!((bearer.get("ledger").await, bearer.get("report").await), (200, 200));
    let less = json!({"spec": {"kubernetes": {"rules": [rule("get", "configmaps", &["ledger"])]}}});
    place.change::<TaskScope>("lead", less).await?;
    place.with_reason("child", "Narrowed").await?;
    bearer.loses("report").await?;
    crate::place::until("the child to read what is left", || async { (bearer.get("ledger").await == 200).then_some(()) }).await?;
    Ok(())
}

#[tokio::test]
async fn the_command_line_starts_children_and_shows_the_tree() -> Outcome {
    let place = place().await?;
    lead(&place, "lead").await?;
    shared().await?;
    let alice = place.bed.user_kubeconfig("alice", &["team"])?;
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mandate"));
        command.args(["task", args[0], "--kubeconfig"]).arg(&alice).args(["-n", &place.namespace]).args(&args[1..]);
        command.output()
    };
    let started =
        run(&["start", "--parent", "lead", "--agent", "writer", "--scope", "read", "--objective", "o", "--name", "child"])?;
    assert!(started.status.success(), "{started:?}");
    assert!(String::from_utf8(started.stdout)?.contains("Below       lead\n"));
    let tree = run(&["tree"])?;
    let lines: Vec<String> = String::from_utf8(tree.stdout)?.lines().map(str::to_owned).collect();
    assert!(lines[1].starts_with("lead ") && lines[2].starts_with("└─ child "), "{lines:?}");
    assert!(lines[2].contains(" writer ") && lines[2].contains(" Active ") && lines[2].contains(" in "), "{lines:?}");
    Ok(())
}
