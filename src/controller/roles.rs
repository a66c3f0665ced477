//! The Roles of scopes: made ahead, and taken back once nothing needs them.
//!
//! A Role holds one set of rules that a scope grants, and its name says which
//! ([`grant::name_of_role`]); the tasks to which the scope grants it share it. A task makes the
//! Role that it lacks. That one is made as soon as its scope is written only spares the first
//! task the time, so what fails here is left to the tasks, which say why.
//!
//! A Role that is bound to nobody grants nothing, so nothing hurries. One that a task is about to
//! be bound to is needed too; where it goes in that very moment, the API server refuses the
//! binding, and the task is tried again.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use kube::runtime::reflector::Store;
use tracing::{debug, warn};

use super::Context;
use super::task::chain;
use crate::api::{AgentTask, TaskScope, names};
use crate::cluster::{apply, observe};
use crate::decide::grant;

/// How long after news what is left is looked for: the watches that tell of it differ in pace.
const SETTLE: Duration = Duration::from_secs(1);
/// How often it is looked for where there is no news.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Tends the Roles for as long as the process lives.
pub(super) async fn run(context: &Context, tasks: &Store<AgentTask>, guarded: &BTreeSet<String>) -> Infallible {
    let mut tried = BTreeSet::new();
    loop {
        make_ahead(context, guarded, &mut tried).await;
        tokio::time::sleep(SETTLE).await;
        for scope in scopes(context, guarded) {
            take_back(&scope, context, tasks).await;
        }
        let _ = tokio::time::timeout(LOOK_EVERY, context.roles_news.notified()).await;
    }
}

fn scopes(context: &Context, guarded: &BTreeSet<String>) -> impl Iterator<Item = Arc<TaskScope>> {
    context.scopes.state().into_iter().filter(|scope| guarded.contains(scope.namespace().as_deref().unwrap_or_default()))
}

/// Makes the Roles that stand nowhere yet, once each.
async fn make_ahead(context: &Context, guarded: &BTreeSet<String>, tried: &mut BTreeSet<String>) {
    let mut current = BTreeSet::new();
    for scope in scopes(context, guarded) {
        let (namespace, name, grant) = (scope.namespace().unwrap_or_default(), scope.name_any(), grant::of_scope(&scope));
        let Some(role) = grant::name_of_role(&name, &grant) else { continue };
        if !tried.contains(&role)
            && !context.roles.hold(&namespace, &name, &grant)
            && let Err(error) = apply::ensure_role(context.writer(), &namespace, &name, &grant).await
        {
            debug!(namespace, scope = name, error = %chain(&error), "the role of a scope could not be made ahead");
        }
        current.insert(role);
    }
    *tried = current;
}

/// Takes the Roles of a scope back that hold what it no longer grants, and that no task is bound
/// to or about to be.
async fn take_back(scope: &TaskScope, context: &Context, tasks: &Store<AgentTask>) {
    let (namespace, name, uid) = (scope.namespace().unwrap_or_default(), scope.name_any(), scope.uid().unwrap_or_default());
    let current = grant::name_of_role(&name, &grant::of_scope(scope));
    let mut old = context.roles.owned_by(&namespace, &uid);
    old.retain(|role| role.starts_with(names::SCOPE_PREFIX) && Some(role) != current.as_ref());
    if old.is_empty() {
        return;
    }
    let bound = context.bindings.digests(&namespace);
    let of_scope = |task: &AgentTask| task.spec.scope == name && task.namespace().as_ref() == Some(&namespace);
    let tasks = tasks.state();
    let needed: BTreeSet<String> =
        tasks.iter().filter(|task| of_scope(task)).filter_map(|task| grant::role_needed_by(task, scope)).collect();
    for role in old.iter().filter(|role| !needed.contains(*role) && !bound.contains(&observe::binding_to(role))) {
        if let Err(error) = apply::take_role(context.writer(), &namespace, role, &uid).await {
            warn!(namespace, role, error = %chain(&error), "a role that nothing needs could not be taken back");
        }
    }
}
