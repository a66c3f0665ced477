//! `virtual-machine-secret`: a virtual machine takes its start-up data from a Secret.

use super::{Code, Found, Level, Rule};
use crate::decide::json::Read as _;
use crate::decide::site::{Piece, Root, Subject};

/// a virtual machine takes its start-up data from a Secret.
pub const RULE: Rule = Rule {
    id: "virtual-machine-secret",
    level: Level::Baseline,
    what: "a virtual machine takes its start-up data from a Secret.",
    why: "KubeVirt's cloud-init and sysprep volumes name Secrets by fields of their own; the pod that runs the machine mounts them, and what is in them never expires.",
    fix: "Leave credentials out of start-up data, and let the machine ask for short-lived ones.",
    references: &["https://kubevirt.io/user-guide/user_workloads/startup_scripts/"],
    since: "0.1.0",
    allows: "names of Secrets",
    sites: &[],
    code: Some(Code { look, lacks: "kinds that are not Kubernetes' own" }),
};

/// Where the volumes of a virtual machine name Secrets, beyond what those of a pod can.
const REFERENCES: &[(&str, &str)] = &[
    ("cloudInitNoCloud", "secretRef"),
    ("cloudInitNoCloud", "networkDataSecretRef"),
    ("cloudInitConfigDrive", "secretRef"),
    ("cloudInitConfigDrive", "networkDataSecretRef"),
    ("sysprep", "secret"),
];

fn look(part: &Subject<'_>, found: &mut Vec<Found>) {
    let Root::Piece(volume, at, Piece::Volume) = part.root else { return };
    for (source, field) in REFERENCES {
        if let Some(secret) = volume.at(&[source, field]) {
            found.push(Found {
                path: format!("{at}.{source}.{field}"),
                message: format!(
                    "volume `{}` hands the machine Secret `{}`, which never expires",
                    volume.text("name"),
                    secret.text("name")
                ),
                help: "leave credentials out of start-up data, and let the machine ask for short-lived ones".to_owned(),
                allow: secret.text("name").to_owned(),
            });
        }
    }
}
