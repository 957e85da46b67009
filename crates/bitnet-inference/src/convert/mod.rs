//! Conversion between model formats, preserving every trit and scale.
//!
//! Only the embedding and output matrix are quantized, if the options say so. Output
//! appears under its name only when it is complete.

mod gguf;
mod hf_folder;
mod piece_scores;
mod tokenizer_parts;

use std::borrow::Borrow;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bitnet_core::{Isa, ThreadPool};
use bitnet_quant::{DenseType, Scales, ShapeError, TernaryError, TernaryType, encode_ternary};

use crate::format::checkpoint::{Checkpoint, CheckpointError};
use crate::format::tensor::Encoding;
use crate::model::ternary::TernaryTensor;
use crate::spec::config::RotaryRows;
use crate::spec::tensors::{self, Expected, Role};
use crate::tokenizer::TokenizerError;

/// The target format of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One GGUF file.
    Gguf(GgufWeights),
    /// A HuggingFace folder with packed ternary weights.
    HfPacked,
}

/// The type of ternary weights in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufWeights {
    /// bitnet.cpp's I2_S.
    I2S,
    /// llama.cpp's TQ1_0.
    TQ1_0,
    /// llama.cpp's TQ2_0.
    TQ2_0,
}

impl GgufWeights {
    fn ternary_type(self) -> TernaryType {
        match self {
            Self::I2S => TernaryType::I2S,
            Self::TQ1_0 => TernaryType::TQ1_0,
            Self::TQ2_0 => TernaryType::TQ2_0,
        }
    }
}

/// Options of a conversion.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions {
    /// The format of the result.
    pub target: Target,
    /// The type of embedding and output matrix; unchanged if `None`.
    pub head: Option<DenseType>,
    /// Whether an existing file or folder is replaced.
    pub overwrite: bool,
}

/// Writes `checkpoint` to `out` in another format.
///
/// If `checkpoint` is passed by value, it is closed before the result is renamed: Windows
/// cannot replace a mapped file, so a model could not replace itself otherwise.
/// `progress(done, total)` is called with the number of finished tensors and may cancel
/// the conversion, which leaves no output.
///
/// # Errors
///
/// Returns an error if the output exists and is not to be replaced or cannot be written,
/// the checkpoint cannot be read, the target cannot represent it, or `progress` cancelled
/// the conversion.
pub fn convert(
    checkpoint: impl Borrow<Checkpoint>,
    out: &Path,
    options: ConvertOptions,
    threads: &mut ThreadPool,
    progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<(), ConvertError> {
    if out.exists() {
        let path = out.to_owned();
        if !options.overwrite {
            return Err(ConvertError::Exists { path });
        }
        match (options.target, out.is_dir()) {
            (Target::Gguf(_), false) => {}
            (Target::Gguf(_), true) => return Err(ConvertError::Folder { path }),
            (Target::HfPacked, false) => return Err(ConvertError::NotAFolder { path }),
            (Target::HfPacked, true) => hf_folder::check_replaceable(out)?,
        }
    }
    // Report a missing folder by its name, not by that of a temporary file.
    let folder = folder_of(out);
    std::fs::metadata(folder).map_err(|source| ConvertError::WriteInto {
        folder: folder.to_owned(),
        source,
    })?;
    let opened = checkpoint.borrow();
    let is_ternary = |expected: &Expected| {
        expected.is_linear()
            && !matches!(opened.tensor(&expected.name).encoding, Encoding::Dense(_))
    };
    if !tensors::expected(opened.config()).iter().any(is_ternary) {
        return Err(ConvertError::NotTernary);
    }
    let source = Source {
        checkpoint: opened,
        isa: Isa::best(),
        head: options.head,
        to_folder: options.target == Target::HfPacked,
    };
    match options.target {
        Target::Gguf(weights) => {
            let file = gguf::write(&source, out, weights.ternary_type(), threads, progress)?;
            drop(checkpoint);
            Ok(publish_file(file, out)?)
        }
        Target::HfPacked => {
            let folder = hf_folder::write(&source, out, threads, progress)?;
            drop(checkpoint);
            hf_folder::publish(folder, out)
        }
    }
}

/// The source of a conversion.
#[derive(Clone, Copy)]
struct Source<'a> {
    checkpoint: &'a Checkpoint,
    /// What decodes dense weights.
    isa: Isa,
    head: Option<DenseType>,
    /// Whether the target is a HuggingFace folder.
    to_folder: bool,
}

