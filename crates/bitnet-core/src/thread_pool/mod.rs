//! A thread pool for many short parallel steps.
//!
//! Decoding one token takes about two hundred matrix multiplications of a few microseconds
//! each, so the threads must start within a fraction of that. Workers therefore spin
//! briefly before they sleep. (A general work-stealing pool wakes its threads through the
//! operating system each time.)
//!
//! The assignment of chunks to threads is not deterministic, so chunks must not depend on
//! it: every function here hands out disjoint chunks, and the result is the same for any
//! number of threads.

#[cfg(all(target_family = "wasm", target_feature = "atomics"))]
mod host_threads;
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
use crate::operation::{Operation, within};

#[cfg(all(target_family = "wasm", target_feature = "atomics"))]
pub use host_threads::{lend_thread, n_lent_threads};

/// Spin iterations before a waiting worker sleeps: some tens of microseconds, longer than
/// the pause between two steps of a token. Under loom one iteration suffices: further ones
/// explore nothing new.
const SPINS: u32 = if cfg!(loom) { 1 } else { 2000 };

/// The maximum number of chunk ranges of a job.
const MAX_RANGES: usize = 32;

/// The number of chunks taken from a range, on its own cache line.
#[derive(Default)]
#[repr(align(64))]
struct Taken(AtomicUsize);

/// A fixed number of threads that work on one job at a time.
///
/// The calling thread is a member: a pool of one thread starts no other thread and needs no
/// synchronisation. A job does not wait for workers that the system does not schedule while
/// it lasts, so on a busy machine it is only slower. Dropping the pool joins its threads.
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
    /// The current job; written only while the state is closed and no worker is inside.
    job: UnsafeCell<Option<Job>>,
    stop: AtomicBool,
    spins: u32,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    /// The first panic of a worker in the current job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The job number, whether workers may still enter the job, and how many are inside, in one
/// word, so that entering and closing are atomic.
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

    /// Returns the state of the next job: open, no worker inside.
    fn next(self) -> Self {
        Self((self.number().wrapping_add(1) as u64) << 32 | Self::OPEN)
    }
}

// SAFETY: `job` is the only field that is not already `Send + Sync`. The pool writes it
// before it opens the state (release), and a worker reads it after it has entered an open
// state (acquire). The pool writes it again only after it has closed the state and observed
// no worker inside (release by workers, acquire by the pool).
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Why threads could not be pinned to processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The system does not support thread affinity.
    #[error("this system binds no threads to processors")]
    Unsupported,
    /// There are fewer processors than threads.
    #[error("{n_threads} threads cannot have a processor each, there are {n_processors}")]
    TooFew {
        /// The number of threads to pin.
        n_threads: usize,
        /// The number of processors available to the process.
        n_processors: usize,
    },
}

