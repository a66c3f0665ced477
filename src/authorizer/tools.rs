//! Are the tools of an MCP server still what was reviewed?
//!
//! In: ToolServers that name an MCP server and pin tools. Out: which of these tools are stopped,
//! because the server says something else of them, lists them no more, or was not heard. Servers
//! are asked again and again, each by itself. A tool is not called before its pin was compared;
//! where a server does not answer, what it last said counts for a while.
//!
//! Nothing that a server answers goes anywhere but into a digest, and names into a status.

pub mod client;
pub mod listing;
pub mod reach;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::api::{ToolServerSpec, ToolServerStatus};
use crate::decide::authorize::snapshot::{ServerSource, Sources, Stopped, Why};
use crate::decide::drift::{Asked, Bounds, Known, Listing};
use crate::decide::world::Loaded;
use client::{Asking, Error};
use reach::Reach;

/// How often servers are asked, where nothing else is said.
pub const EVERY: Duration = Duration::from_secs(30);
/// How long what a server last said counts while it does not answer, where nothing else is said.
pub const KEPT: Duration = Duration::from_secs(15 * 60);
/// Most servers that are asked at once, of those that answered last, and as many of the others:
/// who writes many ToolServers that hang must not keep the rest waiting.
const AT_ONCE: usize = 8;
/// One that fails is asked again after twice the time, and so on up to this often doubled.
const MOST_DOUBLINGS: u32 = 4;
/// Time between two looks at who is due.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How servers are asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often.
    pub every: Duration,
    /// How long what a server last said counts while it does not answer; three times `every` at
    /// least.
    pub kept: Duration,
    /// Files with the bearer token for a server, by `namespace/name`. No other server sees it.
    pub tokens: BTreeMap<String, Token>,
    /// Which addresses may be asked.
    pub reach: Reach,
}

/// The bearer token for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The file that it is in.
    pub file: PathBuf,
    /// The only host that may see it; none means whichever the ToolServer names.
    pub host: Option<String>,
}

/// Watches the tools of servers.
pub struct Watch {
    asking: Asking,
    every: Duration,
    bounds: Bounds,
    tokens: BTreeMap<String, Token>,
    servers: Mutex<BTreeMap<String, Watched>>,
    /// What statuses say, by server, each of one version of it.
    told: Mutex<BTreeMap<String, (Arc<str>, ToolServerStatus)>>,
    changed: Notify,
    looked: Notify,
}

/// A server that is watched.
#[derive(Clone, Debug)]
struct Watched {
    url: String,
    version: Arc<str>,
    known: Known,
    due: Instant,
    failures: u32,
    /// Whether it is to be asked before anything is said of it.
    is_pending: bool,
    /// Whether what is known no longer counted when that was last looked at.
    is_over: bool,
}

/// The pins of a server that is asked.
#[must_use]
pub fn pins(spec: &ToolServerSpec) -> BTreeMap<String, String> {
    match spec.mcp {
        Some(_) => spec.tools.iter().filter_map(|tool| Some((tool.name.clone(), tool.pin.clone()?))).collect(),
        None => BTreeMap::new(),
    }
}

impl Watch {
    /// Watches nothing yet.
    #[must_use]
    pub fn new(Settings { every, kept, tokens, reach }: Settings) -> Self {
        let signed = |time: Duration| SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
        Self {
            asking: Asking::new(reach),
            every,
            bounds: Bounds { fresh: signed(every * 2), kept: signed(kept.max(every * 3)) },
            tokens,
            servers: Mutex::default(),
            told: Mutex::default(),
            changed: Notify::new(),
            looked: Notify::new(),
        }
    }

