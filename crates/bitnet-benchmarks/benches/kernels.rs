//! Every operation on every kernel that this machine can run, with one thread.
//! Throughput is in multiply-adds where there are any, else in bytes.

use std::time::Duration;

use bitnet_benchmarks::cases;
use bitnet_core::{Kernel, Team};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn kernels(c: &mut Criterion) {
    let mut team = Team::new(1);
    for mut case in cases() {
        let mut group = c.benchmark_group(format!("{}-{}", case.operation, case.shape));
        group.throughput(match case.n_macs {
            0 => Throughput::Bytes(case.n_bytes as u64),
            n_macs => Throughput::Elements(n_macs as u64),
        });
        for kernel in Kernel::available() {
            group.bench_function(kernel.name(), |b| b.iter(|| case.run(kernel, &mut team)));
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = kernels
}
criterion_main!(benches);
