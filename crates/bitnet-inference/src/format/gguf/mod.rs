//! GGUF, llama.cpp's container format: typed metadata and named tensors in one file.
//!
//! ```text
//! "GGUF"  version u32  n_tensors u64  n_metadata u64
//! n_metadata x  key  type u32  value
//! n_tensors  x  name  n_dims u32  dims u64...  type u32  offset u64
//! zeros up to a multiple of `general.alignment`
//! tensor data, each tensor at `offset` from here
//! ```
//!
//! Numbers are little-endian; a string is its length as u64, then UTF-8; an array is its
//! element type as u32, its length as u64, then the elements.
//!
//! This module handles only the container: the caller decides which keys a model needs and
//! how tensor types are interpreted. So the size of a tensor is unknown here; a tensor has
//! a [`span`](TensorInfo::span), and the decoder checks that its data fits.
//!
//! Files are untrusted. Every length is checked against the remaining bytes before
//! anything is allocated, so memory is bounded by a small multiple of the size of header
//! and directory. [`Gguf::parse`] returns an error for inconsistent files, and its result
//! is valid: keys and tensor names are unique, all dimensions are at least 1, their
//! product fits in u64, and each tensor has its own non-empty range in the file.

mod read;
mod value;
mod write;

use std::collections::HashMap;

pub use read::GgufError;
pub use value::{Array, Value};
pub use write::GgufWriter;

use crate::note::Note;

const MAGIC: [u8; 4] = *b"GGUF";
const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u32 = 32;
/// The limit of llama.cpp.
const MAX_DIMS: usize = 4;

/// Returns whether an alignment may be written: the specification requires a multiple of
/// 8, llama.cpp a power of two. Any power of two is accepted in reading, as in llama.cpp.
fn is_alignment(alignment: u32) -> bool {
    alignment.is_power_of_two() && alignment >= 8
}

/// The metadata and the tensor directory of a file.
#[derive(Debug, Clone)]
pub struct Gguf {
    version: u32,
    alignment: u64,
    metadata: Vec<(String, Value)>,
    metadata_idx: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    tensor_idx: HashMap<String, usize>,
    notes: Vec<Note>,
}

/// The directory entry of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, unique in the file.
    pub name: String,
    /// The dimensions, fastest first; at most four, none of them 0. Empty for
    /// a single value.
    pub shape: Vec<u64>,
    /// The type as stored. Programs disagree about some numbers, so the caller interprets
    /// it.
    pub type_id: u32,
    /// Offset of the data, in bytes from the start of the file.
    pub offset: u64,
    /// The bytes up to the next tensor or the end of the file, at least 1: the maximum size
    /// of the data, padding included.
    pub span: u64,
    /// The index of its file in a split model; else 0.
    pub file: usize,
}

