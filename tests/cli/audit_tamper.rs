//! Everything that somebody who can write to the log's files might do to them is found, and it
//! is said which row.

use std::fs;
use std::path::{Path, PathBuf};

use mandate::audit::verify::{Report, Wrong, verify};
use mandate::audit::{AuditError, Log, Settings, SigningKey, key_path};
use rusqlite::Connection;

use crate::audit::{decision, segment, settings, wait, written};

/// A closed log: three segments of some forty rows, with a copy of the checkpoints.
fn three_segments(name: &str) -> Settings {
    let settings = settings(name);
    let settings = Settings {
        checkpoints: Some(settings.dir.with_file_name("copy.jsonl")),
        checkpoint_entries: 10,
        segment_bytes: 1,
        ..settings
    };
    for many in [40, 40, 40] {
        let log = Log::open(&Settings { segment_bytes: u64::MAX, ..settings.clone() }).unwrap();
        (0..many).for_each(|n| wait(log.record(decision(n))).unwrap());
        wait(log.close()).unwrap();
        if many == 40 && !segment(&settings, 3).exists() {
            // Begins another segment and ends.
            rotate(&settings);
        }
    }
    settings
}

fn rotate(settings: &Settings) {
    let log = Log::open(settings).unwrap();
    let before = log.state().segments;
    while log.state().segments == before {
        wait(log.record(decision(0))).unwrap();
    }
    // No more than one.
    drop(log);
}

fn check(settings: &Settings) -> Report {
    let key = SigningKey::read(&key_path(&settings.dir)).unwrap().public();
    verify(&settings.dir, &[key], settings.checkpoints.as_deref()).unwrap()
}

fn wrong(settings: &Settings) -> Vec<Wrong> {
    check(settings).problems.into_iter().map(|problem| problem.what).collect()
}

