//! The memory pool and its handle.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::Zeroable;

use super::block::{Block, Buffer, Place};
use super::device::{DeviceAllocator, HUGE_PAGE, SystemMemory};
use super::extents::{Extents, Range};
use super::tracking::{Category, Totals, Usage};
use super::{ALIGNMENT, OutOfMemory};

/// The largest small block in bytes. Small allocations (norms, scales and the like) occur
/// only when a model is loaded or an engine created, so any allocator is fast enough for
/// them. Larger ones, such as the matrices of a small model, belong on huge pages.
pub(super) const MAX_SMALL: usize = 4 << 10;

/// The minimum and maximum bytes by which a part grows, unless a block needs more; between
/// them, it grows by a quarter of its mapped bytes.
const MIN_STEP: usize = HUGE_PAGE;
const MAX_STEP: usize = 64 << 20;

/// A part keeps this many free bytes, or an eighth of the bytes in use if that is more.
const MIN_KEPT: usize = 8 << 20;

/// Allocates all large buffers of a program that runs models: weights, keys and values,
/// scratch, device buffers.
///
/// - Blocks up to 4 KiB come from the system's allocator.
/// - Larger ones are allocated from regions by best fit, and coalesced with their free
///   neighbours when they are released.
/// - Device blocks are allocated from the device's regions in the same way.
///
/// Regions are mapped on demand, in growing steps. They are unmapped when they are free and
/// the free bytes exceed an eighth of the bytes in use; [`trim`](Self::trim) releases all
/// free memory. Memory that was never written occupies no physical memory.
///
/// Clones share one pool. Blocks may outlive all of them.
#[derive(Clone)]
pub struct HybridMemoryPool(Arc<Shared>);

/// A device that was added to a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId(usize);

/// A count of memory that the pool does not own; dropping it removes the count.
#[derive(Debug)]
pub struct Counted {
    pool: HybridMemoryPool,
    category: Category,
    n_bytes: usize,
}

/// The state that the handles and blocks of a pool share.
pub(super) struct Shared {
    cpu: Arc<Part>,
    devices: Mutex<Vec<Arc<Part>>>,
    /// Bytes of small blocks, their alignment padding included.
    heap_bytes: AtomicUsize,
    totals: Totals,
    is_tracked: bool,
    /// Successful allocations before the injected failure, or [`NO_FAULT`]; negative after
    /// the failure.
    until_fault: AtomicI64,
}

const NO_FAULT: i64 = i64::MAX;

impl Default for HybridMemoryPool {
    fn default() -> Self {
        Self::new()
    }
}

impl HybridMemoryPool {
    /// Returns an empty pool. It maps no memory until the first allocation.
    pub fn new() -> Self {
        Self::with_tracking(true)
    }

    /// Returns a pool that does not track usage, to measure the cost of tracking.
    pub fn untracked() -> Self {
        Self::with_tracking(false)
    }

    fn with_tracking(is_tracked: bool) -> Self {
        Self(Arc::new(Shared {
            cpu: Arc::new(Part::new(Box::new(SystemMemory::default()))),
            devices: Mutex::default(),
            heap_bytes: AtomicUsize::new(0),
            totals: Totals::default(),
            is_tracked,
            until_fault: AtomicI64::new(NO_FAULT),
        }))
    }

    /// Allocates a block of at least `n_bytes`, aligned to [`ALIGNMENT`]. Its contents are
    /// unspecified.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
    pub fn allocate(&self, category: Category, n_bytes: usize) -> Result<Block, OutOfMemory> {
        Ok(self.take(category, n_bytes)?.0)
    }

    /// Allocates a buffer of `len` values, all bytes zero. Large buffers in freshly mapped
    /// memory are not written for this.
    ///
    /// # Errors
    ///
    /// Returns an error if the size overflows or the system is out of memory.
    pub fn zeroed<T: Copy + Zeroable>(
        &self,
        category: Category,
        len: usize,
    ) -> Result<Buffer<T>, OutOfMemory> {
        let Some(n_bytes) = len.checked_mul(size_of::<T>()) else {
            let n_bytes = usize::MAX;
            return Err(OutOfMemory { n_bytes });
        };
        let (block, dirty) = self.take(category, n_bytes)?;
        Ok(Buffer::zeroed(block, len, &dirty))
    }

