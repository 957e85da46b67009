//! Writing a file.

use std::collections::HashSet;
use std::io::{self, Read, Write};

use super::value::{Array, Number, Value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, is_alignment};

const VERSION: u32 = 3;

/// A writer of GGUF files. Metadata and tensors are declared before any data is written.
///
/// Files are of version 3 and aligned to 32 bytes, or to `general.alignment` if set.
#[derive(Debug, Clone, Default)]
pub struct GgufWriter {
    metadata: Vec<(String, Value)>,
    keys: HashSet<String>,
    tensors: Vec<Declared>,
    tensor_names: HashSet<String>,
}

#[derive(Debug, Clone)]
struct Declared {
    name: String,
    shape: Vec<u64>,
    type_id: u32,
    n_bytes: u64,
}

impl GgufWriter {
    /// Returns a writer of an empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata value after those added before.
    ///
    /// # Panics
    ///
    /// Panics if the key was added before, or if it is `general.alignment` and
    /// the value not a u32 that is a power of two and at least 8.
    pub fn metadata(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        assert!(
            key != ALIGNMENT_KEY || matches!(value, Value::U32(n) if is_alignment(n)),
            "{ALIGNMENT_KEY} is a power of two and at least 8"
        );
        assert!(self.keys.insert(key.clone()), "key {key:?} is added once");
        self.metadata.push((key, value));
    }

    /// Declares the next tensor, `shape` with the fastest dimension first, whose
    /// data takes `n_bytes`. llama.cpp requires names shorter than 64 bytes.
    ///
    /// # Panics
    ///
    /// Panics if the name was declared before, or if the tensor is invalid: more than four
    /// dimensions, a dimension of 0, more elements than fit in u64, no data.
    pub fn tensor(&mut self, name: impl Into<String>, shape: &[u64], type_id: u32, n_bytes: u64) {
        let name = name.into();
        assert!(
            shape.len() <= MAX_DIMS,
            "tensor {name:?} has at most {MAX_DIMS} dimensions"
        );
        let n_elements = shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim));
        assert!(
            n_elements.is_some_and(|n| n > 0),
            "the number of elements of tensor {name:?} is above 0 and fits u64"
        );
        assert!(n_bytes > 0, "tensor {name:?} has data");
        assert!(
            self.tensor_names.insert(name.clone()),
            "tensor {name:?} is declared once"
        );
        self.tensors.push(Declared {
            name,
            shape: shape.to_vec(),
            type_id,
            n_bytes,
        });
    }

    /// Writes the file to `out` and returns it, flushed.
    ///
    /// `tensor_data` is called once for each tensor in the order they were
    /// declared, with the index of the tensor and where to write its data.
    ///
    /// # Errors
    ///
    /// Returns the first error of `out` or `tensor_data`.
    ///
    /// # Panics
    ///
    /// Panics if `tensor_data` does not write as many bytes as were declared.
    pub fn write<W, E>(
        self,
        out: W,
        mut tensor_data: impl FnMut(usize, &mut dyn Write) -> Result<(), E>,
    ) -> Result<W, E>
    where
        W: Write,
        E: From<io::Error>,
    {
        let alignment = self.alignment();
        let mut out = CountingWriter { out, n_bytes: 0 };
        out.write_all(&self.directory(alignment))?;
        out.pad(alignment)?;
        for (idx, tensor) in self.tensors.iter().enumerate() {
            let start = out.n_bytes;
            tensor_data(idx, &mut out)?;
            assert_eq!(
                out.n_bytes - start,
                tensor.n_bytes,
                "tensor data has the declared size: {:?}",
                tensor.name
            );
            out.pad(alignment)?;
        }
        out.flush()?;
        Ok(out.out)
    }

    fn alignment(&self) -> u64 {
        let stored = self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY);
        match stored {
            Some((_, Value::U32(alignment))) => u64::from(*alignment),
            _ => u64::from(DEFAULT_ALIGNMENT),
        }
    }

    /// Returns everything before the padding and the data.
    fn directory(&self, alignment: u64) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        VERSION.put_le(&mut out);
        (self.tensors.len() as u64).put_le(&mut out);
        (self.metadata.len() as u64).put_le(&mut out);
        for (key, value) in &self.metadata {
            put_string(key, &mut out);
            value.kind().id().put_le(&mut out);
            put_value(value, &mut out);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            put_string(&tensor.name, &mut out);
            (tensor.shape.len() as u32).put_le(&mut out);
            put_numbers(&tensor.shape, &mut out);
            tensor.type_id.put_le(&mut out);
            offset.put_le(&mut out);
            offset += tensor.n_bytes.next_multiple_of(alignment);
        }
        out
    }
}

