//! Checkpoints: the configuration, tensors and tokenizer of a model, in any file format.
//!
//! Opening a checkpoint validates everything except the weight values: every tensor that the
//! configuration requires exists, has the right shape and a supported type, and lies within
//! its file; and no tensor would be ignored.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::OutOfMemory;
use bitnet_quant::{Scales, ShapeError, TernaryError, TernaryView};
use twox_hash::xxhash3_128;

use super::gguf::{Gguf, GgufError};
use super::i2s_layout::I2SLayout;
use super::mapping::FileBytes;
use super::tensor::{DenseTensor, Encoding, StoredTensor};
use super::{gguf_model, gguf_split, hf_folder};
use crate::note::{self, Note};
use crate::spec::config::{ActivationPrecision, Config, ConfigError, RotaryRows};
use crate::spec::family::Family;
use crate::spec::tensors::{self, Expected, Role};

/// The source of a checkpoint, for format-specific data.
#[derive(Debug)]
pub(crate) enum Origin {
    Gguf(Box<Gguf>),
    HuggingFace(PathBuf),
}

/// A model as stored in files, not yet loaded.
#[derive(Debug)]
pub struct Checkpoint {
    config: Config,
    /// The tensors of [`tensors::expected`] by GGUF name.
    tensors: BTreeMap<String, StoredTensor>,
    files: Arc<[FileBytes]>,
    rotary_rows: RotaryRows,
    origin: Origin,
    notes: Vec<Note>,
}

