//! What happens when bytes of a mapped file are read that are there no more.
//!
//! The system sends SIGBUS to the thread that reads them. The handler here does what a
//! handler may do: it looks for the address among the mapped files, writes one byte
//! into a pipe, and keeps the thread from reading on. A thread of its own waits at the
//! other end and tells the program, which ends itself. Whatever else sends SIGBUS is
//! left to the handler that was there before.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A mapped file in the list of all that were ever mapped while somebody watched. A
/// handler may not wait for a lock, so no place is taken out of the list again; a
/// program maps few files.
#[derive(Debug)]
struct Place {
    /// Where the mapping starts; 0 when it is gone.
    start: AtomicUsize,
    len: usize,
    path: PathBuf,
    next: OnceLock<&'static Place>,
}

static FIRST: OnceLock<&'static Place> = OnceLock::new();
/// Where in the list the file is that was found to be too short.
static FOUND: AtomicUsize = AtomicUsize::new(usize::MAX);
/// What the handler needs, once it is set up.
static HANDLER: OnceLock<Handler> = OnceLock::new();

struct Handler {
    /// The end of the pipe that the handler writes to.
    pipe: OwnedFd,
    before: libc::sigaction,
}

/// Calls `tell` with the path of a model file that turns out to be shorter than it was
/// when it was mapped, at the moment at which what is missing is read. `tell` runs in a
/// thread of its own and has to end the process: the thread that read the file stands
/// still for ever.
///
/// This installs a handler of SIGBUS for the whole process. Files that were mapped
/// before are not watched. Only the first call does something.
///
/// # Errors
///
/// Returns what the system said if there is no pipe, no thread, or no handler.
pub fn watch_mapped_files(tell: impl FnOnce(&Path) + Send + 'static) -> io::Result<()> {
    if HANDLER.get().is_some() {
        return Ok(());
    }
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: `sigaction` is plain data, for which zeros are a value.
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
        // Nobody closes the other end while the process lives.
        if reader.read_exact(&mut [0]).is_ok()
            && let Some(place) = Place::all().nth(FOUND.load(Ordering::Acquire))
        {
            tell(&place.path);
        }
    })?;
    // SAFETY: zeros are a value of the struct, and then all its fields that matter are
    // set: a handler with three arguments, as SA_SIGINFO says, that runs on the stack
    // for handlers that the standard library gives its threads.
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

/// Runs in the thread that reads what is not there. Nothing in it allocates or locks.
extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let Some(handler) = HANDLER.get() else {
        return;
    };
    // SAFETY: the system hands a handler with SA_SIGINFO a valid pointer, and SIGBUS has
    // an address.
    #[expect(unsafe_code, reason = "what the system hands over")]
    let address = unsafe { (*info).si_addr() } as usize;
    let Some(found) = Place::all().position(|place| place.has(address)) else {
        // SAFETY: what is installed is what the system said was there before; then the
        // read is tried again, and that handler is called.
        #[expect(unsafe_code, reason = "a function of C")]
        unsafe {
            libc::sigaction(libc::SIGBUS, &raw const handler.before, ptr::null_mut());
        }
        return;
    };
    FOUND.store(found, Ordering::Release);
    // SAFETY: `write` and `pause` are safe in a handler; the pipe is open for ever, and
    // one byte is there to be written.
    #[expect(unsafe_code, reason = "functions of C")]
    unsafe {
        libc::write(handler.pipe.as_raw_fd(), [0u8].as_ptr().cast(), 1);
        loop {
            libc::pause();
        }
    }
}

impl Place {
    /// Returns the places of the list.
    fn all() -> impl Iterator<Item = &'static Self> {
        let first = FIRST.get().copied();
        std::iter::successors(first, |place| place.next.get().copied())
    }

    /// Returns whether an address is in the mapping.
    fn has(&self, address: usize) -> bool {
        // A mapping is whole pages, which are 64 KiB at most.
        let start = self.start.load(Ordering::Acquire);
        let end = start.saturating_add(self.len.next_multiple_of(1 << 16));
        start != 0 && (start..end).contains(&address)
    }
}

/// A mapping that the handler knows, until this is dropped.
#[derive(Debug)]
pub(super) struct Watched(&'static Place);

impl Watched {
    /// Takes a mapping into the list, if anybody watches.
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
