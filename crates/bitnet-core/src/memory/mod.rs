//! The memory pool, which allocates all large buffers.
//!
//! ```text
//!                            ┌ the system's allocator, up to 4 KiB
//! HybridMemoryPool ── Block ─┼ extents ── SystemMemory
//!       │             Buffer └ extents ── a DeviceAllocator
//!       └ Usage, by Category
//! ```
//!
//! - *Invariant:* no two blocks overlap, and each is aligned to [`ALIGNMENT`].
//! - *Invariant:* a failed allocation returns an error and never aborts.
//!
//! ```
//! use bitnet_core::memory::{Category, HybridMemoryPool};
//!
//! let pool = HybridMemoryPool::new();
//! let mut x = pool.zeroed::<f32>(Category::Scratch, 1000)?;
//! x[0] = 1.0;
//! assert_eq!(pool.usage().of(Category::Scratch).current, 4032);
//! drop(x);
//! assert_eq!(pool.usage().total.current, 0);
//! # Ok::<(), bitnet_core::OutOfMemory>(())
//! ```

mod block;
mod device;
mod extents;
mod pool;
mod read_only;
#[cfg(test)]
mod tests;
mod tracking;

pub use block::{Block, Buffer};
pub use device::DeviceAllocator;
pub use pool::{Counted, DeviceId, HybridMemoryPool};
pub use read_only::{FixedBytes, ReadOnly};
pub use tracking::{Amount, Category, Usage};

/// The alignment of every block in bytes: a cache line, and the widest SIMD register.
pub const ALIGNMENT: usize = 64;

/// The system is out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not enough memory: {n_bytes} bytes")]
pub struct OutOfMemory {
    /// The size of the failed allocation in bytes.
    pub n_bytes: usize,
}
