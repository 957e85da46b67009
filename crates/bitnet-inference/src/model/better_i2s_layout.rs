//! Detection of the layout of I2_S weights.
//!
//! Training correlates channels: the number of nonzero weights of a column correlates with
//! the weight of the preceding norm, and with the row of the matrix that produces the
//! channel. Norms are F32 and not permuted, so a wrong layout destroys the correlation.
//!
//! For the built-in model, the mean rank correlation is 0.54 in the correct layout; stored
//! in blocks of 64 and read in blocks of 128 it is 0.13, and stored as four rows per byte
//! 0.05. Without the sub-norms, by rows alone, the three are 0.33, 0.09 and 0.03
//! (`trained_weights_show_their_layout` below). Random weights show no correlation.

use bitnet_core::Isa;
use bitnet_quant::{TernaryType, TernaryView};

use crate::format::checkpoint::Checkpoint;
use crate::format::i2s_layout::I2SLayout;
use crate::format::tensor::Encoding;
use crate::spec::tensors::layer_tensor;

/// Maximum number of evenly spaced layers to examine.
const MAX_LAYERS: usize = 4;
/// Maximum rows of a matrix to examine; a multiple of the rows that share a byte.
const MAX_ROWS: usize = 512;
/// The minimum significant correlation, and its minimum ratio to that of the layout in
/// use.
const LEAST: f32 = 0.2;
const RATIO: f32 = 2.0;

impl Checkpoint {
    /// Returns the layout that fits the I2_S weights much better than the current one, if
    /// there is one.
    pub fn better_i2s_layout(&self) -> Option<I2SLayout> {
        better_layout(self, self.config().family.has_sub_norms())
    }
}

fn better_layout(checkpoint: &Checkpoint, by_norms: bool) -> Option<I2SLayout> {
    let current = I2SLayout::ALL.into_iter().find(|layout| {
        let in_use = Encoding::Ternary(layout.ternary_type());
        let mut tensors = checkpoint.tensors().into_iter();
        tensors.any(|tensor| tensor.encoding == in_use)
    })?;
    let fit = |layout| fit(checkpoint, layout, by_norms).unwrap_or(0.0);
    let (found, best) = I2SLayout::ALL
        .map(|layout| (layout, fit(layout)))
        .into_iter()
        .max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    (found != current && best >= LEAST && best >= RATIO * fit(current)).then_some(found)
}

/// Returns the mean magnitude of the correlations in a layout; `None` if there is no
/// suitable pair of tensors.
fn fit(checkpoint: &Checkpoint, layout: I2SLayout, by_norms: bool) -> Option<f32> {
    let n_layers = checkpoint.config().n_layers;
    let n_looked_at = n_layers.min(MAX_LAYERS);
    let mut correlations = Vec::new();
    for i in 0..n_looked_at {
        let layer = i * n_layers / n_looked_at;
        let view = |part| view(checkpoint, &layer_tensor(layer, part), layout);
        let norm = |part| {
            let tensor = checkpoint.dense(&layer_tensor(layer, part));
            let mut values = vec![0.0; tensor.n_cols];
            // All ISAs decode to the same values; one row needs no speed.
            tensor.decode_row(Isa::Scalar, 0, &mut values);
            values
        };
        if by_norms {
            for (part, norm_part) in [
                ("attn_output", "attn_sub_norm"),
                ("ffn_down", "ffn_sub_norm"),
            ] {
                if let Some(view) = view(part) {
                    correlations.push(rank_correlation(&column_density(&view), &norm(norm_part)));
                }
            }
        } else if let (Some(down), Some(up)) = (view("ffn_down"), view("ffn_up")) {
            correlations.push(rank_correlation(&column_density(&down), &row_density(&up)));
        }
    }
    let sum: f32 = correlations.iter().map(|c| c.abs()).sum();
    (!correlations.is_empty()).then(|| sum / correlations.len() as f32)
}

/// Returns a view of an I2_S tensor in a layout; `None` if it is not I2_S or the shape does
/// not fit.
fn view<'a>(checkpoint: &'a Checkpoint, name: &str, layout: I2SLayout) -> Option<TernaryView<'a>> {
    let tensor = checkpoint.tensor(name);
    let Encoding::Ternary(TernaryType::I2S | TernaryType::I2SNeon | TernaryType::I2SRows4) =
        tensor.encoding
    else {
        return None;
    };
    let bytes = checkpoint.stored_bytes(tensor);
    TernaryView::new(layout.ternary_type(), tensor.n_rows, tensor.n_cols, bytes).ok()
}