fn put_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::U8(x) => x.put_le(out),
        Value::I8(x) => x.put_le(out),
        Value::U16(x) => x.put_le(out),
        Value::I16(x) => x.put_le(out),
        Value::U32(x) => x.put_le(out),
        Value::I32(x) => x.put_le(out),
        Value::F32(x) => x.put_le(out),
        Value::Bool(x) => out.push((*x).into()),
        Value::String(text) => put_string(text, out),
        Value::U64(x) => x.put_le(out),
        Value::I64(x) => x.put_le(out),
        Value::F64(x) => x.put_le(out),
        Value::Array(array) => {
            array.kind().id().put_le(out);
            (array.len() as u64).put_le(out);
            put_array(array, out);
        }
    }
}

fn put_array(array: &Array, out: &mut Vec<u8>) {
    match array {
        Array::U8(items) => put_numbers(items, out),
        Array::I8(items) => put_numbers(items, out),
        Array::U16(items) => put_numbers(items, out),
        Array::I16(items) => put_numbers(items, out),
        Array::U32(items) => put_numbers(items, out),
        Array::I32(items) => put_numbers(items, out),
        Array::F32(items) => put_numbers(items, out),
        Array::Bool(items) => out.extend(items.iter().map(|&item| u8::from(item))),
        Array::String(items) => items.iter().for_each(|item| put_string(item, out)),
        Array::U64(items) => put_numbers(items, out),
        Array::I64(items) => put_numbers(items, out),
        Array::F64(items) => put_numbers(items, out),
    }
}

fn put_numbers<T: Number>(numbers: &[T], out: &mut Vec<u8>) {
    out.reserve(numbers.len() * T::N_BYTES);
    for number in numbers {
        number.put_le(out);
    }
}

fn put_string(text: &str, out: &mut Vec<u8>) {
    (text.len() as u64).put_le(out);
    out.extend_from_slice(text.as_bytes());
}

/// Counts the bytes that reach `out`.
struct CountingWriter<W> {
    out: W,
    n_bytes: u64,
}

impl<W: Write> CountingWriter<W> {
    /// Writes zeros up to a multiple of `alignment`.
    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        let n_bytes = self.n_bytes.next_multiple_of(alignment) - self.n_bytes;
        io::copy(&mut io::repeat(0).take(n_bytes), self)?;
        Ok(())
    }
}

