#![doc = include_str!("../README.md")]
//!
//! At the end of the program the counts are written to the file that the variable
//! `PALISADE_ALLOC_FILE` names, as `{"allocations": 1, "bytes": 1000}`; without the
//! variable nothing is written. Memory that grows in place counts as a new allocation
//! of what it grew by. What is given back is not counted: the peak is seen from outside.
//!
//! dhat was weighed: it keeps a backtrace for each allocation, which makes a program
//! many times slower, so that its time could not be measured in the same run.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The variable that names the file for the counts.
pub const FILE_VARIABLE: &str = "PALISADE_ALLOC_FILE";

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static WRITES_AT_EXIT: AtomicBool = AtomicBool::new(false);

/// The system's allocator, counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counting;

/// How much a program allocated since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// How often.
    pub allocations: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// What was allocated until now.
pub fn counts() -> Counts {
    Counts {
        allocations: ALLOCATIONS.load(Ordering::Relaxed),
        bytes: BYTES.load(Ordering::Relaxed),
    }
}

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    if !WRITES_AT_EXIT.load(Ordering::Relaxed) && !WRITES_AT_EXIT.swap(true, Ordering::Relaxed) {
        // SAFETY: `atexit` of the C library takes a function without arguments that
        // does not unwind; `write_counts` is one. Where it is refused, nothing is written.
        let _ = unsafe { atexit(write_counts) };
    }
}

unsafe extern "C" {
    fn atexit(at_exit: extern "C" fn()) -> c_int;
}

extern "C" fn write_counts() {
    let Counts { allocations, bytes } = counts();
    if let Some(path) = std::env::var_os(FILE_VARIABLE) {
        let text = format!("{{\"allocations\": {allocations}, \"bytes\": {bytes}}}\n");
        // Nobody is left to tell; the guard misses the file.
        let _ = std::fs::write(path, text);
    }
}

// SAFETY: everything is done by the system's allocator, with the caller's arguments;
// counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above; `at` came from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.saturating_sub(layout.size()));
        // SAFETY: as above; `at` came from the system's allocator.
        unsafe { System.realloc(at, layout, size) }
    }
}