impl<'a> Source<'a> {
    /// Returns a ternary tensor by GGUF name.
    fn ternary(&self, name: &str) -> Result<TernaryTensor<'a>, CheckpointError> {
        TernaryTensor::new(self.checkpoint, self.isa, name)
    }

    /// Returns the offset to add to a norm's weights: Gemma's folders store them minus 1.
    fn norm_offset(&self, expected: &Expected) -> f32 {
        let family = self.checkpoint.config().family;
        let stored = self.checkpoint.norm_is_less_one(&expected.name);
        let stores = self.to_folder
            && family.hf_norms_less_one
            && !tensors::is_projection_norm(&expected.name);
        match (stored, stores) {
            (true, false) => 1.0,
            (false, true) => -1.0,
            _ => 0.0,
        }
    }

    /// Returns the dense type of a tensor in the result: `norms` for a norm, the requested
    /// type, or the stored one; `None` if it remains ternary.
    fn dense_type(&self, expected: &Expected, norms: DenseType) -> Option<DenseType> {
        let stored = match self.checkpoint.tensor(&expected.name).encoding {
            Encoding::Dense(ty) => Some(ty),
            Encoding::Ternary(_) | Encoding::Masters(_) => None,
        };
        match expected.role {
            Role::Norm => Some(norms),
            Role::Vocabulary => self.head.or(stored),
            Role::Linear | Role::Rotary => stored,
        }
    }

    /// Returns a tensor in the dense type `ty`, with rotary rows in the order `rotary_rows`.
    /// Trits are dequantized.
    fn encode_dense(
        &self,
        expected: &Expected,
        ty: DenseType,
        rotary_rows: RotaryRows,
        threads: &mut ThreadPool,
    ) -> Result<Vec<u8>, ConvertError> {
        let (n_rows, n_cols) = (expected.n_rows, expected.n_cols);
        let row_bytes = dense_row_bytes(expected, ty)?;
        let source_row = self.source_row(expected, rotary_rows);
        let mut out = vec![0; row_bytes * n_rows];
        let stored = self.checkpoint.tensor(&expected.name).encoding;
        if !matches!(stored, Encoding::Dense(_)) {
            let tensor = self.ternary(&expected.name)?;
            let (mut trits, mut values) = (vec![0; n_cols], vec![0.0; n_cols]);
            let mut encoded = Vec::with_capacity(row_bytes);
            for (row, out) in out.chunks_mut(row_bytes).enumerate() {
                let row = source_row(row);
                (tensor.decode_row(row, &mut trits)).map_err(|source| ConvertError::Ternary {
                    name: expected.name.clone(),
                    source,
                })?;
                tensor.scales.scale_row(row, &trits, &mut values);
                encoded.clear();
                ty.encode_row(&values, &mut encoded);
                out.copy_from_slice(&encoded);
            }
            return Ok(out);
        }
        let tensor = self.checkpoint.dense(&expected.name);
        let offset = match expected.role {
            Role::Norm => self.norm_offset(expected),
            _ => 0.0,
        };
        if tensor.ty() == ty && offset == 0.0 {
            for (row, out) in out.chunks_mut(row_bytes).enumerate() {
                out.copy_from_slice(&tensor.bytes()[source_row(row) * row_bytes..][..row_bytes]);
            }
            return Ok(out);
        }
        let local = (vec![0.0; n_cols], Vec::with_capacity(row_bytes));
        let mut locals = vec![local; threads.n_threads()];
        threads.for_each_chunk(&mut out, row_bytes, &mut locals, |local, row, out| {
            let (values, encoded) = local;
            tensor.decode_row(self.isa, source_row(row), values);
            if offset != 0.0 {
                for value in values.iter_mut() {
                    *value += offset;
                }
            }
            encoded.clear();
            ty.encode_row(values, encoded);
            out.copy_from_slice(encoded);
        });
        Ok(out)
    }

    /// Returns a function from rows of the result to rows of the checkpoint.
    fn source_row(
        &self,
        expected: &Expected,
        rotary_rows: RotaryRows,
    ) -> impl Fn(usize) -> usize + Sync + use<> {
        let widths = self.checkpoint.config().rotary_widths();
        let stored_rows = self.checkpoint.rotary_rows();
        let role = expected.role;
        move |row| match role {
            Role::Rotary => rotary_rows.position_in(stored_rows, row, widths),
            _ => row,
        }
    }

    /// Returns a ternary tensor in type `ty`, with its own or the `given` scales if the type
    /// stores scales, and with rotary rows in the order `rotary_rows`.
    fn encode_ternary(
        &self,
        expected: &Expected,
        ty: TernaryType,
        given: Option<&Scales>,
        rotary_rows: RotaryRows,
    ) -> Result<Vec<u8>, ConvertError> {
        let tensor = self.ternary(&expected.name)?;
        let (n_rows, n_cols) = (tensor.n_rows, tensor.n_cols);
        let source_row = self.source_row(expected, rotary_rows);
        let scales = given.unwrap_or(&tensor.scales).clone();
        let scales = scales.reordered(n_rows, &source_row);
        let mut first_error = None;
        let encoded = encode_ternary(ty, n_rows, n_cols, &scales, |row, trits| {
            if let Err(error) = tensor.decode_row(source_row(row), trits) {
                trits.fill(0);
                first_error.get_or_insert(error);
            }
        });
        match first_error {
            Some(error) => Err(error),
            None => encoded,
        }
        .map_err(|source| ConvertError::Ternary {
            name: expected.name.clone(),
            source,
        })
    }
}

