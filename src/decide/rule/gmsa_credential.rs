//! `gmsa-credential`: a Windows container runs as a service account of Active Directory.

use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::Site;

/// a Windows container runs as a service account of Active Directory.
pub const RULE: Rule = Rule {
    id: "gmsa-credential",
    level: Level::Restricted,
    what: "a Windows container runs as a service account of Active Directory.",
    why: "The node fetches the password of a group managed service account for the container: a standing identity, whose rights no task gave and none takes back.",
    fix: "Run without it, or let a policy allow the credential spec by its name.",
    references: &["https://kubernetes.io/docs/tasks/configure-pod-container/configure-gmsa/"],
    since: "0.1.0",
    allows: "names of GMSACredentialSpecs",
    sites: &[
        Site {
            at: "spec.securityContext.windowsOptions",
            message: "the pod runs as the account of GMSACredentialSpec `{this.gmsaCredentialSpecName}`",
            ..NAMED
        },
        Site {
            at: "spec.securityContext.windowsOptions",
            message: "the pod runs as an account of Active Directory whose credential spec is written in it",
            ..WRITTEN
        },
        Site {
            at: "spec.C[].securityContext.windowsOptions",
            message: "container `{container.name}` runs as the account of GMSACredentialSpec `{this.gmsaCredentialSpecName}`",
            ..NAMED
        },
        Site {
            at: "spec.C[].securityContext.windowsOptions",
            message: "container `{container.name}` runs as an account of Active Directory whose credential spec is written in it",
            ..WRITTEN
        },
    ],
    code: None,
};

const NAMED: Site = Site {
    field: ".gmsaCredentialSpecName",
    when: Cond::Text("this.gmsaCredentialSpecName"),
    help: "remove it, or have the policy allow `{this.gmsaCredentialSpecName}` for `gmsa-credential`",
    allow: Some("this.gmsaCredentialSpecName"),
    ..Site::POD
};

/// Only where no name stands beside it: where one does, the webhook for GMSA filled in the text
/// by the name, and holds the two together.
const WRITTEN: Site = Site {
    field: ".gmsaCredentialSpec",
    when: Cond::All(&[Cond::Text("this.gmsaCredentialSpec"), Cond::Not(&Cond::Text("this.gmsaCredentialSpecName"))]),
    help: "remove it, or name a GMSACredentialSpec with `gmsaCredentialSpecName` that the policy allows for `gmsa-credential`",
    ..Site::POD
};
