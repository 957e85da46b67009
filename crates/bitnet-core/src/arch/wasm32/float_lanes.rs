//! Sixteen f32 in four vectors. WebAssembly has no deterministic fused multiply-add
//! instruction, so it is emulated: products are exact in f64, sums are rounded to odd in
//! f64, and only the conversion to f32 rounds.

use std::arch::wasm32::{
    f32x4_add, f32x4_convert_i32x4, f32x4_demote_f64x2_zero, f32x4_eq, f32x4_extract_lane,
    f32x4_mul, f32x4_pmax, f32x4_pmin, f32x4_splat, f32x4_sub, f64x2_abs, f64x2_add, f64x2_gt,
    f64x2_mul, f64x2_promote_low_f32x4, f64x2_splat, f64x2_sub, i8x16_narrow_i16x8,
    i16x8_narrow_i32x4, i32x4_add, i32x4_ge, i32x4_shl, i32x4_shr, i32x4_shuffle, i32x4_splat,
    i32x4_sub, i32x4_trunc_sat_f32x4, i64x2_add, i64x2_shr, i64x2_splat, i64x2_sub,
    u32x4_load_extend_u16x4, v128, v128_and, v128_load, v128_or, v128_store, v128_xor,
};

use super::Simd128;
use crate::fused;
use crate::lanes::{Lanes, WIDTH};

impl Lanes for Simd128 {
    type V = [v128; 4];

