//! The rules: one wrong each, one file each.
//!
//! A rule says what is wrong, why it is dangerous and what to write instead; its check
//! looks at a pod and reports every place. Whether a finding refuses, warns or is only
//! recorded is not the rule's business: it follows from the rule's [`Level`], the profile
//! and the mode of the policy.

mod api_token_without_grant;
mod automounted_token;
mod borrowed_service_account;
mod csi_secret;
mod dead_task;
mod legacy_token_secret;
mod long_lived_certificate;
mod long_lived_token;
mod other_tasks_credentials;
mod secret_env;
mod secret_env_from;
mod secret_projection;
mod secret_volume;
mod storage_secret;
mod unbound_token_request;
mod unknown_credential_source;
mod year_long_token;

pub use long_lived_certificate::LEAST as LEAST_CERTIFICATE;
pub use year_long_token::MARK as YEAR_LONG_MARK;

use super::json::Value;
use super::pod::{Reach, What};
use super::world::Task;
use crate::api::{Workloads, names};

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name, after the wrong it finds.
    pub id: &'static str,
    /// From which profile on it refuses.
    pub level: Level,
    /// What it finds, in one sentence.
    pub what: &'static str,
    /// Why that is dangerous.
    pub why: &'static str,
    /// What to write instead.
    pub fix: &'static str,
    /// Where to read more.
    pub references: &'static [&'static str],
    /// Version of Mandate that brought it.
    pub since: &'static str,
    /// Looks at a pod.
    pub check: fn(&Pod<'_>, Workloads, &mut Vec<Found>),
}

/// From which profile on a rule refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Whatever the policies say: it guards what Mandate itself hands out.
    Always,
    /// Under `baseline` and `restricted`.
    Baseline,
    /// Under `restricted`; a warning under `baseline`.
    Restricted,
}

/// One place where a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The field.
    pub path: String,
    /// What is wrong there.
    pub message: String,
    /// What to write there instead.
    pub help: String,
}

/// A pod under review, with what is known about it.
pub struct Pod<'a> {
    /// Its `spec`.
    pub spec: &'a Value<'a>,
    /// Path of the spec in its object.
    pub root: &'a str,
    /// Every place where it reaches a credential.
    pub reaches: Vec<Reach<'a>>,
    /// The task it names by its label.
    pub task: Option<Claim<'a>>,
}

/// What a pod's task label leads to.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The task's name.
    pub name: &'a str,
    /// The task, where there is one of that name.
    pub task: Option<&'a Task>,
    /// Why it cannot be used now, where it cannot.
    pub unusable: Option<&'a str>,
}

impl Pod<'_> {
    /// The name of what the pod's own task owns.
    fn own(&self) -> Option<&str> {
        self.task?.task.map(|task| task.owns.as_str())
    }

    /// Whether a Secret holds the credentials of the pod's own task, reached in the one way
    /// in which the kubelet keeps it fresh: a volume.
    fn is_own_volume(&self, what: What<'_>) -> bool {
        matches!(what, What::SecretVolume(name) | What::SecretProjection(name) if self.own() == Some(name))
    }
}

/// The check that the rules on Secret references share: `pick` says which reaches are
/// meant. References to credentials of tasks are another rule's business.
fn secrets<'a>(pod: &'a Pod<'a>, pick: fn(What<'a>) -> Option<&'a str>, says: &str, found: &mut Vec<Found>) {
    for reach in &pod.reaches {
        let Some(name) = pick(reach.what).filter(|name| !name.starts_with(names::TASK_PREFIX)) else { continue };
        found.push(Found {
            path: reach.path.clone(),
            message: format!("{} {says} Secret `{name}`, which never expires", reach.holder),
            help: INSTEAD_OF_SECRET.to_owned(),
        });
    }
}

const INSTEAD_OF_SECRET: &str = "remove it, label the pod `mandate.dev/task: <task>` and let its TaskScope issue a short-lived credential (`credentials: [{name: …, serviceAccountToken: {audience: …}}]`)";

/// Every rule, in the order of their ids.
pub static RULES: &[Rule] = &[
    api_token_without_grant::RULE,
    automounted_token::RULE,
    borrowed_service_account::RULE,
    csi_secret::RULE,
    dead_task::RULE,
    legacy_token_secret::RULE,
    long_lived_certificate::RULE,
    long_lived_token::RULE,
    other_tasks_credentials::RULE,
    secret_env::RULE,
    secret_env_from::RULE,
    secret_projection::RULE,
    secret_volume::RULE,
    storage_secret::RULE,
    unbound_token_request::RULE,
    unknown_credential_source::RULE,
    year_long_token::RULE,
];

/// The rule of this id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id)
}

/// A check for rules that judge something else than pods.
fn not_of_pods(_: &Pod<'_>, _: Workloads, _: &mut Vec<Found>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_in_order() {
        assert!(RULES.windows(2).all(|pair| pair[0].id < pair[1].id));
    }
}
