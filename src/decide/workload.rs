//! The templates of pods inside any object, known or not: found by their shape.
//!
//! A Deployment and a custom resource of which nobody here has heard hold a pod's spec alike:
//! an object with a list `containers` whose items have a name or an image. So it is looked for
//! everywhere but in `metadata` and `status`, down to a bounded depth.
//!
//! Other kinds take a pod apart: a step of a pipeline, a script of a workflow, the volumes of a
//! virtual machine. What has the shape of one container, volume or pull secret and stands in no
//! spec is a [`Piece`], and the rules look at it as if it stood in one.

use std::fmt::Write as _;

use super::json::{Read as _, Value};
use super::site::{Piece, Root};

/// Deepest place in an object where a template is looked for.
const DEEPEST: usize = 24;
/// Most templates and pieces that are looked at in one object; a real one has a handful.
const MOST: usize = 4096;

/// The template of a pod, or a piece of one.
#[derive(Debug)]
pub struct Template<'a> {
    value: &'a Value<'a>,
    path: String,
    shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// With `metadata` and `spec` of its own.
    Whole,
    /// A bare spec.
    Spec,
    /// Something out of a spec.
    Piece(Piece),
}

impl<'a> Template<'a> {
    /// Where the pod to be begins.
    #[must_use]
    pub fn root<'b>(&'b self) -> Root<'b>
    where
        'a: 'b,
    {
        match self.shape {
            Shape::Whole => Root::Object(self.value, &self.path),
            Shape::Spec => Root::Spec(self.value, &self.path),
            Shape::Piece(piece) => Root::Piece(self.value, &self.path, piece),
        }
    }
}

/// Every template of a pod in an object, and every piece of one that stands alone.
#[must_use]
pub fn templates<'a>(object: &'a Value<'a>) -> Vec<Template<'a>> {
    let mut search = Search { path: String::with_capacity(64), found: vec![] };
    for (name, value) in object.members() {
        if name != "metadata" && name != "status" {
            search.path.clear();
            search.path.push_str(name);
            search.member(object, name, value, 0);
        }
    }
    search.found
}

struct Search<'a> {
    /// Where the search stands.
    path: String,
    found: Vec<Template<'a>>,
}

