//! Each kernel against the operations of `bitnet-core`.

use bitnet_core::ops;
use bitnet_core::{
    AttentionExtents, AttentionScratch, ComputeContext, Heads, HybridMemoryPool, Int8Rows, Isa,
    KeyValue, KvPrecision, KvShape, OutOfMemory, PackedInt8, PackedTernary, PagedKv, Queries,
    RowPosition, Scales, Shape, TernaryLayout, TernarySpec, ThreadPool, attention,
};
use bytemuck::Pod;

use super::{Random, device};
use crate::Gpu;
use crate::buffers::ENTRY_WORDS;
use crate::device::Usage;
use crate::kernels::{Binding, KernelSource, NUMBERS, Source};
use crate::layout::{PANEL_ROWS, Panels, pack_int8, pack_trits};
use crate::shape::ModelShape;
use crate::steps::{LinearParams, Tail};

const NONE: u32 = u32::MAX;

/// Widths of rows: around a chunk, of the built-in model, and of BitNet b1.58 2B-4T.
const WIDTHS: [usize; 9] = [1, 5, 63, 64, 65, 512, 1536, 2560, 6912];

fn data<T: Pod>(gpu: &Gpu, values: &[T]) -> wgpu::Buffer {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let buffer = gpu.buffer("test", bytes.len(), Usage::Data).unwrap();
    gpu.upload(&buffer, 0, bytes).unwrap();
    buffer
}

fn read<T: Pod>(gpu: &Gpu, buffer: &wgpu::Buffer, n: usize) -> Vec<T> {
    let n_bytes = n * size_of::<T>();
    let read_back = gpu.buffer("test", n_bytes, Usage::ReadBack).unwrap();
    let mut encoder = gpu.encoder();
    let size = n_bytes.next_multiple_of(4) as u64;
    encoder.copy_buffer_to_buffer(buffer, 0, &read_back, 0, size);
    let submitted = gpu.submit(encoder);
    let values = gpu.read_back(submitted, &read_back, n_bytes, |bytes| {
        bytemuck::pod_collect_to_vec(bytes)
    });
    values.unwrap()
}

/// Buffers that a kernel is run on.
struct Run<'a> {
    gpu: &'a Gpu,
    source: KernelSource,
    constants: &'a [(&'static str, u32)],
    params: &'a [u32],
    buffers: &'a [&'a wgpu::Buffer],
    /// Whether the last binding is an entry of uniforms with an offset: zeros.
    has_entry: bool,
}

impl Run<'_> {
    fn dispatch(&self, [x, y, z]: [usize; 3]) {
        let kernel = self.gpu.kernel(&self.source, self.constants).unwrap();
        let params = self.gpu.uniform(self.params);
        let entry = self.gpu.uniform(&[0; ENTRY_WORDS]);
        let bindings: Vec<_> = std::iter::once(Binding::all(&params))
            .chain(self.buffers.iter().map(|buffer| Binding::all(buffer)))
            .chain(self.has_entry.then(|| Binding::entry(&entry)))
            .collect();
        let group = self.gpu.bind(&kernel, &bindings);
        let mut encoder = self.gpu.encoder();
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(kernel.pipeline());
            let offsets: &[u32] = if self.has_entry { &[0] } else { &[] };
            pass.set_bind_group(0, &group, offsets);
            pass.dispatch_workgroups(x as u32, y as u32, z as u32);
        }
        let submitted = self.gpu.submit(encoder);
        self.gpu.wait(submitted).unwrap();
    }
}

/// The report of values that are not finite.
fn report(gpu: &Gpu) -> wgpu::Buffer {
    data(gpu, &[u32::MAX])
}

fn assert_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            found.to_bits() == expected.to_bits(),
            "{what}: {found} at {i}, expected {expected}"
        );
    }
}

/// Activation rows quantized by the CPU, and as the device stores them.
struct Acts {
    rows: Int8Rows,
    words: Vec<u32>,
    stats: Vec<[u32; 2]>,
}

fn quantized(x: &[f32], n_cols: usize, is_exact: bool) -> Acts {
    let n_rows = x.len() / n_cols;
    let pool = HybridMemoryPool::new();
    let mut threads = ThreadPool::new(1);
    let mut scratch = [pool
        .zeroed(bitnet_core::memory::Category::Scratch, n_cols)
        .unwrap()];
    let mut ctx = ComputeContext {
        isa: Isa::Scalar,
        threads: &mut threads,
        scratch: &mut scratch,
    };
    let mut rows = if is_exact {
        Int8Rows::with_exact_capacity(&pool, n_rows, n_cols).unwrap()
    } else {
        Int8Rows::with_capacity(&pool, n_rows, n_cols).unwrap()
    };
    let fill = |row: usize, out: &mut [f32]| out.copy_from_slice(&x[row * n_cols..][..n_cols]);
    let shape = Shape { n_rows, n_cols };
    if is_exact {
        rows.split_rows(&mut ctx, shape, fill);
    } else {
        rows.quantize_rows(&mut ctx, shape, fill);
    }
    let stride = ModelShape::act_stride(n_cols);
    let mut words = Vec::new();
    let mut stats = Vec::new();
    for row in 0..rows.n_rows() {
        let mut bytes: Vec<u8> = rows.row(row).iter().map(|q| *q as u8).collect();
        bytes.resize(4 * stride, 0);
        words.extend(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|word| u32::from_le_bytes(*word)),
        );
        let sum: i32 = rows.row(row).iter().map(|q| i32::from(*q)).sum();
        stats.push([rows.scale(row).to_bits(), sum as u32]);
    }
    Acts { rows, words, stats }
}

