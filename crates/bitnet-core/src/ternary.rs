//! Ternary matrices in the layout that the kernels compute on.

use std::sync::Mutex;

use crate::activations::{COL_STEP, Int8Rows};
use crate::arch;
use crate::five_trits;
use crate::kernel::Kernel;
use crate::layout::Layout;
#[cfg(target_arch = "x86_64")]
use crate::matmul::MAX_TILE;
use crate::matmul::{Acc, Block, Operands, PANEL_ROWS, Panels, for_tiles, matmul};
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};
use crate::team::Team;

/// A ternary matrix `[n_rows, n_cols]` with one scale, packed as a [`Layout`]
/// says.
///
/// Sixteen rows form a panel; a panel is a run of 64-byte blocks. In a block,
/// byte `4r + j` belongs to row r of the panel and holds, of the columns of the
/// block, those that are j modulo 4; as codes 0, 1, 2 for -1, 0, +1.
///
/// [`Layout::TwoBits`]: 16 columns.
///
/// ```text
/// byte 4r+j:  bits 7:6   5:4   3:2   1:0
///             col  j+12  j+8   j+4   j
/// ```
///
/// So `(block >> 2s) & 3` is, for each of the 16 rows, the four codes of the
/// columns 4s..4s+4: the unsigned operand of a four-way int8 dot product whose
/// signed operand is four activations, broadcast. Codes are unsigned; the dot
/// product of the trits is that of the codes minus the sum of the activations.
///
/// [`Layout::FiveTrits`]: four blocks for the 80 columns of five blocks of two bits
/// a weight. Block b has the weights of the other's block b and, as the fifth of
/// each byte, those that stand in bits 2b of the other's last block; the five trits
/// of a byte are one number.
///
/// ```text
/// byte 4r+j:  bit 7   bits 6:0
///             sign    |81·t(c) + 27·t(c+4) + 9·t(c+8) + 3·t(c+12) + t(64+4b+j)|, c = 16b+j
/// ```
///
/// Rows and columns are padded with zeros to whole blocks.
#[derive(Debug)]
pub struct PackedTernary {
    blocks: Buffer<Block>,
    layout: Layout,
    n_rows: usize,
    n_cols: usize,
    scale: f32,
}

impl PackedTernary {
    /// The most columns a matrix may have: with activations of at most 127, a
    /// dot product then stays below 2^24 and is exact in f32.
    pub const MAX_COLS: usize = (1 << 24) / 127;

    /// Packs a matrix at two bits a weight: see [`pack_as`](Self::pack_as).
    ///
    /// # Errors
    ///
    /// Returns the error of `decode_row` with the lowest row, or that there is no
    /// memory.
    pub fn pack<E: Send + From<OutOfMemory>>(
        pool: &HybridMemoryPool,
        team: &mut Team,
        (n_rows, n_cols): (usize, usize),
        scale: f32,
        decode_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let layout = Layout::TwoBits;
        Self::pack_as(pool, layout, team, (n_rows, n_cols), scale, decode_row)
    }

