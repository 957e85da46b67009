//! Reading the header, the metadata and the tensor directory.

use std::collections::HashMap;
use std::fmt::{self, Display};

use super::value::{Array, Kind, Number, Value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Gguf, MAGIC, MAX_DIMS, TensorInfo};
use crate::note::{self, Note};

/// The bytes of an empty string.
const MIN_STRING_BYTES: usize = 8;
/// A key, a type and a value of one byte.
const MIN_METADATA_BYTES: usize = MIN_STRING_BYTES + 4 + 1;
/// A name, the number of dimensions, a type and an offset.
const MIN_TENSOR_BYTES: usize = MIN_STRING_BYTES + 4 + 4 + 8;

/// An error of reading a GGUF file or a metadata value.
///
/// Offsets are in bytes from the start of the file unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file is of another format.
    #[error("it begins with \"{}\" instead of \"GGUF\"", .found.escape_ascii())]
    WrongMagic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The file was written for a big-endian machine.
    #[error("big-endian GGUF is not supported: the file must be converted to little-endian")]
    BigEndian,
    /// The version of the format is unknown.
    #[error("GGUF version {found} is not supported, only 2 and 3 are")]
    UnsupportedVersion {
        /// The version of the file.
        found: u32,
    },
    /// The file ends too early, or a length in it is wrong.
    #[error(
        "the file is truncated: {what} at byte {offset} takes {needed} bytes of which {available} remain"
    )]
    Truncated {
        /// What was being read.
        what: String,
        /// Where it starts.
        offset: u64,
        /// The bytes it takes.
        needed: u64,
        /// The bytes up to the end of the file.
        available: u64,
    },
    /// More items are declared than the rest of the file can contain.
    #[error("{count} {what} are declared but the rest of the file has room for at most {limit}")]
    TooMany {
        /// The items, in the plural.
        what: String,
        /// The declared number.
        count: u64,
        /// The maximum number that fits.
        limit: u64,
    },
    /// A string is not UTF-8.
    #[error("{what} is not UTF-8 at byte {offset}")]
    NotUtf8 {
        /// The string.
        what: String,
        /// Offset of the first invalid byte.
        offset: u64,
    },
    /// A metadata value has an unknown type.
    #[error("metadata {key:?} is of unknown type {type_id}")]
    UnknownValueType {
        /// The key of the value.
        key: String,
        /// The type as stored: that of the value, or of the elements of an array.
        type_id: u32,
    },
    /// A metadata value is an array of arrays.
    #[error("metadata {key:?} is an array of arrays, which is not supported")]
    NestedArray {
        /// The key of the array.
        key: String,
    },
    /// Two different metadata values have the same key.
    #[error("metadata {key:?} is duplicated, with different values")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// `general.alignment` is invalid.
    #[error("general.alignment is {found}, expected a power of two")]
    BadAlignment {
        /// The value in the file.
        found: u32,
    },
    /// A tensor has more than four dimensions.
    #[error("tensor {tensor:?} has {found} dimensions, at most {limit} are supported")]
    TooManyDimensions {
        /// The name of the tensor.
        tensor: String,
        /// The number of dimensions in the file.
        found: u32,
        /// The largest number that is supported.
        limit: u32,
    },
    /// A dimension of a tensor is 0.
    #[error("tensor {tensor:?} is empty: its shape is {shape:?}")]
    ZeroDimension {
        /// The name of the tensor.
        tensor: String,
        /// All its dimensions, fastest first.
        shape: Vec<u64>,
    },
    /// The number of elements of a tensor overflows u64.
    #[error("tensor {tensor:?} has 2^64 elements or more: its shape is {shape:?}")]
    ShapeOverflow {
        /// The name of the tensor.
        tensor: String,
        /// All its dimensions, fastest first.
        shape: Vec<u64>,
    },
    /// Two tensors have the same name.
    #[error("tensor {tensor:?} is duplicated")]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// The data of a tensor does not start at a multiple of the alignment.
    #[error("tensor {tensor:?} is at byte {offset} of the data, not at a multiple of {alignment}")]
    MisalignedTensor {
        /// The name of the tensor.
        tensor: String,
        /// Where it starts, in bytes from the start of the data section.
        offset: u64,
        /// The required alignment.
        alignment: u64,
    },
    /// The data of a tensor would start after the end of the file.
    #[error("tensor {tensor:?} is at byte {offset} of the data, of which the file has {available}")]
    TensorOutside {
        /// The name of the tensor.
        tensor: String,
        /// Where it starts, in bytes from the start of the data section.
        offset: u64,
        /// The bytes of the data section.
        available: u64,
    },
    /// Two tensors start at the same byte.
    #[error("tensors {first:?} and {second:?} are both at byte {offset}")]
    OverlappingTensors {
        /// The one that the directory lists first.
        first: String,
        /// The other.
        second: String,
        /// Where both start.
        offset: u64,
    },
    /// A metadata value has the wrong type.
    #[error("metadata {key:?} is of type {found}, expected {expected}")]
    WrongType {
        /// The key of the value.
        key: String,
        /// The requested type, or the one required by the specification.
        expected: &'static str,
        /// The type in the file.
        found: String,
    },
}

