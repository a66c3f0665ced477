//! May somebody open a way into a pod that works for a task?
//!
//! `kubectl exec`, `attach`, `port-forward` and `proxy` lead past every rule about what a pod
//! may hold: whoever is inside reads the task's tokens. The request says the name of the pod
//! alone, so whoever calls has looked the pod up; its labels are all that is needed.

use jiff::Timestamp;

use super::admit::{self, Review};
use super::finding::{Finding, Verdict};
use super::pod;
use super::rule::ACCESS_TO_TASK_POD;
use super::waive::{Waivers, Word, identities};
use super::world::World;
use crate::api::Requester;

/// Whether the pod behind a connection in this namespace makes any difference.
#[must_use]
pub fn matters(world: &World, namespace: &str) -> bool {
    let (asked, broken) = world.asked_of_pods(namespace);
    !broken.is_empty() || asked.iter().any(|policy| admit::severity(&ACCESS_TO_TASK_POD, policy).is_some())
}

/// Judges a connection to the pod that is the review's object.
pub(super) fn access(world: &World, review: &Review<'_>, now: Timestamp) -> Verdict {
    let Some(task) = pod::task_label(review.object) else { return Verdict::default() };
    let (asked, broken) = world.asked_of_pods(review.namespace);
    let Review { subresource, name, user, .. } = review;
    let pod = identities(admit::identity(review, review.object), review.object, Word::Of(&user.username));
    let waivers = Waivers::over(world, review.namespace, &pod, now);
    let mut findings = vec![];
    for policy in &asked {
        let allowed = called(user).any(|name| admit::allows(policy, &ACCESS_TO_TASK_POD, &name));
        if let Some((severity, waiver)) = admit::weight(&ACCESS_TO_TASK_POD, policy, &waivers).filter(|_| !allowed) {
            let finding = Finding {
                rule: ACCESS_TO_TASK_POD.id,
                severity,
                path: String::new(),
                message: format!("`{subresource}` opens a way into pod `{name}`, which holds the credentials of task `{task}`"),
                help:
                    "read the pod's logs, start a task of your own, or have a policy's `allow` name you (`user:<name>` or `group:<name>`)"
                        .to_owned(),
                policy: policy.policy.clone(),
                waiver,
            };
            admit::add(&mut findings, 0, finding);
        }
    }
    findings.extend(admit::broken_policies(broken));
    Verdict::new(findings)
}

/// How an `allow` names somebody.
fn called(user: &Requester) -> impl Iterator<Item = String> {
    let groups = user.groups.iter().map(|group| format!("group:{group}"));
    std::iter::once(format!("user:{}", user.username)).chain(groups)
}
