//! What a scope lacks for an action, in words a person can act on.

use super::arguments::Values;
use super::cedar::Facts;
use super::compile::{CompiledScope, Problem};
use super::snapshot::{Server, Snapshot, ToolFacts};
use super::{Code, No, Subject, no};
use crate::api::{ArgumentType, Bound, Classification, Pattern, ToolGrant};

/// Why no grant of a scope covers an action.
pub(super) fn out_of_scope(
    scope: &CompiledScope,
    subject: &Subject,
    server: &Server,
    tool: &ToolFacts,
    facts: &Facts,
    values: &Values,
) -> Box<No> {
    let name = &subject.scope;
    let narrowed = subject.narrowed.as_ref().filter(|narrowed| !narrowed.iter().any(|name| tool.is(&subject.namespace, name)));
    if let Some(narrowed) = narrowed {
        let message = format!("task `{}` is narrowed to other tools than `{}`", subject.name, short(subject, tool));
        return no(Code::OutOfScope, None, message, format!("it may call: {}", narrowed.join(", ")));
    }
    let of_tool: Vec<(usize, &ToolGrant)> = scope
        .grants
        .iter()
        .enumerate()
        .filter(|(_, grant)| grant.names.contains(&tool.name) && same_server(subject, &grant.server, server))
        .collect();
    if of_tool.is_empty() {
        let named: Vec<String> =
            scope.grants.iter().flat_map(|grant| grant.names.iter().map(|tool| format!("{}/{tool}", grant.server))).collect();
        let named = if named.is_empty() { "none".to_owned() } else { named.join(", ") };
        let message = format!("scope `{name}` does not name tool `{}`", short(subject, tool));
        return no(Code::OutOfScope, None, message, format!("it names: {named}"));
    }
    let lacking: Vec<String> = of_tool
        .iter()
        .map(|(index, grant)| format!("spec.tools[{index}]: {}", lacks(grant, facts, values).join(", and ")))
        .collect();
    let message = format!("scope `{name}` names tool `{}`, but not for this: {}", short(subject, tool), lacking.join("; "));
    no(Code::OutOfScope, None, message, "stay within the scope, or start a task with one that covers it")
}

fn short<'a>(subject: &Subject, tool: &'a ToolFacts) -> &'a str {
    tool.key.strip_prefix(&subject.namespace).and_then(|rest| rest.strip_prefix('/')).unwrap_or(&tool.key)
}

fn same_server(subject: &Subject, named: &str, server: &Server) -> bool {
    match named.split_once('/') {
        Some(_) => named == &*server.key,
        None => server.key.strip_prefix(subject.namespace.as_str()).and_then(|rest| rest.strip_prefix('/')) == Some(named),
    }
}

/// Each condition of a grant that an action does not meet.
fn lacks(grant: &ToolGrant, facts: &Facts, values: &Values) -> Vec<String> {
    let ToolGrant { server: _, names: _, classification, resources, arguments } = grant;
    let mut lacks = vec![];
    if facts.classification > classification.rank() {
        let is =
            Classification::ALL.into_iter().find(|one| one.rank() == facts.classification).unwrap_or(Classification::Restricted);
        lacks.push(format!("the data is {is}, it covers {classification} at most"));
    }
    let listed = |patterns: &[Pattern]| patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join(", ");
    match facts.resource {
        _ if resources.is_empty() => {}
        None => lacks.push(format!("the action names no resource, it covers {}", listed(resources))),
        Some(id) if !resources.iter().any(|pattern| pattern.matches(id)) => {
            lacks.push(format!("the resource is not among {}", listed(resources)));
        }
        Some(_) => {}
    }
    lacks.extend(arguments.iter().filter_map(|(name, bound)| bound.lacks(name, values)));
    if lacks.is_empty() {
        lacks.push("a condition of it does not hold".to_owned());
    }
    lacks
}

