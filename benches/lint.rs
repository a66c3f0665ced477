//! How long does a check of manifests take that somebody waits for? `mandate lint`, as a process
//! of its own, over a thousand files of 12 KB, as YAML and as JSON.

mod measure;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mandate::api::names;
use serde_json::Value;

use measure::pod::{self, Holds};
use measure::{Table, Times, machine, ms, sized};

/// What somebody waits for: the manifests of a large repository.
const TARGET: Duration = Duration::from_secs(1);

fn main() {
    println!("# lint\n\n{}", machine());
    let (files, rounds) = (sized(1_000, 100), sized(10, 2));
    let method = format!(
        "`mandate lint` over a directory of {files} files, {rounds} times, from start to exit; the median. Each file is a pod of about 12 KB; one \
         in ten reaches five static secrets. Files are in the page cache."
    );
    let table = Table::begin("Checking manifests", &method);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lint");
    for (format, of) in [("yaml", "text"), ("json", "text"), ("yaml", "sarif")] {
        let dir = manifests(&dir, format, files);
        let times: Times = (0..rounds).map(|_| timed(&dir, of, files)).collect();
        table.at_most(&format!("{files} files of {format}, findings as {of}"), times.percentile(50.0), TARGET, ms);
    }
}

/// A directory with so many pods.
fn manifests(dir: &Path, format: &str, files: usize) -> PathBuf {
    let dir = dir.join(format);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a directory for manifests");
    let owns = names::of_task("task-7", "uid-7");
    for n in 0..files {
        let holds = if n % 10 == 0 { Holds::Secrets } else { Holds::Task };
        let review = pod::review(pod::Task { namespace: "team-0", name: "task-7", owns: &owns }, holds, n);
        let review: Value = serde_json::from_slice(&review).expect("a review is JSON");
        let object = &review["request"]["object"];
        let text = if format == "json" { serde_json::to_string_pretty(object).ok() } else { serde_yaml::to_string(object).ok() };
        fs::write(dir.join(format!("pod-{n:05}.{format}")), text.expect("a pod is text")).expect("a file is written");
    }
    dir
}

fn timed(dir: &Path, format: &str, files: usize) -> Duration {
    let start = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_mandate"))
        .args(["lint", "--format", format])
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .expect("mandate runs");
    let time = start.elapsed();
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}{}", String::from_utf8_lossy(&output.stderr));
    assert!(out.matches("secret-env-from").count() >= files / 10, "{out}");
    time
}
