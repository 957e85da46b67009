//! The measured operations, in shapes that fit in the caches and in shapes that do not.

use std::time::Instant;

use bitnet_core::memory::{Buffer, Category};
use bitnet_core::ops::{self, RopeTable, rope_frequencies};
use bitnet_core::{
    AttentionExtents, AttentionScratch, ComputeContext, Heads, HybridMemoryPool, Int8Rows, Isa,
    KeyValue, KvPage, KvPrecision, KvShape, PagedKv, Queries, RowPosition, Shape, TernaryLayout,
    ThreadPool, matmul_rows,
};
use bitnet_quant::DenseType;

use crate::data::{activations, dense_rows, int8, ternary, values};

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

/// Columns of the matrices of BitNet b1.58 2B-4T, and of its feed-forward part.
const HIDDEN: usize = 2560;
const FFN: usize = 6912;
const HEAD_DIM: usize = 128;

/// Rows of HIDDEN columns that take more than 64 MB, more than the caches of most
/// machines.
const MANY_TERNARY_ROWS: usize = 106_496;
const MANY_INT8_ROWS: usize = 26_624;
const MANY_F16_ROWS: usize = 13_312;

const CASES: &[fn() -> Case] = &[
    || ternary_matmul(512, 512, 1),
    || ternary_matmul(HIDDEN, HIDDEN, 1),
    || ternary_matmul(HIDDEN, HIDDEN, 4),
    || ternary_matmul(HIDDEN, HIDDEN, 16),
    || ternary_matmul(HIDDEN, HIDDEN, 128),
    || ternary_matmul(MANY_TERNARY_ROWS, HIDDEN, 1),
    || ternary_matmul(MANY_TERNARY_ROWS, HIDDEN, 8),
    || int8_matmul(1024, HIDDEN, 1),
    || int8_matmul(1024, HIDDEN, 16),
    || int8_matmul(MANY_INT8_ROWS, HIDDEN, 1),
    || int8_matmul(MANY_INT8_ROWS, HIDDEN, 8),
    || dense_matmul("head-f16", DenseType::F16, 512),
    || dense_matmul("head-f16", DenseType::F16, MANY_F16_ROWS),
    || dense_matmul("head-q6_k", DenseType::Q6K, 512),
    || attention("attention-f32", KvPrecision::F32, (1, 3584)),
    || attention("attention-f16", KvPrecision::F16, (1, 512)),
    || attention("attention-f16", KvPrecision::F16, (1, 3584)),
    || attention("attention-f16", KvPrecision::F16, (64, 512)),
    || attention("attention-int8", KvPrecision::Int8, (1, 512)),
    || attention("attention-int8", KvPrecision::Int8, (1, 3584)),
    || attention("attention-int8", KvPrecision::Int8, (64, 512)),
    || quantize(1, HIDDEN),
    || quantize(128, FFN),
    || rms_norm(1, HIDDEN),
    || rms_norm(128, HIDDEN),
    || gate("relu2", ops::relu2_mul, 1),
    || gate("relu2", ops::relu2_mul, 128),
    || gate("silu", ops::silu_mul, 1),
    || gate("silu", ops::silu_mul, 128),
    || add(1),
    || add(128),
    || rope(20),
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

fn ternary_matmul(n_rows: usize, n_cols: usize, n_tokens: usize) -> Case {
    let weights = ternary(TernaryLayout::TwoBits, n_rows, n_cols);
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

fn int8_matmul(n_rows: usize, n_cols: usize, n_tokens: usize) -> Case {
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

/// Attention of the last positions of a sequence, with the heads of one layer of BitNet
/// b1.58 2B-4T.
fn attention(operation: &'static str, precision: KvPrecision, shape: (usize, usize)) -> Case {
    let (n_rows, n_positions) = shape;
    let heads = Heads {
        first: 0,
        n_kv_heads: 5,
        n_heads: 20,
        scale: 1.0 / (HEAD_DIM as f32).sqrt(),
        window: None,
    };
    let kv_shape = KvShape {
        precision,
        n_heads: heads.n_kv_heads,
        head_dim: HEAD_DIM,
    };
    let at = |position| RowPosition {
        sequence: 0,
        position,
    };
    let rows: Vec<_> = (n_positions - n_rows..n_positions).map(at).collect();
    let pool = HybridMemoryPool::new();
    let mut kv = PagedKv::new(&pool, kv_shape, 1);
    kv.reserve(0, 0, n_positions).expect("some megabytes");
    let key = values(heads.n_kv_heads * HEAD_DIM);
    for position in 0..n_positions {
        let both = KeyValue {
            key: &key,
            value: &key,
        };
        kv.store(Isa::best(), at(position), 0, both);
    }
    let queries = values(n_rows * heads.n_heads * HEAD_DIM);
    let mut out = vec![0.0; queries.len()];
    let seen: usize = rows.iter().map(|row| row.position + 1).sum();
    let mut scratch = None;
    Case {
        operation,
        shape: format!("{n_rows}x{n_positions}"),
        n_bytes: n_positions * kv_shape.page_bytes() / KvPage::POSITIONS,
        n_macs: 2 * seen * heads.n_heads * HEAD_DIM,
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
                        heads_per_kv_head: 4,
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

fn quantize(n_rows: usize, n_cols: usize) -> Case {
    let x = values(n_rows * n_cols);
    let rows = Int8Rows::with_capacity(&HybridMemoryPool::new(), n_rows, n_cols);
    let mut rows = rows.expect("some megabytes");
    let mut scratch = Vec::new();
    float_op("quantize", n_rows, n_cols, 4, move |isa, threads| {
        scratch.resize_with(threads.n_threads(), || row(n_cols));
        let mut ctx = ComputeContext {
            isa,
            threads,
            scratch: &mut scratch,
        };
        rows.quantize_rows(&mut ctx, Shape { n_rows, n_cols }, |row, out| {
            out.copy_from_slice(&x[row * n_cols..][..n_cols]);
        });
    })
}

fn rms_norm(n_rows: usize, n_cols: usize) -> Case {
    let (x, weight) = (values(n_rows * n_cols), values(n_cols));
    let mut out = vec![0.0; n_rows * n_cols];
    float_op("rms_norm", n_rows, n_cols, 8, move |isa, threads| {
        by_rows(threads, &mut out, n_cols, |row, out| {
            ops::rms_norm(isa, &x[row * n_cols..][..n_cols], &weight, 1e-5, out);
        });
    })
}

/// The gates are overwritten in place; zeros stay zeros over repeated runs.
fn gate(operation: &'static str, op: fn(Isa, &mut [f32], &[f32]), n_rows: usize) -> Case {
    let (mut gate, up) = (vec![0.0; n_rows * FFN], values(n_rows * FFN));
    float_op(operation, n_rows, FFN, 8, move |isa, threads| {
        by_rows(threads, &mut gate, FFN, |row, gate| {
            op(isa, gate, &up[row * FFN..][..FFN]);
        });
    })
}

fn add(n_rows: usize) -> Case {
    let (mut x, y) = (vec![0.0; n_rows * HIDDEN], vec![0.0; n_rows * HIDDEN]);
    float_op("add", n_rows, HIDDEN, 8, move |isa, threads| {
        by_rows(threads, &mut x, HIDDEN, |row, x| {
            ops::add_assign(isa, x, &y[row * HIDDEN..][..HIDDEN]);
        });
    })
}

fn rope(n_heads: usize) -> Case {
    let (pool, frequencies) = (
        HybridMemoryPool::new(),
        rope_frequencies(HEAD_DIM, 500_000.0),
    );
    let table = RopeTable::new(&pool, &frequencies, HEAD_DIM, 64, 1.0);
    let mut table = table.expect("some kilobytes");
    table.extend(64);
    let mut x = values(n_heads * HEAD_DIM);
    float_op("rope", 1, n_heads * HEAD_DIM, 4, move |isa, threads| {
        by_rows(threads, &mut x, n_heads * HEAD_DIM, |_, x| {
            table.rotate(isa, 63, x);
        });
    })
}

fn softmax(n: usize) -> Case {
    let mut x = values(n);
    float_op("softmax", 1, n, 4, move |isa, threads| {
        by_rows(threads, &mut x, n, |_, x| ops::softmax(isa, x));
    })
}

fn dot(n: usize) -> Case {
    let (x, y) = (values(n), values(n));
    Case {
        n_macs: n,
        ..float_op("dot", 1, n, 8, move |isa, _| {
            std::hint::black_box(ops::dot(isa, &x, &y));
        })
    }
}

/// Returns a row of scratch memory.
fn row(n_cols: usize) -> Buffer<f32> {
    let row = HybridMemoryPool::new().zeroed(Category::Scratch, n_cols);
    row.expect("some kilobytes")
}

/// A float operation that reads this many bytes per element.
fn float_op(
    operation: &'static str,
    n_rows: usize,
    n_cols: usize,
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