impl Bound {
    /// What an argument would have to be, where it is not. Values are never repeated.
    fn lacks(&self, name: &str, values: &Values) -> Option<String> {
        let Self { min, max, one_of, is } = self;
        let inside = if let Some(is) = is {
            values.flags.get(name) == Some(is)
        } else if !one_of.is_empty() {
            let text = values.texts.get(name).is_some_and(|text| one_of.iter().any(|pattern| pattern.matches(text)));
            let exact = |entry: &String| one_of.iter().any(|pattern| pattern.exact() == Some(entry));
            text || values.lists.get(name).is_some_and(|list| list.iter().all(exact))
        } else {
            values
                .numbers
                .get(name)
                .is_some_and(|number| min.is_none_or(|min| min <= *number) && max.is_none_or(|max| *number <= max))
        };
        (!inside).then(|| format!("argument `{name}` must be given, and be {self}"))
    }

    fn fits(&self, type_: ArgumentType) -> bool {
        let Self { min, max, one_of, is } = self;
        match type_ {
            ArgumentType::Integer | ArgumentType::Decimal => min.is_some() || max.is_some(),
            ArgumentType::String => !one_of.is_empty(),
            ArgumentType::Strings => !one_of.is_empty() && one_of.iter().all(|pattern| pattern.exact().is_some()),
            ArgumentType::Boolean => is.is_some(),
            ArgumentType::Any => false,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { min, max, one_of, is } = self;
        if let Some(is) = is {
            return write!(f, "{is}");
        }
        if !one_of.is_empty() {
            let listed = one_of.iter().map(Pattern::as_str).collect::<Vec<_>>().join(", ");
            return write!(f, "one of {listed}");
        }
        match (min, max) {
            (Some(min), Some(max)) => write!(f, "between {min} and {max}"),
            (Some(min), None) => write!(f, "{min} at least"),
            (None, Some(max)) => write!(f, "{max} at most"),
            (None, None) => f.write_str("bounded"),
        }
    }
}

/// What the grants of a scope name that is not there, or bound that cannot be bounded.
pub(super) fn unmet(snapshot: &Snapshot, namespace: &str, grants: &[ToolGrant]) -> Vec<Problem> {
    let mut found = vec![];
    for (index, grant) in grants.iter().enumerate() {
        let at = format!("spec.tools[{index}]");
        let mut say = |field: String, message: String| found.push(Problem { at: format!("{at}{field}"), message });
        let Some(server) = snapshot.server(namespace, &grant.server) else {
            say(
                ".server".into(),
                format!("there is no readable ToolServer `{}`; the grant permits nothing until there is", grant.server),
            );
            continue;
        };
        if !server.usable_from(namespace) {
            say(
                ".server".into(),
                format!("ToolServer `{}` may not be used from here: its owner can add `{namespace}` to `usableFrom`", server.key),
            );
        }
        for (place, name) in grant.names.iter().enumerate() {
            let Some(tool) = server.tool(name) else {
                let known = server.tools().map(|tool| tool.name.as_str()).collect::<Vec<_>>().join(", ");
                say(format!(".names[{place}]"), format!("ToolServer `{}` lists no tool `{name}`; it lists: {known}", server.key));
                continue;
            };
            for (argument, bound) in &grant.arguments {
                let declared = tool.arguments.as_ref().and_then(|arguments| arguments.get(argument));
                match declared {
                    None => say(
                        format!(".arguments.{argument}"),
                        format!(
                            "tool `{name}` declares no argument `{argument}`, so nothing can be held to it: its owner must declare it"
                        ),
                    ),
                    Some(declared) if !bound.fits(declared.type_) => say(
                        format!(".arguments.{argument}"),
                        format!(
                            "argument `{argument}` of tool `{name}` is of type `{}`, which this does not bound",
                            declared.type_.as_str()
                        ),
                    ),
                    Some(_) => {}
                }
            }
        }
    }
    found
}
