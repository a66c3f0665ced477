//! The templates of pods inside any object, known or not: found by their shape.
//!
//! A Deployment and a custom resource of which nobody here has heard hold a pod's spec alike:
//! an object with a list `containers` whose items have a name or an image. So it is looked for
//! everywhere but in `metadata` and `status`, down to a bounded depth.

use super::json::{Read as _, Value};
use super::site::Root;

/// Deepest place in an object where a template is looked for.
const DEEPEST: usize = 24;
/// Most templates that are looked at in one object; a real one has a handful.
const MOST: usize = 256;

/// The template of a pod.
#[derive(Debug)]
pub struct Template<'a> {
    value: &'a Value<'a>,
    path: String,
    /// Whether it is a bare spec, with no metadata of its own.
    bare: bool,
}

impl<'a> Template<'a> {
    /// Where the pod to be begins.
    #[must_use]
    pub fn root<'b>(&'b self) -> Root<'b>
    where
        'a: 'b,
    {
        if self.bare { Root::Spec(self.value, &self.path) } else { Root::Object(self.value, &self.path) }
    }

    /// The object with the template's `metadata`, where it has one.
    #[must_use]
    pub fn object(&self) -> Option<&'a Value<'a>> {
        (!self.bare).then_some(self.value)
    }
}

/// Every template of a pod in an object.
#[must_use]
pub fn templates<'a>(object: &'a Value<'a>) -> Vec<Template<'a>> {
    let mut found = vec![];
    for (name, value) in object.members() {
        if name != "metadata" && name != "status" {
            search(object, name, value, name.to_owned(), 0, &mut found);
        }
    }
    found
}

fn search<'a>(
    parent: &'a Value<'a>,
    name: &str,
    value: &'a Value<'a>,
    path: String,
    depth: usize,
    found: &mut Vec<Template<'a>>,
) {
    if depth > DEEPEST || found.len() >= MOST {
        return;
    }
    if is_spec(value) {
        // `spec` beside `metadata` is a template; what has another name stands alone.
        let bare = name != "spec";
        let (value, path) = if bare {
            (value, path)
        } else {
            (parent, path.strip_suffix("spec").unwrap_or(&path).trim_end_matches('.').to_owned())
        };
        found.push(Template { value, path, bare });
        return;
    }
    match value {
        Value::Object(_) => {
            for (name, member) in value.members() {
                search(value, name, member, format!("{path}.{name}"), depth + 1, found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                search(value, "", item, format!("{path}[{index}]"), depth + 1, found);
            }
        }
        _ => {}
    }
}

/// Whether an object has the shape of a pod's spec.
fn is_spec(value: &Value<'_>) -> bool {
    value.items("containers").iter().any(|container| container.member("image").is_some() || container.member("name").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let value: Value<'_> = serde_json::from_str(text).unwrap();
        templates(&value)
            .into_iter()
            .map(|template| format!("{}{}", template.path, if template.bare { "!" } else { "" }))
            .collect()
    }

    #[test]
    fn a_template_is_found_wherever_it_stands() {
        for (text, path) in [
            (r#"{"spec":{"template":{"spec":{"containers":[{"name":"a"}]}}}}"#, "spec.template"),
            (r#"{"template":{"spec":{"containers":[{"image":"a"}]}}}"#, "template"),
            (
                r#"{"spec":{"jobTemplate":{"spec":{"template":{"spec":{"containers":[{"name":"a"}]}}}}}}"#,
                "spec.jobTemplate.spec.template",
            ),
            (r#"{"spec":{"groups":[{},{"pod":{"containers":[{"name":"a"}]}}]}}"#, "spec.groups[1].pod!"),
        ] {
            assert_eq!(paths(text), [path], "{text}");
        }
    }

    #[test]
    fn what_only_sounds_alike_is_no_template() {
        for text in [
            r#"{"spec":{"containers":["a"]}}"#,
            r#"{"spec":{"containers":[]}}"#,
            r#"{"status":{"template":{"spec":{"containers":[{"name":"a"}]}}}}"#,
            "[]",
            "null",
        ] {
            assert!(paths(text).is_empty(), "{text}");
        }
    }
}
