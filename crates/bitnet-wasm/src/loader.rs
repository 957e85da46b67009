//! From the bytes of a model, as they arrive, to a session.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use bitnet_core::{ComputeContext, HybridMemoryPool};
use bitnet_inference::gguf::{Gguf, GgufError};
use bitnet_inference::{
    Checkpoint, CheckpointError, Engine, Model, Packing, Plan, PlanOptions, header_estimate,
};
use twox_hash::xxhash3_128;

use crate::failure::{Code, Failure};
use crate::options::{MAX_RUNNING, ModelOptions};
use crate::session::Session;

/// The bytes of a header that are tried first; then twice as many, and so on.
const FIRST_HEADER: usize = 1 << 20;

/// Memory of the module besides the model: its code's data, a chunk of a file on its way, a
/// grammar, and free space between allocations. Two models of 5 and 11 MiB took 7 to 9 MiB.
const OVERHEAD: f64 = (12 << 20) as f64;

/// The stack of another thread.
const PER_THREAD: f64 = (2 << 20) as f64;

/// Bytes of the metadata and the tokenizer for each byte of the header.
const PER_HEADER_BYTE: f64 = 10.0;

/// The largest allocation of a 32-bit program, in bytes.
const MAX_ALLOCATION: f64 = i32::MAX as f64;

/// Takes the files of a model in their order.
#[derive(Default)]
pub struct Loader {
    files: Vec<File>,
    /// Whether the memory that the model needs was compared with the limit.
    is_checked: bool,
    /// The bytes of the header that were last tried.
    tried: usize,
}

struct File {
    name: String,
    bytes: Vec<u8>,
    hasher: xxhash3_128::Hasher,
}

