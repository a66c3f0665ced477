//! A task, what is observed and the time in; the next steps out.
//!
//! Flow: the controller gathers what it knows into [`Observed`], calls [`plan`], carries
//! the steps out in their order and writes the status. Where the plan asks questions, the
//! controller puts them to the API server and plans once more with the answers.
//!
//! Guarantees: nothing is issued before every check has passed. Authority is taken back
//! binding first, since that acts at once, while the API server honours the token of a
//! deleted Secret for up to ten seconds more. A task that is over stays over, whatever the
//! clock does. What was granted can shrink and never grows.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use super::check::{Because, Case, Granted, Hold, Question, Reason, check, is_over};
use super::delegate::{self, Above};
use super::rule::YEAR_LONG_MARK;
use super::world::{DEFAULT_TOKEN, SHORTEST_TOKEN, deadline};
use crate::api::{
    AgentIdentity, AgentTask, AgentTaskStatus, ClusterAgentPolicySpec, Conditions, Credential, Duration, EndReason, Grant,
    IssuedCredential, KubernetesRule, Phase, SecretKey, Subject, TaskScope, covers, names, permissions,
};

/// What is known around a task.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Its agent.
    pub identity: Option<&'a AgentIdentity>,
    /// Its scope.
    pub scope: Option<&'a TaskScope>,
    /// The ClusterAgentPolicies that hold in its namespace.
    pub policies: &'a [(&'a str, &'a ClusterAgentPolicySpec)],
    /// What is known of the tasks above it.
    pub above: Above<'a>,
    /// Longest life of a token that the policies leave.
    pub max_token_ttl: Duration,
    /// What stands of what it owns.
    pub owned: Owned,
    /// The answer to the questions of this round, once they were put.
    pub answer: Option<&'a Result<(), Because>>,
}

/// What stands of what a task owns. Its Secret is never looked at: the controller may not
/// read Secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Whether its ServiceAccount stands.
    pub service_account: bool,
    /// Digest of the rules of the Role that its grant names, where that stands.
    pub role: Option<u64>,
    /// What its RoleBinding binds.
    pub bound: Bound,
}

/// What the RoleBinding of a task binds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bound {
    /// Nothing: it does not stand.
    #[default]
    Nothing,
    /// The task alone, to the Role that its grant names.
    AsGranted,
    /// Somebody else, or to another Role.
    Otherwise,
}

/// What to do.
#[must_use]
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Questions to put first; the plan then holds nothing else.
    pub ask: Vec<Question>,
    /// Steps, in order.
    pub steps: Vec<Step>,
    /// Status once the steps are done; none where the task is about to be gone.
    pub status: Option<AgentTaskStatus>,
    /// What to tell people in an Event.
    pub report: Option<Report>,
    /// When to look again, without any change; none means never.
    pub look_again: Option<Timestamp>,
}

/// One write, or one set of writes whose order does not matter.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The Role, first of all: the API server refuses it where it is beyond the ceiling. One
    /// that stands as it should is left alone.
    EnsureRole(Grant),
    /// The ServiceAccount.
    EnsureServiceAccount,
    /// The ServiceAccount of a task that had one. Where it is really made anew, the tokens of
    /// its predecessor are dead, and these take their place.
    RestoreServiceAccount(Fill),
    /// The RoleBinding, to the Role of this name. The API server refuses it where the Role is
    /// beyond the ceiling by now.
    EnsureBinding(String),
    /// The same where one stands that binds something else. What a RoleBinding binds cannot be
    /// changed, so it is taken back first: for a moment there is no authority, and never more.
    Rebind(String),
    /// The Secret, without any content, for tokens to be bound to.
    EnsureSecret,
    /// Mint tokens, copy keys, and write them into the Secret at once.
    Fill(Fill),
    /// Take something back.
    Take(Object),
    /// Take the finalizer off.
    Release,
    /// Delete the task.
    Forget,
}

/// One kind of what a task owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// RoleBinding.
    Binding,
    /// Role of its own, which tasks had before they shared those of their scopes.
    Role,
    /// Secret.
    Secret,
    /// ServiceAccount.
    ServiceAccount,
}