#[test]
fn quotients_and_roots_are_rounded_correctly() {
    let Some(gpu) = device() else { return };
    let mut random = Random(77);
    let edges = [
        1.0,
        1.5,
        127.0,
        254.0,
        1e-5,
        1.0 + f32::EPSILON,
        2.0 - f32::EPSILON,
        3.0,
    ];
    let mut pairs = Vec::new();
    for x in edges {
        pairs.extend(edges.map(|y| [x, y]));
    }
    while pairs.len() < 100_000 {
        // Any significands, and exponents whose quotients are normal.
        let number = |bits: u32, exponent: u32| {
            f32::from_bits(bits & 0x007f_ffff | (70 + exponent % 100) << 23)
        };
        let [x, y, e, f] = [0; 4].map(|_| random.bits());
        let sign = if e & 0x1000 == 0 { 1.0 } else { -1.0 };
        pairs.push([sign * number(x, e), number(y, f)]);
    }
    let n = pairs.len();
    let results = data(&gpu, &vec![[0f32; 5]; n]);
    let run = Run {
        gpu: &gpu,
        source: KernelSource::of_test(&[NUMBERS, include_str!("numbers.wgsl")], "urw"),
        constants: &[],
        params: &[0, n as u32],
        buffers: &[&data(&gpu, &pairs), &results],
        has_entry: false,
    };
    run.dispatch([n.div_ceil(64), 1, 1]);
    let results = read::<[f32; 5]>(&gpu, &results, n);
    for (i, ([x, y], [quotient, root, exponential, sum, fused])) in
        pairs.iter().zip(results).enumerate()
    {
        assert_eq!(
            quotient.to_bits(),
            (x / y).to_bits(),
            "{x} / {y}: {quotient}"
        );
        assert_eq!(
            root.to_bits(),
            y.sqrt().to_bits(),
            "the root of {y}: {root}"
        );
        // Not contracted.
        assert_eq!(sum.to_bits(), (x * y + x).to_bits(), "{x}·{y} + {x}: {sum}");
        let z = pairs[(i + 1) % n][0];
        let expected = x.mul_add(*y, z);
        assert_eq!(
            fused.to_bits(),
            expected.to_bits(),
            "{x}·{y} + {z}: {fused}"
        );
        let exact = (-f64::from(*y)).exp();
        let error = (f64::from(exponential) - exact).abs();
        // The polynomial's error is below 2 ulp; below e^-87 the result is 0.
        assert!(
            error <= 3e-7 * exact + 2e-38,
            "e^-{y}: {exponential}, {exact}"
        );
    }
}

#[test]
fn rows_are_normalized_and_quantized_as_on_the_cpu() {
    let Some(gpu) = device() else { return };
    let mut random = Random(5);
    for n_cols in WIDTHS {
        for is_exact in [false, true] {
            for n_norms in 0..3 {
                let n_rows = 3;
                let mut x = random.floats(n_rows * n_cols);
                // Magnitudes of activations, and a row of zeros.
                for x in &mut x {
                    *x = 40.0 * x.powi(3);
                }
                x[2 * n_cols..].fill(0.0);
                let norms = random.floats(2 * n_cols);
                let eps = 1e-5;
                let mut expected = x.clone();
                for weights in norms.chunks(n_cols).take(n_norms) {
                    ops::rms_norm_each(Isa::Scalar, &mut expected, weights, eps);
                }
                let cpu = quantized(&expected, n_cols, is_exact);
                let parts = if is_exact { 3 } else { 1 };
                let stride = ModelShape::act_stride(n_cols);
                // Stale contents are overwritten, also where the row is padded.
                let acts = data(&gpu, &vec![0x5a5a_5a5a_u32; n_rows * parts * stride]);
                let stats = data(&gpu, &vec![[7u32; 2]; n_rows * parts]);
                let normed = data(&gpu, &vec![f32::NAN; n_rows * n_cols]);
                let first = [NONE, 0, 0][n_norms];
                let second = [NONE, NONE, n_cols as u32][n_norms];
                let n = n_cols as u32;
                let bad = report(&gpu);
                let run = Run {
                    gpu: &gpu,
                    source: Source::NormQuantize.kernel(),
                    constants: &[("PARTS", parts as u32)],
                    params: &[
                        0,
                        n,
                        first,
                        second,
                        f32::to_bits(eps),
                        9,
                        0,
                        0,
                        stride as u32,
                        n,
                    ],
                    buffers: &[
                        &data(&gpu, &[n_rows as u32, 1, 1, 0]),
                        &data(&gpu, &x),
                        &data(&gpu, &norms),
                        &acts,
                        &stats,
                        &normed,
                        &bad,
                    ],
                    has_entry: false,
                };
                run.dispatch([n_rows, 1, 1]);
                let what = format!("{n_cols} columns, {n_norms} norms, {parts} parts");
                assert_bits(&read(&gpu, &normed, x.len()), &expected, &what);
                let found: Vec<u32> = read(&gpu, &acts, cpu.words.len());
                assert!(found == cpu.words, "{what}");
                let found: Vec<[u32; 2]> = read(&gpu, &stats, cpu.stats.len());
                for (row, (found, expected)) in found.iter().zip(&cpu.stats).enumerate() {
                    // Of the finer parts, nothing uses the scale.
                    assert_eq!(found[1], expected[1], "{what}, row {row}");
                    assert!(
                        row % parts > 0 || found[0] == expected[0],
                        "{what}, row {row}"
                    );
                }
                assert_eq!(read::<u32>(&gpu, &bad, 1), [u32::MAX], "{what}");
            }
        }
    }
}