impl Checkpoint {
    /// Opens a GGUF file, with all its parts if it is split, or a HuggingFace folder.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or is invalid, or the model is not supported.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let read_error = |source| CheckpointError::Read {
            file: path.to_owned(),
            source,
        };
        let kind = std::fs::metadata(path).map_err(read_error)?.file_type();
        if kind.is_dir() {
            return hf_folder::open(path);
        }
        if !kind.is_file() {
            return Err(CheckpointError::NotAModel {
                found: "neither a file nor a folder",
            });
        }
        let (gguf, files) = gguf_split::open(path)?;
        gguf_model::open(gguf, files)
    }

    /// Opens a GGUF file in memory.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is invalid or the model is not supported.
    pub fn from_gguf_bytes(file: Vec<u8>) -> Result<Self, CheckpointError> {
        gguf_model::open(Gguf::parse(&file)?, vec![FileBytes::Owned(file)])
    }

    /// Opens the files of a split GGUF model in memory, each with its name, in their order.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is invalid or is not that part, or the model is not
    /// supported.
    ///
    /// # Panics
    ///
    /// Panics if there is no file.
    pub fn from_gguf_parts(parts: Vec<(PathBuf, Vec<u8>)>) -> Result<Self, CheckpointError> {
        let parts = parts.into_iter();
        let parts = parts.map(|(name, file)| Ok((FileBytes::Owned(file), name)));
        let (gguf, files) = gguf_split::join(parts)?;
        gguf_model::open(gguf, files)
    }

    /// Opens a GGUF file embedded in the program.
    #[cfg(feature = "builtin-model")]
    pub(crate) fn open_static(file: &'static [u8]) -> Result<Self, CheckpointError> {
        gguf_model::open(Gguf::parse(file)?, vec![FileBytes::Static(file)])
    }

    /// Checks the configuration and the tensors that it requires, and returns the checkpoint.
    pub(crate) fn assemble(
        mut config: Config,
        found: BTreeMap<String, StoredTensor>,
        files: Vec<FileBytes>,
        rotary_rows: RotaryRows,
        origin: Origin,
    ) -> Result<Self, CheckpointError> {
        config.validate()?;
        let mut found = found;
        let mut tensors = BTreeMap::new();
        for expected in tensors::expected(&config) {
            let Some(tensor) = found.remove(&expected.name) else {
                let name = match origin {
                    Origin::Gguf(_) => expected.name,
                    Origin::HuggingFace(_) => expected.hf_name,
                };
                return Err(CheckpointError::MissingTensor { name });
            };
            check_tensor(config.family, &expected, &tensor, &files)?;
            let is_dense = matches!(tensor.encoding, Encoding::Dense(_));
            config.dense_linears |= is_dense && expected.is_linear();
            tensors.insert(expected.name, tensor);
        }
        if let Some((_, tensor)) = found.pop_first() {
            return Err(CheckpointError::UnexpectedTensor {
                name: tensor.name,
                family: config.family.name,
            });
        }
        Ok(Self {
            config,
            tensors,
            files: files.into(),
            rotary_rows,
            origin,
            notes: Vec::new(),
        })
    }

    /// Adds notes.
    pub(crate) fn add_notes(&mut self, notes: impl IntoIterator<Item = Note>) {
        for note in notes {
            note::add(&mut self.notes, note);
        }
    }

    /// Returns warnings about irregular files that were accepted.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Sets the precision of activations, which GGUF files do not declare: BitNet models,
    /// trained with int8 activations, have one scale per matrix; if any matrix has more, only
    /// weights were quantized. Invalid weights are ignored here and are an error at load.
    pub(crate) fn infer_activations(&mut self) {
        let config = &self.config;
        if config.family.always_ternary || config.projection_norms {
            return;
        }
        let linears = tensors::expected(config).into_iter();
        let mut ternary = linears
            .filter(Expected::is_linear)
            .filter(|linear| matches!(self.tensor(&linear.name).encoding, Encoding::Ternary(_)))
            .peekable();
        let has_several_scales = |linear: Expected| match self.trits(&linear.name) {
            Ok((_, scales)) => scales.tensor().is_none(),
            Err(_) => false,
        };
        let is_bitnet = config.family.quantizes_activations
            && ternary.peek().is_some()
            && !ternary.any(has_several_scales);
        self.config.activations = if is_bitnet {
            ActivationPrecision::Int8
        } else {
            ActivationPrecision::Exact
        };
    }

    /// Sets the layout in which all I2_S weights are decoded, instead of the canonical one.
    ///
    /// # Errors
    ///
    /// Returns [`CheckpointError::Shape`] if the shape of a matrix does not fit the layout.
    pub fn set_i2s_layout(&mut self, layout: I2SLayout) -> Result<(), CheckpointError> {
        let layouts = I2SLayout::ALL.map(|layout| Encoding::Ternary(layout.ternary_type()));
        let encoding = Encoding::Ternary(layout.ternary_type());
        for tensor in self.tensors.values_mut() {
            if layouts.contains(&tensor.encoding) {
                let n_bytes = encoding.n_bytes(tensor.n_rows, tensor.n_cols);
                n_bytes.map_err(|source| CheckpointError::Shape {
                    name: tensor.name.clone(),
                    source,
                })?;
                tensor.encoding = encoding;
            }
        }
        Ok(())
    }

    /// Returns the bytes of a tensor as stored.
    pub(crate) fn stored_bytes(&self, tensor: &StoredTensor) -> &[u8] {
        &self.files[tensor.file_idx][tensor.range.clone()]
    }

    /// Returns a hash of all that is computed with besides the configuration: the tensors as
    /// they are stored. It reads them all, at the speed of memory.
    pub fn stored_hash(&self) -> u128 {
        let mut hasher = xxhash3_128::Hasher::new();
        for (name, tensor) in &self.tensors {
            let StoredTensor {
                encoding,
                n_rows,
                n_cols,
                outer_scale,
                ..
            } = tensor;
            let less_one = self.norm_is_less_one(name);
            let head = format!("{name} {encoding:?} {n_rows} {n_cols} {outer_scale:?} {less_one}");
            hasher.write(head.as_bytes());
            hasher.write(self.stored_bytes(tensor));
        }
        hasher.write(format!("{:?}", self.rotary_rows).as_bytes());
        hasher.finish_128()
    }

    /// Returns the configuration of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the file format: `GGUF` or `HuggingFace`.
    pub fn kind(&self) -> &'static str {
        match self.origin {
            Origin::Gguf(_) => "GGUF",
            Origin::HuggingFace(_) => "HuggingFace",
        }
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) fn rotary_rows(&self) -> RotaryRows {
        self.rotary_rows
    }

    /// Returns whether the weights of a norm are stored minus 1.
    pub(crate) fn norm_is_less_one(&self, name: &str) -> bool {
        matches!(self.origin, Origin::HuggingFace(_))
            && self.config.family.hf_norms_less_one
            && !tensors::is_projection_norm(name)
    }

    /// Returns all tensors in file order.
    pub fn tensors(&self) -> Vec<&StoredTensor> {
        let mut tensors: Vec<_> = self.tensors.values().collect();
        tensors.sort_by_key(|tensor| (tensor.file_idx, tensor.range.start));
        tensors
    }

    /// Returns the size of a file in bytes.
    pub(crate) fn file_len(&self, file_idx: usize) -> usize {
        self.files[file_idx].len()
    }

    /// Returns all tensors with their role, ordered by GGUF name: `embedding`, `output`,
    /// `norm`, `attention` or `feed-forward`.
    pub fn roles(&self) -> impl Iterator<Item = (&'static str, &StoredTensor)> {
        self.tensors.iter().map(|(name, tensor)| {
            let role = match name.as_str() {
                tensors::TOKEN_EMBD => "embedding",
                tensors::OUTPUT => "output",
                name if name.contains("norm") => "norm",
                name if name.contains(".attn_") => "attention",
                _ => "feed-forward",
            };
            (role, tensor)
        })
    }

    /// Returns a tensor that the configuration requires, by GGUF name.
    pub(crate) fn tensor(&self, name: &str) -> &StoredTensor {
        self.tensors
            .get(name)
            .expect("`assemble` has found every expected tensor")
    }

    /// Returns a dense tensor, or master weights, by GGUF name.
    pub(crate) fn dense(&self, name: &str) -> DenseTensor {
        let tensor = self.tensor(name);
        let (Encoding::Dense(ty) | Encoding::Masters(ty)) = tensor.encoding else {
            unreachable!("`assemble` has checked the encoding of {name}")
        };
        DenseTensor::new(&self.files, tensor, ty)
    }

    /// Returns stored trits and their inline scales, by GGUF name.
    pub(crate) fn trits(&self, name: &str) -> Result<(TernaryView<'_>, Scales), CheckpointError> {
        let tensor = self.tensor(name);
        self.view(tensor)
            .and_then(|trits| Ok((trits, trits.scales()?)))
            .map_err(|source| CheckpointError::Ternary {
                name: tensor.name.clone(),
                source,
            })
    }

    /// Returns a view of stored trits.
    pub(crate) fn view(&self, tensor: &StoredTensor) -> Result<TernaryView<'_>, TernaryError> {
        let Encoding::Ternary(ty) = tensor.encoding else {
            unreachable!("`assemble` has checked the encoding of {}", tensor.name)
        };
        let bytes = self.stored_bytes(tensor);
        TernaryView::new(ty, tensor.n_rows, tensor.n_cols, bytes)
    }

    /// Releases the memory pages of a mapped tensor; the next access reads them again.
    pub(crate) fn release(&self, name: &str) {
        let tensor = self.tensor(name);
        self.files[tensor.file_idx].release(tensor.range.clone());
    }

    /// Returns the files.
    pub(crate) fn files(&self) -> &Arc<[FileBytes]> {
        &self.files
    }

    /// Releases the memory pages of all mapped files. Returns the bytes of the other files.
    pub(crate) fn release_all(&self) -> usize {
        for file in &*self.files {
            file.release(0..file.len());
        }
        let in_memory = self.files.iter().filter(|file| !file.is_mapped());
        in_memory.map(|file| file.len()).sum()
    }
}

