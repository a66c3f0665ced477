//! The audit log as people read it: what `query` and `tail` find and how `verify` and `key`
//! answer.

use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use mandate::audit::{Body, Entry, Keys, Kind, Log, Settings, new_id};
use serde_json::{Value, json};

use crate::{Answer, answer, command, fresh, mandate};

pub fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A decision about tool `ledger/N mod 3` for task `task-N mod 5`; each tenth is a denial.
pub fn decision(n: u64) -> Entry {
    let at = Timestamp::from_second(1_767_225_600).unwrap() + SignedDuration::from_secs(i64::try_from(n).unwrap());
    let text = |text: String| Some(text);
    let keys = Keys {
        namespace: text("finance".to_owned()),
        task: text(format!("task-{}", n % 5)),
        task_uid: text(format!("uid-{}", n % 5)),
        agent: text("invoice-bot".to_owned()),
        tool: text(format!("ledger/{}", n % 3)),
        outcome: text(if n % 10 == 9 { "deny" } else { "permit" }.to_owned()),
        trace_id: text(format!("{n:032x}")),
        token_id: text(format!("jti-{}", n % 4)),
    };
    Entry { id: new_id(at), at, kind: Kind::Decision, keys, body: Body::of(&json!({"n": n, "rules": ["scope"]})).unwrap() }
}

/// What came of a decision.
pub fn outcome(of: &Entry, what: &str) -> Entry {
    let keys = Keys { outcome: Some(what.to_owned()), ..of.keys.clone() };
    Entry { keys, kind: Kind::Outcome, body: Body::of(&json!({"status": 200})).unwrap(), ..of.clone() }
}

/// Settings for a new log, without its directory.
pub fn settings(name: &str) -> Settings {
    Settings::new(fresh(&format!("audit-{name}")).join("log"))
}

/// Writes so many decisions and closes the log.
pub fn written(settings: &Settings, many: u64) -> Vec<Entry> {
    let log = Log::open(settings).unwrap();
    let entries: Vec<Entry> = (0..many).map(decision).collect();
    entries.iter().for_each(|entry| log.note(entry.clone()).unwrap());
    wait(log.close()).unwrap();
    entries
}

pub fn audit(dir: &Path, args: &[&str]) -> Answer {
    let mut all = vec!["audit"];
    all.extend(args);
    answer(command(&all).env("MANDATE_AUDIT_DIR", dir))
}

/// What is printed where nothing goes wrong.
fn printed(dir: &Path, args: &[&str]) -> String {
    let Answer { status, out, err } = audit(dir, args);
    assert_eq!((status, err.as_str()), (0, ""), "{args:?}: {out}");
    out
}

