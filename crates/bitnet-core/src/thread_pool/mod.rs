//! A thread pool for many short parallel steps.
//!
//! One token runs through some two hundred small matrices, each a few
//! microseconds long: threads must start within a fraction of that. Workers
//! therefore spin a little before they sleep. (A general work-stealing pool
//! wakes its threads through the operating system each time.)
//!
//! Which thread does which chunk is not fixed, so chunks must not depend on it:
//! every function here hands out disjoint chunks, and the result is the same
//! for any number of threads.

#[cfg(all(test, loom))]
mod model_check;
mod sync;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, PoisonError, mpsc};

use core_affinity::CoreId;
use sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use sync::thread::{self, JoinHandle};
use sync::{Condvar, Mutex, UnsafeCell, hint};

use crate::affinity;

/// Spins before a waiting worker goes to sleep: some tens of microseconds,
/// longer than the pause between two steps of a token. To a model checker they are
/// all alike.
const SPINS: u32 = if cfg!(loom) { 1 } else { 2000 };

/// The most ranges of chunks that a job is cut into.
const MAX_RANGES: usize = 32;

/// Chunks of a range that are taken, on a cache line of their own.
#[derive(Default)]
#[repr(align(64))]
struct Taken(AtomicUsize);

/// A fixed number of threads that work on one job at a time.
///
/// The calling thread is a member: a pool of one has no other thread and no
/// synchronisation. A worker that the system does not run while a job lasts is
/// not waited for, so a busy machine costs its speed and no more. Dropping the
/// pool ends its threads.
#[derive(Debug)]
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

type Job = *const (dyn Fn(usize) + Sync);

#[derive(Debug)]
struct Shared {
    /// See [`State`].
    state: AtomicU64,
    /// The present job; written only while the state is closed and no worker is
    /// in it.
    job: UnsafeCell<Option<Job>>,
    stop: AtomicBool,
    spins: u32,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    /// The first panic of a worker in the present job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The number of the job, whether workers may still enter it, and how many are
/// in it, in one word: so that entering and closing cannot pass each other.
///
/// ```text
/// bits 63:32 number    bit 31 open    bits 30:0 workers inside
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

impl State {
    const OPEN: u64 = 1 << 31;

    fn number(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn is_open(self) -> bool {
        self.0 & Self::OPEN != 0
    }

    fn n_inside(self) -> u64 {
        self.0 & (Self::OPEN - 1)
    }

    /// The next job, open and with no worker inside.
    fn next(self) -> Self {
        Self((self.number().wrapping_add(1) as u64) << 32 | Self::OPEN)
    }
}

// SAFETY: `job` is the only field that is not already `Send + Sync`. The pool
// writes it before it opens the state (release), and a worker reads it after it
// entered an open state (acquire). The pool writes it again only after it closed
// the state and saw no worker inside (release by workers, acquire by the pool).
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Why threads are not bound to processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The system binds no threads.
    #[error("this system binds no threads to processors")]
    Unsupported,
    /// There are fewer processors than threads.
    #[error("{n_threads} threads cannot have a processor each, there are {n_processors}")]
    TooFew {
        /// Threads to bind.
        n_threads: usize,
        /// Processors that the process may use.
        n_processors: usize,
    },
}

/// Binds this thread to a processor.
fn pin_to(processor: CoreId) -> Result<(), PinError> {
    let is_bound = core_affinity::set_for_current(processor);
    is_bound.then_some(()).ok_or(PinError::Unsupported)
}

impl ThreadPool {
    /// Starts a pool of `n_threads` threads, the calling one included.
    ///
    /// # Panics
    ///
    /// Panics if `n_threads` is 0 or the system cannot start a thread.
    pub fn new(n_threads: usize) -> Self {
        Self::start(n_threads, |_| || {})
    }

    /// Starts a pool whose workers stay on a processor each: one hardware thread of
    /// every core comes before the second of any. The first processor is left to the
    /// calling thread, which is not the pool's to bind.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn pinned(n_threads: usize) -> Result<Self, PinError> {
        let processors = affinity::processors();
        if processors.is_empty() {
            return Err(PinError::Unsupported);
        }
        if processors.len() < n_threads {
            return Err(PinError::TooFew {
                n_threads,
                n_processors: processors.len(),
            });
        }
        let (sender, answers) = mpsc::channel();
        let threads = Self::start(n_threads, |thread| {
            let (processor, sender) = (processors[thread], sender.clone());
            // The receiver waits for all answers.
            move || {
                let _ = sender.send(pin_to(processor));
            }
        });
        drop(sender);
        answers.iter().collect::<Result<(), _>>()?;
        Ok(threads)
    }

