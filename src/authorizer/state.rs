//! What the authorizer knows: the compiled snapshot, the live tasks, and what each has done.
//!
//! The snapshot is immutable and swapped as a whole, so that the old one holds until the new one
//! is compiled. Tasks come and go much more often and are kept beside it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};

use super::recall::Past;
use super::trust::{Caller, Named};
use crate::api::names;
use crate::decide::authorize::history::{History, Outcome};
use crate::decide::authorize::{Reservation, Snapshot, Subject};

/// No limit looks back further.
const LONGEST_WINDOW: SignedDuration = SignedDuration::from_hours(24);

/// What is known.
#[derive(Default)]
pub struct State {
    snapshot: ArcSwap<Snapshot>,
    /// How old what is known may be, where somebody has said so.
    stale_after: Option<SignedDuration>,
    /// When what is known was last known to be current, in milliseconds.
    known_at: AtomicI64,
    tasks: RwLock<Tasks>,
}

#[derive(Default)]
struct Tasks {
    /// By `namespace/name`.
    by_key: HashMap<String, Arc<Live>>,
    /// Keys by the user name of the task's ServiceAccount.
    by_account: HashMap<String, String>,
    /// What all tasks of an agent did, by `namespace/name` of the agent.
    agents: HashMap<String, Arc<Mutex<History>>>,
    /// At how many agents those are forgotten that have no task any more.
    many_agents: usize,
    /// What tasks did before this process began.
    past: Past,
}

/// A task that is known, and what it has done.
pub struct Live {
    subject: ArcSwap<Subject>,
    history: Mutex<History>,
    agent: Arc<Mutex<History>>,
}

impl Live {
    /// The task as it stands.
    #[must_use]
    pub fn subject(&self) -> Arc<Subject> {
        self.subject.load_full()
    }

    /// What it has done. Always taken after those of the tasks above it, and before
    /// [`Live::agent_history`].
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What all tasks of its agent have done.
    pub fn agent_history(&self) -> MutexGuard<'_, History> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who acts: as far as it was proved, and as far as it is known.
#[derive(Clone)]
pub struct Actor {
    /// What was proved.
    pub caller: Arc<Caller>,
    /// The task, where one that is known belongs to it.
    pub acting: Option<Acting>,
}

impl Actor {
    /// The task as it stood when it was looked up.
    #[must_use]
    pub fn subject(&self) -> Option<&Arc<Subject>> {
        self.acting.as_ref().map(|acting| &acting.subject)
    }
}

/// A task that acts, and the tasks above it.
#[derive(Clone)]
pub struct Acting {
    /// The task.
    pub task: Arc<Live>,
    /// The same as it stood when it was looked up: by this it is decided, and of this is told.
    pub subject: Arc<Subject>,
    /// Those above it, the root first, as far as they are known. Their histories are taken in this
    /// order, before that of the task and last of all that of its agent.
    pub above: Vec<Arc<Live>>,
}

impl Acting {
    /// The tasks above as they stand.
    #[must_use]
    pub fn subjects_above(&self) -> Vec<Arc<Subject>> {
        self.above.iter().map(|above| above.subject()).collect()
    }

    /// Takes in how a reserved action ended.
    pub fn settle(&self, reservation: &Reservation, outcome: Outcome, now: Timestamp) {
        self.settle_of_agent(reservation, outcome, now);
        let _ = self.settle_of_tasks(reservation, outcome, now);
    }

    /// The same in the history of the agent alone.
    pub fn settle_of_agent(&self, reservation: &Reservation, outcome: Outcome, now: Timestamp) {
        if let Some(id) = reservation.agent {
            self.task.agent_history().settle(id, outcome, now);
        }
    }

    /// The same in those of the task and of the tasks above it; false where the reservation is
    /// gone.
    #[must_use]
    pub fn settle_of_tasks(&self, reservation: &Reservation, outcome: Outcome, now: Timestamp) -> bool {
        for (above, id) in self.above.iter().zip(&reservation.above) {
            above.history().settle(*id, outcome, now);
        }
        self.task.history().settle(reservation.task, outcome, now)
    }
}

impl State {
    /// A state that knows no task yet, but what those that come have done before.
    #[must_use]
    pub fn after(past: Past) -> Self {
        Self { tasks: RwLock::new(Tasks { past, ..Tasks::default() }), ..Self::default() }
    }

