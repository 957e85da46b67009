//! Detection of accesses to truncated mapped files.
//!
//! The system sends SIGBUS to the accessing thread. The handler is async-signal-safe: it
//! searches the mapped files for the address, writes one byte to a pipe, and blocks the
//! thread. A watcher thread reads the pipe and notifies the program, which exits. Other
//! causes of SIGBUS are passed to the previous handler.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// An entry in the list of all files mapped since watching began. A signal handler must
/// not take a lock, so entries are never removed; a program maps few files.
#[derive(Debug)]
struct Place {
    /// Start address of the mapping; 0 after it is unmapped.
    start: AtomicUsize,
    len: usize,
    path: PathBuf,
    next: OnceLock<&'static Place>,
}

static FIRST: OnceLock<&'static Place> = OnceLock::new();
/// The list index of the truncated file.
static FOUND: AtomicUsize = AtomicUsize::new(usize::MAX);
/// The handler's data, once it is installed.
static HANDLER: OnceLock<Handler> = OnceLock::new();

struct Handler {
    /// The write end of the pipe.
    pipe: OwnedFd,
    before: libc::sigaction,
}

/// Calls `tell` with the path of a mapped model file that was truncated, when the missing
/// part is accessed. `tell` runs in a separate thread and must exit the process: the
/// accessing thread is blocked forever.
///
/// This installs a SIGBUS handler for the whole process. Files that were mapped before are
/// not watched. Only the first call has an effect.
///
/// # Errors
///
/// Returns an error if the pipe, the thread or the handler cannot be created.
pub fn watch_mapped_files(tell: impl FnOnce(&Path) + Send + 'static) -> io::Result<()> {
    if HANDLER.get().is_some() {
        return Ok(());
    }
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: `sigaction` is plain data, for which all zeros is a valid value.
    #[expect(unsafe_code, reason = "a struct of C")]
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: with a null pointer nothing is changed, and `before` is written to.
    #[expect(unsafe_code, reason = "a function of C")]
    let asked = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    let pipe = writer.into();
    if HANDLER.set(Handler { pipe, before }).is_err() {
        return Ok(());
    }
    let watcher = thread::Builder::new().name("mapped-files".to_owned());
    watcher.spawn(move || {
        // The other end is never closed.
        if reader.read_exact(&mut [0]).is_ok()
            && let Some(place) = Place::all().nth(FOUND.load(Ordering::Acquire))
        {
            tell(&place.path);
        }
    })?;
    // SAFETY: all zeros is a valid value of the struct, and all relevant fields are set: a
    // handler with three arguments, as required by SA_SIGINFO, that runs on the
    // alternate signal stack that the standard library sets up for its threads.
    #[expect(unsafe_code, reason = "a struct and functions of C")]
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as extern "C" fn(_, _, _) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut())
    };
    if installed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Runs in the accessing thread. It neither allocates nor locks.
extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let Some(handler) = HANDLER.get() else {
        return;
    };
    // SAFETY: with SA_SIGINFO the system passes a valid pointer, and SIGBUS has an address.
    #[expect(unsafe_code, reason = "what the system hands over")]
    let address = unsafe { (*info).si_addr() } as usize;
    let Some(found) = Place::all().position(|place| place.has(address)) else {
        // SAFETY: this restores the previous handler, which is called when the access is
        // retried.
        #[expect(unsafe_code, reason = "a function of C")]
        unsafe {
            libc::sigaction(libc::SIGBUS, &raw const handler.before, ptr::null_mut());
        }
        return;
    };
    FOUND.store(found, Ordering::Release);
    // SAFETY: `write` and `pause` are async-signal-safe; the pipe is never closed, and the
    // buffer has one byte.
    #[expect(unsafe_code, reason = "functions of C")]
    unsafe {
        libc::write(handler.pipe.as_raw_fd(), [0u8].as_ptr().cast(), 1);
        loop {
            libc::pause();
        }
    }
}

impl Place {
    /// Returns the entries of the list.
    fn all() -> impl Iterator<Item = &'static Self> {
        let first = FIRST.get().copied();
        std::iter::successors(first, |place| place.next.get().copied())
    }

    /// Returns whether an address is in the mapping.
    fn has(&self, address: usize) -> bool {
        // A mapping consists of whole pages of at most 64 KiB.
        let start = self.start.load(Ordering::Acquire);
        let end = start.saturating_add(self.len.next_multiple_of(1 << 16));
        start != 0 && (start..end).contains(&address)
    }
}

/// A watched mapping, until this is dropped.
#[derive(Debug)]
pub(super) struct Watched(&'static Place);

impl Watched {
    /// Adds a mapping to the list, if watching is enabled.
    pub(super) fn new(mapping: &[u8], path: &Path) -> Option<Self> {
        HANDLER.get()?;
        let place: &Place = Box::leak(Box::new(Place {
            start: AtomicUsize::new(mapping.as_ptr() as usize),
            len: mapping.len(),
            path: path.to_owned(),
            next: OnceLock::new(),
        }));
        let mut end = &FIRST;
        while end.set(place).is_err() {
            end = match end.get() {
                Some(place) => &place.next,
                None => end,
            };
        }
        Some(Self(place))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.start.store(0, Ordering::Release);
    }
}
