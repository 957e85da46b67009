//! A model at rest: configuration, tensors, tokenizer, whatever the file is.
//!
//! Everything that can be checked without reading weights is checked when a
//! checkpoint is opened: every tensor that the configuration calls for is
//! there, has the right shape, a type that can be read, and lies inside its
//! file; and there is no tensor that would be ignored.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::OutOfMemory;
use bitnet_quant::{Scales, ShapeError, TernaryError, TernaryView};

use super::gguf::{Gguf, GgufError};
use super::i2s_layout::I2SLayout;
use super::mapping::FileBytes;
use super::tensor::{DenseTensor, Encoding, StoredTensor};
use super::{gguf_model, gguf_split, hf_folder};
use crate::note::{self, Note};
use crate::spec::config::{ActivationPrecision, Config, ConfigError, RotaryRows};
use crate::spec::family::Family;
use crate::spec::tensors::{self, Expected, Role};

/// Where a checkpoint came from, for what only one kind of file has.
#[derive(Debug)]
pub(crate) enum Origin {
    Gguf(Box<Gguf>),
    HuggingFace(PathBuf),
}

/// A model at rest.
#[derive(Debug)]
pub struct Checkpoint {
    config: Config,
    /// By GGUF name, in file order of [`tensors::expected`].
    tensors: BTreeMap<String, StoredTensor>,
    files: Arc<[FileBytes]>,
    rotary_rows: RotaryRows,
    origin: Origin,
    notes: Vec<Note>,
}

impl Checkpoint {
    /// Opens a GGUF file or a HuggingFace folder.
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

    /// Opens a GGUF file that is in memory.
    pub fn from_gguf_bytes(file: Vec<u8>) -> Result<Self, CheckpointError> {
        gguf_model::open(Gguf::parse(&file)?, vec![FileBytes::Owned(file)])
    }

    /// Opens a GGUF file that is part of the program.
    #[cfg(feature = "builtin-model")]
    pub(crate) fn open_static(file: &'static [u8]) -> Result<Self, CheckpointError> {
        gguf_model::open(Gguf::parse(file)?, vec![FileBytes::Static(file)])
    }

    /// Checks the tensors of a file against the configuration.
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

    /// Adds what is odd about the files.
    pub(crate) fn add_notes(&mut self, notes: impl IntoIterator<Item = Note>) {
        for note in notes {
            note::add(&mut self.notes, note);
        }
    }

    /// Returns what is odd about the files and was read all the same.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Finds out what ternary weights are multiplied with, which GGUF files do not
    /// say: BitNet models, made for int8, have one scale a matrix; where any matrix has
    /// more, only weights were quantized. Weights that cannot be read are left to those
    /// who need them.
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

    /// Reads all I2_S weights in another layout than the canonical one.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Shape`] if a matrix cannot have that layout.
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

    /// Returns the bytes of a tensor.
    pub(crate) fn stored_bytes(&self, tensor: &StoredTensor) -> &[u8] {
        &self.files[tensor.file_idx][tensor.range.clone()]
    }

    /// Returns the numbers of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the kind of file: `GGUF` or `HuggingFace`.
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

    /// Returns whether a norm is stored less 1.
    pub(crate) fn norm_is_less_one(&self, name: &str) -> bool {
        matches!(self.origin, Origin::HuggingFace(_))
            && self.config.family.hf_norms_less_one
            && !tensors::is_projection_norm(name)
    }

    /// Returns every tensor with its role-independent GGUF name, sorted by
    /// place in the file.
    pub fn tensors(&self) -> Vec<&StoredTensor> {
        let mut tensors: Vec<_> = self.tensors.values().collect();
        tensors.sort_by_key(|tensor| (tensor.file_idx, tensor.range.start));
        tensors
    }

    /// Returns the bytes of a file.
    pub(crate) fn file_len(&self, file_idx: usize) -> usize {
        self.files[file_idx].len()
    }

    /// Returns every tensor with what it is for, by GGUF name: `embedding`,
    /// `output`, `norm`, `attention` or `feed-forward`.
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

    /// Returns a tensor that the configuration calls for, by GGUF name.
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

    /// Returns stored trits, by GGUF name, and the scales that are stored among them.
    pub(crate) fn trits(&self, name: &str) -> Result<(TernaryView<'_>, Scales), CheckpointError> {
        let tensor = self.tensor(name);
        let Encoding::Ternary(ty) = tensor.encoding else {
            unreachable!("`assemble` has checked the encoding of {name}")
        };
        let bytes = self.stored_bytes(tensor);
        let trits = TernaryView::new(ty, tensor.n_rows, tensor.n_cols, bytes);
        trits
            .and_then(|trits| Ok((trits, trits.scales()?)))
            .map_err(|source| CheckpointError::Ternary {
                name: tensor.name.clone(),
                source,
            })
    }

