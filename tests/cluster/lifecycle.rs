//! A task from its request to the last of its authority gone.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join_all;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use mandate::api::{AgentIdentity, AgentTask, ClusterAgentPolicy, Phase, TaskScope, names};
use serde_json::{Value, json};

use crate::bed::mandate::NAMESPACE;
use crate::place::{
    Outcome, Place, SECRET, VAULT, code, condition, controller, merge, now, refusal, role_of, rule, shared, status, until,
};

#[tokio::test]
async fn a_task_holds_what_its_scope_gives_and_nothing_else() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    let task = place.start("reader", "read", json!({})).await?;
    assert_eq!(condition(&task, "Ready").as_deref(), Some("True Issued"));
    assert_eq!((condition(&task, "Stalled"), condition(&task, "Reconciling")), (None, None));

    let reader = place.bearer(&task).await?;
    assert_eq!(reader.get("ledger").await, 200, "what the scope gives");
    assert_eq!(reader.get("report").await, 403, "another object");
    assert_eq!(reader.patch("ledger").await, 403, "another verb");
    assert_eq!(reader.list().await, 403, "all objects");
    assert_eq!(code(Api::<Secret>::namespaced(reader.client.clone(), &place.namespace).list(&ListParams::default()).await), 403);
    assert_eq!(code(Api::<AgentTask>::namespaced(reader.client.clone(), &place.namespace).get("reader").await), 403);
    let accounts: Api<ServiceAccount> = Api::namespaced(reader.client.clone(), &place.namespace);
    let account = status(&task).service_account.unwrap_or_default();
    let more = accounts.create_token_request(&account, &PostParams::default(), &TokenRequest::default()).await;
    assert_eq!(code(more), 403, "a task renews its own token");
    let elsewhere = Api::<k8s_openapi::api::core::v1::ConfigMap>::namespaced(reader.client.clone(), "default");
    assert_eq!(code(elsewhere.get("kube-root-ca.crt").await), 403, "another namespace");
    Ok(())
}

#[tokio::test]
async fn no_token_shows_in_a_status_an_event_or_a_log() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    let task = place.start("reader", "read", json!({})).await?;
    let token = place.bearer(&task).await?.token;
    let told =
        until("an Event about the task", || async { place.events("reader").await.ok().filter(|events| !events.is_empty()) })
            .await?;
    assert!(told[0].starts_with("Issued: authority issued until "), "{told:?}");

    let mandate = shared().await?;
    let shown = [serde_json::to_string(&task)?, told.join(" "), mandate.controller.log(), mandate.webhook.log()];
    let signature = token.rsplit('.').next().context("a token has a signature")?;
    for text in shown {
        assert!(!text.contains(signature) && !text.contains("eyJ"), "a token shows: {text}");
    }
    let credential = &status(&task).credentials[0];
    assert_eq!((credential.name.as_str(), credential.audience.as_deref()), ("kubernetes", None));
    assert!(credential.token_id.as_ref().is_some_and(|id| !id.is_empty()), "nothing tells which token it was");
    assert!(credential.expires_at.as_ref().is_some_and(|at| at.0 > now()), "nothing tells how long it lives");
    Ok(())
}

#[tokio::test]
async fn two_tasks_of_one_agent_hold_different_rights() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    place.scope("write", json!({"kubernetes": {"rules": [rule("patch", "configmaps", &["report"])]}})).await?;
    let (reads, writes) = (place.start("reads", "read", json!({})).await?, place.start("writes", "write", json!({})).await?);
    let (reader, writer) = (place.bearer(&reads).await?, place.bearer(&writes).await?);
    assert_eq!((reader.get("ledger").await, reader.patch("report").await), (200, 403));
    assert_eq!((writer.get("ledger").await, writer.patch("report").await), (403, 200));
    assert_ne!(status(&reads).service_account, status(&writes).service_account);
    Ok(())
}

#[tokio::test]
async fn a_narrowed_task_holds_less_than_its_scope() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({"audiences": ["https://ledger", "https://crm"]})).await?;
    let tokens = json!([
        {"name": "ledger", "serviceAccountToken": {"audience": "https://ledger"}},
        {"name": "crm", "serviceAccountToken": {"audience": "https://crm"}},
    ]);
    place.scope("wide", json!({"kubernetes": {"rules": [rule("get", "configmaps", &[])]}, "credentials": tokens})).await?;
    let narrow = json!({"narrow": {"rules": [rule("get", "configmaps", &["ledger"])], "credentials": ["kubernetes", "crm"]}});
    let task = place.start("narrow", "wide", narrow).await?;
    let bearer = place.bearer(&task).await?;
    assert_eq!((bearer.get("ledger").await, bearer.get("report").await), (200, 403));
    let names: Vec<String> = status(&task).credentials.into_iter().map(|credential| credential.name).collect();
    assert_eq!(names, ["crm", "kubernetes"]);
    assert!(place.credential(&task, "ledger").await.is_err(), "a credential that was left out is issued");

    let nothing = place.start("nothing", "wide", json!({"narrow": {"rules": [], "credentials": []}})).await?;
    assert_eq!(status(&nothing).credentials, []);
    let bound = place.api::<RoleBinding>().list_metadata(&ListParams::default().labels("mandate.dev/task=nothing")).await?;
    assert_eq!(bound.items.len(), 0, "a task without rules is bound to a Role");
    // A Role of its own for what it was narrowed to, for as long as it runs.
    let (whole, narrowed) = (place.role_of_scope("wide").await?, role_of(&task));
    assert_ne!(whole, narrowed);
    place.roles_are([whole.as_str(), &narrowed]).await?;
    place.end("narrow", "Completed").await?;
    place.roles_are([whole.as_str()]).await?;
    Ok(())
}

