//! What a run of `mandate lint` found, before it is printed in one format or another.

use std::fmt;
use std::sync::Arc;

use crate::cli::manifest::node::Position;
use crate::cli::manifest::{Document, Problem};
use crate::decide::finding::{self, Severity};

/// Everything a run found.
#[derive(Debug)]
pub(in crate::cli) struct Report {
    /// Every object that was looked at, also those without findings.
    pub objects: Vec<Object>,
    /// What could not be read.
    pub problems: Vec<Problem>,
    /// The same in numbers.
    pub summary: Summary,
}

/// One object with what is wrong with it.
#[derive(Debug)]
pub(in crate::cli) struct Object {
    /// The file, or `-`.
    pub file: Arc<str>,
    /// Where the object begins.
    pub at: Position,
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// Namespace; empty for a kind that has none.
    pub namespace: String,
    /// Name; empty where it has none.
    pub name: String,
    /// What is wrong with it, in the order of the lines.
    pub findings: Vec<Finding>,
}

/// A finding and where the field stands.
#[derive(Debug)]
pub(in crate::cli) struct Finding {
    /// The field's key, or the nearest field above it that is written.
    pub at: Position,
    /// What was found.
    pub found: finding::Finding,
}

/// A run in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(in crate::cli) struct Summary {
    /// Documents that could be read.
    pub documents: usize,
    /// Objects among them; a list holds several.
    pub objects: usize,
    /// Findings for which an object is refused.
    pub denied: usize,
    /// Findings that let it pass.
    pub warned: usize,
    /// What could not be read.
    pub problems: usize,
}

impl Report {
    /// A report of these objects.
    pub fn new(documents: usize, objects: Vec<Object>, problems: Vec<Problem>) -> Self {
        let findings = || objects.iter().flat_map(|object| &object.findings);
        let denied = findings().filter(|finding| finding.is_denied()).count();
        let warned = findings().count() - denied;
        let summary = Summary { documents, objects: objects.len(), denied, warned, problems: problems.len() };
        Self { objects, problems, summary }
    }

    /// Every finding with its object.
    pub fn findings(&self) -> impl Iterator<Item = (&Object, &Finding)> {
        self.objects.iter().flat_map(|object| object.findings.iter().map(move |finding| (object, finding)))
    }
}

impl Object {
    /// An object in which nothing has been found yet.
    pub fn of(document: &Document, namespace: &str) -> Self {
        let namespace = match document.namespace() {
            Some(namespace) => namespace,
            None if is_cluster_scoped(document) => "",
            None => namespace,
        };
        Self {
            file: document.file.clone(),
            at: document.root.at,
            api_version: document.api_version().to_owned(),
            kind: document.kind().to_owned(),
            namespace: namespace.to_owned(),
            name: document.name().to_owned(),
            findings: vec![],
        }
    }
}

/// Kinds that stand in no namespace and are judged, or say something about those that are.
fn is_cluster_scoped(document: &Document) -> bool {
    const KINDS: [(&str, &str); 10] = [
        ("", "Namespace"),
        ("", "Node"),
        ("", "PersistentVolume"),
        ("certificates.k8s.io", "CertificateSigningRequest"),
        ("mandate.dev", "ClusterAgentPolicy"),
        ("rbac.authorization.k8s.io", "ClusterRole"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
        ("storage.k8s.io", "CSIDriver"),
        ("storage.k8s.io", "StorageClass"),
        ("storage.k8s.io", "VolumeAttachment"),
    ];
    KINDS.contains(&(document.group(), document.kind()))
}

/// `Pod finance/app`.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name, .. } = self;
        let name = if name.is_empty() { "?" } else { name };
        if namespace.is_empty() { write!(f, "{kind} {name}") } else { write!(f, "{kind} {namespace}/{name}") }
    }
}

impl Finding {
    /// Whether the object is refused for it.
    pub fn is_denied(&self) -> bool {
        self.found.severity == Severity::Deny
    }

    /// `deny` or `warn`: what is only recorded in a cluster is a warning to its author.
    pub fn word(&self) -> &'static str {
        if self.is_denied() { "deny" } else { "warn" }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { documents, objects: _, denied, warned, problems } = self;
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        write!(f, "{documents} document{} read, {denied} denied, {warned} warned", plural(*documents))?;
        if *problems > 0 {
            write!(f, ", {problems} problem{}", plural(*problems))?;
        }
        Ok(())
    }
}