    /// Packs a matrix; `decode_row(row, trits)` fills one row with -1, 0, +1.
    /// Rows are decoded in any order and on all threads of the team.
    ///
    /// # Errors
    ///
    /// Returns the error of `decode_row` with the lowest row, or that there is no
    /// memory.
    ///
    /// # Panics
    ///
    /// Panics if `n_cols` exceeds [`MAX_COLS`](Self::MAX_COLS) or a trit is out
    /// of range (in builds with debug assertions).
    pub fn pack_as<E: Send + From<OutOfMemory>>(
        pool: &HybridMemoryPool,
        layout: Layout,
        team: &mut Team,
        (n_rows, n_cols): (usize, usize),
        scale: f32,
        decode_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        assert!(n_cols <= Self::MAX_COLS, "dot products are exact in f32");
        let blocks_per_panel = layout.blocks_per_panel(n_cols);
        let n_panels = n_rows.div_ceil(PANEL_ROWS);
        let mut blocks =
            pool.zeroed(Category::Weights, n_panels.saturating_mul(blocks_per_panel))?;
        let mut rooms = (0..team.n_threads())
            .map(|_| PackingRoom::new(pool, layout, n_cols))
            .collect::<Result<Vec<_>, _>>()?;
        let first_error: Mutex<Option<(usize, E)>> = Mutex::new(None);
        // A matrix without columns has no blocks, and nothing to pack.
        let chunk = blocks_per_panel.max(1);
        team.for_each_chunk(&mut blocks, chunk, &mut rooms, |room, panel, blocks| {
            let PackingRoom {
                codes,
                two_bits,
                trits,
            } = room;
            // Zero trits (code 1) wherever the matrix has no weight.
            codes.fill(1);
            for row_in_panel in 0..PANEL_ROWS {
                let row = panel * PANEL_ROWS + row_in_panel;
                if row < n_rows {
                    if let Err(error) = decode_row(row, trits) {
                        let mut first = first_error.lock().expect("no holder panics");
                        if first.as_ref().is_none_or(|(other, _)| row < *other) {
                            *first = Some((row, error));
                        }
                        return;
                    }
                    debug_assert!(trits.iter().all(|t| (-1..=1).contains(t)), "trits");
                    for (code, &trit) in codes.iter_mut().zip(trits.iter()) {
                        *code = (trit + 1) as u8;
                    }
                } else {
                    codes.fill(1);
                }
                pack_row(codes, row_in_panel, two_bits);
            }
            match layout {
                Layout::TwoBits => blocks.copy_from_slice(two_bits),
                Layout::FiveTrits => {
                    let groups = two_bits.as_chunks().0;
                    for (out, group) in blocks.as_chunks_mut().0.iter_mut().zip(groups) {
                        *out = five_trits::pack_group(group);
                    }
                }
            }
        });
        match first_error.into_inner().expect("no holder panics") {
            Some((_, error)) => Err(error),
            None => Ok(Self {
                blocks,
                layout,
                n_rows,
                n_cols,
                scale,
            }),
        }
    }

    /// Returns the number of rows: outputs.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Returns the number of columns: inputs.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Returns how the weights are packed.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns what each trit is multiplied with.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Returns the bytes that the packed weights take.
    pub fn n_bytes(&self) -> usize {
        size_of_val(&*self.blocks)
    }

    /// Writes one row as trits -1, 0, +1.
    ///
    /// # Panics
    ///
    /// Panics if `row` is out of range or `trits` is not `n_cols` long.
    pub fn unpack_row(&self, row: usize, trits: &mut [i8]) {
        assert!(row < self.n_rows && trits.len() == self.n_cols);
        let panel = self.panel(row / PANEL_ROWS);
        let mut write = |first_col: usize, block: &Block| {
            let trits = trits.get_mut(first_col..).unwrap_or_default();
            for (col, trit) in trits.iter_mut().take(COL_STEP).enumerate() {
                let byte = block.0[row % PANEL_ROWS * 4 + col % 4];
                *trit = (byte >> (col / 4 * 2) & 3) as i8 - 1;
            }
        };
        match self.layout {
            Layout::TwoBits => {
                for (i, block) in panel.iter().enumerate() {
                    write(COL_STEP * i, block);
                }
            }
            Layout::FiveTrits => {
                for (g, group) in panel.as_chunks().0.iter().enumerate() {
                    for (i, block) in five_trits::unpack_group(group).iter().enumerate() {
                        write(five_trits::GROUP_COLS * g + COL_STEP * i, block);
                    }
                }
            }
        }
    }

    /// Returns any weights that take about `n_bytes`, for measuring.
    pub(crate) fn filled(
        pool: &HybridMemoryPool,
        layout: Layout,
        n_bytes: usize,
    ) -> Result<Self, OutOfMemory> {
        const N_COLS: usize = 2560;
        let blocks_per_panel = layout.blocks_per_panel(N_COLS);
        let n_panels = n_bytes / size_of::<Block>() / blocks_per_panel;
        let mut blocks = pool.zeroed(Category::Scratch, n_panels * blocks_per_panel)?;
        // Not zeros: the system would give one page for all of them.
        blocks.fill(Block([0x55; 64]));
        Ok(Self {
            blocks,
            layout,
            n_rows: n_panels * PANEL_ROWS,
            n_cols: N_COLS,
            scale: 1.0,
        })
    }

