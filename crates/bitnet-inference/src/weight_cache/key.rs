//! What packed weights depend on.

use std::path::PathBuf;

use bitnet_core::{ComputeContext, TernaryLayout};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::format::checkpoint::Checkpoint;
use crate::format::mapping::{FileBytes, FileIdentity};

/// Changes whenever other bytes are packed for the same model, or the file has another form.
pub(super) const VERSION: u32 = 1;

/// How the weights of a model are packed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedAs {
    /// The layout of ternary weights; `None`: the fastest.
    pub(crate) layout: Option<TernaryLayout>,
    /// Whether rows and columns that are multiplied by zero are packed one by one, if the
    /// kernels profit.
    pub(crate) skips: bool,
    /// Whether there is an int8 output matrix, if the stored one is dense.
    pub(crate) int8_head: bool,
}

/// What packed weights depend on: the files of the model, and how they are packed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CacheKey {
    version: u32,
    program: String,
    /// Whether the arrays have the byte order of such a machine.
    big_endian: bool,
    files: Vec<FileIdentity>,
    /// Hash of what the headers of the files say: the tensors and the configuration.
    header: String,
    /// The requested layout, or what it is measured for.
    layout: String,
    /// Whether rows and columns that are multiplied by zero are packed one by one.
    skips: bool,
    /// Whether there is an int8 output matrix.
    int8_head: bool,
}

impl CacheKey {
    /// Returns the key of a model that is packed like this; `None` if it has no files, or they
    /// have no known time of change.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        ctx: &ComputeContext<'_>,
        packed: PackedAs,
    ) -> Option<Self> {
        let files = checkpoint.files().iter().map(FileBytes::identity);
        let config = checkpoint.config();
        let header = format!(
            "{config:?} {:?} {:?}",
            checkpoint.rotary_rows(),
            checkpoint.tensors()
        );
        let mut candidates = TernaryLayout::candidates(ctx.isa, config.n_linear_weights());
        let layout = match (packed.layout, candidates.next(), candidates.next()) {
            (Some(layout), ..) | (None, Some(layout), None) => format!("{layout:?}"),
            _ => format!(
                "fastest of {}, {} threads",
                ctx.isa,
                ctx.threads.n_threads()
            ),
        };
        Some(Self {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            big_endian: cfg!(target_endian = "big"),
            files: files.collect::<Option<_>>()?,
            header: format!("{:032x}", XxHash3_128::oneshot(header.as_bytes())),
            layout,
            skips: packed.skips && ctx.isa.has_sparse(),
            int8_head: packed.int8_head,
        })
    }

    /// Returns the identifier of the file.
    pub(crate) fn id(&self) -> u128 {
        XxHash3_128::oneshot(format!("{self:?}").as_bytes())
    }

    /// Returns the path of the model's first file.
    pub(super) fn model(&self) -> PathBuf {
        let file = self.files.first();
        file.map_or_else(PathBuf::new, |file| file.path().to_owned())
    }

    /// Returns whether this program may still load a model from a file with this key.
    pub(super) fn is_current(&self) -> bool {
        let is_same =
            |file: &FileIdentity| FileIdentity::of(file.path()).is_some_and(|now| now == *file);
        self.version == VERSION
            && self.program == env!("CARGO_PKG_VERSION")
            && self.files.iter().all(is_same)
    }
}
