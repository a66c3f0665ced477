//! What does a run-time decision cost, does it stay flat as policies and tasks grow many, and
//! what does the same question cost OPA?
//!
//! In process: [`authorize`] alone, compiling, memory. Over HTTPS: Mandate's own binary, which
//! reads manifests, checks tokens, keeps histories and writes its audit log; the questions come
//! from a second process, this one started anew (see [`generate`]). Authorizer and OPA are kept
//! to the first core and the generator to the second, where there is `taskset` and more than one
//! core. One part alone runs by its name: `cargo bench --bench authorize -- https`; the parts are
//! `process`, `https`, `grpc`, `handler`, `otlp`, `changes` and `opa`.

#[path = "measure/authority.rs"]
mod authority;
#[path = "measure/collector.rs"]
mod collector;
#[path = "measure/gateway.rs"]
mod gateway;
#[path = "measure/generate.rs"]
mod generate;
#[path = "measure/handler.rs"]
mod handler;
mod measure;
#[path = "measure/opa.rs"]
mod opa;
#[path = "measure/pinned.rs"]
mod pinned;
#[path = "measure/point.rs"]
mod point;

use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::mandate::authorizer::state::State;
use ::mandate::authorizer::trust::Caller;
use ::mandate::decide::authorize::history::History;
use ::mandate::decide::authorize::snapshot::{Compiler, Snapshot};
use ::mandate::decide::authorize::{Action, Histories, Outcome, Subject, authorize};
use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::{Map, Value};

use authority::{Ask, Others, namespace, policy, put, sources, subject};
use collector::Collector;
use handler::Handler;
use measure::{Table, Times, cpu, machine, mb, memory, ms, sized};
use point::{Door, Load, Place, Point, Seen};

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Evaluations of one request, where several are asked at once.
const BATCH: usize = 20;
/// Policies that stand while Mandate and OPA are asked the same.
const SIDE_BY_SIDE: usize = 1_000;

fn main() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match std::env::args().nth(1).as_deref() {
        Some("generate") => return generate::main(),
        Some("kept") => return print_kept(),
        _ => {}
    }
    println!("# authorize\n\n{}", machine());
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let is_wanted = |part: &str| wanted.as_deref().is_none_or(|wanted| wanted == part);
    if is_wanted("process") {
        in_process();
        worst_case();
        many_tasks();
        compiling()?;
        while_compiling();
        long_run();
    }
    let place = Place::make()?;
    if is_wanted("https") {
        over_https(&place)?;
        on_time(&place)?;
    }
    if is_wanted("grpc") {
        over_grpc(&place)?;
    }
    if is_wanted("handler") {
        handlers(&place)?;
    }
    if is_wanted("otlp") {
        with_telemetry(&place)?;
    }
    if is_wanted("changes") {
        one_policy_changes(&place)?;
    }
    if is_wanted("opa") {
        beside_opa(&place)?;
    }
    Ok(())
}

fn us(time: Duration) -> String {
    format!("{:.1} µs", time.as_secs_f64() * 1e6)
}

fn both(times: &Times) -> String {
    format!("{}, p99 {}", us(times.percentile(50.0)), us(times.percentile(99.0)))
}

/// One task that asks, and what it has done.
struct Asking {
    subject: Subject,
    task: History,
    agent: History,
}

impl Asking {
    fn new() -> Self {
        Self { subject: subject(&namespace(0), "task-0"), task: History::default(), agent: History::default() }
    }

    fn ask(&mut self, snapshot: &Snapshot, ask: Ask, arguments: &Map<String, Value>) -> Outcome {
        let (none, now) = (Map::new(), Timestamp::now());
        let action = Action {
            server: "ledger",
            tool: ask.tool(),
            resource: None,
            arguments,
            subject_properties: &none,
            resource_properties: &none,
            intent: Some("match invoice with posting"),
            reports_outcome: false,
            kubernetes: None,
        };
        let mut histories = Histories { task: &mut self.task, agent: &mut self.agent, above: vec![] };
        authorize(snapshot, now, &self.subject, &action, &mut histories, now).outcome
    }

