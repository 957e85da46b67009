//! Ctrl-C: work that polls for it is asked to stop; otherwise, and on a second
//! Ctrl-C, the process exits immediately.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::INTERRUPTED;

static DEFERRED: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Installs the Ctrl-C handler.
pub fn listen() {
    let result = ctrlc::set_handler(|| {
        let again = REQUESTED.swap(true, Ordering::Relaxed);
        if again || !DEFERRED.load(Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    });
    // Without a handler, Ctrl-C has the system's default action.
    let _ = result;
}

/// Declares that the work polls from now on, so Ctrl-C does not exit.
pub fn defer() {
    DEFERRED.store(true, Ordering::Relaxed);
}

/// A scope in which the work polls. When dropped, Ctrl-C exits again, and a previous
/// request is cleared, unless the work around it polls, too.
pub struct Deferred {
    is_outermost: bool,
}

impl Deferred {
    /// Declares that the work polls from now on.
    pub fn new() -> Self {
        Self {
            is_outermost: !DEFERRED.swap(true, Ordering::Relaxed),
        }
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        if self.is_outermost {
            DEFERRED.store(false, Ordering::Relaxed);
            REQUESTED.store(false, Ordering::Relaxed);
        }
    }
}

/// Returns whether the user pressed Ctrl-C.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Sleeps for `duration`, or until Ctrl-C.
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

/// Returns `Break` if the user pressed Ctrl-C.
pub fn poll() -> ControlFlow<()> {
    if requested() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
