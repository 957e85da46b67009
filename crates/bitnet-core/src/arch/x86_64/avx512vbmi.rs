//! AVX-512 with VNNI and VBMI: `vpermi2b` looks up 64 bytes at a time in a table of 128. This
//! decodes five trits per byte fast enough to benefit from their smaller size.
//!
//! A block of 20 columns takes one load, the signs (`vpmovb2m`), two table lookups and two
//! masked subtractions, four `and`, three shifts (none for one or two tokens), and five
//! `vpdpbusd` per token. For many tokens, panels are first unpacked to the two-bit layout.

use std::arch::x86_64::{
    __m512i, __mmask64, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_mask_sub_epi8,
    _mm512_movepi8_mask, _mm512_or_si512, _mm512_permutex2var_epi8, _mm512_slli_epi16,
    _mm512_storeu_si512,
};

use super::avx512bw::Avx512bw;
use super::avx512vnni::{Avx512vnni, tile};
use super::row_lanes::RowLanes;
use super::vnni::{StepCols, Vnni, Weights, rescale_two_bits, two_bits};
use super::{IsaLevel, define_isa};
use crate::arch::NullaryFnOnce;
use crate::base3;
use crate::panel::{Acc, COL_STEP, Operands, PackedBlock};

define_isa!(
    /// A processor with AVX-512 F, BW, DQ, VL, VNNI and VBMI.
    Avx512vbmi(Avx512vnni) from Avx512vnni::new(),
    [
        "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512vbmi", "avx2", "fma",
        "f16c"
    ]
);

impl Vnni for Avx512vbmi {
    type Base = Avx512bw;

    #[inline(always)]
    fn base(self) -> Avx512bw {
        self.0.base()
    }

    instructions! {
        fn dot(sums: __m512i, x: __m512i, y: __m512i) -> __m512i = _mm512_dpbusd_epi32(sums, x, y);
    }
}

impl Avx512vbmi {
    instructions! {
        fn signs(x: __m512i) -> __mmask64 = _mm512_movepi8_mask(x);
        fn sub_where(signs: __mmask64, x: __m512i, y: __m512i) -> __m512i =
            _mm512_mask_sub_epi8(y, signs, x, y);
        fn or(x: __m512i, y: __m512i) -> __m512i = _mm512_or_si512(x, y);
        fn shift_left_2(x: __m512i) -> __m512i = _mm512_slli_epi16::<2>(x);
        fn look_up(low: __m512i, high: __m512i, x: __m512i) -> __m512i =
            _mm512_permutex2var_epi8(low, x, high);
    }

    #[inline(always)]
    fn table(self, half: &[u8; 64]) -> __m512i {
        // SAFETY: `self` proves AVX-512, and the array is 64 bytes.
        unsafe { _mm512_loadu_si512(half.as_ptr().cast()) }
    }

    #[inline(always)]
    fn block(self, x: __m512i) -> PackedBlock {
        let mut block = PackedBlock::ZERO;
        // SAFETY: `self` proves AVX-512, and a block is 64 bytes.
        unsafe { _mm512_storeu_si512(block.0.as_mut_ptr().cast(), x) };
        block
    }

    /// Returns the codes of each byte: looks up those of the magnitude; a negative number
    /// has the codes 2 - c, which is `negative` minus them.
    #[inline(always)]
    fn codes(self, bytes: __m512i, table: &[[u8; 64]; 2], negative: __m512i) -> __m512i {
        let [low, high] = table;
        let codes = self.look_up(self.table(low), self.table(high), bytes);
        self.sub_where(self.signs(bytes), negative, codes)
    }

    /// Returns the first four codes of each byte in the two-bit layout.
    #[inline(always)]
    fn first_four(self, bytes: __m512i) -> __m512i {
        let negative = self.base().splat_i8(0b10_10_10_10_u8 as i8);
        self.codes(bytes, &base3::FIRST_FOUR, negative)
    }

    /// Returns the fifth code of each byte.
    #[inline(always)]
    fn fifth(self, bytes: __m512i) -> __m512i {
        self.codes(bytes, &base3::FIFTH, self.base().splat_i8(2))
    }

    /// Computes dot products of codes 0..=2, five per byte, with activations.
    pub(crate) fn base3_panel(self, operands: Operands<'_>, acc: &mut Acc) {
        for (operands, acc) in operands.tiles::<16>(acc) {
            match acc.len() {
                16 => tile::<Self, Base3, 16, 1>(self, Base3, operands, acc),
                8 => tile::<Self, Base3, 8, 1>(self, Base3, operands, acc),
                4 => tile::<Self, Base3, 4, 1>(self, Base3, operands, acc),
                2 => tile::<Self, Base3, 2, 5>(self, Base3, operands, acc),
                _ => tile::<Self, Base3, 1, 5>(self, Base3, operands, acc),
            }
        }
    }

    /// Unpacks a panel to the two-bit layout: four blocks to five.
    pub(crate) fn unpack(self, blocks: &[PackedBlock], out: &mut [PackedBlock]) {
        self.vectorize(Unpack {
            isa: self,
            blocks,
            out,
        });
    }
}

/// Codes 0..=2. The products are those of the codes, without correction.
#[derive(Clone, Copy)]
struct Base3;

impl Weights<Avx512vbmi> for Base3 {
    const BLOCKS: usize = 1;
    const QUADS: usize = 5;
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn cols(step: usize) -> StepCols {
        let (first, block) = (base3::GROUP_COLS * (step / 4), step % 4);
        StepCols {
            col: first + COL_STEP * block,
            fifth: first + 4 * COL_STEP + 4 * block,
        }
    }

    /// Common subexpressions of the operands are repeated here; the compiler eliminates
    /// them.
    #[inline(always)]
    fn operand<const QUAD: usize>(
        self,
        isa: Avx512vbmi,
        blocks: &[PackedBlock],
        part: usize,
        own_sum: bool,
    ) -> __m512i {
        let bytes = isa.base().load_part(&blocks[0], part);
        if QUAD < 4 {
            two_bits::<_, QUAD>(isa, isa.first_four(bytes), own_sum)
        } else {
            isa.fifth(bytes)
        }
    }

    #[inline(always)]
    fn rescale(self, isa: Avx512vbmi, quad: usize, sum: __m512i) -> __m512i {
        if quad < 4 {
            rescale_two_bits(isa, quad, sum)
        } else {
            sum
        }
    }
}

struct Unpack<'a> {
    isa: Avx512vbmi,
    blocks: &'a [PackedBlock],
    out: &'a mut [PackedBlock],
}

impl NullaryFnOnce for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (isa, lanes) = (self.isa, self.isa.base());
        let groups = self.blocks.as_chunks::<4>().0;
        let out = self.out.as_chunks_mut::<5>().0;
        assert_eq!(groups.len(), out.len(), "room for every group");
        for (group, out) in groups.iter().zip(out) {
            let mut fifths = lanes.zero();
            // In reverse: the fifth codes of the last block are shifted three times.
            for b in (0..4).rev() {
                let bytes = lanes.load_part(&group[b], 0);
                out[b] = isa.block(isa.first_four(bytes));
                // Codes are below 4, so shifts stay within their bytes.
                fifths = isa.shift_left_2(fifths);
                fifths = isa.or(fifths, isa.fifth(bytes));
            }
            out[4] = isa.block(fifths);
        }
    }
}
