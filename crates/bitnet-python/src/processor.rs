//! A function of Python that changes logits.

use std::sync::{Arc, Mutex, PoisonError};

use bitnet_inference::{LogitsProcessor, LogitsProcessorError};
use pyo3::prelude::*;

use crate::array::Array;

/// The exception of a function, for whoever waits for its text.
#[derive(Clone, Debug, Default)]
pub struct Raised(Arc<Mutex<Option<PyErr>>>);

impl Raised {
    /// Takes the exception, if there is one.
    pub fn take(&self) -> Option<PyErr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, error: PyErr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// Calls `function(ids, logits)`, which changes the second array, on the thread of the model.
#[derive(Debug)]
pub struct PyProcessor {
    pub function: Py<PyAny>,
    pub raised: Raised,
}

impl LogitsProcessor for PyProcessor {
    fn process(&mut self, tokens: &[u32], logits: &mut [f32]) -> Result<(), LogitsProcessorError> {
        let called = Python::try_attach(|py| {
            let ids = Py::new(py, Array::ids(tokens.to_vec()))?;
            let array = Py::new(py, Array::floats(logits.to_vec(), vec![logits.len()]))?;
            self.function.call1(py, (ids, &array))?;
            array.get().copy_to(logits);
            Ok::<(), PyErr>(())
        });
        match called {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => {
                let message = error.to_string();
                self.raised.set(error);
                Err(LogitsProcessorError { message })
            }
            None => Err(LogitsProcessorError {
                message: "the interpreter ends".to_owned(),
            }),
        }
    }
}
