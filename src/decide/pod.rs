//! Every place where a pod can reach a credential, as one list with field paths.
//!
//! In: the raw `spec` of a pod. Out: a [`Reach`] for each reference to a Secret, each
//! projected token or certificate, and each source that is not known. It judges nothing:
//! the rules do.
//!
//! The list of direct Secret references follows Kubernetes' own `VisitPodSecretNames`
//! (kubernetes/kubernetes `pkg/api/pod/util.go`). The known members of volumes,
//! projections and environment sources are those of Kubernetes 1.37 (`core/v1`); anything
//! else is reported as unknown, so that a cluster upgrade cannot open a path unseen.

use super::json::{Read, Value};

/// The three lists of containers, in the order in which they are walked.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// One place where a pod reaches a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach<'a> {
    /// The field, from the root of the object.
    pub path: String,
    /// The container or volume it stands in.
    pub holder: Holder<'a>,
    /// What is reached.
    pub what: What<'a>,
}

/// The part of a pod in which a credential is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder<'a> {
    /// A container of any of the three kinds, by name.
    Container(&'a str),
    /// A volume, by name.
    Volume(&'a str),
}

impl std::fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Container(name) => write!(f, "container `{name}`"),
            Self::Volume(name) => write!(f, "volume `{name}`"),
        }
    }
}

