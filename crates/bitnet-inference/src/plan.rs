//! The configuration of an engine: ISA, threads, context length, batch and KV cache.

use bitnet_core::{
    AttentionExtents, AttentionScratch, Isa, KvPage, KvPrecision, OutOfMemory, PinError,
    ThreadPool, TopKScratch,
};
#[cfg(feature = "gpu")]
use bitnet_gpu::SessionOptions;

use crate::device::{DeviceError, DeviceKind, Unusable};
use crate::format::checkpoint::Checkpoint;
use crate::kv_cache;
use crate::memory_estimate::{self, MemoryEstimate, MemoryLimitError, MemoryOptions};
use crate::model::HeadPrecision;
#[cfg(feature = "gpu")]
use crate::model::gpu;
use crate::model::linear::LinearInput;
use crate::spec::config::Config;

/// Maximum rows of a prefill pass: enough to amortize the unpacking of weights, few enough
/// for activations to stay in cache.
const BATCH_TOKENS: usize = 256;

/// Maximum rows of one output-matrix multiplication.
pub(crate) const HEAD_ROWS: usize = 16;

/// Default context length, unless the model's own is shorter.
const DEFAULT_CONTEXT: usize = 4096;

/// Maximum number of threads.
const MAX_THREADS: usize = 1024;

/// Maximum number of concurrent sequences.
const MAX_SEQUENCES: usize = 1 << 16;

/// Options of a plan. The other values follow from the model and the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanOptions {
    /// The device that the model is loaded on; by default the CPU.
    pub device: DeviceKind,
    /// The instruction set; by default the best one of this machine.
    pub isa: Option<Isa>,
    /// Number of threads; by default the available parallelism of the system.
    pub n_threads: Option<usize>,
    /// Whether each thread is pinned to a logical CPU: [`ThreadPool::pinned`].
    pub pinned: bool,
    /// Positions per sequence; by default the context length of the model, at most 4096.
    pub context_len: Option<usize>,
    /// Number of concurrent sequences; by default 1.
    pub n_sequences: Option<usize>,
    /// The precision of the KV cache.
    pub kv_precision: KvPrecision,
    /// Number of KV pages, of [`KvPage::POSITIONS`] positions each, for all sequences
    /// together; by default enough for the full context of each.
    pub kv_pages: Option<usize>,
}

/// The configuration of an engine, fixed for its lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The device.
    pub device: DeviceKind,
    /// The instruction set.
    pub isa: Isa,
    /// Number of threads, including the calling one.
    pub n_threads: usize,
    /// Whether each thread is pinned to a logical CPU.
    pub pinned: bool,
    /// Positions per sequence.
    pub context_len: usize,
    /// Number of concurrent sequences.
    pub n_sequences: usize,
    /// The precision of the KV cache.
    pub kv_precision: KvPrecision,
    /// Maximum rows of one forward pass.
    pub batch_tokens: usize,
    /// Maximum number of KV pages. They are allocated as sequences grow.
    pub kv_pages: usize,
    /// Bytes of that many pages.
    pub kv_bytes: usize,
    /// Bytes of the KV cache per position.
    pub kv_bytes_per_position: usize,
    /// Bytes of activations, attention scores, logits and rotary tables.
    pub scratch_bytes: usize,
}

impl Plan {
    /// Starts the threads and returns their pool.
    ///
    /// # Errors
    ///
    /// Returns an error if the threads are to be pinned and cannot be.
    pub fn thread_pool(&self) -> Result<ThreadPool, PlanError> {
        if self.pinned {
            return Ok(ThreadPool::pinned(self.n_threads)?);
        }
        Ok(ThreadPool::new(self.n_threads))
    }

