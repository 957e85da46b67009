//! Estimates the memory of a model and its engine before allocation.

use std::fmt;

use bitnet_core::{Isa, KvPrecision, PackedInt8, PackedTernary, Scales, TernaryLayout};

use crate::format::checkpoint::Checkpoint;
use crate::format::tensor::Encoding;
use crate::model::{HeadPrecision, skipping};
use crate::spec::tensors::{self, Role};

/// Bytes that a model and an engine need, by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Packed weights and norms, in the largest layout that may be selected at load.
    pub weights: usize,
    /// The output matrix: the int8 copy, the stored matrix for exact logits, or both.
    pub head: usize,
    /// The KV cache with all pages allocated.
    pub kv: usize,
    /// Activations, attention scores, logits and rotary tables.
    pub scratch: usize,
}

/// The options that determine the memory of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOptions {
    /// The precision of the output matrix.
    pub head: HeadPrecision,
    /// The precision of the KV cache.
    pub kv_precision: KvPrecision,
    /// The context length in positions.
    pub context_len: usize,
}

/// The error of a model that exceeds the memory limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimitError {
    /// The limit in bytes.
    pub limit: usize,
    /// The memory that the requested options need.
    pub estimate: MemoryEstimate,
    /// The requested options.
    pub requested: MemoryOptions,
    /// Options that would fit, each with its maximum context length: first with the requested
    /// precisions, then with lower ones. Empty if none fits.
    pub fits: Vec<MemoryOptions>,
}

impl MemoryEstimate {
    /// Returns the total in bytes.
    pub fn total(&self) -> usize {
        let rest = self.head.saturating_add(self.scratch);
        self.weights.saturating_add(self.kv).saturating_add(rest)
    }
}

/// Returns the bytes of all weights in the largest layout that may be selected. Excludes the
/// output matrix and a dense embedding, of which single rows are read from the file.
pub(crate) fn weight_bytes(checkpoint: &Checkpoint, isa: Isa) -> usize {
    in_largest_layout(checkpoint, isa, stored_scales)
}

/// Returns at least [`weight_bytes`], and does not read the scales, which are spread over the
/// whole file.
pub(crate) fn max_weight_bytes(checkpoint: &Checkpoint, isa: Isa) -> usize {
    in_largest_layout(checkpoint, isa, most_scales)
}

/// Returns the scales of a ternary tensor; their values do not matter here.
type ScalesOf = fn(&Checkpoint, &str) -> Scales;

fn stored_scales(checkpoint: &Checkpoint, name: &str) -> Scales {
    // Invalid scales are an error at load.
    (checkpoint.trits(name)).map_or(Scales::Tensor(1.0), |(_, scales)| scales)
}

/// Returns as many scales as the encoding may have.
fn most_scales(checkpoint: &Checkpoint, name: &str) -> Scales {
    let values = Vec::new();
    match checkpoint.tensor(name).encoding {
        Encoding::Ternary(ty) => match ty.group_len() {
            Some(len) => Scales::Groups { len, values },
            None => Scales::Rows(values),
        },
        Encoding::Dense(_) | Encoding::Masters(_) => Scales::Tensor(1.0),
    }
}

fn in_largest_layout(checkpoint: &Checkpoint, isa: Isa, scales: ScalesOf) -> usize {
    let n_weights = checkpoint.config().n_linear_weights();
    let layouts = TernaryLayout::candidates(isa, n_weights);
    let weights = layouts.map(|layout| weights(checkpoint, isa, layout, scales));
    weights.max().expect("there is a layout")
}

/// Returns the bytes of these weights in one layout of panels.
fn weights(checkpoint: &Checkpoint, isa: Isa, layout: TernaryLayout, scales: ScalesOf) -> usize {
    let config = checkpoint.config();
    let bytes = |tensor: &tensors::Expected| match tensor.role {
        Role::Norm => tensor.n_cols * size_of::<f32>(),
        Role::Linear | Role::Rotary => {
            let layout = skipping::layout_of(checkpoint, isa, &tensor.name, layout);
            matrix(checkpoint, &tensor.name, layout, scales)
        }
        Role::Vocabulary => match checkpoint.tensor(&tensor.name).encoding {
            Encoding::Ternary(_) if tensor.name != tensors::output(config) => {
                matrix(checkpoint, &tensor.name, layout, scales)
            }
            _ => 0,
        },
    };
    tensors::expected(config).iter().map(bytes).sum()
}

