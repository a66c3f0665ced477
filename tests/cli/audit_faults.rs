//! What the audit log does when the machine fails it: killed in the middle of writing, a full
//! disk, a file-size limit, a disk that does not answer for what it keeps, a database that is
//! taken away. All of it is real: a process of its own, a file system of its own, a limit of the
//! kernel.
//!
//! The process that writes is this test binary, started again for one ignored test.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use mandate::audit::read::{Cursor, Filter, Found};
use mandate::audit::verify::{Report, verify};
use mandate::audit::{AuditError, Body, Entry, Keys, Kind, Log, Settings, SigningKey, key_path, new_id};
use serde_json::json;

use crate::audit::{decision, segment, settings, wait, written};
use crate::fresh;

const DIR: &str = "MANDATE_TEST_AUDIT_DIR";

fn check(dir: &Path) -> Report {
    let report = verify(dir, &[SigningKey::read(&key_path(dir)).unwrap().public()], None).unwrap();
    assert_eq!(report.problems, []);
    report
}

fn all(dir: &Path) -> Vec<Found> {
    let mut cursor = Cursor::new(dir, &Filter::default(), 0);
    std::iter::from_fn(|| Some(cursor.more().unwrap()).filter(|found| !found.is_empty())).flatten().collect()
}

/// The process that writes: it does what it reads, line by line, and says how that went.
///
/// `record N`, `note N`, `state`, `close`, and `flood`, which never ends: eight writers record
/// and say each id that was acknowledged.
#[test]
#[ignore = "started by the other tests, in a process of its own"]
fn as_child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let settings = Settings { segment_bytes: 300 << 10, note_delay: Duration::from_millis(5), ..Settings::new(dir) };
    let log = match Log::open(&settings) {
        Ok(log) => log,
        Err(error) => return say(&format!("error {error}")),
    };
    say("open");
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let (what, n) = line.split_once(' ').unwrap_or((&line, "0"));
        let entry = padded(n.parse().unwrap());
        let result = match what {
            "record" => wait(log.record(entry)).map(|()| "done".to_owned()),
            "note" => log.note(entry).map(|()| "done".to_owned()),
            "state" => Ok(format!("{:?} {}", log.state().broken.is_some(), log.state().queued)),
            "flood" => flood(&log),
            "close" => return say(&format!("{:?}", wait(log.close()))),
            other => panic!("{other}"),
        };
        say(&result.unwrap_or_else(|error| format!("error {}: {error}", error.category())));
    }
}

