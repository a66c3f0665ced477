//! The log as its callers see it.

use std::future::Future;
use std::path::PathBuf;

use serde_json::json;

use super::*;

/// A new directory for one test.
fn fresh(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("mandate-audit-{}-{name}", std::process::id()));
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    dir
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn decision(n: u64) -> Entry {
    let at = Timestamp::from_second(1_767_225_600 + i64::try_from(n).unwrap()).unwrap();
    let keys = Keys { task: Some(format!("task-{}", n % 7)), outcome: Some("permit".to_owned()), ..Keys::default() };
    Entry { id: new_id(at), at, kind: Kind::Decision, keys, body: Body::of(&json!({"n": n})).unwrap() }
}

#[test]
fn entries_are_rows_in_the_order_in_which_they_came() {
    let settings = Settings::new(fresh("order"));
    let log = Log::open(&settings).unwrap();
    for n in 0..100 {
        log.note(decision(n)).unwrap();
    }
    wait(log.record(decision(100))).unwrap();
    let state = log.state();
    assert_eq!((state.last, state.queued, state.segments, state.broken), (102, 0, 1, None));
    wait(log.clone().close()).unwrap();
    assert!(matches!(log.note(decision(0)), Err(AuditError::Closed)));
    drop(log);
    let log = Log::open(&settings).unwrap();
    assert_eq!(log.state().last, 104);
    wait(log.close()).unwrap();
    std::fs::remove_dir_all(&settings.dir).unwrap();
}
