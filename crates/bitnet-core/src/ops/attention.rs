//! Scaled dot-product attention of one query head.

use super::dot::dot_inline;
use super::softmax::exp_minus_max;
use crate::kernel::{Kernel, Op};

/// What one query head sees.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// The query, `[head_dim]`.
    pub query: &'a [f32],
    /// The keys up to and including the query's position,
    /// `[n_positions, head_dim]`.
    pub keys: &'a [f32],
    /// The values, like the keys.
    pub values: &'a [f32],
}

/// Writes `Σ_j softmax_j(query·key_j / sqrt(head_dim)) · value_j` to `out`,
/// `[head_dim]`. `scores` is scratch for at least `n_positions` values.
///
/// Keys and values of later positions play no part, so the result does not
/// depend on how a prompt was cut into batches.
///
/// # Panics
///
/// Panics if the shapes disagree.
#[inline]
pub fn attention(kernel: Kernel, head: Attention<'_>, scores: &mut [f32], out: &mut [f32]) {
    let head_dim = head.query.len();
    assert!(
        head_dim > 0 && out.len() == head_dim,
        "query and out are one head"
    );
    assert!(head.keys.len().is_multiple_of(head_dim), "whole keys");
    assert_eq!(head.keys.len(), head.values.len(), "as many values as keys");
    let scores = &mut scores[..head.keys.len() / head_dim];
    kernel.run(AttentionOp { head, scores, out });
}

struct AttentionOp<'a> {
    head: Attention<'a>,
    scores: &'a mut [f32],
    out: &'a mut [f32],
}

impl Op for AttentionOp<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { head, scores, out } = self;
        let head_dim = head.query.len();
        let scale = 1.0 / (head_dim as f32).sqrt();
        for (score, key) in scores.iter_mut().zip(head.keys.chunks_exact(head_dim)) {
            *score = dot_inline(head.query, key) * scale;
        }
        let inverse = 1.0 / exp_minus_max(scores);
        // Dimensions in groups whose sums stay in registers.
        let mut done = 0;
        while head_dim - done >= 64 {
            weighted_sum::<64>(scores, head.values, head_dim, done, inverse, out);
            done += 64;
        }
        while head_dim - done >= 16 {
            weighted_sum::<16>(scores, head.values, head_dim, done, inverse, out);
            done += 16;
        }
        while head_dim > done {
            weighted_sum::<1>(scores, head.values, head_dim, done, inverse, out);
            done += 1;
        }
    }
}

/// Writes the dimensions `first..first + N` of the weighted sum of the values,
/// positions in ascending order.
#[inline(always)]
fn weighted_sum<const N: usize>(
    weights: &[f32],
    values: &[f32],
    head_dim: usize,
    first: usize,
    factor: f32,
    out: &mut [f32],
) {
    let mut sums = [0.0; N];
    for (&weight, value) in weights.iter().zip(values.chunks_exact(head_dim)) {
        let value: &[f32; N] = value[first..]
            .first_chunk()
            .expect("N dimensions from `first` on");
        for (sum, &value) in sums.iter_mut().zip(value) {
            *sum = weight.mul_add(value, *sum);
        }
    }
    for (out, sum) in out[first..].iter_mut().zip(sums) {
        *out = sum * factor;
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_values::values;
    use super::*;

    fn run(kernel: Kernel, query: &[f32], keys: &[f32], values: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; query.len()];
        let mut scores = vec![f32::NAN; keys.len() / query.len() + 3];
        attention(
            kernel,
            Attention {
                query,
                keys,
                values,
            },
            &mut scores,
            &mut out,
        );
        out
    }

    #[test]
    fn one_position_returns_its_value() {
        let value = values(64, 3);
        let out = run(Kernel::best(), &values(64, 1), &values(64, 2), &value);
        assert_eq!(out, value);
    }

    #[test]
    fn attention_is_close_to_its_definition_and_equal_on_all_kernels() {
        for head_dim in [2, 16, 64, 96, 100, 128] {
            for n in [1, 2, 31, 32, 33, 200] {
                let (q, k, v) = (
                    values(head_dim, 1),
                    values(n * head_dim, 2),
                    values(n * head_dim, 3),
                );
                let expected = run(Kernel::Scalar, &q, &k, &v);
                let scores: Vec<f64> = k
                    .chunks(head_dim)
                    .map(|k| {
                        k.iter()
                            .zip(&q)
                            .map(|(&k, &q)| k as f64 * q as f64)
                            .sum::<f64>()
                    })
                    .map(|score| (score / (head_dim as f64).sqrt()).exp())
                    .collect();
                let sum: f64 = scores.iter().sum();
                for (d, &y) in expected.iter().enumerate() {
                    let exact: f64 = scores
                        .iter()
                        .enumerate()
                        .map(|(j, s)| s / sum * v[j * head_dim + d] as f64)
                        .sum();
                    assert!((y as f64 - exact).abs() < 2e-5, "{y} vs {exact}");
                }
                for kernel in Kernel::available() {
                    assert_eq!(
                        run(kernel, &q, &k, &v),
                        expected,
                        "{kernel}, {head_dim}, {n}"
                    );
                }
            }
        }
    }
}
