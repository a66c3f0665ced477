use std::path::PathBuf;

use jiff::SignedDuration;
use serde_json::{Map, json};

use super::recall::Past;
use super::trust::{Trust, TrustFile};
use super::*;
use crate::api::{Link, Phase};
use crate::audit::Settings;
use crate::decide::authorize::snapshot::{Compiler, ServerSource, Sheet, Sources, Written};
use crate::decide::authorize::{Standing, Subject};
use crate::decide::world::Loaded;

fn written<T, K: serde::de::DeserializeOwned>(value: &Value, of: impl FnOnce(K) -> T) -> Written<T> {
    Written {
        version: value.to_string().into(),
        spec: Arc::new(Loaded::Readable(of(serde_json::from_value(value.clone()).unwrap()))),
    }
}

/// Tools that read and send, and rules that look at what was done before.
fn snapshot() -> Snapshot {
    let owner = json!({"team": "t", "contact": "c"});
    let server = |domain: &str, tools: Value| json!({"owner": owner, "domain": domain, "tools": tools});
    let ledger = server("finance", json!([{"name": "read", "effect": "read", "classification": "confidential"}]));
    let mail = server("internet", json!([{"name": "send", "effect": "write", "classification": "public"}]));
    let scope = json!({"intent": "i", "tools": [
        {"server": "ledger", "names": ["read"], "classification": "confidential"}, {"server": "mail", "names": ["send"]},
    ]});
    let policy = json!({"owner": owner, "rules": [
        {"name": "no-egress", "deny": "it has read confidential data",
         "match": {"crossDomain": true}, "when": {"history": {"readAtLeast": "confidential"}}},
        {"name": "twice", "limit": {"count": 2, "per": "1h", "by": "agent"}, "match": {"tools": ["ledger/read"]}},
    ]});
    let source = |spec| ServerSource { spec, stopped: vec![] };
    let sheet = Sheet {
        servers: [("ledger".to_owned(), written(&ledger, source)), ("mail".to_owned(), written(&mail, source))].into(),
        scopes: [("s".to_owned(), written(&scope, |spec| spec))].into(),
        policies: [("p".to_owned(), written(&policy, |spec| spec))].into(),
    };
    let sources = Sources { namespaces: [("finance".to_owned(), sheet)].into(), ..Sources::default() };
    let (snapshot, trouble) = Compiler::default().compile(&sources);
    assert_eq!(trouble, []);
    snapshot
}

fn task(name: &str) -> Subject {
    Subject {
        namespace: "finance".into(),
        name: name.into(),
        key: format!("finance/{name}"),
        uid: format!("uid-{name}"),
        agent: "bot".into(),
        agent_key: "finance/bot".into(),
        scope: "s".into(),
        phase: Phase::Active,
        deadline: Timestamp::now() + SignedDuration::from_hours(1),
        standing: Standing::Good,
        ..Subject::default()
    }
}

fn authorizer(log: Log, past: Past) -> Authorizer {
    let state = State::after(past);
    state.replace(snapshot());
    state.is_current(Timestamp::now());
    ["one", "two"].into_iter().for_each(|name| state.put(task(name)));
    Authorizer::new(Arc::new(state), Trust::of(TrustFile::default(), None).unwrap(), Some(log))
}