/// To standard error, which the test harness leaves alone.
fn say(line: &str) {
    // The parent may be gone.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A decision of four kilobytes.
fn padded(n: u64) -> Entry {
    Entry { body: Body::of(&json!({"n": n, "pad": "x.".repeat(2_000)})).unwrap(), ..decision(n) }
}

fn flood(log: &Log) -> ! {
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let log = log.clone();
            std::thread::spawn(move || {
                loop {
                    let at = Timestamp::now();
                    let entry = Entry { id: new_id(at), at, kind: Kind::Decision, keys: Keys::default(), body: Body::default() };
                    let id = entry.id.clone();
                    log.note(Entry { id: format!("note-{id}"), ..entry.clone() }).unwrap();
                    wait(log.record(entry)).unwrap();
                    say(&id);
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    unreachable!()
}

struct Writing {
    child: Child,
    into: ChildStdin,
    from: BufReader<std::process::ChildStderr>,
    _out: Option<ChildStdout>,
}

impl Writing {
    /// Starts it under a shell, with a script before it that ends in `exec "$@"`.
    fn start(dir: &Path, script: &str) -> Self {
        let binary = std::env::current_exe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{script}; exec \"$@\""), "sh"]).arg(binary);
        command.args(["--exact", "audit_faults::as_child", "--ignored", "--nocapture"]);
        command.env(DIR, dir).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (into, from) = (child.stdin.take().unwrap(), BufReader::new(child.stderr.take().unwrap()));
        Self { child, into, from, _out: None }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, what: &str) -> String {
        writeln!(self.into, "{what}").unwrap();
        self.line()
    }

    /// Records until that fails, and says how often it worked and how it failed.
    fn record_until_it_fails(&mut self, from: u64) -> (u64, String) {
        for n in from..from + 100_000 {
            let answer = self.ask(&format!("record {n}"));
            if answer != "done" {
                return (n, answer);
            }
        }
        panic!("it never failed");
    }

    /// Waits until it works again.
    fn record_until_it_works(&mut self, n: u64) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.ask(&format!("record {n}")) != "done" {
            assert!(Instant::now() < end, "it does not recover");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every `n` that was acknowledged is in the log, once and in order, and nothing else.
fn holds(dir: &Path, acknowledged: impl Iterator<Item = u64>) -> Vec<Found> {
    check(dir);
    let all = all(dir);
    let of = |found: &Found| serde_json::from_str::<serde_json::Value>(found.body()).unwrap()["n"].as_u64();
    let there: Vec<u64> = all.iter().filter(|found| found.kind() == "decision").filter_map(of).collect();
    assert_eq!(there, acknowledged.collect::<Vec<_>>());
    all
}

#[test]
fn killed_in_the_middle_of_heavy_writing_it_has_all_that_was_acknowledged() {
    for round in 0..3 {
        let dir = fresh(&format!("audit-killed-{round}")).join("log");
        let mut writing = Writing::start(&dir, "true");
        assert_eq!(writing.line(), "open");
        writeln!(writing.into, "flood").unwrap();
        let end = Instant::now() + Duration::from_millis(700 + 300 * round);
        let mut acknowledged = std::collections::BTreeSet::new();
        while Instant::now() < end {
            acknowledged.insert(writing.line());
        }
        // SIGKILL.
        writing.child.kill().unwrap();
        // The last line may be cut off.
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut writing.from, &mut rest).unwrap();
        acknowledged.extend(rest.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned));
        assert!(acknowledged.len() > 100, "{} acknowledged", acknowledged.len());
        let report = check(&dir);
        assert!(report.segments > 1, "it was also killed while segments are begun");
        let there: std::collections::BTreeSet<String> = all(&dir).iter().map(|found| found.id().to_owned()).collect();
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "{lost:?} of {}", acknowledged.len());
        // And it goes on where it was, saying that it did not end well.
        let log = Log::open(&Settings::new(&dir)).unwrap();
        assert_eq!(log.state().last, report.range.unwrap().1 + 1);
        wait(log.close()).unwrap();
        let start = all(&dir).into_iter().rev().find(|found| found.kind() == "start").unwrap();
        assert!(start.body().contains("\"clean\":false"), "{}", start.body());
        check(&dir);
    }
}

#[test]
fn two_processes_cannot_write_one_log() {
    let settings = settings("two");
    let log = Log::open(&settings).unwrap();
    let mut other = Writing::start(&settings.dir, "true");
    assert_eq!(other.line(), format!("error another process has the audit log in `{}` open", settings.dir.display()));
    assert!(matches!(Log::open(&settings), Err(AuditError::Locked { .. })), "nor one process twice");
    wait(log.close()).unwrap();
    assert_eq!(Writing::start(&settings.dir, "true").line(), "open");
}

/// A limit of the kernel on the size of files: writing beyond it fails as on a full disk, though
/// with another error (`EFBIG`).
#[test]
fn at_a_limit_of_file_sizes_it_fails_clearly_and_recovers_when_there_is_room() {
    let dir = fresh("audit-limit").join("log");
    // In blocks of 512 bytes; the signal that comes with it is ignored, as a server would.
    let mut writing = Writing::start(&dir, "trap '' XFSZ; ulimit -S -f 800");
    assert_eq!(writing.line(), "open");
    let (n, error) = writing.record_until_it_fails(0);
    assert!(
        error.starts_with("error broken: the audit log cannot be written since ") && error.contains("audit-00000001.db"),
        "{error}"
    );
    assert_eq!(writing.ask("state").split(' ').next(), Some("true"));
    assert!(writing.ask("note 1").starts_with("error broken"), "a note is refused, not forgotten");
    check(&dir);
    let pid = writing.child.id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:unlimited"]).status();
    assert!(raised.unwrap().success());
    writing.record_until_it_works(n);
    assert_eq!(writing.ask("close"), "Ok(())");
    let all = holds(&dir, 0..=n);
    let gap = all.iter().find(|found| found.kind() == "gap").unwrap();
    assert!(gap.body().contains("\"refused\":"), "{}", gap.body());
}

