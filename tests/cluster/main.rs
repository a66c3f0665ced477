//! Is it true on a real API server? Every promise of Mandate, and every way around it that
//! was thought of.
//!
//! Most tests share one control plane with one Mandate on it, and each has a namespace to
//! itself (see [`place`]). Tests that kill a part of Mandate, or take its registrations away,
//! start a control plane of their own.
//!
//! Reading order: [`place`] has the words the tests are written in, [`lifecycle`] what Mandate
//! is for, [`delegation`] tasks below others; then [`hostile`], [`admission`], [`schema`],
//! [`crash`] with its [`gate`], [`absent`], [`workloads`], [`all`], [`chart`], [`vap`],
//! [`parity`], [`tools`].
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the answer")]

#[path = "../bed/mod.rs"]
mod bed;

#[allow(dead_code, reason = "the corpus' own test uses the rest")]
#[path = "../cases/case.rs"]
mod case;
#[allow(dead_code, reason = "the corpus' own test uses the rest")]
#[path = "../cases/seen.rs"]
mod seen;

mod absent;
mod admission;
mod all;
mod authorizer;
mod chart;
mod crash;
mod delegation;
mod gate;
mod hostile;
mod lifecycle;
mod lint;
mod parity;
mod place;
mod policies;
mod schema;
mod schemas;
mod standing;
mod tools;
mod vap;
mod workloads;