/// Returns the number of nonzero weights of each column in the first [`MAX_ROWS`] rows.
fn column_density(view: &TernaryView<'_>) -> Vec<f32> {
    let mut density = vec![0.0; view.n_cols()];
    let mut trits = vec![0; view.n_cols()];
    for row in 0..view.n_rows().min(MAX_ROWS) {
        // Invalid rows are reported at load.
        if view.decode_row(row, &mut trits).is_ok() {
            for (count, trit) in density.iter_mut().zip(&trits) {
                *count += f32::from(trit.unsigned_abs());
            }
        }
    }
    density
}

/// Returns the number of nonzero weights of each row.
fn row_density(view: &TernaryView<'_>) -> Vec<f32> {
    let mut trits = vec![0; view.n_cols()];
    let count = |row| match view.decode_row(row, &mut trits) {
        Ok(()) => trits
            .iter()
            .map(|trit| f32::from(trit.unsigned_abs()))
            .sum(),
        Err(_) => 0.0,
    };
    (0..view.n_rows()).map(count).collect()
}

/// Returns Spearman's rank correlation; 0 if one side is constant.
fn rank_correlation(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        let (a, b) = (a - mean, b - mean);
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    if aa == 0.0 || bb == 0.0 {
        return 0.0;
    }
    (ab / (aa * bb).sqrt()) as f32
}

/// Returns the rank of each value; equal values have their mean rank.
fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = start as f64 + (equal.len() as f64 - 1.0) / 2.0;
        for &idx in equal {
            ranks[idx] = rank;
        }
        start += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_equal_values_are_shared() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [2.5, 0.0, 2.5, 1.0]);
        let a = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(rank_correlation(&a, &[10.0, 20.0, 25.0, 90.0]), 1.0);
        assert_eq!(rank_correlation(&a, &[4.0, 3.0, 2.0, 1.0]), -1.0);
        assert_eq!(rank_correlation(&a, &[7.0; 4]), 0.0);
    }

    #[cfg(feature = "builtin-model")]
    #[test]
    fn trained_weights_show_their_layout() {
        use std::ops::ControlFlow;

        use crate::convert::{ConvertOptions, GgufWeights, Target, convert};

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i2_s.gguf");
        let options = ConvertOptions {
            target: Target::Gguf(GgufWeights::I2S),
            head: None,
            overwrite: false,
        };
        let mut threads = bitnet_core::ThreadPool::new(2);
        let go_on = |_, _| ControlFlow::Continue(());
        convert(crate::builtin::open(), &path, options, &mut threads, go_on).unwrap();
        let canonical = std::fs::read(&path).unwrap();
        for stored in I2SLayout::ALL {
            let mut bytes = canonical.clone();
            for tensor in Checkpoint::open(&path).unwrap().tensors() {
                if tensor.encoding != Encoding::Ternary(TernaryType::I2S) {
                    continue;
                }
                let range = tensor.range.clone();
                let (n_rows, n_cols) = (tensor.n_rows, tensor.n_cols);
                let of = &canonical[range.clone()];
                let view = TernaryView::new(TernaryType::I2S, n_rows, n_cols, of).unwrap();
                let again = bitnet_quant::encode_ternary(
                    stored.ternary_type(),
                    n_rows,
                    n_cols,
                    &view.scales().unwrap(),
                    |row, trits| view.decode_row(row, trits).unwrap(),
                );
                bytes[range].copy_from_slice(&again.unwrap());
            }
            let file = folder.path().join(stored.name());
            std::fs::write(&file, bytes).unwrap();
            let mut checkpoint = Checkpoint::open(&file).unwrap();
            for read in I2SLayout::ALL {
                checkpoint.set_i2s_layout(read).unwrap();
                for by_norms in [true, false] {
                    let fits = I2SLayout::ALL.map(|layout| fit(&checkpoint, layout, by_norms));
                    assert_eq!(
                        better_layout(&checkpoint, by_norms),
                        (read != stored).then_some(stored),
                        "{stored:?} read as {read:?}, by norms: {by_norms}: {fits:?}"
                    );
                }
            }
        }
    }
}
