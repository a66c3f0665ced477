//! What does the audit log cost those who wait for it, those who do not, and the disk? Entries
//! of decisions go into a log on the disk of this machine, from one writer and from many at once.

mod measure;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use mandate::audit::verify::verify;
use mandate::audit::{Body, Entry, Keys, Kind, Log, Settings, SigningKey, key_path, new_id};
use serde_json::json;

use measure::{Table, Times, cpu, machine, ms, sized};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    println!("# audit\n\n{}", machine());
    let dir = std::env::var_os("MANDATE_BENCH_DIR")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-audit"), PathBuf::from);
    let _ = std::fs::remove_dir_all(&dir);
    records(&dir.join("records"));
    notes(&dir.join("notes"));
    let _ = std::fs::remove_dir_all(&dir);
}

/// A decision as an authorizer writes it: the question without its arguments, the answer with
/// the rules that gave it.
fn decision(n: u64) -> Entry {
    let at = Timestamp::now();
    let keys = Keys {
        namespace: Some("finance".to_owned()),
        task: Some(format!("invoice-bot-{:05}", n % 100)),
        task_uid: Some(format!("7d0b4f0e-1111-4222-8333-{:012x}", n % 100)),
        agent: Some("invoice-bot".to_owned()),
        tool: Some("ledger/read".to_owned()),
        outcome: Some(if n.is_multiple_of(50) { "deny" } else { "permit" }.to_owned()),
        trace_id: Some(format!("{n:032x}")),
        token_id: Some(format!("0e6e8f1c-aaaa-4bbb-8ccc-{:012x}", n % 100)),
    };
    let body = json!({
        "asker": "gateway/envoy-7f",
        "action": {"tool": "ledger/read", "effect": "read"},
        "resource": {"type": "invoice", "id": format!("2026-{n:06}"), "classification": "internal"},
        "arguments": {"digest": format!("sha256:{n:064x}")},
        "rules": ["finance/reconcile-invoices#tools", "finance/finance-agents#limits"],
        "versions": {"scope": 3, "policy": 17, "snapshot": 48_213},
        "chain": ["user:dana", "agent:invoice-bot"],
        "cacheFor": 30,
        "latencyMicros": 412,
    });
    Entry { id: new_id(at), at, kind: Kind::Decision, keys, body: Body::of(&body).expect("it is not deep") }
}

fn settings(dir: &Path) -> Settings {
    Settings {
        checkpoints: Some(dir.with_extension("jsonl")),
        queue_entries: 1 << 20,
        queue_bytes: 1 << 32,
        ..Settings::new(dir)
    }
}

fn records(dir: &Path) {
    let method = "So many writers, each of which waits for its entry to be durable before it makes the next. Every commit is \
                  synced by SQLite to the disk of this machine; whatever waits goes into one.";
    let table = Table::begin("Durable entries", method);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for writers in [1, 16, 64] {
        let each = sized(8_000, 200) / writers.max(4);
        let log = Log::open(&settings(&dir.join(writers.to_string()))).expect("a new log");
        let start = Instant::now();
        let times: Times = runtime.block_on(async {
            let tasks = (0..writers).map(|writer| tokio::spawn(write(log.clone(), writer * each, each)));
            futures::future::join_all(tasks).await.into_iter().flat_map(|times| times.expect("no panic")).collect()
        });
        let rate = times.count() as f64 / start.elapsed().as_secs_f64();
        table.row(&format!("{writers} writers: entries a second"), format!("{rate:.0}"));
        let (p50, p99, longest) = (times.percentile(50.0), times.percentile(99.0), times.longest());
        table.row(&format!("{writers} writers: p50, p99, longest"), format!("{}, {}, {}", ms(&p50), ms(&p99), ms(&longest)));
        runtime.block_on(log.close()).expect("closed");
    }
}

async fn write(log: Log, first: u64, many: u64) -> Vec<Duration> {
    let mut times = vec![];
    for n in first..first + many {
        let entry = decision(n);
        let start = Instant::now();
        log.record(entry).await.expect("recorded");
        times.push(start.elapsed());
    }
    times
}

fn notes(dir: &Path) {
    let many = sized(200_000, 5_000);
    let method = format!(
        "{many} entries from one thread, as fast as they are taken; what the caller's thread needs for each, without making the \
         entry. Then until all are written, with the CPU time of the writer; and `verify` of all of them."
    );
    let table = Table::begin("Entries that nobody waits for", &method);
    let log = Log::open(&settings(dir)).expect("a new log");
    let entries: Vec<Entry> = (0..many).map(decision).collect();
    let before = cpu(std::process::id());
    let start = Instant::now();
    for entry in entries {
        log.note(entry).expect("there is room");
    }
    let caller = start.elapsed() / u32::try_from(many).expect("not so many");
    table.at_most("time of the caller for one", caller, Duration::from_micros(10), |time| {
        format!("{:.2} µs", time.as_secs_f64() * 1e6)
    });
    while log.state().queued > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(log.close()).expect("closed");
    let took = start.elapsed();
    table.row("written, entries a second", format!("{:.0}", many as f64 / took.as_secs_f64()));
    let used = cpu(std::process::id()).saturating_sub(before);
    table.row("CPU time for one, all threads", format!("{:.1} µs", used.as_secs_f64() * 1e6 / many as f64));
    let bytes: u64 =
        std::fs::read_dir(dir).expect("the log").flatten().filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum();
    table.row("bytes of an entry in the log", bytes / many);
    let text = decision(1).body.as_str().len();
    table.row("of which its body is", text);
    let key = SigningKey::read(&key_path(dir)).expect("the key").public();
    let start = Instant::now();
    let report = verify(dir, &[key], Some(&dir.with_extension("jsonl"))).expect("a log");
    assert!(report.is_clean() && report.rows > many, "{report:?}");
    table.row("verified, rows a second", format!("{:.0}", report.rows as f64 / start.elapsed().as_secs_f64()));
}