    /// Allocates a block; returns it with its ranges that may not be zero.
    fn take(&self, category: Category, n_bytes: usize) -> Result<(Block, Vec<Range>), OutOfMemory> {
        let shared = &self.0;
        if n_bytes == 0 {
            return Ok((Block::EMPTY, Vec::new()));
        }
        shared.fault(n_bytes)?;
        if n_bytes > MAX_SMALL {
            return shared.take_of(&shared.cpu, category, n_bytes);
        }
        // Aligned here: glibc's aligned allocation splits off the bytes before the block, and
        // loading models repeatedly would fragment the heap.
        let len = n_bytes.next_multiple_of(ALIGNMENT);
        let mut vec = Vec::new();
        (vec.try_reserve_exact(len + ALIGNMENT - 1)).map_err(|_| OutOfMemory { n_bytes })?;
        vec.resize(len + ALIGNMENT - 1, 0);
        shared.heap_bytes.fetch_add(vec.len(), Ordering::Relaxed);
        let start = vec.as_mut_ptr().expose_provenance();
        let range = (start.next_multiple_of(ALIGNMENT), len);
        let block = Block::new(shared, category, range, Place::Heap(vec));
        Ok((block, Vec::new()))
    }

    /// Counts memory that the pool does not own, such as a part of a mapped file.
    pub fn count(&self, category: Category, n_bytes: usize) -> Counted {
        self.0.count(category, n_bytes);
        Counted {
            pool: self.clone(),
            category,
            n_bytes,
        }
    }

    /// Returns the memory in use. It is exact if no other thread allocates concurrently.
    pub fn usage(&self) -> Usage {
        let regions: usize = self.0.parts().iter().map(|part| part.n_mapped()).sum();
        let small = self.0.heap_bytes.load(Ordering::Relaxed);
        self.0.totals.usage(regions + small)
    }

    /// Returns all free memory to the system.
    pub fn trim(&self) {
        self.0.parts().iter().for_each(|part| part.trim(0));
    }

    /// Adds a device; [`allocate_on`](Self::allocate_on) allocates its buffers.
    pub fn add_device(&self, allocator: Box<dyn DeviceAllocator>) -> DeviceId {
        let mut devices = lock(&self.0.devices);
        devices.push(Arc::new(Part::new(allocator)));
        DeviceId(devices.len() - 1)
    }

    /// Allocates a device buffer of at least `n_bytes`, aligned to the granule of its
    /// allocator. Its contents are unspecified.
    ///
    /// # Errors
    ///
    /// Returns an error if the device is out of memory.
    ///
    /// # Panics
    ///
    /// Panics if the device belongs to another pool.
    pub fn allocate_on(&self, device: DeviceId, n_bytes: usize) -> Result<Block, OutOfMemory> {
        if n_bytes == 0 {
            return Ok(Block::EMPTY);
        }
        self.0.fault(n_bytes)?;
        let part = Arc::clone(&lock(&self.0.devices)[device.0]);
        Ok(self.0.take_of(&part, Category::Device, n_bytes)?.0)
    }

    /// Makes one non-empty allocation fail, after `n` successful ones: 0 is the next. For
    /// tests of error handling.
    pub fn fail_nth(&self, n: u32) {
        self.0.until_fault.store(n.into(), Ordering::Relaxed);
    }

    /// Cancels [`fail_nth`](Self::fail_nth) and returns whether an allocation has failed
    /// since.
    pub fn end_fault(&self) -> bool {
        self.0.until_fault.swap(NO_FAULT, Ordering::Relaxed) < 0
    }
}

impl fmt::Debug for HybridMemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (f.debug_struct("HybridMemoryPool"))
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.pool.0.uncount(self.category, self.n_bytes);
    }
}

impl Shared {
    fn fault(&self, n_bytes: usize) -> Result<(), OutOfMemory> {
        if self.until_fault.load(Ordering::Relaxed) != NO_FAULT
            && self.until_fault.fetch_sub(1, Ordering::Relaxed) == 0
        {
            return Err(OutOfMemory { n_bytes });
        }
        Ok(())
    }