impl<'a> Search<'a> {
    /// Looks at the member `name` of `parent`, and below it.
    fn member(&mut self, parent: &'a Value<'a>, name: &str, value: &'a Value<'a>, depth: usize) {
        if depth > DEEPEST || self.found.len() >= MOST {
            return;
        }
        match value {
            // The containers of a set in a workflow, which has no spec.
            Value::Object(_) if is_spec(value) && name != "containerSet" => {
                // `spec` beside `metadata` is a template; what has another name stands alone.
                if name == "spec" {
                    let path = self.path.strip_suffix("spec").unwrap_or(&self.path).trim_end_matches('.').to_owned();
                    self.found.push(Template { value: parent, path, shape: Shape::Whole });
                } else {
                    self.put(value, Shape::Spec);
                }
            }
            Value::Object(_) => {
                if is_container(value) {
                    self.put(value, Shape::Piece(Piece::Container));
                }
                self.members(value, depth);
            }
            Value::Array(items) => {
                let length = self.path.len();
                for (index, item) in items.iter().enumerate() {
                    // INVARIANT: writing to a String cannot fail.
                    let _ = write!(self.path, "[{index}]");
                    match name {
                        "volumes" if is_volume(item) => self.put(item, Shape::Piece(Piece::Volume)),
                        "imagePullSecrets" if !item.text("name").is_empty() => self.put(item, Shape::Piece(Piece::PullSecret)),
                        _ => self.member(value, "", item, depth + 1),
                    }
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn members(&mut self, value: &'a Value<'a>, depth: usize) {
        let length = self.path.len();
        for (name, member) in value.members() {
            self.path.push('.');
            self.path.push_str(name);
            self.member(value, name, member, depth + 1);
            self.path.truncate(length);
        }
    }

    fn put(&mut self, value: &'a Value<'a>, shape: Shape) {
        if self.found.len() < MOST {
            self.found.push(Template { value, path: self.path.clone(), shape });
        }
    }
}

/// Whether an object has the shape of a pod's spec.
fn is_spec(value: &Value<'_>) -> bool {
    value.items("containers").iter().any(|container| container.member("image").is_some() || container.member("name").is_some())
}

/// Whether an object takes variables as a container does, or runs an image as one.
fn is_container(value: &Value<'_>) -> bool {
    let takes = |variable: &Value<'_>| {
        variable.member("name").is_some_and(Value::is_string)
            && (variable.member("value").is_some_and(Value::is_string)
                || variable.member("valueFrom").is_some_and(Value::is_object))
    };
    let takes_all =
        |source: &Value<'_>| ["secretRef", "configMapRef"].iter().any(|from| source.member(from).is_some_and(Value::is_object));
    value.items("env").iter().any(takes)
        || value.items("envFrom").iter().any(takes_all)
        || (!value.text("image").is_empty()
            && (["command", "args", "volumeMounts"].iter().any(|list| value.member(list).is_some_and(Value::is_array))
                || ["script", "source"].iter().any(|text| value.member(text).is_some_and(Value::is_string))))
}

/// Whether an item of a list `volumes` has the shape of one: a name, and what it is made from.
fn is_volume(item: &Value<'_>) -> bool {
    !item.text("name").is_empty() && item.members().any(|(_, source)| source.is_object())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let value: Value<'_> = serde_json::from_str(text).unwrap();
        let mark = |shape| match shape {
            Shape::Whole => "",
            Shape::Spec => "!",
            Shape::Piece(Piece::Container) => " container",
            Shape::Piece(Piece::Volume) => " volume",
            Shape::Piece(Piece::PullSecret) => " pull secret",
        };
        templates(&value).into_iter().map(|template| format!("{}{}", template.path, mark(template.shape))).collect()
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
    fn what_stands_in_no_spec_is_found_with_its_real_path() {
        for (text, expected) in [
            // Argo Workflows
            (
                r#"{"spec":{"templates":[{"name":"a","container":{"image":"a","command":["b"]}},{"script":{"image":"a","source":"b"}}]}}"#,
                vec!["spec.templates[0].container container", "spec.templates[1].script container"],
            ),
            (
                r#"{"spec":{"templates":[{"containerSet":{"containers":[{"name":"a","image":"a","args":["b"]}]}}],"imagePullSecrets":[{"name":"a"}]}}"#,
                vec!["spec.templates[0].containerSet.containers[0] container", "spec.imagePullSecrets[0] pull secret"],
            ),
            // Tekton
            (
                r#"{"spec":{"stepTemplate":{"env":[{"name":"a","value":"b"}]},"steps":[{"image":"a","script":"b"}],"sidecars":[{"envFrom":[{"secretRef":{"name":"a"}}]}]}}"#,
                vec!["spec.stepTemplate container", "spec.steps[0] container", "spec.sidecars[0] container"],
            ),
            // KubeVirt
            (
                r#"{"spec":{"template":{"spec":{"domain":{},"volumes":[{"name":"a","secret":{"secretName":"b"}},{"name":"c"}]}}}}"#,
                vec!["spec.template.spec.volumes[0] volume"],
            ),
            // Knative: no names
            (r#"{"spec":{"template":{"spec":{"containers":[{"image":"a"}]}}}}"#, vec!["spec.template"]),
            // RayCluster and PyTorchJob
            (
                r#"{"spec":{"headGroupSpec":{"template":{"spec":{"containers":[{"name":"a"}]}}},"workerGroupSpecs":[{"template":{"spec":{"containers":[{"name":"a"}]}}}]}}"#,
                vec!["spec.headGroupSpec.template", "spec.workerGroupSpecs[0].template"],
            ),
            (
                r#"{"spec":{"pytorchReplicaSpecs":{"Master":{"template":{"spec":{"containers":[{"name":"a"}]}}}}}}"#,
                vec!["spec.pytorchReplicaSpecs.Master.template"],
            ),
            // A container that is the spec itself, beside its volumes.
            (
                r#"{"spec":{"image":"a","args":[],"volumes":[{"name":"a","secret":{}}]}}"#,
                vec!["spec container", "spec.volumes[0] volume"],
            ),
        ] {
            assert_eq!(paths(text), expected, "{text}");
        }
    }

    #[test]
    fn a_search_ends() {
        let many = format!(r#"{{"spec":{{"steps":[{}]}}}}"#, vec![r#"{"image":"a","args":[]}"#; MOST + 10].join(","));
        assert_eq!(paths(&many).len(), MOST);
        let deep = format!(r#"{{"spec":{}{{"image":"a","args":[]}}{}}}"#, "[".repeat(100), "]".repeat(100));
        assert!(paths(&deep).is_empty());
    }

    #[test]
    fn what_only_sounds_alike_is_no_template() {
        for text in [
            r#"{"spec":{"containers":["a"]}}"#,
            r#"{"spec":{"containers":[]}}"#,
            r#"{"status":{"template":{"spec":{"containers":[{"name":"a"}]}}}}"#,
            r#"{"spec":{"steps":[{"image":"a"}],"env":{"name":"a"},"volumes":[{"name":"a","size":"1Gi"}]}}"#,
            r#"{"spec":{"versions":[{"schema":{"properties":{"env":{"items":{}},"volumes":{"type":"array"}}}}]}}"#,
            r#"{"spec":{"values":{"image":{"repository":"a"},"args":["a"]}}}"#,
            "[]",
            "null",
        ] {
            assert!(paths(text).is_empty(), "{text}");
        }
    }
}
