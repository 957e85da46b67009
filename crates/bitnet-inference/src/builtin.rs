//! The model that is part of the program.

use crate::format::checkpoint::Checkpoint;

static FILE: &[u8] = include_bytes!("../../../models/storyteller/storyteller.gguf");

/// Opens the built-in model: a small storyteller, see `models/storyteller`.
pub fn open() -> Checkpoint {
    Checkpoint::open_static(FILE).expect("the built-in model is tested at build time")
}