    /// Takes a tensor out of memory, until somebody looks at it again.
    pub(crate) fn release(&self, name: &str) {
        let tensor = self.tensor(name);
        self.files[tensor.file_idx].release(tensor.range.clone());
    }

    /// Returns the files.
    pub(crate) fn files(&self) -> &Arc<[FileBytes]> {
        &self.files
    }

    /// Takes all files out of memory, but for those that are not mapped: returns
    /// the bytes of these.
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

/// Why a path is not a model that can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file cannot be opened.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path is nothing that holds a model.
    #[error(
        "expected a GGUF file or a HuggingFace folder (config.json and *.safetensors), found {found}"
    )]
    NotAModel {
        /// What is there instead.
        found: &'static str,
    },
    /// The GGUF container is broken.
    #[error("not a readable GGUF file")]
    Gguf(#[from] GgufError),
    /// One file of a split model is broken.
    #[error("{} is not a readable GGUF file", file.display())]
    SplitPart {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },
    /// The files of a split model contradict each other.
    #[error(
        "{} has {key} {}, expected {expected}",
        file.display(), found.map_or("missing".to_owned(), |n| n.to_string())
    )]
    Split {
        /// The file.
        file: PathBuf,
        /// The metadata that is wrong.
        key: &'static str,
        /// What it should be.
        expected: u64,
        /// What it is.
        found: Option<u64>,
    },
    /// One file of a split model has a name that does not lead to the others.
    #[error(
        "{} is one of {count} parts, expected a name that ends in -0000N-of-{count:05}.gguf",
        file.display()
    )]
    SplitName {
        /// The file.
        file: PathBuf,
        /// How many there are, by its metadata.
        count: u64,
    },
    /// A SafeTensors file is broken.
    #[error("{file} is not a readable SafeTensors file")]
    SafeTensors {
        /// The name of the file.
        file: String,
        /// What is wrong with it.
        source: safetensors::SafeTensorError,
    },
    /// A JSON file cannot be understood.
    #[error("{file} is not as expected")]
    Json {
        /// The name of the file.
        file: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A key that every model needs is missing.
    #[error("key {key:?} is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// No code for this kind of model.
    #[error(
        "architecture {found:?} is not supported (supported: {})",
        Family::names()
    )]
    Architecture {
        /// What the file says.
        found: String,
    },
    /// The model needs something that is not implemented.
    #[error("{what} {found:?} is not supported (expected {expected})")]
    Unsupported {
        /// What kind of thing.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What can be read.
        expected: &'static str,
    },
    /// The numbers of the model contradict each other.
    #[error("the configuration is impossible")]
    Config(#[from] ConfigError),
    /// A key changes the computation, and nothing here acts on it.
    #[error("key {key:?} is {value}, which changes the computation in a way that is not supported")]
    NotUnderstood {
        /// The key.
        key: String,
        /// Its value, in words.
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
    /// Two shards hold the same tensor.
    #[error("tensor {name:?} is there twice")]
    DuplicateTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
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
    /// A tensor has a type that is not read, or not in this place.
    #[error("tensor {name:?} is stored as {found}, expected {expected}")]
    WrongEncoding {
        /// Its name.
        name: String,
        /// Its type.
        found: &'static str,
        /// What fits in its place.
        expected: &'static str,
    },
    /// A tensor has a type that is unknown here.
    #[error("tensor {name:?} has type {found}, which is not supported")]
    UnknownType {
        /// Its name.
        name: String,
        /// The type.
        found: String,
    },
    /// A tensor is laid out by parameters that the file does not have.
    #[error(
        "tensor {name:?} is stored as {found}, in tiles whose sizes were chosen when the file was made and are not in it"
    )]
    Tiled {
        /// Its name.
        name: String,
        /// Its type.
        found: &'static str,
    },
    /// The shape does not suit the type.
    #[error("in tensor {name:?}")]
    Shape {
        /// Its name.
        name: String,
        /// What does not fit.
        source: ShapeError,
    },
    /// A tensor has more bytes than the file left for it.
    #[error(
        "tensor {name:?} needs {needed} bytes at offset {offset}, but only {available} are there"
    )]
    TensorBytes {
        /// Its name.
        name: String,
        /// Where it starts.
        offset: u64,
        /// What its type and shape take.
        needed: u64,
        /// Bytes up to the next tensor or the end of the file.
        available: u64,
    },
    /// The system has not enough memory for the weights.
    #[error("not enough memory for the weights: {} bytes", .0.n_bytes)]
    Memory(OutOfMemory),
    /// Ternary data are broken.
    #[error("in tensor {name:?}")]
    Ternary {
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: TernaryError,
    },
    /// A value cannot be computed with.
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
    /// A file was shortened or written to while it was read.
    #[error("{} was changed while it was in use", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
    },
    /// A scale is not a number.
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
