//! Products of every kernel that this machine can run: one token (decode) and
//! many (prefill). Throughput is in weights times tokens: multiply-adds.

use std::time::Duration;

use bitnet_benchmarks::{activations, int8, ternary};
use bitnet_core::{Kernel, Team, ops};
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

/// One query head over a context. Throughput is in multiply-adds.
fn attention(c: &mut Criterion) {
    let (head_dim, n_positions) = (128, 512);
    let values = |n: usize| (0..n).map(|i| (i % 97) as f32 / 50.0 - 1.0).collect();
    let query: Vec<f32> = values(head_dim);
    let keys: Vec<f32> = values(n_positions * head_dim);
    let (mut scores, mut out) = (vec![0.0; n_positions], vec![0.0; head_dim]);
    let mut group = c.benchmark_group(format!("attention-{n_positions}x{head_dim}"));
    group.throughput(Throughput::Elements((2 * n_positions * head_dim) as u64));
    for kernel in Kernel::available() {
        group.bench_function(kernel.name(), |b| {
            b.iter(|| {
                let head = ops::Attention {
                    query: &query,
                    keys: &keys,
                    values: &keys,
                };
                ops::attention(kernel, head, &mut scores, &mut out);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = kernels, attention
}
criterion_main!(benches);
