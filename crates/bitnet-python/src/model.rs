//! A loaded model.

use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError};

use bitnet_inference::LogitsProcessor;
use bitnet_server::{LocalServer, Wake};
use pyo3::prelude::*;

use crate::array::Array;
use crate::errors;
use crate::ids::token_ids;
use crate::processor::{PyProcessor, Raised};
use crate::sequence::Sequence;
use crate::stream::{Documents, Texts, Waiting};

/// A model with its threads.
#[pyclass(frozen, module = "bitnet_rust._native")]
#[derive(Debug)]
pub struct Model {
    /// `None` when it is closed.
    server: Mutex<Option<Arc<LocalServer>>>,
    /// What is to be said about the model.
    #[pyo3(get)]
    notes: Vec<String>,
}

/// Returns what calls a function of Python.
fn wake(function: Option<Py<PyAny>>) -> Option<Wake> {
    let function = function?;
    Some(Box::new(move || {
        // An event loop that was closed needs not to be woken.
        let _ = Python::try_attach(|py| function.call0(py).map(drop));
    }))
}

impl Model {
    fn server(&self, py: Python<'_>) -> PyResult<Arc<LocalServer>> {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let server = server.as_ref().map(Arc::clone);
        server.ok_or_else(|| errors::closed(py))
    }

    /// Does something with the server, without Python's lock: the last one to have it waits
    /// for its threads, which may need that lock.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&LocalServer) -> T + Send,
    ) -> PyResult<T> {
        let server = self.server(py)?;
        Ok(py.detach(move || work(&server)))
    }
}

#[pymethods]
impl Model {
    /// Loads a model by arguments of `bitnet serve`.
    #[staticmethod]
    fn load(py: Python<'_>, args: Vec<OsString>) -> PyResult<Self> {
        let loaded = py.detach(|| bitnet_cli::load_model(args));
        let loaded = loaded.map_err(|failure| errors::load_failed(py, &failure))?;
        let started = py.detach(|| LocalServer::start(loaded.model, loaded.options));
        let server = started.map_err(|error| errors::start_failed(py, &error))?;
        Ok(Self {
            server: Mutex::new(Some(Arc::new(server))),
            notes: loaded.notes,
        })
    }

    /// Ends what is computed, and releases the memory.
    fn close(&self, py: Python<'_>) {
        py.detach(|| {
            let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
            let closed = server.take();
            drop(server);
            drop(closed);
        });
    }

    /// What is known of the model: name, family, kernel, device, threads, positions of the
    /// context, tokens of the vocabulary, values of a hidden state, weights, bytes of the
    /// weights, fingerprint, and whether it has a chat template.
    #[expect(clippy::type_complexity, reason = "the Python side names the parts")]
    fn facts(
        &self,
        py: Python<'_>,
    ) -> PyResult<(
        String,
        &'static str,
        &'static str,
        &'static str,
        usize,
        usize,
        usize,
        usize,
        usize,
        usize,
        String,
        bool,
    )> {
        self.with(py, |server| {
            let (about, plan) = (server.about(), server.plan());
            (
                server.name().to_owned(),
                about.family,
                plan.isa.name(),
                plan.device.name(),
                plan.n_threads,
                about.context_len,
                about.vocab_size,
                server.hidden_dim(),
                about.n_parameters,
                about.weight_bytes,
                about.fingerprint,
                about.has_template,
            )
        })
    }

    /// Asks an endpoint of the server with a JSON document.
    #[pyo3(signature = (path, body, on_item=None))]
    fn ask(
        &self,
        py: Python<'_>,
        path: &str,
        body: String,
        on_item: Option<Py<PyAny>>,
    ) -> PyResult<Documents> {
        let wake = wake(on_item);
        let answers = self.with(py, |server| server.ask(path, body, wake))?;
        Ok(Documents {
            waiting: Waiting::new(answers),
        })
    }

