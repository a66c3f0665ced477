//! One question as it was written: who, what, on what, and why; read from a body and the
//! defaults of its batch, and brought together with what is known. `mandate decide` reads its
//! requests by it too.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::authorizer::Authorizer;
use crate::authorizer::trust::{Asker, Caller, Named};
use crate::decide::authorize::{Server, Snapshot, Subject};

/// One evaluation, as it was written.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Who acts.
    pub subject: Entity<'a>,
    /// Name of the action, and its properties.
    pub action: (&'a str, &'a Map<String, Value>),
    /// On what.
    pub resource: Entity<'a>,
    /// All else.
    pub context: &'a Map<String, Value>,
}

/// A subject or a resource.
#[derive(Clone, Copy)]
pub struct Entity<'a> {
    /// Its type.
    pub kind: &'a str,
    /// Left out only where a search asks for it.
    pub id: Option<&'a str>,
    /// What is said of it.
    pub properties: &'a Map<String, Value>,
}

impl Entity<'_> {
    /// What is said of it, without the token that proves it.
    #[must_use]
    pub fn without_token(&self) -> Map<String, Value> {
        let others = self.properties.iter().filter(|(name, _)| *name != "token");
        others.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// No properties.
pub static NOTHING: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

/// Which member a search asks for, and so may lack its id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sought {
    /// None: it is an evaluation.
    Nothing,
    /// The subject.
    Subject,
    /// The resource.
    Resource,
    /// The action.
    Action,
}

impl<'a> Asked<'a> {
    /// Reads a body, each member from itself or else from the defaults of the batch.
    ///
    /// # Errors
    /// What is missing, or of another type.
    pub fn read(body: &'a Map<String, Value>, defaults: &'a Map<String, Value>, sought: Sought) -> Result<Self, String> {
        let member = |name: &str| body.get(name).or_else(|| defaults.get(name));
        let object = |name: &str| match member(name) {
            Some(Value::Object(object)) => Ok(object),
            None | Some(Value::Null) => Err(format!("`{name}` is missing")),
            Some(_) => Err(format!("`{name}` must be an object")),
        };
        let entity = |name: &str, is_sought: bool| -> Result<Entity<'a>, String> {
            let object = object(name)?;
            // What is sought is not looked at, whatever stands there.
            let id = if is_sought { None } else { Some(text(object, name, "id")?) };
            Ok(Entity { kind: text(object, name, "type")?, id, properties: properties(object, name)? })
        };
        let action = match sought {
            Sought::Action => ("", &*NOTHING),
            _ => {
                let object = object("action")?;
                (text(object, "action", "name")?, properties(object, "action")?)
            }
        };
        let context = match member("context") {
            None | Some(Value::Null) => &*NOTHING,
            Some(Value::Object(context)) => context,
            Some(_) => return Err("`context` must be an object".to_owned()),
        };
        let subject = entity("subject", sought == Sought::Subject)?;
        Ok(Self { subject, action, resource: entity("resource", sought == Sought::Resource)?, context })
    }

    /// Who acts, by its token or by the word of the enforcement point.
    ///
    /// # Errors
    /// Nothing is proved.
    pub async fn caller(&self, authorizer: &Authorizer, asker: &Asker, audience: Option<&str>) -> Result<Arc<Caller>, String> {
        let Entity { kind, id, properties } = self.subject;
        match (properties.get("token"), asker.vouches_for.get(kind)) {
            // A token that is there counts, whoever vouches.
            (Some(Value::String(token)), _) => authorizer.trust.caller(token, audience).await.map_err(|error| error.to_string()),
            (Some(_), _) => Err("`subject.properties.token` must be a text".to_owned()),
            (None, Some(namespace)) => Ok(Caller::vouched(key(namespace, id.unwrap_or_default())).into()),
            (None, None) => Err(format!(
                "`subject.properties.token` must be the agent's own token: nobody vouches for subjects of type `{kind}`"
            )),
        }
    }

    /// Whether the id of the subject names the task that was proved. Else a log of the enforcement
    /// point would speak of another than was judged.
    #[must_use]
    pub fn agrees(&self, caller: &Caller, task: &Subject) -> bool {
        let id = self.subject.id.unwrap_or_default();
        let account = matches!(&caller.named, Named::Account(user) if user == id);
        account || [&task.key, &task.name, &format!("task:{}", task.key)].iter().any(|name| *name == id)
    }

    /// What is to be done, and on which resource. The type of a resource leads to the server.
    ///
    /// # Errors
    /// It leads to none, or to several.
    pub fn action(&self, snapshot: &Snapshot, from: &str) -> Result<(Call, Option<&'a str>), String> {
        let Entity { kind, id, properties } = self.resource;
        if kind == "tool" {
            let resource = properties.get("resource").and_then(Value::as_str);
            return Ok((Call::of_tool(snapshot, from, id.unwrap_or_default())?, resource));
        }
        let of_kind: Vec<&Arc<Server>> = snapshot.servers(from).filter(|server| server.resource_type == kind).collect();
        let name = self.action.0;
        let server = match of_kind.as_slice() {
            [] => return Err(format!("no ToolServer that the task may use has resources of type `{kind}`")),
            [one] => one,
            many => {
                let mut with: Vec<_> = many.iter().filter(|server| server.tool(name).is_some()).collect();
                match (with.pop(), with.is_empty()) {
                    (Some(one), true) => one,
                    _ => {
                        return Err(format!(
                            "several ToolServers have resources of type `{kind}`: name `tool` and `server/tool`"
                        ));
                    }
                }
            }
        };
        Ok((Call { server: server.key.to_string(), tool: name.to_owned() }, id))
    }
}

