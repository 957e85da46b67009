//! The measured operations, in shapes that fit in the caches and in shapes that do not.

use std::time::Instant;

use bitnet_core::memory::{Buffer, Category};
use bitnet_core::ops::{self, RopeTable, rope_frequencies};
use bitnet_core::{
    AttentionExtents, AttentionScratch, ComputeContext, Heads, HybridMemoryPool, Int8Rows, Isa,
    KeyValue, KvPage, KvPrecision, KvShape, PackedTernary, PagedKv, Queries, RowPosition, Shape,
    TernaryLayout, ThreadPool, matmul_rows,
};
use bitnet_quant::DenseType;

use crate::data::{
    activations, dense_rows, int8, listed_activations, sparse_ternary, ternary, values,
};

/// One operation with its data.
pub struct Case {
    /// Its name, such as `ternary`.
    pub operation: &'static str,
    /// `weights`, or `rows x columns`; `x tokens` for products.
    pub shape: String,
    /// Minimum bytes read: all data once.
    pub n_bytes: usize,
    /// Number of multiply-adds, 0 if irrelevant.
    pub n_macs: usize,
    /// The arithmetic of the multiply-adds.
    pub arithmetic: Arithmetic,
    /// Whether the work is shared among threads.
    pub is_shared: bool,
    run: Box<Run>,
}

type Run = dyn FnMut(Isa, &mut ThreadPool);

/// The machine's peak that an operation's multiply-adds are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Four-way dot products of int8.
    Int8,
    /// Fused multiply-adds of f32.
    F32,
}

/// Columns of the matrices of BitNet b1.58 2B-4T, and of its feed-forward part; the heads of
/// one layer.
const HIDDEN: usize = 2560;
const FFN: usize = 6912;
const HEADS: HeadCounts = HeadCounts {
    n_heads: 20,
    n_kv_heads: 5,
    head_dim: 128,
};

/// The numbers of heads of a layer.
#[derive(Clone, Copy, Debug)]
pub struct HeadCounts {
    /// Query heads.
    pub n_heads: usize,
    /// Heads of keys and values.
    pub n_kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
}

/// Rows of HIDDEN columns that take more than 64 MB, more than the caches of most
/// machines.
const MANY_TERNARY_ROWS: usize = 106_496;
const MANY_INT8_ROWS: usize = 26_624;
const MANY_F16_ROWS: usize = 13_312;
/// Of gates and as many of up.
const MANY_GATED_ROWS: usize = 106_496;

/// The share of the rows of `up` that squared ReLU leaves, as in the built-in model; and the
/// share of the columns of `down`, 14 %.
const LISTED_ROWS_PERCENT: u32 = 26;
const LISTED_COLS_OF_ALL: usize = 7;

const CASES: &[fn() -> Case] = &[
    || two_bits(512, 512, 1),
    || two_bits(HIDDEN, HIDDEN, 1),
    || two_bits(HIDDEN, HIDDEN, 4),
    || two_bits(HIDDEN, HIDDEN, 16),
    || two_bits(HIDDEN, HIDDEN, 128),
    || two_bits(MANY_TERNARY_ROWS, HIDDEN, 1),
    || two_bits(MANY_TERNARY_ROWS, HIDDEN, 8),
    || gated_rows(hidden(MANY_GATED_ROWS)),
    || listed_columns(ffn(HIDDEN)),
    || int8_matmul(hidden(1024), 1),
    || int8_matmul(hidden(1024), 16),
    || int8_matmul(hidden(MANY_INT8_ROWS), 1),
    || int8_matmul(hidden(MANY_INT8_ROWS), 8),
    || dense_matmul("head-f16", DenseType::F16, 512),
    || dense_matmul("head-f16", DenseType::F16, MANY_F16_ROWS),
    || dense_matmul("head-q6_k", DenseType::Q6K, 512),
    || attention(KvPrecision::F32, HEADS, (1, 3584)),
    || attention(KvPrecision::F16, HEADS, (1, 512)),
    || attention(KvPrecision::F16, HEADS, (1, 3584)),
    || attention(KvPrecision::F16, HEADS, (64, 512)),
    || attention(KvPrecision::Int8, HEADS, (1, 512)),
    || attention(KvPrecision::Int8, HEADS, (1, 3584)),
    || attention(KvPrecision::Int8, HEADS, (64, 512)),
    || quantize(hidden(1)),
    || quantize(ffn(128)),
    || rms_norm(hidden(1)),
    || rms_norm(hidden(128)),
    || gate("relu2", ops::relu2_mul, ffn(1)),
    || gate("relu2", ops::relu2_mul, ffn(128)),
    || gate("silu", ops::silu_mul, ffn(1)),
    || gate("silu", ops::silu_mul, ffn(128)),
    || add(hidden(1)),
    || add(hidden(128)),
    || rope(hidden(1), HEADS.head_dim),
    || softmax(4096),
    || dot(HIDDEN),
];