    /// Asks again and again.
    fn times(&mut self, snapshot: &Snapshot, ask: Ask, rounds: usize) -> Times {
        let arguments: Vec<Map<String, Value>> = (0..16).filter_map(|n| ask.arguments(n).as_object().cloned()).collect();
        let expected = if ask.is_permitted() { Outcome::Permit } else { Outcome::Deny };
        assert_eq!(self.ask(snapshot, ask, &arguments[0]), expected, "{ask:?}");
        let mut one = |n: usize| timed(|| _ = black_box(self.ask(snapshot, ask, &arguments[n % arguments.len()])));
        (0..rounds / 10).for_each(|n| _ = one(n));
        (0..rounds).map(one).collect()
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn compiled(others: Others, policies: usize) -> Snapshot {
    let (snapshot, trouble) = Compiler::default().compile(&sources(others, policies));
    assert_eq!(trouble, [], "the bench's own policies");
    snapshot
}

fn sizes() -> &'static [usize] {
    sized(&[10, 100, 1_000, 10_000], &[10, 100, 1_000])
}

fn in_process() {
    let rounds = sized(50_000, 2_000);
    let method = format!(
        "`authorize()` on one thread, {rounds} times in a row: median and p99. Three rules hold everywhere, one on arguments and two on history; \
         the other policies are about other tools or agents. The scope bounds the amount of the write."
    );
    let table = Table::begin("A decision in process", &method);
    for others in [Others::Spread, Others::Tools, Others::Agents] {
        for &policies in sizes() {
            let snapshot = compiled(others, policies);
            let mut asking = Asking::new();
            for ask in Ask::ALL {
                if ask != Ask::Read {
                    let times = asking.times(&snapshot, ask, rounds);
                    table.row(&format!("{policies} policies, {}: {}", others.words(), ask.words()), both(&times));
                }
            }
        }
    }
}

fn worst_case() {
    let rounds = sized(500, 20);
    let method = format!(
        "As above, {rounds} times, but every policy is about the effect of the action, so that each must be evaluated: the index cannot help, and time is linear in their number."
    );
    let table = Table::begin("The worst case: every policy must be looked at", &method);
    for &policies in sizes() {
        let snapshot = compiled(Others::SameEffect, policies);
        let times = Asking::new().times(&snapshot, Ask::Post, rounds);
        let each = times.percentile(50.0) / u32::try_from(policies).unwrap_or(1);
        table.row(&format!("{policies} policies"), format!("{} ({} a policy)", both(&times), us(each)));
    }
}

fn many_tasks() {
    let rounds = sized(50_000, 2_000);
    let method = format!(
        "Looking up a task by its ServiceAccount and deciding a light read, {rounds} times, each time another task; 1,000 policies. Memory: what the tasks add to this process, before and after each has acted once."
    );
    let table = Table::begin("A decision among many tasks", &method);
    let snapshot = compiled(Others::Spread, 1_000);
    for tasks in sized(&[10, 1_000, 100_000][..], &[10, 1_000, 10_000]).iter().copied() {
        let before = memory(std::process::id()).rss;
        let state = State::default();
        let keys: Vec<String> = (0..tasks)
            .map(|n| {
                let subject = subject(&namespace(n % 10), &format!("task-{n}"));
                let key = subject.key.clone();
                state.put(subject);
                key
            })
            .collect();
        let taken = memory(std::process::id()).rss.saturating_sub(before);
        let none = Map::new();
        let mut decide = |n: usize| {
            // Neighbours in the list are far apart in memory.
            let key = &keys[n.wrapping_mul(7919) % keys.len()];
            timed(|| {
                let live = state.task(&Caller::vouched(key.clone())).expect("it was put there");
                let (subject, mut task, mut agent) = (live.subject(), live.history(), live.agent_history());
                let mut histories = Histories { task: &mut task, agent: &mut agent, above: vec![] };
                let (now, action) = (Timestamp::now(), search(&none));
                assert_eq!(authorize(&snapshot, now, &subject, &action, &mut histories, now).outcome, Outcome::Permit);
            })
        };
        let times: Times = (0..rounds).map(&mut decide).collect();
        (0..tasks).for_each(|n| _ = decide(n));
        let acted = memory(std::process::id()).rss.saturating_sub(before);
        table.row(&format!("{tasks} tasks"), format!("{}; {}, {} once all have acted", both(&times), mb(&taken), mb(&acted)));
    }
}

fn search(none: &Map<String, Value>) -> Action<'_> {
    Action {
        server: "ledger",
        tool: "search",
        resource: None,
        arguments: none,
        subject_properties: none,
        resource_properties: none,
        intent: None,
        reports_outcome: false,
        kubernetes: None,
    }
}