    /// Returns a plan for a model.
    ///
    /// # Errors
    ///
    /// Returns an error if the device is not usable or an option is out of range.
    pub fn new(config: &Config, options: PlanOptions) -> Result<Self, PlanError> {
        check_device(options)?;
        let isa = options.isa.unwrap_or_else(Isa::best);
        let n_threads = options.n_threads.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, |n| usize::from(n).min(MAX_THREADS))
        });
        if n_threads == 0 || n_threads > MAX_THREADS {
            return Err(PlanError::Threads { n_threads });
        }
        let context_len = options
            .context_len
            .unwrap_or(config.context_len.min(DEFAULT_CONTEXT));
        if context_len == 0 || context_len > config.context_len {
            return Err(PlanError::Context {
                context_len,
                limit: config.context_len,
            });
        }
        let n_sequences = options.n_sequences.unwrap_or(1);
        if n_sequences == 0 || n_sequences > MAX_SEQUENCES {
            return Err(PlanError::Sequences { n_sequences });
        }
        let batch_tokens = BATCH_TOKENS.min(context_len * n_sequences).max(n_sequences);
        let per_token =
            2 * config.hidden_dim + 2 * config.q_dim() + 2 * config.kv_dim() + 2 * config.ffn_dim;
        let scratch = per_token * batch_tokens
            + config.widest() * n_threads
            + HEAD_ROWS * (config.hidden_dim + config.vocab_size);
        let per_sequence = context_len.div_ceil(KvPage::POSITIONS);
        let kv_pages = options.kv_pages.unwrap_or(n_sequences * per_sequence);
        if kv_pages == 0 {
            return Err(PlanError::KvPages);
        }
        let kv_shape = kv_cache::shape(config, options.kv_precision);
        let attention = AttentionExtents {
            n_threads,
            max_rows: batch_tokens,
            kv_shape,
            n_positions: context_len,
            heads_per_kv_head: config.n_heads / config.n_kv_heads,
        };
        let kv_precision = options.kv_precision;
        let plan = Self {
            device: options.device,
            isa,
            n_threads,
            pinned: options.pinned,
            context_len,
            n_sequences,
            kv_precision,
            batch_tokens,
            kv_pages,
            kv_bytes: kv_pages.saturating_mul(kv_shape.page_bytes()),
            kv_bytes_per_position: kv_shape.page_bytes() / KvPage::POSITIONS,
            scratch_bytes: scratch * size_of::<f32>()
                + LinearInput::n_bytes(config, isa, batch_tokens)
                + AttentionScratch::n_bytes(attention)
                + TopKScratch::n_bytes(config.head_shape())
                + config.rope_dims() * context_len * size_of::<f32>(),
        };
        #[cfg(feature = "gpu")]
        if options.device != DeviceKind::Cpu {
            let shape = gpu::shape_of(config, context_len);
            let session = plan.session_options().required_bytes(&shape);
            return Ok(Self {
                scratch_bytes: session.saturating_sub(plan.kv_bytes),
                ..plan
            });
        }
        Ok(plan)
    }

    /// Returns the options of a session on a GPU.
    #[cfg(feature = "gpu")]
    pub(crate) fn session_options(&self) -> SessionOptions {
        SessionOptions {
            n_pages: self.kv_pages,
            batch_tokens: self.batch_tokens,
        }
    }

    /// Returns a plan for a model that needs at most `limit` bytes. Allocates nothing.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`new`](Self::new), or [`PlanError::MemoryLimit`] with the
    /// estimate and the options that would fit.
    pub fn within(
        limit: usize,
        checkpoint: &Checkpoint,
        head: HeadPrecision,
        options: PlanOptions,
    ) -> Result<Self, PlanError> {
        let plan = Self::new(checkpoint.config(), options)?;
        let parts = plan.parts(checkpoint, head);
        if plan.device == DeviceKind::Cpu {
            let weights = memory_estimate::max_weight_bytes(checkpoint, plan.isa);
            if (MemoryEstimate { weights, ..parts }).total() <= limit {
                return Ok(plan);
            }
        }
        let estimate = plan.memory_estimate(checkpoint, head);
        if estimate.total() <= limit {
            return Ok(plan);
        }
        let mut fits = Vec::new();
        for (head, kv_precision) in [
            (head, options.kv_precision),
            (head, KvPrecision::Int8),
            (HeadPrecision::Int8, options.kv_precision),
            (HeadPrecision::Int8, KvPrecision::Int8),
        ] {
            let does_fit = |context_len: usize| {
                let options = PlanOptions {
                    context_len: Some(context_len),
                    kv_precision,
                    ..options
                };
                Self::new(checkpoint.config(), options).is_ok_and(|plan| {
                    let estimate = MemoryEstimate {
                        weights: estimate.weights,
                        ..plan.parts(checkpoint, head)
                    };
                    estimate.total() <= limit
                })
            };
            let context_len = last(plan.context_len, does_fit);
            let is_better = |fit: &MemoryOptions| fit.context_len >= context_len;
            if context_len > 0 && !fits.iter().any(is_better) {
                fits.push(MemoryOptions {
                    head,
                    kv_precision,
                    context_len,
                });
            }
        }
        let error = MemoryLimitError {
            limit,
            estimate,
            requested: MemoryOptions {
                head,
                kv_precision: plan.kv_precision,
                context_len: plan.context_len,
            },
            fits,
        };
        Err(PlanError::MemoryLimit(Box::new(error)))
    }

    /// Returns an estimate of the memory that a model and its engine need.
    pub fn memory_estimate(&self, checkpoint: &Checkpoint, head: HeadPrecision) -> MemoryEstimate {
        MemoryEstimate {
            weights: self.weight_bytes(checkpoint),
            ..self.parts(checkpoint, head)
        }
    }

    /// Returns the bytes of the weights; on a GPU, of all.
    fn weight_bytes(&self, checkpoint: &Checkpoint) -> usize {
        match self.device {
            #[cfg(feature = "gpu")]
            DeviceKind::Metal | DeviceKind::Vulkan | DeviceKind::Dx12 => {
                // What a GPU does not compute is an error when it is loaded.
                let shape = gpu::shape(checkpoint, self.context_len);
                shape.map_or(0, |shape| shape.required_bytes())
            }
            _ => memory_estimate::weight_bytes(checkpoint, self.isa),
        }
    }

    /// Returns the estimate without the weights.
    fn parts(&self, checkpoint: &Checkpoint, head: HeadPrecision) -> MemoryEstimate {
        MemoryEstimate {
            weights: 0,
            head: match self.device {
                DeviceKind::Cpu => memory_estimate::head_bytes(checkpoint, head),
                _ => 0,
            },
            kv: self.kv_bytes,
            scratch: self.scratch_bytes,
        }
    }
}

