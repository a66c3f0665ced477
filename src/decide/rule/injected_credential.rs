//! `injected-credential`: the pod asks an injector for a credential from outside of the cluster.

use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::Site;

/// the pod asks an injector for a credential from outside of the cluster.
pub const RULE: Rule = Rule {
    id: "injected-credential",
    level: Level::Restricted,
    what: "the pod asks an injector for a credential from outside of the cluster.",
    why: "Injectors of Vault, 1Password, Conjur and others read annotations and variables and bring a secret into the container when it starts: static as a rule, named in no field that Kubernetes knows, and not taken back when the task ends.",
    fix: "Issue a credential for the task with its TaskScope, or let a policy allow the annotation or variable by its name.",
    references: &[
        "https://developer.hashicorp.com/vault/docs/platform/k8s/injector/annotations",
        "https://bank-vaults.dev/docs/mutating-webhook/",
        "https://developer.1password.com/docs/k8s/injector",
    ],
    since: "0.1.0",
    allows: "keys of annotations, and names of environment variables",
    sites: &[
        Site {
            at: "metadata.annotations{}",
            when: Cond::All(&[
                Cond::Matches("key", ANNOTATION),
                Cond::Not(&Cond::OneOf("this", &["", "0", "false", "no", "off", "disabled"])),
            ]),
            message: "annotation `{key}` has an injector bring a credential into the pod, which Mandate neither sees nor takes back",
            help: "remove it and let the TaskScope of the pod's task issue a short-lived credential, or have the policy allow `{key}` for `injected-credential`",
            allow: Some("key"),
            ..Site::POD
        },
        Site {
            at: "spec.C[].env[].value",
            when: Cond::Matches("this", REFERENCE),
            message: "environment variable `{env.name}` of container `{container.name}` is replaced with a secret from a store when the container starts",
            help: "remove it and let the TaskScope of the pod's task issue a short-lived credential, or have the policy allow `{env.name}` for `injected-credential`",
            allow: Some("env.name"),
            ..Site::POD
        },
    ],
    code: None,
};

/// Annotations that make an injector act; not those that only tell it how.
pub(super) const ANNOTATION: &str = concat!(
    r"^(?:",
    // Vault and OpenBao: a secret, the token itself, or a configuration that may name any.
    r"(?:vault\.hashicorp\.com|openbao\.openbao\.org)/(?:agent-inject-secret-.+|agent-inject-token|agent-configmap)",
    // Bank-Vaults, by its name of today and its old one; most go by variables, below.
    r"|(?:vault\.security\.banzaicloud\.io|secrets-webhook\.security\.bank-vaults\.io)/vault-(?:env-from-path|agent-configmap|ct-configmap)",
    r"|operator\.1password\.io/(?:inject|item-path)",
    // CyberArk Conjur.
    r"|conjur\.org/(?:inject|secrets-destination|conjur-secrets\..+)|sidecar-injector\.cyberark\.com/inject",
    // AWS Secrets Manager.
    r"|secrets\.k8s\.aws/secret-.+|secretsinit\.io/inject",
    r"|org\.infisical\.com/inject|keeper\.security/inject|akeyless/enabled|secretless\.externalsecrets\.com/externalsecret",
    r"|(?:secrets|envconsul)-injector\.vault\.crd\.gocardless\.com/configs|vault\.security/enabled",
    r"|(?:vault\.opstree|aws|azure|gcp)\.secret\.manager/enabled",
    r")$",
);

/// Values that injectors put a secret in the place of.
const REFERENCE: &str =
    r"^(?:>>)?vault:[^#]+#|^op://[^/]+/[^/]+/|^akeyless:/|^awssm:|^(?:berglas|sm|keeper)://[^/]+/|^[^@ ]+@azurekeyvault(?:\?|$)";