impl Loader {
    /// Returns a loader without files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the next file. Allocates its memory if the number of its bytes is known.
    ///
    /// # Errors
    ///
    /// Returns an error if there is not enough memory.
    pub fn begin(&mut self, name: &str, n_bytes: Option<f64>) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        if let Some(n_bytes) = n_bytes {
            if n_bytes > MAX_ALLOCATION {
                return Err(out_of_memory(format!(
                    "{name} has {}, but a file can have 2048.0 MiB at most: larger models are \
                     split into several files",
                    mib(n_bytes)
                )));
            }
            let reserved = bytes.try_reserve_exact(n_bytes as usize);
            reserved.map_err(|_| no_room(name, n_bytes))?;
        }
        self.files.push(File {
            name: name.to_owned(),
            bytes,
            hasher: xxhash3_128::Hasher::new(),
        });
        Ok(())
    }

    /// Appends bytes to the file that was begun last.
    ///
    /// # Errors
    ///
    /// Returns an error if there is not enough memory.
    ///
    /// # Panics
    ///
    /// Panics if no file was begun.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let file = self.files.last_mut().expect("a file was begun");
        let len = (file.bytes.len() + bytes.len()) as f64;
        let reserved = file.bytes.try_reserve(bytes.len());
        reserved.map_err(|_| no_room(&file.name, len))?;
        file.bytes.extend_from_slice(bytes);
        file.hasher.write(bytes);
        Ok(())
    }

    /// Returns the XXH3-128 hash of the file that was begun last, in hexadecimal digits.
    ///
    /// # Panics
    ///
    /// Panics if no file was begun.
    pub fn hash(&self) -> String {
        let file = self.files.last().expect("a file was begun");
        format!("{:032x}", file.hasher.finish_128())
    }

    /// Discards the file that was begun last.
    pub fn discard(&mut self) {
        self.files.pop();
        if self.files.is_empty() {
            (self.is_checked, self.tried) = (false, 0);
        }
    }

    /// Compares the size of all files together, `n_bytes`, with the limit; and, once the
    /// header is there, the memory that the model needs. Makes sure that the memory of the
    /// module can grow so far.
    ///
    /// # Errors
    ///
    /// Returns an error if the model needs more, or is not supported.
    pub fn check(&mut self, n_bytes: f64, options: &ModelOptions) -> Result<(), Failure> {
        if n_bytes > options.memory_limit {
            return Err(out_of_memory(format!(
                "the model's files have {}, more than the limit of {}",
                mib(n_bytes),
                mib(options.memory_limit)
            )));
        }
        let Some(File { name, bytes, .. }) = self.files.first().filter(|_| !self.is_checked) else {
            return Ok(());
        };
        let is_whole = self.files.len() > 1 || bytes.len() as f64 >= n_bytes;
        let next = if self.tried == 0 {
            FIRST_HEADER
        } else {
            2 * self.tried
        };
        if bytes.len() < next && !is_whole {
            return Ok(());
        }
        self.tried = bytes.len();
        let gguf = match Gguf::parse_header(bytes, n_bytes as u64) {
            // A whole file is checked when it is opened.
            Err(GgufError::Truncated { .. } | GgufError::TooMany { .. }) => {
                self.is_checked = is_whole;
                return Ok(());
            }
            gguf => gguf.map_err(|error| within(name, CheckpointError::from(error)))?,
        };
        self.is_checked = true;
        if gguf.unsigned("split.no").is_ok_and(|no| no > Some(0)) {
            // Not the first part of a split model, which `load` reports.
            return Ok(());
        }
        let estimate = header_estimate(&gguf, options.head(), options.plan());
        let Some(estimate) = estimate.map_err(|error| within(name, error))? else {
            return Ok(());
        };
        let header = gguf.tensors().iter().map(|tensor| tensor.offset).min();
        let header = header.unwrap_or(bytes.len() as u64) as f64;
        let other_threads = options.threads.saturating_sub(1) as f64;
        let other = OVERHEAD + PER_HEADER_BYTE * header + PER_THREAD * other_threads;
        let rest = estimate.total() as f64 + other;
        if n_bytes + rest > options.memory_limit {
            return Err(out_of_memory(format!(
                "the model takes {}, more than the limit of {}: files {}, packed weights {}, \
                 output matrix {}, keys and values {}, scratch {}, vocabulary and program {}",
                mib(n_bytes + rest),
                mib(options.memory_limit),
                mib(n_bytes),
                mib(estimate.weights as f64),
                mib(estimate.head as f64),
                mib(estimate.kv as f64),
                mib(estimate.scratch as f64),
                mib(other),
            )));
        }
        grow(rest)
    }

    /// Loads the model. Calls `progress(done, total)` with the number of loaded layers.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is invalid, the model is not supported, an option is out of
    /// range, or there is not enough memory.
    ///
    /// # Panics
    ///
    /// Panics if no file was begun.
    pub fn load(
        mut self,
        options: &ModelOptions,
        progress: impl FnMut(usize, usize),
    ) -> Result<Session, Failure> {
        let packing = Packing::from(options.head());
        let checkpoint = if self.files.len() == 1 {
            let File { name, bytes, .. } = self.files.remove(0);
            Checkpoint::from_gguf_bytes(bytes).map_err(|error| within(&name, error))?
        } else {
            let files = self.files.into_iter();
            let files = files.map(|file| (PathBuf::from(file.name), file.bytes));
            Checkpoint::from_gguf_parts(files.collect())?
        };
        let one = Plan::new(checkpoint.config(), options.plan())?;
        // Several texts share the memory of one whole context. A finished one is kept for
        // later ones that begin alike, so there is a sequence more.
        let options = PlanOptions {
            n_sequences: Some(MAX_RUNNING + 1),
            kv_pages: Some(one.kv_pages),
            ..options.plan()
        };
        let plan = Plan::new(checkpoint.config(), options)?;
        let mut threads = plan.thread_pool()?;
        let ctx = &mut ComputeContext::new(plan.isa, &mut threads);
        let pool = HybridMemoryPool::new();
        let model = Model::load(&checkpoint, &pool, ctx, packing, progress)?;
        drop(threads);
        let engine = Engine::new(Arc::new(model), plan)?;
        Session::new(&checkpoint, engine)
    }
}

/// Returns the failure of a file.
fn within(name: &str, error: impl Into<Failure>) -> Failure {
    let Failure { code, message } = error.into();
    // A wrong option is no fault of the file.
    match code {
        Code::BadModel => Failure::new(code, format!("{name}: {message}")),
        _ => Failure { code, message },
    }
}

/// Makes the memory of the module large enough for `n_bytes` more, which stay free.
fn grow(n_bytes: f64) -> Result<(), Failure> {
    let mut taken = Vec::new();
    let mut left = n_bytes;
    while left > 0.0 {
        let part = left.min(MAX_ALLOCATION / 2.0);
        let mut bytes: Vec<u8> = Vec::new();
        let reserved = bytes.try_reserve_exact(part as usize);
        reserved.map_err(|_| no_room("the model besides its files", n_bytes))?;
        // Or the compiler would leave the allocation out.
        taken.push(black_box(bytes));
        left -= part;
    }
    Ok(())
}

fn no_room(what: &str, n_bytes: f64) -> Failure {
    out_of_memory(format!("no memory can be had for {what}: {}", mib(n_bytes)))
}

fn out_of_memory(message: String) -> Failure {
    Failure::new(Code::OutOfMemory, message)
}

fn mib(n_bytes: f64) -> String {
    format!("{:.1} MiB", n_bytes / f64::from(1 << 20))
}
