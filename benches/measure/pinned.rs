//! A core each for the process that is measured and for the generator, this one started anew.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::generate::{Order, Sent};

/// Whether server and generator have a core each.
#[derive(Clone, Copy)]
pub struct Pinned(bool);

impl Pinned {
    pub fn find() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let taskset =
            Command::new("taskset").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
        Self(taskset && cores > 1)
    }

    /// How it is, of a server that is called so.
    pub fn words(self, server: &str) -> String {
        if self.0 {
            format!("The {server} has the first core, the generator the second.")
        } else {
            "Nothing is pinned: there is no second core, or no taskset.".to_owned()
        }
    }

    /// What keeps a command to the first core.
    pub fn first(self) -> &'static [&'static str] {
        if self.0 { &["taskset", "-c", "0"] } else { &[] }
    }

    /// Sends what is ordered, and says what came of it.
    pub fn generate(self, order: &Order) -> Result<Sent> {
        let mut generator = self.generator()?.spawn().context("start the generator")?;
        generator.stdin.take().context("a pipe to the generator")?.write_all(&serde_json::to_vec(order)?)?;
        let output = generator.wait_with_output()?;
        ensure!(output.status.success(), "the generator failed");
        serde_json::from_slice(&output.stdout).context("read what the generator printed")
    }

    fn generator(self) -> Result<Command> {
        let own = std::env::current_exe()?;
        let mut command = if self.0 { Command::new("taskset") } else { Command::new(&own) };
        if self.0 {
            command.args(["-c", "1"]).arg(&own);
        }
        command.arg("generate").stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(command)
    }
}