#[tokio::test]
async fn tasks_of_one_scope_share_a_role_and_no_authority() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.put_agent("other", json!({})).await?;
    place.agent_ready("other").await?;
    place.scope_to_read("read").await?;
    let tasks = [("ended", "bot"), ("deleted", "bot"), ("suspended", "other"), ("kept", "bot")];
    let mut bearers = vec![];
    for (name, agent) in tasks {
        let task = place.start(name, "read", json!({"agent": agent})).await?;
        assert_eq!(role_of(&task), place.role_of_scope("read").await?, "{name}");
        bearers.push(place.bearer(&task).await?);
    }
    place.end("ended", "Completed").await?;
    place.api::<AgentTask>().delete("deleted", &DeleteParams::background()).await?;
    place.change::<AgentIdentity>("other", json!({"spec": {"suspend": true}})).await?;
    for ended in &bearers[..3] {
        let lost = ended.loses("ledger").await?;
        assert!(lost < Duration::from_secs(1), "{lost:?}");
    }
    place.in_phase("ended", Phase::Ended).await?;
    place.in_phase("suspended", Phase::Ended).await?;
    assert_eq!(bearers[3].get("ledger").await, 200, "the one that goes on lost its authority too");
    // What is left of the others is the Role.
    until("the others to leave nothing", || async { (place.owned().await.ok()?.len() == 3).then_some(()) }).await?;
    assert_eq!(place.roles().await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_role_of_a_scope_is_made_ahead_and_goes_when_nobody_needs_it() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    let rules = |names: &[&str]| json!({"kubernetes": {"rules": [rule("get", "configmaps", names)]}});
    place.scope("scope", rules(&["ledger"])).await?;
    let first = place.role_of_scope("scope").await?;
    place.start("task", "scope", json!({})).await?;
    // What the task holds is within what the scope grants now, so that it keeps all of it.
    place.change::<TaskScope>("scope", json!({"spec": rules(&["ledger", "report"])})).await?;
    let second = place.role_of_scope("scope").await?;
    let bearer = place.bearer(&place.start("later", "scope", json!({})).await?).await?;
    assert_eq!(bearer.get("report").await, 200);
    place.roles_are([first.as_str(), &second]).await?;
    place.end("task", "Completed").await?;
    place.roles_are([second.as_str()]).await?;
    // The same rules once more are the same Role.
    place.change::<TaskScope>("scope", json!({"spec": rules(&["ledger"])})).await?;
    assert_eq!(place.role_of_scope("scope").await?, first);
    bearer.loses("report").await?;
    let later = place.with_reason("later", "Narrowed").await?;
    assert_eq!((role_of(&later), bearer.get("ledger").await), (first.clone(), 200));
    place.roles_are([first.as_str()]).await?;
    place.api::<TaskScope>().delete("scope", &DeleteParams::default()).await?;
    place.in_phase("later", Phase::Ended).await?;
    place.roles_are([]).await?;
    Ok(())
}

/// A task that must not be, and why.
struct Refusal {
    reason: &'static str,
    words: &'static str,
    agent: &'static str,
    task: Value,
    scope: Value,
}

