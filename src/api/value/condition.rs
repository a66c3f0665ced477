//! Conditions as `kubectl wait`, Argo CD and Flux read them (kstatus).

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

pub use meta::Condition;

/// A set of conditions, one of each type, in the order of their types.
///
/// A condition's `lastTransitionTime` changes only with its status, so that writing the
/// same state twice is the same bytes and costs no write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions(Vec<Condition>);

impl Conditions {
    /// The conditions found in a status.
    #[must_use]
    pub fn from(found: &[Condition]) -> Self {
        Self(found.to_vec())
    }

    /// Sets one condition. `now` is taken only where the status changes.
    pub fn set(&mut self, type_: &str, status: bool, reason: &str, message: &str, generation: Option<i64>, now: Timestamp) {
        let status = if status { "True" } else { "False" };
        let since = self.get(type_).filter(|c| c.status == status).map_or(meta::Time(now), |c| c.last_transition_time.clone());
        self.remove(type_);
        self.0.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: generation,
            last_transition_time: since,
        });
        self.0.sort_by(|a, b| a.type_.cmp(&b.type_));
    }

    /// Takes one condition away.
    pub fn remove(&mut self, type_: &str) {
        self.0.retain(|c| c.type_ != type_);
    }

    /// The condition of this type.
    #[must_use]
    pub fn get(&self, type_: &str) -> Option<&Condition> {
        self.0.iter().find(|c| c.type_ == type_)
    }

    /// Whether the condition of this type is there and true.
    #[must_use]
    pub fn is_true(&self, type_: &str) -> bool {
        self.get(type_).is_some_and(|c| c.status == "True")
    }

    /// The conditions as a status holds them.
    #[must_use]
    pub fn into_vec(self) -> Vec<Condition> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_changes_only_with_its_status() {
        let mut conditions = Conditions::default();
        let early = Timestamp::from_second(100).unwrap();
        conditions.set("Ready", false, "Waiting", "a", None, early);
        conditions.set("Ready", false, "Waiting", "b", None, Timestamp::from_second(200).unwrap());
        assert_eq!(conditions.get("Ready").unwrap().last_transition_time.0, early);
        conditions.set("Ready", true, "Issued", "c", None, Timestamp::from_second(300).unwrap());
        assert_eq!(conditions.get("Ready").unwrap().last_transition_time.0, Timestamp::from_second(300).unwrap());
    }
}
