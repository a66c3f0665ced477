//! Values that cannot hold a bad value: parsed once, at the rim, then trusted.

mod condition;
mod duration;
mod owner;
mod rule;
mod rule_name;

pub use condition::{Condition, Conditions};
pub(super) use duration::pattern as duration_pattern;
pub use duration::{Duration, ParseDurationError};
pub use owner::Owner;
pub use rule::{KubernetesRule, Permission, TooManyPermissions, covers, permissions};
pub use rule_name::{RULE_NAMES, RuleName, UnknownRule};