impl Gguf {
    /// Parses the header, the metadata and the tensor directory of a whole file. Tensor data
    /// is not read.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is truncated, inconsistent or of an unsupported
    /// version.
    pub fn parse(file: &[u8]) -> Result<Self, GgufError> {
        Self::parse_header(file, file.len() as u64)
    }

    /// Parses the same from the beginning of a file of `file_len` bytes.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse). If `header` ends before the header does, it is
    /// [`GgufError::Truncated`] or [`GgufError::TooMany`]: both count the bytes of `header`
    /// alone.
    pub fn parse_header(header: &[u8], file_len: u64) -> Result<Self, GgufError> {
        let mut reader = Reader {
            file: header,
            at: 0,
            notes: Vec::new(),
        };
        let version = reader.version()?;
        let n_tensors: u64 = reader.number("the number of tensors")?;
        let n_metadata: u64 = reader.number("the number of metadata values")?;

        let n_metadata = reader.checked_count(n_metadata, MIN_METADATA_BYTES, "metadata values")?;
        let mut metadata: Vec<(String, Value)> = Vec::new();
        let mut metadata_idx = HashMap::new();
        for idx in 0..n_metadata {
            let (key, value) = reader.metadata(idx)?;
            match metadata_idx.get(&key) {
                None => {
                    metadata_idx.insert(key.clone(), metadata.len());
                    metadata.push((key, value));
                }
                Some(&idx) if metadata[idx].1 == value => {
                    note::add(&mut reader.notes, Note::RepeatedKey { key });
                }
                Some(_) => return Err(GgufError::DuplicateKey { key }),
            }
        }
        let alignment = alignment(metadata_idx.get(ALIGNMENT_KEY).map(|&i| &metadata[i].1))?;

        let n_tensors = reader.checked_count(n_tensors, MIN_TENSOR_BYTES, "tensors")?;
        let mut tensors = Vec::new();
        let mut tensor_idx = HashMap::new();
        for idx in 0..n_tensors {
            let info = reader.tensor(idx)?;
            if tensor_idx.insert(info.name.clone(), idx).is_some() {
                return Err(GgufError::DuplicateTensor { tensor: info.name });
            }
            tensors.push(info);
        }
        // Both are below 2^63: the length of a slice and a power of two in u32.
        let data_start = (reader.at as u64).next_multiple_of(alignment);
        place(&mut tensors, alignment, data_start, file_len)?;

        Ok(Self {
            version,
            alignment,
            metadata,
            metadata_idx,
            tensors,
            tensor_idx,
            notes: reader.notes,
        })
    }
}

fn alignment(value: Option<&Value>) -> Result<u64, GgufError> {
    match value {
        None => Ok(DEFAULT_ALIGNMENT.into()),
        Some(&Value::U32(alignment)) if alignment.is_power_of_two() => Ok(alignment.into()),
        Some(&Value::U32(found)) => Err(GgufError::BadAlignment { found }),
        Some(other) => Err(GgufError::WrongType {
            key: ALIGNMENT_KEY.to_owned(),
            expected: "u32",
            found: other.type_name(),
        }),
    }
}

