//! Arrays that `numpy.asarray` takes without a copy, by the protocol `__array_interface__`.
//!
//! Python's buffer protocol is not part of the stable ABI before Python 3.11, and numpy's own
//! C API would have to be loaded with this module.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Numbers in memory that this object owns.
#[derive(Debug)]
enum Numbers {
    /// `float32`
    Floats(Vec<f32>),
    /// `int32`: token ids, which are far below 2^31.
    Ids(Vec<u32>),
    /// `bool`
    Flags(Vec<bool>),
}

/// An array for `numpy.asarray`, which shares its memory and keeps this object alive.
#[pyclass(frozen, module = "bitnet_rust._native")]
#[derive(Debug)]
pub struct Array {
    /// Locked only while it is copied; who has an address writes as numpy lets him.
    numbers: Mutex<Numbers>,
    shape: Vec<usize>,
}

impl Array {
    fn new(numbers: Numbers, shape: Vec<usize>) -> Self {
        Self {
            numbers: Mutex::new(numbers),
            shape,
        }
    }

    /// Returns an array of this shape.
    pub fn floats(numbers: Vec<f32>, shape: Vec<usize>) -> Self {
        Self::new(Numbers::Floats(numbers), shape)
    }

    /// Returns an array of token ids.
    pub fn ids(ids: Vec<u32>) -> Self {
        let shape = vec![ids.len()];
        Self::new(Numbers::Ids(ids), shape)
    }

    /// Returns an array of truth values.
    pub fn flags(flags: Vec<bool>) -> Self {
        let shape = vec![flags.len()];
        Self::new(Numbers::Flags(flags), shape)
    }

    /// Copies the numbers, as they are now, into `floats` of the same length.
    pub fn copy_to(&self, floats: &mut [f32]) {
        if let Numbers::Floats(numbers) =
            &*self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
        {
            floats.copy_from_slice(numbers);
        }
    }
}

#[pymethods]
impl Array {
    /// The address, shape and type of the numbers.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let order = if cfg!(target_endian = "big") {
            '>'
        } else {
            '<'
        };
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let (address, kind) = match &mut *numbers {
            Numbers::Floats(numbers) => (
                numbers.as_mut_ptr().expose_provenance(),
                format!("{order}f4"),
            ),
            Numbers::Ids(ids) => (ids.as_mut_ptr().expose_provenance(), format!("{order}i4")),
            Numbers::Flags(flags) => (flags.as_mut_ptr().expose_provenance(), "|b1".to_owned()),
        };
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("typestr", kind)?;
        interface.set_item("shape", PyTuple::new(py, &self.shape)?)?;
        interface.set_item("data", (address, false))?;
        Ok(interface)
    }
}
