//! Decoding with and without skipping what is multiplied by zero, alternately.
//!
//! ```text
//! cargo bench -p bitnet-benchmarks --bench skipping            the built-in model
//! cargo bench -p bitnet-benchmarks --bench skipping -- FILE    a model, such as one of
//!                                    scripts/peers/random_gguf.py --zeros 0.74,0.87
//! ```
//!
//! On a busy machine, the processor time of the calling thread says more than wall time, but
//! with several threads, it leaves out what the others do.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bitnet_core::{ComputeContext, HybridMemoryPool, TernaryLayout, ThreadPool};
use bitnet_inference::{
    Checkpoint, Engine, HeadPrecision, Input, Logits, Model, Packing, Plan, PlanOptions, builtin,
};

const PAIRS: usize = 9;

/// Seconds that were measured.
#[derive(Clone, Copy)]
struct Seconds {
    wall: f64,
    /// Of the calling thread; NaN where the system does not tell.
    processor: f64,
}

fn main() {
    let file = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let (checkpoint, n_tokens) = match &file {
        Some(file) => {
            let checkpoint = Checkpoint::open(Path::new(file));
            (checkpoint.unwrap_or_else(|error| panic!("{error}")), 10)
        }
        None => (builtin::open(), 200),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = vec![1, cores];
    threads.dedup();
    for n_threads in threads {
        let mut all = decode(&checkpoint, n_threads, true, n_tokens);
        let mut skip = decode(&checkpoint, n_threads, false, n_tokens);
        // The first touches the memory.
        all();
        skip();
        let pairs: Vec<[Seconds; 2]> = (0..PAIRS)
            .map(|i| {
                if i % 2 == 0 {
                    [all(), skip()]
                } else {
                    let skipped = skip();
                    [all(), skipped]
                }
            })
            .collect();
        print(&pairs, n_tokens, n_threads, "wall time", |s| s.wall);
        print(&pairs, n_tokens, n_threads, "processor time", |s| {
            s.processor
        });
    }
}

/// Returns a function that decodes some tokens.
fn decode(
    checkpoint: &Checkpoint,
    n_threads: usize,
    read_all: bool,
    n_tokens: u32,
) -> impl FnMut() -> Seconds {
    let options = PlanOptions {
        n_threads: Some(n_threads),
        context_len: Some(n_tokens as usize),
        ..PlanOptions::default()
    };
    let plan = Plan::new(checkpoint.config(), options).expect("the options are sound");
    let mut threads = ThreadPool::new(plan.n_threads);
    let ctx = &mut ComputeContext::new(plan.isa, &mut threads);
    let packing = Packing {
        read_all,
        // Not the faster one: skipped weights have two bits.
        layout: Some(TernaryLayout::TwoBits),
        ..HeadPrecision::Int8.into()
    };
    let pool = HybridMemoryPool::new();
    let model = Model::load(checkpoint, &pool, ctx, packing, |_, _| ());
    let model = Arc::new(model.unwrap_or_else(|error| panic!("{error}")));
    let mut engine = Engine::new(model, plan).expect("there is memory");
    move || {
        engine.truncate(0, 0);
        let (start, processor) = (Instant::now(), processor_seconds());
        for token in 0..n_tokens {
            let input = Input {
                sequence: 0,
                tokens: &[token * 61 % 8000],
                logits: Logits::Last,
            };
            let forwarded = engine.forward(&[input], |_, _, logits| {
                std::hint::black_box(logits);
            });
            forwarded.expect("the tokens fit");
        }
        Seconds {
            wall: start.elapsed().as_secs_f64(),
            processor: processor_seconds() - processor,
        }
    }
}

fn processor_seconds() -> f64 {
    #[cfg(target_os = "linux")]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(target_os = "linux"))]
    f64::NAN
}

/// Prints medians, and the least and largest ratio of a pair.
#[expect(clippy::print_stdout, reason = "the result of the bench")]
fn print(
    pairs: &[[Seconds; 2]],
    n_tokens: u32,
    n_threads: usize,
    kind: &str,
    of: impl Fn(Seconds) -> f64,
) {
    let sorted = |value: &dyn Fn([f64; 2]) -> f64| {
        let mut values: Vec<f64> = pairs.iter().map(|pair| value(pair.map(&of))).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    };
    let speed = |i: usize| f64::from(n_tokens) / sorted(&|pair| pair[i])[pairs.len() / 2];
    let ratios = sorted(&|[all, skip]| all / skip);
    println!(
        "{n_threads} threads, {kind}: {:.1} tok/s without skipping, {:.1} with, ratio {:.2} ({:.2} to {:.2})",
        speed(0),
        speed(1),
        ratios[pairs.len() / 2],
        ratios[0],
        ratios[pairs.len() - 1],
    );
}
