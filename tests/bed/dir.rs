//! What does a bed leave behind, and for how long? One directory per bed, and who
//! owns it.
//!
//! The owner holds a lock on the file `owner` inside. The kernel gives it up however
//! the owner dies, so a directory whose lock is free is nobody's, and the next start
//! removes it: unless it was kept on purpose or is the scene of a recent failure.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

const PREFIX: &str = "mandate-bed-";
const OWNER: &str = "owner";
const FAILED: &str = "failed";
const KEPT: &str = "kept";
const PIDS: &str = "pids";

/// How long the logs of a failed bed are worth their place.
const FAILED_STAYS: Duration = Duration::from_secs(24 * 60 * 60);

/// Ends what a kept bed runs. A pid alone may by now be someone else's: it counts only
/// with the start time that was noted with it. A pid file without start times (no
/// /proc) is believed.
const STOP: &str = r#"#!/bin/sh
# Ends the processes of this kept test bed, by id, and removes its directory.
dir=$(cd "$(dirname "$0")" && pwd) || exit 1
while read -r pid started name; do
  now=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -d' ' -f20)
  if [ "$started" = "${now:--}" ]; then
    kill -s KILL "$pid" 2>/dev/null && echo "ended $name ($pid)"
  fi
done <"$dir/pids"
rm -rf "$dir"
"#;

/// A bed's directory, readable by its user only: private keys lie in it.
pub(super) struct BedDir {
    path: PathBuf,
    // Held, never read: the lock lasts as long as the file is open.
    _owner: File,
}

impl BedDir {
    /// Makes the directory of a new bed, and removes those nobody owns any more.
    pub(super) fn create(name: &str) -> Result<BedDir> {
        let base = std::env::var_os("MANDATE_BED_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        fs::create_dir_all(&base).with_context(|| format!("create {}", base.display()))?;
        sweep(&base);

        let unique = format!("{PREFIX}{name}-{:08x}", random() as u32);
        let path = base.join(&unique);
        // Locked before it bears its name: a sweep never sees it without an owner.
        let unnamed = base.join(format!(".{unique}"));
        let make = || -> std::io::Result<File> {
            DirBuilder::new().mode(0o700).create(&unnamed)?;
            let owner = File::create(unnamed.join(OWNER))?;
            owner.lock()?;
            fs::create_dir(unnamed.join("logs"))?;
            fs::rename(&unnamed, &path)?;
            Ok(owner)
        };
        let owner = make().with_context(|| format!("create {}", path.display()))?;
        Ok(BedDir { path, _owner: owner })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file only its user can read.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// A log file no one writes to yet: a restarted program gets the next number.
    pub(super) fn log_path(&self, name: &str) -> PathBuf {
        let logs = self.path.join("logs");
        let first = logs.join(format!("{name}.log"));
        std::iter::once(first)
            .chain((2..).map(|run| logs.join(format!("{name}.{run}.log"))))
            .find(|path| !path.exists())
            .expect("the numbers do not end")
    }

    /// Notes a process, for `stop` in a kept directory.
    pub(super) fn note_pid(&self, pid: u32, name: &str) -> Result<()> {
        let started = start_time(pid).unwrap_or_else(|| "-".to_owned());
        let path = self.path.join(PIDS);
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{pid} {started} {name}"))
            .with_context(|| format!("write {}", path.display()))
    }

    /// From now on the directory stays, with a script that ends what runs from it.
    pub(super) fn keep(&self) -> Result<()> {
        self.write("stop", STOP)?;
        self.write(KEPT, "")?;
        Ok(())
    }

    /// From now on the directory stays, for [`FAILED_STAYS`].
    pub(super) fn fail(&self) {
        mark_failed(&self.path);
    }

    /// Marks the directory when anything in this process panics: the only sign of a
    /// failure that reaches a bed in a static.
    pub(super) fn fail_on_panic(&self) {
        let path = self.path.clone();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            mark_failed(&path);
        }));
    }
}

impl Drop for BedDir {
    fn drop(&mut self) {
        if self.path.join(KEPT).exists() {
            return;
        }
        if self.path.join(FAILED).exists() {
            // A hundred megabytes that explain nothing.
            let _ = fs::remove_dir_all(self.path.join("etcd"));
            return;
        }
        // What cannot be removed now, the next start tries again.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Says it once, and never fails: it runs in panic hooks and destructors.
fn mark_failed(path: &Path) {
    if File::create_new(path.join(FAILED)).is_ok() {
        eprintln!("the test bed's logs stay in {}", path.join("logs").display());
    }
}

/// Removes the directories of beds whose owner is gone. What resists is left alone:
/// it may be another user's, or just vanishing.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_stale(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn is_stale(path: &Path) -> bool {
    let Ok(owner) = File::open(path.join(OWNER)) else {
        return false;
    };
    if owner.try_lock().is_err() || path.join(KEPT).exists() {
        return false;
    }
    let Ok(failed) = fs::metadata(path.join(FAILED)).and_then(|file| file.modified()) else {
        return true;
    };
    failed.elapsed().is_ok_and(|age| age > FAILED_STAYS)
}

/// When a process started, in the kernel's words: field 22 of its stat line, counted
/// from behind the name, which may hold anything.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19).map(str::to_owned)
}

/// A random number for names and ports, where uniqueness is all that is asked: the
/// standard library seeds each hasher from the system.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
