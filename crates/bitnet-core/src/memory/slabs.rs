//! Small blocks: size classes, and the slabs that their blocks are cut from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ALIGNMENT;

/// The largest small block.
pub(super) const MAX_SMALL: usize = 64 << 10;

/// The most classes.
pub(super) const MAX_CLASSES: usize = 64;

/// Sizes in units of [`ALIGNMENT`].
const N_SIZES: usize = MAX_SMALL / ALIGNMENT + 1;

/// Bytes lost to rounding one size up, after which it has a class of its own.
const WASTE_WORTH_A_CLASS: u32 = 128 << 10;

/// The least bytes and blocks of a slab.
const SLAB_BYTES: usize = 64 << 10;
const SLAB_BLOCKS: usize = 8;

/// Which sizes have blocks of their own.
///
/// At first there are four classes between a size and its double, so that a block
/// is at most a quarter larger than what was asked for. A size whose rounding has
/// cost enough gets its own class. Only blocks that a thread did not have at hand
/// are counted for this: one that goes back and forth costs nothing to speak of.
#[derive(Debug)]
pub(super) struct Classes {
    /// The class of each size.
    of_size: [AtomicU8; N_SIZES],
    /// Bytes of the blocks of each class.
    block_bytes: [AtomicU32; MAX_CLASSES],
    learnt: Mutex<Learnt>,
}

#[derive(Debug)]
struct Learnt {
    n_classes: usize,
    /// Bytes lost so far to rounding up each size.
    waste: Vec<u32>,
}

impl Classes {
    pub(super) fn new() -> Self {
        let classes = Self {
            of_size: std::array::from_fn(|_| AtomicU8::new(0)),
            block_bytes: std::array::from_fn(|_| AtomicU32::new(0)),
            learnt: Mutex::new(Learnt {
                n_classes: 0,
                waste: vec![0; N_SIZES],
            }),
        };
        let (mut class, mut size, mut step) = (0, 1, 1);
        for n in 0..N_SIZES {
            if n > size {
                class += 1;
                size += step;
                // 8 is followed by 10, 16 by 20, and so on.
                if size.is_power_of_two() && size >= 8 {
                    step *= 2;
                }
            }
            classes.of_size[n].store(class, Ordering::Relaxed);
            classes.block_bytes[class as usize].store((size * ALIGNMENT) as u32, Ordering::Relaxed);
        }
        classes.lock().n_classes = class as usize + 1;
        classes
    }

    fn lock(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the class of a size up to [`MAX_SMALL`].
    #[inline]
    pub(super) fn of(&self, n_bytes: usize) -> usize {
        self.of_size[n_bytes.div_ceil(ALIGNMENT)].load(Ordering::Acquire) as usize
    }

    /// Returns the bytes of a block of a class.
    #[inline]
    pub(super) fn block_bytes(&self, class: usize) -> usize {
        self.block_bytes[class].load(Ordering::Relaxed) as usize
    }

    /// Counts blocks that were taken for a size, and may give the size a class of
    /// its own for the time to come.
    pub(super) fn learn(&self, n_bytes: usize, n_blocks: usize) {
        let n = n_bytes.div_ceil(ALIGNMENT);
        let waste = self.block_bytes(self.of(n_bytes)) - n * ALIGNMENT;
        if waste == 0 {
            return;
        }
        let mut learnt = self.lock();
        if learnt.n_classes == MAX_CLASSES {
            return;
        }
        learnt.waste[n] += (waste * n_blocks) as u32;
        if learnt.waste[n] >= WASTE_WORTH_A_CLASS {
            let class = learnt.n_classes;
            self.block_bytes[class].store((n * ALIGNMENT) as u32, Ordering::Relaxed);
            // Release: who sees the class sees its size.
            self.of_size[n].store(class as u8, Ordering::Release);
            learnt.n_classes += 1;
        }
    }
}

/// Returns the least bytes of a slab for blocks of `block_bytes`.
pub(super) fn slab_bytes(block_bytes: usize) -> usize {
    (SLAB_BLOCKS * block_bytes).max(SLAB_BYTES)
}

/// The slabs of one class.
#[derive(Debug, Default)]
pub(super) struct Slabs {
    by_address: BTreeMap<usize, Slab>,
    /// Addresses of those that have a free block.
    with_free: BTreeSet<usize>,
    /// How many have nothing else.
    n_idle: usize,
}

#[derive(Debug)]
struct Slab {
    n_blocks: usize,
    n_bytes: usize,
    /// Addresses of blocks.
    free: Vec<usize>,
}

impl Slabs {
    /// Cuts a slab into blocks.
    pub(super) fn add(&mut self, address: usize, n_bytes: usize, block_bytes: usize) {
        let n_blocks = n_bytes / block_bytes;
        // The lowest first: it is what is taken next.
        let free = (0..n_blocks).rev().map(|i| address + i * block_bytes);
        let slab = Slab {
            n_blocks,
            n_bytes,
            free: free.collect(),
        };
        self.by_address.insert(address, slab);
        self.with_free.insert(address);
        self.n_idle += 1;
    }

