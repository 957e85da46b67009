//! How much memory is in use, for what, and how much was at most.

use std::fmt;
use std::sync::atomic::{AtomicIsize, Ordering};

use super::pool::Shared;
use super::slabs::{Classes, MAX_CLASSES};

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
    /// The most bytes that were in use. Small blocks are added up when a thread
    /// fetches more of their size or gives some back, so it may be off by half a
    /// mebibyte for each thread and size of small blocks.
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

/// Small blocks that one thread has taken, and not given back, since it last added
/// them to the common count. Only this thread writes; so it needs no atomic
/// addition.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Pending {
    by_class: [[AtomicIsize; N_CATEGORIES]; MAX_CLASSES],
}

impl Pending {
    pub(super) fn new() -> Self {
        Self {
            by_class: std::array::from_fn(|_| Default::default()),
        }
    }

    /// Counts `blocks` more blocks of a class, or fewer if negative.
    #[inline]
    pub(super) fn add(&self, class: usize, category: Category, blocks: isize) {
        let n_blocks = &self.by_class[class][category as usize];
        n_blocks.store(n_blocks.load(Ordering::Relaxed) + blocks, Ordering::Relaxed);
    }

    /// Adds the blocks of a class to the common count.
    pub(super) fn flush(&self, pool: &Shared, class: usize) {
        let block_bytes = pool.classes.block_bytes(class) as isize;
        for category in Category::ALL {
            let blocks = self.by_class[class][category as usize].swap(0, Ordering::Relaxed);
            if blocks != 0 {
                pool.totals.add(category, blocks * block_bytes, blocks);
            }
        }
    }

    /// Adds everything to the common count.
    pub(super) fn flush_all(&self, pool: &Shared) {
        for class in 0..MAX_CLASSES {
            self.flush(pool, class);
        }
    }

    pub(super) fn reset(&self) {
        for n in self.by_class.as_flattened() {
            n.store(0, Ordering::Relaxed);
        }
    }
}

/// The common count.
#[derive(Debug, Default)]
pub(super) struct Totals {
    by_category: [Counter; N_CATEGORIES],
    /// The most bytes of all categories together.
    peak: AtomicIsize,
}

#[derive(Debug, Default)]
struct Counter {
    bytes: AtomicIsize,
    blocks: AtomicIsize,
    peak: AtomicIsize,
}

/// Raises a peak, and returns it. Mostly it is only looked at.
fn raise(peak: &AtomicIsize, now: isize) -> isize {
    let before = peak.load(Ordering::Relaxed);
    if now <= before {
        return before;
    }
    peak.fetch_max(now, Ordering::Relaxed).max(now)
}

/// A thread that counts meanwhile may be seen half.
fn unsigned(n: isize) -> usize {
    usize::try_from(n).unwrap_or(0)
}

impl Totals {
    pub(super) fn add(&self, category: Category, bytes: isize, blocks: isize) {
        let counter = &self.by_category[category as usize];
        let now = counter.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        counter.blocks.fetch_add(blocks, Ordering::Relaxed);
        if bytes > 0 {
            raise(&counter.peak, now);
            let all = self
                .by_category
                .iter()
                .map(|c| c.bytes.load(Ordering::Relaxed));
            raise(&self.peak, all.sum());
        }
    }

    /// Returns the usage, with what threads have not added yet.
    pub(super) fn usage<'a>(
        &self,
        classes: &Classes,
        pending: impl Iterator<Item = &'a Pending>,
        mapped: usize,
    ) -> Usage {
        let (mut bytes, mut blocks) = ([0; N_CATEGORIES], [0; N_CATEGORIES]);
        for pending in pending {
            for (class, by_category) in pending.by_class.iter().enumerate() {
                let block_bytes = classes.block_bytes(class) as isize;
                for (i, n) in by_category.iter().enumerate() {
                    let n = n.load(Ordering::Relaxed);
                    bytes[i] += n * block_bytes;
                    blocks[i] += n;
                }
            }
        }
        let amount = |i: usize| {
            let counter = &self.by_category[i];
            let bytes = counter.bytes.load(Ordering::Relaxed) + bytes[i];
            let blocks = counter.blocks.load(Ordering::Relaxed) + blocks[i];
            Amount {
                current: unsigned(bytes),
                peak: unsigned(raise(&counter.peak, bytes)),
                count: unsigned(blocks),
            }
        };
        let by_category: [Amount; N_CATEGORIES] = std::array::from_fn(amount);
        let current = by_category.iter().map(|amount| amount.current).sum();
        let total = Amount {
            current,
            peak: unsigned(raise(&self.peak, current as isize)),
            count: by_category.iter().map(|amount| amount.count).sum(),
        };
        Usage {
            by_category,
            total,
            mapped,
        }
    }

    pub(super) fn reset(&self) {
        for counter in &self.by_category {
            for n in [&counter.bytes, &counter.blocks, &counter.peak] {
                n.store(0, Ordering::Relaxed);
            }
        }
        self.peak.store(0, Ordering::Relaxed);
    }
}
