//! The native part of the Python package `bitnet_rust`.
//!
//! ```text
//! Python ──► python/bitnet_rust ──► this crate ──► bitnet-server: LocalServer ──► worker
//!             JSON documents, types    threads, arrays
//! ```
//!
//! Requests are JSON documents, those of the server, so this crate has no options of its own.
//! Python's lock is never held while something is computed or waited for.
#![deny(unsafe_code)]

mod array;
mod errors;
mod ids;
mod model;
mod processor;
mod sequence;
mod stream;

use pyo3::prelude::*;

/// What `bitnet_rust` is made of; see its stubs.
#[pymodule]
mod _native {
    use std::ffi::OsString;

    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::array::Array;
    #[pymodule_export]
    use crate::model::Model;
    #[pymodule_export]
    use crate::sequence::Sequence;
    #[pymodule_export]
    use crate::stream::{Documents, Texts};

    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "the name in Python")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// Runs the program `bitnet`, with its name as the first argument. Returns its exit code;
    /// wrong arguments and `--help` end the process.
    #[pyfunction]
    fn main(py: Python<'_>, args: Vec<OsString>) -> u8 {
        py.detach(|| bitnet_cli::main(args))
    }
}
