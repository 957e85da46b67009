//! Micro-benchmarks of the kernel operations, used by the Criterion benches and
//! `bitnet bench --kernels` and `--breakdown`.
//!
//! ```text
//! cargo bench -p bitnet-benchmarks --bench kernels   each operation on each instruction set
//! cargo bench -p bitnet-benchmarks --bench sizes     generic against SIMD at 1K, 4K and 16K elements
//! cargo bench -p bitnet-benchmarks --bench passes    prefill and decode of the built-in model
//! cargo bench -p bitnet-benchmarks --bench skipping  decoding with and without skipping zeros
//! ```

pub mod cases;
mod data;
mod paired;

pub use cases::{Arithmetic, Case, cases};
pub use data::{activations, dense_rows, int8, ternary, values};
pub use paired::{Ratio, paired_ratio};