/// What to put into the Secret.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fill {
    /// Tokens.
    pub mint: Vec<Mint>,
    /// Static secrets: credential name and where from.
    pub copy: Vec<(String, SecretKey)>,
}

/// One token to ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct Mint {
    /// Name of the credential.
    pub name: String,
    /// Audience; none for the API server.
    pub audience: Option<String>,
    /// Life in seconds; 600 is the API server's least.
    pub seconds: i64,
    /// In whose name.
    pub subject: Subject,
}

/// What to tell people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether somebody should look.
    pub warning: bool,
    /// What happened.
    pub because: Because,
}

/// How often a static secret that is not there yet is looked for.
const LOOK_FOR_SECRETS: SignedDuration = SignedDuration::from_secs(15);

/// Binding first: it acts at once.
const TAKE_BACK: [Step; 4] =
    [Step::Take(Object::Binding), Step::Take(Object::Role), Step::Take(Object::Secret), Step::Take(Object::ServiceAccount)];

/// The next steps for a task.
pub fn plan(task: &AgentTask, observed: &Observed<'_>, now: Timestamp) -> Plan {
    if is_over(task) {
        return after_the_end(task, now);
    }
    // A child never outlives its parent: everything below counts with that end.
    let capped = delegate::capped(task, observed.above);
    let task = capped.as_ref().unwrap_or(task);
    if let Some(because) = end(task, observed, now) {
        return take_back(task, because, now);
    }
    let namespace = task.namespace().unwrap_or_default();
    let case = Case {
        task,
        namespace: &namespace,
        identity: observed.identity,
        scope: observed.scope,
        policies: observed.policies,
        above: observed.above,
    };
    match (check(case), is_active(task)) {
        (Ok(granted), false) => issue(task, observed, granted, now),
        (Ok(granted), true) => keep(task, observed, granted, now),
        (Err(Hold::Wait(because)), false) => wait(task, because, now),
        // The identity's ServiceAccount is being made anew: no reason to end the task.
        (Err(Hold::Wait(because)), true) if because.reason == Reason::AgentNotReady => idle(task),
        (Err(Hold::Wait(because)), true) => take_back(task, gone(because), now),
        (Err(Hold::Refuse(because)), _) => take_back(task, because, now),
    }
}

/// What a missing object means for a task that had it.
fn gone(because: Because) -> Because {
    let reason = match because.reason {
        Reason::AgentNotFound => Reason::AgentDeleted,
        Reason::ScopeNotFound => Reason::ScopeDeleted,
        Reason::ParentNotFound | Reason::ParentNotReady => Reason::ParentEnded,
        other => other,
    };
    Because { reason, ..because }
}

/// Whether a task has its authority.
#[must_use]
pub fn is_active(task: &AgentTask) -> bool {
    task.status.as_ref().and_then(|status| status.phase) == Some(Phase::Active)
}

/// Why a task ends now, whatever it may do.
fn end(task: &AgentTask, observed: &Observed<'_>, now: Timestamp) -> Option<Because> {
    if task.metadata.deletion_timestamp.is_some() {
        return Some(Because::new(Reason::Deleted, "the task was deleted"));
    }
    if let Some(end) = &task.spec.end {
        let reason = match end.reason {
            EndReason::Completed => Reason::Completed,
            EndReason::Failed => Reason::Failed,
            EndReason::Revoked => Reason::Revoked,
        };
        return Some(Because::new(reason, if end.message.is_empty() { "ended by spec.end" } else { &end.message }));
    }
    if let Some(identity) = observed.identity.filter(|identity| identity.spec.suspend) {
        let message = format!("agent `{}` is suspended by {}", task.spec.agent, identity.spec.owner.team);
        return Some(Because::new(Reason::AgentSuspended, message));
    }
    if let Some(because) = delegate::ended(task, observed.above, now) {
        return Some(because);
    }
    let deadline = deadline(task);
    (now >= deadline).then(|| Because::new(Reason::Expired, format!("the deadline passed at {deadline}")))
}

