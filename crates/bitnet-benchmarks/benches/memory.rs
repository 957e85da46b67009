//! What a block costs that is taken from a warm pool and given back, beside the
//! system's allocator and mimalloc, on one thread and on two; and what counting
//! adds to it.
//!
//! Each thread holds sixteen blocks of a size and replaces them in turn. All
//! blocks are aligned to 64 bytes, as the pool's always are; nobody writes to
//! them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use bitnet_benchmarks::paired_ratio;
use bitnet_core::HybridMemoryPool;
use bitnet_core::memory::{ALIGNMENT, Block, Category};
use criterion::{BenchmarkId, Criterion};
use mimalloc::MiMalloc;

const SIZES: [usize; 9] = [
    64,
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
];

/// Blocks that each thread holds.
const HELD: usize = 16;

/// Gives blocks, and takes them back when they are dropped.
trait Allocate: Sync {
    type Block<'a>
    where
        Self: 'a;

    fn take(&self, n_bytes: usize) -> Self::Block<'_>;
}

impl Allocate for HybridMemoryPool {
    type Block<'a> = Block;

    fn take(&self, n_bytes: usize) -> Block {
        let block = self.allocate(Category::Scratch, n_bytes);
        block.expect("a few blocks")
    }
}

struct Global<A>(A);

struct GlobalBlock<'a, A: GlobalAlloc> {
    allocator: &'a A,
    data: *mut u8,
    layout: Layout,
}

impl<A: GlobalAlloc + Sync> Allocate for Global<A> {
    type Block<'a>
        = GlobalBlock<'a, A>
    where
        A: 'a;

    fn take(&self, n_bytes: usize) -> GlobalBlock<'_, A> {
        let layout = Layout::from_size_align(n_bytes, ALIGNMENT).expect("a small block");
        // SAFETY: the layout is not empty.
        let data = unsafe { self.0.alloc(layout) };
        assert!(!data.is_null(), "a few blocks");
        GlobalBlock {
            allocator: &self.0,
            data,
            layout,
        }
    }
}

impl<A: GlobalAlloc> Drop for GlobalBlock<'_, A> {
    fn drop(&mut self) {
        // SAFETY: `take` allocated it with this layout.
        unsafe { self.allocator.dealloc(self.data, self.layout) };
    }
}

/// Replaces `n` blocks on each of `n_threads` and returns how long the slowest
/// took.
fn replace(allocator: &impl Allocate, n_bytes: usize, n_threads: usize, n: u64) -> Duration {
    let barrier = Barrier::new(n_threads);
    let on_one = || {
        let mut held: [_; HELD] = std::array::from_fn(|_| allocator.take(n_bytes));
        // What is taken and given back once is warm.
        let mut turn = |n: u64| {
            for i in 0..n {
                held[i as usize % HELD] = black_box(allocator.take(black_box(n_bytes)));
            }
        };
        turn(4 * HELD as u64);
        barrier.wait();
        let start = Instant::now();
        turn(n);
        start.elapsed()
    };
    if n_threads == 1 {
        return on_one();
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(on_one)).collect();
        let time = |thread: ScopedJoinHandle<'_, _>| thread.join().expect("no thread panics");
        let times = threads.into_iter().map(time);
        times.max().expect("there is a thread")
    })
}

/// Nanoseconds of a block, of every sample, by number of threads and size, then
/// allocator.
type Samples = BTreeMap<(usize, usize), BTreeMap<&'static str, Vec<f64>>>;

fn bench(
    c: &mut Criterion,
    samples: &mut Samples,
    (name, allocator): (&'static str, &impl Allocate),
) {
    for n_threads in [1, 2] {
        let mut group = c.benchmark_group(format!("memory-{n_threads}-threads"));
        for n_bytes in SIZES {
            group.bench_function(BenchmarkId::new(name, n_bytes), |b| {
                b.iter_custom(|n| {
                    let elapsed = replace(allocator, n_bytes, n_threads, n);
                    // The first calls are too short to tell anything.
                    if elapsed > Duration::from_micros(100) {
                        let of_size = samples.entry((n_threads, n_bytes)).or_default();
                        let nanoseconds = elapsed.as_nanos() as f64 / n as f64;
                        of_size.entry(name).or_default().push(nanoseconds);
                    }
                    elapsed
                });
            });
        }
        group.finish();
    }
}

#[expect(clippy::print_stdout, reason = "the result of the bench")]
fn print_medians(samples: &mut Samples) {
    println!("\nnanoseconds to take a block and give it back, median");
    for ((n_threads, n_bytes), by_name) in samples {
        print!("{n_threads} threads {n_bytes:>8} bytes");
        for (name, samples) in by_name {
            samples.sort_unstable_by(f64::total_cmp);
            print!("   {name} {:>7.1}", samples[samples.len() / 2]);
        }
        println!();
    }
}

/// Prints how much longer a block takes because it is counted.
#[expect(clippy::print_stdout, reason = "the result of the bench")]
fn print_cost_of_counting() {
    println!("\nwhat counting adds, median and quartiles of pairs in turns, 1 thread");
    let (counts, does_not) = (HybridMemoryPool::new(), HybridMemoryPool::untracked());
    for n_bytes in SIZES {
        let time = |pool| move || replace(pool, n_bytes, 1, 50_000).as_secs_f64();
        let ratio = paired_ratio(101, time(&counts), time(&does_not));
        let percent = |ratio: f64| (ratio - 1.0) * 100.0;
        println!(
            "{n_bytes:>8} bytes   {:>+6.1} % ({:+.1} to {:+.1})",
            percent(ratio.median),
            percent(ratio.quartiles.0),
            percent(ratio.quartiles.1)
        );
    }
}

fn main() {
    let mut c = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .configure_from_args();
    let mut samples = Samples::new();
    bench(&mut c, &mut samples, ("pool", &HybridMemoryPool::new()));
    bench(&mut c, &mut samples, ("system", &Global(System)));
    bench(&mut c, &mut samples, ("mimalloc", &Global(MiMalloc)));
    c.final_summary();
    print_medians(&mut samples);
    print_cost_of_counting();
}