/// Pins this thread to a processor.
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

    /// Starts a pool and pins each worker to its own processor. One hardware thread of
    /// every core is used before the second of any core. The first processor is left for
    /// the calling thread, which the pool does not pin.
    ///
    /// # Errors
    ///
    /// Returns an error if the system does not support thread affinity, or there are fewer
    /// processors than threads.
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
            // Sending fails only after `pinned` has failed.
            move || {
                let _ = sender.send(pin_to(processor));
            }
        });
        drop(sender);
        answers.iter().collect::<Result<(), _>>()?;
        Ok(threads)
    }

    /// Starts a pool; each worker first calls the closure returned by `begin(thread)`.
    fn start<F: FnOnce() + Send + 'static>(n_threads: usize, begin: impl Fn(usize) -> F) -> Self {
        assert!(n_threads > 0, "a pool has at least one thread");
        // Where it is not known, whoever chose the number of threads knows it.
        let cores = std::thread::available_parallelism().map_or(n_threads, usize::from);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            // With more threads than cores, a spinning thread only delays the others.
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

    /// Calls `f(0)` on this thread and, for `thread` in `1..n_threads`, `f(thread)` at most
    /// once on each worker that enters before `f(0)` returns. Returns when no thread is in
    /// `f`.
    ///
    /// A panic on any thread is resumed on the calling thread after all threads have left
    /// `f`.
    fn run(&mut self, f: impl Fn(usize) + Sync) {
        let shared = &*self.shared;
        let job: &(dyn Fn(usize) + Sync) = &f;
        // SAFETY: only the lifetime changes. Workers use the job between entering the state
        // opened below and leaving it, and this function does not return or unwind before
        // it has closed the state and observed that the last worker has left.
        let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        // SAFETY: the state is closed and no worker is inside (`&mut self`: no other job
        // runs, and the last one ended that way), so no worker reads `job`.
        shared.job.with_mut(|slot| unsafe { *slot = Some(job) });
        within(Operation::Threads, || shared.open());

        let own = catch_unwind(AssertUnwindSafe(|| f(0)));
        within(Operation::Threads, || shared.close_and_wait());
        let theirs = shared
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    /// Calls `f(thread, chunk)` once for each chunk in `0..n_chunks`.
    ///
    /// Each thread starts with its own range of chunks, so that it reads memory
    /// sequentially, and then takes chunks from the ranges of the others.
    ///
    /// # Panics
    ///
    /// Panics if `f` panics.
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

    /// Splits `data` into chunks of `chunk_len` elements (the last may be shorter) and
    /// calls `f(local, index, chunk)` once for each. `locals` holds one value per thread,
    /// such as scratch memory.
    ///
    /// # Panics
    ///
    /// Panics if `chunk_len` is 0, there are fewer `locals` than threads, or `f` panics.
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
            // SAFETY: `for_each` passes each index once and chunks do not overlap;
            // `start < len` because `index < n_chunks`. The borrow of the whole slice lasts
            // until `for_each` has returned.
            let chunk = unsafe {
                std::slice::from_raw_parts_mut(data.at(start), chunk_len.min(len - start))
            };
            // SAFETY: `thread < n_threads <= locals.len()`, and a thread works on one chunk
            // at a time.
            let local = unsafe { &mut *locals.at(thread) };
            f(local, index, chunk);
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // There is no job: workers check `stop` before they enter.
        self.shared.open();
        for worker in self.workers.drain(..) {
            // `run` has already resumed a worker's panic on the calling thread.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Opens the next job and wakes sleeping workers.
    fn open(&self) {
        let state = State(self.state.load(Ordering::Relaxed));
        // Two read-modify-writes of the state are ordered: this one and the `fetch_or` of a
        // worker that is about to sleep. If this one is first, the worker sees the new
        // state and does not sleep; if the worker's is first, this thread sees the worker
        // in `sleepers`.
        self.state.swap(state.next().0, Ordering::AcqRel);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            drop(self.sleep.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// Closes the job and waits until the last worker has left.
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

    /// Enters job `number` and returns true, unless it is closed.
    fn enter(&self, number: u32) -> bool {
        self.state
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                let enters = State(state).number() == number && State(state).is_open();
                enters.then_some(state + 1)
            })
            .is_ok()
    }

    /// The main loop of a worker.
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
            // SAFETY: the state was opened after `job` was written, and `job` stays
            // unchanged and valid until this worker leaves below.
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

    /// Waits for a job whose number differs from `seen` and returns its number.
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
            // A read-modify-write that changes nothing: see `open`.
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

/// A pointer through which threads access disjoint elements.
#[derive(Clone, Copy)]
pub(crate) struct DisjointMut<T>(pub(crate) *mut T);

// SAFETY: this is only a pointer; each use states why its accesses are disjoint.
unsafe impl<T: Send> Send for DisjointMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointMut<T> {}

impl<T> DisjointMut<T> {
    /// Returns the pointer plus `offset` elements.
    ///
    /// # Safety
    ///
    /// The result must lie inside the allocation (or one past its end).
    pub(crate) unsafe fn at(&self, offset: usize) -> *mut T {
        // SAFETY: guaranteed by the caller.
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
            // Windows only reports the affinity of the process, not of the thread.
            return;
        }
        let seen = Mutex::new(vec![None; n_processors]);
        // A worker may miss a single job.
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
            // No thread leaves before all have entered: a worker that slept through the job
            // would hang this test.
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
