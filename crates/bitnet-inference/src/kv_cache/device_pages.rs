//! The page tables of a KV cache whose pages are on a device.
//!
//! A page is its index there. What sequences do to pages is listed, in order, and done before
//! the next pass: no page is written to before that.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bitnet_core::PageTables;

/// Page tables of pages on a device.
#[derive(Debug)]
pub(crate) struct DevicePages {
    tables: PageTables<DevicePage>,
    free: FreePages,
    changes: Vec<PageChange>,
    page_bytes: usize,
}

/// A page on a device. It is free again when it is dropped.
#[derive(Debug)]
pub(crate) struct DevicePage {
    index: usize,
    free: FreePages,
}

/// The indices of the free pages.
type FreePages = Arc<Mutex<Vec<usize>>>;

/// A change of a page that the device has to make.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PageChange {
    Copy { from: usize, to: usize },
    Write { to: usize, bytes: Vec<u8> },
}

impl DevicePages {
    /// Returns empty page tables for `n_sequences`, and `n_pages` free pages.
    pub(crate) fn new(n_sequences: usize, n_pages: usize, page_bytes: usize) -> Self {
        Self {
            tables: PageTables::new(n_sequences),
            free: Arc::new(Mutex::new((0..n_pages).rev().collect())),
            changes: Vec::new(),
            page_bytes,
        }
    }

    pub(crate) fn tables(&self) -> &PageTables<DevicePage> {
        &self.tables
    }

    pub(crate) fn tables_mut(&mut self) -> &mut PageTables<DevicePage> {
        &mut self.tables
    }

    /// Returns the bytes of a page.
    pub(crate) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Takes the missing pages, so that positions `from..to` of a sequence can be stored.
    ///
    /// # Panics
    ///
    /// Panics if too few pages are free: the cache counts them.
    pub(crate) fn reserve(&mut self, sequence: usize, from: usize, to: usize) {
        let Self {
            tables,
            free,
            changes,
            ..
        } = self;
        let taken: Result<(), Infallible> = tables.reserve(sequence, from, to, |copied| {
            let page = DevicePage::take(free);
            if let Some(copied) = copied {
                changes.push(PageChange::Copy {
                    from: copied.index,
                    to: page.index,
                });
            }
            Ok(page)
        });
        let Ok(()) = taken;
    }

    /// Appends a page with these contents to a sequence.
    ///
    /// # Panics
    ///
    /// Panics if no page is free, or there are not as many bytes as a page has.
    pub(crate) fn push(&mut self, sequence: usize, bytes: Vec<u8>) {
        assert_eq!(bytes.len(), self.page_bytes, "the bytes of a page");
        let page = DevicePage::take(&self.free);
        self.changes.push(PageChange::Write {
            to: page.index,
            bytes,
        });
        self.tables.push(sequence, page);
    }

    /// Takes the changes that the device has not made yet, in order.
    pub(crate) fn take_changes(&mut self) -> Vec<PageChange> {
        std::mem::take(&mut self.changes)
    }
}

impl DevicePage {
    fn take(free: &FreePages) -> Self {
        let index = lock(free).pop();
        Self {
            index: index.expect("the cache counts the pages"),
            free: Arc::clone(free),
        }
    }

    /// Returns the index of the page on its device.
    pub(crate) fn index(&self) -> usize {
        self.index
    }
}

impl Drop for DevicePage {
    fn drop(&mut self) {
        lock(&self.free).push(self.index);
    }
}

/// A panic while the list is locked leaves it whole.
fn lock(free: &FreePages) -> std::sync::MutexGuard<'_, Vec<usize>> {
    free.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(pages: &DevicePages, sequence: usize) -> Vec<usize> {
        let table = pages.tables().pages(sequence).iter();
        table.map(|page| page.index()).collect()
    }

    #[test]
    fn shared_pages_are_copied_before_they_are_written_to_and_free_ones_are_taken_again() {
        let mut pages = DevicePages::new(2, 4, 8);
        pages.reserve(0, 0, 200);
        assert_eq!(indices(&pages, 0), [0, 1]);
        pages.tables_mut().share(0, 1, 130);
        assert_eq!(indices(&pages, 1), [0, 1]);
        assert_eq!(pages.take_changes(), []);
        // The second page is written to, the first one is not.
        pages.reserve(1, 130, 131);
        assert_eq!(indices(&pages, 1), [0, 2]);
        let copy = PageChange::Copy { from: 1, to: 2 };
        assert_eq!(pages.take_changes(), [copy]);
        pages.tables_mut().truncate(0, 0);
        assert_eq!(pages.tables().n_pages(), 2);
        pages.push(0, vec![7; 8]);
        assert_eq!(indices(&pages, 0), [1]);
        let write = PageChange::Write {
            to: 1,
            bytes: vec![7; 8],
        };
        assert_eq!(pages.take_changes(), [write]);
    }
}