#[test]
fn rows_that_are_not_finite_are_reported() {
    let Some(gpu) = device() else { return };
    for bad_value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38] {
        let mut x = [1f32; 70];
        x[67] = bad_value;
        let [acts, stats] = [data(&gpu, &[0u32; 32]), data(&gpu, &[0u32; 2])];
        let bad = report(&gpu);
        let run = Run {
            gpu: &gpu,
            source: Source::NormQuantize.kernel(),
            constants: &[("PARTS", 1)],
            params: &[0, 70, 0, NONE, f32::to_bits(1e-5), 9, 0, 0, 32, 0],
            buffers: &[
                &data(&gpu, &[1u32, 1, 1, 0]),
                &data(&gpu, &x),
                &data(&gpu, &[1f32; 70]),
                &acts,
                &stats,
                &data(&gpu, &[0f32]),
                &bad,
            ],
            has_entry: false,
        };
        run.dispatch([1, 1, 1]);
        assert_eq!(read::<u32>(&gpu, &bad, 1), [9], "{bad_value}");
    }
}

/// A ternary matrix, packed for the CPU and for the device.
struct Ternary {
    cpu: PackedTernary,
    chunks: Vec<[u32; 4]>,
    scales: Vec<f32>,
}

fn ternary(random: &mut Random, n_rows: usize, n_cols: usize, fill: Option<i8>) -> Ternary {
    let trits = match fill {
        Some(trit) => vec![trit; n_rows * n_cols],
        None => random.trits(n_rows * n_cols),
    };
    let scales: Vec<f32> = (0..n_rows).map(|_| 0.3 + random.float().abs()).collect();
    let spec = TernarySpec {
        layout: TernaryLayout::TwoBits,
        shape: Shape { n_rows, n_cols },
        scales: Scales::Rows(scales.clone()),
    };
    let pool = HybridMemoryPool::new();
    let decode = |row: usize, out: &mut [i8]| {
        out.copy_from_slice(&trits[row * n_cols..][..n_cols]);
        Ok::<_, OutOfMemory>(())
    };
    let (isa, threads) = (Isa::best(), &mut ThreadPool::new(1));
    let ctx = &mut ComputeContext::new(isa, threads);
    let cpu = PackedTernary::pack(&pool, ctx, spec, &decode).unwrap();
    let panels = Panels::ternary(n_rows, n_cols, 1);
    let mut chunks = vec![[0; 4]; panels.n_panels() * PANEL_ROWS * panels.n_chunks];
    let panel_len = PANEL_ROWS * panels.n_chunks;
    for (row, trits) in trits.chunks(n_cols).enumerate() {
        let panel = &mut chunks[row / PANEL_ROWS * panel_len..][..panel_len];
        pack_trits(trits, row % PANEL_ROWS, panel);
    }
    let mut scales = scales;
    scales.resize(panels.n_panels() * PANEL_ROWS, 0.0);
    Ternary {
        cpu,
        chunks,
        scales,
    }
}

/// Rows of weights: one, around a panel, and a tail.
const ROWS: [usize; 5] = [1, 15, 16, 17, 100];

#[test]
fn ternary_products_equal_those_of_the_cpu() {
    let Some(gpu) = device() else { return };
    let mut random = Random(11);
    let cpu = &mut ThreadPool::new(1);
    for (case, n_cols) in WIDTHS.into_iter().enumerate() {
        let n_rows = ROWS[case % ROWS.len()];
        // The largest sums, and random ones.
        for fill in [None, Some(1), Some(-1)] {
            let matrix = ternary(&mut random, n_rows, n_cols, fill);
            for is_exact in [false, true] {
                let most = if is_exact { 4 } else { 64 };
                for tokens in [1, 2, 4, 8, 64]
                    .into_iter()
                    .filter(|tokens| *tokens <= most)
                {
                    // Fewer rows than a workgroup computes, as many, and more.
                    let is_tiled = tokens == 64;
                    let n_tokens = if is_tiled { 70 } else { tokens * 2 - 1 };
                    let x = match fill {
                        None => random.floats(n_tokens * n_cols),
                        Some(_) => vec![1.0; n_tokens * n_cols],
                    };
                    let acts = quantized(&x, n_cols, is_exact);
                    let ctx = &mut ComputeContext::new(Isa::Scalar, cpu);
                    let mut expected = vec![0.0; n_tokens * n_rows];
                    matrix.cpu.matmul(ctx, &acts.rows, &mut expected);
                    let out = data(&gpu, &vec![f32::NAN; n_tokens * n_rows]);
                    let parts = if is_exact { 3 } else { 1 };
                    let params = LinearParams {
                        n_cols,
                        n_chunks: n_cols.div_ceil(64),
                        n_rows,
                        out_stride: n_rows,
                        factor: 1.0,
                        ..LinearParams::default()
                    };
                    let run = Run {
                        gpu: &gpu,
                        source: if is_tiled {
                            Source::LinearTiled.kernel()
                        } else {
                            Source::LinearTernary.kernel()
                        },
                        constants: &[
                            ("TOKENS", tokens as u32),
                            ("PARTS", parts),
                            ("PANELS", 1),
                            ("TAIL", Tail::Store as u32),
                            ("ACTIVATION", 0),
                        ],
                        params: &params.words(),
                        buffers: &[
                            &data(&gpu, &[n_tokens as u32, 1, 1, 0]),
                            &data(&gpu, &matrix.chunks),
                            &data(&gpu, &matrix.scales),
                            &data(&gpu, &acts.words),
                            &data(&gpu, &acts.stats),
                            &out,
                            &report(&gpu),
                        ],
                        has_entry: false,
                    };
                    let panels = if is_tiled { 4 } else { 1 };
                    run.dispatch([n_rows.div_ceil(16 * panels), n_tokens.div_ceil(tokens), 1]);
                    let what = format!("{n_rows}×{n_cols}, {tokens} of {n_tokens}, {parts} parts");
                    assert_bits(&read(&gpu, &out, expected.len()), &expected, &what);
                }
            }
        }
    }
}

