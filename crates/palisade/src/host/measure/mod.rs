//! Measures: finds benchmarks, builds them, starts processes and says what they took.
//! It judges nothing.
//!
//! - [`launch`] runs one process, and [`executor`] one launch of a benchmark;
//! - [`bench`](mod@bench) knows the harnesses, and [`read`] what they write;
//! - [`bench_source`] tells a benchmark from another one of the same name;
//! - [`build`](mod@build) makes the executables of a revision;
//! - [`counter`] counts instructions;
//! - [`machine`] says what measures.

pub mod bench;
pub mod bench_source;
pub mod build;
pub mod counter;
pub mod executor;
pub mod launch;
pub mod machine;
pub mod read;
