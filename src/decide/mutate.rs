//! A guarded pod in, the changes that make it safe out: as JSON Patch (RFC 6902), so that
//! fields nobody here knows survive untouched.
//!
//! A pod with a task label gets the task's ServiceAccount, the task's credentials as a
//! volume, a short token for the API server where its scope grants something there, no
//! default token, and a deadline that the kubelet keeps. Every guarded pod loses the mark
//! `3607`, for which the API server would issue a token of one year. Templates are never
//! changed: a GitOps tool would see drift.
//!
//! The changes are the same when asked twice (`reinvocationPolicy: IfNeeded`).

use std::cmp::{max, min};

use jiff::Timestamp;
use serde_json::{Value as Json, json};

use super::admit::{Operation, Review};
use super::json::{Read as _, Value};
use super::pod::{self, CONTAINER_LISTS};
use super::predicate::LEAST_CERTIFICATE;
use super::rule::YEAR_LONG_MARK;
use super::world::{DEFAULT_TOKEN, SHORTEST_TOKEN, Task, World};
use crate::api::{GROUP, Mode, Requester, names};

/// Volume with the task's credentials.
pub(super) const CREDENTIALS: &str = "mandate-task-credentials";
/// Volume with the token for the API server.
pub(super) const KUBERNETES: &str = "mandate-kubernetes-api";
/// First part of the name of the volume that the API server injects by default.
const INJECTED: &str = "kube-api-access-";

/// Changes to an object, and what its author should know of them.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// JSON Patch operations, in order.
    pub patch: Vec<Json>,
    /// What to tell the author.
    pub warnings: Vec<String>,
}

impl Changes {
    fn add(&mut self, path: impl Into<String>, value: Json) {
        self.patch.push(json!({"op": "add", "path": path.into(), "value": value}));
    }

    fn replace(&mut self, path: impl Into<String>, value: Json) {
        self.patch.push(json!({"op": "replace", "path": path.into(), "value": value}));
    }

    fn remove(&mut self, path: impl Into<String>) {
        self.patch.push(json!({"op": "remove", "path": path.into()}));
    }
}

/// The changes to one object under review. What is wrong with it is not said here: the
/// validating webhook sees the changed object and says it all at once.
pub fn mutate(world: &World, review: &Review<'_>, now: Timestamp) -> Changes {
    let mut changes = Changes::default();
    match (review.group, review.resource, review.subresource) {
        ("", "pods", "") if review.operation == Operation::Create => pod_changes(world, review, now, &mut changes),
        ("", "serviceaccounts", "token") => token_changes(world, review, now, &mut changes),
        (GROUP, "agenttasks", "") => stamp(review, &mut changes),
        _ => {}
    }
    changes
}

/// A token of a task lives no longer than the task, also where the kubelet asks for it; and
/// nobody's lives for a year.
fn token_changes(world: &World, review: &Review<'_>, now: Timestamp, changes: &mut Changes) {
    let Some(spec) = review.object.member("spec").filter(|spec| spec.is_object()) else { return };
    let asked = spec.whole("expirationSeconds").unwrap_or(DEFAULT_TOKEN);
    let task = world.owner_of(review.namespace, review.name).filter(|_| review.user.username != world.controller);
    let most = task.map_or(i64::MAX, |(_, task)| task.deadline.duration_since(now).as_secs().max(SHORTEST_TOKEN));
    let wanted = match asked.min(most) {
        YEAR_LONG_MARK => DEFAULT_TOKEN,
        seconds => seconds,
    };
    match spec.member("expirationSeconds") {
        _ if wanted == asked => {}
        Some(_) => changes.replace("/spec/expirationSeconds", json!(wanted)),
        None => changes.add("/spec/expirationSeconds", json!(wanted)),
    }
}

