//! What a task has done: counts, windows, and what it has taken in.
//!
//! An action counts from the moment it is permitted, so that calls made at the same time cannot
//! pass a limit together. Where the enforcement point reports outcomes, a permitted action is
//! held as a reservation until its outcome comes or the reservation expires; one that was not
//! carried out is given back. What may have been read stays read: that nobody reported an
//! outcome does not prove that nothing was seen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::api::Classification;

/// How long a permitted action waits for its outcome, where one is to be reported.
pub const RESERVED_FOR: SignedDuration = SignedDuration::from_mins(5);
/// Most reservations of one task at a time; beyond, actions are denied until outcomes come.
pub const MOST_RESERVED: usize = 1024;

/// Most tools, and most domains, that one task may touch in its life: what it touched is
/// remembered, and an agent chooses the verbs and namespaces it asks the API server about.
pub const MOST_TOUCHED: usize = 4096;
/// Longest name of a tool or domain that is remembered, in bytes.
const LONGEST_NAME: usize = 512;

/// Everything one task has done, or all tasks of one agent together.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Uses by tool key (`namespace/server/tool`), by the task itself.
    used: BTreeMap<Arc<str>, Used>,
    /// The same by tasks below it. Apart: what another has done is no precondition that it met.
    used_below: BTreeMap<Arc<str>, Used>,
    /// Permitted actions by the limit that counts them.
    counters: BTreeMap<Arc<str>, Counter>,
    reserved: BTreeMap<u64, Reserved>,
    next: u64,
    highest_read: Option<Classification>,
    untrusted: bool,
    domains: BTreeSet<Arc<str>>,
}

/// Uses of one tool.
#[derive(Clone, Copy, Debug)]
struct Used {
    /// Carried out, as far as is known.
    done: u64,
    /// When last.
    last: Timestamp,
}

/// Actions that one limit counts.
#[derive(Clone, Debug, Default)]
struct Counter {
    total: u64,
    /// When each was, the oldest first; those outside of the window are dropped.
    recent: VecDeque<Timestamp>,
}

/// A permitted action whose outcome is awaited.
#[derive(Clone, Debug)]
struct Reserved {
    at: Timestamp,
    expires: Timestamp,
    tool: Arc<str>,
    limits: Vec<Arc<str>>,
    whose: Whose,
}

/// Who did something that is taken into the history of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The task itself.
    Own,
    /// A task below it.
    Below,
}

/// One limit that counts an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Which limit: the object and the rule.
    pub id: Arc<str>,
    /// How many are permitted.
    pub count: u64,
    /// In how long; none means in the whole life.
    pub per: Option<SignedDuration>,
}

/// What an action does to a history.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Tool key.
    pub tool: Arc<str>,
    /// Classification of what it reads, where it reads.
    pub read: Option<Classification>,
    /// Whether what it returns was written by people outside.
    pub untrusted: bool,
    /// Domain that it touches.
    pub domain: Arc<str>,
}

/// How a permitted action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Completed,
    /// It was tried and failed; data may have been seen, and limits give it back.
    Failed,
}

impl History {
    /// The highest classification it has read.
    #[must_use]
    pub fn highest_read(&self) -> Option<Classification> {
        self.highest_read
    }

    /// Whether it has taken in content from people outside.
    #[must_use]
    pub fn untrusted(&self) -> bool {
        self.untrusted
    }

