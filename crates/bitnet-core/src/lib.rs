//! The numbers of BitNet-Rust on the CPU: packed ternary and int8 matrices, the
//! kernels that multiply them, the float operations between them, and the thread
//! pool that shares the work.
//!
//! It knows no model and no file format, allocates nothing while it computes,
//! and never prints.
//!
//! ```text
//! trits ──► PackedTernary ─┐                      (once, at load)
//! f32   ──► PackedInt8 ────┤
//!                          ├─► matmul ──► f32 rows  (ComputeContext)
//! f32 rows ──► Int8Rows ───┘
//!
//! dense rows, decoded one at a time ──► matmul_rows ──► f32 rows
//! ```
//!
//! # One result everywhere
//!
//! Integer sums are exact, so every instruction set returns the same bits. Float
//! operations are written once, as plain Rust over a fixed number of lanes
//! ([`ops::LANES`]), and compiled once per instruction set: Rust neither
//! reorders nor contracts float arithmetic, and a fused multiply-add appears
//! only where the source says `mul_add`. So a result depends neither on the
//! instruction set nor on the number of threads, nor on what else is in the
//! batch.
//!
//! ```
//! use bitnet_core::{
//!     ComputeContext, HybridMemoryPool, Int8Rows, Isa, OutOfMemory, PackedTernary, Shape,
//!     TernaryLayout, TernarySpec, ThreadPool,
//! };
//!
//! // y = W·x for W = [[1, -1], [0, 1]] · 0.5 and x = [2, 1].
//! let pool = HybridMemoryPool::new();
//! let threads = &mut ThreadPool::new(1);
//! let spec = TernarySpec {
//!     layout: TernaryLayout::TwoBits,
//!     shape: Shape { n_rows: 2, n_cols: 2 },
//!     scales: 0.5.into(),
//! };
//! let weights = PackedTernary::pack(&pool, threads, spec, |row, trits| {
//!     trits.copy_from_slice(&[[1, -1], [0, 1]][row]);
//!     Ok(())
//! })?;
//! let isa = Isa::best();
//! let mut x = Int8Rows::with_capacity(&pool, 1, 2)?;
//! x.quantize(isa, &[2.0, 1.0], 2);
//! let mut y = [0.0; 2];
//! weights.matmul(&mut ComputeContext::new(isa, threads), &x, &mut y);
//! assert!((y[0] - 0.5).abs() < 0.01 && (y[1] - 0.5).abs() < 0.01);
//! # Ok::<(), OutOfMemory>(())
//! ```

mod activations;
mod affinity;
mod arch;
mod attention;
mod base3;
#[cfg(target_os = "linux")]
mod cgroup;
mod compute_context;
mod dense;
mod device;
mod fused;
mod int8;
mod isa;
mod lanes;
pub mod machine;
mod matmul;
pub mod memory;
pub mod ops;
mod panel;
mod scales;
mod shape;
mod ternary;
mod ternary_layout;
mod thread_pool;
mod top_k_matmul;

pub use activations::Int8Rows;
pub use arch::NullaryFnOnce;
pub use attention::{
    AttentionExtents, AttentionScratch, Heads, KeyValue, KvPage, KvPrecision, KvShape, PagedKv,
    Queries, RowPosition, attention,
};
pub use compute_context::ComputeContext;
pub use dense::matmul_rows;
pub use device::{Device, DeviceError, DeviceKind, Unusable};
pub use int8::PackedInt8;
pub use isa::{Isa, IsaError};
pub use memory::{HybridMemoryPool, OutOfMemory};
pub use scales::Scales;
pub use shape::Shape;
pub use ternary_layout::TernaryLayout;
pub use top_k_matmul::{TopKOperands, TopKScratch, top_k_matmul};

pub use ternary::{PackedTernary, TernarySpec};
pub use thread_pool::{PinError, ThreadPool};