fn check_tensor(
    family: &Family,
    expected: &Expected,
    tensor: &StoredTensor,
    files: &[FileBytes],
) -> Result<(), CheckpointError> {
    let name = || tensor.name.clone();
    if (tensor.n_rows, tensor.n_cols) != (expected.n_rows, expected.n_cols) {
        return Err(CheckpointError::WrongShape {
            name: name(),
            expected: [expected.n_rows, expected.n_cols],
            found: [tensor.n_rows, tensor.n_cols],
        });
    }
    let is_ternary = !matches!(tensor.encoding, Encoding::Dense(_));
    let fits = match expected.role {
        Role::Norm => !is_ternary,
        Role::Vocabulary => true,
        Role::Linear | Role::Rotary => is_ternary || !family.always_ternary,
    };
    if !fits {
        return Err(CheckpointError::WrongEncoding {
            name: name(),
            found: tensor.encoding.name(),
            expected: match expected.role {
                Role::Vocabulary | Role::Norm => "dense values (F32, F16, BF16, Q8_0, K-quants …)",
                Role::Linear | Role::Rotary => {
                    "ternary weights (I2_S, TQ1_0, TQ2_0, packed uint8 …)"
                }
            },
        });
    }
    let needed = tensor
        .encoding
        .n_bytes(tensor.n_rows, tensor.n_cols)
        .map_err(|source| CheckpointError::Shape {
            name: name(),
            source,
        })?;
    assert_eq!(
        needed,
        tensor.range.len(),
        "readers give tensors the bytes of their type"
    );
    assert!(
        tensor.range.end <= files[tensor.file_idx].len(),
        "readers keep tensors inside their file"
    );
    Ok(())
}