/// Takes everything back and says why. It does not depend on what was seen to stand: a
/// controller that died between two writes may have made more than anybody saw.
pub fn take_back(task: &AgentTask, because: Because, now: Timestamp) -> Plan {
    let mut steps = TAKE_BACK.to_vec();
    if task.metadata.deletion_timestamp.is_some() {
        steps.push(Step::Release);
        return Plan { ask: vec![], steps, status: None, report: None, look_again: None };
    }
    let was_refused =
        !is_active(task) && !matches!(because.reason, Reason::Completed | Reason::Failed | Reason::Revoked | Reason::Expired);
    let phase = if was_refused { Phase::Refused } else { Phase::Ended };
    let mut status = status(task);
    status.phase = Some(phase);
    status.reason = Some(because.reason.to_string());
    status.ended_at = Some(Time(now));
    let mut conditions = Conditions::from(&status.conditions);
    conditions.remove("Reconciling");
    if was_refused {
        set(&mut conditions, task, "Ready", false, &because, now);
        set(&mut conditions, task, "Stalled", true, &because, now);
    } else {
        // No `Ready` on a task that has run its course: kstatus takes `Ready: False` for
        // "still being worked on", and a pipeline would wait for ever.
        conditions.remove("Ready");
        conditions.remove("Stalled");
        set(&mut conditions, task, "Ended", true, &because, now);
    }
    status.conditions = conditions.into_vec();
    let warning = !matches!(because.reason, Reason::Completed);
    Plan { ask: vec![], steps, look_again: forget_at(task, now), status: Some(status), report: Some(Report { warning, because }) }
}

fn forget_at(task: &AgentTask, ended: Timestamp) -> Option<Timestamp> {
    ended.checked_add(SignedDuration::from(task.spec.history_ttl)).ok()
}

fn after_the_end(task: &AgentTask, now: Timestamp) -> Plan {
    let nothing = Plan { ask: vec![], steps: vec![], status: None, report: None, look_again: None };
    if task.metadata.deletion_timestamp.is_some() {
        return Plan { steps: vec![Step::Release], ..nothing };
    }
    let forget = task.status.as_ref().and_then(|status| status.ended_at.as_ref()).and_then(|ended| forget_at(task, ended.0));
    match forget {
        Some(at) if now >= at => Plan { steps: vec![Step::Forget], ..nothing },
        at => Plan { look_again: at, ..nothing },
    }
}

fn wait(task: &AgentTask, because: Because, now: Timestamp) -> Plan {
    let mut status = status(task);
    let is_news = status.reason.as_deref() != Some(because.reason.as_str());
    status.phase = Some(Phase::Pending);
    status.reason = Some(because.reason.to_string());
    let mut conditions = Conditions::from(&status.conditions);
    set(&mut conditions, task, "Ready", false, &because, now);
    set(&mut conditions, task, "Reconciling", true, &because, now);
    status.conditions = conditions.into_vec();
    let report = is_news.then_some(Report { warning: true, because });
    Plan { ask: vec![], steps: vec![], status: Some(status), report, look_again: Some(deadline(task)) }
}

/// What is to be issued cannot be yet, as was found on the way: nothing stands until it can.
pub fn hold_back(task: &AgentTask, because: Because, now: Timestamp) -> Plan {
    let plan = wait(task, because, now);
    // Nothing tells when it comes: Secrets are not watched.
    let soon = now.checked_add(LOOK_FOR_SECRETS).ok();
    Plan { steps: TAKE_BACK.to_vec(), look_again: plan.look_again.min(soon), ..plan }
}

fn ask(questions: Vec<Question>) -> Plan {
    Plan { ask: questions, steps: vec![], status: None, report: None, look_again: None }
}

