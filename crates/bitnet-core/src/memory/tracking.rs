//! How much memory is in use, for what, and how much was at most.

use std::fmt;
use std::sync::atomic::{AtomicIsize, Ordering};

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// Weights in the layouts of the kernels.
    Weights,
    /// Keys and values.
    Kv,
    /// Activations, scores, logits, and whatever else is computed with.
    Scratch,
    /// Buffers of a device other than the CPU.
    Device,
    /// Parts of a mapped file that are used as they are.
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

    /// Returns the name, as reports use it: `weights`, `kv`, `scratch`, `device`,
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
    /// The most bytes that were in use: low by at most a mebibyte for each other
    /// thread that takes small blocks.
    pub peak: usize,
    /// Blocks in use now.
    pub count: usize,
}

/// Memory of a pool, by category.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    by_category: [Amount; N_CATEGORIES],
    /// All categories together. Their peaks may have been at different times, so
    /// this peak is at most the sum.
    pub total: Amount,
    /// Bytes that the pool has from the system and the devices: what its blocks
    /// take, and what it holds in reserve.
    pub mapped: usize,
}

impl Usage {
    /// Returns what is used for a category.
    pub fn of(&self, category: Category) -> Amount {
        self.by_category[category as usize]
    }
}

/// Bytes by which a thread's own count may differ from zero before it is added to
/// the common one.
const MAX_PENDING: isize = 1 << 20;

/// What one thread has taken and given back since it last added it to the common
/// count. Only this thread writes; so it needs no atomic addition.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Pending {
    bytes: [AtomicIsize; N_CATEGORIES],
    blocks: [AtomicIsize; N_CATEGORIES],
}

impl Pending {
    /// Counts `blocks` more blocks of together `bytes`, or fewer if negative.
    #[inline]
    pub(super) fn add(&self, totals: &Totals, category: Category, bytes: isize, blocks: isize) {
        let category_idx = category as usize;
        let n_blocks = &self.blocks[category_idx];
        n_blocks.store(n_blocks.load(Ordering::Relaxed) + blocks, Ordering::Relaxed);
        let n_bytes = &self.bytes[category_idx];
        let pending = n_bytes.load(Ordering::Relaxed) + bytes;
        n_bytes.store(pending, Ordering::Relaxed);
        if pending.unsigned_abs() >= MAX_PENDING.unsigned_abs() {
            self.flush(totals, category);
        }
    }

    /// Adds everything to the common count.
    pub(super) fn flush_all(&self, totals: &Totals) {
        for category in Category::ALL {
            self.flush(totals, category);
        }
    }

    pub(super) fn reset(&self) {
        for n in self.bytes.iter().chain(&self.blocks) {
            n.store(0, Ordering::Relaxed);
        }
    }

    #[cold]
    fn flush(&self, totals: &Totals, category: Category) {
        let bytes = self.bytes[category as usize].swap(0, Ordering::Relaxed);
        let blocks = self.blocks[category as usize].swap(0, Ordering::Relaxed);
        totals.add(category, bytes, blocks);
    }
}

/// The common count.
#[derive(Debug, Default)]
pub(super) struct Totals {
    by_category: [Counter; N_CATEGORIES],
    all: Counter,
}

#[derive(Debug, Default)]
struct Counter {
    bytes: AtomicIsize,
    blocks: AtomicIsize,
    peak: AtomicIsize,
}

impl Counter {
    fn add(&self, bytes: isize, blocks: isize) {
        let now = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.blocks.fetch_add(blocks, Ordering::Relaxed);
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    /// Returns the amount if `bytes` and `blocks` are added.
    fn with(&self, bytes: isize, blocks: isize) -> Amount {
        let now = self.bytes.load(Ordering::Relaxed) + bytes;
        let blocks = self.blocks.load(Ordering::Relaxed) + blocks;
        let peak = self.peak.fetch_max(now, Ordering::Relaxed).max(now);
        // A thread that counts meanwhile may be seen half.
        let unsigned = |n: isize| usize::try_from(n).unwrap_or(0);
        Amount {
            current: unsigned(now),
            peak: unsigned(peak),
            count: unsigned(blocks),
        }
    }

    fn reset(&self) {
        for n in [&self.bytes, &self.blocks, &self.peak] {
            n.store(0, Ordering::Relaxed);
        }
    }
}

impl Totals {
    pub(super) fn add(&self, category: Category, bytes: isize, blocks: isize) {
        self.by_category[category as usize].add(bytes, blocks);
        self.all.add(bytes, blocks);
    }

    /// Returns the usage, with what threads have not added yet.
    pub(super) fn usage<'a>(
        &self,
        pending: impl Iterator<Item = &'a Pending>,
        mapped: usize,
    ) -> Usage {
        let (mut bytes, mut blocks) = ([0; N_CATEGORIES], [0; N_CATEGORIES]);
        for pending in pending {
            for i in 0..N_CATEGORIES {
                bytes[i] += pending.bytes[i].load(Ordering::Relaxed);
                blocks[i] += pending.blocks[i].load(Ordering::Relaxed);
            }
        }
        Usage {
            by_category: std::array::from_fn(|i| self.by_category[i].with(bytes[i], blocks[i])),
            total: self.all.with(bytes.iter().sum(), blocks.iter().sum()),
            mapped,
        }
    }

    pub(super) fn reset(&self) {
        self.by_category.iter().for_each(Counter::reset);
        self.all.reset();
    }
}
