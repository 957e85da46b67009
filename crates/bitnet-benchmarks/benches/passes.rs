//! Whole passes of the built-in model: reading a prompt and writing tokens.
//! Throughput is in tokens.

use std::sync::Arc;
use std::time::Duration;

use bitnet_core::{HybridMemoryPool, Kernel, Team};
use bitnet_inference::{Engine, HeadPrecision, Input, Logits, Model, Plan, PlanOptions, builtin};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Tokens of a prompt, and the context that decoding starts from.
const PROMPT: usize = 128;
const DECODED: usize = 32;

fn passes(c: &mut Criterion) {
    let checkpoint = builtin::open();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| i * 61 % 8000).collect();
    let mut threads = vec![1, cores];
    threads.dedup();
    for n_threads in threads {
        let mut group = c.benchmark_group(format!("storyteller-{n_threads}-threads"));
        for kernel in Kernel::available() {
            let options = PlanOptions {
                kernel: Some(kernel),
                n_threads: Some(n_threads),
                ..PlanOptions::default()
            };
            let plan = Plan::new(checkpoint.config(), options).expect("the options are sound");
            let head = HeadPrecision::Int8;
            let (pool, mut team) = (HybridMemoryPool::new(), Team::new(n_threads));
            let model = Model::load(&checkpoint, &pool, kernel, &mut team, head, |_, _| ());
            let model = Arc::new(model.expect("the built-in model is sound"));
            let mut engine = Engine::new(model, plan).expect("there is memory");
            group.throughput(Throughput::Elements(PROMPT as u64));
            group.bench_function(BenchmarkId::new("prefill", kernel.name()), |b| {
                b.iter(|| {
                    engine.truncate(0, 0);
                    forward(&mut engine, &prompt);
                });
            });
            group.throughput(Throughput::Elements(DECODED as u64));
            group.bench_function(BenchmarkId::new("decode", kernel.name()), |b| {
                b.iter(|| {
                    engine.truncate(0, PROMPT);
                    for token in &prompt[..DECODED] {
                        forward(&mut engine, std::slice::from_ref(token));
                    }
                });
            });
        }
        group.finish();
    }
}

fn forward(engine: &mut Engine, tokens: &[u32]) {
    let input = Input {
        sequence: 0,
        tokens,
        logits: Logits::Last,
    };
    engine
        .forward(&[input], |_, _, logits| {
            std::hint::black_box(logits);
        })
        .expect("the tokens fit");
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = passes
}
criterion_main!(benches);
