//! A file of packed weights.
//!
//! ```text
//! arrays      each at a multiple of 64 bytes, with zeros in between
//! index       JSON: the key, the matrices, and where their arrays are
//! checksum    16   XXH3 (128 bits) of the index
//! length       8   of the index in bytes
//! "bitnetPW"   8
//! ```
//!
//! Numbers are little-endian; the arrays are as the kernels of this machine read them. The index
//! has a checksum of every 4 MiB of arrays.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_core::memory::{ALIGNMENT, FixedBytes};
use bitnet_core::{
    Int8Parts, PackedInt8, PackedTernary, ScaleParts, Shape, TernaryLayout, TernaryParts,
    ThreadPool,
};
use serde::{Deserialize, Serialize};
use twox_hash::{XxHash3_64, XxHash3_128};

use super::PackedMatrix;
use super::key::CacheKey;
use crate::format::mapping::FileBytes;

const MAGIC: [u8; 8] = *b"bitnetPW";
const TAIL: usize = 16 + 8 + MAGIC.len();

/// Bytes of arrays with one checksum, which are written at a time: systems that keep files on
/// large pages take them from large writes.
const SEGMENT: usize = 4 << 20;

/// More than the index has of a matrix.
const MAX_RECORD: usize = 512;

/// Why a file of packed weights is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackedFileError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("it is no file of packed weights, or was cut off")]
    Tail,
    #[error("its index is damaged")]
    Index,
    #[error("it has packed weights of something else")]
    Other,
    #[error("the checksum of bytes {} to {} is wrong", .0.start, .0.end)]
    Checksum(Range<usize>),
}

