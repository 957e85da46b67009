//! Operations on sixteen f32 in SIMD registers.
//!
//! Plain Rust over arrays does not reliably keep accumulators in registers over nested
//! loops; such loops are written over [`Lanes`].

use crate::fused;

/// The number of lanes.
pub const WIDTH: usize = 16;

/// An instruction set that operates on sixteen f32 at a time.
///
/// A value of the implementing type proves that the processor supports the instruction set.
/// Every operation rounds once, so all instruction sets return the same bits.
pub trait Lanes: Copy {
    /// A vector of sixteen f32.
    type V: Copy;

    /// The maximum number of `V` accumulators of a loop.
    const MAX_ACCUMULATORS: usize;

    /// Returns `x` in all lanes.
    fn splat(self, x: f32) -> Self::V;
    /// Loads the values of `x`.
    fn load(self, x: &[f32; WIDTH]) -> Self::V;
    /// Loads f16 values, given as bits, and converts them to f32.
    fn load_f16(self, x: &[u16; WIDTH]) -> Self::V;
    /// Stores the values to `out`.
    fn store(self, x: Self::V, out: &mut [f32; WIDTH]);
    /// Loads integers and converts them to f32.
    fn load_i8(self, x: &[i8; WIDTH]) -> Self::V;
    /// Loads integers and converts them to f32, rounded.
    fn load_i32(self, x: &[i32; WIDTH]) -> Self::V;
    /// Stores values that are integers from -128 to 127 as int8.
    fn store_i8(self, x: Self::V, out: &mut [i8; WIDTH]);
    /// Returns `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `a·b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `a·b + c`, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Returns `Σ_i factors[r][i] · x[step·i]` of f16 for each row of factors, as if by
    /// [`mul_add`](Self::mul_add) in order, if there is a faster way. The rows are of equal
    /// lengths, and `x` has a value for each factor.
    #[inline(always)]
    fn sums_of_f16<const R: usize>(
        self,
        _factors: [&[f32]; R],
        _x: &[[u16; WIDTH]],
        _step: usize,
    ) -> Option<[Self::V; R]> {
        None
    }
    /// Returns `a·b + c` of scalars, rounded once.
    fn mul_add_scalar(self, a: f32, b: f32, c: f32) -> f32;
    /// Returns a in lanes where a > b, else b.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns a in lanes where a < b, else b.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns x, with NaN replaced by 0.
    fn nan_to_zero(self, x: Self::V) -> Self::V;
    /// Returns `x·2^n`, rounded once; `n` holds integers from -151 to 129.
    fn ldexp(self, x: Self::V, n: Self::V) -> Self::V;
    /// Returns the sum of the lanes: the upper half is added to the lower until one lane is
    /// left.
    fn reduce_sum(self, x: Self::V) -> f32;
    /// Returns the largest lane.
    fn reduce_max(self, x: Self::V) -> f32;
}

/// An operation over [`Lanes`], compiled for each instruction set like
/// [`NullaryFnOnce`](crate::arch::NullaryFnOnce).
pub trait WithSimd {
    /// The result of the operation.
    type Output;
    /// Runs the operation; must be `#[inline(always)]`.
    fn with_simd<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Plain Rust for the target's baseline.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Lanes for Scalar {
    type V = [f32; WIDTH];

    const MAX_ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; WIDTH]
    }

    #[inline(always)]
    fn load(self, x: &[f32; WIDTH]) -> Self::V {
        *x
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; WIDTH]) -> Self::V {
        x.map(|bits| half::f16::from_bits(bits).to_f32_const())
    }

    #[inline(always)]
    fn store(self, x: Self::V, out: &mut [f32; WIDTH]) {
        *out = x;
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8; WIDTH]) -> Self::V {
        x.map(f32::from)
    }

    #[inline(always)]
    fn load_i32(self, x: &[i32; WIDTH]) -> Self::V {
        x.map(|x| x as f32)
    }

    #[inline(always)]
    fn store_i8(self, x: Self::V, out: &mut [i8; WIDTH]) {
        *out = x.map(|x| x as i8);
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| fused::mul_add(a[i], b[i], c[i]))
    }

    #[inline(always)]
    fn mul_add_scalar(self, a: f32, b: f32, c: f32) -> f32 {
        fused::mul_add(a, b, c)
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn nan_to_zero(self, x: Self::V) -> Self::V {
        x.map(|x| if x.is_nan() { 0.0 } else { x })
    }

    #[inline(always)]
    fn ldexp(self, x: Self::V, n: Self::V) -> Self::V {
        std::array::from_fn(|i| {
            let n = n[i] as i32;
            let half = n >> 1;
            x[i] * power_of_two(half) * power_of_two(n - half)
        })
    }

    #[inline(always)]
    fn reduce_sum(self, x: Self::V) -> f32 {
        let x: [f32; 8] = std::array::from_fn(|i| x[i] + x[i + 8]);
        let x: [f32; 4] = std::array::from_fn(|i| x[i] + x[i + 4]);
        let x: [f32; 2] = std::array::from_fn(|i| x[i] + x[i + 2]);
        x[0] + x[1]
    }

    #[inline(always)]
    fn reduce_max(self, x: Self::V) -> f32 {
        x.into_iter()
            .fold(f32::NEG_INFINITY, |max, x| if x > max { x } else { max })
    }
}

/// Returns 2^n for n in -126..=127; unspecified for other n.
#[inline(always)]
pub(crate) fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}
