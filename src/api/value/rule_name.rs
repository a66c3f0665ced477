//! The name of an admission rule.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The rules that a policy or a waiver may name, in order. The rules themselves stand in
/// `decide::rule`, where a test holds the two lists together; those that guard what Mandate
/// itself hands out are not among them.
pub const RULE_NAMES: &[&str] = &[
    "access-to-task-pod",
    "api-token-without-grant",
    "automounted-token",
    "binding-credential",
    "claimed-volume-secret",
    "config-map-credential",
    "config-map-kubeconfig",
    "csi-secret",
    "device-claim",
    "device-credential",
    "device-parameters",
    "gmsa-credential",
    "hidden-credential",
    "host-credential-path",
    "image-pull-secret",
    "image-volume",
    "injected-credential",
    "legacy-token-secret",
    "literal-credential",
    "literal-password",
    "long-lived-certificate",
    "long-lived-certificate-request",
    "long-lived-token",
    "persistent-volume-secret",
    "prefilled-volume",
    "secret-env",
    "secret-env-file",
    "secret-env-from",
    "secret-projection",
    "secret-provider-class",
    "secret-volume",
    "service-account-secret",
    "shared-process-namespace",
    "static-secret-type",
    "storage-class-secret",
    "storage-key-file",
    "storage-secret",
    "synced-secret",
    "token-behind-subpath",
    "unbound-token-request",
    "unknown-credential-source",
    "virtual-machine-secret",
    "wide-token-request",
    "year-long-token",
];

/// The name of an admission rule that policies may set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub struct RuleName(
    /// Place in [`RULE_NAMES`].
    usize,
);

impl RuleName {
    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        RULE_NAMES[self.0]
    }
}

/// A text that names no rule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no rule `{0}` that can be set; `mandate explain` lists them")]
pub struct UnknownRule(String);

impl TryFrom<String> for RuleName {
    type Error = UnknownRule;

    fn try_from(name: String) -> Result<Self, UnknownRule> {
        RULE_NAMES.iter().position(|known| *known == name).map(Self).ok_or(UnknownRule(name))
    }
}

impl From<RuleName> for &'static str {
    fn from(name: RuleName) -> Self {
        name.as_str()
    }
}

impl fmt::Debug for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl JsonSchema for RuleName {
    fn schema_name() -> Cow<'static, str> {
        "RuleName".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": RULE_NAMES})
    }
}