/// A file system of five megabytes that is full, in a mount namespace of its own. Where namespaces
/// may not be made by everybody, the limit above has to do.
#[test]
fn on_a_full_disk_it_fails_clearly_and_recovers_when_there_is_room() {
    let dir = fresh("audit-full");
    let can = Command::new("unshare").args(["-rm", "true"]).output().is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("no mount namespaces here: not tested");
        return;
    }
    let at = dir.display();
    let binary = std::env::current_exe().unwrap();
    // Room for little more than one begins with; a file takes the rest, and goes at a word.
    let script = format!(
        "set -e; mount -t tmpfs -o size=5m audit '{at}'; head -c 3m /dev/zero > '{at}/filler'; mkfifo '{at}/room'; \
         (read -r word < '{at}/room'; rm '{at}/filler'; echo made > '{at}/room') & \
         \"$@\"; cp '{at}'/log/* \"$COPY\""
    );
    let copy = fresh("audit-full-copy");
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", &script, "sh"]).arg(binary);
    command.args(["--exact", "audit_faults::as_child", "--ignored", "--nocapture"]);
    command.env(DIR, dir.join("log")).env("COPY", &copy);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (into, from) = (child.stdin.take().unwrap(), BufReader::new(child.stderr.take().unwrap()));
    let mut writing = Writing { child, into, from, _out: None };
    assert_eq!(writing.line(), "open");
    let (n, error) = writing.record_until_it_fails(0);
    assert!(n > 10 && error.starts_with("error broken") && error.contains("full"), "{n}: {error}");
    std::thread::sleep(Duration::from_millis(600));
    assert!(writing.ask(&format!("record {n}")).starts_with("error broken"), "there is no room yet");
    // The fifo is in the namespace of the child.
    let room = format!("/proc/{}/root{at}/room", writing.child.id());
    std::fs::OpenOptions::new().write(true).open(&room).unwrap().write_all(b"now\n").unwrap();
    assert_eq!(std::fs::read_to_string(&room).unwrap(), "made\n");
    writing.record_until_it_works(n);
    (n + 1..n + 20).for_each(|n| assert_eq!(writing.ask(&format!("record {n}")), "done"));
    assert_eq!(writing.ask("close"), "Ok(())");
    assert!(writing.child.wait().unwrap().success());
    let all = holds(&copy, 0..n + 20);
    assert!(all.iter().any(|found| found.kind() == "gap"));
}

