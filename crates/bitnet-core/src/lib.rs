#![doc = include_str!("../README.md")]
//!
//! # Determinism
//!
//! Integer sums are exact, so every instruction set returns the same bits. Float
//! operations are written once, as plain Rust over a fixed number of lanes
//! ([`ops::LANES`]), and compiled once per instruction set. Rust does not reorder or
//! contract float arithmetic, and a fused multiply-add occurs only where the source says
//! `mul_add`. So a result does not depend on the instruction set, on the number of
//! threads, or on the rest of the batch.

mod activations;
mod affinity;
mod arch;
mod attention;
mod base3;
#[cfg(target_os = "linux")]
mod cgroup;
mod compute_context;
mod dense;
mod fused;
mod int8;
mod isa;
pub mod lanes;
pub mod machine;
mod matmul;
pub mod memory;
mod nonzero;
mod operation;
pub mod ops;
mod panel;
mod prefetch;
mod scales;
mod shape;
mod sparse;
mod ternary;
mod ternary_layout;
mod thread_pool;
mod top_k_matmul;

pub use activations::Int8Rows;
pub use arch::NullaryFnOnce;
pub use attention::{
    AttentionExtents, AttentionScratch, Heads, KeyValue, KvPage, KvPrecision, KvShape, PageTables,
    PagedKv, Queries, RowPosition, attention,
};
pub use compute_context::ComputeContext;
pub use dense::matmul_rows;
pub use int8::{Int8Parts, PackedInt8};
pub use isa::{Isa, IsaError};
pub use memory::{HybridMemoryPool, OutOfMemory};
pub use operation::{Operation, OperationTimes, lap, record_operations};
pub use scales::Scales;
pub use shape::Shape;
pub use sparse::PartRead;
pub use ternary_layout::TernaryLayout;
pub use top_k_matmul::{TopKOperands, TopKScratch, top_k_matmul};

pub use ternary::{
    CodeRuns, PackedTernary, RunLen, ScaleParts, TernaryParts, TernaryRows, TernarySpec,
};
pub use thread_pool::{PinError, ThreadPool};
#[cfg(all(target_family = "wasm", target_feature = "atomics"))]
pub use thread_pool::{lend_thread, n_lent_threads};