fn refusals() -> Vec<Refusal> {
    let reads = || json!({"kubernetes": {"rules": [rule("get", "configmaps", &["ledger"])]}});
    let with = |task: Value, scope: Value, agent, reason, words| Refusal { reason, words, agent, task, scope };
    let credential = |kind: &str, content: Value| json!({"credentials": [{"name": "extra", kind: content}]});
    vec![
        with(json!({"ttl": "30m"}), json!({"maxTTL": "20m"}), "bot", "TtlTooLong", "TaskScope"),
        with(json!({"ttl": "50m"}), json!({}), "brief", "TtlTooLong", "AgentIdentity `brief` allows `40m` at most"),
        with(
            json!({}),
            credential("serviceAccountToken", json!({"audience": "https://elsewhere"})),
            "bot",
            "AudienceNotAllowed",
            "`https://elsewhere`",
        ),
        with(
            json!({}),
            credential("secretKey", json!({"secretName": "crm", "key": "token"})),
            "bot",
            "SecretKeyNotAllowed",
            "no ClusterAgentPolicy allows that",
        ),
        with(
            json!({"narrow": {"rules": [rule("list", "configmaps", &["ledger"])]}}),
            reads(),
            "bot",
            "NarrowingTooWide",
            "`list configmaps/ledger`",
        ),
        with(
            json!({"narrow": {"rules": [rule("get", "configmaps", &[])]}}),
            reads(),
            "bot",
            "NarrowingTooWide",
            "`get configmaps`",
        ),
        with(
            json!({"narrow": {"credentials": ["other"]}}),
            reads(),
            "bot",
            "NarrowingTooWide",
            "spec.narrow.credentials names `other`",
        ),
        // Carol's own request, of an agent that acts for the group `team` and for dave.
        with(json!({"onBehalfOf": {"user": "carol"}}), reads(), "bot", "PersonNotAllowed", "agent `bot` may not act for `carol`"),
        with(json!({"onBehalfOf": {"user": "dave"}}), reads(), "bot", "PersonNotAllowed", "it takes the verb `act-for`"),
        // Alice may read the ledger and not the report.
        with(
            json!({"onBehalfOf": {"user": "alice"}}),
            json!({"kubernetes": {"rules": [rule("get", "configmaps", &["ledger"]), rule("get", "configmaps", &["report"])]}}),
            "bot",
            "PersonLacksPermission",
            "`alice` may not `get configmaps/report`",
        ),
    ]
}

/// The controller asks again what the webhook has asked: here the tasks are there first, and
/// what refuses them comes later.
#[tokio::test]
async fn a_task_that_must_not_be_is_refused_with_its_reason_and_leaves_nothing() -> Outcome {
    let place = Place::fresh().await?;
    agents(&place).await?;
    let all = refusals();
    let each = all.iter().enumerate().map(|(number, case)| {
        let place = &place;
        async move {
            let name = format!("case-{number}");
            let mut spec = case.task.clone();
            merge(&mut spec, json!({"agent": case.agent}));
            place.ask(&name, &name, spec).await?;
            place.with_reason(&name, "ScopeNotFound").await?;
            place.scope(&name, case.scope.clone()).await?;
            let task = place
                .in_phase(&name, Phase::Refused)
                .await
                .with_context(|| format!("wanted {} for {}", case.reason, case.task))?;
            let reason = status(&task).reason.unwrap_or_default();
            assert_eq!(reason, case.reason, "{}: {:?}", case.task, status(&task).conditions);
            assert_eq!(condition(&task, "Ready"), Some(format!("False {reason}")));
            assert_eq!(condition(&task, "Stalled"), Some(format!("True {reason}")));
            let words = status(&task).conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.message).unwrap_or_default();
            assert!(words.contains(case.words), "{reason}: {words}");
            Ok::<_, anyhow::Error>(())
        }
    });
    try_join_all(each).await?;
    place.ask("suspended", "missing", json!({})).await?;
    place.with_reason("suspended", "ScopeNotFound").await?;
    place.change::<AgentIdentity>("bot", json!({"spec": {"suspend": true}})).await?;
    let task = place.in_phase("suspended", Phase::Refused).await?;
    assert_eq!(condition(&task, "Stalled").as_deref(), Some("True AgentSuspended"));
    assert_eq!(place.owned().await?, [""; 0], "a refused task left something");
    Ok(())
}

#[tokio::test]
async fn a_task_that_must_not_be_is_refused_to_its_author_at_once() -> Outcome {
    let place = Place::fresh().await?;
    agents(&place).await?;
    let all = refusals();
    let each = all.iter().enumerate().map(|(number, case)| {
        let place = &place;
        async move {
            let name = format!("case-{number}");
            place.scope(&name, case.scope.clone()).await?;
            let mut spec = case.task.clone();
            merge(&mut spec, json!({"agent": case.agent}));
            let alice = place.alice();
            // Until the webhook has heard of the scope, the task is let in to wait for it.
            let status = place.refused(case.reason, || place.ask_as(&alice, &name, &name, spec.clone(), true)).await?;
            assert_eq!(status.code, 403, "{}", status.message);
            assert!(
                status.message.contains("[task-refused]") && status.message.contains(case.words),
                "{}: {}",
                case.reason,
                status.message
            );
            Ok::<_, anyhow::Error>(())
        }
    });
    try_join_all(each).await?;
    place.change::<AgentIdentity>("bot", json!({"spec": {"suspend": true}})).await?;
    let status =
        place.refused("a task of a suspended agent", || place.ask_as(&place.admin, "late", "missing", json!({}), true)).await?;
    assert!(status.message.contains("agent `bot` is suspended by team"), "{}", status.message);
    Ok(())
}

/// `bot` acts for the group `team` and for dave, tasks of `brief` live 40 min at most.
async fn agents(place: &Place<'_>) -> anyhow::Result<()> {
    place.put_agent("bot", json!({"actsFor": {"groups": ["team"], "users": ["dave"]}})).await?;
    place.put_agent("brief", json!({"maxTTL": "40m"})).await?;
    try_join_all(["bot", "brief"].map(|agent| place.agent_ready(agent))).await?;
    Ok(())
}

