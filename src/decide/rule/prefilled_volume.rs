//! `prefilled-volume`: a claim takes over what somebody else has written: a snapshot, another claim, a certain volume.

use super::{Level, Rule};
use crate::decide::predicate::Cond;
use crate::decide::site::{On, Site};

/// a claim takes over what somebody else has written: a snapshot, another claim, a certain volume.
pub const RULE: Rule = Rule {
    id: "prefilled-volume",
    level: Level::Advice,
    what: "a claim takes over what somebody else has written: a snapshot, another claim, a certain volume.",
    why: "Old data comes with the credentials that lay in it when it was written. What is in a volume no rule can see.",
    fix: "Begin with an empty volume, and have a task bring what the pod needs.",
    references: &["https://kubernetes.io/docs/concepts/storage/persistent-volumes/#volume-populators-and-data-sources"],
    since: "0.1.0",
    allows: "names of the snapshots, claims and volumes that are taken over",
    sites: &[
        Site { message: said!("volume `{volume.name}`", "dataSource"), ..EPHEMERAL.with_source() },
        Site { message: said!("volume `{volume.name}`", "dataSourceRef"), ..EPHEMERAL.with_reference() },
        Site { message: said!("volume `{volume.name}`"), ..EPHEMERAL.with_volume() },
        Site { message: said!("claim `{claim.metadata.name}`", "dataSource"), ..TEMPLATE.with_source() },
        Site { message: said!("claim `{claim.metadata.name}`", "dataSourceRef"), ..TEMPLATE.with_reference() },
        Site { message: said!("claim `{claim.metadata.name}`"), ..TEMPLATE.with_volume() },
        // The volume of a claim is no news: Kubernetes writes it there once there is one.
        Site { message: said!("claim `{metadata.name}`", "dataSource"), ..CLAIM.with_source() },
        Site { message: said!("claim `{metadata.name}`", "dataSourceRef"), ..CLAIM.with_reference() },
    ],
    code: None,
};

const HELP: &str = "begin with an empty volume, and have a task bring what the pod needs";
const EPHEMERAL: Claims = Claims(Site { at: "spec.volumes[].ephemeral.volumeClaimTemplate.spec", help: HELP, ..Site::POD });
const TEMPLATE: Claims = Claims(Site { on: On::StatefulSet, at: "spec.volumeClaimTemplates[].spec", ..EPHEMERAL.0 });
const CLAIM: Claims = Claims(Site { on: On::PersistentVolumeClaim, at: "spec", ..EPHEMERAL.0 });

/// Where the spec of a claim stands.
struct Claims(Site);

impl Claims {
    const fn with_source(self) -> Site {
        Site { field: ".dataSource", when: Cond::Text("this.dataSource.name"), allow: Some("this.dataSource.name"), ..self.0 }
    }

    /// The API server writes one field from the other; where both are there, one is enough.
    const fn with_reference(self) -> Site {
        const ALONE: Cond = Cond::All(&[Cond::Text("this.dataSourceRef.name"), Cond::Not(&Cond::Text("this.dataSource.name"))]);
        Site { field: ".dataSourceRef", when: ALONE, allow: Some("this.dataSourceRef.name"), ..self.0 }
    }

    const fn with_volume(self) -> Site {
        Site { field: ".volumeName", when: Cond::Text("this.volumeName"), allow: Some("this.volumeName"), ..self.0 }
    }
}

macro_rules! said {
    ($claim:literal) => {
        concat!($claim, " takes over PersistentVolume `{this.volumeName}`, with the credentials that may lie in it")
    };
    ($claim:literal, $source:literal) => {
        concat!(
            $claim,
            " begins as a copy of {this.",
            $source,
            ".kind} `{this.",
            $source,
            ".name}`, with the credentials that may lie in it"
        )
    };
}
use said;