    /// What decisions are made by.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// What is known may be so old at most.
    #[must_use]
    pub fn stale_after(self, bound: SignedDuration) -> Self {
        Self { stale_after: Some(bound), ..self }
    }

    /// Takes a new snapshot in the place of the old one.
    pub fn replace(&self, mut snapshot: Snapshot) {
        snapshot.stale_after = self.stale_after.unwrap_or(snapshot.stale_after);
        self.snapshot.store(Arc::new(snapshot));
    }

    /// When what is known was last known to be current.
    #[must_use]
    pub fn known_at(&self) -> Timestamp {
        Timestamp::from_millisecond(self.known_at.load(Ordering::Relaxed)).unwrap_or(Timestamp::MIN)
    }

    /// Says that what is known is current at a time.
    pub fn is_current(&self, at: Timestamp) {
        self.known_at.fetch_max(at.as_millisecond(), Ordering::Relaxed);
    }

    /// The task of a caller.
    #[must_use]
    pub fn task(&self, caller: &Caller) -> Option<Arc<Live>> {
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        let task = match &caller.named {
            Named::Task(key) => tasks.by_key.get(key)?,
            Named::Account(user) => tasks.by_key.get(tasks.by_account.get(user)?)?,
            Named::Nobody => return None,
        };
        // A token for a task that is gone is none for the one that now has its name.
        caller.task_uid.as_ref().is_none_or(|uid| *uid == task.subject().uid).then(|| task.clone())
    }

    /// A caller with its task, and with those above it.
    #[must_use]
    pub fn actor(&self, caller: impl Into<Arc<Caller>>) -> Actor {
        let caller = caller.into();
        let acting = self.task(&caller).map(|task| self.acting(task));
        Actor { caller, acting }
    }

    /// A task as it stands, with those above it.
    #[must_use]
    pub fn acting(&self, task: Arc<Live>) -> Acting {
        let subject = task.subject();
        Acting { above: self.above(&task, &subject), task, subject }
    }

    /// The tasks above one, the root first, until one is not known.
    fn above(&self, task: &Arc<Live>, subject: &Subject) -> Vec<Arc<Live>> {
        let mut found: Vec<Arc<Live>> = vec![];
        if subject.above.is_empty() {
            return found;
        }
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        for (place, link) in subject.above.iter().enumerate() {
            let Some(above) = tasks.by_key.get(&subject.key_of(&link.task)) else { break };
            // Whoever holds its history must not wait for it once more.
            let is_new = !Arc::ptr_eq(above, task) && !found.iter().any(|known| Arc::ptr_eq(known, above));
            if !is_new || !subject.is_above(place, &above.subject()) {
                break;
            }
            found.push(above.clone());
        }
        found
    }

    /// Every task whose key is accepted, in the order of keys.
    #[must_use]
    pub fn subjects(&self, of: impl Fn(&str) -> bool) -> Vec<Arc<Live>> {
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<(&String, &Arc<Live>)> = tasks.by_key.iter().filter(|(key, _)| of(key)).collect();
        found.sort_by_key(|(key, _)| *key);
        found.into_iter().map(|(_, live)| live.clone()).collect()
    }

    /// How many tasks are known.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tasks.read().unwrap_or_else(PoisonError::into_inner).by_key.len()
    }

    /// Takes in a task as it now is. One made anew under the name has done nothing yet.
    pub fn put(&self, mut subject: Subject) {
        let mut tasks = self.tasks.write().unwrap_or_else(PoisonError::into_inner);
        let mut moved = None;
        if let Some(live) = tasks.by_key.get(&subject.key) {
            let was = live.subject();
            if was.uid == subject.uid && was.agent_key == subject.agent_key {
                if !was.above.is_empty() && was.above != subject.above {
                    if subject.uid.is_empty() {
                        // A manifest that was written anew. Another lock, since locks are taken in
                        // the order in which tasks stand above one another.
                        moved = Some(live.history().clone());
                    } else {
                        // What stands above a task is the same for its whole life, whatever is
                        // written.
                        subject.unsound = Some("what stands above the task has been changed".into());
                        subject.above = was.above.clone();
                    }
                }
                if moved.is_none() {
                    live.subject.store(Arc::new(subject));
                    return;
                }
            }
        }
        tasks.forget(&subject.key);
        tasks.forget_agents(self.known_at());
        let Tasks { agents, past, .. } = &mut *tasks;
        let agent =
            agents.entry(subject.agent_key.clone()).or_insert_with(|| Arc::new(Mutex::new(past.agent(&subject.agent_key))));
        let agent = agent.clone();
        let history = moved.unwrap_or_else(|| past.task(&subject.namespace, &subject.name, &subject.uid));
        let history = Mutex::new(history);
        tasks.by_account.insert(account(&subject), subject.key.clone());
        let live = Live { history, agent, subject: ArcSwap::from_pointee(subject) };
        let key = live.subject().key.clone();
        tasks.by_key.insert(key, Arc::new(live));
    }

