//! The file of a page of the KV cache.
//!
//! ```text
//! "bitnetKV"   8 bytes
//! model       16   what computed it: weights, configuration, precision, version
//! parent      16   the identifier of the page before it; zeros for the first one
//! tokens     512   the token ids of its 128 positions
//! page             keys and values, as `KvPage::write_to` has them
//! checksum    16   XXH3 (128 bits) of all before
//! ```
//!
//! All numbers are little-endian. The identifier of a page is the hash of model, parent and
//! tokens, so that it stands for all tokens up to its last one.

use std::io;
use std::path::Path;

use bitnet_core::KvPage;
use twox_hash::XxHash3_128;

const MAGIC: [u8; 8] = *b"bitnetKV";
const HEAD: usize = MAGIC.len() + 16 + 16 + 4 * KvPage::POSITIONS;
const CHECKSUM: usize = 16;

/// What a page is of: the model, the page before it, and its tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageHead<'a> {
    pub(crate) model: u128,
    pub(crate) parent: u128,
    /// `[KvPage::POSITIONS]`
    pub(crate) tokens: &'a [u32],
}

/// Why the file of a page is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageFileError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("it has {found} bytes, expected {expected}")]
    Length { found: u64, expected: u64 },
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it is a page of something else")]
    Other,
}

impl PageHead<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.model.to_le_bytes());
        bytes.extend_from_slice(&self.parent.to_le_bytes());
        bytes.extend(self.tokens.iter().flat_map(|token| token.to_le_bytes()));
        bytes
    }

    /// Returns the identifier of the page.
    pub(crate) fn id(&self) -> u128 {
        XxHash3_128::oneshot(&self.bytes())
    }

    /// Returns the bytes of the file of a page with these contents.
    pub(crate) fn file(&self, page: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.reserve_exact(page.len() + CHECKSUM);
        bytes.extend_from_slice(page);
        bytes.extend_from_slice(&XxHash3_128::oneshot(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the contents of the page, `page_bytes`, from its file.
    pub(crate) fn read(&self, path: &Path, page_bytes: usize) -> Result<Vec<u8>, PageFileError> {
        let mut file = std::fs::File::open(path)?;
        // Before anything is allocated for it.
        let (found, expected) = (file.metadata()?.len(), file_len(page_bytes));
        if found != expected {
            return Err(PageFileError::Length { found, expected });
        }
        let mut bytes = Vec::with_capacity(expected as usize);
        io::Read::read_to_end(&mut io::Read::take(&mut file, expected), &mut bytes)?;
        self.parse(bytes, page_bytes)
    }

    fn parse(&self, mut bytes: Vec<u8>, page_bytes: usize) -> Result<Vec<u8>, PageFileError> {
        let (found, expected) = (bytes.len() as u64, file_len(page_bytes));
        if found != expected {
            return Err(PageFileError::Length { found, expected });
        }
        let (content, checksum) = bytes.split_at(bytes.len() - CHECKSUM);
        if XxHash3_128::oneshot(content).to_le_bytes() != *checksum {
            return Err(PageFileError::Checksum);
        }
        if content[..HEAD] != self.bytes() {
            return Err(PageFileError::Other);
        }
        bytes.truncate(bytes.len() - CHECKSUM);
        bytes.drain(..HEAD);
        Ok(bytes)
    }
}

/// Returns the length of the file of a page of `page_bytes`.
pub(crate) fn file_len(page_bytes: usize) -> u64 {
    (HEAD + page_bytes + CHECKSUM) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE_BYTES: usize = 3000;

    fn page() -> Vec<u8> {
        (0..PAGE_BYTES).map(|i| (i * i / 7) as u8).collect()
    }

    fn head(tokens: &[u32]) -> PageHead<'_> {
        PageHead {
            model: 7 << 90,
            parent: 8 << 70,
            tokens,
        }
    }

    const TOKENS: [u32; KvPage::POSITIONS] = [70_000; KvPage::POSITIONS];

    #[test]
    fn a_page_that_is_read_is_the_one_that_was_written() {
        let file = head(&TOKENS).file(&page());
        assert_eq!(file.len() as u64, file_len(PAGE_BYTES));
        assert_eq!(head(&TOKENS).parse(file, PAGE_BYTES).unwrap(), page());
    }

    #[test]
    fn pages_of_something_else_are_refused() {
        let file = head(&TOKENS).file(&page());
        let mut tokens = TOKENS;
        tokens[127] += 1;
        let others = [
            head(&tokens),
            PageHead {
                model: 7,
                ..head(&TOKENS)
            },
            PageHead {
                parent: 8,
                ..head(&TOKENS)
            },
        ];
        for other in others {
            assert_ne!(other.id(), head(&TOKENS).id());
            let refused = other.parse(file.clone(), PAGE_BYTES);
            assert!(matches!(refused, Err(PageFileError::Other)));
        }
        let refused = head(&TOKENS).parse(file, PAGE_BYTES / 2);
        assert!(matches!(refused, Err(PageFileError::Length { .. })));
    }

    proptest! {
        #[test]
        fn damaged_files_are_refused(
            cut in any::<prop::sample::Index>(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..4),
            more in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let whole = head(&TOKENS).file(&page());
            let mut file = whole.clone();
            file.truncate(cut.index(2 * whole.len()));
            for (at, flip) in flips {
                if !file.is_empty() {
                    let at = at.index(file.len());
                    file[at] ^= flip;
                }
            }
            if file.len() < whole.len() {
                file.extend(more);
            }
            let is_whole = file == whole;
            prop_assert_eq!(head(&TOKENS).parse(file, PAGE_BYTES).is_ok(), is_whole);
        }
    }
}
