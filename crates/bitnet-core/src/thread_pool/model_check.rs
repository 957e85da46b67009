//! Model checks of the thread pool with loom, over the interleavings of its threads and the
//! reorderings of the weak memory model: `scripts/test-loom.sh`.
//!
//! loom reports a deadlock (a worker that misses the stop), a data race on the job or on
//! data that it borrows, and failed assertions.

use std::sync::Arc;

use loom::cell::UnsafeCell;

use super::*;

/// Two values that a job accesses with no synchronisation other than the pool's.
#[derive(Default)]
struct Cells([UnsafeCell<usize>; 2]);

// SAFETY: loom reports every racing access.
unsafe impl Sync for Cells {}

impl Cells {
    fn add(&self, chunk: usize) {
        // SAFETY: the pool hands out each chunk once; loom checks it.
        self.0[chunk].with_mut(|n| unsafe { *n += 1 });
    }

    /// Asserts that each value was added to `n` times.
    fn check(&self, n: usize) {
        for cell in &self.0 {
            // SAFETY: no thread writes any more; loom checks it.
            cell.with(|value| assert_eq!(unsafe { *value }, n));
        }
    }
}

/// Explores a pool of `n_threads` with at most `preemptions` preemptions of a runnable
/// thread.
fn explore(n_threads: usize, preemptions: usize, f: impl Fn(ThreadPool) + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || f(ThreadPool::new(n_threads)));
}

#[test]
fn two_jobs_do_each_chunk_once_and_are_seen_by_the_caller() {
    explore(2, 3, |mut threads| {
        let cells = Cells::default();
        for n in 1..=2 {
            threads.for_each(2, |_, chunk| cells.add(chunk));
            cells.check(n);
        }
    });
}

#[test]
fn two_workers_share_a_job() {
    explore(3, 2, |mut threads| {
        let cells = Cells::default();
        threads.for_each(2, |_, chunk| cells.add(chunk));
        cells.check(1);
    });
}

#[test]
fn no_worker_sleeps_through_the_end() {
    explore(3, 3, drop);
}

#[test]
fn a_panic_of_a_worker_reaches_the_caller() {
    let entered = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = Arc::clone(&entered);
    explore(2, 3, move |mut threads| {
        let panics = std::sync::atomic::AtomicBool::new(false);
        let job = |thread| {
            if thread == 1 {
                panics.store(true, Ordering::Relaxed);
                resume_unwind(Box::new("on purpose"));
            }
        };
        let result = catch_unwind(AssertUnwindSafe(|| threads.run(job)));
        assert_eq!(result.is_err(), panics.load(Ordering::Relaxed));
        seen.fetch_add(result.is_err().into(), Ordering::Relaxed);
    });
    assert!(
        entered.load(Ordering::Relaxed) > 0,
        "no worker came in time"
    );
}
