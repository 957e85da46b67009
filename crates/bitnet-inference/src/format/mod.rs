//! Reading model files into validated views.
//!
//! This module does no arithmetic on weights.

pub mod checkpoint;
pub mod gguf;
pub(crate) mod gguf_model;
mod gguf_split;
pub(crate) mod gguf_types;
mod hf_folder;
pub(crate) mod i2s_layout;
pub(crate) mod lax_json;
pub(crate) mod mapping;
pub(crate) mod tensor;
mod unsupported_keys;