    /// Changes every task that is meant.
    pub fn change(&self, meant: impl Fn(&Subject) -> bool, change: impl Fn(&mut Subject)) {
        // Written under the lock that `put` takes, so that no change is lost to another.
        let tasks = self.tasks.write().unwrap_or_else(PoisonError::into_inner);
        for live in tasks.by_key.values() {
            let subject = live.subject();
            if meant(&subject) {
                let mut subject = (*subject).clone();
                change(&mut subject);
                live.subject.store(Arc::new(subject));
            }
        }
    }

    /// Forgets a task.
    pub fn forget(&self, key: &str) {
        self.tasks.write().unwrap_or_else(PoisonError::into_inner).forget(key);
    }

    /// Forgets every task but these.
    pub fn keep(&self, keys: &dyn Fn(&str) -> bool) {
        let mut tasks = self.tasks.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<String> = tasks.by_key.keys().filter(|key| !keys(key)).cloned().collect();
        gone.iter().for_each(|key| tasks.forget(key));
    }
}

impl Tasks {
    fn forget(&mut self, key: &str) {
        let Some(live) = self.by_key.remove(key) else { return };
        let subject = live.subject();
        self.by_account.remove(&account(&subject));
    }

    /// Forgets agents without tasks, where nothing that they did counts any more: a new task must
    /// not begin a window anew. Looked for only when they have become many, so that it costs each
    /// new task next to nothing.
    fn forget_agents(&mut self, now: Timestamp) {
        const FEW: usize = 64;
        if self.agents.len() < self.many_agents.max(FEW) {
            return;
        }
        let since = now.checked_sub(LONGEST_WINDOW).unwrap_or(Timestamp::MIN);
        self.agents.retain(|_, history| {
            // INVARIANT: whoever else holds it got it from `put`, under the lock that is held here.
            Arc::strong_count(history) > 1 || !history.lock().unwrap_or_else(PoisonError::into_inner).counts_nothing_since(since)
        });
        self.many_agents = 2 * self.agents.len();
    }
}

/// User name of the ServiceAccount of a task.
fn account(subject: &Subject) -> String {
    format!("system:serviceaccount:{}:{}", subject.namespace, names::of_task(&subject.name, &subject.uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(task: &str, agent: &str) -> Subject {
        let (name, key, agent_key) = (task.to_owned(), format!("f/{task}"), format!("f/{agent}"));
        Subject { namespace: "f".into(), name, key, agent: agent.into(), agent_key, ..Subject::default() }
    }

    #[test]
    fn agents_that_have_gone_are_forgotten_unless_what_they_did_still_counts() {
        use crate::decide::authorize::history::{Limit, Mark};
        let state = State::default();
        state.is_current("2026-01-02T00:00:00Z".parse().unwrap());
        state.put(subject("counted", "counted"));
        let live = state.task(&Caller::vouched("f/counted".into())).unwrap();
        let mark = Mark { tool: "f/l/t".into(), read: None, untrusted: false, domain: "f".into() };
        let limit = Limit { id: "l".into(), count: 1, per: Some(SignedDuration::from_hours(1)) };
        live.agent_history().take(&mark, &[limit], false, "2026-01-01T23:00:00Z".parse().unwrap());
        drop(live);
        state.forget("f/counted");
        for n in 0..10_000 {
            state.put(subject(&format!("t-{n}"), &format!("a-{n}")));
            state.forget(&format!("f/t-{n}"));
        }
        let known = || state.tasks.read().unwrap().agents.len();
        assert!(known() < 200 && state.tasks.read().unwrap().agents.contains_key("f/counted"), "{}", known());
        state.is_current("2026-01-03T00:00:00Z".parse().unwrap());
        for n in 0..1_000 {
            state.put(subject("t", &format!("b-{n}")));
            state.forget("f/t");
        }
        assert!(!state.tasks.read().unwrap().agents.contains_key("f/counted"));
    }
}