#[tokio::test]
async fn whoever_may_not_use_a_scope_gets_no_task_with_it() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    let bob = place.bed.user("bob", &["team"])?;
    let asks = json!([rule("create", "agenttasks.mandate.dev", &[]), rule("use", "taskscopes.mandate.dev", &["other"])]);
    place.allow("bob", &asks).await?;
    place.ask_as(&bob, "early", "read", json!({}), false).await?;
    place.scope_to_read("read").await?;
    let task = place.in_phase("early", Phase::Refused).await?;
    assert_eq!(status(&task).reason.as_deref(), Some("ScopeNotAllowed"));
    let status = place.refused("bob's task", || place.ask_as(&bob, "late", "read", json!({}), true)).await?;
    assert!(status.message.contains("`bob` may not use TaskScope `read`"), "{}", status.message);
    Ok(())
}

#[tokio::test]
async fn a_task_acts_for_those_whom_its_agent_and_its_requester_may_act_for() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({"actsFor": {"groups": ["team"], "users": ["dave"]}})).await?;
    place.scope_to_read("read").await?;
    let own = place.start("own", "read", json!({"onBehalfOf": {"user": "alice"}})).await?;
    assert_eq!(place.bearer(&own).await?.get("ledger").await, 200);

    // The ticket system may have agents act for dave; dave may read the ledger himself.
    let tickets = json!([
        rule("create", "agenttasks.mandate.dev", &[]),
        rule("use", "taskscopes.mandate.dev", &[]),
        rule("act-for", "users.mandate.dev", &["dave"])
    ]);
    place.allow("tickets", &tickets).await?;
    let by_tickets = place.bed.user("tickets", &[])?;
    let status = place
        .refused("a task for dave", || {
            place.ask_as(&by_tickets, "for-dave", "read", json!({"onBehalfOf": {"user": "dave"}}), true)
        })
        .await?;
    assert!(status.message.contains("`dave` may not `get configmaps/ledger`"), "{}", status.message);
    place.allow("dave", &json!([rule("get", "configmaps", &["ledger"])])).await?;
    place.ask_as(&by_tickets, "for-dave", "read", json!({"onBehalfOf": {"user": "dave"}}), false).await?;
    let task = place.active("for-dave").await?;
    assert_eq!(task.spec.requested_by.map(|requester| requester.username).as_deref(), Some("tickets"));

    let eve = refusal(place.ask_as(&by_tickets, "for-eve", "read", json!({"onBehalfOf": {"user": "eve"}}), true).await)?;
    assert!(eve.message.contains("agent `bot` may not act for `eve`"), "{}", eve.message);
    Ok(())
}

async fn token_review(place: &Place<'_>, token: &str, audience: &str) -> anyhow::Result<Option<String>> {
    let review = TokenReview {
        spec: TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![audience.to_owned()]) },
        ..TokenReview::default()
    };
    let answer = Api::<TokenReview>::all(place.admin.clone()).create(&PostParams::default(), &review).await?;
    let status = answer.status.unwrap_or_default();
    Ok(status.user.filter(|_| status.authenticated == Some(true)).and_then(|user| user.username))
}