fn sql(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

/// A log of one segment with 32 rows and checkpoints at 10, 20, 30 and 32.
fn one_segment(name: &str) -> Settings {
    let settings = Settings { checkpoint_entries: 10, ..settings(name) };
    let log = Log::open(&settings).unwrap();
    (0..30).for_each(|n| wait(log.record(decision(n))).unwrap());
    wait(log.close()).unwrap();
    assert_eq!(check(&settings).range, Some((1, 32)));
    assert_eq!(wrong(&settings), []);
    settings
}

#[test]
fn whatever_is_done_to_a_row_is_found_at_that_row() {
    const RENUMBER: &str = "UPDATE entry SET seq = -seq WHERE seq > 15; UPDATE entry SET seq = -seq - 1 WHERE seq < 0";
    const ROOM: &str = "UPDATE entry SET seq = -seq WHERE seq > 15; UPDATE entry SET seq = -seq + 1 WHERE seq < 0";
    let changed = |first, last| (first..=last).map(Wrong::Changed).collect::<Vec<_>>();
    let by = "the signed head";
    let settings = one_segment("rows");
    let original = fs::read(segment(&settings, 1)).unwrap();
    for (what, done, expected) in [
        ("a body", "UPDATE entry SET body = replace(body, 'scope', 'other') WHERE seq = 15".to_owned(), changed(15, 15)),
        ("white space in a body", "UPDATE entry SET body = replace(body, ',', ', ') WHERE seq = 15".to_owned(), changed(15, 15)),
        ("a time", "UPDATE entry SET at = '2026-01-01T00:00:00.000000Z' WHERE seq = 15".to_owned(), changed(15, 15)),
        ("a key", "UPDATE entry SET outcome = 'permit' WHERE seq = 11".to_owned(), changed(11, 11)),
        ("a key that is taken away", "UPDATE entry SET trace_id = NULL WHERE seq = 15".to_owned(), changed(15, 15)),
        ("a kind", "UPDATE entry SET kind = 'outcome' WHERE seq = 15".to_owned(), changed(15, 15)),
        ("a hash", "UPDATE entry SET hash = zeroblob(32) WHERE seq = 15".to_owned(), vec![Wrong::Changed(15), Wrong::NotLinked(16)]),
        ("a row taken out", "DELETE FROM entry WHERE seq = 15".to_owned(), vec![Wrong::Missing { first: 15, last: 15 }]),
        ("the first rows", "DELETE FROM entry WHERE seq < 3".to_owned(), vec![Wrong::Missing { first: 1, last: 2 }]),
        ("the last row", "DELETE FROM entry WHERE seq = 32".to_owned(), vec![Wrong::Cut { first: 32, last: 32, by: "the checkpoint" }]),
        (
            "the last row with its checkpoint",
            "DELETE FROM entry WHERE seq = 32; DELETE FROM checkpoint WHERE seq = 32".to_owned(),
            vec![Wrong::Cut { first: 32, last: 32, by }],
        ),
        (
            "the end, and an old checkpoint as head",
            "DELETE FROM entry WHERE seq > 20; DELETE FROM checkpoint WHERE seq > 20; \
             UPDATE head SET line = (SELECT line FROM checkpoint WHERE seq = 20)"
                .to_owned(),
            vec![Wrong::Misplaced { by, seq: 20 }, Wrong::NoHead],
        ),
        (
            "the end without any head",
            "DELETE FROM entry WHERE seq > 20; DELETE FROM checkpoint WHERE seq > 20; DELETE FROM head".to_owned(),
            vec![Wrong::NoHead],
        ),
        (
            "a row taken out and the others moved up",
            format!("DELETE FROM entry WHERE seq = 15; {RENUMBER}"),
            [changed(15, 19), vec![Wrong::Changed(20), Wrong::Rewritten { first: 11, last: 20, by: "the checkpoint" }], changed(21, 29)]
                .concat(),
        ),
        (
            "a row put in",
            format!("{ROOM}; INSERT INTO entry SELECT 16, prev, hash, id, at, kind, namespace, task, task_uid, agent, tool, outcome, trace_id, token_id, body FROM entry WHERE seq = 15"),
            vec![Wrong::Changed(16)],
        ),
        (
            "two rows in each other's place",
            "UPDATE entry SET seq = -1 WHERE seq = 14; UPDATE entry SET seq = 14 WHERE seq = 15; UPDATE entry SET seq = 15 WHERE seq = -1"
                .to_owned(),
            vec![Wrong::Changed(14), Wrong::Changed(15), Wrong::NotLinked(16)],
        ),
        (
            "a row at the end",
            "INSERT INTO entry SELECT 33, prev, hash, id, at, kind, namespace, task, task_uid, agent, tool, outcome, trace_id, token_id, body FROM entry WHERE seq = 32".to_owned(),
            vec![Wrong::Changed(33), Wrong::Added { first: 33, last: 33 }],
        ),
        ("a signature", "UPDATE checkpoint SET line = replace(line, '\"count\":20', '\"count\":21') WHERE seq = 20".to_owned(), vec![Wrong::NotSigned { by: "the checkpoint", seq: 20 }]),
        ("a statement", "UPDATE checkpoint SET line = '{}' WHERE seq = 20".to_owned(), vec![Wrong::NoStatement { by: "the checkpoint" }]),
    ] {
        fs::write(segment(&settings, 1), &original).unwrap();
        sql(&segment(&settings, 1), &done);
        let found = wrong(&settings);
        assert!(found.starts_with(&expected[..expected.len().min(7)]), "{what}: {found:?}");
        if expected.len() < 5 && !["a row put in"].contains(&what) {
            assert_eq!(found, expected, "{what}");
        }
        // Neither is such a log written on where its end is concerned.
        let opened = Log::open(&settings);
        let ends = ["the last row", "the last row with its checkpoint", "a row at the end"];
        if ends.contains(&what) || what.starts_with("the end") {
            assert!(matches!(opened, Err(AuditError::Changed { .. })), "{what}: {opened:?}");
        }
        drop(opened);
    }
}

/// Somebody who knows the format but not the key writes a row anew, and every hash after it.
#[test]
fn a_chain_written_anew_without_the_key_is_found_at_the_next_checkpoint() {
    let settings = one_segment("rewritten");
    let path = segment(&settings, 1);
    sql(&path, "UPDATE entry SET body = '{\"n\":0}' WHERE seq = 15");
    rehash(&path, 15);
    let by = "the checkpoint";
    assert_eq!(
        wrong(&settings),
        [
            Wrong::Rewritten { first: 11, last: 20, by },
            Wrong::Rewritten { first: 11, last: 30, by },
            Wrong::Rewritten { first: 11, last: 32, by },
            Wrong::Rewritten { first: 11, last: 32, by: "the signed head" },
        ]
    );
    assert!(matches!(Log::open(&settings), Err(AuditError::Changed { .. })));
}

/// What docs/audit.md says is hashed, by other means than Mandate's: `sqlite3` would do.
fn rehash(path: &Path, from: u64) {
    use sha2::Digest as _;
    let database = Connection::open(path).unwrap();
    let last: u64 = database.query_row("SELECT max(seq) FROM entry", [], |row| row.get(0)).unwrap();
    for seq in from..=last {
        let prev = format!("(SELECT hash FROM entry WHERE seq = {})", seq - 1);
        database.execute(&format!("UPDATE entry SET prev = {prev} WHERE seq = {seq}"), []).unwrap();
        let text: String = database.query_row(TEXT, [seq], |row| row.get(0)).unwrap();
        let hash: [u8; 32] = sha2::Sha256::digest(format!("mandate.dev/audit/entry/v1\n{text}")).into();
        database.execute("UPDATE entry SET hash = ?1 WHERE seq = ?2", (hash, seq)).unwrap();
    }
}

/// The canonical text of a row in SQL, for keys without characters that JSON escapes.
const TEXT: &str =
    "SELECT '{' || coalesce('\"agent\":\"' || agent || '\",', '') || '\"at\":\"' || at || '\",\"body\":' || body || ',' ||
    '\"id\":\"' || id || '\",\"kind\":\"' || kind || '\",' || coalesce('\"namespace\":\"' || namespace || '\",', '') ||
    coalesce('\"outcome\":\"' || outcome || '\",', '') || '\"prev\":\"' || lower(hex(prev)) || '\",\"seq\":' || seq ||
    coalesce(',\"task\":\"' || task || '\"', '') || coalesce(',\"taskUid\":\"' || task_uid || '\"', '') ||
    coalesce(',\"tokenId\":\"' || token_id || '\"', '') || coalesce(',\"tool\":\"' || tool || '\"', '') ||
    coalesce(',\"traceId\":\"' || trace_id || '\"', '') || '}' FROM entry WHERE seq = ?1";

#[test]
fn every_hash_can_be_computed_with_other_tools() {
    let settings = one_segment("others");
    let path = segment(&settings, 1);
    rehash(&path, 2);
    assert_eq!(wrong(&settings), []);
}

#[test]
fn a_log_signed_by_another_key_is_none_of_ours() {
    let (ours, others) = (one_segment("ours"), one_segment("others-key"));
    let theirs = SigningKey::read(&key_path(&others.dir)).unwrap().public().id();
    fs::copy(segment(&others, 1), segment(&ours, 1)).unwrap();
    let found = wrong(&ours);
    assert_eq!(found[0], Wrong::OtherKey { by: "the checkpoint", seq: 10, key: theirs.clone() });
    assert!(found.contains(&Wrong::NoHead), "{found:?}");
    let error = Log::open(&ours).unwrap_err().to_string();
    assert!(error.contains(&theirs), "{error}");
    // Nor is it gone on with under a new key.
    fs::remove_file(key_path(&others.dir)).unwrap();
    assert!(matches!(Log::open(&others), Err(AuditError::Key { .. })));
}

#[test]
fn a_log_put_back_to_an_older_state_is_caught_by_the_copy_of_the_checkpoints() {
    let settings = Settings { checkpoint_entries: 10, ..settings("older") };
    let settings = Settings { checkpoints: Some(settings.dir.with_file_name("copy.jsonl")), ..settings };
    written(&settings, 30);
    let older = fs::read(segment(&settings, 1)).unwrap();
    written(&settings, 30);
    assert_eq!(wrong(&settings), []);
    fs::write(segment(&settings, 1), &older).unwrap();
    assert_eq!(wrong(&Settings { checkpoints: None, ..settings.clone() }), [], "nothing but the copy can tell");
    assert_eq!(wrong(&settings), [Wrong::Cut { first: 33, last: 64, by: "the copy of the checkpoint" }]);
    assert!(matches!(Log::open(&settings), Err(AuditError::Changed { .. })));
    // Nor by another log altogether, or none.
    fs::remove_file(segment(&settings, 1)).unwrap();
    assert_eq!(wrong(&settings), [Wrong::NoLog]);
    assert!(matches!(Log::open(&settings), Err(AuditError::Changed { .. })));
}

#[test]
fn a_line_of_the_copy_that_a_full_disk_has_torn_is_no_problem_and_another_one_is() {
    let settings = settings("torn");
    let copy = settings.dir.with_file_name("copy.jsonl");
    let settings = Settings { checkpoints: Some(copy.clone()), ..settings };
    written(&settings, 3);
    let lines = fs::read_to_string(&copy).unwrap();
    // The disk was full in the middle of the second line; the log writes it again.
    fs::write(&copy, &lines[..100]).unwrap();
    written(&settings, 3);
    let text = fs::read_to_string(&copy).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert_eq!((wrong(&settings), check(&settings).checkpoints), (vec![], (2, 2)));
    fs::write(&copy, text.replacen("{\"at\"", "{\"At\"", 2)).unwrap();
    assert!(wrong(&settings).contains(&Wrong::NoCheckpoint(2)), "{:?}", wrong(&settings));
}

#[test]
fn segments_follow_each_other_and_none_can_be_taken_out() {
    let settings = three_segments("segments");
    let report = check(&settings);
    assert_eq!((report.problems.clone(), report.segments, report.removed), (vec![], 3, None));
    let aside = |number: u64| -> (PathBuf, PathBuf) {
        let path = segment(&settings, number);
        (path.clone(), path.with_extension("aside"))
    };
    for number in 1..=3 {
        let (path, away) = aside(number);
        fs::rename(&path, &away).unwrap();
        let found = wrong(&settings);
        match number {
            1 => assert!(matches!(found[..], [Wrong::Removed { first: 1, .. }]), "{found:?}"),
            2 => assert!(matches!(found[..], [Wrong::Missing { .. }]), "{found:?}"),
            _ => assert!(matches!(found[..], [Wrong::NoSuccessor, Wrong::Cut { .. }]), "{found:?}"),
        }
        fs::rename(&away, &path).unwrap();
    }
    // One in the place of another, and one that is cut.
    fs::copy(segment(&settings, 2), segment(&settings, 3)).unwrap();
    assert!(wrong(&settings).iter().any(|wrong| matches!(wrong, Wrong::Beginning(_))));
}

#[test]
fn rows_cannot_be_hidden_by_the_schema_or_an_index() {
    let settings = one_segment("schema");
    let path = segment(&settings, 1);
    let original = fs::read(&path).unwrap();
    for (what, done) in [
        (
            "entry",
            "ALTER TABLE entry RENAME TO rows; CREATE VIEW entry AS SELECT * FROM rows WHERE outcome <> 'deny' OR outcome IS NULL",
        ),
        ("entry_outcome", "DROP INDEX entry_outcome; CREATE INDEX entry_outcome ON entry (outcome) WHERE outcome <> 'deny'"),
        ("quiet", "CREATE TRIGGER quiet BEFORE INSERT ON entry BEGIN SELECT raise(ignore); END"),
    ] {
        fs::write(&path, &original).unwrap();
        sql(&path, done);
        assert!(wrong(&settings).contains(&Wrong::Schema(what.to_owned())), "{what}: {:?}", wrong(&settings));
    }
    // A row is in the table and not in the index.
    fs::write(&path, &original).unwrap();
    sql(
        &path,
        "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'entry_agent'; PRAGMA writable_schema = RESET;",
    );
    assert!(wrong(&settings).contains(&Wrong::Schema("entry_agent".to_owned())), "{:?}", wrong(&settings));
}

#[test]
fn a_damaged_database_is_told_as_such() {
    let settings = one_segment("damaged");
    let path = segment(&settings, 1);
    let original = fs::read(&path).unwrap();
    // What a page has kept of older rows stands there too; to change that changes nothing.
    let dump = || -> rusqlite::Result<Vec<(u64, String, Vec<u8>)>> {
        let database = Connection::open(&path)?;
        let mut rows = database.prepare("SELECT seq, agent || body, hash FROM entry NOT INDEXED")?;
        rows.query_map([], |row| Ok((row.get(0)?, row.get::<_, Option<String>>(1)?.unwrap_or_default(), row.get(2)?)))?.collect()
    };
    let before = dump().unwrap();
    let stands = original.windows(11).enumerate().filter(|(_, text)| text == b"invoice-bot").map(|(at, _)| at);
    let mut many = 0;
    for at in [0, 100].into_iter().chain(stands) {
        let mut bytes = original.clone();
        bytes[at..at + 8].fill(0x55);
        fs::write(&path, &bytes).unwrap();
        if dump().ok().as_ref() != Some(&before) {
            assert_ne!(wrong(&settings), [], "eight bytes at {at}");
            many += 1;
        }
    }
    assert!(many >= 30, "{many} times a row was changed");
    fs::write(&path, "not a database, but long enough to be one as far as its length is concerned").unwrap();
    assert!(matches!(wrong(&settings)[..], [Wrong::Damaged(_)]), "{:?}", wrong(&settings));
}

#[test]
fn removed_segments_are_accepted_by_an_entry_and_no_further() {
    let settings = three_segments("retention");
    assert_eq!(wrong(&settings), []);
    let first = fs::read(segment(&settings, 1)).unwrap();
    let by_size = Settings { keep_bytes: Some(0), segment_bytes: u64::MAX, ..settings.clone() };
    let by_age = Settings { keep_for: Some(std::time::Duration::ZERO), segment_bytes: u64::MAX, ..settings.clone() };
    let once = |settings: &Settings| {
        let log = Log::open(settings).unwrap();
        wait(log.record(decision(1))).unwrap();
        wait(log.close()).unwrap();
    };
    once(&by_size);
    // Not all were gone when the machine stopped: that is no harm, and they go the next time.
    fs::write(segment(&settings, 1), first).unwrap();
    assert_eq!(wrong(&settings), []);
    once(&by_age);
    assert!(!segment(&settings, 1).exists() && !segment(&settings, 2).exists() && segment(&settings, 3).exists());
    let report = check(&settings);
    assert_eq!(report.problems, []);
    let through = report.removed.unwrap();
    assert_eq!(report.range.unwrap().0, through + 1);
    // One more taken away than the entry speaks of.
    let text = fs::read_to_string(settings.checkpoints.as_ref().unwrap()).unwrap();
    assert!(text.lines().count() > 5);
    let log = Log::open(&settings).unwrap();
    (0..3).for_each(|n| wait(log.record(decision(n))).unwrap());
    wait(log.close()).unwrap();
    assert_eq!(wrong(&settings), []);
    fs::remove_file(segment(&settings, 3)).unwrap();
    let found = wrong(&settings);
    assert!(matches!(found[..], [Wrong::Removed { first: 1, .. }]), "{found:?}");
}

#[test]
fn a_log_can_be_verified_while_it_is_written() {
    let settings = Settings { segment_bytes: 60_000, ..settings("live") };
    let log = Log::open(&settings).unwrap();
    let writer = std::thread::spawn({
        let log = log.clone();
        move || (0..3_000).for_each(|n| log.note(decision(n)).unwrap_or_else(|error| panic!("{error}")))
    });
    while !writer.is_finished() || log.state().queued > 0 {
        assert_eq!(wrong(&settings), []);
    }
    writer.join().unwrap();
    wait(log.close()).unwrap();
    assert_eq!(wrong(&settings), []);
}