/// First issue: everything, in an order in which nothing works before all of it may.
fn issue(task: &AgentTask, observed: &Observed<'_>, granted: Granted, now: Timestamp) -> Plan {
    match observed.answer {
        None => return ask(granted.questions),
        Some(Err(because)) => return take_back(task, because.clone(), now),
        Some(Ok(())) => {}
    }
    let Granted { rules, credentials, risks, questions: _ } = granted;
    let scope_uid = observed.scope.and_then(ResourceExt::uid).unwrap_or_default();
    let tools = observed.scope.map(|scope| scope.spec.tools.clone()).unwrap_or_default();
    let grant = Grant { scope_uid, rules, tools };
    let role = name_of_role(&task.spec.scope, &grant);
    let mut steps = vec![];
    if role.is_some() {
        steps.push(Step::EnsureRole(grant.clone()));
    }
    steps.push(Step::EnsureServiceAccount);
    steps.extend(role.map(Step::EnsureBinding));
    steps.push(Step::EnsureSecret);
    let fill = fill(&credentials, |_| true, longest_token(task, observed, now));
    if fill != Fill::default() {
        steps.push(Step::Fill(fill));
    }
    let because = Because::new(Reason::Issued, format!("authority issued until {}", deadline(task)));
    let mut status = status(task);
    status.phase = Some(Phase::Active);
    status.reason = Some(because.reason.to_string());
    status.started_at = Some(Time(now));
    status.grant = Some(grant);
    status.chain = observed.above.parent().map(|parent| delegate::chain_below(parent.task)).unwrap_or_default();
    status.accepted_risks = risks;
    let mut conditions = Conditions::from(&status.conditions);
    set(&mut conditions, task, "Ready", true, &because, now);
    conditions.remove("Reconciling");
    conditions.remove("Stalled");
    status.conditions = conditions.into_vec();
    Plan {
        ask: vec![],
        steps,
        look_again: Some(deadline(task)),
        status: Some(status),
        report: Some(Report { warning: false, because }),
    }
}

/// A task that runs: shrink what the scope no longer gives, mend what was changed, renew
/// what is due.
fn keep(task: &AgentTask, observed: &Observed<'_>, granted: Granted, now: Timestamp) -> Plan {
    let status = status(task);
    let grant = status.grant.clone().unwrap_or_default();
    if observed.scope.and_then(ResourceExt::uid).is_some_and(|uid| uid != grant.scope_uid) {
        let message = format!("TaskScope `{}` was deleted and made anew; start a new task", task.spec.scope);
        return take_back(task, Because::new(Reason::ScopeDeleted, message), now);
    }
    if let Some(lost) = status.credentials.iter().find(|issued| !granted.credentials.iter().any(|now| same(issued, now))) {
        let message = format!(
            "TaskScope `{}` no longer gives credential `{}`, which cannot be taken back alone",
            task.spec.scope, lost.name
        );
        return take_back(task, Because::new(Reason::ScopeChanged, message), now);
    }
    let held = permissions(&granted.rules).unwrap_or_default();
    let of_scope = shrink(&grant.rules, &held);
    let rules = match observed.above.parent() {
        Some(parent) => shrink(&of_scope, &delegate::held(parent.task)),
        None => of_scope.clone(),
    };
    let shrank = match &task.spec.parent {
        Some(parent) if of_scope == grant.rules => format!("parent task `{parent}`"),
        _ => format!("TaskScope `{}`", task.spec.scope),
    };
    let due = status.credentials.iter().any(|issued| renewal(task, issued).is_some_and(|at| now >= at));
    if due || !observed.owned.service_account {
        match observed.answer {
            None => return ask(granted.questions),
            Some(Err(because)) => return take_back(task, because.clone(), now),
            Some(Ok(())) => {}
        }
    }
    // All at once, though only one is due: the Secret is written whole, since it is not read.
    let was_issued = |credential: &Credential| status.credentials.iter().any(|issued| issued.name == credential.name);
    let fill = fill(&granted.credentials, was_issued, longest_token(task, observed, now));
    let mut steps = match (observed.owned.service_account, due) {
        (true, _) => vec![],
        (false, true) => vec![Step::EnsureServiceAccount],
        (false, false) => vec![Step::RestoreServiceAccount(fill.clone())],
    };
    let left = Grant { rules, ..grant.clone() };
    let owned = if left == grant { observed.owned } else { observed.owned.of_another_grant() };
    steps.extend(mend(&task.spec.scope, &left, owned));
    if due {
        steps.extend([Step::EnsureSecret, Step::Fill(fill)]);
    }
    if left == grant {
        return Plan { steps, status: Some(status), ..idle(task) };
    }
    let message = format!("{shrank} shrank, and the task's authority with it");
    let because = Because::new(Reason::Narrowed, message);
    let mut status = status;
    status.grant = Some(left);
    status.reason = Some(because.reason.to_string());
    Plan { steps, status: Some(status), report: Some(Report { warning: true, because }), ..idle(task) }
}

