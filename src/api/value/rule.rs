//! Rules on the Kubernetes API, and the single permissions they are made of.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What a task may do with the Kubernetes API in its own namespace. Every combination of
/// the lists is granted, as in RBAC; wildcards are not, since nobody can review what `*`
/// will mean tomorrow.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.resourceNames) && self.resourceNames.size() > 0 && self.verbs.exists(v, v in ['create', 'deletecollection']))").message("`create` and `deletecollection` cannot be held to resourceNames (the API server does not know the name yet): put them in a rule of their own without resourceNames"))]
pub struct KubernetesRule {
    /// API groups; the empty string is the core group. Example: `["", "apps"]`.
    #[schemars(length(min = 1, max = 8), inner(length(max = 253), pattern(r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$")))]
    pub api_groups: Vec<String>,
    /// Resources, plural and in lower case, with a subresource after a slash. Example:
    /// `["configmaps", "pods/log"]`.
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 253), pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"))
    )]
    pub resources: Vec<String>,
    /// Objects by name; none means every object of the resource in the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)))]
    pub resource_names: Vec<String>,
    /// Verbs, such as `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    /// `escalate`, `bind` and `impersonate` are never granted to a task.
    #[schemars(length(min = 1, max = 12), inner(length(min = 1, max = 32), pattern(r"^[a-z][-a-z]*$")))]
    #[x_kube(validation = Rule::new("!self.exists(v, v in ['escalate', 'bind', 'impersonate'])").message("`escalate`, `bind` and `impersonate` are never granted to a task"))]
    pub verbs: Vec<String>,
}

impl From<&KubernetesRule> for PolicyRule {
    fn from(rule: &KubernetesRule) -> Self {
        let KubernetesRule { api_groups, resources, resource_names, verbs } = rule;
        Self {
            api_groups: Some(api_groups.clone()),
            resources: Some(resources.clone()),
            resource_names: (!resource_names.is_empty()).then(|| resource_names.clone()),
            verbs: verbs.clone(),
            non_resource_urls: None,
        }
    }
}

/// One verb on one resource, on one object or on all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// API group; empty for the core group.
    pub group: String,
    /// Plural resource, with `/subresource` where there is one.
    pub resource: String,
    /// One object, or all objects of the namespace.
    pub name: Option<String>,
    /// Verb in lower case.
    pub verb: String,
}

impl Permission {
    /// Whether holding `self` means holding `other`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.group == other.group
            && self.resource == other.resource
            && self.verb == other.verb
            && (self.name.is_none() || self.name == other.name)
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, resource, name, verb } = self;
        write!(f, "{verb} {resource}")?;
        if !group.is_empty() {
            write!(f, ".{group}")?;
        }
        name.as_ref().map_or(Ok(()), |name| write!(f, "/{name}"))
    }
}

/// More single permissions than one scope may hold.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the rules spell out more than {limit} single permissions (verb x resource x name); split the scope or name fewer")]
pub struct TooManyPermissions {
    /// The limit that was passed.
    pub limit: usize,
}

/// Most single permissions that one scope may spell out: each is asked about one by one
/// when a scope is written and when a task acts for a person.
const MOST: usize = 256;

/// The single permissions that rules spell out, in order, each once.
///
/// # Errors
/// [`TooManyPermissions`] past 256.
pub fn permissions(rules: &[KubernetesRule]) -> Result<BTreeSet<Permission>, TooManyPermissions> {
    let mut all = BTreeSet::new();
    for KubernetesRule { api_groups, resources, resource_names, verbs } in rules {
        let names: Vec<Option<String>> =
            if resource_names.is_empty() { vec![None] } else { resource_names.iter().cloned().map(Some).collect() };
        for group in api_groups {
            for resource in resources {
                for name in &names {
                    for verb in verbs {
                        all.insert(Permission {
                            group: group.clone(),
                            resource: resource.clone(),
                            name: name.clone(),
                            verb: verb.clone(),
                        });
                        if all.len() > MOST {
                            return Err(TooManyPermissions { limit: MOST });
                        }
                    }
                }
            }
        }
    }
    Ok(all)
}

/// Whether one of `held` covers `wanted`.
#[must_use]
pub fn covers(held: &BTreeSet<Permission>, wanted: &Permission) -> bool {
    held.iter().any(|permission| permission.covers(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(resources: &[&str], names: &[&str], verbs: &[&str]) -> KubernetesRule {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        KubernetesRule { api_groups: own(&[""]), resources: own(resources), resource_names: own(names), verbs: own(verbs) }
    }

    #[test]
    fn all_objects_cover_one_object_and_not_the_other_way_round() {
        let all = permissions(&[rule(&["configmaps"], &[], &["get"])]).unwrap();
        let one = permissions(&[rule(&["configmaps"], &["a"], &["get"])]).unwrap();
        assert!(one.iter().all(|wanted| covers(&all, wanted)));
        assert!(!all.iter().any(|wanted| covers(&one, wanted)));
    }

    #[test]
    fn a_resource_does_not_cover_its_subresource() {
        let pods = permissions(&[rule(&["pods"], &[], &["get"])]).unwrap();
        let log = permissions(&[rule(&["pods/log"], &[], &["get"])]).unwrap();
        assert!(!log.iter().any(|wanted| covers(&pods, wanted)));
    }

    #[test]
    fn too_many_permissions_are_refused_before_they_are_all_spelled_out() {
        let names: Vec<String> = (0..32).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let wide = rule(&["a", "b", "c", "d"], &names, &["get", "list", "watch"]);
        assert_eq!(permissions(&[wide]), Err(TooManyPermissions { limit: MOST }));
    }

    #[test]
    fn a_permission_reads_as_people_say_it() {
        let text = |p: Permission| p.to_string();
        let base =
            Permission { group: "apps".into(), resource: "deployments".into(), name: Some("web".into()), verb: "get".into() };
        assert_eq!(text(base.clone()), "get deployments.apps/web");
        assert_eq!(text(Permission { group: String::new(), name: None, ..base }), "get deployments");
    }
}