    /// Moves up to `n` free blocks to `out` and returns whether there was one.
    pub(super) fn take(&mut self, n: usize, out: &mut Vec<usize>) -> bool {
        let wanted = out.len() + n;
        while out.len() < wanted
            && let Some(&address) = self.with_free.first()
        {
            let slab = self
                .by_address
                .get_mut(&address)
                .expect("it has a free block");
            self.n_idle -= usize::from(slab.is_idle());
            let n = slab.free.len().min(wanted - out.len());
            out.extend(slab.free.drain(slab.free.len() - n..));
            if slab.free.is_empty() {
                self.with_free.remove(&address);
            }
        }
        out.len() + n > wanted
    }

    /// Gives back blocks.
    pub(super) fn give(&mut self, blocks: impl IntoIterator<Item = usize>) {
        for block in blocks {
            let slab = self.by_address.range_mut(..=block).next_back();
            let (&address, slab) = slab.expect("every block lies in a slab");
            debug_assert!(block < address + slab.n_bytes && !slab.free.contains(&block));
            slab.free.push(block);
            if slab.free.len() == 1 {
                self.with_free.insert(address);
            }
            self.n_idle += usize::from(slab.is_idle());
        }
    }

    /// Removes a slab of which nothing is in use, if there are more than `keep`,
    /// and returns its address and length.
    pub(super) fn take_idle(&mut self, keep: usize) -> Option<(usize, usize)> {
        if self.n_idle <= keep {
            return None;
        }
        let idle = |address: &&usize| self.by_address[*address].is_idle();
        let &address = self.with_free.iter().rev().find(idle)?;
        self.n_idle -= 1;
        self.with_free.remove(&address);
        let slab = self.by_address.remove(&address)?;
        Some((address, slab.n_bytes))
    }
}

impl Slab {
    fn is_idle(&self) -> bool {
        self.free.len() == self.n_blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_every_size_and_waste_a_fifth_at_most() {
        let classes = Classes::new();
        assert_eq!(classes.lock().n_classes, 36);
        for n_bytes in 1..=MAX_SMALL {
            let block = classes.block_bytes(classes.of(n_bytes));
            let rounded = n_bytes.next_multiple_of(ALIGNMENT);
            assert!(
                block >= rounded && (block - rounded) * 5 <= block,
                "{n_bytes}"
            );
        }
        assert_eq!(classes.block_bytes(classes.of(MAX_SMALL)), MAX_SMALL);
    }

    #[test]
    fn a_size_that_is_asked_for_often_gets_a_class() {
        let classes = Classes::new();
        let block = |n_bytes| classes.block_bytes(classes.of(n_bytes));
        assert_eq!((block(6912), block(6900)), (7168, 7168));
        classes.learn(6912, 511);
        assert_eq!(block(6912), 7168);
        classes.learn(6912, 1);
        assert_eq!((block(6912), block(6900)), (6912, 6912));
        assert_eq!((block(6848), block(6913)), (7168, 7168));
        // Sizes that fit never need one, and classes end.
        classes.learn(7168, 1 << 20);
        for n in 1..=MAX_SMALL / ALIGNMENT {
            classes.learn(n * ALIGNMENT, 1 << 15);
        }
        assert_eq!(classes.lock().n_classes, MAX_CLASSES);
    }

    #[test]
    fn a_slab_is_idle_when_all_blocks_are_back() {
        let mut slabs = Slabs::default();
        slabs.add(4096, 4096, 1024);
        slabs.add(65536, 4096, 1024);
        let mut blocks = Vec::new();
        assert!(slabs.take(6, &mut blocks));
        assert_eq!(blocks.len(), 6);
        assert_eq!(blocks[..4].iter().min(), Some(&4096));
        assert_eq!(slabs.take_idle(0), None);
        slabs.give(blocks.drain(..5));
        assert_eq!(slabs.take_idle(1), None);
        assert_eq!(slabs.take_idle(0), Some((4096, 4096)));
        slabs.give(blocks.drain(..));
        assert_eq!(slabs.take_idle(0), Some((65536, 4096)));
        assert!(!slabs.take(1, &mut blocks));
    }
}
