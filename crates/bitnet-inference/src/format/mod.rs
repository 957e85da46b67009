//! Model files: bytes to checked views.
//!
//! Nothing here does arithmetic on weights.

pub mod checkpoint;
pub mod gguf;
pub(crate) mod gguf_model;
mod hf_folder;
mod mapping;
