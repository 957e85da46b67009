//! A tensor at rest: how a file holds it, and reading its rows.

use std::ops::Range;
use std::sync::Arc;

use bitnet_core::{Isa, Shape};
use bitnet_quant::{DenseType, ShapeError, TernaryType};

use super::mapping::FileBytes;

/// How the values of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Values row by row.
    Dense(DenseType),
    /// Trits.
    Ternary(TernaryType),
    /// Master weights, which are rounded to trits when the model is loaded: see
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
    pub(crate) fn n_bytes(self, n_rows: usize, n_cols: usize) -> Result<usize, ShapeError> {
        match self {
            Self::Dense(ty) | Self::Masters(ty) => ty.n_bytes(n_rows, n_cols),
            Self::Ternary(ty) => ty.n_bytes(n_rows, n_cols),
        }
    }
}

/// A tensor as a file holds it.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// The name in the file.
    pub name: String,
    /// How its values are stored.
    pub encoding: Encoding,
    /// Outputs of a linear layer; 1 for a norm.
    pub n_rows: usize,
    /// Inputs of a linear layer.
    pub n_cols: usize,
    /// What a ternary tensor's own scales, if it has any, are multiplied with; `None` if
    /// the file gives no such scale.
    pub(crate) outer_scale: Option<f32>,
    pub(crate) file_idx: usize,
    pub(crate) range: Range<usize>,
}

impl StoredTensor {
    /// Returns the bytes that the tensor takes in its file.
    pub fn n_bytes(&self) -> usize {
        self.range.len()
    }

    /// Returns the file that the tensor is in, and where in it.
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

    /// Returns rows and columns.
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

    /// Decodes one row.
    pub(crate) fn decode_row(&self, isa: Isa, row: usize, out: &mut [f32]) {
        self.ty.decode_row(isa, self.row(row), out);
    }

    /// Decodes one row of those that are read once, all of them: now and then takes
    /// what was read out of memory.
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

    /// Returns the bytes, if they are in a mapped file.
    pub(crate) fn n_mapped_bytes(&self) -> usize {
        let is_mapped = self.files[self.file_idx].is_mapped();
        if is_mapped { self.range.len() } else { 0 }
    }
}