/// Writes down who asked for the task, from the request itself.
fn stamp(review: &Review<'_>, changes: &mut Changes) {
    // What has no spec is refused by the schema, which says so better than a change that
    // cannot be made.
    let has_spec = review.object.member("spec").is_some_and(Value::is_object);
    let written = review.object.at(&["spec", "requestedBy"]);
    let Some(old) = review.old else {
        let stamped = serde_json::to_value(review.user).unwrap_or_default();
        if written.is_some_and(|written| serde_json::to_value(written).ok().as_ref() != Some(&stamped)) {
            changes
                .warnings
                .push("spec.requestedBy is written by Mandate from the request; what you wrote was replaced".to_owned());
        }
        if has_spec {
            changes.add("/spec/requestedBy", stamped);
        }
        let Some(metadata) = review.object.member("metadata").filter(|metadata| metadata.is_object()) else { return };
        let finalizers = metadata.member("finalizers");
        match finalizers {
            Some(Value::Array(all)) if all.iter().any(|one| one.as_str() == Some(names::FINALIZER)) => {}
            Some(Value::Array(all)) if !all.is_empty() => changes.add("/metadata/finalizers/-", json!(names::FINALIZER)),
            _ => changes.add("/metadata/finalizers", json!([names::FINALIZER])),
        }
        return;
    };
    // A whole replacement leaves out what its author never wrote; the stamp stays.
    if has_spec
        && written.is_none()
        && let Some(stamped) = old.at(&["spec", "requestedBy"])
    {
        changes.add("/spec/requestedBy", serde_json::to_value(stamped).unwrap_or_default());
    }
}

/// Life in seconds that every enforced policy leaves to tokens, with the policies' own floor.
fn longest_token(world: &World, namespace: &str) -> i64 {
    let (asked, _) = world.asked_of_pods(namespace);
    let enforced = asked.iter().filter(|asked| asked.mode == Mode::Enforce);
    enforced.map(|asked| asked.workloads.max_token_ttl.as_secs()).min().unwrap_or(i64::MAX).max(SHORTEST_TOKEN)
}

fn pod_changes(world: &World, review: &Review<'_>, now: Timestamp, changes: &mut Changes) {
    let Some(spec) = review.object.member("spec").filter(|spec| spec.is_object()) else { return };
    let most = longest_token(world, review.namespace);
    let task = pod::task_label(review.object).and_then(|name| Some((name, world.task(review.namespace, name)?)));
    let usable = task.filter(|(name, task)| world.usable(review.namespace, name, task, now).is_ok());
    let left = usable.map(|(_, task)| task.deadline.duration_since(now).as_secs().max(1));
    shorten(spec, min(most, left.map_or(i64::MAX, |left| max(left, SHORTEST_TOKEN))), most, changes);
    // A pod of a task that cannot be used is refused by the validating webhook.
    let (Some((_, task)), Some(left)) = (usable, left) else { return };
    run_as(spec, task, changes);
    let deadline = spec.whole("activeDeadlineSeconds");
    let keep_pods = world
        .namespaces
        .get(review.namespace)
        .and_then(|here| here.scopes.get(&task.scope))
        .is_some_and(|scope| scope.spec.keep_pods);
    if !keep_pods && deadline.is_none_or(|set| set > left) {
        changes.add("/spec/activeDeadlineSeconds", json!(left));
    }
    let token = min(most, left.clamp(SHORTEST_TOKEN, DEFAULT_TOKEN));
    mount(spec, task, token, changes);
}

/// Shortens what lives too long: tokens to `token` seconds, certificates to the policy's.
fn shorten(spec: &Value<'_>, token: i64, policy: i64, changes: &mut Changes) {
    for (v, volume) in spec.items("volumes").iter().enumerate() {
        let Some(projected) = volume.member("projected") else { continue };
        for (s, source) in projected.items("sources").iter().enumerate() {
            let path = format!("/spec/volumes/{v}/projected/sources/{s}");
            if let Some(asked) = source.member("serviceAccountToken").filter(|asked| asked.is_object()) {
                let seconds = asked.whole("expirationSeconds");
                // What is cut to the mark would live for a year just as what asks for it.
                let wanted = match seconds.unwrap_or(DEFAULT_TOKEN).min(token) {
                    YEAR_LONG_MARK => DEFAULT_TOKEN,
                    seconds => seconds,
                };
                if seconds.unwrap_or(DEFAULT_TOKEN) != wanted {
                    changes.add(format!("{path}/serviceAccountToken/expirationSeconds"), json!(wanted));
                    if !volume.text("name").starts_with(INJECTED) {
                        changes.warnings.push(format!(
                            "the token in volume `{}` lives {wanted} s instead of {} s",
                            volume.text("name"),
                            seconds.unwrap_or(DEFAULT_TOKEN)
                        ));
                    }
                }
            }
            if let Some(asked) = source.member("podCertificate").filter(|asked| asked.is_object()) {
                let most = policy.max(LEAST_CERTIFICATE);
                let seconds = asked.whole("maxExpirationSeconds").unwrap_or(86_400);
                if seconds > most {
                    changes.add(format!("{path}/podCertificate/maxExpirationSeconds"), json!(most));
                    changes.warnings.push(format!(
                        "the certificate in volume `{}` lives {most} s at most instead of {seconds} s",
                        volume.text("name")
                    ));
                }
            }
        }
    }
}