fn compiling() -> Result<()> {
    let table = Table::begin(
        "Compiling policies",
        "Everything anew; then after one policy of one rule has changed (median of 20). Memory: what the compiled snapshot and the compiler take in a process of their own, beside the objects as they were read.",
    );
    for others in [Others::Spread, Others::Tools] {
        for &policies in sizes() {
            let mut all = sources(others, policies);
            let mut compiler = Compiler::default();
            let start = Instant::now();
            let (mut snapshot, _) = compiler.compile(&all);
            let whole = start.elapsed();
            let again: Times = (0..20)
                .map(|n| {
                    put(&mut all, policy(others, n % policies, n + 1));
                    timed(|| snapshot = compiler.compile(&all).0)
                })
                .collect();
            black_box(snapshot);
            let kept = kept(others, policies)?;
            let figure = format!("{}, one changed {}; {}", ms(&whole), ms(&again.percentile(50.0)), mb(&kept));
            table.row(&format!("{policies} policies, {}", others.words()), figure);
        }
    }
    Ok(())
}

/// What a compiled snapshot and its compiler take, seen in a process of its own: in one that has
/// done other work they find room that was freed before.
fn kept(others: Others, policies: usize) -> Result<u64> {
    let own = std::env::current_exe()?;
    let output = Command::new(own).args(["kept", others.name(), &policies.to_string()]).output()?;
    ensure!(output.status.success(), "a process that compiles policies failed");
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

fn print_kept() -> Result<()> {
    let mut args = std::env::args().skip(2);
    let (others, policies) = (args.next().unwrap_or_default(), args.next().unwrap_or_default().parse()?);
    let others = Others::ALL.into_iter().find(|known| known.name() == others).context("no such policies")?;
    let all = sources(others, policies);
    let before = memory(std::process::id()).rss;
    let mut compiler = Compiler::default();
    let compiled = compiler.compile(&all);
    println!("{}", memory(std::process::id()).rss.saturating_sub(before));
    black_box((compiled, compiler, all));
    Ok(())
}

/// Decisions while another thread compiles as fast as it can.
fn while_compiling() {
    let policies = sized(10_000, 1_000);
    let rounds = sized(50_000, 2_000);
    let method = format!(
        "A light read in process, {rounds} times, while a second thread compiles {policies} policies anew without pause and swaps the snapshot in. On two cores."
    );
    let table = Table::begin("A decision while policies compile", &method);
    let all = sources(Others::Spread, policies);
    let state = State::default();
    state.replace(Compiler::default().compile(&all).0);
    let times = |state: &State| -> Times {
        let mut asking = Asking::new();
        let none = Map::new();
        (0..rounds).map(|_| timed(|| _ = black_box(asking.ask(&state.snapshot(), Ask::Search, &none)))).collect()
    };
    table.row("nothing compiles", both(&times(&state)));
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                state.replace(Compiler::default().compile(&all).0);
            }
        });
        table.row("all compiles, again and again", both(&times(&state)));
        end.store(true, Ordering::Relaxed);
    });
}

fn long_run() {
    let rounds = sized(1_000_000, 20_000);
    let table = Table::begin(
        "Memory over many decisions of one task",
        "A light read and a write in turn, by one task, each taken into its history; what this process has grown by since the first thousand.",
    );
    let snapshot = compiled(Others::Spread, 100);
    let mut asking = Asking::new();
    let (none, arguments) = (Map::new(), Ask::Post.arguments(1));
    let arguments = arguments.as_object().cloned().unwrap_or_default();
    let mut before = 0;
    for n in 0..rounds {
        if n == 1_000 {
            before = memory(std::process::id()).rss;
        }
        match n % 2 {
            0 => _ = asking.ask(&snapshot, Ask::Search, &none),
            _ => _ = asking.ask(&snapshot, Ask::Post, &arguments),
        }
    }
    let grown = memory(std::process::id()).rss.saturating_sub(before);
    table.at_most(&format!("after {rounds} decisions"), grown, 1_000_000, mb);
}

