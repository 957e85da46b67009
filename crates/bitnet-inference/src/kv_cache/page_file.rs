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

use bitnet_core::{HybridMemoryPool, KvPage, KvShape, OutOfMemory};
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
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
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

    /// Returns the bytes of the file of a page.
    pub(crate) fn file(&self, page: &KvPage) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.reserve_exact(page.shape().page_bytes() + CHECKSUM);
        page.write_to(&mut bytes);
        bytes.extend_from_slice(&XxHash3_128::oneshot(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the page from its file.
    pub(crate) fn read(
        &self,
        path: &Path,
        pool: &HybridMemoryPool,
        shape: KvShape,
    ) -> Result<KvPage, PageFileError> {
        let mut file = std::fs::File::open(path)?;
        // Before anything is allocated for it.
        let (found, expected) = (file.metadata()?.len(), file_len(shape));
        if found != expected {
            return Err(PageFileError::Length { found, expected });
        }
        let mut bytes = Vec::with_capacity(expected as usize);
        io::Read::read_to_end(&mut io::Read::take(&mut file, expected), &mut bytes)?;
        self.parse(&bytes, pool, shape)
    }

    fn parse(
        &self,
        bytes: &[u8],
        pool: &HybridMemoryPool,
        shape: KvShape,
    ) -> Result<KvPage, PageFileError> {
        let (found, expected) = (bytes.len() as u64, file_len(shape));
        if found != expected {
            return Err(PageFileError::Length { found, expected });
        }
        let (content, checksum) = bytes.split_at(bytes.len() - CHECKSUM);
        if XxHash3_128::oneshot(content).to_le_bytes() != *checksum {
            return Err(PageFileError::Checksum);
        }
        let (head, page) = content.split_at(HEAD);
        if head != self.bytes() {
            return Err(PageFileError::Other);
        }
        Ok(KvPage::read_from(pool, shape, page)?)
    }
}

/// Returns the bytes of the file of a page.
pub(crate) fn file_len(shape: KvShape) -> u64 {
    (HEAD + shape.page_bytes() + CHECKSUM) as u64
}

#[cfg(test)]
mod tests {
    use bitnet_core::{Isa, KeyValue, KvPrecision};
    use proptest::prelude::*;

    use super::*;

    const PRECISIONS: [KvPrecision; 3] = [KvPrecision::F32, KvPrecision::F16, KvPrecision::Int8];

    fn page(precision: KvPrecision) -> KvPage {
        let shape = KvShape {
            precision,
            n_heads: 2,
            head_dim: 24,
        };
        let mut page = KvPage::new(&HybridMemoryPool::new(), shape).unwrap();
        for at in 0..KvPage::POSITIONS {
            let key: Vec<f32> = (0..48)
                .map(|i| (at * 48 + i) as f32 / 7.0 - 300.0)
                .collect();
            let value: Vec<f32> = key.iter().map(|x| -x / 3.0).collect();
            let kv = KeyValue {
                key: &key,
                value: &value,
            };
            page.store(Isa::Scalar, at, 0, kv);
        }
        page
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
        let pool = HybridMemoryPool::new();
        for precision in PRECISIONS {
            let page = page(precision);
            let file = head(&TOKENS).file(&page);
            assert_eq!(file.len() as u64, file_len(page.shape()), "{precision:?}");
            let read = head(&TOKENS).parse(&file, &pool, page.shape()).unwrap();
            let mut again = Vec::new();
            read.write_to(&mut again);
            assert_eq!(again, file[HEAD..file.len() - CHECKSUM], "{precision:?}");
            for at in 0..KvPage::POSITIONS {
                for head in 0..2 {
                    assert_eq!(read.load(at, head), page.load(at, head));
                }
            }
        }
    }

    #[test]
    fn pages_of_something_else_are_refused() {
        let pool = HybridMemoryPool::new();
        let page = page(KvPrecision::F16);
        let file = head(&TOKENS).file(&page);
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
            let refused = other.parse(&file, &pool, page.shape());
            assert!(matches!(refused, Err(PageFileError::Other)));
        }
        let int8 = KvShape {
            precision: KvPrecision::Int8,
            ..page.shape()
        };
        let refused = head(&TOKENS).parse(&file, &pool, int8);
        assert!(matches!(refused, Err(PageFileError::Length { .. })));
    }

    proptest! {
        #[test]
        fn damaged_files_are_refused(
            precision in 0_usize..3,
            cut in any::<prop::sample::Index>(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..4),
            more in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let page = page(PRECISIONS[precision]);
            let whole = head(&TOKENS).file(&page);
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
            let read = head(&TOKENS).parse(&file, &HybridMemoryPool::new(), page.shape());
            prop_assert_eq!(read.is_ok(), file == whole);
        }
    }
}
