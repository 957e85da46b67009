//! Products of every kernel that this machine can run: one token (decode) and
//! many (prefill). Throughput is in weights times tokens: multiply-adds.

use std::time::Duration;

use bitnet_benchmarks::{activations, int8, ternary};
use bitnet_core::{
    AttentionScratch, Heads, Kernel, KvPrecision, KvShape, PackedKv, QueryRow, Team,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// The shape of the smaller matrices of BitNet b1.58 2B-4T.
const SHAPE: (usize, usize) = (2560, 2560);

fn kernels(c: &mut Criterion) {
    let (n_rows, n_cols) = SHAPE;
    let (ternary, int8) = (ternary(n_rows, n_cols), int8(n_rows, n_cols));
    let mut team = Team::new(1);
    for n_tokens in [1, 16, 128] {
        let acts = activations(n_tokens, n_cols);
        let mut out = vec![0.0; n_tokens * n_rows];
        let throughput = Throughput::Elements((n_tokens * n_rows * n_cols) as u64);
        let mut group = c.benchmark_group(format!("ternary-{n_rows}x{n_cols}"));
        group.throughput(throughput.clone());
        for kernel in Kernel::available() {
            group.bench_function(BenchmarkId::new(kernel.name(), n_tokens), |b| {
                b.iter(|| ternary.matmul(kernel, &mut team, &acts, &mut out));
            });
        }
        group.finish();
        let mut group = c.benchmark_group(format!("int8-{n_rows}x{n_cols}"));
        group.throughput(throughput);
        for kernel in Kernel::available() {
            group.bench_function(BenchmarkId::new(kernel.name(), n_tokens), |b| {
                b.iter(|| int8.matmul(kernel, &mut team, &acts, &mut out));
            });
        }
        group.finish();
    }
}

/// The heads of one layer of BitNet b1.58 2B-4T over a context: one token
/// (decode) and sixty-four (prefill). Throughput is in multiply-adds.
fn attention(c: &mut Criterion) {
    let heads = Heads {
        first: 0,
        n_kv_heads: 5,
        n_heads: 20,
    };
    let shape = KvShape {
        n_sequences: 1,
        n_positions: 3584,
        n_heads: heads.n_kv_heads,
        head_dim: 128,
    };
    let values = |n: usize| -> Vec<f32> { (0..n).map(|i| (i % 97) as f32 / 50.0 - 1.0).collect() };
    let key = values(heads.n_kv_heads * shape.head_dim);
    let mut team = Team::new(1);
    for (n_rows, n_positions) in [(1, 512), (1, 3584), (64, 512)] {
        let rows: Vec<_> = (n_positions - n_rows..n_positions)
            .map(|position| QueryRow {
                sequence: 0,
                position,
            })
            .collect();
        let queries = values(n_rows * heads.n_heads * shape.head_dim);
        let mut out = vec![0.0; queries.len()];
        let mut group = c.benchmark_group(format!("attention-{n_rows}x{n_positions}"));
        let seen: usize = rows.iter().map(|row| row.position + 1).sum();
        let macs = 2 * seen * heads.n_heads * shape.head_dim;
        group.throughput(Throughput::Elements(macs as u64));
        for (name, precision) in [
            ("f32", KvPrecision::F32),
            ("f16", KvPrecision::F16),
            ("int8", KvPrecision::Int8),
        ] {
            let mut kv = PackedKv::new(precision, shape).expect("enough memory");
            for position in 0..n_positions {
                kv.store(Kernel::best(), (0, position), 0, &key, &key);
            }
            let mut scratch = AttentionScratch::new(1, n_rows, shape, 4).expect("enough memory");
            for kernel in Kernel::available() {
                group.bench_function(BenchmarkId::new(kernel.name(), name), |b| {
                    b.iter(|| {
                        bitnet_core::attention(
                            kernel,
                            &mut team,
                            &kv,
                            heads,
                            &rows,
                            &queries,
                            &mut scratch,
                            &mut out,
                        );
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = kernels, attention
}
criterion_main!(benches);