/// Converts the offsets of all tensors from relative to absolute and computes their
/// spans.
fn place(
    tensors: &mut [TensorInfo],
    alignment: u64,
    data_start: u64,
    file_len: u64,
) -> Result<(), GgufError> {
    let available = file_len.saturating_sub(data_start);
    for info in &mut *tensors {
        if !info.offset.is_multiple_of(alignment) {
            return Err(GgufError::MisalignedTensor {
                tensor: info.name.clone(),
                offset: info.offset,
                alignment,
            });
        }
        if info.offset >= available {
            return Err(GgufError::TensorOutside {
                tensor: info.name.clone(),
                offset: info.offset,
                available,
            });
        }
        info.offset += data_start;
    }

    let mut by_offset: Vec<&mut TensorInfo> = tensors.iter_mut().collect();
    // Stable, so that an error names tensors in the order of the directory.
    by_offset.sort_by_key(|info| info.offset);
    if let Some(pair) = by_offset
        .windows(2)
        .find(|pair| pair[0].offset == pair[1].offset)
    {
        return Err(GgufError::OverlappingTensors {
            first: pair[0].name.clone(),
            second: pair[1].name.clone(),
            offset: pair[0].offset,
        });
    }
    let mut end = file_len;
    for info in by_offset.into_iter().rev() {
        info.span = end - info.offset;
        end = info.offset;
    }
    Ok(())
}

/// A position in the file, never beyond its end.
///
/// `what` describes the item for an error; it is only formatted if there is one.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    notes: Vec<Note>,
}