    /// Computes `out[token, row] = Σ_col trit[row, col] · q[token, col] ·
    /// (scale / activation scale)`; the sum is exact.
    ///
    /// # Panics
    ///
    /// Panics if the shapes disagree: `acts` is `[n_tokens, n_cols]`, `out` is
    /// `[n_tokens, n_rows]`.
    pub fn matmul(&self, kernel: Kernel, team: &mut Team, acts: &Int8Rows, out: &mut [f32]) {
        assert_eq!(
            acts.n_cols(),
            self.n_cols,
            "columns of weights and activations"
        );
        matmul(
            &WithKernel {
                weights: self,
                kernel,
            },
            team,
            acts,
            out,
        );
    }

    fn panel(&self, panel: usize) -> &[Block] {
        let len = self.layout.blocks_per_panel(self.n_cols);
        &self.blocks[panel * len..][..len]
    }
}

/// What a thread needs to pack a panel.
struct PackingRoom {
    /// A row, filled up to whole blocks.
    codes: Buffer<u8>,
    /// The panel at two bits a weight.
    two_bits: Buffer<Block>,
    trits: Buffer<i8>,
}

impl PackingRoom {
    fn new(pool: &HybridMemoryPool, layout: Layout, n_cols: usize) -> Result<Self, OutOfMemory> {
        let n_blocks = match layout {
            Layout::TwoBits => layout.blocks_per_panel(n_cols),
            Layout::FiveTrits => layout.blocks_per_panel(n_cols) / 4 * 5,
        };
        Ok(Self {
            codes: pool.zeroed(Category::Scratch, n_blocks * COL_STEP)?,
            two_bits: pool.zeroed(Category::Scratch, n_blocks)?,
            trits: pool.zeroed(Category::Scratch, n_cols)?,
        })
    }
}

/// Packs the codes of one row, a multiple of 16, into its bytes of each block of
/// two bits a weight.
fn pack_row(codes: &[u8], row_in_panel: usize, blocks: &mut [Block]) {
    let (codes, _) = codes.as_chunks::<COL_STEP>();
    for (block, codes) in blocks.iter_mut().zip(codes) {
        // Four columns at a time: codes are below 4, so no shift leaves its byte.
        let (quads, _) = codes.as_chunks::<4>();
        let packed = (0..4).fold(0, |packed, s| {
            packed | u32::from_le_bytes(quads[s]) << (2 * s)
        });
        block.0[row_in_panel * 4..][..4].copy_from_slice(&packed.to_le_bytes());
    }
}

/// The widest panel that is unpacked for many tokens, 8192 columns: 32 KiB of the
/// stack. Wider ones are unpacked again for every tile.
#[cfg(target_arch = "x86_64")]
const UNPACKED_BLOCKS: usize = 512;

struct WithKernel<'a> {
    weights: &'a PackedTernary,
    kernel: Kernel,
}

impl Panels for WithKernel<'_> {
    fn n_rows(&self) -> usize {
        self.weights.n_rows
    }

    fn dot_tiles(&self, panel: usize, acts: &Int8Rows, mut take: impl FnMut(usize, &Acc)) {
        let blocks = self.weights.panel(panel);
        let mut dot_tiles = |layout: Layout, blocks: &[Block]| {
            for_tiles(acts.n_rows(), |first, acc| {
                let operands = Operands {
                    blocks,
                    acts,
                    first,
                };
                match layout {
                    Layout::TwoBits => two_bits_panel(self.kernel, operands, acc),
                    Layout::FiveTrits => five_trits_panel(self.kernel, operands, acc),
                }
                for (i, sums) in acc.iter_mut().enumerate() {
                    let correction = acts.sum(first + i);
                    for sum in sums {
                        *sum -= correction;
                    }
                }
                take(first, acc);
            });
        };
        #[cfg(target_arch = "x86_64")]
        if self.weights.layout == Layout::FiveTrits
            && acts.n_rows() > MAX_TILE
            && let Some(isa) = self.kernel.vbmi()
            && blocks.len() <= UNPACKED_BLOCKS / 5 * 4
        {
            #[expect(clippy::large_stack_arrays, reason = "no recursion here")]
            let mut unpacked = [Block::ZERO; UNPACKED_BLOCKS];
            let unpacked = &mut unpacked[..blocks.len() / 4 * 5];
            isa.unpack(blocks, unpacked);
            return dot_tiles(Layout::TwoBits, unpacked);
        }
        dot_tiles(self.weights.layout, blocks);
    }

    fn row_scales(&self, _panel: usize) -> [f32; PANEL_ROWS] {
        [self.weights.scale; PANEL_ROWS]
    }

    fn panel_bytes(&self) -> usize {
        size_of_val(self.weights.panel(0))
    }
}