fn lines(dir: &Path, args: &[&str]) -> Vec<Value> {
    printed(dir, args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn query_finds_decisions_by_everything_that_other_logs_know_them_by() {
    let settings = settings("query");
    let entries = written(&settings, 100);
    let dir = &settings.dir;
    let found = |args: &[&str]| lines(dir, &[&["query", "-o", "json"], args].concat()).len();
    let id = entries[42].id.clone();
    for (args, count) in [
        (&["--task", "task-2"][..], 20),
        (&["--task", "task-2", "-n", "finance"], 20),
        (&["--task", "task-2", "-n", "sales"], 0),
        (&["--task-uid", "uid-1"], 20),
        (&["--agent", "invoice-bot"], 100),
        (&["--tool", "ledger/0"], 34),
        (&["--outcome", "deny"], 10),
        (&["--denied"], 10),
        (&["--denied", "--task", "task-4"], 10),
        (&["--trace-id", "0000000000000000000000000000002a"], 1),
        (&["--token-id", "jti-3"], 25),
        (&["--id", &id], 1),
        (&["--since", "2026-01-01T00:00:10Z", "--until", "2026-01-01T00:00:20Z"], 10),
        (&["--limit", "7"], 7),
        // The start and the end of the log are entries too.
        (&[], 102),
    ] {
        assert_eq!(found(args), count, "{args:?}");
    }
    let one = &lines(dir, &["query", "-o", "json", "--id", &id])[0];
    assert_eq!((&one["body"]["n"], &one["task"], &one["kind"]), (&json!(42), &json!("task-2"), &json!("decision")));
    assert_eq!(printed(dir, &["query", "--agent", "nobody"]), "no entries\n");
}

#[test]
fn a_decision_is_told_with_what_came_of_it_whichever_of_the_two_was_asked_for() {
    let settings = Settings { segment_bytes: 1, ..settings("joined") };
    let log = Log::open(&settings).unwrap();
    let (one, other) = (decision(1), decision(2));
    // Each in a segment of its own.
    for entry in [&one, &other, &outcome(&one, "failed"), &outcome(&one, "done")] {
        wait(log.record(entry.clone())).unwrap();
    }
    wait(log.close()).unwrap();
    for args in
        [&["--id", &one.id][..], &["--outcome", "failed"], &["--outcome", "done"], &["--trace-id", &format!("{:032x}", 1)]]
    {
        let found = lines(&settings.dir, &[&["query", "-o", "json"], args].concat());
        assert_eq!(found.len(), 1, "{args:?}");
        assert_eq!(found[0]["id"], json!(one.id));
        let outcomes: Vec<&Value> = found[0]["outcomes"].as_array().unwrap().iter().map(|outcome| &outcome["outcome"]).collect();
        assert_eq!(outcomes, ["failed", "done"]);
    }
    let table = printed(&settings.dir, &["query", "--task", "task-1"]);
    let expected = format!(
        "TIME                         KIND      OUTCOME  TASK            AGENT        TOOL      THEN         ID\n\
         2026-01-01T00:00:01.000000Z  decision  permit   finance/task-1  invoice-bot  ledger/1  failed,done  {}\n",
        one.id
    );
    assert_eq!(table, expected);
}

#[test]
fn what_agents_send_does_not_reach_a_terminal_as_it_came() {
    let settings = settings("terminal");
    let log = Log::open(&settings).unwrap();
    let mut entry = decision(1);
    entry.keys.tool = Some("\u{1b}]0;owned\u{7}\nforged  line".to_owned());
    wait(log.record(entry)).unwrap();
    wait(log.close()).unwrap();
    for args in [&["query", "--denied", "--outcome", "x"][..], &["query"], &["tail"]] {
        let text = printed(&settings.dir, args);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
}

#[test]
fn tail_follows_into_the_next_segments_while_they_are_written() {
    let settings = Settings { segment_bytes: 1, note_delay: Duration::from_millis(5), ..settings("tail") };
    let log = Log::open(&settings).unwrap();
    wait(log.record(decision(0))).unwrap();
    let mut tail = command(&["audit", "tail", "--follow", "-o", "json", "--lines", "1", "--agent", "invoice-bot"]);
    let mut tail = tail.env("MANDATE_AUDIT_DIR", &settings.dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()["body"]["n"].clone();
    assert_eq!(next(), json!(0));
    for n in 1..20 {
        wait(log.record(decision(n))).unwrap();
    }
    for n in 1..20 {
        assert_eq!(next(), json!(n));
    }
    assert!(log.state().segments > 10, "{:?}", log.state());
    tail.kill().unwrap();
    tail.wait().unwrap();
    wait(log.close()).unwrap();
}

#[test]
fn a_reader_of_a_query_that_goes_away_is_no_failure() {
    let settings = settings("head");
    written(&settings, 2_000);
    let script = format!("set -o pipefail; '{}' audit query -o json | head -n 1", env!("CARGO_BIN_EXE_mandate"));
    let told = answer(Command::new("bash").args(["-c", &script]).env("MANDATE_AUDIT_DIR", &settings.dir));
    assert_eq!((told.status, told.err.as_str(), told.out.lines().count()), (0, "", 1));
}

#[test]
fn verify_ends_with_0_where_all_holds_1_where_not_and_2_where_it_cannot_be_read() {
    let settings = settings("verify");
    written(&settings, 10);
    let dir = &settings.dir;
    let text = printed(dir, &["verify"]);
    assert_eq!(text, "nothing was changed: 12 rows in 1 segment, 1 to 12, 1 checkpoint\n");
    assert_eq!(lines(dir, &["verify", "-o", "json"])[0]["clean"], json!(true));
    let database = rusqlite::Connection::open(dir.join("audit-00000001.db")).unwrap();
    database.execute("UPDATE entry SET task = 'another' WHERE seq = 5", []).unwrap();
    drop(database);
    let Answer { status, out, err } = audit(dir, &["verify"]);
    assert_eq!((status, err.as_str()), (1, ""));
    assert!(out.starts_with("audit-00000001.db: row 5 was changed: "), "{out}");
    assert!(out.lines().last().unwrap().starts_with("NOT as it was written: "), "{out}");
    for (dir, args, part) in [
        (Path::new("no/such/dir"), &["verify"][..], "no/such/dir"),
        (&fresh("audit-empty"), &["query"], "there is no audit log in `"),
        (dir, &["verify", "--public-key", "Cargo.toml"], "it holds no PEM `PUBLIC KEY`"),
        (dir, &["verify", "--checkpoints", "no/such/file"], "reading the copy of the checkpoints `no/such/file`"),
        (dir, &["query", "--since", "yesterday"], "`yesterday` is neither a time such as"),
    ] {
        let Answer { status, out, err } = audit(dir, args);
        assert_eq!((status, out.as_str()), (2, ""), "{args:?}");
        assert!(err.contains(part) && !err.contains("panicked"), "{args:?}: {err}");
    }
}

#[test]
fn the_public_key_is_one_that_openssl_verifies_a_checkpoint_with() {
    let settings = Settings { checkpoints: Some(fresh("audit-openssl").join("copy.jsonl")), ..settings("key") };
    written(&settings, 3);
    let at = settings.checkpoints.as_ref().unwrap().parent().unwrap();
    let pem = printed(&settings.dir, &["key"]);
    std::fs::write(at.join("public.pem"), &pem).unwrap();
    let copy = std::fs::read_to_string(at.join("copy.jsonl")).unwrap();
    let mut checkpoint: Value = serde_json::from_str(&copy).unwrap();
    assert_eq!(printed(&settings.dir, &["key", "--id"]).trim(), checkpoint["key"]);
    let public = at.join("public.pem");
    let args = [
        "verify",
        "--public-key",
        public.to_str().unwrap(),
        "--checkpoints",
        settings.checkpoints.as_ref().unwrap().to_str().unwrap(),
    ];
    assert_eq!(
        printed(&settings.dir, &args),
        "nothing was changed: 5 rows in 1 segment, 1 to 5, 1 checkpoint and 1 checkpoint in the copy\n"
    );
    // As docs/audit.md says: without its signature, in the order of names, after the domain.
    let signature = checkpoint.as_object_mut().unwrap().remove("signature").unwrap();
    let script = "base64 -d > signature; openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in signed -sigfile signature";
    let sorted: std::collections::BTreeMap<String, Value> = serde_json::from_value(checkpoint).unwrap();
    std::fs::write(at.join("signed"), format!("mandate.dev/audit/checkpoint/v1\n{}", serde_json::to_string(&sorted).unwrap()))
        .unwrap();
    if Command::new("openssl").arg("version").output().is_err() {
        return;
    }
    std::fs::write(at.join("signature.base64"), signature.as_str().unwrap()).unwrap();
    let input = std::fs::File::open(at.join("signature.base64")).unwrap();
    let told = answer(Command::new("sh").args(["-c", script]).current_dir(at).stdin(input));
    assert_eq!(told.status, 0, "{told:?}");
    // Nobody but its owner reads the other half, or the log.
    for file in ["audit.key", "audit-00000001.db"] {
        let mode = std::fs::metadata(settings.dir.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(mandate(&["audit", "key", "--audit-key", "Cargo.toml"]).status, 2);
}

/// Where a log of such settings would be.
pub fn segment(settings: &Settings, number: u64) -> PathBuf {
    settings.dir.join(format!("audit-{number:08}.db"))
}