    /// How old what was compared may be.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Takes in which servers and pins there are now, and says of each which tools are stopped.
    pub fn apply(&self, sources: &mut Sources) {
        let now = Timestamp::now();
        let mut servers = self.servers();
        let mut before = std::mem::take(&mut *servers);
        for (namespace, sheet) in &mut sources.namespaces {
            for (name, written) in &mut sheet.servers {
                let Loaded::Readable(source) = &*written.spec else { continue };
                let (Some(mcp), pins) = (&source.spec.mcp, pins(&source.spec)) else { continue };
                if pins.is_empty() {
                    continue;
                }
                let key = format!("{namespace}/{name}");
                let mut watched = match before.remove(&key).filter(|watched| watched.url == mcp.url) {
                    Some(watched) => watched.pinned(pins),
                    None => Watched::new(&mcp.url, pins),
                };
                if watched.version != written.version {
                    watched.version = written.version.clone();
                    self.recall(&key, &mut watched, now);
                }
                let stopped = watched.known.stopped(now, self.bounds);
                servers.insert(key, watched);
                if stopped != source.stopped {
                    written.spec = Arc::new(Loaded::Readable(ServerSource { spec: source.spec.clone(), stopped }));
                }
            }
        }
    }

    /// Takes in what the status of a server says, of a version of it.
    pub fn heard(&self, key: &str, version: &Arc<str>, status: &ToolServerStatus) {
        self.statuses().insert(key.to_owned(), (version.clone(), status.clone()));
        let mut servers = self.servers();
        let Some(watched) = servers.get_mut(key).filter(|watched| watched.version == *version) else { return };
        self.recall(key, watched, Timestamp::now());
    }

    /// A server is gone.
    pub fn forget(&self, key: &str) {
        self.statuses().remove(key);
    }

    fn recall(&self, key: &str, watched: &mut Watched, now: Timestamp) {
        let statuses = self.statuses();
        let Some((version, status)) = statuses.get(key) else { return };
        if *version == watched.version && watched.known.recall(status, now) {
            // Somebody else has seen it otherwise: it is asked at once.
            watched.due = Instant::now();
            self.changed.notify_one();
        }
    }

    /// Whenever the state of a tool has changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whenever a server was asked.
    pub async fn looked(&self) {
        self.looked.notified().await;
    }

    /// What is known of every server that was asked since it was last written, with the version of
    /// it that this speaks of.
    pub fn each(&self, mut of: impl FnMut(&str, &Arc<str>, &Known)) {
        for (key, watched) in self.servers().iter().filter(|(_, watched)| !watched.is_pending) {
            of(key, &watched.version, &watched.known);
        }
    }

    /// Asks the servers that are due.
    pub async fn round(&self) {
        futures::join!(self.ask_those(|watched| watched.failures == 0), self.ask_those(|watched| watched.failures > 0));
    }

    async fn ask_those(&self, which: impl Fn(&Watched) -> bool) {
        let now = Instant::now();
        let due: Vec<(String, String)> = self
            .servers()
            .iter()
            .filter(|(_, watched)| watched.due <= now && which(watched))
            .map(|(key, watched)| (key.clone(), watched.url.clone()))
            .collect();
        futures::stream::iter(due).for_each_concurrent(AT_ONCE, |(key, url)| self.ask(key, url)).await;
    }

    /// Asks for as long as it is awaited.
    pub async fn run(&self) {
        let pause = LOOK_EVERY.min(self.every);
        let asking = async |failing: bool| {
            loop {
                self.ask_those(|watched| (watched.failures > 0) == failing).await;
                tokio::time::sleep(pause).await;
            }
        };
        let aging = async {
            loop {
                self.age();
                tokio::time::sleep(pause).await;
            }
        };
        futures::join!(asking(false), asking(true), aging);
    }

    /// What was compared may have become too old, without anybody asking.
    fn age(&self) {
        let now = Timestamp::now();
        for watched in self.servers().values_mut() {
            let is_over = watched.known.counts_until(self.bounds).is_none_or(|until| now > until);
            if is_over != watched.is_over {
                watched.is_over = is_over;
                self.changed.notify_one();
                self.looked.notify_one();
            }
        }
    }

