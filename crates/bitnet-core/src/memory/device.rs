//! The sources of memory: the system or a device.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::OutOfMemory;

/// Maps memory of one device in large regions, which a pool subdivides.
///
/// A region is a range of addresses in the device's own address space: a device whose
/// buffers have no addresses assigns numbers, far enough apart.
pub trait DeviceAllocator: fmt::Debug + Send + Sync {
    /// Returns the granule of all addresses and sizes in bytes, a power of two.
    fn granule(&self) -> usize;

    /// Maps a zeroed region of `n_bytes` and returns its address, which is not 0.
    ///
    /// # Errors
    ///
    /// Returns an error if the device is out of memory.
    fn map(&self, n_bytes: usize) -> Result<usize, OutOfMemory>;

    /// Unmaps a region.
    ///
    /// # Safety
    ///
    /// `map` returned `address` for `n_bytes`, and the region is not in use.
    unsafe fn unmap(&self, address: usize, n_bytes: usize);

    /// Returns the physical memory of a part of a region to the device, if it supports
    /// this, and returns whether it did: the part then reads as zeros.
    ///
    /// # Safety
    ///
    /// The part lies in a region and is not in use.
    unsafe fn purge(&self, address: usize, n_bytes: usize) -> bool {
        let _ = (address, n_bytes);
        false
    }
}

/// The machine's memory: anonymous mappings, on huge pages where available. NUMA placement
/// is first-touch.
#[derive(Debug, Default)]
pub(super) struct SystemMemory {
    /// Keyed by the address of the region.
    mappings: Mutex<BTreeMap<usize, Mapping>>,
}

#[cfg(any(unix, windows))]
type Mapping = memmap2::MmapMut;

/// Without memory mappings (WebAssembly): memory of the system's allocator.
#[cfg(not(any(unix, windows)))]
type Mapping = Vec<u8>;

/// Allocates zeroed memory; returns `None` if there is not enough.
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

/// The usual huge page size in bytes; a page where memory is not mapped (WebAssembly), since
/// margins for alignment take memory there.
pub(super) const HUGE_PAGE: usize = if cfg!(any(unix, windows)) {
    2 << 20
} else {
    64 << 10
};

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
        // The margin makes room for alignment; it is never touched where memory is mapped.
        let with_margin = n_bytes.checked_add(HUGE_PAGE).ok_or(out_of_memory)?;
        if isize::try_from(with_margin).is_err() {
            return Err(out_of_memory);
        }
        let mapping = map_zeros(with_margin).ok_or(out_of_memory)?;
        let start = mapping.as_ptr().expose_provenance();
        let address = start.next_multiple_of(HUGE_PAGE);
        // A hint, without effect where the system has no huge pages.
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
        // SAFETY: by the contract, this part of the mapping is not in use.
        let advised = unsafe {
            mapping.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, n_bytes)
        };
        advised.is_ok()
    }
}
