//! Q6_K: 256 weights in 210 bytes, a scale for each sub-block of 16.
//!
//! ```text
//! byte   0 ... 127   128 ... 191   192 ... 207    208 209
//!        low[128]    high[64]      int8 sc[16]    f16 d
//!
//! weight i = d · sc[i / 16] · (code i - 32), code i in 0..64
//!
//! i = 128h + 32g + j, h in 0..2, g in 0..4, j in 0..32:
//!   bits 3:0 of the code   low[64h + 32(g % 2) + j] >> 4(g / 2)
//!   bits 5:4 of the code   high[32h + j] >> 2g
//! ```
//!
//! Source: llama.cpp, `block_q6_K` in `ggml/src/ggml-common.h` and
//! `dequantize_row_q6_K` in `ggml/src/ggml-quants.c`. The quantizer is this
//! crate's own.

use bitnet_core::lanes::Lanes;
use bitnet_core::{Isa, NullaryFnOnce};
use half::f16;

use super::Scaled;
use super::float::f16_to_f32;

pub(super) const BLOCK_LEN: usize = 256;
pub(super) const BLOCK_BYTES: usize = 210;

const SUB_LEN: usize = 16;
const N_SUBS: usize = BLOCK_LEN / SUB_LEN;
/// Weights of a group of a half.
const GROUP_LEN: usize = 32;
const LOW_BYTES: usize = BLOCK_LEN / 2;
const HIGH_BYTES: usize = BLOCK_LEN / 4;

/// The place of a sub-block's codes, in runs of 16 bytes.
struct Place {
    low: usize,
    low_shift: usize,
    high: usize,
    high_shift: usize,
}

#[inline(always)]
fn place(sub: usize) -> Place {
    let (half, group, part) = (sub / 8, sub / 2 % 4, sub % 2);
    Place {
        low: 4 * half + 2 * (group % 2) + part,
        low_shift: 4 * (group / 2),
        high: 2 * half + part,
        high_shift: 2 * group,
    }
}

#[inline(always)]
pub(super) fn decode<L: Lanes>(lanes: L, bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
    let (out, _) = out.as_chunks_mut::<BLOCK_LEN>();
    for (out, block) in out.iter_mut().zip(blocks) {
        let (low, rest) = block.split_at(LOW_BYTES);
        let (high, rest) = rest.split_at(HIGH_BYTES);
        let (scales, d) = rest.split_at(N_SUBS);
        let d = f16_to_f32([d[0], d[1]]);
        let (low, _) = low.as_chunks::<GROUP_LEN>();
        let (high, _) = high.as_chunks::<GROUP_LEN>();
        let (scales, _) = scales.as_chunks::<{ GROUP_LEN / SUB_LEN }>();
        let (groups, _) = out.as_chunks_mut::<GROUP_LEN>();
        for (half, high) in high.iter().enumerate() {
            let (first, second) = (&low[2 * half], &low[2 * half + 1]);
            let (groups, scales) = (&mut groups[4 * half..][..4], &scales[4 * half..][..4]);
            let scaled = |group: usize, sub: usize| {
                Scaled::new(lanes, d * (scales[group][sub] as i8 as f32))
            };
            let scaled = |group| [scaled(group, 0), scaled(group, 1)];
            // Constant shifts vectorize best.
            decode_group::<L, 0, 0>(first, high, scaled(0), &mut groups[0]);
            decode_group::<L, 0, 2>(second, high, scaled(1), &mut groups[1]);
            decode_group::<L, 4, 4>(first, high, scaled(2), &mut groups[2]);
            decode_group::<L, 4, 6>(second, high, scaled(3), &mut groups[3]);
        }
    }
}

/// Decodes the codes that are in these bits.
#[inline(always)]
fn decode_group<L: Lanes, const LOW_SHIFT: u32, const HIGH_SHIFT: u32>(
    low: &[u8; GROUP_LEN],
    high: &[u8; GROUP_LEN],
    scaled: [Scaled<L>; GROUP_LEN / SUB_LEN],
    out: &mut [f32; GROUP_LEN],
) {
    let mut codes = [0; GROUP_LEN];
    for (code, (low, high)) in codes.iter_mut().zip(low.iter().zip(high)) {
        *code = ((low >> LOW_SHIFT & 15) | (high >> HIGH_SHIFT & 3) << 4) as i8 - 32;
    }
    let (subs, _) = out.as_chunks_mut::<SUB_LEN>();
    for ((out, codes), scaled) in subs.iter_mut().zip(codes.as_chunks().0).zip(scaled) {
        scaled.write(codes, out);
    }
}

