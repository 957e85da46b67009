//! Measures which ternary layout is faster on this machine.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::PackedTernary;
use crate::activations::Int8Rows;
use crate::compute_context::ComputeContext;
use crate::isa::Isa;
use crate::memory::{Buffer, Category, HybridMemoryPool, OutOfMemory};
use crate::ternary_layout::{TRIAL_BYTES, TernaryLayout};

/// Trials per layout; the fastest counts.
const TRIALS: usize = 4;

/// `Base3` is chosen only if its time for one token is below this fraction of the time of
/// `TwoBits`, since it takes a tenth longer for 2 to 16 tokens.
const CLEARLY: f64 = 0.9;

static MEASURED: Mutex<Vec<Measured>> = Mutex::new(Vec::new());

/// The result of a measurement.
struct Measured {
    isa: Isa,
    n_threads: usize,
    fastest: TernaryLayout,
}

impl TernaryLayout {
    /// Returns the layout in which one token is multiplied by `n_weights` weights fastest.
    ///
    /// This depends on the memory bandwidth of the machine. The first call for an
    /// instruction set and number of threads measures it, in about 50 ms; later calls of
    /// the process reuse the result. If there is only one of the
    /// [`candidates`](Self::candidates), nothing is measured.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
    pub fn fastest(
        pool: &HybridMemoryPool,
        ctx: &mut ComputeContext<'_>,
        n_weights: usize,
    ) -> Result<Self, OutOfMemory> {
        let (isa, n_threads) = (ctx.isa, ctx.threads.n_threads());
        if Self::candidates(isa, n_weights).count() == 1 {
            return Ok(Self::TwoBits);
        }
        let mut measured = MEASURED.lock().expect("no holder panics");
        let known = measured
            .iter()
            .find(|known| (known.isa, known.n_threads) == (isa, n_threads));
        if let Some(known) = known {
            return Ok(known.fastest);
        }
        let fastest = Self::measure(pool, ctx)?;
        measured.push(Measured {
            isa,
            n_threads,
            fastest,
        });
        Ok(fastest)
    }

    fn measure(pool: &HybridMemoryPool, ctx: &mut ComputeContext<'_>) -> Result<Self, OutOfMemory> {
        let mut two_bits = Trial::new(pool, Self::TwoBits)?;
        let mut base3 = Trial::new(pool, Self::Base3)?;
        // Alternate, so that other load on the machine affects both.
        for _ in 0..TRIALS {
            two_bits.run(ctx);
            base3.run(ctx);
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

    fn run(&mut self, ctx: &mut ComputeContext<'_>) {
        let start = Instant::now();
        self.weights.matmul(ctx, &self.acts, &mut self.out);
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
    use crate::thread_pool::ThreadPool;

    #[test]
    fn small_models_and_kernels_with_one_layout_are_not_measured() {
        let (pool, threads) = (HybridMemoryPool::new(), &mut ThreadPool::new(1));
        for (isa, n_weights) in [(Isa::best(), 1 << 20), (Isa::Scalar, 1 << 40)] {
            assert_eq!(
                TernaryLayout::fastest(&pool, &mut ComputeContext::new(isa, threads), n_weights),
                Ok(TernaryLayout::TwoBits)
            );
        }
    }

    #[test]
    fn the_second_answer_is_the_first() {
        let (pool, threads) = (HybridMemoryPool::new(), &mut ThreadPool::new(2));
        let ctx = &mut ComputeContext::new(Isa::best(), threads);
        let first = TernaryLayout::fastest(&pool, ctx, 1 << 40).unwrap();
        assert!(TernaryLayout::available(ctx.isa).any(|layout| layout == first));
        assert_eq!(TernaryLayout::fastest(&pool, ctx, 1 << 40), Ok(first));
    }
}
