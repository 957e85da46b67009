//! A loaded model: the weights in the memory layout of the kernels, or on a device.

mod better_i2s_layout;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod linear;
mod load_context;
pub(crate) mod packed;
pub(crate) mod skipping;
pub(crate) mod ternary;

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use bitnet_core::memory::{Category, Counted};
use bitnet_core::{
    ComputeContext, HybridMemoryPool, Isa, PackedInt8, PackedTernary, TernaryLayout,
};
#[cfg(feature = "gpu")]
use bitnet_gpu::{GpuModel, HeadKind};
use load_context::LoadContext;
use packed::{Embedding, PackedWeights};

use crate::device::{Device, DeviceError, DeviceKind};
use crate::format::checkpoint::{Checkpoint, CheckpointError};
use crate::format::mapping::{Changed, FileBytes};
use crate::format::tensor::DenseTensor;
use crate::note::Note;
use crate::spec::config::{Config, ConfigError};
use crate::weight_cache::{CacheKey, PackedAs, Saved, WeightCache};

/// The precision of the output matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadPrecision {
    /// As stored in the file; logits are computed in f32.
    Exact,
    /// As stored in the file, with an int8 copy. If only the largest logits are requested
    /// ([`Logits::Top`]), the copy bounds all logits, and only those that can be among the
    /// largest are computed, bit-identical to [`Exact`](Self::Exact).
    ///
    /// [`Logits::Top`]: crate::Logits::Top
    ExactTopK,
    /// Int8 with one scale per row, and int8 activations.
    #[default]
    Int8,
}

/// Options of the memory layout of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// The precision of the output matrix.
    pub head: HeadPrecision,
    /// The layout of ternary weights; by default [`TernaryLayout::fastest`] on this machine.
    pub layout: Option<TernaryLayout>,
    /// Whether the rows of `up` and the columns of `down` are in this layout, too, and so are
    /// all read. By default those that are multiplied by zero are skipped, if the activation
    /// is squared ReLU and the kernels profit; that changes no result.
    pub read_all: bool,
}

impl From<HeadPrecision> for Packing {
    fn from(head: HeadPrecision) -> Self {
        Self {
            head,
            ..Self::default()
        }
    }
}

/// A loaded model. It is immutable and can be shared by engines.
#[derive(Debug)]
pub struct Model {
    config: Config,
    pool: HybridMemoryPool,
    weights: Weights,
    /// Accounts for the parts of the model's files that stay in memory.
    _in_files: Counted,
    /// The files, if weights are used in place.
    files: Option<Arc<[FileBytes]>>,
    notes: Vec<Note>,
    /// The key of its packed weights, if they may be saved.
    cache_key: Option<CacheKey>,
}

/// The weights of a model, where its device has them.
#[derive(Debug)]
pub(crate) enum Weights {
    Packed(Box<PackedWeights>),
    #[cfg(feature = "gpu")]
    Gpu(GpuWeights),
}

/// The weights of a model on a GPU.
#[cfg(feature = "gpu")]
#[derive(Debug)]
pub(crate) struct GpuWeights {
    pub(crate) model: Arc<GpuModel>,
    /// Accounts for the memory of the device.
    _on_device: Counted,
}

/// Where a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct LoadTarget<'a> {
    /// The device.
    pub device: &'a Device,
    /// The longest context of the model's engines; only a GPU needs it.
    pub context_len: usize,
    /// Where packed weights may be; only the CPU needs them. They are [saved](Model::save_packed)
    /// when the caller has time for it.
    pub cache: Option<&'a WeightCache>,
}

