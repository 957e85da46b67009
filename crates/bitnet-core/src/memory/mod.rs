//! Memory: one owner for every large byte.
//!
//! ```text
//!                            ┌ the system's allocator, up to 64 KiB
//! HybridMemoryPool ── Block ─┼ extents ── SystemMemory
//!       │             Buffer └ extents ── a DeviceAllocator
//!       └ Usage, by Category
//! ```
//!
//! - *Invariant:* no two blocks overlap, and each is aligned to [`ALIGNMENT`].
//! - *Invariant:* memory that is not there is an error, nowhere an abort.
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
#[cfg(test)]
mod tests;
mod tracking;

pub use block::{Block, Buffer};
pub use device::DeviceAllocator;
pub use pool::{Counted, DeviceId, HybridMemoryPool};
pub use tracking::{Amount, Category, Usage};

/// What the address of every block is a multiple of: a cache line, and the widest
/// register.
pub const ALIGNMENT: usize = 64;

/// The system has not enough memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not enough memory: {n_bytes} bytes")]
pub struct OutOfMemory {
    /// How much was asked for.
    pub n_bytes: usize,
}
