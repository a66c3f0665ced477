//! Writes what was found of ToolServers into their status, and tells of it by Events.
//!
//! It is the authorizer that looks, so it is the authorizer that writes, and of all objects in the
//! cluster this one field. It writes only what is news: servers are asked all the time, and most
//! have nothing new to say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::sync::Notify;
use tracing::warn;

use super::event;
use super::pace::Backoff;
use crate::api::{ToolServer, ToolServerStatus};
use crate::authorizer::tools::{Watch, pins};
use crate::decide::drift::{self, Known, Told};
use crate::install::AUTHORIZER;

/// At least so long between two looks at what is news.
const PAUSE: Duration = Duration::from_millis(250);
/// A look at the least so often: what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// How long until a status that could not be written is tried again.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(300) };

/// The ToolServers as they were last seen.
pub struct Statuses {
    client: Client,
    instance: String,
    servers: Mutex<BTreeMap<String, Seen>>,
    changed: Notify,
}

struct Seen {
    version: Arc<str>,
    server: Arc<ToolServer>,
    status: ToolServerStatus,
    failures: u32,
    not_before: Instant,
}

/// A status to be written.
struct News {
    key: String,
    server: Arc<ToolServer>,
    status: ToolServerStatus,
    told: Vec<Told>,
}

impl Statuses {
    /// Knows of none yet. `instance` is the name of this process, for Events.
    #[must_use]
    pub fn new(client: Client, instance: String) -> Self {
        Self { client, instance, servers: Mutex::default(), changed: Notify::new() }
    }

    /// A server as it stands.
    pub(super) fn saw(&self, key: &str, version: &Arc<str>, server: &ToolServer) {
        let mut servers = self.servers();
        let (failures, not_before) = servers.get(key).map_or((0, Instant::now()), |seen| (seen.failures, seen.not_before));
        let status = server.status.clone().unwrap_or_default();
        let seen = Seen { version: version.clone(), server: Arc::new(server.clone()), status, failures, not_before };
        servers.insert(key.to_owned(), seen);
        drop(servers);
        self.changed.notify_one();
    }

    /// It is gone, or can no longer be read.
    pub(super) fn forget(&self, key: &str) {
        self.servers().remove(key);
    }

    /// Writes what is news, for as long as it is awaited.
    pub(super) async fn keep(&self, tools: &Watch) {
        loop {
            tokio::select! {
                () = tools.looked() => {}
                () = self.changed.notified() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
            tokio::time::sleep(PAUSE).await;
            for news in self.news(tools) {
                self.write(news).await;
            }
        }
    }

    fn news(&self, tools: &Watch) -> Vec<News> {
        let (now, at, bounds) = (Timestamp::now(), Instant::now(), tools.bounds());
        let servers = self.servers();
        let mut all = vec![];
        let mut judge = |key: &str, seen: &Seen, known: Option<&Known>| {
            let status = drift::status(&seen.server.spec, seen.server.metadata.generation, known, &seen.status, bounds, now);
            if seen.not_before <= at && drift::is_news(&seen.status, &status) {
                let told = known.map(|known| drift::events(&seen.status, &status, known)).unwrap_or_default();
                all.push(News { key: key.to_owned(), server: seen.server.clone(), status, told });
            }
        };
        for (key, seen) in servers.iter().filter(|(_, seen)| pins(&seen.server.spec).is_empty()) {
            judge(key, seen, None);
        }
        tools.each(|key, version, known| {
            // What is known may be of another version than the one seen here: then there is more to come.
            if let Some(seen) = servers.get(key).filter(|seen| seen.version == *version) {
                judge(key, seen, Some(known));
            }
        });
        all
    }

    async fn write(&self, News { key, server, status, told }: News) {
        let api: Api<ToolServer> = Api::namespaced(self.client.clone(), &server.namespace().unwrap_or_default());
        let body = json!({
            "apiVersion": ToolServer::api_version(&()),
            "kind": ToolServer::kind(&()),
            // With its UID: what was found of one server is not written to another of its name.
            "metadata": {"name": server.name_any(), "uid": server.uid()},
            "status": status,
        });
        let parameters = PatchParams::apply(AUTHORIZER).force();
        match api.patch_status(&server.name_any(), &parameters, &Patch::Apply(&body)).await {
            Ok(_) => {
                if let Some(seen) = self.servers().get_mut(&key).filter(|seen| seen.server.uid() == server.uid()) {
                    (seen.status, seen.failures) = (status, 0);
                }
                for told in &told {
                    event::tell(
                        &self.client,
                        ("authorizer", &self.instance),
                        server.object_ref(&()),
                        "Compare",
                        told,
                        Timestamp::now(),
                    )
                    .await;
                }
            }
            // The watch says what has become of it.
            Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => {}
            Err(error) => {
                warn!(server = key, %error, "the status of a ToolServer could not be written");
                if let Some(seen) = self.servers().get_mut(&key) {
                    seen.failures = seen.failures.saturating_add(1);
                    seen.not_before = Instant::now() + BACKOFF.after(seen.failures);
                }
            }
        }
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
