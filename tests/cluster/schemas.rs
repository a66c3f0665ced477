//! The schemas of Mandate's kinds, out of the way for a while: what another version has stored
//! may be nothing that this one can read.

use anyhow::Result;
use kube::Client;
use serde_json::{Value, json};

use crate::admission::request::{object, path, plural, request, taken};
use crate::place::until;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/mandate";

/// The definitions as they were.
pub struct Schemas {
    kinds: Vec<&'static str>,
    before: Vec<Value>,
    /// The webhooks as they were registered.
    webhooks: Value,
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
        let webhooks = unasked(admin, kinds).await?;
        let schemas = Self { kinds: kinds.to_vec(), before, webhooks };
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
        if !self.webhooks.is_null() {
            let mut registration = taken(request(admin, "GET", REGISTRATION, None, &Value::Null).await)?;
            registration["webhooks"] = self.webhooks.clone();
            taken(request(admin, "PUT", REGISTRATION, None, &registration).await)?;
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

/// Has the webhook asked about none of these kinds, since it lets nothing in that it cannot read;
/// gives back what was registered.
async fn unasked(admin: &Client, kinds: &[&'static str]) -> Result<Value> {
    let registered = request(admin, "GET", REGISTRATION, None, &Value::Null).await?;
    if registered.reply.code == 404 {
        return Ok(Value::Null);
    }
    let mut registration = taken(Ok(registered))?;
    let before = registration["webhooks"].clone();
    let away: Vec<String> = kinds.iter().map(|kind| plural(kind)).collect();
    for webhook in registration["webhooks"].as_array_mut().into_iter().flatten() {
        let rules = webhook["rules"].as_array_mut().into_iter().flatten();
        for rule in rules.filter(|rule| rule["apiGroups"] == json!(["mandate.dev"])) {
            if let Some(resources) = rule["resources"].as_array_mut() {
                resources.retain(|resource| !away.iter().any(|away| resource == away));
                // A rule about nothing is none; this kind does not exist.
                if resources.is_empty() {
                    resources.push(json!("nothing"));
                }
            }
        }
    }
    taken(request(admin, "PUT", REGISTRATION, None, &registration).await)?;
    Ok(before)
}