pub(super) fn encode(values: &[f32], out: &mut Vec<u8>) {
    let (blocks, _) = values.as_chunks::<BLOCK_LEN>();
    let isa = Isa::best();
    for block in blocks {
        out.extend_from_slice(&isa.vectorize(Quantize { block }));
    }
}

/// One value per sub-block. The quantizer processes all sub-blocks of a block in
/// parallel lanes, which avoids horizontal sums.
type PerSub = [f32; N_SUBS];

/// Quantizes one block in two steps: for each sub-block the real scale with the
/// least squared error, found by search around the one that fits the largest
/// magnitude; then, with `d` fixed so that the largest of these scales becomes
/// -128, the nearby integer scale with the least error.
struct Quantize<'a> {
    block: &'a [f32; BLOCK_LEN],
}

impl NullaryFnOnce for Quantize<'_> {
    type Output = [u8; BLOCK_BYTES];

    #[inline(always)]
    fn call(self) -> [u8; BLOCK_BYTES] {
        let finite = self.block.iter().all(|x| x.is_finite());
        let x: [PerSub; SUB_LEN] =
            std::array::from_fn(|i| std::array::from_fn(|sub| self.block[sub * SUB_LEN + i]));
        let ideal = best_scales(&x);
        let d = if finite {
            block_scale(&ideal)
        } else {
            f16::NAN
        };
        let scales = if d.is_finite() && d.to_f32() != 0.0 {
            nearby_scales(&x, &ideal, d.to_f32())
        } else {
            [0.0; N_SUBS]
        };
        let inverse = scales.map(|scale| inverse(d.to_f32() * scale));
        let codes = x.map(|x| std::array::from_fn(|sub| code(x[sub] * inverse[sub])));
        pack(&codes, &scales, d)
    }
}

/// Returns for each sub-block the real scale with the least squared error among
/// those tried.
///
/// For given codes q the best scale is s = Σxq / Σq², and its error is
/// Σx² - (Σxq)² / Σq²; the codes change with the scale, so codes of scales
/// around the obvious one are tried. Codes range from -32 to 31: the largest magnitude
/// is mapped to the negative end, by a negative scale if necessary.
#[inline(always)]
fn best_scales(x: &[PerSub; SUB_LEN]) -> PerSub {
    let mut peak = [0f32; N_SUBS];
    for x in x {
        for (peak, &x) in peak.iter_mut().zip(x) {
            *peak = if x.abs() > peak.abs() { x } else { *peak };
        }
    }
    let mut most = [0.0; N_SUBS];
    let mut scale = [0.0; N_SUBS];
    for step in -TRIES..=TRIES {
        let inverse = peak.map(|peak| -(32.0 + TRY_STEP * step as f32) / peak);
        let mut xq = [0.0; N_SUBS];
        let mut qq = [0.0; N_SUBS];
        for x in x {
            for sub in 0..N_SUBS {
                let q = code(x[sub] * inverse[sub]);
                xq[sub] += x[sub] * q;
                qq[sub] += q * q;
            }
        }
        for sub in 0..N_SUBS {
            // NaN, and so never more, where all is zero.
            let gain = xq[sub] * xq[sub] / qq[sub];
            let better = gain > most[sub];
            most[sub] = if better { gain } else { most[sub] };
            scale[sub] = if better {
                xq[sub] / qq[sub]
            } else {
                scale[sub]
            };
        }
    }
    scale
}

/// Tries on each side of the obvious scale: the peak as the codes -28 to -36,
/// the latter clipped. On Gaussian values, half that range leaves 2 % more error
/// and five times as many tries in it only 0.1 % less.
const TRIES: i32 = 8;
/// Distance of the tries in codes.
const TRY_STEP: f32 = 0.5;

/// Returns the f16 `d` for which -128 · d is the largest scale, or the next larger f16
/// if rounding down would put that out of range; NaN on overflow.
#[inline(always)]
fn block_scale(ideal: &PerSub) -> f16 {
    let largest = ideal
        .iter()
        .fold(0f32, |m, &s| if s.abs() > m.abs() { s } else { m });
    let d = f16::from_f32(largest / -128.0);
    if !d.is_finite() {
        f16::NAN
    } else if largest.abs() > 128.5 * d.to_f32().abs() && d.to_f32() != 0.0 {
        // Only a subnormal d is that coarse.
        f16::from_bits(d.to_bits() + 1)
    } else {
        d
    }
}