    /// Generates the texts of a completion's JSON document.
    #[pyo3(signature = (body, processor=None, on_item=None))]
    fn texts(
        &self,
        py: Python<'_>,
        body: String,
        processor: Option<Py<PyAny>>,
        on_item: Option<Py<PyAny>>,
    ) -> PyResult<Texts> {
        let raised = Raised::default();
        let processor = processor.map(|function| {
            let raised = raised.clone();
            Box::new(PyProcessor { function, raised }) as Box<dyn LogitsProcessor>
        });
        let wake = wake(on_item);
        let answers = self.with(py, |server| server.texts(body, processor, wake))?;
        Ok(Texts {
            waiting: Waiting::new(answers),
            raised,
        })
    }

    /// Returns the embeddings, `[n_texts, hidden_dim]`, of an embedding request's document.
    fn embed(&self, py: Python<'_>, body: String) -> PyResult<Array> {
        let hidden_dim = self.with(py, LocalServer::hidden_dim)?;
        let waiting = Waiting::new(self.with(py, |server| server.embed(body))?);
        let vectors = waiting.next(py)?.ok_or_else(|| errors::closed(py))?;
        let shape = vec![vectors.len(), hidden_dim];
        Ok(Array::floats(vectors.concat(), shape))
    }

    /// Returns the ids of a text, with BOS as the model has it, or without.
    fn tokenize(&self, py: Python<'_>, text: &str, add_bos: bool) -> PyResult<Array> {
        let ids = self.with(py, |server| {
            let tokenizer = server.tokenizer();
            if add_bos {
                tokenizer.encode(text)
            } else {
                tokenizer.encode_without_bos(text)
            }
        })?;
        let ids = ids.map_err(|error| errors::not_tokenized(py, &error))?;
        Ok(Array::ids(ids))
    }

    /// Returns the text of ids.
    fn detokenize(&self, py: Python<'_>, ids: Vec<i64>, special: bool) -> PyResult<String> {
        let ids = token_ids(py, ids)?;
        let vocab_size = self.with(py, |server| server.about().vocab_size)?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
            let message =
                format!("there is no token {id} in the vocabulary of {vocab_size} tokens");
            return Err(errors::invalid(py, &message));
        }
        self.with(py, |server| server.tokenizer().decode(&ids, special))
    }

    /// Returns BOS, if the model has one, and the tokens that end a text.
    fn control_tokens(&self, py: Python<'_>) -> PyResult<(Option<u32>, Vec<u32>)> {
        self.with(py, |server| {
            let tokenizer = server.tokenizer();
            (tokenizer.bos(), tokenizer.eog().collect())
        })
    }

    /// Returns the logits after each token, `[n_tokens, vocab_size]`.
    fn logits(&self, py: Python<'_>, tokens: Vec<i64>) -> PyResult<Array> {
        let tokens = token_ids(py, tokens)?;
        let server = self.server(py)?;
        let vocab_size = server.about().vocab_size;
        let started = Sequence::start(py, &server, Vec::new());
        py.detach(move || drop(server));
        let (n_rows, rows) = started?.0.extend(py, &tokens, true)?;
        Ok(Array::floats(rows, vec![n_rows, vocab_size]))
    }

    /// Starts a sequence with tokens. Returns also the logits after the last one.
    fn sequence(&self, py: Python<'_>, tokens: Vec<i64>) -> PyResult<(Sequence, Option<Array>)> {
        let tokens = token_ids(py, tokens)?;
        let server = self.server(py)?;
        let vocab_size = server.about().vocab_size;
        let started = Sequence::start(py, &server, tokens.clone());
        py.detach(move || drop(server));
        let (sequence, n_reused) = started?;
        let (n_rows, rows) = sequence.extend(py, &tokens[n_reused..], false)?;
        let last = (n_rows > 0).then(|| Array::floats(rows, vec![vocab_size]));
        Ok((sequence, last))
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let server = self
            .server
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Without an interpreter, nobody has its lock.
        if let Some(server) = server {
            let mut server = Some(server);
            let _ = Python::try_attach(|py| py.detach(|| drop(server.take())));
        }
    }
}
