//! A tool as its server lists it: its digest, and its arguments as a ToolServer types them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::api::{Argument, ArgumentType};
use crate::authorizer::digest;

/// A tool as a server lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    members: Map<String, Value>,
}

/// What a person reviews of a tool, and what a model reads of it. All else may change.
const PINNED: [&str; 5] = ["name", "description", "inputSchema", "outputSchema", "annotations"];

impl Listed {
    /// A tool of the answer to `tools/list`; none where it has no name.
    #[must_use]
    pub fn read(tool: Value) -> Option<Self> {
        let Value::Object(members) = tool else { return None };
        let name = members.get("name")?.as_str()?.to_owned();
        Some(Self { name, members })
    }

    /// Digest of what was reviewed: SHA-256 over the RFC 8785 form.
    #[must_use]
    pub fn pin(&self) -> String {
        let given = |name: &&str| Some(((*name).to_owned(), self.members.get(*name).filter(|value| !value.is_null())?.clone()));
        digest(&PINNED.iter().filter_map(given).collect())
    }

    /// What it says of itself.
    #[must_use]
    pub fn description(&self) -> &str {
        self.members.get("description").and_then(Value::as_str).unwrap_or_default()
    }

    /// What its server says of it, and nobody has checked: `readOnlyHint` and its like.
    pub fn hints(&self) -> impl Iterator<Item = (&str, bool)> {
        let annotations = self.members.get("annotations").and_then(Value::as_object);
        annotations.into_iter().flatten().filter_map(|(name, value)| Some((name.as_str(), value.as_bool()?)))
    }

    /// Its arguments. What no type here fits is of type `any`.
    #[must_use]
    pub fn arguments(&self) -> BTreeMap<String, Argument> {
        let schema = self.members.get("inputSchema");
        let required = schema.and_then(|schema| schema.get("required")).and_then(Value::as_array);
        let required = |name: &str| required.is_some_and(|names| names.iter().any(|required| required == name));
        let properties = schema.and_then(|schema| schema.get("properties")).and_then(Value::as_object);
        let argument =
            |(name, schema): (&String, &Value)| (name.clone(), Argument { type_: type_of(schema), required: required(name) });
        properties.into_iter().flatten().map(argument).collect()
    }
}

/// The type of an argument by its JSON Schema; one that may be null has the type of what else it
/// may be.
fn type_of(schema: &Value) -> ArgumentType {
    let other_than_null = |schemas: &[Value]| -> Option<Value> {
        let mut left = schemas.iter().filter(|schema| schema["type"] != "null" && **schema != "null");
        match (left.next(), left.next()) {
            (Some(one), None) => Some(one.clone()),
            _ => None,
        }
    };
    let alternatives = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
    if let Some(alternatives) = alternatives {
        return other_than_null(alternatives).map_or(ArgumentType::Any, |one| type_of(&one));
    }
    let word = match schema.get("type") {
        Some(Value::Array(types)) => other_than_null(types),
        word => word.cloned(),
    };
    match word.as_ref().and_then(Value::as_str) {
        Some("string") => ArgumentType::String,
        Some("integer") => ArgumentType::Integer,
        Some("number") => ArgumentType::Decimal,
        Some("boolean") => ArgumentType::Boolean,
        Some("array") if schema.get("items").map(type_of) == Some(ArgumentType::String) => ArgumentType::Strings,
        _ => ArgumentType::Any,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(value: Value) -> Listed {
        Listed::read(value).unwrap()
    }

    #[test]
    fn a_pin_holds_what_was_reviewed_and_nothing_else() {
        let reviewed = json!({"name": "search", "description": "Find", "inputSchema": {"type": "object", "a": 1}});
        let pin = tool(reviewed.clone()).pin();
        assert!(pin.starts_with("sha256:") && pin.len() == 71, "{pin}");
        // The same in another order, and with what nobody reviews.
        let same = json!({"inputSchema": {"a": 1, "type": "object"}, "description": "Find", "name": "search",
            "icons": [], "_meta": {"x": 1}, "outputSchema": null});
        assert_eq!(tool(same).pin(), pin);
        for (member, value) in [
            ("name", json!("Search")),
            ("description", json!("Find, and mail to x@example.com")),
            ("inputSchema", json!({"type": "object", "a": 2})),
            ("outputSchema", json!({})),
            ("annotations", json!({"readOnlyHint": true})),
        ] {
            let mut changed = reviewed.clone();
            changed[member] = value;
            assert_ne!(tool(changed).pin(), pin, "{member}");
        }
    }

    #[test]
    fn arguments_are_typed_by_their_schema() {
        let schema = json!({"required": ["text"], "properties": {
            "text": {"type": "string"},
            "rows": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "limit": {"type": ["number", "null"]},
            "all": {"type": "boolean"},
            "to": {"type": "array", "items": {"type": "string"}},
            "tree": {"type": "array", "items": {"type": "object"}},
            "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
            "other": {"$ref": "#/$defs/other"},
        }});
        let listed = tool(json!({"name": "x", "inputSchema": schema})).arguments();
        let types: Vec<(&str, &str, bool)> =
            listed.iter().map(|(name, argument)| (name.as_str(), argument.type_.as_str(), argument.required)).collect();
        let expected = [
            ("all", "boolean", false),
            ("either", "any", false),
            ("limit", "decimal", false),
            ("other", "any", false),
            ("rows", "integer", false),
            ("text", "string", true),
            ("to", "strings", false),
            ("tree", "any", false),
        ];
        assert_eq!(types, expected);
    }
}
