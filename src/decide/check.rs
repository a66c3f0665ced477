//! May this task have what its scope gives? Every check, in one order, with its reason.
//!
//! In: a task and what is known of its agent, scope and policies. Out: what it may be
//! [`Granted`], together with the [`Question`]s that only the API server can answer; or
//! why it must wait; or why it is refused. The webhook asks it to tell authors early, the
//! controller asks it again before every issue and every renewal.

use std::collections::BTreeSet;
use std::fmt;

use super::delegate::{self, Above};
use crate::api::{
    AcceptedRisk, AgentIdentity, AgentTask, ClusterAgentPolicySpec, Credential, Duration, GROUP, KubernetesRule, Permission,
    Phase, Requester, SecretKey, ServiceAccountToken, TaskScope, ToolGrant, covers, names, permissions,
};

/// A task and what is known around it.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The task.
    pub task: &'a AgentTask,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its agent, where there is one of that name.
    pub identity: Option<&'a AgentIdentity>,
    /// Its scope, where there is one of that name.
    pub scope: Option<&'a TaskScope>,
    /// The ClusterAgentPolicies that hold in the namespace, by name.
    pub policies: &'a [(&'a str, &'a ClusterAgentPolicySpec)],
    /// What is known of the tasks above it.
    pub above: Above<'a>,
}

/// What a task may be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Rules of the Role that it is bound to; none means no Role.
    pub rules: Vec<KubernetesRule>,
    /// Credentials for its Secret, the one for the API server among them.
    pub credentials: Vec<Credential>,
    /// Static secrets among them.
    pub risks: Vec<AcceptedRisk>,
    /// What the API server must say yes to before anything is issued.
    pub questions: Vec<Question>,
}

/// Something that only the API server knows: may this user do that?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The user.
    pub who: Requester,
    /// Where.
    pub namespace: String,
    /// What.
    pub permission: Permission,
    /// What a "no" means.
    pub otherwise: Because,
}

/// Why a task gets nothing now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Something is missing that may still come.
    Wait(Because),
    /// The answer is no, and asking again will not change it.
    Refuse(Because),
}

/// A reason in one stable word and one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Because {
    /// The word: condition reason, event reason, metric label.
    pub reason: Reason,
    /// The sentence: what, and what to do about it.
    pub message: String,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Why a task stands where it stands: the closed set of condition reasons.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[$doc])* $name),* }

        impl Reason {
            /// The word as conditions and Events carry it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}

reasons! {
    /// The agent does not exist (yet).
    AgentNotFound,
    /// The agent's ServiceAccount is not there yet.
    AgentNotReady,
    /// The agent is suspended.
    AgentSuspended,
    /// The agent was deleted while the task ran.
    AgentDeleted,
    /// The scope does not exist (yet).
    ScopeNotFound,
    /// The scope was deleted or replaced while the task ran.
    ScopeDeleted,
    /// The scope no longer gives what was issued.
    ScopeChanged,
    /// The scope spells out too many permissions.
    ScopeTooLarge,
    /// Nobody knows who asked for the task.
    RequesterUnknown,
    /// The requester may not use the scope.
    ScopeNotAllowed,
    /// The agent may not act for the person, or the requester may not ask for it.
    PersonNotAllowed,
    /// The person lacks a permission that the task would have.
    PersonLacksPermission,
    /// The parent does not exist (yet).
    ParentNotFound,
    /// The parent has no authority yet.
    ParentNotReady,
    /// The parent, or a task above it, is over or gone.
    ParentEnded,
    /// The parent's scope does not delegate to the agent.
    NotDelegable,
    /// The task would stand deeper below another than that one's scope allows.
    TooDeep,
    /// The parent has as many children as its scope allows.
    TooManyChildren,
    /// The task would hold what its parent does not.
    BeyondParent,
    /// The requester may not start children of the parent.
    DelegationNotAllowed,
    /// The task asks to live too long.
    TtlTooLong,
    /// A token is for an audience that the agent may not get tokens for.
    AudienceNotAllowed,
    /// No ClusterAgentPolicy allows the static secret.
    SecretKeyNotAllowed,
    /// The static secret is allowed and does not exist (yet).
    SecretKeyNotFound,
    /// The narrowing asks for more than the scope gives.
    NarrowingTooWide,
    /// The scope gives more than the controller itself holds.
    BeyondCeiling,
    /// Mandate may not work in the namespace.
    NamespaceNotGuarded,
    /// An object of somebody else stands where the task's would stand.
    NameTaken,
    /// Authority is issued.
    Issued,
    /// Part of the authority was taken back, since the scope shrank.
    Narrowed,
    /// The objective is reached.
    Completed,
    /// The objective is not reached.
    Failed,
    /// Somebody took the authority back.
    Revoked,
    /// The task was deleted.
    Deleted,
    /// The deadline passed.
    Expired,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Wait(because) | Self::Refuse(because)) = self;
        f.write_str(&because.message)
    }
}