/// Returns every case, each created lazily, since some take 100 MB.
pub fn cases() -> impl ExactSizeIterator<Item = Case> {
    CASES.iter().map(|make| make())
}

impl Case {
    /// Runs the operation once.
    pub fn run(&mut self, isa: Isa, threads: &mut ThreadPool) {
        (self.run)(isa, threads);
    }

    /// Returns the duration of one run in seconds: the fastest of several rounds, each
    /// long enough for the clock's resolution.
    pub fn seconds(&mut self, isa: Isa, threads: &mut ThreadPool) -> f64 {
        const ROUNDS: usize = 5;
        const ROUND_SECONDS: f64 = 0.01;
        let mut round = |n: usize| {
            let start = Instant::now();
            (0..n).for_each(|_| self.run(isa, threads));
            start.elapsed().as_secs_f64()
        };
        let (mut n, mut seconds) = (1, round(1));
        while seconds < ROUND_SECONDS {
            n *= 2;
            seconds = round(n);
        }
        let rounds = (1..ROUNDS).map(|_| round(n));
        rounds.fold(seconds, f64::min) / n as f64
    }
}

fn hidden(n_rows: usize) -> Shape {
    let n_cols = HIDDEN;
    Shape { n_rows, n_cols }
}

fn ffn(n_rows: usize) -> Shape {
    let n_cols = FFN;
    Shape { n_rows, n_cols }
}

fn two_bits(n_rows: usize, n_cols: usize, n_tokens: usize) -> Case {
    ternary_matmul(TernaryLayout::TwoBits, Shape { n_rows, n_cols }, n_tokens)
}

/// The product of ternary weights and quantized activations of `n_tokens`.
pub fn ternary_matmul(layout: TernaryLayout, shape: Shape, n_tokens: usize) -> Case {
    let Shape { n_rows, n_cols } = shape;
    let weights = ternary(layout, n_rows, n_cols);
    let acts = activations(n_tokens, n_cols);
    let mut out = vec![0.0; n_tokens * n_rows];
    Case {
        operation: "ternary",
        shape: format!("{n_rows}x{n_cols}x{n_tokens}"),
        n_bytes: weights.n_bytes() + n_tokens * n_cols,
        n_macs: n_tokens * n_rows * n_cols,
        arithmetic: Arithmetic::Int8,
        is_shared: true,
        run: Box::new(move |isa, threads| {
            weights.matmul(&mut ComputeContext::new(isa, threads), &acts, &mut out);
        }),
    }
}

/// The gated product of one token, which reads all gates, and the rows of up whose gate is
/// positive.
pub fn gated_rows(shape: Shape) -> Case {
    // Half of the random gates are positive.
    let gate = sparse_ternary(TernaryLayout::TwoBits, shape, 2 * LISTED_ROWS_PERCENT);
    let up = ternary(TernaryLayout::Rows, shape.n_rows, shape.n_cols);
    let acts = activations(1, shape.n_cols);
    let mut out = vec![0.0; shape.n_rows];
    let mut run = move |isa, threads: &mut ThreadPool| {
        let ctx = &mut ComputeContext::new(isa, threads);
        PackedTernary::relu2_gated_matmul(ctx, [&gate, &up], &acts, &mut out)
    };
    let read = run(Isa::best(), &mut ThreadPool::new(1));
    let n_macs = (read.total + read.products) * shape.n_cols;
    Case {
        operation: "gated-rows",
        shape: format!("{}x{}x1", shape.n_rows, shape.n_cols),
        n_bytes: n_macs / 4 + shape.n_cols,
        n_macs,
        arithmetic: Arithmetic::Int8,
        is_shared: true,
        run: Box::new(move |isa, threads| {
            run(isa, threads);
        }),
    }
}

