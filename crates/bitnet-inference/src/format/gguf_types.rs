//! Interpretation of the tensor types of GGUF files.
//!
//! A type is a number, and programs disagree about some of them: bitnet.cpp uses 36 to 39,
//! which llama.cpp had retired or assigned later, and llama.cpp adopted PrismML's Q2_0 with
//! another block size. Such a number is interpreted as the type that matches the sizes of
//! all tensors that have it; if several match, the program that wrote the file decides,
//! identified by architecture and file type.

use std::collections::HashMap;

use bitnet_quant::{DenseType, TernaryType};

use super::checkpoint::CheckpointError;
use super::gguf::{Gguf, TensorInfo};
use super::tensor::Encoding;

/// bitnet.cpp's `general.file_type` of I2_S files.
pub(crate) const FILE_TYPE_I2_S: u32 = 40;

/// Supported types with a unique meaning.
const TYPES: [(u32, Encoding); 21] = [
    (0, Encoding::Dense(DenseType::F32)),
    (1, Encoding::Dense(DenseType::F16)),
    (2, Encoding::Dense(DenseType::Q4_0)),
    (3, Encoding::Dense(DenseType::Q4_1)),
    (6, Encoding::Dense(DenseType::Q5_0)),
    (7, Encoding::Dense(DenseType::Q5_1)),
    (8, Encoding::Dense(DenseType::Q8_0)),
    (10, Encoding::Dense(DenseType::Q2K)),
    (11, Encoding::Dense(DenseType::Q3K)),
    (12, Encoding::Dense(DenseType::Q4K)),
    (13, Encoding::Dense(DenseType::Q5K)),
    (14, Encoding::Dense(DenseType::Q6K)),
    (30, Encoding::Dense(DenseType::BF16)),
    (34, Encoding::Ternary(TernaryType::TQ1_0)),
    (35, Encoding::Ternary(TernaryType::TQ2_0)),
    (41, Encoding::Ternary(TernaryType::Q1_0)),
    (134, Encoding::Ternary(TernaryType::IQ1BN)),
    (135, Encoding::Ternary(TernaryType::IQ2BN)),
    (142, Encoding::Ternary(TernaryType::PQ2_0)),
    (143, Encoding::Ternary(TernaryType::PTQ1_0)),
    (335, Encoding::Ternary(TernaryType::IQ2BNR4)),
];

/// Types with more than one meaning: bitnet.cpp's or llama.cpp's own first.
const CONTESTED: [(u32, [Meaning; 2]); 5] = [
    (
        36,
        [
            Meaning::Read(Encoding::Ternary(TernaryType::I2S)),
            Meaning::blocks("IQ4_NL_4_4", 32, 18),
        ],
    ),
    (
        37,
        [
            Meaning::blocks("I8_S (bitnet.cpp)", 1, 1),
            Meaning::blocks("IQ4_NL_4_8", 32, 18),
        ],
    ),
    (
        38,
        [Meaning::Tiled("TL1"), Meaning::blocks("IQ4_NL_8_8", 32, 18)],
    ),
    (
        39,
        [Meaning::Tiled("TL2"), Meaning::blocks("MXFP4", 32, 17)],
    ),
    (
        42,
        [
            Meaning::Read(Encoding::Ternary(TernaryType::Q2_0)),
            Meaning::Read(Encoding::Ternary(TernaryType::PQ2_0)),
        ],
    ),
];

/// Names of unsupported types, for the error message.
const OTHER_TYPES: [(u32, &str); 13] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (28, "F64"),
    (29, "IQ1_M"),
    (40, "NVFP4"),
];

/// A possible meaning of a number.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    /// A supported type.
    Read(Encoding),
    /// An unsupported type.
    NotRead {
        name: &'static str,
        block_len: u64,
        block_bytes: u64,
    },
    /// A type of bitnet.cpp whose byte order depends on parameters that are not in the
    /// file.
    Tiled(&'static str),
}

impl Meaning {
    const fn blocks(name: &'static str, block_len: u64, block_bytes: u64) -> Self {
        Self::NotRead {
            name,
            block_len,
            block_bytes,
        }
    }

