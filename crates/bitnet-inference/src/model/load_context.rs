//! The load context.

use bitnet_core::{ComputeContext, HybridMemoryPool, TernaryLayout};

use crate::format::checkpoint::Checkpoint;
use crate::note::Note;
use crate::weight_cache::PackedFile;

/// The shared state of loading a model.
pub(crate) struct LoadContext<'a, 'c> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) pool: &'a HybridMemoryPool,
    pub(crate) compute: &'a mut ComputeContext<'c>,
    /// The layout of ternary weights.
    pub(crate) layout: TernaryLayout,
    /// Whether that is the layout of all of them.
    pub(crate) read_all: bool,
    /// The packed weights, if they are in a cache.
    pub(crate) packed: Option<PackedFile>,
    /// Warnings about the weights loaded so far.
    pub(crate) notes: Vec<Note>,
}
