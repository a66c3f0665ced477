//! Does a verdict cost more where more is known? Reading and judging one review of 12 KB, in
//! this process, over worlds of ten to a hundred thousand tasks.

mod measure;

use std::hint::black_box;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use mandate::api::{AgentIdentity, ClusterAgentPolicySpec, Phase, Requester, TaskScope, names};
use mandate::decide::admit::{Operation, Review, admit};
use mandate::decide::json::{Read as _, Value};
use mandate::decide::mutate::mutate;
use mandate::decide::world::{Loaded, Task, World};
use serde_json::json;

use measure::pod::{self, Holds};
use measure::{Table, Times, machine, mb, memory, sized};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How tasks are spread: a team's namespace with a hundred running tasks is a busy one.
const TASKS_A_NAMESPACE: usize = 100;

fn main() {
    println!("# decide\n\n{}", machine());
    let rounds = sized(20_000, 500);
    let method = format!(
        "One review of 12 KB, read and judged {rounds} times in a row on one thread; median. Tasks stand in namespaces of {TASKS_A_NAMESPACE}, each with an \
         agent and a scope; one ClusterAgentPolicy, profile restricted. `one namespace`: all tasks in the namespace of the pod."
    );
    let table = Table::begin("Reading and judging in process", &method);
    for (tasks, everywhere) in [(10, true), (1_000, true), (100_000, true), (100_000, false)] {
        let before = memory(std::process::id()).rss;
        let world = world(tasks, if everywhere { TASKS_A_NAMESPACE } else { tasks });
        let grown = memory(std::process::id()).rss.saturating_sub(before);
        if tasks == 100_000 && everywhere {
            table.row("100000 tasks: memory of the world", mb(&grown));
        }
        let label = format!("{tasks} tasks{}", if everywhere { "" } else { ", one namespace" });
        measure(&table, &world, &label, rounds);
    }
    huge();
}

/// A pod of 1 MB with a thousand volumes and five thousand variables: as large as anybody can
/// make one, and as awkward.
fn huge() {
    let rounds = sized(40, 4);
    let method = format!(
        "One pod of 1 MB, 1,000 volumes and 5,000 variables, read and judged {rounds} times in a row on one thread; median and longest."
    );
    let table = Table::begin("The largest objects", &method);
    let (world, now) = (world(10, TASKS_A_NAMESPACE), Timestamp::now());
    let user = Requester { username: "alice".to_owned(), ..Requester::default() };
    for (fill, what) in [
        (Fill::Harmless, "nothing in it"),
        (Fill::Random, "letters at random"),
        (Fill::Nested, "variables in variables"),
        (Fill::Secrets, "a finding in each"),
    ] {
        let body = large(fill);
        let read: Times = (0..rounds).map(|_| timed(|| drop(black_box(parse(&body))))).collect();
        let value = parse(&body);
        let review = review(&value, &user);
        let findings = admit(&world, &review, now).findings.len();
        let judged: Times = (0..rounds).map(|_| timed(|| drop(black_box(admit(&world, &review, now))))).collect();
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        let figure = format!(
            "read {}, judge {}, longest {}",
            ms(read.percentile(50.0)),
            ms(judged.percentile(50.0)),
            ms(judged.longest())
        );
        table.row(&format!("{} KB, {what}: {findings} findings", body.len() / 1000), figure);
    }
}

/// What the values of variables are.
#[derive(Clone, Copy)]
enum Fill {
    Harmless,
    Random,
    Nested,
    Secrets,
}

fn large(fill: Fill) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let value = |n: usize, random: &mut dyn FnMut() -> u64| match fill {
        Fill::Harmless => format!(
            "the value of variable {n} is of a length that many have, such as an address https://ledger.finance.svc:8443/{n}"
        ),
        Fill::Random => {
            const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            (0..120).map(|_| char::from(LETTERS[usize::try_from(random() % 64).unwrap_or_default()])).collect()
        }
        Fill::Nested => format!(
            "$(V{0}) $(V{0}) $(V{1}) and so on, with more words so that it comes to the same length as others do",
            n.wrapping_sub(1),
            n / 2
        ),
        Fill::Secrets => format!(
            "postgres://app:hunter{n}@db.finance.svc:5432/ledger?and=so-on&with=more-words&so-that=the-length-is-that-of-others"
        ),
    };
    let env: Vec<serde_json::Value> =
        (0..5000).map(|n| json!({"name": format!("V{n}"), "value": value(n, &mut random)})).collect();
    let volumes: Vec<serde_json::Value> = (0..1000)
        .map(|n| json!({"name": format!("v{n}"), "projected": {"sources": [{"serviceAccountToken": {"path": "token", "audience": "ledger", "expirationSeconds": 600}}]}}))
        .collect();
    let mounts: Vec<serde_json::Value> =
        (0..1000).map(|n| json!({"name": format!("v{n}"), "mountPath": format!("/volumes/{n}"), "subPath": if n % 2 == 0 { "" } else { "token" }})).collect();
    let request = json!({"name": "large", "namespace": "team-0", "object": {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "large"},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "agent", "env": env, "volumeMounts": mounts}], "volumes": volumes}
    }});
    serde_json::to_vec(&json!({"request": request})).expect("JSON is always written")
}

