//! What each thread keeps at hand: small blocks, and its part of the count.
//!
//! Taking and giving back a small block is a pop and a push here, with no lock
//! and no atomic read-modify-write. Blocks come from the slabs, and go back to
//! them, many at a time.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

use super::pool::Shared;
use super::slabs::MAX_CLASSES;
use super::tracking::{Category, Pending};
use super::{OutOfMemory, Place};

/// The most blocks of a class, and the most bytes of them, that a thread keeps.
const MAX_BLOCKS: usize = 64;
const MAX_BYTES: usize = 512 << 10;

/// The most pools that a thread keeps blocks of.
const MAX_POOLS: usize = 4;

thread_local! {
    /// The pool that was used last comes first.
    static CACHES: RefCell<Vec<Rc<Cache>>> = const { RefCell::new(Vec::new()) };
    /// The first of them, or null. It has no destructor, so that looking at it is
    /// one instruction.
    static FIRST: Cell<*const Cache> = const { Cell::new(ptr::null()) };
}

struct Cache {
    pool: &'static Shared,
    pending: Arc<Pending>,
    /// By class.
    stacks: Box<[Stack; MAX_CLASSES]>,
}

/// The blocks of a class.
struct Stack {
    len: Cell<usize>,
    /// The most blocks; 0 until the first one is kept.
    capacity: Cell<usize>,
    block_bytes: Cell<usize>,
    addresses: [Cell<usize>; MAX_BLOCKS],
}

/// Takes a block for `n_bytes`, at most `MAX_SMALL`; returns its address, its
/// bytes, and where to give it back.
#[inline]
pub(super) fn take(
    pool: &'static Shared,
    category: Category,
    n_bytes: usize,
) -> Result<(usize, usize, Place), OutOfMemory> {
    let class = pool.classes.of(n_bytes);
    let place = Place::Slab(class as u8);
    with_cache(pool, |cache| {
        let Some(cache) = cache else {
            // The thread is ending, and its caches have gone.
            let mut one = Vec::with_capacity(1);
            pool.fetch(class, 1, &mut one)?;
            let block_bytes = pool.classes.block_bytes(class);
            pool.count(category, block_bytes as isize, 1);
            return Ok((one[0], block_bytes, place));
        };
        let stack = &cache.stacks[class];
        let address = match stack.pop() {
            Some(address) => address,
            None => cache.fetch(class, n_bytes)?,
        };
        if pool.flags.is_tracked() {
            cache.pending.add(class, category, 1);
        }
        Ok((address, stack.block_bytes.get(), place))
    })
}

/// Gives back a block.
#[inline]
pub(super) fn give(
    pool: &'static Shared,
    category: Category,
    class: usize,
    (address, block_bytes): (usize, usize),
) {
    with_cache(pool, |cache| {
        let Some(cache) = cache else {
            pool.count(category, -(block_bytes as isize), -1);
            pool.give_blocks(class, [address]);
            return;
        };
        if pool.flags.is_tracked() {
            cache.pending.add(class, category, -1);
        }
        let stack = &cache.stacks[class];
        if stack.len.get() < stack.capacity.get() && !pool.flags.is_retired() {
            stack.push(address);
        } else {
            cache.give_and_shed(class, (address, block_bytes));
        }
    });
}

/// Gives back to the slabs what this thread keeps of a pool.
pub(super) fn flush(pool: &'static Shared) {
    // A thread that is ending has nothing left.
    let _ = CACHES.try_with(|caches| {
        (caches.borrow_mut()).retain(|cache| !ptr::eq(cache.pool, pool));
    });
}

/// Calls `f` with the thread's cache for a pool; with none, if the thread is
/// ending.
#[inline]
fn with_cache<R>(pool: &'static Shared, f: impl FnOnce(Option<&Cache>) -> R) -> R {
    // SAFETY: it is null, or points to a cache in `CACHES` of this thread: who is
    // dropped takes itself out.
    let first = unsafe { FIRST.get().as_ref() };
    let cache = match first {
        Some(cache) if ptr::eq(cache.pool, pool) => ptr::from_ref(cache),
        _ => bring_first(pool),
    };
    // SAFETY: as above; and nothing drops caches while `f` runs.
    f(unsafe { cache.as_ref() })
}

