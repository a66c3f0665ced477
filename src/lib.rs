//! Mandate: authority for AI agents on Kubernetes that is asked for, bounded, watched and
//! taken back.
//!
//! # Reading order
//!
//! 1. [`api`]: the resources people write, and the names of what Mandate makes.
//! 2. [`decide`]: the pure part. What is allowed, and what is to be done about it: a function
//!    of what it is given, without clock, network or files.
//! 3. One rule, such as `decide/rule/secret_env.rs`, then [`decide::check`] and
//!    [`decide::grant`].
//! 4. [`cluster`]: carries out what was decided; the only place where token bytes exist.
//! 5. [`controller`] and [`webhook`]: gather, ask `decide`, act, report.
//! 6. [`audit`]: what was decided at run time, chained and signed.
//! 7. [`install`]: the rights of each component, and the policies that hold the controller to
//!    its own objects.
//!
//! # The paths through it
//!
//! - **A task becomes a token.** Event → [`controller`] gathers → [`decide::grant::plan`] →
//!   [`cluster::apply`] → status and Event → look again at the time the plan says.
//! - **A pod is judged.** API server → [`serve`] (TLS) → [`webhook`] reads raw JSON →
//!   [`decide::mutate`] changes it, [`decide::admit`] judges it → answer with every finding.
//! - **A manifest is judged**, without a cluster: files → [`cli`] → [`decide::admit`] → findings,
//!   exit status.
//! - **A decision is recorded**: [`audit`] chains it, commits it, and says when it is durable;
//!   [`audit::verify`] says later whether anything was changed.
#![deny(clippy::print_stdout, reason = "`mandate … | head` is no panic: write through a writer that says so")]

pub mod api;
pub mod audit;
pub mod authorizer;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod controller;
pub mod decide;
mod hex;
pub mod install;
pub mod metrics;
pub mod serve;
pub mod telemetry;
pub mod webhook;
