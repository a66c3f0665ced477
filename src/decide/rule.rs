//! The rules: one wrong each, one file each.
//!
//! A rule says what is wrong, why it is dangerous and what to write instead, and names the
//! [`Site`]s where it looks; a few need [`Code`]. Whether a finding refuses, warns or is only
//! recorded is not the rule's business: it follows from the rule's [`Level`], the profile
//! and the mode of the policy.

mod access_to_task_pod;
mod api_token_without_grant;
mod automounted_token;
mod binding_credential;
mod binding_of_a_task;
mod borrowed_service_account;
mod claimed_volume_secret;
mod config_map_credential;
mod config_map_kubeconfig;
mod csi_secret;
mod dead_task;
mod device_claim;
mod device_credential;
mod device_parameters;
mod gmsa_credential;
mod hidden_credential;
mod host_credential_path;
mod image_pull_secret;
mod image_volume;
mod injected_credential;
mod legacy_token_secret;
mod literal_credential;
mod literal_password;
mod long_lived_certificate;
mod long_lived_certificate_request;
mod long_lived_token;
mod other_tasks_credentials;
mod persistent_volume_secret;
mod prefilled_volume;
mod secret_env;
mod secret_env_file;
mod secret_env_from;
mod secret_projection;
mod secret_provider_class;
mod secret_volume;
mod service_account_secret;
mod shared_process_namespace;
mod static_secret_type;
mod storage_class_secret;
mod storage_key_file;
mod storage_secret;
mod synced_secret;
mod token_behind_subpath;
mod unbound_token_request;
mod unknown_credential_source;
mod virtual_machine_secret;
mod wide_token_request;
mod year_long_token;

pub use access_to_task_pod::RULE as ACCESS_TO_TASK_POD;
pub use year_long_token::MARK as YEAR_LONG_MARK;

use super::json::Read as _;
use super::predicate::Cond;
use super::site::{Scene, Site, Subject};
use super::world::Task;
use crate::api::names;

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
    /// What a policy's `allow` may name for it; empty where it takes none.
    pub allows: &'static str,
    /// The places where it looks.
    pub sites: &'static [Site],
    /// What no form of places can say.
    pub code: Option<Code>,
}

/// A look at a whole object, for what takes more than a condition.
#[derive(Clone, Copy)]
pub struct Code {
    /// Looks at a pod and reports every place.
    pub look: fn(&Subject<'_>, &mut Vec<Found>),
    /// What an expression in the API server lacks to say the same.
    pub lacks: &'static str,
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Code").field(&self.lacks).finish()
    }
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
    /// Never by a profile: a warning under both.
    Advice,
    /// Never by a profile, nor a warning: only where a policy gives it an action.
    OptIn,
}

/// One place where a rule is broken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The field.
    pub path: String,
    /// What is wrong there.
    pub message: String,
    /// What to write there instead.
    pub help: String,
    /// What of it a policy's `allow` is compared with; empty where it is with nothing.
    pub allow: String,
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

/// A reference to a Secret of people: credentials of tasks are another rule's business.
const STATIC: Cond = Cond::Not(&Cond::StartsWith("this.name", names::TASK_PREFIX));
const INSTEAD_OF_SECRET: &str = "remove it, label the pod `mandate.dev/task: <task>` and let its TaskScope issue a short-lived credential (`credentials: [{{name: <name>, serviceAccountToken: {{audience: <audience>}}}}]`)";

/// The volume behind a pod's claim, where both are known.
fn claimed_volume<'a>(scene: &Scene<'a, '_>) -> Option<&'a str> {
    scene.subject.world.related.volume_of(scene.subject.namespace, scene.this.text("claimName"))
}

/// Every rule, in the order of their ids.
pub static RULES: &[Rule] = &[
    access_to_task_pod::RULE,
    api_token_without_grant::RULE,
    automounted_token::RULE,
    binding_credential::RULE,
    binding_of_a_task::RULE,
    borrowed_service_account::RULE,
    claimed_volume_secret::RULE,
    config_map_credential::RULE,
    config_map_kubeconfig::RULE,
    csi_secret::RULE,
    dead_task::RULE,
    device_claim::RULE,
    device_credential::RULE,
    device_parameters::RULE,
    gmsa_credential::RULE,
    hidden_credential::RULE,
    host_credential_path::RULE,
    image_pull_secret::RULE,
    image_volume::RULE,
    injected_credential::RULE,
    legacy_token_secret::RULE,
    literal_credential::RULE,
    literal_password::RULE,
    long_lived_certificate::RULE,
    long_lived_certificate_request::RULE,
    long_lived_token::RULE,
    other_tasks_credentials::RULE,
    persistent_volume_secret::RULE,
    prefilled_volume::RULE,
    secret_env::RULE,
    secret_env_file::RULE,
    secret_env_from::RULE,
    secret_projection::RULE,
    secret_provider_class::RULE,
    secret_volume::RULE,
    service_account_secret::RULE,
    shared_process_namespace::RULE,
    static_secret_type::RULE,
    storage_class_secret::RULE,
    storage_key_file::RULE,
    storage_secret::RULE,
    synced_secret::RULE,
    token_behind_subpath::RULE,
    unbound_token_request::RULE,
    unknown_credential_source::RULE,
    virtual_machine_secret::RULE,
    wide_token_request::RULE,
    year_long_token::RULE,
];

/// The rule of this id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_in_order() {
        assert!(RULES.windows(2).all(|pair| pair[0].id < pair[1].id));
    }

    #[test]
    fn policies_can_name_every_rule_but_those_that_always_hold() {
        let settable: Vec<&str> = RULES.iter().filter(|rule| rule.level != Level::Always).map(|rule| rule.id).collect();
        assert_eq!(settable, crate::api::RULE_NAMES);
    }
}
