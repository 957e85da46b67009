//! Model files: bytes to checked views.
//!
//! Nothing here does arithmetic on weights.

pub mod checkpoint;
pub mod gguf;
pub(crate) mod gguf_model;
pub(crate) mod gguf_types;
mod hf_folder;
mod mapping;