#[tokio::test]
async fn a_token_for_an_outside_audience_may_speak_in_the_agents_name_until_the_task_ends() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({"audiences": ["https://cloud", "https://ledger"]})).await?;
    let credentials = json!([
        {"name": "cloud", "serviceAccountToken": {"audience": "https://cloud", "subject": "identity"}},
        {"name": "ledger", "serviceAccountToken": {"audience": "https://ledger"}},
    ]);
    place.scope("outside", json!({"credentials": credentials})).await?;
    let task = place.start("outside", "outside", json!({})).await?;
    let (cloud, ledger) = (place.credential(&task, "cloud").await?, place.credential(&task, "ledger").await?);
    let user = |account: &str| Some(format!("system:serviceaccount:{}:{account}", place.namespace));
    assert_eq!(token_review(&place, &cloud, "https://cloud").await?, user("mandate-agent-bot"));
    assert_eq!(token_review(&place, &ledger, "https://ledger").await?, user(&status(&task).service_account.unwrap_or_default()));
    assert_eq!(token_review(&place, &cloud, "https://ledger").await?, None, "a token works for another audience");
    assert_eq!(code(place.bed.token_client(&cloud)?.apiserver_version().await), 401, "it works at the API server");

    place.end("outside", "Completed").await?;
    place.in_phase("outside", Phase::Ended).await?;
    for (token, audience) in [(&cloud, "https://cloud"), (&ledger, "https://ledger")] {
        until("the token to be dead", || async { token_review(&place, token, audience).await.ok()?.is_none().then_some(()) })
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_static_secret_is_handed_out_only_where_a_policy_and_the_installation_say_so() -> Outcome {
    let copies = json!({"credentials": [{"name": "crm", "secretKey": {"secretName": SECRET, "key": "token"}}]});
    let data = json!({"stringData": {"token": "s3cr3t-of-the-crm", "other": "never"}});
    let (named, unnamed) = (Place::named(VAULT).await?, Place::fresh().await?);
    for place in [&named, &unnamed] {
        place.agent(json!({})).await?;
        place.put("v1", "Secret", SECRET, data.clone()).await?;
        place.ask("early", "crm", json!({})).await?;
        place.scope("crm", copies.clone()).await?;
        let task = place.in_phase("early", Phase::Refused).await?;
        assert_eq!(status(&task).reason.as_deref(), Some("SecretKeyNotAllowed"), "without any policy");
    }
    let policy = json!({
        "apiVersion": "mandate.dev/v1alpha1", "kind": "ClusterAgentPolicy", "metadata": {"name": "crm-keys"},
        "spec": {"owner": {"team": "sales", "contact": "sales@example.com"}, "namespaces": [VAULT, unnamed.namespace],
            "allowSecretKeys": [{"secretName": SECRET, "keys": ["token"], "reason": "takes no tokens before March"}]},
    });
    let policies: Api<ClusterAgentPolicy> = Api::all(named.admin.clone());
    policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;

    until("the policy to be known to the webhook", || async { unnamed.ask("late", "crm", json!({})).await.ok() }).await?;
    let task = unnamed.in_phase("late", Phase::Refused).await?;
    let words = status(&task).conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.message).unwrap_or_default();
    assert_eq!(status(&task).reason.as_deref(), Some("SecretKeyNotAllowed"), "the installation does not name the Secret");
    assert!(words.contains("Mandate may not read Secret `crm-api`"), "{words}");
    unnamed.nothing_left().await?;

    named.ask("late", "crm", json!({})).await?;
    let task = named.active("late").await?;
    assert_eq!(named.credential(&task, "crm").await?, "s3cr3t-of-the-crm");
    assert!(!serde_json::to_string(&task)?.contains("s3cr3t"), "the value shows in the status");
    let risk = &status(&task).accepted_risks[0];
    let told = (
        risk.credential.as_str(),
        risk.secret_name.as_str(),
        risk.policy.as_str(),
        risk.owner.team.as_str(),
        risk.reason.as_str(),
    );
    assert_eq!(told, ("crm", SECRET, "crm-keys", "sales", "takes no tokens before March"));
    named.end("late", "Completed").await?;
    named.in_phase("late", Phase::Ended).await?;
    named.nothing_left().await?;
    assert!(named.api::<Secret>().get_opt(SECRET).await?.is_some(), "the source was taken away too");
    Ok(())
}

#[tokio::test]
async fn tasks_agents_and_scopes_may_come_in_any_order() -> Outcome {
    let place = Place::fresh().await?;
    place.ask("early", "read", json!({})).await?;
    let task = place.with_reason("early", "AgentNotFound").await?;
    assert_eq!((status(&task).phase, condition(&task, "Ready")), (Some(Phase::Pending), Some("False AgentNotFound".into())));
    assert_eq!(condition(&task, "Reconciling").as_deref(), Some("True AgentNotFound"));
    place.agent(json!({})).await?;
    place.with_reason("early", "ScopeNotFound").await?;
    assert_eq!(place.owned().await?, [""; 0], "something was issued before everything was there");
    place.scope_to_read("read").await?;
    let task = place.active("early").await?;
    assert_eq!(condition(&task, "Reconciling"), None);
    assert_eq!(place.bearer(&task).await?.get("ledger").await, 200);
    Ok(())
}

