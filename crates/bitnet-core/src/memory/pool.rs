//! The pool: its parts behind one handle.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytemuck::Zeroable;

use super::block::{Block, Buffer};
use super::cache;
use super::device::{DeviceAllocator, HUGE_PAGE, SystemMemory};
use super::extents::{Extents, Range};
use super::slabs::{Classes, MAX_CLASSES, MAX_SMALL, Slabs, slab_bytes};
use super::tracking::{Category, Pending, Totals, Usage};
use super::{OutOfMemory, Place};

/// The least and the most by which a part grows, if no block asks for more;
/// between them, a quarter of what it has.
const MIN_STEP: usize = HUGE_PAGE;
const MAX_STEP: usize = 64 << 20;

/// Free bytes that a part keeps at least; otherwise an eighth of what is in use.
const MIN_KEPT: usize = 8 << 20;

/// Owns every large byte of a program that runs models: weights, keys and values,
/// scratch, device buffers.
///
/// It has three parts behind one handle, [`Block`]:
///
/// - Blocks up to 64 KiB are cut from slabs of one size each, and kept at hand by
///   each thread. Sizes that are asked for often get slabs of their own.
/// - Larger ones are cut from regions, where they fit best, and joined with their
///   free neighbours when they come back.
/// - Those of other devices are cut from the device's regions in the same way.
///
/// Regions are mapped when they are needed, in growing steps, and given back when
/// they are free and more than an eighth of what is in use; [`trim`](Self::trim)
/// gives back all that is free. Memory that nobody wrote to takes none of the
/// machine's.
///
/// Clones are the same pool. Blocks may outlive all of them.
#[derive(Clone)]
pub struct HybridMemoryPool(Arc<Handle>);

/// Owns a pool: what stays when it is dropped is for the next one.
struct Handle(&'static Shared);

/// A device that was added to a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId(u8);

/// Memory of others that a pool counts until this is dropped.
#[derive(Debug)]
pub struct Counted {
    pool: HybridMemoryPool,
    category: Category,
    n_bytes: usize,
}

/// What all threads share of a pool. It is never freed, so that a block needs no
/// count of who uses it; pools take those over of which nothing is in use.
pub(super) struct Shared {
    pub(super) classes: Classes,
    slabs: [Mutex<Slabs>; MAX_CLASSES],
    cpu: Part,
    devices: RwLock<Vec<Arc<Part>>>,
    pub(super) totals: Totals,
    threads: Mutex<Vec<Arc<Pending>>>,
    pub(super) flags: Flags,
    /// Allocations before the one that fails.
    until_fault: AtomicI64,
}

/// What every allocation looks at, and hardly anybody writes: apart from what
/// threads write all the time.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Flags {
    is_tracked: AtomicBool,
    /// Whether there is no handle any more.
    is_retired: AtomicBool,
    has_fault: AtomicBool,
}

impl Flags {
    #[inline]
    pub(super) fn is_tracked(&self) -> bool {
        self.is_tracked.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }
}

/// Pools without a handle.
static RETIRED: Mutex<Vec<&'static Shared>> = Mutex::new(Vec::new());

impl Default for HybridMemoryPool {
    fn default() -> Self {
        Self::new()
    }
}

impl HybridMemoryPool {
    /// Returns an empty pool. It takes memory when it is asked for some.
    pub fn new() -> Self {
        Self::with_tracking(true)
    }

    /// Returns an empty pool that counts nothing, to measure what counting costs.
    pub fn untracked() -> Self {
        Self::with_tracking(false)
    }

    fn with_tracking(is_tracked: bool) -> Self {
        let mut retired = lock(&RETIRED);
        let unused = retired.iter().position(|shared| shared.reset_if_unused());
        let shared = match unused {
            Some(i) => retired.swap_remove(i),
            None => Box::leak(Box::new(Shared::new())),
        };
        shared.flags.is_tracked.store(is_tracked, Ordering::Relaxed);
        Self(Arc::new(Handle(shared)))
    }