#[derive(Debug, Serialize, Deserialize)]
struct Index {
    key: CacheKey,
    /// The layout of the ternary matrices that are all read.
    layout: Layout,
    matrices: Vec<Record>,
    /// Of the bytes before the index, by [`SEGMENT`].
    checksums: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    name: String,
    n_rows: usize,
    n_cols: usize,
    blocks: Range<usize>,
    kind: Kind,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Kind {
    Ternary { layout: Layout, scales: Scales },
    Int8 { scales: Range<usize> },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Layout {
    TwoBits,
    Base3,
    Rows,
    Columns,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Scales {
    /// The bits of the scale: JSON might round it.
    Tensor(u32),
    Rows(Range<usize>),
    Groups {
        len: usize,
        values: Range<usize>,
    },
}

/// Packed weights in a mapped file.
#[derive(Debug)]
pub(crate) struct PackedFile {
    bytes: Arc<dyn FixedBytes>,
    layout: TernaryLayout,
    matrices: HashMap<String, Record>,
}

impl PackedFile {
    /// Maps a file and checks all of it, on all threads.
    pub(super) fn open(
        path: &Path,
        key: &CacheKey,
        threads: &mut ThreadPool,
    ) -> Result<Self, PackedFileError> {
        let bytes = FileBytes::open(path)?;
        bytes.prefer_large_pages();
        let (rest, tail) = bytes.split_last_chunk().ok_or(PackedFileError::Tail)?;
        let len = index_len(tail)?;
        let n_arrays = rest.len().checked_sub(len).ok_or(PackedFileError::Tail)?;
        let (arrays, index) = rest.split_at(n_arrays);
        let index = parse(index, tail)?;
        if index.key != *key {
            return Err(PackedFileError::Other);
        }
        if index.checksums.len() != n_arrays.div_ceil(SEGMENT) {
            return Err(PackedFileError::Index);
        }
        let is_right: Vec<_> = index
            .checksums
            .iter()
            .map(|_| AtomicBool::new(false))
            .collect();
        let segments: Vec<_> = arrays.chunks(SEGMENT).zip(&index.checksums).collect();
        threads.for_each(segments.len(), |_, i| {
            let (segment, checksum) = segments[i];
            let is_same = XxHash3_64::oneshot(segment) == *checksum;
            is_right[i].store(is_same, Ordering::Relaxed);
        });
        if let Some(i) = (is_right.iter()).position(|is_right| !is_right.load(Ordering::Relaxed)) {
            let end = n_arrays.min((i + 1) * SEGMENT);
            return Err(PackedFileError::Checksum(i * SEGMENT..end));
        }
        let named = |record: Record| (record.name.clone(), record);
        Ok(Self {
            layout: index.layout.into(),
            matrices: index.matrices.into_iter().map(named).collect(),
            bytes: Arc::new(bytes),
        })
    }

    /// Returns the layout of the ternary matrices that are all read.
    pub(crate) fn layout(&self) -> TernaryLayout {
        self.layout
    }

    /// Returns a ternary matrix, if there is one with this name and shape.
    pub(crate) fn ternary(&self, name: &str, shape: Shape) -> Option<PackedTernary> {
        let record = self.record(name, shape)?;
        let Kind::Ternary { layout, scales } = record.kind.clone() else {
            return None;
        };
        let parts = TernaryParts {
            layout: layout.into(),
            shape,
            scales: match scales {
                Scales::Tensor(bits) => ScaleParts::Tensor(f32::from_bits(bits)),
                Scales::Rows(values) => ScaleParts::Rows(values),
                Scales::Groups { len, values } => ScaleParts::Groups { len, values },
            },
            blocks: record.blocks.clone(),
        };
        PackedTernary::from_parts(&self.bytes, parts)
    }

    /// Returns an int8 matrix, if there is one with this name and shape.
    pub(crate) fn int8(&self, name: &str, shape: Shape) -> Option<PackedInt8> {
        let record = self.record(name, shape)?;
        let Kind::Int8 { scales } = record.kind.clone() else {
            return None;
        };
        let parts = Int8Parts {
            shape,
            blocks: record.blocks.clone(),
            scales,
        };
        PackedInt8::from_parts(&self.bytes, parts)
    }

    fn record(&self, name: &str, shape: Shape) -> Option<&Record> {
        let record = self.matrices.get(name);
        record.filter(|record| (record.n_rows, record.n_cols) == (shape.n_rows, shape.n_cols))
    }
}

/// Returns the length of the index.
fn index_len(tail: &[u8; TAIL]) -> Result<usize, PackedFileError> {
    let (rest, magic) = tail.split_at(TAIL - MAGIC.len());
    let len = rest.last_chunk().map(|len| u64::from_le_bytes(*len));
    match len.and_then(|len| usize::try_from(len).ok()) {
        Some(len) if magic == MAGIC => Ok(len),
        _ => Err(PackedFileError::Tail),
    }
}

fn parse(index: &[u8], tail: &[u8; TAIL]) -> Result<Index, PackedFileError> {
    if XxHash3_128::oneshot(index).to_le_bytes() != tail[..16] {
        return Err(PackedFileError::Index);
    }
    serde_json::from_slice(index).map_err(|_| PackedFileError::Index)
}

/// Reads the key of a file.
pub(super) fn read_key(path: &Path) -> Result<CacheKey, PackedFileError> {
    let mut file = File::open(path)?;
    let end = file.seek(SeekFrom::End(0))?;
    let mut tail = [0; TAIL];
    let start = end.checked_sub(TAIL as u64).ok_or(PackedFileError::Tail)?;
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut tail)?;
    let len = index_len(&tail)?;
    let start = start.checked_sub(len as u64).ok_or(PackedFileError::Tail)?;
    file.seek(SeekFrom::Start(start))?;
    let mut index = vec![0; len];
    file.read_exact(&mut index)?;
    Ok(parse(&index, &tail)?.key)
}

/// Returns at least the length of the file of so many matrices with so many bytes.
pub(super) fn max_len(n_bytes: usize, n_matrices: usize) -> u64 {
    let n_segments = n_bytes / SEGMENT + 2;
    (n_bytes + n_matrices * (MAX_RECORD + 2 * ALIGNMENT) + n_segments * 24 + (64 << 10)) as u64
}

/// Writes the file of these matrices. Calls `progress(done)` with the bytes of arrays.
pub(super) fn write(
    file: &mut File,
    key: &CacheKey,
    layout: TernaryLayout,
    matrices: &[(String, PackedMatrix<'_>)],
    progress: impl FnMut(usize) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut arrays = ArrayWriter {
        file,
        segment: Vec::with_capacity(SEGMENT),
        checksums: Vec::new(),
        progress,
    };
    let mut records = Vec::with_capacity(matrices.len());
    for (name, matrix) in matrices {
        records.push(arrays.record(name, matrix)?);
    }
    arrays.end_segment()?;
    let index = Index {
        key: key.clone(),
        layout: layout.into(),
        matrices: records,
        checksums: arrays.checksums,
    };
    let mut end = serde_json::to_vec(&index)?;
    let len = end.len() as u64;
    let checksum = XxHash3_128::oneshot(&end);
    end.extend_from_slice(&checksum.to_le_bytes());
    end.extend_from_slice(&len.to_le_bytes());
    end.extend_from_slice(&MAGIC);
    file.write_all(&end)
}

/// Writes arrays by whole segments.
struct ArrayWriter<'a, P> {
    file: &'a mut File,
    /// What is not written yet.
    segment: Vec<u8>,
    checksums: Vec<u64>,
    progress: P,
}

impl<P: FnMut(usize) -> ControlFlow<()>> ArrayWriter<'_, P> {
    fn record(&mut self, name: &str, matrix: &PackedMatrix<'_>) -> io::Result<Record> {
        let (shape, blocks, kind) = match matrix {
            PackedMatrix::Ternary(matrix) => {
                let parts = matrix.parts();
                let scales = match parts.scales {
                    ScaleParts::Tensor(scale) => Scales::Tensor(scale.to_bits()),
                    ScaleParts::Rows(values) => Scales::Rows(self.array(values)?),
                    ScaleParts::Groups { len, values } => Scales::Groups {
                        len,
                        values: self.array(values)?,
                    },
                };
                let layout = parts.layout.into();
                let kind = Kind::Ternary { layout, scales };
                (parts.shape, self.array(parts.blocks)?, kind)
            }
            PackedMatrix::Int8(matrix) => {
                let parts = matrix.parts();
                let scales = self.array(parts.scales)?;
                (
                    parts.shape,
                    self.array(parts.blocks)?,
                    Kind::Int8 { scales },
                )
            }
        };
        Ok(Record {
            name: name.to_owned(),
            n_rows: shape.n_rows,
            n_cols: shape.n_cols,
            blocks,
            kind,
        })
    }

    /// Writes an array and returns where it is.
    fn array(&mut self, bytes: &[u8]) -> io::Result<Range<usize>> {
        let end = self.position();
        self.write(&[0; ALIGNMENT][..end.next_multiple_of(ALIGNMENT) - end])?;
        let start = self.position();
        self.write(bytes)?;
        Ok(start..self.position())
    }

    fn position(&self) -> usize {
        self.checksums.len() * SEGMENT + self.segment.len()
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(SEGMENT - self.segment.len()));
            self.segment.extend_from_slice(now);
            if self.segment.len() == SEGMENT {
                self.end_segment()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn end_segment(&mut self) -> io::Result<()> {
        if self.segment.is_empty() {
            return Ok(());
        }
        let done = self.position();
        if (self.progress)(done).is_break() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.file.write_all(&self.segment)?;
        self.checksums.push(XxHash3_64::oneshot(&self.segment));
        self.segment.clear();
        Ok(())
    }
}

impl From<TernaryLayout> for Layout {
    fn from(layout: TernaryLayout) -> Self {
        match layout {
            TernaryLayout::TwoBits => Self::TwoBits,
            TernaryLayout::Base3 => Self::Base3,
            TernaryLayout::Rows => Self::Rows,
            TernaryLayout::Columns => Self::Columns,
        }
    }
}

impl From<Layout> for TernaryLayout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::TwoBits => Self::TwoBits,
            Layout::Base3 => Self::Base3,
            Layout::Rows => Self::Rows,
            Layout::Columns => Self::Columns,
        }
    }
}