    /// Domains it has touched, in order.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.domains.iter().map(AsRef::as_ref)
    }

    /// Calls that were carried out, by tool key.
    pub fn uses(&self) -> impl Iterator<Item = (&str, u64)> {
        self.used.iter().map(|(tool, used)| (tool.as_ref(), used.done))
    }

    /// Whether the task itself called a tool, or any tool of a server, since a time. Only what was
    /// carried out counts: a call that is still under way has not happened yet.
    #[must_use]
    pub fn called(&self, key: &str, since: Option<Timestamp>) -> bool {
        called(&self.used, key, since)
    }

    /// The same, of a server or tool of this name in any namespace.
    #[must_use]
    pub fn called_anywhere(&self, name: &str, since: Option<Timestamp>) -> bool {
        called_anywhere(&self.used, name, since)
    }

    /// Whether a task below called a tool, or any tool of a server, since a time.
    #[must_use]
    pub fn called_below(&self, key: &str, since: Option<Timestamp>) -> bool {
        called(&self.used_below, key, since)
    }

    /// The same, of a server or tool of this name in any namespace.
    #[must_use]
    pub fn called_anywhere_below(&self, name: &str, since: Option<Timestamp>) -> bool {
        called_anywhere(&self.used_below, name, since)
    }

    /// How many more actions a limit leaves at a time.
    #[must_use]
    pub fn left(&self, limit: &Limit, now: Timestamp) -> u64 {
        let Some(counter) = self.counters.get(&limit.id) else { return limit.count };
        let used = match limit.per {
            None => counter.total,
            Some(per) => {
                let since = now.checked_sub(per).unwrap_or(Timestamp::MIN);
                (counter.recent.len() - counter.recent.partition_point(|at| *at <= since)) as u64
            }
        };
        limit.count.saturating_sub(used)
    }

    /// Whether another action can be held until its outcome comes.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.reserved.len() < MOST_RESERVED
    }

    /// Whether an action can be remembered.
    #[must_use]
    pub fn can_remember(&self, mark: &Mark) -> bool {
        let is_short = mark.tool.len() <= LONGEST_NAME && mark.domain.len() <= LONGEST_NAME;
        let has_room = |used: &BTreeMap<_, _>| used.len() < MOST_TOUCHED || used.contains_key(&mark.tool);
        let tools = has_room(&self.used) && has_room(&self.used_below);
        let domains = self.domains.len() < MOST_TOUCHED || self.domains.contains(&mark.domain);
        is_short && tools && domains
    }

    /// Whether nothing in it counts for what comes later than a time.
    #[must_use]
    pub fn counts_nothing_since(&self, since: Timestamp) -> bool {
        self.counters.is_empty() || self.used.values().all(|used| used.last < since)
    }

    /// Takes in a permitted action. `awaited`: the id of a reservation comes back, and the action
    /// counts as carried out once [`History::settle`] says so.
    pub fn take(&mut self, mark: &Mark, limits: &[Limit], awaited: bool, now: Timestamp) -> Option<u64> {
        self.take_of(Whose::Own, mark, limits, awaited, now)
    }

    /// The same of what the task or one below it was permitted.
    pub fn take_of(&mut self, whose: Whose, mark: &Mark, limits: &[Limit], awaited: bool, now: Timestamp) -> Option<u64> {
        for limit in limits {
            let counter = self.counters.entry(limit.id.clone()).or_default();
            counter.total += 1;
            if let Some(per) = limit.per {
                let since = now.checked_sub(per).unwrap_or(Timestamp::MIN);
                counter.recent.drain(..counter.recent.partition_point(|at| *at <= since));
                // INVARIANT: oldest first. A clock that went back must not break the search.
                let at = counter.recent.back().map_or(now, |last| (*last).max(now));
                counter.recent.push_back(at);
                // A limit that only warns goes on counting; what is far beyond it need not be told
                // apart. So many may still be given back.
                let most = usize::try_from(limit.count).unwrap_or(usize::MAX).saturating_add(MOST_RESERVED);
                if counter.recent.len() > most {
                    counter.recent.pop_front();
                }
            }
        }
        self.highest_read = self.highest_read.max(mark.read);
        self.untrusted |= mark.untrusted;
        if !self.domains.contains(&mark.domain) {
            self.domains.insert(mark.domain.clone());
        }
        if !awaited {
            self.done(whose, &mark.tool, now);
            return None;
        }
        let id = self.next;
        self.next += 1;
        let expires = now.checked_add(RESERVED_FOR).unwrap_or(Timestamp::MAX);
        let limits = limits.iter().map(|limit| limit.id.clone()).collect();
        self.reserved.insert(id, Reserved { at: now, expires, tool: mark.tool.clone(), limits, whose });
        Some(id)
    }

    /// Takes in how a reserved action ended; false where the reservation is gone.
    pub fn settle(&mut self, id: u64, outcome: Outcome, now: Timestamp) -> bool {
        let Some(reserved) = self.reserved.remove(&id) else { return false };
        match outcome {
            Outcome::Completed => self.done(reserved.whose, &reserved.tool, now),
            Outcome::Failed => self.give_back(&reserved),
        }
        true
    }

    /// Gives back what nobody reported in time.
    pub fn expire(&mut self, now: Timestamp) {
        let gone: Vec<u64> = self.reserved.iter().filter(|(_, held)| held.expires <= now).map(|(id, _)| *id).collect();
        for id in gone {
            if let Some(reserved) = self.reserved.remove(&id) {
                self.give_back(&reserved);
            }
        }
    }

    fn done(&mut self, whose: Whose, tool: &Arc<str>, now: Timestamp) {
        let used = match whose {
            Whose::Own => &mut self.used,
            Whose::Below => &mut self.used_below,
        };
        let used = used.entry(tool.clone()).or_insert(Used { done: 0, last: now });
        used.done += 1;
        used.last = used.last.max(now);
    }

    fn give_back(&mut self, reserved: &Reserved) {
        for id in &reserved.limits {
            let Some(counter) = self.counters.get_mut(id) else { continue };
            counter.total = counter.total.saturating_sub(1);
            let at = counter.recent.partition_point(|at| *at < reserved.at);
            if counter.recent.get(at) == Some(&reserved.at) {
                counter.recent.remove(at);
            }
        }
    }
}