fn fresh(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("mandate-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

async fn code(authorizer: &Authorizer, task: &str, server: &str, tool: &str) -> Code {
    let none = Map::new();
    let asker = Asker { name: "test".into(), vouches_for: std::collections::BTreeMap::new() };
    let action = Action {
        server,
        tool,
        resource: None,
        arguments: &none,
        subject_properties: &none,
        resource_properties: &none,
        intent: None,
        reports_outcome: false,
        kubernetes: None,
    };
    let caller = Caller::vouched(format!("finance/{task}"));
    let actor = authorizer.state.actor(caller);
    let question = Question { door: "test", asker: &asker, actor, action, parent: None, link: None };
    authorizer.decide(&question).await.decision.reasons[0].code
}

#[tokio::test]
async fn a_restart_makes_no_task_forget_what_it_has_done() {
    let dir = fresh("recall");
    let log = Log::open(&Settings::new(&dir)).unwrap();
    let before = authorizer(log.clone(), Past::default());
    assert_eq!(code(&before, "one", "mail", "send").await, Code::Permitted);
    assert_eq!(code(&before, "one", "ledger", "read").await, Code::Permitted);
    assert_eq!(code(&before, "one", "mail", "send").await, Code::RuleDenied);
    drop(before);
    log.close().await.unwrap();

    let past = Past::read(&dir, Timestamp::now()).unwrap();
    let log = Log::open(&Settings::new(&dir)).unwrap();
    let after = authorizer(log, past);
    assert_eq!(code(&after, "one", "mail", "send").await, Code::RuleDenied, "it still has read confidential data");
    assert_eq!(code(&after, "two", "mail", "send").await, Code::Permitted, "another task has not");
    assert_eq!(code(&after, "two", "ledger", "read").await, Code::Permitted);
    assert_eq!(code(&after, "two", "ledger", "read").await, Code::LimitReached, "one of the agent's two was before the restart");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A task below another, of an agent of its own.
fn child(name: &str, of: &str) -> Subject {
    let above = vec![Link { task: of.into(), uid: format!("uid-{of}"), agent: "bot".into() }];
    let agent = format!("agent-of-{name}");
    Subject { agent_key: format!("finance/{agent}"), agent, parent: Some(of.into()), above, ..task(name) }
}

#[tokio::test]
async fn a_restart_makes_no_parent_forget_what_its_children_have_done() {
    let dir = fresh("recall-chain");
    let log = Log::open(&Settings::new(&dir)).unwrap();
    let before = authorizer(log.clone(), Past::default());
    before.state.put(child("below", "one"));
    assert_eq!(code(&before, "below", "ledger", "read").await, Code::Permitted);
    assert_eq!(code(&before, "one", "mail", "send").await, Code::RuleDenied, "what the child has read the parent has");
    drop(before);
    log.close().await.unwrap();

    let past = Past::read(&dir, Timestamp::now()).unwrap();
    let log = Log::open(&Settings::new(&dir)).unwrap();
    let after = authorizer(log, past);
    after.state.put(child("beside", "one"));
    assert_eq!(code(&after, "one", "mail", "send").await, Code::RuleDenied);
    assert_eq!(code(&after, "beside", "mail", "send").await, Code::RuleDenied, "nor may its other children");
    assert_eq!(code(&after, "two", "mail", "send").await, Code::Permitted);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn the_chain_of_a_child_is_looked_up_at_each_decision_and_stays_what_it_was() {
    let dir = fresh("chain");
    let log = Log::open(&Settings::new(&dir)).unwrap();
    let known = authorizer(log.clone(), Past::default());
    let state = &known.state;
    state.put(child("below", "one"));
    assert_eq!(code(&known, "below", "mail", "send").await, Code::Permitted);
    // Its parent goes, and comes back; another task under that name is none.
    state.forget("finance/one");
    assert_eq!(code(&known, "below", "mail", "send").await, Code::UnknownParent);
    state.put(Subject { uid: "made-anew".into(), ..task("one") });
    assert_eq!(code(&known, "below", "mail", "send").await, Code::UnknownParent);
    state.put(task("one"));
    assert_eq!(code(&known, "below", "mail", "send").await, Code::Permitted);
    // A status that is written anew moves no task below another, nor up to the root.
    state.put(child("below", "two"));
    assert_eq!(code(&known, "below", "mail", "send").await, Code::UnknownParent);
    state.put(Subject { parent: None, above: vec![], ..child("below", "one") });
    assert_eq!(code(&known, "below", "mail", "send").await, Code::UnknownParent);
    // Two that stand above each other are both denied, and nobody waits for a lock for ever.
    for (name, of) in [("chicken", "egg"), ("egg", "chicken"), ("self", "self")] {
        state.put(child(name, of));
    }
    for name in ["chicken", "egg", "self"] {
        assert_eq!(code(&known, name, "mail", "send").await, Code::UnknownParent);
    }
    log.close().await.unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_permitted_and_counts_for_nothing() {
    let dir = fresh("unrecorded");
    let log = Log::open(&Settings::new(&dir)).unwrap();
    let recording = authorizer(log.clone(), Past::default());
    assert_eq!(code(&recording, "one", "ledger", "read").await, Code::Permitted);
    log.close().await.unwrap();
    for _ in 0..5 {
        assert_eq!(code(&recording, "one", "ledger", "read").await, Code::NotRecorded);
    }
    let kept = Authorizer::new(recording.state.clone(), Trust::of(TrustFile::default(), None).unwrap(), None);
    assert_eq!(code(&kept, "one", "ledger", "read").await, Code::Permitted, "one of the agent's two is left");
    assert_eq!(code(&kept, "one", "ledger", "read").await, Code::LimitReached);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn light_answers_wait_for_a_disk_that_cannot_keep_up_and_are_not_denied() {
    let dir = std::env::temp_dir().join(format!("mandate-behind-{}", std::process::id()));
    let settings = Settings { queue_entries: 8, note_delay: Duration::from_secs(60), ..Settings::new(&dir) };
    let log = Log::open(&settings).unwrap();
    let light = Decision { outcome: Outcome::Permit, risk: Risk::Low, ..refused(Code::Permitted, "", "") };
    for n in 0..200 {
        let now = Timestamp::now();
        let entry = Entry {
            id: audit::new_id(now),
            at: now,
            kind: Kind::Decision,
            keys: audit::Keys::default(),
            body: Body::of(&json!({"n": n})).unwrap(),
        };
        assert_eq!(record(&log, entry, &light).await, Ok(()), "{n}");
    }
    let state = log.state();
    log.close().await.unwrap();
    assert!(state.broken.is_none());
    std::fs::remove_dir_all(dir).unwrap();
}
