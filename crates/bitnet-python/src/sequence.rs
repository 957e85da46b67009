//! Sequences that Python computes token by token.

use std::sync::{Arc, Mutex, PoisonError};

use bitnet_inference::Logits;
use bitnet_server::{LocalError, LocalSequence, LocalServer};
use pyo3::prelude::*;

use crate::array::Array;
use crate::errors;
use crate::ids::token_ids;

/// A sequence of tokens in the cache of a model.
#[pyclass(frozen, module = "bitnet_rust._native")]
#[derive(Debug)]
pub struct Sequence {
    /// `None` when it is closed.
    inner: Mutex<Option<Arc<LocalSequence>>>,
    /// `[vocab_size]` each.
    vocab_size: usize,
    /// Tokens of a pass: between two, Ctrl-C is heard, and texts are continued.
    batch_tokens: usize,
}

impl Sequence {
    fn new(sequence: LocalSequence, vocab_size: usize, batch_tokens: usize) -> Self {
        Self {
            inner: Mutex::new(Some(Arc::new(sequence))),
            vocab_size,
            batch_tokens,
        }
    }

    /// Starts a sequence with the beginning of these tokens that is in the cache. Returns also
    /// how many there are.
    pub fn start(
        py: Python<'_>,
        server: &LocalServer,
        tokens: Vec<u32>,
    ) -> PyResult<(Self, usize)> {
        let (vocab_size, batch_tokens) = (server.about().vocab_size, server.plan().batch_tokens);
        let started = py.detach(|| server.sequence(tokens));
        let (sequence, n_reused) = started.map_err(|error| errors::failed(py, &error))?;
        Ok((Self::new(sequence, vocab_size, batch_tokens), n_reused))
    }

    /// Does something with the sequence, without Python's lock.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&LocalSequence) -> Result<T, LocalError> + Send,
    ) -> PyResult<T> {
        let done = py.detach(|| {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let sequence = inner.as_ref().map(Arc::clone);
            drop(inner);
            work(&*sequence.ok_or(LocalError::Closed)?)
        });
        done.map_err(|error| errors::failed(py, &error))
    }

    /// Appends tokens and returns their logits: of all, or of the last one.
    pub fn extend(&self, py: Python<'_>, tokens: &[u32], all: bool) -> PyResult<(usize, Vec<f32>)> {
        let n_before = self.with(py, LocalSequence::len)?;
        let n_rows = if all {
            tokens.len()
        } else {
            tokens.len().min(1)
        };
        let mut rows = Vec::with_capacity(n_rows * self.vocab_size);
        let n_chunks = tokens.len().div_ceil(self.batch_tokens);
        for (i, chunk) in tokens.chunks(self.batch_tokens).enumerate() {
            let logits = match all {
                true => Logits::All,
                false if i + 1 == n_chunks => Logits::Last,
                false => Logits::None,
            };
            let appended = py.check_signals().and_then(|()| {
                let given = std::mem::take(&mut rows);
                self.with(py, |sequence| {
                    sequence.append(chunk.to_vec(), logits, given)
                })
            });
            match appended {
                Ok(appended) => rows = appended,
                Err(error) => {
                    // As it was before the first chunk; a model that was closed has none.
                    let _ = self.with(py, |sequence| sequence.truncate(n_before));
                    return Err(error);
                }
            }
        }
        Ok((n_rows, rows))
    }
}

#[pymethods]
impl Sequence {
    /// Appends tokens. Returns the logits after the last one, `[vocab_size]`, or with `all`
    /// after each, `[n_tokens, vocab_size]`.
    fn append(&self, py: Python<'_>, tokens: Vec<i64>, all: bool) -> PyResult<Array> {
        let tokens = token_ids(py, tokens)?;
        if tokens.is_empty() {
            return Err(errors::invalid(py, "there are no tokens to append"));
        }
        let (n_rows, rows) = self.extend(py, &tokens, all)?;
        let shape = if all {
            vec![n_rows, self.vocab_size]
        } else {
            vec![self.vocab_size]
        };
        Ok(Array::floats(rows, shape))
    }

    fn fork(&self, py: Python<'_>) -> PyResult<Self> {
        let forked = self.with(py, LocalSequence::fork)?;
        Ok(Self::new(forked, self.vocab_size, self.batch_tokens))
    }

    fn truncate(&self, py: Python<'_>, len: usize) -> PyResult<()> {
        self.with(py, |sequence| sequence.truncate(len))
    }

    fn tokens(&self, py: Python<'_>) -> PyResult<Array> {
        Ok(Array::ids(self.with(py, LocalSequence::tokens)?))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, LocalSequence::len)
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            *inner = None;
        });
    }
}
