//! One model format into another, with every trit and scale kept.
//!
//! Only what the options name is quantized: the embedding and output matrix.
//! Output appears under its name when it is complete, never before.

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

/// What a model is converted into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One GGUF file.
    Gguf(GgufWeights),
    /// A HuggingFace folder with packed ternary weights.
    HfPacked,
}

/// How a GGUF file stores ternary weights.
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

/// How to convert.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions {
    /// The format of the result.
    pub target: Target,
    /// How embedding and output matrix are stored; as they are if not given.
    pub head: Option<DenseType>,
    /// Whether an existing file or folder is replaced.
    pub overwrite: bool,
}

/// Writes `checkpoint` to `out` in another format.
///
/// A checkpoint that is given away is closed before the result takes its name: Windows
/// replaces no file that is mapped, so a model could not replace itself otherwise.
/// `progress(done, total)` is told the tensors that are done and may end the
/// work, which leaves nothing behind.
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
    // A missing folder is reported by its own name, not that of a temporary file.
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

/// A checkpoint as the writers see it.
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

    /// Returns what the result stores a norm more than the checkpoint does: Gemma's
    /// folders store norms less 1.
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

    /// Returns the dense type that a tensor is written in: `norms` for a norm, the
    /// type asked for, or else the stored one; `None` if it is ternary and stays so.
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

    /// Returns a tensor in the dense type `ty`, its rows in the order `rotary_rows` if
    /// that matters. Trits are multiplied with their scales.
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

    /// Returns where each row of the result stands in the checkpoint.
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

    /// Returns a ternary tensor in type `ty`, with its own or the `given` scales
    /// where the type has room for them, its rows in the order `rotary_rows` if
    /// that matters.
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

/// Where temporary output goes: beside the result, so that a rename suffices.
fn folder_of(out: &Path) -> &Path {
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Returns a builder of temporary files with these permissions, before the user's mask:
/// 0o666 and 0o777 are those of any new file and folder.
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
        // `tempfile_in` marks it there as a temporary file, which it does not stay.
        builder.make_in(folder, |path| std::fs::File::create_new(path))
    } else {
        builder.tempfile_in(folder)
    }
}

/// Gives a finished file its name, in place of what may be there.
fn publish_file(file: tempfile::NamedTempFile, out: &Path) -> io::Result<()> {
    if cfg!(windows) {
        // `persist` takes no path of more than 260 characters there, nor replaces a file
        // that another program has open.
        std::fs::rename(file.into_temp_path(), out)
    } else {
        file.persist(out).map(drop).map_err(|error| error.error)
    }
}

/// Why nothing was converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// Something is there already.
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
    /// A folder stands where a file should go.
    #[error("{} is a folder, expected a file to replace", path.display())]
    Folder {
        /// Where the result should go.
        path: PathBuf,
    },
    /// Something else stands where a folder should go.
    #[error("{} is not a folder, expected one to replace", path.display())]
    NotAFolder {
        /// Where the result should go.
        path: PathBuf,
    },
    /// The folder to be replaced holds more than a converted model.
    #[error("{} holds {found:?}, which no conversion has written", path.display())]
    NotReplaceable {
        /// Where the result should go.
        path: PathBuf,
        /// What would be lost.
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
    /// The tokenizer is of a kind that the target cannot describe.
    #[error("the tokenizer cannot be written as GGUF metadata: {reason}")]
    TokenizerKind {
        /// What stands in the way.
        reason: &'static str,
    },
    /// The model has fewer tokens than its tokenizer.
    #[error("the tokenizer has {n_tokens} tokens, the model only {vocab_size}")]
    TooManyTokens {
        /// Tokens of the tokenizer.
        n_tokens: usize,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// The type does not suit the target.
    #[error("a HuggingFace folder cannot store embeddings as {found}, expected F32, F16 or BF16")]
    HeadType {
        /// The type asked for.
        found: &'static str,
    },
    /// There is nothing that would be stored as asked for.
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
    /// The rotary frequencies have divisors, which `config.json` has no words for.
    #[error(
        "a HuggingFace folder cannot store rope_freqs.weight, the divisors of rotary frequencies"
    )]
    RopeDivisors,
    /// The target has no words for something.
    #[error("{target} cannot say {what}")]
    NoWords {
        /// The kind of file.
        target: &'static str,
        /// What it cannot say.
        what: &'static str,
    },
    /// The shape does not suit the type.
    #[error("in tensor {name:?}")]
    Shape {
        /// Its name.
        name: String,
        /// What does not fit.
        source: ShapeError,
    },
    /// Ternary data are broken or do not suit the type.
    #[error("in tensor {name:?}")]
    Ternary {
        /// Its name.
        name: String,
        /// What is wrong.
        source: TernaryError,
    },
    /// The target has one scale for a tensor.
    #[error("tensor {name:?} has {found}, and a HuggingFace folder one for the whole tensor")]
    SeveralScales {
        /// Its name.
        name: String,
        /// The scales, in words.
        found: String,
    },
    /// The caller ended the work.
    #[error("interrupted; nothing was written")]
    Interrupted,
}

#[cfg(test)]
mod tests;