fn called(uses: &BTreeMap<Arc<str>, Used>, key: &str, since: Option<Timestamp>) -> bool {
    let recent = |used: &Used| used.done > 0 && since.is_none_or(|since| used.last >= since);
    let server = format!("{key}/");
    let tools = uses.range::<str, _>((Bound::Included(server.as_str()), Bound::Unbounded));
    uses.get(key).is_some_and(recent) || tools.take_while(|(tool, _)| tool.starts_with(&server)).any(|(_, used)| recent(used))
}

fn called_anywhere(uses: &BTreeMap<Arc<str>, Used>, name: &str, since: Option<Timestamp>) -> bool {
    let meant = |tool: &str| {
        let rest = tool.split_once('/').map_or(tool, |(_, rest)| rest);
        rest.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    uses.iter().any(|(tool, used)| used.done > 0 && since.is_none_or(|since| used.last >= since) && meant(tool))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn mark(tool: &str) -> Mark {
        Mark { tool: tool.into(), read: Some(Classification::Internal), untrusted: false, domain: "finance".into() }
    }

    fn limit(count: u64, per: Option<i64>) -> Limit {
        Limit { id: "l".into(), count, per: per.map(SignedDuration::from_secs) }
    }

    #[test]
    fn a_window_lets_go_of_what_is_older() {
        let (mut history, limit) = (History::default(), limit(2, Some(60)));
        history.take(&mark("f/l/read"), std::slice::from_ref(&limit), false, at(0));
        history.take(&mark("f/l/read"), std::slice::from_ref(&limit), false, at(30));
        assert_eq!(history.left(&limit, at(59)), 0);
        assert_eq!(history.left(&limit, at(60)), 1);
        assert_eq!(history.left(&limit, at(90)), 2);
    }

    #[test]
    fn an_action_under_way_counts_and_is_given_back_when_it_fails_or_nobody_reports() {
        let (mut history, limit) = (History::default(), limit(1, None));
        let id = history.take(&mark("f/l/read"), std::slice::from_ref(&limit), true, at(0)).unwrap();
        assert_eq!(history.left(&limit, at(0)), 0);
        assert!(!history.called("f/l/read", None), "what is under way has not happened yet");
        assert!(history.settle(id, Outcome::Failed, at(1)));
        assert_eq!(history.left(&limit, at(1)), 1);
        history.take(&mark("f/l/read"), std::slice::from_ref(&limit), true, at(2));
        history.expire(at(2 + RESERVED_FOR.as_secs() - 1));
        assert_eq!(history.left(&limit, at(3)), 0);
        history.expire(at(2 + RESERVED_FOR.as_secs()));
        assert_eq!(history.left(&limit, at(3)), 1);
        assert!(!history.settle(1, Outcome::Completed, at(400)), "its reservation has expired");
        assert_eq!(history.highest_read(), Some(Classification::Internal), "what may have been read stays read");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_cannot_be_is_told() {
        let (mut history, warns) = (History::default(), limit(2, Some(86_400)));
        for n in 0..MOST_TOUCHED {
            assert!(history.can_remember(&mark(&format!("f/kubernetes/verb-{n}"))));
            history.take(&mark(&format!("f/kubernetes/verb-{n}")), std::slice::from_ref(&warns), false, at(0));
        }
        assert!(!history.can_remember(&mark("f/kubernetes/another")), "nothing more is remembered");
        assert!(history.can_remember(&mark("f/kubernetes/verb-7")), "what is known still is");
        assert!(!History::default().can_remember(&mark(&"v".repeat(LONGEST_NAME + 1))));
        assert_eq!(history.counters["l"].recent.len(), 2 + MOST_RESERVED);
        assert_eq!(history.left(&warns, at(0)), 0);
    }

    #[test]
    fn a_server_is_called_when_one_of_its_tools_is() {
        let mut history = History::default();
        history.take(&mark("f/ledger/read"), &[], false, at(5));
        assert!(history.called("f/ledger", None) && history.called("f/ledger/read", Some(at(5))));
        assert!(
            !history.called("f/ledger", Some(at(6))) && !history.called("f/led", None) && !history.called("f/ledger/rea", None)
        );
    }
}
