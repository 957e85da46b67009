//! Large blocks: best-fit allocation in regions; free neighbours are coalesced.

use std::collections::{BTreeMap, BTreeSet};

/// Ranges of addresses within regions, by address and by length; the addresses are never
/// dereferenced.
///
/// - Free ranges are disjoint, and no two of one region are adjacent.
/// - Dirty ranges are the parts of free ranges that have been in use: all other free bytes
///   are zero, as they were mapped.
#[derive(Debug, Default)]
pub(super) struct Extents {
    /// Start to length, as in the other maps.
    regions: BTreeMap<usize, usize>,
    free: BTreeMap<usize, usize>,
    /// Length and start of the free ranges.
    free_by_len: BTreeSet<(usize, usize)>,
    dirty: BTreeMap<usize, usize>,
    n_mapped: usize,
    n_free: usize,
    n_dirty: usize,
}

/// A range of addresses: start and length.
pub(super) type Range = (usize, usize);

impl Extents {
    /// Returns the bytes of all regions.
    pub(super) fn n_mapped(&self) -> usize {
        self.n_mapped
    }

    /// Returns the bytes of all free ranges.
    pub(super) fn n_free(&self) -> usize {
        self.n_free
    }

    /// Returns the bytes of all dirty ranges.
    pub(super) fn n_dirty(&self) -> usize {
        self.n_dirty
    }

    /// Adds a zeroed region.
    pub(super) fn add_region(&mut self, start: usize, len: usize) {
        self.regions.insert(start, len);
        self.n_mapped += len;
        self.insert_free(start, len);
    }

    /// Allocates `len` bytes from the shortest free range that fits; returns the start and
    /// the parts that are not zero. Returns `None` if no free range fits.
    pub(super) fn take(&mut self, len: usize) -> Option<(usize, Vec<Range>)> {
        let &(free_len, start) = self.free_by_len.range((len, 0)..).next()?;
        self.remove_free(start, free_len);
        if free_len > len {
            self.insert_free(start + len, free_len - len);
        }
        Some((start, self.take_dirty(start, len)))
    }

    /// Releases an allocated range; returns whether its whole region is now free.
    pub(super) fn give(&mut self, start: usize, len: usize) -> bool {
        let (mut free_start, mut free_len) = (start, len);
        let region = self.region_of(start);
        let before = self.free.range(..start).next_back();
        if let Some((&other, &other_len)) = before
            && other + other_len == start
            && other >= region.0
        {
            self.remove_free(other, other_len);
            (free_start, free_len) = (other, other_len + free_len);
        }
        let end = start + len;
        if let Some(&other_len) = self.free.get(&end)
            && end < region.0 + region.1
        {
            self.remove_free(end, other_len);
            free_len += other_len;
        }
        self.insert_free(free_start, free_len);
        self.dirty.insert(start, len);
        self.n_dirty += len;
        (free_start, free_len) == region
    }

    /// Removes fully free regions, the largest first, until at most `keep` bytes are free
    /// or none is left; returns them.
    pub(super) fn take_free_regions(&mut self, keep: usize) -> Vec<Range> {
        let mut taken = Vec::new();
        while self.n_free > keep {
            let whole = |&&(len, start): &&Range| self.regions.get(&start) == Some(&len);
            let Some(&(len, start)) = self.free_by_len.iter().rev().find(whole) else {
                break;
            };
            self.remove_free(start, len);
            self.take_dirty(start, len);
            self.regions.remove(&start);
            self.n_mapped -= len;
            taken.push((start, len));
        }
        taken
    }

    /// Calls `purge` on the dirty ranges; it returns whether the range is now zero.
    pub(super) fn purge(&mut self, mut purge: impl FnMut(usize, usize) -> bool) {
        self.dirty.retain(|&start, len| {
            let purged = purge(start, *len);
            if purged {
                self.n_dirty -= *len;
            }
            !purged
        });
    }

    fn region_of(&self, address: usize) -> Range {
        let region = self.regions.range(..=address).next_back();
        let (&start, &len) = region.expect("every range lies in a region");
        (start, len)
    }

    fn insert_free(&mut self, start: usize, len: usize) {
        self.free.insert(start, len);
        self.free_by_len.insert((len, start));
        self.n_free += len;
    }

    fn remove_free(&mut self, start: usize, len: usize) {
        self.free.remove(&start);
        self.free_by_len.remove(&(len, start));
        self.n_free -= len;
    }