/// Checks that the device computes with these options.
fn check_device(options: PlanOptions) -> Result<(), DeviceError> {
    match options.device {
        DeviceKind::Cpu => Ok(()),
        DeviceKind::Metal | DeviceKind::Vulkan | DeviceKind::Dx12 if cfg!(feature = "gpu") => {
            match options.kv_precision {
                KvPrecision::F16 => Ok(()),
                KvPrecision::F32 | KvPrecision::Int8 => Err(DeviceError::KvPrecision),
            }
        }
        kind => Err(DeviceError::Unusable {
            kind,
            reason: Unusable::NotCompiledIn(kind),
        }),
    }
}

/// Returns the largest `n <= max` with `is_good(n)`, or 0, by binary search: `is_good` must be
/// monotonic.
fn last(max: usize, is_good: impl Fn(usize) -> bool) -> usize {
    let (mut good, mut bad) = (0, max + 1);
    while bad - good > 1 {
        let middle = good.midpoint(bad);
        if is_good(middle) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    good
}

/// An error of a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The device is not usable.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The model is on another device.
    #[error("the plan is for device {planned}, but the model is on device {loaded}")]
    OtherDevice {
        /// The device of the plan.
        planned: DeviceKind,
        /// The device of the model.
        loaded: DeviceKind,
    },
    /// The threads cannot be pinned.
    #[error("cannot pin threads: {0}")]
    Pin(#[from] PinError),
    /// The number of threads is out of range.
    #[error("cannot run on {n_threads} threads, expected 1 to {MAX_THREADS}")]
    Threads {
        /// The requested number of threads.
        n_threads: usize,
    },
    /// The context length is out of range.
    #[error(
        "a context of {context_len} tokens is impossible, expected 1 to {limit}, what the model was made for"
    )]
    Context {
        /// The requested context length.
        context_len: usize,
        /// The context length of the model.
        limit: usize,
    },
    /// The number of sequences is out of range.
    #[error("cannot run {n_sequences} sequences, expected 1 to {MAX_SEQUENCES}")]
    Sequences {
        /// The requested number of sequences.
        n_sequences: usize,
    },
    /// The number of KV pages is 0.
    #[error("cannot run without a page of keys and values")]
    KvPages,
    /// The model exceeds the memory limit.
    #[error(transparent)]
    MemoryLimit(Box<MemoryLimitError>),
    /// An allocation failed.
    #[error("not enough memory for {what}: {n_bytes} bytes")]
    Memory {
        /// The purpose of the allocation.
        what: &'static str,
        /// The requested bytes.
        n_bytes: usize,
    },
}