fn two_bits_panel(kernel: Kernel, operands: Operands<'_>, acc: &mut Acc) {
    match kernel {
        Kernel::Scalar => arch::scalar::ternary_panel(operands, acc),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2(isa) => isa.ternary_panel(operands, acc),
        #[cfg(target_arch = "x86_64")]
        Kernel::AvxVnni(isa) => isa.ternary_panel(operands, acc),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512bw(isa) => isa.ternary_panel(operands, acc),
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512vnni(isa) => isa.ternary_panel(operands, acc),
        #[cfg(target_arch = "aarch64")]
        Kernel::Neon(isa) => isa.ternary_panel(operands, acc),
        #[cfg(target_arch = "aarch64")]
        Kernel::Dotprod(isa) => isa.ternary_panel(operands, acc),
        #[cfg(target_arch = "aarch64")]
        Kernel::I8mm(isa) => isa.ternary_panel(operands, acc),
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Kernel::Simd128(isa) => isa.ternary_panel(operands, acc),
    }
}

#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "only x86-64 has instructions for it")
)]
fn five_trits_panel(kernel: Kernel, operands: Operands<'_>, acc: &mut Acc) {
    #[cfg(target_arch = "x86_64")]
    if let Some(isa) = kernel.vbmi() {
        return isa.five_trits_panel(operands, acc);
    }
    arch::scalar::five_trits_panel(operands, acc);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pack(
        layout: Layout,
        n_rows: usize,
        n_cols: usize,
        scale: f32,
        trits: &[i8],
    ) -> PackedTernary {
        let team = &mut Team::new(2);
        let pool = HybridMemoryPool::new();
        PackedTernary::pack_as(&pool, layout, team, (n_rows, n_cols), scale, |row, out| {
            out.copy_from_slice(&trits[row * n_cols..][..n_cols]);
            Ok::<_, OutOfMemory>(())
        })
        .unwrap()
    }

    #[test]
    fn a_block_looks_as_drawn() {
        let mut trits = vec![0i8; 16 * 16];
        trits[3 * 16 + 1] = 1; // row 3, col 1: byte 13, bits 1:0
        trits[3 * 16 + 13] = -1; // row 3, col 13: byte 13, bits 7:6
        let packed = pack(Layout::TwoBits, 16, 16, 1.0, &trits);
        let mut expected = [0b01_01_01_01; 64];
        expected[13] = 0b00_01_01_10;
        assert_eq!(*packed.blocks, [Block(expected)]);
        let packed = pack(Layout::FiveTrits, 16, 16, 1.0, &trits);
        let mut expected = [0; 64];
        expected[13] = 81 - 3;
        let [first, others @ ..] = &*packed.blocks else {
            panic!("there are blocks");
        };
        assert_eq!(*first, Block(expected));
        assert_eq!(others, [Block::ZERO; 3]);
    }

    #[test]
    fn the_error_of_the_lowest_row_is_returned() {
        for n_threads in [1, 3] {
            let (pool, team) = (HybridMemoryPool::new(), &mut Team::new(n_threads));
            let result = PackedTernary::pack(&pool, team, (100, 8), 1.0, |row, _| {
                let error = OutOfMemory { n_bytes: row };
                if row % 40 == 39 { Err(error) } else { Ok(()) }
            });
            assert_eq!(result.unwrap_err().n_bytes, 39);
        }
    }

    #[test]
    fn a_two_by_two_product_is_right() {
        // [[1, -1], [0, 1]] · 0.5 · [127, -1] = [64, -0.5]
        for (layout, kernel) in layouts_and_kernels() {
            let packed = pack(layout, 2, 2, 0.5, &[1, -1, 0, 1]);
            let mut acts = Int8Rows::with_capacity(&HybridMemoryPool::new(), 1, 2).unwrap();
            acts.quantize(kernel, &[127.0, -1.0], 2);
            let mut out = [f32::NAN; 2];
            packed.matmul(kernel, &mut Team::new(1), &acts, &mut out);
            assert_eq!(out, [64.0, -0.5], "{kernel}");
        }
    }

    fn layouts_and_kernels() -> impl Iterator<Item = (Layout, Kernel)> {
        let layouts = [Layout::TwoBits, Layout::FiveTrits].into_iter();
        layouts.flat_map(|layout| Kernel::available().map(move |kernel| (layout, kernel)))
    }

    /// Pseudo-random trits and activations, and the product by its definition.
    fn case(n_rows: usize, n_cols: usize, n_tokens: usize, seed: u64) -> (Vec<i8>, Vec<f32>) {
        let mut state = seed | 1;
        let mut next = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state >> 33
        };
        let trits = (0..n_rows * n_cols)
            .map(|_| (next() % 3) as i8 - 1)
            .collect();
        let x = (0..n_tokens * n_cols)
            .map(|_| (next() % 255) as f32 - 127.0)
            .collect();
        (trits, x)
    }

    fn check(n_rows: usize, n_cols: usize, n_tokens: usize, seed: u64) {
        let (trits, x) = case(n_rows, n_cols, n_tokens, seed);
        let mut acts = Int8Rows::with_capacity(&HybridMemoryPool::new(), n_tokens, n_cols).unwrap();
        acts.quantize(Kernel::Scalar, &x, n_cols);
        let mut expected = Vec::new();
        for token in 0..n_tokens {
            for trits in trits.chunks_exact(n_cols) {
                let products = trits
                    .iter()
                    .zip(acts.row(token))
                    .map(|(&w, &a)| w as i32 * a as i32);
                expected.push(products.sum::<i32>() as f32 * (0.37 / acts.scale(token)));
            }
        }
        for layout in [Layout::TwoBits, Layout::FiveTrits] {
            let packed = pack(layout, n_rows, n_cols, 0.37, &trits);
            let mut row = vec![0; n_cols];
            for (r, expected) in trits.chunks(n_cols).enumerate() {
                packed.unpack_row(r, &mut row);
                assert_eq!(row, expected);
            }
            for kernel in Kernel::available() {
                for n_threads in [1, 3] {
                    let mut out = vec![f32::NAN; n_tokens * n_rows];
                    packed.matmul(kernel, &mut Team::new(n_threads), &acts, &mut out);
                    assert_eq!(
                        out, expected,
                        "{layout:?}, {kernel}, {n_rows}x{n_cols}, {n_tokens} tokens"
                    );
                }
            }
        }
    }

    #[test]
    fn every_kernel_equals_the_definition_on_edge_shapes() {
        for n_rows in [1, 15, 16, 17, 48] {
            for n_cols in [1, 15, 16, 17, 100, 256] {
                for n_tokens in [0, 1, 2, 3, 5, 8, 16, 17, 35] {
                    check(
                        n_rows,
                        n_cols,
                        n_tokens,
                        (n_rows * n_cols + n_tokens) as u64,
                    );
                }
            }
        }
    }

    #[test]
    fn extreme_values_do_not_saturate() {
        // All weights +1 or -1, all activations ±127, many columns.
        let n_cols = 20_000;
        for (trit, a) in [(1i8, 127.0f32), (1, -127.0), (-1, 127.0), (-1, -127.0)] {
            let mut acts = Int8Rows::with_capacity(&HybridMemoryPool::new(), 2, n_cols).unwrap();
            acts.quantize(Kernel::Scalar, &vec![a; 2 * n_cols], n_cols);
            for (layout, kernel) in layouts_and_kernels() {
                let packed = pack(layout, 1, n_cols, 1.0, &vec![trit; n_cols]);
                let mut out = [0.0; 2];
                packed.matmul(kernel, &mut Team::new(1), &acts, &mut out);
                assert_eq!(out, [trit as f32 * a * n_cols as f32; 2], "{kernel}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn every_kernel_equals_the_definition(
            n_rows in 1usize..70, n_cols in 1usize..700, n_tokens in 1usize..40, seed: u64,
        ) {
            check(n_rows, n_cols, n_tokens, seed);
        }
    }
}