impl<'a> Reader<'a> {
    fn remaining(&self) -> &'a [u8] {
        &self.file[self.at..]
    }

    fn bytes(&mut self, n_bytes: u64, what: impl Display) -> Result<&'a [u8], GgufError> {
        let remaining = self.remaining();
        let taken = usize::try_from(n_bytes)
            .ok()
            .and_then(|n_bytes| remaining.get(..n_bytes))
            .ok_or_else(|| GgufError::Truncated {
                what: what.to_string(),
                offset: self.at as u64,
                needed: n_bytes,
                available: remaining.len() as u64,
            })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn number<T: Number>(&mut self, what: impl Display) -> Result<T, GgufError> {
        self.bytes(T::N_BYTES as u64, what).map(T::from_le)
    }

    fn string(&mut self, what: fmt::Arguments<'_>) -> Result<String, GgufError> {
        let n_bytes: u64 = self.number(format_args!("the length of {what}"))?;
        let start = self.at;
        let bytes = self.bytes(n_bytes, what)?;
        match str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(GgufError::NotUtf8 {
                what: what.to_string(),
                offset: (start + error.valid_up_to()) as u64,
            }),
        }
    }

    /// Reads a string value of the metadata. Invalid UTF-8 is replaced (llama.cpp keeps it),
    /// since such values are only displayed. Names and array elements, which are compared,
    /// must be UTF-8.
    fn text(&mut self, key: &str) -> Result<String, GgufError> {
        let what = format_args!("metadata {key:?}");
        let n_bytes: u64 = self.number(format_args!("the length of {what}"))?;
        let bytes = self.bytes(n_bytes, what)?;
        let text = String::from_utf8_lossy(bytes);
        if let std::borrow::Cow::Owned(_) = text {
            let key = key.to_owned();
            note::add(&mut self.notes, Note::NotUtf8 { key });
        }
        Ok(text.into_owned())
    }

    /// Reads a boolean: any value but 0 is true, as in llama.cpp.
    fn bool(&mut self, key: &str, what: fmt::Arguments<'_>) -> Result<bool, GgufError> {
        let byte: u8 = self.number(what)?;
        let odd = Note::OddBool {
            key: key.to_owned(),
        };
        if byte > 1 {
            note::add(&mut self.notes, odd);
        }
        Ok(byte != 0)
    }

    /// Checks that the rest of the file has room for `count` items that take at
    /// least `min_bytes` each.
    fn checked_count(
        &self,
        count: u64,
        min_bytes: usize,
        what: impl Display,
    ) -> Result<usize, GgufError> {
        let limit = self.remaining().len() / min_bytes;
        match usize::try_from(count) {
            Ok(count) if count <= limit => Ok(count),
            _ => Err(GgufError::TooMany {
                what: what.to_string(),
                count,
                limit: limit as u64,
            }),
        }
    }

    fn version(&mut self) -> Result<u32, GgufError> {
        let mut magic = MAGIC;
        magic.copy_from_slice(self.bytes(MAGIC.len() as u64, "the magic number")?);
        if magic != MAGIC {
            return Err(GgufError::WrongMagic { found: magic });
        }
        match self.number("the version")? {
            version @ 2..=3 => Ok(version),
            found if matches!(found.swap_bytes(), 1..=3) => Err(GgufError::BigEndian),
            found => Err(GgufError::UnsupportedVersion { found }),
        }
    }

    fn metadata(&mut self, idx: usize) -> Result<(String, Value), GgufError> {
        let key = self.string(format_args!("the key of metadata value {idx}"))?;
        let kind = self.kind(&key)?;
        let value = self.value(&key, kind)?;
        Ok((key, value))
    }

    fn kind(&mut self, key: &str) -> Result<Kind, GgufError> {
        let type_id = self.number(format_args!("the type of metadata {key:?}"))?;
        Kind::from_id(type_id).ok_or_else(|| GgufError::UnknownValueType {
            key: key.to_owned(),
            type_id,
        })
    }

    fn value(&mut self, key: &str, kind: Kind) -> Result<Value, GgufError> {
        let what = format_args!("metadata {key:?}");
        Ok(match kind {
            Kind::U8 => Value::U8(self.number(what)?),
            Kind::I8 => Value::I8(self.number(what)?),
            Kind::U16 => Value::U16(self.number(what)?),
            Kind::I16 => Value::I16(self.number(what)?),
            Kind::U32 => Value::U32(self.number(what)?),
            Kind::I32 => Value::I32(self.number(what)?),
            Kind::F32 => Value::F32(self.number(what)?),
            Kind::Bool => Value::Bool(self.bool(key, what)?),
            Kind::String => Value::String(self.text(key)?),
            Kind::U64 => Value::U64(self.number(what)?),
            Kind::I64 => Value::I64(self.number(what)?),
            Kind::F64 => Value::F64(self.number(what)?),
            Kind::Array => Value::Array(self.array(key)?),
        })
    }

    fn array(&mut self, key: &str) -> Result<Array, GgufError> {
        let kind = self.kind(key)?;
        let len = self.number(format_args!("the length of metadata {key:?}"))?;
        Ok(match kind {
            Kind::U8 => Array::U8(self.numbers(len, key)?),
            Kind::I8 => Array::I8(self.numbers(len, key)?),
            Kind::U16 => Array::U16(self.numbers(len, key)?),
            Kind::I16 => Array::I16(self.numbers(len, key)?),
            Kind::U32 => Array::U32(self.numbers(len, key)?),
            Kind::I32 => Array::I32(self.numbers(len, key)?),
            Kind::F32 => Array::F32(self.numbers(len, key)?),
            Kind::Bool => Array::Bool(self.items(len, 1, key, |r, what| r.bool(key, what))?),
            Kind::String => Array::String(self.items(len, MIN_STRING_BYTES, key, Self::string)?),
            Kind::U64 => Array::U64(self.numbers(len, key)?),
            Kind::I64 => Array::I64(self.numbers(len, key)?),
            Kind::F64 => Array::F64(self.numbers(len, key)?),
            Kind::Array => {
                return Err(GgufError::NestedArray {
                    key: key.to_owned(),
                });
            }
        })
    }

    fn numbers<T: Number>(&mut self, len: u64, key: &str) -> Result<Vec<T>, GgufError> {
        let what = format_args!("elements of metadata {key:?}");
        let n_bytes = self.checked_count(len, T::N_BYTES, what)? * T::N_BYTES;
        let bytes = self.bytes(n_bytes as u64, what)?;
        Ok(bytes.chunks_exact(T::N_BYTES).map(T::from_le).collect())
    }

    /// Reads `len` items of at least `min_bytes`. The vector grows as items are read, since
    /// `len` is untrusted.
    fn items<T>(
        &mut self,
        len: u64,
        min_bytes: usize,
        key: &str,
        item: impl Fn(&mut Self, fmt::Arguments<'_>) -> Result<T, GgufError>,
    ) -> Result<Vec<T>, GgufError> {
        let len =
            self.checked_count(len, min_bytes, format_args!("elements of metadata {key:?}"))?;
        let mut items = Vec::new();
        for idx in 0..len {
            items.push(item(
                self,
                format_args!("element {idx} of metadata {key:?}"),
            )?);
        }
        Ok(items)
    }

    /// Reads an entry of the directory; the offset as stored, the span unknown.
    fn tensor(&mut self, idx: usize) -> Result<TensorInfo, GgufError> {
        let name = self.string(format_args!("the name of tensor {idx}"))?;
        let what = format_args!("the directory entry of tensor {name:?}");
        let n_dims: u32 = self.number(what)?;
        if n_dims as usize > MAX_DIMS {
            return Err(GgufError::TooManyDimensions {
                tensor: name,
                found: n_dims,
                limit: MAX_DIMS as u32,
            });
        }
        let shape = (0..n_dims)
            .map(|_| self.number(what))
            .collect::<Result<Vec<u64>, _>>()?;
        let type_id = self.number(what)?;
        let offset = self.number(what)?;
        if shape.contains(&0) {
            return Err(GgufError::ZeroDimension {
                tensor: name,
                shape,
            });
        }
        if shape
            .iter()
            .try_fold(1u64, |n, &dim| n.checked_mul(dim))
            .is_none()
        {
            return Err(GgufError::ShapeOverflow {
                tensor: name,
                shape,
            });
        }
        Ok(TensorInfo {
            name,
            shape,
            type_id,
            offset,
            span: 0,
            file: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const U8: u32 = 0;
    const U32: u32 = 4;
    const BOOL: u32 = 7;
    const STRING: u32 = 8;
    const ARRAY: u32 = 9;

    fn header(version: u32, n_tensors: u64, n_metadata: u64) -> Vec<u8> {
        [
            &MAGIC[..],
            &version.to_le_bytes(),
            &n_tensors.to_le_bytes(),
            &n_metadata.to_le_bytes(),
        ]
        .concat()
    }

    fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
        let text = text.as_ref();
        [&(text.len() as u64).to_le_bytes(), text].concat()
    }

    fn metadata(key: &str, type_id: u32, value: &[u8]) -> Vec<u8> {
        [&string(key), &type_id.to_le_bytes()[..], value].concat()
    }

    fn array(type_id: u32, len: u64, elements: &[u8]) -> Vec<u8> {
        [&type_id.to_le_bytes()[..], &len.to_le_bytes(), elements].concat()
    }

    fn tensor(name: &str, shape: &[u64], offset: u64) -> Vec<u8> {
        let mut out = string(name);
        out.extend((shape.len() as u32).to_le_bytes());
        out.extend(shape.iter().flat_map(|dim| dim.to_le_bytes()));
        out.extend(0u32.to_le_bytes());
        out.extend(offset.to_le_bytes());
        out
    }

    /// A file with a single metadata value.
    fn with_value(key: &str, type_id: u32, value: &[u8]) -> Vec<u8> {
        [header(3, 0, 1), metadata(key, type_id, value)].concat()
    }

    /// A file with these tensors and 64 bytes of data.
    fn with_tensors(tensors: &[Vec<u8>]) -> Vec<u8> {
        let mut file = header(3, tensors.len() as u64, 0);
        file.extend(tensors.concat());
        file.resize(file.len().next_multiple_of(32) + 64, 0);
        file
    }

    /// A file with every feature; 32 bytes per tensor.
    fn small() -> Vec<u8> {
        let texts = [string("a"), string("Ġb")].concat();
        let mut file = [
            header(3, 2, 6),
            metadata("general.architecture", STRING, &string("bitnet")),
            metadata(ALIGNMENT_KEY, U32, &16u32.to_le_bytes()),
            metadata("b", BOOL, &[1]),
            metadata("a", ARRAY, &array(U32, 2, &[0; 8])),
            metadata("s", ARRAY, &array(STRING, 2, &texts)),
            metadata("t", ARRAY, &array(BOOL, 2, &[0, 1])),
            tensor("x", &[4, 2], 0),
            tensor("y", &[8], 32),
        ]
        .concat();
        file.resize(file.len().next_multiple_of(16) + 64, 0);
        file
    }

    #[track_caller]
    fn check(file: &[u8], expected: &str) {
        assert_eq!(Gguf::parse(file).unwrap_err().to_string(), expected);
    }

    #[test]
    fn versions_2_and_3_are_read() {
        for version in [2, 3] {
            let gguf = Gguf::parse(&header(version, 0, 0)).unwrap();
            assert_eq!(gguf.version(), version);
            assert_eq!(gguf.alignment(), 32);
            assert_eq!(gguf.metadata().count(), 0);
            assert_eq!(gguf.tensors(), []);
        }
    }

    #[test]
    fn tensors_reach_to_the_next_one_in_any_order() {
        let second_first = [tensor("b", &[1], 32), tensor("a", &[], 0)];
        let file = with_tensors(&second_first);
        let gguf = Gguf::parse(&file[..file.len() - 31]).unwrap();
        let [b, a] = gguf.tensors() else {
            panic!("two tensors")
        };
        assert_eq!((b.name.as_str(), b.offset, b.span), ("b", 128, 1));
        assert_eq!((a.name.as_str(), a.offset, a.span), ("a", 96, 32));
        assert!(a.shape.is_empty());
    }

    #[test]
    fn wrong_magic() {
        check(
            b"PK\x03\x04 and more",
            r#"it begins with "PK\x03\x04" instead of "GGUF""#,
        );
    }

    #[test]
    fn big_endian() {
        let mut file = header(3, 0, 0);
        file[4..8].reverse();
        check(
            &file,
            "big-endian GGUF is not supported: the file must be converted to little-endian",
        );
    }

    #[test]
    fn unsupported_version() {
        for version in [0, 1, 4] {
            check(
                &header(version, 0, 0),
                &format!("GGUF version {version} is not supported, only 2 and 3 are"),
            );
        }
    }

    #[test]
    fn truncated() {
        check(
            b"",
            "the file is truncated: the magic number at byte 0 takes 4 bytes of which 0 remain",
        );
        let too_long = u64::MAX.to_le_bytes();
        check(
            &with_value("k", STRING, &too_long),
            "the file is truncated: metadata \"k\" at byte 45 takes 18446744073709551615 bytes \
             of which 0 remain",
        );
    }

    #[test]
    fn too_many() {
        check(
            &header(3, 0, u64::MAX),
            "18446744073709551615 metadata values are declared but the rest of the file has room \
             for at most 0",
        );
        check(
            &[header(3, 2, 0), tensor("only one", &[], 0)].concat(),
            "2 tensors are declared but the rest of the file has room for at most 1",
        );
        check(
            &with_value("k", ARRAY, &array(U32, 1 << 62, &[0; 9])),
            "4611686018427387904 elements of metadata \"k\" are declared but the rest of the file \
             has room for at most 2",
        );
        check(
            &with_value("k", ARRAY, &array(STRING, 3, &[0; 16])),
            "3 elements of metadata \"k\" are declared but the rest of the file has room for at \
             most 2",
        );
    }

    #[test]
    fn not_utf8() {
        let gguf = Gguf::parse(&with_value("k", STRING, &string(b"ab\xff"))).unwrap();
        assert_eq!(gguf.string("k"), Ok(Some("ab\u{fffd}")));
        let key = "k".to_owned();
        assert_eq!(gguf.notes(), [Note::NotUtf8 { key }]);
        let texts = [string("ab"), string(b"\xff")].concat();
        check(
            &with_value("k", ARRAY, &array(STRING, 2, &texts)),
            "element 1 of metadata \"k\" is not UTF-8 at byte 67",
        );
    }

    #[test]
    fn whatever_is_not_0_is_true() {
        let odd = [Note::OddBool {
            key: "k".to_owned(),
        }];
        let gguf = Gguf::parse(&with_value("k", BOOL, &[2])).unwrap();
        assert_eq!(
            (gguf.boolean("k"), gguf.notes()),
            (Ok(Some(true)), &odd[..])
        );
        let bools = with_value("k", ARRAY, &array(BOOL, 3, &[2, 0, 255]));
        let gguf = Gguf::parse(&bools).unwrap();
        let expected = Value::Array(Array::Bool(vec![true, false, true]));
        assert_eq!((gguf.get("k"), gguf.notes()), (Some(&expected), &odd[..]));
    }

    #[test]
    fn unknown_value_type() {
        check(
            &with_value("k", 13, &[0]),
            "metadata \"k\" is of unknown type 13",
        );
        check(
            &with_value("k", ARRAY, &array(99, 0, &[])),
            "metadata \"k\" is of unknown type 99",
        );
    }

    #[test]
    fn nested_array() {
        check(
            &with_value("k", ARRAY, &array(ARRAY, 1, &array(U8, 0, &[]))),
            "metadata \"k\" is an array of arrays, which is not supported",
        );
    }

    #[test]
    fn duplicate_key() {
        let value = |value| metadata("k", U8, &[value]);
        check(
            &[header(3, 0, 2), value(1), value(2)].concat(),
            "metadata \"k\" is duplicated, with different values",
        );
        let gguf = Gguf::parse(&[header(3, 0, 2), value(1), value(1)].concat()).unwrap();
        assert_eq!(gguf.metadata().count(), 1);
        let key = "k".to_owned();
        assert_eq!(gguf.notes(), [Note::RepeatedKey { key }]);
    }

    #[test]
    fn bad_alignment() {
        let with = |alignment: u32| with_value(ALIGNMENT_KEY, U32, &alignment.to_le_bytes());
        for alignment in [0, 3, 24] {
            check(
                &with(alignment),
                &format!("general.alignment is {alignment}, expected a power of two"),
            );
        }
        for alignment in [1, 4, 1 << 31] {
            let gguf = Gguf::parse(&with(alignment)).unwrap();
            assert_eq!(gguf.alignment(), u64::from(alignment));
        }
    }

    #[test]
    fn wrong_type() {
        check(
            &with_value(ALIGNMENT_KEY, U8, &[32]),
            "metadata \"general.alignment\" is of type u8, expected u32",
        );
    }

    #[test]
    fn too_many_dimensions() {
        check(
            &with_tensors(&[tensor("t", &[1; 5], 0)]),
            "tensor \"t\" has 5 dimensions, at most 4 are supported",
        );
    }

    #[test]
    fn zero_dimension() {
        check(
            &with_tensors(&[tensor("t", &[3, 0], 0)]),
            "tensor \"t\" is empty: its shape is [3, 0]",
        );
    }

    #[test]
    fn shape_overflow() {
        check(
            &with_tensors(&[tensor("t", &[1 << 32, 1 << 32], 0)]),
            "tensor \"t\" has 2^64 elements or more: its shape is [4294967296, 4294967296]",
        );
    }

    #[test]
    fn duplicate_tensor() {
        check(
            &with_tensors(&[tensor("t", &[1], 0), tensor("t", &[1], 32)]),
            "tensor \"t\" is duplicated",
        );
    }

    #[test]
    fn misaligned_tensor() {
        check(
            &with_tensors(&[tensor("t", &[1], 16)]),
            "tensor \"t\" is at byte 16 of the data, not at a multiple of 32",
        );
    }

    #[test]
    fn tensor_outside() {
        for offset in [64, u64::MAX - 31] {
            check(
                &with_tensors(&[tensor("t", &[1], offset)]),
                &format!("tensor \"t\" is at byte {offset} of the data, of which the file has 64"),
            );
        }
        let directory_only = [header(3, 1, 0), tensor("t", &[1], 0)].concat();
        check(
            &directory_only,
            "tensor \"t\" is at byte 0 of the data, of which the file has 0",
        );
    }

    #[test]
    fn overlapping_tensors() {
        check(
            &with_tensors(&[
                tensor("z", &[1], 32),
                tensor("b", &[1], 0),
                tensor("a", &[1], 32),
            ]),
            "tensors \"z\" and \"a\" are both at byte 160",
        );
    }

    #[test]
    fn a_file_cut_before_the_last_tensor_is_refused() {
        let file = small();
        let last = Gguf::parse(&file).unwrap().tensors()[1].offset as usize;
        for len in 0..file.len() {
            let gguf = Gguf::parse(&file[..len]);
            if len <= last {
                assert!(gguf.is_err(), "cut at {len}");
            } else {
                // The expected size depends on the type, which is unknown here.
                assert_eq!(gguf.unwrap().tensors()[1].span as usize, len - last);
            }
        }
    }

    #[test]
    fn no_corrupt_byte_breaks_the_invariants() {
        let file = small();
        for at in 0..file.len() {
            for byte in 0..=255 {
                let mut file = file.clone();
                file[at] = byte;
                let Ok(gguf) = Gguf::parse(&file) else {
                    continue;
                };
                for info in gguf.tensors() {
                    assert!(info.span > 0, "byte {at} set to {byte}");
                    assert!(info.offset + info.span <= file.len() as u64);
                    assert!(info.shape.iter().product::<u64>() > 0);
                    assert_eq!(gguf.tensor(&info.name), Some(info));
                }
                for (key, value) in gguf.metadata() {
                    assert_eq!(gguf.get(key), Some(value));
                    if let Value::Array(array) = value {
                        assert!(array.len() <= file.len());
                    }
                }
            }
        }
    }
}