/// `fsync` and `fdatasync` fail while a file is there, by a library that is loaded before the
/// system's: what SQLite and the kernel do around it is as ever.
#[test]
fn what_the_disk_does_not_answer_for_is_not_acknowledged() {
    let dir = fresh("audit-fsync");
    let (source, library, fails) = (dir.join("sync.c"), dir.join("sync.so"), dir.join("fails"));
    let code = "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <errno.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
        static int sync_it(const char *name, int fd) {\n\
          if (access(getenv(\"SYNC_FAILS\"), F_OK) == 0) { errno = EIO; return -1; }\n\
          return ((int (*)(int)) dlsym(RTLD_NEXT, name))(fd);\n}\n\
        int fsync(int fd) { return sync_it(\"fsync\", fd); }\n\
        int fdatasync(int fd) { return sync_it(\"fdatasync\", fd); }\n";
    std::fs::write(&source, code).unwrap();
    // The bundled SQLite was built by the same compiler.
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl").status();
    assert!(built.unwrap().success());
    let log = dir.join("log");
    let script = format!("export SYNC_FAILS='{}' LD_PRELOAD='{}'", fails.display(), library.display());
    let mut writing = Writing::start(&log, &script);
    assert_eq!(writing.line(), "open");
    assert_eq!(writing.ask("record 0"), "done");
    std::fs::write(&fails, "").unwrap();
    let error = writing.ask("record 1");
    assert!(error.starts_with("error broken"), "{error}");
    assert!(writing.ask("record 2").starts_with("error broken"));
    std::fs::remove_file(&fails).unwrap();
    writing.record_until_it_works(3);
    assert_eq!(writing.ask("close"), "Ok(())");
    check(&log);
    let bodies: Vec<String> =
        all(&log).iter().filter(|found| found.kind() == "decision").map(|found| found.body().to_owned()).collect();
    let has = |n: u64| bodies.iter().filter(|body| body.starts_with(&format!("{{\"n\":{n},"))).count();
    // What was not acknowledged may be there, for it was written; nothing is there twice.
    assert_eq!((has(0), has(2), has(3)), (1, 0, 1));
    assert!(has(1) <= 1, "{}", has(1));
}

#[test]
fn notes_that_were_taken_before_it_broke_are_written_when_it_works_again() {
    let settings = Settings { note_delay: Duration::from_secs(60), ..settings("away") };
    let log = Log::open(&settings).unwrap();
    wait(log.record(decision(0))).unwrap();
    let (path, away) = (segment(&settings, 1), settings.dir.join("away"));
    (1..=5).for_each(|n| log.note(decision(n)).unwrap());
    std::fs::rename(&path, &away).unwrap();
    // Somebody waits, so all of them are tried.
    let error = wait(log.record(decision(6))).unwrap_err();
    assert!(error.to_string().contains("was removed or replaced while it is written to; put it back"), "{error}");
    let state = log.state();
    assert!(state.broken.is_some_and(|broken| broken.refused == 1 && broken.since <= Timestamp::now()));
    assert_eq!(state.queued, 5);
    assert!(matches!(log.note(decision(7)), Err(AuditError::Broken { .. })));
    std::fs::rename(&away, &path).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while log.state().broken.is_some() {
        assert!(Instant::now() < end, "{:?}", log.state());
        std::thread::sleep(Duration::from_millis(20));
    }
    wait(log.record(decision(8))).unwrap();
    wait(log.close()).unwrap();
    let all = holds_with(&settings.dir);
    // The sixth was written though nobody was told so: the file was there, under another name.
    assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 8]);
}

/// The database goes away and comes back, again and again, under eight writers.
#[test]
fn whatever_happens_to_the_database_what_was_acknowledged_is_there_once() {
    let settings = Settings { segment_bytes: 100_000, note_delay: Duration::from_millis(5), ..settings("chaos") };
    let log = Log::open(&settings).unwrap();
    let end = Instant::now() + Duration::from_secs(4);
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let log = log.clone();
            std::thread::spawn(move || {
                let (mut taken, mut refused) = (vec![], 0_u64);
                for n in 0.. {
                    if Instant::now() > end {
                        break;
                    }
                    let entry = decision(n);
                    let id = entry.id.clone();
                    let result = if n % 2 == 0 { wait(log.record(entry)) } else { log.note(entry) };
                    match result {
                        Ok(()) => taken.push(id),
                        Err(_) => refused += 1,
                    }
                    if refused % 2 == 1 {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                (taken, refused)
            })
        })
        .collect();
    let away = settings.dir.join("away");
    while Instant::now() < end {
        let newest = (1..).take_while(|number| segment(&settings, *number).exists()).last().unwrap();
        std::fs::rename(segment(&settings, newest), &away).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        std::fs::rename(&away, segment(&settings, newest)).unwrap();
        std::thread::sleep(Duration::from_millis(500));
    }
    let (mut taken, mut refused) = (vec![], 0);
    for writer in writers {
        let (here, not) = writer.join().unwrap();
        taken.extend(here);
        refused += not;
    }
    while log.state().broken.is_some() || log.state().queued > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let state = log.state();
    wait(log.close()).unwrap();
    let report = check(&settings.dir);
    assert!(report.segments > 2 && refused > 0 && taken.len() > 500, "{report:?} {refused} {}", taken.len());
    let mut there = std::collections::BTreeMap::<String, u32>::new();
    let all = all(&settings.dir);
    all.iter().for_each(|found| *there.entry(found.id().to_owned()).or_default() += 1);
    let wrong: Vec<_> = taken.iter().filter(|id| there.get(*id) != Some(&1)).collect();
    assert!(wrong.is_empty(), "{} of {}: {state:?}", wrong.len(), taken.len());
    // What was refused is told of, to the last one.
    let told = all
        .iter()
        .filter(|found| found.kind() == "gap")
        .map(|found| serde_json::from_str::<serde_json::Value>(found.body()).unwrap()["refused"].as_u64().unwrap());
    assert_eq!(told.sum::<u64>(), refused);
}

fn holds_with(dir: &Path) -> Vec<u64> {
    check(dir);
    let of = |found: &Found| serde_json::from_str::<serde_json::Value>(found.body()).unwrap()["n"].as_u64();
    all(dir).iter().filter(|found| found.kind() == "decision").filter_map(of).collect()
}

#[test]
fn a_log_that_is_closed_while_it_is_broken_says_what_is_lost() {
    let settings = Settings { note_delay: Duration::from_secs(60), ..settings("lost") };
    let log = Log::open(&settings).unwrap();
    wait(log.record(decision(0))).unwrap();
    (0..3_000).for_each(|n| log.note(decision(n)).unwrap());
    std::fs::remove_dir_all(&settings.dir).unwrap();
    let error = wait(log.close()).unwrap_err();
    assert!(matches!(error, AuditError::Lost { entries, .. } if entries > 0), "{error}");
}

#[test]
fn a_queue_that_is_full_is_an_error_and_leaves_room_for_what_somebody_waits_for() {
    let settings = Settings { queue_entries: 10, note_delay: Duration::from_secs(60), ..settings("queue") };
    let log = Log::open(&settings).unwrap();
    (0..10).for_each(|n| log.note(decision(n)).unwrap());
    assert!(matches!(log.note(decision(10)), Err(AuditError::QueueFull { entries: 10, .. })));
    wait(log.record(decision(11))).unwrap();
    let large = Entry { body: Body::of(&json!("x".repeat(1 << 20))).unwrap(), ..decision(12) };
    assert!(matches!(log.note(large), Err(AuditError::TooLarge { .. })));
    wait(log.close()).unwrap();
    holds(&settings.dir, (0..10).chain([11]));
}

#[test]
fn a_log_on_a_read_only_file_system_can_be_read_and_is_not_opened() {
    let settings = settings("readonly");
    written(&settings, 5);
    let dir = settings.dir.display().to_string();
    let mandate = env!("CARGO_BIN_EXE_mandate");
    let script = format!(
        "mount --bind '{dir}' '{dir}' && mount -o remount,bind,ro '{dir}' && \
         '{mandate}' audit verify --dir '{dir}' && '{mandate}' audit query --dir '{dir}' -o json | wc -l && \"$@\" < /dev/null 2>&1"
    );
    let binary: PathBuf = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", &script, "sh"]).arg(binary);
    command.args(["--exact", "audit_faults::as_child", "--ignored", "--nocapture"]).env(DIR, &settings.dir);
    if !Command::new("unshare").args(["-rm", "true"]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("no mount namespaces here: not tested");
        return;
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("nothing was changed: 7 rows") && text.contains("\n7\n"), "{text} {output:?}");
    assert!(text.contains("error locking `"), "{text}");
}