/// The product of one token that reads the columns whose activation is not zero. Each run
/// takes another of several matrices, and other columns of it than the runs before, since
/// those fit in the caches.
pub fn listed_columns(shape: Shape) -> Case {
    const MATRICES: usize = 16;
    const LISTS: usize = LISTED_COLS_OF_ALL;
    let Shape { n_rows, n_cols } = shape;
    let matrix = || ternary(TernaryLayout::Columns, n_rows, n_cols);
    let matrices: Vec<_> = (0..MATRICES).map(|_| matrix()).collect();
    let acts: Vec<_> = (0..LISTS)
        .map(|part| listed_activations(n_cols, part, LISTS))
        .collect();
    let nonzero = |acts: &Int8Rows| acts.row(0).iter().filter(|act| **act != 0).count();
    let n_macs = acts.iter().map(nonzero).sum::<usize>() * n_rows / LISTS;
    let mut out = vec![0.0; n_rows];
    let mut run = 0;
    Case {
        operation: "listed-columns",
        shape: format!("{n_rows}x{n_cols}x1"),
        n_bytes: n_macs / 4 + n_cols,
        n_macs,
        arithmetic: Arithmetic::Int8,
        is_shared: true,
        run: Box::new(move |isa, threads| {
            let ctx = &mut ComputeContext::new(isa, threads);
            matrices[run % MATRICES].listed_matmul(ctx, &acts[run % LISTS], &mut out);
            run += 1;
        }),
    }
}

/// The product of the int8 output matrix and quantized activations of `n_tokens`.
pub fn int8_matmul(shape: Shape, n_tokens: usize) -> Case {
    let Shape { n_rows, n_cols } = shape;
    let weights = int8(n_rows, n_cols);
    let acts = activations(n_tokens, n_cols);
    let mut out = vec![0.0; n_tokens * n_rows];
    Case {
        operation: "head-int8",
        shape: format!("{n_rows}x{n_cols}x{n_tokens}"),
        n_bytes: weights.n_bytes() + n_tokens * n_cols,
        n_macs: n_tokens * n_rows * n_cols,
        arithmetic: Arithmetic::Int8,
        is_shared: true,
        run: Box::new(move |isa, threads| {
            weights.matmul(&mut ComputeContext::new(isa, threads), &acts, &mut out);
        }),
    }
}

/// The exact head: rows stay in their storage format.
fn dense_matmul(operation: &'static str, ty: DenseType, n_rows: usize) -> Case {
    let n_cols = HIDDEN;
    let weights = dense_rows(ty, n_rows, n_cols);
    let row_bytes = weights.len() / n_rows;
    let x = values(n_cols);
    let mut out = vec![0.0; n_rows];
    let mut scratch = Vec::new();
    Case {
        operation,
        shape: format!("{n_rows}x{n_cols}x1"),
        n_bytes: weights.len() + 4 * n_cols,
        n_macs: n_rows * n_cols,
        arithmetic: Arithmetic::F32,
        is_shared: true,
        run: Box::new(move |isa, threads| {
            scratch.resize_with(threads.n_threads(), || row(n_cols));
            let mut ctx = ComputeContext {
                isa,
                threads,
                scratch: &mut scratch,
            };
            let decode = |row: usize, out: &mut [f32]| {
                ty.decode_row(isa, &weights[row * row_bytes..][..row_bytes], out);
            };
            let shape = Shape { n_rows, n_cols };
            matmul_rows(&mut ctx, shape, decode, &x, &mut out);
        }),
    }
}

