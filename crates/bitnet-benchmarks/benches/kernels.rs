//! Every operation on every supported instruction set, with one thread. Throughput is in
//! multiply-adds if there are any, else in bytes.

use std::time::Duration;

use bitnet_benchmarks::{activations, cases, ternary};
use bitnet_core::{ComputeContext, Isa, TernaryLayout, ThreadPool};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn kernels(c: &mut Criterion) {
    let mut threads = ThreadPool::new(1);
    for mut case in cases() {
        let mut group = c.benchmark_group(format!("{}-{}", case.operation, case.shape));
        group.throughput(match case.n_macs {
            0 => Throughput::Bytes(case.n_bytes as u64),
            n_macs => Throughput::Elements(n_macs as u64),
        });
        for isa in Isa::available() {
            group.bench_function(isa.name(), |b| b.iter(|| case.run(isa, &mut threads)));
        }
        group.finish();
    }
}

/// Both ternary layouts, from memory as in decoding and from caches.
fn layouts(c: &mut Criterion) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for layout in [TernaryLayout::TwoBits, TernaryLayout::Base3] {
        for (n_rows, n_tokens) in [(98_304, 1), (98_304, 8), (2560, 1), (2560, 16), (2560, 128)] {
            let n_cols = 2560;
            let weights = ternary(layout, n_rows, n_cols);
            let acts = activations(n_tokens, n_cols);
            let mut out = vec![0.0; n_tokens * n_rows];
            let name = format!("layout-{layout}-{n_rows}x{n_cols}x{n_tokens}");
            let mut group = c.benchmark_group(name);
            group.throughput(Throughput::Elements((n_tokens * n_rows * n_cols) as u64));
            let usable = |isa: &Isa| TernaryLayout::available(*isa).any(|l| l == layout);
            let isas = Isa::available().filter(usable);
            for isa in isas.filter(|&isa| isa != Isa::Scalar) {
                for n_threads in if cores > 1 { vec![1, cores] } else { vec![1] } {
                    let mut threads = ThreadPool::new(n_threads);
                    let mut ctx = ComputeContext::new(isa, &mut threads);
                    group.bench_function(BenchmarkId::new(isa.name(), n_threads), |b| {
                        b.iter(|| weights.matmul(&mut ctx, &acts, &mut out));
                    });
                }
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = kernels, layouts
}
criterion_main!(benches);