/// The task's own ServiceAccount, and no token by default. A ServiceAccount that the author
/// chose is left for the validating webhook to refuse; `default` is what the API server
/// fills in where nothing was chosen.
fn run_as(spec: &Value<'_>, task: &Task, changes: &mut Changes) {
    if matches!(pod::service_account(spec), "" | "default") {
        changes.add("/spec/serviceAccountName", json!(task.owns));
        // The deprecated alias must say the same, or the API server refuses the pod.
        changes.add("/spec/serviceAccount", json!(task.owns));
    }
    if spec.member("automountServiceAccountToken").and_then(Value::as_bool) != Some(false) {
        changes.add("/spec/automountServiceAccountToken", json!(false));
    }
    // What the API server injected for the ServiceAccount `default` goes again. From the
    // last to the first, so that the places of the others do not move.
    for list in CONTAINER_LISTS {
        for (c, container) in spec.items(list).iter().enumerate() {
            for (m, mount) in container.items("volumeMounts").iter().enumerate().rev() {
                if mount.text("name").starts_with(INJECTED) {
                    changes.remove(format!("/spec/{list}/{c}/volumeMounts/{m}"));
                }
            }
        }
    }
    for (v, volume) in spec.items("volumes").iter().enumerate().rev() {
        if volume.text("name").starts_with(INJECTED) {
            changes.remove(format!("/spec/volumes/{v}"));
        }
    }
}

/// Mounts the task's credentials in every container.
fn mount(spec: &Value<'_>, task: &Task, token: i64, changes: &mut Changes) {
    let mut volumes = vec![(
        CREDENTIALS,
        names::CREDENTIALS_DIR,
        json!({"name": CREDENTIALS, "secret": {"secretName": task.owns, "defaultMode": 0o444}}),
    )];
    if task.has_rules {
        let sources = json!([
            {"serviceAccountToken": {"path": "token", "expirationSeconds": token}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]);
        let volume = json!({"name": KUBERNETES, "projected": {"defaultMode": 0o444, "sources": sources}});
        volumes.push((KUBERNETES, names::KUBERNETES_DIR, volume));
    }
    volumes.retain(|(name, _, _)| spec.items("volumes").iter().all(|volume| volume.text("name") != *name));
    if volumes.is_empty() {
        return;
    }
    if !spec.member("volumes").is_some_and(Value::is_array) {
        changes.add("/spec/volumes", json!([]));
    }
    for (_, _, volume) in &volumes {
        changes.add("/spec/volumes/-", volume.clone());
    }
    for list in CONTAINER_LISTS {
        for (c, container) in spec.items(list).iter().enumerate().filter(|(_, container)| container.is_object()) {
            if !container.member("volumeMounts").is_some_and(Value::is_array) {
                changes.add(format!("/spec/{list}/{c}/volumeMounts"), json!([]));
            }
            for (name, path, _) in &volumes {
                // A place that the author uses is left alone, unless what stands there goes.
                let taken = container
                    .items("volumeMounts")
                    .iter()
                    .any(|mount| mount.text("mountPath") == *path && !mount.text("name").starts_with(INJECTED));
                if !taken {
                    changes.add(
                        format!("/spec/{list}/{c}/volumeMounts/-"),
                        json!({"name": name, "mountPath": path, "readOnly": true}),
                    );
                }
            }
        }
    }
}

/// Who makes a request, as an AdmissionReview says it (`userInfo`).
#[must_use]
pub fn requester(user: &Value<'_>) -> Requester {
    let texts = |value: &Value<'_>| -> Vec<String> {
        match value {
            Value::Array(items) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => vec![],
        }
    };
    Requester {
        username: user.text("username").to_owned(),
        uid: user.text("uid").to_owned(),
        groups: user.member("groups").map(texts).unwrap_or_default(),
        extra: user
            .member("extra")
            .into_iter()
            .flat_map(|extra| extra.members())
            .map(|(key, value)| (key.to_owned(), texts(value)))
            .collect(),
    }
}
