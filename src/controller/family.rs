//! Which tasks name which other as their parent: kept beside the store of tasks, so that a change
//! of one finds those below it without a look at all of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use kube::ResourceExt as _;
use kube::runtime::reflector::{ObjectRef, Store};

use crate::api::AgentTask;
use crate::decide::delegate::DEEPEST;

type Names = BTreeSet<String>;

/// Children by namespace and name of their parent.
#[derive(Clone)]
pub(super) struct Family {
    tasks: Store<AgentTask>,
    children: Arc<RwLock<HashMap<(String, String), Names>>>,
}

impl Family {
    pub(super) fn new(tasks: Store<AgentTask>) -> Self {
        Self { tasks, children: Arc::default() }
    }

    /// Takes in a task that has changed, or is gone.
    pub(super) fn saw(&self, task: &AgentTask) {
        let Some(parent) = task.spec.parent.clone() else { return };
        let mut children = self.children.write().unwrap_or_else(PoisonError::into_inner);
        // It stays here once it is gone, until somebody looks and does not find it.
        children.entry((task.namespace().unwrap_or_default(), parent)).or_default().insert(task.name_any());
    }

    /// The children of a task, whatever became of them.
    pub(super) fn children(&self, namespace: &str, parent: &str) -> Vec<Arc<AgentTask>> {
        let key = (namespace.to_owned(), parent.to_owned());
        let names: Names = {
            let children = self.children.read().unwrap_or_else(PoisonError::into_inner);
            children.get(&key).cloned().unwrap_or_default()
        };
        if names.is_empty() {
            return vec![];
        }
        let find = |name: &String| self.tasks.get(&ObjectRef::new(name).within(namespace));
        let found: Vec<Arc<AgentTask>> =
            names.iter().filter_map(find).filter(|task| task.spec.parent.as_deref() == Some(parent)).collect();
        if found.is_empty() {
            self.children.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
        }
        found
    }

    /// Every task below one, by whatever way.
    pub(super) fn below(&self, namespace: &str, name: &str) -> Vec<ObjectRef<AgentTask>> {
        let (mut found, mut next) = (Names::new(), vec![name.to_owned()]);
        for _ in 0..DEEPEST {
            let children = next.iter().flat_map(|name| self.children(namespace, name));
            next = children.map(|task| task.name_any()).filter(|name| found.insert(name.clone())).collect();
        }
        found.iter().map(|name| ObjectRef::new(name).within(namespace)).collect()
    }

    /// The tasks that are meant, each with every task below it.
    pub(super) fn touched(&self, meant: impl Fn(&AgentTask) -> bool) -> Vec<ObjectRef<AgentTask>> {
        let all = self.tasks.state();
        let with_below = |task: &Arc<AgentTask>| {
            let below = self.below(&task.namespace().unwrap_or_default(), &task.name_any());
            [ObjectRef::from_obj(task.as_ref())].into_iter().chain(below)
        };
        all.iter().filter(|task| meant(task)).flat_map(with_below).collect()
    }

    /// The tasks above one, its parent first, as far as each is found. One more than there may be
    /// is enough.
    pub(super) fn line(&self, task: &AgentTask) -> Vec<Arc<AgentTask>> {
        let namespace = task.namespace().unwrap_or_default();
        let (mut line, mut parent) = (vec![], task.spec.parent.clone());
        while let Some(above) = parent.and_then(|parent| self.tasks.get(&ObjectRef::new(&parent).within(&namespace))) {
            if line.len() > DEEPEST {
                break;
            }
            parent = above.spec.parent.clone();
            line.push(above);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn task(namespace: &str, name: &str, parent: Option<&str>) -> AgentTask {
        let spec = json!({"agent": "bot", "scope": "s", "objective": "o", "parent": parent});
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec})).unwrap()
    }

    fn names(found: &[ObjectRef<AgentTask>]) -> Vec<&str> {
        found.iter().map(|found| found.name.as_str()).collect()
    }

    #[test]
    fn a_change_of_a_task_touches_all_below_it_and_nobody_else() {
        let (store, mut writer) = reflector::store();
        let family = Family::new(store);
        let mut saw = |task: AgentTask| {
            writer.apply_watcher_event(&Event::Apply(task.clone()));
            family.saw(&task);
        };
        for (name, parent) in [("leaf", Some("mid")), ("root", None), ("mid", Some("root")), ("other", None)] {
            saw(task("finance", name, parent));
        }
        saw(task("payroll", "mid", Some("root")));
        assert_eq!(names(&family.below("finance", "root")), ["leaf", "mid"]);
        assert_eq!(names(&family.below("finance", "mid")), ["leaf"]);
        assert_eq!(names(&family.touched(|task| task.name_any() == "other")), ["other"]);
        let line = family.line(&task("finance", "leaf", Some("mid")));
        assert_eq!(line.iter().map(|task| task.name_any()).collect::<Vec<_>>(), ["mid", "root"]);
        // One that is gone is nobody's child, and one made anew without a parent is not either.
        saw(task("finance", "mid", None));
        assert_eq!(names(&family.below("finance", "root")), [""; 0]);
        assert_eq!(names(&family.below("payroll", "root")), ["mid"]);
    }

    #[test]
    fn tasks_that_stand_above_themselves_are_each_found_once() {
        let (store, mut writer) = reflector::store();
        let family = Family::new(store);
        for (name, parent) in [("egg", "chicken"), ("chicken", "egg")] {
            let task = task("finance", name, Some(parent));
            writer.apply_watcher_event(&Event::Apply(task.clone()));
            family.saw(&task);
        }
        assert_eq!(names(&family.below("finance", "egg")), ["chicken", "egg"]);
        assert_eq!(family.line(&task("finance", "egg", Some("chicken"))).len(), DEEPEST + 1);
    }
}