/// Brings the thread's cache for a pool to the front, and returns it; null, if the
/// thread is ending.
#[cold]
fn bring_first(pool: &'static Shared) -> *const Cache {
    let bring_first = |caches: &RefCell<Vec<Rc<Cache>>>| {
        let mut caches = caches.borrow_mut();
        let found = (caches.iter()).position(|cache| ptr::eq(cache.pool, pool));
        let cache = match found {
            Some(i) => caches.remove(i),
            None => Rc::new(Cache::new(pool)),
        };
        caches.truncate(MAX_POOLS - 1);
        let first = Rc::as_ptr(&cache);
        caches.insert(0, cache);
        FIRST.set(first);
        first
    };
    CACHES.try_with(bring_first).unwrap_or(ptr::null())
}

impl Cache {
    fn new(pool: &'static Shared) -> Self {
        Self {
            pool,
            pending: pool.add_thread(),
            stacks: Box::new(std::array::from_fn(|_| Stack::new())),
        }
    }

    /// Fetches blocks of a class and returns one of them.
    #[cold]
    fn fetch(&self, class: usize, n_bytes: usize) -> Result<usize, OutOfMemory> {
        let stack = &self.stacks[class];
        let n = stack.open(self.pool.classes.block_bytes(class)) / 2;
        let mut blocks = Vec::with_capacity(n);
        self.pool.fetch(class, n, &mut blocks)?;
        self.pool.classes.learn(n_bytes, blocks.len());
        self.pending.flush(self.pool, class);
        let one = blocks.pop().expect("at least one was fetched");
        for block in blocks {
            stack.push(block);
        }
        Ok(one)
    }

    /// Keeps a block of a class and gives back half of the others; or gives back
    /// all, if nobody will take one again.
    #[cold]
    fn give_and_shed(&self, class: usize, (address, block_bytes): (usize, usize)) {
        let stack = &self.stacks[class];
        let capacity = stack.open(block_bytes);
        let mut blocks;
        if self.pool.flags.is_retired() {
            blocks = stack.remove_oldest(0);
            blocks.push(address);
        } else {
            // The newest are in the processor's cache.
            blocks = stack.remove_oldest(stack.len.get().min(capacity / 2));
            stack.push(address);
        }
        self.pending.flush(self.pool, class);
        self.pool.give_blocks(class, blocks);
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if ptr::eq(FIRST.get(), self) {
            FIRST.set(ptr::null());
        }
        for (class, stack) in self.stacks.iter().enumerate() {
            if stack.len.get() > 0 {
                self.pool.give_blocks(class, stack.remove_oldest(0));
            }
        }
        self.pool.remove_thread(&self.pending);
    }
}

impl Stack {
    fn new() -> Self {
        Self {
            len: Cell::new(0),
            capacity: Cell::new(0),
            block_bytes: Cell::new(0),
            addresses: std::array::from_fn(|_| Cell::new(0)),
        }
    }

    /// Learns how large its blocks are, and returns how many it keeps at most.
    fn open(&self, block_bytes: usize) -> usize {
        let capacity = (MAX_BYTES / block_bytes).min(MAX_BLOCKS);
        self.block_bytes.set(block_bytes);
        self.capacity.set(capacity);
        capacity
    }

    #[inline]
    fn pop(&self) -> Option<usize> {
        let len = self.len.get().checked_sub(1)?;
        self.len.set(len);
        Some(self.addresses[len % MAX_BLOCKS].get())
    }

    /// Adds a block, for which there is room.
    #[inline]
    fn push(&self, address: usize) {
        let len = self.len.get();
        self.addresses[len % MAX_BLOCKS].set(address);
        self.len.set(len + 1);
    }

    /// Removes all but the `n_kept` newest, and returns them.
    fn remove_oldest(&self, n_kept: usize) -> Vec<usize> {
        let addresses = &self.addresses[..self.len.get()];
        let (oldest, kept) = addresses.split_at(addresses.len() - n_kept);
        let removed = oldest.iter().map(Cell::get).collect();
        for (place, block) in addresses.iter().zip(kept) {
            place.set(block.get());
        }
        self.len.set(n_kept);
        removed
    }
}