    /// Returns whether the tensor's size matches this type with padding.
    fn fits(self, tensor: &TensorInfo, alignment: u64) -> bool {
        let needed = match self {
            Self::Read(encoding) => matrix(tensor)
                .and_then(|[n_rows, n_cols]| encoding.n_bytes(n_rows, n_cols).ok())
                .map(|n| n as u64),
            Self::NotRead {
                block_len,
                block_bytes,
                ..
            } => {
                let n_weights: u64 = tensor.shape.iter().product();
                (n_weights / block_len).checked_mul(block_bytes)
            }
            // No other type is as small: at most 2 bits per weight.
            Self::Tiled(_) => {
                let n_weights: u64 = tensor.shape.iter().product();
                return tensor.span <= (n_weights / 4).next_multiple_of(alignment);
            }
        };
        needed.is_some_and(|n| {
            let padded = n.checked_next_multiple_of(alignment);
            n == tensor.span || padded == Some(tensor.span)
        })
    }
}

/// The interpretation of the tensor types of one file.
#[derive(Debug)]
pub(crate) struct TensorTypes {
    contested: HashMap<u32, Meaning>,
}

impl TensorTypes {
    /// Resolves the contested types of a file.
    pub(crate) fn of(gguf: &Gguf) -> Result<Self, CheckpointError> {
        let by_bitnet_cpp = gguf.unsigned("general.file_type")? == Some(FILE_TYPE_I2_S.into())
            || gguf
                .string("general.architecture")?
                .is_some_and(|name| name.starts_with("bitnet"));
        let mut contested = HashMap::new();
        for (id, mut meanings) in CONTESTED {
            // 42 is llama.cpp's, regardless of the architecture.
            if id < 40 && !by_bitnet_cpp {
                meanings.reverse();
            }
            let fits = |meaning: &&Meaning| {
                let mut tensors = gguf.tensors().iter().filter(|t| t.type_id == id);
                tensors.all(|tensor| meaning.fits(tensor, gguf.alignment()))
            };
            let meaning = meanings.iter().find(fits).unwrap_or(&meanings[0]);
            contested.insert(id, *meaning);
        }
        Ok(Self { contested })
    }

    /// Returns the encoding of a tensor.
    pub(crate) fn encoding(&self, tensor: &TensorInfo) -> Result<Encoding, CheckpointError> {
        let id = tensor.type_id;
        let name = tensor.name.clone();
        let unknown = |found| CheckpointError::UnknownType { name, found };
        if let Some((_, encoding)) = TYPES.iter().find(|(known, _)| *known == id) {
            return Ok(*encoding);
        }
        match self.contested.get(&id) {
            Some(Meaning::Read(encoding)) => Ok(*encoding),
            Some(Meaning::NotRead { name, .. }) => Err(unknown(format!("{name} (id {id})"))),
            Some(&Meaning::Tiled(found)) => Err(CheckpointError::Tiled {
                name: tensor.name.clone(),
                found,
            }),
            None => Err(unknown(
                match OTHER_TYPES.iter().find(|(known, _)| *known == id) {
                    Some((_, name)) => format!("{name} (id {id})"),
                    None => format!("id {id}"),
                },
            )),
        }
    }
}

