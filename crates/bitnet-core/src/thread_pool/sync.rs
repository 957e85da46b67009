//! The synchronisation primitives of the pool: those of the standard library, or, with
//! `--cfg loom`, those of loom. In WebAssembly the host provides the threads.

#[cfg(loom)]
pub(super) use loom::{
    cell::UnsafeCell,
    hint,
    sync::{Condvar, Mutex, atomic},
    thread,
};
#[cfg(not(loom))]
pub(super) use std::{
    hint,
    sync::{Condvar, Mutex, atomic},
};

#[cfg(all(target_family = "wasm", target_feature = "atomics"))]
pub(super) use super::host_threads as thread;
#[cfg(not(any(loom, all(target_family = "wasm", target_feature = "atomics"))))]
pub(super) use std::thread;

/// The standard library's cell with the interface of loom's.
#[cfg(not(loom))]
#[derive(Debug)]
pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(super) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