impl Because {
    /// A reason with its sentence.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

pub(super) fn wait(reason: Reason, message: String) -> Hold {
    Hold::Wait(Because::new(reason, message))
}

pub(super) fn refuse(reason: Reason, message: String) -> Hold {
    Hold::Refuse(Because::new(reason, message))
}

/// What the task may be given.
///
/// # Errors
/// [`Hold`]: what is missing, or what is not allowed; the first one found.
pub fn check(case: Case<'_>) -> Result<Granted, Hold> {
    let requester = requester(case.task)?;
    delegate::asked_by_a_task(case, requester)?;
    let identity = identity(case)?;
    let scope = scope(case)?;
    delegate::allowed(case)?;
    life(case.task, identity, scope)?;
    let held = held(scope)?;
    let rules = rules(case.task, scope, &held)?;
    let credentials = credentials(case.task, scope, !rules.is_empty())?;
    audiences(&credentials, identity)?;
    tools(case.task, scope)?;
    delegate::within(case, &rules, &issued(case.task, &credentials))?;
    let risks = credentials
        .iter()
        .filter_map(|c| Some((&c.name, c.secret_key.as_ref()?)))
        .map(|(name, key)| risk(case, name, key))
        .collect::<Result<_, _>>()?;
    let questions = questions(case, requester, identity, &rules)?;
    Ok(Granted { rules, credentials, risks, questions })
}

fn requester(task: &AgentTask) -> Result<&Requester, Hold> {
    task.spec.requested_by.as_ref().filter(|requester| !requester.username.is_empty()).ok_or_else(|| {
        refuse(
            Reason::RequesterUnknown,
            "nobody knows who asked for this task: it was created while Mandate's webhook was not registered; install the webhook and create the task again".into(),
        )
    })
}

fn identity(case: Case<'_>) -> Result<&AgentIdentity, Hold> {
    let name = &case.task.spec.agent;
    let Some(identity) = case.identity else {
        return Err(wait(
            Reason::AgentNotFound,
            format!(
                "there is no AgentIdentity `{name}` in namespace `{}`; create it, or name another in spec.agent of a new task",
                case.namespace
            ),
        ));
    };
    if identity.spec.suspend {
        return Err(refuse(Reason::AgentSuspended, format!("agent `{name}` is suspended by {}", identity.spec.owner.team)));
    }
    let ready =
        identity.status.as_ref().is_some_and(|status| status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    if !ready {
        return Err(wait(
            Reason::AgentNotReady,
            format!("agent `{name}` is not Ready yet; see `kubectl describe agentidentity {name}`"),
        ));
    }
    Ok(identity)
}

fn scope(case: Case<'_>) -> Result<&TaskScope, Hold> {
    // One that is held back by a finalizer is gone all the same.
    case.scope.filter(|scope| scope.metadata.deletion_timestamp.is_none()).ok_or_else(|| {
        let name = &case.task.spec.scope;
        wait(
            Reason::ScopeNotFound,
            format!(
                "there is no TaskScope `{name}` in namespace `{}`; create it, or name another in spec.scope of a new task",
                case.namespace
            ),
        )
    })
}

fn life(task: &AgentTask, identity: &AgentIdentity, scope: &TaskScope) -> Result<(), Hold> {
    let asked = task.spec.ttl;
    let too_long = |kind: &str, name: &str, most: Duration| {
        refuse(Reason::TtlTooLong, format!("spec.ttl is `{asked}`, and {kind} `{name}` allows `{most}` at most"))
    };
    if asked > scope.spec.max_ttl {
        return Err(too_long("TaskScope", &task.spec.scope, scope.spec.max_ttl));
    }
    if asked > identity.spec.max_ttl {
        return Err(too_long("AgentIdentity", &task.spec.agent, identity.spec.max_ttl));
    }
    Ok(())
}

fn held(scope: &TaskScope) -> Result<BTreeSet<Permission>, Hold> {
    permissions(&scope.spec.kubernetes.rules)
        .map_err(|error| refuse(Reason::ScopeTooLarge, format!("spec.kubernetes.rules of the TaskScope: {error}")))
}

fn rules(task: &AgentTask, scope: &TaskScope, held: &BTreeSet<Permission>) -> Result<Vec<KubernetesRule>, Hold> {
    let Some(narrow) = task.spec.narrow.as_ref().and_then(|narrow| narrow.rules.as_ref()) else {
        return Ok(scope.spec.kubernetes.rules.clone());
    };
    let wanted = permissions(narrow).map_err(|error| refuse(Reason::NarrowingTooWide, format!("spec.narrow.rules: {error}")))?;
    if let Some(beyond) = wanted.iter().find(|wanted| !covers(held, wanted)) {
        return Err(refuse(
            Reason::NarrowingTooWide,
            format!("spec.narrow.rules asks for `{beyond}`, which TaskScope `{}` does not give", task.spec.scope),
        ));
    }
    Ok(narrow.clone())
}

/// Of some credentials those that a running task has, or all that one would get.
fn issued(task: &AgentTask, credentials: &[Credential]) -> Vec<Credential> {
    let running = task.status.as_ref().filter(|status| status.phase == Some(Phase::Active));
    let has = |name: &str| running.is_none_or(|status| status.credentials.iter().any(|issued| issued.name == name));
    credentials.iter().filter(|credential| has(&credential.name)).cloned().collect()
}

/// The credentials that a scope gives a task.
pub(super) fn credentials(task: &AgentTask, scope: &TaskScope, has_rules: bool) -> Result<Vec<Credential>, Hold> {
    let mut all = scope.spec.credentials.clone();
    if has_rules && all.iter().all(|credential| credential.name != names::KUBERNETES_CREDENTIAL) {
        all.push(Credential {
            name: names::KUBERNETES_CREDENTIAL.to_owned(),
            service_account_token: Some(ServiceAccountToken::default()),
            secret_key: None,
        });
    }
    let Some(kept) = task.spec.narrow.as_ref().and_then(|narrow| narrow.credentials.as_ref()) else { return Ok(all) };
    if let Some(beyond) = kept.iter().find(|name| all.iter().all(|credential| credential.name != **name)) {
        return Err(refuse(
            Reason::NarrowingTooWide,
            format!("spec.narrow.credentials names `{beyond}`, which TaskScope `{}` does not give", task.spec.scope),
        ));
    }
    all.retain(|credential| kept.contains(&credential.name));
    Ok(all)
}

/// A narrowed task names tools of its scope, and no others.
fn tools(task: &AgentTask, scope: &TaskScope) -> Result<(), Hold> {
    let Some(kept) = task.spec.narrow.as_ref().and_then(|narrow| narrow.tools.as_ref()) else { return Ok(()) };
    let given = |name: &String| {
        let of = |grant: &ToolGrant| grant.names.iter().any(|tool| *name == format!("{}/{tool}", grant.server));
        scope.spec.tools.iter().any(of)
    };
    match kept.iter().find(|name| !given(name)) {
        None => Ok(()),
        Some(beyond) => Err(refuse(
            Reason::NarrowingTooWide,
            format!("spec.narrow.tools names `{beyond}`, which TaskScope `{}` does not give", task.spec.scope),
        )),
    }
}

fn audiences(credentials: &[Credential], identity: &AgentIdentity) -> Result<(), Hold> {
    for credential in credentials {
        let Some(audience) = credential.service_account_token.as_ref().and_then(|token| token.audience.as_ref()) else {
            continue;
        };
        if !identity.spec.audiences.contains(audience) {
            return Err(refuse(
                Reason::AudienceNotAllowed,
                format!(
                    "credential `{}` is for audience `{audience}`, which the agent may not get tokens for; its owner ({}) can add it to spec.audiences",
                    credential.name, identity.spec.owner.contact
                ),
            ));
        }
    }
    Ok(())
}

fn risk(case: Case<'_>, credential: &str, key: &SecretKey) -> Result<AcceptedRisk, Hold> {
    for (policy, spec) in case.policies {
        let allowed = spec
            .allow_secret_keys
            .iter()
            .find(|allowed| allowed.secret_name == key.secret_name && allowed.keys.contains(&key.key));
        if let Some(allowed) = allowed {
            return Ok(AcceptedRisk {
                credential: credential.to_owned(),
                secret_name: key.secret_name.clone(),
                policy: (*policy).to_owned(),
                owner: spec.guardrails.owner.clone(),
                reason: allowed.reason.clone(),
            });
        }
    }
    Err(refuse(
        Reason::SecretKeyNotAllowed,
        format!(
            "credential `{credential}` copies key `{}` of Secret `{}`, and no ClusterAgentPolicy allows that in namespace `{}`; use a serviceAccountToken, or have the platform accept the risk in spec.allowSecretKeys",
            key.key, key.secret_name, case.namespace
        ),
    ))
}

fn questions(
    case: Case<'_>,
    requester: &Requester,
    identity: &AgentIdentity,
    rules: &[KubernetesRule],
) -> Result<Vec<Question>, Hold> {
    let mut questions = vec![use_of_scope(requester, case.namespace, &case.task.spec.scope)];
    questions.extend(delegate::question(case, requester));
    if case.task.spec.parent.is_some() && case.above.parent().is_none() {
        return Ok(questions); // whom the parent acts for is not known here
    }
    let Some(person) = delegate::person(case)? else { return Ok(questions) };
    let themselves = person == requester.username;
    let acts_for = &identity.spec.acts_for;
    // What is known of the person: they asked for this task, or for one above it, themselves.
    let known = if themselves { Some(requester) } else { delegate::known_above(case, person) };
    let by_group = known.is_some_and(|known| acts_for.groups.iter().any(|group| known.groups.contains(group)));
    if !by_group && !acts_for.users.iter().any(|user| user == person) {
        return Err(refuse(
            Reason::PersonNotAllowed,
            format!(
                "agent `{}` may not act for `{}`; its owner ({}) can add the person to spec.actsFor",
                case.task.spec.agent, person, identity.spec.owner.contact
            ),
        ));
    }
    // Who starts a child of a task of theirs asks for no more than was granted with the parent.
    if !themselves && !delegate::is_of_the_parent(case, requester) {
        questions.push(act_for(requester, case.namespace, person));
    }
    // What the person may do, never more than is known of them: the groups of somebody who
    // has asked for nothing are unknown, so their rights by group do not count.
    let who = known.cloned().unwrap_or_else(|| Requester {
        username: person.to_owned(),
        groups: vec!["system:authenticated".to_owned()],
        ..Requester::default()
    });
    let wanted = permissions(rules).map_err(|error| refuse(Reason::ScopeTooLarge, error.to_string()))?;
    questions.extend(wanted.into_iter().map(|permission| Question {
        otherwise: Because::new(
            Reason::PersonLacksPermission,
            format!("`{}` may not `{permission}` in namespace `{}` themselves, so a task on their behalf may not either; narrow the task, or leave onBehalfOf out", person, case.namespace),
        ),
        who: who.clone(),
        namespace: case.namespace.to_owned(),
        permission,
    }));
    Ok(questions)
}

/// May the requester use the scope? RBAC verb `use` on the TaskScope.
fn use_of_scope(requester: &Requester, namespace: &str, scope: &str) -> Question {
    Question {
        who: requester.clone(),
        namespace: namespace.to_owned(),
        permission: Permission {
            group: GROUP.into(),
            resource: "taskscopes".into(),
            name: Some(scope.to_owned()),
            verb: "use".into(),
        },
        otherwise: Because::new(
            Reason::ScopeNotAllowed,
            format!(
                "`{}` may not use TaskScope `{scope}`; an administrator of namespace `{namespace}` can grant the verb `use` on it",
                requester.username
            ),
        ),
    }
}

/// May the requester have agents act for this person? RBAC verb `act-for` on `users`.
fn act_for(requester: &Requester, namespace: &str, person: &str) -> Question {
    Question {
        who: requester.clone(),
        namespace: namespace.to_owned(),
        permission: Permission {
            group: GROUP.into(),
            resource: "users".into(),
            name: Some(person.to_owned()),
            verb: "act-for".into(),
        },
        otherwise: Because::new(
            Reason::PersonNotAllowed,
            format!(
                "`{}` may not have agents act for `{person}`; it takes the verb `act-for` on `users.mandate.dev` named `{person}`, or `{person}` asking for the task themselves",
                requester.username
            ),
        ),
    }
}

/// What must be asked before somebody may write a scope: the author and the controller must
/// hold each permission that `before` did not already have.
///
/// # Errors
/// [`Because`] where the rules spell out too many permissions.
pub fn authorship(
    author: &Requester,
    controller: &str,
    namespace: &str,
    scope: &[KubernetesRule],
    before: &[KubernetesRule],
) -> Result<Vec<Question>, Because> {
    let wanted =
        permissions(scope).map_err(|error| Because::new(Reason::ScopeTooLarge, format!("spec.kubernetes.rules: {error}")))?;
    let before = permissions(before).unwrap_or_default();
    let controller = service_account(controller);
    let mut questions = vec![];
    for permission in wanted.into_iter().filter(|wanted| !covers(&before, wanted)) {
        questions.push(Question {
            who: author.clone(),
            namespace: namespace.to_owned(),
            permission: permission.clone(),
            otherwise: Because::new(
                Reason::PersonLacksPermission,
                format!("`{}` may not grant `{permission}` in namespace `{namespace}`, not holding it; have somebody who holds it write the scope, or leave it out", author.username),
            ),
        });
        questions.push(Question {
            who: controller.clone(),
            namespace: namespace.to_owned(),
            otherwise: Because::new(
                Reason::BeyondCeiling,
                format!("`{permission}` in namespace `{namespace}` is beyond the cluster's ceiling: Mandate's controller does not hold it and can give it to no task; a cluster administrator can add it to ceiling.rules"),
            ),
            permission,
        });
    }
    Ok(questions)
}

/// The user info of a ServiceAccount from its user name.
fn service_account(username: &str) -> Requester {
    let mut groups = vec!["system:serviceaccounts".to_owned(), "system:authenticated".to_owned()];
    if let Some(namespace) = username.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split(':').next()) {
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    Requester { username: username.to_owned(), groups, ..Requester::default() }
}

/// Whether a task is past any change.
#[must_use]
pub fn is_over(task: &AgentTask) -> bool {
    matches!(task.status.as_ref().and_then(|status| status.phase), Some(Phase::Ended | Phase::Refused))
}
