//! Values that cannot hold a bad value: parsed once, at the rim, then trusted.

mod amount;
mod condition;
mod duration;
mod owner;
mod pattern;
mod risk;
mod rule;
mod rule_name;

pub use amount::{Amount, ParseAmountError};
pub use condition::{Condition, Conditions};
pub(super) use duration::pattern as duration_pattern;
pub use duration::{Duration, ParseDurationError};
pub use owner::Owner;
pub use pattern::Pattern;
pub use risk::{Classification, Effect};
pub use rule::{KubernetesRule, Permission, TooManyPermissions, covers, permissions};
pub use rule_name::{RULE_NAMES, RuleName, UnknownRule};