    const MAX_ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [f32x4_splat(x); 4]
    }

    #[inline(always)]
    fn load(self, x: &[f32; WIDTH]) -> Self::V {
        // SAFETY: `x` is four times 16 bytes.
        unsafe { unroll4!(I => v128_load(x[4 * I..].as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; WIDTH]) -> Self::V {
        // SAFETY: `x` is four times 8 bytes.
        unsafe { unroll4!(I => from_f16(u32x4_load_extend_u16x4(x[4 * I..].as_ptr()))) }
    }

    #[inline(always)]
    fn load_i32(self, x: &[i32; WIDTH]) -> Self::V {
        // SAFETY: `x` is four times 16 bytes.
        unsafe { unroll4!(I => f32x4_convert_i32x4(v128_load(x[4 * I..].as_ptr().cast()))) }
    }

    #[inline(always)]
    fn store(self, x: Self::V, out: &mut [f32; WIDTH]) {
        for (x, part) in x.into_iter().zip(out.as_chunks_mut::<4>().0) {
            // SAFETY: a part is 16 bytes.
            unsafe { v128_store(part.as_mut_ptr().cast(), x) };
        }
    }

    #[inline(always)]
    fn store_i8(self, x: Self::V, out: &mut [i8; WIDTH]) {
        let x = unroll4!(I => i32x4_trunc_sat_f32x4(x[I]));
        let (low, high) = (
            i16x8_narrow_i32x4(x[0], x[1]),
            i16x8_narrow_i32x4(x[2], x[3]),
        );
        // SAFETY: `out` is 16 bytes.
        unsafe { v128_store(out.as_mut_ptr().cast(), i8x16_narrow_i16x8(low, high)) };
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unroll4!(I => f32x4_add(a[I], b[I]))
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unroll4!(I => f32x4_sub(a[I], b[I]))
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unroll4!(I => f32x4_mul(a[I], b[I]))
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unroll4!(I => mul_add(a[I], b[I], c[I]))
    }

    #[inline(always)]
    fn mul_add_scalar(self, a: f32, b: f32, c: f32) -> f32 {
        fused::mul_add(a, b, c)
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // Returns its first operand unless the second is larger.
        unroll4!(I => f32x4_pmax(b[I], a[I]))
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        unroll4!(I => f32x4_pmin(b[I], a[I]))
    }

    #[inline(always)]
    fn nan_to_zero(self, x: Self::V) -> Self::V {
        unroll4!(I => v128_and(f32x4_eq(x[I], x[I]), x[I]))
    }

    #[inline(always)]
    fn ldexp(self, x: Self::V, n: Self::V) -> Self::V {
        unroll4!(I => ldexp(x[I], n[I]))
    }

    #[inline(always)]
    fn reduce_sum(self, x: Self::V) -> f32 {
        let x = f32x4_add(f32x4_add(x[0], x[2]), f32x4_add(x[1], x[3]));
        let x = f32x4_add(x, upper_half(x));
        f32x4_extract_lane::<0>(x) + f32x4_extract_lane::<1>(x)
    }

    #[inline(always)]
    fn reduce_max(self, x: Self::V) -> f32 {
        let max = x
            .into_iter()
            .fold(f32x4_splat(f32::NEG_INFINITY), |max, x| f32x4_pmax(max, x));
        let lanes = [
            f32x4_extract_lane::<0>(max),
            f32x4_extract_lane::<1>(max),
            f32x4_extract_lane::<2>(max),
            f32x4_extract_lane::<3>(max),
        ];
        let larger = |max, x| if x > max { x } else { max };
        lanes.into_iter().fold(f32::NEG_INFINITY, larger)
    }
}

#[inline(always)]
fn upper_half(x: v128) -> v128 {
    i32x4_shuffle::<2, 3, 2, 3>(x, x)
}

/// Converts the f16 whose bits are the lower halves of the lanes.
#[inline(always)]
fn from_f16(bits: v128) -> v128 {
    let magnitude = v128_and(bits, i32x4_splat(0x7fff));
    let sign = i32x4_shl(v128_xor(bits, magnitude), 16);
    // The exponent bias is 15 in f16 and 127 in f32.
    let value = f32x4_mul(i32x4_shl(magnitude, 13), f32x4_splat(2f32.powi(112)));
    let beyond = i32x4_ge(magnitude, i32x4_splat(0x7c00));
    let exponent = v128_and(beyond, i32x4_splat(0x7f80_0000));
    v128_or(v128_or(value, exponent), sign)
}

/// Returns x·2^n. 2^n is split into two factors, since it may be out of range.
#[inline(always)]
fn ldexp(x: v128, n: v128) -> v128 {
    let power = |n| i32x4_shl(i32x4_add(n, i32x4_splat(127)), 23);
    let n = i32x4_trunc_sat_f32x4(n);
    let half = i32x4_shr(n, 1);
    f32x4_mul(f32x4_mul(x, power(half)), power(i32x4_sub(n, half)))
}

/// Returns `a·b + c`, rounded once.
#[inline(always)]
fn mul_add(a: v128, b: v128, c: v128) -> v128 {
    let low = mul_add_low(a, b, c);
    let high = mul_add_low(upper_half(a), upper_half(b), upper_half(c));
    i32x4_shuffle::<0, 1, 4, 5>(low, high)
}

/// Computes the two lower lanes of [`mul_add`].
///
/// The sum in f64 is rounded to odd (Boldo and Melquiond, "Emulation of FMA and correctly
/// rounded sums", 2008): if it is inexact, the neighbour with an odd last bit is taken. f64
/// has more than two bits more than f32, so the second rounding gives the correctly rounded
/// exact sum.
#[inline(always)]
fn mul_add_low(a: v128, b: v128, c: v128) -> v128 {
    let product = f64x2_mul(f64x2_promote_low_f32x4(a), f64x2_promote_low_f32x4(b));
    let c = f64x2_promote_low_f32x4(c);
    let sum = f64x2_add(product, c);
    // The exact error of the sum (Knuth's TwoSum); NaN if the sum is NaN or infinite.
    let c_part = f64x2_sub(sum, product);
    let product_part = f64x2_sub(sum, c_part);
    let error = f64x2_add(f64x2_sub(product, product_part), f64x2_sub(c, c_part));
    let inexact = f64x2_gt(f64x2_abs(error), f64x2_splat(0.0));
    // All ones if the last bit is 0.
    let even = i64x2_sub(v128_and(sum, i64x2_splat(1)), i64x2_splat(1));
    // 1, away from zero, if the error has the sign of the sum, else -1.
    let step = v128_or(i64x2_shr(v128_xor(error, sum), 63), i64x2_splat(1));
    let step = v128_and(step, v128_and(inexact, even));
    f32x4_demote_f64x2_zero(i64x2_add(sum, step))
}