/// The promise: no authority one second after the end, no token eleven seconds after it.
#[tokio::test]
async fn the_end_of_a_task_is_the_end_of_its_authority() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    let each = ["Completed", "Failed", "Revoked"].map(|reason| {
        let place = &place;
        async move {
            let name = reason.to_lowercase();
            let task = place.start(&name, "read", json!({})).await?;
            let bearer = place.bearer(&task).await?;
            assert_eq!(bearer.get("ledger").await, 200);
            place.end(&name, reason).await?;
            let lost = bearer.loses("ledger").await?;
            assert!(lost < Duration::from_secs(1), "{reason}: authority was gone after {lost:?} only");
            let dead = lost + bearer.dies("ledger").await?;
            assert!(dead < Duration::from_secs(11), "{reason}: the token was dead after {dead:?} only");
            let task = place.in_phase(&name, Phase::Ended).await?;
            assert_eq!(
                (status(&task).reason.as_deref(), condition(&task, "Ended")),
                (Some(reason), Some(format!("True {reason}")))
            );
            // kstatus: what has run its course is not in progress.
            assert_eq!(
                (condition(&task, "Ready"), condition(&task, "Stalled"), condition(&task, "Reconciling")),
                (None, None, None)
            );
            assert!(status(&task).ended_at.is_some());
            Ok::<_, anyhow::Error>(())
        }
    });
    try_join_all(each).await?;
    place.nothing_left().await?;
    let told = place.events("revoked").await?;
    assert!(told.iter().any(|event| event.starts_with("Revoked: ")), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn suspending_an_agent_ends_all_its_tasks_and_no_other() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.put_agent("other", json!({})).await?;
    place.agent_ready("other").await?;
    place.scope_to_read("read").await?;
    let (one, two) = (place.start("one", "read", json!({})).await?, place.start("two", "read", json!({})).await?);
    let other = place.start("other", "read", json!({"agent": "other"})).await?;
    let bearers = [place.bearer(&one).await?, place.bearer(&two).await?];
    let other = place.bearer(&other).await?;
    place.change::<AgentIdentity>("bot", json!({"spec": {"suspend": true}})).await?;
    for lost in try_join_all(bearers.iter().map(|bearer| bearer.loses("ledger"))).await? {
        assert!(lost < Duration::from_secs(1), "{lost:?}");
    }
    for name in ["one", "two"] {
        let task = place.in_phase(name, Phase::Ended).await?;
        assert_eq!(status(&task).reason.as_deref(), Some("AgentSuspended"));
    }
    assert_eq!(other.get("ledger").await, 200, "a task of another agent ended too");
    // Taking the suspension back brings back no task.
    place.change::<AgentIdentity>("bot", json!({"spec": {"suspend": false}})).await?;
    place.agent_ready("bot").await?;
    assert_eq!(bearers[0].get("ledger").await / 100, 4);
    place.start("three", "read", json!({})).await?;
    Ok(())
}

#[tokio::test]
async fn a_task_ends_when_its_agent_or_its_scope_is_deleted() -> Outcome {
    let place = Place::fresh().await?;
    place.put_agent("gone", json!({})).await?;
    place.agent(json!({})).await?;
    place.agent_ready("gone").await?;
    for scope in ["read", "short-lived", "replaced"] {
        place.scope_to_read(scope).await?;
    }
    let tasks = [
        ("by-agent", "read", "gone", "AgentDeleted"),
        ("by-scope", "short-lived", "bot", "ScopeDeleted"),
        ("by-new-scope", "replaced", "bot", "ScopeDeleted"),
    ];
    let mut bearers = vec![];
    for (name, scope, agent, _) in tasks {
        bearers.push(place.bearer(&place.start(name, scope, json!({"agent": agent})).await?).await?);
    }
    place.api::<AgentIdentity>().delete("gone", &DeleteParams::default()).await?;
    place.api::<TaskScope>().delete("short-lived", &DeleteParams::default()).await?;
    place.api::<TaskScope>().delete("replaced", &DeleteParams::default()).await?;
    place.scope_to_read("replaced").await?;
    for ((name, _, _, reason), bearer) in tasks.into_iter().zip(&bearers) {
        let task = place.in_phase(name, Phase::Ended).await?;
        assert_eq!(status(&task).reason.as_deref(), Some(reason), "{name}");
        assert_eq!(bearer.get("ledger").await / 100, 4, "{name}");
    }
    place.nothing_left().await?;
    Ok(())
}

#[tokio::test]
async fn a_scope_that_shrinks_takes_rights_from_running_tasks_and_one_that_grows_gives_none() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({"audiences": ["https://ledger"]})).await?;
    let both = json!([rule("get", "configmaps", &["ledger"]), rule("get", "configmaps", &["report"])]);
    place.scope("scope", json!({"kubernetes": {"rules": both.clone()}})).await?;
    let bearer = place.bearer(&place.start("task", "scope", json!({})).await?).await?;
    assert_eq!((bearer.get("ledger").await, bearer.get("report").await), (200, 200));

    place
        .change::<TaskScope>("scope", json!({"spec": {"kubernetes": {"rules": [rule("get", "configmaps", &["ledger"])]}}}))
        .await?;
    let task = place.with_reason("task", "Narrowed").await?;
    assert_eq!((status(&task).phase, condition(&task, "Ready").as_deref()), (Some(Phase::Active), Some("True Issued")));
    assert_eq!((bearer.get("ledger").await, bearer.get("report").await), (200, 403));

    let wide = json!([rule("get", "configmaps", &[])]);
    place.change::<TaskScope>("scope", json!({"spec": {"kubernetes": {"rules": wide}}})).await?;
    place.start("later", "scope", json!({})).await?;
    assert_eq!((bearer.get("ledger").await, bearer.get("report").await), (200, 403), "a running task grew");

    place.change::<TaskScope>("scope", json!({"spec": {"kubernetes": {"rules": []}}})).await?;
    bearer.loses("ledger").await?;
    place.roles_are([]).await?;
    Ok(())
}

