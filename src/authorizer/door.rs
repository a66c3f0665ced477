//! The protocols by which is asked. Each turns its own words into a
//! [`Question`](super::Question) and an [`Answer`](super::Answer) into its own words; none
//! decides anything.

pub mod authzen;
pub mod envoy;
pub mod kubernetes;
