//! Who asked the API server for what? The bed's audit log, read back.
//!
//! The log knows metadata only, no bodies: neither a Secret nor a token ever gets
//! into it. Health checks, and reads of Events and Leases, are left out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

pub(super) const POLICY: &str = r#"apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/livez*", "/readyz*", "/healthz*"]
- level: None
  verbs: [get, list, watch]
  resources:
  - {group: "", resources: [events]}
  - {group: events.k8s.io, resources: [events]}
  - {group: coordination.k8s.io, resources: [leases]}
- level: Metadata
"#;

/// One request the API server has answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// Who it was done as: the impersonated user, if there is one.
    pub user: String,
    /// `create`, `update`, `patch`, `delete`, `deletecollection`, `get`, `list`, `watch`.
    pub verb: String,
    /// Empty for the core group, and for what is not a resource.
    pub group: String,
    /// Plural; empty for what is not a resource, such as `/version`.
    pub resource: String,
    /// `status`, `token`, …, or empty.
    pub subresource: String,
    pub namespace: String,
    /// Empty for lists, and for creations under `generateName`.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u16,
    /// What admission wrote about it, by `<webhook>/<key>`.
    pub annotations: BTreeMap<String, String>,
}

impl Call {
    /// Whether it asked for a change (of whatever outcome).
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }
}

pub(super) fn mark(log: &Path) -> Result<u64> {
    let meta = std::fs::metadata(log).with_context(|| format!("read {}", log.display()))?;
    Ok(meta.len())
}

pub(super) fn calls_since(log: &Path, mark: u64) -> Result<Vec<Call>> {
    let mut text = String::new();
    File::open(log)
        .and_then(|mut file| {
            file.seek(SeekFrom::Start(mark))?;
            file.read_to_string(&mut text)
        })
        .with_context(|| format!("read {}", log.display()))?;
    // The last line may still be on its way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut calls = Vec::new();
    for line in whole.lines() {
        let event: Event = serde_json::from_str(line).context("read a line of the audit log")?;
        if event.is_the_one_to_count() {
            calls.push(event.into());
        }
    }
    Ok(calls)
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Event {
    stage: String,
    verb: String,
    user: User,
    impersonated_user: Option<User>,
    object_ref: Object,
    response_status: Status,
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct User {
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    code: u16,
}

impl Event {
    /// A watch is written when it opens and when it closes, all else once.
    fn is_the_one_to_count(&self) -> bool {
        (self.verb == "watch") == (self.stage == "ResponseStarted")
    }
}

impl From<Event> for Call {
    fn from(event: Event) -> Call {
        let Event { stage: _, verb, user, impersonated_user, object_ref, response_status, annotations } = event;
        Call {
            user: impersonated_user.unwrap_or(user).username,
            verb,
            group: object_ref.api_group,
            resource: object_ref.resource,
            subresource: object_ref.subresource,
            namespace: object_ref.namespace,
            name: object_ref.name,
            code: response_status.code,
            annotations,
        }
    }
}
