//! A team of threads for many short parallel steps.
//!
//! One token runs through some two hundred small matrices, each a few
//! microseconds long: threads must start within a fraction of that. Workers
//! therefore spin a little before they sleep. (A general work-stealing pool
//! wakes its threads through the kernel each time.)
//!
//! Which thread does which piece is not fixed, so pieces must not depend on it:
//! every function here hands out disjoint pieces, and the result is the same
//! for any number of threads.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Spins before a waiting worker goes to sleep: some tens of microseconds,
/// longer than the pause between two steps of a token.
const SPINS: u32 = 2000;

/// A fixed number of threads that work on one job at a time.
///
/// The calling thread is a member: a team of one has no other thread and no
/// synchronisation. Dropping the team ends its threads.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

type Job = *const (dyn Fn(usize) + Sync);

#[derive(Debug)]
struct Shared {
    /// Raised by one for each job; workers wait for it to change.
    epoch: AtomicU32,
    /// Workers that have not finished the present job.
    pending: AtomicUsize,
    /// The present job; written only while `pending` is 0.
    job: UnsafeCell<Option<Job>>,
    stop: AtomicBool,
    spins: u32,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    /// The first panic of a worker in the present job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the only field that is not already `Send + Sync`. The team
// writes it before it raises `epoch` (release) and workers read it after they
// see the raise (acquire); the team writes it again only after `pending` fell
// to 0 (release by workers, acquire by the team).
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Team {
    /// Starts a team of `n_threads` threads, the calling one included.
    ///
    /// # Panics
    ///
    /// Panics if `n_threads` is 0 or the system cannot start a thread.
    pub fn new(n_threads: usize) -> Self {
        assert!(n_threads > 0, "a team has at least one thread");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            epoch: AtomicU32::new(0),
            pending: AtomicUsize::new(0),
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
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("bitnet-{thread}"))
                    .spawn(move || shared.work(thread))
                    .expect("the system can start a thread")
            })
            .collect();
        Self { shared, workers }
    }

    /// Returns the number of threads, the calling one included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(thread)` once on each thread, `thread` from 0 (the caller's) to
    /// `n_threads - 1`, and returns when all are done.
    ///
    /// A panic on any thread reaches the caller after all threads are done.
    pub fn run(&mut self, f: impl Fn(usize) + Sync) {
        if self.workers.is_empty() {
            return f(0);
        }
        let shared = &*self.shared;
        let job: &(dyn Fn(usize) + Sync) = &f;
        // SAFETY: only the lifetime changes. Workers use the job between the
        // raise of `epoch` below and their decrement of `pending`, and this
        // function does not return, not even by a panic, before `pending` is 0.
        let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        // SAFETY: `pending` is 0 here (`&mut self`: no other job runs, and the
        // last one waited for it), so no worker reads `job`.
        unsafe { *shared.job.get() = Some(job) };
        shared.pending.store(self.workers.len(), Ordering::Relaxed);
        // SeqCst orders this raise before the load of `sleepers`, as the worker
        // orders its count in `sleepers` before its load of `epoch`: one of the
        // two sees the other, so no worker sleeps through a job.
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            drop(shared.sleep.lock().unwrap_or_else(PoisonError::into_inner));
            shared.wake.notify_all();
        }

        let own = catch_unwind(AssertUnwindSafe(|| f(0)));
        let mut spins = 0;
        while shared.pending.load(Ordering::Acquire) > 0 {
            if spins < shared.spins {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        let theirs = shared
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    /// Calls `f(thread, piece)` once for each piece from 0 to `n_pieces - 1`;
    /// threads take the next piece when they have finished one.
    pub fn for_each(&mut self, n_pieces: usize, f: impl Fn(usize, usize) + Sync) {
        if self.workers.is_empty() || n_pieces <= 1 {
            return (0..n_pieces).for_each(|piece| f(0, piece));
        }
        let next = AtomicUsize::new(0);
        self.run(|thread| {
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= n_pieces {
                    break;
                }
                f(thread, piece);
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
        let data = SharedMut(data.as_mut_ptr());
        let locals = SharedMut(locals.as_mut_ptr());
        self.for_each(n_chunks, |thread, index| {
            let start = index * chunk_len;
            // SAFETY: `for_each` hands out each index once and chunks do not
            // overlap; `start < len` because `index < n_chunks`. The borrow of
            // the whole slice lasts until `for_each` has returned.
            let chunk = unsafe {
                std::slice::from_raw_parts_mut(data.at(start), chunk_len.min(len - start))
            };
            // SAFETY: `thread < n_threads <= locals.len()`, and one thread
            // works on one piece at a time.
            let local = unsafe { &mut *locals.at(thread) };
            f(local, index, chunk);
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        drop(
            self.shared
                .sleep
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panic was already handed to the caller of `run`.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// The life of one worker.
    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait_for_epoch_after(seen);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: the epoch was raised after `job` was written, and `job`
            // stays unchanged and alive until `pending` is decremented below.
            let job = unsafe { &*(*self.job.get()).expect("a raised epoch has a job") };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(thread))) {
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(panic);
            }
            self.pending.fetch_sub(1, Ordering::Release);
        }
    }

    fn wait_for_epoch_after(&self, seen: u32) -> u32 {
        for _ in 0..self.spins {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            std::hint::spin_loop();
        }
        let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let epoch = loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch != seen {
                break epoch;
            }
            guard = self
                .wake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        epoch
    }
}

/// A pointer whose pieces are handed to different threads.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<T>(pub(crate) *mut T);

// SAFETY: it is only a pointer; each use states why its pieces are disjoint.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once_with_any_number_of_threads() {
        for n_threads in [1, 2, 3, 8] {
            let mut team = Team::new(n_threads);
            for n_pieces in [0, 1, 2, 7, 1000] {
                let done: Vec<_> = (0..n_pieces).map(|_| AtomicUsize::new(0)).collect();
                team.for_each(n_pieces, |thread, piece| {
                    assert!(thread < n_threads);
                    done[piece].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn chunks_cover_the_slice_and_locals_are_not_shared() {
        let mut team = Team::new(3);
        let mut data = vec![0usize; 1003];
        let mut counts = [0usize; 3];
        team.for_each_chunk(&mut data, 10, &mut counts, |count, index, chunk| {
            *count += chunk.len();
            chunk.fill(index + 1);
        });
        assert!(data.iter().enumerate().all(|(i, &x)| x == i / 10 + 1));
        assert_eq!(counts.iter().sum::<usize>(), 1003);
    }

    #[test]
    fn many_short_jobs_after_sleeps_lose_no_wake_up() {
        let mut team = Team::new(2);
        let count = AtomicUsize::new(0);
        for round in 0..2000 {
            if round % 500 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            team.run(|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(count.into_inner(), 4000);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let mut team = Team::new(3);
        for thread in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(|t| assert!(t != thread, "on purpose"));
            }));
            assert!(result.is_err());
        }
        let count = AtomicUsize::new(0);
        team.run(|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 3);
    }
}
