//! Estimates the memory of a model from the header of its file, before the weights are there.

use bitnet_core::{PackedInt8, PackedTernary, Scales, Shape, TernaryLayout};

use crate::engine::LoadError;
use crate::format::checkpoint::CheckpointError;
use crate::format::gguf::Gguf;
use crate::format::gguf_model;
use crate::format::gguf_types::TensorTypes;
use crate::format::tensor::Encoding;
use crate::memory_estimate::MemoryEstimate;
use crate::model::HeadPrecision;
use crate::plan::{Plan, PlanOptions};
use crate::spec::config::{ActivationPrecision, Config};
use crate::spec::tensors;

/// Returns the memory that a model and its engine need, besides its files, of which the
/// header is known ([`Gguf::parse_header`]); those of a split model are the first one's.
/// `None` if that has too little of the model.
///
/// In contrast to [`Plan::memory_estimate`], what is used in place in the files is not part of
/// it. What the values of weights decide is assumed to be the worst, so it may be too large
/// by a tenth.
///
/// # Errors
///
/// Returns an error if the model is not supported or an option is out of range.
pub fn header_estimate(
    gguf: &Gguf,
    head: HeadPrecision,
    options: PlanOptions,
) -> Result<Option<MemoryEstimate>, LoadError> {
    let mut config = match gguf_model::config(gguf, &mut Vec::new()) {
        Err(CheckpointError::MissingTensor { .. }) => return Ok(None),
        config => config?,
    };
    config.validate().map_err(CheckpointError::from)?;
    let types = TensorTypes::of(gguf)?;
    let is_dense = |name: &str| match gguf.tensor(name) {
        Some(tensor) => Ok(matches!(types.encoding(tensor)?, Encoding::Dense(_))),
        None => Ok::<_, CheckpointError>(false),
    };
    let weights = packed_weights(&mut config, is_dense)?;
    if !config.family.always_ternary {
        // Only the scales say whether activations are quantized, which takes less.
        config.activations = ActivationPrecision::Exact;
    }
    let plan = Plan::new(&config, options)?;
    let output = tensors::output(&config);
    Ok(Some(MemoryEstimate {
        weights,
        head: match (is_dense(output)?, head) {
            (true, HeadPrecision::Exact) => 0,
            (true, _) => PackedInt8::n_bytes_of(config.head_shape()),
            (false, _) => packed(config.head_shape()),
        },
        kv: plan.kv_bytes,
        scratch: plan.scratch_bytes,
    }))
}

/// Returns the bytes of the linear layers that are packed, and of the norms. Notes in the
/// configuration whether there are others.
fn packed_weights(
    config: &mut Config,
    is_dense: impl Fn(&str) -> Result<bool, CheckpointError>,
) -> Result<usize, CheckpointError> {
    let mut n_bytes = 0;
    for tensor in tensors::expected(config) {
        if tensor.role == tensors::Role::Norm {
            n_bytes += tensor.n_cols * size_of::<f32>();
        } else if tensor.is_linear() && is_dense(&tensor.name)? {
            config.dense_linears = true;
        } else if tensor.is_linear() {
            n_bytes += packed(Shape {
                n_rows: tensor.n_rows,
                n_cols: tensor.n_cols,
            });
        }
    }
    Ok(n_bytes)
}

/// Returns the bytes of a ternary matrix with a scale for each row.
fn packed(shape: Shape) -> usize {
    PackedTernary::n_bytes_of(TernaryLayout::TwoBits, shape, &Scales::Rows(Vec::new()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::format::checkpoint::Checkpoint;

    #[test]
    fn the_estimate_of_a_header_is_that_of_the_whole_file_but_for_what_stays_in_it() {
        for (name, is_dense) in [
            ("../../models/storyteller/storyteller.gguf", false),
            ("tests/data/families/trilm-tq2_0.gguf", false),
            ("tests/data/families/minicpm-tq2_0.gguf", false),
            ("tests/data/families/llama-dense-q8_0.gguf", true),
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
            let file = std::fs::read(&path).unwrap();
            let end = Gguf::parse(&file).unwrap().tensors()[0].offset as usize;
            let header = Gguf::parse_header(&file[..end], file.len() as u64).unwrap();
            let (options, head) = (PlanOptions::default(), HeadPrecision::Int8);
            let found = header_estimate(&header, head, options).unwrap().unwrap();

            let checkpoint = Checkpoint::open(&path).unwrap();
            let plan = Plan::new(checkpoint.config(), options).unwrap();
            let whole = plan.memory_estimate(&checkpoint, head);
            assert_eq!(found.kv, whole.kv, "{name}");
            let near = whole.scratch..=whole.scratch * 11 / 10;
            assert!(
                near.contains(&found.scratch),
                "{name}: {found:?}, {whole:?}"
            );
            assert_eq!(found.head, whole.head, "{name}");
            if is_dense {
                assert!(found.weights < whole.weights / 10, "{name}");
            } else {
                let near = whole.weights * 99 / 100..=whole.weights * 21 / 20;
                assert!(
                    near.contains(&found.weights),
                    "{name}: {found:?}, {whole:?}"
                );
            }
        }
    }
}