    pub(super) fn count(&self, category: Category, n_bytes: usize) {
        if self.is_tracked {
            self.totals.add(category, n_bytes);
        }
    }

    pub(super) fn uncount(&self, category: Category, n_bytes: usize) {
        if self.is_tracked {
            self.totals.remove(category, n_bytes);
        }
    }

    pub(super) fn uncount_heap(&self, n_bytes: usize) {
        self.heap_bytes.fetch_sub(n_bytes, Ordering::Relaxed);
    }

    /// Allocates a large block; returns it with its ranges that may not be zero.
    fn take_of(
        self: &Arc<Self>,
        part: &Arc<Part>,
        category: Category,
        n_bytes: usize,
    ) -> Result<(Block, Vec<Range>), OutOfMemory> {
        let (range, dirty) = part.take(n_bytes)?;
        let block = Block::new(self, category, range, Place::Extent(Arc::clone(part)));
        Ok((block, dirty))
    }

    /// Returns the parts of all devices, the CPU first.
    fn parts(&self) -> Vec<Arc<Part>> {
        let devices = lock(&self.devices);
        std::iter::once(&self.cpu)
            .chain(devices.iter())
            .cloned()
            .collect()
    }
}

/// The large blocks of one device.
pub(super) struct Part {
    allocator: Box<dyn DeviceAllocator>,
    granule: usize,
    extents: Mutex<Extents>,
}

impl Part {
    fn new(allocator: Box<dyn DeviceAllocator>) -> Self {
        Self {
            granule: allocator.granule(),
            allocator,
            extents: Mutex::default(),
        }
    }

    fn n_mapped(&self) -> usize {
        lock(&self.extents).n_mapped()
    }

    /// Allocates at least `n_bytes`; returns the range and those parts of it that may not
    /// be zero.
    fn take(&self, n_bytes: usize) -> Result<(Range, Vec<Range>), OutOfMemory> {
        let out_of_memory = OutOfMemory { n_bytes };
        let len = n_bytes.checked_next_multiple_of(self.granule);
        let len = len.ok_or(out_of_memory)?;
        let mut extents = lock(&self.extents);
        if let Some((address, dirty)) = extents.take(len) {
            return Ok(((address, len), dirty));
        }
        let step = (extents.n_mapped() / 4).clamp(MIN_STEP, MAX_STEP);
        let step = step.max(len).checked_next_multiple_of(MIN_STEP);
        let step = step.ok_or(out_of_memory)?;
        let region = match self.allocator.map(step) {
            Ok(address) => (address, step),
            // If memory is scarce, map only what is needed.
            Err(_) => (self.allocator.map(len).map_err(|_| out_of_memory)?, len),
        };
        extents.add_region(region.0, region.1);
        let (address, dirty) = extents.take(len).expect("the region is long enough");
        Ok(((address, len), dirty))
    }

    /// Releases a block. Free memory beyond the larger of [`MIN_KEPT`] and an eighth of
    /// the bytes in use is returned to the device.
    pub(super) fn give(&self, address: usize, n_bytes: usize) {
        let n_kept = {
            let mut extents = lock(&self.extents);
            let is_region_free = extents.give(address, n_bytes);
            let n_kept = MIN_KEPT.max((extents.n_mapped() - extents.n_free()) / 8);
            let n_idle = if is_region_free {
                extents.n_free()
            } else {
                extents.n_dirty()
            };
            if n_idle <= n_kept {
                return;
            }
            n_kept
        };
        self.trim(n_kept);
    }

    /// Unmaps free regions until at most `keep` bytes are free, and purges all other free
    /// ranges.
    fn trim(&self, keep: usize) {
        let mut extents = lock(&self.extents);
        for (address, n_bytes) in extents.take_free_regions(keep) {
            // SAFETY: the region was mapped by `take`, and all of it was free.
            unsafe { self.allocator.unmap(address, n_bytes) };
        }
        extents.purge(|address, n_bytes| {
            // SAFETY: the range is free, and stays so while the lock is held.
            unsafe { self.allocator.purge(address, n_bytes) }
        });
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Every block holds a reference to its part, so all regions are free.
        self.trim(0);
    }
}

/// Locks and ignores poisoning: a panic while the lock is held leaves the state consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
