//! The paged KV cache: page tables, sharing, copy-on-write.

use std::sync::Arc;

use super::RowPosition;
use super::kv_page::{KeyValue, KvBlock, KvPage, KvShape};
use crate::isa::Isa;
use crate::memory::{HybridMemoryPool, OutOfMemory};

/// Keys and values of several sequences.
///
/// Each sequence has a page table; pages are allocated before positions are stored. A page
/// may be in several tables: sequences with a common prefix share its pages, and a sequence
/// that is about to write to a shared page gets a copy. A page that is in no table is
/// released immediately.
#[derive(Debug)]
pub struct PagedKv {
    pool: HybridMemoryPool,
    shape: KvShape,
    tables: Vec<Vec<Arc<KvPage>>>,
    /// Pages in all tables; a shared page counts once.
    n_pages: usize,
}

impl PagedKv {
    /// Returns empty page tables for `n_sequences`; no pages are allocated.
    pub fn new(pool: &HybridMemoryPool, shape: KvShape, n_sequences: usize) -> Self {
        Self {
            pool: pool.clone(),
            shape,
            tables: vec![Vec::new(); n_sequences],
            n_pages: 0,
        }
    }

    /// Returns the pool that its pages are from.
    pub fn pool(&self) -> &HybridMemoryPool {
        &self.pool
    }

    /// Returns the shape of a position.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Returns the number of pages of all sequences; a shared page counts once.
    pub fn n_pages(&self) -> usize {
        self.n_pages
    }

    /// Returns the number of pages of a sequence, shared ones included.
    ///
    /// # Panics
    ///
    /// Panics if there is no such sequence, as do all methods that take one.
    pub fn n_pages_of(&self, sequence: usize) -> usize {
        self.tables[sequence].len()
    }

    /// Returns the number of pages that [`reserve`](Self::reserve) would allocate for the
    /// same positions.
    pub fn n_pages_needed(&self, sequence: usize, from: usize, to: usize) -> usize {
        if to <= from {
            return 0;
        }
        let table = &self.tables[sequence];
        let first = from / KvPage::POSITIONS;
        let is_shared = |page: &Arc<KvPage>| Arc::strong_count(page) > 1;
        let copies = table.iter().skip(first).filter(|page| is_shared(page));
        let new = to.div_ceil(KvPage::POSITIONS).saturating_sub(table.len());
        new + copies.count()
    }

    /// Allocates the missing pages, so that positions `from..to` of a sequence can be
    /// stored: new pages at the end, and copies of shared ones.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory; pages allocated before the failure
    /// remain in the table.
    pub fn reserve(&mut self, sequence: usize, from: usize, to: usize) -> Result<(), OutOfMemory> {
        if to <= from {
            return Ok(());
        }
        let table = &mut self.tables[sequence];
        for page in table.iter_mut().skip(from / KvPage::POSITIONS) {
            if Arc::strong_count(page) > 1 {
                *page = Arc::new(page.copy(&self.pool)?);
                self.n_pages += 1;
            }
        }
        while table.len() < to.div_ceil(KvPage::POSITIONS) {
            table.push(Arc::new(KvPage::new(&self.pool, self.shape)?));
            self.n_pages += 1;
        }
        Ok(())
    }

    /// Releases the pages of a sequence that hold no position below `len`.
    pub fn truncate(&mut self, sequence: usize, len: usize) {
        let table = &mut self.tables[sequence];
        let kept = len.div_ceil(KvPage::POSITIONS).min(table.len());
        let released = table.drain(kept..);
        self.n_pages -= released.filter(|page| Arc::strong_count(page) == 1).count();
    }

    /// Replaces the pages of sequence `to` by the pages of the first `len` positions of
    /// sequence `from`, shared.
    ///
    /// # Panics
    ///
    /// Panics if `from` has fewer pages.
    pub fn share(&mut self, from: usize, to: usize, len: usize) {
        let pages = self.tables[from][..len.div_ceil(KvPage::POSITIONS)].to_vec();
        self.truncate(to, 0);
        self.tables[to] = pages;
    }

    /// Stores one position of a sequence for the heads from `first_head` on.
    ///
    /// # Panics
    ///
    /// Panics if no page is reserved for the position, a head is out of range, or the
    /// values are not whole heads.
    pub fn store(&mut self, isa: Isa, at: RowPosition, first_head: usize, kv: KeyValue<'_>) {
        let page = &mut self.tables[at.sequence][at.position / KvPage::POSITIONS];
        let page = Arc::get_mut(page).expect("reserved: the page is not shared");
        page.store(isa, at.position % KvPage::POSITIONS, first_head, kv);
    }

    /// Returns the key and value of a position and head, dequantized, `[head_dim]` each.
    ///
    /// # Panics
    ///
    /// Panics if no page holds the position or the head is out of range.
    pub fn load(&self, at: RowPosition, head: usize) -> (Vec<f32>, Vec<f32>) {
        let page = &self.tables[at.sequence][at.position / KvPage::POSITIONS];
        page.load(at.position % KvPage::POSITIONS, head)
    }

    /// Returns page `index` of a sequence.
    ///
    /// # Panics
    ///
    /// Panics if there is no such page.
    pub fn page(&self, sequence: usize, index: usize) -> &KvPage {
        &self.tables[sequence][index]
    }

    /// Appends a page to the table of a sequence.
    ///
    /// # Panics
    ///
    /// Panics if the page has another shape.
    pub fn push(&mut self, sequence: usize, page: KvPage) {
        assert_eq!(page.shape(), self.shape, "pages have the same shape");
        self.tables[sequence].push(Arc::new(page));
        self.n_pages += 1;
    }

    /// Returns block `index` of a sequence and head.
    pub(super) fn block(&self, sequence: usize, index: usize, head: usize) -> KvBlock<'_> {
        self.tables[sequence][index].block(head)
    }
}
