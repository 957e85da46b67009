//! Sixteen f32 in one register of AVX-512, or in two of AVX2.

use std::arch::x86_64::{
    __m256, __m512, _CMP_ORD_Q, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_fmadd_ss,
    _mm_loadu_si128, _mm_max_ps, _mm_max_ss, _mm_movehdup_ps, _mm_movehl_ps, _mm_packs_epi16,
    _mm_set_ss, _mm_storeu_si128, _mm_unpackhi_epi64, _mm256_add_epi32, _mm256_add_ps,
    _mm256_and_ps, _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_castsi256_si128,
    _mm256_cmp_ps, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_cvtps_epi32,
    _mm256_extractf128_ps, _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_packs_epi32,
    _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_set1_ps, _mm256_slli_epi32,
    _mm256_srai_epi32, _mm256_storeu_ps, _mm256_sub_epi32, _mm256_sub_ps, _mm512_add_ps,
    _mm512_castps512_ps256, _mm512_cmp_ps_mask, _mm512_cvtepi8_epi32, _mm512_cvtepi32_epi8,
    _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_cvtps_epi32, _mm512_extractf32x8_ps,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_maskz_mov_ps, _mm512_max_ps,
    _mm512_min_ps, _mm512_mul_ps, _mm512_scalef_ps, _mm512_set1_ps, _mm512_storeu_ps,
    _mm512_sub_ps,
};

use super::{Avx2, Avx512bw};
use crate::lanes::{Lanes, WIDTH};

impl Lanes for Avx512bw {
    type V = __m512;

    // Of 32 registers; the others hold a row of keys or values and the factors.
    const MAX_ACCUMULATORS: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; WIDTH]) -> __m512 {
        // SAFETY: `self` proves AVX-512 F; `x` is 64 bytes.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; WIDTH]) -> __m512 {
        // SAFETY: `self` proves AVX-512 F; `x` is 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(self, x: __m512, out: &mut [f32; WIDTH]) {
        // SAFETY: `self` proves AVX-512 F; `out` is 64 bytes.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) };
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8; WIDTH]) -> __m512 {
        // SAFETY: `self` proves AVX-512 F; `x` is 16 bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn load_i32(self, x: &[i32; WIDTH]) -> __m512 {
        // SAFETY: `self` proves AVX-512 F; `x` is 64 bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store_i8(self, x: __m512, out: &mut [i8; WIDTH]) {
        // SAFETY: `self` proves AVX-512 F; `out` is 16 bytes.
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn mul_add_scalar(self, a: f32, b: f32, c: f32) -> f32 {
        // Not `f32::mul_add`, which calls the C library where it is not inlined into the
        // wrapper of `self`.
        // SAFETY: `self` proves FMA.
        unsafe { _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c))) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn nan_to_zero(self, x: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x), x) }
    }

    #[inline(always)]
    fn ldexp(self, x: __m512, n: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_scalef_ps(x, n) }
    }

    #[inline(always)]
    fn reduce_sum(self, x: __m512) -> f32 {
        // SAFETY: `self` proves AVX-512 DQ.
        unsafe { sum_halves(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)) }
    }

    #[inline(always)]
    fn reduce_max(self, x: __m512) -> f32 {
        // SAFETY: `self` proves AVX-512 DQ.
        unsafe { max_halves(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)) }
    }
}

impl Lanes for Avx2 {
    type V = [__m256; 2];

    // Two of 16 registers each.
    const MAX_ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: `self` proves AVX.
        [unsafe { _mm256_set1_ps(x) }; 2]
    }

    #[inline(always)]
    fn load(self, x: &[f32; WIDTH]) -> Self::V {
        // SAFETY: `self` proves AVX; `x` is two times 32 bytes.
        unsafe {
            [
                _mm256_loadu_ps(x.as_ptr()),
                _mm256_loadu_ps(x[8..].as_ptr()),
            ]
        }
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; WIDTH]) -> Self::V {
        // SAFETY: `self` proves AVX and F16C; `x` is two times 16 bytes.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(x[8..].as_ptr().cast())),
            ]
        }
    }

    #[inline(always)]
    fn store(self, x: Self::V, out: &mut [f32; WIDTH]) {
        let (low, high) = out.split_at_mut(8);
        // SAFETY: `self` proves AVX; each half of `out` is 32 bytes.
        unsafe {
            _mm256_storeu_ps(low.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(high.as_mut_ptr(), x[1]);
        }
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8; WIDTH]) -> Self::V {
        // One load: of halves, the compiler would also compute what is loaded in halves.
        // SAFETY: `self` proves AVX2; `x` is 16 bytes.
        unsafe {
            let x = _mm_loadu_si128(x.as_ptr().cast());
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(x, x))),
            ]
        }
    }

    #[inline(always)]
    fn load_i32(self, x: &[i32; WIDTH]) -> Self::V {
        // SAFETY: `self` proves AVX; `x` is two times 32 bytes.
        unsafe {
            [
                _mm256_cvtepi32_ps(_mm256_loadu_si256(x.as_ptr().cast())),
                _mm256_cvtepi32_ps(_mm256_loadu_si256(x[8..].as_ptr().cast())),
            ]
        }
    }

    #[inline(always)]
    fn store_i8(self, x: Self::V, out: &mut [i8; WIDTH]) {
        // SAFETY: `self` proves AVX2; `out` is 16 bytes.
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
            // Packing works in 128-bit halves: 0-3, 8-11, 4-7, 12-15.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let (low, high) = (
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_packs_epi16(low, high));
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: `self` proves FMA.
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }

    #[inline(always)]
    fn mul_add_scalar(self, a: f32, b: f32, c: f32) -> f32 {
        // Not `f32::mul_add`, which calls the C library where it is not inlined into the
        // wrapper of `self`.
        // SAFETY: `self` proves FMA.
        unsafe { _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c))) }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX.
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn nan_to_zero(self, x: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX.
        unsafe {
            [
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_ORD_Q>(x[0], x[0]), x[0]),
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_ORD_Q>(x[1], x[1]), x[1]),
            ]
        }
    }

    #[inline(always)]
    fn ldexp(self, x: Self::V, n: Self::V) -> Self::V {
        // SAFETY: `self` proves AVX2.
        unsafe { [ldexp(x[0], n[0]), ldexp(x[1], n[1])] }
    }

    #[inline(always)]
    fn reduce_sum(self, x: Self::V) -> f32 {
        // SAFETY: `self` proves AVX.
        unsafe { sum_halves(x[0], x[1]) }
    }

    #[inline(always)]
    fn reduce_max(self, x: Self::V) -> f32 {
        // SAFETY: `self` proves AVX.
        unsafe { max_halves(x[0], x[1]) }
    }
}

/// Returns x·2^n. 2^n is split into two factors, since it may be out of range.
#[target_feature(enable = "avx2")]
fn ldexp(x: __m256, n: __m256) -> __m256 {
    let power = |n| {
        let exponent = _mm256_add_epi32(n, _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
    };
    let n = _mm256_cvtps_epi32(n);
    let half = _mm256_srai_epi32::<1>(n);
    let x = _mm256_mul_ps(x, power(half));
    _mm256_mul_ps(x, power(_mm256_sub_epi32(n, half)))
}

/// Adds the upper half to the lower until one lane is left.
#[target_feature(enable = "avx")]
fn sum_halves(low: __m256, high: __m256) -> f32 {
    let x = _mm256_add_ps(low, high);
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

#[target_feature(enable = "avx")]
fn max_halves(low: __m256, high: __m256) -> f32 {
    let x = _mm256_max_ps(low, high);
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
}
