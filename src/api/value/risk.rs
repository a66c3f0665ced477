//! What an action does and what it touches: the two scales by which risk is told.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a tool does to the world.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// Looks, and changes nothing.
    Read,
    /// Changes something where it is.
    Write,
    /// Sends data to where others can read it.
    Export,
    /// Changes who may do what, or how a system runs.
    Admin,
}

impl Effect {
    /// Every effect.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Export, Self::Admin];

    /// The word that manifests use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Export => "export",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far data may travel, from what everybody may know to what almost nobody may.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Classification {
    /// For everybody.
    #[default]
    Public,
    /// For everybody in the organisation.
    Internal,
    /// For those who need it.
    Confidential,
    /// For those who are named.
    Restricted,
}

impl Classification {
    /// Every classification, from the lowest to the highest.
    pub const ALL: [Self; 4] = [Self::Public, Self::Internal, Self::Confidential, Self::Restricted];

    /// The word that manifests use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Confidential => "confidential",
            Self::Restricted => "restricted",
        }
    }

    /// Its place on the scale: `public` is 0, `restricted` is 3.
    #[must_use]
    pub fn rank(self) -> i64 {
        self as i64
    }
}

impl fmt::Display for Classification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