/// Returns the bytes of a matrix: packed if ternary, as stored if dense.
fn matrix(checkpoint: &Checkpoint, name: &str, layout: TernaryLayout, scales: ScalesOf) -> usize {
    let tensor = checkpoint.tensor(name);
    let shape = tensor.shape();
    let packed = |scales: &Scales| PackedTernary::n_bytes_of(layout, shape, scales);
    match tensor.encoding {
        Encoding::Dense(_) => tensor.n_bytes(),
        // Rounding yields one scale; its value does not matter.
        Encoding::Masters(_) => packed(&Scales::Tensor(1.0)),
        Encoding::Ternary(_) => packed(&scales(checkpoint, name)),
    }
}

/// Returns the bytes of the output matrix.
pub(crate) fn head_bytes(checkpoint: &Checkpoint, head: HeadPrecision) -> usize {
    let name = tensors::output(checkpoint.config());
    let tensor = checkpoint.tensor(name);
    if matches!(tensor.encoding, Encoding::Ternary(_)) {
        return matrix(checkpoint, name, TernaryLayout::TwoBits, stored_scales);
    }
    let int8 = PackedInt8::n_bytes_of(checkpoint.config().head_shape());
    match head {
        HeadPrecision::Int8 => int8,
        HeadPrecision::Exact => tensor.n_bytes(),
        HeadPrecision::ExactTopK => tensor.n_bytes() + int8,
    }
}

impl fmt::Display for MemoryLimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |n_bytes: usize| format!("{:.1} MiB", n_bytes as f64 / (1 << 20) as f64);
        let MemoryEstimate {
            weights,
            head,
            kv,
            scratch,
        } = self.estimate;
        write!(
            f,
            "the model takes {}, more than the limit of {}: weights {}, head {}, \
             keys and values {} at a context of {}, scratch {}",
            mib(self.estimate.total()),
            mib(self.limit),
            mib(weights),
            mib(head),
            mib(kv),
            self.requested.context_len,
            mib(scratch),
        )
    }
}

impl std::error::Error for MemoryLimitError {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bitnet_core::memory::Category;
    use bitnet_core::{ComputeContext, HybridMemoryPool, ThreadPool};

    use super::*;
    use crate::engine::{Engine, Input};
    use crate::format::tensor::StoredTensor;
    use crate::logits::Logits;
    use crate::model::Model;
    use crate::plan::{Plan, PlanError, PlanOptions};

    fn open(name: &str) -> Checkpoint {
        Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
    }

    const MODELS: [&str; 9] = [
        "../../models/storyteller/storyteller.gguf",
        "../../models/storyteller-tiny",
        "tests/data/tiny-llama",
        "tests/data/families/trilm-tq2_0.gguf",
        "tests/data/families/bonsai-q2_0.gguf",
        "tests/data/families/llama-dense-q8_0.gguf",
        "tests/data/families/bitnet-embedding.gguf",
        "tests/data/families/minicpm-tq2_0.gguf",
        "tests/data/families/gemma3-embedding",
    ];

    #[test]
    fn no_weights_take_more_than_the_most() {
        let n_less = MODELS.iter().filter(|name| {
            let checkpoint = open(name);
            let exact = weight_bytes(&checkpoint, Isa::best());
            let most = max_weight_bytes(&checkpoint, Isa::best());
            assert!(
                (exact..=exact * 5 / 4).contains(&most),
                "{name}: {exact}, {most}"
            );
            exact < most
        });
        assert!(n_less.count() > 0, "some have blocks of one scale");
    }

