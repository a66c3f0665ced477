//! Requests as they are, by whomever a case says, and what comes back of them.

use anyhow::{Context as _, Result, ensure};
use axum::http::Request as HttpRequest;
use kube::Client;
use mandate::api::Requester;
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::place::{Reply, until};

/// An answer of the API server, under its number in the audit log.
pub struct Answer {
    pub audit_id: String,
    pub reply: Reply,
}

pub fn object(version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}})
}

pub fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{kind}s"),
    }
}

pub fn path(version: &str, resource: &str, namespace: Option<&str>) -> String {
    let root = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    let within = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
    format!("{root}{within}/{resource}")
}

/// Makes an object; one that stands already stays.
pub async fn make(admin: &Client, object: &Value, namespace: Option<&str>) -> Result<Value> {
    let resource = plural(object["kind"].as_str().unwrap_or_default());
    let path = path(object["apiVersion"].as_str().unwrap_or_default(), &resource, namespace);
    match request(admin, "POST", &path, None, object).await {
        Ok(Answer { reply, .. }) if reply.code == 409 => Ok(object.clone()),
        answer => taken(answer),
    }
}

/// A ServiceAccount that mounts no token by itself, as the cases have it.
pub async fn account(admin: &Client, namespace: &str, name: &str) -> Result<()> {
    let mut account = object("v1", "ServiceAccount", name);
    account["automountServiceAccountToken"] = json!(false);
    make(admin, &account, Some(namespace)).await?;
    // The controllers of the cluster may have made it first.
    let path = format!("{}/{name}", path("v1", "serviceaccounts", Some(namespace)));
    taken(request(admin, "PATCH", &path, None, &json!({"automountServiceAccountToken": false})).await).map(|_| ())
}

/// The object that an answer holds, or what the API server has against it.
pub fn taken(answer: Result<Answer>) -> Result<Value> {
    let Reply { code, body, .. } = answer?.reply;
    ensure!(code / 100 == 2, "{code} {}", body["message"].as_str().unwrap_or_default());
    Ok(body)
}

/// One request, by somebody whom the administrator impersonates.
pub async fn request(admin: &Client, method: &str, path: &str, user: Option<&Requester>, body: &Value) -> Result<Answer> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let mut request = HttpRequest::builder().method(method).uri(path).header("content-type", kind);
    if let Some(Requester { username, uid, groups, extra }) = user {
        request = request.header("impersonate-user", username);
        request = groups.iter().fold(request, |request, group| request.header("impersonate-group", group));
        if !uid.is_empty() {
            request = request.header("impersonate-uid", uid);
        }
        for (key, value) in extra.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value))) {
            request = request.header(format!("impersonate-extra-{}", key.replace('/', "%2f")), value);
        }
    }
    let answer = admin.send(request.body(kube::client::Body::from(serde_json::to_vec(body)?))?).await?;
    let (head, body) = answer.into_parts();
    let body = serde_json::from_slice(&body.collect_bytes().await?).unwrap_or_default();
    // Not `to_str`: it gives up where a text is not ASCII.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let header = |name: &str| head.headers.get_all(name).iter().map(|value| text(value.as_bytes())).collect::<Vec<_>>();
    let audit_id = header("audit-id").pop().unwrap_or_default();
    Ok(Answer { audit_id, reply: Reply { code: head.status.as_u16(), warnings: header("warning"), body } })
}

/// The text in a `Warning` header (RFC 7234): `299 - "…"`.
pub fn plain(header: &str) -> String {
    let text = header.trim_start_matches("299 - ").trim_matches('"');
    text.replace("\\\"", "\"").replace("\\\\", "\\")
}

/// What the validating webhook has written into the audit log about a request.
pub async fn audited(bed: &Bed, audit_id: &str) -> Result<String> {
    annotation(bed, audit_id, ".mandate.dev/findings").await
}

/// The annotation that ends so, of a request in the audit log.
pub async fn annotation(bed: &Bed, audit_id: &str, ending: &str) -> Result<String> {
    let log = bed.audit_log().context("a bed with an audit log")?;
    until("an entry of the audit log", || async {
        let text = std::fs::read_to_string(log).ok()?;
        let event: Value =
            text.lines().filter(|line| line.contains(audit_id)).find_map(|line| serde_json::from_str(line).ok())?;
        let annotations = event["annotations"].as_object()?;
        annotations.iter().find(|(name, _)| name.ends_with(ending)).map(|(_, text)| text.as_str().unwrap_or_default().to_owned())
    })
    .await
}