    fn shared(&self) -> &'static Shared {
        self.0.0
    }

    /// Takes a block of at least `n_bytes`, aligned to [`ALIGNMENT`]. Its contents
    /// are not specified.
    ///
    /// [`ALIGNMENT`]: super::ALIGNMENT
    #[inline]
    pub fn allocate(&self, category: Category, n_bytes: usize) -> Result<Block, OutOfMemory> {
        let shared = self.shared();
        shared.fault(n_bytes)?;
        let (address, n_bytes, place) = if n_bytes > MAX_SMALL {
            let (address, len, _) = shared.cpu.take(n_bytes)?;
            shared.count(category, len as isize, 1);
            (address, len, Place::Extent)
        } else if n_bytes > 0 {
            cache::take(shared, category, n_bytes)?
        } else {
            return Ok(Block::EMPTY);
        };
        Ok(Block::new(shared, category, (address, n_bytes), place))
    }

    /// Takes a buffer of `len` values, all bytes zero. Large ones are not touched
    /// for this, if their memory comes from the system.
    pub fn zeroed<T: Copy + Zeroable>(
        &self,
        category: Category,
        len: usize,
    ) -> Result<Buffer<T>, OutOfMemory> {
        let Some(n_bytes) = len.checked_mul(size_of::<T>()) else {
            let n_bytes = usize::MAX;
            return Err(OutOfMemory { n_bytes });
        };
        if n_bytes <= MAX_SMALL {
            let block = self.allocate(category, n_bytes)?;
            let dirty = [(block.address(), n_bytes)];
            return Ok(Buffer::zeroed(block, len, &dirty));
        }
        let shared = self.shared();
        shared.fault(n_bytes)?;
        let (address, n_bytes, dirty) = shared.cpu.take(n_bytes)?;
        shared.count(category, n_bytes as isize, 1);
        let block = Block::new(shared, category, (address, n_bytes), Place::Extent);
        Ok(Buffer::zeroed(block, len, &dirty))
    }

    /// Counts memory that others hold, such as a part of a mapped file.
    pub fn count(&self, category: Category, n_bytes: usize) -> Counted {
        self.shared().count(category, n_bytes as isize, 1);
        Counted {
            pool: self.clone(),
            category,
            n_bytes,
        }
    }

    /// Returns what is in use. Exact when no other thread allocates meanwhile.
    pub fn usage(&self) -> Usage {
        let shared = self.shared();
        let threads = lock(&shared.threads);
        let mapped = shared.parts(Part::n_mapped).sum();
        let pending = threads.iter().map(|pending| &**pending);
        (shared.totals).usage(&shared.classes, pending, mapped)
    }

    /// Gives back to the system all that is free, but for the small blocks that
    /// other threads keep at hand (at most half a mebibyte of each size, while they
    /// run).
    pub fn trim(&self) {
        self.shared().trim();
    }

    /// Adds a device, whose buffers [`allocate_on`](Self::allocate_on) gives.
    ///
    /// # Panics
    ///
    /// Panics if there are 256 already.
    pub fn add_device(&self, allocator: Box<dyn DeviceAllocator>) -> DeviceId {
        let devices = &self.shared().devices;
        let mut devices = devices.write().unwrap_or_else(PoisonError::into_inner);
        let device = u8::try_from(devices.len()).expect("at most 256 devices");
        devices.push(Arc::new(Part::new(allocator)));
        DeviceId(device)
    }

    /// Takes a buffer of at least `n_bytes` of a device, aligned as its allocator
    /// says. Its contents are not specified.
    ///
    /// # Panics
    ///
    /// Panics if the device belongs to another pool.
    pub fn allocate_on(&self, device: DeviceId, n_bytes: usize) -> Result<Block, OutOfMemory> {
        let shared = self.shared();
        if n_bytes == 0 {
            return Ok(Block::EMPTY);
        }
        shared.fault(n_bytes)?;
        let (address, len, _) = shared.device(device.0).take(n_bytes)?;
        shared.count(Category::Device, len as isize, 1);
        let place = Place::Device(device.0);
        Ok(Block::new(shared, Category::Device, (address, len), place))
    }

    /// Makes one allocation fail: the next one that is not empty, if `n` is 0, the
    /// one after it, if `n` is 1, and so on. For tests of what happens then.
    pub fn fail_nth(&self, n: u32) {
        let shared = self.shared();
        shared.until_fault.store(n.into(), Ordering::Relaxed);
        shared.flags.has_fault.store(true, Ordering::Relaxed);
    }

    /// Lets no further allocation fail and returns whether one did since
    /// [`fail_nth`](Self::fail_nth).
    pub fn end_fault(&self) -> bool {
        let shared = self.shared();
        shared.flags.has_fault.store(false, Ordering::Relaxed);
        shared.until_fault.load(Ordering::Relaxed) < 0
    }
}

