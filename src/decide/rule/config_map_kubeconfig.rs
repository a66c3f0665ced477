//! `config-map-kubeconfig`: a ConfigMap holds a kubeconfig with a static credential in it.

use super::config_map_credential::is_used;
use super::{Level, Rule};
use crate::decide::predicate::{Cond, Knowledge};
use crate::decide::site::{On, Site};

/// a ConfigMap holds a kubeconfig with a static credential in it.
pub const RULE: Rule = Rule {
    id: "config-map-kubeconfig",
    level: Level::Advice,
    what: "a ConfigMap holds a kubeconfig with a static credential in it.",
    why: "The token, password or key in the kubeconfig opens a cluster to whoever may read the ConfigMap. In a pod it is seen where the ConfigMap is known: in manifests that are checked together, and with `mandate lint --cluster`. The webhook is never sent what a ConfigMap holds.",
    fix: "Point the kubeconfig at a file (`tokenFile`) that a projected token or a task's credential fills.",
    references: &["https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/"],
    since: "0.1.0",
    allows: "names of ConfigMaps",
    sites: &[
        Site {
            on: On::ConfigMap,
            at: "data{}",
            when: Cond::All(&[Cond::Matches("this", KUBECONFIG), Cond::Matches("this", CREDENTIAL)]),
            message: "key `{key}` of ConfigMap `{metadata.name}` is a kubeconfig with a credential in it",
            allow: Some("metadata.name"),
            ..USED
        },
        Site {
            at: "spec.C[].env[].valueFrom.configMapKeyRef",
            message: "container `{container.name}` takes key `{this.key}` of ConfigMap `{this.name}`, a kubeconfig with a credential in it",
            ..USED
        },
        Site {
            at: "spec.C[].envFrom[].configMapRef",
            message: "container `{container.name}` takes all of ConfigMap `{this.name}`, which holds a kubeconfig with a credential in it",
            ..USED
        },
        Site {
            at: "spec.volumes[].configMap",
            message: "volume `{volume.name}` has ConfigMap `{this.name}`, which holds a kubeconfig with a credential in it",
            ..USED
        },
        Site {
            at: "spec.volumes[].projected.sources[].configMap",
            message: "volume `{volume.name}` has ConfigMap `{this.name}`, which holds a kubeconfig with a credential in it",
            ..USED
        },
    ],
    code: None,
};

const USED: Site = Site {
    when: Cond::Known(Knowledge { look: |scene| is_used(scene, RULE.id), lacks: "the ConfigMap" }),
    help: "point the kubeconfig at a file (`tokenFile`) that a projected token or a task's credential fills",
    allow: Some("this.name"),
    ..Site::POD
};

/// The head of a kubeconfig, in YAML or JSON.
const KUBECONFIG: &str = r#"(?m)(^kind: *["']?Config["']? *$|"kind": *"Config")"#;
/// A member of a user that holds a credential itself and no path to one, and no placeholder.
const CREDENTIAL: &str = r#"(^|[\s{,"'-])(client-key-data|token|password)["']?: *["']?[A-Za-z0-9+/=._~!@-]"#;
