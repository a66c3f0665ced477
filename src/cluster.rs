//! What Mandate reads from and writes to a Kubernetes API server.
//!
//! It carries out what [`decide`](crate::decide) has planned and brings back what is there;
//! it decides nothing. Token bytes exist only here, on their way from the API server into
//! a task's Secret. (The watches that drive the controller stand beside its work queue, in
//! [`controller`](crate::controller).)

pub mod apply;
pub mod ask;
pub mod certificate;
pub mod connect;
pub mod event;
pub mod known;
pub mod lease;
pub mod observe;
mod pace;
pub mod read;
pub mod reviews;
pub mod token;
pub mod tool_status;
pub mod world;