impl<W: Write> Write for CountingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n_written = self.out.write(bytes)?;
        self.n_bytes += n_written as u64;
        Ok(n_written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::super::Gguf;
    use super::*;

    /// `[name] -> (shape, type_id, data)`.
    type Tensors = BTreeMap<String, (Vec<u64>, u32, Vec<u8>)>;

    fn write(metadata: &[(String, Value)], tensors: &Tensors) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        for (key, value) in metadata {
            writer.metadata(key, value.clone());
        }
        for (name, (shape, type_id, data)) in tensors {
            writer.tensor(name, shape, *type_id, data.len() as u64);
        }
        let data: Vec<_> = tensors.values().map(|(_, _, data)| data).collect();
        writer
            .write(Vec::new(), |idx, out| out.write_all(data[idx]))
            .unwrap()
    }

    fn any_array() -> impl Strategy<Value = Array> {
        prop_oneof![
            any::<Vec<u8>>().prop_map(Array::U8),
            any::<Vec<i8>>().prop_map(Array::I8),
            any::<Vec<u16>>().prop_map(Array::U16),
            any::<Vec<i16>>().prop_map(Array::I16),
            any::<Vec<u32>>().prop_map(Array::U32),
            any::<Vec<i32>>().prop_map(Array::I32),
            any::<Vec<f32>>().prop_map(Array::F32),
            any::<Vec<bool>>().prop_map(Array::Bool),
            vec(any::<String>(), 0..5).prop_map(Array::String),
            any::<Vec<u64>>().prop_map(Array::U64),
            any::<Vec<i64>>().prop_map(Array::I64),
            any::<Vec<f64>>().prop_map(Array::F64),
        ]
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<u8>().prop_map(Value::U8),
            any::<i8>().prop_map(Value::I8),
            any::<u16>().prop_map(Value::U16),
            any::<i16>().prop_map(Value::I16),
            any::<u32>().prop_map(Value::U32),
            any::<i32>().prop_map(Value::I32),
            any::<f32>().prop_map(Value::F32),
            any::<bool>().prop_map(Value::Bool),
            any::<String>().prop_map(Value::String),
            any::<u64>().prop_map(Value::U64),
            any::<i64>().prop_map(Value::I64),
            any::<f64>().prop_map(Value::F64),
            any_array().prop_map(Value::Array),
        ]
    }

    fn any_metadata() -> impl Strategy<Value = Vec<(String, Value)>> {
        let others = btree_map(any::<String>(), any_value(), 0..8);
        let alignment = proptest::option::of(3..10u32);
        (others, alignment).prop_map(|(mut metadata, alignment)| {
            if let Some(bits) = alignment {
                metadata.insert(ALIGNMENT_KEY.to_owned(), Value::U32(1 << bits));
            }
            metadata.into_iter().collect()
        })
    }

    fn any_tensors() -> impl Strategy<Value = Tensors> {
        let shape = vec(1..60_000u64, 0..=MAX_DIMS);
        let data = vec(any::<u8>(), 1..100);
        btree_map(any::<String>(), (shape, any::<u32>(), data), 0..8)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(metadata in any_metadata(), tensors in any_tensors()) {
            let file = write(&metadata, &tensors);
            let gguf = Gguf::parse(&file).unwrap();
            prop_assert_eq!(gguf.version(), VERSION);
            let alignment = gguf.unsigned(ALIGNMENT_KEY).unwrap();
            prop_assert_eq!(gguf.alignment(), alignment.unwrap_or(32));
            let read: Vec<_> = gguf.metadata().map(|(k, v)| (k.to_owned(), v.clone())).collect();
            prop_assert_eq!(&read, &metadata);
            for (key, value) in &metadata {
                prop_assert_eq!(gguf.get(key), Some(value));
            }
            prop_assert_eq!(gguf.tensors().len(), tensors.len());
            for (info, (name, (shape, type_id, data))) in gguf.tensors().iter().zip(&tensors) {
                prop_assert_eq!(&info.name, name);
                prop_assert_eq!(gguf.tensor(name), Some(info));
                prop_assert_eq!(&info.shape, shape);
                prop_assert_eq!(info.type_id, *type_id);
                prop_assert_eq!(info.offset % gguf.alignment(), 0);
                let padded = (data.len() as u64).next_multiple_of(gguf.alignment());
                prop_assert_eq!(info.span, padded);
                prop_assert_eq!(&file[info.offset as usize..][..data.len()], data.as_slice());
            }
            prop_assert_eq!(file.len() as u64 % gguf.alignment(), 0);
        }
    }

    #[test]
    fn the_errors_of_data_and_output_are_returned() {
        let mut writer = GgufWriter::new();
        writer.tensor("t", &[1], 0, 4);
        let fails = |_: usize, _: &mut dyn Write| Err(io::Error::other("no data"));
        let error = writer.clone().write(Vec::new(), fails).unwrap_err();
        assert_eq!(error.to_string(), "no data");

        let mut too_small = [0u8; 16];
        let data = |_: usize, out: &mut dyn Write| out.write_all(&[0; 4]);
        let error = writer.write(too_small.as_mut_slice(), data).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    #[should_panic(expected = "tensor data has the declared size: \"t\"")]
    fn data_of_another_size_panics() {
        let mut writer = GgufWriter::new();
        writer.tensor("t", &[1], 0, 4);
        let _ = writer.write(Vec::new(), |_, out| out.write_all(&[0; 5]));
    }

    #[test]
    #[should_panic(expected = "key \"k\" is added once")]
    fn a_duplicate_key_panics() {
        let mut writer = GgufWriter::new();
        writer.metadata("k", Value::U8(1));
        writer.metadata("k", Value::U8(1));
    }

    #[test]
    #[should_panic(expected = "tensor \"t\" is declared once")]
    fn a_duplicate_tensor_panics() {
        let mut writer = GgufWriter::new();
        writer.tensor("t", &[1], 0, 4);
        writer.tensor("t", &[1], 0, 4);
    }

    #[test]
    #[should_panic(expected = "is above 0 and fits u64")]
    fn an_empty_tensor_panics() {
        GgufWriter::new().tensor("t", &[4, 0], 0, 4);
    }

    #[test]
    #[should_panic(expected = "general.alignment is a power of two and at least 8")]
    fn an_odd_alignment_panics() {
        GgufWriter::new().metadata(ALIGNMENT_KEY, Value::U32(24));
    }
}