    async fn ask(&self, key: String, url: String) {
        let begun = Timestamp::now();
        let answered = match self.token(&key, &url).await {
            Ok(token) => self.asking.tools(&url, token.as_deref()).await,
            Err(error) => Err(error),
        };
        let mut servers = self.servers();
        // It may be gone meanwhile, or be another one.
        let Some(watched) = servers.get_mut(&key).filter(|watched| watched.url == url) else { return };
        let before = watched.known.stopped(Timestamp::now(), self.bounds);
        match answered {
            Ok(tools) => {
                if watched.failures > 0 || watched.known.asked == Asked::NotYet {
                    info!(server = key, tools = tools.len(), "compared the tools with their pins");
                }
                watched.failures = 0;
                let tools = digests(&tools);
                watched.known.answered(Listing { at: begun, tools });
            }
            Err(error) => {
                watched.failures = watched.failures.saturating_add(1);
                watched.known.asked = Asked::Failed(error.failure());
                warn!(server = key, %error, times = watched.failures, "tools could not be compared with their pins; they keep their last state for a while");
            }
        }
        watched.is_pending = false;
        let now = Timestamp::now();
        let after = watched.known.stopped(now, self.bounds);
        watched.is_over = watched.known.counts_until(self.bounds).is_none_or(|until| now > until);
        let doubled = watched.failures.min(MOST_DOUBLINGS);
        let wait = self.every * 2_u32.pow(doubled);
        // Servers that were found together are not asked together for ever.
        watched.due = Instant::now() + wait.mul_f64(1.0 - fastrand::f64() / 10.0);
        tell(&key, &before, &after);
        if before != after {
            self.changed.notify_one();
        }
        self.looked.notify_one();
    }

    async fn token(&self, key: &str, url: &str) -> Result<Option<String>, Error> {
        let Some(Token { file, host }) = self.tokens.get(key) else { return Ok(None) };
        let uri: axum::http::Uri = url.parse().map_err(|_| Error::UnsafeAddress)?;
        // Who writes the ToolServer must not be able to have the token sent elsewhere.
        if host.as_deref().is_some_and(|host| !uri.host().is_some_and(|named| named.eq_ignore_ascii_case(host))) {
            return Err(Error::Token(format!("it is for host `{}` alone", host.as_deref().unwrap_or_default())));
        }
        let text = tokio::fs::read_to_string(file).await.map_err(|error| Error::Token(error.to_string()))?;
        Ok(Some(text.trim().to_owned()))
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn statuses(&self) -> MutexGuard<'_, BTreeMap<String, (Arc<str>, ToolServerStatus)>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the log says of tools that changed.
fn tell(key: &str, before: &[Stopped], after: &[Stopped]) {
    let has_drifted = |stopped: &&Stopped| matches!(stopped.why, Why::Changed | Why::Missing);
    let drifted = |all: &[Stopped], tool: &str| all.iter().filter(has_drifted).any(|stopped| stopped.tool == tool);
    for Stopped { tool, .. } in after.iter().filter(has_drifted).filter(|stopped| !drifted(before, &stopped.tool)) {
        warn!(server = key, tool, "a tool is not what was reviewed: it is stopped");
    }
    for Stopped { tool, .. } in before.iter().filter(has_drifted).filter(|stopped| !drifted(after, &stopped.tool)) {
        info!(server = key, tool, "a tool is again what was reviewed: it may be called");
    }
}

/// The digest of each tool. Of two of one name nobody can say which a call would reach, so that
/// neither is what was reviewed.
fn digests(tools: &[listing::Listed]) -> BTreeMap<String, String> {
    let mut digests = BTreeMap::new();
    for tool in tools {
        let pin = tool.pin();
        digests.entry(tool.name.clone()).and_modify(|before: &mut String| *before = ambiguous(before, &pin)).or_insert(pin);
    }
    digests
}

/// A digest that is neither of two.
fn ambiguous(one: &str, other: &str) -> String {
    let both = serde_json::Map::from_iter([("listed".to_owned(), serde_json::json!([one, other]))]);
    super::digest(&both)
}

impl Watched {
    fn new(url: &str, pins: BTreeMap<String, String>) -> Self {
        let known = Known { pins, ..Known::default() };
        let (due, version) = (Instant::now(), Arc::default());
        Self { url: url.to_owned(), version, known, due, failures: 0, is_pending: true, is_over: true }
    }

    /// The same with the pins that it has now. Other ones are compared at once.
    fn pinned(mut self, pins: BTreeMap<String, String>) -> Self {
        if self.known.pins != pins {
            self.known.pin(pins);
            (self.due, self.failures, self.is_pending) = (Instant::now(), 0, true);
        }
        self
    }
}

#[cfg(test)]
mod tests;
