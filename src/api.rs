//! The resources people write: `mandate.dev/v1alpha1`.
//!
//! One kind, one file. Every limit, default and validation rule is stated in the
//! type, from which `mandate crds` prints the CustomResourceDefinitions; the field
//! comments are what `kubectl explain` shows.

pub mod names;
pub mod v1alpha1;
pub mod value;

pub use v1alpha1::*;
pub use value::*;

/// API group of every Mandate resource.
pub const GROUP: &str = "mandate.dev";
