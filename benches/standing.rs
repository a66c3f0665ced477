//! Does memory follow from how many pods stand? Fifty thousand pods are fed to the scanner as a
//! watch brings them, in this process: parsed, judged, and forgotten but for what is found.

mod measure;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::DynamicObject;
use mandate::api::ClusterAgentPolicySpec;
use mandate::decide::json::Value;
use mandate::decide::standing::report::report;
use mandate::decide::standing::{Ledger, SCANNED};
use mandate::decide::world::{Loaded, World};
use serde_json::json;

use measure::{Table, machine, mb, memory, sized};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HERE: &str = "finance";
/// How many different pods there are where they come from templates.
const TEMPLATES: usize = 500;

fn main() {
    println!("# standing\n\n{}", machine());
    let pods = sized(50_000, 2_000);
    let method = format!(
        "{pods} pods of 7 KB in one namespace, put twice (a first look, and one after a policy changed). Resident memory after it, \
         more than before; time is for parsing, judging and keeping one pod. One ClusterAgentPolicy, profile restricted."
    );
    let table = Table::begin("What stands", &method);
    let world = world();
    // Code, tables of the rules and the allocator's first pages come once.
    fed(&world, 500, |number| pod(number, 2, number));
    for (what, most, secrets, distinct) in [
        ("all in order", 2_000_000, 0, TEMPLATES),
        ("each breaks a rule twice, of 500 templates", 16_000_000, 2, TEMPLATES),
        ("each breaks a rule twice, no two alike", 64_000_000, 2, usize::MAX),
    ] {
        let before = memory(std::process::id()).rss;
        let (ledger, took) = fed(&world, pods, |number| pod(number, secrets, number % distinct));
        let grown = memory(std::process::id()).rss.saturating_sub(before);
        let told = report(&ledger, HERE);
        assert_eq!(told.summary.fail, (pods * secrets) as u64, "{:?}", told.summary);
        table.at_most(&format!("{what}: memory"), grown, most, mb);
        table.row(&format!("{what}: one pod"), format!("{:.1} µs", took.as_secs_f64() * 1e6 / (2 * pods) as f64));
        let start = Instant::now();
        let counted = (ledger.counts(HERE), ledger.by_policy(HERE).len(), report(&ledger, HERE).results.len());
        assert!(counted.2 <= 500);
        table.row(&format!("{what}: adding it all up"), format!("{:.1} ms", start.elapsed().as_secs_f64() * 1e3));
    }
}

/// Two passes over so many pods, and how long they took without making the pods.
fn fed(world: &World, pods: usize, make: impl Fn(usize) -> String) -> (Ledger, Duration) {
    let (mut ledger, mut took) = (Ledger::default(), Duration::ZERO);
    for _ in 0..2 {
        for kind in SCANNED {
            ledger.open(HERE, kind);
            for number in (0..pods).filter(|_| kind.kind == "Pod") {
                let text = make(number);
                let start = Instant::now();
                put(&mut ledger, world, &text);
                took += start.elapsed();
            }
            ledger.close(HERE, kind);
        }
    }
    (ledger, took)
}

/// One event of a watch.
fn put(ledger: &mut Ledger, world: &World, text: &str) {
    let object: DynamicObject = serde_json::from_str(text).expect("a pod is JSON");
    let metadata = serde_json::to_value(&object.metadata).expect("metadata is JSON");
    let mut value = Value::from(&object.data);
    if let Value::Object(members) = &mut value {
        members.insert("metadata", Value::from(&metadata));
    }
    ledger.put(world, HERE, &SCANNED[0], &value, Timestamp::UNIX_EPOCH);
}

/// A pod that takes so many keys of Secrets; those with the same `like` are alike.
fn pod(number: usize, secrets: usize, like: usize) -> String {
    let filling = "x".repeat(200);
    let plain = (0..24).map(|n| json!({"name": format!("SETTING_{n}"), "value": filling}));
    let taken = (0..secrets).map(|n| json!({"name": format!("KEY_{n}"), "valueFrom": {"secretKeyRef": {"name": format!("secret-{like}-{n}"), "key": "k"}}}));
    let env: Vec<_> = plain.chain(taken).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("worker-{like}-{number}"), "namespace": HERE, "uid": format!("00000000-0000-4000-8000-{number:012}"), "creationTimestamp": "2026-01-05T09:00:00Z"},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "worker", "image": "registry.example.com/worker@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "env": env}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })
    .to_string()
}

fn world() -> World {
    let policy = json!({"owner": {"team": "platform", "contact": "p"}, "workloads": {"profile": "restricted"}});
    let policy: ClusterAgentPolicySpec = serde_json::from_value(policy).expect("a policy that can be read");
    let mut world = World { guarded: [HERE.to_owned()].into(), ..World::default() };
    world.cluster_policies.insert("agents".to_owned(), Loaded::Readable(policy));
    world
}