impl PlanError {
    /// Returns a function that adds the purpose of an allocation to its error.
    pub(crate) fn memory(what: &'static str) -> impl Fn(OutOfMemory) -> Self {
        move |OutOfMemory { n_bytes }| Self::Memory { what, n_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::config::{Activation, ActivationPrecision};
    use crate::spec::family::BITNET_B158;
    use crate::spec::multipliers::Multipliers;
    use crate::spec::rope::{Rope, RopeScaling};

    fn config() -> Config {
        Config {
            family: &BITNET_B158,
            hidden_dim: 512,
            n_layers: 10,
            n_heads: 8,
            n_kv_heads: 4,
            head_dim: 64,
            ffn_dim: 1536,
            vocab_size: 8192,
            context_len: 1024,
            rms_norm_eps: 1e-5,
            rope: Rope {
                theta: 500_000.0,
                n_dims: 64,
                scaling: RopeScaling::None,
            },
            activation: Activation::Relu2,
            tied_embeddings: true,
            projection_norms: false,
            dense_linears: false,
            activations: ActivationPrecision::Int8,
            pooling: None,
            multipliers: Multipliers::plain(64),
            sliding: None,
        }
    }

    #[test]
    fn a_plan_takes_the_context_of_the_model_and_counts_its_cache() {
        let plan = Plan::new(&config(), PlanOptions::default()).unwrap();
        assert_eq!((plan.context_len, plan.batch_tokens), (1024, 256));
        assert_eq!(plan.kv_bytes, 2 * 2 * 10 * 4 * 64 * 1024);
        let long = Config {
            context_len: 131_072,
            ..config()
        };
        let plan = Plan::new(&long, PlanOptions::default()).unwrap();
        assert_eq!(plan.context_len, 4096);
    }

    #[test]
    fn impossible_wishes_are_refused() {
        let refused = |options| Plan::new(&config(), options).unwrap_err();
        let none = PlanOptions::default();
        let context = |context_len| PlanError::Context {
            context_len,
            limit: 1024,
        };
        for n in [0, 1025] {
            let wish = PlanOptions {
                context_len: Some(n),
                ..none
            };
            assert_eq!(refused(wish), context(n));
        }
        for n in [0, 100_000] {
            let wish = PlanOptions {
                n_threads: Some(n),
                ..none
            };
            assert_eq!(refused(wish), PlanError::Threads { n_threads: n });
        }
        for n in [0, 100_000] {
            let wish = PlanOptions {
                n_sequences: Some(n),
                ..none
            };
            assert_eq!(refused(wish), PlanError::Sequences { n_sequences: n });
        }
    }
}