/// Whether a scope still gives what was issued, to the same audience.
fn same(issued: &IssuedCredential, now: &Credential) -> bool {
    issued.name == now.name && issued.audience == now.service_account_token.as_ref().and_then(|token| token.audience.clone())
}

/// What is left of the granted rules where only `held` is still given.
fn shrink(granted: &[KubernetesRule], held: &std::collections::BTreeSet<crate::api::Permission>) -> Vec<KubernetesRule> {
    let wanted = permissions(granted).unwrap_or_default();
    if wanted.iter().all(|permission| covers(held, permission)) {
        return granted.to_vec();
    }
    let left = wanted.into_iter().filter(|permission| covers(held, permission));
    left.map(|permission| KubernetesRule {
        api_groups: vec![permission.group],
        resources: vec![permission.resource],
        resource_names: permission.name.into_iter().collect(),
        verbs: vec![permission.verb],
    })
    .collect()
}

impl Owned {
    /// What the same is, seen from a grant that was not looked at.
    fn of_another_grant(self) -> Self {
        let bound = if self.bound == Bound::Nothing { Bound::Nothing } else { Bound::Otherwise };
        Self { role: None, bound, ..self }
    }
}

/// Steps that bring Role and RoleBinding to what is granted.
fn mend(scope: &str, grant: &Grant, owned: Owned) -> Vec<Step> {
    let Some(role) = name_of_role(scope, grant) else {
        return if owned.bound == Bound::Nothing { vec![] } else { vec![Step::Take(Object::Binding)] };
    };
    let mut steps = vec![];
    if owned.role != Some(digest(&grant.rules)) {
        steps.push(Step::EnsureRole(grant.clone()));
    }
    match owned.bound {
        Bound::AsGranted => {}
        Bound::Nothing => steps.push(Step::EnsureBinding(role)),
        Bound::Otherwise => steps.push(Step::Rebind(role)),
    }
    steps
}

/// Nothing to do until the next renewal or the deadline.
fn idle(task: &AgentTask) -> Plan {
    let status = status(task);
    let next = status.credentials.iter().filter_map(|issued| renewal(task, issued)).min();
    let look_again = next.map_or(deadline(task), |next| next.min(deadline(task)));
    Plan { ask: vec![], steps: vec![], status: None, report: None, look_again: Some(look_again) }
}

/// The longest life of a token in seconds: what the policies leave, and no longer than the
/// task, so that with the controller gone nothing outlives the deadline by more than the API
/// server's least.
fn longest_token(task: &AgentTask, observed: &Observed<'_>, now: Timestamp) -> i64 {
    // One more, since a second that has begun is not over.
    let left = deadline(task).duration_since(now).as_secs().saturating_add(1);
    match observed.max_token_ttl.as_secs().min(left).max(SHORTEST_TOKEN) {
        // For this one the API server would issue a token of one year.
        YEAR_LONG_MARK => DEFAULT_TOKEN,
        seconds => seconds,
    }
}

fn fill(credentials: &[Credential], wanted: impl Fn(&Credential) -> bool, most: i64) -> Fill {
    let mut fill = Fill::default();
    for credential in credentials.iter().filter(|credential| wanted(credential)) {
        let name = credential.name.clone();
        if let Some(token) = &credential.service_account_token {
            let seconds = token.ttl.as_secs().min(most);
            fill.mint.push(Mint { name, audience: token.audience.clone(), seconds, subject: token.subject });
        } else if let Some(key) = &credential.secret_key {
            fill.copy.push((name, key.clone()));
        }
    }
    fill
}

/// When a credential is due: at 80 % of its life, up to 5 % earlier so that tasks which
/// started together do not renew together. None where it lives past the deadline anyway.
#[must_use]
pub fn renewal(task: &AgentTask, issued: &IssuedCredential) -> Option<Timestamp> {
    let expires = issued.expires_at.as_ref()?.0;
    if expires >= deadline(task) {
        return None;
    }
    let life = expires.duration_since(issued.issued_at.0);
    let seed = format!("{}/{}/{}", task.uid().unwrap_or_default(), issued.name, issued.token_id.as_deref().unwrap_or_default());
    let jitter = i32::from(Sha256::digest(seed.as_bytes())[0]); // 0 to 255
    let wait = life / 100 * 80 - life / 100 * 5 * jitter / 255;
    issued.issued_at.0.checked_add(wait).ok()
}