#[tokio::test]
async fn a_task_ends_when_its_scope_no_longer_gives_one_of_its_credentials() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({"audiences": ["https://ledger", "https://other"]})).await?;
    let token = |audience: &str| json!({"credentials": [{"name": "ledger", "serviceAccountToken": {"audience": audience}}]});
    for (scope, change) in [("removed", json!({"credentials": []})), ("turned", token("https://other"))] {
        place.scope(scope, token("https://ledger")).await?;
        place.start(scope, scope, json!({})).await?;
        place.change::<TaskScope>(scope, json!({"spec": change})).await?;
        let task = place.in_phase(scope, Phase::Ended).await?;
        assert_eq!(status(&task).reason.as_deref(), Some("ScopeChanged"), "{scope}");
    }
    place.nothing_left().await?;
    Ok(())
}

#[tokio::test]
async fn a_task_ends_by_itself_when_its_time_is_up() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    let task = place.start("short", "read", json!({"ttl": "3s"})).await?;
    let bearer = place.bearer(&task).await?;
    let created = task.creation_timestamp().context("a time of creation")?.0;
    assert_eq!(status(&task).expires_at.map(|at| at.0), Some(created + jiff::SignedDuration::from_secs(3)));
    bearer.loses("ledger").await?;
    // A creation time is cut to whole seconds.
    let lived = now().duration_since(created).as_secs_f64();
    assert!((3.0..4.5).contains(&lived), "it lived {lived} s");
    let task = place.in_phase("short", Phase::Ended).await?;
    assert_eq!(status(&task).reason.as_deref(), Some("Expired"));
    place.nothing_left().await?;
    Ok(())
}

#[tokio::test]
async fn deleting_a_task_takes_everything_back_before_the_task_is_gone() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    place.ask("waits", "missing", json!({})).await?;
    place.with_reason("waits", "ScopeNotFound").await?;
    let task = place.start("runs", "read", json!({})).await?;
    assert!(task.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER), "nothing holds the task back");
    let bearer = place.bearer(&task).await?;
    let tasks: Api<AgentTask> = place.api();
    for name in ["runs", "waits"] {
        tasks.delete(name, &DeleteParams::background()).await?;
        until(&format!("task {name} to be gone"), || async { tasks.get_opt(name).await.ok()?.is_none().then_some(()) }).await?;
    }
    // By the finalizer, not by the garbage collector some time later.
    assert_eq!(place.owned().await?, [""; 0]);
    assert_eq!(bearer.get("ledger").await / 100, 4);
    Ok(())
}

#[tokio::test]
async fn a_finished_task_goes_after_its_history_time() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    place.start("forgotten", "read", json!({"historyTTL": "0s"})).await?;
    place.start("kept", "read", json!({})).await?;
    let tasks: Api<AgentTask> = place.api();
    for name in ["forgotten", "kept"] {
        place.end(name, "Completed").await?;
    }
    until("the finished task to go", || async { tasks.get_opt("forgotten").await.ok()?.is_none().then_some(()) }).await?;
    assert_eq!(status(&place.in_phase("kept", Phase::Ended).await?).reason.as_deref(), Some("Completed"));
    Ok(())
}

