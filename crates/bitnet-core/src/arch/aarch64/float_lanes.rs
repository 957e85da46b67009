//! Sixteen f32 in four registers.

use std::arch::aarch64::{
    float32x4_t, vadd_f32, vaddq_f32, vaddq_s32, vandq_u32, vbslq_f32, vceqq_f32, vcgtq_f32,
    vcltq_f32, vcvt_f32_f16, vcvtq_f32_s32, vcvtq_s32_f32, vdupq_n_f32, vdupq_n_s32, vfmaq_f32,
    vget_high_f32, vget_low_f32, vget_low_s8, vget_low_s16, vld1_u16, vld1q_f32, vld1q_s8,
    vld1q_s32, vmaxnmq_f32, vmaxnmvq_f32, vmovl_high_s8, vmovl_high_s16, vmovl_s8, vmovl_s16,
    vmulq_f32, vpadds_f32, vreinterpret_f16_u16, vreinterpretq_f32_s32, vreinterpretq_f32_u32,
    vreinterpretq_s8_s16, vreinterpretq_s16_s32, vreinterpretq_u32_f32, vshlq_n_s32, vshrq_n_s32,
    vst1q_f32, vst1q_s8, vsubq_f32, vsubq_s32, vuzp1q_s8, vuzp1q_s16,
};

use super::Neon;
use crate::lanes::{Lanes, WIDTH};

impl Lanes for Neon {
    type V = [float32x4_t; 4];

    // Four of 32 registers each.
    const MAX_ACCUMULATORS: usize = 4;

    instructions! {
        fn splat(x: f32) -> Self::V = [vdupq_n_f32(x); 4];
        fn load(x: &[f32; WIDTH]) -> Self::V = unroll4!(I => vld1q_f32(x[4 * I..].as_ptr()));
        fn load_f16(x: &[u16; WIDTH]) -> Self::V =
            unroll4!(I => vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x[4 * I..].as_ptr()))));
        fn load_i8(x: &[i8; WIDTH]) -> Self::V = {
            let x = vld1q_s8(x.as_ptr());
            let [low, high] = [vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x)];
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        };
        fn load_i32(x: &[i32; WIDTH]) -> Self::V =
            unroll4!(I => vcvtq_f32_s32(vld1q_s32(x[4 * I..].as_ptr())));
        fn add(a: Self::V, b: Self::V) -> Self::V = unroll4!(I => vaddq_f32(a[I], b[I]));
        fn sub(a: Self::V, b: Self::V) -> Self::V = unroll4!(I => vsubq_f32(a[I], b[I]));
        fn mul(a: Self::V, b: Self::V) -> Self::V = unroll4!(I => vmulq_f32(a[I], b[I]));
        fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V =
            unroll4!(I => vfmaq_f32(c[I], a[I], b[I]));
        // Not `fmax`, which returns NaN if either operand is NaN.
        fn max(a: Self::V, b: Self::V) -> Self::V =
            unroll4!(I => vbslq_f32(vcgtq_f32(a[I], b[I]), a[I], b[I]));
        fn min(a: Self::V, b: Self::V) -> Self::V =
            unroll4!(I => vbslq_f32(vcltq_f32(a[I], b[I]), a[I], b[I]));
        fn nan_to_zero(x: Self::V) -> Self::V = unroll4!(I => {
            let bits = vandq_u32(vceqq_f32(x[I], x[I]), vreinterpretq_u32_f32(x[I]));
            vreinterpretq_f32_u32(bits)
        });
        fn ldexp(x: Self::V, n: Self::V) -> Self::V =
            unroll4!(I => ldexp(x[I], n[I]));
        fn reduce_sum(x: Self::V) -> f32 = {
            let x = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
            vpadds_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x)))
        };
        fn reduce_max(x: Self::V) -> f32 =
            vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(x[0], x[1]), vmaxnmq_f32(x[2], x[3])));
    }

    #[inline(always)]
    fn mul_add_scalar(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn store(self, x: Self::V, out: &mut [f32; WIDTH]) {
        let (parts, _) = out.as_chunks_mut::<4>();
        for (x, part) in x.into_iter().zip(parts) {
            // SAFETY: NEON is in the baseline, and a part is 16 bytes.
            unsafe { vst1q_f32(part.as_mut_ptr(), x) };
        }
    }

    #[inline(always)]
    fn store_i8(self, x: Self::V, out: &mut [i8; WIDTH]) {
        // SAFETY: NEON is in the baseline, and `out` is 16 bytes.
        unsafe {
            let x = unroll4!(I => vreinterpretq_s16_s32(vcvtq_s32_f32(x[I])));
            // The lower halves of all lanes, two times.
            let low = vreinterpretq_s8_s16(vuzp1q_s16(x[0], x[1]));
            let high = vreinterpretq_s8_s16(vuzp1q_s16(x[2], x[3]));
            vst1q_s8(out.as_mut_ptr(), vuzp1q_s8(low, high));
        }
    }
}

/// Returns x·2^n. 2^n is split into two factors, since it may be out of range.
#[inline]
#[target_feature(enable = "neon")]
fn ldexp(x: float32x4_t, n: float32x4_t) -> float32x4_t {
    let power = |n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))));
    let n = vcvtq_s32_f32(n);
    let half = vshrq_n_s32::<1>(n);
    vmulq_f32(vmulq_f32(x, power(half)), power(vsubq_s32(n, half)))
}