/// The task that an id names, of a namespace or, where none is named, of any. An enforcement
/// point that vouches for one namespace can name no task of another.
fn key(namespace: &str, id: &str) -> String {
    let is_whole = namespace.is_empty() || id.strip_prefix(namespace).is_some_and(|rest| rest.starts_with('/'));
    if is_whole { id.to_owned() } else { format!("{namespace}/{id}") }
}

/// A tool of a server.
#[derive(Clone)]
pub struct Call {
    /// The server, as [`Action::server`](crate::decide::authorize::Action::server).
    pub server: String,
    /// The tool.
    pub tool: String,
}

impl Call {
    /// `server/tool` or `namespace/server/tool`. Names of tools may hold `/`: where more than one
    /// reading is a tool, nobody can tell which is meant.
    ///
    /// # Errors
    /// It is neither, or both.
    pub fn of_tool(snapshot: &Snapshot, from: &str, id: &str) -> Result<Self, String> {
        let splits = id.match_indices('/').take(2).map(|(at, _)| (&id[..at], &id[at + 1..]));
        let splits: Vec<(&str, &str)> = splits.filter(|(server, tool)| !server.is_empty() && !tool.is_empty()).collect();
        let is_tool =
            |(server, tool): &&(&str, &str)| snapshot.server(from, server).is_some_and(|server| server.tool(tool).is_some());
        let known: Vec<_> = splits.iter().filter(is_tool).collect();
        let (server, tool) = match (known.as_slice(), splits.last()) {
            ([one], _) => **one,
            ([], Some(last)) => *last,
            ([], None) => return Err("the id of a `tool` must be `server/tool`".to_owned()),
            (_, _) => return Err("the id can be read as two tools: write `namespace/server/tool`".to_owned()),
        };
        Ok(Self { server: server.to_owned(), tool: tool.to_owned() })
    }
}

/// A text member that must be there.
pub(super) fn text<'a>(object: &'a Map<String, Value>, of: &str, name: &str) -> Result<&'a str, String> {
    match object.get(name) {
        Some(Value::String(text)) if text.is_empty() => Err(format!("`{of}.{name}` is empty")),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("`{of}.{name}` must be a text")),
        None => Err(format!("`{of}.{name}` is missing")),
    }
}

fn properties<'a>(object: &'a Map<String, Value>, of: &str) -> Result<&'a Map<String, Value>, String> {
    match object.get("properties") {
        None | Some(Value::Null) => Ok(&NOTHING),
        Some(Value::Object(properties)) => Ok(properties),
        Some(_) => Err(format!("`{of}.properties` must be an object")),
    }
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn who_vouches_for_one_namespace_names_no_task_of_another() {
        assert_eq!(key("finance", "t"), "finance/t");
        assert_eq!(key("finance", "finance/t"), "finance/t");
        assert_eq!(key("finance", "payroll/t"), "finance/payroll/t", "which is no task");
        assert_eq!(key("finance", "finance-eu/t"), "finance/finance-eu/t");
        assert_eq!(key("", "payroll/t"), "payroll/t");
    }
}
