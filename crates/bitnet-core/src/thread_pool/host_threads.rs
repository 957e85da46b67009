//! Threads of the host, for WebAssembly with shared memory: a module cannot start threads,
//! but its host can instantiate it on more of them and let each call [`lend_thread`]. What is
//! used of it here has the interface of [`std::thread`].

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvError};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

type Task = Box<dyn FnOnce() + Send>;

/// The threads that the host has lent.
struct Lent {
    n_threads: usize,
    /// Those that run a task or have one waiting for them.
    n_taken: usize,
    tasks: VecDeque<Task>,
}

static LENT: Mutex<Lent> = Mutex::new(Lent {
    n_threads: 0,
    n_taken: 0,
    tasks: VecDeque::new(),
});
static ARRIVED: Condvar = Condvar::new();

/// Lends the calling thread to the thread pools of this module. Never returns.
///
/// A pool of `n` threads needs `n - 1` of them.
pub fn lend_thread() -> ! {
    let mut lent = LENT.lock().unwrap_or_else(PoisonError::into_inner);
    lent.n_threads += 1;
    loop {
        match lent.tasks.pop_front() {
            Some(task) => {
                drop(lent);
                task();
                lent = LENT.lock().unwrap_or_else(PoisonError::into_inner);
            }
            None => lent = ARRIVED.wait(lent).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// Returns the number of threads that the host has lent.
pub fn n_lent_threads() -> usize {
    let lent = LENT.lock().unwrap_or_else(PoisonError::into_inner);
    lent.n_threads
}

/// Takes a thread of the host.
pub(super) struct Builder;

impl Builder {
    pub(super) fn new() -> Self {
        Self
    }

    pub(super) fn name(self, _: String) -> Self {
        self
    }

    /// Runs `f` on a thread of the host, or fails if none is left.
    pub(super) fn spawn(self, f: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let mut lent = LENT.lock().unwrap_or_else(PoisonError::into_inner);
        if lent.n_taken == lent.n_threads {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (sender, done) = mpsc::channel();
        lent.n_taken += 1;
        lent.tasks.push_back(Box::new(move || {
            f();
            // Before anybody knows that it ended, or the next pool would find too few.
            LENT.lock().unwrap_or_else(PoisonError::into_inner).n_taken -= 1;
            // Nobody waits for it if the pool was leaked.
            let _ = sender.send(());
        }));
        drop(lent);
        ARRIVED.notify_one();
        Ok(JoinHandle(done))
    }
}

/// Waits for a task of a lent thread.
#[derive(Debug)]
pub(super) struct JoinHandle<T>(Receiver<T>);

impl<T> JoinHandle<T> {
    pub(super) fn join(self) -> Result<T, RecvError> {
        self.0.recv()
    }
}

/// Lets other threads run: here, sleeps as briefly as possible.
pub(super) fn yield_now() {
    std::thread::sleep(Duration::from_nanos(1));
}
