//! `ToolServer`: a system that agents call, described by those who run it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::value::{Classification, Effect, Owner, Pattern};

/// A system that agents call: an MCP server or another API, with its tools. It is written by
/// the owner of the system, not by who uses it. What is not listed cannot be called.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "mandate.dev",
    version = "v1alpha1",
    kind = "ToolServer",
    namespaced,
    doc = "A system that agents call: an MCP server or another API, with its tools. It is written by the owner of the system, not by who uses it. What is not listed cannot be called.",
    status = "ToolServerStatus",
    derive = "PartialEq",
    shortname = "tsrv",
    category = "mandate",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Drift", type_ = "string", json_path = ".status.conditions[?(@.type=='Drifted')].status"),
    printcolumn(name = "Tools", type_ = "integer", json_path = ".status.tools"),
    printcolumn(name = "Checked", type_ = "date", json_path = ".status.lastCheckedAt"),
    printcolumn(name = "Why", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Domain", type_ = "string", json_path = ".spec.domain", priority = 1),
    printcolumn(name = "Team", type_ = "string", json_path = ".spec.owner.team"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name may have 63 characters at most"),
    validation = Rule::new("self.metadata.name != 'kubernetes'").message("`kubernetes` stands for the API server itself: choose another name"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("the name may hold lower-case letters, digits and `-` only")
)]
#[serde(rename_all = "camelCase")]
pub struct ToolServerSpec {
    /// Who answers for the system.
    pub owner: Owner,
    /// The audience that tokens for this system carry, as the system checks it. Example:
    /// `https://ledger.finance.svc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub audience: Option<String>,
    /// Where its data lives. An action is cross-domain where this is not the namespace of the
    /// task. Default: the namespace of the ToolServer. Example: `internet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub domain: Option<String>,
    /// Other namespaces whose scopes may name it, as `namespace/name`. None by default: only
    /// scopes of its own namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub usable_from: Vec<String>,
    /// The Model Context Protocol server behind it, whose `tools/list` is compared with the pins
    /// of the tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp: Option<McpServer>,
    /// Type of its resources, as AuthZEN requests name it. Default `tool`. Example: `invoice`.
    #[serde(default = "tool", skip_serializing_if = "is_tool")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[A-Za-z0-9]([-_.:A-Za-z0-9]*[A-Za-z0-9])?$"))]
    pub resource_type: String,
    /// What can be called.
    #[schemars(length(min = 1, max = 128), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub tools: Vec<Tool>,
    /// How its resources are classified, by id; where several match, the highest counts. A
    /// resource that none names has the classification of the tool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub resources: Vec<ResourceClass>,
}

fn tool() -> String {
    "tool".to_owned()
}

fn is_tool(text: &str) -> bool {
    text == "tool"
}

/// A Model Context Protocol server.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct McpServer {
    /// Its endpoint. Example: `https://ledger.finance.svc/mcp`.
    #[schemars(length(min = 1, max = 512), pattern(r"^https?://"))]
    pub url: String,
}

/// One tool, or one operation of an API.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.resource) || (has(self.arguments) && self.resource in self.arguments)").message("`resource` names an argument: list it in `arguments`"))]
pub struct Tool {
    /// Its name, letter for letter as the system knows it. Example: `export`.
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9_]([-_./A-Za-z0-9]*[A-Za-z0-9_])?$"))]
    pub name: String,
    /// What it does: `read`, `write`, `export` (sends data to where others can read it) or
    /// `admin`.
    pub effect: Effect,
    /// The data it touches: `public`, `internal`, `confidential` or `restricted`.
    pub classification: Classification,
    /// Where its data goes, if not to the server's `domain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub domain: Option<String>,
    /// Whether what it returns was written by people outside, who may write it for an agent to
    /// read: mail, web pages, tickets. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untrusted: bool,
    /// Its arguments by name. Given, a call with any other argument is denied, and so is one
    /// whose argument has another type. Left out, arguments are not looked at, and no scope or
    /// policy can bound them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 64))]
    pub arguments: Option<BTreeMap<String, Argument>>,
    /// The argument that says which resource a call is about, where the protocol has no place
    /// for it, as MCP has none. Example: `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub resource: Option<String>,
    /// Digest of its description and schemas as they were reviewed. Where the MCP server's
    /// `tools/list` says anything else, the tool stops. `mandate tools import` writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(r"^sha256:[0-9a-f]{64}$"))]
    pub pin: Option<String>,
}

/// One argument of a tool.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Argument {
    /// What a value must be.
    #[serde(rename = "type")]
    pub type_: ArgumentType,
    /// Whether each call must give it. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// What the value of an argument must be.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum ArgumentType {
    /// A text of 64 KiB at most.
    String,
    /// A whole number that 64 bits hold, without a decimal point.
    Integer,
    /// An exact number with four decimals at most, as a JSON number or a text.
    Decimal,
    /// True or false.
    Boolean,
    /// A list of texts, 1,024 at most.
    Strings,
    /// Anything else: it is let through, and no scope or policy can bound it.
    Any,
}

impl ArgumentType {
    /// The word that manifests use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Decimal => "decimal",
            Self::Boolean => "boolean",
            Self::Strings => "strings",
            Self::Any => "any",
        }
    }
}

/// How some resources are classified.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ResourceClass {
    /// Ids; each `*` stands for any text. Those without `*` are found by an AuthZEN search.
    #[schemars(length(min = 1, max = 64))]
    pub ids: Vec<Pattern>,
    /// Their classification.
    pub classification: Classification,
}

/// What Mandate has found of a ToolServer. The authorizer writes it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ToolServerStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many tools can be called, where a scope grants them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<i64>,
    /// How many tools are stopped: they are not, or no longer, what their pin says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<i64>,
    /// How many tools the MCP server lists. Left out where it was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<i64>,
    /// Tools that the MCP server describes otherwise than their pin says. They are stopped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["tool"]))]
    pub changed: Vec<ChangedTool>,
    /// Tools with a pin that the MCP server does not list. They are stopped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(max = 128)))]
    pub missing: Vec<String>,
    /// Tools without a pin, of a server that is asked: whatever it says of them, they go on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(max = 128)))]
    pub unpinned: Vec<String>,
    /// Tools that the MCP server lists and this ToolServer does not: they cannot be called. At most
    /// 64, and only such as a ToolServer can name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 128)))]
    pub not_reviewed: Vec<String>,
    /// When the MCP server last answered. It is asked more often than this is written: every five
    /// minutes at most, unless something else is to be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checked_at: Option<Time>,
    /// `Ready`: every tool with a pin is what was reviewed. `Drifted`: one of them is not.
    /// `Reconciling`: the server does not answer, and is asked again. `Stalled`: a person must act.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A tool that is not what its pin says.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ChangedTool {
    /// The tool.
    #[schemars(length(max = 128))]
    pub tool: String,
    /// Its digest as the server describes it now. Once that is reviewed, it is the new pin.
    #[schemars(length(max = 71))]
    pub now: String,
    /// `ToolChanged`: it was what its pin says, and no longer is. `PinMismatch`: nobody has ever
    /// seen it so, and the pin may be wrong.
    pub reason: Drift,
}

/// How a tool came to be another than its pin says.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// It was what its pin says.
    ToolChanged,
    /// It was never seen to be what its pin says.
    PinMismatch,
}
