//! The allocations of a pool.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use bytemuck::Zeroable;

use super::ALIGNMENT;
use super::extents::Range;
use super::pool::{Part, Shared};
use super::tracking::Category;

/// A memory block of a pool, on the CPU or on a device; dropping it releases the memory, on
/// any thread.
pub struct Block {
    /// The pool; none if the block is empty.
    pool: Option<Arc<Shared>>,
    address: usize,
    n_bytes: usize,
    place: Place,
    category: Category,
}

/// The owner of a block's memory.
pub(super) enum Place {
    /// The system's allocator. The block is the aligned part of the vector.
    Heap(Vec<u8>),
    /// The regions of the CPU or of a device.
    Extent(Arc<Part>),
}

impl Block {
    pub(super) const EMPTY: Self = Self {
        pool: None,
        address: ALIGNMENT,
        n_bytes: 0,
        place: Place::Heap(Vec::new()),
        category: Category::Scratch,
    };

    /// Wraps an allocated range and counts it.
    pub(super) fn new(
        pool: &Arc<Shared>,
        category: Category,
        (address, n_bytes): Range,
        place: Place,
    ) -> Self {
        pool.count(category, n_bytes);
        Self {
            pool: Some(Arc::clone(pool)),
            address,
            n_bytes,
            place,
            category,
        }
    }

    /// Returns the address: in this process's memory, with exposed provenance, or on the
    /// device.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Returns the size in bytes, at least the requested one.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Returns the category.
    pub fn category(&self) -> Category {
        self.category
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some(pool) = &self.pool else { return };
        pool.uncount(self.category, self.n_bytes);
        match &self.place {
            // The vector is freed by its own drop.
            Place::Heap(vec) => pool.uncount_heap(vec.len()),
            Place::Extent(part) => part.give(self.address, self.n_bytes),
        }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("category", &self.category)
            .field("n_bytes", &self.n_bytes)
            .finish_non_exhaustive()
    }
}

/// A slice in the memory of a pool, aligned to [`ALIGNMENT`].
pub struct Buffer<T> {
    data: NonNull<T>,
    len: usize,
    block: Block,
}

// SAFETY: a buffer owns its values, as a `Vec` does; the block is `Send`.
unsafe impl<T: Send> Send for Buffer<T> {}
// SAFETY: as above, for shared references.
unsafe impl<T: Sync> Sync for Buffer<T> {}

impl<T: Copy + Zeroable> Buffer<T> {
    /// Wraps a CPU block that holds at least `len` values. All its bytes are zero except
    /// the `dirty` ranges, which are zeroed here.
    pub(super) fn zeroed(block: Block, len: usize, dirty: &[Range]) -> Self {
        const { assert!(align_of::<T>() <= ALIGNMENT) };
        if len == 0 || size_of::<T>() == 0 {
            return Self {
                len,
                ..Self::default()
            };
        }
        assert!(len * size_of::<T>() <= block.n_bytes);
        for &(start, n_bytes) in dirty {
            let dirty: *mut u8 = std::ptr::with_exposed_provenance_mut(start);
            // SAFETY: the ranges lie in the block, which is not shared.
            unsafe { dirty.write_bytes(0, n_bytes) };
        }
        let data = std::ptr::with_exposed_provenance_mut(block.address);
        Self {
            data: NonNull::new(data).expect("no block is at address 0"),
            len,
            block,
        }
    }

    /// Returns the category of the memory.
    pub fn category(&self) -> Category {
        self.block.category
    }
}

impl<T> Default for Buffer<T> {
    /// Returns an empty buffer without a pool.
    fn default() -> Self {
        Self {
            data: NonNull::dangling(),
            len: 0,
            block: Block::EMPTY,
        }
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `data` points to `len` values that were zeroed, which is a valid `T`, and
        // only this buffer accesses them; it dangles only if there are none or they are
        // zero-sized.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Buffer<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the buffer is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl<T: fmt::Debug> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
