//! The resources of a computation.

use crate::isa::Isa;
use crate::memory::Buffer;
use crate::thread_pool::ThreadPool;

/// The instruction set, threads and scratch memory of a computation.
#[derive(Debug)]
pub struct ComputeContext<'a> {
    /// The instruction set.
    pub isa: Isa,
    /// The threads.
    pub threads: &'a mut ThreadPool,
    /// `[n_threads]` rows, each at least as wide as the widest row to be computed. Only
    /// functions that decode or compute f32 rows use them.
    pub scratch: &'a mut [Buffer<f32>],
}

impl<'a> ComputeContext<'a> {
    /// Returns a context without scratch memory.
    pub fn new(isa: Isa, threads: &'a mut ThreadPool) -> Self {
        Self {
            isa,
            threads,
            scratch: &mut [],
        }
    }

    /// Asserts that each thread has a scratch row of at least `n_cols` values.
    pub(crate) fn assert_scratch(&self, n_cols: usize) {
        let is_wide = |row: &Buffer<f32>| row.len() >= n_cols;
        assert!(
            self.scratch.len() >= self.threads.n_threads() && self.scratch.iter().all(is_wide),
            "one row of scratch per thread"
        );
    }
}
