//! Which webhooks of a configuration do not trust our bundle yet, and the patch for them.
//!
//! A configuration and a bundle go in, a JSON patch comes out, or nothing where nothing
//! differs. It touches `caBundle` alone, and only of the very object it was computed from.

use json_patch::Patch;
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig},
};
use kube::{Resource, ResourceExt as _};
use serde_json::json;

use crate::metrics;

/// A configuration of webhooks, of either kind.
pub(super) trait Webhooks: Resource<DynamicType = ()> {
    /// What its objects are counted as.
    const COUNTED: metrics::Resource;

    /// Name and target of each webhook, in order.
    fn clients(&self) -> Vec<(&str, &WebhookClientConfig)>;
}

macro_rules! webhooks {
    ($kind:ty, $counted:ident) => {
        impl Webhooks for $kind {
            const COUNTED: metrics::Resource = metrics::Resource::$counted;

            fn clients(&self) -> Vec<(&str, &WebhookClientConfig)> {
                self.webhooks.iter().flatten().map(|hook| (hook.name.as_str(), &hook.client_config)).collect()
            }
        }
    };
}

webhooks!(ValidatingWebhookConfiguration, ValidatingWebhooks);
webhooks!(MutatingWebhookConfiguration, MutatingWebhooks);

/// The patch after which every webhook in `configuration` trusts `bundle`; none if all do. The
/// server refuses it (422) when the configuration has changed since it was read.
pub(super) fn patch(configuration: &impl Webhooks, bundle: &str) -> Option<Patch> {
    let bundle = ByteString(bundle.as_bytes().to_vec());
    let mut operations = Vec::new();
    for (index, (name, client)) in configuration.clients().into_iter().enumerate() {
        if client.ca_bundle.as_ref() != Some(&bundle) {
            operations.push(json!({"op": "test", "path": format!("/webhooks/{index}/name"), "value": name}));
            // `add` replaces what is there.
            let path = format!("/webhooks/{index}/clientConfig/caBundle");
            operations.push(json!({"op": "add", "path": path, "value": bundle}));
        }
    }
    if operations.is_empty() {
        return None;
    }
    if let Some(version) = configuration.resource_version() {
        operations.insert(0, json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}));
    }
    // Operations written out above are a patch; were they not, nothing would be published.
    serde_json::from_value(operations.into()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn configuration(bundles: &[Option<&str>]) -> (ValidatingWebhookConfiguration, Value) {
        let hooks: Vec<_> = bundles
            .iter()
            .enumerate()
            .map(|(index, bundle)| {
                let mut hook = json!({"name": format!("h{index}.mandate.dev"), "admissionReviewVersions": ["v1"],
                    "sideEffects": "None", "clientConfig": {"service": {"name": "hook", "namespace": "mandate"}}});
                if let Some(bundle) = bundle {
                    hook["clientConfig"]["caBundle"] = serde_json::to_value(ByteString(bundle.as_bytes().to_vec())).unwrap();
                }
                hook
            })
            .collect();
        let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "mandate", "resourceVersion": "7"}, "webhooks": hooks});
        (serde_json::from_value(object.clone()).unwrap(), object)
    }

    #[test]
    fn every_webhook_gets_the_bundle_and_nothing_else_changes() {
        let (typed, mut object) = configuration(&[None, Some("new"), Some("old")]);
        json_patch::patch(&mut object, &patch(&typed, "new").unwrap()).unwrap();
        assert_eq!(object, configuration(&[Some("new"); 3]).1);
    }

    #[test]
    fn a_bundle_that_is_there_already_is_not_written_again() {
        assert!(patch(&configuration(&[Some("new"), Some("new")]).0, "new").is_none());
        assert!(patch(&configuration(&[]).0, "new").is_none());
    }

    #[test]
    fn a_configuration_that_changed_since_it_was_read_is_left_alone() {
        let (typed, mut object) = configuration(&[None]);
        object["metadata"]["resourceVersion"] = json!("8");
        assert!(json_patch::patch(&mut object, &patch(&typed, "new").unwrap()).is_err());
    }
}