#[test]
fn products_with_group_scales_equal_those_of_the_cpu() {
    let Some(gpu) = device() else { return };
    let mut random = Random(21);
    // Groups that are whole tiles of 64 chunks, that cross them, and one for the row.
    for (n_cols, len) in [(64, 64), (256, 128), (6912, 128), (9216, 192), (4160, 4160)] {
        let (n_rows, n_tokens, n_groups) = (19, 2, n_cols / len);
        let plain = ternary(&mut random, n_rows, n_cols, None);
        let scales: Vec<f32> = random.floats(n_rows * n_groups);
        let mut trits = vec![0; n_cols];
        let spec = TernarySpec {
            layout: TernaryLayout::TwoBits,
            shape: Shape { n_rows, n_cols },
            scales: Scales::Groups {
                len,
                values: scales.clone(),
            },
        };
        let rows: Vec<Vec<i8>> = (0..n_rows)
            .map(|row| {
                plain.cpu.unpack_row(row, &mut trits);
                trits.clone()
            })
            .collect();
        let decode = |row: usize, out: &mut [i8]| {
            out.copy_from_slice(&rows[row]);
            Ok::<_, OutOfMemory>(())
        };
        let pool = HybridMemoryPool::new();
        let (isa, threads) = (Isa::best(), &mut ThreadPool::new(1));
        let ctx = &mut ComputeContext::new(isa, threads);
        let cpu = PackedTernary::pack(&pool, ctx, spec, &decode).unwrap();
        // [panel][group][row of the panel]
        let mut packed = vec![0f32; n_rows.div_ceil(16) * 16 * n_groups];
        for (i, scale) in scales.iter().enumerate() {
            let (row, group) = (i / n_groups, i % n_groups);
            packed[(row / 16 * n_groups + group) * 16 + row % 16] = *scale;
        }
        for is_exact in [false, true] {
            let x = random.floats(n_tokens * n_cols);
            let acts = quantized(&x, n_cols, is_exact);
            let mut threads = ThreadPool::new(1);
            let ctx = &mut ComputeContext::new(Isa::Scalar, &mut threads);
            let mut expected = vec![0.0; n_tokens * n_rows];
            cpu.matmul(ctx, &acts.rows, &mut expected);
            let out = data(&gpu, &vec![f32::NAN; expected.len()]);
            let params = LinearParams {
                n_cols,
                n_chunks: n_cols / 64,
                n_rows,
                out_stride: n_rows,
                factor: 1.0,
                ..LinearParams::default()
            };
            let run = Run {
                gpu: &gpu,
                source: Source::LinearGroups.kernel(),
                constants: &[
                    ("TOKENS", 1),
                    ("PARTS", if is_exact { 3 } else { 1 }),
                    ("PANELS", 1),
                    ("TAIL", Tail::Store as u32),
                    ("ACTIVATION", 0),
                    ("GROUP_CHUNKS", len as u32 / 64),
                ],
                params: &params.words(),
                buffers: &[
                    &data(&gpu, &[n_tokens as u32, 1, 1, 0]),
                    &data(&gpu, &plain.chunks),
                    &data(&gpu, &packed),
                    &data(&gpu, &acts.words),
                    &data(&gpu, &acts.stats),
                    &out,
                    &report(&gpu),
                ],
                has_entry: false,
            };
            run.dispatch([n_rows.div_ceil(16), n_tokens, 1]);
            let what = format!("{n_cols} columns in groups of {len}, exact: {is_exact}");
            assert_bits(&read(&gpu, &out, expected.len()), &expected, &what);
        }
    }
}