#[tokio::test]
async fn what_is_tampered_with_is_mended() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    let task = place.start("task", "read", json!({})).await?;
    let (owns, role) = (status(&task).service_account.unwrap_or_default(), role_of(&task));
    let reads = || async { place.bearer(&task).await.ok()?.get("ledger").await.eq(&200).then_some(()) };

    place.api::<RoleBinding>().delete(&owns, &DeleteParams::default()).await?;
    until("the RoleBinding to be mended", reads).await?;
    place.api::<Role>().delete(&role, &DeleteParams::default()).await?;
    until("the Role to be mended", reads).await?;
    let mended = place.api::<Role>().get(&role).await?;
    assert_eq!(serde_json::to_value(mended.rules)?, json!([rule("get", "configmaps", &["ledger"])]));

    // Kubernetes' own controllers may write anything, so one of them stands for whoever can.
    let kubernetes =
        place.bed.user("system:serviceaccount:kube-system:replicaset-controller", &["system:masters", "system:authenticated"])?;
    let (roles, bindings): (Api<Role>, Api<RoleBinding>) =
        (Api::namespaced(kubernetes.clone(), &place.namespace), Api::namespaced(kubernetes, &place.namespace));
    let wider = Patch::Merge(json!({"rules": [rule("get", "configmaps", &[])]}));
    roles.patch(&role, &PatchParams::default(), &wider).await?;
    until("the widened Role to be mended", || async {
        let rules = place.api::<Role>().get(&role).await.ok()?.rules;
        (serde_json::to_value(rules).ok()? == json!([rule("get", "configmaps", &["ledger"])])).then_some(())
    })
    .await?;
    let mallory =
        Patch::Merge(json!({"subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}]}));
    bindings.patch(&owns, &PatchParams::default(), &mallory).await?;
    until("the RoleBinding to bind the task alone again", || async {
        let subjects = place.api::<RoleBinding>().get(&owns).await.ok()?.subjects.unwrap_or_default();
        matches!(&subjects[..], [only] if only.kind == "ServiceAccount" && only.name == owns).then_some(())
    })
    .await?;
    until("the task to read again", reads).await?;
    Ok(())
}

#[tokio::test]
async fn a_task_whose_service_account_is_deleted_gets_a_token_that_works() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    let task = place.start("task", "read", json!({})).await?;
    let before = place.bearer(&task).await?;
    place.api::<ServiceAccount>().delete(&status(&task).service_account.unwrap_or_default(), &DeleteParams::default()).await?;
    before.dies("ledger").await?;
    until("the task to have a token that works", || async {
        let bearer = place.bearer(&task).await.ok()?;
        (bearer.token != before.token && bearer.get("ledger").await == 200).then_some(())
    })
    .await?;
    Ok(())
}

/// Time is turned by writing an earlier date of issue into the status.
#[tokio::test]
async fn a_renewal_keeps_every_credential_of_the_task() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({"audiences": ["https://ledger"]})).await?;
    let credentials = json!([{"name": "ledger", "serviceAccountToken": {"audience": "https://ledger"}}]);
    place
        .scope("both", json!({"kubernetes": {"rules": [rule("get", "configmaps", &["ledger"])]}, "credentials": credentials}))
        .await?;
    let task = place.start("task", "both", json!({"ttl": "1h"})).await?;
    let first = status(&task).credentials;
    let (before, mut aged) = (place.bearer(&task).await?, serde_json::to_value(&first)?);
    let (long_ago, soon) = (now() - jiff::SignedDuration::from_mins(9), now() + jiff::SignedDuration::from_mins(1));
    merge(&mut aged[0], json!({"issuedAt": long_ago.to_string(), "expiresAt": soon.to_string()}));
    let aged = Patch::Merge(json!({"status": {"credentials": aged}}));
    place.api::<AgentTask>().patch_status("task", &PatchParams::default(), &aged).await?;

    let id = first[0].token_id.clone();
    let task = place
        .task_when("task", "to have a new token", |task| status(task).credentials.first().is_some_and(|c| c.token_id != id))
        .await?;
    assert_eq!(status(&task).credentials.len(), 2);
    let ledger = place.credential(&task, "ledger").await?;
    assert!(token_review(&place, &ledger, "https://ledger").await?.is_some(), "a renewed token does not work");
    let after = place.bearer(&task).await?;
    assert_eq!((before.get("ledger").await, after.get("ledger").await), (200, 200), "a renewal took a token that was in use");
    Ok(())
}

#[tokio::test]
async fn a_task_beyond_what_the_controller_holds_is_refused_and_leaves_nothing() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    // A ceiling for this namespace alone, taken away again once the scope is written.
    let more = json!([rule("get", "services", &[])]);
    let subject = json!([{"kind": "ServiceAccount", "name": "mandate-controller", "namespace": NAMESPACE}]);
    place.bind("more-ceiling", subject, &more).await?;
    place.until_allowed(&controller(), &more[0], true).await?;
    let rules = json!([rule("get", "configmaps", &["ledger"]), rule("get", "services", &[])]);
    place.scope("wide", json!({"kubernetes": {"rules": rules}})).await?;
    let within = place.start("within", "wide", json!({})).await?;
    assert_eq!(condition(&within, "Ready").as_deref(), Some("True Issued"));
    place.end("within", "Completed").await?;
    place.nothing_left().await?;

    place.api::<RoleBinding>().delete("more-ceiling", &DeleteParams::default()).await?;
    place.until_allowed(&controller(), &more[0], false).await?;
    place.ask("beyond", "wide", json!({})).await?;
    let task = place.in_phase("beyond", Phase::Refused).await?;
    assert_eq!(
        (status(&task).reason.as_deref(), condition(&task, "Stalled").as_deref()),
        (Some("BeyondCeiling"), Some("True BeyondCeiling"))
    );
    let told =
        until("an Event about it", || async { place.events("beyond").await.ok().filter(|events| !events.is_empty()) }).await?;
    assert!(told[0].starts_with("BeyondCeiling: ") && told[0].contains("services"), "{told:?}");
    assert_eq!(place.owned().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_task_costs_seven_writes_until_it_is_ready() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    place.role_of_scope("read").await?;
    let mark = place.bed.audit_mark()?;
    place.start("task", "read", json!({})).await?;
    until("the Event that ends the issue", || async { place.events("task").await.ok()?.first().cloned() }).await?;
    let calls = place.bed.calls_since(mark)?;
    let writes: Vec<String> = calls
        .iter()
        .filter(|call| call.user == controller() && call.is_write() && call.namespace == place.namespace)
        .map(|call| format!("{} {}/{} {}", call.verb, call.resource, call.subresource, call.code))
        .collect();
    assert!((1..=7).contains(&writes.len()), "{} writes: {writes:#?}", writes.len());
    Ok(())
}