/// Attention of the last `n_rows` of `n_positions` of a sequence, with the heads of one layer.
pub fn attention(
    precision: KvPrecision,
    counts: HeadCounts,
    (n_rows, n_positions): (usize, usize),
) -> Case {
    let HeadCounts {
        n_heads,
        n_kv_heads,
        head_dim,
    } = counts;
    let heads = Heads {
        first: 0,
        n_kv_heads,
        n_heads,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window: None,
    };
    let kv_shape = KvShape {
        precision,
        n_heads: n_kv_heads,
        head_dim,
    };
    let at = |position| RowPosition {
        sequence: 0,
        position,
    };
    let rows: Vec<_> = (n_positions - n_rows..n_positions).map(at).collect();
    let pool = HybridMemoryPool::new();
    let mut kv = PagedKv::new(&pool, kv_shape, 1);
    kv.reserve(0, 0, n_positions).expect("some megabytes");
    let key = values(n_kv_heads * head_dim);
    for position in 0..n_positions {
        let both = KeyValue {
            key: &key,
            value: &key,
        };
        kv.store(Isa::best(), at(position), 0, both);
    }
    let queries = values(n_rows * n_heads * head_dim);
    let mut out = vec![0.0; queries.len()];
    let seen: usize = rows.iter().map(|row| row.position + 1).sum();
    let mut scratch = None;
    Case {
        operation: match precision {
            KvPrecision::F32 => "attention-f32",
            KvPrecision::F16 => "attention-f16",
            KvPrecision::Int8 => "attention-int8",
        },
        shape: format!("{n_rows}x{n_positions}"),
        n_bytes: n_positions * kv_shape.page_bytes() / KvPage::POSITIONS,
        n_macs: 2 * seen * n_heads * head_dim,
        arithmetic: match precision {
            KvPrecision::Int8 => Arithmetic::Int8,
            KvPrecision::F32 | KvPrecision::F16 => Arithmetic::F32,
        },
        is_shared: true,
        run: Box::new(move |isa, threads| {
            let n_threads = threads.n_threads();
            let scratch = match &mut scratch {
                Some((n, scratch)) if *n == n_threads => scratch,
                place => {
                    let extents = AttentionExtents {
                        n_threads,
                        max_rows: n_rows,
                        kv_shape,
                        n_positions,
                        heads_per_kv_head: n_heads / n_kv_heads,
                    };
                    let new = AttentionScratch::new(&pool, extents);
                    &mut place.insert((n_threads, new.expect("some megabytes"))).1
                }
            };
            let queries = Queries {
                rows: &rows,
                values: &queries,
                heads,
            };
            let ctx = &mut ComputeContext::new(isa, threads);
            bitnet_core::attention(ctx, &kv, queries, scratch, &mut out);
        }),
    }
}

/// Quantization of activations.
pub fn quantize(shape: Shape) -> Case {
    let Shape { n_rows, n_cols } = shape;
    let x = values(n_rows * n_cols);
    let rows = Int8Rows::with_capacity(&HybridMemoryPool::new(), n_rows, n_cols);
    let mut rows = rows.expect("some megabytes");
    let mut scratch = Vec::new();
    float_op("quantize", shape, 4, move |isa, threads| {
        scratch.resize_with(threads.n_threads(), || row(n_cols));
        let mut ctx = ComputeContext {
            isa,
            threads,
            scratch: &mut scratch,
        };
        rows.quantize_rows(&mut ctx, shape, |row, out| {
            out.copy_from_slice(&x[row * n_cols..][..n_cols]);
        });
    })
}

/// RMS norms of rows.
pub fn rms_norm(shape: Shape) -> Case {
    let Shape { n_rows, n_cols } = shape;
    let (x, weight) = (values(n_rows * n_cols), values(n_cols));
    let mut out = vec![0.0; n_rows * n_cols];
    float_op("rms_norm", shape, 8, move |isa, threads| {
        by_rows(threads, &mut out, n_cols, |row, out| {
            ops::rms_norm(isa, &x[row * n_cols..][..n_cols], &weight, 1e-5, out);
        });
    })
}

