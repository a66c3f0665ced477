//! Who answers for an object.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who answers for this object: a person must be able to reach them.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Team that answers for it, as your organisation names it. Example: `finance-platform`.
    #[schemars(length(min = 1, max = 128))]
    pub team: String,
    /// Where to reach the team: an address, a channel, a pager. Example: `#finance-oncall`.
    #[schemars(length(min = 1, max = 256))]
    pub contact: String,
}
