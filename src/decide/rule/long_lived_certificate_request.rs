//! `long-lived-certificate-request`: somebody asks for a client certificate that lives longer than the policy allows.

use super::{Level, Rule};
use crate::decide::predicate::{Cond, Limit};
use crate::decide::site::{On, Site};

/// somebody asks for a client certificate that lives longer than the policy allows.
pub const RULE: Rule = Rule {
    id: "long-lived-certificate-request",
    level: Level::Advice,
    what: "somebody asks for a client certificate that lives longer than the policy allows.",
    why: "Nothing takes a certificate back: the API server honours it until it expires, whatever is deleted in the meantime. Where no life is asked for, Kubernetes signs for a year. The webhook is not asked about these requests, so that nodes can join while it is down: manifests and ValidatingAdmissionPolicies are where they are seen.",
    fix: "Ask for a short life (spec.expirationSeconds), or let a TaskScope issue a token.",
    references: &["https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/"],
    since: "0.1.0",
    allows: "names of signers",
    sites: &[Site {
        on: On::CertificateSigningRequest,
        at: "spec",
        field: ".expirationSeconds",
        when: Cond::All(&[
            // A node's own, which it renews by itself.
            Cond::Not(&Cond::OneOf(
                "this.signerName",
                &["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"],
            )),
            Cond::Over("this.expirationSeconds", 31_536_000, Limit::Certificate),
        ]),
        message: "a certificate of `{this.signerName}` lives {this.expirationSeconds|31536000} s, and nothing takes it back; the policy allows {maxCertificate} s",
        help: "set `expirationSeconds: {maxCertificate}` or less, or let a TaskScope issue a token",
        allow: Some("this.signerName"),
    }],
    code: None,
};
