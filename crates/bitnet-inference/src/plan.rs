//! What is decided before the first token: instruction set, threads, context, batch.

use bitnet_core::{
    AttentionExtents, AttentionScratch, Device, DeviceError, DeviceKind, Isa, KvPage, KvPrecision,
    OutOfMemory, PinError, ThreadPool, TopKScratch,
};

use crate::format::checkpoint::Checkpoint;
use crate::kv_cache;
use crate::memory_estimate::{self, MemoryEstimate, MemoryLimitError, MemoryOptions};
use crate::model::HeadPrecision;
use crate::model::linear::LinearInput;
use crate::spec::config::Config;

/// Positions in one pass over the weights while a prompt is read: enough that
/// unpacking weights costs little beside multiplying them, few enough that
/// activations stay in the cache.
const BATCH_TOKENS: usize = 256;

/// Rows of logits computed together.
pub(crate) const HEAD_ROWS: usize = 16;

/// The context taken when none is asked for, if the model allows as much.
const DEFAULT_CONTEXT: usize = 4096;

/// More threads than any machine has cores.
const MAX_THREADS: usize = 1024;

/// More sequences than any machine runs side by side.
const MAX_SEQUENCES: usize = 1 << 16;

/// What a user may choose; the rest follows from the model and the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanOptions {
    /// The device; the fastest one of this machine if none is given.
    pub device: Option<DeviceKind>,
    /// The instruction set; the best one of this machine if none is given.
    pub isa: Option<Isa>,
    /// Threads; as many as the system offers if not given.
    pub n_threads: Option<usize>,
    /// Whether threads stay on a processor each: [`ThreadPool::pinned`].
    pub pinned: bool,
    /// Positions per sequence; if not given, what the model was made for, but
    /// at most 4096.
    pub context_len: Option<usize>,
    /// Sequences side by side; one if not given.
    pub n_sequences: Option<usize>,
    /// How keys and values are kept.
    pub kv_precision: KvPrecision,
    /// Pages of keys and values, of [`KvPage::POSITIONS`] positions each, that all
    /// sequences share; if not given, enough for the context of each.
    pub kv_pages: Option<usize>,
}

/// What stays the same for the life of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What computes.
    pub device: DeviceKind,
    /// The instruction set that computes.
    pub isa: Isa,
    /// Threads, the calling one included.
    pub n_threads: usize,
    /// Whether they stay on a processor each.
    pub pinned: bool,
    /// Positions per sequence.
    pub context_len: usize,
    /// Sequences side by side.
    pub n_sequences: usize,
    /// How keys and values are kept.
    pub kv_precision: KvPrecision,
    /// The most positions in one pass over the weights.
    pub batch_tokens: usize,
    /// The most pages of keys and values. They are taken as sequences grow.
    pub kv_pages: usize,
    /// Bytes of as many pages.
    pub kv_bytes: usize,
    /// Bytes of the keys and values of one position of a sequence.
    pub kv_bytes_per_position: usize,
    /// Bytes of activations, scores, logits and rotary positions.
    pub scratch_bytes: usize,
}

impl Plan {
    /// Starts the threads.
    pub fn thread_pool(&self) -> Result<ThreadPool, PlanError> {
        if self.pinned {
            return Ok(ThreadPool::pinned(self.n_threads)?);
        }
        Ok(ThreadPool::new(self.n_threads))
    }

    /// Makes a plan for a model.
    pub fn new(config: &Config, options: PlanOptions) -> Result<Self, PlanError> {
        let device = Device::select(options.device)?;
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
        Ok(Self {
            device,
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
                + LinearInput::n_bytes(config, batch_tokens)
                + AttentionScratch::n_bytes(attention)
                + TopKScratch::n_bytes(config.head_shape())
                + config.rope_dims() * context_len * size_of::<f32>(),
        })
    }

    /// Makes a plan for a model that takes at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// Returns an error that tells what it would take and what would fit, before
    /// anything is taken.
    pub fn within(
        limit: usize,
        checkpoint: &Checkpoint,
        head: HeadPrecision,
        options: PlanOptions,
    ) -> Result<Self, PlanError> {
        let plan = Self::new(checkpoint.config(), options)?;
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
                        head: memory_estimate::head_bytes(checkpoint, head),
                        kv: plan.kv_bytes,
                        scratch: plan.scratch_bytes,
                        ..estimate
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

    /// Adds up what a model takes.
    pub fn memory_estimate(&self, checkpoint: &Checkpoint, head: HeadPrecision) -> MemoryEstimate {
        MemoryEstimate {
            weights: memory_estimate::weight_bytes(checkpoint, self.isa),
            head: memory_estimate::head_bytes(checkpoint, head),
            kv: self.kv_bytes,
            scratch: self.scratch_bytes,
        }
    }
}

/// Returns the largest number up to `max` that is good, if all below it are, or 0.
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

/// Why a plan is impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A device that cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Threads that cannot have a processor each.
    #[error("cannot pin threads: {0}")]
    Pin(#[from] PinError),
    /// A number of threads that makes no sense.
    #[error("cannot run on {n_threads} threads, expected 1 to {MAX_THREADS}")]
    Threads {
        /// Threads asked for.
        n_threads: usize,
    },
    /// The model cannot look back so far.
    #[error(
        "a context of {context_len} tokens is impossible, expected 1 to {limit}, what the model was made for"
    )]
    Context {
        /// Positions asked for.
        context_len: usize,
        /// Positions that the model was made for.
        limit: usize,
    },
    /// A number of sequences that makes no sense.
    #[error("cannot run {n_sequences} sequences, expected 1 to {MAX_SEQUENCES}")]
    Sequences {
        /// Sequences asked for.
        n_sequences: usize,
    },
    /// No sequence could hold anything.
    #[error("cannot run without a page of keys and values")]
    KvPages,
    /// The model takes more memory than it may.
    #[error(transparent)]
    MemoryLimit(Box<MemoryLimitError>),
    /// The system has not enough memory.
    #[error("not enough memory for {what}: {n_bytes} bytes")]
    Memory {
        /// What the memory is for.
        what: &'static str,
        /// How much was asked for.
        n_bytes: usize,
    },
}

impl PlanError {
    /// Says what the memory was for.
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
