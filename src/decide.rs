//! The pure part: what is allowed, and what is to be done about it.
//!
//! Everything here is a function of what it is given: no clock, no network, no files, no
//! randomness, and nothing iterates in an order that can change. That is what makes it
//! possible to test every expiry, every renewal and every denial without a cluster, and to
//! ask the same question again later and get the same answer.
//!
//! - [`admit`]: an admission request in, a [`Verdict`](finding::Verdict) out.
//! - [`cel`]: the rules again, as expressions for the API server's own policies.
//! - [`mutate`](mutate::mutate): a guarded pod in, the changes that make it safe out.
//! - [`check`]: may this task have what its scope gives? Every reason why not, in words.
//! - [`delegate`]: may it be the child of that one, and for how long?
//! - [`waive`]: which one waiver lets a finding pass, and why another does not count.
//! - [`standing`]: what stands in a cluster and would not be let in today.
//! - [`grant`]: a task, what is observed and the time in, the next steps out.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod access;
pub mod admit;
pub mod authorize;
pub mod cel;
pub mod check;
pub mod delegate;
pub mod drift;
pub mod finding;
pub mod grant;
pub mod json;
pub mod literal;
pub mod mutate;
pub mod pod;
pub mod predicate;
pub mod related;
pub mod rule;
pub mod site;
pub mod standing;
pub mod waive;
pub mod workload;
pub mod world;
