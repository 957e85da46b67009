use proptest::prelude::*;

use super::*;
use crate::fused::mul_add;
use crate::thread_pool::ThreadPool;

fn pack(
    layout: TernaryLayout,
    n_rows: usize,
    n_cols: usize,
    scale: f32,
    trits: &[i8],
) -> PackedTernary {
    pack_by(Isa::best(), layout, Shape { n_rows, n_cols }, scale, trits)
}

fn pack_by(
    isa: Isa,
    layout: TernaryLayout,
    shape: Shape,
    scale: f32,
    trits: &[i8],
) -> PackedTernary {
    let threads = &mut ThreadPool::new(2);
    let ctx = &mut ComputeContext::new(isa, threads);
    let pool = HybridMemoryPool::new();
    let spec = TernarySpec {
        layout,
        shape,
        scales: scale.into(),
    };
    let packed = PackedTernary::pack(&pool, ctx, spec, &|row: usize, out: &mut [i8]| {
        out.copy_from_slice(&trits[row * shape.n_cols..][..shape.n_cols]);
        Ok::<_, OutOfMemory>(())
    });
    packed.unwrap()
}

#[test]
fn a_block_looks_as_drawn() {
    let mut trits = vec![0i8; 16 * 16];
    trits[3 * 16 + 1] = 1; // row 3, col 1: byte 13, bits 1:0
    trits[3 * 16 + 13] = -1; // row 3, col 13: byte 13, bits 7:6
    let packed = pack(TernaryLayout::TwoBits, 16, 16, 1.0, &trits);
    let mut expected = [0b01_01_01_01; 64];
    expected[13] = 0b00_01_01_10;
    assert_eq!(*packed.blocks, [PackedBlock(expected)]);
    let packed = pack(TernaryLayout::Base3, 16, 16, 1.0, &trits);
    let mut expected = [0; 64];
    expected[13] = 81 - 3;
    let [first, others @ ..] = &*packed.blocks else {
        panic!("there are blocks");
    };
    assert_eq!(*first, PackedBlock(expected));
    assert_eq!(others, [PackedBlock::ZERO; 3]);
}

#[test]
fn every_kernel_packs_the_same_bytes() {
    use TernaryLayout::{Base3, Columns, Rows, TwoBits};
    let shapes = [
        (1, 1),
        (17, 16),
        (40, 100),
        (16, 81),
        (33, 512),
        (512, 768),
        (256, 4),
    ];
    for (n_rows, n_cols) in shapes {
        let shape = Shape { n_rows, n_cols };
        let (trits, _) = case(n_rows, n_cols, 1, 11);
        for layout in [TwoBits, Base3, Rows, Columns] {
            if !layout.takes(shape) {
                continue;
            }
            let expected = pack_by(Isa::Scalar, layout, shape, 1.0, &trits);
            let mut row = vec![9; n_cols];
            for (r, trits) in trits.chunks(n_cols).enumerate() {
                expected.unpack_row(r, &mut row);
                assert_eq!(row, trits, "{layout:?} {n_rows}x{n_cols}, row {r}");
            }
            for isa in Isa::available() {
                let packed = pack_by(isa, layout, shape, 1.0, &trits);
                assert!(
                    *packed.blocks == *expected.blocks,
                    "{isa} {layout:?} {n_rows}x{n_cols}"
                );
            }
        }
    }
}

/// Rows that store their codes in runs.
struct InRuns<'a> {
    trits: &'a [i8],
    n_cols: usize,
    runs: CodeRuns,
    /// A row with the code 3.
    invalid: Option<usize>,
}