/// An error when a checkpoint is opened or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The path is neither a file nor a model folder.
    #[error(
        "expected a GGUF file or a HuggingFace folder (config.json and *.safetensors), found {found}"
    )]
    NotAModel {
        /// What the path is instead.
        found: &'static str,
    },
    /// The GGUF file is invalid.
    #[error("not a readable GGUF file")]
    Gguf(#[from] GgufError),
    /// One file of a split model is invalid.
    #[error("{} is not a readable GGUF file", file.display())]
    SplitPart {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: GgufError,
    },
    /// The files of a split model are inconsistent.
    #[error(
        "{} has {key} {}, expected {expected}",
        file.display(), found.map_or("missing".to_owned(), |n| n.to_string())
    )]
    Split {
        /// The file.
        file: PathBuf,
        /// The wrong metadata key.
        key: &'static str,
        /// The expected value.
        expected: u64,
        /// The value in the file.
        found: Option<u64>,
    },
    /// The name of a file of a split model does not follow the pattern of split files.
    #[error(
        "{} is one of {count} parts, expected a name that ends in -0000N-of-{count:05}.gguf",
        file.display()
    )]
    SplitName {
        /// The file.
        file: PathBuf,
        /// Number of files, by its metadata.
        count: u64,
    },
    /// A SafeTensors file is invalid.
    #[error("{file} is not a readable SafeTensors file")]
    SafeTensors {
        /// The name of the file.
        file: String,
        /// The cause.
        source: safetensors::SafeTensorError,
    },
    /// A JSON file is invalid.
    #[error("{file} is not as expected")]
    Json {
        /// The name of the file.
        file: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// A required key is missing.
    #[error("key {key:?} is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// The architecture is not supported.
    #[error(
        "architecture {found:?} is not supported (supported: {})",
        Family::names()
    )]
    Architecture {
        /// The architecture in the file.
        found: String,
    },
    /// A property of the model is not supported.
    #[error("{what} {found:?} is not supported (expected {expected})")]
    Unsupported {
        /// The property.
        what: &'static str,
        /// The value in the file.
        found: String,
        /// The supported values.
        expected: &'static str,
    },
    /// The configuration is inconsistent.
    #[error("the configuration is impossible")]
    Config(#[from] ConfigError),
    /// A key that changes the computation is not supported.
    #[error("key {key:?} is {value}, which changes the computation in a way that is not supported")]
    NotUnderstood {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// A tensor is missing.
    #[error("tensor {name:?} is missing")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor would be ignored.
    #[error("tensor {name:?} is not part of architecture {family} as implemented")]
    UnexpectedTensor {
        /// Its name.
        name: String,
        /// The family.
        family: &'static str,
    },
    /// Two shards contain the same tensor.
    #[error("tensor {name:?} is duplicated")]
    DuplicateTensor {
        /// Its name.
        name: String,
    },
    /// The shape of a tensor differs from the configuration.
    #[error(
        "tensor {name:?} is {} x {}, expected {} x {} by the configuration",
        found[0], found[1], expected[0], expected[1]
    )]
    WrongShape {
        /// Its name.
        name: String,
        /// Rows and columns by the configuration.
        expected: [usize; 2],
        /// Rows and columns in the file.
        found: [usize; 2],
    },
    /// The type of a tensor is not supported for its role.
    #[error("tensor {name:?} is stored as {found}, expected {expected}")]
    WrongEncoding {
        /// Its name.
        name: String,
        /// Its type.
        found: &'static str,
        /// The supported types.
        expected: &'static str,
    },
    /// The type of a tensor is unknown.
    #[error("tensor {name:?} has type {found}, which is not supported")]
    UnknownType {
        /// Its name.
        name: String,
        /// The type.
        found: String,
    },
    /// The layout of a tensor depends on parameters that are not in the file.
    #[error(
        "tensor {name:?} is stored as {found}, in tiles whose sizes were chosen when the file was made and are not in it"
    )]
    Tiled {
        /// Its name.
        name: String,
        /// Its type.
        found: &'static str,
    },
    /// The shape does not fit the type.
    #[error("in tensor {name:?}")]
    Shape {
        /// Its name.
        name: String,
        /// The cause.
        source: ShapeError,
    },
    /// A tensor exceeds the space available for it in the file.
    #[error(
        "tensor {name:?} needs {needed} bytes at offset {offset}, but only {available} are there"
    )]
    TensorBytes {
        /// Its name.
        name: String,
        /// Its offset.
        offset: u64,
        /// Bytes required by its type and shape.
        needed: u64,
        /// Bytes up to the next tensor or the end of the file.
        available: u64,
    },
    /// The allocation of memory for the weights failed.
    #[error("not enough memory for the weights: {} bytes", .0.n_bytes)]
    Memory(OutOfMemory),
    /// Ternary data are invalid.
    #[error("in tensor {name:?}")]
    Ternary {
        /// Its name.
        name: String,
        /// The cause.
        source: TernaryError,
    },
    /// A weight is not finite, or its square is not.
    #[error(
        "in tensor {name:?}: the value at row {row}, column {col} is {value:e}, expected a finite number below 1e19"
    )]
    NotFinite {
        /// The tensor.
        name: String,
        /// The row.
        row: usize,
        /// The column.
        col: usize,
        /// The value.
        value: f32,
    },
    /// A file was truncated or modified while in use.
    #[error("{} was changed while it was in use", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
    },
    /// A scale is not finite.
    #[error("in tensor {name:?}: the scale is {scale}, expected a finite number")]
    Scale {
        /// Its name.
        name: String,
        /// The scale.
        scale: f32,
    },
}

impl From<OutOfMemory> for CheckpointError {
    fn from(error: OutOfMemory) -> Self {
        Self::Memory(error)
    }
}
