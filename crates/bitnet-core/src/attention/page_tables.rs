//! The page tables of sequences: sharing and copy-on-write, whatever a page is.

use std::sync::Arc;

use super::BLOCK;

/// The pages of several sequences, in order of their positions.
///
/// Each sequence has a page table; a page has 128 positions. A page may be in several tables:
/// sequences with a common prefix share its pages, and a sequence that is about to write to a
/// shared page gets a copy. A page that is in no table is dropped immediately.
#[derive(Debug)]
pub struct PageTables<P> {
    tables: Vec<Vec<Arc<P>>>,
    /// Pages in all tables; a shared page counts once.
    n_pages: usize,
}

impl<P> PageTables<P> {
    /// Returns empty page tables for `n_sequences`.
    pub fn new(n_sequences: usize) -> Self {
        Self {
            tables: std::iter::repeat_with(Vec::new).take(n_sequences).collect(),
            n_pages: 0,
        }
    }

    /// Returns the number of pages of all sequences; a shared page counts once.
    pub fn n_pages(&self) -> usize {
        self.n_pages
    }

    /// Returns the pages of a sequence, shared ones included.
    ///
    /// # Panics
    ///
    /// Panics if there is no such sequence, as do all methods that take one.
    pub fn pages(&self, sequence: usize) -> &[Arc<P>] {
        &self.tables[sequence]
    }

    /// Returns the number of pages that [`reserve`](Self::reserve) would take for the same
    /// positions.
    pub fn n_pages_needed(&self, sequence: usize, from: usize, to: usize) -> usize {
        if to <= from {
            return 0;
        }
        let table = &self.tables[sequence];
        let is_shared = |page: &Arc<P>| Arc::strong_count(page) > 1;
        let copies = (table.iter().skip(from / BLOCK)).filter(|page| is_shared(page));
        let new = to.div_ceil(BLOCK).saturating_sub(table.len());
        new + copies.count()
    }

    /// Takes the missing pages, so that positions `from..to` of a sequence can be stored:
    /// `take(Some(page))` returns a copy of a shared page, `take(None)` a new one.
    ///
    /// # Errors
    ///
    /// Returns the error of `take`; pages taken before the failure remain in the table.
    pub fn reserve<E>(
        &mut self,
        sequence: usize,
        from: usize,
        to: usize,
        mut take: impl FnMut(Option<&P>) -> Result<P, E>,
    ) -> Result<(), E> {
        if to <= from {
            return Ok(());
        }
        let table = &mut self.tables[sequence];
        for page in table.iter_mut().skip(from / BLOCK) {
            if Arc::strong_count(page) > 1 {
                *page = Arc::new(take(Some(page))?);
                self.n_pages += 1;
            }
        }
        while table.len() < to.div_ceil(BLOCK) {
            table.push(Arc::new(take(None)?));
            self.n_pages += 1;
        }
        Ok(())
    }

    /// Releases the pages of a sequence that hold no position below `len`.
    pub fn truncate(&mut self, sequence: usize, len: usize) {
        let table = &mut self.tables[sequence];
        let kept = len.div_ceil(BLOCK).min(table.len());
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
        let pages = self.tables[from][..len.div_ceil(BLOCK)].to_vec();
        self.truncate(to, 0);
        self.tables[to] = pages;
    }

    /// Returns page `index` of a sequence, to write to it.
    ///
    /// # Panics
    ///
    /// Panics if there is no such page, or it is shared.
    pub fn page_mut(&mut self, sequence: usize, index: usize) -> &mut P {
        let page = &mut self.tables[sequence][index];
        Arc::get_mut(page).expect("reserved: the page is not shared")
    }

    /// Appends a page to the table of a sequence.
    pub fn push(&mut self, sequence: usize, page: P) {
        self.tables[sequence].push(Arc::new(page));
        self.n_pages += 1;
    }
}