/// Replaces gates by `op(gates, up)`. They are overwritten in place; zeros stay zeros over
/// repeated runs.
pub fn gate(operation: &'static str, op: fn(Isa, &mut [f32], &[f32]), shape: Shape) -> Case {
    let Shape { n_rows, n_cols } = shape;
    let (mut gate, up) = (vec![0.0; n_rows * n_cols], values(n_rows * n_cols));
    float_op(operation, shape, 8, move |isa, threads| {
        by_rows(threads, &mut gate, n_cols, |row, gate| {
            op(isa, gate, &up[row * n_cols..][..n_cols]);
        });
    })
}

/// Addition to the residual stream.
pub fn add(shape: Shape) -> Case {
    let Shape { n_rows, n_cols } = shape;
    let (mut x, y) = (vec![0.0; n_rows * n_cols], vec![0.0; n_rows * n_cols]);
    float_op("add", shape, 8, move |isa, threads| {
        by_rows(threads, &mut x, n_cols, |row, x| {
            ops::add_assign(isa, x, &y[row * n_cols..][..n_cols]);
        });
    })
}

/// Rotation of rows of heads.
pub fn rope(shape: Shape, head_dim: usize) -> Case {
    let (pool, frequencies) = (
        HybridMemoryPool::new(),
        rope_frequencies(head_dim, 500_000.0),
    );
    let table = RopeTable::new(&pool, &frequencies, head_dim, 64, 1.0);
    let mut table = table.expect("some kilobytes");
    table.extend(64);
    let Shape { n_rows, n_cols } = shape;
    let mut x = values(n_rows * n_cols);
    float_op("rope", shape, 4, move |isa, threads| {
        by_rows(threads, &mut x, n_cols, |_, x| {
            table.rotate(isa, 63, x);
        });
    })
}

fn softmax(n: usize) -> Case {
    let mut x = values(n);
    float_op("softmax", one_row(n), 4, move |isa, threads| {
        by_rows(threads, &mut x, n, |_, x| ops::softmax(isa, x));
    })
}

fn dot(n: usize) -> Case {
    let (x, y) = (values(n), values(n));
    Case {
        n_macs: n,
        ..float_op("dot", one_row(n), 8, move |isa, _| {
            std::hint::black_box(ops::dot(isa, &x, &y));
        })
    }
}

/// Returns a row of scratch memory.
fn row(n_cols: usize) -> Buffer<f32> {
    let row = HybridMemoryPool::new().zeroed(Category::Scratch, n_cols);
    row.expect("some kilobytes")
}

fn one_row(n_cols: usize) -> Shape {
    Shape { n_rows: 1, n_cols }
}

/// A float operation that reads this many bytes per element.
fn float_op(
    operation: &'static str,
    Shape { n_rows, n_cols }: Shape,
    bytes_per_element: usize,
    run: impl FnMut(Isa, &mut ThreadPool) + 'static,
) -> Case {
    Case {
        operation,
        shape: format!("{n_rows}x{n_cols}"),
        n_bytes: n_rows * n_cols * bytes_per_element,
        n_macs: 0,
        arithmetic: Arithmetic::F32,
        is_shared: n_rows > 1,
        run: Box::new(run),
    }
}

/// Calls `f(row, values)` for each row, on all threads, like the forward pass.
fn by_rows(
    threads: &mut ThreadPool,
    data: &mut [f32],
    n_cols: usize,
    f: impl Fn(usize, &mut [f32]) + Sync,
) {
    let mut locals = [(); 1024];
    threads.for_each_chunk(data, n_cols, &mut locals, |(), row, values| f(row, values));
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn cases_have_names_of_their_own_and_run_on_any_thread_pool() {
        let mut names = HashSet::new();
        for mut case in cases() {
            let name = format!("{}-{}", case.operation, case.shape);
            assert!(case.n_bytes > 0, "{name}");
            case.run(Isa::best(), &mut ThreadPool::new(1));
            case.run(Isa::best(), &mut ThreadPool::new(3));
            assert!(names.insert(name.clone()), "{name}");
        }
    }
}