    /// Removes the dirty parts of a range and returns them.
    fn take_dirty(&mut self, start: usize, len: usize) -> Vec<Range> {
        let end = start + len;
        let first = self.dirty.range(..start).next_back();
        let from = first.map_or(start, |(&first, _)| first);
        let touching: Vec<Range> = (self.dirty.range(from..end))
            .map(|(&start, &len)| (start, len))
            .filter(|&(dirty, len)| dirty + len > start)
            .collect();
        let mut taken = Vec::new();
        for (dirty, dirty_len) in touching {
            let dirty_end = dirty + dirty_len;
            self.dirty.remove(&dirty);
            let (inner, inner_end) = (dirty.max(start), dirty_end.min(end));
            self.n_dirty -= inner_end - inner;
            taken.push((inner, inner_end - inner));
            if dirty < start {
                self.dirty.insert(dirty, start - dirty);
            }
            if dirty_end > end {
                self.dirty.insert(end, dirty_end - end);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_that_come_back_are_one_again() {
        let mut extents = Extents::default();
        extents.add_region(1000, 100);
        let starts = [10, 30, 20, 40].map(|len| extents.take(len).unwrap().0);
        assert_eq!(starts, [1000, 1010, 1040, 1060]);
        assert!(extents.take(1).is_none());
        for (start, len) in [(1010, 30), (1060, 40), (1040, 20)] {
            assert!(!extents.give(start, len));
        }
        assert!(extents.give(1000, 10));
        assert_eq!(extents.free, BTreeMap::from([(1000, 100)]));
        assert_eq!(extents.n_dirty(), 100);
        assert_eq!(extents.take_free_regions(100), []);
        assert_eq!(extents.take_free_regions(99), [(1000, 100)]);
        assert_eq!((extents.n_mapped(), extents.n_free()), (0, 0));
    }

    #[test]
    fn the_best_fit_is_taken_and_regions_stay_apart() {
        let mut extents = Extents::default();
        // The regions are adjacent.
        extents.add_region(1000, 100);
        extents.add_region(1100, 50);
        assert_eq!(extents.take(40).unwrap(), (1100, vec![]));
        assert!(extents.take(101).is_none());
        extents.give(1100, 40);
        assert_eq!(extents.free, BTreeMap::from([(1000, 100), (1100, 50)]));
    }

    #[test]
    fn what_was_in_use_is_dirty_until_it_is_purged() {
        let mut extents = Extents::default();
        extents.add_region(1000, 100);
        let (start, dirty) = extents.take(50).unwrap();
        assert_eq!(dirty, []);
        extents.give(start, 50);
        // First a part of the dirty range, then more than is dirty.
        assert_eq!(extents.take(20).unwrap(), (1000, vec![(1000, 20)]));
        assert_eq!(extents.take(60).unwrap(), (1020, vec![(1020, 30)]));
        extents.give(1020, 60);
        let mut purged = Vec::new();
        extents.purge(|start, len| {
            purged.push((start, len));
            true
        });
        assert_eq!((purged, extents.n_dirty()), (vec![(1020, 60)], 0));
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_nothing_is_lost(
            steps in prop::collection::vec((any::<bool>(), 1usize..60, any::<prop::sample::Index>()), 1..200),
        ) {
            const REGIONS: [Range; 3] = [(1000, 100), (1100, 64), (5000, 128)];
            let mut extents = Extents::default();
            for (start, len) in REGIONS {
                extents.add_region(start, len);
            }
            let mut taken: Vec<Range> = Vec::new();
            // The addresses that have been written.
            let mut written = BTreeSet::new();
            for (takes, len, index) in steps {
                if takes {
                    let Some((start, dirty)) = extents.take(len) else { continue };
                    let region = REGIONS.iter().find(|r| r.0 <= start && start + len <= r.0 + r.1);
                    prop_assert!(region.is_some(), "{start}+{len} lies in one region");
                    for &(other, other_len) in &taken {
                        prop_assert!(start + len <= other || other + other_len <= start);
                    }
                    for at in start..start + len {
                        let is_dirty = dirty.iter().any(|&(d, n)| (d..d + n).contains(&at));
                        prop_assert_eq!(is_dirty, written.contains(&at));
                        written.insert(at);
                    }
                    taken.push((start, len));
                } else if !taken.is_empty() {
                    let (start, len) = taken.swap_remove(index.index(taken.len()));
                    extents.give(start, len);
                }
                let in_use: usize = taken.iter().map(|&(_, len)| len).sum();
                prop_assert_eq!(extents.n_free() + in_use, extents.n_mapped());
            }
            for (start, len) in taken {
                extents.give(start, len);
            }
            prop_assert_eq!(&extents.free, &BTreeMap::from(REGIONS));
            prop_assert_eq!(extents.n_dirty(), written.len());
            prop_assert_eq!(extents.take_free_regions(0).len(), REGIONS.len());
            prop_assert_eq!(extents.n_dirty(), 0);
        }
    }
}
