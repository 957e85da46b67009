//! Validation and content hashing of all weights.

use std::ops::{ControlFlow, Range};

use bitnet_core::Isa;
use bitnet_quant::TernaryError;

use crate::format::checkpoint::{Checkpoint, CheckpointError};
use crate::format::tensor::Encoding;
use crate::model::linear::unusual_values;
use crate::model::ternary::TernaryTensor;
use crate::note::Note;
use crate::spec::config::RotaryRows;
use crate::spec::tensors::{self, Expected, Role};

/// Maximum padding between tensors; no file has a larger alignment.
const MAX_PADDING: usize = 4096;

/// Reads all tensors of a checkpoint and returns the errors found; `None` if `progress`
/// cancelled it.
///
/// Opening a checkpoint has verified that it is complete. Here every trit must be valid,
/// every value and scale finite, and there must be no unused bytes between tensors. Valid
/// weights that no trained model has are [`WeightError::Suspicious`]: tensors that are all
/// zero, and scales and norms of unusual magnitude.
///
/// `content` is called with the content of the weights, independent of file format and
/// storage type: for each tensor in the order of the model its GGUF name, a zero byte,
/// rows and columns as u64; then for a ternary tensor the number of scales as u64, the
/// scales as f32, and one byte per trit, and for a dense one its values as f32; all
/// little-endian, rows in the order of `transformers`. Lossless conversion of a model does
/// not change a hash of these bytes.
pub fn validate(
    checkpoint: &Checkpoint,
    mut content: impl FnMut(&[u8]),
    mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Option<Vec<WeightError>> {
    let isa = Isa::best();
    let mut errors = unused_bytes(checkpoint);
    let expected = tensors::expected(checkpoint.config());
    for (i, tensor) in expected.iter().enumerate() {
        if progress(i, expected.len()).is_break() {
            return None;
        }
        content(tensor.name.as_bytes());
        content(&[0]);
        content(&(tensor.n_rows as u64).to_le_bytes());
        content(&(tensor.n_cols as u64).to_le_bytes());
        match checkpoint.tensor(&tensor.name).encoding {
            Encoding::Dense(_) => errors.extend(dense(checkpoint, isa, tensor, &mut content)),
            Encoding::Ternary(_) | Encoding::Masters(_) => {
                match ternary(checkpoint, isa, tensor, &mut content) {
                    Ok(note) => errors.extend(note.map(WeightError::Suspicious)),
                    Err(error) => errors.push(error.into()),
                }
            }
        }
    }
    let _ = progress(expected.len(), expected.len());
    Some(errors)
}

fn dense(
    checkpoint: &Checkpoint,
    isa: Isa,
    expected: &Expected,
    content: &mut impl FnMut(&[u8]),
) -> Option<WeightError> {
    let tensor = checkpoint.dense(&expected.name);
    let mut values = vec![0.0; tensor.n_cols];
    let mut bytes = Vec::with_capacity(tensor.n_cols * size_of::<f32>());
    let mut errors = None;
    let mut is_zero = true;
    for row in 0..tensor.n_rows {
        let source_row = source_row(checkpoint, expected, row);
        tensor.decode_row(isa, source_row, &mut values);
        if expected.role == Role::Norm && checkpoint.norm_is_less_one(&expected.name) {
            for value in &mut values {
                *value += 1.0;
            }
        }
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        content(&bytes);
        is_zero = is_zero && values.iter().all(|value| *value == 0.0);
        if let Some(col) = values.iter().position(|value| !value.is_finite()) {
            errors.get_or_insert(WeightError::NotFinite {
                name: checkpoint.tensor(&expected.name).name.clone(),
                row,
                col,
                value: values[col],
            });
        }
    }
    // A norm has a single row.
    let values = match expected.role {
        Role::Norm => &values[..],
        _ => &[1.0],
    };
    errors.or_else(|| unusual_values(tensor.name(), values, is_zero).map(WeightError::Suspicious))
}

fn ternary(
    checkpoint: &Checkpoint,
    isa: Isa,
    expected: &Expected,
    content: &mut impl FnMut(&[u8]),
) -> Result<Option<Note>, CheckpointError> {
    let tensor = TernaryTensor::new(checkpoint, isa, &expected.name)?;
    let (n_rows, n_cols) = (tensor.n_rows, tensor.n_cols);
    let source_row = |row| source_row(checkpoint, expected, row);
    let scales = tensor.scales.clone().reordered(n_rows, source_row);
    content(&(scales.values().len() as u64).to_le_bytes());
    for scale in scales.values() {
        content(&scale.to_le_bytes());
    }
    let mut trits = vec![0; n_cols];
    let mut bytes = vec![0; n_cols];
    let mut first: Option<TernaryError> = None;
    let mut is_zero = true;
    for row in 0..n_rows {
        if let Err(error) = tensor.decode_row(source_row(row), &mut trits) {
            first.get_or_insert(error);
        }
        for (byte, trit) in bytes.iter_mut().zip(&trits) {
            *byte = trit.cast_unsigned();
        }
        is_zero = is_zero && trits.iter().all(|trit| *trit == 0);
        content(&bytes);
    }
    match first {
        None => Ok(unusual_values(tensor.name, tensor.scales.values(), is_zero)),
        Some(source) => Err(CheckpointError::Ternary {
            name: tensor.name.to_owned(),
            source,
        }),
    }
}

/// Returns the index of a row in the file.
fn source_row(checkpoint: &Checkpoint, expected: &Expected, row: usize) -> usize {
    let widths = checkpoint.config().rotary_widths();
    match expected.role {
        Role::Rotary => RotaryRows::Halves.position_in(checkpoint.rotary_rows(), row, widths),
        _ => row,
    }
}

/// Returns unused bytes between tensors and after the last one that are not padding.
fn unused_bytes(checkpoint: &Checkpoint) -> Vec<WeightError> {
    let tensors = checkpoint.tensors();
    let mut errors = Vec::new();
    let mut look = |name: &str, side, bytes: Range<usize>| {
        if bytes.len() > MAX_PADDING {
            errors.push(WeightError::Unused {
                name: name.to_owned(),
                side,
                n_bytes: bytes.len(),
            });
        }
    };
    for (i, tensor) in tensors.iter().enumerate() {
        let (file_idx, range) = tensor.place();
        let next = tensors.get(i + 1).map(|next| (next, next.place()));
        if let Some((next, (_, next_range))) = next.filter(|(_, (idx, _))| *idx == file_idx) {
            look(&next.name, "before", range.end..next_range.start);
        } else {
            let end = checkpoint.file_len(file_idx);
            look(&tensor.name, "behind", range.end..end);
        }
    }
    errors
}

/// An error in the weights of a tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// Trits or scales are invalid.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
    /// A value is not finite.
    #[error(
        "in tensor {name:?}: the value at row {row}, column {col} is {value}, expected a finite number"
    )]
    NotFinite {
        /// The tensor.
        name: String,
        /// The row.
        row: usize,
        /// The column.
        col: usize,
        /// The value.
        value: f32,
    },
    /// Valid weights that no trained model has.
    #[error("{0}")]
    Suspicious(Note),
    /// Unused bytes.
    #[error("{side} tensor {name:?} lie {n_bytes} bytes that no tensor accounts for")]
    Unused {
        /// The tensor beside them.
        name: String,
        /// The side of it: before or behind.
        side: &'static str,
        /// Number of bytes.
        n_bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_behind_the_last_tensor_are_found_but_for_padding() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../models/storyteller/storyteller.gguf"
        );
        let found = |n_more: usize| {
            let mut file = std::fs::read(path).unwrap();
            file.resize(file.len() + n_more, 0);
            let checkpoint = Checkpoint::from_gguf_bytes(file).unwrap();
            let errors = unused_bytes(&checkpoint);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(found(0).is_empty() && found(MAX_PADDING / 2).is_empty());
        let found = found(10_000);
        assert!(
            matches!(&found[..], [one] if one.starts_with("behind tensor")
                && one.ends_with("bytes that no tensor accounts for")),
            "{found:?}"
        );
    }
}
