//! The only part that holds a Kubernetes client.
//!
//! What is planned elsewhere is read and carried out here, so that everything else stays free
//! of the network and can be tested without one.

pub mod certificate;
pub mod lease;
mod pace;
