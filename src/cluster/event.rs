//! Events on the objects of people, in their words.
//!
//! One Event for each thing that happens to a task: repeats are left out where the plan is
//! made, so nothing is aggregated here. An Event that cannot be written is logged and
//! forgotten: nothing depends on it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use tracing::warn;

use crate::api::names;
use crate::decide::drift::Told;
use crate::decide::grant::Report;

/// The API server takes notes of less than 1 kB.
const LONGEST_NOTE: usize = 1000;

/// Tells people what happened to an object.
pub async fn publish<K>(client: &Client, instance: &str, object: &K, action: &str, report: &Report, now: Timestamp)
where
    K: Resource<DynamicType = ()>,
{
    let told = Told { warning: report.warning, reason: report.because.reason.as_str(), message: report.because.message.clone() };
    tell(client, ("controller", instance), object.object_ref(&()), action, &told, now).await;
}

/// The same, by whichever part of Mandate, named with its instance.
pub async fn tell(
    client: &Client,
    (part, instance): (&str, &str),
    regarding: ObjectReference,
    action: &str,
    told: &Told,
    now: Timestamp,
) {
    let namespace = regarding.namespace.clone().unwrap_or_else(|| "default".into());
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", regarding.name.as_deref().unwrap_or(names::MANAGER), now.as_nanosecond())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        action: Some(action.to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(told.message.chars().take(LONGEST_NOTE).collect()),
        reason: Some(told.reason.to_owned()),
        regarding: Some(regarding),
        reporting_controller: Some(format!("{}/{part}", crate::api::GROUP)),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(if told.warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    };
    if let Err(error) = Api::<Event>::namespaced(client.clone(), &namespace).create(&PostParams::default(), &event).await {
        warn!(%error, "could not write an event");
    }
}
