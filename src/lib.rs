//! Mandate: authority for AI agents on Kubernetes that is asked for, bounded, watched and
//! taken back.
pub mod api;
pub mod cluster;
pub mod metrics;
pub mod serve;
pub mod telemetry;