/// Why a model cannot be loaded onto a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The weights cannot be loaded.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
    /// The device failed, or does not compute the model.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl Model {
    /// Loads and packs all weights of a checkpoint and returns the model. Calls
    /// `progress(done, total)` with the number of loaded layers.
    ///
    /// The memory of the model and of its engines is allocated from `pool`. `ctx` needs no
    /// scratch memory.
    ///
    /// # Errors
    ///
    /// Returns an error if a tensor is invalid or has non-finite values, a width exceeds the
    /// limit of the kernels, a file was changed, or memory is exhausted.
    pub fn load(
        checkpoint: &Checkpoint,
        pool: &HybridMemoryPool,
        ctx: &mut ComputeContext<'_>,
        packing: impl Into<Packing>,
        progress: impl FnMut(usize, usize),
    ) -> Result<Self, CheckpointError> {
        Self::load_or_map(None, checkpoint, pool, ctx, packing.into(), progress)
    }

    /// Loads a model as [`load`](Self::load) does, from a cache if it is there.
    fn load_or_map(
        cache: Option<&WeightCache>,
        checkpoint: &Checkpoint,
        pool: &HybridMemoryPool,
        ctx: &mut ComputeContext<'_>,
        packing: Packing,
        progress: impl FnMut(usize, usize),
    ) -> Result<Self, CheckpointError> {
        let config = checkpoint.config();
        check_widths(config)?;
        let packed_as = PackedAs {
            layout: packing.layout,
            skips: !packing.read_all,
            int8_head: packing.head != HeadPrecision::Exact,
        };
        let key = |cache| Some((cache, CacheKey::new(checkpoint, ctx, packed_as)?));
        let cached = cache.and_then(key);
        let (packed, note) = match &cached {
            Some((cache, key)) => cache.find(key, ctx.threads),
            None => (None, None),
        };
        let layout = match (&packed, packing.layout) {
            (Some(packed), _) => packed.layout(),
            (None, Some(layout)) => layout,
            (None, None) => TernaryLayout::fastest(pool, ctx, config.n_linear_weights())?,
        };
        let ctx = &mut LoadContext {
            checkpoint,
            pool,
            compute: ctx,
            layout,
            read_all: packing.read_all,
            packed,
            notes: note.into_iter().collect(),
        };
        let weights = PackedWeights::load(ctx, packing.head, progress)?;
        let cache_key = match (&ctx.packed, cached) {
            (None, Some((_, key))) => Some(key),
            _ => None,
        };
        Ok(Self {
            cache_key,
            ..Self::loaded(ctx, Weights::Packed(Box::new(weights)))?
        })
    }

    /// Loads all weights of a checkpoint onto a device and returns the model: onto the CPU as
    /// [`load`](Self::load) does. On a GPU, `packing` is not used.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`load`](Self::load), or an error if the device fails or does not
    /// compute the model.
    pub fn load_on(
        to: LoadTarget<'_>,
        checkpoint: &Checkpoint,
        pool: &HybridMemoryPool,
        ctx: &mut ComputeContext<'_>,
        packing: Packing,
        progress: impl FnMut(usize, usize),
    ) -> Result<Self, ModelError> {
        match to.device {
            Device::Cpu => {
                let model = Self::load_or_map(to.cache, checkpoint, pool, ctx, packing, progress);
                Ok(model?)
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => {
                let ctx = &mut LoadContext {
                    checkpoint,
                    pool,
                    compute: ctx,
                    layout: TernaryLayout::TwoBits,
                    read_all: true,
                    packed: None,
                    notes: Vec::new(),
                };
                let model = gpu::upload(ctx, gpu, to.context_len, progress)?;
                let weights = GpuWeights {
                    _on_device: pool.count(Category::Device, model.n_bytes()),
                    model: Arc::new(model),
                };
                Ok(Self::loaded(ctx, Weights::Gpu(weights))?)
            }
        }
    }

    /// Returns the model when its weights are loaded.
    fn loaded(ctx: &mut LoadContext<'_, '_>, weights: Weights) -> Result<Self, CheckpointError> {
        let checkpoint = ctx.checkpoint;
        let in_memory = checkpoint.release_all();
        let changed = checkpoint.files().iter().find_map(FileBytes::changed);
        if let Some(Changed { file }) = changed {
            return Err(CheckpointError::Changed { file });
        }
        let (is_read_later, mapped) = match &weights {
            Weights::Packed(packed) => (
                packed.is_read_in_files(),
                packed.n_mapped_bytes() + packed.n_shared_bytes(),
            ),
            #[cfg(feature = "gpu")]
            Weights::Gpu(_) => (false, 0),
        };
        Ok(Self {
            files: is_read_later.then(|| Arc::clone(checkpoint.files())),
            notes: std::mem::take(&mut ctx.notes),
            cache_key: None,
            _in_files: (ctx.pool).count(Category::MappedFile, mapped + in_memory),
            weights,
            config: checkpoint.config().clone(),
            pool: ctx.pool.clone(),
        })
    }

    /// Returns the kind of the device that has the weights.
    pub fn device(&self) -> DeviceKind {
        match &self.weights {
            Weights::Packed(_) => DeviceKind::Cpu,
            #[cfg(feature = "gpu")]
            Weights::Gpu(weights) => DeviceKind::of(weights.model.gpu().info().api),
        }
    }

    /// Returns the weights.
    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Saves the packed weights in a cache, if the model was loaded [with it](LoadTarget::cache)
    /// but is not from it, at the speed of the disk or of memory. Calls `progress(done, total)`
    /// with bytes, which may cancel it.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written; there is none then.
    pub fn save_packed(
        &self,
        cache: &WeightCache,
        progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> io::Result<Saved> {
        match (&self.cache_key, self.packed_on_cpu()) {
            (Some(key), Some(packed)) => {
                cache.write(key, packed.layout(), &packed.matrices(), progress)
            }
            _ => Ok(Saved::Nothing),
        }
    }

    /// Returns the packed weights; `None` if they are on a GPU.
    pub(crate) fn packed_on_cpu(&self) -> Option<&PackedWeights> {
        match &self.weights {
            Weights::Packed(packed) => Some(packed),
            #[cfg(feature = "gpu")]
            Weights::Gpu(_) => None,
        }
    }

    /// Returns whether the packed weights are in the mapped file of a [`WeightCache`].
    pub fn is_from_cache(&self) -> bool {
        (self.packed_on_cpu()).is_some_and(|packed| packed.n_shared_bytes() > 0)
    }

    /// Returns the packed weights.
    ///
    /// # Panics
    ///
    /// Panics if they are on a GPU.
    pub(crate) fn packed(&self) -> &PackedWeights {
        (self.packed_on_cpu()).expect("the CPU computes with packed weights")
    }

    /// Returns the dense embedding that the CPU reads in the file, if there is one.
    pub(crate) fn dense_embedding(&self) -> Option<&DenseTensor> {
        match &self.weights {
            Weights::Packed(packed) => match &packed.embedding {
                Embedding::Dense(matrix) => Some(matrix),
                Embedding::Ternary(_) => None,
            },
            #[cfg(feature = "gpu")]
            Weights::Gpu(_) => None,
        }
    }

    /// Returns warnings about the weights: tensors that are all zero, and extreme scales and
    /// norm weights.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Returns the first file with weights used in place that was changed since loading.
    pub(crate) fn changed(&self) -> Option<Changed> {
        self.files
            .iter()
            .flat_map(|files| files.iter())
            .find_map(FileBytes::changed)
    }

    /// Returns the error of the first weight that is not finite, or whose square is not, in
    /// the matrices that loading did not read.
    pub(crate) fn first_not_finite(&self, isa: Isa) -> Option<CheckpointError> {
        match &self.weights {
            Weights::Packed(packed) => packed.first_not_finite(isa),
            #[cfg(feature = "gpu")]
            Weights::Gpu(_) => None,
        }
    }

    /// Returns the memory pool of the model.
    pub fn pool(&self) -> &HybridMemoryPool {
        &self.pool
    }

    /// Returns the configuration of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the precision of the output matrix.
    pub fn head_precision(&self) -> HeadPrecision {
        match &self.weights {
            Weights::Packed(packed) => packed.head_precision(),
            #[cfg(feature = "gpu")]
            Weights::Gpu(weights) => match weights.model.shape().head {
                HeadKind::Int8 => HeadPrecision::Int8,
                // Packing trits is lossless.
                HeadKind::Ternary | HeadKind::TiedTernary => HeadPrecision::Exact,
            },
        }
    }

    /// Returns the layout of the ternary weights that are all read;
    /// [`TernaryLayout::TwoBits`] if there are none.
    pub fn layout(&self) -> TernaryLayout {
        match &self.weights {
            Weights::Packed(packed) => packed.layout(),
            #[cfg(feature = "gpu")]
            Weights::Gpu(_) => TernaryLayout::TwoBits,
        }
    }

    /// Returns the bytes of packed weights, norms and output matrix, in memory or in the mapped
    /// file of a cache, without the weights used in place in the model's files.
    pub fn n_bytes(&self) -> usize {
        match &self.weights {
            Weights::Packed(packed) => packed.n_bytes(),
            #[cfg(feature = "gpu")]
            Weights::Gpu(weights) => weights.model.n_bytes(),
        }
    }

    /// Returns the bytes of weights that are read per decoded token, if none are
    /// [skipped](crate::Engine::skipped): all weights without the embedding, and without the
    /// few rows of the output matrix that [`HeadPrecision::ExactTopK`] computes.
    pub fn bytes_per_token(&self) -> usize {
        match &self.weights {
            Weights::Packed(packed) => packed.bytes_per_token(),
            #[cfg(feature = "gpu")]
            Weights::Gpu(weights) => weights.model.bytes_per_token(),
        }
    }

    /// Returns the multiply-adds of the linear layers per token, without the output matrix.
    pub fn macs_per_token(&self) -> usize {
        self.config.n_linear_weights()
    }
}

/// Returns the error for a row that has a non-finite value.
pub(crate) fn not_finite(tensor: &DenseTensor, isa: Isa, row: usize) -> CheckpointError {
    let mut values = vec![0.0; tensor.n_cols];
    let col = not_finite_in(tensor, isa, row, &mut values);
    CheckpointError::NotFinite {
        name: tensor.name().to_owned(),
        row,
        col: col.unwrap_or(0),
        value: col.map_or(f32::NAN, |col| values[col]),
    }
}

/// Decodes a row into `values` and returns the first column whose value is not finite, or
/// whose square is not.
fn not_finite_in(tensor: &DenseTensor, isa: Isa, row: usize, values: &mut [f32]) -> Option<usize> {
    tensor.decode_row(isa, row, values);
    (values.iter()).position(|value| !(value * value).is_finite())
}

/// Checks that the integer dot products of all widths are exact.
fn check_widths(config: &Config) -> Result<(), CheckpointError> {
    let widths = [
        ("hidden size", config.hidden_dim),
        ("attention width", config.q_dim()),
        ("feed-forward size", config.ffn_dim),
    ];
    let limit = PackedTernary::MAX_COLS.min(PackedInt8::MAX_COLS);
    match widths.into_iter().find(|(_, width)| *width > limit) {
        Some((what, value)) => Err(ConfigError::Size { what, value, limit }.into()),
        None => Ok(()),
    }
}
