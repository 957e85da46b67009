//! The paged KV cache in host memory.

use super::RowPosition;
use super::kv_page::{KeyValue, KvBlock, KvPage, KvShape};
use super::page_tables::PageTables;
use crate::isa::Isa;
use crate::memory::{HybridMemoryPool, OutOfMemory};

/// Keys and values of several sequences. Pages are allocated before positions are stored.
#[derive(Debug)]
pub struct PagedKv {
    pool: HybridMemoryPool,
    shape: KvShape,
    tables: PageTables<KvPage>,
}

impl PagedKv {
    /// Returns empty page tables for `n_sequences`; no pages are allocated.
    pub fn new(pool: &HybridMemoryPool, shape: KvShape, n_sequences: usize) -> Self {
        Self {
            pool: pool.clone(),
            shape,
            tables: PageTables::new(n_sequences),
        }
    }

    /// Returns the shape of a position.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Returns the page tables.
    pub fn tables(&self) -> &PageTables<KvPage> {
        &self.tables
    }

    /// Returns the page tables, to share and release pages.
    pub fn tables_mut(&mut self) -> &mut PageTables<KvPage> {
        &mut self.tables
    }

    /// Allocates the missing pages, so that positions `from..to` of a sequence can be
    /// stored: new pages at the end, and copies of shared ones.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory; pages allocated before the failure
    /// remain in the table.
    ///
    /// # Panics
    ///
    /// Panics if there is no such sequence, as do all methods that take one.
    pub fn reserve(&mut self, sequence: usize, from: usize, to: usize) -> Result<(), OutOfMemory> {
        let Self {
            pool,
            shape,
            tables,
        } = self;
        tables.reserve(sequence, from, to, |page| match page {
            Some(page) => page.copy(pool),
            None => KvPage::new(pool, *shape),
        })
    }

    /// Stores one position of a sequence for the heads from `first_head` on.
    ///
    /// # Panics
    ///
    /// Panics if no page is reserved for the position, a head is out of range, or the
    /// values are not whole heads.
    pub fn store(&mut self, isa: Isa, at: RowPosition, first_head: usize, kv: KeyValue<'_>) {
        let index = at.position / KvPage::POSITIONS;
        let page = self.tables.page_mut(at.sequence, index);
        page.store(isa, at.position % KvPage::POSITIONS, first_head, kv);
    }

    /// Returns the key and value of a position and head, dequantized, `[head_dim]` each.
    ///
    /// # Panics
    ///
    /// Panics if no page holds the position or the head is out of range.
    pub fn load(&self, at: RowPosition, head: usize) -> (Vec<f32>, Vec<f32>) {
        let page = self.page(at.sequence, at.position / KvPage::POSITIONS);
        page.load(at.position % KvPage::POSITIONS, head)
    }

    /// Returns page `index` of a sequence.
    ///
    /// # Panics
    ///
    /// Panics if there is no such page.
    pub fn page(&self, sequence: usize, index: usize) -> &KvPage {
        &self.tables.pages(sequence)[index]
    }

    /// Appends a page with contents that [`KvPage::write_to`] wrote to the table of a
    /// sequence.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
    ///
    /// # Panics
    ///
    /// Panics if there are not [`KvShape::page_bytes`] bytes.
    pub fn push(&mut self, sequence: usize, bytes: &[u8]) -> Result<(), OutOfMemory> {
        let page = KvPage::read_from(&self.pool, self.shape, bytes)?;
        self.tables.push(sequence, page);
        Ok(())
    }

    /// Returns block `index` of a sequence and head.
    pub(super) fn block(&self, sequence: usize, index: usize, head: usize) -> KvBlock<'_> {
        self.page(sequence, index).block(head)
    }
}