#[test]
fn one_row_normalized_by_every_workgroup_gives_the_same_products() {
    let Some(gpu) = device() else { return };
    let mut random = Random(12);
    let cpu = &mut ThreadPool::new(1);
    for (case, n_cols) in WIDTHS.into_iter().enumerate() {
        let n_rows = ROWS[case % ROWS.len()];
        let matrix = ternary(&mut random, n_rows, n_cols, None);
        let x = random.floats(n_cols);
        let norms = random.floats(n_cols);
        let before = random.floats(n_rows);
        for is_exact in [false, true] {
            let parts = if is_exact { 3 } else { 1 };
            let stride = ModelShape::act_stride(n_cols) as u32;
            if 4 * (1328 + 256 + parts * stride) > 16 * 1024 {
                continue;
            }
            let mut normed = x.clone();
            ops::rms_norm_each(Isa::Scalar, &mut normed, &norms, 1e-6);
            let acts = quantized(&normed, n_cols, is_exact);
            let ctx = &mut ComputeContext::new(Isa::Scalar, cpu);
            let mut expected = vec![0.0; n_rows];
            matrix.cpu.matmul(ctx, &acts.rows, &mut expected);
            for (expected, before) in expected.iter_mut().zip(&before) {
                *expected = before + *expected * 0.37;
            }
            let out = data(&gpu, &before);
            let params = LinearParams {
                n_cols,
                second: NONE,
                eps: 1e-6,
                n_chunks: n_cols.div_ceil(64),
                n_rows,
                out_stride: n_rows,
                factor: 0.37,
                ..LinearParams::default()
            };
            let run = Run {
                gpu: &gpu,
                source: Source::LinearFused.kernel(),
                constants: &[
                    ("TOKENS", 1),
                    ("PARTS", parts),
                    ("PANELS", 1),
                    ("TAIL", Tail::Add as u32),
                    ("ACTIVATION", 0),
                    ("ACT_STRIDE", stride),
                ],
                params: &params.words(),
                buffers: &[
                    &data(&gpu, &matrix.chunks),
                    &data(&gpu, &matrix.scales),
                    &data(&gpu, &x),
                    &data(&gpu, &norms),
                    &out,
                    &report(&gpu),
                ],
                has_entry: false,
            };
            run.dispatch([n_rows.div_ceil(16), 1, 1]);
            let what = format!("{n_rows}×{n_cols}, {parts} parts");
            assert_bits(&read(&gpu, &out, n_rows), &expected, &what);
        }
    }
}

#[test]
fn gated_products_are_those_of_the_cpu() {
    type GateFn = fn(Isa, &mut [f32], &[f32]);
    let Some(gpu) = device() else { return };
    let mut random = Random(13);
    let cpu = &mut ThreadPool::new(1);
    let (n_rows, n_cols, n_tokens) = (37, 200, 3);
    let gates: [GateFn; 3] = [ops::relu2_mul, ops::silu_mul, ops::gelu_tanh_mul];
    for (activation, gate_mul) in gates.into_iter().enumerate() {
        let [gate, up] = [0; 2].map(|_| ternary(&mut random, n_rows, n_cols, None));
        let x = random.floats(n_tokens * n_cols);
        let acts = quantized(&x, n_cols, false);
        let ctx = &mut ComputeContext::new(Isa::Scalar, cpu);
        let mut expected = vec![0.0; n_tokens * n_rows];
        let mut of_up = expected.clone();
        gate.cpu.matmul(ctx, &acts.rows, &mut expected);
        up.cpu.matmul(ctx, &acts.rows, &mut of_up);
        gate_mul(Isa::Scalar, &mut expected, &of_up);
        for tiled in [false, true] {
            let out = data(&gpu, &vec![f32::NAN; expected.len()]);
            let params = LinearParams {
                n_cols,
                n_chunks: n_cols.div_ceil(64),
                n_rows,
                second_panel: n_rows.div_ceil(16),
                out_stride: n_rows,
                factor: 1.0,
                ..LinearParams::default()
            };
            let run = Run {
                gpu: &gpu,
                source: if tiled {
                    Source::LinearTiled.kernel()
                } else {
                    Source::LinearTernary.kernel()
                },
                constants: &[
                    ("TOKENS", 4),
                    ("PARTS", 1),
                    ("PANELS", 2),
                    ("TAIL", Tail::Gate as u32),
                    ("ACTIVATION", activation as u32),
                ],
                params: &params.words(),
                buffers: &[
                    &data(&gpu, &[n_tokens as u32, 1, 1, 0]),
                    &data(&gpu, &[&gate.chunks[..], &up.chunks].concat()),
                    &data(&gpu, &[&gate.scales[..], &up.scales].concat()),
                    &data(&gpu, &acts.words),
                    &data(&gpu, &acts.stats),
                    &out,
                    &report(&gpu),
                ],
                has_entry: false,
            };
            run.dispatch([n_rows.div_ceil(if tiled { 32 } else { 16 }), 1, 1]);
            let found: Vec<f32> = read(&gpu, &out, expected.len());
            if activation == 0 {
                assert_bits(&found, &expected, "ReLU²");
            }
            for (found, expected) in found.iter().zip(&expected) {
                // The exponential has no fused multiply-adds here, and stops at e^88.
                let error = (found - expected).abs();
                assert!(
                    error <= 4e-6 * expected.abs() + 1e-30,
                    "{activation}: {found}, {expected}"
                );
            }
        }
    }
}

