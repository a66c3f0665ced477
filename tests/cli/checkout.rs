//! What is committed is what the binary prints, and every example can be read by the type it is
//! for, to the last field.

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, Role, RoleBinding};
use mandate::api::{AgentIdentity, AgentPolicy, AgentTask, ClusterAgentPolicy, KubernetesRule, TaskScope, ToolServer};
use serde::Serialize;
use serde::de::{Deserialize as _, DeserializeOwned};
use serde_json::Value as Json;

use crate::{fresh, printed, read, root};

fn names(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The documents of a YAML stream.
pub fn documents(text: &str) -> Vec<Json> {
    let all = serde_yaml::Deserializer::from_str(text).map(|document| Json::deserialize(document).unwrap());
    all.filter(|document| !document.is_null()).collect()
}

#[test]
fn the_definitions_in_the_checkout_are_those_of_the_binary() {
    let dir = fresh("crds");
    printed(&["crds", "--output-dir", dir.to_str().unwrap()]);
    for committed in ["crds", "charts/mandate/files/crds"] {
        assert_eq!(names(&root().join(committed)), names(&dir), "{committed}: run `make generate`");
        for name in names(&dir) {
            let same = read(Path::new(committed).join(&name)) == read(dir.join(&name));
            assert!(same, "{committed}/{name} is not current: run `make generate`");
        }
    }
    let stream: String = names(&dir).iter().map(|name| read(dir.join(name))).collect();
    assert!(printed(&["crds"]) == stream, "`mandate crds` prints the same as it writes");
}

#[test]
fn the_documentation_in_the_checkout_is_that_of_the_binary() {
    let dir = fresh("docs");
    std::fs::create_dir(dir.join("docs")).unwrap();
    std::fs::write(dir.join("README.md"), read("README.md")).unwrap();
    printed(&["docs", dir.to_str().unwrap()]);
    for file in ["README.md", "docs/cli.md"] {
        assert!(read(file) == read(dir.join(file)), "{file} is not current: run `make generate`");
    }
}

#[test]
fn rbac_and_webhooks_are_objects_with_names() {
    let ceiling = ["--guard", "finance", "--ceiling", "examples/manifests/ceiling.yaml"];
    let rbac = documents(&printed(&[&["rbac"], &ceiling[..]].concat()));
    let hooks = documents(&printed(&["webhooks", "--guard", "finance", "--webhook-url", "https://127.0.0.1:8443"]));
    for object in rbac.iter().chain(&hooks) {
        for field in ["/apiVersion", "/kind", "/metadata/name"] {
            assert!(object.pointer(field).is_some_and(Json::is_string), "{field} is missing in {object:#}");
        }
    }
    let kinds: Vec<&str> = hooks.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(kinds, ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]);
    let held = rbac.iter().find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == "mandate-ceiling");
    let asked: Json = documents(&read("examples/manifests/ceiling.yaml")).remove(0);
    assert_eq!(held.unwrap()["rules"], asked);
}

#[test]
fn every_policy_that_the_security_model_names_is_installed() {
    let installed: BTreeSet<String> = documents(&printed(&["rbac", "--guard", "finance"]))
        .iter()
        .filter(|object| object["kind"] == "ValidatingAdmissionPolicy")
        .filter_map(|object| Some(object["metadata"]["name"].as_str()?.to_owned()))
        .collect();
    let text = read("SECURITY.md").replace('\n', " ");
    let named: BTreeSet<String> =
        text.split("policy `").skip(1).filter_map(|rest| Some(rest.split_once('`')?.0.to_owned())).collect();
    assert!(named.len() >= 5 && named.is_subset(&installed), "named {named:?}, installed {installed:?}");
}

#[test]
fn every_example_is_read_by_its_type_to_the_last_field() {
    let mut read_ = 0;
    let named = |dir: &str| names(&root().join(dir)).into_iter().map(move |name| format!("{dir}/{name}")).collect::<Vec<_>>();
    for name in [named("examples/manifests"), named("examples/gateway"), named("examples/finance")].concat() {
        // A list of rules, values of the chart, the configuration of Envoy, and test cases.
        if ["ceiling.yaml", "values.yaml", "envoy.yaml", ".test.yaml"].iter().any(|other| name.ends_with(other)) {
            continue;
        }
        for document in documents(&read(&name)) {
            let whole = match document["kind"].as_str().unwrap() {
                "AgentIdentity" => back::<AgentIdentity>(&document),
                "AgentPolicy" => back::<AgentPolicy>(&document),
                "AgentTask" => back::<AgentTask>(&document),
                "ClusterAgentPolicy" => back::<ClusterAgentPolicy>(&document),
                "TaskScope" => back::<TaskScope>(&document),
                "ToolServer" => back::<ToolServer>(&document),
                "ClusterRoleBinding" => back::<ClusterRoleBinding>(&document),
                "ConfigMap" => back::<ConfigMap>(&document),
                "Namespace" => back::<Namespace>(&document),
                "Pod" => back::<Pod>(&document),
                "Role" => back::<Role>(&document),
                "RoleBinding" => back::<RoleBinding>(&document),
                "ServiceAccount" => back::<ServiceAccount>(&document),
                kind => panic!("{name}: say here which type `{kind}` is"),
            };
            let missing = lost(&document, &whole, "");
            assert!(missing.is_empty(), "{name}: {} has fields nobody knows: {missing:?}", document["metadata"]["name"]);
            read_ += 1;
        }
    }
    assert!(read_ > 10, "{read_} examples");
}

#[test]
fn the_ceiling_of_the_examples_is_the_same_for_both_ways_to_install() {
    let ceiling = documents(&read("examples/manifests/ceiling.yaml")).remove(0);
    let rules: Vec<KubernetesRule> = serde_json::from_value(ceiling.clone()).unwrap();
    assert!(lost(&ceiling, &serde_json::to_value(rules).unwrap(), "").is_empty());
    let values = documents(&read("examples/manifests/values.yaml")).remove(0);
    assert_eq!(values["ceiling"]["rules"], ceiling);
    let known = documents(&read("charts/mandate/values.yaml")).remove(0);
    for key in values.as_object().unwrap().keys() {
        assert!(known.get(key).is_some(), "the chart has no value `{key}`");
    }
}

/// An object by way of its type and back.
fn back<T: DeserializeOwned + Serialize>(document: &Json) -> Json {
    let object: T = serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{document:#}: {error}"));
    serde_json::to_value(object).unwrap()
}

/// What stands in `whole` no more.
fn lost(document: &Json, whole: &Json, at: &str) -> Vec<String> {
    match (document, whole) {
        (Json::Object(document), Json::Object(whole)) => {
            let under =
                |(key, value): (&String, &Json)| lost(value, whole.get(key).unwrap_or(&Json::Null), &format!("{at}.{key}"));
            document.iter().flat_map(under).collect()
        }
        (Json::Array(document), Json::Array(whole)) if document.len() == whole.len() => document
            .iter()
            .zip(whole)
            .enumerate()
            .flat_map(|(n, (document, whole))| lost(document, whole, &format!("{at}[{n}]")))
            .collect(),
        _ if document == whole => vec![],
        _ => vec![at.to_owned()],
    }
}