impl TernaryRows<OutOfMemory> for InRuns<'_> {
    fn decode(&self, row: usize, trits: &mut [i8]) -> Result<(), OutOfMemory> {
        if self.invalid == Some(row) {
            return Err(OutOfMemory { n_bytes: row });
        }
        trits.copy_from_slice(&self.trits[row * self.n_cols..][..self.n_cols]);
        Ok(())
    }

    fn copy_codes(&self, row: usize, codes: &mut [u8]) -> Option<CodeRuns> {
        let len = match self.runs.len {
            RunLen::Sixteen => 16,
            RunLen::ThirtyTwo => 32,
        };
        codes.fill(0);
        for (col, trit) in self.trits[row * self.n_cols..][..self.n_cols]
            .iter()
            .enumerate()
        {
            let (chunk, run, j) = (col / (4 * len), col / len % 4, col % len);
            let run = if self.runs.is_high_first {
                3 - run
            } else {
                run
            };
            codes[chunk * len + j] |= (trit + 1).cast_unsigned() << (2 * run);
        }
        if self.invalid == Some(row) {
            codes[self.n_cols / 4 - 1] |= 0b1100;
        }
        Some(self.runs)
    }
}

#[test]
fn codes_in_runs_are_packed_as_if_they_were_decoded() {
    for len in [RunLen::Sixteen, RunLen::ThirtyTwo] {
        for is_high_first in [false, true] {
            for (n_rows, n_cols) in [(1, 128), (16, 256), (33, 640), (40, 2560)] {
                let shape = Shape { n_rows, n_cols };
                let (trits, _) = case(n_rows, n_cols, 1, 12);
                let mut rows = InRuns {
                    trits: &trits,
                    n_cols,
                    runs: CodeRuns { len, is_high_first },
                    invalid: None,
                };
                for layout in [TernaryLayout::TwoBits, TernaryLayout::Base3] {
                    let expected = pack(layout, n_rows, n_cols, 1.0, &trits);
                    for isa in Isa::available() {
                        let spec = TernarySpec {
                            layout,
                            shape,
                            scales: 1.0.into(),
                        };
                        let (pool, threads) = (HybridMemoryPool::new(), &mut ThreadPool::new(2));
                        let ctx = &mut ComputeContext::new(isa, threads);
                        rows.invalid = None;
                        let packed = PackedTernary::pack(&pool, ctx, spec.clone(), &rows).unwrap();
                        assert!(*packed.blocks == *expected.blocks, "{isa} {shape:?}");
                        rows.invalid = Some(n_rows / 2);
                        let error = PackedTernary::pack(&pool, ctx, spec, &rows).unwrap_err();
                        assert_eq!(error.n_bytes, n_rows / 2);
                    }
                }
            }
        }
    }
}

#[test]
fn the_error_of_the_lowest_row_is_returned() {
    for n_threads in [1, 3] {
        let (pool, threads) = (HybridMemoryPool::new(), &mut ThreadPool::new(n_threads));
        let ctx = &mut ComputeContext::new(Isa::best(), threads);
        let spec = TernarySpec {
            layout: TernaryLayout::TwoBits,
            shape: Shape {
                n_rows: 100,
                n_cols: 8,
            },
            scales: 1.0.into(),
        };
        let result = PackedTernary::pack(&pool, ctx, spec, &|row: usize, _: &mut [i8]| {
            let error = OutOfMemory { n_bytes: row };
            if row % 40 == 39 { Err(error) } else { Ok(()) }
        });
        assert_eq!(result.unwrap_err().n_bytes, 39);
    }
}

#[test]
fn a_two_by_two_product_is_right() {
    // [[1, -1], [0, 1]] · 0.5 · [127, -1] = [64, -0.5]
    for (layout, isa) in layouts_and_kernels() {
        let packed = pack(layout, 2, 2, 0.5, &[1, -1, 0, 1]);
        let mut acts = Int8Rows::with_capacity(&HybridMemoryPool::new(), 1, 2).unwrap();
        acts.quantize(isa, &[127.0, -1.0], 2);
        let mut out = [f32::NAN; 2];
        let threads = &mut ThreadPool::new(1);
        packed.matmul(&mut ComputeContext::new(isa, threads), &acts, &mut out);
        assert_eq!(out, [64.0, -0.5], "{isa}");
    }
}