fn over_https(place: &Place) -> Result<()> {
    let method = format!(
        "The release binary with {SIDE_BY_SIDE} policies, over one HTTP/2 connection with {} questions under way. Each names the task by its own token (EdDSA, verified once and then believed for 30 s), \
         and the enforcement point shows a bearer token. A permitted read is left to the audit log's queue; everything else is on the disk before it is answered. \
         CPU: user and system time of the process, with TLS, HTTP, audit log and its disk, divided by decisions. {}",
        point::AT_ONCE,
        place.pinned.words("authorizer")
    );
    let table = Table::begin("Decisions over AuthZEN", &method);
    let point = Point::start(place, SIDE_BY_SIDE)?;
    let at_start = memory(point.pid()).rss;
    for ask in Ask::ALL {
        for load in [Load::most(ask), Load::batches(ask, BATCH)] {
            let seen = point.send(load)?;
            let many = if load.batch == 1 { String::new() } else { format!(", {} to a request", load.batch) };
            let what = format!("{}{many} (authorizer {:.2} cores, others {:.2})", ask.words(), seen.cores(), seen.others);
            match ask {
                Ask::Search | Ask::Read => table.at_least(&what, seen.rate(), 20_000.0, |rate| format!("{rate:.0}/s")),
                _ => table.row(&what, format!("{:.0}/s", seen.rate())),
            }
            table.row(&format!("{}{many}: CPU of a decision", ask.words()), format!("{:.1} µs", seen.each()));
        }
    }
    table.row("memory at start", mb(&at_start));
    let mut done = 0;
    for upto in sized([100_000, 500_000, 1_000_000], [2_000, 4_000, 8_000]) {
        point.send(Load { questions: upto - done, ..Load::most(Ask::Search) })?;
        done = upto;
        table.row(&format!("memory after {upto} further decisions"), mb(&memory(point.pid()).rss));
    }
    Ok(())
}

fn on_time(place: &Place) -> Result<()> {
    let rates: &[u32] = sized(&[1_000, 5_000], &[500]);
    let method = format!(
        "Open loop: questions are sent on time whether earlier ones were answered or not, over one HTTP/2 connection; {SIDE_BY_SIDE} policies. Seen by the generator, from sending to the whole answer, with TLS and HTTP on both sides. {}",
        place.pinned.words("authorizer")
    );
    let table = Table::begin("Time of a decision over AuthZEN at a steady rate", &method);
    let point = Point::start(place, SIDE_BY_SIDE)?;
    for &rate in rates {
        for ask in [Ask::Search, Ask::Read, Ask::Post] {
            table.row(&format!("{rate}/s, {}", ask.words()), steady(&point.send(Load::at(ask, rate))?));
        }
    }
    Ok(())
}

fn steady(seen: &Seen) -> String {
    let sent = &seen.sent;
    format!(
        "p50 {}, p99 {}, longest {} (sent up to {} late at p99)",
        us(sent.p50),
        us(sent.p99),
        ms(&sent.longest),
        us(sent.late)
    )
}

/// The same as a gateway asks it.
fn over_grpc(place: &Place) -> Result<()> {
    let method = format!(
        "Envoy's `ext_authz` (v3) over one connection of HTTP/2 without TLS, as a gateway in the same pod asks it: each question is a call of MCP as Envoy passes it on, with the agent's token; {SIDE_BY_SIDE} policies. \
         Times are seen by the generator, from sending to the whole answer, gRPC on both sides and the wake-up of both processes within. {}",
        place.pinned.words("authorizer")
    );
    let table = Table::begin("Decisions for a gateway over loopback gRPC", &method);
    let point = Point::start(place, SIDE_BY_SIDE)?;
    for ask in Ask::ALL {
        let seen = point.send(Load::most(ask).of_gateway())?;
        let cost = format!("{:.0}/s, {:.1} µs of CPU each", seen.rate(), seen.each());
        table.row(&format!("as fast as can be, {}", ask.words()), cost);
    }
    for &rate in sized(&[1_000, 5_000][..], &[500]) {
        for ask in [Ask::Search, Ask::Read] {
            let seen = point.send(Load::at(ask, rate).of_gateway())?;
            table.row(&format!("{rate}/s, {}", ask.words()), steady(&seen));
        }
    }
    Ok(())
}

