//! Values that are only read: in the pool, or in memory with another owner.

use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;

use bytemuck::{AnyBitPattern, NoUninit};

use super::Buffer;

/// Bytes with an address that does not change, such as those of a mapped file.
///
/// # Safety
///
/// [`bytes`](Self::bytes) returns the same slice as long as the value lives, and nothing
/// modifies it.
pub unsafe trait FixedBytes: fmt::Debug + Send + Sync {
    /// Returns the bytes.
    fn bytes(&self) -> &[u8];
}

/// A slice that is only read: a [`Buffer`] of the pool, or a part of [`FixedBytes`].
pub struct ReadOnly<T> {
    data: NonNull<T>,
    len: usize,
    /// The owner, unless it is `shared`.
    _buffer: Buffer<T>,
    shared: Option<Arc<dyn FixedBytes>>,
}

// SAFETY: as for a `Buffer`, which it owns; shared bytes are `Send`.
unsafe impl<T: Send> Send for ReadOnly<T> {}
// SAFETY: as above, for shared references.
unsafe impl<T: Sync> Sync for ReadOnly<T> {}

impl<T> From<Buffer<T>> for ReadOnly<T> {
    fn from(buffer: Buffer<T>) -> Self {
        let values: &[T] = &buffer;
        Self {
            data: NonNull::from(values).cast(),
            len: values.len(),
            _buffer: buffer,
            shared: None,
        }
    }
}

impl<T: AnyBitPattern> ReadOnly<T> {
    /// Returns the values in a range of bytes; `None` if the bytes have no such range, or it is
    /// not aligned or does not have whole values.
    pub fn in_bytes(owner: &Arc<dyn FixedBytes>, range: Range<usize>) -> Option<Self> {
        let bytes = owner.bytes().get(range)?;
        let values: &[T] = bytemuck::try_cast_slice(bytes).ok()?;
        Some(Self {
            data: NonNull::from(values).cast(),
            len: values.len(),
            _buffer: Buffer::default(),
            shared: Some(Arc::clone(owner)),
        })
    }
}

impl<T> ReadOnly<T> {
    /// Returns whether the memory has another owner than the pool.
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }
}

// SAFETY: the values are those of one owner, which nobody can modify through this.
unsafe impl<T: NoUninit + fmt::Debug + Sync + Send> FixedBytes for ReadOnly<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl<T> Deref for ReadOnly<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: these are the values of the owner, whose address does not change when it is
        // moved: a buffer points to its block, and `FixedBytes` promises it.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl<T: fmt::Debug> fmt::Debug for ReadOnly<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Category, HybridMemoryPool};

    #[derive(Debug)]
    struct Words(Vec<u32>);

    // SAFETY: the vector is never modified, and its elements do not move with it.
    unsafe impl FixedBytes for Words {
        fn bytes(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }

    #[test]
    fn values_are_those_of_the_owner() {
        let pool = HybridMemoryPool::new();
        let mut buffer = pool.zeroed::<u32>(Category::Weights, 3000).unwrap();
        buffer[2999] = 7;
        let pooled = ReadOnly::from(buffer);
        assert_eq!(
            (pooled.len(), pooled[2999], pooled.is_shared()),
            (3000, 7, false)
        );
        assert!(pool.usage().of(Category::Weights).current >= 12000);
        drop(pooled);
        assert_eq!(pool.usage().total.current, 0);

        let words: Arc<dyn FixedBytes> = Arc::new(Words(vec![1, 2, 3, 4]));
        let shared = ReadOnly::<u32>::in_bytes(&words, 4..12).unwrap();
        drop(words);
        assert_eq!((&*shared, shared.is_shared()), (&[2, 3][..], true));
    }

    #[test]
    fn ranges_that_hold_no_whole_values_are_none() {
        let words: Arc<dyn FixedBytes> = Arc::new(Words(vec![1, 2, 3, 4]));
        for range in [2..6, 0..6, 8..20, 16..20] {
            assert!(
                ReadOnly::<u32>::in_bytes(&words, range.clone()).is_none(),
                "{range:?}"
            );
        }
        assert!(ReadOnly::<u32>::in_bytes(&words, 8..8).unwrap().is_empty());
    }
}
