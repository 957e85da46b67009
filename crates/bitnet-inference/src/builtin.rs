//! The model embedded in the program.

use crate::format::checkpoint::Checkpoint;

static FILE: &[u8] = include_bytes!("../models/storyteller.gguf");

/// Opens the built-in model, `models/storyteller`, and returns its checkpoint.
pub fn open() -> Checkpoint {
    Checkpoint::open_static(FILE).expect("the built-in model is tested at build time")
}
