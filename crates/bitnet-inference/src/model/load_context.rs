//! What weights are loaded with.

use bitnet_core::{ComputeContext, HybridMemoryPool, TernaryLayout};

use crate::format::checkpoint::Checkpoint;
use crate::note::Note;

/// What weights are loaded with.
pub(crate) struct LoadContext<'a, 'c> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) pool: &'a HybridMemoryPool,
    pub(crate) compute: &'a mut ComputeContext<'c>,
    /// How ternary weights are packed.
    pub(crate) layout: TernaryLayout,
    /// What is odd about the weights that were loaded.
    pub(crate) notes: Vec<Note>,
}
