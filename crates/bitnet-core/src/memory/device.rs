//! Where memory comes from: the machine's own, or a device's.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::OutOfMemory;

/// Gives memory of one device in large regions, which a pool cuts up.
///
/// A region is a range of addresses. They are the device's own: a device whose
/// buffers have no addresses numbers them, far enough apart.
pub trait DeviceAllocator: fmt::Debug + Send + Sync {
    /// Returns what all addresses and sizes are multiples of, a power of two.
    fn granule(&self) -> usize;

    /// Takes a region of zeros and returns its address, not 0.
    fn map(&self, n_bytes: usize) -> Result<usize, OutOfMemory>;

    /// Gives back a region.
    ///
    /// # Safety
    ///
    /// `map` returned `address` for `n_bytes`, and nobody uses the region.
    unsafe fn unmap(&self, address: usize, n_bytes: usize);

    /// Gives back what stands behind a part of a region, if the device can, and
    /// returns whether it did: the part then reads as zeros.
    ///
    /// # Safety
    ///
    /// The part lies in a region, and nobody uses it.
    unsafe fn purge(&self, address: usize, n_bytes: usize) -> bool {
        let _ = (address, n_bytes);
        false
    }
}

/// The machine's memory: anonymous mappings, on huge pages where the system
/// gives them. Which node of the machine a page is on is left to who writes to it
/// first.
#[derive(Debug, Default)]
pub(super) struct SystemMemory {
    /// By address of the region.
    mappings: Mutex<BTreeMap<usize, Mapping>>,
}

#[cfg(any(unix, windows))]
type Mapping = memmap2::MmapMut;

/// What the allocator gives, where there are no mappings (WebAssembly).
#[cfg(not(any(unix, windows)))]
type Mapping = Vec<u8>;

/// Takes zeros, if there are as many.
#[cfg(any(unix, windows))]
fn map_zeros(n_bytes: usize) -> Option<Mapping> {
    Mapping::map_anon(n_bytes).ok()
}

#[cfg(not(any(unix, windows)))]
fn map_zeros(n_bytes: usize) -> Option<Mapping> {
    let mut mapping = Mapping::new();
    mapping.try_reserve_exact(n_bytes).ok()?;
    mapping.resize(n_bytes, 0);
    Some(mapping)
}

/// A huge page of most processors.
pub(super) const HUGE_PAGE: usize = 2 << 20;

impl DeviceAllocator for SystemMemory {
    fn granule(&self) -> usize {
        #[cfg(target_os = "linux")]
        {
            rustix::param::page_size()
        }
        #[cfg(not(target_os = "linux"))]
        {
            4096
        }
    }

    fn map(&self, n_bytes: usize) -> Result<usize, OutOfMemory> {
        let out_of_memory = OutOfMemory { n_bytes };
        // So long that it holds an aligned region; the rest is never touched.
        let with_margin = n_bytes.checked_add(HUGE_PAGE).ok_or(out_of_memory)?;
        if isize::try_from(with_margin).is_err() {
            return Err(out_of_memory);
        }
        let mapping = map_zeros(with_margin).ok_or(out_of_memory)?;
        let start = mapping.as_ptr().expose_provenance();
        let address = start.next_multiple_of(HUGE_PAGE);
        // A wish: where the system has no huge pages, nothing changes.
        #[cfg(target_os = "linux")]
        let _ = mapping.advise_range(memmap2::Advice::HugePage, address - start, n_bytes);
        let mut mappings = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        mappings.insert(address, mapping);
        Ok(address)
    }

    unsafe fn unmap(&self, address: usize, _n_bytes: usize) {
        let mut mappings = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        mappings.remove(&address);
    }

    #[cfg(target_os = "linux")]
    unsafe fn purge(&self, address: usize, n_bytes: usize) -> bool {
        let mappings = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, mapping)) = mappings.range(..=address).next_back() else {
            return false;
        };
        let offset = address - mapping.as_ptr().addr();
        // SAFETY: by the contract nobody uses this part of the mapping.
        let advised = unsafe {
            mapping.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, n_bytes)
        };
        advised.is_ok()
    }
}
