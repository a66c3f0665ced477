//! What a pod is made of: its task, its account, and the sources of volumes and variables
//! that Kubernetes knows.
//!
//! The known members of volumes, projections and environment sources are those of Kubernetes
//! 1.37 (`core/v1`); anything else is reported as unknown, so that a cluster upgrade cannot
//! open a path to a credential unseen.

use super::json::{Read, Value};
use super::site::{Item, Step, Subject};

/// The three lists of containers, in the order in which they are walked.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// A source that Kubernetes 1.37 does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown<'a> {
    /// The field, from the root of the object.
    pub path: String,
    /// The container or volume it stands in, in words.
    pub holder: String,
    /// What it is a source of.
    pub kind: &'static str,
    /// Its name.
    pub member: &'a str,
}

const VOLUMES: &[&str] = &[
    "name",
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "secret",
    "storageos",
    "vsphereVolume",
];
const PROJECTIONS: &[&str] =
    &["clusterTrustBundle", "configMap", "downwardAPI", "podCertificate", "secret", "serviceAccountToken"];
const ENV_SOURCES: &[&str] = &["configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef", "secretKeyRef"];
const ENV_FROM: &[&str] = &["configMapRef", "prefix", "secretRef"];

/// Where sources stand: the steps in the spec, what they are, and which are known.
type Sources = (&'static [Step], &'static str, &'static [&'static str]);

const IN_CONTAINERS: [Sources; 2] = [
    (&[Step::Member("env"), Step::Items("env"), Step::Member("valueFrom")], "environment source", ENV_SOURCES),
    (&[Step::Member("envFrom"), Step::Items("envFrom")], "environment source", ENV_FROM),
];
const IN_VOLUMES: [Sources; 2] = [
    (&[], "volume", VOLUMES),
    (&[Step::Member("projected"), Step::Member("sources"), Step::Items("source")], "projection", PROJECTIONS),
];

/// Every source of the pod that is not known.
#[must_use]
pub fn unknown<'a>(pod: &Subject<'a>) -> Vec<Unknown<'a>> {
    let mut found = vec![];
    for list in CONTAINER_LISTS {
        look(pod, list, "container", &IN_CONTAINERS, &mut found);
    }
    look(pod, "volumes", "volume", &IN_VOLUMES, &mut found);
    found
}

fn look<'a>(pod: &Subject<'a>, list: &'static str, holder: &str, sources: &[Sources], found: &mut Vec<Unknown<'a>>) {
    for (steps, kind, known) in sources {
        let form = [&[Step::Member("spec"), Step::Member(list), Step::Items("holder")], *steps].concat();
        pod.root.visit(&form, &mut Vec::with_capacity(4), &mut |source, items: &[Item<'a>]| {
            let unknown = source.members().filter(|(member, value)| !value.is_null() && !known.contains(member));
            for (member, _) in unknown {
                let name = items.first().map_or("", |item| item.value.text("name"));
                let path = format!("{}.{member}", pod.root.path(&form, items, ""));
                found.push(Unknown { path, holder: format!("{holder} `{name}`"), kind, member });
            }
        });
    }
}

/// The label of a pod that names its task.
#[must_use]
pub fn task_label<'a>(pod: &'a Value<'a>) -> Option<&'a str> {
    pod.at(&["metadata", "labels", crate::api::names::TASK_LABEL]).and_then(Value::as_str)
}

/// The ServiceAccount a pod runs as. `serviceAccount` is the deprecated alias; the API
/// server keeps both the same.
#[must_use]
pub fn service_account<'a>(spec: &'a Value<'a>) -> &'a str {
    match spec.text("serviceAccountName") {
        "" => spec.text("serviceAccount"),
        name => name,
    }
}