/// Returns the bytes of a row of a dense tensor in type `ty`.
fn dense_row_bytes(expected: &Expected, ty: DenseType) -> Result<usize, ConvertError> {
    ty.row_bytes(expected.n_cols)
        .map_err(|source| ConvertError::Shape {
            name: expected.name.clone(),
            source,
        })
}

/// Returns the folder of temporary output: that of the result, so that a rename suffices.
fn folder_of(out: &Path) -> &Path {
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Returns a builder of temporary files with these permissions, before the umask: 0o666
/// and 0o777 are the defaults of new files and folders.
#[cfg_attr(
    not(unix),
    expect(unused_variables, reason = "permissions have no mode")
)]
fn temporary(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".bitnet-convert-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    builder
}

/// Creates the file that becomes a result.
fn unfinished_file(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let builder = temporary(0o666);
    if cfg!(windows) {
        // `tempfile_in` would set the temporary attribute there, but the file is permanent.
        builder.make_in(folder, |path| std::fs::File::create_new(path))
    } else {
        builder.tempfile_in(folder)
    }
}

/// Renames a finished file to its name, replacing an existing one.
fn publish_file(file: tempfile::NamedTempFile, out: &Path) -> io::Result<()> {
    if cfg!(windows) {
        // `persist` supports neither paths of more than 260 characters there, nor replacing
        // a file that another program has open.
        std::fs::rename(file.into_temp_path(), out)
    } else {
        file.persist(out).map(drop).map_err(|error| error.error)
    }
}

/// An error of a conversion. No output was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The output exists.
    #[error("{} exists", path.display())]
    Exists {
        /// Where the result should go.
        path: PathBuf,
    },
    /// The result cannot be written.
    #[error("cannot write the result")]
    Write(#[from] io::Error),
    /// The folder of the result cannot be written to.
    #[error("cannot write into {}", folder.display())]
    WriteInto {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output is a file, but a folder of this name exists.
    #[error("{} is a folder, expected a file to replace", path.display())]
    Folder {
        /// Where the result should go.
        path: PathBuf,
    },
    /// The output is a folder, but something else of this name exists.
    #[error("{} is not a folder, expected one to replace", path.display())]
    NotAFolder {
        /// Where the result should go.
        path: PathBuf,
    },
    /// The folder to be replaced contains other files than a converted model.
    #[error("{} holds {found:?}, which no conversion has written", path.display())]
    NotReplaceable {
        /// Where the result should go.
        path: PathBuf,
        /// One of these files.
        found: String,
    },
    /// SafeTensors cannot be written.
    #[error("cannot write model.safetensors")]
    SafeTensors(#[from] safetensors::SafeTensorError),
    /// The model cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The target cannot represent this kind of tokenizer.
    #[error("the tokenizer cannot be written as GGUF metadata: {reason}")]
    TokenizerKind {
        /// The reason.
        reason: &'static str,
    },
    /// The tokenizer has more tokens than the model.
    #[error("the tokenizer has {n_tokens} tokens, the model only {vocab_size}")]
    TooManyTokens {
        /// Tokens of the tokenizer.
        n_tokens: usize,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// The target does not support the type.
    #[error("a HuggingFace folder cannot store embeddings as {found}, expected F32, F16 or BF16")]
    HeadType {
        /// The requested type.
        found: &'static str,
    },
    /// The model has no ternary weights to store in the requested type.
    #[error("the model has no ternary weights")]
    NotTernary,
    /// A linear layer is not ternary, or embeddings are.
    #[error(
        "tensor {name:?} is stored as {found}: a HuggingFace folder has linear layers as packed trits and embeddings as F32, F16 or BF16"
    )]
    Kind {
        /// Its name.
        name: String,
        /// Its type.
        found: &'static str,
    },
    /// The rotary frequencies have divisors, which `config.json` cannot represent.
    #[error(
        "a HuggingFace folder cannot store rope_freqs.weight, the divisors of rotary frequencies"
    )]
    RopeDivisors,
    /// The target cannot represent a property of the model.
    #[error("{target} cannot say {what}")]
    NoWords {
        /// The kind of file.
        target: &'static str,
        /// The property.
        what: &'static str,
    },
    /// The type cannot store the shape.
    #[error("in tensor {name:?}")]
    Shape {
        /// Its name.
        name: String,
        /// The cause.
        source: ShapeError,
    },
    /// Ternary data are invalid or not representable in the type.
    #[error("in tensor {name:?}")]
    Ternary {
        /// Its name.
        name: String,
        /// The cause.
        source: TernaryError,
    },
    /// The target supports only one scale per tensor.
    #[error("tensor {name:?} has {found}, and a HuggingFace folder one for the whole tensor")]
    SeveralScales {
        /// Its name.
        name: String,
        /// A description of the scales.
        found: String,
    },
    /// The caller cancelled the conversion.
    #[error("interrupted; nothing was written")]
    Interrupted,
}

#[cfg(test)]
mod tests;
