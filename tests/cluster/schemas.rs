//! The schemas of Mandate's kinds, out of the way for a while: what another version has stored
//! may be nothing that this one can read.

use anyhow::Result;
use kube::Client;
use serde_json::{Value, json};

use crate::admission::request::{object, path, plural, request, taken};
use crate::place::until;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// The definitions as they were.
pub struct Schemas {
    kinds: Vec<&'static str>,
    before: Vec<Value>,
}

impl Schemas {
    /// From now on anything may be stored under these kinds.
    pub async fn away(admin: &Client, kinds: &[&'static str]) -> Result<Self> {
        let mut before = vec![];
        for kind in kinds {
            let path = format!("{DEFINITIONS}/{}.mandate.dev", plural(kind));
            let mut definition = taken(request(admin, "GET", &path, None, &Value::Null).await)?;
            before.push(definition.clone());
            let version = &mut definition["spec"]["versions"][0];
            version["schema"] = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
            version["selectableFields"] = json!([]);
            taken(request(admin, "PUT", &path, None, &definition).await)?;
        }
        let schemas = Self { kinds: kinds.to_vec(), before };
        schemas.until_answered(admin, 201).await?;
        Ok(schemas)
    }

    /// They are as they were.
    pub async fn back(self, admin: &Client) -> Result<()> {
        for before in &self.before {
            let path = format!("{DEFINITIONS}/{}", before["metadata"]["name"].as_str().unwrap_or_default());
            let mut definition = taken(request(admin, "GET", &path, None, &Value::Null).await)?;
            definition["spec"] = before["spec"].clone();
            taken(request(admin, "PUT", &path, None, &definition).await)?;
        }
        self.until_answered(admin, 422).await
    }

    /// Waits until the API server answers what no schema would let pass with this status.
    async fn until_answered(&self, admin: &Client, code: u16) -> Result<()> {
        for kind in &self.kinds {
            let namespace = (*kind != "ClusterAgentPolicy").then_some("default");
            let path = format!("{}?dryRun=All", path("mandate.dev/v1alpha1", &plural(kind), namespace));
            let probe = object("mandate.dev/v1alpha1", kind, "probe");
            until(&format!("the answer to an empty {kind} to be {code}"), || async {
                (request(admin, "POST", &path, None, &probe).await.ok()?.reply.code == code).then_some(())
            })
            .await?;
        }
        Ok(())
    }
}