/// Returns for each sub-block the integer scale with the least squared error
/// among the one nearest to `ideal` and its neighbours.
#[inline(always)]
fn nearby_scales(x: &[PerSub; SUB_LEN], ideal: &PerSub, d: f32) -> PerSub {
    let mut least = [f32::INFINITY; N_SUBS];
    let mut scales = [0.0; N_SUBS];
    for step in [0.0, -1.0, 1.0] {
        let tried = ideal.map(|ideal| (round(ideal / d) + step).clamp(-128.0, 127.0));
        let inverse = tried.map(|tried| inverse(d * tried));
        let mut error = [0.0; N_SUBS];
        for x in x {
            for sub in 0..N_SUBS {
                let off = x[sub] - d * tried[sub] * code(x[sub] * inverse[sub]);
                error[sub] += off * off;
            }
        }
        for sub in 0..N_SUBS {
            let better = error[sub] < least[sub];
            least[sub] = if better { error[sub] } else { least[sub] };
            scales[sub] = if better { tried[sub] } else { scales[sub] };
        }
    }
    scales
}

/// Returns 1 / scale, and 0 for 0.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Returns the code (less 32) nearest to x.
#[inline(always)]
fn code(x: f32) -> f32 {
    round(x).clamp(-32.0, 31.0)
}

/// Returns the nearest integer, ties to even, for |x| < 2^22: the sum has no fraction
/// bits. Unlike `round_ties_even` it vectorizes on every instruction set; results
/// outside the range are large enough to be clamped.
#[inline(always)]
fn round(x: f32) -> f32 {
    const MAGIC: f32 = 1.5 * (1 << 23) as f32;
    (x + MAGIC) - MAGIC
}

