//! Are the tools of an MCP server still what was reviewed?
//!
//! In: ToolServers that name an MCP server and pin tools. Out: which of these tools are stopped,
//! because the server now says something else of them or lists them no more. Servers are asked
//! again and again, each by itself. One that cannot be reached changes nothing: its tools keep
//! their last state, and the log says so.
//!
//! Nothing that a server answers goes anywhere but into a digest.

pub mod client;
pub mod listing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::decide::authorize::snapshot::{ServerSource, Sources};
use crate::decide::world::Loaded;
use client::{Asking, Error};

/// How often servers are asked, where nothing else is said.
pub const EVERY: Duration = Duration::from_secs(30);
/// Most servers that are asked at once.
const AT_ONCE: usize = 8;
/// One that fails is asked again after twice the time, and so on up to this often doubled.
const MOST_DOUBLINGS: u32 = 4;

/// Watches the tools of servers.
pub struct Watch {
    asking: Asking,
    every: Duration,
    /// Files with the bearer token for a server, by `namespace/name`.
    tokens: BTreeMap<String, PathBuf>,
    servers: Mutex<BTreeMap<String, Watched>>,
    changed: Notify,
}

/// A server that is watched.
#[derive(Clone, Debug)]
struct Watched {
    url: String,
    pins: BTreeMap<String, String>,
    /// Digests of what it listed, once it has.
    listed: Option<BTreeMap<String, String>>,
    due: Instant,
    failures: u32,
}

impl Watched {
    /// The tools that are not what was reviewed.
    fn stopped(&self) -> Vec<String> {
        let Some(listed) = &self.listed else { return vec![] };
        self.pins.iter().filter(|(tool, pin)| listed.get(*tool) != Some(*pin)).map(|(tool, _)| tool.clone()).collect()
    }
}

impl Watch {
    /// Watches nothing yet.
    #[must_use]
    pub fn new(every: Duration, tokens: BTreeMap<String, PathBuf>) -> Self {
        Self { asking: Asking::new(), every, tokens, servers: Mutex::default(), changed: Notify::new() }
    }

    /// Takes in which servers and pins there are now, and says of each which tools are stopped.
    pub fn apply(&self, sources: &mut Sources) {
        let mut servers = self.servers();
        let mut before = std::mem::take(&mut *servers);
        for (namespace, sheet) in &mut sources.namespaces {
            for (name, written) in &mut sheet.servers {
                let Loaded::Readable(source) = &*written.spec else { continue };
                let Some(mcp) = &source.spec.mcp else { continue };
                let pins = source.spec.tools.iter().filter_map(|tool| Some((tool.name.clone(), tool.pin.clone()?)));
                let pins: BTreeMap<String, String> = pins.collect();
                if pins.is_empty() {
                    continue;
                }
                let key = format!("{namespace}/{name}");
                let watched = match before.remove(&key).filter(|watched| watched.url == mcp.url) {
                    Some(watched) => Watched { pins, ..watched },
                    None => Watched { url: mcp.url.clone(), pins, listed: None, due: Instant::now(), failures: 0 },
                };
                let stopped = watched.stopped();
                servers.insert(key, watched);
                if stopped != source.stopped {
                    written.spec = Arc::new(Loaded::Readable(ServerSource { spec: source.spec.clone(), stopped }));
                }
            }
        }
    }

    /// Whenever the state of a tool has changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Asks the servers that are due.
    pub async fn round(&self) {
        let now = Instant::now();
        let due: Vec<(String, String)> = self
            .servers()
            .iter()
            .filter(|(_, watched)| watched.due <= now)
            .map(|(key, watched)| (key.clone(), watched.url.clone()))
            .collect();
        futures::stream::iter(due).for_each_concurrent(AT_ONCE, |(key, url)| self.ask(key, url)).await;
    }

    /// Asks for as long as it is awaited.
    pub async fn run(&self) {
        loop {
            self.round().await;
            tokio::time::sleep(Duration::from_millis(200).min(self.every)).await;
        }
    }

    async fn ask(&self, key: String, url: String) {
        let answered = match self.token(&key).await {
            Ok(token) => self.asking.tools(&url, token.as_deref()).await,
            Err(error) => Err(error),
        };
        let mut servers = self.servers();
        // It may be gone meanwhile, or be another one.
        let Some(watched) = servers.get_mut(&key).filter(|watched| watched.url == url) else { return };
        let before = watched.stopped();
        match answered {
            Ok(tools) => {
                let first = watched.listed.is_none();
                watched.listed = Some(tools.iter().map(|tool| (tool.name.clone(), tool.pin())).collect());
                if watched.failures > 0 || first {
                    info!(server = key, tools = tools.len(), "compared the tools with their pins");
                }
                watched.failures = 0;
            }
            Err(error) => {
                watched.failures = watched.failures.saturating_add(1);
                warn!(server = key, %error, times = watched.failures, "tools could not be compared with their pins; they keep their last state");
            }
        }
        let after = watched.stopped();
        let doubled = watched.failures.min(MOST_DOUBLINGS);
        let wait = self.every * 2_u32.pow(doubled);
        // Servers that were found together are not asked together for ever.
        watched.due = Instant::now() + wait.mul_f64(1.0 - fastrand::f64() / 10.0);
        for tool in after.iter().filter(|tool| !before.contains(tool)) {
            warn!(server = key, tool, "a tool is no longer what was reviewed: it is stopped");
        }
        for tool in before.iter().filter(|tool| !after.contains(tool)) {
            info!(server = key, tool, "a tool is again what was reviewed: it may be called");
        }
        if before != after {
            self.changed.notify_one();
        }
    }

    async fn token(&self, key: &str) -> Result<Option<String>, Error> {
        let Some(file) = self.tokens.get(key) else { return Ok(None) };
        let text = tokio::fs::read_to_string(file).await.map_err(|error| Error::Token(error.to_string()))?;
        Ok(Some(text.trim().to_owned()))
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
