//! `image-pull-secret`: a pod pulls its images with a Secret.

use super::{Code, Found, Level, Rule};
use crate::decide::json::Read as _;
use crate::decide::pod;
use crate::decide::predicate::Cond;
use crate::decide::site::{On, Site, Subject};

/// a pod pulls its images with a Secret.
pub const RULE: Rule = Rule {
    id: "image-pull-secret",
    level: Level::Restricted,
    what: "a pod pulls its images with a Secret.",
    why: "The password of a registry never expires, and whoever may start pods with it may read everything that it can pull, and push where it may push. A pod that names none gets those of its ServiceAccount: seen in a manifest where the ServiceAccount is known, and in the pod itself in any case.",
    fix: "Let the nodes pull with the kubelet's credential provider, or let a policy allow the Secret by its name.",
    references: &["https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/"],
    since: "0.1.0",
    allows: "names of Secrets",
    sites: &[
        Site {
            at: "spec.imagePullSecrets[]",
            message: "the pod pulls its images with Secret `{this.name}`, which never expires",
            ..NAMED
        },
        Site {
            on: On::ServiceAccount,
            at: "imagePullSecrets[]",
            message: "ServiceAccount `{metadata.name}` has its pods pull their images with Secret `{this.name}`, which never expires",
            ..NAMED
        },
    ],
    code: Some(Code { look: inherited, lacks: "the ServiceAccount of a template; a pod itself has its pull secrets by then" }),
};

const NAMED: Site = Site {
    field: ".name",
    when: Cond::Text("this.name"),
    help: "let the nodes pull with the kubelet's credential provider, or have the policy allow `{this.name}` for `image-pull-secret`",
    allow: Some("this.name"),
    ..Site::POD
};

/// What the API server will write into a pod that names no pull secrets: those of its
/// ServiceAccount, where it is known.
fn inherited(pod: &Subject<'_>, found: &mut Vec<Found>) {
    let spec = pod.spec();
    if !pod.unadmitted || !spec.is_object() || !spec.items("imagePullSecrets").is_empty() {
        return;
    }
    let account = match pod::service_account(spec) {
        "" => "default",
        name => name,
    };
    let known = pod.world.namespaces.get(pod.namespace).and_then(|here| here.accounts.get(account));
    for secret in known.iter().flat_map(|account| &account.pull_secrets) {
        found.push(Found {
            path: pod.spec_path("serviceAccountName"),
            message: format!("the pod pulls its images with Secret `{secret}` of its ServiceAccount `{account}`, which never expires"),
            help: format!(
                "let the nodes pull with the kubelet's credential provider, or have the policy allow `{secret}` for `image-pull-secret`"
            ),
            allow: secret.clone(),
        });
    }
}