impl Gguf {
    /// Returns the version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the alignment of tensor data in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Returns all metadata in the order of the file.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// Returns the value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let idx = *self.metadata_idx.get(key)?;
        Some(&self.metadata[idx].1)
    }

    /// Returns the string `key`, `None` if the file has no such key.
    ///
    /// # Errors
    ///
    /// [`GgufError::WrongType`] if the value is of another type.
    pub fn string(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Returns the non-negative integer `key`, of any integer type; `None` if the file has
    /// no such key.
    ///
    /// # Errors
    ///
    /// [`GgufError::WrongType`] if the value is of another type.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "an integer that is not negative", Value::to_unsigned)
    }

    /// Returns the float `key`, rounded to f32 if stored as f64; `None` if the
    /// file has no such key.
    ///
    /// # Errors
    ///
    /// [`GgufError::WrongType`] if the value is of another type.
    pub fn float(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a float", |value| match *value {
            Value::F32(x) => Some(x),
            Value::F64(x) => Some(x as f32),
            _ => None,
        })
    }

    /// Returns the boolean `key`, `None` if the file has no such key.
    ///
    /// # Errors
    ///
    /// [`GgufError::WrongType`] if the value is of another type.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a bool", |value| match *value {
            Value::Bool(x) => Some(x),
            _ => None,
        })
    }

    /// Returns the array of strings `key`, `None` if the file has no such key.
    ///
    /// # Errors
    ///
    /// [`GgufError::WrongType`] if the value is of another type.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::String(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// Returns the array `key` of integers of any type, `None` if the file has
    /// no such key.
    ///
    /// # Errors
    ///
    /// [`GgufError::WrongType`] if the value is of another type.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, GgufError> {
        self.typed(
            key,
            "an array of integers that fit i64",
            |value| match value {
                Value::Array(array) => array.to_integers(),
                _ => None,
            },
        )
    }

    /// Returns the array of 32-bit floats `key`, `None` if the file has no such
    /// key.
    ///
    /// # Errors
    ///
    /// [`GgufError::WrongType`] if the value is of another type.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        self.typed(key, "an array of f32", |value| match value {
            Value::Array(Array::F32(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// Returns notes on irregular metadata.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Returns all tensors in the order of the directory.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Returns the tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let idx = *self.tensor_idx.get(name)?;
        Some(&self.tensors[idx])
    }

    /// Adds the tensors of file `file` of a split model; its metadata is ignored.
    ///
    /// # Errors
    ///
    /// [`GgufError::DuplicateTensor`] if a name exists already.
    pub fn append(&mut self, part: Self, file: usize) -> Result<(), GgufError> {
        for tensor in part.tensors {
            let idx = self.tensors.len();
            if self.tensor_idx.insert(tensor.name.clone(), idx).is_some() {
                return Err(GgufError::DuplicateTensor {
                    tensor: tensor.name,
                });
            }
            self.tensors.push(TensorInfo { file, ..tensor });
        }
        Ok(())
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(GgufError::WrongType {
                key: key.to_owned(),
                expected,
                found: value.type_name(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A file with every feature, by another writer.
    const TINY: &[u8] = include_bytes!("testdata/tiny.gguf");

    fn with_metadata(pairs: &[(&str, Value)]) -> Gguf {
        let mut writer = GgufWriter::new();
        for (key, value) in pairs {
            writer.metadata(*key, value.clone());
        }
        let file = writer.write(Vec::new(), |_, _| Ok::<_, io::Error>(()));
        Gguf::parse(&file.unwrap()).unwrap()
    }

    #[test]
    fn integers_of_every_type_are_unsigned_unless_negative() {
        let gguf = with_metadata(&[
            ("u8", Value::U8(1)),
            ("u16", Value::U16(2)),
            ("u32", Value::U32(3)),
            ("u64", Value::U64(u64::MAX)),
            ("i8", Value::I8(5)),
            ("i16", Value::I16(6)),
            ("i32", Value::I32(7)),
            ("i64", Value::I64(8)),
            ("negative", Value::I32(-1)),
            ("float", Value::F32(1.0)),
        ]);
        assert_eq!(gguf.unsigned("u8"), Ok(Some(1)));
        assert_eq!(gguf.unsigned("u16"), Ok(Some(2)));
        assert_eq!(gguf.unsigned("u32"), Ok(Some(3)));
        assert_eq!(gguf.unsigned("u64"), Ok(Some(u64::MAX)));
        assert_eq!(gguf.unsigned("i8"), Ok(Some(5)));
        assert_eq!(gguf.unsigned("i16"), Ok(Some(6)));
        assert_eq!(gguf.unsigned("i32"), Ok(Some(7)));
        assert_eq!(gguf.unsigned("i64"), Ok(Some(8)));
        assert_eq!(gguf.unsigned("absent"), Ok(None));
        assert!(gguf.unsigned("negative").is_err());
        assert!(gguf.unsigned("float").is_err());
    }

    #[test]
    fn integer_arrays_are_widened() {
        let gguf = with_metadata(&[
            ("u8", Value::Array(Array::U8(vec![1, 255]))),
            ("i32", Value::Array(Array::I32(vec![-1, 1]))),
            ("u64", Value::Array(Array::U64(vec![2]))),
            ("large", Value::Array(Array::U64(vec![u64::MAX]))),
            ("floats", Value::Array(Array::F32(vec![0.5]))),
        ]);
        assert_eq!(gguf.integers("u8"), Ok(Some(vec![1, 255])));
        assert_eq!(gguf.integers("i32"), Ok(Some(vec![-1, 1])));
        assert_eq!(gguf.integers("u64"), Ok(Some(vec![2])));
        assert_eq!(gguf.integers("absent"), Ok(None));
        assert!(gguf.integers("large").is_err());
        assert!(gguf.integers("floats").is_err());
    }

    #[test]
    fn other_types_are_returned_as_stored_or_refused() {
        let gguf = with_metadata(&[
            ("text", Value::String("ternär".to_owned())),
            ("f32", Value::F32(0.5)),
            ("f64", Value::F64(0.25)),
            ("bool", Value::Bool(true)),
            (
                "texts",
                Value::Array(Array::String(vec!["a".to_owned(), String::new()])),
            ),
            ("f32s", Value::Array(Array::F32(vec![1.0, -2.0]))),
        ]);
        assert_eq!(gguf.string("text"), Ok(Some("ternär")));
        assert_eq!(gguf.float("f32"), Ok(Some(0.5)));
        assert_eq!(gguf.float("f64"), Ok(Some(0.25)));
        assert_eq!(gguf.boolean("bool"), Ok(Some(true)));
        let texts = ["a".to_owned(), String::new()];
        assert_eq!(gguf.strings("texts"), Ok(Some(texts.as_slice())));
        assert_eq!(gguf.floats("f32s"), Ok(Some([1.0, -2.0].as_slice())));

        assert_eq!(gguf.string("absent"), Ok(None));
        assert_eq!(gguf.float("absent"), Ok(None));
        assert_eq!(gguf.boolean("absent"), Ok(None));
        assert_eq!(gguf.strings("absent"), Ok(None));
        assert_eq!(gguf.floats("absent"), Ok(None));

        assert!(gguf.string("f32").is_err());
        assert!(gguf.float("text").is_err());
        assert!(gguf.boolean("text").is_err());
        assert!(gguf.strings("f32s").is_err());
        assert!(gguf.floats("texts").is_err());
        assert_eq!(
            gguf.strings("f32s").unwrap_err().to_string(),
            "metadata \"f32s\" is of type array of f32, expected an array of strings"
        );
    }

    #[test]
    fn a_file_of_the_python_package_is_read() {
        let gguf = Gguf::parse(TINY).unwrap();
        assert_eq!(gguf.version(), 3);
        assert_eq!(gguf.alignment(), 64);
        let metadata: Vec<_> = gguf.metadata().collect();
        assert_eq!(
            metadata,
            [
                ("general.architecture", &Value::String("tiny".to_owned())),
                ("general.alignment", &Value::U32(64)),
                ("tiny.u8", &Value::U8(200)),
                ("tiny.i8", &Value::I8(-100)),
                ("tiny.u16", &Value::U16(60_000)),
                ("tiny.i16", &Value::I16(-30_000)),
                ("tiny.u32", &Value::U32(4_000_000_000)),
                ("tiny.i32", &Value::I32(-2_000_000_000)),
                ("tiny.f32", &Value::F32(0.5)),
                ("tiny.bool", &Value::Bool(true)),
                ("tiny.string", &Value::String("Ġternär".to_owned())),
                ("tiny.u64", &Value::U64(1 << 63)),
                ("tiny.i64", &Value::I64(-(1 << 62))),
                ("tiny.f64", &Value::F64(0.1)),
                (
                    "tiny.strings",
                    &Value::Array(Array::String(vec!["a".to_owned(), "b c".to_owned()]))
                ),
                ("tiny.i32s", &Value::Array(Array::I32(vec![1, -2, 3]))),
                ("tiny.f32s", &Value::Array(Array::F32(vec![0.25, -1.0]))),
                ("tiny.bools", &Value::Array(Array::Bool(vec![true, false]))),
            ]
        );

        let matrix = gguf.tensor("blk.0.attn_q.weight").unwrap();
        assert_eq!(matrix.shape, [3, 2]);
        assert_eq!(matrix.type_id, 0);
        assert_eq!(matrix.offset % 64, 0);
        assert_eq!(matrix.span, 64);
        let values: Vec<_> = TINY[matrix.offset as usize..][..24]
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        assert_eq!(values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);

        let norm = gguf.tensor("output_norm.weight").unwrap();
        assert_eq!(norm.shape, [4]);
        assert_eq!(norm.type_id, 1);
        assert_eq!(norm.offset, matrix.offset + 64);
        assert_eq!(gguf.tensors(), [matrix.clone(), norm.clone()]);
        assert_eq!(gguf.tensor("absent"), None);
    }
}