/// Lays out codes (less 32), scales and `d`.
#[inline(always)]
fn pack(codes: &[PerSub; SUB_LEN], scales: &PerSub, d: f16) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let (low, rest) = block.split_at_mut(LOW_BYTES);
    let (high, rest) = rest.split_at_mut(HIGH_BYTES);
    let (low, _) = low.as_chunks_mut::<SUB_LEN>();
    let (high, _) = high.as_chunks_mut::<SUB_LEN>();
    for sub in 0..N_SUBS {
        let at = place(sub);
        for (i, codes) in codes.iter().enumerate() {
            let code = (codes[sub] as i32 + 32) as u8;
            low[at.low][i] |= (code & 15) << at.low_shift;
            high[at.high][i] |= (code >> 4) << at.high_shift;
        }
    }
    rest[..N_SUBS].copy_from_slice(&scales.map(|s| s as i32 as i8 as u8));
    rest[N_SUBS..].copy_from_slice(&d.to_le_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::super::DenseType;
    use super::super::test_values::{gaussian, relative_rms_error};
    use super::*;

    fn decode_block(block: &[u8; BLOCK_BYTES]) -> [f32; BLOCK_LEN] {
        let mut out = [f32::NAN; BLOCK_LEN];
        DenseType::Q6K.decode_row(Isa::Scalar, block, &mut out);
        out
    }

    #[test]
    fn a_block_looks_as_drawn() {
        let mut block = [0; BLOCK_BYTES];
        block[208..].copy_from_slice(&0x3800u16.to_le_bytes()); // d = 0.5
        block[192..208].copy_from_slice(&[1; 16]);
        // All codes 32: zero.
        block[128..192].fill(0b10_10_10_10);
        assert_eq!(decode_block(&block), [0.0; BLOCK_LEN]);
        let mut expected = [0.0; BLOCK_LEN];
        // i = 0: h 0, g 0, j 0. Code 33, scale 3: 0.5 · 3 · 1.
        block[0] |= 1;
        block[192] = 3;
        expected[0] = 1.5;
        // i = 101 = 32 · 3 + 5: h 0, g 3, j 5. Code 63, scale -2 in sub-block 6.
        block[32 + 5] |= 15 << 4;
        block[128 + 5] |= 3 << 6;
        block[192 + 6] = -2i8 as u8;
        expected[101] = -31.0;
        // i = 210 = 128 + 64 + 18: h 1, g 2, j 18. Code 0, sub-block 13.
        block[128 + 32 + 18] &= !(3 << 4);
        expected[210] = -16.0;
        assert_eq!(decode_block(&block), expected);
    }

    #[test]
    fn packing_is_the_inverse_of_decoding() {
        let codes = std::array::from_fn(|i| {
            std::array::from_fn(|sub| ((sub * 29 + i * 7) % 64) as f32 - 32.0)
        });
        let scales = std::array::from_fn(|sub| sub as f32 * 17.0 - 128.0);
        let block = pack(&codes, &scales, f16::from_f32(0.25));
        for (i, y) in decode_block(&block).into_iter().enumerate() {
            let (sub, i) = (i / SUB_LEN, i % SUB_LEN);
            assert_eq!(y, 0.25 * scales[sub] * codes[i][sub], "{sub} {i}");
        }
    }

    #[test]
    fn every_kernel_quantizes_to_the_same_bytes() {
        for (seed, sigma) in [(1, 1.0), (2, 0.02), (3, 1e-6), (4, 1e5)] {
            let values = gaussian(BLOCK_LEN, sigma, seed);
            let (blocks, _) = values.as_chunks();
            let block = &blocks[0];
            let expected = Isa::Scalar.vectorize(Quantize { block });
            for isa in Isa::available() {
                assert_eq!(isa.vectorize(Quantize { block }), expected, "{isa}");
            }
        }
    }

    /// Scales each sub-block's largest magnitude to 31, and the largest of these
    /// scales to 127.
    fn max_scaling(block: &[f32; BLOCK_LEN]) -> [u8; BLOCK_BYTES] {
        let (subs, _) = block.as_chunks::<SUB_LEN>();
        let ideal: Vec<f32> = (subs.iter())
            .map(|x| x.iter().fold(0f32, |m, x| m.max(x.abs())) / 31.0)
            .collect();
        let d = f16::from_f32(ideal.iter().fold(0f32, |m, &s| m.max(s)) / 127.0);
        let scales = std::array::from_fn(|sub| (ideal[sub] / d.to_f32()).round());
        let codes = std::array::from_fn(|i| {
            std::array::from_fn(|sub| code(subs[sub][i] / (d.to_f32() * scales[sub])))
        });
        pack(&codes, &scales, d)
    }

    #[test]
    fn gaussian_values_lose_less_than_by_max_scaling() {
        let values = gaussian(400 * BLOCK_LEN, 0.02, 7);
        let error = |ty: DenseType, bytes: &[u8]| {
            let mut out = vec![f32::NAN; values.len()];
            ty.decode_row(Isa::best(), bytes, &mut out);
            relative_rms_error(&values, &out)
        };
        let mut bytes = Vec::new();
        encode(&values, &mut bytes);
        let searched = error(DenseType::Q6K, &bytes);
        let (blocks, _) = values.as_chunks();
        let plain: Vec<u8> = blocks.iter().flat_map(max_scaling).collect();
        let plain = error(DenseType::Q6K, &plain);
        let mut bytes = Vec::new();
        DenseType::Q8_0.encode_row(&values, &mut bytes);
        let q8_0 = error(DenseType::Q8_0, &bytes);
        // Measured: 0.01658 searched, 0.01929 by max scaling, 0.00534 by Q8_0,
        // which has four times as many codes but shares a scale among 32.
        let measured = format!("searched {searched}, plain {plain}, Q8_0 {q8_0}");
        assert!(searched < 0.0168, "{measured}");
        assert!(searched < 0.87 * plain, "{measured}");
        assert!(searched < 3.3 * q8_0, "{measured}");
    }

    #[test]
    fn small_and_uneven_blocks_keep_their_largest_values() {
        // Subnormal d, where rounding it down would clip; one large outlier.
        for largest in [3e-4f32, 6e-4, 1e-3, 0.1, 1e4] {
            let mut values = gaussian(BLOCK_LEN, largest as f64 / 100.0, 3);
            values[77] = -largest;
            values[200] = largest;
            let mut bytes = Vec::new();
            encode(&values, &mut bytes);
            let mut out = [f32::NAN; BLOCK_LEN];
            DenseType::Q6K.decode_row(Isa::Scalar, &bytes, &mut out);
            for i in [77, 200] {
                let off = (out[i] / values[i] - 1.0).abs();
                assert!(off < 0.01, "{} became {}", values[i], out[i]);
            }
        }
    }

    #[test]
    fn values_below_the_least_scale_become_zero() {
        let mut bytes = Vec::new();
        encode(&[1e-9; BLOCK_LEN], &mut bytes);
        let (blocks, _) = bytes.as_chunks();
        assert_eq!(decode_block(&blocks[0]), [0.0; BLOCK_LEN]);
    }
}
