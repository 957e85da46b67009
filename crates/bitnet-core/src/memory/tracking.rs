//! Memory usage: current and peak, by category.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The purpose of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// Weights in the layouts of the kernels.
    Weights,
    /// Keys and values.
    Kv,
    /// Activations, scores, logits, and other temporary buffers.
    Scratch,
    /// Buffers of a device other than the CPU.
    Device,
    /// Parts of a mapped file that are used in place.
    MappedFile,
}

impl Category {
    /// All categories.
    pub const ALL: [Self; N_CATEGORIES] = [
        Self::Weights,
        Self::Kv,
        Self::Scratch,
        Self::Device,
        Self::MappedFile,
    ];

    /// Returns the name used in reports: `weights`, `kv`, `scratch`, `device`,
    /// `mapped_file`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Kv => "kv",
            Self::Scratch => "scratch",
            Self::Device => "device",
            Self::MappedFile => "mapped_file",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const N_CATEGORIES: usize = 5;

/// Memory in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes in use now.
    pub current: usize,
    /// The maximum number of bytes in use.
    pub peak: usize,
    /// Blocks in use now.
    pub count: usize,
}

/// Memory of a pool, by category.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    by_category: [Amount; N_CATEGORIES],
    /// The total of all categories. Categories may peak at different times, so this peak is
    /// at most the sum of theirs.
    pub total: Amount,
    /// Bytes mapped from the system and the devices, in use or held in reserve.
    pub mapped: usize,
}

impl Usage {
    /// Returns the usage of a category.
    pub fn of(&self, category: Category) -> Amount {
        self.by_category[category as usize]
    }
}

/// The counters that all threads update. Each update is atomic by itself: a concurrent
/// reader may see bytes without their block.
#[derive(Debug, Default)]
pub(super) struct Totals {
    by_category: [Counter; N_CATEGORIES],
    /// The peak of all categories together, in bytes.
    peak: AtomicUsize,
}

#[derive(Debug, Default)]
struct Counter {
    bytes: AtomicUsize,
    blocks: AtomicUsize,
    peak: AtomicUsize,
}

/// Raises a peak. It usually needs only the load.
fn raise(peak: &AtomicUsize, now: usize) {
    if now > peak.load(Ordering::Relaxed) {
        peak.fetch_max(now, Ordering::Relaxed);
    }
}

impl Totals {
    /// Counts a block.
    pub(super) fn add(&self, category: Category, n_bytes: usize) {
        let counter = &self.by_category[category as usize];
        let now = counter.bytes.fetch_add(n_bytes, Ordering::Relaxed) + n_bytes;
        counter.blocks.fetch_add(1, Ordering::Relaxed);
        raise(&counter.peak, now);
        let all = (self.by_category.iter()).map(|counter| counter.bytes.load(Ordering::Relaxed));
        raise(&self.peak, all.sum());
    }

    /// Removes a block from the counts.
    pub(super) fn remove(&self, category: Category, n_bytes: usize) {
        let counter = &self.by_category[category as usize];
        counter.bytes.fetch_sub(n_bytes, Ordering::Relaxed);
        counter.blocks.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the usage of a pool that has mapped `mapped` bytes.
    pub(super) fn usage(&self, mapped: usize) -> Usage {
        let by_category = self.by_category.each_ref().map(|counter| Amount {
            current: counter.bytes.load(Ordering::Relaxed),
            peak: counter.peak.load(Ordering::Relaxed),
            count: counter.blocks.load(Ordering::Relaxed),
        });
        let total = Amount {
            current: by_category.iter().map(|amount| amount.current).sum(),
            peak: self.peak.load(Ordering::Relaxed),
            count: by_category.iter().map(|amount| amount.count).sum(),
        };
        Usage {
            by_category,
            total,
            mapped,
        }
    }
}
