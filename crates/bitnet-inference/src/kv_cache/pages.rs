//! The pages of the KV cache: in host memory, or on a device.

#[cfg(doc)]
use bitnet_core::KvPage;
use bitnet_core::{OutOfMemory, PagedKv};

#[cfg(feature = "gpu")]
use super::device_pages::DevicePages;

/// Keys and values of several sequences in pages of [`KvPage::POSITIONS`] positions.
#[derive(Debug)]
pub(crate) enum Pages {
    /// Allocated as sequences grow.
    Host(PagedKv),
    /// Allocated when the engine is made.
    #[cfg(feature = "gpu")]
    Device(DevicePages),
}

/// Evaluates an expression with the page tables of either kind.
macro_rules! with_tables {
    ($pages:expr, $tables:ident => $value:expr) => {
        match $pages {
            Pages::Host(kv) => {
                let $tables = kv.tables();
                $value
            }
            #[cfg(feature = "gpu")]
            Pages::Device(pages) => {
                let $tables = pages.tables();
                $value
            }
        }
    };
}

/// The same for page tables that are changed.
macro_rules! with_tables_mut {
    ($pages:expr, $tables:ident => $value:expr) => {
        match $pages {
            Pages::Host(kv) => {
                let $tables = kv.tables_mut();
                $value
            }
            #[cfg(feature = "gpu")]
            Pages::Device(pages) => {
                let $tables = pages.tables_mut();
                $value
            }
        }
    };
}

impl Pages {
    /// Returns the number of pages of all sequences; a shared page counts once.
    pub(crate) fn n_pages(&self) -> usize {
        with_tables!(self, tables => tables.n_pages())
    }

    /// Returns the number of pages of a sequence, shared ones included.
    pub(crate) fn n_pages_of(&self, sequence: usize) -> usize {
        with_tables!(self, tables => tables.pages(sequence).len())
    }

    /// Returns the number of pages that [`reserve`](Self::reserve) would take for the same
    /// positions.
    pub(crate) fn n_pages_needed(&self, sequence: usize, from: usize, to: usize) -> usize {
        with_tables!(self, tables => tables.n_pages_needed(sequence, from, to))
    }

    /// Takes the missing pages, so that positions `from..to` of a sequence can be stored.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory; pages taken before the failure remain
    /// in the table.
    pub(crate) fn reserve(
        &mut self,
        sequence: usize,
        from: usize,
        to: usize,
    ) -> Result<(), OutOfMemory> {
        match self {
            Self::Host(kv) => kv.reserve(sequence, from, to),
            #[cfg(feature = "gpu")]
            Self::Device(pages) => {
                pages.reserve(sequence, from, to);
                Ok(())
            }
        }
    }

    /// Releases the pages of a sequence that hold no position below `len`.
    pub(crate) fn truncate(&mut self, sequence: usize, len: usize) {
        with_tables_mut!(self, tables => tables.truncate(sequence, len));
    }

    /// Replaces the pages of sequence `to` by those of the first `len` positions of `from`.
    pub(crate) fn share(&mut self, from: usize, to: usize, len: usize) {
        with_tables_mut!(self, tables => tables.share(from, to, len));
    }

    /// Appends a page with these contents, [`page_bytes`](Self::page_bytes), to a sequence.
    ///
    /// # Errors
    ///
    /// Returns an error if the system is out of memory.
    pub(crate) fn push(&mut self, sequence: usize, bytes: Vec<u8>) -> Result<(), OutOfMemory> {
        match self {
            Self::Host(kv) => kv.push(sequence, &bytes),
            #[cfg(feature = "gpu")]
            Self::Device(pages) => {
                pages.push(sequence, bytes);
                Ok(())
            }
        }
    }

    /// Returns the bytes of a page.
    pub(crate) fn page_bytes(&self) -> usize {
        match self {
            Self::Host(kv) => kv.shape().page_bytes(),
            #[cfg(feature = "gpu")]
            Self::Device(pages) => pages.page_bytes(),
        }
    }

    /// Returns the pages on a device.
    ///
    /// # Panics
    ///
    /// Panics if they are in host memory.
    #[cfg(feature = "gpu")]
    pub(crate) fn device_mut(&mut self) -> &mut DevicePages {
        match self {
            Self::Host(_) => unreachable!("a GPU computes with pages of its own"),
            Self::Device(pages) => pages,
        }
    }

    /// Returns the pages in host memory.
    ///
    /// # Panics
    ///
    /// Panics if they are on a device.
    pub(crate) fn host(&self) -> &PagedKv {
        match self {
            Self::Host(kv) => kv,
            #[cfg(feature = "gpu")]
            Self::Device(_) => unreachable!("the CPU computes with pages in host memory"),
        }
    }

    /// The same, to store keys and values.
    ///
    /// # Panics
    ///
    /// Panics if they are on a device.
    pub(crate) fn host_mut(&mut self) -> &mut PagedKv {
        match self {
            Self::Host(kv) => kv,
            #[cfg(feature = "gpu")]
            Self::Device(_) => unreachable!("the CPU computes with pages in host memory"),
        }
    }
}
