//! Whole passes of the built-in model: prefill and decode. Throughput is in tokens. At
//! the end, the overhead of memory accounting in decoding.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnet_benchmarks::paired_ratio;
use bitnet_core::{ComputeContext, HybridMemoryPool, Isa, ThreadPool};
use bitnet_inference::{
    Checkpoint, Engine, HeadPrecision, Input, Logits, Model, Plan, PlanOptions, builtin,
};
use criterion::{BenchmarkId, Criterion, Throughput};

/// Prompt length, and the context that decoding starts from.
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
        for isa in Isa::available() {
            let options = PlanOptions {
                isa: Some(isa),
                n_threads: Some(n_threads),
                ..PlanOptions::default()
            };
            let plan = Plan::new(checkpoint.config(), options).expect("the options are sound");
            let mut engine = engine(&HybridMemoryPool::new(), &checkpoint, plan);
            group.throughput(Throughput::Elements(PROMPT as u64));
            group.bench_function(BenchmarkId::new("prefill", isa.name()), |b| {
                b.iter(|| {
                    engine.truncate(0, 0);
                    forward(&mut engine, &prompt);
                });
            });
            group.throughput(Throughput::Elements(DECODED as u64));
            group.bench_function(BenchmarkId::new("decode", isa.name()), |b| {
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

fn engine(pool: &HybridMemoryPool, checkpoint: &Checkpoint, plan: Plan) -> Engine {
    let (head, mut threads) = (HeadPrecision::Int8, ThreadPool::new(plan.n_threads));
    let ctx = &mut ComputeContext::new(plan.isa, &mut threads);
    let model = Model::load(checkpoint, pool, ctx, head, |_, _| ());
    let model = Arc::new(model.expect("the built-in model is sound"));
    Engine::new(model, plan).expect("there is memory")
}

/// Decodes with and without memory accounting, alternately.
#[expect(clippy::print_stdout, reason = "the result of the bench")]
fn print_cost_of_counting(n_pairs: usize) {
    // Crosses the end of a page, so that memory is allocated.
    const WRITTEN: usize = 256;
    let checkpoint = builtin::open();
    let options = PlanOptions {
        n_threads: Some(1),
        ..PlanOptions::default()
    };
    let plan = Plan::new(checkpoint.config(), options).expect("the options are sound");
    let time = |pool: HybridMemoryPool| {
        let mut engine = engine(&pool, &checkpoint, plan);
        move || {
            engine.truncate(0, 0);
            let start = Instant::now();
            for token in 0..WRITTEN as u32 {
                forward(&mut engine, &[token]);
            }
            start.elapsed().as_secs_f64()
        }
    };
    let counts = time(HybridMemoryPool::new());
    let does_not = time(HybridMemoryPool::untracked());
    let ratio = paired_ratio(n_pairs, counts, does_not);
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    println!(
        "\nwhat counting adds to {WRITTEN} tokens, median and quartiles of {n_pairs} pairs: \
         {:+.2} % ({:+.2} to {:+.2})",
        percent(ratio.median),
        percent(ratio.quartiles.0),
        percent(ratio.quartiles.1)
    );
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

fn main() {
    let mut c = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    passes(&mut c);
    c.final_summary();
    print_cost_of_counting(101);
}
