//! How long the calling thread of a pass spends on each operation.
//!
//! Operations are fused: a row is normalized and quantized by the same job, scores, softmax
//! and values follow each other in the same block. So time is measured in laps: an operation
//! that ends takes all time since the last one ended, and the times add up to the whole.
//! Only the calling thread is timed. The other threads share its jobs; what it waits for
//! them is an operation of its own.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Defines the operations with their names.
macro_rules! operations {
    ($($(#[doc = $doc:literal])* $operation:ident = $name:literal,)*) => {
        /// An operation of a pass.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation {
            $($(#[doc = $doc])* $operation,)*
        }

        impl Operation {
            /// All operations, in the order of a pass.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$operation),*];

            /// Returns the name, such as `attn_q`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$operation => $name,)*
                }
            }
        }
    };
}

operations! {
    /// Decoding the rows of the embedding.
    Embedding = "embedding",
    /// RMS norms: of blocks, sub-norms, of heads, and the last one.
    Norm = "norm",
    /// Quantizing activations, and summing them.
    Quantize = "quantize",
    /// The product with the query weights.
    Query = "attn_q",
    /// The product with the key weights.
    Key = "attn_k",
    /// The product with the value weights.
    Value = "attn_v",
    /// Rotating queries and keys, and computing the angles of new positions.
    Rotary = "rotary",
    /// Storing keys and values in their pages.
    StoreKv = "kv_store",
    /// Products of queries and keys.
    Scores = "attn_scores",
    /// The softmax of scores, within and over blocks of positions.
    Softmax = "attn_softmax",
    /// Sums of values, weighted by the softmax.
    WeightedSums = "attn_values",
    /// The product with the weights of the attention output.
    AttentionOutput = "attn_output",
    /// Adding the output of a block to the residual stream.
    Residual = "residual",
    /// The product with the gate weights.
    Gate = "ffn_gate",
    /// Finding the gates that are positive, and the inputs of `down` that are not zero.
    FindNonzero = "find_nonzero",
    /// The product with the up weights; if rows are skipped, also with the gates.
    Up = "ffn_up",
    /// The activation of the gates, times up.
    Activation = "activation",
    /// The product with the down weights.
    Down = "ffn_down",
    /// Checking that values are finite, and copying those that are the input of a product.
    Check = "check",
    /// The product with the output matrix.
    Head = "head",
    /// What is done with logits: sampling.
    Sampling = "sampling",
    /// Starting jobs of several threads, and waiting for their end.
    Threads = "threads",
    /// Everything else.
    Other = "other",
}

/// The time and the number of laps of each operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct OperationTimes {
    times: [Duration; Operation::ALL.len()],
    laps: [u64; Operation::ALL.len()],
}

impl OperationTimes {
    /// Returns the time of an operation.
    pub fn of(&self, operation: Operation) -> Duration {
        self.times[operation as usize]
    }

    /// Returns how often the end of an operation was recorded.
    pub fn laps(&self, operation: Operation) -> u64 {
        self.laps[operation as usize]
    }

    /// Returns the time of all operations, which is the whole time that was recorded.
    pub fn total(&self) -> Duration {
        self.times.iter().sum()
    }
}

/// The recording of a thread.
struct Recording {
    /// When the last operation ended; `None` while nothing is recorded.
    last: Cell<Option<Instant>>,
    times: [Cell<Duration>; Operation::ALL.len()],
    laps: [Cell<u64>; Operation::ALL.len()],
}

thread_local! {
    static RECORDING: Recording = const {
        Recording {
            last: Cell::new(None),
            times: [const { Cell::new(Duration::ZERO) }; Operation::ALL.len()],
            laps: [const { Cell::new(0) }; Operation::ALL.len()],
        }
    };
}

impl Recording {
    fn add(&self, operation: Operation, time: Duration) {
        let (times, laps) = (
            &self.times[operation as usize],
            &self.laps[operation as usize],
        );
        times.set(times.get() + time);
        laps.set(laps.get() + 1);
    }

    #[cold]
    fn lap(&self, operation: Operation, last: Instant) {
        let now = Instant::now();
        self.add(operation, now - last);
        self.last.set(Some(now));
    }
}

/// Records the end of an operation, if this thread [records](record_operations).
#[inline]
pub fn lap(operation: Operation) {
    RECORDING.with(|recording| {
        if let Some(last) = recording.last.get() {
            recording.lap(operation, last);
        }
    });
}

/// Calls `f`. If this thread records, its time is that of an operation within another one,
/// which does not end.
#[inline]
pub(crate) fn within<T>(operation: Operation, f: impl FnOnce() -> T) -> T {
    RECORDING.with(|recording| {
        let Some(last) = recording.last.get() else {
            return f();
        };
        let start = Instant::now();
        let result = f();
        let time = start.elapsed();
        recording.add(operation, time);
        recording.last.set(Some(last + time));
        result
    })
}

/// Calls `f`, and returns the time that this thread spends on each operation meanwhile; what
/// belongs to none is [`Operation::Other`].
pub fn record_operations<T>(f: impl FnOnce() -> T) -> (T, OperationTimes) {
    /// Ends the recording, also if `f` panics.
    struct End;

    impl Drop for End {
        fn drop(&mut self) {
            RECORDING.with(|recording| recording.last.set(None));
        }
    }

    let end = End;
    RECORDING.with(|recording| {
        for (time, laps) in recording.times.iter().zip(&recording.laps) {
            time.set(Duration::ZERO);
            laps.set(0);
        }
        recording.last.set(Some(Instant::now()));
    });
    let result = f();
    lap(Operation::Other);
    drop(end);
    let times = RECORDING.with(|recording| OperationTimes {
        times: recording.times.each_ref().map(Cell::get),
        laps: recording.laps.each_ref().map(Cell::get),
    });
    (result, times)
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_times_add_up_to_the_whole_and_each_has_its_own() {
        let start = Instant::now();
        let (result, times) = record_operations(|| {
            sleep(4 * MS);
            lap(Operation::Norm);
            sleep(MS);
            within(Operation::Threads, || sleep(8 * MS));
            sleep(MS);
            lap(Operation::Head);
            sleep(MS);
            7
        });
        assert!(times.total() <= start.elapsed());
        assert_eq!(result, 7);
        let all = Operation::ALL.map(|operation| times.of(operation));
        assert_eq!(all.iter().sum::<Duration>(), times.total());
        assert!(times.of(Operation::Norm) >= 4 * MS);
        assert!(times.of(Operation::Head) >= 2 * MS);
        assert!(times.of(Operation::Threads) >= 8 * MS);
        assert!(times.of(Operation::Other) >= MS);
        assert_eq!(times.laps(Operation::Norm), 1);
        assert_eq!(times.of(Operation::Gate), Duration::ZERO);
    }

    #[test]
    fn nothing_is_recorded_outside_or_by_other_threads() {
        lap(Operation::Norm);
        within(Operation::Norm, || lap(Operation::Norm));
        let ((), times) = record_operations(|| {
            let other = std::thread::spawn(|| lap(Operation::Norm));
            other.join().unwrap();
        });
        assert_eq!(times.laps(Operation::Norm), 0);
        assert_eq!(times.laps(Operation::Other), 1);
        let failed = std::panic::catch_unwind(|| record_operations(|| panic!("on purpose")));
        assert!(failed.is_err());
        assert!(RECORDING.with(|recording| recording.last.get().is_none()));
    }

    #[test]
    fn names_are_distinct() {
        let names: std::collections::HashSet<_> = Operation::ALL.map(Operation::name).into();
        assert_eq!(names.len(), Operation::ALL.len());
    }
}