const ALL_LAYOUTS: [TernaryLayout; 4] = [
    TernaryLayout::TwoBits,
    TernaryLayout::Base3,
    TernaryLayout::Rows,
    TernaryLayout::Columns,
];

fn layouts_and_kernels() -> impl Iterator<Item = (TernaryLayout, Isa)> {
    let layouts = [TernaryLayout::TwoBits, TernaryLayout::Base3].into_iter();
    layouts.flat_map(|layout| Isa::available().map(move |isa| (layout, isa)))
}

/// Returns pseudo-random trits and activations.
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
    acts.quantize(Isa::Scalar, &x, n_cols);
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
    let layouts = ALL_LAYOUTS.into_iter();
    for layout in layouts.filter(|layout| layout.takes(Shape { n_rows, n_cols })) {
        let packed = pack(layout, n_rows, n_cols, 0.37, &trits);
        let mut row = vec![0; n_cols];
        for (r, expected) in trits.chunks(n_cols).enumerate() {
            packed.unpack_row(r, &mut row);
            assert_eq!(row, expected);
        }
        for isa in Isa::available() {
            for n_threads in [1, 3] {
                let mut out = vec![f32::NAN; n_tokens * n_rows];
                let threads = &mut ThreadPool::new(n_threads);
                packed.matmul(&mut ComputeContext::new(isa, threads), &acts, &mut out);
                assert_eq!(
                    out, expected,
                    "{layout:?}, {isa}, {n_rows}x{n_cols}, {n_tokens} tokens"
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
fn every_kernel_equals_the_definition_on_whole_lines_and_tiles() {
    for (n_rows, n_cols) in [
        (256, 1),
        (256, 100),
        (512, 17),
        (7, 512),
        (256, 768),
        (16, 1024),
    ] {
        for n_tokens in [0, 1, 3, 18] {
            check(
                n_rows,
                n_cols,
                n_tokens,
                (n_rows * n_cols + n_tokens) as u64,
            );
        }
    }
}

#[test]
fn a_line_looks_as_drawn() {
    let mut trits = vec![0i8; 256 * 256];
    trits[3 * 256 + 64 + 5] = 1; // row 3, col 69
    let rows = pack(TernaryLayout::Rows, 256, 256, 1.0, &trits);
    let mut expected = [0b01_01_01_01; 64];
    expected[5] = 0b01_01_10_01;
    assert_eq!(rows.blocks[3], PackedBlock(expected));
    // Row 3 is byte 3; row 128 + 16·2 + 4·1 + 3 is byte 16·1 + 4·2 + 3.
    trits[(128 + 32 + 4 + 3) * 256 + 69] = -1;
    let columns = pack(TernaryLayout::Columns, 256, 256, 1.0, &trits);
    let mut expected = [0b01_01_01_01; 64];
    expected[3] = 0b01_01_01_10;
    expected[16 + 8 + 3] = 0b01_00_01_01;
    assert_eq!(columns.blocks[69], PackedBlock(expected));
}

/// Sets all but about `percent` of the values to zero.
fn thin(x: &mut [f32], percent: usize) {
    for (i, x) in x.iter_mut().enumerate() {
        if (i.wrapping_mul(2_654_435_761) >> 7) % 100 >= percent {
            *x = 0.0;
        }
    }
}

#[test]
fn skipping_columns_changes_no_bit() {
    let pool = HybridMemoryPool::new();
    for (n_rows, n_cols) in [(256, 5), (512, 300), (768, 1300), (2816, 200)] {
        for n_tokens in [1, 2, 3, 9, 40] {
            for percent in [0, 2, 13, 40, 100] {
                let seed = (n_rows + n_cols + n_tokens + percent) as u64;
                let (trits, mut x) = case(n_rows, n_cols, n_tokens, seed);
                thin(&mut x, percent);
                let acts = Int8Rows::with_capacity(&pool, n_tokens, n_cols).unwrap();
                let mut acts = acts.with_lists(&pool, n_tokens, n_cols).unwrap();
                acts.quantize(Isa::Scalar, &x, n_cols);
                let mut expected = vec![f32::NAN; n_tokens * n_rows];
                let panels = pack(TernaryLayout::TwoBits, n_rows, n_cols, 0.37, &trits);
                let threads = &mut ThreadPool::new(1);
                let ctx = &mut ComputeContext::new(Isa::best(), threads);
                panels.matmul(ctx, &acts, &mut expected);
                let columns = pack(TernaryLayout::Columns, n_rows, n_cols, 0.37, &trits);
                for isa in Isa::available() {
                    for n_threads in [1, 3] {
                        let threads = &mut ThreadPool::new(n_threads);
                        let ctx = &mut ComputeContext::new(isa, threads);
                        acts.list_nonzero(ctx);
                        let mut out = vec![f32::NAN; n_tokens * n_rows];
                        let read = columns.listed_matmul(ctx, &acts, &mut out);
                        let of = format!("{isa}, {n_rows}x{n_cols}, {n_tokens}, {percent} %");
                        assert_eq!(out, expected, "{of}");
                        assert_eq!(read.total, n_cols);
                        let rows = (0..n_tokens).map(|token| acts.row(token));
                        let nonzero = rows.flatten().filter(|q| **q != 0).count();
                        match percent {
                            0 => assert_eq!((read.read, read.products), (0, 0)),
                            100 if n_tokens > 16 => assert_eq!(read.products, n_cols * n_tokens),
                            _ => assert!(read.products >= nonzero, "{of}"),
                        }
                        if percent <= 13 {
                            assert_eq!(read.products, nonzero, "{of}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn skipping_rows_changes_no_bit() {
    let pool = HybridMemoryPool::new();
    for (n_rows, n_cols) in [(1, 256), (16, 256), (63, 512), (65, 256), (130, 768)] {
        for n_tokens in [1, 2, 5, 40] {
            // Activations above zero, so that the sign of most gates is that of their row.
            for percent in [0, 25, 60, 100] {
                let seed = (n_rows + n_cols + n_tokens + percent) as u64;
                let (up_trits, mut x) = case(n_rows, n_cols, n_tokens, seed);
                for x in &mut x {
                    *x += 100.0;
                }
                let (mut gate_trits, _) = case(n_rows, n_cols, 0, seed + 1);
                for (row, trits) in gate_trits.chunks_mut(n_cols).enumerate() {
                    let sign = if (row * 37) % 100 < percent { 1 } else { -1 };
                    trits.iter_mut().step_by(2).for_each(|trit| *trit = sign);
                }
                let mut acts = Int8Rows::with_capacity(&pool, n_tokens, n_cols).unwrap();
                acts.quantize(Isa::Scalar, &x, n_cols);
                let mut expected = vec![f32::NAN; n_tokens * n_rows];
                let mut up_out = expected.clone();
                let threads = &mut ThreadPool::new(1);
                let ctx = &mut ComputeContext::new(Isa::best(), threads);
                let packed = |layout, trits| pack(layout, n_rows, n_cols, 0.037, trits);
                packed(TernaryLayout::TwoBits, &gate_trits).matmul(ctx, &acts, &mut expected);
                packed(TernaryLayout::TwoBits, &up_trits).matmul(ctx, &acts, &mut up_out);
                let positive = expected.iter().filter(|gate| **gate > 0.0).count();
                crate::ops::relu2_mul(Isa::Scalar, &mut expected, &up_out);
                let up = packed(TernaryLayout::Rows, &up_trits);
                for (layout, isa) in layouts_and_kernels() {
                    let gate = packed(layout, &gate_trits);
                    for n_threads in [1, 3] {
                        let threads = &mut ThreadPool::new(n_threads);
                        let ctx = &mut ComputeContext::new(isa, threads);
                        let mut out = vec![f32::NAN; n_tokens * n_rows];
                        let read =
                            PackedTernary::relu2_gated_matmul(ctx, [&gate, &up], &acts, &mut out);
                        let of = format!("{isa}, {n_rows}x{n_cols}, {n_tokens}, {percent} %");
                        assert_eq!(out, expected, "{of}");
                        assert_eq!(read.total, n_rows);
                        assert!(read.read <= n_rows && read.products >= positive, "{of}");
                        if n_tokens == 1 {
                            assert_eq!((read.read, read.products), (positive, positive), "{of}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn extreme_values_do_not_saturate_in_rows_and_columns() {
    let pool = HybridMemoryPool::new();
    for (trit, a) in [(1i8, 127.0f32), (1, -127.0), (-1, 127.0), (-1, -127.0)] {
        for isa in Isa::available() {
            let threads = &mut ThreadPool::new(1);
            let ctx = &mut ComputeContext::new(isa, threads);
            for n_tokens in [1, 2] {
                let n_cols = 1 << 16;
                let acts = Int8Rows::with_capacity(&pool, n_tokens, n_cols).unwrap();
                let mut acts = acts.with_lists(&pool, n_tokens, n_cols).unwrap();
                acts.quantize(Isa::Scalar, &vec![a; n_tokens * n_cols], n_cols);
                acts.list_nonzero(ctx);
                let trits = vec![trit; 256 * n_cols];
                let columns = pack(TernaryLayout::Columns, 256, n_cols, 1.0, &trits);
                let mut out = vec![0.0; n_tokens * 256];
                columns.listed_matmul(ctx, &acts, &mut out);
                let product = f32::from(trit) * a * n_cols as f32;
                assert_eq!(out, vec![product; n_tokens * 256], "{isa}");
            }
            let n_cols = 8192;
            let mut acts = Int8Rows::with_capacity(&pool, 1, n_cols).unwrap();
            acts.quantize(Isa::Scalar, &vec![a; n_cols], n_cols);
            let gate = pack(
                TernaryLayout::TwoBits,
                1,
                n_cols,
                1.0,
                &vec![a.signum() as i8; n_cols],
            );
            let up = pack(TernaryLayout::Rows, 1, n_cols, 1.0, &vec![trit; n_cols]);
            let mut out = [0.0];
            PackedTernary::relu2_gated_matmul(ctx, [&gate, &up], &acts, &mut out);
            let gate = 127.0 * n_cols as f32;
            assert_eq!(
                out,
                [gate * gate * (f32::from(trit) * a * n_cols as f32)],
                "{isa}"
            );
        }
    }
}

#[test]
fn extreme_values_do_not_saturate() {
    // The worst case: all weights ±1, all activations ±127, many columns.
    let n_cols = 20_000;
    for (trit, a) in [(1i8, 127.0f32), (1, -127.0), (-1, 127.0), (-1, -127.0)] {
        let mut acts = Int8Rows::with_capacity(&HybridMemoryPool::new(), 2, n_cols).unwrap();
        acts.quantize(Isa::Scalar, &vec![a; 2 * n_cols], n_cols);
        for (layout, isa) in layouts_and_kernels() {
            let packed = pack(layout, 1, n_cols, 1.0, &vec![trit; n_cols]);
            let mut out = [0.0; 2];
            let threads = &mut ThreadPool::new(1);
            packed.matmul(&mut ComputeContext::new(isa, threads), &acts, &mut out);
            assert_eq!(out, [trit as f32 * a * n_cols as f32; 2], "{isa}");
        }
    }
}

/// Returns scales of every kind for a matrix.
fn all_scales(n_rows: usize, n_cols: usize) -> Vec<Scales> {
    let value = |i: usize| ((i * 7919) % 61) as f32 / 64.0 + 0.01;
    let mut all = vec![
        Scales::Tensor(0.37),
        Scales::Rows((0..n_rows).map(value).collect()),
    ];
    for len in [64, 128, 192] {
        if n_cols.is_multiple_of(len) {
            let values = (0..n_rows * (n_cols / len)).map(value).collect();
            all.push(Scales::Groups { len, values });
        }
    }
    all
}

/// Computes the reference products, with the same roundings.
fn products(trits: &[i8], n_cols: usize, scales: &Scales, acts: &Int8Rows) -> Vec<f32> {
    let mut out = Vec::new();
    let n_parts = acts.n_parts();
    for token in 0..acts.n_rows() / n_parts {
        let part = |part: usize| acts.row(token * n_parts + part);
        let act_scale = acts.scale(token * n_parts);
        for (row, trits) in trits.chunks_exact(n_cols).enumerate() {
            let sum = |p: usize, from: usize, len: usize| {
                let pairs = trits[from..][..len].iter().zip(&part(p)[from..]);
                pairs
                    .map(|(&w, &a)| i32::from(w) * i32::from(a))
                    .sum::<i32>() as f32
            };
            out.push(if let Scales::Groups { len, .. } = scales {
                let mut value = 0.0f32;
                for from in (0..n_cols).step_by(*len) {
                    let mut steps = sum(0, from, *len);
                    if n_parts == 3 {
                        let fine = 1.0 / 254.0f32;
                        let rest = mul_add(sum(2, from, *len), fine, sum(1, from, *len));
                        steps = mul_add(rest, fine, steps);
                    }
                    value = mul_add(steps, scales.at(row, from, n_cols), value);
                }
                value * (1.0 / act_scale)
            } else {
                let mut steps = sum(0, 0, n_cols);
                if n_parts == 3 {
                    steps += (sum(1, 0, n_cols) + sum(2, 0, n_cols) / 254.0) / 254.0;
                }
                steps * (scales.at(row, 0, n_cols) / act_scale)
            });
        }
    }
    out
}

#[test]
fn every_kind_of_scales_equals_its_definition_on_every_kernel() {
    // 8640 is the width of the 3B reproduction of BitNet: 67.5 blocks of 128.
    for (n_rows, n_cols) in [(5, 100), (17, 192), (40, 384), (16, 8640)] {
        for n_tokens in [1, 2, 5, 17, 35] {
            let (trits, mut x) = case(n_rows, n_cols, n_tokens, 7);
            for (i, x) in x.iter_mut().enumerate() {
                *x *= 1.0 + (i % 89) as f32 / 90.0;
            }
            let shape = Shape {
                n_rows: n_tokens,
                n_cols,
            };
            let fill = |row: usize, out: &mut [f32]| {
                out.copy_from_slice(&x[row * n_cols..][..n_cols]);
            };
            let threads = &mut ThreadPool::new(2);
            let pool = &HybridMemoryPool::new();
            let row = || pool.zeroed(Category::Scratch, n_cols).unwrap();
            let ctx = &mut ComputeContext {
                isa: Isa::best(),
                threads,
                scratch: &mut [row(), row()],
            };
            let mut quantized = Int8Rows::with_capacity(pool, n_tokens, n_cols).unwrap();
            quantized.quantize_rows(ctx, shape, fill);
            let mut split = Int8Rows::with_exact_capacity(pool, n_tokens, n_cols).unwrap();
            split.split_rows(ctx, shape, fill);
            for scales in all_scales(n_rows, n_cols) {
                for layout in [TernaryLayout::TwoBits, TernaryLayout::Base3] {
                    let decode = |row: usize, out: &mut [i8]| {
                        out.copy_from_slice(&trits[row * n_cols..][..n_cols]);
                        Ok::<_, OutOfMemory>(())
                    };
                    let spec = TernarySpec {
                        layout,
                        shape: Shape { n_rows, n_cols },
                        scales: scales.clone(),
                    };
                    let packed = PackedTernary::pack(pool, ctx, spec, &decode).unwrap();
                    let mut row = vec![0.0; n_cols];
                    packed.decode_row(n_rows - 1, &mut row);
                    for (col, &value) in row.iter().enumerate() {
                        let trit = f32::from(trits[(n_rows - 1) * n_cols + col]);
                        assert_eq!(value, trit * scales.at(n_rows - 1, col, n_cols));
                    }
                    for acts in [&quantized, &split] {
                        let expected = products(&trits, n_cols, &scales, acts);
                        for isa in Isa::available() {
                            for n_threads in [1, 3] {
                                let mut out = vec![f32::NAN; n_tokens * n_rows];
                                let threads = &mut ThreadPool::new(n_threads);
                                packed.matmul(
                                    &mut ComputeContext::new(isa, threads),
                                    acts,
                                    &mut out,
                                );
                                assert!(
                                    out == expected,
                                    "{isa}, {n_rows}x{n_cols}, {n_tokens} tokens, {scales}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The error of split activations is below the f32 rounding error of the largest of them.
#[test]
fn split_activations_are_as_precise_as_f32() {
    let (n_rows, n_cols) = (32, 1024);
    let (trits, mut x) = case(n_rows, n_cols, 1, 3);
    for (i, x) in x.iter_mut().enumerate() {
        *x *= 0.001 * (i as f32 * 0.7).sin();
    }
    // An outlier, as in some dimensions of trained models.
    x[77] = 50.0;
    let pool = &HybridMemoryPool::new();
    let mut acts = Int8Rows::with_exact_capacity(pool, 1, n_cols).unwrap();
    let ctx = &mut ComputeContext {
        isa: Isa::best(),
        threads: &mut ThreadPool::new(1),
        scratch: &mut [pool.zeroed(Category::Scratch, n_cols).unwrap()],
    };
    acts.split_rows(ctx, Shape { n_rows: 1, n_cols }, |_, out| {
        out.copy_from_slice(&x);
    });
    for scales in all_scales(n_rows, n_cols) {
        let spec = TernarySpec {
            layout: TernaryLayout::TwoBits,
            shape: Shape { n_rows, n_cols },
            scales: scales.clone(),
        };
        let packed = PackedTernary::pack(pool, ctx, spec, &|row: usize, out: &mut [i8]| {
            out.copy_from_slice(&trits[row * n_cols..][..n_cols]);
            Ok::<_, OutOfMemory>(())
        });
        let packed = packed.unwrap();
        let mut out = vec![f32::NAN; n_rows];
        packed.matmul(ctx, &acts, &mut out);
        for (row, (&found, trits)) in out.iter().zip(trits.chunks(n_cols)).enumerate() {
            let weight =
                |col: usize| f64::from(trits[col]) * f64::from(scales.at(row, col, n_cols));
            let exact: f64 = (0..n_cols).map(|col| weight(col) * f64::from(x[col])).sum();
            // Half of the finest step per value.
            let steps: f64 = (0..n_cols).map(|col| weight(col).abs()).sum();
            let error = (f64::from(found) - exact).abs();
            let bound = 50.0 / 16_777_216.0 * steps + 2e-7 * exact.abs();
            assert!(error <= bound, "{scales}, row {row}: {error}, {bound}");
        }
    }
}

#[test]
fn what_is_not_a_number_is_split_into_zeros() {
    for isa in Isa::available() {
        let pool = &HybridMemoryPool::new();
        let mut acts = Int8Rows::with_exact_capacity(pool, 1, 20).unwrap();
        let mut x = [1.0; 20];
        (x[3], x[17]) = (f32::NAN, -0.5);
        let ctx = &mut ComputeContext {
            isa,
            threads: &mut ThreadPool::new(1),
            scratch: &mut [pool.zeroed(Category::Scratch, 20).unwrap()],
        };
        let shape = Shape {
            n_rows: 1,
            n_cols: 20,
        };
        acts.split_rows(ctx, shape, |_, out| out.copy_from_slice(&x));
        assert_eq!(acts.n_rows(), 3);
        assert_eq!((acts.row(0)[3], acts.row(0)[4]), (0, 127), "{isa}");
        assert_eq!([0, 1, 2].map(|part| acts.row(part)[17]), [-64, 127, 0]);
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
