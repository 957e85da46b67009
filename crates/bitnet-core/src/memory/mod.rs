//! Memory: one owner for every large byte.
//!
//! ```text
//!                            ┌ cache ── slabs ─┐  up to 64 KiB
//! HybridMemoryPool ── Block ─┼─────────────────┴─ extents ── SystemMemory
//!       │             Buffer └─────────────────── extents ── a DeviceAllocator
//!       └ Usage, by Category
//! ```
//!
//! - *Invariant:* no two blocks overlap, and each is aligned to [`ALIGNMENT`].
//! - *Invariant:* small blocks are taken and given back without a lock, but for
//!   one fetch in many.
//! - *Invariant:* memory that is not there is an error, nowhere an abort.
//!
//! ```
//! use bitnet_core::memory::{Category, HybridMemoryPool};
//!
//! let pool = HybridMemoryPool::new();
//! let mut x = pool.zeroed::<f32>(Category::Scratch, 1000)?;
//! x[0] = 1.0;
//! assert_eq!(pool.usage().of(Category::Scratch).current, 4096);
//! drop(x);
//! assert_eq!(pool.usage().total.current, 0);
//! # Ok::<(), bitnet_core::OutOfMemory>(())
//! ```

mod block;
mod cache;
mod device;
mod extents;
mod pool;
mod slabs;
#[cfg(test)]
mod tests;
mod tracking;

use std::fmt;

pub use block::{Block, Buffer};
pub use device::DeviceAllocator;
pub use pool::{Counted, DeviceId, HybridMemoryPool};
pub use tracking::{Amount, Category, Usage};

/// What the address of every block is a multiple of: a cache line, and the widest
/// register.
pub const ALIGNMENT: usize = 64;

/// Where a block goes when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The slabs of this class.
    Slab(u8),
    /// The extents of the CPU.
    Extent,
    /// The extents of this device.
    Device(u8),
}

/// The system has not enough memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// How much was asked for.
    pub n_bytes: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not enough memory: {} bytes", self.n_bytes)
    }
}

impl std::error::Error for OutOfMemory {}

/// Returns `len` default values, which must be zeros.
///
/// `vec!` takes memory that the system has zeroed, without touching it, but
/// ends the program if there is none: so it is asked for first.
pub fn zeroed<T: Copy + Default>(len: usize) -> Result<Vec<T>, OutOfMemory> {
    Vec::<T>::new()
        .try_reserve_exact(len)
        .map_err(|_| OutOfMemory {
            n_bytes: len.saturating_mul(size_of::<T>()),
        })?;
    let data = vec![T::default(); len];
    prefer_huge_pages(data.as_ptr(), len);
    Ok(data)
}

/// Returns `len` times `value`.
pub(crate) fn filled<T: Copy>(value: T, len: usize) -> Vec<T> {
    let mut data = Vec::with_capacity(len);
    prefer_huge_pages(data.as_ptr(), len);
    data.resize(len, value);
    data
}

/// Asks for huge pages behind memory that has not been touched yet: reading it
/// then misses the translation cache less often. A wish: where the system has
/// none, nothing changes.
fn prefer_huge_pages<T>(data: *const T, len: usize) {
    #[cfg(target_os = "linux")]
    {
        /// A page at least, on every processor; also the smallest range worth a call.
        const ALIGNMENT: usize = 1 << 16;
        const HUGE_PAGE: usize = 2 << 20;
        let start = data.addr().next_multiple_of(ALIGNMENT);
        let end = (data.addr() + len * size_of::<T>()) / ALIGNMENT * ALIGNMENT;
        if end.saturating_sub(start) >= HUGE_PAGE {
            // SAFETY: the range lies within one allocation, and the advice
            // changes no contents.
            let _ = unsafe {
                rustix::mm::madvise(
                    data.with_addr(start).cast_mut().cast(),
                    end - start,
                    rustix::mm::Advice::LinuxHugepage,
                )
            };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (data, len);
}
