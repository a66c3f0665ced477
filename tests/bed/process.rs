//! How does a program run beside the bed, and what makes sure that it ends?
//!
//! Every program has a log of its own, a process group of its own and a *lifeline*: a
//! pipe whose other end this process holds. When this process dies, by `kill -9` too,
//! the kernel closes the pipe. Our control plane reads the pipe itself; for any other
//! program a small `sh` reads it and kills the program's group. The word `keep`,
//! written first, cuts the lifeline without harm.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::dir::BedDir;
use super::wait;

/// How long a program may take to leave after SIGTERM, before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// SIGKILL needs no cooperation, only a scheduler.
const KILL_LIMIT: Duration = Duration::from_secs(10);

const KEEP: &[u8] = b"keep\n";
const WATCHDOG: &str = r#"read -r word; [ "$word" = keep ] || kill -s KILL -- "-$1""#;

/// A running program. Dropping it kills it, by id, with its process group.
#[must_use = "the program ends when this is dropped"]
pub struct Process {
    name: String,
    child: Child,
    lifeline: Lifeline,
    log: PathBuf,
}

/// What ends the program when this process dies.
enum Lifeline {
    /// The program reads the pipe itself.
    Own(ChildStdin),
    /// A shell reads it.
    Watchdog(Child),
    /// Nothing: it was told to keep the program.
    Cut,
}

/// A program about to be started.
pub(super) struct Spawn<'a> {
    name: &'a str,
    command: Command,
    dir: &'a BedDir,
    exits_with_stdin: bool,
}

impl<'a> Spawn<'a> {
    pub(super) fn new(name: &'a str, program: &Path, dir: &'a BedDir) -> Self {
        let command = Command::new(program);
        Spawn { name, command, dir, exits_with_stdin: false }
    }

    pub(super) fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: &[S]) -> Self {
        self.command.args(args);
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(super) fn envs(mut self, env: &[(&str, &str)]) -> Self {
        self.command.envs(env.iter().copied());
        self
    }

    /// Says whether the program ends by itself when its standard input closes.
    pub(super) fn exits_with_stdin(mut self, yes: bool) -> Self {
        self.exits_with_stdin = yes;
        self
    }

    pub(super) fn start(self) -> Result<Process> {
        let Spawn { name, mut command, dir, exits_with_stdin } = self;
        let log = dir.log_path(name);
        let out = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let err = out.try_clone()?;
        let stdin = if exits_with_stdin { Stdio::piped() } else { Stdio::null() };
        // A group of its own, so that Ctrl-C reaches only us and we end it in order.
        let mut child = command
            .process_group(0)
            .stdin(stdin)
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {name} ({})", command.get_program().display()))?;
        let lifeline = match child.stdin.take() {
            Some(stdin) => Lifeline::Own(stdin),
            None => Lifeline::Watchdog(watchdog(child.id())?),
        };
        dir.note_pid(child.id(), name)?;
        Ok(Process { name: name.to_owned(), child, lifeline, log })
    }
}

impl Process {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, which is also the id of its process group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.look(), Ok(None))
    }

    /// Everything the program has written so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of the log, for messages.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Sends a signal (`TERM`, `STOP`, `CONT`, …) to the program, not to its group.
    pub fn signal(&mut self, signal: &str) -> Result<()> {
        // A process that was not waited for keeps its id, so this cannot hit another.
        ensure!(self.is_running(), "{} is not running", self.name);
        kill(signal, &self.id().to_string()).with_context(|| format!("send SIG{signal} to {}", self.name))
    }

    /// Kills the program and its group without notice, as a crash or an OOM kill would.
    pub async fn kill9(&mut self) -> Result<ExitStatus> {
        if self.is_running() {
            // The group may hold no one else; what counts is the program's own end.
            let _ = kill("KILL", &format!("-{}", self.id()));
            self.child.kill().with_context(|| format!("kill {}", self.name))?;
        }
        self.ended(KILL_LIMIT).await
    }

    /// SIGTERM, then waits for the program to leave.
    ///
    /// # Errors
    /// When it has not left after twenty seconds; it is killed then.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        if self.is_running() {
            self.signal("TERM")?;
        }
        match self.ended(STOP_LIMIT).await {
            Ok(status) => Ok(status),
            Err(_) => {
                self.kill9().await?;
                bail!("{} ignored SIGTERM for {STOP_LIMIT:?} and was killed", self.name)
            }
        }
    }

    /// Waits for the program to end by itself.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait(&format!("{name} to end"), limit, || std::future::ready(self.look().transpose()))
            .await?
            .with_context(|| format!("wait for {name}"))
    }

    /// Whether the program has ended, and how. From then on its id may be another's,
    /// so the watchdog goes with it.
    fn look(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_some() {
            self.lifeline.dismiss();
        }
        Ok(status)
    }

    /// Lets the program live on after this process.
    pub fn keep(mut self) -> Result<()> {
        let cut = match &mut self.lifeline {
            Lifeline::Own(stdin) => stdin.write_all(KEEP),
            Lifeline::Watchdog(shell) => match &mut shell.stdin {
                Some(stdin) => stdin.write_all(KEEP),
                None => Ok(()),
            },
            Lifeline::Cut => Ok(()),
        };
        cut.with_context(|| format!("keep {} running", self.name))?;
        self.lifeline = Lifeline::Cut;
        Ok(())
    }
}

impl Lifeline {
    /// Ends the watchdog, without harm to the program.
    fn dismiss(&mut self) {
        if let Lifeline::Watchdog(shell) = self {
            let _ = shell.kill();
            let _ = shell.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.lifeline, Lifeline::Cut) {
            return;
        }
        if self.is_running() {
            let _ = kill("KILL", &format!("-{}", self.id()));
            let _ = self.child.kill();
            // The watchdog before the wait, which sets the id free.
            self.lifeline.dismiss();
            let _ = self.child.wait();
        }
    }
}

/// A shell that kills the group `pid` when its standard input closes.
fn watchdog(pid: u32) -> Result<Child> {
    Command::new("sh")
        .args(["-c", WATCHDOG, "sh", &pid.to_string()])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start the watchdog shell")
}

/// The shell's own `kill`: the standard library knows SIGKILL only, and a crate for
/// one call is too much.
fn kill(signal: &str, target: &str) -> Result<()> {
    let script = r#"kill -s "$1" -- "$2""#;
    let status = Command::new("sh")
        .args(["-c", script, "sh", signal, target])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("run sh")?;
    ensure!(status.success(), "there is no such process");
    Ok(())
}