impl fmt::Debug for HybridMemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (f.debug_struct("HybridMemoryPool"))
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let shared = self.0;
        shared.flags.is_retired.store(true, Ordering::Relaxed);
        shared.trim();
        lock(&RETIRED).push(shared);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let shared = self.pool.shared();
        shared.count(self.category, -(self.n_bytes as isize), -1);
    }
}

impl Shared {
    fn new() -> Self {
        Self {
            classes: Classes::new(),
            slabs: std::array::from_fn(|_| Mutex::default()),
            cpu: Part::new(Box::new(SystemMemory::default())),
            devices: RwLock::default(),
            totals: Totals::default(),
            threads: Mutex::default(),
            flags: Flags {
                is_tracked: AtomicBool::new(true),
                is_retired: AtomicBool::new(false),
                has_fault: AtomicBool::new(false),
            },
            until_fault: AtomicI64::new(0),
        }
    }

    /// Makes a retired pool new again, unless something of it is in use or kept by
    /// another thread. As there is no handle, nothing can come to be in use.
    fn reset_if_unused(&'static self) -> bool {
        self.trim();
        if self.parts(Part::n_mapped).sum::<usize>() > 0 {
            return false;
        }
        let devices = self.devices.write();
        devices.unwrap_or_else(PoisonError::into_inner).clear();
        self.totals.reset();
        for pending in lock(&self.threads).iter() {
            pending.reset();
        }
        self.flags.is_retired.store(false, Ordering::Relaxed);
        self.flags.has_fault.store(false, Ordering::Relaxed);
        true
    }

    #[inline]
    fn fault(&self, n_bytes: usize) -> Result<(), OutOfMemory> {
        if self.flags.has_fault.load(Ordering::Relaxed)
            && n_bytes > 0
            && self.until_fault.fetch_sub(1, Ordering::Relaxed) == 0
        {
            return Err(OutOfMemory { n_bytes });
        }
        Ok(())
    }

    pub(super) fn count(&self, category: Category, bytes: isize, blocks: isize) {
        if self.flags.is_tracked() {
            self.totals.add(category, bytes, blocks);
        }
    }

    /// Registers a thread that counts by itself.
    pub(super) fn add_thread(&self) -> Arc<Pending> {
        let pending = Arc::new(Pending::new());
        lock(&self.threads).push(Arc::clone(&pending));
        pending
    }

    pub(super) fn remove_thread(&self, pending: &Arc<Pending>) {
        let mut threads = lock(&self.threads);
        threads.retain(|other| !Arc::ptr_eq(other, pending));
        pending.flush_all(self);
    }

    /// Moves up to `n` blocks of a class, and at least one, to `out`.
    pub(super) fn fetch(
        &self,
        class: usize,
        n: usize,
        out: &mut Vec<usize>,
    ) -> Result<(), OutOfMemory> {
        let mut slabs = lock(&self.slabs[class]);
        if !slabs.take(n, out) {
            let block_bytes = self.classes.block_bytes(class);
            let n_bytes = slab_bytes(block_bytes);
            let (address, n_bytes, _) = self.cpu.take(n_bytes)?;
            slabs.add(address, n_bytes, block_bytes);
            slabs.take(n, out);
        }
        Ok(())
    }

