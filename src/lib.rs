//! Mandate: authority for AI agents on Kubernetes that is asked for, bounded, watched and
//! taken back.
pub mod api;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod controller;
pub mod decide;
pub mod install;
pub mod metrics;
pub mod serve;
pub mod telemetry;
pub mod webhook;