#[test]
fn int8_products_equal_those_of_the_cpu() {
    let Some(gpu) = device() else { return };
    let mut random = Random(14);
    for (case, n_cols) in WIDTHS.into_iter().enumerate() {
        let n_rows = ROWS[case % ROWS.len()];
        let n_tokens = [1, 2, 5, 8, 11][case % 5];
        for is_extreme in [false, true] {
            let (w, x) = if is_extreme {
                (vec![-1.0; n_rows * n_cols], vec![1.0; n_tokens * n_cols])
            } else {
                (
                    random.floats(n_rows * n_cols),
                    random.floats(n_tokens * n_cols),
                )
            };
            let acts = quantized(&x, n_cols, false);
            let mut threads = ThreadPool::new(1);
            let ctx = &mut ComputeContext::new(Isa::Scalar, &mut threads);
            let shape = Shape { n_rows, n_cols };
            let pool = HybridMemoryPool::new();
            let packed = PackedInt8::quantize(&pool, ctx, shape, |row, out| {
                out.copy_from_slice(&w[row * n_cols..][..n_cols]);
            });
            let mut expected = vec![0.0; n_tokens * n_rows];
            packed.unwrap().matmul(ctx, &acts.rows, &mut expected);
            for value in &mut expected {
                *value *= 0.7;
            }

            let panels = Panels::int8(n_rows, n_cols);
            let panel_len = PANEL_ROWS * panels.n_chunks;
            let mut chunks = vec![[0; 4]; panels.n_panels() * panel_len];
            let scales = w.chunks(n_cols).enumerate().map(|(row, w)| {
                let panel = &mut chunks[row / PANEL_ROWS * panel_len..][..panel_len];
                pack_int8(w, row % PANEL_ROWS, panel)
            });
            let scales: Vec<f32> = scales.collect();
            let out = data(&gpu, &vec![f32::NAN; n_tokens * n_rows]);
            let params = LinearParams {
                n_cols,
                n_chunks: panels.n_chunks,
                n_rows,
                out_stride: n_rows,
                factor: 0.7,
                ..LinearParams::default()
            };
            let tokens = 8;
            let run = Run {
                gpu: &gpu,
                source: Source::LinearInt8.kernel(),
                constants: &[
                    ("TOKENS", tokens as u32),
                    ("PARTS", 1),
                    ("PANELS", 1),
                    ("TAIL", Tail::Store as u32),
                    ("ACTIVATION", 0),
                ],
                params: &params.words(),
                buffers: &[
                    &data(&gpu, &[n_tokens as u32, 1, 1, 0]),
                    &data(&gpu, &chunks),
                    &data(&gpu, &scales),
                    &data(&gpu, &acts.words),
                    &data(&gpu, &acts.stats),
                    &out,
                    &report(&gpu),
                ],
                has_entry: false,
            };
            run.dispatch([n_rows.div_ceil(16), n_tokens.div_ceil(tokens), 1]);
            let what = format!("{n_rows}×{n_cols}, {n_tokens} tokens");
            assert_bits(&read(&gpu, &out, expected.len()), &expected, &what);
        }
    }
}

#[test]
fn embeddings_of_every_encoding_are_exact() {
    type Decode = fn(u16) -> f32;
    let Some(gpu) = device() else { return };
    // Every f16 and bfloat16 whose square is finite, two rows of them, and an odd width.
    let n_cols = 32_767;
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let decode: [Decode; 2] = [
        |bits| half::f16::from_bits(bits).to_f32(),
        |bits| half::bf16::from_bits(bits).to_f32(),
    ];
    for (i, decode) in decode.into_iter().enumerate() {
        let is_usable = |bits: &u16| (decode(*bits) * decode(*bits)).is_finite();
        let bits: Vec<u16> = all
            .iter()
            .map(|b| if is_usable(b) { *b } else { 0 })
            .collect();
        let rows: Vec<u16> = bits.chunks(32_768).flat_map(<[u16]>::to_vec).collect();
        let x = data(&gpu, &vec![f32::NAN; 2 * n_cols]);
        let bad = report(&gpu);
        let run = Run {
            gpu: &gpu,
            source: Source::Embed.kernel(),
            constants: &[("ENCODING", i as u32 + 1)],
            params: &[0, n_cols as u32, 16_384, 5, 2, 1f32.to_bits()],
            // Tokens 6 and 5 of a piece that begins at token 5.
            buffers: &[
                &data(&gpu, &[2u32, 1, 1, 0, 6, 0, 0, 5, 0, 0]),
                &data(&gpu, bytemuck::cast_slice::<u16, u32>(&rows)),
                &x,
                &bad,
            ],
            has_entry: false,
        };
        run.dispatch([2, 1, 1]);
        let expected: Vec<f32> = [&rows[32_768..][..n_cols], &rows[..n_cols]]
            .concat()
            .into_iter()
            .map(decode)
            .collect();
        let found: Vec<f32> = read(&gpu, &x, 2 * n_cols);
        for (found, expected) in found.iter().zip(&expected) {
            // Devices may flush subnormal f32, which only bfloat16 holds.
            let is_flushed = expected.is_subnormal() && *found == 0.0;
            assert!(
                is_flushed || found.to_bits() == expected.to_bits(),
                "{found}, {expected}"
            );
        }
        assert_eq!(read::<u32>(&gpu, &bad, 1), [u32::MAX]);
    }
}