/// What a pod reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// One key of a Secret as an environment variable.
    SecretEnv(&'a str),
    /// A whole Secret as environment variables.
    SecretEnvFrom(&'a str),
    /// A Secret as a volume.
    SecretVolume(&'a str),
    /// A Secret among the sources of a projected volume.
    SecretProjection(&'a str),
    /// A Secret handed to a CSI driver for an inline volume.
    CsiSecret(&'a str),
    /// A Secret handed to an in-tree storage driver, by the name of the driver.
    StorageSecret(&'static str, &'a str),
    /// A projected ServiceAccount token.
    Token {
        /// Audience; none for the API server.
        audience: Option<&'a str>,
        /// Life in seconds; the API server's default is 3600.
        seconds: Option<i64>,
    },
    /// A projected certificate with its private key.
    Certificate {
        /// Longest life in seconds; the API server's default is 86400.
        seconds: Option<i64>,
    },
    /// A source that Kubernetes 1.37 does not have: what it is a member of, and its name.
    Unknown(&'static str, &'a str),
}

const VOLUMES: &[&str] = &[
    "name", "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "configMap", "csi", "downwardAPI",
    "emptyDir", "ephemeral", "fc", "flexVolume", "flocker", "gcePersistentDisk", "gitRepo", "glusterfs", "hostPath", "image",
    "iscsi", "nfs", "persistentVolumeClaim", "photonPersistentDisk", "portworxVolume", "projected", "quobyte", "rbd",
    "scaleIO", "secret", "storageos", "vsphereVolume",
];
const PROJECTIONS: &[&str] =
    &["clusterTrustBundle", "configMap", "downwardAPI", "podCertificate", "secret", "serviceAccountToken"];
const ENV_SOURCES: &[&str] = &["configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef", "secretKeyRef"];
const ENV_FROM: &[&str] = &["configMapRef", "prefix", "secretRef"];
/// In-tree storage drivers that are handed a Secret: member, and where the reference stands.
const STORAGE: &[(&str, &str)] = &[
    ("azureFile", "secretName"),
    ("cephfs", "secretRef"),
    ("cinder", "secretRef"),
    ("flexVolume", "secretRef"),
    ("iscsi", "secretRef"),
    ("rbd", "secretRef"),
    ("scaleIO", "secretRef"),
    ("storageos", "secretRef"),
];

/// Every place where the pod with this `spec` reaches a credential. `root` is the path of
/// the spec in its object: `spec` for a pod.
#[must_use]
pub fn reaches<'a>(spec: &'a Value<'a>, root: &str) -> Vec<Reach<'a>> {
    let mut found = Vec::new();
    for list in CONTAINER_LISTS {
        for (index, container) in spec.items(list).iter().enumerate() {
            environment(container, || format!("{root}.{list}[{index}]"), &mut found);
        }
    }
    for (index, entry) in spec.items("volumes").iter().enumerate() {
        volume(entry, || format!("{root}.volumes[{index}]"), &mut found);
    }
    found
}

fn environment<'a>(container: &'a Value<'a>, at: impl Fn() -> String, found: &mut Vec<Reach<'a>>) {
    let holder = Holder::Container(container.text("name"));
    for (index, variable) in container.items("env").iter().enumerate() {
        let Some(source) = variable.member("valueFrom") else { continue };
        let at = |member: &str| format!("{}.env[{index}].valueFrom.{member}", at());
        for (member, value) in source.members().filter(|(_, value)| !value.is_null()) {
            if member == "secretKeyRef" {
                found.push(Reach { path: at(member), holder, what: What::SecretEnv(value.text("name")) });
            } else if !ENV_SOURCES.contains(&member) {
                found.push(Reach { path: at(member), holder, what: What::Unknown("environment source", member) });
            }
        }
    }
    for (index, source) in container.items("envFrom").iter().enumerate() {
        let at = |member: &str| format!("{}.envFrom[{index}].{member}", at());
        for (member, value) in source.members().filter(|(_, value)| !value.is_null()) {
            if member == "secretRef" {
                found.push(Reach { path: at(member), holder, what: What::SecretEnvFrom(value.text("name")) });
            } else if !ENV_FROM.contains(&member) {
                found.push(Reach { path: at(member), holder, what: What::Unknown("environment source", member) });
            }
        }
    }
}

fn volume<'a>(entry: &'a Value<'a>, at: impl Fn() -> String, found: &mut Vec<Reach<'a>>) {
    let holder = Holder::Volume(entry.text("name"));
    for (member, value) in entry.members().filter(|(_, value)| !value.is_null()) {
        let mut push = |tail: &str, what| found.push(Reach { path: format!("{}.{tail}", at()), holder, what });
        match member {
            "secret" => push("secret.secretName", What::SecretVolume(value.text("secretName"))),
            "projected" => projections(value, holder, &at, found),
            "csi" => {
                if let Some(reference) = value.member("nodePublishSecretRef") {
                    push("csi.nodePublishSecretRef", What::CsiSecret(reference.text("name")));
                }
            }
            _ if !VOLUMES.contains(&member) => push(member, What::Unknown("volume", member)),
            _ => {
                if let Some((driver, field)) = STORAGE.iter().find(|(driver, _)| *driver == member)
                    && let Some(reference) = value.member(field)
                {
                    let name = reference.as_str().unwrap_or_else(|| reference.text("name"));
                    push(&format!("{driver}.{field}"), What::StorageSecret(driver, name));
                }
            }
        }
    }
}

fn projections<'a>(projected: &'a Value<'a>, holder: Holder<'a>, at: &impl Fn() -> String, found: &mut Vec<Reach<'a>>) {
    for (index, source) in projected.items("sources").iter().enumerate() {
        let at = |tail: &str| format!("{}.projected.sources[{index}].{tail}", at());
        for (member, value) in source.members().filter(|(_, value)| !value.is_null()) {
            let mut push = |tail: &str, what| found.push(Reach { path: at(tail), holder, what });
            match member {
                "secret" => push("secret.name", What::SecretProjection(value.text("name"))),
                "serviceAccountToken" => push(
                    "serviceAccountToken",
                    What::Token {
                        audience: Some(value.text("audience")).filter(|audience| !audience.is_empty()),
                        seconds: value.whole("expirationSeconds"),
                    },
                ),
                "podCertificate" => push(
                    "podCertificate",
                    What::Certificate { seconds: value.whole("maxExpirationSeconds") },
                ),
                _ if !PROJECTIONS.contains(&member) => push(member, What::Unknown("projection", member)),
                _ => {}
            }
        }
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
