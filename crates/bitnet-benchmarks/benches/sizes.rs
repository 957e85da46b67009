//! The scalar kernel compared with the others at 1K, 4K and 16K elements. Unlike times,
//! the ratios are comparable between machines.
//!
//! - `quantize`: a row of f32 to int8
//! - `unpack`: a stored Q6_K row to f32
//! - `dot`: ternary weights, in 16 rows, with int8 activations

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bitnet_benchmarks::{activations, dense_rows, ternary, values};
use bitnet_core::memory::Category;
use bitnet_core::{
    ComputeContext, HybridMemoryPool, Int8Rows, Isa, Shape, TernaryLayout, ThreadPool,
};
use bitnet_quant::DenseType;
use criterion::{BenchmarkId, Criterion, Throughput};

const SIZES: [(&str, usize); 3] = [("1K", 1 << 10), ("4K", 1 << 12), ("16K", 1 << 14)];

/// Seconds of one run, the fastest sample, by operation and size, then instruction set.
type Fastest = BTreeMap<(&'static str, usize), BTreeMap<&'static str, f64>>;

fn main() {
    let mut c = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    let mut fastest = Fastest::new();
    for (name, n) in SIZES {
        let mut threads = ThreadPool::new(1);
        let x = values(n);
        let pool = HybridMemoryPool::new();
        let mut rows = Int8Rows::with_capacity(&pool, 1, n).expect("some kilobytes");
        let mut scratch = [pool.zeroed(Category::Scratch, n).expect("some kilobytes")];
        bench(&mut c, &mut fastest, "quantize", (name, n), |isa| {
            let mut ctx = ComputeContext {
                isa,
                threads: &mut threads,
                scratch: &mut scratch,
            };
            let shape = Shape {
                n_rows: 1,
                n_cols: n,
            };
            rows.quantize_rows(&mut ctx, shape, |_, out| out.copy_from_slice(&x));
        });
        let (stored, mut out) = (dense_rows(DenseType::Q6K, 1, n), vec![0.0; n]);
        bench(&mut c, &mut fastest, "unpack", (name, n), |isa| {
            DenseType::Q6K.decode_row(isa, &stored, &mut out);
        });
        let (weights, acts) = (
            ternary(TernaryLayout::TwoBits, 16, n / 16),
            activations(1, n / 16),
        );
        let mut out = [0.0; 16];
        bench(&mut c, &mut fastest, "dot", (name, n), |isa| {
            let mut ctx = ComputeContext::new(isa, &mut threads);
            weights.matmul(&mut ctx, &acts, &mut out);
        });
    }
    c.final_summary();
    print_ratios(&fastest);
}

fn bench(
    c: &mut Criterion,
    fastest: &mut Fastest,
    operation: &'static str,
    (name, n): (&str, usize),
    mut run: impl FnMut(Isa),
) {
    let mut group = c.benchmark_group(operation);
    group.throughput(Throughput::Elements(n as u64));
    for isa in Isa::available() {
        group.bench_function(BenchmarkId::new(isa.name(), name), |b| {
            b.iter_custom(|n_runs| {
                let start = Instant::now();
                (0..n_runs).for_each(|_| run(isa));
                let elapsed = start.elapsed();
                let seconds = elapsed.as_secs_f64() / n_runs as f64;
                let best = fastest.entry((operation, n)).or_default();
                let best = best.entry(isa.name()).or_insert(f64::INFINITY);
                *best = best.min(seconds);
                elapsed
            });
        });
    }
    group.finish();
}

#[expect(clippy::print_stdout, reason = "the result of the bench")]
fn print_ratios(fastest: &Fastest) {
    let scalar = Isa::Scalar.name();
    println!("\ntimes faster than {scalar}");
    for ((operation, n), isas) in fastest {
        for (isa, seconds) in isas {
            if let Some(generic) = isas.get(scalar).filter(|_| *isa != scalar) {
                let ratio = generic / seconds;
                println!("{operation:<9} {n:>6} elements  {isa:<26} {ratio:>6.2} x");
            }
        }
    }
}