#[test]
fn heads_are_rotated_and_stored_as_on_the_cpu() {
    let Some(gpu) = device() else { return };
    let mut random = Random(15);
    // Widths with and without padding, all of a head rotated or a part, norms or none.
    for (head_dim, n_dims, has_norms) in [
        (64, 64, false),
        (12, 8, true),
        (128, 128, true),
        (2, 2, false),
    ] {
        let (n_heads, n_kv_heads, n_rows, context) = (3, 2, 4, 300);
        let stride = (n_heads + 2 * n_kv_heads) * head_dim + 16;
        let k_at = n_heads * head_dim;
        let v_at = k_at + n_kv_heads * head_dim + 16;
        let qkv = random.floats(n_rows * stride);
        let norms = random.floats(2 * head_dim);
        let positions = [0, 127, 128, 299];
        let pool = HybridMemoryPool::new();
        let frequencies = ops::rope_frequencies(n_dims, 10_000.0);
        let mut rope = ops::RopeTable::new(&pool, &frequencies, head_dim, context, 1.0).unwrap();
        rope.extend(context);
        let table = positions_table(&frequencies, context);
        let pages = [5u32, 0, 3];
        let mut rows = vec![n_rows as u32, 3, 4, 0];
        for position in positions {
            rows.extend([0, position as u32, 4 + 3 * n_rows as u32]);
        }
        rows.extend(pages);
        let eights = head_dim.div_ceil(8);
        let n_pages = 6;
        let keys = data(&gpu, &vec![0u16; n_pages * n_kv_heads * eights * 128 * 8]);
        let values = data(&gpu, &vec![0u16; n_pages * n_kv_heads * 128 * head_dim]);
        let on_device = data(&gpu, &qkv);
        let [q_norm, k_norm] = if has_norms {
            [0, head_dim as u32]
        } else {
            [NONE; 2]
        };
        let bad = report(&gpu);
        let run = Run {
            gpu: &gpu,
            source: Source::Rope.kernel(),
            constants: &[("HEAD_DIM", head_dim as u32)],
            params: &[
                0,
                f32::to_bits(1e-5),
                n_heads as u32,
                n_kv_heads as u32,
                k_at as u32,
                v_at as u32,
                stride as u32,
                n_dims as u32 / 2,
                q_norm,
                k_norm,
                3,
            ],
            buffers: &[
                &data(&gpu, &rows),
                &on_device,
                &data(&gpu, &table),
                &data(&gpu, &norms),
                &keys,
                &values,
                &bad,
            ],
            has_entry: false,
        };
        run.dispatch([n_rows, n_heads + 2 * n_kv_heads, 1]);
        let found: Vec<f32> = read(&gpu, &on_device, qkv.len());
        let keys: Vec<u16> = read(&gpu, &keys, n_pages * n_kv_heads * eights * 128 * 8);
        let values: Vec<u16> = read(&gpu, &values, n_pages * n_kv_heads * 128 * head_dim);
        for (row, position) in positions.into_iter().enumerate() {
            let of_row = &qkv[row * stride..][..stride];
            let mut q = of_row[..k_at].to_vec();
            let mut k = of_row[k_at..][..n_kv_heads * head_dim].to_vec();
            let v = &of_row[v_at..][..n_kv_heads * head_dim];
            if has_norms {
                ops::rms_norm_each(Isa::Scalar, &mut q, &norms[..head_dim], 1e-5);
                ops::rms_norm_each(Isa::Scalar, &mut k, &norms[head_dim..], 1e-5);
            }
            rope.rotate(Isa::Scalar, position, &mut q);
            rope.rotate(Isa::Scalar, position, &mut k);
            assert_bits(&found[row * stride..][..k_at], &q, "queries");
            let page = pages[position / 128] as usize;
            for head in 0..n_kv_heads {
                let block = page * n_kv_heads + head;
                for d in 0..head_dim {
                    let at = ((block * eights + d / 8) * 128 + position % 128) * 8 + d % 8;
                    let expected = half::f16::from_f32(k[head * head_dim + d]).to_bits();
                    assert_eq!(keys[at], expected, "key, head {head}, {d}");
                    let at = (block * 128 + position % 128) * head_dim + d;
                    let expected = half::f16::from_f32(v[head * head_dim + d]).to_bits();
                    assert_eq!(values[at], expected, "value, head {head}, {d}");
                }
            }
        }
        assert_eq!(read::<u32>(&gpu, &bad, 1), [u32::MAX]);
    }
}