/// The handlers of the same requests, timed without the connection, at the rate of the target.
fn handlers(place: &Place) -> Result<()> {
    const RATE: u32 = 5_000;
    let method = format!(
        "The same requests, {RATE} a second, answered in this process by one worker thread: over loopback, by gRPC without TLS from a second process, where this one has the first core alone; else given to the handler by a thread that keeps time. From the whole request to the whole answer: enforcement point and token checked, JSON read, \
         task and history looked up, decided, and the audit entry queued; {SIDE_BY_SIDE} policies. What is left of the times above is TLS, HTTP and waking up. \
         Writes come at a tenth of the rate: each waits until its audit entry is on the disk, and one task may have 1,024 actions under way."
    );
    let table = Table::begin("Time of the handler alone at 5,000 a second", &method);
    let handler = Handler::start(place)?;
    let targets = |of: &str, ask: Ask, times: &Times| {
        let row = |what: &str| format!("{of}, {}: {what}", ask.words());
        table.at_most(&row("p50"), times.percentile(50.0), Duration::from_micros(60), |time| us(*time));
        table.at_most(&row("p99"), times.percentile(99.0), Duration::from_millis(1), |time| us(*time));
    };
    for ask in [Ask::Search, Ask::Read] {
        targets("ext_authz over loopback", ask, &handler.over_grpc(place, ask, RATE)?);
    }
    for (door, name) in [(Door::Gateway, "ext_authz"), (Door::AuthZen, "AuthZEN")] {
        for ask in [Ask::Search, Ask::Read] {
            targets(name, ask, &handler.times(door, ask, RATE)?);
        }
        for ask in [Ask::Post, Ask::TooMuch] {
            table.row(&format!("{name}, {}, nothing recorded", ask.words()), both(&handler.without_log(door, ask, RATE)?));
            table.row(&format!("{name}, {}, on the disk", ask.words()), both(&handler.times(door, ask, RATE / 10)?));
        }
    }
    Ok(())
}

/// The same decisions while a collector is told of them.
fn with_telemetry(place: &Place) -> Result<()> {
    const RATES: [Option<u32>; 2] = [Some(1_000), None];
    let method = format!(
        "As a gateway asks, {SIDE_BY_SIDE} policies: light reads without arguments, CPU of the process divided by decisions, without OpenTelemetry and with a collector in another process that takes every span and the metrics (settings as they are by default: each decision has a span, 2,048 may wait). {}",
        place.pinned.words("authorizer")
    );
    let table = Table::begin("What telemetry costs a decision", &method);
    let collector = Collector::start()?;
    for (what, url) in [("nobody is told", None), ("with traces and metrics", Some(collector.url.as_str()))] {
        let point = Point::start_telling(place, SIDE_BY_SIDE, url)?;
        let came = |sent| url.map_or(0, |_| collector.spans(sent));
        let mut before = came(point.warmed);
        for rate in RATES {
            let load = rate.map_or_else(|| Load::most(Ask::Search), |rate| Load::at(Ask::Search, rate)).of_gateway();
            let seen = point.send(load)?;
            let after = came(before + seen.sent.reviews);
            let (rate, told) = (format!("{:.0}/s", seen.rate()), after - before);
            before = after;
            let told = url.map_or_else(String::new, |_| format!("; {told} of {} spans came", seen.sent.reviews));
            table.row(&format!("{rate}, {what}"), format!("{:.1} µs, p50 {}{told}", seen.each(), us(seen.sent.p50)));
        }
    }
    Ok(())
}

/// A policy changes while questions come.
fn one_policy_changes(place: &Place) -> Result<()> {
    let policies = sized(10_000, 500);
    let method = format!(
        "{policies} policies in a directory of manifests, of which one is written anew each second, while light reads come at 1,000 a second. Reading, comparing and compiling run on the authorizer's one core beside the answers. {}",
        place.pinned.words("authorizer")
    );
    let table = Table::begin("Answers while policies change", &method);
    let point = Point::start(place, policies)?;
    let still = point.send(Load::at(Ask::Search, 1_000))?;
    let end = Arc::new(AtomicBool::new(false));
    let writing = std::thread::spawn({
        let (end, dir) = (end.clone(), point.manifests.clone());
        move || -> Result<()> {
            for change in 1.. {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                point::write_policy(&dir, 0, change)?;
                std::thread::sleep(Duration::from_secs(1));
            }
            Ok(())
        }
    });
    let changing = point.send(Load::at(Ask::Search, 1_000));
    end.store(true, Ordering::Relaxed);
    writing.join().map_err(|_| anyhow::anyhow!("writing policies panicked"))??;
    for (what, seen) in [("nothing changes", still), ("one policy changes each second", changing?)] {
        let sent = &seen.sent;
        let figure =
            format!("p50 {}, p99 {}, longest {}; {:.2} cores", us(sent.p50), us(sent.p99), ms(&sent.longest), seen.cores());
        table.row(what, figure);
    }
    table.row("memory", mb(&memory(point.pid()).rss));
    Ok(())
}

