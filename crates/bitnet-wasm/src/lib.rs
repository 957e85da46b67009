//! The engine as a WebAssembly module, for the npm package in `npm/`.
//!
//! ```text
//! bytes ──► Loader ──► Session ──► step() ──► events
//! ```
//!
//! A [`Loader`](loader::Loader) takes the bytes of a model as they arrive, and refuses a model
//! that is too large as soon as it has its header. A [`Session`](session::Session) computes
//! many requests, one [`step`](session::Session::step) at a time: between two steps, its
//! thread can receive messages, such as that a request is cancelled. Requests and events are
//! JSON, whose types `npm/index.d.ts` declares.
//!
//! An instance of the module has one session, as long as it lives. `bindings` is the
//! interface to JavaScript; all else is independent of it.

#[cfg(target_arch = "wasm32")]
mod bindings;
mod clock;
pub mod failure;
pub mod loader;
pub mod options;
pub mod session;
