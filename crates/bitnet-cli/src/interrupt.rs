//! Ctrl-C: work that has said it can end cleanly is asked to; anything else, and
//! work that is asked twice, ends at once.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::INTERRUPTED;

static DEFERRED: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Starts to listen.
pub fn listen() {
    let result = ctrlc::set_handler(|| {
        let again = REQUESTED.swap(true, Ordering::Relaxed);
        if again || !DEFERRED.load(Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    });
    // Without a handler, Ctrl-C ends the program as the system does it.
    let _ = result;
}

/// Says that the work polls from now on.
pub fn defer() {
    DEFERRED.store(true, Ordering::Relaxed);
}

/// Work that polls, for as long as this exists; afterwards Ctrl-C ends the program
/// again, and one that came before is forgotten.
pub struct Deferred(());

impl Deferred {
    /// Says that the work polls from now on.
    pub fn new() -> Self {
        defer();
        Self(())
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        DEFERRED.store(false, Ordering::Relaxed);
        REQUESTED.store(false, Ordering::Relaxed);
    }
}

/// Returns whether the user asked the work to end.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Waits, but not beyond a request to end.
pub fn sleep(duration: Duration) {
    let end = Instant::now() + duration;
    while !requested() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// Returns `Break` if the user asked the work to end.
pub fn poll() -> ControlFlow<()> {
    if requested() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
