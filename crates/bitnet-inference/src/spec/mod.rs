//! The description of a model, independent of its file format: its configuration, its
//! family, the names and shapes of its tensors.

pub mod config;
pub(crate) mod family;
pub(crate) mod multipliers;
pub(crate) mod rope;
pub(crate) mod sliding;
pub(crate) mod tensors;
