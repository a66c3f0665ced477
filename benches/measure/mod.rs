//! What the benches share: times and their percentiles, what a process used, what else ran,
//! and how figures are printed.
//!
//! Everything about processes is read from `/proc`, so the benches need Linux.

#![allow(dead_code, reason = "each bench compiles its own copy and uses its own part")]

pub mod pod;

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::fs;
use std::time::{Duration, Instant};

/// Length of a tick in `/proc/*/stat`: `USER_HZ` is 100 on every architecture of Linux.
const TICK: Duration = Duration::from_millis(10);

/// Whether a small version is wanted: `MANDATE_BENCH_QUICK=1`.
pub fn is_quick() -> bool {
    std::env::var_os("MANDATE_BENCH_QUICK").is_some_and(|value| value != "0")
}

/// `full`, or `quick` in the small version.
pub fn sized<T>(full: T, quick: T) -> T {
    if is_quick() { quick } else { full }
}

/// Times of the same thing, measured again and again.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest time that so many percent do not exceed: one that was measured, never
    /// something in between.
    pub fn percentile(&self, percent: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        Self(times.into_iter().collect())
    }
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// What is resident, in bytes.
    pub rss: u64,
    /// The same, with shared pages counted in part.
    pub pss: u64,
    /// The largest RSS so far.
    pub peak: u64,
}

/// Memory of a process now.
pub fn memory(pid: u32) -> Memory {
    Memory {
        rss: field(&format!("/proc/{pid}/status"), "VmRSS:"),
        pss: field(&format!("/proc/{pid}/smaps_rollup"), "Pss:"),
        peak: field(&format!("/proc/{pid}/status"), "VmHWM:"),
    }
}

/// A line `Name:  123 kB`, in bytes.
fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// CPU time of a process so far: user and system, all threads, also those that ended.
pub fn cpu(pid: u32) -> Duration {
    Stat::read(pid).map_or(Duration::ZERO, |stat| stat.own)
}

struct Stat {
    parent: u32,
    own: Duration,
    /// Of children that ended and were waited for.
    children: Duration,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold anything, so the fields are counted from behind it.
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = |place: usize| fields.get(place)?.parse::<u32>().ok().map(|ticks| TICK * ticks);
        Some(Self { parent: fields.get(1)?.parse().ok()?, own: ticks(11)? + ticks(12)?, children: ticks(13)? + ticks(14)? })
    }
}

/// CPU time of this process and everything it started, so far.
fn of_us() -> Duration {
    let pids =
        fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let all: HashMap<u32, Stat> = pids.filter_map(|pid| Some((pid, Stat::read(pid)?))).collect();
    let mut ours = HashSet::from([std::process::id()]);
    loop {
        let before = ours.len();
        ours.extend(all.iter().filter(|(_, stat)| ours.contains(&stat.parent)).map(|(pid, _)| *pid).collect::<Vec<_>>());
        if ours.len() == before {
            break;
        }
    }
    ours.iter().filter_map(|pid| all.get(pid)).map(|stat| stat.own + stat.children).sum()
}

/// CPU time of the whole machine so far, without idling.
fn of_machine() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u32> =
        text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal …
    ticks.iter().take(8).enumerate().filter(|(place, _)| !matches!(place, 3 | 4)).map(|(_, ticks)| TICK * *ticks).sum()
}

/// What else runs on the machine while something is measured.
pub struct Others {
    since: Instant,
    machine: Duration,
    us: Duration,
}

impl Others {
    /// From now on.
    pub fn watch() -> Self {
        Self { since: Instant::now(), machine: of_machine(), us: of_us() }
    }

    /// What others used since then, in cores: 0.00 on a quiet machine.
    pub fn cores(&self) -> f64 {
        let machine = of_machine().saturating_sub(self.machine);
        let us = of_us().saturating_sub(self.us);
        machine.saturating_sub(us).as_secs_f64() / self.since.elapsed().as_secs_f64()
    }
}

/// The machine, in one line.
pub fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown CPU", |(_, name)| name);
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let memory = field("/proc/meminfo", "MemTotal:") as f64 / f64::from(1 << 30);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores of {model}, {memory:.0} GiB, Linux {}, load {}", kernel.trim(), load())
}

fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Prints figures as they come, as rows of a Markdown table.
pub struct Table;

impl Table {
    /// Begins a table.
    pub fn begin(title: &str, method: &str) -> Self {
        println!("\n## {title}\n\n{method}\n\n| what | figure | target | |\n| --- | --- | --- | --- |");
        Self
    }

    /// A figure without a target.
    pub fn row(&self, what: &str, figure: impl Display) {
        println!("| {what} | {figure} | | |");
    }

    /// A figure that should be at most so much.
    pub fn at_most<T: PartialOrd>(&self, what: &str, figure: T, target: T, show: impl Fn(&T) -> String) {
        let verdict = if figure <= target { "✓" } else { "**missed**" };
        println!("| {what} | {} | ≤ {} | {verdict} |", show(&figure), show(&target));
    }

    /// A figure that should be at least so much.
    pub fn at_least<T: PartialOrd>(&self, what: &str, figure: T, target: T, show: impl Fn(&T) -> String) {
        let verdict = if figure >= target { "✓" } else { "**missed**" };
        println!("| {what} | {} | ≥ {} | {verdict} |", show(&figure), show(&target));
    }
}

/// A time in milliseconds, as exact as it is worth.
pub fn ms(time: &Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.0} ms") }
}

/// A time in seconds.
pub fn seconds(time: &Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Bytes in MB, which are a million.
pub fn mb(bytes: &u64) -> String {
    format!("{:.1} MB", *bytes as f64 / 1e6)
}