    /// Returns the bytes of the tensors that are used in place in the file.
    fn in_file(checkpoint: &Checkpoint, head: HeadPrecision) -> usize {
        let output = tensors::output(checkpoint.config());
        let expected = tensors::expected(checkpoint.config());
        let used = expected.iter().filter(|tensor| match tensor.role {
            Role::Norm => false,
            Role::Linear | Role::Rotary => true,
            Role::Vocabulary => tensor.name == output && head != HeadPrecision::Int8,
        });
        let tensors = used.map(|tensor| checkpoint.tensor(&tensor.name));
        let dense = tensors.filter(|tensor| matches!(tensor.encoding, Encoding::Dense(_)));
        dense.map(StoredTensor::n_bytes).sum()
    }

    const HEADS: [HeadPrecision; 3] = [
        HeadPrecision::Exact,
        HeadPrecision::ExactTopK,
        HeadPrecision::Int8,
    ];

    #[test]
    fn what_is_told_is_what_is_taken() {
        for name in MODELS {
            let checkpoint = open(name);
            for head in HEADS {
                let options = PlanOptions {
                    context_len: Some(60),
                    n_threads: Some(2),
                    ..PlanOptions::default()
                };
                let plan = Plan::new(checkpoint.config(), options).unwrap();
                let estimate = plan.memory_estimate(&checkpoint, head);
                let pool = HybridMemoryPool::new();
                let threads = &mut ThreadPool::new(2);
                let ctx = &mut ComputeContext::new(Isa::best(), threads);
                let model = Model::load(&checkpoint, &pool, ctx, head, |_, _| ()).unwrap();
                let told = estimate.weights + estimate.head - in_file(&checkpoint, head);
                assert_eq!(told, model.n_bytes(), "{name}, {head:?}");

                let mut engine = Engine::new(std::sync::Arc::new(model), plan).unwrap();
                let input = Input {
                    sequence: 0,
                    tokens: &[1; 60],
                    logits: Logits::Last,
                };
                engine.forward(&[input], |_, _, _| ()).unwrap();
                // The pool rounds up.
                let usage = pool.usage();
                let near = |category, told: usize| {
                    let taken = usage.of(category).current;
                    let slack = told / 20 + (128 << 10);
                    let is_near = taken <= told + slack && told <= taken + slack;
                    assert!(is_near, "{name}, {head:?}, {category}: {told}, {taken}");
                };
                near(Category::Kv, estimate.kv);
                near(Category::Scratch, estimate.scratch);
            }
        }
    }

    #[test]
    fn a_limit_is_kept_to_the_byte_and_what_fits_does_fit() {
        let checkpoint = open(MODELS[0]);
        for head in HEADS {
            let options = PlanOptions {
                kv_precision: KvPrecision::F32,
                ..PlanOptions::default()
            };
            let plan = Plan::new(checkpoint.config(), options).unwrap();
            let estimate = plan.memory_estimate(&checkpoint, head);
            let total = estimate.total();
            let within = |limit| Plan::within(limit, &checkpoint, head, options);
            assert_eq!(within(total), Ok(plan));
            for limit in [total - 1, total - (4 << 20), total - (12 << 20)] {
                let Err(PlanError::MemoryLimit(error)) = within(limit) else {
                    panic!("{limit} is less than {total}");
                };
                assert_eq!((error.limit, error.estimate), (limit, estimate));
                assert!(!error.fits.is_empty());
                for fit in &error.fits {
                    let at = |context_len| {
                        let options = PlanOptions {
                            context_len: Some(context_len),
                            kv_precision: fit.kv_precision,
                            ..options
                        };
                        Plan::within(limit, &checkpoint, fit.head, options)
                    };
                    assert!(at(fit.context_len).is_ok());
                    let is_all = fit.context_len == plan.context_len;
                    assert!(is_all || at(fit.context_len + 1).is_err());
                }
            }
            let Err(PlanError::MemoryLimit(error)) = within(estimate.weights) else {
                panic!("there is more than weights");
            };
            assert_eq!(error.fits, []);
        }
    }
}
