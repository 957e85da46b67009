//! Stored tensors: encoding and position in a file, and row access.

use std::ops::Range;
use std::sync::Arc;

use bitnet_core::{Isa, Shape};
use bitnet_quant::{DenseType, ShapeError, TernaryType};

use super::mapping::FileBytes;

/// The encoding of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Dense values.
    Dense(DenseType),
    /// Trits with scales.
    Ternary(TernaryType),
    /// Master weights, quantized to trits at load: see
    /// [`AbsMean`](bitnet_quant::AbsMean).
    Masters(DenseType),
}

impl Encoding {
    /// Returns the published name of the format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense(ty) => ty.name(),
            Self::Ternary(ty) => ty.name(),
            Self::Masters(DenseType::F32) => "F32 masters",
            Self::Masters(DenseType::F16) => "F16 masters",
            Self::Masters(_) => "BF16 masters",
        }
    }

    /// Returns the bytes of a matrix.
    ///
    /// # Errors
    ///
    /// Returns an error if the shape does not fit the encoding.
    pub(crate) fn n_bytes(self, n_rows: usize, n_cols: usize) -> Result<usize, ShapeError> {
        match self {
            Self::Dense(ty) | Self::Masters(ty) => ty.n_bytes(n_rows, n_cols),
            Self::Ternary(ty) => ty.n_bytes(n_rows, n_cols),
        }
    }
}

/// The description of a tensor in a file.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// The name in the file.
    pub name: String,
    /// The encoding of its values.
    pub encoding: Encoding,
    /// Number of rows: the outputs of a linear layer; 1 for a norm.
    pub n_rows: usize,
    /// Number of columns: the inputs of a linear layer.
    pub n_cols: usize,
    /// The outer scale of a ternary tensor, which multiplies its inline scales, if any;
    /// `None` if the file has none.
    pub(crate) outer_scale: Option<f32>,
    pub(crate) file_idx: usize,
    pub(crate) range: Range<usize>,
}

impl StoredTensor {
    /// Returns the size of the tensor in its file, in bytes.
    pub fn n_bytes(&self) -> usize {
        self.range.len()
    }

    /// Returns the shape of the tensor.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            n_rows: self.n_rows,
            n_cols: self.n_cols,
        }
    }

    /// Returns the index of the tensor's file and its byte range there.
    pub(crate) fn place(&self) -> (usize, Range<usize>) {
        (self.file_idx, self.range.clone())
    }
}

/// A dense tensor in its storage format.
#[derive(Clone, Debug)]
pub(crate) struct DenseTensor {
    files: Arc<[FileBytes]>,
    file_idx: usize,
    range: Range<usize>,
    ty: DenseType,
    /// The name in the file.
    name: Arc<str>,
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
}

impl DenseTensor {
    pub(super) fn new(files: &Arc<[FileBytes]>, tensor: &StoredTensor, ty: DenseType) -> Self {
        Self {
            files: Arc::clone(files),
            file_idx: tensor.file_idx,
            range: tensor.range.clone(),
            ty,
            name: tensor.name.as_str().into(),
            n_rows: tensor.n_rows,
            n_cols: tensor.n_cols,
        }
    }

    pub(crate) fn ty(&self) -> DenseType {
        self.ty
    }

    /// Returns the shape of the tensor.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            n_rows: self.n_rows,
            n_cols: self.n_cols,
        }
    }

    /// Returns the bytes of all rows.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.files[self.file_idx][self.range.clone()]
    }

    /// Returns the name in the file.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the bytes of one row.
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        let n_bytes = self.range.len() / self.n_rows;
        &self.bytes()[row * n_bytes..][..n_bytes]
    }

    /// Decodes one row to `out`, `[n_cols]`.
    pub(crate) fn decode_row(&self, isa: Isa, row: usize, out: &mut [f32]) {
        self.ty.decode_row(isa, self.row(row), out);
    }

    /// Decodes one row to `out`, `[n_cols]`, when all rows are read exactly once: after every
    /// 4 MiB, releases the pages of the mapped file that were read.
    pub(crate) fn decode_row_once(&self, isa: Isa, row: usize, out: &mut [f32]) {
        const RELEASED_BYTES: usize = 4 << 20;
        self.decode_row(isa, row, out);
        let row_bytes = self.range.len() / self.n_rows;
        let n_rows = (RELEASED_BYTES / row_bytes.max(1)).max(1);
        if (row + 1).is_multiple_of(n_rows) {
            let first = self.range.start + (row + 1 - n_rows) * row_bytes;
            self.files[self.file_idx].release(first..first + n_rows * row_bytes);
        }
    }

    /// Releases the pages of the mapped file; the next access reads them again.
    pub(crate) fn release(&self) {
        self.files[self.file_idx].release(self.range.clone());
    }

    /// Returns the size in bytes if the tensor is in a mapped file, else 0.
    pub(crate) fn n_mapped_bytes(&self) -> usize {
        let is_mapped = self.files[self.file_idx].is_mapped();
        if is_mapped { self.range.len() } else { 0 }
    }
}
