//! What is computed for a call, item by item.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitnet_server::{Answers, LocalError, LocalText, Waited};
use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;

use crate::array::Array;
use crate::errors;
use crate::processor::Raised;

/// How often Python is asked whether the user pressed Ctrl-C.
const TICK: Duration = Duration::from_millis(50);

/// Answers that may be waited for, and cancelled, by any thread.
#[derive(Debug)]
pub struct Waiting<T>(Mutex<Option<Answers<T>>>);

impl<T: Send> Waiting<T> {
    pub fn new(answers: Answers<T>) -> Self {
        Self(Mutex::new(Some(answers)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Answers<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancels what is not computed.
    pub fn cancel(&self, py: Python<'_>) {
        py.detach(|| *self.lock() = None);
    }

    fn wait(&self, py: Python<'_>, time: Duration) -> Result<Waited<T>, LocalError> {
        // Whoever holds the lock has no lock of Python's.
        py.detach(|| match &*self.lock() {
            Some(answers) => answers.next(time),
            None => Ok(Waited::End),
        })
    }

    /// Waits for the next item; `None` if there are no more. Ctrl-C cancels it.
    pub fn next(&self, py: Python<'_>) -> PyResult<Option<T>> {
        loop {
            match self.wait(py, TICK) {
                Ok(Waited::Item(item)) => return Ok(Some(item)),
                Ok(Waited::End) => return Ok(None),
                Ok(Waited::Nothing) => {}
                Err(error) => return Err(errors::failed(py, &error)),
            }
            if let Err(error) = py.check_signals() {
                self.cancel(py);
                return Err(error);
            }
        }
    }

    /// Returns the next item if it is there.
    ///
    /// # Errors
    ///
    /// Returns `StopIteration` at the end.
    fn try_next(&self, py: Python<'_>) -> PyResult<Option<T>> {
        match self.wait(py, Duration::ZERO) {
            Ok(Waited::Item(item)) => Ok(Some(item)),
            Ok(Waited::Nothing) => Ok(None),
            Ok(Waited::End) => Err(PyStopIteration::new_err(())),
            Err(error) => Err(errors::failed(py, &error)),
        }
    }
}

/// The JSON documents of a reply.
#[pyclass(frozen, module = "bitnet_rust._native")]
#[derive(Debug)]
pub struct Documents {
    pub waiting: Waiting<String>,
}

#[pymethods]
impl Documents {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.waiting.next(py)
    }

    fn try_next(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.waiting.try_next(py)
    }

    fn close(&self, py: Python<'_>) {
        self.waiting.cancel(py);
    }
}

/// How a text ended: reason, tokens of the prompt, those of them that were cached, generated
/// tokens, seed, and the receipt as a JSON document.
type End = (&'static str, usize, usize, usize, u64, String);

/// A piece of a text: index of the text, text, tokens, log-probabilities of the prompt's
/// tokens, whether these are the most likely ones, and the end.
type Piece = (
    usize,
    String,
    Vec<u32>,
    Option<Array>,
    Option<Array>,
    Option<End>,
);

/// The pieces of texts.
#[pyclass(frozen, module = "bitnet_rust._native")]
#[derive(Debug)]
pub struct Texts {
    pub waiting: Waiting<LocalText>,
    pub raised: Raised,
}

impl Texts {
    /// Returns the exception of a processor instead of the error that came of it.
    fn raised(&self, error: PyErr) -> PyErr {
        self.raised.take().unwrap_or(error)
    }
}

#[pymethods]
impl Texts {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Piece>> {
        let next = self.waiting.next(py);
        Ok(next.map_err(|error| self.raised(error))?.map(piece))
    }

    fn try_next(&self, py: Python<'_>) -> PyResult<Option<Piece>> {
        let next = self.waiting.try_next(py);
        Ok(next.map_err(|error| self.raised(error))?.map(piece))
    }

    fn close(&self, py: Python<'_>) {
        self.waiting.cancel(py);
    }
}

fn piece(text: LocalText) -> Piece {
    let (mut scores, mut flags) = (None, None);
    if !text.prompt_logprobs.is_empty() {
        let logprobs: Vec<f32> = text.prompt_logprobs.iter().map(|(p, _)| *p).collect();
        let shape = vec![logprobs.len()];
        scores = Some(Array::floats(logprobs, shape));
        flags = Some(Array::flags(
            text.prompt_logprobs.iter().map(|(_, top)| *top).collect(),
        ));
    }
    let end = text.end.map(|end| {
        let usage = end.usage;
        (
            end.reason.name(),
            usage.n_prompt,
            usage.n_cached,
            usage.n_generated,
            end.seed,
            end.receipt.to_string(),
        )
    });
    (text.index, text.text, text.tokens, scores, flags, end)
}