/// Returns cosines and sines as the device stores them, computed as the CPU's table.
fn positions_table(frequencies: &[f32], context: usize) -> Vec<f32> {
    let n_pairs = frequencies.len();
    let pool = HybridMemoryPool::new();
    let mut rope = ops::RopeTable::new(&pool, frequencies, 2 * n_pairs, context, 1.0).unwrap();
    rope.extend(context);
    let mut table = Vec::new();
    for position in 0..context {
        // (1, 0) is rotated to the cosine and the sine.
        let mut x = vec![0.0; 2 * n_pairs];
        x[..n_pairs].fill(1.0);
        rope.rotate(Isa::Scalar, position, &mut x);
        table.extend(x);
    }
    table
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "a table of cases, and both computations"
)]
fn attention_is_that_of_the_cpu_up_to_rounding() {
    let Some(gpu) = device() else { return };
    let mut random = Random(16);
    let cases = [
        // (head_dim, heads, KV heads, window)
        (64, 4, 4, None),
        (128, 8, 2, None),
        (12, 6, 2, Some(100)),
        (256, 4, 1, Some(130)),
        (2, 5, 1, None),
    ];
    for (head_dim, n_heads, n_kv_heads, window) in cases {
        let pool = HybridMemoryPool::new();
        let shape = KvShape {
            precision: KvPrecision::F16,
            n_heads: n_kv_heads,
            head_dim,
        };
        let context = 400;
        let mut kv = PagedKv::new(&pool, shape, 1);
        kv.reserve(0, 0, context).unwrap();
        let eights = head_dim.div_ceil(8);
        let mut keys = vec![0x7e00u16; 4 * n_kv_heads * eights * 128 * 8];
        let mut values = vec![0x7e00u16; 4 * n_kv_heads * 128 * head_dim];
        // Positions beyond the last are NaN, which must not be used.
        for position in 0..context - 20 {
            let [key, value] = [0; 2].map(|_| random.floats(n_kv_heads * head_dim));
            let at = RowPosition {
                sequence: 0,
                position,
            };
            kv.store(
                Isa::Scalar,
                at,
                0,
                KeyValue {
                    key: &key,
                    value: &value,
                },
            );
            for head in 0..n_kv_heads {
                let block = position / 128 * n_kv_heads + head;
                for e in 0..8 * eights {
                    let at = ((block * eights + e / 8) * 128 + position % 128) * 8 + e % 8;
                    keys[at] = match key[head * head_dim..][..head_dim].get(e) {
                        Some(key) => half::f16::from_f32(*key).to_bits(),
                        None => 0,
                    };
                }
                for d in 0..head_dim {
                    let at = (block * 128 + position % 128) * head_dim + d;
                    values[at] = half::f16::from_f32(value[head * head_dim + d]).to_bits();
                }
            }
        }
        let positions = [0, 1, 99, 100, 127, 128, 250, 255, 256, 379];
        let n_rows = positions.len();
        let q_dim = n_heads * head_dim;
        let mut q = random.floats(n_rows * q_dim);
        for q in &mut q {
            *q *= 6.0;
        }
        let scale = 1.0 / (head_dim as f32).sqrt();
        let at: Vec<_> = positions
            .iter()
            .map(|&position| RowPosition {
                sequence: 0,
                position,
            })
            .collect();
        let queries = Queries {
            rows: &at,
            values: &q,
            heads: Heads {
                first: 0,
                n_kv_heads,
                n_heads,
                scale,
                window,
            },
        };
        let extents = AttentionExtents {
            n_threads: 1,
            max_rows: n_rows,
            kv_shape: shape,
            n_positions: context,
            heads_per_kv_head: n_heads / n_kv_heads,
        };
        let mut scratch = AttentionScratch::new(&pool, extents).unwrap();
        let mut threads = ThreadPool::new(1);
        let ctx = &mut ComputeContext::new(Isa::Scalar, &mut threads);
        let mut expected = vec![0.0; q.len()];
        attention(ctx, &kv, queries, &mut scratch, &mut expected);

        let n_blocks = 3;
        let mut rows = vec![n_rows as u32, n_blocks as u32, n_rows as u32, 0];
        for position in positions {
            rows.extend([0, position as u32, 4 + 3 * n_rows as u32]);
        }
        rows.extend([0, 1, 2]);
        let rows = data(&gpu, &rows);
        let partial = data(
            &gpu,
            &vec![f32::NAN; n_rows * n_heads * n_blocks * (head_dim + 2)],
        );
        let group = n_heads / n_kv_heads;
        let window = window.unwrap_or(0) as u32;
        for heads in [1, group.min(3)] {
            let run = Run {
                gpu: &gpu,
                source: Source::Attention.kernel(),
                constants: &[("HEAD_DIM", head_dim as u32), ("HEADS", heads as u32)],
                params: &[
                    0,
                    n_heads as u32,
                    n_kv_heads as u32,
                    group as u32,
                    q_dim as u32,
                    scale.to_bits(),
                    window,
                ],
                buffers: &[
                    &rows,
                    &data(&gpu, &q),
                    &data(&gpu, &keys),
                    &data(&gpu, &values),
                    &partial,
                ],
                has_entry: true,
            };
            run.dispatch([n_rows, n_kv_heads * group.div_ceil(heads), n_blocks]);
            let (out, bad) = (data(&gpu, &vec![f32::NAN; q.len()]), report(&gpu));
            let run = Run {
                gpu: &gpu,
                source: Source::AttentionMerge.kernel(),
                constants: &[("HEAD_DIM", head_dim as u32)],
                params: &[0, n_heads as u32, window, 3],
                buffers: &[&rows, &partial, &out, &bad],
                has_entry: true,
            };
            run.dispatch([n_rows, n_heads, 1]);
            let found: Vec<f32> = read(&gpu, &out, q.len());
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // Both sum up to 400 rounded products of values below 1, in different orders.
                let error = (found - expected).abs();
                assert!(error < 2e-6, "{head_dim}, value {i}: {found}, {expected}");
            }
            assert_eq!(read::<u32>(&gpu, &bad, 1), [u32::MAX]);
        }
    }
}