fn beside_opa(place: &Place) -> Result<()> {
    let rounds = sized(100_000, 2_000);
    let method = format!(
        "The same question with {SIDE_BY_SIDE} other policies, of this run and this machine, each process on one core (OPA with GOMAXPROCS=1): decisions per CPU-second. OPA's policy is `benches/opa/policy.rego` plus one indexed rule for each other policy, \
         compiled once; it answers with decision and reasons. It verifies no token and keeps no history, and its log goes to a console that nobody reads, while Mandate over HTTPS does all three, and has what is no light read on the disk before it answers. \
         In process: OPA by a prepared query with inputs as Go values, and again with inputs in OPA's own form (which no server is given); Mandate by `authorize()` with arguments as JSON values. Over HTTPS: OPA's own server at `/v1/data/mandate/answer`, with the same body as `input`; both over {} connections of HTTP/1.1, since OPA's server speaks no HTTP/2 over TLS.",
        point::AT_ONCE
    );
    let table = Table::begin("Beside OPA", &method);
    let binary = opa::binary()?;
    let wrap = place.pinned.first();
    let paths = opa::write(&place.dir, SIDE_BY_SIDE)?;
    let snapshot = compiled(Others::Spread, SIDE_BY_SIDE);
    for ask in Ask::ALL {
        let (before, start) = (cpu(std::process::id()), Instant::now());
        let _ = Asking::new().times(&snapshot, ask, rounds);
        // On one thread; ticks of CPU time are too coarse for the small version.
        let used = (cpu(std::process::id()) - before).max(start.elapsed() / 2);
        let own = rounds as f64 * 1.1 / used.as_secs_f64();
        let inputs: Vec<Value> = (0..16).map(|n| ask.body(&namespace(0), "none", n)).collect();
        for (form, parsed) in [("Go values", false), ("OPA's form", true)] {
            let asked = opa::prepared(&binary, wrap, &place.dir, &paths, &inputs, rounds, parsed)?;
            let permitted = if ask.is_permitted() { asked.decisions } else { 0 };
            ensure!(asked.permitted == permitted, "OPA permits {} of {}", asked.permitted, asked.decisions);
            let theirs = f64::from(asked.decisions) * 1e9 / asked.cpu_ns as f64;
            let [p50, p99] = [asked.p50_ns, asked.p99_ns].map(|nanos| us(Duration::from_nanos(nanos)));
            ratio(&table, &format!("in process, {}: inputs as {form} (OPA p50 {p50}, p99 {p99})", ask.words()), own, theirs);
        }
    }
    let point = Point::start(place, SIDE_BY_SIDE)?;
    let mut memories = vec![];
    for (logs, with) in [(true, "with its log of decisions on the console"), (false, "without a log")] {
        let (child, port) = opa::serve(&binary, wrap, &paths, &place.certificate, &place.key, logs)?;
        let other = Point::of_opa(place, child, port)?;
        for ask in Ask::ALL {
            let own = 1e6 / point.send(Load::over_http1(ask))?.each();
            let theirs = other.send(Load::over_http1(ask))?;
            let what = format!("over HTTPS, {}: OPA {with} ({:.0}/s)", ask.words(), theirs.rate());
            ratio(&table, &what, own, 1e6 / theirs.each());
        }
        memories.push(format!("OPA {with} {}", mb(&memory(other.pid()).rss)));
    }
    table.row("memory over HTTPS", format!("{}, {}", mb(&memory(point.pid()).rss), memories.join(", ")));
    Ok(())
}

fn ratio(table: &Table, what: &str, own: f64, theirs: f64) {
    let what = format!("{what}: {own:.0} to {theirs:.0} a CPU-second");
    table.at_least(&what, own / theirs, 4.0, |ratio| format!("{ratio:.1} to 1"));
}
