//! Ternary tensors of a checkpoint: stored trits, decoded, or master weights, quantized.

use bitnet_core::{CodeRuns, Isa, Shape};
use bitnet_quant::{AbsMean, DenseType, Scales, TernaryError, TernaryView, sum_magnitudes};

use crate::format::checkpoint::{Checkpoint, CheckpointError};
use crate::format::tensor::{DenseTensor, Encoding};

/// A ternary tensor: rows of trits, and their scales.
#[derive(Debug)]
pub(crate) struct TernaryTensor<'a> {
    /// The name in the file.
    pub(crate) name: &'a str,
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
    /// The scales, including the outer scale; all finite.
    pub(crate) scales: Scales,
    rows: Rows<'a>,
}

#[derive(Debug)]
enum Rows<'a> {
    Stored(TernaryView<'a>),
    Masters {
        tensor: DenseTensor,
        absmean: AbsMean,
        isa: Isa,
    },
}

impl<'a> TernaryTensor<'a> {
    /// Opens a ternary tensor by GGUF name and reads its scales. Master weights are all read:
    /// their scale is their mean magnitude.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        isa: Isa,
        name: &str,
    ) -> Result<Self, CheckpointError> {
        let stored = checkpoint.tensor(name);
        let (rows, scales) = if let Encoding::Masters(_) = stored.encoding {
            let tensor = checkpoint.dense(name);
            let absmean = absmean(&tensor, isa);
            let scales = Scales::Tensor(absmean.scale());
            let rows = Rows::Masters {
                tensor,
                absmean,
                isa,
            };
            (rows, scales)
        } else {
            let (trits, scales) = checkpoint.trits(name)?;
            (Rows::Stored(trits), scales)
        };
        let scales = match stored.outer_scale {
            Some(outer_scale) => scales.times(outer_scale),
            None => scales,
        };
        if let Some(&scale) = scales.values().iter().find(|scale| !scale.is_finite()) {
            return Err(CheckpointError::Scale {
                name: stored.name.clone(),
                scale,
            });
        }
        Ok(Self {
            name: &stored.name,
            n_rows: stored.n_rows,
            n_cols: stored.n_cols,
            scales,
            rows,
        })
    }

    /// Opens a ternary tensor as if all blocks had the scale of the first, and reads the
    /// scales of the first row only. Returns `None` if there are no such blocks, or that scale
    /// is not theirs or not finite.
    pub(crate) fn of_one_scale(checkpoint: &'a Checkpoint, name: &str) -> Option<Self> {
        let stored = checkpoint.tensor(name);
        let Encoding::Ternary(_) = stored.encoding else {
            return None;
        };
        let view = checkpoint.view(stored).ok()?;
        let scale = view.scale_of_first_block()? * stored.outer_scale.unwrap_or(1.0);
        (view.has_scale_of_first_block(0) && scale.is_finite()).then(|| Self {
            name: &stored.name,
            n_rows: stored.n_rows,
            n_cols: stored.n_cols,
            scales: Scales::Tensor(scale),
            rows: Rows::Stored(view),
        })
    }

    /// Returns whether all blocks of a row have the scale of the first block.
    pub(crate) fn has_one_scale(&self, row: usize) -> bool {
        match &self.rows {
            Rows::Stored(view) => view.has_scale_of_first_block(row),
            Rows::Masters { .. } => false,
        }
    }

    /// Returns the shape of the tensor.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            n_rows: self.n_rows,
            n_cols: self.n_cols,
        }
    }

    /// Does what [`decode_row`](Self::decode_row) does, with the tensor in the error.
    pub(crate) fn load_row(&self, row: usize, trits: &mut [i8]) -> Result<(), CheckpointError> {
        let decoded = self.decode_row(row, trits);
        decoded.map_err(|source| CheckpointError::Ternary {
            name: self.name.to_owned(),
            source,
        })
    }

    /// Copies the stored codes of a row, see [`TernaryView::copy_codes`]; master weights have
    /// none.
    pub(crate) fn copy_codes(&self, row: usize, codes: &mut [u8]) -> Option<CodeRuns> {
        match &self.rows {
            Rows::Stored(view) => view.copy_codes(row, codes),
            Rows::Masters { .. } => None,
        }
    }

    /// Writes the trits of a row, `[n_cols]`, see [`TernaryView::decode_row`]. Master weights
    /// are quantized.
    pub(crate) fn decode_row(&self, row: usize, trits: &mut [i8]) -> Result<(), TernaryError> {
        match &self.rows {
            Rows::Stored(view) => view.decode_row(row, trits),
            Rows::Masters {
                tensor,
                absmean,
                isa,
            } => {
                round_row(*absmean, *isa, tensor.ty(), tensor.row(row), trits);
                Ok(())
            }
        }
    }
}

/// Returns the absmean quantizer of master weights.
fn absmean(masters: &DenseTensor, isa: Isa) -> AbsMean {
    let mut values = vec![0.0; masters.n_cols];
    let sums = (0..masters.n_rows).map(|row| {
        masters.decode_row(isa, row, &mut values);
        sum_magnitudes(&values)
    });
    AbsMean::new(sums.sum(), masters.n_rows * masters.n_cols, masters.ty())
}

/// Quantizes a stored row of master weights.
fn round_row(absmean: AbsMean, isa: Isa, ty: DenseType, stored: &[u8], trits: &mut [i8]) {
    // Floats have no blocks, so runs of any length can be decoded, here into a stack buffer.
    const RUN: usize = 1024;
    assert_eq!(
        ty.row_bytes(trits.len()),
        Ok(stored.len()),
        "trits of a row"
    );
    let mut masters = [0.0; RUN];
    let runs = stored.chunks(RUN * ty.block_bytes());
    for (stored, trits) in runs.zip(trits.chunks_mut(RUN)) {
        let masters = &mut masters[..trits.len()];
        ty.decode_row(isa, stored, masters);
        absmean.round_row(masters, trits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_longer_than_a_run_are_rounded_whole() {
        for ty in [DenseType::F32, DenseType::F16, DenseType::BF16] {
            for n_cols in [0, 1, 1023, 1024, 1025, 2500] {
                let masters: Vec<f32> = (0..n_cols).map(|i| (i % 7) as f32 - 3.0).collect();
                let mut stored = Vec::new();
                ty.encode_row(&masters, &mut stored);
                let absmean = AbsMean::new(sum_magnitudes(&masters), n_cols, ty);
                let (mut whole, mut in_runs) = (vec![0; n_cols], vec![9; n_cols]);
                absmean.round_row(&masters, &mut whole);
                round_row(absmean, Isa::best(), ty, &stored, &mut in_runs);
                assert_eq!(in_runs, whole, "{ty:?}, {n_cols}");
            }
        }
    }
}
