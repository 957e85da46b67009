//! Float operations of the forward pass, each implemented once.
//!
//! Sums use [`LANES`] lanes: element i is added to lane i mod `LANES`, and the lanes are
//! added in halves at the end. This order is part of the definition of the result; it
//! allows any vector width.

mod dot;
mod exp;
mod ffn;
mod norm;
mod rope;
mod softmax;

pub use dot::dot;
pub use exp::exp;
pub use ffn::{add_assign, gelu_tanh_mul, relu2_mul, scale, silu_mul};
pub use norm::{rms_norm, rms_norm_each};
pub use rope::{RopeTable, rope_frequencies};
pub use softmax::{log_sum_exp, softmax};

pub(crate) use exp::{exp_lanes, exp_scalar};
pub(crate) use norm::{max_abs, sum_abs};
pub(crate) use softmax::max;

/// The number of lanes of every float sum.
pub const LANES: usize = 32;

/// Returns the sum of the lanes: the upper half is added to the lower until one lane is
/// left. Unrolled, since a loop over shrinking halves is not vectorized.
#[inline(always)]
fn add_lanes(lanes: [f32; LANES]) -> f32 {
    let lanes = add_halves::<32, 16>(lanes);
    let lanes = add_halves::<16, 8>(lanes);
    let lanes = add_halves::<8, 4>(lanes);
    let [a, b] = add_halves::<4, 2>(lanes);
    a + b
}

#[inline(always)]
fn add_halves<const N: usize, const HALF: usize>(lanes: [f32; N]) -> [f32; HALF] {
    std::array::from_fn(|i| lanes[i] + lanes[i + HALF])
}

/// Returns the remainder of a row, zero-padded to the lanes.
///
/// Lanes indexed by a variable would live in memory instead of registers. So the remainder
/// is padded, and no loop ends within a chunk.
#[inline(always)]
fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut chunk = [0.0; LANES];
    chunk[..rest.len()].copy_from_slice(rest);
    chunk
}

/// Returns the sum of `f` over the elements, in lane order.
#[inline(always)]
fn sum_lanes(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    if !rest.is_empty() {
        let mut last = [0.0; LANES];
        for (last, &x) in last.iter_mut().zip(rest) {
            *last = f(x);
        }
        for (lane, last) in lanes.iter_mut().zip(last) {
            *lane += last;
        }
    }
    add_lanes(lanes)
}

/// Test values of all operations.
#[cfg(test)]
mod test_values {
    /// Lengths around the lane count.
    pub(super) const LENGTHS: [usize; 9] = [0, 1, 16, 31, 32, 33, 64, 100, 1537];

    /// Pseudo-random values in -4..4.
    pub(super) fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / (u32::MAX as f32 / 8.0) - 4.0
        })
        .take(n)
        .collect()
    }
}