    /// Starts a pool; what `begin(thread)` returns is called on that thread first.
    fn start<F: FnOnce() + Send + 'static>(n_threads: usize, begin: impl Fn(usize) -> F) -> Self {
        assert!(n_threads > 0, "a pool has at least one thread");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            // With more threads than cores, a spinning thread only keeps
            // another one from working.
            spins: if n_threads <= cores { SPINS } else { 0 },
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            panic: Mutex::new(None),
        });
        let workers = (1..n_threads)
            .map(|thread| {
                let (shared, begin) = (Arc::clone(&shared), begin(thread));
                thread::Builder::new()
                    .name(format!("bitnet-{thread}"))
                    .spawn(move || {
                        begin();
                        shared.work(thread);
                    })
                    .expect("the system can start a thread")
            })
            .collect();
        Self { shared, workers }
    }

    /// Returns the number of threads, the calling one included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(0)` on this thread and `f(thread)`, `thread` up to
    /// `n_threads - 1`, at most once on each worker that comes before `f(0)` is
    /// done. Returns when nobody is in `f` any more.
    ///
    /// A panic on any thread reaches the caller after all threads have left.
    fn run(&mut self, f: impl Fn(usize) + Sync) {
        let shared = &*self.shared;
        let job: &(dyn Fn(usize) + Sync) = &f;
        // SAFETY: only the lifetime changes. Workers use the job between
        // entering the state opened below and leaving it, and this function
        // does not return, not even by a panic, before it closed the state and
        // saw the last one leave.
        let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        // SAFETY: the state is closed and empty (`&mut self`: no other job
        // runs, and the last one ended so), so no worker reads `job`.
        shared.job.with_mut(|slot| unsafe { *slot = Some(job) });
        shared.open();

        let own = catch_unwind(AssertUnwindSafe(|| f(0)));
        shared.close_and_wait();
        let theirs = shared
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    /// Calls `f(thread, chunk)` once for each chunk from 0 to `n_chunks - 1`.
    ///
    /// Each thread begins with a range of chunks of its own, so that it reads
    /// memory in one direction, and then helps with the ranges of the others.
    pub fn for_each(&mut self, n_chunks: usize, f: impl Fn(usize, usize) + Sync) {
        if self.workers.is_empty() || n_chunks <= 1 {
            return (0..n_chunks).for_each(|chunk| f(0, chunk));
        }
        let n_ranges = self.n_threads().min(MAX_RANGES);
        let start = |range: usize| range * n_chunks / n_ranges;
        let taken: [Taken; MAX_RANGES] = std::array::from_fn(|_| Taken::default());
        self.run(|thread| {
            for i in 0..n_ranges {
                let range = (thread + i) % n_ranges;
                loop {
                    let chunk = start(range) + taken[range].0.fetch_add(1, Ordering::Relaxed);
                    if chunk >= start(range + 1) {
                        break;
                    }
                    f(thread, chunk);
                }
            }
        });
    }

    /// Cuts `data` into chunks of `chunk_len` (the last one may be shorter) and
    /// calls `f(local, index, chunk)` once for each. `locals` holds one value
    /// per thread, for scratch memory.
    ///
    /// # Panics
    ///
    /// Panics if `chunk_len` is 0 or there are fewer `locals` than threads.
    pub fn for_each_chunk<T: Send, L: Send>(
        &mut self,
        data: &mut [T],
        chunk_len: usize,
        locals: &mut [L],
        f: impl Fn(&mut L, usize, &mut [T]) + Sync,
    ) {
        assert!(chunk_len > 0, "chunks have a length");
        assert!(
            locals.len() >= self.n_threads(),
            "one local value per thread"
        );
        let n_chunks = data.len().div_ceil(chunk_len);
        let len = data.len();
        let data = DisjointMut(data.as_mut_ptr());
        let locals = DisjointMut(locals.as_mut_ptr());
        self.for_each(n_chunks, |thread, index| {
            let start = index * chunk_len;
            // SAFETY: `for_each` hands out each index once and chunks do not
            // overlap; `start < len` because `index < n_chunks`. The borrow of
            // the whole slice lasts until `for_each` has returned.
            let chunk = unsafe {
                std::slice::from_raw_parts_mut(data.at(start), chunk_len.min(len - start))
            };
            // SAFETY: `thread < n_threads <= locals.len()`, and one thread
            // works on one chunk at a time.
            let local = unsafe { &mut *locals.at(thread) };
            f(local, index, chunk);
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // No job is set: workers see `stop` before they would enter.
        self.shared.open();
        for worker in self.workers.drain(..) {
            // A worker's panic was already handed to the caller of `run`.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Opens the next job and wakes who sleeps.
    fn open(&self) {
        let state = State(self.state.load(Ordering::Relaxed));
        // One of two writes to the state comes first, this one or that of a worker
        // that goes to sleep (`fetch_or`). If it is this one, the worker sees it and
        // stays awake; if not, this thread sees the worker in `sleepers`.
        self.state.swap(state.next().0, Ordering::AcqRel);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            drop(self.sleep.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// Lets nobody enter any more and waits until the last worker has left.
    fn close_and_wait(&self) {
        let mut state = State(self.state.fetch_and(!State::OPEN, Ordering::Acquire));
        let mut spins = 0;
        while state.n_inside() > 0 {
            if spins < self.spins {
                spins += 1;
                hint::spin_loop();
            } else {
                thread::yield_now();
            }
            state = State(self.state.load(Ordering::Acquire));
        }
    }

    /// Enters job `number`, unless it is closed.
    fn enter(&self, number: u32) -> bool {
        self.state
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                let enters = State(state).number() == number && State(state).is_open();
                enters.then_some(state + 1)
            })
            .is_ok()
    }

    /// The life of one worker.
    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait_for_job_after(seen);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if !self.enter(seen) {
                continue;
            }
            // SAFETY: the state was opened after `job` was written, and `job`
            // stays unchanged and alive until this worker leaves below.
            let job = self
                .job
                .with(|slot| unsafe { &*(*slot).expect("an open state has a job") });
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(thread))) {
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(panic);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a job with another number than `seen` and returns its number.
    fn wait_for_job_after(&self, seen: u32) -> u32 {
        for _ in 0..self.spins {
            let number = State(self.state.load(Ordering::Acquire)).number();
            if number != seen {
                return number;
            }
            hint::spin_loop();
        }
        let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        let number = loop {
            // A write that changes nothing: see `open`.
            let number = State(self.state.fetch_or(0, Ordering::AcqRel)).number();
            if number != seen {
                break number;
            }
            guard = self
                .wake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        number
    }
}

/// A pointer to values of which different threads get disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct DisjointMut<T>(pub(crate) *mut T);

// SAFETY: it is only a pointer; each use states why its parts are disjoint.
unsafe impl<T: Send> Send for DisjointMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointMut<T> {}

impl<T> DisjointMut<T> {
    /// Returns the pointer `offset` elements further.
    ///
    /// # Safety
    ///
    /// The result must lie inside the allocation (or one past its end).
    pub(crate) unsafe fn at(&self, offset: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_done_once_with_any_number_of_threads() {
        for n_threads in [1, 2, 3, 8] {
            let mut threads = ThreadPool::new(n_threads);
            for n_chunks in [0, 1, 2, 7, 1000] {
                let done: Vec<_> = (0..n_chunks).map(|_| AtomicUsize::new(0)).collect();
                threads.for_each(n_chunks, |thread, chunk| {
                    assert!(thread < n_threads);
                    done[chunk].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn pinned_workers_have_a_processor_each() {
        let processors = affinity::processors();
        let too_many = ThreadPool::pinned(processors.len() + 1).err();
        if processors.is_empty() {
            assert_eq!(too_many, Some(PinError::Unsupported));
            return;
        }
        let (n_threads, n_processors) = (processors.len() + 1, processors.len());
        let expected = PinError::TooFew {
            n_threads,
            n_processors,
        };
        assert_eq!(too_many, Some(expected));
        let mut threads = match ThreadPool::pinned(n_processors) {
            Ok(threads) => threads,
            Err(error) => return assert_eq!(error, PinError::Unsupported),
        };
        if cfg!(windows) {
            // What can be asked there is where the process may run, not the thread.
            return;
        }
        let seen = Mutex::new(vec![None; n_processors]);
        // A worker may come too late for one job.
        for _ in 0..1000 {
            threads.for_each(n_processors, |thread, _| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                let here = core_affinity::get_core_ids().unwrap_or_default();
                seen.lock().expect("no panic")[thread] = Some(here);
            });
            if seen.lock().expect("no panic").iter().all(Option::is_some) {
                break;
            }
        }
        let seen = seen.into_inner().expect("no panic");
        for (thread, expected) in processors.iter().enumerate().skip(1) {
            assert_eq!(seen[thread], Some(vec![*expected]));
        }
    }

    #[test]
    fn chunks_cover_the_slice_and_locals_are_not_shared() {
        let mut threads = ThreadPool::new(3);
        let mut data = vec![0usize; 1003];
        let mut counts = [0usize; 3];
        threads.for_each_chunk(&mut data, 10, &mut counts, |count, index, chunk| {
            *count += chunk.len();
            chunk.fill(index + 1);
        });
        assert!(data.iter().enumerate().all(|(i, &x)| x == i / 10 + 1));
        assert_eq!(counts.iter().sum::<usize>(), 1003);
    }

    #[test]
    fn many_short_jobs_after_sleeps_lose_no_chunk() {
        let mut threads = ThreadPool::new(3);
        let count = AtomicUsize::new(0);
        for round in 0..2000 {
            if round % 500 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            threads.for_each(3, |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(count.into_inner(), 6000);
    }

    #[test]
    fn workers_take_part_in_a_job_that_lasts() {
        for n_threads in [2, 3, 8] {
            let mut threads = ThreadPool::new(n_threads);
            // Nobody leaves before all have come: a worker that slept through
            // the job would hang this test.
            let barrier = std::sync::Barrier::new(n_threads);
            for _ in 0..100 {
                threads.run(|_| {
                    barrier.wait();
                });
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let mut threads = ThreadPool::new(3);
        let barrier = std::sync::Barrier::new(3);
        for thread in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                threads.run(|t| {
                    barrier.wait();
                    assert!(t != thread, "on purpose");
                });
            }));
            assert!(result.is_err());
        }
        let count = AtomicUsize::new(0);
        threads.for_each(1000, |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 1000);
    }
}
