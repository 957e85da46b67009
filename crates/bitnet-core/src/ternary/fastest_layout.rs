//! Which way to pack ternary weights is faster on this machine.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::PackedTernary;
use crate::activations::Int8Rows;
use crate::isa::Isa;
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};
use crate::ternary_layout::{TRIAL_BYTES, TernaryLayout};
use crate::thread_pool::ThreadPool;

/// Trials of each layout, of which the fastest counts.
const TRIALS: usize = 4;

/// Below this part of the other's time for one token, five trits a byte are worth
/// that they take a tenth more for 2 to 16 tokens.
const CLEARLY: f64 = 0.9;

/// What was measured: instruction set, threads, result.
static MEASURED: Mutex<Vec<(Isa, usize, TernaryLayout)>> = Mutex::new(Vec::new());

impl TernaryLayout {
    /// Returns the layout with which one token passes `n_weights` weights in the
    /// least time.
    ///
    /// It depends on how fast this machine reads memory. So the first call for an
    /// instruction set and a number of threads measures it, in some 50 ms; the process
    /// remembers. Where there is but one of the [`candidates`](Self::candidates),
    /// nothing is measured.
    pub fn fastest(
        pool: &HybridMemoryPool,
        isa: Isa,
        threads: &mut ThreadPool,
        n_weights: usize,
    ) -> Result<Self, OutOfMemory> {
        if Self::candidates(isa, n_weights).count() == 1 {
            return Ok(Self::TwoBits);
        }
        let n_threads = threads.n_threads();
        let mut measured = MEASURED.lock().expect("no holder panics");
        let known = measured
            .iter()
            .find(|(k, n, _)| (*k, *n) == (isa, n_threads));
        if let Some(&(.., layout)) = known {
            return Ok(layout);
        }
        let layout = Self::measure(pool, isa, threads)?;
        measured.push((isa, n_threads, layout));
        Ok(layout)
    }

    fn measure(
        pool: &HybridMemoryPool,
        isa: Isa,
        threads: &mut ThreadPool,
    ) -> Result<Self, OutOfMemory> {
        let mut two_bits = Trial::new(pool, Self::TwoBits)?;
        let mut base3 = Trial::new(pool, Self::Base3)?;
        // In turn, so that what else the machine does meets both.
        for _ in 0..TRIALS {
            two_bits.run(isa, threads);
            base3.run(isa, threads);
        }
        let is_faster = base3.seconds_per_weight() < CLEARLY * two_bits.seconds_per_weight();
        Ok(if is_faster {
            Self::Base3
        } else {
            Self::TwoBits
        })
    }
}

struct Trial {
    weights: PackedTernary,
    acts: Int8Rows,
    out: Buffer<f32>,
    fastest: Duration,
}

impl Trial {
    fn new(pool: &HybridMemoryPool, layout: TernaryLayout) -> Result<Self, OutOfMemory> {
        let weights = PackedTernary::filled(pool, layout, TRIAL_BYTES / 2)?;
        let mut acts = Int8Rows::with_capacity(pool, 1, weights.n_cols())?;
        acts.quantize(Isa::Scalar, &vec![1.0; weights.n_cols()], weights.n_cols());
        Ok(Self {
            out: pool.zeroed(Category::Scratch, weights.n_rows())?,
            weights,
            acts,
            fastest: Duration::MAX,
        })
    }

    fn run(&mut self, isa: Isa, threads: &mut ThreadPool) {
        let start = Instant::now();
        self.weights.matmul(isa, threads, &self.acts, &mut self.out);
        self.fastest = self.fastest.min(start.elapsed());
    }

    fn seconds_per_weight(&self) -> f64 {
        let n_weights = self.weights.n_rows() * self.weights.n_cols();
        self.fastest.as_secs_f64() / n_weights as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_models_and_kernels_with_one_layout_are_not_measured() {
        let (pool, threads) = (HybridMemoryPool::new(), &mut ThreadPool::new(1));
        for (isa, n_weights) in [(Isa::best(), 1 << 20), (Isa::Scalar, 1 << 40)] {
            assert_eq!(
                TernaryLayout::fastest(&pool, isa, threads, n_weights),
                Ok(TernaryLayout::TwoBits)
            );
        }
    }

    #[test]
    fn the_second_answer_is_the_first() {
        let (pool, threads) = (HybridMemoryPool::new(), &mut ThreadPool::new(2));
        let isa = Isa::best();
        let first = TernaryLayout::fastest(&pool, isa, threads, 1 << 40).unwrap();
        assert!(TernaryLayout::available(isa).any(|layout| layout == first));
        assert_eq!(
            TernaryLayout::fastest(&pool, isa, threads, 1 << 40),
            Ok(first)
        );
    }
}
