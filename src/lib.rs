//! Mandate: authority for AI agents on Kubernetes.
#![doc = ""]
pub mod api;