/// Name of the Role that holds a grant of the scope of this name; none where it holds no rules.
/// Tasks to which one scope grants the same share it, and no two grants have the same.
#[must_use]
pub fn name_of_role(scope: &str, grant: &Grant) -> Option<String> {
    // What may be called stands in no Role.
    let Grant { scope_uid, rules, tools: _ } = grant;
    let mut hash = Sha256::new();
    hash.update((scope_uid.len() as u64).to_be_bytes());
    hash.update(scope_uid);
    take_in(&mut hash, &rules.iter().map(PolicyRule::from).collect::<Vec<_>>());
    let content = hash.finalize().first_chunk().copied()?;
    (!rules.is_empty()).then(|| names::of_scope(scope, &content))
}

/// What a scope grants to a task that is not narrowed; nothing once it is being deleted.
#[must_use]
pub fn of_scope(scope: &TaskScope) -> Grant {
    let is_deleted = scope.metadata.deletion_timestamp.is_some();
    let rules = if is_deleted { vec![] } else { scope.spec.kubernetes.rules.clone() };
    Grant { scope_uid: scope.uid().unwrap_or_default(), rules, tools: scope.spec.tools.clone() }
}

/// Name of the Role that a running task is bound to.
#[must_use]
pub fn role_of(task: &AgentTask) -> Option<String> {
    let grant = task.status.as_ref().filter(|_| is_active(task))?.grant.as_ref()?;
    name_of_role(&task.spec.scope, grant)
}

/// Name of the Role that a task of this scope is bound to, or may be at any moment.
#[must_use]
pub fn role_needed_by(task: &AgentTask, scope: &TaskScope) -> Option<String> {
    if is_over(task) || is_active(task) {
        return role_of(task);
    }
    let whole = of_scope(scope);
    let narrowed = task.spec.narrow.as_ref().and_then(|narrow| narrow.rules.clone());
    name_of_role(&task.spec.scope, &Grant { rules: narrowed.unwrap_or(whole.rules), ..whole })
}

/// Digest of the rules of a Role, by which a change made by somebody else is seen.
#[must_use]
pub fn digest(rules: &[KubernetesRule]) -> u64 {
    digest_of_role(&rules.iter().map(PolicyRule::from).collect::<Vec<_>>())
}

/// Digest of the rules of a Role as the API server has them.
#[must_use]
pub fn digest_of_role(rules: &[PolicyRule]) -> u64 {
    let mut hash = Sha256::new();
    take_in(&mut hash, rules);
    let bytes: [u8; 32] = hash.finalize().into();
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn take_in(hash: &mut Sha256, rules: &[PolicyRule]) {
    for PolicyRule { api_groups, resources, resource_names, verbs, non_resource_urls } in rules {
        for list in [api_groups, resources, resource_names, &Some(verbs.clone()), non_resource_urls] {
            for item in list.iter().flatten() {
                hash.update((item.len() as u64).to_be_bytes());
                hash.update(item);
            }
            hash.update([0xff; 9]); // longer than any length: ends a list
        }
    }
}

/// The status as it stands, with what never depends on the steps.
fn status(task: &AgentTask) -> AgentTaskStatus {
    let mut status = task.status.clone().unwrap_or_default();
    let owns = names::of_task(&task.name_any(), &task.uid().unwrap_or_default());
    status.observed_generation = task.metadata.generation;
    status.expires_at = Some(Time(deadline(task)));
    status.service_account = Some(owns.clone());
    status.secret = Some(owns);
    status
}

fn set(conditions: &mut Conditions, task: &AgentTask, type_: &str, value: bool, because: &Because, now: Timestamp) {
    conditions.set(type_, value, because.reason.as_str(), &because.message, task.metadata.generation, now);
}

/// The status of a plan once its steps are done, with what was issued on the way.
#[must_use]
pub fn settle(mut status: AgentTaskStatus, issued: Vec<IssuedCredential>) -> AgentTaskStatus {
    for new in issued {
        status.credentials.retain(|old| old.name != new.name);
        status.credentials.push(new);
    }
    status.credentials.sort_by(|a, b| a.name.cmp(&b.name));
    status
}

#[cfg(test)]
mod tests;