    /// Gives back blocks of a class.
    pub(super) fn give_blocks(&self, class: usize, blocks: impl IntoIterator<Item = usize>) {
        let mut slabs = lock(&self.slabs[class]);
        slabs.give(blocks);
        let keep = usize::from(!self.flags.is_retired());
        while let Some((address, n_bytes)) = slabs.take_idle(keep) {
            self.cpu.give(address, n_bytes, keep * MIN_KEPT);
        }
    }

    /// Gives back a large block.
    pub(super) fn give_large(&self, category: Category, address: usize, n_bytes: usize) {
        self.count(category, -(n_bytes as isize), -1);
        let keep = if self.flags.is_retired() { 0 } else { MIN_KEPT };
        self.cpu.give(address, n_bytes, keep);
    }

    /// Gives back a buffer of a device.
    pub(super) fn give_device(&self, device: u8, address: usize, n_bytes: usize) {
        self.count(Category::Device, -(n_bytes as isize), -1);
        let keep = if self.flags.is_retired() { 0 } else { MIN_KEPT };
        self.device(device).give(address, n_bytes, keep);
    }

    fn trim(&'static self) {
        cache::flush(self);
        for slabs in &self.slabs {
            let mut slabs = lock(slabs);
            while let Some((address, n_bytes)) = slabs.take_idle(0) {
                self.cpu.give(address, n_bytes, MIN_KEPT);
            }
        }
        self.parts(|part| part.trim(0)).for_each(drop);
    }

    fn device(&self, device: u8) -> Arc<Part> {
        let devices = self.devices.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&devices[device as usize])
    }

    /// Calls `f` on the part of every device, the CPU first.
    fn parts<T>(&self, f: impl Fn(&Part) -> T) -> impl Iterator<Item = T> {
        let devices = self.devices.read().unwrap_or_else(PoisonError::into_inner);
        let parts = std::iter::once(&self.cpu).chain(devices.iter().map(|part| &**part));
        parts.map(f).collect::<Vec<_>>().into_iter()
    }
}

/// The large blocks of one device.
struct Part {
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

    /// Takes at least `n_bytes`; returns address, bytes, and what of them may not
    /// be zeros.
    fn take(&self, n_bytes: usize) -> Result<(usize, usize, Vec<Range>), OutOfMemory> {
        let out_of_memory = OutOfMemory { n_bytes };
        let len = n_bytes.checked_next_multiple_of(self.granule);
        let len = len.ok_or(out_of_memory)?;
        let mut extents = lock(&self.extents);
        if let Some((address, dirty)) = extents.take(len) {
            return Ok((address, len, dirty));
        }
        let step = (extents.n_mapped() / 4).clamp(MIN_STEP, MAX_STEP);
        let step = step.max(len).checked_next_multiple_of(MIN_STEP);
        let step = step.ok_or(out_of_memory)?;
        let region = match self.allocator.map(step) {
            Ok(address) => (address, step),
            // Where memory is scarce, no more than needed.
            Err(_) => (self.allocator.map(len).map_err(|_| out_of_memory)?, len),
        };
        extents.add_region(region.0, region.1);
        let (address, dirty) = extents.take(len).expect("the region is long enough");
        Ok((address, len, dirty))
    }

    /// Gives back a block, and to the device what is more than `min_kept` and an
    /// eighth of what is in use.
    fn give(&self, address: usize, n_bytes: usize, min_kept: usize) {
        let n_kept = {
            let mut extents = lock(&self.extents);
            let is_region_free = extents.give(address, n_bytes);
            let n_kept = min_kept.max((extents.n_mapped() - extents.n_free()) / 8);
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

    /// Gives back regions that are free until at most `keep` bytes are, and what
    /// stands behind all other free ranges.
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

/// Locks; a thread that panicked elsewhere while it held the lock left nothing
/// half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
