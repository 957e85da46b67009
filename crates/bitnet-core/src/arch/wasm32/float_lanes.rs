//! Sixteen f32 in four vectors. WebAssembly has no deterministic fused multiply-add
//! instruction, so it is emulated: products are exact in f64, sums are rounded to odd in
//! f64, and only the conversion to f32 rounds.

use std::arch::wasm32::{
    f32x4_add, f32x4_convert_i32x4, f32x4_demote_f64x2_zero, f32x4_eq, f32x4_extract_lane,
    f32x4_mul, f32x4_pmax, f32x4_pmin, f32x4_splat, f32x4_sub, f64x2_abs, f64x2_add, f64x2_gt,
    f64x2_mul, f64x2_promote_low_f32x4, f64x2_splat, f64x2_sub, i8x16_narrow_i16x8,
    i16x8_load_extend_i8x8, i16x8_narrow_i32x4, i32x4_add, i32x4_eq, i32x4_extend_high_i16x8,
    i32x4_extend_low_i16x8, i32x4_ge, i32x4_gt, i32x4_load_extend_i16x4, i32x4_shl, i32x4_shr,
    i32x4_shuffle, i32x4_splat, i32x4_sub, i32x4_trunc_sat_f32x4, i64x2_add, i64x2_eq, i64x2_shr,
    i64x2_splat, i64x2_sub, u32x4_load_extend_u16x4, v128, v128_and, v128_any_true, v128_load,
    v128_load64_splat, v128_or, v128_store, v128_xor,
};
use std::mem::MaybeUninit;

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
    fn load_i8(self, x: &[i8; WIDTH]) -> Self::V {
        let (parts, _) = x.as_chunks::<8>();
        // SAFETY: a part is 8 bytes.
        let [low, high] = unsafe {
            [
                i16x8_load_extend_i8x8(parts[0].as_ptr()),
                i16x8_load_extend_i8x8(parts[1].as_ptr()),
            ]
        };
        [
            f32x4_convert_i32x4(i32x4_extend_low_i16x8(low)),
            f32x4_convert_i32x4(i32x4_extend_high_i16x8(low)),
            f32x4_convert_i32x4(i32x4_extend_low_i16x8(high)),
            f32x4_convert_i32x4(i32x4_extend_high_i16x8(high)),
        ]
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
    fn sums_of_f16<const R: usize>(
        self,
        factors: [&[f32]; R],
        x: &[[u16; WIDTH]],
        step: usize,
    ) -> Option<[Self::V; R]> {
        sums_of_f16(factors, x, step)
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
    // As in hardware, NaNs become quiet.
    let is_nan = i32x4_gt(magnitude, i32x4_splat(0x7c00));
    let quiet = v128_and(is_nan, i32x4_splat(0x0040_0000));
    v128_or(v128_or(value, exponent), v128_or(sign, quiet))
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
    let [a, b, c] = [a, b, c].map(promote);
    demote([
        sum_to_odd(f64x2_mul(a[0], b[0]), c[0]),
        sum_to_odd(f64x2_mul(a[1], b[1]), c[1]),
    ])
}

/// Converts to f64: the two lower lanes, and the two upper ones.
#[inline(always)]
fn promote(x: v128) -> [v128; 2] {
    [
        f64x2_promote_low_f32x4(x),
        f64x2_promote_low_f32x4(upper_half(x)),
    ]
}

/// The opposite of [`promote`].
#[inline(always)]
fn demote([low, high]: [v128; 2]) -> v128 {
    let (low, high) = (f32x4_demote_f64x2_zero(low), f32x4_demote_f64x2_zero(high));
    i32x4_shuffle::<0, 1, 4, 5>(low, high)
}

/// Returns the sum of two f64, rounded to odd (Boldo and Melquiond, "Emulation of FMA and
/// correctly rounded sums", 2008): if it is inexact, the neighbour with an odd last bit is
/// taken. f64 has more than two bits more than f32, so rounding that to f32 gives the
/// correctly rounded exact sum.
#[inline(always)]
fn sum_to_odd(a: v128, b: v128) -> v128 {
    let sum = f64x2_add(a, b);
    // The exact error of the sum (Knuth's TwoSum); NaN if the sum is NaN or infinite.
    let b_part = f64x2_sub(sum, a);
    let a_part = f64x2_sub(sum, b_part);
    let error = f64x2_add(f64x2_sub(a, a_part), f64x2_sub(b, b_part));
    let inexact = f64x2_gt(f64x2_abs(error), f64x2_splat(0.0));
    // All ones if the last bit is 0.
    let even = i64x2_sub(v128_and(sum, i64x2_splat(1)), i64x2_splat(1));
    // 1, away from zero, if the error has the sign of the sum, else -1.
    let step = v128_or(i64x2_shr(v128_xor(error, sum), 63), i64x2_splat(1));
    i64x2_add(sum, v128_and(step, v128_and(inexact, even)))
}

/// The bits of an f64 beyond the precision of f32.
const BEYOND_F32: i64 = (1 << 29) - 1;

/// The maximum number of factors of [`sums_of_f16`].
const MAX_FACTORS: usize = 256;

/// See [`Lanes::sums_of_f16`]. `None` if there are too many factors, or a sum may be in the
/// range of f32 where the precision is lower, or exceed it.
///
/// Finite f16 are multiples of 2^-24 below 2^16. With factors that are multiples of 2^-123,
/// all sums are multiples of 2^-147, so those below 2^-126 have no bits that f32 lacks. With
/// factors up to 2^40, sums are below 2^64.
#[inline(always)]
fn sums_of_f16<const R: usize>(
    factors: [&[f32]; R],
    x: &[[u16; WIDTH]],
    step: usize,
) -> Option<[[v128; 4]; R]> {
    let mut sums = [[i32x4_splat(0); 4]; R];
    for (factors, sums) in factors.chunks(2).zip(sums.chunks_mut(2)) {
        let mut room = [[const { MaybeUninit::uninit() }; MAX_FACTORS]; 2];
        let [first_room, second_room] = &mut room;
        let first = scaled_factors(factors[0], first_room)?;
        if let (&[_, second], [a_sums, b_sums]) = (factors, &mut *sums) {
            let second = scaled_factors(second, second_room)?;
            for part in 0..4 {
                [a_sums[part], b_sums[part]] = part_sums_of_f16([first, second], x, step, part)?;
            }
        } else {
            for part in 0..4 {
                [sums[0][part]] = part_sums_of_f16([first], x, step, part)?;
            }
        }
    }
    Some(sums)
}

/// Writes the factors for values that are 2^112 times smaller.
#[inline(never)]
fn scaled_factors<'a>(
    factors: &[f32],
    out: &'a mut [MaybeUninit<f64>; MAX_FACTORS],
) -> Option<&'a [f64]> {
    let out = out.get_mut(..factors.len())?;
    let mut in_range = true;
    for (x, out) in factors.iter().zip(&mut *out) {
        let size = x.abs();
        in_range &= (size >= 2f32.powi(-100)) & (size <= 2f32.powi(40)) | (size == 0.0);
        out.write(f64::from(*x) * 2f64.powi(112));
    }
    // SAFETY: each was written.
    in_range.then_some(unsafe { out.assume_init_ref() })
}

