//! Sequences in pages: tables, sharing, copies on write.

use std::sync::Arc;

use super::RowPosition;
use super::kv_page::{KeyValue, KvBlock, KvPage, KvShape};
use crate::isa::Isa;
use crate::memory::{HybridMemoryPool, OutOfMemory};

/// Keys and values of several sequences.
///
/// Each sequence has a table of pages, and pages are taken when positions are
/// about to be stored. A page may stand in several tables: sequences that begin
/// alike share what they have in common, and whoever is about to write to such a
/// page gets a copy of its own. A page that stands in no table any more is given
/// back at once.
#[derive(Debug)]
pub struct PagedKv {
    pool: HybridMemoryPool,
    shape: KvShape,
    tables: Vec<Vec<Arc<KvPage>>>,
    /// Pages in the tables, each counted once.
    n_pages: usize,
}

impl PagedKv {
    /// Makes empty tables; no memory is taken for keys and values yet.
    pub fn new(pool: &HybridMemoryPool, shape: KvShape, n_sequences: usize) -> Self {
        Self {
            pool: pool.clone(),
            shape,
            tables: vec![Vec::new(); n_sequences],
            n_pages: 0,
        }
    }

    /// Returns the extents of a position.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Returns the pages that all sequences hold; one that several share counts
    /// once.
    pub fn n_pages(&self) -> usize {
        self.n_pages
    }

    /// Returns the pages in the table of a sequence, shared ones too.
    ///
    /// # Panics
    ///
    /// Panics if there is no such sequence; so do all that name one.
    pub fn n_pages_of(&self, sequence: usize) -> usize {
        self.tables[sequence].len()
    }

    /// Returns the pages that [`reserve`](Self::reserve) would take for the
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

    /// Takes what is missing so that positions `from..to` of a sequence can be
    /// stored: pages of its own, at the end and in place of shared ones.
    ///
    /// # Errors
    ///
    /// Returns an error if the system has no memory for one of them; those before
    /// it are in the table then.
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

    /// Gives back the pages of a sequence that hold no position below `len`.
    pub fn truncate(&mut self, sequence: usize, len: usize) {
        let table = &mut self.tables[sequence];
        let kept = len.div_ceil(KvPage::POSITIONS).min(table.len());
        let released = table.drain(kept..);
        self.n_pages -= released.filter(|page| Arc::strong_count(page) == 1).count();
    }

    /// Lets a sequence begin with the first `len` positions of another, in place
    /// of what it held.
    ///
    /// # Panics
    ///
    /// Panics if the other holds fewer pages.
    pub fn share(&mut self, from: usize, to: usize, len: usize) {
        let pages = self.tables[from][..len.div_ceil(KvPage::POSITIONS)].to_vec();
        self.truncate(to, 0);
        self.tables[to] = pages;
    }

    /// Stores one position of a sequence for the heads from `first_head` on.
    ///
    /// # Panics
    ///
    /// Panics if there is no room for the position, a head is out of range, or
    /// the values are not whole heads.
    pub fn store(&mut self, isa: Isa, at: RowPosition, first_head: usize, kv: KeyValue<'_>) {
        let page = &mut self.tables[at.sequence][at.position / KvPage::POSITIONS];
        let page = Arc::get_mut(page).expect("reserved: the page is not shared");
        page.store(isa, at.position % KvPage::POSITIONS, first_head, kv);
    }

    /// Returns key and value of a position of a sequence and head as they are
    /// kept: rounded.
    ///
    /// # Panics
    ///
    /// Panics if the position was not stored or the head is out of range.
    pub fn load(&self, at: RowPosition, head: usize) -> (Vec<f32>, Vec<f32>) {
        let page = &self.tables[at.sequence][at.position / KvPage::POSITIONS];
        page.load(at.position % KvPage::POSITIONS, head)
    }

    /// Returns block `index` of a head of a sequence.
    pub(super) fn block(&self, sequence: usize, index: usize, head: usize) -> KvBlock<'_> {
        self.tables[sequence][index].block(head)
    }
}