/// Returns the rows and columns of a tensor of one or two dimensions, ignoring further
/// ones of size 1; `None` for other shapes.
pub(crate) fn matrix(tensor: &TensorInfo) -> Option<[usize; 2]> {
    let (n_cols, n_rows) = match tensor.shape[..] {
        [n_cols] => (n_cols, 1),
        [n_cols, n_rows, ref more @ ..] if more.iter().all(|n| *n == 1) => (n_cols, n_rows),
        _ => return None,
    };
    // Values beyond usize exceed the file, too.
    Some([n_rows, n_cols].map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
}

/// Returns the number of an encoding; `None` if GGUF does not have it.
pub(crate) fn type_id(encoding: Encoding) -> Option<u32> {
    let contested = CONTESTED.iter().filter_map(|(id, meanings)| {
        let encodings = meanings.iter().filter_map(|meaning| match meaning {
            Meaning::Read(encoding) => Some((*id, *encoding)),
            _ => None,
        });
        encodings.into_iter().next()
    });
    TYPES
        .into_iter()
        .chain(contested)
        .find(|(_, known)| *known == encoding)
        .map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::gguf::{GgufWriter, Value};
    use super::*;

    /// A file with tensors of `[n_cols, n_rows]` that take `n_bytes` each.
    fn file(architecture: &str, file_type: u32, id: u32, tensors: &[([u64; 2], u64)]) -> Gguf {
        let mut writer = GgufWriter::new();
        let architecture = Value::String(architecture.to_owned());
        writer.metadata("general.architecture", architecture);
        writer.metadata("general.file_type", Value::U32(file_type));
        for (i, (shape, n_bytes)) in tensors.iter().enumerate() {
            writer.tensor(format!("t{i}"), shape, id, *n_bytes);
        }
        let zeros = |i: usize, out: &mut dyn io::Write| {
            io::copy(&mut io::Read::take(io::repeat(0), tensors[i].1), out).map(|_| ())
        };
        Gguf::parse(&writer.write(Vec::new(), zeros).unwrap()).unwrap()
    }

    fn check(gguf: &Gguf, expected: &str) {
        let types = TensorTypes::of(gguf).unwrap();
        for tensor in gguf.tensors() {
            let found = match types.encoding(tensor) {
                Ok(encoding) => encoding.name().to_owned(),
                Err(CheckpointError::UnknownType { found, .. }) => format!("unknown: {found}"),
                Err(CheckpointError::Tiled { found, .. }) => format!("tiled: {found}"),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(found, expected, "{}", tensor.name);
        }
    }

    #[test]
    fn dimensions_of_size_1_are_none() {
        let shape_of = |shape: &[u64]| {
            let mut writer = GgufWriter::new();
            writer.tensor("t".to_owned(), shape, 0, 4);
            let file = writer.write(Vec::new(), |_, out| out.write_all(&[0; 4]));
            matrix(&Gguf::parse(&file.unwrap()).unwrap().tensors()[0])
        };
        assert_eq!(shape_of(&[5]), Some([1, 5]));
        assert_eq!(shape_of(&[5, 1]), Some([1, 5]));
        assert_eq!(shape_of(&[5, 3, 1, 1]), Some([3, 5]));
        assert_eq!(shape_of(&[5, 3, 2]), None);
    }

    #[test]
    fn a_contested_number_means_what_fits_all_its_tensors() {
        let matrix = [256, 64];
        let n = 256 * 64;
        for architecture in ["bitnet-b1.58", "llama", "qwen3"] {
            let with = |id, n_bytes| file(architecture, 0, id, &[(matrix, n_bytes)]);
            check(&with(36, n / 4 + 32), "I2_S");
            check(&with(36, n / 32 * 18), "unknown: IQ4_NL_4_4 (id 36)");
            check(&with(37, n / 32 * 18), "unknown: IQ4_NL_4_8 (id 37)");
            check(&with(38, n / 4), "tiled: TL1");
            check(&with(38, n / 32 * 18), "unknown: IQ4_NL_8_8 (id 38)");
            check(&with(39, n * 5 / 24), "tiled: TL2");
            check(&with(39, n / 32 * 17), "unknown: MXFP4 (id 39)");
            check(&with(42, n / 64 * 18), "Q2_0");
            check(&with(42, n / 128 * 34), "PQ2_0");
        }
    }

    #[test]
    fn a_tensor_that_fits_both_is_decided_by_the_others() {
        // One block of 128 weights takes 34 bytes, two of 64 take 36: both 64
        // with what pads them.
        let small = ([128, 1], 34);
        check(&file("qwen3", 0, 42, &[small]), "Q2_0");
        let large = ([128, 64], 64 * 34);
        check(&file("qwen3", 0, 42, &[small, large]), "PQ2_0");
        check(&file("qwen3", 0, 42, &[large, small]), "PQ2_0");
    }

    #[test]
    fn where_bytes_do_not_decide_the_writer_does() {
        // Neither I2_S nor IQ4_NL_4_4.
        let broken = [([256, 64], 100)];
        check(&file("bitnet", 0, 36, &broken), "I2_S");
        check(&file("llama", FILE_TYPE_I2_S, 36, &broken), "I2_S");
        check(
            &file("llama", 0, 36, &broken),
            "unknown: IQ4_NL_4_4 (id 36)",
        );
    }

    #[test]
    fn every_dense_type_has_its_number() {
        for ty in DenseType::ALL {
            let id = type_id(Encoding::Dense(ty)).unwrap();
            let n_bytes = ty.n_bytes(64, 256).unwrap() as u64;
            check(&file("llama", 0, id, &[([256, 64], n_bytes)]), ty.name());
        }
    }

    #[test]
    fn numbers_of_encodings_are_found_again() {
        for ty in TernaryType::ALL {
            let Some(id) = type_id(Encoding::Ternary(ty)) else {
                let elsewhere = [
                    TernaryType::I2SNeon,
                    TernaryType::I2SRows4,
                    TernaryType::HfPacked,
                ];
                assert!(
                    elsewhere.contains(&ty) || ty == TernaryType::PQ2_0,
                    "{ty:?}"
                );
                continue;
            };
            let n_bytes = ty.n_bytes(64, 256).unwrap() as u64;
            check(&file("llama", 0, id, &[([256, 64], n_bytes)]), ty.name());
        }
    }
}