/// Computes four lanes of [`sums_of_f16`].
///
/// The sum in f64 is the rounded exact sum. Rounding it again gives what rounding once gives,
/// unless it is a tie between two f32, which is computed in another way.
///
/// A function of its own, or there would be too much code around the loop for good code of it.
#[inline(never)]
#[expect(clippy::needless_range_loop, reason = "bounds are constants")]
fn part_sums_of_f16<const R: usize>(
    factors: [&[f64]; R],
    x: &[[u16; WIDTH]],
    step: usize,
    part: usize,
) -> Option<[v128; R]> {
    let n = factors[0].len();
    let factors = factors.map(|factors| &factors[..n]);
    let exponent = i32x4_splat(0x7c00 << 13);
    let mut infinite = i32x4_splat(0);
    let mut sums = [[f64x2_splat(0.0); 2]; R];
    for (i, x) in x.iter().step_by(step).take(n).enumerate() {
        // The bits of an f32 that is 2^112 times smaller, since the exponent bias is 15 in
        // f16 and 127 in f32.
        // SAFETY: a part is eight bytes.
        let x = unsafe { i32x4_load_extend_i16x4(x.as_chunks::<4>().0[part].as_ptr().cast()) };
        let x = v128_and(i32x4_shl(x, 13), i32x4_splat(!(7 << 28)));
        infinite = v128_or(infinite, i32x4_eq(v128_and(x, exponent), exponent));
        let x = promote(x);
        let mut rounded = sums;
        let mut ties = i32x4_splat(0);
        for r in 0..R {
            // SAFETY: the element is eight bytes.
            let factor = unsafe { v128_load64_splat((&raw const factors[r][i]).cast()) };
            for half in 0..2 {
                let sum = f64x2_add(f64x2_mul(factor, x[half]), sums[r][half]);
                // Rounds ties away from zero, and leaves no bits of one.
                let raised = i64x2_add(sum, i64x2_splat((BEYOND_F32 + 1) / 2));
                rounded[r][half] = v128_and(raised, i64x2_splat(!BEYOND_F32));
                ties = v128_or(ties, i64x2_eq(raised, rounded[r][half]));
            }
        }
        if v128_any_true(ties) {
            for r in 0..R {
                for half in 0..2 {
                    rounded[r][half] = add_product(factors[r][i], x[half], sums[r][half]);
                }
            }
        }
        sums = rounded;
    }
    if v128_any_true(infinite) {
        return None;
    }
    Some(sums.map(demote))
}

/// Adds a product to f32, both in f64, rounded once to the precision of f32. Without pointers,
/// for which the sums of the loop would be in memory.
#[cold]
#[inline(never)]
fn add_product(factor: f64, x: v128, sums: v128) -> v128 {
    let sums = sum_to_odd(f64x2_mul(f64x2_splat(factor), x), sums);
    f64x2_promote_low_f32x4(f32x4_demote_f64x2_zero(sums))
}