fn measure(table: &Table, world: &World, label: &str, rounds: usize) {
    let now = Timestamp::now();
    for (holds, what) in [(Holds::Task, "let in"), (Holds::Secrets, "refused with 5 findings")] {
        let owns = names::of_task("task-7", "uid-7");
        let bodies: Vec<Vec<u8>> =
            (0..16).map(|n| pod::review(pod::Task { namespace: "team-0", name: "task-7", owns: &owns }, holds, n)).collect();
        let read: Times = (0..rounds).map(|n| timed(|| drop(black_box(parse(&bodies[n % bodies.len()]))))).collect();
        let values: Vec<Value<'_>> = bodies.iter().map(|body| parse(body)).collect();
        let user = Requester { username: "alice".to_owned(), ..Requester::default() };
        let reviews: Vec<Review<'_>> = values.iter().map(|value| review(value, &user)).collect();
        let verdict = admit(world, &reviews[0], now);
        assert_eq!(verdict.findings.len(), if holds == Holds::Task { 0 } else { 5 }, "{verdict:?}");
        let judged: Times =
            (0..rounds).map(|n| timed(|| drop(black_box(admit(world, &reviews[n % reviews.len()], now))))).collect();
        let changed: Times =
            (0..rounds).map(|n| timed(|| drop(black_box(mutate(world, &reviews[n % reviews.len()], now))))).collect();
        let figure = format!("read {}, judge {}, change {}", us(&read), us(&judged), us(&changed));
        table.row(&format!("{label}: pod that is {what}"), figure);
    }
}

fn us(times: &Times) -> String {
    format!("{:.1} µs", times.percentile(50.0).as_secs_f64() * 1e6)
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn parse(body: &[u8]) -> Value<'_> {
    serde_json::from_slice(body).expect("a review is JSON")
}

fn review<'a>(value: &'a Value<'a>, user: &'a Requester) -> Review<'a> {
    let request = value.member("request").expect("a review has a request");
    Review {
        operation: Operation::Create,
        group: "",
        resource: "pods",
        subresource: "",
        namespace: request.text("namespace"),
        name: request.text("name"),
        user,
        object: request.member("object").expect("a creation has an object"),
        old: None,
    }
}

fn world(tasks: usize, tasks_a_namespace: usize) -> World {
    let policy: ClusterAgentPolicySpec =
        read(json!({"owner": {"team": "platform", "contact": "p"}, "workloads": {"profile": "restricted"}}));
    let mut world = World { controller: "controller".to_owned(), ..World::default() };
    world.cluster_policies.insert("agents".to_owned(), Loaded::Readable(policy));
    let identity: AgentIdentity = read(json!({
        "metadata": {"name": "bot", "uid": "1"}, "spec": {"owner": {"team": "finance", "contact": "f"}, "purpose": "Reconciles invoices with the ledger"}
    }));
    let scope: TaskScope = read(json!({
        "metadata": {"name": "read", "uid": "2"},
        "spec": {"intent": "Read", "kubernetes": {"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]}}
    }));
    let deadline = Timestamp::now() + SignedDuration::from_hours(1);
    for n in 0..tasks {
        let here = world.namespaces.entry(format!("team-{}", n / tasks_a_namespace)).or_default();
        if here.tasks.is_empty() {
            here.identities.insert("bot".to_owned(), identity.clone());
            here.scopes.insert("read".to_owned(), scope.clone());
        }
        let (name, uid) = (format!("task-{n}"), format!("uid-{n}"));
        let task = Task {
            agent: "bot".to_owned(),
            scope: "read".to_owned(),
            phase: Phase::Active,
            owns: names::of_task(&name, &uid),
            uid,
            deadline,
            ending: false,
            has_rules: true,
            is_child: false,
            chain: vec![],
        };
        here.put_task(name, task);
    }
    world
}

fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("an example that can be read")
}
