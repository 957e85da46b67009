//! What the accounting of the memory pool adds: to taking and giving back a block, and to
//! decoding. `palisade.toml` bounds both.

use std::sync::Arc;
use std::time::Duration;

use bitnet_core::memory::Category;
use bitnet_core::{ComputeContext, HybridMemoryPool, ThreadPool};
use bitnet_inference::{Engine, HeadPrecision, Input, Logits, Model, Plan, PlanOptions, builtin};
use criterion::{BenchmarkId, Criterion};

/// A block of the system's allocator, and one of a mapped region, in bytes.
const SIZES: [(&str, usize); 2] = [("256B", 1 << 8), ("64KiB", 1 << 16)];

/// Crosses the end of a page of keys and values, so that memory is allocated.
const DECODED: u32 = 160;

fn main() {
    let mut c = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    let pools = [
        ("tracked", HybridMemoryPool::new as fn() -> HybridMemoryPool),
        ("untracked", HybridMemoryPool::untracked),
    ];
    for (name, pool) in pools {
        allocation(&mut c, name, &pool());
        decode(&mut c, name, &pool());
    }
    c.final_summary();
}

fn allocation(c: &mut Criterion, name: &str, pool: &HybridMemoryPool) {
    let mut group = c.benchmark_group("allocation");
    for (size, n_bytes) in SIZES {
        group.bench_function(BenchmarkId::new(name, size), |b| {
            b.iter(|| {
                let block = pool.allocate(Category::Scratch, n_bytes);
                block.expect("some kilobytes")
            });
        });
    }
    group.finish();
}

fn decode(c: &mut Criterion, name: &str, pool: &HybridMemoryPool) {
    let checkpoint = builtin::open();
    let options = PlanOptions {
        n_threads: Some(1),
        ..PlanOptions::default()
    };
    let plan = Plan::new(checkpoint.config(), options).expect("the options are sound");
    let mut threads = ThreadPool::new(plan.n_threads);
    let ctx = &mut ComputeContext::new(plan.isa, &mut threads);
    let model = Model::load(&checkpoint, pool, ctx, HeadPrecision::Int8, |_, _| ());
    let model = Arc::new(model.expect("the built-in model is sound"));
    let mut engine = Engine::new(model, plan).expect("there is memory");
    let mut group = c.benchmark_group("decode");
    group.bench_function(name, |b| {
        b.iter(|| {
            engine.truncate(0, 0);
            for token in 0..DECODED {
                let input = Input {
                    sequence: 0,
                    tokens: &[token],
                    logits: Logits::Last,
                };
                let forward = engine.forward(&[input], |_, _, logits| {
                    std::hint::black_box(logits);
                });
                forward.expect("the tokens fit");
            }
        });
    });
    group.finish();
}
